r"""Ridge heads on pooled features, for all sample sizes and ridges of a grid at once.

The objective is :math:`\frac1n \sum_i (1 - y_i\, w\cdot\bar x_i)^2/2 + \frac\lambda2 |w|^2`. With
signed rows :math:`r_i = y_i \bar x_i` the minimiser is
:math:`w = (R^\top R/n + \lambda)^{-1} R^\top \mathbf 1/n`. For n ≤ d it equals
:math:`w = R^\top (R R^\top/n + \lambda)^{-1} \mathbf 1/n`, which at λ = 0 is the minimum-norm
interpolator. Sums over the stream are float64. Products of a chunk and the factorisations are
float64 too, or float32 where the caller knows the systems to be well conditioned.
"""

from __future__ import annotations

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
    """How a grid of sample sizes is served: few distinct shapes among all grids.

    `drawn` rows are drawn together: all that the grid needs, where that is little. `multiplied`
    rows are multiplied together, and `dual` is the width of systems of at most d rows.
    """

    drawn: int
    multiplied: int
    dual: int
    at_once: bool

    @classmethod
    def for_sizes(cls, samples: Sequence[int], dim: int) -> Chunks:
        """Few and full chunks for ascending sample sizes."""
        quarter = -(-dim // 4) if dim >= _CUT else dim
        dual = max((-(-n // quarter) * quarter for n in samples if n <= dim), default=0)
        start = dim if dual else 0
        gaps = np.diff([start, *(n for n in samples if n > dim)])

        def work(rows: int) -> float:
            # A product costs about as much as 24 more rows, however few it has.
            return float((np.ceil(gaps / rows) * (rows + 24)).sum())

        needed = int(samples[-1]) if gaps.size else min(dual, dim)
        step = max(1, (1 << (needed - 1).bit_length()) // 4)
        whole = -(-needed // step) * step
        if whole <= _AT_ONCE + start:
            fit = [rows for rows in (32, 64, 128, 256) if rows <= whole]
            return cls(whole, min(fit, key=work, default=whole), min(dual, dim), True)
        rows = min((64, 128, 256), key=work)
        return cls(max(rows, start), rows, min(dual, dim), False)


_AT_ONCE = 1024
"""Rows beyond the first d that are drawn at once."""

_CUT = 48
"""Below this dimension one width of dual systems is enough."""


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
    holds some thousand rows and one d × d matrix, however many samples there are.
    `dtype` is that of products and factorisations; float32 roughly halves their time, for a
    relative error of about 1e-7 times the condition number. The heads are float64.
    """
    shifts, heads = ridges.astype(dtype), []
    exact = dtype if chunks.at_once else jnp.float64  # of sums
    sums = jnp.zeros((dim, dim), exact), jnp.zeros(dim, exact)
    first = jnp.zeros((), jnp.uint32)
    table = jnp.zeros((0, dim), dtype)
    if chunks.at_once or small.size:
        table = draw(0, chunks.drawn).astype(dtype)
    if small.size:
        start = table[: chunks.dual]
        products = _outer_product(start.T)
        unknowns = lax.map(
            lambda n: _solve_ridges(*_dual_system(products, n), n.astype(dtype) * shifts), small
        )
        # The dual's unknowns weigh rows; those beyond the sample size are exactly 0.
        heads.append(jnp.matmul(unknowns, start, precision=lax.Precision.HIGHEST))
    if small.size and large.size:
        first, whole = jnp.asarray(dim, jnp.uint32), table[:dim]
        sums = jax.tree.map(jnp.add, sums, (_outer_product(whole), whole.sum(axis=0)))
    if large.size:

        def take(at: Array) -> Array:
            """`multiplied` rows from row `at` on."""
            if chunks.at_once:
                return lax.dynamic_slice_in_dim(table, at, chunks.multiplied)
            return draw(at, chunks.multiplied).astype(dtype)

        # One size after another: only one matrix is at hand, and it stays in the cache.
        def size(sums: Sums, segment: tuple[Array, Array]) -> tuple[Sums, Array]:
            sums = _add_rows(take, sums, *segment, chunks)
            matrix, vector = (x.astype(dtype) for x in sums)
            return sums, _solve_ridges(matrix, vector, segment[1].astype(dtype) * shifts)

        starts = jnp.concatenate([first[None], large[:-1]])
        heads.append(lax.scan(size, sums, (starts, large))[1])
    return jnp.concatenate(heads).astype(jnp.float64)


def _matrix_product(left: Float[Array, "n e"], right: Float[Array, "n d"]) -> Float[Array, "e d"]:
    # A transpose of its own: folded into the product, XLA's loops on a CPU take up to three times
    # as long in float32.
    turned = lax.optimization_barrier(left.T)
    return jnp.matmul(turned, right, precision=lax.Precision.HIGHEST)


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


def _dual_system(
    products: Float[Array, "d d"], samples: UInt32[Array, ""]
) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """The system of a minimum-norm head on the first rows, filled up with the identity."""
    used = (jnp.arange(products.shape[0]) < samples).astype(products.dtype)
    kept = products * (used[:, None] * used[None, :])
    return kept + jnp.diag(1 - used), used


def _add_rows(
    take: Callable[[Array], Array], sums: Sums, start: Array, stop: Array, chunks: Chunks
) -> Sums:
    """The sums of outer products and of rows, with the rows from `start` up to `stop` added."""
    rows = chunks.multiplied
    local = jnp.arange(rows, dtype=jnp.uint32)
    # The last rows of a table are sliced early; what that repeats is masked.
    latest = np.uint32(chunks.drawn - rows if chunks.at_once else 2**32 - 1)

    def add(step: Array, sums: Sums) -> Sums:
        begin = start + step.astype(jnp.uint32) * np.uint32(rows)
        at = jnp.minimum(begin, latest)
        inside = (local >= begin - at) & (local < stop - at)
        part = jnp.where(inside[:, None], take(at), 0)
        return sums[0] + _outer_product(part), sums[1] + part.sum(axis=0)

    steps = (stop - start + np.uint32(rows - 1)) // np.uint32(rows)
    return lax.fori_loop(0, steps.astype(jnp.int32), add, sums)


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
