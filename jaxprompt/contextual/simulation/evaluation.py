"""Random scores that average a trial's conditional error: few, and without bias.

A head and prompt learned in one trial are judged by `contextual.conditional_error`, a mean over the
T − k standard normal scores of a fresh sequence. Plain sampling of those scores would be the
largest part of a trial's variance; a randomly shifted Sobol rule takes most of that away.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Key
from scipy.stats import qmc

from jaxprompt.compute import random_table
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting

__all__ = ["NODES", "errors_over_known_prompt", "fresh_scores"]

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


TRIALS_TOGETHER = 16
"""Trials whose heads one compiled call evaluates."""


def errors_over_known_prompt(
    setting: Setting, heads: Float[np.ndarray, "t *h 3"], *, key: Key[Array, ""]
) -> np.ndarray:
    """Each head's probability of a wrong sign over the prompt γq⋆; float64.

    A head is its components along the unit vectors of w⋆ and q⋆, and its norm. All heads of a trial
    share its fresh scores.
    """
    trials = heads.shape[0]
    flat, parts = heads.reshape(trials, -1, 3), []
    with jax.enable_x64(True):
        for first in range(0, trials, TRIALS_TOGETHER):
            block = flat[np.minimum(np.arange(first, first + TRIALS_TOGETHER), trials - 1)]
            parts.append(np.asarray(_errors_of_block(setting, block, jnp.uint32(first), key)))
    return np.concatenate(parts)[:trials].reshape(heads.shape[:-1])


@jax.jit
def _errors_of_block(
    setting: Setting, heads: Float[Array, "b h 3"] | np.ndarray, first: Array, key: Array
) -> Float[Array, "b h"]:
    def errors_of_trial(trial: tuple[Array, Array]) -> Array:
        heads, index = trial
        test_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)
        scalars = fresh_scores(setting.irrelevant, key=test_key).astype(jnp.float64)

        def error(head: Array) -> Array:
            geometry = Geometry.of_known_prompt(setting, head[0], head[1], head[2])
            return conditional_error(setting, geometry, scalars)

        return jax.vmap(error)(heads)

    indices = first + jnp.arange(TRIALS_TOGETHER, dtype=jnp.uint32)
    return lax.map(errors_of_trial, (jnp.asarray(heads), indices))


@functools.lru_cache(maxsize=32)
def _sobol(count: int) -> np.ndarray:
    points = qmc.Sobol(count, scramble=False).random_base2(int(np.log2(NODES)))
    return points.astype(np.float32)
