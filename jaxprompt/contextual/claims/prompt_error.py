r"""Claim ``contextual.prompt_error``: test error of a ridge head learned over a known prompt."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

from jaxprompt.compute.cells import (
    Structure,
    cells_share_programs,
    loop_over_rows,
    map_cells,
    structure_of,
    with_cells,
)
from jaxprompt.compute.devices import map_rows_bit_stable, map_trials, trial_memory_bytes
from jaxprompt.compute.threefry import unrolled
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.law.feature_law import FeatureLaw, feature_law
from jaxprompt.contextual.law.finite_ridge import at_finite_dim
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.ridge_limit import (
    Limit,
    best_gain,
    ridge_limit,
    varied_ridge_limit,
)
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    GAIN,
    RATIO,
    RIDGE,
    SAMPLES,
    check_law_and_ratio,
    optional,
    sample_counts,
    to_simulate,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.evaluation import fresh_scores
from jaxprompt.contextual.simulation.ridge_heads import Chunks, ridge_path
from jaxprompt.contextual.simulation.sampling import pooled_rows
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.stats import Estimate, mean_estimate, mean_estimates

__all__ = ["CLAIM", "closed_form", "simulate", "simulate_trials"]

STATEMENT = r"""
A head $w$ is learned by ridge regression from $n$ sequences of dimension $d$, over the known
prompt $q=\gamma q_\star$. Sequence $i$ gives a pooled feature of signal
$\alpha=(s-(1-s)\delta_w)W$ and noise level $\tau=\sigma\sqrt{p_2}$, where $s$ is the attention on
its relevant tokens and $p_2$ the sum of squared weights on the others. As $n,d\to\infty$ with
$d/n\to\kappa$, let $m>0$ solve
$$\lambda m+E\left[\frac{\tau^2m}{1+\tau^2m}\right]=\kappa,\qquad \omega=\frac1{1+\tau^2m}.$$
Then the component of $w$ along $w_\star/W$ and its norm away from it tend to $c$ and $\rho$,
$$c=\frac{E[\omega\alpha]}{\lambda+E[\omega(\alpha^2+\tau^2)]},\qquad
\rho^2=\frac{m\,E[\tau^2\omega^2((1-\alpha c)^2+\tau^2c^2)]}{\lambda+E[\tau^2\omega^2]},$$
and the probability of a wrong sign tends to
$$E\,\Phi\left(\frac{-\alpha c}{\tau\sqrt{c^2+\rho^2}}\right).$$
Without ridge and for $\kappa>1$ (the minimum-norm interpolator) $m\to\infty$ and
$$c=\frac{E[\alpha/\tau^2]}{\kappa+E[\alpha^2/\tau^2]},\qquad
\rho^2=\frac{E[((1-\alpha c)^2+\tau^2c^2)/\tau^2]}{\kappa-1}.$$
Without ridge the error rises to one half at $d=n$ from both sides (double descent).

With `dim` given the numbers are those at that $d$ and $n$ to order $1/n$, which the derivation
states; without it they are the limits.
"""

DERIVATION = r"""
Multiply every feature by its label: $r_i=y_i\bar x_i=\alpha_i e_1+\tau_i g_i$ with $g_i\sim
N(0,I_d)$. The coordinate along $q_\star$ also carries $y_i$ times a mean; its sign is independent
of everything, so it contributes only at order $1/n$. The head minimises $\frac1n\sum(1-r_i\cdot
w)^2/2+\frac\lambda2|w|^2$.

Leave one sequence out: $g_i^\top(\hat G+\lambda)^{-1}g_i/n\to m$ with $\hat
G=\frac1n\sum\tau_j^2g_jg_j^\top$, and the trace of $\hat G(\hat G+\lambda)^{-1}+\lambda(\hat
G+\lambda)^{-1}=I$ divided by $n$ gives the equation for $m$. The residual of sequence $i$ is
$\omega_i$ times the one it would have had if left out, $1-\alpha_ic-\tau_i(cz_i+\rho z_i')$ with
independent standard normals.

The first coordinate of the stationarity condition, $\lambda c=E[\omega(\alpha(1-\alpha
c)-\tau^2c)]$, gives $c$. Every other coordinate is a centred sum of variance
$E[\tau^2\omega^2e^2]/n$ times $(m/\kappa)^2$, where $e$ is the left-out residual; summing over
$d$ of them, $\rho^2=\frac{m^2}{\kappa}E[\tau^2\omega^2((1-\alpha c)^2+\tau^2c^2+\tau^2\rho^2)]$.
Solving for $\rho^2$ with $\kappa/m=\lambda+E[\tau^2\omega]$ and
$\tau^2\omega-m\tau^4\omega^2=\tau^2\omega^2$ gives the statement. A fresh feature has margin
$\alpha c+\tau\sqrt{c^2+\rho^2}Z$.

*At a finite $d$.* Along $q_\star$ a signed feature is $y\beta$ with
$\beta=Q(s-(1-s)\delta_q)+\sigma\bar v$, where $\bar v$ is the attention's mean of the noise there;
its sign is fair, so the head's component along it has mean 0. Keep the coordinates along $w_\star$
and $q_\star$ apart from the $f=d-2$ others. Each has its own resolvent, and all three share the
weight of a sample:
$$m=\frac{f/n}{\lambda+E[\tau^2\omega]},\quad u=\frac1{\lambda+E[(\alpha^2+\tau^2)\omega]},\quad
v=\frac1{\lambda+E[\beta^2\omega]},\quad
\omega=\frac1{1+\tau^2m+((\alpha^2+\tau^2)u+\beta^2v)/n}.$$
The mean along $w_\star$ is $c=uE[\alpha\omega]$, and the variances $\rho^2$ of the $f$ coordinates
together, $V_u$ and $V_v$ are $nm^2/f$, $u^2/n$ and $v^2/n$ times the mean of $\omega^2e^2$ times
$\tau^2$, $\alpha^2+\tau^2$ and $\beta^2$: three linear equations, as
$e^2=(1-\alpha c)^2+\tau^2(c^2+\rho^2+V_u)+\alpha^2V_u+\beta^2V_v$. A fresh feature has the mean
margin $\alpha c$ and the variance $e^2-(1-\alpha c)^2$. The shares of all samples,
$1-\omega$, add up to $d$ without ridge, so that all diverges at $n=d$ exactly. What is left out
is the fluctuation of the sums over samples, also of order $1/n$, but without a factor such as
$Q^2/\tau^2$: at $d=100$, $n=200$ and a ridge of 10 the limit's error is 0.095, this one 0.119, and
that of sampled tokens $0.122\pm0.003$.

The law of $(\alpha,\tau)$ needs the $T-k$ scalars $\langle q_\star,z_t\rangle$ only; its
expectations are taken by randomised quasi-Monte Carlo with a reported standard error. The
simulation learns heads at finite $d$ on features drawn from their exact law, and the check
extrapolates its deviation from the numbers at that $d$. What these leave out falls as $1/d$: from
$d=32$ on no term in $1/d^2$ is seen in 120 measured deviations ($d=32$ to $256$), while the
deviation from the limit itself needs one.

*Tolerances.* 0.01 of an error, one sequence in a hundred, which is the least by which one would
choose between two gains or ridges. The head enters the error through $c/\sqrt{c^2+\rho^2}$ alone,
and $z\varphi(z)\le0.242$: 5 % of $\rho$ are at most 0.012 of the error and 10 % of $c$ at most
0.024, half of that where both are alike, and less where $c$ is the larger.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, gain: Any, ridge: Any,
    ratio: Any, dim: Any = None, shifts: Any = ((0.0, 0.0),), shift_weights: Any = (1.0,),
    averaged_noise: bool = False, independent: bool = False, self_noise: float = 1.0,
    norm_shift: float = 1.0, ridge_factor: float = 1.0, gain_factor: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """`error`, `head_signal` and `head_noise` at `dim`, or in the limit; numbers of any shape
    broadcast.

    The formulas are in :mod:`jaxprompt.contextual.law.ridge_limit` and
    :mod:`~jaxprompt.contextual.law.finite_ridge`. Standard errors are those of
    the quadrature over sequences. Falsifiers change the last six arguments, which the theory has
    at their defaults.
    """

    def numbers_at(
        *, signal: float, context: float, noise: float, gain: float, ridge: float, ratio: float,
        dim: float = math.inf,
    ) -> dict[str, Estimate]:  # fmt: skip
        features, limit = _limit(
            tokens=tokens, relevant=relevant, signal=signal, context=context, noise=noise,
            gain=gain * gain_factor, shifts=shifts, shift_weights=shift_weights, ratio=ratio,
            ridge=ridge * ridge_factor, averaged_noise=averaged_noise, independent=independent,
            self_noise=self_noise, norm_shift=norm_shift,
        )  # fmt: skip
        if math.isfinite(dim):
            limit = at_finite_dim(limit, features, dim, round(dim / ratio), ridge * ridge_factor)
        return {name: quadrature_estimate(x) for name, x in limit._asdict().items()}

    return evaluate_pointwise(
        numbers_at, signal=signal, context=context, noise=noise, gain=gain, ridge=ridge,
        ratio=ratio, dim=math.inf if dim is None else dim,
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _limit(
    *, ratio: float, ridge: float, averaged_noise: bool, independent: bool, self_noise: float,
    norm_shift: float, **setting: Any,
) -> tuple[FeatureLaw, Limit]:  # fmt: skip
    """The law of features and the limit: a check asks for the same ones at every dimension."""
    features = feature_law(**setting)
    if averaged_noise:
        features = features.averaged()
    if independent:
        features = features.independent()
    limit = varied_ridge_limit(features, ratio, ridge, self_noise=self_noise, norm_shift=norm_shift)
    return features, limit


FALSIFIERS = (
    Falsifier("averaged_noise", "every sequence has the average noise", averaged_noise=True),
    Falsifier("independent", "signal and noise level of a sequence are independent",
              independent=True),
    Falsifier("no_self_noise", "drops τ²c² from ρ²", self_noise=0.0),
    Falsifier("norm_shift", "divides by κ, not κ − 1, beyond κ = 1", norm_shift=0.0),
    Falsifier("half_ridge", "halves the ridge", ridge_factor=0.5),
    Falsifier("weak_gain", "takes 0.95 of the gain", gain_factor=0.95),
    Falsifier.after("correction_left", "a correction of −0.1/d left in the error, as at d = 32",
                    lambda right, _: with_correction(right, "error", plus=-0.1 / 32)),
)  # fmt: skip


# --- the simulation ---


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, first: int = 0, **params: Any
) -> dict[str, Estimate]:
    """Learn the head from exact-law samples, and evaluate its conditional error; float64.

    One nested stream of samples serves all of `ratio` or `samples`, and all of `ridge`: so this is
    no function of one trial at one point.
    """
    setting = _padded(Setting.of(params))
    with jax.enable_x64(True):
        table = simulate_trials(
            setting,
            dim,
            _distinct_samples(dim, params["ratio"]),
            jnp.atleast_1d(jnp.asarray(params["ridge"], jnp.float64)),
            trials,
            key=key,
            first=first,
        )
    return _estimates(table, dim, params)


def _distinct_samples(dim: int, ratios: Any) -> tuple[int, ...]:
    return tuple(sorted(set(np.atleast_1d(sample_counts(dim, ratios)).tolist())))


def _estimates(
    table: Mapping[str, np.ndarray], dim: int, params: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Means over trials, in the order of the given ridges and ratios."""
    ratios, distinct = params["ratio"], _distinct_samples(dim, params["ratio"])
    position = [distinct.index(n) for n in np.atleast_1d(sample_counts(dim, ratios)).tolist()]
    shape = (-1, *np.shape(params["ridge"]), *np.shape(ratios))
    return {
        name: mean_estimate(value.astype(np.float64)[:, :, position].reshape(shape))
        for name, value in table.items()
    }


def _simulate_cells(
    points: Sequence[Mapping[str, Any]],
    *,
    key_words: np.ndarray,
    trials: int,
    first: int = 0,
) -> list[dict[str, Estimate] | None]:
    """:func:`simulate` at many small points, of which those of equal shapes share a program."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    results: list[dict[str, Estimate] | None] = [None] * len(points)
    if not cells_share_programs():
        return results
    for place, (params, words) in enumerate(zip(points, key_words, strict=True)):
        dim, setting = params["dim"], _padded(Setting.of(params))
        samples = _distinct_samples(dim, params["ratio"])
        ridges = np.atleast_1d(np.asarray(params["ridge"], np.float64))
        batch = _batch(dim, len(samples), ridges.size)
        small, large, chunks = _sizes(samples, dim)
        cell = (words, setting, small, large, ridges)
        structure = structure_of(cell)
        if batch > 1 and structure is not None:  # a large matrix computes for longer than it starts
            alike = (structure, dim, chunks, batch, _dtype(setting, dim, samples, ridges))
            groups.setdefault(alike, []).append((place, cell))
    for (structure, dim, chunks, batch, dtype), members in groups.items():
        with jax.enable_x64(True):
            program = _cells_program(structure, dim, chunks, batch, dtype)
            cells = [cell for _, cell in members]
            tables = map_cells(program, cells, trials, batch=batch, first=first)
        members_points = [points[place] for place, _ in members]
        estimates = _estimates_of_cells(tables, dim, members_points)
        for (place, _), estimate in zip(members, estimates, strict=True):
            results[place] = estimate
    return results


def _estimates_of_cells(
    tables: Mapping[str, np.ndarray], dim: int, points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Estimate]]:
    """:func:`_estimates` of each cell; means of single numbers are taken for all cells at once."""
    if any(np.ndim(params[name]) for params in points for name in ("ridge", "ratio")):
        rows = [{name: value[row] for name, value in tables.items()} for row in range(len(points))]
        return [_estimates(row, dim, params) for row, params in zip(rows, points, strict=True)]
    by_name = [mean_estimates(value[:, :, 0, 0].astype(np.float64)) for value in tables.values()]
    return [dict(zip(tables, row, strict=True)) for row in zip(*by_name, strict=True)]


@functools.lru_cache(maxsize=64)
def _cells_program(
    structure: Structure, dim: int, chunks: Chunks, batch: int, dtype: Any
) -> Callable[..., Any]:
    def run(indices: Array, cell: tuple[Array, Setting, Array, Array, Array]) -> dict[str, Array]:
        words, setting, small, large, ridges = cell
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        return _batch_of_trials(
            setting, dim, small, large, ridges, chunks, batch, dtype, key, indices
        )

    return loop_over_rows(run, structure)


def _padded(setting: Setting) -> Setting:
    """`setting` with at least two shifts, so that one compilation serves one shift and two."""
    if len(setting.shift_weights) > 1:
        return setting
    return replace(
        setting,
        shifts=np.concatenate([setting.shifts, np.zeros((1, 2))]),
        shift_weights=np.append(setting.shift_weights, 0.0),
    )


def simulate_trials(
    setting: Setting,
    dim: int,
    samples: Sequence[int],
    ridges: Float[Array, " L"],
    trials: int,
    *,
    key: Key[Array, ""],
    first: int = 0,
) -> dict[str, Float64[np.ndarray, "trials L S"]]:
    """Error and order parameters of every trial, for each ridge and each of ascending `samples`.

    `first` is the index of the first trial.
    Call it with 64-bit types enabled. Memory does not grow with `trials` or `samples`; one
    compilation serves all settings, sizes and ridges of equal shape.
    """
    small, large, chunks = _sizes(tuple(samples), dim)
    dtype = _dtype(setting, dim, samples, np.asarray(ridges))
    batch = _batch(dim, len(samples), ridges.size)
    block = functools.partial(
        _trials, setting, dim, jnp.asarray(small), jnp.asarray(large), ridges, chunks, batch,
        dtype, key,
    )  # fmt: skip
    table = map_trials(block, trials, batch=batch, first=first, loops=True)
    return {name: value.astype(np.float64) for name, value in table.items()}


@functools.lru_cache(maxsize=256)
def _sizes(samples: tuple[int, ...], dim: int) -> tuple[np.ndarray, np.ndarray, Chunks]:
    """Ascending sample sizes up to `dim`, those beyond, and the chunks that serve them."""
    sizes = np.asarray(samples, np.uint32)
    return sizes[sizes <= dim], sizes[sizes > dim], Chunks.for_sizes(samples, dim)


@functools.partial(jax.jit, static_argnames=("dim", "chunks", "batch", "dtype"))
def _trials(
    setting: Setting,
    dim: int,
    small: Array,
    large: Array,
    ridges: Array,
    chunks: Chunks,
    batch: int,
    dtype: Any,
    key: Array,
    indices: Array,
) -> dict[str, Array]:
    def run(indices: Array) -> dict[str, Array]:
        return _batch_of_trials(
            setting, dim, small, large, ridges, chunks, batch, dtype, key, indices
        )

    # Jitted and inlined: the loop around it looks at it twice, and it is traced once.
    return map_rows_bit_stable(jax.jit(run, inline=True), indices)


def _batch_of_trials(
    setting: Setting,
    dim: int,
    small: Array,
    large: Array,
    ridges: Array,
    chunks: Chunks,
    batch: int,
    dtype: Any,
    key: Array,
    indices: Array,
) -> dict[str, Array]:
    def trial(index: Array) -> dict[str, Array]:
        trial_key = jax.random.fold_in(unrolled(key), index)
        return _trial(setting, dim, small, large, ridges, chunks, dtype, trial_key)

    # A batch of one is slower than one trial: XLA's batched products are.
    if batch == 1:
        return jax.tree.map(lambda x: x[None], trial(indices[0]))
    return jax.vmap(trial)(indices)


def _dtype(setting: Setting, dim: int, samples: Sequence[int], ridges: np.ndarray) -> Any:
    """Of products and factorisations: float32 where the condition number is below a few thousand.

    A head's relative error is then below 1e-3 at worst and near 1e-6 in practice, far less than its
    spread. The largest eigenvalue of the mean outer product is of the order of the relevant token's
    square norm plus the noise variance, which a ridge is set beside. Without ridge, noise of one
    level has the condition number ((√n + √d)/(√n − √d))², and the levels of sequences differ by no
    more than tenfold while scores of irrelevant tokens have a standard deviation up to 2.
    """
    scale = setting.signal**2 + setting.context**2 + setting.noise**2
    if bool((ridges >= 1e-3 * scale).all()):
        return jnp.float32
    roots = np.sqrt(np.asarray(samples, float) / dim)
    far = ((1 + roots) ** 2 <= _CONDITION * (1 - roots) ** 2).all()
    even = abs(setting.gain) * setting.noise * setting.context <= 2 and setting.irrelevant > 1
    return jnp.float32 if far and even else jnp.float64


_CONDITION = 100.0
"""Largest condition number of noise of one level with which products are float32."""


def _batch(dim: int, samples: int, ridges: int) -> int:
    """Trials done together by one thread or device: as many as it has room for their matrices,
    and few enough on a CPU that many cores or devices share a usual number of trials."""
    most = 4 if jax.default_backend() == "cpu" else 64
    fit = trial_memory_bytes() // (8 * samples * (1 + ridges) * dim**2)
    return max(1, min(fit, most))


def _trial(
    setting: Setting,
    dim: int,
    small: Array,
    large: Array,
    ridges: Array,
    chunks: Chunks,
    dtype: Any,
    key: Array,
) -> dict[str, Array]:
    train_key, test_key = jax.random.split(unrolled(key))

    def draw(first: int | Array, rows: int) -> Array:
        return pooled_rows(setting, dim, first, rows, key=train_key)

    heads = ridge_path(draw, dim, small, large, ridges, chunks=chunks, dtype=dtype).swapaxes(0, 1)
    along_signal, along_context = heads[..., 0], heads[..., 1]
    norm = jnp.linalg.norm(heads, axis=-1)
    # In float32, a tenth of the time: its rounding is nothing beside what trials differ by.
    scores = fresh_scores(setting.irrelevant, key=test_key)

    def error(*head: Array) -> Array:
        geometry = Geometry.of_known_prompt(setting, *(x.astype(jnp.float32) for x in head))
        return conditional_error(setting, geometry, scores)

    flat = jax.vmap(error)(along_signal.reshape(-1), along_context.reshape(-1), norm.reshape(-1))
    return {
        "error": flat.reshape(norm.shape),
        "head_signal": along_signal,
        "head_noise": jnp.linalg.norm(heads[..., 1:], axis=-1),
    }


# --- the design ---

_UNSHIFTED = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
_SOMETIMES_SHIFTED = {
    **_UNSHIFTED, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6),
}  # fmt: skip


def _known_prompt_design(trials_by_dim: Mapping[int, int]) -> Design:
    """Gains from no attention on, each over ridges and ratios on both sides of d = n.

    So near to d = n, without ridge, the scatter is the largest that the trials average out. Whole
    samples realise the ratios at every dimension, so there is one limit for all.
    """
    runs = [
        Run(setting, gain=gain, ridge=[0.0, 0.05], ratio=[0.4, 0.5, 0.64, 16 / 9, 2.0], dim=dim,
            trials=trials)
        for setting, gains in ((_UNSHIFTED, (0.0, 0.5, 1.0)), (_SOMETIMES_SHIFTED, (1.0,)))
        for gain in gains
        for dim, trials in trials_by_dim.items()
    ]  # fmt: skip
    return Design(*runs, trials=max(trials_by_dim.values()))


# --- the figure ---

_MOST_GAIN = 4.0
"""Without ridge and near d = n the error falls with the gain as far as one looks (to 20), so the
figure's best gain is the best up to here."""


def _best_gain_error(ratio: float, **params: Any) -> float:
    """Limiting error at the best gain, for the figure."""
    setting = {n: params[n] for n in ("tokens", "relevant", "signal", "context", "noise")}

    def features(gain: float) -> FeatureLaw:
        return feature_law(**setting, gain=gain)

    best = best_gain(features, ratio, params["ridge"], scan=np.linspace(0.0, _MOST_GAIN, 13))
    return float(ridge_limit(features(best), ratio, params["ridge"]).error.mean())


_FIGURE = Curves(
    x="ratio",
    y="error",
    design=Design.product(
        {
            **_UNSHIFTED,
            "dim": 192,
            "ridge": [0.0, 0.05],
            "ratio": [0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0, 1.12, 1.35, 1.7, 2.2, 3.0],
        },
        {"gain": [0.0, 0.5, 1.0, 2.0]},
        trials=64,
    ),
    lines=tuple(
        float(x)
        for x in np.unique(
            np.concatenate(
                [
                    np.geomspace(0.18, 0.9, 14),
                    1 - np.geomspace(0.1, 0.001, 7),
                    [1.0],
                    1 + np.geomspace(0.001, 0.1, 7),
                    np.geomspace(1.1, 3.2, 12),
                ]
            )
        )
    ),
    title="Test error of a head learned over a known prompt",
    x_label="d / n",
    y_label="probability of a wrong sign",
    series="gain",
    series_label="gain γ = {value}",
    panel="ridge",
    panel_label="ridge λ = {value}",
    log_x=True,
    y_range=(0.05, 0.52),
    extra=(
        ExtraLine(
            f"best gain up to {_MOST_GAIN:g}",
            _best_gain_error,
            at=(0.18, 0.25, 0.4, 0.6, 0.8, 0.9, 0.96, 0.99, 1, 1.01, 1.04, 1.1, 1.3, 1.6, 2.2, 3.2),
        ),
    ),
)

CLAIM = Claim(
    id="contextual.prompt_error",
    title="Test error of a head learned over a known prompt",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, GAIN, RIDGE, RATIO, optional(SAMPLES), to_simulate(DIM)),
    ignored=FAMILY,
    quantities=(
        Quantity(
            "error",
            "probability of a wrong sign on a fresh sequence; without `dim` its limit at d/n",
            tolerance=0.01,
        ),
        Quantity(
            "head_signal",
            "component of the head along w⋆/W; without `dim` its limit",
            tolerance=0.1,
            relative=True,
            symbol="c",
        ),
        Quantity(
            "head_noise",
            "norm of the head away from w⋆; without `dim` its limit",
            tolerance=0.05,
            relative=True,
            symbol="ρ",
            infinite="at ratio 1 without ridge",
        ),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            "tokens": (2, 30),
            "relevant": (1, 5),
            "signal": (0.2, 4.0),
            "context": (0.2, 1.5),
            "noise": (0.2, 1.2),
            "shifts": (-0.5, 1.5),
            "gain": (-0.5, 1.0),
            "ratio": (0.05, 10.0),
            "ridge": (1e-3, 100.0),
        },
        elsewhere="`NAME_stderr` states what the quadrature over scores loses, at large gains too; "
        "errors below 2e-5 are not resolved",
    ),
    closed_form=closed_form,
    simulation=with_cells(simulate, _simulate_cells),
    designs={
        "quick": _known_prompt_design({32: 864, 64: 144, 128: 720}),
        "full": _known_prompt_design({64: 8192, 128: 4096, 256: 3072, 512: 1536}),
    },
    check_parameters=check_law_and_ratio,
    shared=("ridge", "ratio", "samples"),
    size="dim",
    powers=(1, 2),
    figure=_FIGURE,
    broadcasts="signal, context, noise, gain, ridge and ratio",
)
