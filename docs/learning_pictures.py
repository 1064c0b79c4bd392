"""The picture of learning.md: error against n/d for five ways to use n sequences.

    python docs/learning_pictures.py [FOLDER]        from the stored numbers
    python docs/learning_pictures.py [FOLDER] --measure   after computing them again (some minutes)

Writes learning_headline.png and, with ``--measure``, learning_headline.csv: lines are limits at the
best parameters that a search finds for each n/d, points are simulations at those parameters and
d = 512, with intervals of two standard errors. Everything is seeded.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from drawing import log_axis, panels

from jaxprompt.contextual.claims import prompt_error, same_data, sgd_flow, two_stage
from jaxprompt.contextual.extensions import learning
from jaxprompt.stats import Estimate

MODEL: dict[str, Any] = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0,
}  # fmt: skip
DIM, TRIALS = 512, 24
SAMPLES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0)
SHOWN = {
    "linear_probe": ("linear probe", "#000000", "s", (0.5, 2.0, 8.0)),
    "split": ("split: a batch for each step", "#D55E00", "^", (4.0, 8.0, 16.0)),
    "sgd": ("one pass of SGD, best rates", "#009E73", "v", (1.0, 4.0, 8.0)),
    "same_data": ("all steps on all samples", "#0072B2", "o", (0.5, 1.0, 2.0, 4.0, 8.0)),
    "known_prompt": ("known prompt", "#CC79A7", "D", (0.5, 2.0, 8.0)),
}
"""Label, colour, marker and the n/d of the points of each way to learn."""

SGD_SAMPLES = (0.25, 0.5, 1.0, 2.0, 2.8, 4.0, 5.6, 8.0, 16.0, 32.0)
"""Fewer for SGD, whose search is the longest."""

HERE = Path(__file__).parent
TABLE = "learning_headline.csv"


def predicted_and_measured(procedure: str, samples: float) -> tuple[float, Estimate | None]:
    """The limit at the best parameters, and a simulation there where a point is shown."""
    measures = samples in SHOWN[procedure][3]
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


def measure(folder: Path) -> None:
    """Compute every number of the picture and write the table."""
    with (folder / TABLE).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["procedure", "n/d", "limit", "simulated", "standard error"])
        for procedure in SHOWN:
            for samples in SGD_SAMPLES if procedure == "sgd" else SAMPLES:
                limit, point = predicted_and_measured(procedure, samples)
                shown = [f"{point.mean:.6f}", f"{point.stderr:.6f}"] if point else ["", ""]
                table.writerow([procedure, f"{samples:g}", f"{limit:.6f}", *shown])
                file.flush()


def draw(folder: Path, width: float = 5.2) -> None:
    """The picture, from the table; `width` in inches."""
    rows = list(csv.DictReader((folder / TABLE).read_text().splitlines()))
    figure, (axis,) = panels(1, width=width, height=0.75 * width)
    small = width < 4
    for procedure, (label, colour, marker, _) in SHOWN.items():
        own = [row for row in rows if row["procedure"] == procedure]
        x = np.array([float(row["n/d"]) for row in own])
        # The lines of SGD and of the reused samples nearly coincide.
        style = {"sgd": (0, (4, 2))}.get(procedure, "-")
        axis.plot(
            x, [float(row["limit"]) for row in own], color=colour, label=label, linestyle=style,
            linewidth=1.2 if small else 1.6, zorder=3 if procedure == "sgd" else 2,
        )  # fmt: skip
        points = [row for row in own if row["simulated"]]
        axis.errorbar(
            [float(row["n/d"]) for row in points],
            [float(row["simulated"]) for row in points],
            yerr=[2 * float(row["standard error"]) for row in points],
            color=colour, marker=marker, linestyle="none", markersize=3 if small else 4.5,
            capsize=2, zorder=4,
        )  # fmt: skip
    log_axis(axis, [0.25, 0.5, 1, 2, 4, 8, 16, 32])
    axis.set_ylim(0, 0.43)
    axis.set_xlabel("sequences per dimension, n/d", fontsize=8 if small else 10)
    axis.set_ylabel("probability of a wrong sign", fontsize=8 if small else 10)
    axis.tick_params(labelsize=7 if small else 9)
    axis.legend(
        frameon=True, framealpha=1, edgecolor="none", fontsize=5.5 if small else 8,
        loc="upper right", borderpad=0.2,
    )  # fmt: skip
    figure.savefig(folder / "learning_headline.png", dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--measure"]
    target = Path(arguments[0]) if arguments else HERE
    if "--measure" in sys.argv:
        measure(target)
    draw(target)
