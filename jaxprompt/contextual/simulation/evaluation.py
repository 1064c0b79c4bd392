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
from scipy import special
from scipy.stats import qmc

from jaxprompt.compute import random_table
from jaxprompt.compute.numpy_normals import generator_of
from jaxprompt.compute.threefry import unrolled
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting

__all__ = ["NODES", "errors_of_trained_heads", "errors_over_known_prompt", "fresh_scores"]

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
    """Each head's probability of a wrong sign over the prompt γq⋆; float64, computed in float32.

    A head is its components along the unit vectors of w⋆ and q⋆, and its norm. All heads of a trial
    share its fresh scores. Rounding, some 1e-7, is nothing beside what trials differ by.
    """
    trials = heads.shape[0]
    flat, parts = heads.reshape(trials, -1, 3).astype(np.float32), []
    for first in range(0, trials, TRIALS_TOGETHER):
        block = flat[np.minimum(np.arange(first, first + TRIALS_TOGETHER), trials - 1)]
        parts.append(np.asarray(_errors_of_block(setting, block, np.uint32(first), key)))
    return np.concatenate(parts)[:trials].reshape(heads.shape[:-1]).astype(np.float64)


@jax.jit
def _errors_of_block(
    setting: Setting, heads: Float32[Array, "b h 3"] | np.ndarray, first: Array, key: Array
) -> Float32[Array, "b h"]:
    own = jax.random.fold_in(unrolled(key), 1)

    def errors_of_trial(trial: tuple[Array, Array]) -> Array:
        heads, index = trial
        scalars = fresh_scores(setting.irrelevant, key=jax.random.fold_in(own, index))

        def error(head: Array) -> Array:
            geometry = Geometry.of_known_prompt(setting, head[0], head[1], head[2])
            return conditional_error(setting, geometry, scalars)

        return jax.vmap(error)(heads)

    indices = first + jnp.arange(TRIALS_TOGETHER, dtype=jnp.uint32)
    return lax.map(errors_of_trial, (jnp.asarray(heads), indices))


def errors_of_trained_heads(
    setting: Setting, heads: Float[np.ndarray, "t h 4"], prompts: Float[np.ndarray, "t 3"],
    *, key: Key[Array, ""], nodes: int = NODES,
) -> Float[np.ndarray, "t h"]:  # fmt: skip
    """Probabilities of a wrong sign of each trial's heads over its prompt; NumPy, float64.

    A head is ⟨w, w⋆⟩, ⟨w, q⋆⟩, |w| and ⟨w, q⟩, a prompt ⟨q, w⋆⟩, ⟨q, q⋆⟩ and |q|. All heads of
    a trial share its fresh scores, and every trial has scores of its own: a randomly shifted rule
    as in :func:`fresh_scores`, with `nodes` nodes, a power of 2. A second implementation of the
    formula of `contextual.conditional_error`, which compiles nothing.
    """
    trials, parts = len(heads), []
    for first in range(0, trials, TRIALS_TOGETHER):
        rng = generator_of(key, _TEST_STREAM, first)
        places = slice(first, first + TRIALS_TOGETHER)
        scores = _shifted_scores(setting.irrelevant, nodes, rng)[: len(heads[places])]
        parts.append(_errors_over_scores(setting, heads[places], prompts[places], scores))
    return np.concatenate(parts)


_TEST_STREAM = 2**32 - 1
"""Place of the generators of test scores under a key; blocks of training have smaller ones."""


def _shifted_scores(
    count: int, nodes: int, rng: np.random.Generator
) -> Float[np.ndarray, "t m count"]:
    """A rule for `count` standard normals for each of :data:`TRIALS_TOGETHER` trials."""
    if count > _SOBOL_TOKENS:
        return rng.standard_normal((TRIALS_TOGETHER, nodes, count))
    points = _sobol(count, nodes).astype(np.float64) if count else np.zeros((1, 0))
    unit = points + rng.random((TRIALS_TOGETHER, 1, count))
    return special.ndtri(np.clip(unit - np.floor(unit), 2**-24, 1 - 2**-24))


def _errors_over_scores(
    setting: Setting, heads: Float[np.ndarray, "t h 4"], prompts: Float[np.ndarray, "t 3"],
    scores: Float[np.ndarray, "t m N"],
) -> Float[np.ndarray, "t h"]:  # fmt: skip
    """Means over labels, shifts and the given standard normals along the prompt."""
    shifts = np.asarray(setting.shifts, np.float64)
    label, kinds = np.repeat([-1.0, 1.0], len(shifts)), np.tile(shifts, (2, 1))
    odds = np.tile(np.asarray(setting.shift_weights, np.float64), 2) / 2
    own = np.stack([label, np.ones_like(label)])  # multiples of w⋆ and q⋆: (2, kind)
    other = -kinds[:, ::-1].T * own
    # Weights relative to the largest irrelevant one do not depend on the kind of sequence.
    noise = (setting.noise * prompts[:, 2])[:, None, None] * scores
    largest = noise.max(axis=-1) if setting.irrelevant else np.zeros(noise.shape[:-1])
    weights = np.exp(noise - largest[..., None])
    sums = [weights.sum(axis=-1), np.einsum("tmn,tmn->tm", weights, scores),
            np.sqrt(np.einsum("tmn,tmn->tm", weights, weights))]  # fmt: skip
    gap = (prompts[:, :2] @ (own - other))[:, :, None] - largest[:, None]
    peak = np.maximum(gap, 0.0)
    mass, factor = setting.relevant * np.exp(gap - peak), np.exp(-peak)
    total = mass + factor * sums[0][:, None]
    share, factor = (mass / total)[:, None], setting.noise * factor / total
    drift, spread = ((factor * each[:, None])[:, None] for each in sums[1:])  # (t, 1, kind, m)
    # The head along the prompt's direction, and the length of what lies across it.
    along = heads[:, :, 3] / np.where(prompts[:, 2] > 0, prompts[:, 2], np.inf)[:, None]
    across = np.sqrt(np.maximum(np.square(heads[:, :, 2]) - np.square(along), 0.0))
    output = share * (heads[:, :, :2] @ own)[..., None]
    output = output + (1 - share) * (heads[:, :, :2] @ other)[..., None]
    output = output + along[:, :, None, None] * drift
    margin = label[:, None] * output
    deviation = across[:, :, None, None] * spread
    certain = deviation <= 0
    wrong = special.ndtr(-margin / np.where(certain, 1.0, deviation))
    wrong = np.where(certain, (1 - np.sign(margin)) / 2, wrong)
    return wrong.mean(axis=-1) @ odds


@functools.lru_cache(maxsize=32)
def _sobol(count: int, nodes: int = NODES) -> np.ndarray:
    points = qmc.Sobol(count, scramble=False).random_base2(int(np.log2(nodes)))
    return points.astype(np.float32)
