r"""Claim ``contextual.image_context``: digits among irrelevant tiles, and who adapts to them best.

A vision transformer pretrained on clean tiles meets digits among noise or inside photographs. In
the network tuned prompts are behind fine-tuning from 40 samples on; on its embeddings the theory's
prompt-attention leads with few labels. A tuned prompt looks more at the relevant patches. This is a
measurement on real images, not a theorem.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxprompt import stats
from jaxprompt.attention import prompt_weights
from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.simulation import digit_scenes, vision_transformer
from jaxprompt.contextual.simulation import token_models as small_models
from jaxprompt.contextual.simulation.gradient_steps import Batch
from jaxprompt.contextual.simulation.vision_transformer import Config, Run
from jaxprompt.core.claim import (
    Agreement,
    Cell,
    Claim,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
)
from jaxprompt.core.extras import EXTRAS
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Comparison, Estimate, mean_estimate

__all__ = [
    "ARMS",
    "CLAIM",
    "FEW",
    "SMALL",
    "Arm",
    "EmbeddedScenes",
    "Evaluation",
    "Task",
    "adapt",
    "closed_form",
    "embed_scenes",
    "evaluate",
    "pretrain",
    "prompt_attention_maps",
    "relevant_patches",
    "simulate",
]

GRID = 2
"""Tiles along a side of a scene."""

CUT = 2
"""Patches along a side of a tile."""


# --- the closed form -----------------------------------------------------------------------------

LEVELS = ("network", "embeddings")
"""What is adapted: the whole network, or the theory's models on its embeddings."""

RICH, FEWEST, FEW_LABELS = 300, 40, 24
"""Samples from which the statement speaks of a prompt's gains, and of the lead in the network; and
up to which of the lead on embeddings."""

SMALL = tuple(small_models.MODELS)
"""The theory's models, by name."""

LEAD, SMALL_LEAD, ATTENTION, GAIN = 0.02, 0.01, 0.02, 0.05
"""Least leads (in the network, on embeddings), gain of attention, and gain of accuracy in the
statement."""


def closed_form(**params: Any) -> dict[str, Any]:
    """Limits: a positive one is a least value, a negative one a largest, 0 must be met exactly.

    Where the statement says nothing of a lead or gain its limit is 0, and of an accuracy or
    attention it is 1; the check makes no row for those. `samples` may be an array.
    """
    return _closed_form({}, **params)


def _closed_form(
    wrong: Mapping[str, Any], *, samples: Any, level: str = "network", **unused: Any
) -> dict[str, Any]:
    n = np.asarray(samples)
    if level == "embeddings":
        few = 1.0 * (n <= FEW_LABELS)
        right = {"lead": SMALL_LEAD * few, "attention_gain": ATTENTION + 0 * few}
    else:
        rich = 1.0 * (n >= RICH)
        right = {
            "lead": -LEAD * (n >= FEWEST),
            "prompt_gain": GAIN * rich,
            "attention_gain": ATTENTION * rich,
            "head_attention": 0 * rich,
            "first_layer_attention": 0 * rich,
        }
    right = {name: wrong[name](n, level, x) if name in wrong else x for name, x in right.items()}
    names = SMALL if level == "embeddings" else ("before", *ARMS)
    gains = {f"{name}_attention_gain": 0.0 for name in ARMS if name not in ("prompt", "head")}
    trivial = {**dict.fromkeys(names, 1.0), "attention": 1.0, **gains}
    return {**{name: x + 0.0 * n for name, x in trivial.items()}, **right}


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


# --- the experiment ------------------------------------------------------------------------------


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

MAIN = ("prompt", "fine_tuning")
"""The arms that the statement compares."""

CONTROLS = ("head", "tokens")
"""Arms whose attention must stay as it was, in all layers or in the first."""

CONTROLLED = 2
"""Trials in which a check trains the controls, which are identities."""

_PRETRAINING = Arm("everything", (3e-3, 3e-3))

PRETRAINING_SCENES = 2000
TESTED = 500
"""Fresh test scenes of every trial."""

_ROWS = (2048, 8192)
"""Sets of scenes are filled up to one of these, so that few shapes are compiled."""


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
        return Config(GRID * CUT, self.side**2)

    def scenes(
        self, part: str, count: int, key: Key[jax.Array, ""],
        classes: Sequence[int] = tuple(range(10)),
    ) -> digit_scenes.Scenes:  # fmt: skip
        """Scenes of this task."""
        return digit_scenes.scenes(
            self.kind, self.source, part, count, key=key, grid=GRID, relevant=self.relevant,
            noise=self.noise, classes=classes,
        )  # fmt: skip

    def patches(self, found: digit_scenes.Scenes) -> np.ndarray:
        """Their pixels as patches."""
        return vision_transformer.patches(found.images, self.side)


def relevant_patches(found: digit_scenes.Scenes) -> np.ndarray:
    """Which patches hold the digit (B, patches), from which tiles do."""
    tiles = found.relevant.reshape(-1, GRID, GRID)
    return tiles.repeat(CUT, axis=1).repeat(CUT, axis=2).reshape(len(tiles), -1)


@functools.lru_cache(maxsize=8)
def pretrain(source: str, steps: int, models: int) -> np.ndarray:
    """Parameters of the first `models` pretrained models (float32), one a row.

    They are trained on fully tiled scenes without noise. A model's number stands for its random
    numbers, so that all tasks and all numbers of samples start from the same models.
    """
    clean, runs = Task("tiled", source), []
    for model in range(models):
        start_key, data_key = jax.random.split(jax.random.key(model, impl="threefry2x32"))
        found = clean.scenes("pretraining", PRETRAINING_SCENES, data_key)
        start = np.asarray(vision_transformer.initial(clean.config, key=start_key))
        runs.append(_run(clean, _PRETRAINING, start, found, steps))
    return vision_transformer.train(clean.config, runs)


def adapt(
    task: Task,
    arm: Arm,
    starts: Sequence[np.ndarray],
    sets: Sequence[digit_scenes.Scenes],
    steps: int,
) -> np.ndarray:
    """Parameters after adapting each start to its own set of scenes."""
    pairs = zip(starts, sets, strict=True)
    return vision_transformer.train(
        task.config, [_run(task, arm, start, own, steps) for start, own in pairs]
    )


def _run(task: Task, arm: Arm, start: np.ndarray, found: digit_scenes.Scenes, steps: int) -> Run:
    config, samples = task.config, len(found.labels)
    more = next(rows for rows in _ROWS if rows >= samples) - samples
    return Run(
        start,
        vision_transformer.trainable_mask(config, arm.moves, arm.tokens),
        vision_transformer.prompt_mask(config, arm.tokens, arm.deep),
        np.pad(task.patches(found), ((0, more), (0, 0), (0, 0))),
        np.pad(found.labels, (0, more)),
        samples,
        steps,
        arm.rate(samples),
    )


class Evaluation(NamedTuple):
    """Accuracy on scenes, and each layer's attention: on relevant patches, of all that goes to
    patches, averaged over heads and scenes; and that of every scene and head."""

    accuracy: float
    shares: np.ndarray
    every: np.ndarray


def evaluate(
    task: Task, arm: Arm | None, flat: np.ndarray, scenes: digit_scenes.Scenes
) -> Evaluation:
    """How a model does on scenes; `arm` None stands for no prompt tokens."""
    config = task.config
    mask = (
        vision_transformer.prompt_mask(config, arm.tokens, arm.deep)
        if arm
        else vision_transformer.prompt_mask(config)
    )
    outputs = vision_transformer.forward(config, flat, mask, task.patches(scenes))
    right = np.asarray(outputs.logits).argmax(axis=1) == scenes.labels
    pattern = np.asarray(outputs.patterns, np.float64)[..., 1 + config.prompts :]
    own = (pattern * relevant_patches(scenes)[None, :, None]).sum(axis=-1) / pattern.sum(axis=-1)
    return Evaluation(float(right.mean()), own.mean(axis=(1, 2)), own)


def simulate(
    *, key: Key[jax.Array, ""], trials: int, samples: int, kind: str, source: str = "digits",
    level: str = "network", noise: float = 1.0, relevant: int = 1, pretraining: int = 400,
    steps: int = 150, models: int = 2, arms: str = "main", digit: int = 3, other: int = 8,
) -> dict[str, Estimate]:  # fmt: skip
    """Adapt a pretrained model to `trials` sets of scenes in several ways; float32.

    Trial t starts from model t modulo `models`, and draws its training and test scenes anew.

    In the ``network`` attention is that of the class token, as the share of what goes to patches
    that goes to relevant ones, averaged over heads and layers. With `arms` "main" the two arms of
    the statement are trained in every trial and the controls in two.

    On ``embeddings`` the models are those of `contextual.training`, trained on what the last layer
    of the pretrained model reads, to tell `digit` from `other`; `steps` is theirs. Attention is the
    prompt's on relevant patches, less their share.
    """
    task = Task(kind, source, noise, relevant)
    bases = pretrain(source, pretraining, models)
    starts = [bases[trial % models] for trial in range(trials)]
    keys = [jax.random.fold_in(jax.random.fold_in(key, 1), trial) for trial in range(trials)]
    if level == "embeddings":
        names = SMALL if arms == "all" else MAIN
        return _on_embeddings(task, starts, keys, samples, (digit, other), names)
    sets = [task.scenes("adaptation", samples, jax.random.fold_in(k, 0)) for k in keys]
    tests = [task.scenes("test", TESTED, jax.random.fold_in(k, 1)) for k in keys]
    before = [evaluate(task, None, s, t) for s, t in zip(starts, tests, strict=True)]
    after = {}
    for name in ARMS if arms == "all" else (*MAIN, *CONTROLS):
        count = trials if arms == "all" or name in MAIN else min(CONTROLLED, trials)
        found = adapt(task, ARMS[name], starts[:count], sets[:count], steps)
        after[name] = [evaluate(task, ARMS[name], f, t) for f, t in zip(found, tests, strict=False)]
    return _estimates(before, after)


# --- the theory's models on embeddings ---

SQUARE_NORM = 4.0
"""Mean square norm that embeddings are scaled to: about that of `contextual.training`'s tokens."""

RIDGE = 1e-3
_LARGEST_LATE_GAIN = 0.05
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


def _on_embeddings(
    task: Task, starts: Sequence[np.ndarray], keys: Sequence[jax.Array], samples: int,
    pair: tuple[int, int], names: Sequence[str],
) -> dict[str, Estimate]:  # fmt: skip
    def one(trial: int) -> dict[str, np.ndarray]:
        flat, key = starts[trial], keys[trial]
        train, test = (
            embed_scenes(task, flat, part, count, pair, key=jax.random.fold_in(key, place))
            for place, (part, count) in enumerate((("adaptation", samples), ("test", TESTED)))
        )
        scale = _token_scale(train)
        found, own = {}, jax.random.fold_in(key, 2)
        for name in names:
            weights = _train_small_model(name, scale * train.tokens, train.labels, key=own)
            outputs = _outputs(small_models.MODELS[name].architecture, weights, scale * test.tokens)
            found[name] = np.float64((np.asarray(outputs) * test.labels > 0).mean())
            if name == "prompt":
                pattern = np.asarray(_attention(weights, scale * test.tokens), np.float64)
                share = (pattern * test.relevant).sum(axis=1) - test.relevant.mean(axis=1)
                found["attention_gain"] = share.mean()
        return {n: np.asarray(x) for n, x in found.items()}

    def block(indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = [one(min(int(index), len(keys) - 1)) for index in indices.ravel()]
        return {name: np.stack([row[name] for row in rows])[:, None] for name in rows[0]}

    found = map_trials(block, len(keys))
    result = {name: mean_estimate(values) for name, values in found.items()}
    return {**result, "lead": mean_estimate(found["prompt"] - found["fine_tuning"])}


def prompt_attention_maps(
    train: EmbeddedScenes, test: EmbeddedScenes, *, key: Key[jax.Array, ""]
) -> np.ndarray:
    """Attention (B, patches) on `test` of a prompt learned on `train`."""
    scale = _token_scale(train)
    weights = _train_small_model("prompt", scale * train.tokens, train.labels, key=key)
    return np.asarray(_attention(weights, scale * test.tokens))


def _token_scale(train: EmbeddedScenes) -> np.float32:
    return np.float32(np.sqrt(SQUARE_NORM / np.square(train.tokens).sum(axis=-1).mean()))


def _train_small_model(
    name: str, tokens: np.ndarray, labels: np.ndarray, *, key: Key[jax.Array, ""]
) -> small_models.Weights:
    """One of `contextual.training`'s models on these sequences.

    Raises:
        ArithmeticError: the training had not converged.
    """
    weights, left = _best_run(small_models.MODELS[name], tokens, labels, key)
    if not float(left) <= _LARGEST_LATE_GAIN:
        raise ArithmeticError(
            f"{name} had not converged: the last tenth of its steps still gained "
            f"{float(left):.1%} of the objective"
        )
    return weights


@functools.partial(jax.jit, static_argnums=0)
def _best_run(
    model: small_models.Model, tokens: Array, labels: Array, key: Array
) -> tuple[small_models.Weights, Array]:
    batch, count = Batch(tokens, labels), jnp.int32(labels.shape[0])
    return small_models.best_run(model, batch, count, jnp.float32(RIDGE), key=key)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(architecture: str, weights: small_models.Weights, tokens: Array) -> Array:
    return jax.vmap(functools.partial(small_models.output, architecture, weights))(tokens)


@jax.jit
def _attention(weights: small_models.Weights, tokens: Array) -> Array:
    return jax.vmap(prompt_weights, (0, None))(tokens, weights.prompt)


# --- the network ---


def _estimates(
    before: Sequence[Evaluation], after: Mapping[str, Sequence[Evaluation]]
) -> dict[str, Estimate]:
    def accuracies(found: Sequence[Evaluation]) -> np.ndarray:
        return np.array([one.accuracy for one in found])

    def attention(found: Sequence[Evaluation]) -> np.ndarray:
        return np.array([one.shares.mean() for one in found])

    def gain(read: Any, name: str) -> Estimate:
        own = read(after[name])
        return mean_estimate(own - read(before)[: len(own)])

    def moved(found: Sequence[Evaluation], layers: slice) -> Estimate:
        pairs = zip(before, found, strict=False)
        most = max(float(np.abs(b.every[layers] - a.every[layers]).max()) for a, b in pairs)
        return Estimate(most, 0.0, len(found))

    return {
        "before": mean_estimate(accuracies(before)),
        **{name: mean_estimate(accuracies(found)) for name, found in after.items()},
        "lead": mean_estimate(accuracies(after["prompt"]) - accuracies(after["fine_tuning"])),
        "prompt_gain": gain(accuracies, "prompt"),
        "attention": mean_estimate(attention(before)),
        **{
            ("" if name == "prompt" else f"{name}_") + "attention_gain": gain(attention, name)
            for name in after
            if name != "head"
        },
        "head_attention": moved(after["head"], slice(None)),
        "first_layer_attention": moved(after["tokens"], slice(0, 1)),
    }


# --- the comparison ------------------------------------------------------------------------------


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Limits that a sign tells the side of, and controls that must be exact."""
    rows = []
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name in STATED:
            if name not in cell.estimates:
                continue
            value = float(predicted[name])
            tolerance = float(claim.quantity(name).allowance(value, cell.parameters))
            found = cell.estimates[name]
            where = f"{cell.parameters['kind']}, n = {cell.parameters['samples']}"
            note = f"{cell.parameters.get('level', LEVELS[0])}, {where}"
            if name in EXACT:
                mean = float(found.mean)
                rows.append(Comparison(name, cell.parameters, value, mean, tolerance, note=note))
            elif value:
                side = "lower" if value > 0 else "upper"
                rows.append(
                    stats.compare_bound(
                        name,
                        cell.parameters,
                        value,
                        found,
                        tolerance=tolerance,
                        side=side,
                        note=note,
                    )
                )
    return rows


EXACT = ("head_attention", "first_layer_attention")
"""Quantities that are identities."""

STATED = ("lead", "prompt_gain", "attention_gain", *EXACT)
"""Quantities that the statement speaks of."""

# --- the claim -----------------------------------------------------------------------------------

_QUANTITY = {
    "before": "of the pretrained model",
    "prompt": "after tuning the prompt: what the class token holds in every layer",
    "input_prompt": "after tuning the class token of the first layer alone",
    "token": "after tuning one token beside the patches",
    "tokens": "after tuning four tokens beside the patches",
    "deep_tokens": "after tuning four tokens in every layer",
    "head": "after tuning the linear head",
    "fine_tuning": "after tuning everything",
    "linear": "of a linear head on the mean embedding",
    "linear_prompt": "of linear prompt-attention on embeddings",
    "self_attention": "of a head over frozen self-attention on embeddings",
}


def _cells(cases: Sequence[tuple[Mapping[str, Any], int, int]]) -> Design:
    runs = [{**case, "samples": samples, "trials": trials} for case, samples, trials in cases]
    return Design(tuple(runs), max(trials for *_, trials in cases))


def _full() -> Design:
    cases: list[tuple[Mapping[str, Any], int, int]] = []
    sources = (("digits", 8, 400, (10, 40, 300, 5000)), ("mnist", 4, 800, (40, 300)))
    for source, models, pretraining, sizes in sources:
        for kind in ("partial", "embedded"):
            base = {"kind": kind, "source": source, "models": models, "pretraining": pretraining}
            # A pass over many images takes more steps.
            cases += [({**base, "steps": 600 if n > 1000 else 150}, n, 32) for n in sizes]
            for digit, other in ((3, 8), (4, 9)):
                more = {"level": "embeddings", "digit": digit, "other": other}
                cases += [({**base, **more}, n, 128) for n in (24, 192)]
    return _cells(cases)


CLAIM = Claim(
    id="contextual.image_context",
    title="Digits in context: what a tuned prompt gains, and what it does not",
    statement=r"""
A small vision transformer is pretrained on images tiled with one handwritten digit. It then meets
one such tile among three of noise, or inside a photograph, with $n$ of these to learn from.

1. *The theory's models on real features.* On what the transformer's last layer reads, frozen, two
digits are told apart by the models of `contextual.training`. With $n\le24$ images prompt-attention
is ahead of fine-tuning all of a self-attention layer by at least 0.01 of accuracy, and at every $n$
it puts at least 0.02 more of its attention on the relevant patches than uniform attention does.
2. *The whole network, ten digits.* Tuning the prompt that the class token holds in each layer, 64
of 18314 parameters, makes the class token look more at the relevant patches, by at least 0.02 of
its attention, and raises the accuracy by at least 0.05, for $n\ge300$. Fine-tuning everything is
ahead of it by at least 0.02 for $n\ge40$.
3. *Controls.* Tuning the linear head leaves all attention as it was, exactly. Tuning prompt tokens
beside the patches leaves the class token's relative attention in the first layer as it was.

So the paper's expectation, prompt-tuning ahead with few samples, is met by the theory's models on
real features, and is not by a whole network that is adapted.
""",
    derivation=r"""
There is no closed form: these are measurements, on digits and photographs that training never saw.
What is exact: a change of the head alone leaves every layer before it; and prompt tokens change
neither the class token's query nor the patches' keys in the first layer, so they multiply its
attention on all patches by one factor (`prefix.pattern_invariance`).

*Protocol.* The first statement is that of `contextual.training`, with its models, optimiser and
steps, on embeddings scaled to a mean square norm of 4, about that of its tokens. In the network all
arms train for the same number of steps of Adam on the same images. Each has one rate for fewer than
30 samples and one for more, the best of a grid on validation images, which share no digit with the
test images; the second statement was written down after those, and the check measures on test
digits and photographs with fresh draws. Trials draw training and test images anew; the pretrained
models are given, a few that the trials take in turn.

Fine-tuning's best rate for many samples is ten times too large for ten of them: with it,
fine-tuning ends below the pretrained model. With rates chosen for ten samples nothing gains more
than 0.1, and the statement says nothing of which is ahead there.

*Tolerances.* 0.1 of accuracy, a quarter of what separates the pretrained model from the best, and
0.1 of attention, where relevant patches make up a quarter of all. Moved attention: rounding of
float32 in sums of 16 weights, 1e-5.
""",
    relation=Relation.EXISTENCE,
    source="setting: Oymak et al., ICML 2023; data and model: here",
    parameters=(
        Parameter("kind", "choice", "what surrounds the digit: itself, noise, a photograph",
                  choices=digit_scenes.KINDS),
        Parameter("samples", "integer", "images to adapt to", "n", low=1, high=_ROWS[-1]),
        Parameter("source", "choice", "the digits: scikit-learn's 8 × 8 or MNIST's 28 × 28",
                  choices=tuple(digit_scenes.SOURCES), default="digits"),
        Parameter("level", "choice", "what is adapted: the network, or models on its embeddings",
                  choices=LEVELS, default="network"),
        Parameter("noise", "real", "size of the irrelevant pixels", "σ", low=0, default=1.0),
        Parameter("relevant", "integer", "tiles that hold the digit", "k", low=1, high=GRID**2,
                  default=1),
        Parameter("pretraining", "integer", "steps of pretraining", low=1, default=400),
        Parameter("steps", "integer", "steps of every adaptation", low=1, default=150),
        Parameter("models", "integer", "pretrained models that the trials take in turn", low=1,
                  default=2),
        Parameter("arms", "choice", "main: prompt and fine-tuning, controls in two trials; or all",
                  choices=("main", "all"), default="main"),
        Parameter("digit", "integer", "on embeddings, the digit labelled 1", low=0, high=9,
                  default=3),
        Parameter("other", "integer", "on embeddings, the digit labelled −1", low=0, high=9,
                  default=8),
    ),
    quantities=(
        *(Quantity(name, f"accuracy {what}") for name, what in _QUANTITY.items()),
        Quantity("lead", "accuracy of the tuned prompt less that of fine-tuning", 0.1),
        Quantity("prompt_gain", "accuracy of the tuned prompt less that before", 0.1),
        Quantity("attention", "attention on relevant patches before"),
        Quantity("attention_gain", "what tuning the prompt adds to it", 0.1),
        *(
            Quantity(f"{name}_attention_gain", f"the same {_QUANTITY[name]}")
            for name in ARMS
            if name not in ("prompt", "head")
        ),
        Quantity("head_attention", "most that tuning the head moves any attention", 0.0),
        Quantity("first_layer_attention", "most that tokens move the first layer's", 1e-5),
    ),
    falsifiers=(
        Falsifier("published_pattern", "in the network too prompts are ahead with few samples",
                  _wrong(lead=lambda n, level, x: abs(x) * (1 - 2 * (n >= RICH)) if level ==
                         "network" else x)),
        Falsifier("prompt_ahead", "in the network prompts are ahead with many samples",
                  _wrong(lead=lambda n, level, x: abs(x) if level == "network" else x)),
        Falsifier("tuning_ahead", "on embeddings fine-tuning is ahead with few samples",
                  _wrong(lead=lambda n, level, x: -abs(x))),
        Falsifier("attention_leaves", "attention on relevant patches falls by 0.02",
                  _wrong(attention_gain=lambda n, level, x: -x)),
        Falsifier("head_moves", "tuning the head moves attention by 0.01",
                  _wrong(head_attention=lambda n, level, x: 0.01 + x)),
        Falsifier("tokens_move", "prompt tokens move the first layer's attention by 0.01",
                  _wrong(first_layer_attention=lambda n, level, x: 0.01 + x)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _cells((
            ({"kind": "partial", "level": "embeddings"}, 24, 128),
            ({"kind": "partial"}, 40, 28),
            ({"kind": "partial"}, 300, 16),
            ({"kind": "embedded"}, 300, 16),
        )),
        "full": _full(),
    },
    broadcasts="samples",
    compare=_compare,
    figure=Agreement("Digits in context: measured, and the limits stated", "accuracy or attention",
                     limits=True),
    extra=EXTRAS["data"],
)  # fmt: skip
