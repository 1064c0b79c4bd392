"""A small GPT-2-style transformer that can carry a prefix, a soft prompt, a suffix, or LoRA.

Layer norm before each part, tanh GELU, an MLP four times as wide, an untied read-out. What is
trained is chosen by the type of the variables: :class:`nnx.Param` for the model itself,
:class:`Prefix`, :class:`SoftPrompt`, :class:`Suffix` and :class:`LowRank` for what is added to it.
Everything computes in the dtype of the parameters; leading axes are independent sequences.

A prefix is inserted in front of each layer's input, before the layer norm: with a norm, W_V s
means W_V·LN(s). Added tokens have no position; those of the content keep theirs, so that a run
without them is the same model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxprompt.compute import random_table
from jaxprompt.errors import ParameterError
from jaxprompt.networks.attention_layer import (
    Attended,
    Projections,
    attend,
    dense,
    embed_tokens,
    normalise_rows,
)
from jaxprompt.networks.normal_stream import NormalStream

__all__ = [
    "Added",
    "Config",
    "InitStreams",
    "LowRank",
    "Prefix",
    "SoftPrompt",
    "Suffix",
    "Trace",
    "Transformer",
    "draw_init_rows",
    "init_sizes",
    "init_streams",
]


class Prefix(nnx.Variable[jax.Array]):
    """Prefix vectors (L, n, d), one set for each layer."""


class SoftPrompt(nnx.Variable[jax.Array]):
    """Vectors (n, d) in front of the embeddings."""


class Suffix(nnx.Variable[jax.Array]):
    """Vectors (n, d) between the input and the solution."""


class LowRank(nnx.Variable[jax.Array]):
    """Factors of a low-rank change of the two matrices of each MLP."""


@dataclass(frozen=True)
class Config:
    """Sizes of the model. `inputs` digits are read; `positions` is the longest content.

    `initial_deviation` is that of an initial matrix's entries, by √(2·layers) smaller where a part
    ends; 0.02 as in GPT-2. A narrow model learns in fewer steps from 1/√width.
    """

    layers: int
    heads: int
    width: int
    inputs: int
    positions: int
    vocabulary: int
    first_norm: bool = True
    causal: bool = True
    initial_deviation: float = 0.02

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ParameterError(
                "width", self.width, f"a multiple of the {self.heads} heads", "change one of them"
            )


@dataclass(frozen=True)
class Added:
    """How much of each kind is added to a model; 0 means none."""

    prefix: int = 0
    soft_prompt: int = 0
    suffix: int = 0
    rank: int = 0

    def size(self, config: Config) -> int:
        """Number of parameters added."""
        tokens = config.layers * self.prefix + self.soft_prompt + self.suffix
        return config.width * (tokens + 10 * config.layers * self.rank)


@dataclass
class Trace:
    """What happened inside one forward pass: each layer's input stream, and its attention."""

    streams: list[Array]
    attended: list[Attended]


class InitStreams(NamedTuple):
    """Numbers for the model itself and for what is added to it."""

    params: NormalStream
    added: NormalStream


Source = nnx.Rngs | InitStreams
"""Where a model's initial numbers come from."""


def init_streams(config: Config, added: Added, *, key: Key[Array, ""]) -> InitStreams:
    """All numbers that a model's initial parameters (float32) take."""
    rows = draw_init_rows(*init_sizes(config, added), key)
    return InitStreams(*(NormalStream(row) for row in rows))


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw_init_rows(
    own: int, added: int, key: Key[Array, ""]
) -> tuple[Float[Array, " own"], Float[Array, " added"]]:
    """One row of normal numbers for the model itself, one for what is added to it."""
    first, second = jax.random.split(key)
    return random_table.normals(first, 0, 1, own)[0], random_table.normals(
        second, 0, 1, max(added, 1)
    )[0]


@functools.lru_cache(maxsize=64)
def init_sizes(config: Config, added: Added) -> tuple[int, int]:
    """How many numbers the initial parameters of the model itself and of its additions take."""
    counting = InitStreams(NormalStream(), NormalStream())
    nnx.eval_shape(lambda: Transformer(config, added, rngs=counting))
    return counting.params.used, counting.added.used


class Norm(nnx.Module):
    """Layer norm with scale and shift."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(np.ones(width, np.float32))
        self.shift = nnx.Param(np.zeros(width, np.float32))

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """The rows of x with mean 0 and variance 1, scaled and shifted."""
        return normalise_rows(x) * self.scale[...] + self.shift[...]


class Dense(nnx.Module):
    """A matrix and a bias, with an optional low-rank change of the matrix."""

    def __init__(
        self, inputs: int, outputs: int, *, scale: float, rngs: Source, rank: int = 0
    ) -> None:
        self.kernel = nnx.Param(scale * rngs.params.normal((inputs, outputs)))
        self.bias = nnx.Param(np.zeros(outputs, np.float32))
        down = rngs.added.normal((inputs, rank)) * inputs**-0.5 if rank else None
        self.down = None if down is None else LowRank(down)
        up: Any = np.zeros((rank, outputs), np.float32)
        self.up = LowRank(up) if rank else None

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """x·(W + down·up) + b, the low-rank part applied in two steps."""
        result = dense(x, self.kernel[...], self.bias[...])
        if self.down is None or self.up is None:
            return result
        return result + (x @ self.down[...]) @ self.up[...]


class Block(nnx.Module):
    """Attention, then the MLP, each with a norm in front and a sum after."""

    def __init__(self, config: Config, added: Added, first: bool, *, rngs: Source) -> None:
        d, scale = config.width, config.initial_deviation
        out = scale / (2 * config.layers) ** 0.5
        self.heads, self.causal = config.heads, config.causal
        self.norm = Norm(d) if config.first_norm or not first else None
        self.qkv = Dense(d, 3 * d, scale=scale, rngs=rngs)
        self.out = Dense(d, d, scale=out, rngs=rngs)
        self.mlp_norm = Norm(d)
        self.wide = Dense(d, 4 * d, scale=scale, rngs=rngs, rank=added.rank)
        self.narrow = Dense(4 * d, d, scale=out, rngs=rngs, rank=added.rank)

    def __call__(
        self, stream: Float[Array, "*batch S d"], prefix: Float[Array, "n d"] | None, rows: int
    ) -> tuple[Float[Array, "*batch rows d"], Attended]:
        """The last `rows` rows of the next stream, and the attention they took."""
        normed = stream if self.norm is None else self.norm(stream)
        if prefix is not None and self.norm is not None:
            prefix = self.norm(prefix)
        attended = attend(
            Projections(self.qkv.kernel[...], self.qkv.bias[...]),
            normed,
            prefix,
            heads=self.heads,
            causal=self.causal,
            queries=rows,
        )
        joined = attended.output.reshape(*attended.output.shape[:-2], -1)
        stream = stream[..., stream.shape[-2] - rows :, :] + self.out(joined)
        hidden = jax.nn.gelu(self.wide(self.mlp_norm(stream)), approximate=True)
        return stream + self.narrow(hidden), attended


class Transformer(nnx.Module):
    """The model. ``model(tokens)`` gives the logits that predict the solution."""

    def __init__(self, config: Config, added: Added = Added(), *, rngs: Source) -> None:
        d, scale = config.width, config.initial_deviation
        self.config = config
        self.embedding = nnx.Param(scale * rngs.params.normal((config.vocabulary, d)))
        self.position = nnx.Param(scale * rngs.params.normal((config.positions, d)))
        self.blocks = nnx.List(
            [Block(config, added, layer == 0, rngs=rngs) for layer in range(config.layers)]
        )
        self.final_norm = Norm(d)
        self.readout = nnx.Param(scale * rngs.params.normal((d, config.vocabulary)))
        normal, n = rngs.added.normal, added
        self.prefix = Prefix(normal((config.layers, n.prefix, d))) if n.prefix else None
        self.soft_prompt = SoftPrompt(normal((n.soft_prompt, d))) if n.soft_prompt else None
        self.suffix = Suffix(normal((n.suffix, d))) if n.suffix else None

    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        rows: int | None = None,
        *,
        streams: list[Array] | None = None,
        trace: Trace | None = None,
    ) -> Float[Array, "*batch rows V"]:
        """Logits at the last `rows` places (default: all), including any added in the stream.

        Leading axes are independent sequences. `streams` replaces the model's own prefix by given
        vectors (n, d), one array for each layer; `trace` is filled with what each layer saw and
        did.
        """
        stream = embed_tokens(tokens, self.embedding[...])
        stream = stream + self.position[...][: tokens.shape[-1]]
        if self.suffix is not None:
            cut = self.config.inputs
            stream = _joined(stream[..., :cut, :], self.suffix[...], stream[..., cut:, :])
        if self.soft_prompt is not None:
            stream = _joined(stream[..., :0, :], self.soft_prompt[...], stream)
        if streams is None and self.prefix is not None:
            streams = list(self.prefix[...])
        rows = stream.shape[-2] if rows is None else rows
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            # Only the rows that are asked for need the last layer's queries and MLP.
            keep = rows if layer == last else stream.shape[-2]
            following, attended = block(stream, None if streams is None else streams[layer], keep)
            if trace is not None:
                trace.streams.append(stream)
                trace.attended.append(attended)
            stream = following
        return dense(self.final_norm(stream), self.readout[...])


def _joined(before: Array, vectors: Array, after: Array) -> Array:
    """The same vectors between two parts of every sequence's stream."""
    shared = jnp.broadcast_to(vectors, (*before.shape[:-2], *vectors.shape))
    return jnp.concatenate([before, shared, after], axis=-2)
