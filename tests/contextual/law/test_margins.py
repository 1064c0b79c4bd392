"""The parts that every exact error shares, against plain NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as sps

from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    normal_error,
    token_products,
    wrong_sign,
)
from jaxprompt.contextual.setting import Setting

SETTING = Setting.make(
    tokens=6, relevant=2, signal=1.1, context=1.3, noise=0.9,
    shifts=((0.0, 0.0), (0.5, 0.3), (-0.2, 1.0)),
)  # fmt: skip
HEAD, PROMPT = np.array([[1.0, 0.3, 0.4, -0.2], [0.2, 1.0, 0.3, 0.5]])
SIGNAL, CONTEXT = 1.1 * np.eye(4)[0], 1.3 * np.eye(4)[1]


@pytest.mark.usefixtures("x64")
def test_inner_products_of_vectors():
    geometry = Geometry.of_vectors(SETTING, jnp.asarray(HEAD), jnp.asarray(PROMPT))
    expected = (
        HEAD @ SIGNAL, HEAD @ CONTEXT, np.sqrt(HEAD @ HEAD),
        PROMPT @ SIGNAL, PROMPT @ CONTEXT, np.sqrt(PROMPT @ PROMPT), HEAD @ PROMPT,
    )  # fmt: skip
    np.testing.assert_allclose(geometry, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_products_with_tokens():
    on = labels_and_shifts(SETTING, jnp.float64)
    relevant, irrelevant = token_products(on, HEAD @ CONTEXT, HEAD @ SIGNAL)
    for (i, y), (j, (dq, dw)) in itertools.product(
        enumerate((-1.0, 1.0)), enumerate(SETTING.shifts)
    ):
        own, other = CONTEXT + y * SIGNAL, -dq * CONTEXT - dw * y * SIGNAL
        assert float(relevant[i, 0, 0]) == pytest.approx(HEAD @ own, rel=1e-14)
        assert float(irrelevant[i, j, 0]) == pytest.approx(HEAD @ other, abs=1e-14)


@pytest.mark.usefixtures("x64")
def test_a_head_along_and_across_the_prompt():
    geometry = Geometry.of_vectors(SETTING, jnp.asarray(HEAD), jnp.asarray(PROMPT))
    along, across = along_and_across(geometry, jnp.float64)
    unit = PROMPT / np.linalg.norm(PROMPT)
    assert float(along) == pytest.approx(HEAD @ unit, rel=1e-14)
    assert float(across) == pytest.approx(np.linalg.norm(HEAD - (HEAD @ unit) * unit), rel=1e-14)
    nothing = Geometry.of_vectors(SETTING, jnp.asarray(HEAD), jnp.zeros(4))
    along, across = along_and_across(nothing, jnp.float64)
    assert float(along) == 0
    assert float(across) == pytest.approx(np.linalg.norm(HEAD), rel=1e-14)


# One program for each shape, where every operation alone would be one.
error_of = jax.jit(normal_error)


@jax.jit
@jax.grad
def slope_in_deviation(deviation):
    return normal_error(jnp.ones(1), deviation * jnp.ones(1))[0]


@pytest.mark.parametrize("point", [(np.nan, 1.0), (np.nan, 0.0), (1.0, np.nan), (np.nan, np.nan)])
def test_what_is_no_number_gives_no_error(point):
    assert np.isnan(error_of(*point))
    assert np.isnan(wrong_sign(jnp.asarray(np.nan)))


def test_normal_error():
    margin, deviation = np.array([1.0, 0.0, 2.0, -2.0, 0.0]), np.array([1.0, 1, 0, 0, 0])
    expected = [sps.norm.cdf(-1), 0.5, 0.0, 1.0, 0.5]
    np.testing.assert_allclose(error_of(margin, deviation), expected, rtol=1e-6)
    assert np.isfinite(slope_in_deviation(0.0))
