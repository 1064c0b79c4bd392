"""NumPy for numbers, JAX for what it is tracing.

A closed form of one number is a few microseconds of NumPy, but a compilation for every operation
when it is written with `jax.numpy` and called outside ``jit``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["Numbers", "namespace_of"]

Numbers = jax.Array | np.ndarray
"""An array of NumPy or of JAX."""


def namespace_of(*values: Any) -> ModuleType:
    """`jax.numpy` if JAX is tracing one of the values, else NumPy."""
    return jnp if any(isinstance(value, Tracer) for value in values) else np
