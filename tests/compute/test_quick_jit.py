"""A function with options of the compiler, alone and as part of other programs."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.quick_jit import QuickJit


def test_alone_and_inside_of_other_programs():
    traces = []

    @QuickJit
    def cube(x, power=3):
        """x to the power."""
        traces.append(x)
        return jnp.power(x, power)

    numbers = np.array([1.0, 2.0, 3.0], np.float32)
    np.testing.assert_array_equal(cube(numbers), [1, 8, 27])
    np.testing.assert_array_equal(cube(numbers), [1, 8, 27])
    assert len(traces) == 1, "one trace serves both calls"
    np.testing.assert_array_equal(jax.jit(cube)(numbers), [1, 8, 27])
    np.testing.assert_array_equal(jax.vmap(cube)(numbers), [1, 8, 27])
    np.testing.assert_array_equal(jax.jit(lambda x: cube(x, power=2))(numbers), [1, 4, 9])
    np.testing.assert_allclose(jax.grad(lambda x: cube(x).sum())(numbers), 3 * numbers**2)
    assert (cube.__name__, cube.__doc__) == ("cube", "x to the power.")
    assert list(inspect.signature(cube).parameters) == ["x", "power"]
    before = len(traces)
    cube.clear_cache()
    cube(numbers)
    assert len(traces) == before + 1
