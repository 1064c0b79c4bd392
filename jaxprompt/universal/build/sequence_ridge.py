r"""Sums over directions: each layer adds a function of one direction of the gathered sequence.

After the gather layers a token holds the numbers z of all tokens that its output reads. Layer l
adds :math:`g_l(\langle a_l, z\rangle)`, a kernel average along a direction with free values.
Polynomials of degree k in r numbers are sums of such functions in :math:`\binom{k+r-1}{r-1}`
directions, so smooth maps of few numbers take few tokens. The r numbers are those combinations
of z along which f changes at all: linear maps have one direction, whatever the length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxprompt.universal.build.sequence_certificate import SequenceCandidate, SequenceProblem
from jaxprompt.universal.build.sequence_layers import Channels, Kernel, gather_layer, kernel_layer
from jaxprompt.universal.build.sequence_structure import Structure
from jaxprompt.universal.build.sequence_target import Domain, token_length
from jaxprompt.universal.networks.stack import Layer

__all__ = [
    "Samples",
    "directions_of_change",
    "draw_samples",
    "gathered_tokens",
    "read_tokens",
    "ridge_candidate",
]

SOFTNESS = 0.5
"""λ times the squared distance of neighbouring centres along a direction."""

MOST_VALUES = 480
"""Most values that are fitted together: about a second."""

SELECTED = 200
"""Sequences of the selection set on which values are fitted and checked too."""

STALLED = 0.6
"""Share of its error that three longer sums must take off, or the fit ends."""

DEGREES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24)

CENTRES = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Centres that are tried along a single direction."""


class _Fit(NamedTuple):
    """Directions (l, R m), centres (l, s) along each, values (l, s, d), λ of each, the error."""

    directions: np.ndarray
    centres: np.ndarray
    values: np.ndarray
    concentrations: np.ndarray
    error: float


class Samples(NamedTuple):
    """Read tokens, flat (Q, R m), and what f gives for them (Q, d)."""

    z: np.ndarray
    values: np.ndarray


def ridge_candidate(
    problem: SequenceProblem, structure: Structure, goal: float, *, complete: bool
) -> SequenceCandidate | None:
    """The layers of the sum with the fewest tokens that err by at most `goal` on samples.

    None if no sum within the budget does, or, where `complete`, the sum of the least error: then
    None only if not even the shortest sum fits the budget.
    """
    fits: list[_Fit] = []
    left = problem.budget
    for index, group in enumerate(structure.groups):
        # Later groups must have something to use.
        share = left - CENTRES[0] * (len(structure.groups) - index - 1)
        fit = _fit_group(problem, structure, group[0], goal, share)
        if fit is None or (fit.error > goal and not complete):
            return None
        fits.append(fit)
        left -= fit.centres.size
    return _assembled(problem, structure, fits)


def read_tokens(structure: Structure, position: int) -> list[int]:
    return [q for tokens in structure.classes[position] for q in tokens]


# --- the fit of one group ------------------------------------------------------------------------


def _fit_group(
    problem: SequenceProblem, structure: Structure, position: int, goal: float, budget: int
) -> _Fit | None:
    """Values for one group, on as few tokens as do; None if `budget` is too small for any."""
    read = read_tokens(structure, position)
    if not read:
        value = problem.select_values[:1, position]
        one = np.zeros((1, 0))
        return _Fit(one, np.zeros((1, 1)), value[None], np.ones(1), 0.0) if budget else None
    random = np.random.default_rng(problem.seed + 6)
    check = draw_samples(problem, position, read, 600, random, and_selected=True)
    basis = directions_of_change(problem, position, read, random)
    best, errors = None, []
    for directions, count in _sizes(basis, random):
        unknown = len(directions) * count
        if unknown > min(MOST_VALUES, budget):
            break
        train = draw_samples(
            problem, position, read, max(300, 4 * unknown), random, and_selected=True
        )
        fit = _least_squares_fit(problem, len(read), directions, count, train)
        miss = _sum_of_layers(fit, check.z) - check.values
        fit = fit._replace(error=float(np.linalg.norm(miss, axis=1).max()))
        if best is None or fit.error < best.error:
            best = fit
        errors.append(fit.error)
        # Longer sums do not help a map that is not smooth.
        if best.error <= goal or (len(errors) > 3 and errors[-1] > STALLED * errors[-4]):
            break
    return best


def draw_samples(
    problem: SequenceProblem, position: int, read: list[int], count: int,
    random: np.random.Generator, *, and_selected: bool = False,
) -> Samples:  # fmt: skip
    """Random sequences, and some of the selection set: it begins with those that a test missed."""
    x = problem.domain.sample(count, random)
    values = problem.f(x)
    if and_selected:
        x = np.concatenate([x, problem.select[:SELECTED]])
        values = np.concatenate([values, problem.select_values[:SELECTED]])
    return Samples(x[:, read].reshape(len(x), -1), values[:, position])


def directions_of_change(
    problem: SequenceProblem, position: int, read: list[int], random: np.random.Generator
) -> np.ndarray:
    """Orthonormal combinations (r, R m) of the numbers read, along which the output changes.

    By singular values of differences at random sequences; what would change less than a
    thousandth of the accuracy over the domain is left out.
    """
    domain, step = problem.domain, 1e-4
    x = domain.sample(64, random)
    if domain.kind == "cube":
        x = 0.01 + 0.98 * x
    start = problem.f(x)[:, position]
    columns = []
    for token in read:
        for axis in range(domain.dim):
            moved = x.copy()
            moved[:, token, axis] += step
            columns.append((problem.f(domain.clipped(moved))[:, position] - start) / step)
    jacobian = np.stack(columns, axis=-1).reshape(-1, len(columns))
    _, size, rows = np.linalg.svd(jacobian, full_matrices=False)
    reach = domain.diameter * math.sqrt(len(read))
    rest = np.sqrt(np.cumsum(size[::-1] ** 2)[::-1] / len(x)) * reach
    rank = max(1, int((rest > 1e-3 * problem.accuracy).sum()))
    return rows[:rank]


def _sizes(basis: np.ndarray, random: np.random.Generator) -> list[tuple[np.ndarray, int]]:
    """Directions (l, R m) and centres along each, in rising order of what they can do."""
    rank = len(basis)
    if rank == 1:
        return [(basis, count) for count in CENTRES]
    sizes = []
    for degree in DEGREES:
        count = math.comb(degree + rank - 1, rank - 1)
        if count * (degree + 6) > MOST_VALUES:
            break
        if rank == 2:
            angle = np.pi * (np.arange(count) + 0.5) / count
            unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        else:
            unit = random.normal(size=(count, rank))
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        sizes.append((unit @ basis, degree + 6))
    return sizes


def _least_squares_fit(
    problem: SequenceProblem, length: int, directions: np.ndarray, count: int, train: Samples
) -> _Fit:
    centres, concentrations = _centres_along(problem.domain, length, directions, count)
    empty = np.zeros((len(directions), count, train.values.shape[1]))
    fit = _Fit(directions, centres, empty, concentrations, math.inf)
    matrix = _features(fit, train.z).reshape(len(train.z), -1)
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    projected = left.T @ train.values
    limit = problem.value_limit * max(problem.sup_norm, 1e-300)
    values = np.zeros((matrix.shape[1], train.values.shape[1]))
    for ridge in (0.0, *10.0 ** np.arange(-13, 1.0)):
        kept = singular > 1e-13 * singular[0]
        gain = np.where(kept, singular / (singular**2 + (ridge * singular[0]) ** 2 + 1e-300), 0.0)
        values = right.T @ (gain[:, None] * projected)
        if np.linalg.norm(values, axis=1).max() <= limit:
            break
    return fit._replace(values=values.reshape(empty.shape))


def _centres_along(
    domain: Domain, length: int, directions: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (l, s), two of them beyond each end of the range, and concentrations (l)."""
    if domain.kind == "cube":
        low = np.minimum(directions, 0).sum(axis=1)
        high = np.maximum(directions, 0).sum(axis=1)
    else:
        high = np.linalg.norm(directions.reshape(len(directions), length, -1), axis=2).sum(axis=1)
        low = -high
    margin = 2 * (high - low) / (count - 5)
    centres = np.linspace(low - margin, high + margin, count, axis=1)
    return centres, SOFTNESS / (centres[:, 1] - centres[:, 0]) ** 2


def _features(fit: _Fit, z: np.ndarray) -> np.ndarray:
    """Attention (Q, l, s) of the layers' tokens."""
    along = (z @ fit.directions.T)[:, :, None] - fit.centres
    weight = np.exp(-0.5 * fit.concentrations[:, None] * along**2)
    return weight / weight.sum(axis=2, keepdims=True)


def _sum_of_layers(fit: _Fit, z: np.ndarray) -> np.ndarray:
    return np.einsum("qls,lsd->qd", _features(fit, z), fit.values)


# --- the layers ----------------------------------------------------------------------------------


class Gathered(NamedTuple):
    """Channels, the layers that gather, and for each group the channels that hold what it reads."""

    at: Channels
    layers: list[Layer]
    reads: list[np.ndarray]


def gathered_tokens(problem: SequenceProblem, structure: Structure) -> Gathered:
    """Layers after which each token holds the numbers of all tokens that its output reads."""
    domain = problem.domain
    gathered: dict[int, list[int]] = {}
    own_first: dict[int, bool] = {}
    for group in structure.groups:
        own = all(read_tokens(structure, p)[:1] == [p] for p in group)
        for p in group:
            own_first[p] = own
            gathered[p] = read_tokens(structure, p)[1 if own else 0 :]
    gathers = max(len(tokens) for tokens in gathered.values())
    at = Channels(domain.dim, domain.length, 0, gathers, domain.dim, problem.out)
    layers: list[Layer] = []
    for index in range(gathers):
        next_tokens = [gathered[p][index : index + 1] for p in range(domain.length)]
        layers.append(gather_layer(at, next_tokens, at.numbers, at.gather(index)))
    reads: list[np.ndarray] = []
    for group in structure.groups:
        blocks = [at.gather(i) for i in range(len(gathered[group[0]]))]
        blocks = [at.numbers, *blocks] if own_first[group[0]] else blocks
        reads.append(np.concatenate(blocks) if blocks else np.zeros(0, int))
    return Gathered(at, layers, reads)


def _assembled(
    problem: SequenceProblem, structure: Structure, fits: list[_Fit]
) -> SequenceCandidate:
    domain = problem.domain
    at, layers, reads_of_groups = gathered_tokens(problem, structure)
    value_norm = 0.0
    for level in range(max(len(fit.directions) for fit in fits)):
        kernels, largest = [], 0.0
        for group, fit, reads in zip(structure.groups, fits, reads_of_groups, strict=True):
            if level >= len(fit.directions):
                continue
            centres = fit.centres[level][:, None] * fit.directions[level]
            everywhere = len(group) == domain.length
            kernels.append(
                Kernel(
                    reads, centres, fit.values[level], float(fit.concentrations[level]),
                    np.ones(len(reads)), None if everywhere else group,
                )
            )  # fmt: skip
            largest = max(largest, float(np.linalg.norm(fit.values[level], axis=1).max()))
        layers.append(kernel_layer(at, kernels, at.result))
        value_norm += largest
    error = max(fit.error for fit in fits)
    candidate = SequenceCandidate(
        method="ridge", structure=structure, at=at, layers=tuple(layers), cells=None,
        reach=math.inf, spill=math.inf, value_norm=value_norm, error=error,

    )  # fmt: skip
    # Sequences that an earlier test found to be missed are in the selection.
    missed = token_length(candidate.outputs(problem.select[:200]) - problem.select_values[:200])
    return candidate._replace(error=max(error, float(missed.max())))
