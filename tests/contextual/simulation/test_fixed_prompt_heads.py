"""Ridge heads over fixed prompts on embedded scenes, beside slower sums that share no code."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from scipy import optimize

from jaxprompt.contextual.simulation import fixed_prompt_heads
from jaxprompt.contextual.simulation.fixed_prompt_heads import (
    RIDGE,
    SceneSets,
    draw_scene_sets,
    head_errors,
    prompt_along_means,
)
from jaxprompt.contextual.simulation.image_experiment import EmbeddedScenes, Task

DIM, TOKENS = 5, 6


def embedded(seed: int, count: int) -> EmbeddedScenes:
    """Scenes whose two relevant tokens have a mean, and a signal that the label turns."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(count) < 0.5, 1.0, -1.0).astype(np.float32)
    tokens = rng.standard_normal((count, TOKENS, DIM)) * [1.0, 0.5, 2.0, 1.0, 1.0]
    relevant = np.zeros((count, TOKENS), bool)
    for row in relevant:
        row[rng.permutation(TOKENS)[:2]] = True
    tokens[relevant] += np.repeat(
        np.array([1.0, 1.0, 0.0, 0.0, 0.0]) + labels[:, None] * [0.0, 0.0, 1.0, 0.5, 0.0], 2, axis=0
    )
    return EmbeddedScenes(tokens.astype(np.float32), relevant, labels)


@pytest.fixture
def sets() -> SceneSets:
    return SceneSets(*(embedded(seed, count) for seed, count in enumerate((300, 60, 40, 30))))


def pooled_one_by_one(scenes: EmbeddedScenes, prompt: np.ndarray) -> list[list[float]]:
    rows = []
    for tokens in scenes.tokens.astype(float):
        powers = [math.exp(math.fsum(token * prompt)) for token in tokens]
        rows.append([math.fsum(p * t[i] for p, t in zip(powers, tokens, strict=True)) / sum(powers)
                     for i in range(DIM)])  # fmt: skip
    return rows


def test_errors_are_those_of_least_squares_with_penalties(sets, monkeypatch):
    """A head fits labels, and √λ·w fits 0, by least squares of the stacked system."""
    monkeypatch.setattr(fixed_prompt_heads, "HEADS", 3)
    prompt, samples = np.array([0.7, 0.2, -0.1, 0.0, 0.3]), 20
    found = head_errors(sets, prompt, samples, np.random.default_rng(5))
    train, test, others = (np.array(pooled_one_by_one(scenes, prompt)) for scenes in sets[1:])
    orders, wrong = np.random.default_rng(5), np.zeros((3, 2))
    for trial in range(3):
        chosen = orders.permutation(len(train))[:samples]
        stacked = np.concatenate([train[chosen], math.sqrt(samples * RIDGE) * np.eye(DIM)])
        answers = np.concatenate([sets.train.labels[chosen], np.zeros(DIM)])
        head = np.linalg.lstsq(stacked, answers)[0]
        for place, (rows, scenes) in enumerate(((test, sets.test), (others, sets.others))):
            wrong[trial, place] = np.mean(np.sign(rows @ head) != scenes.labels)
    np.testing.assert_allclose(found, wrong.mean(axis=0), rtol=1e-12)
    assert 0.02 < found[0] < 0.4


def test_the_prompt_along_the_means_has_the_best_gain(sets):
    """It maximises ⟨q, h⟩ − q'Σq, by which the ratio of signal to noise grows for many tokens."""
    prompt = prompt_along_means(sets.pool)
    tokens = sets.pool.tokens.astype(float)
    near, far = tokens[sets.pool.relevant], tokens[~sets.pool.relevant]
    h = np.array([near[:, i].mean() - far[:, i].mean() for i in range(DIM)])
    sigma = np.cov(far.T, bias=True)
    best = optimize.minimize_scalar(lambda g: -(g * h @ h - g * g * h @ sigma @ h))
    np.testing.assert_allclose(prompt, best.x * h, rtol=1e-6)


@pytest.mark.parametrize(("samples", "pool", "train"), [(64, 2000, 1000), (1500, 3000, 3000)])
def test_sets_are_drawn_apart_and_large_enough(monkeypatch, samples, pool, train):
    """The pool holds what a curve needs, n to four fifths of it, and heads differ."""
    drawn = []

    def note(task, flat, part, count, pair, *, key):
        drawn.append((part, count, tuple(np.asarray(jax.random.key_data(key)).tolist())))

    monkeypatch.setattr(fixed_prompt_heads, "embed_scenes", note)
    draw_scene_sets(Task("partial", "digits"), np.zeros(1), samples, (3, 8), key=jax.random.key(0))
    assert [part for part, _, _ in drawn] == ["adaptation"] * 3 + ["test"]
    assert [count for _, count, _ in drawn] == [pool, train, 2000, 1000]
    assert len({key for _, _, key in drawn}) == 4
