"""Search for the maximum of a function, inside JAX programs where SciPy cannot be called too."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Float

from jaxprompt.compute.namespace import Numbers

__all__ = ["golden_section"]

STEPS = 80
"""Each step keeps 0.618 of the interval: 80 leave 2e-17 of it."""


def golden_section(
    value: Callable[[Any], Any], low: Float[Numbers, "*n"] | float,
    high: Float[Numbers, "*n"] | float, *, xp: ModuleType = jnp,
) -> Float[Any, "*n"]:  # fmt: skip
    """Maximiser of a function with one peak on an interval, to the rounding of `value`.

    `value` works on arrays of places, one for each interval. Traceable; with NumPy for `xp`
    nothing is compiled. Near its peak a function is flat, so the
    place is known to about the square root of the dtype's precision, and the maximum to all of it.
    """
    ratio = (np.sqrt(5) - 1) / 2

    def narrow(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = value(left) > value(right)
        return xp.where(better, low, left), xp.where(better, right, high)

    ends = xp.asarray(low), xp.asarray(high)
    if xp is jnp:
        ends = lax.fori_loop(0, STEPS, narrow, ends)
    else:
        for step in range(STEPS):
            ends = narrow(step, ends)
    return (ends[0] + ends[1]) / 2
