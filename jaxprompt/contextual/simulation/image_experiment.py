r"""Digits among irrelevant tiles: pretrained vision transformers, ways of adapting, evaluation.

A vision transformer is pretrained on scenes all of whose tiles hold one digit. It is then adapted
to scenes of another kind in one of several ways (:data:`ARMS`), or what its last layer reads is
given to the small models of `contextual.training`. Needs the extra ``data``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key

from jaxprompt.attention import prompt_weights
from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.simulation import digit_scenes, token_models, vision_transformer
from jaxprompt.contextual.simulation.gradient_steps import Batch
from jaxprompt.contextual.simulation.vision_transformer import Config, Run

__all__ = [
    "ARMS", "FEW", "LARGEST_SET", "TESTED", "TILES", "Arm", "EmbeddedScenes", "Evaluation",
    "Task", "adapt", "embed_scenes", "evaluate", "map_on_host", "pretrain",
    "prompt_attention_maps", "relevant_patches", "small_model_numbers",
]  # fmt: skip

TILES = 2
"""Tiles along a side of a scene."""

CUT = 2
"""Patches along a side of a tile."""

FILLED_SIZES = (2048, 8192)
"""Sets of scenes are filled up to one of these, so that few shapes are compiled."""

LARGEST_SET = FILLED_SIZES[-1]
"""Scenes of the largest set that a model is adapted to."""

PRETRAINING_SCENES = 2000
TESTED = 500
"""Fresh test scenes of every trial."""


# --- what is adapted to, and how ---


class Task(NamedTuple):
    """What is to be adapted to: scenes of one kind from one source."""

    kind: str
    source: str
    noise: float = 1.0
    relevant: int = 1

    @property
    def side(self) -> int:
        """Pixels along a side of a patch."""
        return digit_scenes.SOURCES[self.source] // CUT

    @property
    def config(self) -> Config:
        """Sizes of the model."""
        return Config(TILES * CUT, self.side**2)

    def scenes(
        self, part: str, count: int, key: Key[jax.Array, ""],
        classes: Sequence[int] = tuple(range(10)),
    ) -> digit_scenes.Scenes:  # fmt: skip
        """Scenes of this task."""
        return digit_scenes.scenes(
            self.kind, self.source, part, count, key=key, grid=TILES, relevant=self.relevant,
            noise=self.noise, classes=classes,
        )  # fmt: skip

    def patches(self, scenes: digit_scenes.Scenes) -> Float32[np.ndarray, "B patches pixels"]:
        """Their pixels as patches."""
        return vision_transformer.patches(scenes.images, self.side)


def relevant_patches(scenes: digit_scenes.Scenes) -> Bool[np.ndarray, "B patches"]:
    """Which patches hold the digit, from which tiles do."""
    tiles = scenes.relevant.reshape(-1, TILES, TILES)
    return tiles.repeat(CUT, axis=1).repeat(CUT, axis=2).reshape(len(tiles), -1)


FEW = 30
"""Samples below which an arm has its rate for few."""


class Arm(NamedTuple):
    """A way of adapting: what moves, at which rates for few and for many samples, and how many
    prompt tokens stand beside the patches, one set for each layer where `deep`."""

    moves: str
    rates: tuple[float, float]
    tokens: int = 0
    deep: bool = False

    def rate(self, samples: int) -> float:
        """The rate for this many samples."""
        return self.rates[samples >= FEW]


ARMS = {
    "prompt": Arm("deep_reader", (1e-3, 1e-1)),
    "input_prompt": Arm("reader", (3e-3, 3e-2)),
    "token": Arm("prompts", (1e-1, 3e-2), tokens=1),
    "tokens": Arm("prompts", (3e-1, 3e-1), tokens=4),
    "deep_tokens": Arm("deep_prompts", (3e-1, 3e-2), tokens=4, deep=True),
    "head": Arm("head", (1e-3, 1e-2)),
    "fine_tuning": Arm("everything", (3e-4, 3e-3)),
}
"""Ways of adapting. `docs/real_data_pictures.py rates` prints the accuracies on validation scenes
(digits for adaptation, 10 and 1000 samples) by which the rates were chosen from a grid."""

PRETRAINING = Arm("everything", (3e-3, 3e-3))


# --- training the network ---


@functools.lru_cache(maxsize=8)
def pretrain(source: str, steps: int, models: int) -> Float32[np.ndarray, "models P"]:
    """Parameters of the first `models` pretrained models, one a row.

    They are trained on fully tiled scenes without noise. A model's number stands for its random
    numbers, so that all tasks and all numbers of samples start from the same models.
    """
    clean, runs = Task("tiled", source), []
    for model in range(models):
        start_key, data_key = jax.random.split(jax.random.key(model, impl="threefry2x32"))
        scenes = clean.scenes("pretraining", PRETRAINING_SCENES, data_key)
        start = np.asarray(vision_transformer.initial(clean.config, key=start_key))
        runs.append(_plan_run(clean, PRETRAINING, start, scenes, steps))
    return vision_transformer.train(clean.config, runs)


def adapt(
    task: Task,
    arm: Arm,
    starts: Sequence[np.ndarray],
    sets: Sequence[digit_scenes.Scenes],
    steps: int,
) -> Float32[np.ndarray, "runs P"]:
    """Parameters after adapting each start to the set of scenes of the same place."""
    pairs = zip(starts, sets, strict=True)
    runs = [_plan_run(task, arm, start, scenes, steps) for start, scenes in pairs]
    return vision_transformer.train(task.config, runs)


def _plan_run(
    task: Task, arm: Arm, start: np.ndarray, scenes: digit_scenes.Scenes, steps: int
) -> Run:
    config, samples = task.config, len(scenes.labels)
    missing = next(rows for rows in FILLED_SIZES if rows >= samples) - samples
    return Run(
        start,
        vision_transformer.trainable_mask(config, arm.moves, arm.tokens),
        vision_transformer.prompt_mask(config, arm.tokens, arm.deep),
        np.pad(task.patches(scenes), ((0, missing), (0, 0), (0, 0))),
        np.pad(scenes.labels, (0, missing)),
        samples,
        steps,
        arm.rate(samples),
    )


class Evaluation(NamedTuple):
    """How a model does on scenes.

    `layer_shares` is each layer's attention on relevant patches, as a share of all that goes to
    patches, averaged over heads and scenes; `shares` that of every scene and head.
    """

    accuracy: float
    layer_shares: Float[np.ndarray, " layers"]
    shares: Float[np.ndarray, "layers B heads"]


def evaluate(
    task: Task, arm: Arm | None, flat: np.ndarray, scenes: digit_scenes.Scenes
) -> Evaluation:
    """Evaluate a model on scenes; `arm` None stands for no prompt tokens."""
    config = task.config
    mask = (
        vision_transformer.prompt_mask(config, arm.tokens, arm.deep)
        if arm
        else vision_transformer.prompt_mask(config)
    )
    outputs = vision_transformer.forward(config, flat, mask, task.patches(scenes))
    right = np.asarray(outputs.logits).argmax(axis=1) == scenes.labels
    pattern = np.asarray(outputs.patterns, np.float64)[..., 1 + config.prompts :]
    on_relevant = (pattern * relevant_patches(scenes)[None, :, None]).sum(axis=-1)
    shares = on_relevant / pattern.sum(axis=-1)
    return Evaluation(float(right.mean()), shares.mean(axis=(1, 2)), shares)


# --- the small models on embeddings ---

SQUARE_NORM = 4.0
"""Mean square norm that embeddings are scaled to: about that of `contextual.training`'s tokens."""

RIDGE = 1e-3

LARGEST_LATE_GAIN = 0.05
"""Largest share of the objective that the last tenth of the steps may still have gained."""


class EmbeddedScenes(NamedTuple):
    """Embeddings of scenes with one of two digits, and their labels 1 and −1; float32."""

    tokens: np.ndarray
    relevant: np.ndarray
    labels: np.ndarray


def embed_scenes(
    task: Task, flat: np.ndarray, part: str, count: int, pair: tuple[int, int],
    *, key: Key[jax.Array, ""], layer: int = -1,
) -> EmbeddedScenes:  # fmt: skip
    """What a layer (default: the last) reads of scenes that show the first or second of `pair`."""
    scenes = task.scenes(part, count, key, pair)
    outputs = vision_transformer.forward(
        task.config, flat, vision_transformer.prompt_mask(task.config), task.patches(scenes)
    )
    labels = np.where(scenes.labels == pair[0], 1.0, -1.0).astype(np.float32)
    return EmbeddedScenes(np.asarray(outputs.normed)[layer], relevant_patches(scenes), labels)


def small_model_numbers(
    task: Task, starts: Sequence[np.ndarray], keys: Sequence[jax.Array], samples: int,
    pair: tuple[int, int], names: Sequence[str],
) -> dict[str, Float[np.ndarray, " trials"]]:  # fmt: skip
    """Accuracies of the models `names` on embeddings, and `attention_gain`, for each trial.

    The gain is the prompt's attention on relevant patches, less the share of these.

    Raises:
        ArithmeticError: a training had not converged.
    """

    def numbers_of(trial: int) -> dict[str, np.ndarray]:
        flat, key = starts[trial], keys[trial]
        train, test = (
            embed_scenes(task, flat, part, count, pair, key=jax.random.fold_in(key, stream))
            for stream, (part, count) in enumerate((("adaptation", samples), ("test", TESTED)))
        )
        scale = _token_scale(train)
        numbers, training_key = {}, jax.random.fold_in(key, 2)
        for name in names:
            weights = _train_small_model(name, scale * train.tokens, train.labels, key=training_key)
            model = token_models.MODELS[name]
            outputs = _small_model_outputs(model.architecture, weights, scale * test.tokens)
            numbers[name] = np.float64((np.asarray(outputs) * test.labels > 0).mean())
            if name == "prompt":
                pattern = np.asarray(_prompt_attention(weights, scale * test.tokens), np.float64)
                gain = (pattern * test.relevant).sum(axis=1) - test.relevant.mean(axis=1)
                numbers["attention_gain"] = gain.mean()
        return {name: np.asarray(x) for name, x in numbers.items()}

    return map_on_host(numbers_of, len(keys))


def map_on_host(
    numbers_of: Callable[[int], Mapping[str, float | np.ndarray]], trials: int
) -> dict[str, Float[np.ndarray, " trials"]]:
    """Named numbers of every trial, each made on the host; trials are shared out among cores."""

    def block(indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = [numbers_of(min(int(index), trials - 1)) for index in indices.ravel()]
        return {name: np.stack([row[name] for row in rows])[:, None] for name in rows[0]}

    return map_trials(block, trials)


def prompt_attention_maps(
    train: EmbeddedScenes, test: EmbeddedScenes, *, key: Key[jax.Array, ""]
) -> Float[np.ndarray, "B patches"]:
    """Attention on `test` of a prompt learned on `train`."""
    scale = _token_scale(train)
    weights = _train_small_model("prompt", scale * train.tokens, train.labels, key=key)
    return np.asarray(_prompt_attention(weights, scale * test.tokens))


def _token_scale(train: EmbeddedScenes) -> np.float32:
    return np.float32(np.sqrt(SQUARE_NORM / np.square(train.tokens).sum(axis=-1).mean()))


def _train_small_model(
    name: str, tokens: np.ndarray, labels: np.ndarray, *, key: Key[jax.Array, ""]
) -> token_models.Weights:
    """One of `contextual.training`'s models on these sequences."""
    weights, late_gain = _best_run_of(token_models.MODELS[name], tokens, labels, key)
    if not float(late_gain) <= LARGEST_LATE_GAIN:
        raise ArithmeticError(
            f"{name} had not converged: the last tenth of its steps still gained "
            f"{float(late_gain):.1%} of the objective"
        )
    return weights


@functools.partial(jax.jit, static_argnums=0)
def _best_run_of(
    model: token_models.Model, tokens: Array, labels: Array, key: Array
) -> tuple[token_models.Weights, Array]:
    batch, count = Batch(tokens, labels), jnp.int32(labels.shape[0])
    return token_models.best_run(model, batch, count, jnp.float32(RIDGE), key=key)


@functools.partial(jax.jit, static_argnums=0)
def _small_model_outputs(architecture: str, weights: token_models.Weights, tokens: Array) -> Array:
    return jax.vmap(functools.partial(token_models.output, architecture, weights))(tokens)


@jax.jit
def _prompt_attention(weights: token_models.Weights, tokens: Array) -> Array:
    return jax.vmap(prompt_weights, (0, None))(tokens, weights.prompt)
