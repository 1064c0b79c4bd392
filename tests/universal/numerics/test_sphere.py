"""Kernel averages against closed forms, nets against brute force."""

import jax
import mpmath
import numpy as np
import pytest
from scipy import special

from jaxprompt.errors import ParameterError
from jaxprompt.universal.numerics import harmonics, sphere


@pytest.mark.parametrize(
    ("m", "value"), [(1, 0.2580734461392297), (2, 0.4016002672689492), (3, 0.5062964185680844)]
)
def test_mean_angle_reference(m, value):
    with jax.enable_x64(True):
        assert float(sphere.mean_angle(m, 10.0)) == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("lam", [0.01, 0.7, 10.0, 14.9, 15.1, 400.0])
def test_mean_angle_closed_forms(lam):
    k = np.arange(1, 4001, 2)
    circle = np.pi / 2 - 4 / np.pi * (special.ive(k, lam) / k**2).sum() / special.ive(0, lam)
    # π (I_0 − e^{−λ}) / (2 sinh λ), numerator and denominator times e^{−λ}
    ball = np.pi * (special.ive(0, lam) - np.exp(-2 * lam)) / -np.expm1(-2 * lam)
    with jax.enable_x64(True):
        assert float(sphere.mean_angle(1, lam)) == pytest.approx(
            circle, rel=2e-9 if lam < 100 else 1e-6
        )
        assert float(sphere.mean_angle(2, lam)) == pytest.approx(ball, rel=1e-12)


@pytest.mark.parametrize(("m", "lam"), [(1, 1e7), (4, 3.0), (40, 0.01), (401, 1e4)])
def test_mean_angle_by_quadrature(m, lam):
    with mpmath.workdps(30):
        top = mpmath.acos(2 * lam / ((m - 1) + mpmath.sqrt((m - 1) ** 2 + 4 * lam**2)))
        width = 1 / mpmath.sqrt(
            lam * mpmath.cos(top) + (m - 1) / mpmath.sin(top) ** 2 if m > 1 else lam
        )
        cuts = [max(top + j * width, 0) for j in (-14, -6, -2, 0, 2, 6, 14)]
        cuts = sorted({min(c, mpmath.pi) for c in cuts})

        def kernel(t):
            return mpmath.exp(
                lam * (mpmath.cos(t) - mpmath.cos(top))
                + (m - 1) * mpmath.log(mpmath.sin(t) / mpmath.sin(top) if m > 1 else 1)
            )

        exact = mpmath.quad(lambda t: t * kernel(t), cuts) / mpmath.quad(kernel, cuts)
    with jax.enable_x64(True):
        assert float(sphere.mean_angle(m, lam)) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 50, 401])
@pytest.mark.parametrize("lam", [0.01, 3.0, 30.0, 1e4])
def test_log_mean_exp(m, lam):
    with mpmath.workdps(30):
        nu = mpmath.mpf(m - 1) / 2
        exact = mpmath.log(
            mpmath.gamma(nu + 1) * (mpmath.mpf(2) / lam) ** nu * mpmath.besseli(nu, lam)
        )
    with jax.enable_x64(True):
        # A logarithm near 0 is known to rounding of 1, one of a large number relatively.
        assert float(sphere.log_mean_exp(m, lam)) == pytest.approx(
            float(exact), rel=1e-13, abs=1e-13
        )


def test_area():
    assert [sphere.area(m) for m in (1, 2, 3)] == pytest.approx(
        [2 * np.pi, 4 * np.pi, 2 * np.pi**2]
    )


@pytest.mark.parametrize(("m", "radius"), [(1, 0.3), (2, 0.5), (2, 0.11), (3, 0.5), (3, 0.3)])
def test_net_is_a_net(m, radius):
    cover = sphere.net(m, radius)
    angle = np.arccos(
        np.clip(cover.centres @ cover.centres.T - 2 * np.eye(len(cover.centres)), -1, 1)
    )
    assert angle.min() >= radius * (1 - 1e-9)
    assert cover.separation == pytest.approx(angle.min(), rel=1e-6)
    assert cover.covering < radius
    points = np.random.default_rng(0).normal(size=(20_000, m + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    hole = np.arccos(np.clip((points @ cover.centres.T).max(1), -1, 1)).max()
    assert 0.8 * cover.covering < hole <= cover.covering + 1e-12


def test_circumcentres_are_the_deepest_holes():
    centres = sphere.fibonacci(60)
    vertices, radii = sphere.circumcentres(centres)
    nearest = np.arccos((vertices @ centres.T).max(1))
    np.testing.assert_allclose(radii, nearest, rtol=1e-9)
    octant = np.concatenate([np.eye(3), np.full((1, 3), 3**-0.5)])
    assert sphere.covering_radius(octant) == pytest.approx(np.pi - np.arccos(3**-0.5))


def test_covering_radius_on_the_circle():
    assert sphere.covering_radius(sphere.equispaced(7, 0.2)) == pytest.approx(np.pi / 7)


@pytest.mark.parametrize(("m", "count"), [(1, 9), (2, 33), (3, 20), (6, 15)])
def test_quasi_uniform_has_the_number_asked_for(m, count):
    points = sphere.quasi_uniform(m, count)
    assert points.shape == (count, m + 1)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-14)


def test_uniform_points_have_the_right_second_moment():
    points = np.asarray(sphere.uniform(jax.random.key(0), 20_000, 3))
    np.testing.assert_allclose(points.T @ points / len(points), np.eye(4) / 4, atol=0.01)


@pytest.mark.parametrize(
    ("m", "radius", "word"),
    [(4, 0.3, "sphere_dim"), (2, 0.0, "radius"), (2, 2.0, "radius"), (3, 1e-3, "radius")],
)
def test_net_refuses(m, radius, word):
    with pytest.raises(ParameterError, match=word):
        sphere.net(m, radius)


def test_flat_centres_are_refused():
    with pytest.raises(ParameterError, match="centres"):
        sphere.circumcentres(np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, -1.0, 0]]))


@pytest.mark.parametrize(("m", "degree"), [(1, 5), (2, 4), (3, 3), (6, 2), (2, 0), (2, 1)])
def test_zonal_harmonics(m, degree):
    t = np.linspace(-1, 1, 9)
    if m == 1:
        exact = np.cos(degree * np.arccos(t))
    else:
        exact = special.eval_gegenbauer(degree, (m - 1) / 2, t) / special.eval_gegenbauer(
            degree, (m - 1) / 2, 1.0
        )
    np.testing.assert_allclose(harmonics.zonal(t, m, degree), exact, atol=1e-13)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_area_bounds_enclose_what_nets_do(m):
    cover = sphere.net(m, 0.4)
    count = len(cover.centres)
    assert sphere.covering_bound(m, count) <= cover.covering * (1 + 1e-12)
    assert sphere.packing_bound(m, 0.4) <= count


def test_cap_share():
    assert sphere.cap_share(1, 1.0) == pytest.approx(1 / np.pi)
    assert sphere.cap_share(2, 2.5) == pytest.approx((1 - np.cos(2.5)) / 2)
    assert sphere.cap_share(5, np.pi) == pytest.approx(1.0)
