r"""Sets of centres on the sphere :math:`S^m`, their radii, and bounds on what any set can do.

Points are rows of arrays of shape (N, m+1); angles and radii are geodesic, in radians.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from scipy.optimize import brentq
from scipy.spatial import ConvexHull, KDTree
from scipy.special import betainc

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
    """A lower bound on how many points fit with all distances at least `distance` (radians).

    A maximal such set covers the sphere by caps of that radius. On the circle it is exact; one
    less than the number is returned there when the points would just fit, since what N fixed
    keys cannot do needs a distance above, not at, the limit.
    """
    if sphere_dim == 1:
        return float(max(math.ceil(2 * math.pi / distance - 1e-9) - 1, 1))
    return float(max(math.floor(1 / cap_share(sphere_dim, min(distance, math.pi))), 1))


def covering_bound(sphere_dim: int, count: float) -> float:
    """The least covering radius `count` centres can have, by area: radians."""
    share: Any = brentq(lambda r: cap_share(sphere_dim, r) - 1 / count, 0.0, math.pi, xtol=1e-15)
    return float(share)


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
    instead would leave holes it cannot see. Derived here; `sphere_dim` 1, 2 or 3.

    Raises:
        ParameterError: `sphere_dim` or `radius` outside what is allowed, or more than `limit`
            centres would be needed.
    """
    if sphere_dim not in (1, 2, 3):
        raise ParameterError(
            "sphere_dim", sphere_dim, "1, 2 or 3 for a certified net",
            "use quasi_uniform for more dimensions",
        )  # fmt: skip
    if not 0 < radius <= math.pi / 2:
        raise ParameterError("radius", radius, "a number > 0 and ≤ π/2", "choose one in that range")
    if 2 * (2 / radius) ** sphere_dim > limit:
        raise ParameterError(
            "radius", radius, f"large enough for {limit} centres", "choose a larger radius"
        )
    if sphere_dim == 1:
        count = math.floor(2 * math.pi / radius)
        return Cover(equispaced(count), 2 * math.pi / count, math.pi / count)
    centres = _thin(_seed_points(sphere_dim, radius, seed), radius)
    while True:
        vertices, radii = circumcentres(centres)
        open_ = radii >= radius
        if not open_.any():
            return Cover(centres, _separation(centres), float(radii.max()))
        order = np.argsort(-radii[open_], kind="stable")
        centres = np.concatenate([centres, _thin(vertices[open_][order], radius)])


def _seed_points(sphere_dim: int, radius: float, seed: int) -> np.ndarray:
    axes = np.concatenate([np.eye(sphere_dim + 1), -np.eye(sphere_dim + 1)])
    if sphere_dim == 2:
        # A spiral whose neighbours are just `radius` apart is nearly maximal already.
        count = int(8 * math.pi / (math.sqrt(5) * radius**2))
        return fibonacci(count) if count > 20 else axes
    normal = np.random.default_rng(seed).normal(size=(int(2 / radius**sphere_dim), sphere_dim + 1))
    return np.concatenate([axes, normal / np.linalg.norm(normal, axis=1, keepdims=True)])


def _thin(points: np.ndarray, radius: float) -> np.ndarray:
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


def _separation(centres: np.ndarray) -> float:
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
    return _farthest(pool, count) if count * len(pool) < 2e8 else pool[:count]


def _farthest(pool: np.ndarray, count: int) -> np.ndarray:
    chosen, nearest = [0], np.full(len(pool), -np.inf)
    for _ in range(count - 1):
        np.maximum(nearest, pool @ pool[chosen[-1]], out=nearest)
        chosen.append(int(nearest.argmin()))
    return pool[chosen]
