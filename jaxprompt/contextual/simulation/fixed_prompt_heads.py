r"""Ridge heads over fixed prompts on embeddings of scenes: what they are trained and tested on.

A pool of scenes is what a theory may learn moments and prompts from; heads are trained and tested
on scenes that the pool does not hold. Nothing here predicts an error. Needs the extra ``data``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float64, Key

from jaxprompt.contextual.simulation.image_experiment import EmbeddedScenes, Task, embed_scenes

__all__ = ["HEADS", "RIDGE", "SceneSets", "draw_scene_sets", "head_errors", "prompt_along_means"]

POOL, TRAINED, TESTED, OTHERS = 2000, 1000, 2000, 1000
"""Scenes of the pool, of those that heads are trained on (of both twice as many as one head gets,
where that is more), of the test, and of other digits and photographs."""

HEADS = 40
"""Heads that a trial trains over each prompt, on scenes drawn from its training set."""

RIDGE = 0.05


class SceneSets(NamedTuple):
    """Embedded scenes of one trial: three sets, drawn apart, with the digits and photographs for
    adaptation, and one with those for testing."""

    pool: EmbeddedScenes
    train: EmbeddedScenes
    test: EmbeddedScenes
    others: EmbeddedScenes


def draw_scene_sets(
    task: Task, flat: np.ndarray, samples: int, pair: tuple[int, int], *, key: Key[jax.Array, ""]
) -> SceneSets:
    """Sets for heads that are trained on `samples` scenes; `flat` is the frozen model."""
    counts = max(POOL, 2 * samples), max(TRAINED, 2 * samples), TESTED, OTHERS
    drawn = [
        embed_scenes(
            task, flat, "test" if place == 3 else "adaptation", count, pair,
            key=jax.random.fold_in(key, place),
        )
        for place, count in enumerate(counts)
    ]  # fmt: skip
    return SceneSets(*drawn)


def prompt_along_means(pool: EmbeddedScenes) -> Float64[np.ndarray, " d"]:
    r""":math:`\frac{|h|^2}{2h^\top\Sigma h}h`: of the prompts along the difference h of the mean
    relevant and irrelevant token the one that is best for many tokens."""
    tokens = pool.tokens.astype(np.float64)
    far = tokens[~pool.relevant]
    h = tokens[pool.relevant].mean(axis=0) - far.mean(axis=0)
    return h @ h / (2 * np.var(far @ h)) * h


def head_errors(
    sets: SceneSets, prompt: Float[np.ndarray, " d"], samples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean error of ridge heads, on the test and on other digits and photographs; float64.

    The objective is that of `contextual.prompt_error`. Each of :data:`HEADS` heads is trained on
    `samples` scenes of the training set, drawn without replacement.
    """
    train, test, others = (_signed_features(scenes, prompt) for scenes in sets[1:])
    errors = np.empty((HEADS, 2))
    for trial in range(HEADS):
        rows = train[rng.permutation(len(train))[:samples]]
        matrix = rows.T @ rows / samples + RIDGE * np.eye(rows.shape[1])
        head = np.linalg.solve(matrix, rows.mean(axis=0))
        errors[trial] = (test @ head <= 0).mean(), (others @ head <= 0).mean()
    same, other = errors.mean(axis=0)
    return float(same), float(other)


def _signed_features(
    scenes: EmbeddedScenes, prompt: Float[np.ndarray, " d"]
) -> Float64[np.ndarray, "B d"]:
    """Label times what the prompt's attention pools of every scene."""
    tokens = scenes.tokens.astype(np.float64)
    scores = tokens @ prompt
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    pooled = (weights[:, None, :] @ tokens)[:, 0] / weights.sum(axis=1, keepdims=True)
    return scenes.labels[:, None] * pooled
