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
    leaves of its equations, whether it is one that the nodes resolve, and why not. Limits and V
    have one value for each replicate
    (:func:`~jaxprompt.contextual.law.ridge_limit.jackknife_replicates`)."""

    limit: Limit
    spread: np.ndarray
    residual: float
    converged: bool
    reason: str = ""


# --- moments of the force over Z -----------------------------------------------------------------


class Moments(NamedTuple):
    r"""Means over Z of :math:`f(\omega) = -\ell'(\mathrm{prox}_{v\ell}(\omega))`, f² and −f′, for
    :math:`\omega = 1 - g + sZ`; and the derivatives of each by g, s and v (first axis)."""

    first: Float[np.ndarray, "*n"]
    second: Float[np.ndarray, "*n"]
    slope: Float[np.ndarray, "*n"]
    first_by: Float[np.ndarray, "by ..."]
    second_by: Float[np.ndarray, "by ..."]
    slope_by: Float[np.ndarray, "by ..."]


def _square_moments(gap: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    shrink = 1 / (1 + step)
    zero = np.zeros_like(gap)
    second = (gap**2 + deviation**2) * shrink**2
    return Moments(
        gap * shrink, second, shrink,
        np.stack([shrink, zero, -gap * shrink**2]),
        np.stack([2 * gap * shrink**2, 2 * deviation * shrink**2, -2 * second * shrink]),
        np.stack([zero, zero, -(shrink**2)]),
    )  # fmt: skip


def _hinge_moments(gap: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    r"""f is 1 below 1 − v, :math:`t = (1-\omega)/v` up to 1, and 0 above.

    With h = v/s the bend is where :math:`Z = g/s - ht` for t from 0 to 1, of which it takes the
    integrals :math:`I_k=\int t^k\varphi(Z)\,dt`, :math:`J_k=\int t^kZ\varphi(Z)\,dt` and
    :math:`K=\int Z^2\varphi(Z)\,dt`.
    """
    upper, width = gap / deviation, step / deviation
    low = special.ndtr(upper - width)
    integrals = np.zeros((6, *gap.shape))
    narrow = width < _NARROW
    near = narrow & (np.abs(upper) < _FAR)  # no others have Z on the bend
    integrals[:, near] = _narrow_bend(upper[near], width[near])
    integrals[:, ~narrow] = _wide_bend(upper[~narrow], width[~narrow])
    i0, i1, i2, j0, j1, k = integrals
    return Moments(
        low + width * i1, low + width * i2, i0 / deviation,
        np.stack([i0, -j0, -i1]) / deviation,
        np.stack([i1, -j1, -i2]) * 2 / deviation,
        np.stack([-j0, k - i0, j1]) / deviation / deviation,
    )  # fmt: skip


_NARROW = 0.5
"""Width of the bend in deviations of Z below which its integrals are summed by six nodes, whose
error is 1e-16: differences of normal probabilities would lose the digits of a narrow one."""

_FAR = 39.0
"""Deviations at which a normal density is 0 in float64."""


def _narrow_bend(
    upper: Float[np.ndarray, " n"], width: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "6 n"]:
    total = np.zeros((6, upper.size))
    for point, share in zip(*np.polynomial.legendre.leggauss(6), strict=True):
        t = (1 + point) / 2
        z = upper - width * t
        mass = share / 2 * _density(z)
        total += np.stack([mass, t * mass, t * t * mass, z * mass, t * z * mass, z * z * mass])
    return total


def _wide_bend(
    upper: Float[np.ndarray, " n"], width: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "6 n"]:
    lower = upper - width
    # Both tails of a normal have full relative precision on their own side only.
    inside = np.where(
        lower > 0,
        special.ndtr(-lower) - special.ndtr(-upper),
        special.ndtr(upper) - special.ndtr(lower),
    )
    at_upper, at_lower = _density(upper), _density(lower)
    i0, j0 = inside / width, (at_lower - at_upper) / width
    k = (inside + lower * at_lower - upper * at_upper) / width
    i1, j1 = (upper * i0 - j0) / width, (upper * j0 - k) / width
    return np.stack([i0, i1, (upper**2 * i0 - 2 * upper * j0 + k) / width**2, j0, j1, k])


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


def _logistic_moments(gap: np.ndarray, deviation: np.ndarray, step: np.ndarray) -> Moments:
    shape = gap.shape
    rows = np.stack([np.ravel(x) for x in np.broadcast_arrays(1 - gap, deviation, step)])
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
    out[[3, 6, 9]] *= -1  # by the gap, and not by the mean
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


class _Place(NamedTuple):
    """The numbers that an unknown stands for: V, ρ, c, and η = c/ρ with its derivatives by the
    unknown."""

    spread: float
    rho: float
    signal: float
    tilt: float
    tilt_by: Float[np.ndarray, " 3"]


def _place_of(unknown: Float[np.ndarray, " 3"], kink: float | None) -> _Place:
    """The unknowns are log V, log ρ and η, which stay finite or grow slowly where the head's norm
    diverges. Given `kink`, the signal S whose margin is 1 at c = 1/S, the third is 1 − Sc: where
    the hinge's bend lies there, it has digits that c has not."""
    spread, rho = float(np.exp(unknown[0])), float(np.exp(unknown[1]))
    if kink is None:
        tilt = float(unknown[2])
        return _Place(spread, rho, tilt * rho, tilt, np.array([0.0, 0.0, 1.0]))
    c = (1 - float(unknown[2])) / kink
    return _Place(spread, rho, c, c / rho, np.array([0.0, -c, -1 / kink]) / rho)


def _regular_means(
    loss: str, unknown: Float[np.ndarray, " 3"], f: FeatureLaw, kink: float | None = None
) -> Float[np.ndarray, "R 12"]:
    """Each replicate's E[αf], E[τ²f²] and −E[τ²f′], and their derivatives by the unknowns of
    :func:`_place_of`."""
    spread, rho, c, tilt, tilt_by = _place_of(unknown, kink)
    deviation, step = f.tau * (rho * np.hypot(1, tilt)), f.tau**2 * spread
    widened = deviation * (tilt / (1 + tilt**2))
    if kink is None:
        gap = 1 - f.alpha * c
        gap_by = (gap - 1, -f.alpha * rho)
    else:
        short = f.accurate_shortfall()
        gap, gap_by = unknown[2] + short * c, (None, f.alpha / kink)
    m = _MOMENTS[loss](gap, deviation, step)
    by_unknown = (
        (None, None, step),
        (gap_by[0], deviation + widened * tilt_by[1], None),
        (gap_by[1], widened * tilt_by[2], None),
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
    unknown: Float[np.ndarray, " 3"], means: Float[np.ndarray, " 12"], ratio: float, ridge: float,
    kink: float | None = None,
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:  # fmt: skip
    """What the fixed point leaves of its three equations, and its Jacobian, from expectations.

    The second is relative to the length of (η, 1): η may have more digits than a rounding leaves.
    """
    pull, energy, slope = means.reshape(3, 4)
    log_v, log_rho = unknown[:2]
    place = _place_of(unknown, kink)
    scale = np.exp(log_v - log_rho) / ratio
    tilted = place.tilt - pull[0] * scale
    tilted_by = place.tilt_by - pull[1:] * scale + [-pull[0] * scale, pull[0] * scale, 0.0]
    length = np.hypot(1, place.tilt)
    residuals = np.array([
        log_v + np.log((ridge + slope[0]) / ratio),
        tilted / length,
        2 * (log_rho - log_v) - np.log(energy[0] / ratio),
    ])  # fmt: skip
    jacobian = np.stack([
        slope[1:] / (ridge + slope[0]) + [1.0, 0.0, 0.0],
        (tilted_by - place.tilt_by * (tilted * place.tilt / length**2)) / length,
        -energy[1:] / energy[0] + [-2.0, 2.0, 0.0],
    ])  # fmt: skip
    return residuals, jacobian


def _joint_equations(
    loss: str, unknown: Float[np.ndarray, " 3"], f: FeatureLaw, ratio: float, ridge: float,
    kink: float | None = None,
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:  # fmt: skip
    """The three equations on the nodes of all replicates together."""
    means = _regular_means(loss, unknown, f, kink).mean(axis=0)
    return _regular_equations(unknown, means, ratio, ridge, kink)


def _kink_equations(
    unknown: Float[np.ndarray, " 2"], f: FeatureLaw, ratio: float, ridge: float, kink: float
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "2 2"]]:
    """The hinge's equations for log V and log ρ, at the c that solves the third.

    A short step in 1 − Sc moves the margins of many sequences past the bend at once, so that
    Newton's iteration in all three circles it.
    """
    full = np.append(unknown, _missing_margin(unknown, f, ratio, ridge, kink))
    residuals, jacobian = _joint_equations("hinge", full, f, ratio, ridge, kink)
    place, factor = _place_of(full, kink), np.exp(residuals[0])
    length = np.hypot(1, place.tilt)
    tilted, tilted_by = residuals[1] * length, jacobian[1] * length
    tilted_by = tilted_by + place.tilt_by * (tilted * place.tilt / length**2)
    # Of what _missing_margin makes 0.
    by = place.tilt_by * (factor - 1) + place.tilt * factor * jacobian[0] + tilted_by
    others = jacobian[[0, 2]]
    return residuals[[0, 2]], others[:, :2] - np.outer(others[:, 2], by[:2] / by[2])


def _missing_margin(
    unknown: Float[np.ndarray, " 2"], f: FeatureLaw, ratio: float, ridge: float, kink: float
) -> float:
    r"""1 − Sc at the c where :math:`c(\lambda-E[\tau^2f']) = E[\alpha f]` for given V and ρ.

    The difference of the two is the derivative by c of a convex function, the objective's limit at
    that V and ρ: so it increases, and the logarithm of the root's distance is bisected.
    """

    def excess(gap: float) -> float:
        pull, _, slope = (
            _regular_means("hinge", np.append(unknown, gap), f, kink).mean(axis=0)[::4].tolist()
        )
        return ((1 - gap) / kink * (ridge + slope) - pull) * np.sign(kink)

    sign = np.sign(excess(0.0))
    if sign == 0:
        return 0.0
    near, far = _LOG_NEAR, 0.0
    while excess(sign * np.exp(far)) * sign > 0 and far < _LOG_FAR:
        near, far = far, far + 2.0
    size = _root_between(lambda size: excess(sign * float(np.exp(size))), near, far, xtol=1e-13)
    return float(sign * np.exp(size))


def _root_between(
    function: Callable[[float], float], low: float, high: float, xtol: float = 2e-12
) -> float:
    """SciPy's root of a function in an interval, to `xtol`.

    Raises:
        ArithmeticError: the ends have one sign, as where float64 cannot hold the terms.
    """
    try:
        root: Any = optimize.brentq(function, low, high, xtol=xtol)
    except ValueError as error:
        raise ArithmeticError("its equations have no root that float64 could hold") from error
    return float(root)


_LOG_NEAR = -100.0
_LOG_FAR = 100.0
"""Logarithms of the distances from the kink between which a root is sought."""


_CONVERGED = 1e-9
"""What a solved fixed point may leave of its equations."""


_MOST_EVALUATIONS = 50
"""Of the equations in one search by Newton's iteration, which needs five where it succeeds at once;
those that need more than this circle a root, and another way is tried."""


def _solve(
    equations: Equations, start: np.ndarray, logarithms: int = 2
) -> tuple[np.ndarray, float]:
    """Newton's iteration, its steps halved until they help; the root and what it leaves.

    No step is long: of the unknowns that are logarithms, which come first, none is more than 2, and
    of the others none more than twice their size.
    """
    x = start
    residuals, jacobian = equations(x)
    worst, evaluations = _largest_residual(residuals), 1
    while worst > 1e-13 and evaluations < _MOST_EVALUATIONS:
        step = _newton_step(residuals, jacobian)
        if not np.isfinite(step).all():
            break
        lengths = np.append(np.ones(logarithms), np.hypot(1, x[logarithms:]))
        size = min(1.0, 2.0 / max(float((np.abs(step) / lengths).max()), 1e-300))
        for _ in range(12):
            new_left, new_jacobian = equations(x + size * step)
            evaluations += 1
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


def _newton_step(residuals: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(jacobian, -residuals)
    except np.linalg.LinAlgError:
        return np.full_like(residuals, np.nan)


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
    features = features._replace(shortfall=features.reference_shortfall())
    x, residual, kink = _regular_solution(features, ratio, ridge, loss)
    if not residual < _CONVERGED:
        return _unsolved(features, residual)
    # One Newton step for each set of replicates: what is left is of second order in the change.
    means = leave_one_out(_regular_means(loss, x, features, kink))
    moved = [x]
    for each in means[1:]:
        residuals, jacobian = _regular_equations(x, each, ratio, ridge, kink)
        moved.append(x + np.clip(_newton_step(residuals, jacobian), -1.0, 1.0))
    places = [_place_of(each, kink) for each in moved]
    spread, rho, tilt = np.array([[p.spread, p.rho, p.tilt] for p in places]).T
    return _make_solution(every, jackknife_replicates(spread), tilt, rho, residual, own_noise)


def solved_law(features: FeatureLaw, loss: str) -> FeatureLaw:
    """The nodes on which the equations are solved: fewer where they multiply with those over Z."""
    return features.thinned(_FEWER_NODES) if loss == "logistic" else features


_FEWER_NODES = 128


def _regular_solution(
    f: FeatureLaw, ratio: float, ridge: float, loss: str
) -> tuple[np.ndarray, float, float | None]:
    """The unknown of :func:`_place_of`, what it leaves, and the kink it is relative to, if any.

    A solution on few nodes is the start for more, and those for all of them.
    """
    with np.errstate(all="ignore"):  # what is not finite counts as a failure
        x, residual, kink = _solution_on_few_nodes(f, ratio, ridge, loss)
        for nodes in _MORE_NODES:
            if residual < _CONVERGED:
                law = f.thinned(nodes)
                x, residual = _solve(
                    lambda x, law=law: _joint_equations(loss, x, law, ratio, ridge, kink), x
                )
        return x, residual, kink


def _solution_on_few_nodes(
    f: FeatureLaw, ratio: float, ridge: float, loss: str
) -> tuple[np.ndarray, float, float | None]:
    few = f.thinned(_START_NODES)
    start = _eased_start(few, ratio, ridge)
    kink = float(f.alpha[0, 0] + f.accurate_shortfall()[0, 0])
    ways = [None, kink] if abs(start[2]) < _STEEP else [kink, None]
    x, residual, way = start, np.inf, None
    for way in ways if kink else [None]:
        if way is None:
            x, residual = _solve(lambda x: _joint_equations(loss, x, few, ratio, ridge), start)
        else:
            x, residual = _solution_at_kink(loss, few, ratio, ridge, way, start)
        if residual < _CONVERGED:
            break
    else:
        x, residual = _followed_solution(
            lambda x, ridge: _joint_equations(loss, x, few, ratio, ridge), few, ratio, ridge
        )
    if way is None and kink:
        missing = 1 - kink * _place_of(x, None).signal
        if abs(x[2]) > _STEEP or (loss == "hinge" and abs(missing) < _CLOSE):
            return np.append(x[:2], missing), residual, kink
    return x, residual, way


def _solution_at_kink(
    loss: str, f: FeatureLaw, ratio: float, ridge: float, kink: float, start: np.ndarray
) -> tuple[np.ndarray, float]:
    """In log V, log ρ and 1 − Sc from a `start` in log V, log ρ and c/ρ."""
    if loss == "hinge":
        x, residual = _solve(lambda x: _kink_equations(x, f, ratio, ridge, kink), start[:2])
        return np.append(x, _missing_margin(x, f, ratio, ridge, kink)), residual
    start = np.append(start[:2], 1 - kink * _place_of(start, None).signal)
    return _solve(lambda x: _joint_equations(loss, x, f, ratio, ridge, kink), start)


_START_NODES = 64

_MORE_NODES = (512, 4096)

_CLOSE = 0.05
"""Missing margin 1 − Sc below which it is the unknown in place of c/ρ."""

_STEEP = 10.0
"""The same for c/ρ above it: with little noise a step in ρ is not to move c."""


def _eased_start(f: FeatureLaw, ratio: float, ridge: float) -> np.ndarray:
    """The square loss's solution, at a larger ridge where it would hardly have one."""
    return _square_start(f, ratio, ridge if ratio < 0.9 else max(ridge, 0.05 * _power(f)))


def _followed_solution(
    equations: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]],
    f: FeatureLaw, ratio: float, ridge: float,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Along a path of falling ridges from one that dominates the loss."""

    def solve(ridge: float, start: np.ndarray) -> tuple[np.ndarray, float]:
        return _solve(lambda x: equations(x, ridge), start)

    power = _power(f)
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


def _power(f: FeatureLaw) -> float:
    """The mean square of a feature's coordinate."""
    return float((f.weights * (f.alpha**2 + f.tau**2)).sum(axis=1).mean())


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
    r""":math:`\kappa\eta = E[\alpha x_+/\tau^2]` and :math:`\kappa = E[x_+^2/\tau^2]`, the first
    relative to the length of (η, 1)."""
    pull, energy = means.reshape(2, 3)
    tilt, length = unknown[1], np.hypot(1, unknown[1])
    residuals = np.array([(tilt - pull[0] / ratio) / length, 1 - energy[0] / ratio])
    by = np.array([0.0, 1.0]) - pull[1:] / ratio - [0.0, residuals[0] * tilt / length]
    return residuals, np.stack([by / length, -energy[1:] / ratio])


def _max_margin(
    every: FeatureLaw, f: FeatureLaw, ratio: float, *, infinite: bool, own: float
) -> Solution:
    signal = float(f.alpha[0, 0] + f.accurate_shortfall()[0, 0])

    def equations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _hard_equations(x, _hard_means(x, f).mean(axis=0), ratio)

    with np.errstate(all="ignore"):
        x, residual = _solve(equations, _hard_start(f.thinned(64, 4), ratio, signal), logarithms=0)
    if not residual < _CONVERGED:
        return _unsolved(f, residual)
    moved = [x]
    for each in leave_one_out(_hard_means(x, f))[1:]:
        residuals, jacobian = _hard_equations(x, each, ratio)
        moved.append(x + _newton_step(residuals, jacobian))
    missing, tilt = np.array(moved).T
    if not np.abs(tilt - tilt[0]).max() < np.hypot(1, tilt[0]):
        return _unsolved(f, residual, _RARE)
    inverse = missing + signal * tilt
    if not inverse[0] > 0:
        return _unsolved(f, residual, "d/n is too near the threshold of separability")
    # Near the threshold 1/ρ may be 0 without one replicate: ρ is taken as linear in it there.
    close = np.abs(inverse / inverse[0] - 1).max() > 0.5
    rho = (2 - inverse / inverse[0]) / inverse[0] if close else 1 / inverse
    endless = np.full(len(f.alpha), np.inf)
    solved = _make_solution(every, endless, tilt, rho, residual, own)
    if infinite:
        sign = np.copysign(endless, tilt[0])
        return solved._replace(limit=Limit(solved.limit.error, sign, endless))
    return solved


def _hard_start(f: FeatureLaw, ratio: float, signal: float) -> np.ndarray:
    r"""The unknowns of :func:`_hard_means` on few nodes, by two bisections.

    :math:`\kappa = E[x_+^2/\tau^2]` gives u as a concave function of η, and the head's norm is
    least where :math:`u/\sqrt{1+\eta^2}` is largest, which has one peak.
    """

    def energy(missing: float, tilt: float) -> np.ndarray:
        return _hard_means(np.array([missing, tilt]), f).mean(axis=0)[3:]

    def missing_at(tilt: float) -> float:
        def excess(missing: float) -> float:
            return float(np.log(energy(missing, tilt)[0] / ratio))

        sign = 1.0 if excess(0.0) < 0 else -1.0
        near, far = _LOG_NEAR, 0.0
        while sign * excess(sign * np.exp(far)) < 0 and far < _LOG_FAR:
            near, far = far, far + 2.0
        size = _root_between(
            lambda size: float(np.clip(excess(sign * float(np.exp(size))), -800, 800)), near, far
        )
        return sign * float(np.exp(size))

    def slope(tilt: float) -> float:
        """The sign of the derivative by η of u over the root."""
        missing = missing_at(tilt)
        _, by_missing, by_tilt = energy(missing, tilt)
        return float(signal - by_tilt / by_missing * (1 + tilt**2) - missing * tilt)

    low, high = -1.0, 1.0
    while slope(high) > 0 and high < 1e12:
        low, high = high, 4 * high
    while slope(low) < 0 and low > -1e12:
        low, high = 4 * low, low
    tilt = _root_between(slope, low, high, xtol=1e-9)
    return np.array([missing_at(tilt), tilt])


def _unsolved(f: FeatureLaw, residual: float, reason: str = "") -> Solution:
    unknown = np.full(len(f.alpha), np.nan)
    reason = reason or f"its equations were solved to {residual:.0e} only"
    return Solution(Limit(unknown, unknown, unknown), unknown, residual, False, reason)


_RARE = (
    "the max-margin head rests on sequences too rare for the nodes of the quadrature; "
    "with a ridge > 0 there is a number"
)


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
