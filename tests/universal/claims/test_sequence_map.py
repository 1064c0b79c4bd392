"""`universal.sequence_map`: its closed forms by quadrature, and the layers that it runs."""

import numpy as np
import pytest
from scipy import integrate

from jaxprompt.universal.claims.sequence_map import mean_length_in_cube
from jaxprompt.universal.networks import stack


@pytest.mark.parametrize("length", [1, 2, 3])
def test_mean_length_in_a_cube(length):
    exact = integrate.nquad(
        lambda *u: np.linalg.norm(u), [(0, 0.5)] * length, opts={"epsabs": 1e-6, "epsrel": 1e-6}
    )[0]
    assert mean_length_in_cube(length) == pytest.approx(exact * 2**length, rel=1e-4)
    assert mean_length_in_cube(2) == pytest.approx((np.sqrt(2) + np.arcsinh(1)) / 6, rel=1e-7)


def test_cantor_codes_are_distinct_and_ordered_by_interleaved_digits():
    codes = 3 * stack.cantor_code(stack.cells(3, 2), 3, 2) @ np.array([1 / 3, 1 / 9])
    assert np.diff(np.sort(codes)).min() == pytest.approx(2 * 3.0**-6)
    assert codes.max() < 1.0 + 1e-12


def test_layers_sort_sequences_of_three():
    built = stack.joint_stack(lambda x: np.sort(x, axis=1), 3, 5)
    x = np.random.default_rng(0).uniform(size=(50, 3))
    assert np.abs(built(x) - np.sort(x, axis=1)).max() <= 0.1 + 1e-9
    assert built.tokens == (0, 3 * 5**3)
