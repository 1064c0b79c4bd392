r"""Symmetric linear maps of R^d: dense matrices, or a diagonal plus few outer products.

A covariance that is diagonal stays of size d through every step of the theory of
:mod:`~jaxprompt.contextual.law.token_law_limit`: projections add an outer product, an inverse
(by Woodbury's identity) and a product a few more. float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

__all__ = [
    "DiagonalAndOuter", "LinearMap", "apply", "covariance_map", "product", "ridge_inverse", "trace",
    "trace_of_product",
]  # fmt: skip


class DiagonalAndOuter(NamedTuple):
    """The map diag(`diagonal`) + `left` `right`ᵀ."""

    diagonal: Float[np.ndarray, " d"]
    left: Float[np.ndarray, "d r"]
    right: Float[np.ndarray, "d r"]


LinearMap = Float[np.ndarray, "d d"] | DiagonalAndOuter

_ROUNDING = 4 * np.finfo(np.float64).eps
"""Share of a covariance, for each coordinate, that is not told from 0 where a part is removed."""


def covariance_map(
    covariance: Float[np.ndarray, "d d"] | Float[np.ndarray, " d"],
    removed: Float[np.ndarray, " d"] | None,
) -> LinearMap:
    """A covariance (a matrix, or its diagonal) less the outer square of `removed`.

    Where nothing but rounding is left, as of a covariance of rank one, the map is 0.
    """
    matrix = np.asarray(covariance, np.float64)
    size = float(matrix.sum() if matrix.ndim == 1 else np.trace(matrix))
    if removed is not None and size - removed @ removed <= len(matrix) * _ROUNDING * size:
        matrix, removed = np.zeros_like(matrix), None
    if matrix.ndim == 2:
        return matrix if removed is None else matrix - np.outer(removed, removed)
    column = np.zeros((matrix.size, 0)) if removed is None else removed[:, None]
    return DiagonalAndOuter(matrix, -column, column)


def apply(map: LinearMap, columns: Float[np.ndarray, "d r"]) -> Float[np.ndarray, "d r"]:
    """The image of every column."""
    if isinstance(map, DiagonalAndOuter):
        return map.diagonal[:, None] * columns + map.left @ (map.right.T @ columns)
    return map @ columns


def trace(map: LinearMap) -> float:
    """The trace."""
    if isinstance(map, DiagonalAndOuter):
        return float(map.diagonal.sum() + np.einsum("ir,ir->", map.left, map.right))
    return float(np.trace(map))


def product(first: LinearMap, second: LinearMap) -> LinearMap:
    """The map that applies `second`, then `first`."""
    if isinstance(first, DiagonalAndOuter) and isinstance(second, DiagonalAndOuter):
        # (D + LRᵀ)(E + MNᵀ) = DE + L (ER + N MᵀR)ᵀ + DM Nᵀ
        inner = second.diagonal[:, None] * first.right
        inner = inner + second.right @ (second.left.T @ first.right)
        left = np.concatenate([first.left, first.diagonal[:, None] * second.left], axis=1)
        right = np.concatenate([inner, second.right], axis=1)
        return DiagonalAndOuter(first.diagonal * second.diagonal, left, right)
    return _dense(first) @ _dense(second)


def trace_of_product(first: LinearMap, second: LinearMap) -> float:
    """The trace of the product of two maps."""
    if isinstance(first, DiagonalAndOuter) and isinstance(second, DiagonalAndOuter):
        return trace(product(first, second))
    return float(np.einsum("ij,ji->", _dense(first), _dense(second)))


def ridge_inverse(ridge: float, factors: Sequence[float], maps: Sequence[LinearMap]) -> LinearMap:
    """The inverse of `ridge` times the identity plus the sum of the maps times their factors."""
    sparse = [m for m in maps if isinstance(m, DiagonalAndOuter)]
    if len(sparse) == len(maps):
        pairs = list(zip(factors, sparse, strict=True))
        diagonal = ridge + np.sum([f * m.diagonal for f, m in pairs], axis=0)
        left = np.concatenate([f * m.left for f, m in pairs], axis=1)
        right = np.concatenate([m.right for _, m in pairs], axis=1)
        over = left / diagonal[:, None]
        middle = np.eye(left.shape[1]) + right.T @ over
        turned = np.linalg.solve(middle, (right / diagonal[:, None]).T).T
        return DiagonalAndOuter(1 / diagonal, -over, turned)
    dim = maps[0].shape[0] if isinstance(maps[0], np.ndarray) else maps[0].diagonal.size
    total = ridge * np.eye(dim)
    for factor, map in zip(factors, maps, strict=True):
        total += factor * _dense(map)
    factored = linalg.cho_factor(total, lower=True, overwrite_a=True)
    inverse: np.ndarray = linalg.cho_solve(factored, np.eye(dim))
    return inverse


def _dense(map: LinearMap) -> np.ndarray:
    if isinstance(map, DiagonalAndOuter):
        return np.diag(map.diagonal) + map.left @ map.right.T
    return map
