"""What rounding leaves of a head, in any float type of JAX."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

__all__ = ["rounding_allowance"]


def rounding_allowance(
    dtype: Any, *, terms: float, largest_score: float, largest_value: float = 1.0
) -> float:
    r"""√terms · eps · (1 + largest score), at the size of the largest value where that is above 1.

    A score is a sum of `terms` products, each rounded; roundings add like the root of their number,
    so a score is off by about √terms units in the last place of the largest score, and a softmax
    weight moves by as much relative to 1. `largest_score` is that of the scores a query can see,
    after scale, cap and bias; where every value has passed projections of its own, their products
    count among the `terms`. Above 1 the allowance says nothing: compare in a wider type.

    Measured deviations of weights are 0.002 to 0.1 of it, in float64, float32, float16 and
    bfloat16, at widths 8 and 64 and scores up to 1, 10 and 100. On a CPU they are at most 0.4 of
    eps · (1 + largest score) at either width: ``terms=1`` is then enough.
    """
    eps = float(jnp.finfo(jnp.dtype(dtype)).eps)  # NumPy alone does not know bfloat16
    return float(terms) ** 0.5 * eps * max(1.0, largest_value) * (1.0 + largest_score)
