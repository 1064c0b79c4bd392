r"""Attention on one sequence, as pure functions; the caller vmaps.

Symbols: ``X`` holds the `tokens` as rows, ``q`` is a prompt, :math:`\varphi` the softmax. Every
function computes in the dtype of its arguments. Setting: Oymak et al., ICML 2023 (prompt
attention and its rivals); Petrov et al., ICLR 2024 (heads with a prefix).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = [
    "PrefixedOutput",
    "attention_head",
    "linear_pooling",
    "linear_prompt_attention",
    "prefixed_head",
    "prompt_attention",
    "prompt_weights",
    "self_attention",
]

Given = Array | np.ndarray
"""What callers may pass: JAX or NumPy arrays."""


def prompt_weights(tokens: Float[Given, "T d"], prompt: Float[Given, " d"]) -> Float[Array, " T"]:
    r"""Softmax weights of a prompt: :math:`\varphi(Xq)`."""
    return jax.nn.softmax(jnp.asarray(tokens) @ prompt)


def prompt_attention(tokens: Float[Given, "T d"], prompt: Float[Given, " d"]) -> Float[Array, " d"]:
    r"""Softmax prompt-attention: :math:`X^\top \varphi(Xq)`."""
    return jnp.asarray(tokens).T @ prompt_weights(tokens, prompt)


def linear_prompt_attention(
    tokens: Float[Given, "T d"], prompt: Float[Given, " d"]
) -> Float[Array, " d"]:
    r"""Prompt-attention without softmax: :math:`X^\top X q / T`."""
    tokens = jnp.asarray(tokens)
    return tokens.T @ (tokens @ prompt) / tokens.shape[0]


def linear_pooling(tokens: Float[Given, "T d"]) -> Float[Array, " d"]:
    r"""Mean of the tokens: :math:`X^\top \mathbf 1 / T`."""
    return jnp.asarray(tokens).mean(axis=0)


def self_attention(tokens: Float[Given, "T d"], matrix: Float[Given, "d d"]) -> Float[Array, " d"]:
    r"""Mean-pooled self-attention: :math:`\frac1T \sum_t [\varphi(X M X^\top) X]_t`."""
    tokens = jnp.asarray(tokens)
    weights = jax.nn.softmax(tokens @ matrix @ tokens.T, axis=-1)
    return weights.mean(axis=0) @ tokens


def attention_head(
    queries: Float[Given, "T k"],
    keys: Float[Given, "S k"],
    values: Float[Given, "S v"],
    mask: Bool[Given, "T S"] | None = None,
) -> Float[Array, "T v"]:
    r"""One softmax head: row `i` is :math:`\sum_j \varphi(q_i K^\top)_j v_j`.

    Scores are not scaled: divide the queries by :math:`\sqrt k` where a model does. `mask` is
    true where a query may look; a row that may look nowhere gives NaN.
    """
    scores = jnp.asarray(queries) @ keys.T
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1) @ values


class PrefixedOutput(NamedTuple):
    r"""What a head with a prefix computes at each of `T` queries.

    `mass` is the attention :math:`\alpha_i` that goes to the prefix; the output is
    :math:`\alpha_i\,` `bias` :math:`+ (1-\alpha_i)\,` `content`, with `bias` the prefix values
    averaged by the attention within the prefix and `content` the output without any prefix.
    """

    output: Float[Array, "T v"]
    mass: Float[Array, " T"]
    bias: Float[Array, "T v"]
    content: Float[Array, "T v"]


def prefixed_head(
    queries: Float[Given, "T k"],
    keys: Float[Given, "S k"],
    values: Float[Given, "S v"],
    prefix_keys: Float[Given, "n k"],
    prefix_values: Float[Given, "n v"],
    mask: Bool[Given, "T S"] | None = None,
) -> PrefixedOutput:
    r"""One softmax head over content and prefix together, split into its two parts.

    Every query sees the whole prefix; `mask` governs the content only. The output equals
    :func:`attention_head` on the concatenated keys and values, also at a query that may see no
    content (whose `content` is NaN). The mass is
    :math:`\sigma(\mathrm{LSE}_k\,\ell_{ik} - \mathrm{LSE}_j\,\ell_{ij})`, which neither overflows
    nor divides by :math:`1-\alpha_i`.
    """
    queries = jnp.asarray(queries)
    content_scores = queries @ keys.T
    if mask is not None:
        content_scores = jnp.where(mask, content_scores, -jnp.inf)
    prefix_scores = queries @ prefix_keys.T
    gap = jax.nn.logsumexp(prefix_scores, axis=-1) - jax.nn.logsumexp(content_scores, axis=-1)
    mass = jax.nn.sigmoid(gap)
    bias = jax.nn.softmax(prefix_scores, axis=-1) @ prefix_values
    content = jax.nn.softmax(content_scores, axis=-1) @ values
    share = jax.nn.sigmoid(-gap)[:, None]
    # A query that may see no content has all its attention on the prefix.
    seen = True if mask is None else jnp.any(mask, axis=-1, keepdims=True)
    output = mass[:, None] * bias + share * jnp.where(seen, content, 0)
    return PrefixedOutput(output, mass, bias, content)
