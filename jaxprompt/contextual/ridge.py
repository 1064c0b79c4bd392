r"""Ridge heads on pooled features, for all sample sizes and ridges of a grid at once.

The objective is :math:`\frac1n \sum_i (1 - y_i\, w\cdot\bar x_i)^2/2 + \frac\lambda2 |w|^2`. With
signed rows :math:`r_i = y_i \bar x_i` the minimiser is
:math:`w = (R^\top R/n + \lambda)^{-1} R^\top \mathbf 1/n`. For n ≤ d it equals
:math:`w = R^\top (R R^\top/n + \lambda)^{-1} \mathbf 1/n`, which at λ = 0 is the minimum-norm
interpolator. All in float64.

Every system of a trial, of either form, is solved by one batched factorisation. That is for speed
and for safety: on the CPU, jaxlib 0.10 can wait for ever when two *independent* batched LAPACK
calls become ready at once, because each blocks a thread of the pool that its parts need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

__all__ = ["ridge_path"]

Rows = Callable[[int | Array, int], Float[Array, "rows d"]]


def ridge_path(
    draw: Rows,
    dim: int,
    small: UInt32[Array, " s"],
    large: UInt32[Array, " l"],
    ridges: Float[Array, " L"],
    *,
    chunk: int,
) -> Float[Array, "s+l L d"]:
    """Heads at sample sizes up to d (`small`) and above d (`large`), for each ridge.

    All sizes use one nested stream of rows: ``draw(first, rows)`` gives rows ``first …`` of it.
    `large` ascends. Sizes are traced, so one compilation serves all grids of equal length. Memory
    holds `chunk` rows and one d × d matrix for each head, however many samples there are.
    """
    gram, moment = jnp.zeros((dim, dim), jnp.float64), jnp.zeros(dim, jnp.float64)
    first, systems = jnp.uint32(0), []
    start = jnp.zeros((0, dim), jnp.float64)
    if small.size:
        start = draw(0, dim).astype(jnp.float64)
        gram, moment, first = start.T @ start, start.sum(axis=0), jnp.uint32(dim)
        systems.append(jax.vmap(lambda n: _dual(start, n))(small))
    if large.size:
        edges = jnp.concatenate([first[None], large[:-1]]), large
        systems.append(_primal(draw, gram, moment, edges, chunk))
    matrices, vectors = (jnp.concatenate(part) for part in zip(*systems, strict=True))
    solutions = _solve_all(matrices, vectors, ridges)
    if not small.size:
        return solutions
    # The dual's unknowns weigh rows; those beyond the sample size are exactly 0.
    return jnp.concatenate([solutions[: small.size] @ start, solutions[small.size :]])


def _dual(
    rows: Float[Array, "d d"], samples: UInt32[Array, ""]
) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """The system of a minimum-norm head on the first rows, filled up with the identity."""
    used = (jnp.arange(rows.shape[0]) < samples).astype(rows.dtype)
    kept = rows * used[:, None]
    return kept @ kept.T / samples + jnp.diag(1 - used), used / samples


def _primal(
    draw: Rows, gram: Array, moment: Array, edges: tuple[Array, Array], chunk: int
) -> tuple[Float[Array, "l d d"], Float[Array, "l d"]]:
    """Means of outer products and of rows, at the end of each segment of the stream."""

    def segment(sums: tuple[Array, Array], edge: tuple[Array, Array]) -> Any:
        first, last = edge

        def add(step: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            at = first + step.astype(jnp.uint32) * jnp.uint32(chunk)
            inside = at + jnp.arange(chunk, dtype=jnp.uint32) < last
            block = jnp.where(inside[:, None], draw(at, chunk), 0).astype(jnp.float64)
            return sums[0] + block.T @ block, sums[1] + block.sum(axis=0)

        steps = ((last - first + jnp.uint32(chunk - 1)) // jnp.uint32(chunk)).astype(jnp.int32)
        sums = lax.fori_loop(0, steps, add, sums)
        return sums, (sums[0] / last, sums[1] / last)

    return lax.scan(segment, (gram, moment), edges)[1]


def _solve_all(
    matrices: Float[Array, "S d d"], vectors: Float[Array, "S d"], ridges: Float[Array, " L"]
) -> Float[Array, "S L d"]:
    """Solve (matrix + ridge) x = vector for every matrix and ridge."""
    eye = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)

    def solve(matrix: Array, vector: Array, ridge: Array) -> Array:
        return jax.scipy.linalg.cho_solve(
            jax.scipy.linalg.cho_factor(matrix + ridge * eye, lower=True), vector
        )

    return jax.vmap(jax.vmap(solve, (None, None, 0)), (0, 0, None))(matrices, vectors, ridges)
