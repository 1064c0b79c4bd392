"""Threefry-2x32 with its rounds unrolled: the numbers of ``jax.random``, from smaller programs.

On a CPU JAX writes the twenty rounds of its generator as a loop, which the compiler takes apart
into some dozen kernels wherever a number is drawn. Unrolled, a draw is one kernel: the same bits,
a fifth of the compilation and no more running time (``benchmarks/random_numbers.py``).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

__all__ = ["hash_words", "unrolled"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

_COUNTED_BY_A_WORD = 2**32
"""Numbers of one draw above which JAX's own generator draws."""


def unrolled(key: Key[Array, "*n"]) -> Key[Array, "*n"]:
    """The same threefry key for programs that compile in a fifth of the time.

    Whatever ``jax.random`` draws from it, on a CPU or elsewhere, is bit by bit what it draws from
    `key`; so are the keys that are split from it or folded. An unrolled key stays as it is.
    ``jax.random.poisson`` refuses such a key, and gamma laws are drawn one number after another:
    leave the key as it is for those.

    Raises:
        TypeError: `key` is of another generator than threefry.
    """
    kind = jax.random.key_impl(key)
    if kind == _UNROLLED:
        return key
    if str(kind) != "threefry2x32":
        raise TypeError(f"a key of {kind}: must be one of threefry2x32")
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_UNROLLED)


def hash_words(low: Array, high: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 (20 rounds) of the counter (x0, x1) under the key (low, high), all uint32."""
    schedule = (low, high, low ^ high ^ _PARITY)
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))
            x1 = x0 ^ x1
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _hash_places(words: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The hash of each place of an array of that shape, counted row by row."""
    place = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return hash_words(words[0], words[1], jnp.zeros_like(place), place)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _random_bits(words: Array, width: int, shape: tuple[int, ...]) -> Array:
    if math.prod(shape) >= _COUNTED_BY_A_WORD:
        return jax.random.bits(_key_of_jax(words), shape, f"uint{width}")
    first, second = _hash_places(words, shape)
    if width == 64:
        return (first.astype(jnp.uint64) << np.uint64(32)) | second.astype(jnp.uint64)
    return (first ^ second).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width])


# Derived keys stand behind a barrier, or the compiler would derive them again, in every kernel,
# for every number that is drawn from them.
@functools.partial(jax.jit, static_argnums=1, inline=True)
def _split(words: Array, shape: tuple[int, ...]) -> Array:
    return lax.optimization_barrier(jnp.stack(_hash_places(words, shape), axis=-1))


@functools.partial(jax.jit, inline=True)
def _fold_in(words: Array, data: Array) -> Array:
    count = jnp.asarray(data).astype(jnp.uint32)
    folded = hash_words(words[0], words[1], jnp.zeros_like(count), count)
    return lax.optimization_barrier(jnp.stack(folded))


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def _key_of_jax(words: Array) -> Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")


_UNROLLED = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32 unrolled",
    tag="fru",
)
