r"""Balls, cubes and tori inside a sphere, so that prefixes serve functions on them.

A head's kernel is that of the sphere. Other domains are embedded in one, and a function on the
domain becomes a function on the sphere. The stretch c is the price: an L-Lipschitz function on the
domain is cL-Lipschitz in the sphere's geodesic distance. Derived in docs/universal.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxprompt.errors import ParameterError

__all__ = ["Domain", "ball", "cube", "torus", "torus_grid"]

Map = Callable[[Any], Float[np.ndarray, "*n k"]]


@dataclass(frozen=True)
class Domain:
    """A domain with its embedding in a sphere. Arrays are float64, points along the last axis.

    Attributes:
        name: what it is.
        dim: coordinates of a point of the domain.
        sphere_dim: dimension of the sphere that holds it.
        stretch: c, by which the embedding may multiply Lipschitz constants; the least there is.
        embed: points (…, dim) to unit vectors (…, sphere_dim + 1).
        retract: unit vectors back to the domain; the inverse of `embed` on its image.
        everywhere: whether `retract` keeps the stretch on the whole sphere (balls and cubes); if
            not (tori), a function has a Lipschitz constant on the image only.
    """

    name: str
    dim: int
    sphere_dim: int
    stretch: float
    embed: Map
    retract: Map
    everywhere: bool

    def on_sphere(self, f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`f` as a function of unit vectors, for :func:`~jaxprompt.universal.build_prefix`.

        Give it the Lipschitz constant ``domain.stretch`` times that of `f`, and call the prefix at
        ``domain.embed(points)``.
        """
        return lambda vectors: f(self.retract(vectors))


def ball(dim: int, radius: float = 1.0) -> Domain:
    """The ball of R^dim about 0: x/r goes to (x/r, √(1 − |x/r|²)) on S^dim. Its stretch is r.

    Raises:
        ParameterError: `dim` is no integer ≥ 1, or `radius` not positive.
    """
    _need_dim(dim, "ball")
    if not 0 < radius < math.inf:
        raise ParameterError(
            "radius", radius, "a finite number > 0", "give the largest |x|", "ball"
        )

    def embed(points: Any) -> np.ndarray:
        return _lifted(_points(points, dim, "ball") / radius, "points", "within the ball")

    def retract(vectors: Any) -> np.ndarray:
        return radius * np.asarray(vectors, np.float64)[..., :dim]

    return Domain("ball", dim, dim, float(radius), embed, retract, everywhere=True)


def cube(dim: int, low: float = 0.0, high: float = 1.0) -> Domain:
    """The cube [low, high]^dim, inside the ball through its corners; the stretch is √dim/2 a side.

    Raises:
        ParameterError: `dim` is no integer ≥ 1, or `high` is not above `low`.
    """
    _need_dim(dim, "cube")
    if not -math.inf < low < high < math.inf:
        raise ParameterError(
            "high", high, f"a finite number above low = {low}", "swap the two", "cube"
        )
    middle, half, side = (low + high) / 2, (high - low) / 2, 1 / math.sqrt(dim)

    def embed(points: Any) -> np.ndarray:
        scaled = (_points(points, dim, "cube") - middle) / half
        if not (np.abs(scaled) <= 1 + 1e-9).all():
            raise ParameterError(
                "points", f"up to {np.abs(scaled).max():.3g} half sides from the middle",
                f"in [{low}, {high}]", "clip or rescale them", "cube",
            )  # fmt: skip
        return _lifted(np.clip(scaled, -1, 1) * side, "points", "in the cube")

    def retract(vectors: Any) -> np.ndarray:
        inner = np.asarray(vectors, np.float64)[..., :dim]
        return middle + half * np.clip(inner / side, -1, 1)

    return Domain("cube", dim, dim, half / side, embed, retract, everywhere=True)


def torus(dim: int) -> Domain:
    r"""The flat torus of `dim` angles, as (cos θ_1, sin θ_1, …)/√dim on S^{2 dim − 1}.

    Its stretch is :math:`\pi / (2 \arcsin(1/\sqrt m))`: 1, 2, 2.55, 3 and at most π√m/2. Distances
    are :math:`|\theta - \theta'|` with each angle's difference taken the short way round.

    Raises:
        ParameterError: `dim` is no integer ≥ 1.
    """
    _need_dim(dim, "torus")

    def embed(points: Any) -> np.ndarray:
        angles = _points(points, dim, "torus")
        pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1) / math.sqrt(dim)
        return pairs.reshape(*angles.shape[:-1], 2 * dim)

    def retract(vectors: Any) -> np.ndarray:
        pairs = np.asarray(vectors, np.float64).reshape(*np.shape(vectors)[:-1], dim, 2)
        return np.arctan2(pairs[..., 1], pairs[..., 0]) % (2 * np.pi)

    stretch = math.pi / (2 * math.asin(1 / math.sqrt(dim)))
    return Domain("torus", dim, 2 * dim - 1, stretch, embed, retract, everywhere=dim == 1)


def torus_grid(dim: int, per_angle: int) -> Float[np.ndarray, "N n"]:
    """A grid of per_angle^dim centres on the embedded torus: unit vectors (N, 2 dim), float64.

    Every point of the torus is within the geodesic distance π/per_angle of one of them, exactly.

    Raises:
        ParameterError: a number below 1, or more than a million centres.
    """
    _need_dim(dim, "torus_grid")
    if per_angle < 1 or per_angle**dim > 1_000_000:
        raise ParameterError(
            "per_angle", per_angle, f"from 1 to {int(1_000_000 ** (1 / dim) + 1e-9)}",
            "choose fewer", "torus_grid",
        )  # fmt: skip
    angle = 2 * np.pi * np.arange(per_angle) / per_angle
    grid = np.stack(np.meshgrid(*[angle] * dim, indexing="ij"), axis=-1)
    return torus(dim).embed(grid.reshape(-1, dim))


def _need_dim(dim: Any, where: str) -> None:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ParameterError("dim", dim, "an integer ≥ 1", "count the coordinates", where)


def _points(points: Any, dim: int, where: str) -> np.ndarray:
    array = np.asarray(points, np.float64)
    if array.ndim < 1 or array.shape[-1] != dim or not np.isfinite(array).all():
        raise ParameterError(
            "points", f"shape {array.shape}", f"an array (…, {dim}) of finite numbers",
            "give points as rows", where,
        )  # fmt: skip
    return array


def _lifted(inner: np.ndarray, name: str, allowed: str) -> np.ndarray:
    """Points of the unit ball onto the upper half of the sphere of one dimension more."""
    square = np.square(inner).sum(axis=-1, keepdims=True)
    if not (square <= 1 + 1e-9).all():
        raise ParameterError(
            name, f"at {math.sqrt(float(square.max())):.3g} times the radius", allowed,
            "rescale them", "embed",
        )  # fmt: skip
    lifted = np.concatenate([inner, np.sqrt(np.maximum(1 - square, 0.0))], axis=-1)
    return lifted / np.linalg.norm(lifted, axis=-1, keepdims=True)
