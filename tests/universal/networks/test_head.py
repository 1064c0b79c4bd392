"""The head in its several forms, against a plain loop."""

import jax
import numpy as np
import pytest

from jaxprompt.attention import prefixed_head
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets


def plain(query, centres, values, lam, content):
    """Softmax attention over prefix and content tokens of score and value 0, one query a time."""
    rows = []
    for x in query:
        weights = [np.exp(lam * float(x @ b)) for b in centres] + [1.0] * content
        rows.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
    return np.array(rows)


@pytest.fixture
def example():
    random = np.random.default_rng(3)
    query = random.normal(size=(5, 3))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    return query, point_sets.fibonacci(11), random.normal(size=(11, 2))


@pytest.mark.parametrize("content", [0, 1, 40])
def test_estimate(example, content):
    output = head.estimate(*example, 4.0, content=content, chunk=2)
    np.testing.assert_allclose(output, plain(*example, 4.0, content), rtol=1e-13)


def test_estimate_in_the_ordinary_head(example):
    query, centres, values = example
    with jax.enable_x64(True):
        output = jax.jit(lambda *parts: prefixed_head(*parts).output)(
            query, np.zeros((5, 3)), np.zeros((5, 2)), 4.0 * centres, values
        )
    np.testing.assert_allclose(head.estimate(*example, 4.0, content=5), output, rtol=1e-13)


@pytest.mark.parametrize("content", [1, 1000])
def test_content_that_wins_far_from_every_centre(content):
    """At the far side of a single sharp centre the prefix holds e^{-λ} of the mass."""
    output = head.estimate(-np.eye(2)[:1], np.eye(2)[:1], np.ones((1, 1)), 900.0, content=content)
    assert output[0, 0] == 0.0
    near = head.estimate(np.eye(2)[:1], np.eye(2)[:1], np.ones((1, 1)), 900.0, content=content)
    assert near[0, 0] == 1.0


def test_float32_by_distance_keeps_the_weights():
    lam = 1e6
    turn = np.array([1.0, 1.002, 1.001])
    points = np.stack([np.cos(turn), np.sin(turn)], 1)
    values = np.array([[0.0], [1.0]])
    exact = head.estimate(points[2:], points[:2], values, lam)
    rounded = head.estimate(
        np.float32(points[2:]), np.float32(points[:2]), values, lam, dtype=np.float32
    )
    # Coordinates rounded to 6e-8 move a distance of 1e-3 by 1e-4 of itself, hence the exponent
    # λd²/2 = 0.5 by 1e-4 each; a dot product would lose λ·6e-8 = 0.06.
    assert rounded.dtype == np.float32
    assert float(rounded[0, 0]) == pytest.approx(float(exact[0, 0]), abs=3e-4)


def test_worst_case_is_attained(example):
    query, centres, _ = example
    bound = head.worst_case(query, centres, 6.0, lipschitz=2.0)
    for x, b in zip(query, bound, strict=True):
        values = 2.0 * np.arccos(np.clip(centres @ x, -1, 1))[:, None]
        assert plain(x[None], centres, values, 6.0, 0)[0, 0] == pytest.approx(b, rel=1e-12)


def test_worst_case_with_content(example):
    query, centres, _ = example
    mass = np.exp(6.0 * query @ centres.T).sum(1)
    gate = mass / (mass + 50)
    near = head.worst_case(query, centres, 6.0)
    full = head.worst_case(query, centres, 6.0, content=50, sup_norm=3.0)
    np.testing.assert_allclose(full, gate * near + (1 - gate) * 3.0, rtol=1e-12)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_are_the_estimator(example, scaled, weighted):
    query, centres, values = example
    log_weights = np.linspace(-1, 1, 11) if weighted else None
    weights = head.blocks(centres, values, 4.0, log_weights, scaled=scaled)
    tokens = head.content_tokens(query, weights.prefix.shape[1], weighted)
    scale = np.exp(log_weights) if weighted else np.ones(11)
    with jax.enable_x64(True):
        output, share = head.apply_blocks(weights, tokens, scaled=scaled)
    kernel = np.exp(4.0 * query @ centres.T) * scale
    np.testing.assert_allclose(share, kernel.sum(1) / (kernel.sum(1) + 5), rtol=1e-13)
    np.testing.assert_allclose(output, kernel @ values / (kernel.sum(1) + 5)[:, None], rtol=1e-12)


def test_core_is_the_gradient_of_the_log_mass(example):
    """When v = b the core output is ∇ log Σ e^{λ⟨x,b⟩} / λ."""
    query, centres, _ = example
    with jax.enable_x64(True):
        grad = jax.grad(lambda x: head.core(x, centres, centres, 4.0)[1] / 4.0)
        slope = jax.jit(jax.vmap(grad))(query)
        output, _ = head.core(query, centres, centres, 4.0)
    np.testing.assert_allclose(slope, output, rtol=1e-12)
