r"""A small vision transformer that can carry prompts, and one training loop for every adaptation.

Patches are embedded linearly and placed; a class token reads the image. Layer norm before each
part, tanh GELU, an MLP twice as wide. Prompts stand between the class token and the patches: those
of the first layer go through the network as tokens; where a run is *deep*, every later layer
replaces them by its own (visual prompt tuning, shallow and deep). An absent prompt is masked, so
one compiled program serves pretraining and every way of adapting: what moves is a mask over the
parameters, as the number of prompts, samples, steps and the rate are numbers of a run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxprompt.attention import attention_head
from jaxprompt.compute import random_table
from jaxprompt.compute.devices import map_trials
from jaxprompt.errors import ParameterError
from jaxprompt.networks.attention_layer import normalise_rows
from jaxprompt.networks.normal_stream import NormalStream

__all__ = [
    "BATCH",
    "MOVES",
    "Config",
    "ForwardOutputs",
    "Head",
    "Prompt",
    "PromptMask",
    "Run",
    "Vision",
    "forward",
    "initial",
    "patches",
    "prompt_mask",
    "train",
    "trainable_mask",
]


class Head(nnx.Variable[jax.Array]):
    """The read-out of the class token."""


class Reader(nnx.Variable[jax.Array]):
    """The class token (layers, width): where it starts, and what each later layer adds to it."""


class Prompt(nnx.Variable[jax.Array]):
    """Prompt vectors (layers, prompts, width)."""


@dataclass(frozen=True)
class Config:
    """Sizes of the model: `patches` a side, each of `pixels` numbers."""

    patches: int
    pixels: int
    width: int = 32
    layers: int = 2
    heads: int = 2
    prompts: int = 4
    classes: int = 10

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ParameterError(
                "width", self.width, f"a multiple of the {self.heads} heads", "change one of them"
            )


class PromptMask(NamedTuple):
    """Which prompts a model has, and whether each layer has its own."""

    present: Float[Array | np.ndarray, " prompts"]
    deep: Float[Array | np.ndarray, ""]


def prompt_mask(config: Config, prompts: int = 0, deep: bool = False) -> PromptMask:
    """A model with its first `prompts` prompts."""
    present = (np.arange(config.prompts) < prompts).astype(np.float32)
    return PromptMask(present, np.asarray(deep, np.float32))


class ForwardOutputs(NamedTuple):
    """What a model makes of images.

    `patterns` is the class token's attention in every layer, over itself, the prompts and the
    patches; `normed` the patches' normed stream that each layer reads.
    """

    logits: Float[Array, "B classes"]
    patterns: Float[Array, "layers B heads S"]
    normed: Float[Array, "layers B patches d"]


def _layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    return normalise_rows(x) * scale + shift


class Block(nnx.Module):
    """Attention, then the MLP, each with a norm in front and a sum after."""

    def __init__(self, config: Config, stream: NormalStream) -> None:
        d, normal = config.width, stream.normal
        out = (2 * config.layers * d) ** -0.5
        self.heads = config.heads
        self.scales = nnx.Param(jnp.ones((2, d)))
        self.shifts = nnx.Param(jnp.zeros((2, d)))
        self.query = nnx.Param(normal((d, d)) * d**-0.5)
        self.pairs = nnx.Param(normal((d, 2 * d)) * d**-0.5)
        self.out = nnx.Param(normal((d, d)) * out)
        self.wide = nnx.Param(normal((d, 2 * d)) * d**-0.5)
        self.wide_bias = nnx.Param(jnp.zeros(2 * d))
        self.narrow = nnx.Param(normal((2 * d, d)) * out / 2**0.5)
        self.narrow_bias = nnx.Param(jnp.zeros(d))

    def __call__(self, stream: Array, visible: Array, rows: int) -> tuple[Array, Array, Array]:
        """First `rows` rows of the next stream, the first row's attention, the normed stream."""
        normed = _layer_norm(stream, self.scales[...][0], self.shifts[...][0])
        query = self._split(normed[:, :rows] @ self.query[...])
        query = query / np.float32(query.shape[-1] ** 0.5)
        key, value = jnp.split(normed @ self.pairs[...], 2, axis=-1)
        key, value = self._split(key), self._split(value)
        size = stream.shape[1]
        heads = jax.vmap(jax.vmap(attention_head, (0, 0, 0, None)), (0, 0, 0, None))
        joined = heads(query, key, value, jnp.broadcast_to(visible, (rows, size)))
        joined = jnp.swapaxes(joined, 1, 2).reshape(stream.shape[0], rows, -1)
        # With the identity for values, a head's output is its attention.
        eye = jnp.broadcast_to(jnp.eye(size, dtype=key.dtype), (*key.shape[:2], size, size))
        pattern = heads(query[:, :, :1], key, eye, visible[None])[:, :, 0]
        stream = stream[:, :rows] + joined @ self.out[...]
        hidden = _layer_norm(stream, self.scales[...][1], self.shifts[...][1])
        hidden = jax.nn.gelu(hidden @ self.wide[...] + self.wide_bias[...])
        return stream + hidden @ self.narrow[...] + self.narrow_bias[...], pattern, normed

    def _split(self, x: Array) -> Array:
        return jnp.swapaxes(x.reshape(*x.shape[:2], self.heads, -1), 1, 2)


class Vision(nnx.Module):
    """The model on patches of images, in the dtype of its parameters."""

    def __init__(self, config: Config, stream: NormalStream) -> None:
        d, c, normal = config.width, config, stream.normal
        self.config = config
        self.embedding = nnx.Param(normal((c.pixels, d)) * c.pixels**-0.5)
        self.position = nnx.Param(normal((c.patches**2, d)) * 0.1)
        self.reader = Reader(jnp.zeros((c.layers, d)).at[0].set(normal((d,)) * 0.1))
        self.blocks = nnx.List([Block(config, stream) for _ in range(c.layers)])
        self.scale, self.shift = nnx.Param(jnp.ones(d)), nnx.Param(jnp.zeros(d))
        self.head, self.bias = Head(normal((d, c.classes)) * d**-0.5), Head(jnp.zeros(c.classes))
        self.prompt = Prompt(normal((c.layers, c.prompts, d)) * 0.1)

    def __call__(
        self, images: Float[Array, "B patches pixels"], mask: PromptMask
    ) -> ForwardOutputs:
        """Logits, and what happened on the way."""
        m, count = self.config.prompts, images.shape[0]
        prompt = self.prompt[...]
        stream = images @ self.embedding[...] + self.position[...]
        reader = jnp.broadcast_to(self.reader[...][0], (count, 1, stream.shape[-1]))
        first = jnp.broadcast_to(prompt[0], (count, *prompt.shape[1:]))
        stream = jnp.concatenate([reader, first, stream], axis=1)
        everywhere = jnp.ones(stream.shape[1] - m, bool)
        visible = jnp.concatenate([everywhere[:1], mask.present > 0, everywhere[1:]])
        patterns, streams = [], []
        for layer, block in enumerate(self.blocks):
            if layer:
                prompts = prompt[layer] * mask.deep + stream[:, 1 : m + 1] * (1 - mask.deep)
                reader = stream[:, :1] + self.reader[...][layer]
                stream = jnp.concatenate([reader, prompts, stream[:, m + 1 :]], axis=1)
            # Only the class token is read from the last layer.
            rows = 1 if layer == len(self.blocks) - 1 else stream.shape[1]
            stream, pattern, normed = block(stream, visible, rows)
            patterns.append(pattern)
            streams.append(normed[:, m + 1 :])
        read = _layer_norm(stream[:, 0], self.scale[...], self.shift[...])
        logits = read @ self.head[...] + self.bias[...]
        return ForwardOutputs(logits, jnp.stack(patterns), jnp.stack(streams))


def patches(images: Float[np.ndarray, "B height width"], side: int) -> np.ndarray:
    """Images as (B, patches, pixels), in the order of reading, `side` pixels a side."""
    count, height, width = images.shape
    cut = images.reshape(count, height // side, side, width // side, side).swapaxes(2, 3)
    return cut.reshape(count, -1, side * side)


# --- parameters as one vector ---


@functools.lru_cache(maxsize=32)
def _parts(config: Config) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Vision(config, NormalStream())))


def _leaves(config: Config) -> list[tuple[Any, int]]:
    """Path and size of every array, in order."""
    leaves = jax.tree_util.tree_leaves_with_path(_parts(config)[1])
    return [(path, int(np.prod(leaf.shape))) for path, leaf in leaves]


def _model(config: Config, flat: Array) -> Vision:
    graph, like = _parts(config)
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([int(np.prod(leaf.shape)) for leaf in leaves])
    parts = [
        flat[end - int(np.prod(leaf.shape)) : end].reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(tree, parts))


@functools.partial(jax.jit, static_argnums=0)
def initial(config: Config, *, key: Key[Array, ""]) -> Float[Array, " P"]:
    """Parameters of a new model in float32, as one vector."""
    size = sum(size for _, size in _leaves(config))
    state = nnx.state(Vision(config, NormalStream(random_table.normals(key, 0, 1, size)[0])))
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(state)])


MOVES = ("everything", "head", "reader", "deep_reader", "prompts", "deep_prompts")
"""What can be trained: all of the model but prompts; its read-out; prompts of the first layer, or
of every layer."""


def trainable_mask(config: Config, what: str, prompts: int = 0) -> Float[np.ndarray, " P"]:
    """1 for each parameter that moves, 0 for the others.

    Raises:
        ParameterError: `what` is unknown, or `prompts` more than the model has room for.
    """
    if what not in MOVES:
        raise ParameterError("what", what, f"one of {', '.join(MOVES)}", "choose one of those")
    if prompts > config.prompts:
        raise ParameterError(
            "prompts", prompts, f"at most {config.prompts}", "raise the configuration's prompts"
        )
    own = np.zeros((config.layers, config.prompts, config.width), np.float32)
    own[: config.layers if what == "deep_prompts" else 1, :prompts] = what.endswith("prompts")
    parts = []
    for path, size in _leaves(config):
        name = str(getattr(path[0], "key", path[0]))
        if name == "prompt":
            parts.append(own.ravel())
        elif name == "reader":
            on = np.zeros((config.layers, config.width), np.float32)
            on[: config.layers if what != "reader" else 1] = what in (
                "everything",
                "reader",
                "deep_reader",
            )
            parts.append(on.ravel())
        else:
            on = what == "everything" or (what == "head" and name in ("head", "bias"))
            parts.append(np.full(size, on, np.float32))
    return np.concatenate(parts)


# --- training ---

BATCH = 32
"""Images in one step. They are taken in turn, so a smaller set is repeated within a step."""


class Run(NamedTuple):
    """One training: where it starts, what moves, and on what."""

    start: Float[np.ndarray, " P"]
    moves: Float[np.ndarray, " P"]
    mask: PromptMask
    images: Float[np.ndarray, "N patches pixels"]
    labels: Int[np.ndarray, " N"]
    samples: int
    steps: int
    rate: float


def train(config: Config, runs: Sequence[Run]) -> Float[np.ndarray, "runs P"]:
    """Parameters after training, one row for each run; float32.

    Adam on the cross-entropy of the first `samples` images, with the gradient clipped at norm 1
    and a rate that falls to 0 along a cosine. Sets of equal shape share one compiled program.
    """

    def one(index: int) -> np.ndarray:
        run = runs[min(index, len(runs) - 1)]
        numbers = np.int32(run.samples), np.int32(run.steps), np.float32(run.rate)
        return np.asarray(
            _run(config, run.start, run.moves, run.mask, run.images, run.labels, *numbers)
        )

    def block(indices: np.ndarray) -> np.ndarray:
        return np.stack([one(int(index)) for index in indices.ravel()])[:, None]

    return map_trials(block, len(runs))


_ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


@functools.partial(jax.jit, static_argnums=0)
def _run(
    config: Config, start: Array, moves: Array, mask: PromptMask, images: Array, labels: Array,
    samples: Array, steps: Array, rate: Array,
) -> Array:  # fmt: skip
    def loss(flat: Array, x: Array, y: Array) -> Array:
        logits = _model(config, flat)(x, mask).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(step_index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        flat, memory = carry
        chosen = (step_index * BATCH + jnp.arange(BATCH, dtype=jnp.int32)) % samples
        slope = jax.grad(loss)(flat, images[chosen], labels[chosen])
        updates, memory = _ADAM.update(slope * moves, memory)
        fall = 0.5 * (1 + jnp.cos(jnp.float32(np.pi) * step_index / steps))
        return flat - rate * fall * moves * jnp.asarray(updates), memory

    return lax.fori_loop(0, steps, step, (start, _ADAM.init(start)))[0]


@functools.partial(jax.jit, static_argnums=0)
def forward(
    config: Config, flat: Float[Array, " P"], mask: PromptMask,
    images: Float[Array, "B patches pixels"],
) -> ForwardOutputs:  # fmt: skip
    """What the model with these parameters makes of images."""
    return _model(config, flat)(images, mask)
