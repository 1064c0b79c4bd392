from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from jaxprompt.compute.numpy_normals import fill_normals, generator_of


@pytest.mark.parametrize("shape", [(1, 1), (7,), (3, 501, 27)])
def test_drawn_normals_are_independent_and_normal(shape):
    drawn = np.full(shape, np.nan, np.float32)
    fill_normals(drawn, np.random.default_rng(7))
    assert np.isfinite(drawn).all()
    flat = drawn.ravel().astype(np.float64)
    if flat.size < 100:
        return
    assert stats.kstest(flat, stats.norm.cdf).pvalue > 1e-3
    # Both numbers of a pair come from one radius and one angle.
    half = (flat.size + 1) // 2
    first, second = flat[: flat.size - half], flat[half:]
    for f in (lambda x: x, np.square, np.abs):
        assert stats.pearsonr(f(first), f(second)).pvalue > 1e-3
    assert stats.kstest(first**2 + second**2, stats.chi2(2).cdf).pvalue > 1e-3


def test_nothing_is_filled_where_there_is_no_place():
    fill_normals(np.empty((0, 5), np.float32), np.random.default_rng(0))


def test_every_place_and_key_has_numbers_of_its_own():
    def first(key, *place):
        return generator_of(jax.random.key(key), *place).random()

    seen = [first(0, 0), first(0, 1), first(1, 0), first(0, 0, 1), first(0, 2**32 - 1)]
    assert len(set(seen)) == len(seen)
    assert first(3, 4) == first(3, 4)
