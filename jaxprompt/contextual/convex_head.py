r"""Claim ``contextual.convex_head``: test error of a head learned by any convex margin loss.

The fixed point for the square, logistic and hinge losses with ridge, the threshold beyond which
the training set is separable, and the max-margin head as the ridge vanishes there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key
from scipy import optimize, special

from jaxprompt.contextual import law
from jaxprompt.contextual.conditional_error import Geometry, conditional_error
from jaxprompt.contextual.data import pooled_rows
from jaxprompt.contextual.prompt_error import (
    FeatureLaw,
    Limit,
    feature_law,
    resolvent,
    ridge_limit,
    sample_counts,
)
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
)  # fmt: skip
from jaxprompt.engine import Agreement, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.errors import ParameterError
from jaxprompt.parallel import map_trials
from jaxprompt.parameters import Parameter
from jaxprompt.stats import Estimate, mean_estimate

__all__ = [
    "CLAIM", "LOSSES", "Solution", "closed_form", "convex_heads", "convex_limit",
    "max_margin_head", "row_stream", "separability_threshold", "simulate",
]  # fmt: skip

LOSSES = ("square", "logistic", "hinge")


# --- the closed form -----------------------------------------------------------------------------


class Solution(NamedTuple):
    """A fixed point: its limits, the last Newton step's size, and whether it converged."""

    limit: Limit
    residual: float
    converged: bool


class Moments(NamedTuple):
    r"""E[f], E[f²] and −E[f′] over Z of :math:`f(\omega) = -\ell'(\mathrm{prox}_{v\ell}(\omega))`,
    for :math:`\omega = \mu + sZ`."""

    first: Float[Array, "*n"]
    second: Float[Array, "*n"]
    slope: Float[Array, "*n"]


def _square(mean: Array, deviation: Array, step: Array) -> Moments:
    shrink = 1 / (1 + step)
    second = (jnp.square(1 - mean) + jnp.square(deviation)) * jnp.square(shrink)
    return Moments((1 - mean) * shrink, second, shrink)


def _hinge(mean: Array, deviation: Array, step: Array) -> Moments:
    """f is 1 below 1 − v, (1 − ω)/v up to 1, and 0 above."""
    upper, lower = (1 - mean) / deviation, (1 - step - mean) / deviation
    low = ndtr(lower)
    inside = ndtr(upper) - low
    first, second = _truncated(upper, lower, inside)
    scale = deviation / step
    return Moments(low + scale * first, low + jnp.square(scale) * second, inside / step)


def _truncated(upper: Array, lower: Array, inside: Array) -> tuple[Array, Array]:
    """E[(A − Z) 1] and E[(A − Z)² 1] on the event lower < Z < A = upper."""
    at_upper, at_lower = _density(upper), _density(lower)
    first = upper * inside - (at_lower - at_upper)
    spread = inside + lower * at_lower - upper * at_upper
    return first, jnp.square(upper) * inside - 2 * upper * (at_lower - at_upper) + spread


def _density(x: Array) -> Array:
    return jnp.exp(-jnp.square(x) / 2) / np.sqrt(2 * np.pi)


_GRID = np.linspace(-8.5, 8.5, 81)
_GRID_WEIGHTS = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()
# The trapezoid rule: its error on a Gaussian integral is below rounding once the integrand is
# analytic in a strip of the step's width, and it forgives the near-kinks of a small ridge.


def _logistic(mean: Array, deviation: Array, step: Array) -> Moments:
    omega = mean[..., None] + deviation[..., None] * _GRID
    v = step[..., None]
    x = lax.stop_gradient(_logistic_prox(omega, v))
    # One more Newton step from the solution carries the derivatives in ω and v.
    tail = jax.nn.sigmoid(-x)
    curvature = lax.stop_gradient(tail * (1 - tail))
    x = x - (x - v * tail - omega) / (1 + lax.stop_gradient(v) * curvature)
    f = jax.nn.sigmoid(-x)
    bend = f * (1 - f)
    over = functools.partial(jnp.einsum, "...z,z->...", optimize=False)
    weights = jnp.asarray(_GRID_WEIGHTS, omega.dtype)
    return Moments(over(f, weights), over(f * f, weights), over(bend / (1 + v * bend), weights))


def _logistic_prox(omega: Array, v: Array) -> Array:
    """Root x of x − vσ(−x) = ω, by Newton's iteration.

    The left side is concave for x > 0 and convex for x < 0, and the root lies in [ω, ω + v]. From
    the near end of that interval, cut at 0, the iteration is monotone and never leaves its side.
    """

    def improve(_: Any, x: Array) -> Array:
        tail = jax.nn.sigmoid(-x)
        return x - (x - v * tail - omega) / (1 + v * tail * (1 - tail))

    right = omega > -v / 2
    start = jnp.where(right, jnp.maximum(omega, 0.0), jnp.minimum(omega + v, 0.0))
    return lax.fori_loop(0, 12, improve, start)


_MOMENTS: dict[str, Callable[[Array, Array, Array], Moments]] = {
    "square": _square, "hinge": _hinge, "logistic": _logistic,
}  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _equations(
    loss: str, unknown: Float[Array, "R 3"], f: FeatureLaw, ratio: Array, ridge: Array
) -> tuple[Float[Array, "R 3"], Float[Array, "R 3 3"]]:
    """What the fixed point leaves, and its Jacobian; the unknowns are log V, c and log ρ²."""

    def left(x: Array, alpha: Array, tau: Array, weights: Array) -> Array:
        v, c, rho2 = jnp.exp(x[0]), x[1], jnp.exp(x[2])
        m = _MOMENTS[loss](alpha * c, tau * jnp.sqrt(c**2 + rho2), tau**2 * v)
        pull = (weights * alpha * m.first).sum() / ratio
        energy = (weights * tau**2 * m.second).sum() / ratio
        slope = (weights * tau**2 * m.slope).sum() / ratio
        inverse = jnp.log(ridge / ratio + slope)
        return jnp.stack([x[0] + inverse, c - pull * v, x[2] - jnp.log(energy * v**2)])

    return _with_jacobian(left, unknown, f)


def _with_jacobian(left: Callable[..., Array], unknown: Array, f: Any) -> tuple[Array, Array]:
    def both(x: Array, *law: Array) -> tuple[Array, Array]:
        def twice(y: Array) -> tuple[Array, Array]:
            value = left(y, *law)
            return value, value

        jacobian, value = jax.jacfwd(twice, has_aux=True)(x)
        return value, jacobian

    return jax.vmap(both)(unknown, *f)


@jax.jit
def _hard_equations(
    unknown: Float[Array, "R 2"], f: FeatureLaw, ratio: Array
) -> tuple[Float[Array, "R 2"], Float[Array, "R 2 2"]]:
    """The same for the hard margin, whose unknowns are c and log ρ²."""

    def left(x: Array, alpha: Array, tau: Array, weights: Array) -> Array:
        c, rho2 = x[0], jnp.exp(x[1])
        deviation = tau * jnp.sqrt(c**2 + rho2)
        upper = (1 - alpha * c) / deviation
        first = upper * ndtr(upper) + _density(upper)
        second = (jnp.square(upper) + 1) * ndtr(upper) + upper * _density(upper)
        pull = (weights * alpha * deviation * first / tau**2).sum() / ratio
        energy = (weights * deviation**2 * second / tau**2).sum() / ratio
        return x - jnp.stack([pull, jnp.log(energy)])

    return _with_jacobian(left, unknown, f)


def _solve(equations: Callable[..., Any], start: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's iteration, its steps halved until they help; the root and what it leaves.

    Each replicate of the law has a row of its own, which stops by itself when it is exact.
    """
    x = start
    left, jacobian = (np.asarray(a) for a in equations(x))
    worst = np.abs(left).max(axis=1)
    for _ in range(60):
        if worst.max() < 1e-13:
            break
        step = np.linalg.solve(jacobian, -left[..., None])[..., 0]
        size = np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(axis=1), 1e-300))
        new = [np.asarray(a) for a in equations(x + size[:, None] * step)]
        better = np.abs(new[0]).max(axis=1) < worst
        halvings = 0
        while not (better | (worst < 1e-11)).all() and halvings < 12:
            size, halvings = np.where(better, size, size / 2), halvings + 1
            new = [np.asarray(a) for a in equations(x + size[:, None] * step)]
            better = np.abs(new[0]).max(axis=1) < worst
        if not better.any():
            break
        x = np.where(better[:, None], x + size[:, None] * step, x)
        left = np.where(better[:, None], new[0], left)
        jacobian = np.where(better[:, None, None], new[1], jacobian)
        worst = np.abs(left).max(axis=1)
    return x, float(worst.max())


def convex_limit(features: FeatureLaw, ratio: float, ridge: float, loss: str) -> Solution:
    r"""Limit of the head at d/n → `ratio` (κ) under `loss` with ridge λ, in float64.

    With :math:`f(\omega) = -\ell'(\mathrm{prox}_{\tau^2V\ell}(\omega))` and
    :math:`\omega = \alpha c + \tau\sqrt q Z`,

    .. math::
        \hat c = \frac{E[\alpha f]}{\kappa}, \quad \hat q = \frac{E[\tau^2 f^2]}{\kappa}, \quad
        \hat V = -\frac{E[\tau^2 \partial_\omega f]}{\kappa}, \quad
        V = \frac{1}{\lambda/\kappa + \hat V}, \quad c = \hat c V, \quad
        q = (\hat c^2 + \hat q) V^2,

    and error :math:`= E\,\Phi(-\alpha c/(\tau\sqrt q))`, ρ² = q − c². Where that point is infinite
    its limit as λ → 0 is taken: minimum norm for the square loss, and for the others, beyond the
    separability threshold, the max-margin head; the logistic head's norm is then infinite.
    """
    return _convex_limit(features, ratio, ridge, loss)


def _convex_limit(
    features: FeatureLaw, ratio: float, ridge: float, loss: str, wrong: Mapping[str, Any] = {}
) -> Solution:
    ridge = ridge * wrong.get("ridge_factor", 1.0)
    if wrong.get("averaged"):
        tau2 = (features.weights * features.tau**2).sum(axis=1, keepdims=True)
        features = features._replace(tau=np.broadcast_to(np.sqrt(tau2), features.tau.shape))
    if loss == "square" and ridge == 0 and ratio >= 1:
        return Solution(ridge_limit(features, ratio, 0.0), 0.0, True)
    every = features
    if loss == "logistic":  # its nodes multiply with those over Z
        features = _thinned(features)
    with jax.enable_x64(True):
        ratio_, ridge_ = jnp.float64(ratio), jnp.float64(ridge)
        if ridge == 0 and ratio >= separability_threshold(features) and loss != "square":
            return _max_margin(features, ratio_, infinite=loss == "logistic")
        start = _square_start(features, ratio, ridge if ratio < 1 else max(ridge, 0.02))
        x, residual = _solve(
            lambda x: _equations(loss, jnp.asarray(x), features, ratio_, ridge_), start
        )
    c, rho2 = x[:, 1], np.exp(x[:, 2])
    return _solution(every, c, rho2, residual, wrong)


def _square_start(features: FeatureLaw, ratio: float, ridge: float) -> np.ndarray:
    """The square loss's own solution, in which V is the resolvent m."""
    limit = ridge_limit(features, ratio, ridge)
    spread = resolvent(features.tau**2, features.weights, ratio, ridge)
    return np.stack([np.log(spread), limit.head_signal, 2 * np.log(limit.head_noise)], axis=1)


def _max_margin(features: FeatureLaw, ratio: Array, infinite: bool) -> Solution:
    def solve(factor: float, start: np.ndarray) -> tuple[np.ndarray, float]:
        return _solve(lambda x: _hard_equations(jnp.asarray(x), features, ratio * factor), start)

    start = np.tile([1.0, 0.0], (features.alpha.shape[0], 1))
    x, residual = solve(1.0, start)
    if not residual < _CONVERGED:
        # The head's norm diverges at the threshold: approach it from larger ratios.
        x = start
        for factor in (8.0, 4.0, 2.0, 1.5, 1.25, 1.12, 1.06, 1.03, 1.0):
            x, residual = solve(factor, x)
    found = _solution(features, x[:, 0], np.exp(x[:, 1]), residual, {})
    if infinite:
        away = np.full_like(x[:, 0], np.inf)
        limit = Limit(found.limit.error, np.copysign(away, x[:, 0]), away)
        return found._replace(limit=limit)
    return found


def _solution(
    f: FeatureLaw, c: np.ndarray, rho2: np.ndarray, residual: float, wrong: Mapping[str, Any]
) -> Solution:
    norm = np.sqrt(c**2 * wrong.get("own", 1.0) + rho2)[:, None]
    error = (f.weights * special.ndtr(-f.alpha * c[:, None] / (f.tau * norm))).sum(axis=1)
    return Solution(Limit(error, c, np.sqrt(rho2)), residual, bool(residual < _CONVERGED))


_CONVERGED = 1e-9
"""What a solved fixed point may leave of its equations."""


_FEWER_NODES = 128


def _thinned(f: FeatureLaw) -> FeatureLaw:
    """The law on its first nodes: a scrambled net's first 2^m points are a net again."""
    kept = min(f.alpha.shape[1], _FEWER_NODES * max(1, round(f.weights.shape[1] / 4096)))
    weights = f.weights[:, :kept]
    weights = weights / weights.sum(axis=1, keepdims=True)
    return FeatureLaw(f.alpha[:, :kept], f.tau[:, :kept], weights)


def separability_threshold(features: FeatureLaw) -> float:
    r"""Ratio d/n beyond which the training set is linearly separable, in the limit.

    .. math:: \kappa_\star = \min_c\ E\big[\big(c\,\alpha/\tau + \sqrt{1+c^2}\,Z\big)_-^2\big]

    Dividing a row by its noise level changes no sign, so only α/τ matters (Candès and Sur's
    formula, Ann. Statist. 2020, for the mixture at hand).
    """
    r = features.alpha / features.tau

    def value(c: float) -> float:
        scale = np.sqrt(1 + c * c)
        ratio = c * r / scale
        tail = (ratio**2 + 1) * special.ndtr(-ratio) - ratio * np.exp(-(ratio**2) / 2) / np.sqrt(
            2 * np.pi
        )
        return float((features.weights * scale**2 * tail).sum(axis=1).mean())

    found: Any = optimize.minimize_scalar(value, bracket=(0.0, 0.5), method="brent", tol=1e-10)
    return float(found.fun)


def closed_form(**params: Any) -> dict[str, Any]:
    """`error`, `head_signal` and `head_noise` in the limit with standard errors, and `threshold`.

    Raises:
        ArithmeticError: the fixed point did not converge; nothing is returned in its place.
    """
    return _predict({}, **params)


def _predict(wrong: Mapping[str, Any], *, loss: str, **params: Any) -> dict[str, Any]:
    names = ("signal", "context", "noise", "gain", "ridge", "ratio")
    values = np.broadcast_arrays(*(params[name] for name in names))
    out = {q + s: np.empty(values[0].shape) for q in Limit._fields for s in ("", "_stderr")}
    out["threshold"] = np.empty(values[0].shape)
    for index in np.ndindex(values[0].shape):
        at = {name: float(v[index]) for name, v in zip(names, values, strict=True)}
        found, threshold = _solved(
            params["tokens"], params["relevant"], at["signal"], at["context"], at["noise"],
            at["gain"], params["shifts"], params["shift_weights"], at["ratio"], at["ridge"],
            wrong.get("loss", loss), tuple(sorted(wrong.items())),
        )  # fmt: skip
        if not found.converged:
            raise ArithmeticError(
                f"contextual.convex_head: the fixed point at {at} left {found.residual:.1e}"
            )
        out["threshold"][index] = threshold
        for name, replicates in found.limit._asdict().items():
            finite = np.isfinite(replicates).all()
            pair = law.pooled(replicates) if finite else (replicates[0], 0.0)
            out[name][index], out[f"{name}_stderr"][index] = pair
    return {name: value[()] for name, value in out.items()}


@functools.lru_cache(maxsize=256)
def _solved(
    tokens: int, relevant: int, signal: float, context: float, noise: float, gain: float,
    shifts: Any, shift_weights: Any, ratio: float, ridge: float, loss: str, wrong: Any,
) -> tuple[Solution, float]:  # fmt: skip
    """Fixed point and threshold: a check asks for the same limit at every dimension."""
    features = feature_law(
        tokens, relevant, signal, context, noise, gain, shifts, shift_weights
    )  # fmt: skip
    found = _convex_limit(features, ratio, ridge, loss, dict(wrong))
    return found, separability_threshold(features)


def _wrong(**changes: Any) -> Any:
    return functools.partial(_predict, changes)


# --- the simulation ------------------------------------------------------------------------------

GAP = 1e-9
"""Duality gap to which every head is solved; it bounds the head's error by √(2·gap/λ).

For the max-margin head the gap is relative to the head's energy |w|²/2.
"""

_MOST_STEPS = 20_000
_COLUMNS = 96
_DRAWN = 1024
_JUDGED = 64
_MEMORY = 2**25
"""Entries of the training rows held at once."""


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, loss: str, ratio: Any, ridge: float,
    **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """Learn the head from exact-law samples by a certified convex solver, in float64.

    Without ridge the hinge loss stands for its limit, the max-margin head.

    Raises:
        ParameterError: without ridge for another loss, where the optimum need not exist.
        ArithmeticError: a head's duality gap stayed above :data:`GAP`; without ridge, because a
            training set is not separable.
    """
    if ridge == 0 and loss != "hinge":
        raise ParameterError(
            "ridge", ridge, "> 0 in a simulation with this loss",
            "give a small one, such as 1e-3, or take the hinge loss for the max-margin head",
            CLAIM.id,
        )  # fmt: skip
    setting = Setting.make(**{n: params[n] for n in _SETTING_NAMES}, where=CLAIM.id)
    heads, gaps = _learn(setting, dim, sample_counts(dim, ratio), loss, ridge, trials, key)
    if not gaps.max() <= GAP:
        why = "; without ridge every training set must be separable" if ridge == 0 else ""
        raise ArithmeticError(f"{CLAIM.id}: a duality gap of {gaps.max():.1e} is left{why}")
    errors = _judge(setting, heads, key)
    noise = np.linalg.norm(heads[:, 1:], axis=1)
    values = {"error": errors, "head_signal": heads[:, 0], "head_noise": noise}
    return {name: mean_estimate(value) for name, value in values.items()}


_SETTING_NAMES = (
    "tokens", "relevant", "signal", "context", "noise", "gain", "shifts", "shift_weights"
)  # fmt: skip


def _learn(
    setting: Setting, dim: int, samples: int, loss: str, ridge: float, trials: int, key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Heads and duality gaps of all trials.

    Trial t has the rows t·n … of one stream, and sample sizes are rounded up to a multiple of d by
    rows of zeros, so that few shapes are compiled: one to draw, one for each solver and size.
    """
    padded = -(-samples // dim) * dim
    block = max(1, min(trials, _MEMORY // (padded * dim)))
    heads, gaps = [], []
    for first in range(0, trials, block):
        count = min(block, trials - first)
        rows = np.zeros((block, padded, dim), np.float32)
        drawn = row_stream(setting, dim, first * samples, count * samples, key)
        rows[:count, :samples] = drawn.reshape(count, samples, dim)
        rows[count:] = rows[:1]  # the last block repeats a trial to be as long as the others
        with jax.enable_x64(True):
            found = map_trials(
                lambda part, rows=rows: _solve_all(
                    rows[np.minimum(part[:, 0], block - 1)],
                    jnp.int32(samples), jnp.float64(ridge), loss, ridge == 0,
                ),
                block,
            )  # fmt: skip
        heads.append(found[0][:count])
        gaps.append(found[1][:count])
    return np.concatenate(heads), np.concatenate(gaps)


def row_stream(setting: Setting, dim: int, first: int, count: int, key: Array) -> np.ndarray:
    """Rows ``first …`` of the stream of signed features :math:`y_i\\bar x_i`, in float32.

    One compilation serves all counts and all dimensions up to the next multiple of 96: a dimension
    is a prefix of the columns.
    """
    columns = -(-dim // _COLUMNS) * _COLUMNS
    start = first // _DRAWN * _DRAWN
    parts = [
        np.asarray(_draw(setting, columns, jnp.uint32(at), key))[:, :dim]
        for at in range(start, first + count, _DRAWN)
    ]
    return np.concatenate(parts)[first - start :][:count]


@functools.partial(jax.jit, static_argnums=1)
def _draw(setting: Setting, columns: int, first: Array, key: Array) -> Array:
    return pooled_rows(setting, columns, first, _DRAWN, key=jax.random.fold_in(key, 0))


@functools.partial(jax.jit, static_argnames=("loss", "hard"))
def _solve_all(
    rows: Float[Array, "B n d"] | np.ndarray, samples: Array, ridge: Array, loss: str, hard: bool
) -> tuple[Array, Array]:
    def one(rows: Array) -> tuple[Array, Array]:
        rows = rows.astype(jnp.float64)
        if hard:
            return max_margin_head(rows, samples)
        return convex_heads(rows, ridge, loss, samples)

    # One trial after another: batched factorisations would not be faster, and are safer apart.
    return jax.tree.map(lambda x: x[:, None], lax.map(one, jnp.asarray(rows)))


def _judge(setting: Setting, heads: np.ndarray, key: Array) -> np.ndarray:
    """Each head's probability of a wrong sign, over its own fresh scores."""
    trials = heads.shape[0]
    parts = []
    with jax.enable_x64(True):
        for first in range(0, trials, _JUDGED):
            block = heads[np.minimum(np.arange(first, first + _JUDGED), trials - 1)]
            numbers = np.column_stack([block[:, :2], np.linalg.norm(block, axis=1)])
            parts.append(np.asarray(_errors(setting, numbers, jnp.uint32(first), key)))
    return np.concatenate(parts)[:trials]


@jax.jit
def _errors(
    setting: Setting, heads: Float[Array, "B 3"] | np.ndarray, first: Array, key: Array
) -> Array:
    def one(head: Array, index: Array) -> Array:
        test_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)
        scalars = fresh_scores(setting.irrelevant, key=test_key).astype(jnp.float64)
        geometry = Geometry(
            head_signal=head[0] * setting.signal,
            head_context=head[1] * setting.context,
            head_norm=head[2],
            prompt_signal=0.0,
            prompt_context=setting.gain * setting.context**2,
            prompt_norm=jnp.abs(setting.gain) * setting.context,
            head_prompt=setting.gain * setting.context * head[1],
        )
        return conditional_error(setting, geometry, scalars)

    return jax.vmap(one)(jnp.asarray(heads), first + jnp.arange(_JUDGED, dtype=jnp.uint32))


# --- the solvers ---------------------------------------------------------------------------------


def convex_heads(
    rows: Float[Array, "n d"], ridge: Array | float, loss: str, samples: Array | int | None = None
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    r"""Minimiser of :math:`\frac1n\sum_i \ell(r_i\cdot w) + \frac\lambda2|w|^2`, and its gap.

    The sum runs over the first `samples` rows; those after them must be 0. Newton's method for the
    smooth losses, projected dual ascent for the hinge. Either way the result is the head of dual
    feasible multipliers, so its duality gap certifies it.
    """
    p = _Problem(rows, rows.shape[0] if samples is None else samples, ridge, loss)
    dual = _hinge_multipliers(p) if loss == "hinge" else _newton(p)
    return p.head(dual), p.gap(dual)


class _Problem(NamedTuple):
    """Training rows (zero beyond the first `samples`), ridge and loss."""

    rows: Array
    samples: Any
    ridge: Any
    loss: str

    @property
    def used(self) -> Array:
        return (jnp.arange(self.rows.shape[0]) < self.samples).astype(self.rows.dtype)

    def head(self, dual: Array) -> Array:
        """The head that stationarity assigns to multipliers."""
        return self.rows.T @ dual / (self.samples * self.ridge)

    def gap(self, dual: Array) -> Array:
        """Primal value of the multipliers' head less their dual value: at least its excess loss."""
        head = self.head(dual)
        sides = _loss(self.loss, self.rows @ head) - _conjugate(self.loss, dual)
        return (sides * self.used).sum() / self.samples + self.ridge * (head @ head)


def _newton(p: _Problem) -> Array:
    """Multipliers −ℓ′ at the minimum of a smooth loss, one factorisation a step."""
    rows, n, dim = p.rows, p.samples, p.rows.shape[1]
    eye = jnp.eye(dim, dtype=rows.dtype)

    def multipliers(head: Array) -> Array:
        margin = rows @ head
        return 1 - margin if p.loss == "square" else jax.nn.sigmoid(-margin)

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        dual = multipliers(state[0])
        curvature = jnp.ones_like(dual) if p.loss == "square" else dual * (1 - dual)
        hessian = (rows * curvature[:, None]).T @ rows / n + p.ridge * eye
        slope = p.ridge * state[0] - rows.T @ dual / n
        factor = jax.scipy.linalg.cho_factor(hessian, lower=True)
        return state[0] - jax.scipy.linalg.cho_solve(factor, slope), state[1] + 1

    def unfinished(state: tuple[Array, Array]) -> Array:
        return (p.gap(multipliers(state[0])) > GAP) & (state[1] < 50)

    start = (jnp.zeros(dim, rows.dtype), jnp.zeros((), jnp.int32))
    return multipliers(lax.while_loop(unfinished, advance, start)[0])


def _hinge_multipliers(p: _Problem) -> Array:
    kernel = p.rows @ p.rows.T / (p.samples * p.ridge)
    return _ascend(kernel, p.used, 1.0, lambda dual: p.gap(dual) > GAP)


def max_margin_head(
    rows: Float[Array, "n d"], samples: Array | int | None = None
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    r"""Least :math:`|w|` with :math:`r_i\cdot w\ge1` for the first `samples` rows, and its gap.

    Rows after those must be 0. The gap compares the dual value of the multipliers with the energy
    of their head, scaled until it meets every constraint; it is relative to that energy, and
    infinite while the head separates nothing.
    """
    samples = rows.shape[0] if samples is None else samples
    used = (jnp.arange(rows.shape[0]) < samples).astype(rows.dtype)

    def gap(dual: Array) -> Array:
        head = rows.T @ dual
        margin = jnp.where(used > 0, rows @ head, jnp.inf).min()
        energy = head @ head / 2
        primal = energy / jnp.square(margin)
        return jnp.where(margin > 0, (primal - (dual @ used - energy)) / primal, jnp.inf)

    dual = _ascend(rows @ rows.T, used, jnp.inf, lambda dual: gap(dual) > GAP)
    return rows.T @ dual, gap(dual)


def _ascend(
    kernel: Array, used: Array, most: Any, unsolved: Callable[[Array], Array]
) -> Float[Array, " n"]:
    """Accelerated projected ascent of Σθ − θ·Kθ/2 over [0, most], restarted when it turns back.

    Products with the kernel only: no factorisation.
    """
    step = 1 / jnp.abs(kernel).sum(axis=1).max()  # no eigenvalue exceeds the largest row sum

    def once(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        dual, before, pace = state
        following = (1 + jnp.sqrt(1 + 4 * pace**2)) / 2
        ahead = dual + (pace - 1) / following * (dual - before)
        new = jnp.clip(ahead + step * (used - kernel @ ahead), 0.0, most)
        turned = ((ahead - new) * (new - dual)).sum() > 0
        return new, dual, jnp.where(turned, 1.0, following)

    def advance(state: tuple[Any, Array]) -> tuple[Any, Array]:
        return lax.fori_loop(0, 50, once, state[0]), state[1] + 50

    def unfinished(state: tuple[Any, Array]) -> Array:
        return unsolved(state[0][0]) & (state[1] < _MOST_STEPS)

    start = used / 2
    first = ((start, start, jnp.ones((), kernel.dtype)), jnp.zeros((), jnp.int32))
    return lax.while_loop(unfinished, advance, first)[0][0]


def _loss(loss: str, margin: Array) -> Array:
    if loss == "square":
        return jnp.square(1 - margin) / 2
    return jnp.maximum(1 - margin, 0.0) if loss == "hinge" else jax.nn.softplus(-margin)


def _conjugate(loss: str, dual: Array) -> Array:
    r""":math:`-\ell^*(-\theta)` at the multipliers θ."""
    if loss == "square":
        return dual - jnp.square(dual) / 2
    if loss == "hinge":
        return dual
    return -jax.scipy.special.xlogy(dual, dual) - jax.scipy.special.xlogy(1 - dual, 1 - dual)


# --- the claim -----------------------------------------------------------------------------------


def _validate(values: dict[str, Any], where: str) -> dict[str, Any]:
    values = complete(values, where)
    if values["tokens"] == values["relevant"] or np.any(np.asarray(values["noise"]) == 0):
        raise ParameterError(
            "noise", values["noise"], "> 0, with irrelevant tokens to carry it",
            "use contextual.separation for tokens without noise", where,
        )  # fmt: skip
    dim, samples = values.get("dim"), values.pop("samples", None)
    if samples is not None and dim is not None and "ratio" not in values:
        values["ratio"] = dim / samples
    elif "ratio" not in values or samples is not None:
        raise ParameterError(
            "ratio", values.get("ratio", "(missing)"), "a number > 0, or `dim` with `samples`",
            "give one of the two", where,
        )  # fmt: skip
    elif dim is not None:
        values["ratio"] = dim / sample_counts(dim, values["ratio"])
    return values


LOSS = Parameter("loss", "choice", "margin loss of the head", "ℓ", choices=LOSSES)

_BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
_PLAIN = {**_BASE, "shifts": ((0.0, 0.0), (0.0, 0.0)), "shift_weights": (0.5, 0.5)}
_SHIFTED = {**_BASE, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6)}
_CASES = (  # two shifts in each, equal or not, so that one compilation serves both settings
    {**_PLAIN, "loss": "logistic", "ratio": 0.5, "ridge": 0.02},
    {**_SHIFTED, "loss": "logistic", "ratio": 0.5, "ridge": 0.05},
    {**_PLAIN, "loss": "hinge", "ratio": 1.2, "ridge": 0.1},
    {**_SHIFTED, "loss": "hinge", "ratio": 1.2, "ridge": 0.05},
    {**_PLAIN, "loss": "hinge", "ratio": 1.2, "ridge": 0.0},  # the max-margin head
)


def _design(sizes: Sequence[tuple[int, int]]) -> Design:
    runs = [{**case, "dim": dim, "trials": trials} for case in _CASES for dim, trials in sizes]
    return Design(tuple(runs), max(trials for _, trials in sizes))


_STATEMENT = r"""
The head minimises $\frac1n\sum_i\ell(y_if_i)+\frac\lambda2|w|^2$ for a convex margin loss $\ell$,
over a known prompt $\gamma q_\star$. As $n,d\to\infty$ with $d/n\to\kappa$, put
$\omega=\alpha c+\tau\sqrt q\,Z$ and
$f(\omega)=-\ell'(\mathrm{prox}_{\tau^2V\ell}(\omega))$, and let $V,q,c$ solve
$$\hat c=\frac{E[\alpha f]}\kappa,\quad\hat q=\frac{E[\tau^2f^2]}\kappa,\quad
\hat V=-\frac{E[\tau^2\partial_\omega f]}\kappa,\qquad
V=\frac1{\lambda/\kappa+\hat V},\quad c=\hat cV,\quad q=(\hat c^2+\hat q)V^2.$$
Then the head's component along $w_\star/W$ tends to $c$, its norm away from it to
$\rho=\sqrt{q-c^2}$, and the error to $E\,\Phi(-\alpha c/(\tau\sqrt q))$. The training set is
linearly separable beyond
$$\kappa_\star=\min_c\,E\big[(c\,\alpha/\tau+\sqrt{1+c^2}\,Z)_-^2\big],$$
and there the logistic and hinge heads tend to the max-margin direction as $\lambda\to0$.
"""

_DERIVATION = r"""
With signed rows $r_i=\alpha_ie_1+\tau_ig_i$ (as in `contextual.prompt_error`), leave one sequence
out. The margin of sequence $i$ under the head learned without it is
$\omega_i=\alpha_ic+\tau_i\sqrt q\,Z_i$, and putting it back moves its margin to the proximal point
with step $\tau_i^2V$, where $V$ is the limit of $\mathrm{tr}\,H^{-1}/n$ for the Hessian $H$ of the
objective. So $f(\omega_i)$ is minus the loss's slope at the training margin. The stationarity
condition $\lambda w=\frac1n\sum_if_ir_i$ gives the component along $e_1$ and, with the fluctuation
of $\frac1n\sum_i\tau_if_ig_i$, the energy; integration by parts turns the part of $g_i$ correlated
with $\omega_i$ into $\hat V$. For the square loss $f=(1-\omega)/(1+\tau^2V)$, $V$ is the resolvent
$m$, and the equations become those of `contextual.prompt_error`. For the max-margin head
$f=(1-\omega)_+/(\tau^2V)$ with $V\to\infty$, which leaves
$c=E[\alpha(1-\omega)_+/\tau^2]/\kappa$ and $\rho^2=E[(1-\omega)_+^2/\tau^2]/\kappa$. A row divided
by its noise level keeps its sign, so separability depends on $\alpha/\tau$ only, and the smallest
squared distance of the rows' span from the positive cone gives $\kappa_\star$. Expectations over
$Z$ are explicit for the square and hinge losses and by the trapezoid rule for the logistic loss.

*Tolerances.* The error's is 0.01. A relative change $x$ of $\rho$ or of $c$ changes the argument of
$\Phi$ by the share $\rho^2/(c^2+\rho^2)$ of $x$, here about one half, and $z\varphi(z)\le0.242$: so
8 % of $\rho$ and 10 % of $c$ also stand for about 0.01 of the error.
"""

CLAIM = Claim(
    id="contextual.convex_head",
    title="Test error of a head learned by a convex loss",
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
        LOSS,
        optional(SAMPLES),
        optional(DIM),
    ),
    accepted=MODEL,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", 0.01),
        Quantity("head_signal", "component of the head along w⋆/W", 0.1, True, "c"),
        Quantity("head_noise", "norm of the head away from w⋆", 0.08, True, "ρ"),
        Quantity("threshold", "d/n beyond which the training set is separable", symbol="κ⋆"),
    ),
    falsifiers=(
        Falsifier("averaged_noise", "every sequence has the average noise", _wrong(averaged=True)),
        Falsifier("square_loss", "the square loss's fixed point", _wrong(loss="square")),
        Falsifier("half_ridge", "halves the ridge", _wrong(ridge_factor=0.5)),
        Falsifier("no_own_noise", "the noise along w⋆ left out of the error", _wrong(own=0.0)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design(((24, 768), (48, 384), (96, 192))),
        "full": _design(((32, 4096), (64, 2048), (128, 1024), (256, 512))),
    },
    validate=_validate,
    size="dim",
    broadcasts="signal, context, noise, gain, ridge and ratio",
    figure=Agreement(title="Heads learned by convex losses", label="error and head coordinates"),
)
