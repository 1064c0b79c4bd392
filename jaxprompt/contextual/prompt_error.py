r"""Claim ``contextual.prompt_error``: test error of a ridge head learned over a known prompt.

The sharp error curve in the proportional limit, on both sides of n = d, with or without ridge.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64, Key
from scipy import optimize, special

from jaxprompt.contextual import law
from jaxprompt.contextual.conditional_error import Geometry, conditional_error
from jaxprompt.contextual.data import pooled_rows
from jaxprompt.contextual.ridge import Chunks, ridge_path
from jaxprompt.contextual.scores import fresh_scores
from jaxprompt.contextual.setting import (
    CONTEXT,
    DIM,
    GAIN,
    MODEL,
    NOISE,
    RATIO,
    RELEVANT,
    RIDGE,
    SAMPLES,
    SHIFT_WEIGHTS,
    SHIFTS,
    SIGNAL,
    TOKENS,
    Setting,
    complete,
    optional,
    to_simulate,
)
from jaxprompt.engine import Claim, Curves, Design, ExtraLine, Falsifier, Quantity, Relation
from jaxprompt.errors import ParameterError
from jaxprompt.parallel import map_trials
from jaxprompt.stats import Estimate, mean_estimate

__all__ = [
    "CLAIM",
    "Limit",
    "best_gain",
    "best_ridge",
    "feature_law",
    "resolvent",
    "ridge_limit",
    "simulate",
    "simulate_trials",
]


# --- the closed form ---


class FeatureLaw(NamedTuple):
    """Nodes of the law of (α, τ): signal and noise level of a pooled feature.

    Shape (replicate, node) with `weights` summing to 1 over the nodes of each replicate.
    """

    alpha: np.ndarray
    tau: np.ndarray
    weights: np.ndarray


class Limit(NamedTuple):
    """Limits of the test error, of the head along w⋆/W and of its norm away from it.

    Each holds one value for each replicate of the feature law.
    """

    error: np.ndarray
    head_signal: np.ndarray
    head_noise: np.ndarray


@functools.lru_cache(maxsize=256)
def feature_law(
    tokens: int,
    relevant: int,
    signal: float,
    context: float,
    noise: float,
    gain: float,
    shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),),
    shift_weights: tuple[float, ...] = (1.0,),
) -> FeatureLaw:
    r"""Law of :math:`\alpha = (s - (1-s)\delta_w) W` and :math:`\tau = \sigma\sqrt{p_2}`."""
    nodes = law.normal_nodes(tokens - relevant)
    shift = np.asarray(shifts)[None, None, :, :]
    with jax.enable_x64(True):
        m = _moments(
            (1 + shift[..., 0]) * gain * context**2, noise * gain * context, relevant, nodes
        )
    attention, spread = np.asarray(m.attention), np.asarray(m.spread)
    alpha = (attention - (1 - attention) * shift[..., 1]) * signal
    # A weight may underflow to 0 at extreme gains; its reciprocal is needed without ridge.
    tau = noise * np.sqrt(np.maximum(spread, 1e-200 if tokens > relevant else 0.0))
    weights = np.broadcast_to(np.asarray(shift_weights) / nodes.shape[1], alpha.shape)
    flat = (alpha.shape[0], -1)
    return FeatureLaw(alpha.reshape(flat), tau.reshape(flat), weights.reshape(flat))


@functools.partial(jax.jit, static_argnums=2)
def _moments(gap: Array, scale: Array, relevant: int, nodes: Array) -> law.Moments:
    return law.moments(gap, scale, relevant, nodes[:, :, None, :])


def ridge_limit(features: FeatureLaw, ratio: float, ridge: float) -> Limit:
    r"""Limit of the ridge head at d/n → `ratio` (κ) with ridge λ.

    With :math:`m > 0` the root of :math:`\lambda m + E[\tau^2 m/(1+\tau^2 m)] = \kappa` and
    :math:`\omega = 1/(1+\tau^2 m)`,

    .. math::
        c = \frac{E[\omega\alpha]}{\lambda + E[\omega(\alpha^2+\tau^2)]}, \quad
        \rho^2 = \frac{m\,E[\tau^2\omega^2((1-\alpha c)^2+\tau^2c^2)]}{\lambda + E[\tau^2\omega^2]},
        \quad \text{error} = E\,\Phi\Big(\frac{-\alpha c}{\tau\sqrt{c^2+\rho^2}}\Big).

    For κ ≥ 1 without ridge (minimum norm) m is infinite, and the same expressions are taken in
    that limit. At κ = 1 without ridge the noise ρ diverges and the error is ½.
    """
    return _ridge_limit(features, ratio, ridge)


def _ridge_limit(
    f: FeatureLaw,
    ratio: float,
    ridge: float,
    *,
    ridge_factor: float = 1.0,
    averaged: bool = False,
    self_noise: float = 1.0,
    norm_shift: float = 1.0,
    leverage: float = 1.0,
) -> Limit:
    ridge = ridge * ridge_factor
    alpha, tau2, weights = f.alpha, f.tau**2, f.weights

    def mean(x: np.ndarray) -> np.ndarray:
        return (weights * x).sum(axis=1)

    if averaged:  # a wrong variant: every sequence gets the average noise level
        tau2 = np.broadcast_to(mean(tau2)[:, None], tau2.shape)
    if not tau2.any():  # noise-free features: only the signal's own direction is learned
        c = mean(alpha) / (ridge + mean(alpha**2))
        return Limit(mean(_tie(alpha * c[:, None])), c, np.zeros_like(c))
    if ridge == 0 and ratio >= 1:
        c = mean(alpha / tau2) / (ratio - 1 + mean((alpha**2 + tau2) / tau2))
        miss = (1 - alpha * c[:, None]) ** 2 + self_noise * tau2 * c[:, None] ** 2
        excess = ratio - norm_shift
        rho2 = mean(miss / tau2) / excess if excess else np.full_like(c, np.inf)
    else:
        m = resolvent(tau2, weights, ratio, ridge)
        omega = 1 / (1 + tau2 * m[:, None])
        c = mean(omega * alpha) / (ridge + mean(omega * (alpha**2 + tau2)))
        miss = (1 - alpha * c[:, None]) ** 2 + self_noise * tau2 * c[:, None] ** 2
        weight = tau2 * omega ** (2 * leverage)
        rho2 = mean(weight * miss) * m / (ridge + mean(weight))
    deviation = np.sqrt(tau2 * (c**2 + rho2)[:, None])
    error = mean(special.ndtr(-alpha * c[:, None] / deviation))
    return Limit(error, c, np.sqrt(rho2))


def _tie(margin: np.ndarray) -> np.ndarray:
    return np.where(margin > 0, 0.0, np.where(margin < 0, 1.0, 0.5))


def resolvent(tau2: np.ndarray, weights: np.ndarray, ratio: float, ridge: float) -> np.ndarray:
    """Root m of λm + E[τ²m/(1+τ²m)] = κ for each replicate.

    The left side is increasing and concave in m, so Newton's iteration from 0 rises to the root
    without passing it.
    """
    m = np.zeros(tau2.shape[0])
    for _ in range(200):
        omega = 1 / (1 + tau2 * m[:, None])
        value = ridge * m + (weights * (1 - omega)).sum(axis=1) - ratio
        step = -value / (ridge + (weights * tau2 * omega**2).sum(axis=1))
        m = m + step
        if (np.abs(step) <= 4e-16 * m).all():
            break
    return m


def _predict(wrong: Mapping[str, Any], **params: Any) -> dict[str, Any]:
    names = ("signal", "context", "noise", "gain", "ridge", "ratio")
    values = np.broadcast_arrays(*(params[name] for name in names))
    out = {
        q + suffix: np.empty(values[0].shape) for q in Limit._fields for suffix in ("", "_stderr")
    }
    for index in np.ndindex(values[0].shape):
        at = {name: float(v[index]) for name, v in zip(names, values, strict=True)}
        features = feature_law(
            params["tokens"],
            params["relevant"],
            at["signal"],
            at["context"],
            at["noise"],
            at["gain"] * wrong.get("gain_factor", 1.0),
            params["shifts"],
            params["shift_weights"],
        )
        changes = {name: value for name, value in wrong.items() if name != "gain_factor"}
        limit = _ridge_limit(features, at["ratio"], at["ridge"], **changes)
        for name, replicates in limit._asdict().items():
            out[name][index], out[f"{name}_stderr"][index] = _spread(replicates)
    return {name: value[()] for name, value in out.items()}


def _spread(replicates: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(replicates).all():  # ρ at κ = 1 without ridge
        return float(replicates.mean()), 0.0
    value, stderr = law.pooled(replicates)
    return float(value), float(stderr)


def closed_form(**params: Any) -> dict[str, Any]:
    """`error`, `head_signal`, `head_noise` in the limit, each with its standard error."""
    return _predict({}, **params)


def _wrong(**changes: Any) -> Any:
    return functools.partial(_predict, changes)


def best_ridge(features: FeatureLaw, ratio: float) -> tuple[float, float]:
    """The ridge with the least limiting error at `ratio`, and that error."""

    def error(log_ridge: float) -> float:
        return float(ridge_limit(features, ratio, np.exp(log_ridge)).error.mean())

    scan = np.linspace(-14, 8, 45)
    start = scan[int(np.argmin([error(x) for x in scan]))]
    log_ridge, least = _minimum(error, start - 0.6, start + 0.6)
    return float(np.exp(log_ridge)), least


def best_gain(ratio: float, ridge: float, most: float = 8.0, **setting: Any) -> tuple[float, float]:
    """The gain in [0, `most`] with the least limiting error at `ratio` and `ridge`, and that error.

    `setting` holds the arguments of :func:`feature_law` but the gain.
    """

    def error(gain: float) -> float:
        # Two replicates of the law place the minimum well within its own flatness.
        features = FeatureLaw(*(part[:2] for part in feature_law(gain=gain, **setting)))
        return float(ridge_limit(features, ratio, ridge).error.mean())

    scan = np.linspace(0, most, 17)
    start = scan[int(np.argmin([error(x) for x in scan]))]
    step = scan[1]
    return _minimum(error, max(start - step, 0.0), min(start + step, most))


def _minimum(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Place and value of a function's least value on an interval."""
    # The error is flat at its least: a place to 1e-3 gives its value to about 1e-7.
    found: Any = optimize.minimize_scalar(
        function, bounds=(low, high), method="bounded", options={"xatol": 1e-3}
    )
    return float(found.x), float(found.fun)


# --- the simulation ---

_CACHE = 2**21
"""Bytes of d × d matrices that the trials done together by one thread may hold."""


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, first: int = 0, **params: Any
) -> dict[str, Estimate]:
    """Learn the head from exact-law samples, and evaluate its conditional error; float64.

    One nested stream of samples serves all of `ratio` or `samples`, and all of `ridge`.
    """
    ratios, ridges = params["ratio"], params["ridge"]
    samples = sample_counts(dim, ratios)
    distinct = tuple(sorted(set(np.atleast_1d(samples).tolist())))
    setting = _padded(Setting.make(**{n: params[n] for n in _SETTING_NAMES}, where=CLAIM.id))
    with jax.enable_x64(True):
        table = simulate_trials(
            setting,
            dim,
            distinct,
            jnp.atleast_1d(jnp.asarray(ridges, jnp.float64)),
            trials,
            key=key,
            first=first,
        )
    position = [distinct.index(n) for n in np.atleast_1d(samples).tolist()]
    shape = (trials, *np.shape(ridges), *np.shape(ratios))
    return {
        name: mean_estimate(np.asarray(value)[:, :, position].reshape(shape))
        for name, value in table.items()
    }


_SETTING_NAMES = (
    "tokens",
    "relevant",
    "signal",
    "context",
    "noise",
    "gain",
    "shifts",
    "shift_weights",
)


def _padded(setting: Setting) -> Setting:
    """`setting` with at least two shifts, so that one compilation serves one shift and two."""
    if len(setting.shift_weights) > 1:
        return setting
    return replace(
        setting,
        shifts=np.concatenate([setting.shifts, np.zeros((1, 2))]),
        shift_weights=np.append(setting.shift_weights, 0.0),
    )


def sample_counts(dim: Any, ratio: Any) -> Any:
    """Whole sample sizes n nearest to dim / ratio, at least 1."""
    counts = np.maximum(np.rint(np.asarray(dim) / np.asarray(ratio)), 1).astype(np.int64)
    return counts if counts.ndim else int(counts)


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
    small = jnp.asarray([n for n in samples if n <= dim], jnp.uint32)
    large = jnp.asarray([n for n in samples if n > dim], jnp.uint32)
    chunks = Chunks.for_sizes(samples, dim)
    dtype = _dtype(setting, ridges)
    batch = _batch(dim, len(samples), ridges.size)
    block = functools.partial(
        _trials, setting, dim, small, large, ridges, chunks, batch, dtype, key
    )
    table = map_trials(block, trials, batch=batch, first=first)
    return {name: value.astype(np.float64) for name, value in table.items()}


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
    def trial(index: Array) -> dict[str, Array]:
        own = jax.random.fold_in(key, index)
        return _trial(setting, dim, small, large, ridges, chunks, dtype, own)

    # A batch of one is slower than one trial: XLA's batched products are.
    if batch == 1:
        return jax.tree.map(lambda x: x[:, None], lax.map(trial, indices[:, 0]))
    return lax.map(jax.vmap(trial), indices)


def _dtype(setting: Setting, ridges: Array) -> Any:
    """Of products and factorisations: float32 where each ridge bounds the condition number.

    The largest eigenvalue of the mean outer product is of the order of the relevant token's square
    norm plus the noise variance, so the condition number stays below a few thousand and a head's
    relative error below 1e-3 at worst and near 1e-6 in practice, far less than its spread.
    """
    scale = setting.signal**2 + setting.context**2 + setting.noise**2
    return jnp.float32 if bool((ridges >= 1e-3 * scale).all()) else jnp.float64


def _batch(dim: int, samples: int, ridges: int) -> int:
    """Trials done together by one thread: as many as keep their matrices in its cache."""
    return int(np.clip(_CACHE // (8 * samples * (1 + ridges) * dim**2), 1, 64))


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
    train_key, test_key = jax.random.split(key)

    def draw(first: int | Array, rows: int) -> Array:
        return pooled_rows(setting, dim, first, rows, key=train_key)

    heads = ridge_path(draw, dim, small, large, ridges, chunks=chunks, dtype=dtype).swapaxes(0, 1)
    scores = fresh_scores(setting.irrelevant, key=test_key).astype(dtype)
    heads = heads.astype(dtype)
    along_signal, along_context = heads[..., 0], heads[..., 1]
    norm = jnp.linalg.norm(heads, axis=-1)
    prompt_norm = jnp.abs(setting.gain) * setting.context

    def error(signal: Array, context: Array, norm: Array) -> Array:
        geometry = Geometry(
            head_signal=signal * setting.signal,
            head_context=context * setting.context,
            head_norm=norm,
            prompt_signal=0.0,
            prompt_context=setting.gain * setting.context**2,
            prompt_norm=prompt_norm,
            head_prompt=setting.gain * setting.context * context,
        )
        return conditional_error(setting, geometry, scores)

    flat = jax.vmap(error)(along_signal.reshape(-1), along_context.reshape(-1), norm.reshape(-1))
    return {
        "error": flat.reshape(norm.shape),
        "head_signal": along_signal,
        "head_noise": jnp.linalg.norm(heads[..., 1:], axis=-1),
    }


# --- the claim ---


def _validate(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Settle `ratio`: from dim and samples, or the value that whole samples realise."""
    values = complete(values, where)
    dim, samples = values.get("dim"), values.pop("samples", None)
    if samples is not None and "ratio" in values:
        raise ParameterError(
            "samples", samples, "left out when `ratio` is given", "give one of the two", where
        )
    if samples is not None:
        if dim is None:
            raise ParameterError(
                "dim", "(missing)", "an integer ≥ 2", "give it with `samples`", where
            )
        values["ratio"] = np.asarray(dim) / np.asarray(samples)
    elif "ratio" not in values:
        raise ParameterError("ratio", "(missing)", "a number > 0", "give d / n", where)
    elif dim is not None:
        values["ratio"] = np.asarray(dim) / np.asarray(sample_counts(dim, values["ratio"]))
    if np.ndim(values["ratio"]) == 0:
        values["ratio"] = float(values["ratio"])
    return values


_BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
_OTHER = {
    "tokens": 10,
    "relevant": 2,
    "signal": 1.0,
    "context": 1.5,
    "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)),
    "shift_weights": (0.4, 0.6),
}
_RATIOS = (0.25, 0.5, 0.8, 1.25, 2.0)
_RIDGES = (0.0, 0.05)


def _design(dims: Sequence[int], trials: Sequence[int]) -> Design:
    runs = [
        {
            **base,
            "gain": gain,
            "ridge": list(_RIDGES),
            "ratio": list(_RATIOS),
            "dim": dim,
            "trials": t,
        }
        for base, gains in ((_BASE, (0.0, 0.5, 1.0)), (_OTHER, (1.0,)))
        for gain in gains
        for dim, t in zip(dims, trials, strict=True)
    ]
    return Design(tuple(runs), max(trials))


def _best_gain_error(ratio: float, **params: Any) -> float:
    """Limiting error at the best gain, for the figure."""
    setting = {n: params[n] for n in ("tokens", "relevant", "signal", "context", "noise")}
    return best_gain(ratio, params["ridge"], most=4.0, **setting)[1]


_FIGURE = Curves(
    x="ratio",
    y="error",
    design=Design.product(
        {
            **_BASE,
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
            "best gain at each d / n",
            _best_gain_error,
            at=(0.18, 0.25, 0.4, 0.6, 0.8, 0.9, 0.96, 0.99, 1, 1.01, 1.04, 1.1, 1.3, 1.6, 2.2, 3.2),
        ),
    ),
)

_STATEMENT = r"""
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
"""

_DERIVATION = r"""
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

The law of $(\alpha,\tau)$ needs the $T-k$ scalars $\langle q_\star,z_t\rangle$ only; its
expectations are taken by randomised quasi-Monte Carlo with a reported standard error. The
simulation learns heads at finite $d$ on features drawn from their exact law, and the check
extrapolates its deviation from the limit, which falls as $1/d$, over three or more dimensions.
"""

CLAIM = Claim(
    id="contextual.prompt_error",
    title="Test error of a head learned over a known prompt",
    statement=_STATEMENT,
    derivation=_DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        TOKENS,
        RELEVANT,
        SIGNAL,
        CONTEXT,
        NOISE,
        SHIFTS,
        SHIFT_WEIGHTS,
        GAIN,
        RIDGE,
        RATIO,
        optional(SAMPLES),
        to_simulate(DIM),
    ),
    accepted=MODEL,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", 0.01),
        Quantity("head_signal", "component of the head along w⋆/W", 0.1, relative=True, symbol="c"),
        Quantity("head_noise", "norm of the head away from w⋆", 0.05, relative=True, symbol="ρ"),
    ),
    falsifiers=(
        Falsifier("averaged_noise", "every sequence has the average noise", _wrong(averaged=True)),
        Falsifier("no_self_noise", "drops τ²c² from ρ²", _wrong(self_noise=0.0)),
        Falsifier("norm_shift", "divides by κ, not κ − 1, beyond κ = 1", _wrong(norm_shift=0.0)),
        Falsifier("half_ridge", "halves the ridge", _wrong(ridge_factor=0.5)),
        Falsifier("weak_gain", "takes 0.95 of the gain", _wrong(gain_factor=0.95)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design((64, 128, 256), (1024, 512, 384)),
        "full": _design((64, 128, 256, 512), (8192, 8192, 8192, 4096)),
    },
    validate=_validate,
    shared=("ridge", "ratio", "samples"),
    size="dim",
    figure=_FIGURE,
    broadcasts="signal, context, noise, gain, ridge and ratio",
)
