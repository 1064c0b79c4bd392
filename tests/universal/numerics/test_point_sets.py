"""Nets and radii against brute force, bounds against known packings and coverings."""

import jax
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import optimize, special

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
    [
        (6, 0.3, "sphere_dim"),
        (2, 0.0, "radius"),
        (2, 2.0, "radius"),
        (3, 1e-3, "radius"),
        (4, 0.2, "radius"),
        (5, 0.4, "radius"),
    ],
)
def test_net_refuses(m, radius, word):
    with pytest.raises(ParameterError, match=word):
        point_sets.net(m, radius)


def test_flat_centres_are_refused():
    with pytest.raises(ParameterError, match="centres"):
        point_sets.circumcentres(np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, -1.0, 0]]))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_covering_bounds_enclose_what_nets_do(m):
    cover = point_sets.net(m, 0.4)
    count = len(cover.centres)
    assert point_sets.covering_bound(m, count) <= cover.covering * (1 + 1e-12)
    # A net need not hold as many points as fit, but it covers.
    assert point_sets._covering_number(m, 0.4) <= count


@pytest.mark.parametrize(
    ("m", "count"), [(1, 6), (2, 12), (3, 24), (4, 40), (5, 72), (6, 126), (7, 240), (23, 196560)]
)
def test_kissing_numbers(m, count):
    """Points 60° apart: the numbers known (m = 1, 2, 3, 7, 23) or the best known."""
    assert point_sets.packing_bound(m, np.pi / 3) == count


@pytest.mark.parametrize(
    ("m", "distance", "count"),
    [
        (1, 2 * np.pi / 7, 7),
        (2, 1.9106, 4),  # tetrahedron
        (2, np.pi / 2, 6),  # octahedron
        (2, np.arctan(2), 12),  # icosahedron
        (3, np.pi / 5, 120),  # 600-cell
        (5, np.pi / 2, 12),
        (4, np.pi, 2),
    ],
)
def test_packings_that_are_known(m, distance, count):
    assert point_sets.packing_bound(m, distance) == count


DISTANCES = some_slow([0.5, np.pi / 3, np.pi / 2, 2.2, 0.8, 1.3, 1.7], first=4)


def delsarte_bound(m, distance, degree=26):
    """Delsarte's linear programme: no set of points with such distances is larger than this."""
    cosine = np.linspace(-1, np.cos(distance), 3000)
    if m == 1:
        poly = np.stack([np.cos(k * np.arccos(cosine)) for k in range(1, degree + 1)])
    else:
        poly = np.stack([
            special.eval_gegenbauer(k, (m - 1) / 2, cosine)
            / special.eval_gegenbauer(k, (m - 1) / 2, 1.0)
            for k in range(1, degree + 1)
        ])  # fmt: skip
    # f = 1 + Σ c_k P_k with c ≥ 0 and f ≤ 0 on [−1, cos d]: at most f(1) points.
    found = optimize.linprog(np.ones(degree), A_ub=poly.T, b_ub=np.full(cosine.size, -1.0))
    assert found.status == 0
    return 1 + found.fun


@pytest.mark.parametrize("m", some_slow([1, 2, 7, 3, 4, 5], first=3))
@pytest.mark.parametrize("distance", DISTANCES)
def test_no_packing_passes_delsartes_bound(m, distance):
    """It is counted from constructions; Delsarte's programme bounds it from the other side."""
    assert point_sets.packing_bound(m, distance) <= delsarte_bound(m, distance) * (1 + 1e-3)


@pytest.mark.parametrize("distance", [0.1, 0.35, 0.9, 1.2])
def test_points_in_bands_keep_their_distance(distance):
    """The points that are counted on S², laid out and measured."""
    points = []
    for j in range(-int(np.pi / 2 / distance + 1e-9), int(np.pi / 2 / distance + 1e-9) + 1):
        height, radius = np.sin(j * distance), np.cos(j * distance)
        ratio = np.sin(distance / 2) / max(radius, 1e-300)
        count = int(np.pi / np.arcsin(ratio) + 1e-9) if ratio <= 1 else 1
        angle = 2 * np.pi * np.arange(count) / count
        points += [(radius * np.cos(a), radius * np.sin(a), height) for a in angle]
    points = np.array(points)
    apart = np.arccos(np.clip(points @ points.T, -1, 1)) + 10 * np.eye(len(points))
    assert apart.min() >= distance * (1 - 1e-7)
    assert point_sets._points_in_bands(2, distance) == len(points)


@pytest.mark.parametrize(("count", "cosine"), [(4, 1 / 3), (6, 3**-0.5), (12, 0.7946544722917661)])
def test_fejes_toth_bound_is_attained_by_the_solids(count, cosine):
    """Tetrahedron, octahedron and icosahedron; the area bound is 10 to 18 per cent below."""
    found = point_sets.covering_bound(2, count)
    assert np.cos(found) == pytest.approx(cosine, rel=1e-12)
    assert 0.8 < np.arccos(1 - 2 / count) / found < 0.92


@pytest.mark.parametrize("radius", [1e-9, 1e-6, 1e-3, 0.2])
def test_covering_number_and_radius_are_inverse(radius):
    count = point_sets._covering_number(2, radius)
    assert point_sets.covering_bound(2, count) <= radius * (1 + 1e-8)
    assert point_sets.covering_bound(2, 0.999 * count - 1) > radius
    # Far from curvature the thinnest covering is the hexagonal one, 2π/√27 times the area.
    if radius < 0.01:
        area = 4 * np.pi / (np.pi * radius**2)
        assert count == pytest.approx(area * 2 * np.pi / np.sqrt(27), rel=1e-3)


def test_no_points_on_the_sphere_cover_better_than_fejes_toth():
    random = np.random.default_rng(5)
    for count in (4, 5, 9, 30, 200):
        for points in (random.normal(size=(count, 3)), point_sets.fibonacci(count)):
            points = points / np.linalg.norm(points, axis=1, keepdims=True)
            assert point_sets.covering_radius(points) > point_sets.covering_bound(2, count)


def test_cap_share():
    assert point_sets.cap_share(1, 1.0) == pytest.approx(1 / np.pi)
    assert point_sets.cap_share(2, 2.5) == pytest.approx((1 - np.cos(2.5)) / 2)
    assert point_sets.cap_share(5, np.pi) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("m", "distance", "count"),
    [
        (1, 2 * np.pi / 7, 7),
        (2, 2 * np.pi / 3, 3),
        (2, np.arccos(-1 / 3), 4),  # tetrahedron
        (2, np.pi / 2, 6),
        (2, np.arctan(2), 12),  # icosahedron
        (3, np.pi / 2, 8),
        (7, np.pi / 3, 240),  # roots of E8
        (23, np.pi / 3, 196560),  # shortest vectors of Leech's lattice
        (4, np.arccos(-1 / 5), 6),  # simplex
        (6, np.pi, 2),
    ],
)
def test_limits_that_are_attained(m, distance, count):
    assert point_sets.packing_limit(m, distance) == count
    assert point_sets.packing_limit(m, distance * (1 + 1e-6)) <= count


@pytest.mark.parametrize("m", some_slow([2, 7, 3, 4, 5], first=2))
@pytest.mark.parametrize("distance", DISTANCES)
def test_limits_by_linear_programming(m, distance):
    """Levenshtein's polynomial is one of those that Delsarte's programme minimises over."""
    limit, programme = point_sets.packing_limit(m, distance), delsarte_bound(m, distance)
    assert limit >= np.floor(programme * (1 - 1e-3)) - (m == 2)  # Fejes Tóth's may be better
    assert limit <= 1.25 * programme + 1
    assert limit >= point_sets.packing_bound(m, distance)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_limits_of_many_points(m):
    """No net, no area and no other distance contradicts them, down to distances of 0.01."""
    distance = np.geomspace(0.01, 3.1, 50)
    limit = np.array([point_sets.packing_limit(m, d) for d in distance])
    assert (np.diff(limit) <= 0).all()
    area = np.array([1 / point_sets.cap_share(m, d / 2) for d in distance])
    assert (limit <= np.maximum(area * (1 + 1e-9), 2)).all()
    constant = {2: 8 * np.pi / np.sqrt(3)}.get(m)
    if constant is not None:
        assert limit[0] * distance[0] ** 2 == pytest.approx(constant, rel=1e-3)
    assert all(
        point_sets.packing_bound(m, d) <= n for d, n in zip(distance[::9], limit[::9], strict=True)
    )


def test_third_limit_by_its_formula():
    """n(1 − s)(2 + (n+1)s)/(1 − ns²) for s from 0 to (√(n+3) − 1)/(n + 2)."""
    for m in (3, 4, 6):
        n = m + 1
        for s in np.linspace(0.01, 0.999, 7) * (np.sqrt(n + 3) - 1) / (n + 2):
            formula = n * (1 - s) * (2 + (n + 1) * s) / (1 - n * s * s)
            assert point_sets.packing_limit(m, np.arccos(s)) == np.floor(formula * (1 + 1e-9))


def test_a_net_in_four_dimensions():
    cover = point_sets.net(4, 0.6)
    angle = np.arccos(
        np.clip(cover.centres @ cover.centres.T - 2 * np.eye(len(cover.centres)), -1, 1)
    )
    assert angle.min() >= 0.6 * (1 - 1e-9)
    points = np.random.default_rng(0).normal(size=(20_000, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    hole = np.arccos(np.clip((points @ cover.centres.T).max(1), -1, 1)).max()
    assert hole <= cover.covering < 0.6
    assert len(cover.centres) <= point_sets.packing_limit(4, 0.6)
