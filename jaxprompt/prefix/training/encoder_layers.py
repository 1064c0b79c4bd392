"""What each layer of the pretrained encoder does on real sentences, with something added to it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.networks import minilm
from jaxprompt.networks.minilm import HEADS, Adapter, Encoded, Text, Weights
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.training import sentences

__all__ = ["SENTENCES", "content_patterns", "encode_sentences", "measure_heads", "run_layers"]

SENTENCES = 16
"""Sentences on which each layer is measured."""


@functools.lru_cache(maxsize=2)
def _model_and_sentences(dtype: str) -> tuple[Weights, Text]:
    text = sentences.full_length_sentences(SENTENCES)
    return _cast(minilm.load_pretrained(), dtype), text


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@jax.jit
def _encode(weights: Weights, text: Text, adapter: Adapter) -> Encoded:
    return minilm.encode(weights, text, adapter)


def encode_sentences(adapter: Adapter, dtype: str) -> tuple[Weights, Adapter, Encoded]:
    """The weights, the adapter and a run over the sentences, all in `dtype`.

    64-bit types must be on where `dtype` is float64.
    """
    weights, text = _model_and_sentences(dtype)
    converted = _cast(adapter, dtype)
    return weights, converted, _encode(weights, text, converted)


def content_patterns(adapter: Adapter) -> Float[np.ndarray, "L B H T S"]:
    """Attention on the content in every layer, in float64."""
    with jax.enable_x64(True):
        return np.asarray(encode_sentences(adapter, "float64")[2].attended.content)


def run_layers(
    weights: Weights, encoded: Encoded, prefix: Float[Array, "L n d"]
) -> head_identity.Draws:
    """Each layer run again by itself on its inputs; arrays (L, B, H, …).

    Scores and values are recomputed in float64, so 64-bit types must be on.
    """
    return _run_layers(weights.layers.attention, encoded.streams, prefix)


@functools.partial(jax.jit, compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _run_layers(attention: Any, streams: Array, prefix: Array) -> head_identity.Draws:
    layer = functools.partial(head_identity.measure_layer, heads=HEADS, causal=False)
    over_sentences = jax.vmap(layer, in_axes=(None, 0, None))
    return jax.vmap(over_sentences)(attention, streams, prefix)


def measure_heads(adapter: Adapter, dtype: str) -> head_identity.Draws:
    """The heads inside the model with a prefix: exact scores and values of their inputs, and what
    they gave in `dtype`; NumPy arrays (L, B, H, …) in float64."""
    with jax.enable_x64(True):
        weights, converted, encoded = encode_sentences(adapter, dtype)
        assert converted.prefix is not None
        draws = run_layers(weights, encoded, converted.prefix)
        inside = encoded.attended
        draws = draws._replace(
            output=inside.output.swapaxes(-3, -2),
            attention=inside.content,
            prefix_attention=inside.prefix,
        )
        return jax.tree.map(lambda x: np.asarray(x, np.float64), draws)
