r"""Zonal harmonics on :math:`S^m`."""

from __future__ import annotations

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

__all__ = ["eigenvalue", "zonal"]

Number = Array | np.ndarray | float
"""One number or many, to calculate with."""

Values = TypeVar("Values", Array, np.ndarray)


def eigenvalue(sphere_dim: Number, degree: Number) -> Number:
    """K = k(k+m−1): minus the Laplace–Beltrami eigenvalue of degree-k harmonics on S^m."""
    return degree * (degree + sphere_dim - 1)


def zonal(cosine: Values, sphere_dim: int, degree: int) -> Values:
    r"""Zonal harmonic of a degree at the cosine of the angle to its pole, 1 at the pole.

    The Gegenbauer polynomial :math:`C_k^\nu(t)/C_k^\nu(1)` (Chebyshev for m = 1, Legendre for
    m = 2), by its three-term recurrence. `cosine` of any shape; same shape and dtype back.
    """
    below = np.ones_like(cosine) if isinstance(cosine, np.ndarray) else jnp.ones_like(cosine)
    here = cosine
    if degree == 0:
        return below
    for k in range(1, degree):
        below, here = (
            here,
            ((2 * k + sphere_dim - 1) * cosine * here - k * below) / (k + sphere_dim - 1),
        )
    return here
