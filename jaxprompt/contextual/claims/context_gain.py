r"""Claim ``contextual.context_gain``: what the context is worth, and the best gain of a prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key
from scipy import special

from jaxprompt.compute.devices import map_trials
from jaxprompt.compute.namespace import Numbers, namespace_of
from jaxprompt.compute.numpy_normals import NUMBERS_TOGETHER, generator_of
from jaxprompt.contextual.law.maximise import golden_section
from jaxprompt.contextual.parameters import (
    CONTEXT,
    FAMILY,
    GAIN,
    NOISE,
    SIGNAL,
    SPARSITY,
    TOKENS,
    to_simulate,
)
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.parameters import Parameter, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "GainLaw", "breakdown_gain", "closed_form", "pooled_law", "simulate"]

STATEMENT = r"""
Let $T\to\infty$ at a fixed share $\zeta=k/T$ of relevant tokens, with the prompt $q=\gamma
q_\star$. Put $Z_R=\zeta e^{\gamma Q^2}$ and
$Z_I=(1-\zeta)e^{-\gamma\delta_qQ^2+\gamma^2\sigma^2Q^2/2}$. The attention on relevant tokens and
the sum of squared weights on the others tend to
$$s=\frac{Z_R}{Z_R+Z_I},\qquad
  Tp_2=\frac{(1-\zeta)e^{-2\gamma\delta_qQ^2+2\gamma^2\sigma^2Q^2}}{(Z_R+Z_I)^2}.$$
For $\delta_w=0$ the squared signal-to-noise ratio of the pooled feature, $s^2W^2/(\sigma^2p_2)$,
is that of uniform attention times $\exp(2\gamma(1+\delta_q)Q^2-2\gamma^2\sigma^2Q^2)$. The best
gain is therefore
$$\gamma_\star=\frac{1+\delta_q}{2\sigma^2},$$
and over uniform attention the best prompt is worth the factor
$$\exp\left(\frac{(1+\delta_q)^2Q^2}{2\sigma^2}\right).$$
For $\delta_w\neq0$ the same quantities follow with $s-(1-s)\delta_w$ for $s$, and the best gain
is found numerically.
"""

DERIVATION = r"""
A relevant token scores $\gamma Q^2$, an irrelevant one $-\gamma\delta_qQ^2+\gamma\sigma Qv_t$
with $v_t$ standard normal. By the law of large numbers the normaliser divided by $T$ tends to
$Z_R+Z_I$, since $E e^{av}=e^{a^2/2}$, and the sum of squared exponentials divided by $T$ tends to
$(1-\zeta)e^{-2\gamma\delta_qQ^2+2\gamma^2\sigma^2Q^2}$, since $E e^{2av}=e^{2a^2}$. In the ratio
$s^2/p_2$ the normalisers cancel, and what is left is the exponential of a parabola in $\gamma$.

At finite $T$ the law of large numbers holds for the normaliser up to $\gamma\sigma
Q=\sqrt{2\log T}$, where the largest of $T$ scores lies, and for the sum of squares up to half of
that: $E e^{2av}$ comes from scores near $2a$. Beyond the half the largest weight takes over in
$p_2$, and the measured ratio leaves the formula; the figure shows it. The check is at smaller
gains. There $s$ and $Tp_2$ are smooth functions of averages over independent tokens, whose means
do not depend on $T$; so their expectations are series in $1/T$, in which the check extrapolates.

*Tolerances.* 0.01 of the attention, 2 % of the spread and of the ratios, and 3 % of the best gain,
near which the ratio is flat.
"""


# --- the closed form ---


class GainLaw(NamedTuple):
    """Attention on relevant tokens, T·p₂, and the log of the squared signal-to-noise ratio / T."""

    attention: Float[Numbers, "*n"]
    spread: Float[Numbers, "*n"]
    log_snr: Float[Numbers, "*n"]


def pooled_law(
    gain: Any, sparsity: Any, context: Any, noise: Any, shift_context: Any, shift_signal: Any,
    *, tilt: float = 2.0,
) -> GainLaw:  # fmt: skip
    r"""Law of large numbers of the pooled feature as T → ∞ at fixed sparsity ζ.

    With :math:`Z_R = \zeta e^{\gamma Q^2}` and
    :math:`Z_I = (1-\zeta) e^{-\gamma\delta_q Q^2 + \gamma^2\sigma^2Q^2/2}`,

    .. math:: s = \frac{Z_R}{Z_R+Z_I}, \qquad
       T p_2 = \frac{(1-\zeta) e^{-2\gamma\delta_q Q^2 + 2\gamma^2\sigma^2Q^2}}{(Z_R+Z_I)^2}.

    Everything is kept in logarithms; numbers by NumPy, and works under jit, vmap and grad. A
    falsifier changes `tilt`, the 2 before :math:`\gamma^2\sigma^2Q^2`. Derived here.
    """
    xp = namespace_of(gain, sparsity, context, noise, shift_context, shift_signal)
    sigmoid = jax.nn.sigmoid if xp is jnp else special.expit
    energy = xp.square(context)
    power = xp.square(gain * noise) * energy
    relevant = xp.log(sparsity) + gain * energy
    irrelevant = xp.log1p(-sparsity) - gain * shift_context * energy + power / 2
    log_spread = xp.log1p(-sparsity) - 2 * gain * shift_context * energy + tilt * power
    log_spread = log_spread - 2 * xp.logaddexp(relevant, irrelevant)
    attention = sigmoid(relevant - irrelevant)
    signal = attention - sigmoid(irrelevant - relevant) * shift_signal
    log_snr = 2 * xp.log(xp.abs(signal)) - log_spread
    return GainLaw(*(xp.asarray(x) for x in (attention, xp.exp(log_spread), log_snr)))


def closed_form(
    *, sparsity: Any, signal: Any, context: Any, noise: Any, gain: Any, shift_context: Any,
    shift_signal: Any, tilt: float = 2.0, gain_factor: float = 1.0,
    shift_context_factor: float = 1.0, shift_signal_factor: float = 1.0,
) -> dict[str, Numbers]:  # fmt: skip
    """All five quantities, for broadcastable arrays of every parameter.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    numbers = (sparsity, signal, context, noise, gain, shift_context, shift_signal)
    xp = namespace_of(*numbers)
    sparsity, signal, context, noise, gain, shift_context, shift_signal = map(xp.asarray, numbers)
    gain = gain * gain_factor
    point = (
        sparsity, context, noise, shift_context * shift_context_factor,
        shift_signal * shift_signal_factor,
    )  # fmt: skip
    law = functools.partial(pooled_law, tilt=tilt)
    with np.errstate(all="ignore"):  # infinities and signals of 0 are meant
        best = _best_gain(xp, tilt, *point)
        here, zero = law(gain, *point), law(xp.zeros_like(gain), *point)
        values = {
            "attention": here.attention,
            "spread": here.spread,
            "snr_gain": xp.exp(here.log_snr - zero.log_snr),
            "best_gain": best,
            "best_snr_gain": xp.exp(law(best, *point).log_snr - zero.log_snr),
        }
    shape = np.broadcast_shapes(*(np.shape(x) for x in (*point, gain, signal)))
    return {name: xp.broadcast_to(value, shape) for name, value in values.items()}


REACH = 8.0
"""Widths of a bump that are scanned on either side: beyond, it is below 1e-13 of its height."""

SCANNED = 401
"""Gains scanned around each bump."""


def _best_gain(
    xp: ModuleType, tilt: float, sparsity: Any, context: Any, noise: Any, shift_context: Any,
    shift_signal: Any,
) -> Numbers:  # fmt: skip
    r"""The maximiser over real gains of the signal-to-noise ratio.

    For :math:`\delta_w = 0` it is :math:`(1+\delta_q)/(2\sigma^2)`. Otherwise the root of the ratio
    is :math:`|A(\gamma)-B(\gamma)|` up to a factor, with
    :math:`A=\zeta e^{\gamma(1+\delta_q)Q^2-\gamma^2\sigma^2Q^2}` and
    :math:`B=\delta_w(1-\zeta)e^{-\gamma^2\sigma^2Q^2/2}`: two bumps, around
    :math:`(1+\delta_q)/(2\sigma^2)` and around 0, each about :math:`1/(\sigma Q)` wide. Both are
    scanned as far as they reach, and golden-section search refines the best point.
    """
    points = xp.broadcast_arrays(sparsity, context, noise, shift_context, shift_signal)
    known = (1 + points[3]) / (2 * xp.square(points[2]))
    if tilt == 2.0 and xp is np and not np.any(points[4]):
        return known
    unit = np.linspace(-REACH, REACH, SCANNED)

    def maximiser(z: Any, q: Any, s: Any, dq: Any, dw: Any) -> Any:
        def log_snr(gain: Any) -> Any:
            # At the gain where A = B the signal is 0.
            height = pooled_law(gain, z, q, s, dq, dw, tilt=tilt).log_snr
            return xp.nan_to_num(height, nan=-np.inf)

        middle = (1 + dq) / (2 * s**2)
        around = xp.asarray(unit, middle.dtype) / (s * q)
        scan = xp.concatenate([around, middle + around])
        start = scan[xp.argmax(log_snr(scan))]
        step = around[1] - around[0]
        refined = golden_section(log_snr, start - step, start + step, xp=xp)
        return xp.where(log_snr(refined) >= log_snr(start), refined, start)

    flat = [x.reshape(-1) for x in points]
    if xp is jnp:
        best = jax.vmap(maximiser)(*flat)
    else:
        best = np.array([maximiser(*point) for point in zip(*flat, strict=True)])
    best = best.reshape(points[0].shape)
    return best if tilt != 2.0 else xp.where(points[4] == 0, known, best)


def breakdown_gain(tokens: Any, context: Any, noise: Any) -> Any:
    r"""Gain :math:`\sqrt{2\log T}/(\sigma Q)` at which the sum of weights leaves its law.

    The sum of *squared* weights, and with it the signal-to-noise ratio, does so at half of it.
    """
    return np.sqrt(2 * np.log(tokens)) / (noise * context)


FALSIFIERS = (
    Falsifier("tilt", "3/2 for 2 in the exponent of p₂", tilt=1.5),
    Falsifier("gain", "takes 0.95 of the gain", gain_factor=0.95),
    Falsifier("no_shift_context", "drops δq", shift_context_factor=0.0),
    Falsifier("no_shift_signal", "drops δw", shift_signal_factor=0.0),
    Falsifier.after(
        "correction_left", "a correction by −0.6/T of the spread left in it, as at T = 480",
        lambda right, _: {**right, "spread": right["spread"] * (1 - 0.6 / 480)},
    ),
)  # fmt: skip


# --- the simulation ---

SEQUENCES = 67
"""Sequences of one trial, a prime number."""

SCAN = np.linspace(-1.0, 1.0, 41)
"""Gains, in units of the breakdown gain, at which the maximum is looked for."""

SCOUTS = 4
"""Trials that look for it."""


# No function of one trial: all gains see one stream of scores, and so does the scan around the best
# one, whose place the first trials find together.
def simulate(
    *, key: Key[Array, ""], trials: int, tokens: int, sparsity: float, signal: float,
    context: float, noise: float, gain: Any, shift_context: float = 0.0, shift_signal: float = 0.0,
) -> dict[str, Estimate]:  # fmt: skip
    """Measure at a finite number of tokens, from softmax weights of sampled scores; NumPy, float32.

    Ratios of means and the maximiser over gains get jackknife standard errors over the trials.
    All gains see the same scores, so their comparison is sharp. `signal` scales both sides of
    every ratio and drops out.
    """
    relevant = int(relevant_tokens(tokens, sparsity))
    gains = np.atleast_1d(np.asarray(gain, dtype=np.float64))

    law = _ScoreLaw(relevant, context, noise, shift_context)

    def measure(at: np.ndarray, scan: np.ndarray, trials: int) -> tuple[np.ndarray, np.ndarray]:
        def block(indices: np.ndarray) -> np.ndarray:
            sums = [
                _trial_sums(
                    _draw_scores(int(tokens) - relevant, generator_of(key, int(index))),
                    law, at, scan,
                )
                for index in np.ravel(indices)
            ]  # fmt: skip
            return np.stack(sums).reshape(*np.shape(indices), *sums[0].shape)

        sums = map_trials(block, trials)
        return sums[:, 0], sums[:, 1]

    def snr(attention: np.ndarray, spread: np.ndarray) -> np.ndarray:
        return (attention - (1 - attention) * shift_signal) ** 2 / spread

    # A few trials say where the maximum lies; all trials then see a fine scan around it.
    scan = SCAN * breakdown_gain(tokens, context, noise)
    scout = snr(*(x.mean(axis=0) for x in measure(np.empty(0), scan, min(SCOUTS, trials))))
    near = scan[scout.argmax()] + np.linspace(-1.5, 1.5, 13) * (scan[1] - scan[0])
    attention, spread = measure(np.append(0.0, gains), near, trials)
    here, around = slice(1, 1 + gains.size), slice(1 + gains.size, None)

    def ratios(attention: np.ndarray, spread: np.ndarray) -> dict[str, np.ndarray]:
        ratio = snr(attention, spread)
        best, height = _peak(near, np.log(ratio[..., around]))
        shape = ratio[..., here].shape
        return {
            "attention": attention[..., here],
            "spread": tokens * spread[..., here],
            "snr_gain": ratio[..., here] / ratio[..., :1],
            "best_gain": np.broadcast_to(best[..., None], shape),
            "best_snr_gain": np.broadcast_to((np.exp(height) / ratio[..., 0])[..., None], shape),
        }

    means = attention.mean(axis=0), spread.mean(axis=0)
    without_one = (
        (trials * means[0] - attention) / (trials - 1),
        (trials * means[1] - spread) / (trials - 1),
    )
    estimates, jackknifed = ratios(*means), ratios(*without_one)
    return {
        name: _jackknife_along_gains(estimates[name], jackknifed[name], np.ndim(gain) == 0)
        for name in estimates
    }


def _draw_scores(count: int, rng: np.random.Generator) -> Float32[np.ndarray, "P count"]:
    """Standard normals for :data:`SEQUENCES` sequences of `count` tokens.

    A sequence has independent ones. The sequences are the points of a randomly shifted lattice rule
    with a random generator, so that over them the numbers of every token lie evenly: most of what
    a mean over tokens fluctuates by is lost in a mean over the sequences.
    """
    place = np.outer(np.arange(SEQUENCES) / SEQUENCES, rng.integers(1, SEQUENCES, count))
    place += rng.random(count)
    place -= np.floor(place)
    np.maximum(place, 2**-54, out=place)
    return special.ndtri(place, out=place).astype(np.float32)


def _trial_sums(
    scores: Float32[np.ndarray, "P count"], law: _ScoreLaw, gains: np.ndarray, scan: np.ndarray
) -> Float[np.ndarray, "2 G"]:
    """Means over the sequences of the weight on relevant tokens and of p₂, for each gain.

    First at `gains`, then at those of `scan`, which are equally spaced: from one to the next all
    exponentials are multiplied by the same numbers.
    """
    sums = np.zeros((2, len(gains) + len(scan)))
    together = max(1, NUMBERS_TOGETHER // 2 // max(scores.shape[1], 1))
    for start in range(0, len(scores), together):
        rows = scores[start : start + together]
        largest = rows.max(axis=1, keepdims=True)
        below = rows - largest
        for place, gain in enumerate(gains):
            sums[:, place] += law.sums(_exponentials(below, gain * law.scale), largest, gain)
        weights = _exponentials(below, scan[0] * law.scale)
        factors = _exponentials(below, (scan[1] - scan[0]) * law.scale)
        for place, gain in enumerate(scan, start=len(gains)):
            sums[:, place] += law.sums(weights, largest, gain)
            weights *= factors
    return sums / len(scores)


def _exponentials(values: Float32[np.ndarray, "p n"], scale: float) -> Float32[np.ndarray, "p n"]:
    scaled = np.multiply(values, np.float32(scale))
    return np.exp(scaled, out=scaled)


class _ScoreLaw(NamedTuple):
    """Scores at gain γ: γQ² of `relevant` tokens, and γ(σQ u − δ_q Q²) of one with the score u."""

    relevant: int
    context: float
    noise: float
    shift_context: float

    @property
    def scale(self) -> float:
        """σQ, what a score of standard deviation 1 is multiplied by at gain 1."""
        return self.noise * self.context

    def sums(
        self, weights: Float32[np.ndarray, "p n"], largest: np.ndarray, gain: float
    ) -> tuple[float, float]:
        """Sums over the sequences of the relevant weight and of p₂.

        `weights` are exponentials of γσQ(u − `largest`).
        """
        shift = gain * self.scale * largest[:, 0].astype(np.float64)
        # A relevant token's score less the mean of an irrelevant one's.
        lead = gain * self.context**2 * (1 + self.shift_context)
        peak = np.maximum(shift, lead)
        mass, factor = self.relevant * np.exp(lead - peak), np.exp(shift - peak)
        total = mass + factor * weights.sum(axis=1)
        squares = np.einsum("pn,pn->p", weights, weights)
        return float((mass / total).sum()), float((np.square(factor / total) * squares).sum())


def _peak(gains: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
    """Abscissa and height of the maximum of a polynomial fitted to `values` (last axis: gains).

    All gains see the same scores, so the values are smooth and a high degree fits them to far
    below their sampling error.
    """
    unit, fine = np.linspace(-1.0, 1.0, gains.size), np.linspace(-1.0, 1.0, 201)
    fitted = values @ (np.vander(fine, 9) @ np.linalg.pinv(np.vander(unit, 9))).T
    top = np.clip(fitted.argmax(axis=-1), 1, fine.size - 2)
    left, centre, right = (
        np.take_along_axis(fitted, (top + step)[..., None], axis=-1)[..., 0] for step in (-1, 0, 1)
    )
    # The vertex of the parabola through three points: a jackknife magnifies any rounding to a grid.
    offset = (left - right) / (2 * (left - 2 * centre + right))
    height = centre - (left - right) * offset / 4
    abscissa = fine[top] + offset * (fine[1] - fine[0])
    return gains.mean() + (gains[-1] - gains[0]) / 2 * abscissa, height


def _jackknife_along_gains(value: np.ndarray, without_one: np.ndarray, scalar: bool) -> Estimate:
    """:func:`jaxprompt.stats.jackknife` for all gains at once, from what leaving a trial out gives.

    It also removes the bias of order 1/trials that a ratio of means has.
    """
    trials = without_one.shape[0]
    centre = without_one.mean(axis=0)
    stderr = np.sqrt((trials - 1) / trials * ((without_one - centre) ** 2).sum(axis=0))
    mean = trials * value - (trials - 1) * centre
    if scalar:
        return Estimate(float(mean[0]), float(stderr[0]), trials, kind="sampled")
    return Estimate(mean, stderr, trials, kind="sampled")


# --- the parameters ---

SHIFT_CONTEXT = Parameter("shift_context", "real", "shift δq of the context", "δq", default=0.0)
SHIFT_SIGNAL = Parameter("shift_signal", "real", "shift δw of the signal", "δw", default=0.0)


def relevant_tokens(tokens: Any, sparsity: Any) -> Any:
    """The whole number of relevant tokens nearest to ζT, from 1 to T − 1."""
    return np.clip(np.rint(np.asarray(sparsity) * tokens), 1, np.asarray(tokens) - 1).astype(int)


def _check_noise(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse a law without noise; a number of tokens settles the sparsity that it realises."""
    if not is_traced(values["noise"]) and np.any(np.asarray(values["noise"]) <= 0):
        raise ParameterError(
            "noise", values["noise"], "> 0", "without noise any gain is best", where
        )
    if "tokens" in values:
        whole = relevant_tokens(values["tokens"], values["sparsity"])
        values["sparsity"] = whole / values["tokens"]
    return values


# --- the design ---

_TENTH_RELEVANT = {"sparsity": 0.1, "signal": 1.0, "context": 1.0, "noise": 1.0}
_LAWS: tuple[Mapping[str, Any], ...] = (
    {**_TENTH_RELEVANT, "gain": [0.15, 0.3, 0.5]},
    {**_TENTH_RELEVANT, "sparsity": 0.2, "shift_context": 0.2, "noise": 1.2, "gain": [0.2, 0.4]},
    {**_TENTH_RELEVANT, "sparsity": 0.25, "shift_signal": 0.1, "gain": [0.25, 0.5]},
)


def _at_tokens(*tokens: int) -> Sequence[Run]:
    return [Run(law, tokens=count) for law in _LAWS for count in tokens]


_FIGURE = Curves(
    x="gain",
    y="snr_gain",
    design=Design.product(
        {**_TENTH_RELEVANT, "gain": [float(g) for g in np.round(np.linspace(0.0, 2.4, 17), 3)]},
        {"tokens": [20, 100, 1000, 10000]},
        trials=64,
    ),
    lines=tuple(float(g) for g in np.linspace(0.0, 2.4, 97)),
    title="What the context is worth, against the gain of the prompt",
    x_label="gain γ",
    y_label="SNR² / SNR² of uniform attention",
    series="tokens",
    series_label="T = {value}",
    limit_label="T → ∞",
    y_range=(0.0, 2.0),
    marks={"best_gain": "best gain γ⋆"},
    caption="beyond γ = √(2 log T)/(2σQ) the largest weight takes over: the limit fails",
)

BEYOND = "beyond the largest float64"

CLAIM = Claim(
    id="contextual.context_gain",
    title="What the context is worth",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        SPARSITY, SIGNAL, CONTEXT, NOISE, SHIFT_CONTEXT, SHIFT_SIGNAL, GAIN, to_simulate(TOKENS),
    ),
    ignored=FAMILY,
    check_parameters=_check_noise,
    quantities=(
        Quantity("attention", "softmax weight on relevant tokens", tolerance=0.01, symbol="s"),
        Quantity("spread", "T times the sum of squared irrelevant weights", tolerance=0.02,
                 relative=True, symbol="T p₂", infinite=BEYOND),
        Quantity("snr_gain", "squared signal-to-noise ratio over that of gain 0", tolerance=0.02,
                 relative=True, infinite=BEYOND),
        Quantity("best_gain", "gain with the largest signal-to-noise ratio", tolerance=0.03,
                 relative=True, symbol="γ⋆", ignores=("gain",)),
        Quantity("best_snr_gain", "the squared ratio it reaches over that of gain 0",
                 tolerance=0.02, relative=True, ignores=("gain",), infinite=BEYOND),
    ),
    compared=Compared(
        {
            "sparsity": (0.01, 0.95), "signal": (0.1, 10.0), "context": (0.2, 2.0),
            "noise": (0.3, 2.0), "gain": (-1.0, 2.0), "shift_context": (-1.5, 2.0),
            "shift_signal": (-0.9, 1.5),
        },
        elsewhere="formulas and a search keep their digits; the limit is one of many tokens, "
        "for gains below half of √(2 log T)/(σQ)",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*_at_tokens(480, 960, 1920), trials=24),
        "full": Design(*_at_tokens(960, 1920, 3840, 7680), trials=256),
    },
    shared=("gain",),
    size="tokens",
    powers=(1,),
    broadcasts="every parameter",
    traceable=True,
    figure=_FIGURE,
)  # fmt: skip
