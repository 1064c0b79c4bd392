r"""The kernel construction: quantise tokens, gather them, and look the sequence up.

1. A prefix with a token for each cell of the domain writes the code of its cell to every token.
2. One gather layer for each class of tokens averages their codes. For a class of one token that is
   its code, for more the histogram of their multiset.
3. A prefix with a token for each combination of multisets holds the values of f.

The depth is the number of classes plus 2 at most: T + 1 for a map without structure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprompt.universal.build.sequence_certificate import SequenceCandidate, SequenceProblem
from jaxprompt.universal.build.sequence_layers import (
    Channels,
    Kernel,
    gather_layer,
    kernel_layer,
)
from jaxprompt.universal.build.sequence_structure import Classes, Structure
from jaxprompt.universal.build.sequence_target import WIDER, Cells, Domain, token_length
from jaxprompt.universal.networks.stack import FAR, Layer

__all__ = [
    "cells_for_bound",
    "kernel_candidate",
    "kernel_tokens",
    "least_cells",
    "quantising_error",
]

SPILL = 1e-13
"""Share of attention that may fall on cells that are not near."""

AT_ONCE = 4096
"""Sequences on which f is evaluated at once."""


MOST_CODE, MOST_NUMBERS = 1000, 2**25
"""Most channels of a code, and numbers of a prefix: 256 MiB."""


def kernel_tokens(domain: Domain, structure: Structure, cells: int) -> float:
    """Prefix tokens of both prefixed layers, with so many cells a token.

    Infinite where the layers would not fit in memory.
    """
    total = structure.tokens(cells) + (cells if cells > 1 else 0)
    code = _code_width(domain, structure, cells)
    width = domain.dim + 1 + domain.length + code * (1 + structure.gather_layers)
    return math.inf if code > MOST_CODE or total * width > MOST_NUMBERS else total


def _code_width(domain: Domain, structure: Structure, cells: int) -> int:
    if cells == 1:
        return 0
    if domain.kind == "cube" and structure.largest_class == 1:
        return domain.dim
    return cells - 1 if domain.kind == "cube" and domain.dim == 1 else cells


def _codes_of_cells(domain: Domain, structure: Structure, cells: Cells) -> np.ndarray:
    """Codes (c, k) of cells that the lookup can tell apart, also between two cells.

    Tokens of a cube that are looked up one by one have their cell's centre. Numbers in classes
    have the number of cells to their left, in unary: sums of those over a multiset are told apart
    by rounding each number on its own, so that a token between two cells never sends the sum to
    a multiset that is far from the sequence. Other cells have a unit vector each.
    """
    count = len(cells.centres)
    width = _code_width(domain, structure, count)
    if width == domain.dim and structure.largest_class == 1 and domain.kind == "cube":
        return cells.centres
    return np.tri(count, width, -1) if width < count else np.eye(count)


def cells_for_bound(problem: SequenceProblem, structure: Structure, most: float) -> int | None:
    """Fewest cells that bound the error by the accuracy, if they take at most `most` tokens."""
    low = 1
    while kernel_tokens(problem.domain, structure, low) <= most:
        bound = problem.lipschitz * problem.domain.cells(low).reach
        if bound <= problem.accuracy * (1 - 1e-9) - 1e-12:
            return low
        low = _next_count(problem, low)
    return None


def _next_count(problem: SequenceProblem, count: int) -> int:
    """The next number of cells: sides of a grid grow by one, counts on a sphere by a tenth."""
    m = problem.domain.axes
    if problem.domain.in_grid:
        return (round(count ** (1 / m)) + 1) ** m
    return max(m + 1, count + 1, math.ceil(1.1 * count))


def quantising_error(problem: SequenceProblem, cells: Cells, points: np.ndarray) -> float:
    """Largest |f(x) − f(centres of x's cells)| over `points`, and over ends of cells."""
    random = np.random.default_rng(problem.seed + 5)
    ends = problem.domain.corners(cells, max(len(points) // 2, 8), random)
    values = np.concatenate([problem.select_values, problem.f(ends)])
    rounded = cells.centres[cells.nearest(np.concatenate([points, ends]))]
    return float(token_length(problem.f(rounded) - values).max())


def least_cells(
    problem: SequenceProblem, structure: Structure, beyond: int, goal: float
) -> tuple[int, float]:
    """Fewest cells, more than `beyond`, that err by at most `goal` on samples, and their error.

    If none within the budget do, those of the least error.
    """
    best, least = 0, math.inf
    count = _next_count(problem, beyond) if beyond else 1
    while kernel_tokens(problem.domain, structure, count) <= problem.budget:
        cells = problem.domain.cells(count)
        error = quantising_error(problem, cells, problem.select)
        if error <= goal:
            return count, error
        if error < least:
            best, least = count, error
        # While far from the goal, cells grow by half of what an error linear in them asks for.
        ratio = min(error / goal, 1e6) if goal > 0 else 1.1
        jump = count * (1 + 0.5 * (ratio - 1)) ** problem.domain.axes
        nearer = _largest_count(problem, structure, jump)
        count = max(_next_count(problem, count), nearer)
    return best, least


def _largest_count(problem: SequenceProblem, structure: Structure, most: float) -> int:
    """The largest number of cells up to `most` that fits the budget."""
    low, high = 1, int(min(most, problem.budget))
    while low < high:
        middle = (low + high + 1) // 2
        if kernel_tokens(problem.domain, structure, middle) <= problem.budget:
            low = middle
        else:
            high = middle - 1
    if problem.domain.in_grid:
        m = problem.domain.axes
        return math.floor(low ** (1 / m) + 1e-9) ** m
    return low


def kernel_candidate(
    problem: SequenceProblem, structure: Structure, count: int, error: float
) -> SequenceCandidate:
    """The layers with at most `count` cells a token, and the share that may fall on far cells."""
    domain, cells = problem.domain, problem.domain.cells(count)
    single = len(cells.centres) == 1
    codes = _codes_of_cells(domain, structure, cells)
    gathers = 0 if single else structure.gather_layers
    at = Channels(domain.dim, domain.length, codes.shape[1], gathers, codes.shape[1], problem.out)
    layers: list[Layer] = []
    leak = 0.0
    if not single:
        sharp = _quantising_concentration(cells)
        first = kernel_layer(
            at,
            [Kernel(at.numbers, cells.centres, codes, sharp, np.ones(domain.dim), None)],
            at.coded,
        )
        layers.append(first)
        leak = _leak(first)
    for index in range(gathers):
        gathered = [_entry(structure.gathers(p), index) for p in range(domain.length)]
        layers.append(gather_layer(at, gathered, at.coded, at.gather(index)))
    kernels = _lookup_kernels(problem, structure, cells, codes, at)
    last = kernel_layer(at, kernels, at.result)
    layers.append(last)
    values = np.linalg.norm(last.prefix_values, axis=1).max()
    return SequenceCandidate(
        method="kernel", structure=structure, at=at, layers=tuple(layers), cells=cells,
        reach=cells.reach,
        spill=_spill(structure, cells, codes, last, leak), value_norm=float(values), error=error,
    )  # fmt: skip


def _entry(classes: Classes, index: int) -> tuple[int, ...]:
    return classes[index] if index < len(classes) else ()


# --- concentrations, and what they let through ---------------------------------------------------


def _quantising_concentration(cells: Cells) -> float:
    """λ at which cells that are not near hold less than SPILL of the attention.

    A cell is near if its centre is at most as far as the nearest one in squares, but for
    (WIDER² − 1) r².
    """
    margin = 0.5 * (WIDER**2 - 1) * cells.radius**2
    return math.log(len(cells.centres) / SPILL) / margin


def _lookup_concentration(cells: Cells, codes: np.ndarray, count: int) -> float:
    """λ at which entries that are not near hold less than SPILL of the attention.

    With centres as codes, or in unary, an entry that is not near is improved by half a squared
    step, in the score over λ, when one number of the code is brought to its nearest allowed value.
    With unit vectors some near cell has a share of at least 1/`together`.
    """
    needed = math.log(count / SPILL) / 0.99
    if _by_numbers(codes):
        return 2 * needed / _least_step(codes) ** 2
    return max(cells.together, 2) * needed


def _by_numbers(codes: np.ndarray) -> bool:
    """Whether the codes are told apart number by number: not those that are unit vectors."""
    return codes.shape[1] < len(codes)


def _least_step(codes: np.ndarray) -> float:
    """Least difference of two values of a number of the code."""
    if not codes.size:
        return 1.0
    return min(float(np.diff(np.unique(column)).min(initial=1.0)) for column in codes.T)


def _rounding_of_scores(layer: Layer) -> float:
    """What float64 may add to a score of tokens whose channels are at most 1."""
    size = float(np.abs(layer.prefix_keys).sum(axis=1).max())
    return float(np.finfo(np.float64).eps) * size * 4


def _leak(first: Layer) -> float:
    """Most attention of the quantising layer on cells that are not near, and on tokens."""
    return SPILL * math.exp(min(2 * _rounding_of_scores(first), 600.0)) + math.exp(-FAR)


def _spill(
    structure: Structure, cells: Cells, codes: np.ndarray, last: Layer, leak: float
) -> float:
    """Most attention of the last layer on entries that are not near, and on tokens.

    Infinite where that is unknown: for multisets of tokens that are not numbers.
    """
    if not _by_numbers(codes) and structure.largest_class > 1 and len(cells.centres) > 1:
        return math.inf
    # How much what leaks in the first layer moves a sum of codes, in steps.
    if 4 * structure.largest_class * cells.together * leak / _least_step(codes) > 0.005:
        return math.inf
    rounding = math.exp(min(2 * _rounding_of_scores(last), 600.0))
    return rounding * (SPILL + len(structure.classes) * math.exp(-FAR))


# --- the lookup ----------------------------------------------------------------------------------


class _Entries(NamedTuple):
    """What a prefix of the lookup distinguishes: sums of codes, and a sequence with each."""

    sums: np.ndarray
    reads: np.ndarray
    scales: np.ndarray
    cells: np.ndarray


def _lookup_kernels(
    problem: SequenceProblem,
    structure: Structure,
    cells: Cells,
    codes: np.ndarray,
    at: Channels,
) -> list[Kernel]:
    outputs: dict[Classes, np.ndarray] = {}
    kernels = []
    for group in structure.groups:
        position = group[0]
        entries = _entries(structure, position, codes, at)
        classes = structure.classes[position]
        if classes not in outputs:
            outputs[classes] = _values_of_entries(problem, cells, classes, entries)
        kernels.append(
            Kernel(
                entries.reads, entries.sums, outputs[classes][:, position],
                _lookup_concentration(cells, codes, len(entries.sums)), entries.scales,
                None if len(group) == at.length else group,
            )
        )  # fmt: skip
    return kernels


def _entries(structure: Structure, position: int, codes: np.ndarray, at: Channels) -> _Entries:
    """Sums of codes (N, r) for all combinations of multisets, and cells (N, R) of the tokens."""
    classes = structure.classes[position]
    gathered = structure.gathers(position)
    blocks, sums, picks, scales = [], [], [], []
    for tokens in classes:
        size = len(tokens)
        multisets = np.array(
            list(itertools.combinations_with_replacement(range(len(codes)), size))
        ).reshape(-1, size)
        picks.append(multisets)
        sums.append(codes[multisets].sum(axis=1))
        scales.append(np.full(codes.shape[1], float(size)))
        if codes.shape[1]:
            blocks.append(at.gather(gathered.index(tokens)) if tokens in gathered else at.coded)
    if not classes:
        return _Entries(np.zeros((1, 0)), np.zeros(0, int), np.zeros(0), np.zeros((1, 0), int))
    shape = [len(part) for part in picks]
    index = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape))

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part[i] for part, i in zip(parts, index, strict=True)], axis=1)

    return _Entries(
        joined(sums),
        np.concatenate(blocks) if blocks else np.zeros(0, int),
        np.concatenate(scales),
        joined(picks),
    )


def _values_of_entries(
    problem: SequenceProblem, cells: Cells, classes: Classes, entries: _Entries
) -> np.ndarray:
    """f (N, T, d) at sequences of the entries' cells; tokens not read are in the middle."""
    read = [q for tokens in classes for q in tokens]
    parts = []
    for start in range(0, len(entries.cells), AT_ONCE):
        picked = entries.cells[start : start + AT_ONCE]
        x = np.tile(problem.domain.middle, (len(picked), problem.domain.length, 1))
        x[:, read] = cells.centres[picked]
        parts.append(problem.f(x))
    return np.concatenate(parts)
