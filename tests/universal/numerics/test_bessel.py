"""Bessel ratios against mpmath, over the whole range they promise."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxprompt.universal.numerics import bessel

TABLE = [
    (1, 1, 10.0, "0.94859982595484595897"),
    (1, 3, 10.0, "0.62448781203123363569"),
    (2, 1, 10.0, "0.90000000412230725337"),
    (3, 1, 10.0, "0.85418530832368160972"),
]
ORDERS = (0.0, 0.5, 1.0, 7.5, 50.0, 200.0)
DEGREES = (1, 2, 3, 10, 40)
ARGUMENTS = (1e-2, 0.3, 1.0, 5.0, 20.0, 39.9, 40.1, 300.0, 4e3, 4.1e4, 1e6, 1e7)


def oracle(order, degree, x):
    with mpmath.workdps(40):
        top = mpmath.besseli(mpmath.mpf(order) + degree, mpmath.mpf(x))
        return top / mpmath.besseli(mpmath.mpf(order), mpmath.mpf(x))


@pytest.fixture(scope="module")
def grid():
    points = [(n, k, x) for n in ORDERS for k in DEGREES for x in ARGUMENTS]
    exact = [oracle(*point) for point in points]
    with mpmath.workdps(40):
        table = {
            "ratio": np.array([float(r) for r in exact]),
            "defect": np.array([float(1 - r) for r in exact]),
            "log_ratio": np.array([float(mpmath.log(r)) for r in exact]),
        }
    return tuple(np.array(column, float) for column in zip(*points, strict=True)), table


@pytest.mark.parametrize(("m", "degree", "x", "value"), TABLE)
def test_reference_table(m, degree, x, value):
    with jax.enable_x64(True):
        assert float(bessel.ratio((m - 1) / 2, degree, x)) == pytest.approx(float(value), rel=1e-14)


def test_defect_far_out():
    with jax.enable_x64(True):
        assert float(bessel.defect(0.0, 1, 1e6)) == pytest.approx(
            5.000001250001250002e-7, rel=1e-14
        )


@pytest.mark.parametrize("name", ["ratio", "defect", "log_ratio"])
def test_twelve_digits_everywhere(grid, name):
    points, table = grid
    with jax.enable_x64(True):
        measured = np.asarray(getattr(bessel, name)(*points))
    np.testing.assert_allclose(measured, table[name], rtol=1e-12, atol=0)


def test_derivative_is_that_of_the_ratio():
    with jax.enable_x64(True):
        slope = jax.grad(bessel.log_ratio, argnums=2)
        for order, degree, x in [(0.0, 1, 0.3), (0.5, 3, 12.0), (200.0, 2, 90.0), (0.0, 2, 1e5)]:
            with mpmath.workdps(40):
                a, k, at = mpmath.mpf(order), degree, mpmath.mpf(x)
                exact = k / at + oracle(a + k, 1, at) - oracle(a, 1, at)
            assert float(slope(order, degree, x)) == pytest.approx(float(exact), rel=1e-10)


def test_expansion_for_large_argument():
    x = 1e4
    with jax.enable_x64(True):
        for m, k in [(1, 1), (2, 3), (5, 2)]:
            big, b = k * (k + m - 1), (m - 1) ** 2
            series = (
                big / (2 * x) - big * (big - 2) / (8 * x**2)
                - (-(big**3) + 8 * big**2 - 13 * big + big * b) / (48 * x**3)
            )  # fmt: skip
            assert float(bessel.defect((m - 1) / 2, k, x)) == pytest.approx(series, rel=1e-9)


def test_jit_vmap_and_broadcasting():
    with jax.enable_x64(True):
        x = jnp.array([0.1, 7.0, 800.0])
        alone = [bessel.ratio(1.0, 2, v) for v in x.tolist()]
        np.testing.assert_allclose(jax.jit(bessel.ratio)(1.0, 2, x), alone, rtol=1e-15)
        np.testing.assert_allclose(
            jax.jit(jax.vmap(lambda v: bessel.ratio(1.0, 2, v)))(x), alone, rtol=1e-15
        )
    assert bessel.ratio(np.zeros((2, 1)), 1, np.array([0.1, 7.0, 800.0])).shape == (2, 3)


def test_float32_keeps_its_digits():
    assert bessel.ratio(0.0, 1, jnp.float32(3.0)).dtype == jnp.float32
    assert float(bessel.defect(0.0, 1, jnp.float32(1e6))) == pytest.approx(5.0e-7, rel=1e-5)


def test_outside_its_domain_the_answer_is_nan():
    assert np.isnan(float(bessel.ratio(0.0, 1, -1.0)))
    assert np.isnan(float(bessel.ratio(-0.5, 1, 1.0)))


def test_degree_zero_is_one():
    assert float(bessel.ratio(0.5, 0, 3.0)) == 1.0
