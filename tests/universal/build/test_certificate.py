"""What a certificate says of an error, against the error at places that nothing was told of."""

import math

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt.universal import build_prefix
from jaxprompt.universal.build import certificate
from jaxprompt.universal.numerics import point_sets


def bump(m, seed, sharpness=1000.0):
    peak = np.random.default_rng(seed).normal(size=m + 1)
    peak /= np.linalg.norm(peak)
    return peak, lambda x: np.exp(-sharpness * ((x - peak) ** 2).sum(-1))


@pytest.mark.parametrize("seed", some_slow(range(3), first=1))
def test_a_bump_that_samples_miss_is_climbed(seed):
    """exp(−1000 |x − p|²) on S³: "guaranteed" 4.1e-6 was given where the error is 1."""
    peak, f = bump(3, seed)
    prefix = build_prefix(f, sphere_dim=3, accuracy=0.1, budget=250)
    note = prefix.certificate
    true = abs(float(prefix(peak)) - 1.0)
    assert true > 0.9
    assert note.guaranteed == math.inf
    assert note.lipschitz_source == "estimated"
    assert "no guarantee" in str(note)
    assert "guaranteed error" not in str(note)
    assert note.measured >= 0.99 * true
    assert note.estimated >= note.measured
    assert not note.reached


@pytest.mark.parametrize("sphere_dim", mostly_slow([1, 2, 3, 5], {1, 3}.__contains__))
def test_a_guarantee_holds_at_the_bump(sphere_dim):
    peak, f = bump(sphere_dim, 7, sharpness=30.0)
    slope = math.sqrt(2 * 30.0 / math.e)  # of exp(−30 d²), d the chord
    prefix = build_prefix(
        f, sphere_dim=sphere_dim, accuracy=0.1, budget=60, lipschitz=slope, test_points=2000
    )
    note = prefix.certificate
    assert note.measured <= note.guaranteed == note.estimated
    assert abs(float(prefix(peak)) - 1.0) <= note.guaranteed
    assert note.lipschitz_source == "given"
    # Output and function cannot be farther apart than their sizes.
    assert note.guaranteed <= note.value_norm + 1 + math.pi * slope + 1e-6


@pytest.mark.slow
def test_a_large_offset_is_no_slope():
    """x₀ + 1e8 has the constant 1: rounding over a step of 1e-4 looked like a larger one."""
    prefix = build_prefix(
        lambda x: x[..., 0] + 1e8, sphere_dim=2, accuracy=1.0, lipschitz=1.0, test_points=2000
    )
    note = prefix.certificate
    points = np.random.default_rng(3).normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    error = np.abs(prefix(points) - (points[:, 0] + 1e8)).max()
    assert error <= note.guaranteed
    assert note.lipschitz == 1.0
    # In float32 numbers of 1e8 are eight apart, and the certificate says what that does.
    assert note.measured_float32 >= 4.0 > note.measured


def test_climbing_never_goes_down_and_ends_higher():
    _, f = bump(2, 1, sharpness=200.0)
    test = point_sets.fibonacci(500)
    problem = certificate.Problem(
        lambda x: f(x)[:, None], 2, 0.1, 1, 1.0, True, 1.0, 10.0, test, f(test)[:, None], 0
    )
    best = certificate.Candidate("net", test[:20], np.zeros((20, 1)), 1.0, 0.0)
    error = f(test)
    points, height = certificate.climb(problem, best, test, error)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(height, f(points), rtol=1e-9)
    assert height.max() > 0.999 > error.max()


@pytest.mark.parametrize("lipschitz", [0.5, 3.0])
def test_needed_tokens_on_the_circle_are_the_widths(lipschitz):
    prefix = build_prefix(
        lambda x: 0.4 * x[..., 0], sphere_dim=1, accuracy=0.2, lipschitz=lipschitz, test_points=500
    )
    needed = 2 * math.ceil(math.pi * lipschitz / 0.4) - 1
    assert prefix.certificate.needed_tokens == needed
