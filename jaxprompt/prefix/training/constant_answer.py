"""What a constant answer achieves on a task: the least that any adaptation should beat.

Inputs are uniform, or follow the law of the published code (Petrov et al., ICLR 2024), which
throws an input with more than n/2 different digits away with probability ½, each time it is drawn.
"""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = [
    "INPUT_LAWS",
    "constant_answer",
    "few_digits_share",
    "input_of_commonest_answer",
    "relative_probability",
]

INPUT_LAWS = ("uniform", "published")
"""Laws of the inputs."""

DIGITS = 8
"""Inputs are made of 0 … 7. Written again here: a closed form imports nothing from the sampler."""


def constant_answer(task: str, length: int, input_law: str = "uniform") -> float:
    """Largest share of all inputs that one fixed answer solves, exactly, for `length` digits.

    For ``double_hist`` it is all ones up to seven digits: the probability that all digits differ,
    0.0769 for six uniform ones. From eight digits on pairs are likelier: 0.0059 for ten.
    """
    probability = max(_answer_probabilities(task, length, input_law).values())
    return float(probability / DIGITS**length)


def input_of_commonest_answer(
    task: str, length: int, input_law: str = "uniform"
) -> tuple[int, ...]:
    """An input whose answer has the largest probability."""
    probabilities = _answer_probabilities(task, length, input_law)
    sizes = max(probabilities, key=lambda sizes: probabilities[sizes])
    if task == "double_hist":
        return tuple(digit for digit, size in enumerate(sizes) for _ in range(size))
    return tuple(position % len(sizes) for position in range(length))


def few_digits_share(length: int) -> Fraction:
    """Share of uniform inputs with at most n/2 different digits: Σ C(8, k) · onto(n, k) / 8ⁿ.

    onto(n, k), by inclusion and exclusion, counts the inputs in which each of k digits occurs.
    """

    def onto(digits: int) -> int:
        signed = ((-1) ** m * math.comb(digits, m) * (digits - m) ** length for m in range(digits))
        return sum(signed)

    few = range(1, length // 2 + 1)
    return Fraction(sum(math.comb(DIGITS, k) * onto(k) for k in few), DIGITS**length)


def relative_probability(different: int, length: int, input_law: str = "uniform") -> Fraction:
    """Probability of one input with so many different digits, as a multiple of 8⁻ⁿ.

    An input of many digits is kept with probability ½ and another one always, so their
    probabilities are as 1 : 2. With p the share of :func:`few_digits_share` they are 1/(1 + p) and
    2/(1 + p) under the published law.
    """
    if input_law == "uniform":
        return Fraction(1)
    kept = Fraction(1) if different <= length // 2 else Fraction(1, 2)
    return 2 * kept / (1 + few_digits_share(length))


def _answer_probabilities(
    task: str, length: int, input_law: str
) -> dict[tuple[int, ...], Fraction]:
    """Probability, as a multiple of 8⁻ⁿ, of the commonest answer for each way to share out digits.

    A way is the tuple of how often each different digit occurs. The probability is by arithmetic
    rather than enumeration; all inputs with one answer have equally many different digits.
    """
    factorial = [math.factorial(n) for n in range(length + 1)]
    level = [_level_sizes(length, used) for used in range(min(DIGITS, length), 0, -1)]
    if task in ("add1", "add2"):
        inputs = dict.fromkeys(level, 1)
    elif task in ("asc", "desc", "asc_add1"):
        # A multiset is hit by length! / Π counts! inputs: most when the counts are level.
        inputs = {
            sizes: factorial[length] // math.prod(factorial[size] for size in sizes)
            for sizes in level
        }
    else:
        # An answer of counts fixes the partition into equal digits up to its positions; blocks of
        # one size are exchangeable, so try all partitions of the length into at most 8 blocks.
        inputs = {
            sizes: _histogram_inputs(sizes, factorial) for sizes in _partitions(length, DIGITS)
        }
    return {
        sizes: count * relative_probability(len(sizes), length, input_law)
        for sizes, count in inputs.items()
    }


def _level_sizes(length: int, used: int) -> tuple[int, ...]:
    """How often each of so many digits occurs, if all do as equally often as they can."""
    share, extra = divmod(length, used)
    return (share + 1,) * extra + (share,) * (used - extra)


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
