r"""Prompt attention and its rivals on one sequence (Oymak et al., ICML 2023).

``X`` holds the `tokens` as rows, ``q`` is a prompt, :math:`\varphi` the softmax.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = [
    "linear_pooling",
    "linear_prompt_attention",
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
