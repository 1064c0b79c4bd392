from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import evaluation
from jaxprompt.contextual.simulation.evaluation import (
    NODES,
    errors_of_trained_heads,
    errors_over_known_prompt,
    fresh_scores,
)

# One program each, where every operation alone would be one.
formula = jax.jit(conditional_error)
scores_of_keys = jax.jit(
    jax.vmap(lambda count, key: fresh_scores(count, key=key), (None, 0)), static_argnums=0
)


def draw(count, keys):
    return scores_of_keys(count, jax.random.split(jax.random.key(0), keys))


def test_each_node_has_the_exact_law():
    scores = np.asarray(draw(3, 2000))
    for node in (0, 1, 200):  # one value of one node for each key: independent
        for column in range(3):
            assert stats.kstest(scores[:, node, column], "norm").pvalue > 1e-4


def test_nodes_cut_the_variance_of_a_smooth_mean():
    """The mean of a smooth function varies far less than over independent nodes, without bias."""
    means = np.asarray(jnp.tanh(draw(4, 400).sum(axis=2) + 0.5).mean(axis=1), np.float64)
    plain = np.tanh(np.random.default_rng(0).normal(size=(400, NODES, 4)).sum(axis=2) + 0.5)
    assert means.var() < plain.mean(axis=1).var() / 10
    exact = np.tanh(2 * np.random.default_rng(1).normal(size=1_000_000) + 0.5)
    error = np.hypot(means.std() / 20, exact.std() / 1000)
    assert abs(means.mean() - exact.mean()) < 4 * error


@pytest.mark.parametrize(("count", "shape"), [(0, (1, 0)), (300, (NODES, 300))])
def test_edges(count, shape):
    assert draw(count, 1).shape == (1, *shape)


def test_errors_over_a_known_prompt_against_drawn_tokens():
    """Two heads of twenty trials, one after another in blocks; tokens drawn in NumPy."""
    setting = Setting.make(
        tokens=5, relevant=2, signal=1.0, context=1.2, noise=0.8, gain=0.9, shifts=[[0.4, 0.2]]
    )
    heads = np.array([[0.9, -0.3, 1.3], [1.0, 0.5, 2.0]])
    found = errors_over_known_prompt(setting, np.tile(heads, (20, 1, 1)), key=jax.random.key(3))
    assert found.shape == (20, 2)
    rng, count = np.random.default_rng(0), 100_000
    label = rng.choice([-1.0, 1.0], count)
    tokens = 0.8 * rng.normal(size=(count, 5, 3))
    tokens[:, :2] = 0
    tokens[:, :2, 0], tokens[:, :2, 1] = label[:, None], 1.2
    tokens[:, 2:, 0] -= 0.2 * label[:, None]
    tokens[:, 2:, 1] -= 0.4 * 1.2
    weights = np.exp(0.9 * 1.2 * tokens[:, :, 1])
    pooled = np.einsum("nt,ntd->nd", weights / weights.sum(axis=1, keepdims=True), tokens)
    for (signal, context, norm), errors in zip(heads, found.T, strict=True):
        head = np.array([signal, context, np.sqrt(norm**2 - signal**2 - context**2)])
        wrong = (label * (pooled @ head) < 0).mean()
        spread = np.hypot(np.sqrt(wrong * (1 - wrong) / count), errors.std(ddof=1) / np.sqrt(20))
        assert abs(errors.mean() - wrong) < 4.5 * spread


SHIFTED = Setting.make(
    tokens=5, relevant=2, signal=1.0, context=1.2, noise=0.8, shifts=[[0.4, 0.2], [-0.1, 0.0]],
    shift_weights=(0.3, 0.7),
)  # fmt: skip
HEADS = np.array([[[0.9, -0.3, 1.3, 0.4], [1.0, 0.5, 2.0, -0.9]], [[0.2, 0.1, 0.7, 0.0]] * 2])
PROMPTS = np.array([[0.2, 1.3, 1.5], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("relevant", [2, 5], ids=["noisy", "without noise"])
def test_errors_of_trained_heads_against_the_formula_in_jax(relevant):
    """Two implementations at the same scores: a prompt with a part along w⋆, and none."""
    setting = dataclasses.replace(SHIFTED, relevant=relevant)
    scores = np.random.default_rng(2).normal(size=(2, 50, 5 - relevant))
    found = evaluation._errors_over_scores(setting, HEADS, PROMPTS, scores)
    with jax.enable_x64(True):
        for t, prompt in enumerate(PROMPTS):
            for h, head in enumerate(HEADS[t]):
                geometry = Geometry(*head[:3], *prompt, head[3])
                expected = formula(setting, geometry, scores[t])
                assert found[t, h] == pytest.approx(float(expected), abs=1e-12)


def test_errors_of_trained_heads_average_over_fresh_scores():
    """Many trials of one head, in blocks, each with scores of its own, and with any nodes."""
    heads, prompts = np.tile(HEADS[:1], (40, 1, 1)), np.tile(PROMPTS[:1], (40, 1))
    scores = np.random.default_rng(2).normal(size=(1, 200_000, 3))
    expected = evaluation._errors_over_scores(SHIFTED, HEADS[:1], PROMPTS[:1], scores)[0]
    for nodes in (16, 128):
        key = jax.random.key(nodes)
        found = errors_of_trained_heads(SHIFTED, heads, prompts, key=key, nodes=nodes)
        assert found.shape == (40, 2)
        assert len(np.unique(found[:, 0])) == 40
        error = np.hypot(found.std(axis=0, ddof=1) / np.sqrt(40), 1e-3)
        assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * error)
        few = errors_of_trained_heads(SHIFTED, heads[:20], prompts[:20], key=key, nodes=nodes)
        np.testing.assert_array_equal(few, found[:20])
