r"""The paper's construction: a Kolmogorov–Arnold form over the Cantor set, in T + 2 layers.

Binary digits of all D = T m numbers, K of each, become ternary digits 0 and 2 of one number. A
prefix writes every token's digits, a gather layer with the shares :math:`3^{-mp}` adds them up, and
a layer for each position looks the sum up among :math:`2^{KD}` codes.

Codes are :math:`2\cdot3^{-KD}` apart, so scores of one number have the size :math:`9^{KD}`: beyond
KD = 14 float64 may mistake neighbours. There the sum is split: one more prefixed layer
writes its leading half of the digits, and the lookup reads leading and remaining digits as two
numbers, each on a scale of its own; scores have the size :math:`9^{KD/2}`.

The form converges in the mean, not uniformly (``universal.sequence_map``). As recalled from Petrov
et al., ICML 2024; the softmax layers and the split are derived here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build.sequence_certificate import SequenceCandidate, SequenceProblem
from jaxprompt.universal.build.sequence_layers import Channels, Kernel, gather_layer, kernel_layer
from jaxprompt.universal.build.sequence_structure import make_structure
from jaxprompt.universal.build.sequence_target import WHERE, token_length
from jaxprompt.universal.networks.stack import HARD, Layer

__all__ = ["most_digits", "paper_candidate", "paper_tokens"]

MOST_DIGITS_AT_ONCE = 14
"""Most digits KD that one number holds. Parts of a score are then below 4e15, and float64 moves the
difference of two scores by less than 3 (`stack.score_rounding`), where neighbours differ by 64.
With two digits more it would be 200."""

AT_ONCE = 4096
"""Sequences on which f is evaluated at once."""


def paper_tokens(length: int, dim: int, digits: int) -> int:
    """Prefix tokens of all layers with `digits` binary digits of each number."""
    total = digits * length * dim
    split = 2 ** (total // 2) if total > MOST_DIGITS_AT_ONCE else 0
    return 2 ** (digits * dim) + split + length * 2**total


def most_digits(problem: SequenceProblem) -> int:
    """Most digits of each number that the budget allows.

    Raises:
        ParameterError: not even one.
    """
    length, dim = problem.domain.length, problem.domain.dim
    needed = paper_tokens(length, dim, 1)
    if needed > problem.budget:
        raise ParameterError(
            "budget", problem.budget, f"at least {needed:.3g} with method paper",
            'give more, or use "auto"', WHERE,
        )  # fmt: skip
    digits = 1
    while paper_tokens(length, dim, digits + 1) <= problem.budget:
        digits += 1
    return digits


def paper_candidate(problem: SequenceProblem, digits: int) -> SequenceCandidate:
    """The layers with `digits` binary digits of each number."""
    domain = problem.domain
    length, dim = domain.length, domain.dim
    codes = _make_codes(digits, length * dim)
    shares = 3.0 ** -(dim * np.arange(length))
    at = Channels(dim, length, 1, 3 if codes.split else 1, 1, problem.out)
    cells = domain.cells(2 ** (digits * dim))
    layers = [
        _digit_layer(at, cells.centres, digits, length * dim),
        *_sum_layers(at, codes, shares),
    ]
    x = codes.numbers.reshape(-1, length, dim)
    values = np.concatenate([problem.f(x[i : i + AT_ONCE]) for i in range(0, len(x), AT_ONCE)])
    lookup = _lookup(at, codes, float(shares.sum()))
    layers += [
        kernel_layer(at, [replace(lookup, values=values[:, p], group=(p,))], at.result)
        for p in range(length)
    ]
    structure = make_structure("none", length)
    candidate = SequenceCandidate(
        method="paper", structure=structure, at=at, layers=tuple(layers),
        cells=cells, reach=math.inf, spill=math.inf,
        value_norm=float(np.linalg.norm(values, axis=2).max()), error=math.inf,

    )  # fmt: skip
    outputs = candidate.outputs(problem.select[:100])
    error = token_length(outputs - problem.select_values[:100]).max()
    return candidate._replace(error=float(error))


class _Codes(NamedTuple):
    """All cells: middles of their numbers (N, D), and leading and remaining parts of the sums (N).

    Without a split the leading part is 0.
    """

    numbers: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    leading: int
    total: int

    @property
    def split(self) -> bool:
        return self.leading > 0


def _make_codes(digits: int, count: int) -> _Codes:
    total = digits * count
    index = np.arange(2**total)
    leading = total // 2 if total > MOST_DIGITS_AT_ONCE else 0
    numbers = np.full((len(index), count), 0.5**digits / 2)
    head, tail = np.zeros(len(index)), np.zeros(len(index))
    for place in range(total):  # ternary place 1 first: number i has the places i + 1, i + 1 + D, …
        bit = (index >> (total - 1 - place)) & 1
        numbers[:, place % count] += bit * 0.5 ** (place // count + 1)
        part = head if place < leading else tail
        part += 2 * bit * 3.0 ** -(place + 1)
    return _Codes(numbers, head, tail, leading, total)


def _digit_layer(at: Channels, middles: np.ndarray, digits: int, count: int) -> Layer:
    """Writes the digits of a token's numbers, at the ternary places of the first token."""
    code = np.zeros(len(middles))
    for j in range(digits):
        bit = np.floor(middles * 2.0 ** (j + 1)) % 2
        code += 2 * bit @ 3.0 ** -(1 + np.arange(at.dim) + count * j)
    sharp = 1e4 * HARD * 4.0**digits
    kernel = Kernel(at.numbers, middles, code[:, None], sharp, np.ones(at.dim), None)
    return kernel_layer(at, [kernel], at.coded)


def _sum_layers(at: Channels, codes: _Codes, shares: np.ndarray) -> list[Layer]:
    """Adds up the tokens' codes, over the sum of shares; split, also its two parts."""
    everyone = [range(at.length)] * at.length
    mix = gather_layer(at, everyone, at.coded, at.gather(0), shares)
    if not codes.split:
        return [mix]
    scale = float(shares.sum())
    also = gather_layer(at, everyone, at.coded, at.gather(1), shares)
    mix = mix._replace(value=mix.value + also.value)
    # Sums with one leading part lie in an interval of 3^-h, and the next begins 2·3^-h later.
    heads = np.unique(codes.head)
    width = 3.0**-codes.leading
    kernel = Kernel(
        at.gather(0), heads[:, None] + width / 2, np.stack([heads, -heads / scale], axis=1),
        HARD / width**2, np.array([scale]), None, np.array([1 / scale]),
    )  # fmt: skip
    write = np.concatenate([at.gather(2), at.gather(1)])
    return [mix, kernel_layer(at, [kernel], write)]


def _lookup(at: Channels, codes: _Codes, scale: float) -> Kernel:
    """A kernel on the codes, without values: in units in which neighbours are 1 apart."""
    unit = 3.0**codes.total / 2
    empty = np.zeros((len(codes.head), 0))
    if not codes.split:
        one = np.array([1 / scale])
        return Kernel(
            at.gather(0), codes.tail[:, None] * unit, empty, HARD, unit * scale * np.ones(1), None,
            one,
        )  # fmt: skip
    head_unit = 3.0**codes.leading / 2
    return Kernel(
        np.concatenate([at.gather(2), at.gather(1)]),
        np.stack([codes.head * head_unit, codes.tail * unit], axis=1), empty, HARD,
        np.array([head_unit, unit * scale]), None,
        np.array([1.0, 3.0**-codes.leading / scale]),
    )  # fmt: skip
