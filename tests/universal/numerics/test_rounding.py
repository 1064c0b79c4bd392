"""Numbers of few bits against every number of the format."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.universal.numerics import rounding


def all_float8(dtype):
    """Every finite number of an eight-bit format."""
    numbers = np.arange(256, dtype=np.uint8).view(np.dtype(dtype)).astype(np.float64)
    return np.unique(numbers[np.isfinite(numbers)])


def nearest(levels, numbers):
    """The distance of each number to the nearest level."""
    return np.abs(levels[:, None] - numbers).min(axis=0)


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
@pytest.mark.parametrize("scale", [1e-30, 0.1, 37.0])
def test_integers_are_the_nearest_of_their_levels(bits, scale):
    numbers = scale * np.random.default_rng(0).normal(size=(40, 3))
    rounded, steps = rounding.round_to(numbers, bits)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(numbers).max()
    levels = np.arange(-top, top + 1) * largest / top
    np.testing.assert_allclose(
        np.abs(rounded - numbers).ravel(), nearest(levels, numbers.ravel()), atol=1e-13 * largest
    )
    assert np.abs(rounded).max() == pytest.approx(largest, rel=1e-15)  # an ulp or two
    np.testing.assert_allclose(steps, largest / top)
    assert (np.abs(rounded - numbers) <= steps / 2 * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e5m2"])
def test_eight_bit_floats_are_the_nearest_of_all(name):
    levels = all_float8(rounding.FLOAT_FORMATS[name])
    numbers = np.random.default_rng(1).normal(size=500) * 0.3
    rounded, steps = rounding.round_to(numbers, name)
    # One power of two for all, which is sought among many.
    misses = [
        np.abs(np.abs(rounded - numbers) - nearest(2.0**power * levels, numbers)).max()
        for power in range(-40, 40)
    ]
    assert min(misses) < 1e-15
    assert (np.abs(rounded - numbers) <= steps / 2 * (1 + 1e-12)).all()


@pytest.mark.parametrize(("name", "digits"), [("float16", 10), ("bfloat16", 7)])
def test_sixteen_bit_floats(name, digits):
    numbers = np.random.default_rng(2).normal(size=500) * 1e7  # beyond float16's own range
    rounded, steps = rounding.round_to(numbers, name)
    relative = np.abs(rounded - numbers) / np.abs(numbers)
    assert relative.max() <= 2.0 ** -(digits + 1)
    assert (np.abs(rounded - numbers) <= steps / 2 * (1 + 1e-12)).all()
    assert np.median(steps / np.abs(numbers)) == pytest.approx(2.0**-digits, rel=0.5)


def test_zeros_stay_zeros():
    for bits in (8, "float8_e4m3"):
        rounded, steps = rounding.round_to(np.zeros((2, 2)), bits)
        assert not rounded.any()
        assert not steps.any()


@pytest.mark.parametrize("bits", [1, 33, 8.0, True, "int8", "float8", None])
def test_formats_that_are_none_are_refused(bits):
    with pytest.raises(ParameterError, match="`bits`") as caught:
        rounding.check_bits(bits, "here")
    assert "\n" not in str(caught.value)


def test_largest_spread():
    points = np.random.default_rng(3).normal(size=(50, 4))
    pairs = np.linalg.norm(points[:, None] - points, axis=-1)
    assert rounding.largest_spread(points, with_zero=False) == pytest.approx(pairs.max())
    with_zero = max(pairs.max(), np.linalg.norm(points, axis=1).max())
    assert rounding.largest_spread(points, with_zero=True) == pytest.approx(with_zero)
    many = np.random.default_rng(4).normal(size=(3000, 2))
    exact = max(np.linalg.norm(many - p, axis=1).max() for p in many)
    assert exact <= rounding.largest_spread(many, with_zero=False) <= 2 * exact


def test_names_are_those_of_jax():
    for name, dtype in rounding.FLOAT_FORMATS.items():
        assert jnp.finfo(dtype).bits in (8, 16)
        assert str(jnp.finfo(dtype).bits) in name
