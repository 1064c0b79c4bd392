r"""Ridge heads on pooled features, for all sample sizes and ridges of a grid at once.

The objective is :math:`\frac1n \sum_i (1 - y_i\, w\cdot\bar x_i)^2/2 + \frac\lambda2 |w|^2`. With
signed rows :math:`r_i = y_i \bar x_i` the minimiser is
:math:`w = (R^\top R/n + \lambda)^{-1} R^\top \mathbf 1/n`. For n ≤ d it equals
:math:`w = R^\top (R R^\top/n + \lambda)^{-1} \mathbf 1/n`, which at λ = 0 is the minimum-norm
interpolator. Sums over the stream are float64. Products of a chunk and the factorisations are
float64 too, or float32 where the caller knows the systems to be well conditioned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

from jaxprompt.compute.devices import one_by_one_on_cpu

__all__ = ["Chunks", "ridge_path"]

Rows = Callable[[int | Array, int], Float[Array, "rows d"]]
Sums = tuple[Array, Array]  # of outer products, and of rows


class Chunks(NamedTuple):
    """Rows drawn together, and rows multiplied together; both powers of two."""

    drawn: int
    multiplied: int

    @classmethod
    def for_sizes(cls, samples: Sequence[int], dim: int) -> Chunks:
        """Few and full chunks for ascending sample sizes; few distinct shapes among all grids."""
        start = dim if samples[0] <= dim else 0
        ends = np.asarray([start, *(n for n in samples if n > dim)])
        gaps = np.diff(ends)
        if not gaps.size:
            return cls(1, 1)
        drawn = min(1024, 1 << int(ends[-1] - start - 1).bit_length())

        def work(rows: int) -> float:
            # A product costs about as much as 24 more rows, however few it has.
            return float((np.ceil(gaps / rows) * (rows + 24)).sum())

        return cls(
            drawn, min((r for r in (32, 64, 128, 256) if r <= drawn), key=work, default=drawn)
        )


def ridge_path(
    draw: Rows,
    dim: int,
    small: UInt32[Array, " s"],
    large: UInt32[Array, " l"],
    ridges: Float[Array, " L"],
    *,
    chunks: Chunks,
    dtype: Any = jnp.float64,
) -> Float[Array, "s+l L d"]:
    """Heads at sample sizes up to d (`small`) and above d (`large`), for each ridge.

    All sizes use one nested stream of rows: ``draw(first, rows)`` gives rows ``first …`` of it.
    `large` ascends. Sizes are traced, so one compilation serves all grids of equal length. Memory
    holds one chunk of rows and one d × d matrix for each head, however many samples there are.
    `dtype` is that of products and factorisations; float32 roughly halves their time, for a
    relative error of about 1e-7 times the condition number. The heads are float64.
    """
    gram, moment = jnp.zeros((dim, dim), jnp.float64), jnp.zeros(dim, jnp.float64)
    first, shifts, heads = jnp.uint32(0), ridges.astype(dtype), []
    if small.size:
        start = draw(0, dim).astype(dtype)
        products = _outer_product(start.T)
        unknowns = lax.map(lambda n: _solve_dual(products, n, shifts), small)
        # The dual's unknowns weigh rows; those beyond the sample size are exactly 0.
        heads.append(jnp.matmul(unknowns, start, precision=lax.Precision.HIGHEST))
        gram, moment, first = _outer_product(start), start.sum(axis=0), jnp.uint32(dim)
    if large.size:
        # One size after another: only one matrix is at hand, and it stays in the cache.
        def size(sums: Sums, segment: tuple[Sums, Array]) -> tuple[Sums, Array]:
            sums, n = jax.tree.map(jnp.add, sums, segment[0]), segment[1]
            matrix, vector = (x / n for x in sums)
            return sums, _solve_ridges(matrix.astype(dtype), vector.astype(dtype), shifts)

        sums = (gram.astype(jnp.float64), moment.astype(jnp.float64))
        segments = _sum_segments(draw, dim, first, large, chunks, dtype)
        heads.append(lax.scan(size, sums, (segments, large))[1])
    return jnp.concatenate(heads).astype(jnp.float64)


def _matrix_product(left: Float[Array, "n e"], right: Float[Array, "n d"]) -> Float[Array, "e d"]:
    return jnp.matmul(left.T, right, precision=lax.Precision.HIGHEST)


def _outer_product(rows: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """The sum of outer products, on and below the diagonal: all that a factorisation reads.

    What lies above is left out block by block, which saves a quarter of the time of large ones.
    """
    dim = rows.shape[1]
    if dim <= _BLOCK:
        return _matrix_product(rows, rows)
    ends = [*range(_BLOCK, dim, _BLOCK), dim]
    parts = [_matrix_product(rows[:, end - _BLOCK : end], rows[:, :end]) for end in ends[:-1]]
    parts.append(_matrix_product(rows[:, ends[-2] :], rows))
    return jnp.concatenate([jnp.pad(part, ((0, 0), (0, dim - part.shape[1]))) for part in parts])


_BLOCK = 128
"""Columns of a sum of outer products that are made together."""


def _solve_dual(
    products: Float[Array, "d d"], samples: UInt32[Array, ""], ridges: Float[Array, " L"]
) -> Float[Array, "L d"]:
    """Weights of the first rows in a minimum-norm head, for every ridge; 0 for the others.

    The system is cut to the least of four sizes that holds it: its cost is cubic.
    """
    dim = products.shape[0]
    widths = [dim] if dim < _CUT else [-(-dim * quarter // 4) for quarter in (1, 2, 3, 4)]

    def solve(width: int, samples: Array) -> Array:
        heads = _solve_ridges(*_dual_system(products[:width, :width], samples), ridges)
        return jnp.pad(heads, ((0, 0), (0, dim - width)))

    branch = (jnp.asarray(widths, jnp.uint32) < samples).sum()
    return lax.switch(branch, [functools.partial(solve, width) for width in widths], samples)


_CUT = 48
"""Below this dimension one size of dual systems is enough."""


def _dual_system(
    products: Float[Array, "d d"], samples: UInt32[Array, ""]
) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """The system of a minimum-norm head on the first rows, filled up with the identity."""
    used = (jnp.arange(products.shape[0]) < samples).astype(products.dtype)
    kept = products * (used[:, None] * used[None, :])
    return kept / samples + jnp.diag(1 - used), used / samples


def _sum_segments(
    draw: Rows, dim: int, first: Array, ends: UInt32[Array, " l"], chunks: Chunks, dtype: Any
) -> tuple[Float[Array, "l d d"], Float[Array, "l d"]]:
    """Sums of outer products and of rows over each segment of the stream: the first from row
    `first` up to ``ends[0]``, the next up to ``ends[1]``, …"""
    drawn, rows = chunks
    starts = jnp.concatenate([first[None], ends[:-1]])
    local = jnp.arange(rows, dtype=jnp.int32)

    def chunk(step: Array, sums: Sums) -> Sums:
        at = first + step.astype(jnp.uint32) * jnp.uint32(drawn)
        table = draw(at, drawn)
        low, high = (
            (jnp.clip(edge, at, at + jnp.uint32(drawn)) - at).astype(jnp.int32)
            for edge in (starts, ends)
        )

        def segment(place: Array, sums: Sums) -> Sums:
            start, stop = low[place], high[place]

            def add(step: Array, sums: Sums) -> Sums:
                # The last slice of the table begins early; what it repeats is masked.
                begin = start + step * rows
                slice_at = jnp.minimum(begin, drawn - rows)
                inside = (local + slice_at >= begin) & (local + slice_at < stop)
                part = lax.dynamic_slice_in_dim(table, slice_at, rows)
                part = jnp.where(inside[:, None], part, 0).astype(dtype)
                return sums[0] + _outer_product(part), sums[1] + _matrix_product(ones, part)[0]

            found = lax.fori_loop(0, (stop - start + rows - 1) // rows, add, nothing)
            return jax.tree.map(lambda all, own: all.at[place].add(own), sums, found)

        # The segments that this chunk meets are neighbours.
        return lax.fori_loop((high <= 0).sum(), (low < drawn).sum(), segment, sums)

    ones = jnp.ones((rows, 1), dtype)
    nothing = jnp.zeros((dim, dim), dtype), jnp.zeros(dim, dtype)
    steps = (ends[-1] - first + jnp.uint32(drawn - 1)) // jnp.uint32(drawn)
    zero = tuple(jnp.zeros((ends.size, *x.shape), jnp.float64) for x in nothing)
    return lax.fori_loop(0, steps.astype(jnp.int32), chunk, zero)


def _solve_ridges(
    matrix: Float[Array, "d d"], vector: Float[Array, " d"], ridges: Float[Array, " L"]
) -> Float[Array, "L d"]:
    """Solve (matrix + ridge) x = vector for every ridge."""

    @one_by_one_on_cpu
    def solve(matrix: Array, vector: Array, ridge: Array) -> Array:
        eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
        factor = lax.linalg.cholesky(matrix + ridge * eye, symmetrize_input=False)
        return jax.scipy.linalg.cho_solve((factor, True), vector)

    return jax.vmap(solve, (None, None, 0))(matrix, vector, ridges)
