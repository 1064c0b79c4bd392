"""Random numbers by place: the generator, its addressing, and the laws it gives."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.extend import random as jex_random
from quick_cases import some_slow
from scipy import stats as sps

from jaxprompt.compute import random_table

pytestmark = pytest.mark.usefixtures("strict_ranks")

# As simulations call them: outside of jit each operation would be a program to compile.
words, uniforms, normals = (
    jax.jit(draw, static_argnums=(2, 3))
    for draw in (random_table.words, random_table.uniforms, random_table.normals)
)


@pytest.mark.parametrize("seed", [0, 1, 123456789])
@pytest.mark.parametrize("first", [0, 5, 2**32 - 2])
def test_words_are_threefry_of_the_place(seed, first):
    key = jax.random.key(seed)
    got = np.asarray(words(key, np.uint32(first), 3, 4))
    for row in range(3):
        for column in range(4):
            counter = np.array([(first + row) % 2**32, column], np.uint32)
            expected = jex_random.threefry_2x32(jax.random.key_data(key), counter)
            assert got[:, row, column].tolist() == expected.tolist(), f"place {row, column}"


@pytest.mark.parametrize("draw", [uniforms, normals], ids=["uniforms", "normals"])
@pytest.mark.parametrize("columns", some_slow([2, 7, 1], first=2))
def test_a_row_is_the_same_in_every_chunk(draw, columns):
    key = jax.random.key(3)
    whole = np.asarray(draw(key, 0, 100, columns))
    pieces = [np.asarray(draw(key, first, 25, columns)) for first in (0, 25, 50, 75)]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_a_chunk_outside_of_jit_is_the_same():
    key = jax.random.key(3)
    found = random_table.normals(key, 40, 25, 7)
    np.testing.assert_array_equal(found, normals(key, 40, 25, 7))


def test_keys_give_different_tables():
    tables = [normals(jax.random.key(seed), 0, 100, 7) for seed in range(3)]
    for i in range(3):
        for j in range(i):
            assert not np.intersect1d(tables[i], tables[j]).size > 5


@pytest.fixture(scope="module")
def many_normals():
    return np.asarray(normals(jax.random.key(5), 7, 10**5, 20), np.float64)


@pytest.fixture(scope="module")
def many_uniforms():
    return np.asarray(uniforms(jax.random.key(0), 0, 2**15, 64))


def test_uniforms_stay_strictly_inside(many_uniforms, many_normals):
    assert many_uniforms.dtype == np.float32
    assert many_uniforms.min() > 0
    assert many_uniforms.max() < 1
    assert np.isfinite(many_normals).all()


def test_laws_of_uniforms_and_normals(many_uniforms, many_normals):
    for values, law in ((many_uniforms, sps.uniform), (many_normals, sps.norm)):
        flat = np.asarray(values, np.float64).ravel()[:200_000]
        p = sps.kstest(flat, law.cdf).pvalue
        assert p > 1e-4, f"KS against {law.name}: p = {p:.1e}"


def test_moments_of_normals(many_normals):
    values = many_normals.ravel()
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        error = np.std(values**power) / np.sqrt(values.size)
        z = ((values**power).mean() - expected) / error
        assert abs(z) < 4.5, f"moment {power}: {z:.1f} standard errors from {expected}"


def test_columns_and_neighbouring_rows_are_uncorrelated(many_normals):
    values = many_normals
    z = np.corrcoef(values.T)[np.triu_indices(20, 1)] * np.sqrt(10**5)
    assert np.abs(z).max() < 4.5, f"columns correlate: {np.abs(z).max():.1f} standard errors"
    lagged = (values[1:] * values[:-1]).mean(axis=0) * np.sqrt(10**5)
    assert np.abs(lagged).max() < 4.5, "neighbouring rows correlate"
