from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprompt.contextual.simulation.evaluation import NODES, fresh_scores


def draw(count, keys):
    return jax.jit(jax.vmap(lambda k: fresh_scores(count, key=k)))(
        jax.random.split(jax.random.key(0), keys)
    )


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
    exact = np.tanh(2 * np.random.default_rng(1).normal(size=4_000_000) + 0.5)
    error = np.hypot(means.std() / 20, exact.std() / 2000)
    assert abs(means.mean() - exact.mean()) < 4 * error


@pytest.mark.parametrize(("count", "shape"), [(0, (1, 0)), (300, (NODES, 300))])
def test_edges(count, shape):
    assert fresh_scores(count, key=jax.random.key(1)).shape == shape
