r"""One wide kernel on few centres among all numbers that an output reads: sparse grids.

After the gather layers a token holds the numbers z of all tokens that its output reads. One
prefixed layer then averages fitted values with the kernel
:math:`e^{-\lambda|z-c_i|^2/2}`. As :math:`\lambda\to0` the span of
:math:`e^{\lambda\langle z,c_i\rangle}` over the points of a sparse grid, one for each multi-index
of a set :math:`\Lambda` that holds with a multi-index all smaller ones, tends to that of the
monomials :math:`z^k, k\in\Lambda` (de Boor and Ron, 1990, as recalled). So it takes
:math:`|\Lambda|` tokens where a kernel on the product grid takes all its points, and a sum of
functions of one direction several for each monomial of the highest degree. The largest value that
is allowed keeps λ away from 0, and so the error above 0: for high accuracy sums over directions are
better.

Grids are of total degree, or hyperbolic crosses (for mixed smoothness), of Leja's points; beside
them points that fill the domain evenly are tried, which lie also where all numbers are far from the
middle. What fits samples best is taken. Derived here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxprompt.universal.build.sequence_certificate import SequenceCandidate, SequenceProblem
from jaxprompt.universal.build.sequence_layers import Kernel, kernel_layer
from jaxprompt.universal.build.sequence_ridge import (
    Samples,
    directions_of_change,
    draw_samples,
    gathered_tokens,
    read_tokens,
)
from jaxprompt.universal.build.sequence_structure import Structure
from jaxprompt.universal.build.sequence_target import Domain, token_length

__all__ = ["leja_points", "lower_set", "sparse_candidate", "spread_points"]

MOST_VALUES = 480
"""Most values that are fitted together."""

STALLED = 0.8
"""The fit ends where four times as many values leave more than this share of the error, once there
are enough for all polynomials of degree 3."""

CONCENTRATIONS = (0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.3)
"""λ that are tried, times the squared half side of the domain."""

SPREADS = (1.0, 1.4, 2.0)
"""How far centres spread, times the domain: those outside make its edges like its middle."""


class _SparseFit(NamedTuple):
    """Centres (N, R m), values (N, d), λ, and the largest error on samples."""

    centres: np.ndarray
    values: np.ndarray
    concentration: float
    error: float


def sparse_candidate(
    problem: SequenceProblem, structure: Structure, goal: float, *, complete: bool
) -> SequenceCandidate | None:
    """The layers with the fewest tokens that err by at most `goal` on samples.

    None if none within the budget do, or, where `complete`, those of the least error: then None
    only if there is not a token for each group.
    """
    fits: list[_SparseFit] = []
    left = problem.budget
    for index, group in enumerate(structure.groups):
        share = left - (len(structure.groups) - index - 1)
        fit = _fit_sparse_group(problem, structure, group[0], goal, share)
        if fit is None or (fit.error > goal and not complete):
            return None
        fits.append(fit)
        left -= len(fit.centres)
    return _sparse_layers(problem, structure, fits)


# --- where centres lie ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def leja_points(count: int) -> np.ndarray:
    """Points of [−1, 1], each as far as can be from those before in the product of distances."""
    grid = np.linspace(-1, 1, 4001)
    points = [0.0, -1.0, 1.0]
    logs = np.log(np.abs(grid[:, None] - points) + 1e-300).sum(axis=1)
    while len(points) < count:
        points.append(float(grid[logs.argmax()]))
        logs += np.log(np.abs(grid - points[-1]) + 1e-300)
    return np.array(points[:count])


def spread_points(rank: int, count: int) -> np.ndarray:
    """Points (count, rank) of [−1, 1]^rank: multiples of the powers of 1/φ, where φ^{r+1} = φ + 1,
    from the middle on (the golden ratio for one number)."""
    ratio = 1.5
    for _ in range(60):  # a contraction
        ratio = (1 + ratio) ** (1 / (rank + 1))
    steps = ratio ** -np.arange(1.0, rank + 1)
    return 2 * ((0.5 + np.arange(count)[:, None] * steps) % 1.0) - 1


def lower_set(rank: int, size: int, *, cross: bool) -> np.ndarray:
    """Multi-indices (N, rank): the largest set of its kind with at most `size` elements.

    Of total degree: :math:`\\sum k_j \\le K`. A hyperbolic cross: :math:`\\prod(k_j+1) \\le K+1`.
    """
    best = np.zeros((1, rank), int)
    level = 1
    while True:
        indices = _indices(rank, level + cross, size, cross)
        if indices is None:
            return best
        best, level = np.array(indices), level + 1


def _indices(rank: int, limit: int, most: int, cross: bool) -> list[tuple[int, ...]] | None:
    """All multi-indices up to the limit; None if more than `most`."""
    listed: list[tuple[tuple[int, ...], int]] = [((), limit)]
    for _ in range(rank):
        longer: list[tuple[tuple[int, ...], int]] = []
        for head, left in listed:
            longer.extend(
                ((*head, k), left // (k + 1) if cross else left - k)
                for k in range(left if cross else left + 1)
            )
            if len(longer) > most:
                return None
        listed = longer
    return [head for head, _ in listed]


def _layouts(rank: int, size: int) -> Iterator[np.ndarray]:
    """Centres (N, rank) in [−1, 1]^rank, at most `size` of them, in each way that is tried."""
    total = lower_set(rank, size, cross=False)
    cross = lower_set(rank, size, cross=True)
    for indices in (total, cross):
        if len(indices) > 0.7 * size:  # much smaller ones were tried before
            yield leja_points(max(int(indices.max()) + 1, 3))[indices]
    yield spread_points(rank, size)


def _counts(rank: int, most: int) -> list[int]:
    """Numbers of centres that are tried: those of total degrees, and others between."""
    counts = {math.comb(degree + rank, rank) for degree in range(1, 12)}
    size = 2.0
    while size <= most:
        counts.add(round(size))
        size *= 1.4
    return sorted({count for count in counts if 2 <= count <= most} | {1})


# --- the fit of one group ------------------------------------------------------------------------


class _Box(NamedTuple):
    """Orthonormal combinations (r, R m) of the numbers read, their middle and half width (r)."""

    basis: np.ndarray
    middle: np.ndarray
    half: np.ndarray


def _fit_sparse_group(
    problem: SequenceProblem, structure: Structure, position: int, goal: float, budget: int
) -> _SparseFit | None:
    """Values for one group, on as few tokens as do; None if `budget` is too small for any."""
    read = read_tokens(structure, position)
    if budget < 1:
        return None
    if not read:
        return _SparseFit(np.zeros((1, 0)), problem.select_values[:1, position], 1.0, 0.0)
    random = np.random.default_rng(problem.seed + 7)
    check = draw_samples(problem, position, read, 800, random, and_selected=True)
    box = _box_of(problem.domain, directions_of_change(problem, position, read, random), len(read))
    best: _SparseFit | None = None
    errors: dict[int, float] = {}
    near = range(len(CONCENTRATIONS))
    for count in _counts(len(box.basis), min(MOST_VALUES, budget)):
        train = draw_samples(
            problem, position, read, max(400, 4 * count), random, and_selected=True
        )
        size_best, index = _best_of_size(problem, box, count, near, train, check)
        if best is None or size_best.error < best.error:
            best = size_best
        # The best λ moves slowly with the number of centres.
        near = range(max(index - 1, 0), min(index + 2, len(CONCENTRATIONS)))
        errors[count] = size_best.error
        earlier = min((e for size, e in errors.items() if 8 <= size <= count / 4), default=math.inf)
        cubic = count >= math.comb(len(box.basis) + 3, 3)
        if best.error <= goal or (cubic and best.error > STALLED * earlier):
            break
    return best


def _box_of(domain: Domain, basis: np.ndarray, read: int) -> _Box:
    if len(basis) == basis.shape[1]:  # all directions: the numbers' own axes
        basis = np.eye(len(basis))
    if domain.kind == "cube":
        low, high = np.minimum(basis, 0).sum(axis=1), np.maximum(basis, 0).sum(axis=1)
    else:
        high = np.linalg.norm(basis.reshape(len(basis), read, -1), axis=2).sum(axis=1)
        low = -high
    return _Box(basis, (low + high) / 2, np.maximum((high - low) / 2, 1e-300))


def _best_of_size(
    problem: SequenceProblem, box: _Box, count: int, near: range, train: Samples, check: Samples
) -> tuple[_SparseFit, int]:
    """The fit of the least error with at most `count` centres, and the place of its λ."""
    best: _SparseFit | None = None
    place = near[0]
    scale = float(np.square(box.half).mean())
    for layout in _layouts(len(box.basis), count):
        for spread in SPREADS:
            centres = (box.middle + spread * box.half * layout) @ box.basis
            for index in near:
                lam = CONCENTRATIONS[index] / scale
                values = _fitted_values(problem, _attention(centres, lam, train.z), train.values)
                miss = _attention(centres, lam, check.z) @ values - check.values
                error = float(np.linalg.norm(miss, axis=1).max())
                if best is None or error < best.error:
                    best, place = _SparseFit(centres, values, lam, error), index
    assert best is not None
    return best, place


def _attention(centres: np.ndarray, lam: float, z: np.ndarray) -> np.ndarray:
    """Attention (Q, N) of the layer's tokens."""
    score = lam * (z @ centres.T - 0.5 * np.square(centres).sum(axis=1))
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def _fitted_values(problem: SequenceProblem, weights: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """Least squares with the least ridge that keeps values within the limit: by bisection.

    By the eigenvalues of the normal equations: the squares of the ridge that the limit asks for are
    far above their rounding.
    """
    limit = problem.value_limit * max(problem.sup_norm, 1e-300)
    eigenvalues, vectors = np.linalg.eigh(weights.T @ weights)
    projected = vectors.T @ (weights.T @ aim)

    def values(log_ridge: float) -> np.ndarray:
        damped = np.maximum(eigenvalues, 0.0) + 10.0**log_ridge * eigenvalues[-1]
        return vectors @ (projected / damped[:, None])

    low, high = -13.0, 1.0
    if np.linalg.norm(values(low), axis=1).max() <= limit:
        return values(low)
    for _ in range(12):
        middle = (low + high) / 2
        if np.linalg.norm(values(middle), axis=1).max() <= limit:
            high = middle
        else:
            low = middle
    return values(high)


# --- the layers ----------------------------------------------------------------------------------


def _sparse_layers(
    problem: SequenceProblem, structure: Structure, fits: list[_SparseFit]
) -> SequenceCandidate:
    at, layers, reads_of_groups = gathered_tokens(problem, structure)
    kernels = [
        Kernel(
            reads, fit.centres, fit.values, fit.concentration, np.ones(len(reads)),
            None if len(group) == problem.domain.length else group,
        )
        for group, fit, reads in zip(structure.groups, fits, reads_of_groups, strict=True)
    ]  # fmt: skip
    layers.append(kernel_layer(at, kernels, at.result))
    candidate = SequenceCandidate(
        method="sparse", structure=structure, at=at, layers=tuple(layers), cells=None,
        reach=math.inf, spill=math.inf,
        value_norm=max(float(np.linalg.norm(fit.values, axis=1).max()) for fit in fits),
        error=max(fit.error for fit in fits),
    )  # fmt: skip
    # Sequences that an earlier test found to be missed are in the selection.
    missed = token_length(candidate.outputs(problem.select[:200]) - problem.select_values[:200])
    return candidate._replace(error=max(candidate.error, float(missed.max())))
