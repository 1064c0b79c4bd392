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

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["ridge_path"]

Rows = Callable[[int | Array, int], Float[Array, "rows d"]]


def ridge_path(
    draw: Rows,
    dim: int,
    samples: tuple[int, ...],
    ridges: Float[Array, " L"],
    *,
    chunk: int,
) -> Float[Array, "S L d"]:
    """Heads at each of the ascending `samples` and each ridge, on one nested stream of rows.

    ``draw(first, rows)`` gives rows ``first …`` of the stream. Memory holds `chunk` rows and one
    d × d matrix for each head, however many samples there are; only sizes up to d keep their rows.
    """
    small = [n for n in samples if n <= dim]
    kept = small[-1] if small else 0
    start = draw(0, kept).astype(jnp.float64)
    systems = [_dual(start[:n]) for n in small]
    gram, moment, done = start.T @ start, start.sum(axis=0), kept
    for n in samples[len(small) :]:
        gram, moment = _accumulate(draw, gram, moment, done, n, chunk)
        systems.append((gram / n, moment / n))
        done = n
    matrices, vectors = (jnp.stack(part) for part in zip(*systems, strict=True))
    solutions = _solve_all(matrices, vectors, ridges)
    dual = [solutions[i, :, :n] @ start[:n] for i, n in enumerate(small)]
    return jnp.concatenate([*(head[None] for head in dual), solutions[len(small) :]])


def _dual(rows: Float[Array, "n d"]) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """The n × n system of a minimum-norm head, filled up with the identity to d × d."""
    n, dim = rows.shape
    kernel = jnp.eye(dim, dtype=rows.dtype).at[:n, :n].set(rows @ rows.T / n)
    return kernel, (jnp.arange(dim) < n).astype(rows.dtype) / n


def _accumulate(
    draw: Rows, gram: Array, moment: Array, first: int, last: int, chunk: int
) -> tuple[Array, Array]:
    """Add rows ``first … last-1`` to the sums, `chunk` at a time."""

    def add(carry: tuple[Array, Array], start: Array | int, rows: int) -> tuple[Array, Array]:
        block = draw(start, rows).astype(jnp.float64)
        return carry[0] + block.T @ block, carry[1] + block.sum(axis=0)

    whole, rest = divmod(last - first, chunk)
    carry = (gram, moment)
    if whole:
        starts = first + chunk * jnp.arange(whole, dtype=jnp.uint32)
        carry, _ = lax.scan(lambda c, s: (add(c, s, chunk), None), carry, starts)
    return add(carry, first + whole * chunk, rest) if rest else carry


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
