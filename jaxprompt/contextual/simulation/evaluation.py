"""Random scores that average a trial's conditional error: few, and without bias.

A head and prompt learned in one trial are judged by `contextual.conditional_error`, a mean over the
T − k standard normal scores of a fresh sequence. Plain sampling of those scores would be the
largest part of a trial's variance; a randomly shifted Sobol rule takes most of that away.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Key
from scipy.stats import qmc

from jaxprompt.compute import random_table

__all__ = ["NODES", "fresh_scores"]

NODES = 512
"""Nodes of the rule."""

_SOBOL_TOKENS = 256
"""Scores beyond which the rule's points are no better than independent ones."""


def fresh_scores(count: int, *, key: Key[Array, ""]) -> Float32[Array, "nodes count"]:
    """Nodes for `count` independent standard normals, in float32.

    Every key shifts the rule by its own uniform vector (modulo 1), so each node has the exact law:
    an average over the nodes is unbiased, and independent between keys. Without scores
    (`count` 0) there is one empty node.
    """
    if count == 0:
        return jnp.zeros((1, 0), jnp.float32)
    if count > _SOBOL_TOKENS:
        return random_table.normals(key, 0, NODES, count)
    shifted = _sobol(count) + random_table.uniforms(key, 0, 1, count)
    unit = shifted - jnp.floor(shifted)
    return jnp.float32(np.sqrt(2)) * lax.erf_inv(jnp.clip(2 * unit - 1, -1 + 2**-23, 1 - 2**-23))


@functools.lru_cache(maxsize=32)
def _sobol(count: int) -> np.ndarray:
    points = qmc.Sobol(count, scramble=False).random_base2(int(np.log2(NODES)))
    return points.astype(np.float32)
