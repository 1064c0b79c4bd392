r"""Limits of a head learned by a convex margin loss: a fixed point in three numbers.

Solved by Newton's method on the nodes of all replicates together; beyond the threshold of
separability and without ridge, the max-margin head. NumPy in float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw
from jaxprompt.contextual.law.ridge_limit import (
    Limit,
    expected_at,
    jackknife_replicates,
    leave_one_out,
    resolvent,
    ridge_limit,
    sign_error_means,
)

__all__ = [
    "LOSSES", "Solution", "convex_limit", "separability_threshold", "solved_law",
    "varied_convex_limit",
]  # fmt: skip

LOSSES = ("square", "logistic", "hinge")


class Solution(NamedTuple):
    """A fixed point: its limits, V (infinite for a vanishing ridge beyond separability), what it
    leaves of its equations, and whether it converged. Limits and V have one value for each
    replicate (:func:`~jaxprompt.contextual.law.ridge_limit.jackknife_replicates`)."""

    limit: Limit
    spread: np.ndarray
    residual: float
    converged: bool


# --- moments of the force over Z -----------------------------------------------------------------


class Moments(NamedTuple):
    r"""Means over Z of :math:`f(\omega) = -\ell'(\mathrm{prox}_{v\ell}(\omega))`, f² and −f′, for
    :math:`\omega = \mu + sZ`; and the derivatives of each by μ, s and v (first axis)."""

    first: Float[np.ndarray, "*n"]
    second: Float[np.ndarray, "*n"]
    slope: Float[np.ndarray, "*n"]
    first_by: Float[np.ndarray, "by ..."]
    second_by: Float[np.ndarray, "by ..."]
    slope_by: Float[np.ndarray, "by ..."]


def _square_moments(mean: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    shrink = 1 / (1 + step)
    gap, zero = 1 - mean, np.zeros_like(mean)
    second = (gap**2 + deviation**2) * shrink**2
    return Moments(
        gap * shrink, second, shrink,
        np.stack([-shrink, zero, -gap * shrink**2]),
        np.stack([-2 * gap * shrink**2, 2 * deviation * shrink**2, -2 * second * shrink]),
        np.stack([zero, zero, -(shrink**2)]),
    )  # fmt: skip


def _hinge_moments(mean: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    """f is 1 below 1 − v, (1 − ω)/v up to 1, and 0 above."""
    upper, lower = (1 - mean) / deviation, (1 - step - mean) / deviation
    low = special.ndtr(lower)
    # Both tails of a normal have full relative precision on their own side only.
    inside = np.where(
        lower > 0, special.ndtr(-lower) - special.ndtr(-upper), special.ndtr(upper) - low
    )
    at_upper, at_lower = _density(upper), _density(lower)
    # E[(A − Z) 1], E[(A − Z)² 1] and E[(A − Z) Z 1] on the event lower < Z < A = upper.
    first = upper * inside - (at_lower - at_upper)
    square = inside + lower * at_lower - upper * at_upper
    second = upper**2 * inside - 2 * upper * (at_lower - at_upper) + square
    crossed = upper * (at_lower - at_upper) - square
    scale = deviation / step
    return Moments(
        low + scale * first, low + scale**2 * second, inside / step,
        np.stack([-inside, -(at_lower - at_upper), -scale * first]) / step,
        np.stack([-scale * first, -scale * crossed, -(scale**2) * second]) * 2 / step,
        np.stack([
            (at_lower - at_upper) / deviation,
            (lower * at_lower - upper * at_upper) / deviation,
            at_lower / deviation - inside / step,
        ]) / step,
    )  # fmt: skip


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)


_REACH = 8.5
"""Standard deviations of Z that a rule covers."""

_LARGEST_STEP = 2 * _REACH / 80

_STEP_TIMES_DEVIATION = 0.85
"""As a function of ω the force is analytic up to a distance of π from the real line, whatever v
is; so the trapezoid rule over Z with step h errs by exp(−2π²/(sh)), here 1e-10."""

_LARGEST_TRAPEZOID = 30.0
"""Largest s for the trapezoid rule; beyond it a rule graded towards the two bends of f does."""


def _logistic_moments(mean: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    shape = mean.shape
    rows = np.stack([np.ravel(x) for x in np.broadcast_arrays(mean, deviation, step)])
    flat, position = np.unique(rows, axis=1, return_inverse=True)  # without gain all are equal
    out = np.empty((12, flat.shape[1]))
    # Sequences of like deviation share a grid.
    grids = np.maximum(_STEP_TIMES_DEVIATION / flat[1], 0.0)
    level = np.clip(np.ceil(np.log2(_LARGEST_STEP / grids)), 0, None)
    level = np.where(flat[1] > _LARGEST_TRAPEZOID, -1, level)
    for each in np.unique(level):
        members = np.flatnonzero(level == each)
        for block in np.array_split(members, -(-members.size // _TOGETHER)):
            inputs = flat[0, block], flat[1, block], flat[2, block]
            z, weights = _graded_rule(*inputs) if each < 0 else _trapezoid(int(each))
            out[:, block] = _logistic_means(*inputs, z, weights)
    out = out[:, np.ravel(position)].reshape(12, *shape)
    return Moments(out[0], out[1], out[2], out[3:6], out[6:9], out[9:])


_TOGETHER = 2048
"""Sequences whose values over Z are held at once."""


def _trapezoid(level: int) -> tuple[np.ndarray, np.ndarray]:
    z = np.linspace(-_REACH, _REACH, 80 * 2**level + 1)
    weights = np.exp(-(z**2) / 2)
    return z, weights / weights.sum()


def _graded_rule(
    mean: np.ndarray, deviation: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre panels that double in width away from the bends of f, for each sequence.

    The bends are near ω = 1 + log v and its mirror image about −v/2.
    """
    bend = np.log1p(step)
    doublings = int(np.ceil(np.log2(2 * _REACH * float(deviation.max()) / 3))) + 1
    offsets = 3.0 * 2.0 ** np.arange(doublings)
    offsets = np.concatenate([-offsets[::-1], [0.0], offsets])
    centres = np.stack([bend, -step - bend], axis=1)
    edges = (centres[:, :, None] + offsets - mean[:, None, None]) / deviation[:, None, None]
    bulk = np.broadcast_to(np.linspace(-_REACH, _REACH, 11), (mean.size, 11))
    edges = np.concatenate([edges.reshape(mean.size, -1), bulk], axis=1)
    edges = np.sort(np.clip(edges, -_REACH, _REACH), axis=1)
    points, shares = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges, axis=1)[:, :, None] / 2
    z = (edges[:, :-1, None] + half * (1 + points)).reshape(mean.size, -1)
    weights = (half * shares).reshape(mean.size, -1) * _density(z)
    return z, weights / weights.sum(axis=1, keepdims=True)


def _logistic_means(
    mean: np.ndarray, deviation: np.ndarray, step: np.ndarray, z: np.ndarray, weights: np.ndarray
) -> Float[np.ndarray, "12 n"]:
    v = step[:, None]
    x = _logistic_prox(mean[:, None] + deviation[:, None] * z, v)
    f = special.expit(-x)
    bend = f * special.expit(x)
    by_omega = 1 / (1 + v * bend)  # dx/dω, and dx/dv is f times it
    slope = bend * by_omega
    slope_by_x = -bend * np.tanh(x / 2) * by_omega**2
    functions = (
        f, f * f, slope,
        -slope, -slope * z, -slope * f,
        -2 * f * slope, -2 * f * slope * z, -2 * f * f * slope,
        slope_by_x * by_omega, slope_by_x * by_omega * z,
        slope_by_x * by_omega * f - slope**2,
    )  # fmt: skip
    if weights.ndim == 1:
        return np.stack([each @ weights for each in functions])
    return np.stack([np.einsum("nz,nz->n", each, weights) for each in functions])


def _logistic_prox(omega: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Root x of x − vσ(−x) = ω, by Newton's iteration.

    Changing the signs of x and of ω + v/2 changes nothing, so x ≥ 0 is sought. The left side is
    concave there, and the iteration rises to the root from any start below it. As σ(−x) is at least
    exp(−x)/2, one such start is Lambert's W of exp(z) above ω, with z = log(v/2) − ω, of which
    z − log z is a lower bound for z ≥ 1.
    """
    right = omega > -v / 2
    omega = np.where(right, omega, -v - omega)
    with np.errstate(divide="ignore"):
        z = np.maximum(np.log(v / 2) - omega, 1.0)
    x = np.maximum(np.maximum(omega, 0.0), np.minimum(omega, np.log(v / 2) - 1) + z - np.log(z))
    for _ in range(60):
        tail = special.expit(-x)
        change = (omega + v * tail - x) / (1 + v * tail * (1 - tail))
        x = x + change
        if np.abs(change).max() < 1e-9:
            break
    # One more step squares what is left.
    tail = special.expit(-x)
    x = x + (omega + v * tail - x) / (1 + v * tail * (1 - tail))
    return np.where(right, x, -x)


_MOMENTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Moments]] = {
    "square": _square_moments, "hinge": _hinge_moments, "logistic": _logistic_moments,
}  # fmt: skip


# --- the fixed point -----------------------------------------------------------------------------


Equations = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""What equations leave at a point, (K,), and their Jacobian, (K, K)."""


def _regular_means(
    loss: str, unknown: Float[np.ndarray, " 3"], f: FeatureLaw
) -> Float[np.ndarray, "R 12"]:
    """Each replicate's E[αf], E[τ²f²] and −E[τ²f′], and their derivatives by the unknowns.

    The unknowns are log V, log ρ and c/ρ, which stay finite or grow slowly where the head's norm
    diverges.
    """
    size, rho, tilt = np.exp(unknown[0]), np.exp(unknown[1]), unknown[2]
    mean, deviation = f.alpha * (tilt * rho), f.tau * (rho * np.hypot(1, tilt))
    step = f.tau**2 * size
    m = _MOMENTS[loss](mean, deviation, step)
    by_unknown = (
        (None, None, step),
        (mean, deviation, None),
        (f.alpha * rho, deviation * (tilt / (1 + tilt**2)), None),
    )
    columns = []
    for value, by, factor in (
        (m.first, m.first_by, f.alpha),
        (m.second, m.second_by, f.tau**2),
        (m.slope, m.slope_by, f.tau**2),
    ):
        weight = f.weights * factor
        columns.append([np.einsum("rn,rn->r", weight, value)])
        for changes in by_unknown:
            total = sum(d * c for d, c in zip(by, changes, strict=True) if c is not None)
            columns[-1].append(np.einsum("rn,rn->r", weight, total))
    return np.concatenate([np.stack(each, axis=1) for each in columns], axis=1)


def _regular_equations(
    unknown: Float[np.ndarray, " 3"], means: Float[np.ndarray, " 12"], ratio: float, ridge: float
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
    """What the fixed point leaves of its three equations, and its Jacobian, from expectations."""
    pull, energy, slope = means.reshape(3, 4)
    log_v, log_rho, tilt = unknown
    scale = np.exp(log_v - log_rho) / ratio
    residuals = np.array([
        log_v + np.log((ridge + slope[0]) / ratio),
        tilt - pull[0] * scale,
        2 * (log_rho - log_v) - np.log(energy[0] / ratio),
    ])  # fmt: skip
    jacobian = np.stack([
        slope[1:] / (ridge + slope[0]) + [1.0, 0.0, 0.0],
        -pull[1:] * scale + [-pull[0] * scale, pull[0] * scale, 1.0],
        -energy[1:] / energy[0] + [-2.0, 2.0, 0.0],
    ])  # fmt: skip
    return residuals, jacobian


def _joint_equations(
    loss: str, unknown: Float[np.ndarray, " 3"], f: FeatureLaw, ratio: float, ridge: float
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
    """The three equations on the nodes of all replicates together."""
    means = _regular_means(loss, unknown, f).mean(axis=0)
    return _regular_equations(unknown, means, ratio, ridge)


_CONVERGED = 1e-9
"""What a solved fixed point may leave of its equations."""


def _solve(equations: Equations, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Newton's iteration, its steps halved until they help; the root and what it leaves."""
    x = start
    residuals, jacobian = equations(x)
    worst = _largest_residual(residuals)
    for _ in range(60):
        if worst < 1e-13:
            break
        try:
            step = np.linalg.solve(jacobian, -residuals)
        except np.linalg.LinAlgError:
            break
        size = min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        for _ in range(12):
            new_left, new_jacobian = equations(x + size * step)
            if _largest_residual(new_left) < worst:
                break
            size /= 2
        else:
            break
        x, residuals, jacobian, worst = (
            x + size * step,
            new_left,
            new_jacobian,
            _largest_residual(new_left),
        )
    return x, worst


def _largest_residual(residuals: np.ndarray) -> float:
    return float(np.abs(residuals).max()) if np.isfinite(residuals).all() else np.inf


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
    features: FeatureLaw, ratio: float, ridge: float, loss: str, *, own_noise: float = 1.0
) -> Solution:
    """:func:`convex_limit` with `own_noise` times the noise along w⋆ in the error: wrong unless
    it is 1."""
    if loss == "square" and ridge == 0 and ratio >= 1:
        limit = ridge_limit(features, ratio, 0.0)
        return Solution(limit, np.full_like(limit.error, np.inf), 0.0, True)
    every, features = features, solved_law(features, loss)
    if ridge == 0 and loss != "square" and ratio >= separability_threshold(features):
        return _max_margin(every, features, ratio, infinite=loss == "logistic", own=own_noise)
    x, residual = _regular_solution(features, ratio, ridge, loss)
    # One Newton step for each set of replicates: what is left is of second order in the change.
    means = leave_one_out(_regular_means(loss, x, features))
    moved = [x]
    for each in means[1:]:
        residuals, jacobian = _regular_equations(x, each, ratio, ridge)
        moved.append(x + np.clip(np.linalg.solve(jacobian, -residuals), -1.0, 1.0))
    log_v, log_rho, tilt = np.array(moved).T
    spread = jackknife_replicates(np.exp(log_v))
    return _make_solution(every, spread, tilt, np.exp(log_rho), residual, own_noise)


def solved_law(features: FeatureLaw, loss: str) -> FeatureLaw:
    """The nodes on which the equations are solved: fewer where they multiply with those over Z."""
    return features.thinned(_FEWER_NODES) if loss == "logistic" else features


_FEWER_NODES = 128


def _regular_solution(
    f: FeatureLaw, ratio: float, ridge: float, loss: str
) -> tuple[np.ndarray, float]:
    """Log V, log ρ and c/ρ, and what they leave.

    A solution on few nodes is the start for all of them.
    """
    with np.errstate(all="ignore"):  # what is not finite counts as a failure
        x, residual = _followed_solution(f.thinned(_START_NODES), ratio, ridge, loss)
        if residual < _CONVERGED:
            x, residual = _solve(lambda x: _joint_equations(loss, x, f, ratio, ridge), x)
            if residual < _CONVERGED:
                return x, residual
        return _followed_solution(f, ratio, ridge, loss)


_START_NODES = 64


def _followed_solution(
    f: FeatureLaw, ratio: float, ridge: float, loss: str
) -> tuple[np.ndarray, float]:
    """The solution from the square loss's by Newton's iteration or, where that fails, along a path
    of falling ridges from one that dominates the loss."""

    def solve(ridge: float, start: np.ndarray) -> tuple[np.ndarray, float]:
        return _solve(lambda x: _joint_equations(loss, x, f, ratio, ridge), start)

    power = float((f.weights * (f.alpha**2 + f.tau**2)).sum(axis=1).mean())
    eased = ridge if ratio < 0.9 else max(ridge, 0.05 * power)
    x, residual = solve(ridge, _square_start(f, ratio, eased))
    if residual < _CONVERGED:
        return x, residual
    high = max(power, 10 * ridge)
    x, residual = solve(high, _square_start(f, ratio, high))
    at, target = np.log(high), np.log(ridge if ridge > 0 else 1e-14 * power)
    stride, before = 1.5, None
    while residual < _CONVERGED and at > target and stride > 1e-3:
        ahead = max(at - stride, target)
        guess = x if before is None else x + (x - before[0]) * (ahead - at) / (at - before[1])
        new, left = solve(float(np.exp(ahead)), guess)
        if left < _CONVERGED:
            before, x, at, stride = (x, at), new, ahead, 1.5 * stride
        else:
            stride /= 3
    return solve(ridge, x)


def _square_start(f: FeatureLaw, ratio: float, ridge: float) -> np.ndarray:
    """The square loss's own solution, in which V is the resolvent m."""
    whole = f.as_one_replicate()
    limit = ridge_limit(f, ratio, ridge)
    spread = resolvent(whole.tau**2, whole.weights, ratio, ridge)[0]
    c, rho = float(limit.head_signal.mean()), float(limit.head_noise.mean())
    return np.array([np.log(spread), np.log(rho), c / rho])


# --- the max-margin head -------------------------------------------------------------------------


def _hard_means(unknown: Float[np.ndarray, " 2"], f: FeatureLaw) -> Float[np.ndarray, "R 6"]:
    r"""Each replicate's :math:`E[\alpha x_+/\tau^2]` and :math:`E[x_+^2/\tau^2]`, and derivatives.

    :math:`x = u - \alpha\eta - \tau\sqrt{1+\eta^2}Z` is the margin that is missing over ρ. The
    unknowns are :math:`u - W\eta` and :math:`\eta`, where u = 1/ρ, which is 0 at the threshold,
    η = c/ρ, and W is the largest signal: so x has all digits where α is near W.
    """
    missing, tilt = unknown
    short = f.accurate_shortfall()
    mean, stretch = missing + tilt * short, np.hypot(1, tilt)
    deviation = f.tau * stretch
    upper = mean / deviation
    below, density = special.ndtr(upper), _density(upper)
    inverse = 1 / f.tau**2
    first = mean * below + deviation * density
    second = (mean**2 + deviation**2) * below + mean * deviation * density
    widened = f.tau * tilt / stretch
    # fmt: off
    functions = (
        f.alpha * first, f.alpha * below, f.alpha * (below * short + density * widened),
        second, 2 * first, 2 * (first * short + deviation * below * widened),
    )
    # fmt: on
    return np.stack([np.einsum("rn,rn->r", f.weights, x * inverse) for x in functions], axis=1)


def _hard_equations(
    unknown: Float[np.ndarray, " 2"], means: Float[np.ndarray, " 6"], ratio: float
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "2 2"]]:
    r""":math:`\kappa\eta = E[\alpha x_+/\tau^2]` and :math:`\kappa = E[x_+^2/\tau^2]`."""
    pull, energy = means.reshape(2, 3)
    residuals = np.array([unknown[1] - pull[0] / ratio, 1 - energy[0] / ratio])
    return residuals, np.stack([np.array([0.0, 1.0]) - pull[1:] / ratio, -energy[1:] / ratio])


def _max_margin(
    every: FeatureLaw, f: FeatureLaw, ratio: float, *, infinite: bool, own: float
) -> Solution:
    signal = float(f.alpha[0, 0] + f.accurate_shortfall()[0, 0])

    def equations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _hard_equations(x, _hard_means(x, f).mean(axis=0), ratio)

    with np.errstate(all="ignore"):
        x, residual = _solve(equations, _hard_start(f, ratio))
    moved = [x]
    for each in leave_one_out(_hard_means(x, f))[1:]:
        residuals, jacobian = _hard_equations(x, each, ratio)
        moved.append(x + np.linalg.solve(jacobian, -residuals))
    missing, tilt = np.array(moved).T
    inverse = missing + signal * tilt
    # Near the threshold 1/ρ may be 0 without one replicate: ρ is taken as linear in it there.
    close = np.abs(inverse / inverse[0] - 1).max() > 0.5
    rho = (2 - inverse / inverse[0]) / inverse[0] if close else 1 / inverse
    endless = np.full(len(f.alpha), np.inf)
    solved = _make_solution(every, endless, tilt, rho, residual, own)
    solved = solved._replace(converged=solved.converged and bool(inverse[0] > 0))
    if infinite:
        sign = np.copysign(endless, tilt[0])
        return solved._replace(limit=Limit(solved.limit.error, sign, endless))
    return solved


def _hard_start(f: FeatureLaw, ratio: float) -> np.ndarray:
    r"""Near the solution, on few nodes: for each u the tilt has the least
    :math:`E[x_+^2/\tau^2]`, and that least value rises from κ⋆ at u = 0 to κ."""
    few = f.thinned(64, 4)
    signal = float(f.alpha[0, 0] + f.accurate_shortfall()[0, 0])
    short = few.accurate_shortfall()
    weights = few.weights / len(few.weights)

    def energy(share: float, tilt: float) -> float:
        stretch = np.hypot(1, tilt)
        upper = ((share * stretch - signal * tilt) + tilt * short) / (few.tau * stretch)
        value = (upper**2 + 1) * special.ndtr(upper) + upper * _density(upper)
        return float((weights * value).sum() * stretch**2)

    def least(share: float) -> Any:
        return optimize.minimize_scalar(
            lambda tilt: energy(share, tilt), bracket=(0.0, 0.5), method="brent", tol=1e-6
        )

    unit = float(np.sqrt((weights * (few.tau**2 + few.alpha**2)).sum()))
    low, high = 0.0, unit
    while least(high).fun < ratio and high < 1e8 * unit:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if least(middle).fun < ratio else (low, middle)
    share = (low + high) / 2
    tilt = float(least(share).x)
    return np.array([share * np.hypot(1, tilt) - signal * tilt, tilt])


def _make_solution(
    f: FeatureLaw, spread: np.ndarray, tilt: Float[np.ndarray, " J"],
    rho: Float[np.ndarray, " J"], residual: float, own: float,
) -> Solution:  # fmt: skip
    share = tilt / np.sqrt(1 + own * tilt**2)
    error = expected_at(lambda x: sign_error_means(f, x), share)[:, 0]
    limit = Limit(*(jackknife_replicates(x) for x in (error, tilt * rho, rho)))
    return Solution(limit, spread, residual, bool(residual < _CONVERGED))


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

    optimum: Any = optimize.minimize_scalar(value, bracket=(0.0, 0.5), method="brent", tol=1e-10)
    return float(optimum.fun)
