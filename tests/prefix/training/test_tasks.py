"""Digit tasks against plain lists, and the split of their inputs."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.training import tasks

draw_inputs = jax.jit(
    tasks.draw_inputs, static_argnums=(0, 1), static_argnames=("test", "law"),
    compiler_options=RUN_ONCE_OPTIONS,
)  # fmt: skip
is_test = jax.jit(tasks.is_test)


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_tasks_against_lists(task, plain_solution):
    digits = np.random.default_rng(0).integers(0, 8, (50, 10))
    solved = np.asarray(tasks.solve_all(task, digits))
    for x, found in zip(digits, solved, strict=True):
        assert found.tolist() == plain_solution(task, x)
    assert max(plain_solution(task, [7] * 10)) < tasks.SYMBOLS


def test_split_is_disjoint_uniform_and_stable():
    train, test = (
        np.asarray(draw_inputs(20_000, 4, key=jax.random.key(0), test=side))
        for side in (False, True)
    )
    assert not np.asarray(is_test(train)).any()
    assert np.asarray(is_test(test)).all()
    every = np.array(list(itertools.product(range(8), repeat=4)))
    chosen = np.asarray(is_test(every))
    assert chosen.mean() == 0.25  # exactly two of eight first digits
    codes = np.bincount(test @ 8 ** np.arange(4), minlength=8**4)
    found = codes[every[chosen] @ 8 ** np.arange(4)]
    expected = 20_000 / chosen.sum()
    assert ((found - expected) ** 2 / expected).sum() < 1024 + 5 * np.sqrt(2 * 1024)
    # The same inputs on every machine and in every version.
    assert every[chosen][[0, 1, 500, 1023]].tolist() == [
        [0, 0, 1, 0],
        [0, 0, 1, 2],
        [3, 6, 1, 6],
        [7, 7, 6, 6],
    ]


def weights_of_all_inputs(length, test):
    """Every input of one side of the split, and its probability under the published law.

    By following the generator on the whole list: a coin throws an input of many digits away, so it
    is kept half as often; then the split is looked at.
    """
    every = np.array(list(itertools.product(range(8), repeat=length)))
    side = every[np.asarray(is_test(every)) == test]
    kept = np.array([0.5 if len(set(x)) > length // 2 else 1.0 for x in side.tolist()])
    return side, kept / kept.sum()


@pytest.mark.parametrize(
    ("test", "length"), some_slow([(False, 3), (True, 4), (False, 4), (True, 3)], first=2)
)
def test_published_inputs_have_the_law_of_the_generator(length, test):
    count = 40_000
    inputs = np.asarray(
        draw_inputs(count, length, key=jax.random.key(3), test=test, law="published")
    )
    side, chances = weights_of_all_inputs(length, test)
    drawn = np.bincount(inputs @ 8 ** np.arange(length), minlength=8**length)
    found, expected = drawn[side @ 8 ** np.arange(length)], count * chances
    assert found.sum() == count, "an input of the other side of the split"
    freedom = len(side) - 1
    statistic = ((found - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)
    # The same test tells the uniform law from it.
    uniform = np.full(len(side), count / len(side))
    assert ((found - uniform) ** 2 / uniform).sum() - freedom > 5 * np.sqrt(2 * freedom)


def test_published_inputs_are_one_endless_list():
    """Number i does not depend on its neighbours, nor on how often they were drawn."""
    key = jax.random.key(4)
    whole = np.asarray(draw_inputs(200, 10, key=key, law="published"))
    part = functools.partial(draw_inputs, 1, 10, key=key, law="published")
    for first in (0, 1, 123, 163):
        np.testing.assert_array_equal(part(first=first)[0], whole[first])


def test_many_digits_are_more_than_half():
    for length in (4, 5):
        every = np.array(list(itertools.product(range(8), repeat=length)))
        many = [len(set(x)) > length // 2 for x in every.tolist()]
        np.testing.assert_array_equal(jax.jit(tasks.many_digits)(every), many)


@pytest.mark.parametrize(("make", "name"), [
    (lambda: tasks.draw_inputs(3, 11, key=jax.random.key(0)), "length"),
    (lambda: tasks.draw_inputs(3, 4, key=jax.random.key(0), law="fair"), "law"),
    (lambda: tasks.solve("sort", jnp.arange(3)), "task"),
])  # fmt: skip
def test_bad_settings_are_named(make, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        make()
