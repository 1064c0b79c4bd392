"""The picture of learning.md: error against n/d for five ways to use n sequences.

    python docs/learning_pictures.py              computes and draws (some minutes)
    python docs/learning_pictures.py --from-data  redraws from learning_headline.csv

Lines are limits at the best parameters that a search finds for each n/d, points are simulations at
those parameters and d = 512, with intervals of two standard errors. Everything is seeded.
"""

from __future__ import annotations

from typing import Any

from drawing import Picture, main

from jaxprompt.contextual.claims import prompt_error, same_data, sgd_flow, two_stage
from jaxprompt.contextual.extensions import learning
from jaxprompt.core.figures import Mark, Panel
from jaxprompt.stats import Estimate

MODEL: dict[str, Any] = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0,
}  # fmt: skip
DIM, TRIALS = 512, 24
SAMPLES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0)
SHOWN = {
    "linear_probe": ("linear probe", (0.5, 2.0, 8.0)),
    "split": ("split: a batch for each step", (4.0, 8.0, 16.0)),
    "sgd": ("one pass of SGD, best rates", (1.0, 4.0, 8.0)),
    "same_data": ("all steps on all samples", (0.5, 1.0, 2.0, 4.0, 8.0)),
    "known_prompt": ("known prompt", (0.5, 2.0, 8.0)),
}
"""Label and the n/d of the points of each way to learn."""

SGD_SAMPLES = (0.25, 0.5, 1.0, 2.0, 2.8, 4.0, 5.6, 8.0, 16.0, 32.0)
"""Fewer for SGD, whose search is the longest."""


def predicted_and_measured(procedure: str, samples: float) -> tuple[float, Estimate | None]:
    """The limit at the best parameters, and a simulation there where a point is shown."""
    measures = samples in SHOWN[procedure][1]
    run: dict[str, Any] = {"key": 1, "trials": TRIALS, "dim": DIM, **MODEL}
    ratio = 1 / samples
    if procedure == "split":
        best = learning.best_split(ratio, **MODEL)
        run |= {
            "head_ratio": ratio / best.head_share, "prompt_ratio": ratio / best.prompt_share,
            "ratio": ratio / best.last_share, "ridge": best.ridge,
            "prompt_norm": best.prompt_norm, "head_rate": best.head_rate,
        }  # fmt: skip
        claim = two_stage.CLAIM
    elif procedure == "same_data":
        best = learning.best_reuse(ratio, **MODEL)
        run |= {"ratio": ratio, "ridge": best.ridge, "prompt_norm": best.prompt_norm,
                "head_rate": best.head_rate}  # fmt: skip
        claim = same_data.CLAIM
    elif procedure == "sgd":
        best = learning.best_rates(ratio, **MODEL)
        run |= {"time": samples, "head_rate": best.head_rate, "prompt_rate": best.prompt_rate,
                "head_norm": 0.0, "prompt_norm": 0.0}  # fmt: skip
        claim = sgd_flow.CLAIM
    else:
        best = learning.best_known_prompt(ratio, probe=procedure == "linear_probe", **MODEL)
        run |= {"ratio": ratio, "ridge": best.ridge, "gain": best.prompt_norm / MODEL["context"]}
        claim = prompt_error.CLAIM
    return best.error, claim.simulate(**run)["error"] if measures else None


def headline_picture() -> Picture:
    """The five curves, with points where simulations were made."""
    found: dict[str, list[tuple[float, float, Estimate | None]]] = {}
    for procedure in SHOWN:
        places = SGD_SAMPLES if procedure == "sgd" else SAMPLES
        found[procedure] = [(n, *predicted_and_measured(procedure, n)) for n in places]
    return picture_of(found)


def picture_of(found: dict[str, list[tuple[float, float, Estimate | None]]]) -> Picture:
    """The picture from n/d, limit and simulation of every way to learn."""
    marks: list[Mark] = []
    for colour, (procedure, (label, _)) in enumerate(SHOWN.items()):
        rows = found[procedure]
        points = [(n, point) for n, _, point in rows if point is not None]
        marks += [
            Mark("line", [n for n, *_ in rows], [limit for _, limit, _ in rows], label=label,
                 colour=colour),
            Mark("points", [n for n, _ in points], [float(p.mean) for _, p in points],
                 [2 * float(p.stderr) for _, p in points], colour=colour),
        ]  # fmt: skip
    return Picture(
        [Panel(marks, "", "sequences per dimension, n / d", "probability of a wrong sign",
               log_x=True, y_range=(0.0, 0.43))],
        "Tuning a prompt on all samples beats a linear probe at every number of samples",
        "lines: limits at the best parameters; points: simulations, d = 512, two standard errors; "
        "T = 10 tokens, two of them relevant, W = σ = 1, Q = 1.5", 3.9,
    )  # fmt: skip


PICTURES = {"learning_headline": headline_picture}

if __name__ == "__main__":
    main(PICTURES, __doc__)
