"""Attention on one sequence, against loops in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt import attention

pytestmark = pytest.mark.usefixtures("strict_ranks")


def softmax(scores):
    scores = np.asarray(scores, dtype=np.float64)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def head(queries, keys, values, mask=None):
    """One softmax head, query by query."""
    rows = []
    for i, query in enumerate(queries):
        seen = np.ones(len(keys), bool) if mask is None else mask[i]
        weights = softmax([query @ key for key in keys[seen]])
        rows.append(sum(w * v for w, v in zip(weights, values[seen], strict=True)))
    return np.array(rows)


def apply(function, *arrays):
    """The function's result in NumPy, from NumPy arrays in 64 bits."""
    given = [None if array is None else jnp.asarray(array) for array in arrays]
    return jax.tree.map(np.asarray, function(*given))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def tokens(rng):
    return rng.normal(size=(6, 4))


@pytest.fixture
def prompt(rng):
    return rng.normal(size=4)


@pytest.mark.usefixtures("x64")
class TestPooling:
    def test_prompt_attention(self, tokens, prompt):
        weights = softmax([x @ prompt for x in tokens])
        expected = sum(w * x for w, x in zip(weights, tokens, strict=True))
        np.testing.assert_allclose(
            apply(attention.prompt_weights, tokens, prompt), weights, rtol=1e-13
        )
        np.testing.assert_allclose(
            apply(attention.prompt_attention, tokens, prompt), expected, rtol=1e-12, atol=1e-14
        )

    def test_linear_prompt_attention(self, tokens, prompt):
        expected = sum((x @ prompt) * x for x in tokens) / 6
        np.testing.assert_allclose(
            apply(attention.linear_prompt_attention, tokens, prompt), expected, rtol=1e-12
        )

    def test_linear_pooling(self, tokens):
        np.testing.assert_allclose(
            apply(attention.linear_pooling, tokens), sum(tokens) / 6, rtol=1e-12, atol=1e-15
        )

    def test_self_attention(self, tokens, rng):
        matrix = rng.normal(size=(4, 4))
        rows = [softmax([x @ matrix @ other for other in tokens]) @ tokens for x in tokens]
        np.testing.assert_allclose(
            apply(attention.self_attention, tokens, matrix), sum(rows) / 6, rtol=1e-12, atol=1e-14
        )

    def test_zero_prompt_is_the_mean(self, tokens):
        np.testing.assert_allclose(
            apply(attention.prompt_attention, tokens, np.zeros(4)), tokens.mean(axis=0), atol=1e-15
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("masked", [False, True])
class TestHeads:
    @pytest.fixture
    def parts(self, rng, scale, masked):
        queries, keys = rng.normal(size=(5, 3)), scale * rng.normal(size=(7, 3))
        values, prefix_values = rng.normal(size=(7, 2)), rng.normal(size=(4, 2))
        prefix_keys = scale * rng.normal(size=(4, 3))
        mask = np.tril(np.ones((5, 7), bool), 2) if masked else None
        return queries, keys, values, prefix_keys, prefix_values, mask

    def test_head(self, parts):
        queries, keys, values, *_, mask = parts
        np.testing.assert_allclose(
            apply(attention.attention_head, queries, keys, values, mask),
            head(queries, keys, values, mask),
            rtol=1e-10,
            atol=1e-12,
        )

    def test_prefix_equals_concatenation(self, parts):
        queries, keys, values, prefix_keys, prefix_values, mask = parts
        split = apply(
            attention.prefixed_head, queries, keys, values, prefix_keys, prefix_values, mask
        )
        full = None if mask is None else np.concatenate([np.ones((5, 4), bool), mask], axis=1)
        whole = apply(
            attention.attention_head,
            queries,
            np.concatenate([prefix_keys, keys]),
            np.concatenate([prefix_values, values]),
            full,
        )
        # Logits near 1e4 carry an absolute rounding of about 1e4 eps into the exponent.
        scale = max(1.0, np.abs(keys).max())
        np.testing.assert_allclose(split.output, whole, atol=1e-14 * scale)
        assert np.isfinite(split.output).all()

    def test_prefix_splits_into_mass_bias_content(self, parts):
        queries, keys, values, prefix_keys, prefix_values, mask = parts
        split = apply(
            attention.prefixed_head, queries, keys, values, prefix_keys, prefix_values, mask
        )
        np.testing.assert_allclose(
            split.bias, head(queries, prefix_keys, prefix_values), rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(
            split.content, head(queries, keys, values, mask), rtol=1e-10, atol=1e-12
        )
        mass = np.asarray(split.mass)
        assert ((mass >= 0) & (mass <= 1)).all()
        np.testing.assert_allclose(
            split.output,
            mass[:, None] * split.bias + (1 - mass[:, None]) * split.content,
            rtol=1e-9,
        )


@pytest.mark.usefixtures("x64")
def test_a_dominant_prefix_leaves_exact_bias():
    one = np.ones((1, 1))
    split = apply(attention.prefixed_head, one, -1e4 * one, 5 * one, 1e4 * one, 3 * one)
    assert float(split.mass[0]) == 1.0
    assert float(split.output[0, 0]) == 3.0
    split = apply(attention.prefixed_head, one, 1e4 * one, 5 * one, -1e4 * one, 3 * one)
    assert float(split.output[0, 0]) == 5.0


def test_computes_in_the_dtype_of_its_arguments():
    tokens = jnp.ones((3, 2), jnp.bfloat16)
    assert attention.prompt_attention(tokens, jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_functions_vmap_and_differentiate():
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
    pooled = jax.vmap(attention.prompt_attention, (0, None))(tokens, jnp.ones(4))
    assert pooled.shape == (3, 4)
    slope = jax.grad(lambda q: attention.prompt_attention(tokens[0], q).sum())(jnp.ones(4))
    assert np.isfinite(slope).all()
