r"""Sets of centres on the sphere :math:`S^m`, their radii, and bounds on what any set can do.

Points are rows of arrays of shape (N, m+1); angles and radii are geodesic, in radians.
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from scipy.optimize import brentq
from scipy.spatial import ConvexHull, KDTree
from scipy.special import betainc, roots_jacobi

from jaxprompt.errors import ParameterError

__all__ = [
    "Cover",
    "area",
    "cap_share",
    "circumcentres",
    "covering_bound",
    "covering_radius",
    "equispaced",
    "fibonacci",
    "net",
    "packing_bound",
    "packing_limit",
    "quasi_uniform",
    "uniform",
]

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def area(sphere_dim: int) -> float:
    """Surface area of the unit sphere of dimension `sphere_dim` (float; 2π, 4π, 2π², …)."""
    n = sphere_dim + 1
    return 2 * math.pi ** (n / 2) / math.gamma(n / 2)


def cap_share(sphere_dim: int, angle: float) -> float:
    """Share of the sphere within `angle` (radians, up to π) of a point."""
    half = 0.5 * float(betainc(sphere_dim / 2, 0.5, math.sin(angle) ** 2))
    return half if angle <= math.pi / 2 else 1 - half


def packing_bound(sphere_dim: int, distance: float) -> float:
    r"""A lower bound on how many points fit with all distances at least `distance` (radians).

    The largest of three, exact on the circle: a maximal such set covers the sphere within
    `distance` (by :func:`covering_bound`); points in bands of latitude `distance` apart, each band
    a sphere of one dimension less; and root systems and lattices whose points are 60° apart, whose
    numbers on :math:`S^2, S^3, S^7` and :math:`S^{23}` are the kissing numbers. Bounds from above
    are in :func:`packing_limit`.
    """
    if distance > math.pi:
        return 1.0
    if sphere_dim == 1:
        return float(math.floor(2 * math.pi / distance + ROUNDING))
    return max(
        2.0,
        _covering_number(sphere_dim, distance),
        _points_in_bands(sphere_dim, distance),
        _known_configuration(sphere_dim, distance),
    )


def packing_limit(sphere_dim: int, distance: float) -> float:
    r"""An upper bound on how many points fit with all distances at least `distance` (radians).

    Exact on the circle. The least of: areas of caps of half the distance; on :math:`S^2` Fejes
    Tóth's theorem, which the equilateral triangle, the tetrahedron, the octahedron and the
    icosahedron attain; and Levenshtein's bound, the best that linear programming gives with
    polynomials of bounded degree (attained by the icosahedron, the roots of E8 and the shortest
    vectors of Leech's lattice). Float64, a whole number where it is below 1e15.
    """
    if distance > math.pi:
        return 1.0
    if sphere_dim == 1:
        return float(math.floor(2 * math.pi / distance + ROUNDING))
    share = cap_share(sphere_dim, distance / 2)
    bounds = [1 / share if share else math.inf, _levenshtein_bound(sphere_dim + 1, distance)]
    if sphere_dim == 2 and distance <= 2 * math.pi / 3:
        # Of N points the convex hull has at most 2N − 4 triangles, none smaller than this one.
        bounds.append(2 + 2 * math.pi / _equilateral_excess(distance))
    least = max(min(bounds), 2.0)
    return float(math.floor(least * (1 + ROUNDING))) if least < 1e15 else least


def _equilateral_excess(side: float) -> float:
    """Area of an equilateral spherical triangle: tan²(E/4) = tan(3a/4) tan³(a/4) (L'Huilier)."""
    product = math.tan(3 * side / 4) * math.tan(side / 4) ** 3
    return 4 * math.atan(math.sqrt(product)) if side < 2 * math.pi / 3 else 2 * math.pi


MOST_LEVENSHTEIN_DEGREE = 512
"""Largest k at which Levenshtein's bound is evaluated: distances below about 0.01 have the other
bounds only."""


def _levenshtein_bound(n: int, distance: float) -> float:
    r"""Levenshtein's bound on codes in the unit sphere of R^n; infinite where it is not evaluated.

    With :math:`P_k` the Gegenbauer polynomials, 1 at 1, and :math:`t_k^{a,b}` the largest zero of
    the Jacobi polynomial of degree k with the parameters a + (n−3)/2, b + (n−3)/2,

    .. math:: L_{2k-1} = inom{k+n-3}{k-1}\Big[rac{2k+n-3}{n-1}
              - rac{P_{k-1}-P_k}{(1-s)P_k}\Big], \quad t_{k-1}^{1,1} \le s \le t_k^{1,0},

    .. math:: L_{2k} = inom{k+n-2}{k}\Big[rac{2k+n-1}{n-1}
              - rac{(1+s)(P_k-P_{k+1})}{(1-s)(P_k+P_{k+1})}\Big], \quad
              t_k^{1,0} \le s \le t_k^{1,1},

    at s = cos(distance).
    """
    s = math.cos(distance)
    if s <= -1 + 1e-15:
        return 2.0
    k = _levenshtein_degree(n, s)
    if k is None:
        return math.inf
    # P_0, P_1, … at s, by their three-term recurrence.
    polynomial = [1.0, s]
    for j in range(1, k + 1):
        polynomial.append(
            ((2 * j + n - 2) * s * polynomial[j] - j * polynomial[j - 1]) / (j + n - 2)
        )
    before, here, after = polynomial[k - 1 : k + 2]
    if s <= _largest_zero(k, n, 0.0):
        share = (before - here) / ((1 - s) * here)
        return float(math.comb(k + n - 3, k - 1)) * ((2 * k + n - 3) / (n - 1) - share)
    share = (1 + s) * (here - after) / ((1 - s) * (here + after))
    return float(math.comb(k + n - 2, k)) * ((2 * k + n - 1) / (n - 1) - share)


def _levenshtein_degree(n: int, s: float) -> int | None:
    """The least k whose largest zero reaches s, by doubling and bisection; None beyond the most."""
    doublings = range(MOST_LEVENSHTEIN_DEGREE.bit_length())
    reaching = (2**j for j in doublings if _largest_zero(2**j, n, 1.0) >= s)
    high = next(reaching, None)
    if high is None:
        return None
    between = range(high // 2 + 1, high)
    return high // 2 + 1 + bisect.bisect_left(between, s, key=lambda k: _largest_zero(k, n, 1.0))


@functools.lru_cache(maxsize=4096)
def _largest_zero(k: int, n: int, b: float) -> float:
    half = (n - 3) / 2
    return float(roots_jacobi(k, 1 + half, b + half)[0].max())


ROUNDING = 1e-9
"""Share by which a distance may exceed what fits exactly: 2π/N is not a whole part of 2π."""

MOST_BANDS = 50_000
"""Most bands that are counted, in all dimensions together."""

LATTICE_POINTS = {5: 72, 6: 126, 7: 240, 15: 4320, 23: 196560}
"""Points 60° apart on S^m: the roots of E6, E7, E8, and the shortest vectors of the lattices of
Barnes and Wall in 16 and of Leech in 24 dimensions."""


def _covering_number(sphere_dim: int, radius: float) -> float:
    """Fewest centres that can cover the sphere within `radius`, by area or Fejes Tóth's theorem."""
    if radius >= math.pi / 2:
        return 2.0 if radius < math.pi else 1.0
    if sphere_dim == 2:
        # N/(N − 2) less 1 at that circumradius, without cancellation for small ones.
        half, cosine = math.sin(radius / 2) ** 2, math.cos(radius)
        excess = 6 / math.pi * math.atan(2 * half / (math.sqrt(3) * (cosine + 1 / 3)))
        return math.ceil(2 * (1 + excess) / excess * (1 - ROUNDING))
    return math.ceil((1 - ROUNDING) / cap_share(sphere_dim, radius))


def _points_in_bands(sphere_dim: int, distance: float) -> float:
    """Points on latitudes `distance` apart: the equator's and those above and below it."""
    if sphere_dim == 1:
        return float(math.floor(2 * math.pi / distance + ROUNDING))
    if (math.pi / distance) ** (sphere_dim - 1) > MOST_BANDS:
        return 1.0
    total = 0.0
    for j in range(math.floor(math.pi / 2 / distance + ROUNDING) + 1):
        radius = math.cos(min(j * distance, math.pi / 2))
        half_chord = math.sin(distance / 2)
        # A band that is too small for two points holds one, such as a pole.
        inside = 2 * math.asin(half_chord / radius) if half_chord <= radius else math.inf
        points = _points_in_bands(sphere_dim - 1, inside) if inside < math.inf else 1.0
        total += max(points, 1.0) * (2 if j else 1)
    return total


def _known_configuration(sphere_dim: int, distance: float) -> float:
    n = sphere_dim + 1
    best = 1.0
    if distance <= math.acos(-1 / n) * (1 + ROUNDING):
        best = n + 1.0  # a simplex
    if distance <= math.pi / 2 * (1 + ROUNDING):
        best = 2.0 * n  # the cross-polytope
    if distance <= math.pi / 3 * (1 + ROUNDING):
        # The roots of D_n, or a lattice with more.
        best = float(max(2 * n * (n - 1), LATTICE_POINTS.get(sphere_dim, 0)))
    if sphere_dim == 2 and distance <= math.atan(2) * (1 + ROUNDING):
        best = max(best, 12.0)  # the icosahedron
    if sphere_dim == 3 and distance <= math.pi / 5 * (1 + ROUNDING):
        best = max(best, 120.0)  # the 600-cell
    return best


def covering_bound(sphere_dim: int, count: float) -> float:
    r"""The least covering radius that `count` centres can have, in radians.

    On :math:`S^2` by Fejes Tóth's theorem: the circumradius of an equilateral triangle of which
    2N − 4 make up the sphere, which the tetrahedron, the octahedron and the icosahedron attain.
    Elsewhere by area; on the circle that is exact.
    """
    if sphere_dim == 2 and count >= 2:
        slope = math.tan(math.pi / (3 * (count - 2))) if count > 3 else math.sqrt(3)
        return 2 * math.asin(math.sqrt(2 * slope / (math.sqrt(3) + 3 * slope)))
    radius: Any = brentq(lambda r: cap_share(sphere_dim, r) - 1 / count, 0.0, math.pi, xtol=1e-15)
    return float(radius)


class Cover(NamedTuple):
    """A set of centres (N, m+1) with radii in radians.

    Every two centres are at least `separation` apart; every point of the sphere is within
    `covering` of a centre. Both are certified: computed from the whole set, not from samples.
    """

    centres: np.ndarray
    separation: float
    covering: float


def equispaced(count: int, offset: float = 0.0) -> np.ndarray:
    """`count` equally spaced points on the circle from angle `offset`; (count, 2) float64."""
    angle = offset + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def fibonacci(count: int) -> np.ndarray:
    r"""Fibonacci spiral on :math:`S^2`: (count, 3) float64, quasi-uniform.

    Heights are midpoints of equal bands, azimuths advance by the golden angle. Away from the
    poles neighbours are about :math:`\sqrt{8\pi/(\sqrt5\,N)}` apart.
    """
    index = np.arange(count)
    height = 1 - (2 * index + 1) / count
    radius, azimuth = np.sqrt(1 - height * height), GOLDEN_ANGLE * index
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=1)


def uniform(
    key: jax.Array, count: int, sphere_dim: int, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """`count` independent uniform points: (count, sphere_dim+1) in `dtype`."""
    normal = jax.random.normal(key, (count, sphere_dim + 1), dtype)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def circumcentres(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the Voronoi cells of `centres` and their distances to the nearest centre.

    They are the outward unit normals of the convex hull's facets; the distance to the nearest
    centre has its local maxima there, so their largest radius is the covering radius, exactly.
    Returns (F, n) and (F,), float64. Works in any dimension Qhull can hull (small ones).

    Raises:
        ParameterError: the centres lie on a smaller sphere, so that they have no hull.
    """
    centres = np.asarray(centres, np.float64)
    if centres.shape[1] == 2:
        return _arc_midpoints(centres)
    try:
        equations = ConvexHull(centres).equations
    except Exception as error:  # QhullError, ValueError on too few points
        raise ParameterError(
            "centres", f"{len(centres)} points", f"points that span all {centres.shape[1]} axes",
            "give more centres, not all on one plane",
        ) from error  # fmt: skip
    return equations[:, :-1], np.arccos(np.clip(-equations[:, -1], -1, 1))


def _arc_midpoints(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = np.sort(np.arctan2(centres[:, 1], centres[:, 0]))
    gap = np.diff(angle, append=angle[0] + 2 * np.pi)
    middle = angle + gap / 2
    return np.stack([np.cos(middle), np.sin(middle)], axis=1), gap / 2


def covering_radius(centres: np.ndarray) -> float:
    """Largest distance from a point of the sphere to its nearest centre, in radians; exact."""
    return float(circumcentres(centres)[1].max())


def net(sphere_dim: int, radius: float, seed: int = 0, limit: int = 500_000) -> Cover:
    """A certified net: a maximal set of centres that are pairwise at least `radius` apart.

    Being maximal it covers the sphere within `radius`. Circumcentres of the Delaunay
    triangulation are inserted until none is `radius` or more from the set; sampling candidates
    instead would leave holes it cannot see. Derived here; `sphere_dim` 1 to 5, of which 4 and 5
    have many facets to a point: their radius is at least 0.3 and 0.48.

    Raises:
        ParameterError: `sphere_dim` or `radius` outside what is allowed, or more than `limit`
            centres would be needed.
    """
    if sphere_dim not in (1, 2, 3, 4, 5):
        raise ParameterError(
            "sphere_dim", sphere_dim, "1 to 5 for a certified net",
            "use quasi_uniform for more dimensions",
        )  # fmt: skip
    if not 0 < radius <= math.pi / 2:
        raise ParameterError("radius", radius, "a number > 0 and ≤ π/2", "choose one in that range")
    limit = min(limit, {4: 4000, 5: 2600}.get(sphere_dim, limit))
    if 2 * (2 / radius) ** sphere_dim > limit:
        raise ParameterError(
            "radius", radius, f"large enough for {limit} centres", "choose a larger radius"
        )
    if sphere_dim == 1:
        count = math.floor(2 * math.pi / radius)
        return Cover(equispaced(count), 2 * math.pi / count, math.pi / count)
    centres = _thin_out(_seed_points(sphere_dim, radius, seed), radius)
    while True:
        vertices, radii = circumcentres(centres)
        open_ = radii >= radius
        if not open_.any():
            return Cover(centres, _least_distance(centres), float(radii.max()))
        order = np.argsort(-radii[open_], kind="stable")
        centres = np.concatenate([centres, _thin_out(vertices[open_][order], radius)])


def _seed_points(sphere_dim: int, radius: float, seed: int) -> np.ndarray:
    axes = np.concatenate([np.eye(sphere_dim + 1), -np.eye(sphere_dim + 1)])
    if sphere_dim == 2:
        # A spiral whose neighbours are just `radius` apart is nearly maximal already.
        count = int(8 * math.pi / (math.sqrt(5) * radius**2))
        return fibonacci(count) if count > 20 else axes
    normal = np.random.default_rng(seed).normal(size=(int(2 / radius**sphere_dim), sphere_dim + 1))
    return np.concatenate([axes, normal / np.linalg.norm(normal, axis=1, keepdims=True)])


def _thin_out(points: np.ndarray, radius: float) -> np.ndarray:
    """Keep, in order, each point at least `radius` (radians) from all those kept before."""
    chord = 2 * math.sin(radius / 2)
    pairs = KDTree(points).query_pairs(chord * (1 - 1e-12), output_type="ndarray")
    pairs = np.sort(pairs, axis=1)
    later = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts = np.searchsorted(later[:, 0], np.arange(len(points) + 1))
    keep = np.ones(len(points), bool)
    for i in np.unique(later[:, 0]):
        if keep[i]:
            keep[later[starts[i] : starts[i + 1], 1]] = False
    return points[keep]


def _least_distance(centres: np.ndarray) -> float:
    chord = KDTree(centres).query(centres, k=2)[0][:, 1].min()
    return float(2 * np.arcsin(min(chord / 2, 1.0)))


def quasi_uniform(sphere_dim: int, count: int, seed: int = 0) -> np.ndarray:
    """About evenly spread centres, exactly `count` of them: (count, sphere_dim+1) float64.

    Equispaced on the circle, the Fibonacci spiral on S²; beyond, `count` points chosen one after
    another as the farthest of a random pool, which keeps them within twice the best covering of
    that pool.
    """
    if sphere_dim == 1:
        return equispaced(count)
    if sphere_dim == 2:
        return fibonacci(count)
    pool = np.random.default_rng(seed).normal(size=(min(16 * count, 60_000), sphere_dim + 1))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    return _farthest_points(pool, count) if count * len(pool) < 2e8 else pool[:count]


def _farthest_points(pool: np.ndarray, count: int) -> np.ndarray:
    chosen, nearest = [0], np.full(len(pool), -np.inf)
    for _ in range(count - 1):
        np.maximum(nearest, pool @ pool[chosen[-1]], out=nearest)
        chosen.append(int(nearest.argmin()))
    return pool[chosen]
