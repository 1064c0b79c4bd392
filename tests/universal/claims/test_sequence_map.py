"""`universal.sequence_map`: its closed forms by quadrature, and the layers that it runs."""

import jax
import numpy as np
import pytest
from scipy import integrate

import jaxprompt as jp
from jaxprompt.universal.claims.sequence_map import least_that_works, mean_length_in_cube
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


def sort_rows(x):
    return np.sort(x, axis=1)


def stack_of_side(side):
    return stack.joint_stack(sort_rows, 2, side)


def largest_error(built, side):
    x = np.random.default_rng(side).uniform(size=(400, 2))
    return np.abs(built(x) - sort_rows(x)).max()


def test_a_stack_that_is_larger_than_it_must_be_is_not_counted():
    """At an accuracy that a side of 3 reaches, the least stack is not that of side 4."""
    _, side = least_that_works(stack_of_side(4), 4, 1 / 6, stack_of_side, largest_error)
    assert side == 3
    built, side = least_that_works(stack_of_side(4), 4, 0.14, stack_of_side, largest_error)
    assert side == 4
    assert built.tokens == (0, 2 * 4**2)


@pytest.mark.slow
def test_counts_of_more_cells_than_are_tried():
    """Tokens of 17³ cells are counted on a share of them."""
    claim = jp.claim("universal.sequence_map")
    point = {"form": "joint", "resolution": 17, "content": 3}
    measured = claim.simulate(key=jax.random.key(0), trials=4, **point)
    assert measured["tokens"].mean == pytest.approx(3 * 17**3)
    assert measured["layers"].mean == 2
    assert measured["sup_error"].mean == pytest.approx(0.5 / 17, rel=3e-4)
