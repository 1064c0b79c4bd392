"""Random numbers by place: the generator, its addressing, and the laws it gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import random as jex_random
from quick_cases import some_slow
from scipy import stats as sps

from jaxprompt.compute import random_table

pytestmark = pytest.mark.usefixtures("strict_ranks")


@pytest.mark.parametrize("seed", [0, 1, 123456789])
@pytest.mark.parametrize("first", [0, 5, 2**32 - 2])
def test_words_are_threefry_of_the_place(seed, first):
    key = jax.random.key(seed)
    got = random_table.words(key, first, 3, 4)
    for row in range(3):
        for column in range(4):
            counter = jnp.array([(first + row) % 2**32, column], jnp.uint32)
            expected = jex_random.threefry_2x32(jax.random.key_data(key), counter)
            found = [int(word[row, column]) for word in got]
            assert found == [int(e) for e in expected], f"place {row, column}"


@pytest.mark.parametrize("draw", [random_table.uniforms, random_table.normals])
@pytest.mark.parametrize("columns", some_slow([2, 7, 1], first=2))
def test_a_row_is_the_same_in_every_chunk(draw, columns):
    key = jax.random.key(3)
    whole = np.asarray(draw(key, 0, 100, columns))
    pieces = [np.asarray(draw(key, first, 25, columns)) for first in (0, 25, 50, 75)]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
    jitted = jax.jit(lambda first: draw(key, first, 10, columns))
    np.testing.assert_array_equal(whole[40:50], jitted(jnp.uint32(40)))


def test_keys_give_different_tables():
    tables = [random_table.normals(jax.random.key(seed), 0, 50, 4) for seed in range(3)]
    for i in range(3):
        for j in range(i):
            assert not np.intersect1d(tables[i], tables[j]).size > 5


def test_uniforms_stay_strictly_inside():
    values = np.asarray(random_table.uniforms(jax.random.key(0), 0, 2**15, 64))
    assert values.dtype == np.float32
    assert values.min() > 0
    assert values.max() < 1
    assert np.isfinite(np.asarray(random_table.normals(jax.random.key(0), 0, 2**15, 64))).all()


def test_laws_of_uniforms_and_normals():
    key = jax.random.key(11)
    for values, law in (
        (random_table.uniforms(key, 0, 20_000, 10), sps.uniform),
        (random_table.normals(key, 7, 20_000, 10), sps.norm),
    ):
        flat = np.asarray(values, np.float64).ravel()
        p = sps.kstest(flat, law.cdf).pvalue
        assert p > 1e-4, f"KS against {law.name}: p = {p:.1e}"


def test_moments_of_normals():
    values = np.asarray(random_table.normals(jax.random.key(5), 0, 10**5, 20), np.float64).ravel()
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        error = np.std(values**power) / np.sqrt(values.size)
        z = ((values**power).mean() - expected) / error
        assert abs(z) < 4.5, f"moment {power}: {z:.1f} standard errors from {expected}"


def test_columns_and_neighbouring_rows_are_uncorrelated():
    values = np.asarray(random_table.normals(jax.random.key(6), 0, 10**5, 6), np.float64)
    z = np.corrcoef(values.T)[np.triu_indices(6, 1)] * np.sqrt(10**5)
    assert np.abs(z).max() < 4.5, f"columns correlate: {np.abs(z).max():.1f} standard errors"
    lagged = (values[1:] * values[:-1]).mean(axis=0) * np.sqrt(10**5)
    assert np.abs(lagged).max() < 4.5, "neighbouring rows correlate"
