"""Search for the maximum of a function inside JAX programs, where SciPy cannot be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

__all__ = ["golden_section"]

STEPS = 80
"""Each step keeps 0.618 of the interval: 80 leave 2e-17 of it."""


def golden_section(
    value: Callable[[Array], Array], low: Float[Array, ""] | float, high: Float[Array, ""] | float
) -> Float[Array, ""]:
    """Maximiser of a function with one peak on an interval, to the rounding of `value`.

    Traceable, for one interval; ``vmap`` it for many. Near its peak a function is flat, so the
    place is known to about the square root of the dtype's precision, and the maximum to all of it.
    """
    ratio = (np.sqrt(5) - 1) / 2

    def narrow(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = value(left) > value(right)
        return jnp.where(better, low, left), jnp.where(better, right, high)

    ends = lax.fori_loop(0, STEPS, narrow, (jnp.asarray(low), jnp.asarray(high)))
    return (ends[0] + ends[1]) / 2
