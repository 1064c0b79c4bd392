"""Digit tasks against plain lists, and the split of their inputs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.prefix.training import tasks


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_tasks_against_lists(task, plain_solution):
    digits = np.random.default_rng(0).integers(0, 8, (50, 10))
    for x in digits:
        assert np.asarray(tasks.solve(task, jnp.asarray(x))).tolist() == plain_solution(task, x)
    assert max(plain_solution(task, [7] * 10)) < tasks.SYMBOLS


def test_split_is_disjoint_uniform_and_stable():
    train = np.asarray(tasks.draw_inputs(20_000, 4, key=jax.random.key(0)))
    test = np.asarray(tasks.draw_inputs(20_000, 4, key=jax.random.key(0), test=True))
    assert not tasks.is_test(train).any()
    assert tasks.is_test(test).all()
    every = np.array(list(itertools.product(range(8), repeat=4)))
    chosen = np.asarray(tasks.is_test(every))
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


@pytest.mark.parametrize(("make", "name"), [
    (lambda: tasks.draw_inputs(3, 11, key=jax.random.key(0)), "length"),
    (lambda: tasks.solve("sort", jnp.arange(3)), "task"),
])  # fmt: skip
def test_bad_settings_are_named(make, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        make()
