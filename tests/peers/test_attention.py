"""Attention primitives against PyTorch's, in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.attention import attention_head, prefixed_head, prompt_attention
from jaxprompt.networks.attention_layer import Projections, attend

from .conftest import peer

torch = peer("torch")

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def draws(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def sdpa(query, key, value, mask=None):
    tensors = [torch.from_numpy(np.asarray(x)) for x in (query, key, value)]
    mask = None if mask is None else torch.from_numpy(mask)
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(*tensors, attn_mask=mask, scale=1.0).numpy()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_head(causal, scale):
    query, key, value = draws((7, 5), (7, 5), (7, 3))
    mask = np.tri(7, dtype=bool) if causal else None
    found = attention_head(scale * query, key, value, mask)
    np.testing.assert_allclose(found, sdpa(scale * query, key, value, mask), **CLOSE)


@pytest.mark.parametrize("causal", [False, True])
def test_a_head_with_a_prefix_is_their_head_on_joined_keys(causal):
    query, key, value, prefix_key, prefix_value = draws((6, 4), (6, 4), (6, 3), (2, 4), (2, 3))
    mask = np.tri(6, dtype=bool) if causal else np.ones((6, 6), bool)
    found = prefixed_head(query, key, value, prefix_key, prefix_value, mask)
    joined = np.concatenate([prefix_key, key]), np.concatenate([prefix_value, value])
    whole = np.concatenate([np.ones((6, 2), bool), mask], axis=1)
    np.testing.assert_allclose(found.output, sdpa(query, *joined, whole), **CLOSE)
    np.testing.assert_allclose(found.content, sdpa(query, key, value, mask), **CLOSE)
    np.testing.assert_allclose(found.bias, sdpa(query, prefix_key, prefix_value), **CLOSE)


def test_prompt_attention_is_their_head_with_one_query():
    tokens, prompt = draws((9, 4), (4,))
    expected = sdpa(prompt[None], tokens, tokens)[0]
    np.testing.assert_allclose(prompt_attention(tokens, prompt), expected, **CLOSE)


def multihead(width, heads, **options):
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(
        width, heads, batch_first=True, dtype=torch.float64, **options
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        module.out_proj.weight.copy_(torch.eye(width))
        module.out_proj.bias.zero_()
    weights = Projections(
        jnp.asarray(module.in_proj_weight.detach().numpy().T),
        jnp.asarray(module.in_proj_bias.detach().numpy()),
    )
    return module, weights


@pytest.mark.parametrize("causal", [False, True])
def test_a_layer_against_multihead_attention(causal):
    """Outputs before the last map, and the pattern of every head."""
    module, weights = multihead(12, 3)
    (content,) = draws((4, 7, 12))
    mask = torch.from_numpy(~np.tri(7, dtype=bool)) if causal else None
    data = torch.from_numpy(content)
    output, pattern = module(data, data, data, attn_mask=mask, average_attn_weights=False)
    found = attend(weights, jnp.asarray(content), heads=3, causal=causal)
    np.testing.assert_allclose(found.output.reshape(4, 7, 12), output.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(found.content, pattern.detach().numpy(), **CLOSE)


def test_empty_places_against_a_padding_mask():
    module, weights = multihead(12, 3)
    (content,) = draws((4, 7, 12))
    present = np.arange(7) < np.array([[7], [5], [2], [1]])
    data = torch.from_numpy(content)
    output, pattern = module(
        data, data, data, key_padding_mask=torch.from_numpy(~present), average_attn_weights=False
    )
    found = attend(weights, jnp.asarray(content), heads=3, causal=False, present=present)
    np.testing.assert_allclose(found.output.reshape(4, 7, 12), output.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(found.content, pattern.detach().numpy(), **CLOSE)


def test_their_bias_of_keys_and_values_is_a_prefix_of_one_vector():
    """``add_bias_kv`` appends a learned key and value: what one prefix vector contributes."""
    width, heads = 12, 3
    module, weights = multihead(width, heads, add_bias_kv=True)
    content, prefix = draws((2, 6, width), (1, width))
    key, value = np.split(prefix @ np.asarray(weights.kernel) + np.asarray(weights.bias), 3, -1)[1:]
    with torch.no_grad():
        module.bias_k.copy_(torch.from_numpy(key[None]))
        module.bias_v.copy_(torch.from_numpy(value[None]))
    data = torch.from_numpy(content)
    output, pattern = module(data, data, data, average_attn_weights=False)
    found = attend(weights, jnp.asarray(content), jnp.asarray(prefix), heads=heads, causal=False)
    np.testing.assert_allclose(found.output.reshape(2, 6, width), output.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(found.prefix[..., 0], pattern.detach().numpy()[..., -1], **CLOSE)
