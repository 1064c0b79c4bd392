r"""Claim ``contextual.image_context``: digits among irrelevant tiles, and who adapts to them best.

A vision transformer pretrained on clean tiles meets digits among noise or inside photographs. With
few samples tuning its prompts is ahead of fine-tuning it, with many behind; and a tuned prompt
looks more at the relevant patches. This is a measurement on real images, not a theorem.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Key

from jaxprompt import stats
from jaxprompt.contextual import images, vision
from jaxprompt.contextual.vision import Config, Run
from jaxprompt.engine import (
    Agreement,
    Cell,
    Claim,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
)
from jaxprompt.extras import EXTRAS
from jaxprompt.parameters import Parameter
from jaxprompt.stats import Comparison, Estimate, mean_estimate

__all__ = [
    "ARMS",
    "CLAIM",
    "Arm",
    "Task",
    "adapted",
    "closed_form",
    "judged",
    "patch_shares",
    "pretrained",
    "simulate",
]

GRID = 2
"""Tiles along a side of a scene."""

CUT = 2
"""Patches along a side of a tile."""


# --- the closed form -----------------------------------------------------------------------------

SCARCE, RICH = 10, 300
"""Samples up to which data count as scarce, and from which as rich: 1 and 30 of each class."""

LEAD, GAIN = 0.02, 0.01
"""Least lead in accuracy, and least gain of attention, that the statement speaks of."""


def closed_form(**params: Any) -> dict[str, Any]:
    """Limits: a positive one is a least value, a negative one a largest, 0 must be met exactly.

    Where the statement says nothing (a lead between scarce and rich data) the limit is
    0 and the check makes no row. `samples` may be an array.
    """
    return _closed_form({}, **params)


def _closed_form(
    wrong: Mapping[str, Any], *, samples: Any, **unused: Any
) -> dict[str, Any]:
    lead = LEAD * ((np.asarray(samples) <= SCARCE) - 1.0 * (np.asarray(samples) >= RICH))
    right = {
        "lead": lead,
        "attention_gain": GAIN + 0 * lead,
        "head_attention": 0 * lead,
        "first_layer_attention": 0 * lead,
    }
    return {name: wrong.get(name, lambda x: x)(value) for name, value in right.items()}


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


# --- the experiment ------------------------------------------------------------------------------


class Arm(NamedTuple):
    """A way of adapting: what moves, prompt tokens added, one set for each layer, and the rate."""

    moves: str
    tokens: int = 0
    deep: bool = False
    rate: float = 0.1


ARMS = {
    "prompt": Arm("deep_reader"),
    "input_prompt": Arm("reader"),
    "token": Arm("prompts", 1),
    "tokens": Arm("prompts", 4),
    "deep_tokens": Arm("deep_prompts", 4, deep=True),
    "head": Arm("head", rate=1e-2),
    "fine_tuning": Arm("everything", rate=3e-3),
}
"""Ways of adapting. Each rate is the best of a grid on validation scenes with 1000 samples."""

MAIN = ("prompt", "fine_tuning")
"""The arms that the statement compares."""

CONTROLS = ("head", "tokens")
"""Arms whose attention must stay as it was, in all layers or in the first."""

CONTROLLED = 2
"""Trials in which a check trains the controls, which are identities."""

PRETRAINING_RATE = 3e-3
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
        return images.SOURCES[self.source] // CUT

    @property
    def config(self) -> Config:
        """Sizes of the model."""
        return Config(GRID * CUT, self.side**2)

    def scenes(self, part: str, count: int, key: Key[jax.Array, ""]) -> images.Scenes:
        """Scenes of this task."""
        return images.scenes(
            self.kind, self.source, part, count, key=key, grid=GRID, relevant=self.relevant,
            noise=self.noise,
        )  # fmt: skip

    def patches(self, found: images.Scenes) -> np.ndarray:
        """Their pixels as patches."""
        return vision.patches(found.images, self.side)


def patch_shares(found: images.Scenes) -> np.ndarray:
    """Which patches hold the digit (B, patches), from which tiles do."""
    tiles = found.relevant.reshape(-1, GRID, GRID)
    return tiles.repeat(CUT, axis=1).repeat(CUT, axis=2).reshape(len(tiles), -1)


@functools.lru_cache(maxsize=8)
def pretrained(source: str, steps: int, models: int) -> np.ndarray:
    """Parameters of the first `models` pretrained models (float32), one a row.

    They are trained on fully tiled scenes without noise. A model's number stands for its random
    numbers, so that all tasks and all numbers of samples start from the same models.
    """
    clean, runs = Task("tiled", source), []
    for model in range(models):
        start_key, data_key = jax.random.split(jax.random.key(model, impl="threefry2x32"))
        found = clean.scenes("pretraining", PRETRAINING_SCENES, data_key)
        start = np.asarray(vision.initial(clean.config, key=start_key))
        runs.append(_run(clean, Arm("everything", rate=PRETRAINING_RATE), start, found, steps))
    return vision.train(clean.config, runs)


def adapted(
    task: Task, arm: Arm, starts: Sequence[np.ndarray], sets: Sequence[images.Scenes], steps: int
) -> np.ndarray:
    """Parameters after adapting each start to its own set of scenes."""
    pairs = zip(starts, sets, strict=True)
    return vision.train(task.config, [_run(task, arm, start, own, steps) for start, own in pairs])


def _run(task: Task, arm: Arm, start: np.ndarray, found: images.Scenes, steps: int) -> Run:
    config, samples = task.config, len(found.labels)
    more = next(rows for rows in _ROWS if rows >= samples) - samples
    return Run(
        start,
        vision.moving(config, arm.moves, arm.tokens),
        vision.use(config, arm.tokens, arm.deep),
        np.pad(task.patches(found), ((0, more), (0, 0), (0, 0))),
        np.pad(found.labels, (0, more)),
        samples,
        steps,
        arm.rate,
    )


class Judged(NamedTuple):
    """Accuracy on scenes, and each layer's attention: on relevant patches, of all that goes to
    patches, averaged over heads and scenes; and that of every scene and head."""

    accuracy: float
    shares: np.ndarray
    every: np.ndarray


def judged(task: Task, arm: Arm | None, flat: np.ndarray, found: images.Scenes) -> Judged:
    """How a model does on scenes; `arm` None stands for no prompt tokens."""
    config = task.config
    given = vision.use(config, *((arm.tokens, arm.deep) if arm else ()))
    seen = vision.look(config, flat, given, task.patches(found))
    right = np.asarray(seen.logits).argmax(axis=1) == found.labels
    pattern = np.asarray(seen.patterns, np.float64)[..., 1 + config.prompts :]
    own = (pattern * patch_shares(found)[None, :, None]).sum(axis=-1) / pattern.sum(axis=-1)
    return Judged(float(right.mean()), own.mean(axis=(1, 2)), own)


def simulate(
    *, key: Key[jax.Array, ""], trials: int, samples: int, kind: str, source: str = "digits",
    noise: float = 1.0, relevant: int = 1, pretraining: int = 400, steps: int = 150,
    models: int = 2, arms: str = "main",
) -> dict[str, Estimate]:  # fmt: skip
    """Adapt a pretrained model to `trials` sets of scenes in several ways; float32.

    Trial t starts from model t modulo `models`, and draws its training and test scenes anew.
    Attention is that of the class token in the last layer, as the share of what goes to patches
    that goes to relevant ones.
    """
    task = Task(kind, source, noise, relevant)
    bases = pretrained(source, pretraining, models)
    starts = [bases[trial % models] for trial in range(trials)]
    keys = [jax.random.fold_in(jax.random.fold_in(key, 1), trial) for trial in range(trials)]
    sets = [task.scenes("adaptation", samples, jax.random.fold_in(k, 0)) for k in keys]
    tests = [task.scenes("test", TESTED, jax.random.fold_in(k, 1)) for k in keys]
    before = [judged(task, None, s, t) for s, t in zip(starts, tests, strict=True)]
    after = {}
    for name in ARMS if arms == "all" else (*MAIN, *CONTROLS):
        count = trials if arms == "all" or name in MAIN else min(CONTROLLED, trials)
        found = adapted(task, ARMS[name], starts[:count], sets[:count], steps)
        after[name] = [judged(task, ARMS[name], f, t) for f, t in zip(found, tests, strict=False)]
    return _estimates(before, after)


def _estimates(
    before: Sequence[Judged], after: Mapping[str, Sequence[Judged]]
) -> dict[str, Estimate]:
    def accuracies(found: Sequence[Judged]) -> np.ndarray:
        return np.array([one.accuracy for one in found])

    def gains(found: Sequence[Judged]) -> np.ndarray:
        pairs = zip(before, found, strict=False)
        return np.array([b.shares[-1] - a.shares[-1] for a, b in pairs])

    def moved(found: Sequence[Judged], layers: slice) -> Estimate:
        pairs = zip(before, found, strict=False)
        most = max(float(np.abs(b.every[layers] - a.every[layers]).max()) for a, b in pairs)
        return Estimate(most, 0.0, len(found))

    result = {
        "before": mean_estimate(accuracies(before)),
        **{name: mean_estimate(accuracies(found)) for name, found in after.items()},
        "lead": mean_estimate(accuracies(after["prompt"]) - accuracies(after["fine_tuning"])),
        "attention": mean_estimate(np.array([one.shares[-1] for one in before])),
        "attention_gain": mean_estimate(gains(after["prompt"])),
        "tuning_attention_gain": mean_estimate(gains(after["fine_tuning"])),
        "tokens_attention_gain": mean_estimate(gains(after["tokens"])),
        "head_attention": moved(after["head"], slice(None)),
        "first_layer_attention": moved(after["tokens"], slice(0, 1)),
    }
    return result


# --- the comparison ------------------------------------------------------------------------------


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Limits that a sign tells the side of, and controls that must be exact."""
    rows = []
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name in ("lead", "attention_gain"):
            value = float(predicted[name])
            if value:
                rows.append(
                    stats.compare_bound(
                        name, cell.parameters, value, cell.estimates[name],
                        tolerance=claim.quantity(name).tolerance,
                        side="lower" if value > 0 else "upper",
                        note=f"{cell.parameters['kind']}, n = {cell.parameters['samples']}",
                    )  # fmt: skip
                )
        for name in ("head_attention", "first_layer_attention"):
            measured = float(cell.estimates[name].mean)
            tolerance = claim.quantity(name).tolerance
            rows.append(
                Comparison(name, cell.parameters, float(predicted[name]), measured, tolerance)
            )
    return rows


# --- the claim -----------------------------------------------------------------------------------
