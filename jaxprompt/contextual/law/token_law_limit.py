r"""The error of a ridge head over any prompt and any token law, at the n and d at hand.

The head minimises :math:`\frac1{2n}\sum_i(1-r_i\cdot w)^2+\frac\lambda2|w|^2` over signed features
:math:`r_i = M\theta_i + (\sum_j a_{ij}\Sigma_j)^{1/2}g_i` of
:mod:`~jaxprompt.contextual.law.token_law`. Leaving out one sequence after another gives a system
for the resolvent of the weighted second moment,

.. math:: \mathcal Q=\Big(\lambda+\sum_jE[a_j\omega]\Sigma_j+ME[\omega\theta\theta^\top]M^\top
   \Big)^{-1},\quad \omega=\frac1{1+\sum_ja_jm_j+\theta^\top L\theta},\quad
   m_j=\frac{\operatorname{tr}\Sigma_j\mathcal Q}n,\quad L=\frac{M^\top\mathcal QM}n,

and from it the head's mean, its covariance and the error (:func:`ridge_head_law`). The traces are
those of the actual matrices, so that spectra may be anything. The few directions of M are treated
like all others: they count as dimensions that n samples have to serve, and the head fluctuates
along them too. What is left out is of order 1/n, from the scatter of the leverages. The derivation
is in docs/contextual.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from jaxprompt.contextual.law.token_law import PooledLaw, wrong_sign_probability
from jaxprompt.contextual.law.token_law_maps import (
    DiagonalAndOuter,
    LinearMap,
    apply,
    product,
    ridge_inverse,
    trace,
    trace_of_product,
)
from jaxprompt.errors import NumericalError

__all__ = ["MOST_DIM", "HeadLaw", "ridge_head_law", "ridge_token_errors"]

MOST_DIM = 2**17
"""Token dimension up to which 16 rules of a falling spectrum take under half a minute."""

_LEAST_RIDGE = 1e-9
"""Times the mean variance of a coordinate, stands for no ridge: the minimum-norm head's limit."""

_SOLVED = 1e-9
"""Largest relative residual of the system for m."""

_ROUNDS, _REMEMBERED = 200, 5
"""Most times that m and L are solved for in turn, and rounds of which the next L is made. L is of
order 1/n, so that a round gains an order where sequences are many."""


class HeadLaw(NamedTuple):
    """Of a ridge head: test error, kept noise :math:`w^\\top\\Sigma_jw` of each covariance,
    products
    :math:`M^\\top w` and intercept, and its mean vector."""

    error: float
    noise_kept: Float[np.ndarray, " J"]
    products: Float[np.ndarray, " r"]
    intercept: float
    mean: Float[np.ndarray, " d"]


def ridge_token_errors(
    pooled: PooledLaw, samples: int, ridge: float, *, intercept: bool = False
) -> Float[np.ndarray, " R"]:
    """Test errors of :func:`ridge_head_law`, one for each replicate of the law's nodes."""
    return np.array(
        [
            ridge_head_law(pooled.replicate(i), samples, ridge, intercept=intercept).error
            for i in range(len(pooled.weights))
        ]
    )


def ridge_head_law(
    pooled: PooledLaw,
    samples: int,
    ridge: float,
    *,
    intercept: bool = False,
    label_noise: float = 0.0,
    self_noise: float = 1.0,
) -> HeadLaw:
    r"""The law of the ridge head on `samples` sequences, on all nodes of `pooled` together.

    The head has mean :math:`\bar w=\mathcal QME[\omega\theta]`, and :math:`c=M^\top\bar w`. Its
    covariance is
    :math:`\frac1n\mathcal Q\big(\sum_l\kappa_l\Sigma_l+M\Gamma M^\top\big)\mathcal Q`, where

    .. math:: \kappa_l=E[a_l\omega^2e^2],\quad\Gamma=E[\omega^2e^2\theta\theta^\top]-ff^\top,\quad
       e^2=(1-\theta\cdot c)^2+a\cdot S+\theta^\top P\theta,\quad f=E[\omega\theta(1-\theta\cdot c)]

    in which :math:`S_j=E[w^\top\Sigma_jw]` and P, the covariance of :math:`M^\top w`, follow from
    the covariance itself: a linear system. The error is
    :math:`E\,\Phi(-\theta\cdot c/\sqrt{a\cdot S+\theta^\top P\theta})`.

    An `intercept` is not penalised. Its column of θ, the label, has no direction in R^d; its own
    equation is solved for it and put into the others. With a share `label_noise` of flipped
    training labels the target 1 becomes ±1, with mean 1 − 2·`label_noise` in the place of 1 above
    and a variance that e² gains; errors count against the true labels. `self_noise` is 1 in the
    theory: it multiplies what the head's own noise adds to e².

    Raises:
        NumericalError: no solution of the system was found.
    """
    theta = pooled.coefficients.reshape(-1, pooled.coefficients.shape[-1])
    levels = pooled.levels.reshape(-1, pooled.levels.shape[-1])
    odds = pooled.weights.reshape(-1) / len(pooled.weights)
    free = pooled.label.reshape(-1) if intercept else np.zeros(len(odds))
    maps, n, basis = pooled.covariances, float(samples), pooled.basis
    ridge = max(float(ridge), _least_ridge(theta, levels, odds, basis, maps), 1e-200)
    omega, resolvent = _solve_system(theta, levels, free, odds, basis, maps, n, ridge)

    weighted = odds * omega
    profile = _FreeColumn.of(theta, free, weighted)
    turned = apply(resolvent, basis)
    kernel = basis.T @ turned
    target = 1 - 2 * label_noise
    force = target * (weighted @ theta - profile.slope * (weighted @ free))
    mean = turned @ force
    c = kernel @ force
    start = target * profile.scale * (weighted @ free) - profile.slope @ c
    shortfall = target - theta @ c - free * start

    # Both θ and the free column move the head; `answer` is how the products and the intercept do.
    columns = np.concatenate([theta, free[:, None]], axis=1)
    pull = np.concatenate([np.eye(theta.shape[1]), -profile.slope[:, None]], axis=1)
    lift = np.concatenate([np.eye(theta.shape[1]), -profile.slope[None]], axis=0)
    answer = lift @ kernel @ pull
    answer[-1, -1] += profile.scale
    turned_maps = [product(map, resolvent) for map in maps]
    traces = np.array([[trace_of_product(a, b) / n for b in turned_maps] for a in turned_maps])
    seen = [turned.T @ apply(map, turned) for map in maps]
    along_mean = np.array([float(mean @ apply(map, mean[:, None])[:, 0]) for map in maps])
    mean_force = (weighted * shortfall) @ columns

    square = odds * omega**2
    kept, span = along_mean, np.zeros((columns.shape[1],) * 2)
    for _ in range(_MOST_PASSES):
        own = levels @ kept + np.einsum("ni,ij,nj->n", columns, span, columns)
        residual = square * (shortfall**2 + 1 - target**2 + self_noise * own)
        factors = residual @ levels
        gamma = (columns * residual[:, None]).T @ columns - np.outer(mean_force, mean_force)
        inner = pull @ gamma @ pull.T
        new_kept = along_mean + traces @ factors + np.array([(x * inner).sum() for x in seen]) / n
        noise = np.einsum("l,lij->ij", factors, np.array(seen))
        span = (answer @ gamma @ answer.T + lift @ noise @ lift.T) / n
        settled = (np.abs(new_kept - kept) <= 1e-10 * np.abs(new_kept)).all()
        kept = new_kept
        if settled or not (kept < _WITHOUT_BOUND).all():
            break
    variance = levels @ kept + np.einsum("ni,ij,nj->n", columns, span, columns)
    error = odds @ wrong_sign_probability(theta @ c + free * start, np.maximum(variance, 0.0))
    return HeadLaw(float(error), kept, c, float(start), mean)


_MOST_PASSES = 10_000
"""Passes of the linear system for what the head keeps of the noise: each lessens what is missing by
a factor, the share of a residual that the head's own noise makes."""

_WITHOUT_BOUND = 1e60
"""Squared answers of the head's noise, where targets are ±1, from which on the passes are taken to
have no limit. That share is then 1 or more: n is within what is left out of the number of
dimensions, and hardly any ridge holds the head. Its answers are noise, and half are wrong."""


class _FreeColumn(NamedTuple):
    """How the other columns are changed where a column without penalty is solved for.

    `scale` is the inverse of its second moment, `slope` its regression on the others; both are 0
    where there is none.
    """

    scale: float
    slope: np.ndarray

    @classmethod
    def of(cls, theta: np.ndarray, free: np.ndarray, weighted: np.ndarray) -> _FreeColumn:
        size = float(weighted @ free**2)
        scale = 1 / size if size > 0 else 0.0
        return cls(scale, scale * ((weighted * free) @ theta))


def _least_ridge(
    theta: np.ndarray, levels: np.ndarray, odds: np.ndarray, basis: np.ndarray,
    maps: tuple[LinearMap, ...],
) -> float:  # fmt: skip
    variance = sum(float(odds @ levels[:, j]) * trace(map) for j, map in enumerate(maps))
    if not variance > 0:  # all of the noise is along the scores, as in one dimension
        variance = float(odds @ np.square(theta @ basis.T).sum(axis=1))
    return _LEAST_RIDGE * variance / len(basis)


def _solve_system(
    theta: np.ndarray, levels: np.ndarray, free: np.ndarray, odds: np.ndarray, basis: np.ndarray,
    maps: tuple[LinearMap, ...], n: float, ridge: float,
) -> tuple[np.ndarray, LinearMap]:  # fmt: skip
    """ω at every node, and 𝒬.

    At a fixed L the map from m to the traces is increasing and less than proportional, so it has
    one fixed point. Powell's method in log m needs few inverses; plain iteration, which leads there
    from anywhere, makes sure.
    """
    present = [j for j, map in enumerate(maps) if trace(map) > 0 and levels[:, j].any()]
    leverage = np.zeros(len(odds))

    def shrinkage(m: np.ndarray) -> np.ndarray:
        return 1 / (1 + levels[:, present] @ m + leverage)

    def resolvent(omega: np.ndarray) -> LinearMap:
        weighted = odds * omega
        moment = (theta * weighted[:, None]).T @ theta
        profile = _FreeColumn.of(theta, free, weighted)
        if profile.scale:
            moment = moment - np.outer(profile.slope, profile.slope) / profile.scale
        spikes = DiagonalAndOuter(np.zeros(len(basis)), basis @ moment, basis)
        return ridge_inverse(ridge, [*(weighted @ levels), 1.0], [*maps, spikes])

    def traces(m: np.ndarray) -> np.ndarray:
        inverse = resolvent(shrinkage(m))
        return np.array([trace_of_product(maps[j], inverse) / n for j in present])

    m = np.array([trace(maps[j]) / (n * ridge) for j in present])
    moving = theta.any(axis=1)
    tried, answers = [], []
    for _ in range(_ROUNDS):
        if present:
            m = _fixed_point(traces, m, n, ridge)
        inverse = resolvent(shrinkage(m))
        moved = np.einsum("ni,ij,nj->n", theta, basis.T @ apply(inverse, basis) / n, theta)
        if (np.abs(moved - leverage) <= _SOLVED * (1 + moved)).all():
            return shrinkage(m), inverse
        if leverage[moving].all():
            tried = [*tried[-_REMEMBERED:], np.log(leverage[moving])]
            answers = [*answers[-_REMEMBERED:], np.log(moved[moving])]
            leverage = np.zeros_like(moved)
            leverage[moving] = np.exp(_accelerated(tried, answers))
        else:
            leverage = moved
    raise NumericalError(
        f"no learned head was found at n = {n:g}, ridge {ridge:g}: raise the ridge or change n"
    )


def _accelerated(tried: list[np.ndarray], answers: list[np.ndarray]) -> np.ndarray:
    """What to try next for a fixed point: Anderson's mixture of what was tried and came of it."""
    missed = [b - a for a, b in zip(tried, answers, strict=True)]
    if len(tried) < 2:
        return answers[-1]
    change = np.stack([missed[-1] - x for x in missed[:-1]], axis=1)
    shares = np.linalg.lstsq(change, missed[-1], rcond=1e-10)[0]
    mixed = answers[-1] - np.stack([answers[-1] - x for x in answers[:-1]], axis=1) @ shares
    return mixed if np.abs(mixed - answers[-1]).max() < _LONGEST_LEAP else answers[-1]


_LONGEST_LEAP = 5.0
"""In logarithms, how far a mixture may lie from the last answer."""


def _fixed_point(
    traces: Callable[[np.ndarray], np.ndarray], m: np.ndarray, n: float, ridge: float
) -> np.ndarray:
    def miss(log_m: np.ndarray) -> np.ndarray:
        return np.log(traces(np.exp(log_m))) - log_m

    for _ in range(2):
        m = traces(m)
    solution = optimize.root(miss, np.log(m), method="hybr", options={"xtol": 1e-11})
    m = np.exp(solution.x)
    for _ in range(1000):
        moved = traces(m)
        if (np.abs(moved - m) <= _SOLVED * m).all():
            return moved
        m = moved
    raise NumericalError(
        f"no learned head was found at n = {n:g}, ridge {ridge:g}: raise the ridge or change n"
    )
