r"""Limits of a ridge head over pooled features, at any ratio and ridge, and the best of each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw

__all__ = [
    "LARGEST_RIDGE", "SEARCHED_NODES", "SEARCHED_REPLICATES", "Limit", "Optimum", "best_gain",
    "best_ridge", "expected_at", "jackknife_replicates", "leave_one_out", "refined_optimum",
    "resolvent", "ridge_limit", "sign_error_means", "varied_ridge_limit",
]  # fmt: skip


class Limit(NamedTuple):
    """Limits of the test error, of the head along w⋆/W and of its norm away from it.

    Each holds one value for each replicate of the feature law (:func:`jackknife_replicates`): their
    mean is the limit on the nodes of all replicates together, and the standard error of that mean
    is the jackknife's.
    """

    error: np.ndarray
    head_signal: np.ndarray
    head_noise: np.ndarray


def leave_one_out(means: Float[np.ndarray, "R K"]) -> Float[np.ndarray, "J K"]:
    """Means over all R replicates (row 0), and over all but each one: J = R + 1 rows."""
    count = len(means)
    everything = means.mean(axis=0)
    return np.concatenate([everything[None], (count * everything - means) / (count - 1)])


def jackknife_replicates(values: Float[np.ndarray, " J"]) -> Float[np.ndarray, " R"]:
    """One value for each replicate, from a statistic of all nodes and of all but each replicate's.

    Their mean is the statistic of all nodes, and the standard error of their mean is the jackknife
    standard error. A limit is a nonlinear function of expectations: averaging it over replicates
    would be biased where the expectations are heavy-tailed, and their spread would not show it.
    """
    whole, without = values[0], values[1:]
    if not np.isfinite(values).all():
        # Infinite, as the noise at κ = 1 without ridge. A number that some replicate does not have
        # is none: nothing would say how far it is off.
        return np.full(len(without), np.nan if np.isfinite(whole) else whole)
    return whole + (len(without) - 1) * (without.mean() - without)


def ridge_limit(features: FeatureLaw, ratio: float, ridge: float) -> Limit:
    r"""Limit of the ridge head at d/n → `ratio` (κ) with ridge λ; float64.

    With :math:`m > 0` the root of :math:`\lambda m + E[\tau^2 m/(1+\tau^2 m)] = \kappa` and
    :math:`\omega = 1/(1+\tau^2 m)`,

    .. math::
        c = \frac{E[\omega\alpha]}{\lambda + E[\omega(\alpha^2+\tau^2)]}, \quad
        \rho^2 = \frac{m\,E[\tau^2\omega^2((1-\alpha c)^2+\tau^2c^2)]}{\lambda + E[\tau^2\omega^2]},
        \quad \text{error} = E\,\Phi\Big(\frac{-\alpha c}{\tau\sqrt{c^2+\rho^2}}\Big).

    For κ ≥ 1 without ridge (minimum norm) m is infinite, and the same expressions are taken in
    that limit. At κ = 1 without ridge the noise ρ diverges and the error is ½.
    """
    return varied_ridge_limit(features, ratio, ridge)


def varied_ridge_limit(
    f: FeatureLaw,
    ratio: float,
    ridge: float,
    *,
    self_noise: float = 1.0,
    norm_shift: float = 1.0,
) -> Limit:
    """:func:`ridge_limit` with two of its terms changed: wrong unless both are 1.

    `self_noise` multiplies τ²c² in ρ²; κ − `norm_shift` divides ρ² without ridge beyond κ = 1.
    """
    alpha, tau2, weights = f.alpha, f.tau**2, f.weights
    if not tau2.any():  # noise-free features: only the signal's own direction is learned
        c = (weights * alpha).sum(axis=1) / (ridge + (weights * alpha**2).sum(axis=1))
        error = (weights * (1 - np.sign(alpha * c[:, None])) / 2).sum(axis=1)
        return Limit(error, c, np.zeros_like(c))
    # 1 − αc = (1 − Sc) + (S − α)c for any S: with a good one no digits cancel where αc is near 1.
    short = f.reference_shortfall()
    if ridge == 0 and ratio >= 1:
        inverse = 1 / tau2
        expected = leave_one_out(_weighted_means(
            weights, [alpha * inverse, alpha**2 * inverse, inverse, short * inverse,
                      short**2 * inverse, alpha * short * inverse]))  # fmt: skip
        pull, power, flat, first, second, crossed = expected.T
        c, remainder = pull / (ratio + power), (ratio - crossed) / (ratio + power)
        noisy, size, divided = np.ones_like(c), 1.0, ratio - norm_shift or 0.0
    else:
        m, expected = _regular_expectations(f, short, ratio, ridge)
        _, shrunk, pull, power, flat, first, second, noisy, crossed = expected.T
        divisor = ridge + power + shrunk
        c, remainder = pull / divisor, (ridge + shrunk - crossed) / divisor
        size, divided = m, ridge + flat
    miss = remainder**2 * flat + 2 * remainder * c * first + c**2 * (second + self_noise * noisy)
    with np.errstate(divide="ignore"):  # ρ diverges at κ = 1 without ridge
        rho2 = miss / divided * size
    # c/√(c² + ρ²), whatever the size of the two.
    share = c / np.hypot(c, np.sqrt(rho2))
    error = expected_at(lambda x: sign_error_means(f, x), share)[:, 0]
    rho = np.sqrt(rho2)
    least = float(tau2.min())
    if least < _LEAST_NOISE * float(tau2.max()) and float(np.max(size)) * least > _FITTED:
        rho = np.full_like(rho, np.nan)
    return Limit(*(jackknife_replicates(x) for x in (error, c, rho)))


def _weighted_means(weights: np.ndarray, functions: list[np.ndarray]) -> Float[np.ndarray, "R K"]:
    return np.stack([np.einsum("rn,rn->r", weights, x) for x in functions], axis=1)


def sign_error_means(f: FeatureLaw, share: float) -> Float[np.ndarray, "R 1"]:
    """Each replicate's mean of Φ(−α·share/τ), the error at c/√(c² + ρ²) = `share`."""
    return _weighted_means(f.weights, [special.ndtr(-(f.alpha / f.tau) * share)])


class _RegularMeans:
    """Means of functions of ω = 1/(1 + τ²m) at any m, from products that do not depend on m."""

    def __init__(self, f: FeatureLaw, short: Float[np.ndarray, "R N"]) -> None:
        self._tau2 = f.tau**2
        noisy = f.weights * self._tau2
        pulled = f.weights * f.alpha
        missed = noisy * short
        self._of_omega = np.stack([noisy, pulled, pulled * f.alpha, pulled * short], axis=1)
        self._of_square = np.stack([noisy, missed, missed * short, noisy * self._tau2], axis=1)

    def __call__(self, m: float) -> Float[np.ndarray, "R 9"]:
        """Each replicate's means of τ²ωm, τ²ω, αω, α²ω, τ²ω², uτ²ω², u²τ²ω², τ⁴ω² and αuω, where
        u = S − α."""
        omega = 1 / (1 + self._tau2 * m)
        first = np.matmul(self._of_omega, omega[:, :, None])[:, :, 0]
        second = np.matmul(self._of_square, np.square(omega)[:, :, None])[:, :, 0]
        return np.concatenate([first[:, :1] * m, first[:, :3], second, first[:, 3:]], axis=1)


def _regular_expectations(
    f: FeatureLaw, short: Float[np.ndarray, "R N"], ratio: float, ridge: float
) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, "J 9"]]:
    """m and the expectations at it, on all nodes and without each replicate."""
    whole, few = f.as_one_replicate(), f.thinned(SEARCHED_NODES, SEARCHED_REPLICATES)
    few = few.as_one_replicate()
    near = resolvent(few.tau**2, few.weights, ratio, ridge)
    m = float(resolvent(whole.tau**2, whole.weights, ratio, ridge, start=near)[0])
    means_at = _RegularMeans(f, short)
    means = leave_one_out(means_at(m))
    # dE[τ²ωm]/dm = E[τ²ω²]. One Newton step leaves an error of second order in the small change.
    step = (ratio - ridge * m - means[:, 0]) / (ridge + means[:, 4])
    moved = m * np.clip(1 + step / m, 0.5, 2.0)
    moved[0] = m
    return moved, expected_at(means_at, moved)


def expected_at(
    means: Callable[[float], Float[np.ndarray, "R K"]], places: Float[np.ndarray, " J"]
) -> Float[np.ndarray, "J K"]:
    """Expectations as functions of a number, the j-th row (:func:`leave_one_out`) at its own.

    The numbers differ from the first by little, so a parabola through three of them does.
    """
    centre = float(places[0])
    reach = float(np.abs(places - centre).max())
    at_centre = means(centre)
    middle = leave_one_out(at_centre)
    if not reach > 1e-12 * abs(centre) or not np.isfinite(reach):
        return middle
    below, above = (leave_one_out(means(centre + sign * reach)) for sign in (-1, 1))
    x = ((places - centre) / reach)[:, None]
    return middle + x * (above - below) / 2 + x**2 * ((above + below) / 2 - middle)


def resolvent(
    tau2: np.ndarray,
    weights: np.ndarray,
    ratio: float,
    ridge: float,
    start: Float[np.ndarray, " R"] | None = None,
) -> np.ndarray:
    """Root m of λm + E[τ²m/(1+τ²m)] = κ for each replicate."""

    def excess(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        omega = 1 / (1 + tau2 * m[:, None])
        value = ridge * m + (weights * (1 - omega)).sum(axis=1) - ratio
        return value, ridge + (weights * tau2 * omega**2).sum(axis=1)

    return _root(excess, ratio, np.zeros(tau2.shape[0]) if start is None else start)


def _root(
    excess: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], ratio: float, m: np.ndarray,
    precision: float = 4e-16,
) -> np.ndarray:  # fmt: skip
    """Roots of increasing concave functions that have −`ratio` at 0, from a start for each.

    `excess` gives values and slopes. Newton's iteration in m never passes the root from below, but
    is slow there where τ² is spread over many decades, as under a sharp prompt: the functions are
    nearly straight in log m then, and steps in it are taken. From above the iteration in m lands
    below the root at once. What leaves the known bounds is put between them. Steps end at a share
    `precision` of m, or where values are within half of it of 0: at the finest that is rounding.
    """
    low, high = np.zeros_like(m), np.full_like(m, np.inf)
    for _ in range(200):
        value, slope = excess(m)
        low, high = np.where(value < 0, m, low), np.where(value > 0, m, high)
        with np.errstate(divide="ignore", invalid="ignore"):  # a step too far has no slope left
            step = -value / slope
        settled = (np.abs(step) <= precision * m) | (np.abs(value) <= precision / 2 * ratio)
        if settled.all():
            break
        share = np.divide(step, m, out=np.zeros_like(m), where=m > 0)
        jump = m * np.exp(np.minimum(share, _LONGEST_JUMP))
        moved = np.where((value > 0) | (m == 0), m + step, jump)
        between = np.sqrt(np.maximum(low, high * 1e-12)) * np.sqrt(high)
        moved = np.where((moved > low) & (moved < high), moved, between)
        m = np.where(settled, m, moved)
    return m


_LONGEST_JUMP = 40.0
"""Logarithm of the largest factor that m grows by in a step: where τ² is nearly exhausted, only λm
is left, and the line in log m says little."""


# --- searches ------------------------------------------------------------------------------------

LARGEST_RIDGE = 1e4
"""Times E[α² + τ²], stands for an infinite ridge, whose head is the mean row."""

_LEAST_RIDGE = 1e-6
"""The least ridge that a search tries, times E[τ²] or, where it is smaller, times the τ² that a
share d/n of all features exceed: under a sharp prompt the others are next to noise-free, and lower
ridges still tell them apart."""

_LEAST_NOISE = 1e-130
"""Times E[τ²], the least τ² that counts for that: of smaller ones the squares underflow."""

_FITTED = 1e-9
"""From which τ²m on a feature next to noise-free matters to the head. Where float64 holds such τ²
only as its least number, as under a very sharp prompt without ridge, the head's noise is not known.
"""

_MOST_RIDGES = 100
"""Ridges of the first scan, which are further apart where the range is long."""

SEARCHED_NODES, SEARCHED_REPLICATES = 256, 2
"""Nodes on which a minimum is sought: it is flat, so its place needs few."""


class Optimum(NamedTuple):
    """Place of a least error, with its standard error; and that least error's :class:`Limit`."""

    place: float
    stderr: float
    limit: Limit


def _errors_at_ridges(
    f: FeatureLaw, ratio: float, ridges: Float[np.ndarray, " L"]
) -> Float[np.ndarray, " L"]:
    """Limiting errors at each ridge, on all nodes together; positive ridges."""
    alpha, tau2, weights = (x.reshape(-1) for x in (f.alpha, f.tau**2, f.weights))
    weights = weights / f.weights.shape[0]
    if not tau2.any():
        return np.full(ridges.shape, ridge_limit(f, ratio, 1.0).error.mean())

    def excess(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        omega = 1 / (1 + m[:, None] * tau2)
        value = ridges * m + 1 - omega @ weights - ratio
        return value, ridges + np.square(omega) @ (weights * tau2)

    m = _root(excess, ratio, np.zeros(len(ridges)), precision=1e-13)
    omega = 1 / (1 + m[:, None] * tau2)
    c = omega @ (weights * alpha) / (ridges + omega @ (weights * (alpha**2 + tau2)))
    short = f.reference_shortfall().reshape(-1)
    shrunk, crossed = omega @ (weights * tau2), omega @ (weights * alpha * short)
    square = np.square(omega)
    flat, first, second = (square @ (weights * tau2 * x) for x in (1.0, short, short**2 + tau2))
    # 1 − αc = (1 − Sc) + (S − α)c, as in `varied_ridge_limit`.
    remainder = (ridges + shrunk - crossed) / (ridges + omega @ (weights * (alpha**2 + tau2)))
    miss = remainder**2 * flat + 2 * remainder * c * first + c**2 * second
    rho2 = miss / (ridges + flat) * m
    share = c / np.hypot(c, np.sqrt(rho2))
    return special.ndtr(-share[:, None] * (alpha / np.sqrt(tau2))) @ weights


def _ridge_range(f: FeatureLaw, ratio: float) -> tuple[float, float]:
    """The least and the largest ridge to search: they scale as the features' squares do."""
    noise = float((f.weights * f.tau**2).sum(axis=1).mean())
    power = noise + float((f.weights * f.alpha**2).sum(axis=1).mean())
    tau2, weights = (f.tau**2).reshape(-1), f.weights.reshape(-1) / f.weights.shape[0]
    falling = np.argsort(-tau2)
    beyond = np.searchsorted(np.cumsum(weights[falling]), min(ratio, 1.0) * (1 - 1e-9))
    exceeded = float(tau2[falling[min(int(beyond), len(tau2) - 1)]])
    low = _LEAST_RIDGE * min(noise, max(exceeded, _LEAST_NOISE * noise))
    return low or _LEAST_RIDGE * (power or 1.0), LARGEST_RIDGE * (power or 1.0)


def best_ridge(features: FeatureLaw, ratio: float) -> float:
    """The ridge with the least limiting error at `ratio`, at most 10⁴ E[α² + τ²].

    At that largest one the head is the mean row, to four digits: the best ridge is infinite. The
    search covers every scale of the features; where two valleys are equally deep up to rounding the
    one of the smaller ridge is returned. NaN where no error is a number.
    """
    return _best_ridge(features.thinned(SEARCHED_NODES, SEARCHED_REPLICATES), ratio)[0]


def _best_ridge(f: FeatureLaw, ratio: float, spacing: float = 0.7) -> tuple[float, float]:
    """Place and value of the least error over the ridges, on the given nodes."""
    low, high = np.log(_ridge_range(f, ratio))
    if not np.isfinite(high - low):
        return float("nan"), float("nan")
    grid = np.linspace(low, high, min(int((high - low) / spacing) + 2, _MOST_RIDGES))
    best = value = float("nan")
    for _ in range(3):
        errors = _errors_at_ridges(f, ratio, np.exp(grid))
        if np.isnan(errors).all():
            return float("nan"), float("nan")
        least = int(np.nanargmin(errors))
        best, value = float(grid[least]), float(errors[least])
        step = grid[1] - grid[0]
        grid = np.linspace(max(best - step, low), min(best + step, high), 13)
    return float(np.exp(best)), value


def best_gain(
    features: Callable[[float], FeatureLaw],
    ratio: float,
    ridge: float | None = None,
    *,
    scan: Float[np.ndarray, " G"],
    coarse_features: Callable[[float], FeatureLaw] | None = None,
) -> float:
    """The gain with the least limiting error at `ratio`, between the ends of the ascending `scan`.

    `features` gives the law at a gain, and `coarse_features` on the few nodes of the search; with
    `ridge` None each gain has its own best ridge. Gains of the scan whose error is not far above
    the least one are compared on all nodes, and the best of them is refined. NaN where no error is
    a number.
    """

    def coarse(gain: float) -> FeatureLaw:
        if coarse_features is not None:
            return coarse_features(gain)
        return features(gain).thinned(SEARCHED_NODES, SEARCHED_REPLICATES)

    @functools.cache
    def searched(gain: float) -> tuple[float, float]:
        """The ridge at a gain, and the error there on few nodes."""
        if ridge is None:
            return _best_ridge(coarse(gain), ratio)
        return ridge, float(ridge_limit(coarse(gain), ratio, ridge).error.mean())

    errors = np.array([searched(float(gain))[1] for gain in scan])
    if np.isnan(errors).any():
        return float("nan")

    # Few nodes cannot tell how deep a valley of rare errors is, nor always where it is: what is
    # near the least error on them is looked at on all.
    @functools.cache
    def exact(gain: float) -> float:
        return float(ridge_limit(features(gain), ratio, searched(gain)[0]).error.mean())

    near = errors <= _NEAR * errors.min() + _UNSEEN
    exactly = np.full(len(scan), np.inf)
    exactly[near] = [exact(float(gain)) for gain in scan[near]]
    lowest = int(np.argmin(exactly))
    best = _refined(lambda gain: searched(float(gain))[1], scan, lowest)
    # The coarse nodes refine it in one way, and a parabola through the exact errors in another.
    sides = slice(max(lowest - 1, 0), lowest + 2)
    candidates = [float(scan[lowest]), best]
    if np.isfinite(exactly[sides]).all() and len(exactly[sides]) == 3:
        candidates.append(_lowest_of_parabola(scan[sides], exactly[sides]))
    return min(candidates, key=exact)


_NEAR = 1.25
"""Errors on few nodes that exceed the least one by no larger factor are computed on all nodes."""

_UNSEEN = 1.5 / (SEARCHED_NODES * SEARCHED_REPLICATES)
"""What one of few nodes is worth, and half of it: errors as small may differ from 0 by it."""


def _lowest_of_parabola(places: np.ndarray, values: np.ndarray) -> float:
    """Where the parabola through three points has its least value, between the outer two."""
    bend, slope, _ = np.polyfit(places - places[1], values, 2)
    return float(
        np.clip(places[1] - slope / (2 * bend), places[0], places[2]) if bend > 0 else places[1]
    )


def _refined(function: Callable[[float], float], scan: np.ndarray, index: int) -> float:
    """Place of the minimum between a scanned place's neighbours, or that place if it is an end
    below which the function falls."""
    ends = scan[max(index - 1, 0)], scan[min(index + 1, len(scan) - 1)]
    # The function is flat at its least: a place to 1e-3 of the gap gives its value to about 1e-7.
    best: Any = optimize.minimize_scalar(
        function, bounds=ends, method="bounded", options={"xatol": 1e-3 * float(ends[1] - ends[0])}
    )
    return float(min((float(best.x), float(scan[index])), key=function))


def refined_optimum(limit_at: Callable[[float], Limit], place: float, step: float) -> Optimum:
    """The minimum near `place` of a limiting error on all nodes, by differences of fourth order.

    Its standard error comes from the replicates of the error's slope there, over the curvature. It
    is 0, for none, where no curvature stands out of their noise: every place near is as good. Where
    there is no curvature at all, as at an end of the search, or the minimum is not that near, the
    place stays. A move that raises the error beyond doubt is not made, and counts as an error.
    """
    start = at_moved = limit_at(place)
    moved, noise = place, 0.0
    for _ in range(2):
        middle = at_moved.error
        lowest, low, high, highest = (
            limit_at(moved + shift * step).error for shift in (-1, -0.5, 0.5, 1)
        )
        slope = (8 * (high - low) - (highest - lowest)) / 6
        bends = (16 * (high + low) - highest - lowest - 30 * middle) / 3
        bend = float(bends.mean())
        if not bend > 0 or abs(slope.mean()) > bend:
            return Optimum(place, 0.0, start)
        moved -= step * float(slope.mean()) / bend
        at_moved = limit_at(moved)
        noise = 0.0
        if _above_noise(bends):
            noise = step * float(slope.std(ddof=1)) / bend / np.sqrt(len(slope))
    if _above_noise(at_moved.error - start.error):
        return Optimum(place, float(np.hypot(noise, moved - place)), start)
    return Optimum(moved, noise, at_moved)


def _above_noise(values: Float[np.ndarray, " R"]) -> bool:
    """Whether the mean over replicates is above 0 by three standard errors. A curvature that is not
    may be that of a few rare sequences: the valley's place is no better known than its depth."""
    return float(values.mean()) > 3 * float(values.std(ddof=1)) / math.sqrt(len(values))
