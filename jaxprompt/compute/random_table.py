r"""Random numbers addressed by place: entry (row, column) of an infinite table.

``jax.random`` gives an array of numbers whose values depend on the array's shape. Simulations
that share one stream along a grid of sample sizes need the opposite: sample number `i` must be
the same whatever is drawn around it, and whatever chunk it is drawn in. Here entry ``(i, j)`` of
the table of a key is Threefry-2x32 (20 rounds, the generator behind ``jax.random``) applied to
the counter ``(i, j)``, so every chunk of the table can be made on its own, in any order.

The rounds are unrolled, which lets XLA fuse generation, the map to normals and their first use
into one vectorised loop; ``benchmarks/random_numbers.py`` measures the gain over ``jax.random``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Integer, Key, UInt32

from jaxprompt.compute.threefry import hash_words

__all__ = ["normals", "uniforms", "words"]


def words(
    key: Key[Array, ""], first_row: int | Integer[Array, ""], rows: int, columns: int
) -> tuple[UInt32[Array, "rows columns"], UInt32[Array, "rows columns"]]:
    """Two tables of 32 random bits for rows ``first_row …`` and columns ``0 …``.

    `key` is a Threefry key, the default of ``jax.random.key``; rows are counted modulo 2³².
    """
    low, high = jax.random.key_data(key)
    return hash_words(low, high, *_counters(first_row, rows, columns))


def uniforms(
    key: Key[Array, ""], first_row: int | Integer[Array, ""], rows: int, columns: int
) -> Float32[Array, "rows columns"]:
    """Uniform numbers strictly inside (0, 1): the midpoints of 2²³ equal steps, in float32."""
    return _unit(_paired(key, first_row, rows, columns))


def normals(
    key: Key[Array, ""], first_row: int | Integer[Array, ""], rows: int, columns: int
) -> Float32[Array, "rows columns"]:
    """Standard normal numbers in float32.

    As with ``jax.random.normal`` in float32, they take 2²³ values, the largest about 5.3.
    """
    return jnp.float32(np.sqrt(2)) * lax.erf_inv(2 * uniforms(key, first_row, rows, columns) - 1)


def _counters(first_row: int | Array, rows: int, columns: int) -> tuple[Array, Array]:
    row = lax.broadcasted_iota(jnp.uint32, (rows, columns), 0) + jnp.uint32(first_row)
    return row, lax.broadcasted_iota(jnp.uint32, (rows, columns), 1)


def _paired(key: Array, first_row: int | Array, rows: int, columns: int) -> Array:
    # Each counter gives two words: the first half of the columns takes one, the rest the other.
    # Hashing every counter twice and selecting is faster than joining two tables: a concatenation
    # would stop XLA from making and using the numbers in one vectorised loop.
    half = (columns + 1) // 2
    row, column = _counters(first_row, rows, columns)
    second = column >= half
    low, high = jax.random.key_data(key)
    words = hash_words(low, high, row, jnp.where(second, column - jnp.uint32(half), column))
    return jnp.where(second, words[1], words[0])


def _unit(bits: Array) -> Array:
    # 23 bits, so that the midpoint 2⁻²⁴ is representable up to the last step below 1.
    return (bits >> jnp.uint32(9)).astype(jnp.float32) * jnp.float32(2**-23) + jnp.float32(2**-24)
