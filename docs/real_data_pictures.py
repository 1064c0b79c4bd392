"""Makes the pictures of docs/real_data.md (needs the extra `data`).

    python docs/real_data_pictures.py [NAME ...]              computes and draws
    python docs/real_data_pictures.py [NAME ...] --from-data  redraws from NAME.csv
    python docs/real_data_pictures.py rates                   prints accuracies on validation scenes

`real_data_accuracy` reads the folder `images` that a sweep leaves (`jaxprompt sweep
examples/images.toml --out images`). By what `rates` prints the rates of `contextual.image_context`
were chosen. Everything is seeded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from drawing import Picture, main, measured

import jaxprompt as jp
from jaxprompt import stats
from jaxprompt.contextual.extensions import patch_law
from jaxprompt.contextual.simulation import image_experiment
from jaxprompt.contextual.simulation.image_experiment import ARMS, EmbeddedScenes, Task
from jaxprompt.core.figures import Mark, Panel

# --- accuracy against n ---

WAYS = {
    "prompt": "prompt, every layer (64 parameters)",
    "input_prompt": "prompt, first layer (32)",
    "tokens": "four tokens beside (128)",
    "deep_tokens": "four tokens, every layer (256)",
    "head": "linear head (330)",
    "fine_tuning": "full fine-tuning (18 314)",
}


def accuracy_picture() -> Picture:
    """Accuracy of every way to adapt the network, among noise."""
    table = jp.load("images")
    sizes = tuple(int(n) for n in table["samples"].values)
    found: dict[str, list[stats.Estimate]] = {}
    for name in WAYS:
        cells = [table.sel(kind="partial", samples=n) for n in sizes]
        found[name] = [
            stats.Estimate(float(cell[name]), float(cell[f"{name}_stderr"]), 8) for cell in cells
        ]
    return picture_of_accuracies(sizes, found)


def picture_of_accuracies(
    sizes: Sequence[int], found: Mapping[str, Sequence[stats.Estimate]]
) -> Picture:
    """The picture of these accuracies by way and number of images."""
    marks: list[Mark] = []
    for colour, (name, label) in enumerate(WAYS.items()):
        marks.append(Mark("line", sizes, [float(e.mean) for e in found[name]], colour=colour))
        marks.append(measured(sizes, found[name], label, colour))
    return Picture(
        [Panel(marks, "", "training images, n", "accuracy on test images", log_x=True,
               y_range=(0.2, 1.0))],
        "A prompt gains most for its few parameters; fine-tuning gains more",
        "digits among noise, ten classes; mean of eight pretrained models with 95 % interval; "
        "lines join points", 3.6,
    )  # fmt: skip


# --- the theory's models on frozen embeddings ---

KINDS = {"partial": "one tile among noise", "embedded": "in a photograph"}


def embeddings_picture() -> Picture:
    """How far a softmax prompt leads over fine-tuned self-attention, and where it attends."""
    claim, sizes = jp.claim("contextual.image_context"), (12, 24, 48, 96, 192)
    found = {
        kind: [
            claim.simulate(key=1, trials=32, kind=kind, samples=n, level="embeddings", models=8,
                           arms="all")
            for n in sizes
        ]
        for kind in KINDS
    }  # fmt: skip
    leads = {kind: [f["lead"] for f in row] for kind, row in found.items()}
    shares = [
        f["attention_gain"]._replace(mean=0.25 + f["attention_gain"].mean) for f in found["partial"]
    ]
    return picture_of_embeddings(sizes, leads, shares)


def picture_of_embeddings(
    sizes: Sequence[int],
    leads: Mapping[str, Sequence[stats.Estimate]],
    shares: Sequence[stats.Estimate],
) -> Picture:
    """The picture of these leads, and of the attention on relevant patches among noise."""
    lead = [
        measured(sizes, leads[kind], label, colour)
        for colour, (kind, label) in enumerate(KINDS.items())
    ]
    share = [
        Mark("level", y=[0.25], label="uniform attention", colour=2),
        measured(sizes, shares, KINDS["partial"], 0),
    ]
    return Picture(
        [
            Panel([*lead, Mark("level", y=[0.0], colour=0)], "softmax prompt less fine-tuning",
                  "training images, n", "difference in accuracy", log_x=True),
            Panel(share, "attention of the prompt", "training images, n",
                  "share on relevant patches", log_x=True, y_range=(0.0, 1.0)),
        ],
        "On frozen embeddings a softmax prompt leads where images are few",
        "3 against 8; mean of 32 trials from eight pretrained models, 95 % intervals",
    )  # fmt: skip


# --- theory and measurement ---

SIZES = (8, 16, 24, 32, 48, 96, 200, 500, 1500)
RIDGE, TRIALS = 0.05, 60


def bank(task: Task, base: np.ndarray, part: str, count: int, seed: int) -> EmbeddedScenes:
    return image_experiment.embed_scenes(task, base, part, count, (3, 8), key=jax.random.key(seed))


def ladder(task: Task, white: bool, best: bool) -> dict[str, Any]:
    """Errors by n: two limits, and heads on Gaussian tokens and on the embeddings themselves."""
    (base,) = image_experiment.pretrain(task.source, 400, 1)
    train, test = bank(task, base, "adaptation", 4000, 1), bank(task, base, "test", 2000, 2)
    fitted = patch_law.fit(*train)
    if white:
        law = fitted
        train = train._replace(tokens=patch_law.whitened(law, train.tokens))
        test = test._replace(tokens=patch_law.whitened(law, test.tokens))
        fitted = patch_law.fit(*train)
    setting: Any = fitted.setting()
    gain = (1 + setting["shifts"][0][0]) / (2 * setting["noise"] ** 2) if best else 0.0
    prompt = gain * fitted.direction

    def learned(tokens: np.ndarray, others: np.ndarray) -> np.ndarray:
        features, fresh = patch_law.pooled(tokens, prompt), patch_law.pooled(others, prompt)
        return patch_law.measured_errors(
            features, train.labels, fresh, test.labels, SIZES, RIDGE, TRIALS, seed=3
        )

    def gaussian(isotropic: bool) -> np.ndarray:
        drawn = [
            patch_law.gaussian_tokens(fitted, own.labels, isotropic=isotropic, seed=seed)[0]
            for own, seed in ((train, 1), (test, 2))
        ]
        return learned(*drawn)

    return {
        "fitted": fitted, "gain": gain,
        **patch_law.predicted_errors(fitted, gain, RIDGE, SIZES),
        "isotropic": gaussian(True), "gaussian": gaussian(False),
        "embeddings": learned(train.tokens, test.tokens),
    }  # fmt: skip


def theory_picture() -> Picture:
    """Predicted error beside measured, for embeddings and for Gaussian tokens like them."""
    cases = (
        ("noise, uniform attention", Task("partial", "digits"), False, False),
        ("noise, prompt", Task("partial", "digits"), False, True),
        ("noise, prompt, whitened", Task("partial", "digits"), True, True),
        ("photograph, prompt", Task("embedded", "digits"), False, True),
    )
    lines = {
        "closed_form": "closed form, as it is",
        "with_relevant_noise": "with noise on relevant tokens",
    }
    points = {
        "isotropic": "Gaussian tokens, isotropic",
        "gaussian": "Gaussian tokens, all moments",
        "embeddings": "embeddings",
    }
    panels: list[Panel] = []
    for title, task, white, best in cases:
        found = ladder(task, white, best)
        law = found["fitted"]
        print(title, {n: np.round(v, 3) for n, v in law.setting().items()}, "gain",
              round(found["gain"], 3), "cosine", round(law.cosine, 3), "relevant noise",
              round(law.relevant_noise, 3), "anisotropy", round(law.anisotropy, 2))  # fmt: skip
        marks = [
            Mark("line", SIZES, np.asarray(found[name], np.float64), label=label, colour=colour)
            for colour, (name, label) in enumerate(lines.items())
        ]
        for colour, (name, label) in enumerate(points.items(), 2):
            estimates = [stats.mean_estimate(errors) for errors in np.asarray(found[name]).T]
            marks.append(measured(SIZES, estimates, label, colour))
        panels.append(
            Panel(marks, title, "training images, n", "error, 3 against 8", log_x=True,
                  y_range=(0.0, 0.5))
        )  # fmt: skip
    return Picture(
        panels,
        "The closed form is too optimistic on real features; noise on relevant tokens mends most",
        f"ridge head on frozen embeddings; mean of {TRIALS} training sets with 95 % interval",
    )


# --- rates ---

GRID = {"prompt": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "head": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "fine_tuning": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}  # fmt: skip
GRID |= dict.fromkeys(("input_prompt",), GRID["prompt"])
GRID |= dict.fromkeys(("token", "tokens", "deep_tokens"), (3e-2, 1e-1, 3e-1))


def print_rates() -> None:
    """Accuracy on validation scenes of each arm at each rate of its grid."""
    task, trials = Task("partial", "digits"), 8
    bases = image_experiment.pretrain("digits", 400, trials)
    keys = [jax.random.fold_in(jax.random.key(99), trial) for trial in range(trials)]
    scenes = [task.scenes("adaptation", 500, jax.random.fold_in(k, 1)) for k in keys]
    for samples in (10, 1000):
        sets = [task.scenes("adaptation", samples, jax.random.fold_in(k, 0)) for k in keys]
        for name, rates in GRID.items():
            for rate in rates:
                arm = ARMS[name]._replace(rates=(rate, rate))
                found = image_experiment.adapt(task, arm, bases, sets, 150)
                right = [
                    image_experiment.evaluate(task, arm, flat, own).accuracy
                    for flat, own in zip(found, scenes, strict=True)
                ]
                mark = "*" if rate == ARMS[name].rate(samples) else " "
                estimate = stats.mean_estimate(np.array(right))
                print(f"{samples:5d} {name:13s} {rate:7g}{mark} "
                      f"{estimate.mean:.3f} ± {estimate.stderr:.3f}", flush=True)  # fmt: skip


PICTURES = {
    "real_data_theory": theory_picture,
    "real_data_embeddings": embeddings_picture,
    "real_data_accuracy": accuracy_picture,
}

if __name__ == "__main__":
    if sys.argv[1:] == ["rates"]:
        print_rates()
    else:
        main(PICTURES, __doc__)
