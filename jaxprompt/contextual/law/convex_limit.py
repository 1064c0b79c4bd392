r"""Limits of a head learned by a convex margin loss: a fixed point in three numbers.

Solved by Newton's method with an automatic Jacobian for every replicate of the feature law at once;
beyond the threshold of separability and without ridge, the max-margin head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw
from jaxprompt.contextual.law.ridge_limit import Limit, resolvent, ridge_limit

__all__ = [
    "LOSSES", "Solution", "convex_limit", "separability_threshold", "solved_law",
    "varied_convex_limit",
]  # fmt: skip

LOSSES = ("square", "logistic", "hinge")


class Solution(NamedTuple):
    """A fixed point: its limits, V (infinite for a vanishing ridge beyond separability), what it
    leaves of its equations, and whether it converged."""

    limit: Limit
    spread: np.ndarray
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
    return varied_convex_limit(features, ratio, ridge, loss)


def varied_convex_limit(
    features: FeatureLaw, ratio: float, ridge: float, loss: str, wrong: Mapping[str, Any] = {}
) -> Solution:
    """:func:`convex_limit` changed as `wrong` says, which is for falsifiers.

    `ridge_factor` multiplies the ridge, `averaged` gives every sequence the mean noise, and `own`
    multiplies the noise along w⋆ in the error.
    """
    ridge = ridge * wrong.get("ridge_factor", 1.0)
    if wrong.get("averaged"):
        features = features.averaged()
    if loss == "square" and ridge == 0 and ratio >= 1:
        limit = ridge_limit(features, ratio, 0.0)
        return Solution(limit, np.full_like(limit.error, np.inf), 0.0, True)
    every, features = features, solved_law(features, loss)
    with jax.enable_x64(True):
        ratio_, ridge_ = jnp.float64(ratio), jnp.float64(ridge)
        if ridge == 0 and ratio >= separability_threshold(features) and loss != "square":
            return _max_margin(features, ratio_, infinite=loss == "logistic")
        start = _square_start(features, ratio, ridge if ratio < 1 else max(ridge, 0.02))
        x, residual = _solve(
            lambda x: _equations(loss, jnp.asarray(x), features, ratio_, ridge_), start
        )
    return _solution(every, np.exp(x[:, 0]), x[:, 1], np.exp(x[:, 2]), residual, wrong)


def solved_law(features: FeatureLaw, loss: str) -> FeatureLaw:
    """The nodes on which the equations are solved: fewer where they multiply with those over Z."""
    return features.thinned(_FEWER_NODES) if loss == "logistic" else features


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
    endless = np.full_like(x[:, 0], np.inf)
    found = _solution(features, endless, x[:, 0], np.exp(x[:, 1]), residual, {})
    if infinite:
        limit = Limit(found.limit.error, np.copysign(endless, x[:, 0]), endless)
        return found._replace(limit=limit)
    return found


def _solution(
    f: FeatureLaw, spread: np.ndarray, c: np.ndarray, rho2: np.ndarray, residual: float,
    wrong: Mapping[str, Any],
) -> Solution:  # fmt: skip
    norm = np.sqrt(c**2 * wrong.get("own", 1.0) + rho2)[:, None]
    error = (f.weights * special.ndtr(-f.alpha * c[:, None] / (f.tau * norm))).sum(axis=1)
    limit = Limit(error, c, np.sqrt(rho2))
    return Solution(limit, spread, residual, bool(residual < _CONVERGED))


_CONVERGED = 1e-9
"""What a solved fixed point may leave of its equations."""


_FEWER_NODES = 128


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
