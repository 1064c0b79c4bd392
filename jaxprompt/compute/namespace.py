"""NumPy for numbers, JAX for what it is tracing.

A closed form of one number is a few microseconds of NumPy, but a compilation for every operation
when it is written with `jax.numpy` and called outside ``jit``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["Numbers", "namespace_of"]

Numbers = jax.Array | np.ndarray | np.floating
"""An array of JAX or of NumPy, or the number that NumPy makes of an array without axes."""


def namespace_of(*values: Any) -> Any:
    """`jax.numpy` if JAX is tracing one of the values, else NumPy."""
    return jnp if any(isinstance(value, Tracer) for value in values) else np
