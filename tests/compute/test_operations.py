"""Arithmetic that tracing counts, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxprompt.compute import operations
from jaxprompt.compute.operations import count_operations, seconds_for

MATRIX, VECTOR = jnp.ones((20, 30), jnp.float32), jnp.ones(1000, jnp.float32)


def arithmetic(function, *arguments):
    return count_operations(function, *arguments).arithmetic


def test_elements_are_counted():
    assert arithmetic(lambda x: x + x, VECTOR) == 1000
    assert arithmetic(lambda x: (x + x).reshape(10, 100), VECTOR) == 1000
    assert arithmetic(jnp.sum, VECTOR) == 1000


def test_words_of_64_bits_count_twice():
    with jax.enable_x64(True):
        assert arithmetic(lambda x: x + x, jnp.ones(1000, jnp.float64)) == 2000


def test_a_product_grows_with_each_of_its_three_sizes():
    def product(rows, terms, columns):
        return arithmetic(jnp.dot, jnp.ones((rows, terms)), jnp.ones((terms, columns)))

    once = product(4, 5, 6)
    assert product(8, 5, 6) == product(4, 10, 6) == product(4, 5, 12) == 2 * once


def test_a_factorisation_grows_with_the_cube():
    def factorised(width):
        return arithmetic(jax.lax.linalg.cholesky, jnp.eye(width))

    assert 7 < factorised(400) / factorised(200) < 8.1


def test_a_loop_counts_each_of_its_steps():
    def loop(steps):
        return lambda x: jax.lax.scan(lambda s, _: (s + x, None), x, None, length=steps)[0]

    few, many = count_operations(loop(10), VECTOR), count_operations(loop(1000), VECTOR)
    assert many.arithmetic == 100 * few.arithmetic == 1e6
    assert many.equations == few.equations
    assert not many.at_least


def test_a_loop_of_unknown_length_is_a_lower_bound():
    counted = count_operations(
        lambda x: jax.lax.while_loop(lambda s: s.sum() < 5, lambda s: s + s, x), VECTOR
    )
    assert counted.at_least
    assert counted.arithmetic >= 1000


def test_of_branches_the_dearest_counts():
    def either(x):
        return jax.lax.cond(x[0] > 0, lambda y: y + 1, lambda y: y + y + y + 1, x)

    assert 3000 <= arithmetic(either, VECTOR) < 3010


def test_calls_within_calls_are_counted():
    inner = jax.jit(lambda x: x + x)
    assert arithmetic(jax.jit(lambda x: inner(x) + inner(x)), VECTOR) == 3000
    assert arithmetic(jax.vmap(jax.jit(lambda x: x + x)), MATRIX) == 600


def test_draws_cost_more_than_additions():
    def draw(size):
        return lambda: jax.random.normal(jax.random.key(0), (size,))

    assert arithmetic(draw(2000)) > 50 * 2000
    assert arithmetic(draw(4000)) == pytest.approx(2 * arithmetic(draw(2000)), rel=0.01)


def test_seconds_grow_with_calls_and_programs(monkeypatch):
    monkeypatch.setattr(operations, "_seconds_an_addition", lambda: 1e-9)
    work = count_operations(lambda x: x + x, VECTOR)
    running = seconds_for(work, 10**6, programs=0)
    assert running == pytest.approx(1000 * 10**6 * 1e-9)
    assert running == pytest.approx(10 * seconds_for(work, 10**5, programs=0))
    assert seconds_for(work, 10**6, programs=2) > seconds_for(work, 10**6) > running
