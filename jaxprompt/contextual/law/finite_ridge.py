r"""A ridge head at a finite number of samples and a finite dimension, to order 1/n.

At the prompt :math:`\gamma q_\star` a signed feature is
:math:`\alpha e_1+y\beta e_2+\tau g` with :math:`g\perp e_2`: coordinates along w⋆ and q⋆, and
:math:`f=d-2` others that are alike. The limit keeps the mean of the first, the noise of the f
others, and nothing of the second. At n samples each of the two learns a share of order 1/n of what
the f others learn together, and a large context, or a ridge that shrinks the many others more than
it, makes that share large.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw
from jaxprompt.contextual.law.ridge_limit import LARGEST_RIDGE, Limit, ridge_limit

__all__ = ["FiniteRidge", "at_finite_dim", "best_finite_ridge", "finite_ridge"]

LEAST_DIM = 3
"""Below it no coordinate is left beside those along w⋆ and q⋆."""

_STEPS = 4000
_CONVERGED = 1e-11


class FiniteRidge(NamedTuple):
    """Mean error, mean component along w⋆/W, and root of the mean square norm away from it."""

    error: float
    head_signal: float
    head_noise: float


def at_finite_dim(
    limit: Limit, features: FeatureLaw, dim: float, samples: float, ridge: float, *,
    prompt_coordinate: bool = True,
) -> Limit:  # fmt: skip
    """`limit` at d / n plus what a finite dimension changes, which few nodes show.

    It stays the limit below three dimensions, and where the features have no noise.
    """
    few = features.thinned(_CHANGE_NODES, _CHANGE_REPLICATES)
    if dim < LEAST_DIM or not few.tau.any():
        return limit
    there = finite_ridge(few, dim, samples, ridge, prompt_coordinate=prompt_coordinate)
    values: list[np.ndarray] = []
    for all_nodes, few_nodes, finite in zip(
        limit, ridge_limit(few, dim / samples, ridge), there, strict=True
    ):
        change = finite - few_nodes.mean() if np.isfinite(few_nodes).all() else 0.0
        values.append(all_nodes + change)
    return Limit(*values)


def best_finite_ridge(
    features: FeatureLaw, dim: float, samples: float, near: float
) -> tuple[float, float]:
    """The ridge with the least error of a head orthogonal to the prompt, sought around `near`, the
    limit's, up to the largest; and what that error has beyond the limit's at `near`.

    On few nodes, as in :func:`at_finite_dim`; where that keeps the limit so does this.
    """
    few = features.thinned(_CHANGE_NODES, _CHANGE_REPLICATES)
    if dim < LEAST_DIM or not few.tau.any():
        return near, 0.0

    def error(shift: float) -> float:
        ridge = near * float(np.exp(shift))
        return finite_ridge(few, dim, samples, ridge, prompt_coordinate=False).error

    largest = LARGEST_RIDGE * float((few.weights * (few.alpha**2 + few.tau**2)).sum(axis=1).mean())
    scan = np.linspace(-_SEARCHED, np.clip(np.log(largest / near), 0, _SEARCHED), 25)
    least = int(np.argmin([error(shift) for shift in scan]))
    best: Any = optimize.minimize_scalar(
        error, bounds=(scan[max(least - 1, 0)], scan[min(least + 1, 24)]), method="bounded",
        options={"xatol": 1e-3},
    )  # fmt: skip
    change = float(best.fun) - float(ridge_limit(few, dim / samples, near).error.mean())
    return near * float(np.exp(best.x)), change


_SEARCHED = 8.0
"""Logarithms of the ridge on either side of the limit's: from there on the mean row is learned,
or one without ridge."""

_CHANGE_NODES, _CHANGE_REPLICATES = 512, 8
"""Nodes for a change of order 1/n: it needs fewer than the limit by that factor."""


class _Resolvents(NamedTuple):
    """Times a common factor, 1 or the infinite m: the ridge λ; m, and the weights of a sample;
    resolvents u and v of the coordinates along w⋆ and q⋆."""

    ridge: float
    m: float
    omega: np.ndarray
    along_signal: float
    along_context: float


def finite_ridge(
    features: FeatureLaw,
    dim: float,
    samples: float,
    ridge: float,
    *,
    prompt_coordinate: bool = True,
) -> FiniteRidge:  # fmt: skip
    r"""The head of `samples` sequences in `dim` dimensions, averaged over training sets; float64.

    Leave one sequence out. It gets back the share
    :math:`\omega=1/(1+\tau^2m+((\alpha^2+\tau^2)u+\beta^2v)/n)` of its residual, with

    .. math:: m=\frac{f/n}{\lambda+E[\tau^2\omega]},\quad
        u=\frac1{\lambda+E[(\alpha^2+\tau^2)\omega]},\quad v=\frac1{\lambda+E[\beta^2\omega]}.

    The mean along w⋆ is :math:`c=uE[\alpha\omega]`; variances :math:`\rho^2` (of the f coordinates
    together), :math:`V_u` and :math:`V_v` solve three linear equations,

    .. math:: \rho^2=\frac{nm^2}fE[\tau^2\omega^2e^2],\quad
        V_u=\frac{u^2}nE[(\alpha^2+\tau^2)\omega^2e^2],\quad V_v=\frac{v^2}nE[\beta^2\omega^2e^2],

    with :math:`e^2=(1-\alpha c)^2+\tau^2(c^2+\rho^2+V_u)+\alpha^2V_u+\beta^2V_v`, and the error is
    :math:`E\,\Phi(-\alpha c/\sqrt{e^2-(1-\alpha c)^2})`. All that is left out is of order 1/n: that
    sums over samples fluctuate about their means. Without `prompt_coordinate` the head is kept
    orthogonal to the prompt, and v is 0. Derived in `contextual.prompt_error`.

    Needs three dimensions, and noise. Where d = n without ridge the variances are infinite.

    Raises:
        ArithmeticError: the fixed point was not found.
    """
    alpha, tau2, weights = (
        x.reshape(-1) for x in (features.alpha, features.tau**2, features.weights)
    )
    assert features.along_prompt is not None
    beta2 = features.along_prompt.reshape(-1) ** 2 * prompt_coordinate
    weights = weights / weights.sum()
    free = dim - 1 - prompt_coordinate
    power = alpha**2 + tau2
    r = _resolvents(tau2, power, beta2, weights, free, dim, samples, ridge)
    c = r.along_signal * float(weights @ (alpha * r.omega))
    if dim - (not prompt_coordinate) == samples and ridge == 0:
        return FiniteRidge(0.5, c, np.inf)
    square = weights * np.square(r.omega)
    factors = np.array([samples * r.m**2 / free, r.along_signal**2 / samples,
                        r.along_context**2 / samples])  # fmt: skip
    learned = np.stack([tau2, power, beta2]) * square  # what each coordinate collects of e²
    fixed = factors * (learned @ ((1 - alpha * c) ** 2 + tau2 * c**2))
    shares = factors[:, None] * (learned @ np.stack([tau2, power, beta2]).T)
    rho2, signal, context = np.linalg.solve(np.eye(3) - shares, fixed)
    if min(rho2, signal, context) < 0:
        # Close to d = n with little ridge each error feeds more than itself: to this order in 1/n
        # the variances are infinite there too.
        return FiniteRidge(0.5, c, np.inf)
    variance = tau2 * (c**2 + rho2) + power * signal + beta2 * context
    error = float(weights @ special.ndtr(-alpha * c / np.sqrt(variance)))
    return FiniteRidge(error, c, float(np.sqrt(rho2 + context)))


def _resolvents(
    tau2: Float[np.ndarray, " N"], power: Float[np.ndarray, " N"], beta2: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"], free: float, dim: float, samples: float, ridge: float,
) -> _Resolvents:  # fmt: skip
    """The fixed point, by one step of Newton's for m at each step of u and v.

    Without ridge and with fewer samples than coordinates m, u and v are infinite, and ω and λ are
    0: all are taken times or divided by m, and the product λm stands for λ.
    """
    counted = free + 1 + bool(beta2.any())
    interpolates = ridge == 0 and samples <= counted
    along, m = np.zeros(2), 0.0
    two = np.stack([power, beta2])
    omega, ridge_there = np.ones_like(tau2), ridge
    for _ in range(_STEPS):
        spent = along @ two / samples
        if interpolates:
            omega = 1 / (tau2 + spent)
            # The shares of all samples add up to the number of coordinates.
            ridge_there = (counted / samples - 1) / (1 + along.sum() / samples)
            m_after = 1.0
        else:
            omega = 1 / (1 + tau2 * m + spent)
            value = ridge * m + float(weights @ (tau2 * m * omega)) - free / samples
            slope = ridge + float(weights @ (tau2 * omega**2 * (1 + spent)))
            m_after = max(m - value / slope, m / 4)
            omega = 1 / (1 + tau2 * m_after + spent)
        needed = ridge_there + two @ (weights * omega)
        after = np.divide(1.0, needed, out=np.zeros(2), where=two.any(axis=1))
        moved = np.abs(np.append(after - along, m_after - m))
        done = (moved <= _CONVERGED * np.append(after, m_after)).all()
        along, m = after, m_after
        if done:
            return _Resolvents(ridge_there, m, omega, float(along[0]), float(along[1]))
    raise ArithmeticError(
        f"the fixed point at dim {dim:g}, {samples:g} samples and ridge {ridge:g} was not found"
    )
