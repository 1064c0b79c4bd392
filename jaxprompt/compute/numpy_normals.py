"""Normal numbers by NumPy, for simulations that run on the host: quick, and nothing is compiled."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float, Key

__all__ = ["NUMBERS_TOGETHER", "fill_normals", "generator_of"]

NUMBERS_TOGETHER = 2**16
"""Normals that are best drawn and worked on at once: with their scratch they stay in a core's
cache."""


def generator_of(key: Key[Array, ""], *place: int) -> np.random.Generator:
    """A generator of its own for each place, such as a block of trials, under a key of JAX."""
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return np.random.Generator(np.random.SFC64([*words, *place]))


def fill_normals(out: Float[np.ndarray, "*shape"], rng: np.random.Generator) -> None:
    """Fill a contiguous float32 array with independent standard normals, by Box and Muller's
    formula.

    That takes half the time of NumPy's own float32 normals. The radius comes from 24 bits, so no
    number is beyond 5.8, where a normal is once in 10⁸ draws.
    """
    flat = out.reshape(-1)
    half = (flat.size + 1) // 2
    radius = rng.random(half, np.float32)
    angle = rng.random(half, np.float32)
    np.subtract(1, radius, out=radius)  # above 0, so that it has a logarithm
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * np.pi)
    np.multiply(radius, np.cos(angle), out=flat[:half])
    np.sin(angle, out=angle)
    np.multiply(radius[: flat.size - half], angle[: flat.size - half], out=flat[half:])
