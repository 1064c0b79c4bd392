"""One training loop for everything: the whole model, a prefix, a soft prompt, a suffix, or LoRA.

What trains is a set of variable types; the rest is frozen and never differentiated. Data are
drawn on the fly from the training inputs. Several runs (seeds, tasks) are one program under vmap.

A model may have more positions than its digits and their solution take. Then dummy tokens stand in
front of the content in pretraining, as in the published code (Petrov et al., ICLR 2024), and a
prefix stands in their place later, at every layer. The content keeps its positions.
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

from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.networks.normal_stream import NormalStream
from jaxprompt.networks.transformer import (
    Added,
    Config,
    InitStreams,
    LowRank,
    Prefix,
    SoftPrompt,
    Suffix,
    Trace,
    Transformer,
    draw_init_rows,
    init_sizes,
    init_streams,
)
from jaxprompt.prefix.training import tasks

__all__ = [
    "BLOCK",
    "MOMENTS",
    "TRAINABLE",
    "Outcome",
    "Recipe",
    "Scores",
    "content_logits",
    "decode_greedily",
    "dummy_tokens",
    "initial_state",
    "initial_states",
    "logits",
    "model_loss",
    "replace_base",
    "score",
    "sharp_random_model",
    "train",
    "without_dummies",
]

TRAINABLE: dict[str, type] = {
    "model": nnx.Param,
    "prefix": Prefix,
    "soft_prompt": SoftPrompt,
    "suffix": Suffix,
    "low_rank": LowRank,
}
"""What can be trained, by the type of its variables."""

BLOCK = 250
"""Steps whose data are drawn together; a run takes whole blocks."""

State = Any
"""A pytree of parameters, as :func:`initial_state` gives it; a leading axis stands for runs."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train: AdamW, betas (0.9, 0.95), weight decay 0.1, clip at 1.

    The rate falls linearly to a tenth of `rate` when `falling`, else it stays. Weight decay
    concerns matrices of the model itself.
    """

    steps: int
    rate: float
    batch: int = 64
    falling: bool = False

    def __post_init__(self) -> None:
        if self.steps < BLOCK or self.steps % BLOCK:
            raise ParameterError(
                "steps", self.steps, f"a positive multiple of {BLOCK}", "round it up"
            )


class Outcome(NamedTuple):
    """Trained parameters, and the mean loss of each block of steps (a leading axis for runs)."""

    state: State
    losses: Float[np.ndarray, "*runs blocks"]


def initial_state(
    config: Config,
    added: Added = Added(),  # noqa: B008
    *,
    key: Key[Array, ""],
) -> State:
    """Parameters of a new model in float32, as a pytree of arrays; works under ``vmap``."""
    rows = (stream.row for stream in init_streams(config, added, key=key))
    return _state_from_rows(config, added, *rows)


def initial_states(config: Config, added: Added, keys: Key[Array, " R"]) -> State:
    """:func:`initial_state` of R models, each from its key; NumPy arrays, made by one program."""
    rows = _draw_rows(*init_sizes(config, added), keys)
    states = [
        _state_of_rows(config, added, *own) for own in zip(*map(np.asarray, rows), strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=RUN_ONCE_OPTIONS)
def _draw_rows(own: int, added: int, keys: Array) -> tuple[Array, Array]:
    return jax.vmap(functools.partial(draw_init_rows, own, added))(keys)


def _state_of_rows(config: Config, added: Added, own_row: Any, added_row: Any) -> State:
    streams = InitStreams(NormalStream(own_row), NormalStream(added_row))
    return nnx.state(Transformer(config, added, rngs=streams))


# Apart from the generator, whose code would else be copied into every array's loop.
_state_from_rows = jax.jit(_state_of_rows, static_argnums=(0, 1))


@functools.lru_cache(maxsize=64)
def _graph(config: Config, added: Added) -> Any:
    streams = InitStreams(NormalStream(), NormalStream())
    return nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, added, rngs=streams)))


def model_of(config: Config, added: Added, state: State) -> Transformer:
    """The model with these parameters."""
    return nnx.merge(_graph(config, added), state)


def sharp_random_model(config: Config, added: Added, *, key: Key[Array, ""]) -> Transformer:
    """A new model with matrices and vectors ten times as large, so that attention is not flat.

    In the default float type; no training is behind it.
    """
    kind = jnp.result_type(float)
    state = jax.tree.map(
        lambda x: (10 if x.ndim > 1 else 1) * x.astype(kind), initial_state(config, added, key=key)
    )
    return model_of(config, added, state)


def replace_base(state: State, base: State) -> State:
    """`state` with the model's own parameters replaced by those of `base`."""
    _, additions = nnx.split_state(state, nnx.Param, ...)
    return nnx.merge_state(nnx.filter_state(base, nnx.Param), additions)


# --- dummy tokens ---

DUMMY = 0
"""The token that stands where a prefix stands later: a digit, as in the published code."""


def dummy_tokens(config: Config) -> int:
    """How many positions lie in front of the digits and their solution."""
    return config.positions - (2 * config.inputs - 1)


def without_dummies(model: Transformer) -> Transformer:
    """The model of content alone, at the positions that it has behind the dummy tokens."""
    dummies = dummy_tokens(model.config)
    if dummies <= 0:
        return model
    moved = nnx.clone(model)
    moved.position = nnx.Param(model.position[...][dummies:])
    return moved


def content_logits(
    model: Transformer,
    content: Int[Array, "*batch T"],
    rows: int | None = None,
    *,
    trace: Trace | None = None,
) -> Float[Array, "*batch rows V"]:
    """The model's logits at the last `rows` places (default: all).

    In front of the content stand the dummy tokens that the model was pretrained with, or a prefix
    in their place.

    Raises:
        ParameterError: the model has dummy tokens and a soft prompt or a suffix.
    """
    dummies = dummy_tokens(model.config)
    if dummies <= 0:
        return model(content, rows, trace=trace)
    if model.soft_prompt is not None or model.suffix is not None:
        raise ParameterError(
            "positions", model.config.positions, f"{2 * model.config.inputs - 1} for a model with "
            "a soft prompt or a suffix", "leave the dummy tokens out",
        )  # fmt: skip
    if model.prefix is not None:
        return without_dummies(model)(content, rows, trace=trace)
    before = [(0, 0)] * (content.ndim - 1) + [(dummies, 0)]
    padded = jnp.pad(content, before, constant_values=DUMMY)
    return model(padded, rows, trace=trace)


# --- losses and accuracies ---


def _model_input(digits: Array, solution: Array) -> Array:
    return jnp.concatenate([digits, solution[..., :-1]], axis=-1)


def model_loss(
    model: Transformer, digits: Int[Array, "*batch n"], solution: Int[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Cross-entropy in nats of each symbol of the solution given the ones before."""
    logits = content_logits(model, _model_input(digits, solution), digits.shape[-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, solution)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=RUN_ONCE_OPTIONS)
def logits(
    config: Config, added: Added, state: State, tokens: Int[Array, "B T"]
) -> Float[Array, "B T V"]:
    """The model's logits at the places of the tokens."""
    model = model_of(config, added, state)
    return content_logits(model, tokens)[..., -tokens.shape[-1] :, :]


class Scores(NamedTuple):
    """How a model does on each of B inputs: the mean cross-entropy over the solution's symbols, in
    nats, and whether greedy decoding gives the whole solution (1 or 0).
    """

    losses: Float[Array | np.ndarray, " B"]
    solved: Int[Array | np.ndarray, " B"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(
    config: Config,
    added: Added,
    state: State,
    digits: Int[Array, "B n"],
    solution: Int[Array, "B n"],
) -> Scores:
    """Losses and successes on given inputs, by one pass over the solutions.

    Greedy decoding succeeds exactly when each symbol is the likeliest given the right ones before
    it; :func:`decode_greedily` is the slow way.
    """
    model = model_of(config, added, state)
    logits = content_logits(model, _model_input(digits, solution), digits.shape[1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, solution).mean(axis=1)
    solved = (logits.argmax(axis=-1) == solution).all(axis=1).astype(jnp.int32)
    return Scores(losses, solved)


@functools.partial(jax.jit, static_argnums=(0, 1))
def decode_greedily(
    config: Config, added: Added, state: State, digits: Int[Array, "B n"]
) -> Int[Array, "B n"]:
    """The solutions that greedy decoding writes, symbol by symbol."""
    model = model_of(config, added, state)
    length = digits.shape[1]

    def write(position: int | Array, solution: Array) -> Array:
        logits = content_logits(model, _model_input(digits, solution), length)
        likeliest = logits[:, position].argmax(axis=-1)
        return solution.at[:, position].set(likeliest.astype(solution.dtype))

    return lax.fori_loop(0, length, write, jnp.zeros_like(digits))


# --- training ---


def train(
    config: Config,
    added: Added,
    starts: State,
    trains: Sequence[str],
    mixture: Sequence[str],
    shares: Float[np.ndarray, "R m"],
    recipe: Recipe,
    *,
    key: Key[Array, " R"],
    input_law: str = "uniform",
) -> Outcome:
    """Train R runs at once, each from its own entry of `starts`, on its own mixture of tasks.

    `trains` names the sets of parameters that move (:data:`TRAINABLE`), `mixture` the tasks, and
    row r of `shares` their probabilities in run r; `input_law` is that of the inputs. Float32. Runs
    share one program, vmapped on an accelerator; neither the number of steps nor the rate is part
    of it.
    """
    unknown = [name for name in trains if name not in TRAINABLE]
    if unknown:
        raise ParameterError(
            "trains", unknown[0], f"one of {', '.join(TRAINABLE)}", "choose among those"
        )
    # Products of many small matrices are slow on CPU, so there runs take turns.
    together = jax.default_backend() != "cpu"
    blocks = recipe.steps // BLOCK
    losses = np.empty((blocks, len(shares)))
    moving, frozen = nnx.split_state(
        starts, nnx.filterlib.Any(*(TRAINABLE[name] for name in trains)), ...
    )
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), moving)
    flat = _flatten_runs(moving)
    state, decay, chances = (
        _initial_moments(flat),
        _weight_decay(like),
        np.asarray(shares, np.float32),
    )
    for block in range(blocks):
        digits, solutions = _draw_block(
            tuple(mixture), recipe.batch, config.inputs, input_law, chances, block, key
        )
        flat, state, loss = _train_block(
            config, added, _Shape.of(like), together, flat, state, frozen, decay, digits,
            solutions, _rates(recipe, block),
        )  # fmt: skip
        losses[block] = loss
    # NumPy arrays, since taking one run out of them needs no program.
    trained = _Shape.of(like).unflatten(np.asarray(flat))
    return Outcome(nnx.merge_state(trained, jax.tree.map(np.asarray, frozen)), losses.T)


def _rates(recipe: Recipe, block: int) -> Any:
    done = (block * BLOCK + np.arange(BLOCK)) / recipe.steps
    return np.float32(recipe.rate) * np.float32(1 - 0.9 * done * recipe.falling)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=RUN_ONCE_OPTIONS)
def _draw_block(
    mixture: tuple[str, ...], batch: int, length: int, input_law: str, shares: Array,
    block: int | Array, keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Inputs and solutions (R, BLOCK, batch, n) of one block of steps."""

    def draw_run(share: Array, key: Array) -> tuple[Array, Array]:
        input_key, task_key = jax.random.split(key)
        count = BLOCK * batch
        digits = tasks.draw_inputs(count, length, key=input_key, first=block * count, law=input_law)
        solutions = jnp.stack([jax.vmap(tasks.TASKS[name])(digits) for name in mixture], axis=1)
        uniform = random_table.uniforms(task_key, block * count, count, 1)
        task = (uniform > jnp.cumsum(share)[:-1]).sum(axis=1)
        solution = jnp.take_along_axis(solutions, task[:, None, None], axis=1)[:, 0]
        shape = (BLOCK, batch, length)
        return digits.reshape(shape), solution.reshape(shape)

    return jax.vmap(draw_run)(shares, keys)


# --- steps on flat parameters ---
#
# What moves is one vector: clipping, moments, decay and the move are then one pass over memory, and
# one small program to compile, however many arrays the model has.


class _Shape(NamedTuple):
    """Tree and shapes of parameters, to be a static argument."""

    tree: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, like: State) -> _Shape:
        leaves, tree = jax.tree.flatten(like)
        return cls(tree, tuple(x.shape for x in leaves))

    def unflatten(self, flat: Array | np.ndarray) -> State:
        """The tree of a flat vector; leading axes stay in front."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        pieces = [
            flat[..., end - int(np.prod(shape)) : end].reshape(*flat.shape[:-1], *shape)
            for end, shape in zip(ends, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, pieces)


def _flatten_runs(moving: State) -> np.ndarray:
    """Parameters of every run as the rows of one matrix."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(moving)]
    return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


def _weight_decay(like: State) -> np.ndarray:
    """Weight decay of each entry: 0.1 for the model's matrices."""

    def decay_of(path: Any, leaf: Any) -> np.ndarray:
        names = {getattr(entry, "key", None) for entry in path}
        decay = 0.1 if names & {"kernel", "readout"} else 0.0
        return np.full(int(np.prod(leaf.shape)), decay, np.float32)

    return np.concatenate(jax.tree.leaves(jax.tree_util.tree_map_with_path(decay_of, like)))


MOMENTS = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1=0.9, b2=0.95))
"""What a gradient becomes before it is multiplied by the rate."""


def _initial_moments(flat: np.ndarray) -> Any:
    """What the optimiser remembers before the first step of every run: zeros."""
    shapes = jax.eval_shape(jax.vmap(MOMENTS.init), flat)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4, 5))
def _train_block(
    config: Config, added: Added, shape: _Shape, together: bool, flat: Array, memory: Any,
    frozen: State, decay: Array, digits: Array, solutions: Array, rates: Array,
) -> tuple[Array, Any, Array]:  # fmt: skip
    """One block of steps of every run; returns the new parameters and each run's mean loss."""

    def train_run(
        flat: Array, memory: Any, frozen: State, digits: Array, solutions: Array
    ) -> tuple[Array, Any, Array]:
        def loss(moving: State, x: Array, y: Array) -> Array:
            model = model_of(config, added, nnx.merge_state(moving, frozen))
            return model_loss(model, x, y).mean()

        def step(carry: tuple[Array, Any], data: Any) -> tuple[tuple[Array, Any], Array]:
            flat, memory = carry
            x, y, rate = data
            # Joined here, since the gradient of taking a part is a sum of padded vectors.
            value, slope = jax.value_and_grad(loss)(shape.unflatten(flat), x, y)
            joined = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slope)])
            updates, memory = MOMENTS.update(joined, memory)
            direction = jnp.asarray(updates) + decay * flat
            return (flat - rate * direction, memory), value

        data = (digits, solutions, rates)
        (flat, memory), values = lax.scan(step, (flat, memory), data)
        return flat, memory, values.mean()

    runs = (flat, memory, frozen, digits, solutions)
    if together:
        return jax.vmap(train_run)(*runs)
    return lax.map(lambda run: train_run(*run), runs)
