"""The two numbers of docs/prefix.md on published and uniform inputs, each counted in two ways,
and the inputs of ten digits that are drawn.
"""

from __future__ import annotations

import functools
from itertools import product
from math import factorial

import jax
import numpy as np
import pytest

from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.prefix.training import tasks


def blocks(total, most, largest):
    """Ways to write `total` as a sum of at most `most` numbers, none above `largest`."""
    if total == 0:
        return [()]
    if most == 0:
        return []
    return [
        (first, *rest)
        for first in range(min(total, largest), 0, -1)
        for rest in blocks(total - first, most - 1, first)
    ]


def few_digits_share(length, most, digits=8):
    """Share of all inputs with at most `most` different digits, over the counts of equal digits."""
    total = 0
    for sizes in blocks(length, most, length):
        arrangements = factorial(length)
        names = factorial(digits) // factorial(digits - len(sizes))
        for size in sizes:
            arrangements //= factorial(size)
        for size in set(sizes):
            names //= factorial(sizes.count(size))
        total += arrangements * names
    return total / digits**length


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_shares_by_enumeration(length):
    few = [len(set(x)) <= length // 2 for x in product(range(8), repeat=length)]
    assert few_digits_share(length, length // 2) == pytest.approx(np.mean(few), rel=1e-14)


def test_published_inputs_repeat_digits_more_often():
    """.49 against .32 for ten digits: a draw of many digits is kept with probability one half."""
    uniform = few_digits_share(10, 5)
    published = 2 * uniform / (1 + uniform)
    assert uniform == pytest.approx(0.3224, abs=5e-5)
    assert published == pytest.approx(0.4877, abs=5e-5)
    # The same by following the generator: draw, and with probability one half look and draw again.
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 8, (200_000, 10))
    different = sum((inputs == digit).any(axis=1).astype(int) for digit in range(8))
    kept = different[(different <= 5) | (rng.random(len(different)) >= 0.5)]
    stderr = np.sqrt(published * (1 - published) / len(kept))
    assert abs((kept <= 5).mean() - published) < 5 * stderr


def test_what_is_drawn_has_that_share():
    """Five standard errors are 0.018; the two shares differ by 0.17."""
    published = 2 * few_digits_share(10, 5) / (1 + few_digits_share(10, 5))
    for law, expected in (("uniform", few_digits_share(10, 5)), ("published", published)):
        draw = functools.partial(tasks.draw_inputs, 20_000, 10, law=law)
        drawn = jax.jit(draw, compiler_options=RUN_ONCE_OPTIONS)(key=jax.random.key(5))
        inputs = np.asarray(drawn)
        few = np.mean(sum((inputs == digit).any(axis=1).astype(int) for digit in range(8)) <= 5)
        assert abs(few - expected) < 5 * np.sqrt(expected * (1 - expected) / len(inputs))
