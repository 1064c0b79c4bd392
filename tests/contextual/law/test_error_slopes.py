"""Errors and their derivatives in NumPy, against JAX's formulas and automatic differentiation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.contextual.law.error_slopes import errors_and_slopes
from jaxprompt.contextual.law.least_error import exact_error
from jaxprompt.contextual.setting import Setting

SETTING = Setting.make(
    tokens=5, relevant=2, signal=1.0, context=1.2, noise=0.8, shifts=((0.0, 0.0), (0.5, -0.3)),
    shift_weights=(0.4, 0.6),
)  # fmt: skip


@pytest.mark.parametrize("model", ["prompt", "linear_prompt"])
def test_against_automatic_differentiation(model):
    rng = np.random.default_rng(0)
    points, nodes = rng.normal(size=(8, 8)), rng.normal(size=(16, 3))
    points[0, 2:] = 0.0
    points[0, 4] = 1.3  # head and prompt without a remainder
    with jax.enable_x64(True):

        def error(point):
            return exact_error(model, SETTING, point[:4], point[4:], jnp.asarray(nodes))

        expected, slopes = jax.jit(jax.vmap(jax.value_and_grad(error)))(jnp.asarray(points))
    errors, found = errors_and_slopes(model, SETTING, points, nodes)
    np.testing.assert_allclose(errors, expected, rtol=1e-12)
    np.testing.assert_allclose(found, slopes, atol=1e-14)
