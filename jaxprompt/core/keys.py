"""Random keys: from seeds, and from the parameters of a run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.core.json_values import canonical
from jaxprompt.errors import ParameterError

__all__ = ["LARGEST_SEED", "as_key", "fold_in_parameters"]

LARGEST_SEED = 2**64 - 1
"""Largest seed; every smaller one from 0 on gives numbers of its own."""

_IMPLEMENTATION = "threefry2x32"


def as_key(key: Any) -> jax.Array:
    """A typed threefry key from an integer seed, a typed key, or the words of an old-style key.

    A key of another generator is folded into a threefry key, word by word.

    Raises:
        ParameterError: it is none of those, or a seed outside 0 … 2^64 − 1.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return _key_from_seed(int(key))
    if not isinstance(key, jax.Array | np.ndarray):
        raise _not_a_key(key)
    if not isinstance(key, jax.Array):
        key = jnp.asarray(key)  # of a key it would take longer than a small cell of a sweep
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise _not_a_key(f"{key.shape[0] if key.shape else 0} keys")
        known = str(jax.random.key_impl(key)) == _IMPLEMENTATION
        return (
            key if known else _key_from_words(jax.random.key_data(key))
        )  # words cost more than a cell
    if key.dtype != np.uint32 or key.ndim != 1 or key.shape[0] < 2:
        raise _not_a_key(key)
    if key.shape[0] == 2:
        return jax.random.wrap_key_data(key, impl=_IMPLEMENTATION)
    return _key_from_words(key)


def _key_from_seed(seed: int) -> jax.Array:
    if not 0 <= seed <= LARGEST_SEED:
        raise ParameterError("key", seed, "a seed from 0 to 2^64 − 1", "choose one of those")
    # JAX drops the upper word of a seed where 64-bit types are off.
    key = jax.random.key(seed & 0xFFFFFFFF, impl=_IMPLEMENTATION)
    return jax.random.fold_in(key, seed >> 32) if seed >> 32 else key


def _key_from_words(words: jax.Array) -> jax.Array:
    key = jax.random.wrap_key_data(words[:2], impl=_IMPLEMENTATION)
    for word in words[2:]:
        key = jax.random.fold_in(key, word)
    return key


def _not_a_key(key: object) -> ParameterError:
    return ParameterError("key", key, "an integer seed or a JAX key", "give a seed such as 0")


def fold_in_parameters(
    key: jax.Array, parameters: Mapping[str, Any], shared: Sequence[str] = ()
) -> jax.Array:
    """Key of one run, from its parameters rather than its place in a grid.

    Adding grid points therefore leaves the other points' random numbers as they were.
    Parameters in `shared` do not enter: along them the simulation uses one stream.
    """
    distinguishing = {name: value for name, value in parameters.items() if name not in shared}
    return jax.random.fold_in(key, zlib.crc32(canonical(distinguishing).encode()))
