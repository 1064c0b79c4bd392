"""Random keys: from seeds, and from the parameters of a run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.core.json_values import canonical

__all__ = ["as_key", "fold_in_parameters"]


def as_key(key: jax.Array | int) -> jax.Array:
    """A typed JAX key from a key or an integer seed."""
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key), impl="threefry2x32")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def fold_in_parameters(
    key: jax.Array, parameters: Mapping[str, Any], shared: Sequence[str] = ()
) -> jax.Array:
    """Key of one run, from its parameters rather than its place in a grid.

    Adding grid points therefore leaves the other points' random numbers as they were.
    Parameters in `shared` do not enter: along them the simulation uses one stream.
    """
    rest = {name: value for name, value in parameters.items() if name not in shared}
    return jax.random.fold_in(key, zlib.crc32(canonical(rest).encode()))
