"""What a constant answer achieves on a task: the least that any adaptation should beat."""

from __future__ import annotations

import math

__all__ = ["constant_answer", "input_of_commonest_answer"]

DIGITS = 8
"""Inputs are made of 0 … 7. Written again here: a closed form imports nothing from the sampler."""


def constant_answer(task: str, length: int) -> float:
    """Largest share of all inputs that one fixed answer solves, exactly, for `length` digits.

    For ``double_hist`` it is all ones up to seven digits: the probability that all digits differ,
    0.0769 for six of them. From eight digits on pairs are likelier: 0.0059 for ten.
    """
    counts = _answer_counts(task, length)
    return max(counts) / DIGITS**length


def input_of_commonest_answer(task: str, length: int) -> tuple[int, ...]:
    """An input whose answer is shared by the largest number of inputs."""
    if task != "double_hist":
        return tuple(position % DIGITS for position in range(length))
    factorial = [math.factorial(n) for n in range(length + 1)]
    sizes = max(_partitions(length, DIGITS), key=lambda s: _histogram_inputs(s, factorial))
    return tuple(digit for digit, size in enumerate(sizes) for _ in range(size))


def _answer_counts(task: str, length: int) -> list[int]:
    """How many inputs share the commonest answer, by arithmetic rather than enumeration."""
    factorial = [math.factorial(n) for n in range(length + 1)]
    if task in ("add1", "add2"):
        return [1]
    if task in ("asc", "desc", "asc_add1"):
        # A multiset is hit by length! / Π counts! inputs: most when the counts are level.
        share, extra = divmod(length, DIGITS)
        product = factorial[share] ** (DIGITS - extra) * factorial[share + 1] ** extra
        return [factorial[length] // product]
    # An answer of counts fixes the partition into equal digits up to its positions; blocks of one
    # size are exchangeable, so try all partitions of the length into at most 8 blocks.
    return [_histogram_inputs(sizes, factorial) for sizes in _partitions(length, DIGITS)]


def _partitions(total: int, most: int, largest: int | None = None) -> list[tuple[int, ...]]:
    if total == 0:
        return [()]
    if most == 0:
        return []
    top = min(total, largest or total)
    return [(s, *rest) for s in range(top, 0, -1) for rest in _partitions(total - s, most - 1, s)]


def _histogram_inputs(sizes: tuple[int, ...], factorial: list[int]) -> int:
    """Inputs whose per-position counts equal one given arrangement of block `sizes`."""
    ways = 1
    for size in set(sizes):
        blocks = sizes.count(size)
        # Positions of this count are split into `blocks` unlabelled blocks of `size`.
        ways *= factorial[size * blocks] // (factorial[size] ** blocks * factorial[blocks])
    used = len(sizes)
    labels = math.perm(DIGITS, used)
    return ways * labels
