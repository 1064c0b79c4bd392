r"""Limits of a ridge head over pooled features, at any ratio and ridge, and the best of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw

__all__ = ["Limit", "best_gain", "best_ridge", "resolvent", "ridge_limit", "varied_ridge_limit"]


class Limit(NamedTuple):
    """Limits of the test error, of the head along w⋆/W and of its norm away from it.

    Each holds one value for each replicate of the feature law.
    """

    error: np.ndarray
    head_signal: np.ndarray
    head_noise: np.ndarray


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

    def mean(x: np.ndarray) -> np.ndarray:
        return (weights * x).sum(axis=1)

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
        weight = tau2 * omega**2
        rho2 = mean(weight * miss) * m / (ridge + mean(weight))
    deviation = np.sqrt(tau2 * (c**2 + rho2)[:, None])
    error = mean(special.ndtr(-alpha * c[:, None] / deviation))
    return Limit(error, c, np.sqrt(rho2))


def _tie(margin: np.ndarray) -> np.ndarray:
    return (1 - np.sign(margin)) / 2


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


_SEARCHED = 256
"""Nodes in 4096 on which a minimum is sought: it is flat, so its place needs few."""

_MOST_RIDGE = 1e4
"""Stands for an infinite ridge, whose head is the mean row: the best one may be infinite."""


def best_ridge(features: FeatureLaw, ratio: float) -> float:
    """The ridge with the least limiting error at `ratio`, between e⁻¹⁴ and 10⁴.

    At the largest of these the head is the mean row, to four digits: the best ridge is infinite.
    """
    return _best_ridge(features.thinned(_SEARCHED, 2), ratio)


def _best_ridge(features: FeatureLaw, ratio: float, scanned: int = 32) -> float:
    def error(log_ridge: float) -> float:
        return float(ridge_limit(features, ratio, float(np.exp(log_ridge))).error.mean())

    return float(np.exp(_lowest(error, -14.0, float(np.log(_MOST_RIDGE)), scanned)))


def best_gain(
    features: Callable[[float], FeatureLaw],
    ratio: float,
    ridge: float | None = None,
    most: float = 6.0,
) -> float:
    """The gain in [0, `most`] with the least limiting error at `ratio`.

    `features` gives the law at a gain. With `ridge` None each gain has its own best ridge.
    """

    def error(gain: float, nodes: int | None = _SEARCHED) -> float:
        law = features(gain) if nodes is None else features(gain).thinned(nodes, 2)
        used = _best_ridge(law, ratio, 12) if ridge is None else ridge
        return float(ridge_limit(law, ratio, used).error.mean())

    scan = np.linspace(0.0, most, 13)
    bordered = np.array([np.inf, *(error(float(gain)) for gain in scan), np.inf])
    if np.isnan(bordered).any():
        return float(scan[np.argmin(bordered) - 1])  # where the limit is no number either
    valleys = scan[(bordered[1:-1] < bordered[:-2]) & (bordered[1:-1] <= bordered[2:])]
    found = [_refined(error, float(start), scan) for start in valleys]
    # Few nodes find each valley's place, but of two equally deep ones not always the deeper.
    return min(found, key=functools.partial(error, nodes=None)) if len(found) > 1 else found[0]


def _lowest(function: Callable[[float], float], low: float, high: float, scanned: int) -> float:
    """Place of a function's least value: the lowest of a scan, refined between its neighbours."""
    scan = np.linspace(low, high, scanned)
    return _refined(function, float(scan[int(np.argmin([function(float(x)) for x in scan]))]), scan)


def _refined(function: Callable[[float], float], start: float, scan: np.ndarray) -> float:
    step = float(scan[1] - scan[0])
    ends = max(start - step, float(scan[0])), min(start + step, float(scan[-1]))
    # The function is flat at its least: a place to 1e-3 gives its value to about 1e-7.
    found: Any = optimize.minimize_scalar(
        function, bounds=ends, method="bounded", options={"xatol": 1e-3}
    )
    return float(found.x)
