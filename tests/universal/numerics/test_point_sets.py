"""Nets and radii against brute force, bounds against known packings and coverings."""

import jax
import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.universal.numerics import point_sets


def test_area():
    assert [point_sets.area(m) for m in (1, 2, 3)] == pytest.approx(
        [2 * np.pi, 4 * np.pi, 2 * np.pi**2]
    )


@pytest.mark.parametrize(("m", "radius"), [(1, 0.3), (2, 0.5), (2, 0.11), (3, 0.5), (3, 0.3)])
def test_net_is_a_net(m, radius):
    cover = point_sets.net(m, radius)
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
    centres = point_sets.fibonacci(60)
    vertices, radii = point_sets.circumcentres(centres)
    nearest = np.arccos((vertices @ centres.T).max(1))
    np.testing.assert_allclose(radii, nearest, rtol=1e-9)
    octant = np.concatenate([np.eye(3), np.full((1, 3), 3**-0.5)])
    assert point_sets.covering_radius(octant) == pytest.approx(np.pi - np.arccos(3**-0.5))


def test_covering_radius_on_the_circle():
    assert point_sets.covering_radius(point_sets.equispaced(7, 0.2)) == pytest.approx(np.pi / 7)


@pytest.mark.parametrize(("m", "count"), [(1, 9), (2, 33), (3, 20), (6, 15)])
def test_quasi_uniform_has_the_number_asked_for(m, count):
    points = point_sets.quasi_uniform(m, count)
    assert points.shape == (count, m + 1)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-14)


def test_uniform_points_have_the_right_second_moment():
    points = np.asarray(point_sets.uniform(jax.random.key(0), 20_000, 3))
    np.testing.assert_allclose(points.T @ points / len(points), np.eye(4) / 4, atol=0.01)


@pytest.mark.parametrize(
    ("m", "radius", "word"),
    [(4, 0.3, "sphere_dim"), (2, 0.0, "radius"), (2, 2.0, "radius"), (3, 1e-3, "radius")],
)
def test_net_refuses(m, radius, word):
    with pytest.raises(ParameterError, match=word):
        point_sets.net(m, radius)


def test_flat_centres_are_refused():
    with pytest.raises(ParameterError, match="centres"):
        point_sets.circumcentres(np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, -1.0, 0]]))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_area_bounds_enclose_what_nets_do(m):
    cover = point_sets.net(m, 0.4)
    count = len(cover.centres)
    assert point_sets.covering_bound(m, count) <= cover.covering * (1 + 1e-12)
    assert point_sets.packing_bound(m, 0.4) <= count


def test_cap_share():
    assert point_sets.cap_share(1, 1.0) == pytest.approx(1 / np.pi)
    assert point_sets.cap_share(2, 2.5) == pytest.approx((1 - np.cos(2.5)) / 2)
    assert point_sets.cap_share(5, np.pi) == pytest.approx(1.0)
