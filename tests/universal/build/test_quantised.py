"""Prefixes in few bits: their certificates hold, and say no more than they must."""

import inspect
import pickle

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_prefix
from jaxprompt.universal.numerics import rounding

FORMATS = [4, 8, 16, "float16", "bfloat16", "float8_e4m3", "float8_e5m2"]


def smooth(x):
    return np.exp(x[..., 0] * x[..., 1]) + x[..., 2]


def sphere_points(m, count=1000, seed=99):
    points = np.random.default_rng(seed).normal(size=(count, m + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def plain_head(x, keys, values, content):
    """Softmax attention in long doubles to the prefix and to content of score 0 and value 0."""
    x, keys, values = (np.asarray(a, np.longdouble) for a in (x, keys, values))
    scores = x @ keys.T
    top = np.maximum(scores.max(1, keepdims=True), 0)
    weight = np.exp(scores - top)
    total = weight.sum(1, keepdims=True) + content * np.exp(-top)
    return (weight / total @ values).astype(float)


@pytest.fixture(scope="module")
def prefix():
    return build_prefix(
        smooth, sphere_dim=2, accuracy=0.05, lipschitz=2.0, content=3, method="two_term",
        test_points=1000,
    )  # fmt: skip


@pytest.mark.parametrize("bits", mostly_slow(FORMATS, {8, "bfloat16", "float8_e4m3"}.__contains__))
def test_the_certificate_of_a_rounded_prefix_holds(prefix, bits):
    rounded, points = prefix.quantised(bits), sphere_points(2)
    note = rounded.certificate
    assert note.bits == bits
    # Keys and values are numbers of the format, and the nearest ones.
    for numbers, exact in ((rounded.keys, prefix.keys), (rounded.values, prefix.values)):
        again, _ = rounding.round_to(exact, bits)
        np.testing.assert_array_equal(numbers, again)
    output = plain_head(points, rounded.keys, rounded.values, 3)
    np.testing.assert_allclose(rounded(points)[:, None], output, rtol=1e-9, atol=1e-12)
    error = np.abs(output[:, 0] - smooth(points))
    change = np.abs(output[:, 0] - prefix(points))
    assert change.max() <= note.rounding_bound
    assert error.max() <= note.guaranteed * (1 + 1e-9)
    assert error.max() <= 1.1 * note.measured + 1e-12
    assert note.guaranteed == note.estimated
    assert "rounding" in str(note)


@pytest.mark.parametrize("bits", [8, 12, "float16", "bfloat16"])
def test_the_law_tells_the_change(prefix, bits):
    """Errors of 100 and more entries average; the law is within a third of what they leave."""
    rounded, points = prefix.quantised(bits), sphere_points(2)
    change = np.abs(rounded(points) - prefix(points))
    assert np.sqrt(np.square(change).mean()) == pytest.approx(
        rounded.certificate.rounding_rms, rel=0.35
    )


def test_more_bits_change_less(prefix):
    bounds = [prefix.quantised(bits).certificate.rounding_bound for bits in (6, 9, 12, 20)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 1e-4
    full = prefix.certificate
    assert full.bits is None
    assert full.rounding_bound == full.rounding_rms == 0.0
    assert prefix.quantised(32).certificate.measured == pytest.approx(full.measured, rel=1e-6)
    # Rounding starts from the numbers before any rounding.
    np.testing.assert_array_equal(prefix.quantised(4).quantised(12).keys, prefix.quantised(12).keys)


@pytest.mark.parametrize("bits", some_slow([8, "bfloat16"], first=1))
def test_builds_with_few_bits(bits):
    """The values of the default method are ten times f, which few bits do not bear."""
    given = {"sphere_dim": 2, "accuracy": 0.05, "test_points": 1000, "budget": 600}
    prefix = build_prefix(smooth, bits=bits, **given)
    error = np.abs(prefix(sphere_points(2)) - smooth(sphere_points(2))).max()
    assert prefix.certificate.reached
    assert error <= 1.1 * 0.05
    assert len(np.unique(prefix.keys)) < 2**16


def test_what_cannot_be_reached_in_so_few_bits_is_said():
    prefix = build_prefix(
        lambda x: np.exp(x[..., 0]), sphere_dim=1, accuracy=1e-4, bits=4, budget=60,
        test_points=500,
    )  # fmt: skip
    assert not prefix.certificate.reached
    assert "NOT reached" in str(prefix.certificate)


def test_a_stored_prefix_keeps_its_numbers_and_not_its_function(prefix):
    rounded = prefix.quantised(8)
    copy = pickle.loads(pickle.dumps(rounded))
    points = sphere_points(2, 20)
    np.testing.assert_array_equal(copy(points), rounded(points))
    assert copy.certificate == rounded.certificate
    with pytest.raises(ParameterError, match="`bits`") as caught:
        copy.quantised(6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [1, "int8", True, 8.0])
def test_other_formats_are_refused(prefix, bits):
    # The functions themselves, without the type checks that tests wrap around them.
    with pytest.raises(ParameterError, match="`bits`"):
        inspect.unwrap(build_prefix)(smooth, sphere_dim=2, accuracy=0.1, bits=bits)
    with pytest.raises(ParameterError, match="`bits`"):
        inspect.unwrap(type(prefix).quantised)(prefix, bits)
