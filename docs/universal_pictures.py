"""Pictures for universal.md: a function and its prefixed heads, and what accuracy costs.

    python docs/universal_pictures.py [NAME ...]              computes and draws
    python docs/universal_pictures.py [NAME ...] --from-data  redraws from NAME.csv

The numbers behind universal_rate are those of benchmarks/prefix_rate_constant.csv, which the
benchmark of that name measures. Everything is seeded; the same versions give the same pictures.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drawing import Picture, main

from jaxprompt.core.figures import Mark, Panel
from jaxprompt.universal import build_prefix, build_sequence_prefix
from jaxprompt.universal.numerics import point_sets

# --- functions on the sphere ---

COUNTS = (12, 48, 192, 768)
WIDE, NARROW = np.array([0.6, 0.0, 0.8]), np.array([-0.48, 0.6, 0.64])
"""The middles of the bumps of the target."""


def target(x: np.ndarray) -> np.ndarray:
    """A function with bumps of two widths: unit vectors (…, 3) to numbers (…)."""
    wide, narrow = np.exp(3 * (x @ WIDE - 1)), np.exp(20 * (x @ NARROW - 1))
    return wide - 1.2 * narrow + 0.3 * np.sin(4 * x[..., 0])


def sphere_picture() -> Picture:
    """The target along a great circle through both bumps, and heads with more and more tokens."""
    across = NARROW - (NARROW @ WIDE) * WIDE
    across /= np.linalg.norm(across)
    degrees = np.linspace(-180, 180, 121)
    angles = np.radians(degrees)[:, None]
    circle = np.cos(angles) * WIDE + np.sin(angles) * across
    built = [
        build_prefix(
            target, sphere_dim=2, accuracy=1e-12, centres=point_sets.fibonacci(count),
            test_points=4000,
        )
        for count in COUNTS
    ]  # fmt: skip
    marks = [Mark("line", degrees, target(circle), label="the function")]
    for colour, (count, prefix) in enumerate(zip(COUNTS, built, strict=True), 1):
        values = np.asarray(prefix(circle), np.float64)
        marks.append(Mark("points", degrees[::3], values[::3], label=f"head with {count} tokens",
                          colour=colour))  # fmt: skip
    errors = [
        Mark("points", [count], [prefix.certificate.measured], colour=colour)
        for colour, (count, prefix) in enumerate(zip(COUNTS, built, strict=True), 1)
    ]
    return Picture(
        [
            Panel(marks, "along a great circle", "degrees from the wide bump", "value"),
            Panel(errors, "anywhere on the sphere", "prefix tokens N", "largest error found",
                  log_x=True, log_y=True),
        ],
        "A prefixed head is as near to a function on the sphere as its prefix is long",
        "least-squares values at the best concentration; centres on a Fibonacci spiral",
    )  # fmt: skip


def values_picture() -> Picture:
    """Largest value against error, as the limit on the values is raised."""
    limits = (1.0, 1.3, 2.0, 4.0, 10.0, 100.0, 1e3, 1e4)
    marks: list[Mark] = []
    for colour, count in enumerate((24, 48, 96, 192)):
        notes = [
            build_prefix(
                target, sphere_dim=2, accuracy=1e-12, centres=point_sets.fibonacci(count),
                value_limit=limit, test_points=2000,
            ).certificate
            for limit in limits
        ]  # fmt: skip
        x = [float(note.measured) for note in notes]
        y = [float(note.value_norm / note.sup_norm) for note in notes]
        marks += [
            Mark("line", x, y, colour=colour),
            Mark("points", x, y, label=f"{count} prefix tokens", colour=colour),
        ]
    marks.append(Mark("level", y=[10.0], label="limit used by default", colour=5))
    return Picture(
        [Panel(marks, "", "largest error on the sphere", "largest value / largest |f|",
               log_x=True, log_y=True)],
        "Accuracy is bought with large values",
        "each point: the best prefix whose values keep to a limit", 3.4,
    )  # fmt: skip


# --- maps of sequences ---


def running_maximum(x: np.ndarray) -> np.ndarray:
    """The largest number so far, of (…, T, 1)."""
    return np.maximum.accumulate(x, axis=-2)


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sorting": lambda x: np.sort(x, axis=-2),
    "running maximum": running_maximum,
    "reversal": lambda x: x[..., ::-1, :],
}


def sequences_picture() -> Picture:
    """Tokens of the largest layer against the error found, for maps of four tokens."""
    # Where the number of cells that are needed changes, and a rounding above.
    accuracies = [1.001 / (2 * cells) for cells in range(1, 11)]
    marks: list[Mark] = []
    for colour, (name, f) in enumerate(MAPS.items()):
        built = [
            build_sequence_prefix(f, length=4, dim=1, accuracy=accuracy, method="kernel")
            for accuracy in accuracies
        ]
        needed = [float(prefix.certificate.needed_tokens) for prefix in built]
        # Every error below one accuracy, down to the next, needs what the next one needs.
        x = np.repeat(accuracies, 2)[:-1]
        y = np.repeat(needed, 2)[1:]
        marks += [
            Mark("line", x, y, label=f"{name}: needed", colour=colour),
            Mark("points", [float(prefix.certificate.measured) for prefix in built],
                 [float(max(prefix.tokens)) for prefix in built], label=f"{name}: built",
                 colour=colour),
        ]  # fmt: skip
    return Picture(
        [Panel(marks, "", "largest error, of numbers in [0, 1]",
               "prefix tokens of the largest layer", log_x=True, log_y=True)],
        "What accuracy costs for maps of four tokens",
        "lines: tokens without which no construction of this kind reaches the error; points: built",
        3.4,
    )  # fmt: skip


# --- the constant of the rate ---

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

VALUES = {
    ("raw", "regular"): "values of the function",
    ("raw", "everywhere"): "values of the function, singular places too",
    ("two_term", "regular"): "two-term values",
    ("deconvolution", "regular"): "deconvolved values, at most 10",
}
"""Kinds of values, and where the error is measured, in words."""


def rate_picture() -> Picture:
    """The constant of the rate above, what better values buy below."""
    sys.path.append(str(BENCHMARKS))
    import prefix_rate_constant as benchmark

    with benchmark.TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    line = np.geomspace(70, 1.5e5, 60)
    constants: list[Panel] = []
    errors: list[Panel] = []
    for m in (1, 2, 3):
        law = benchmark.predicted(m, line) * line ** (2 / m) / np.log(line)
        above = [
            Mark("line", line, law, label="theory: two-scale law"),
            Mark("level", y=[1 / benchmark.SHORTEST[m]], label="its limit", colour=4),
        ]
        below: list[Mark] = []
        for colour, (kind, label) in enumerate(VALUES.items()):
            if m == 1 and kind[1] == "everywhere":
                continue
            chosen = [
                r for r in rows if int(r["sphere_dim"]) == m and (r["method"], r["region"]) == kind
            ]
            for marks, power in ((above, 1), (below, 0)) if kind[0] == "raw" else ((below, 0),):
                x, y, half = benchmark.mean_constants(chosen, m, power)
                marks.append(Mark("points", x, y, half, label=label, colour=colour))
        constants.append(
            Panel(above, f"sphere of dimension {m}", "prefix tokens N",
                  "error · $N^{2/m}$ / log N", log_x=True,
                  y_range=(0.0, 1.2 if m == 3 else 2.3))
        )  # fmt: skip
        errors.append(Panel(below, "", "prefix tokens N", "largest error",
                            log_x=True, log_y=True))  # fmt: skip
    return Picture(
        [*constants, *errors],
        "The error falls as log N / $N^{2/m}$ with the constant of the two-scale law",
        "the function f(x) = x; means over three lengths near each, 95 % intervals", 2.4,
    )  # fmt: skip


PICTURES = {
    "universal_sphere": sphere_picture,
    "universal_values": values_picture,
    "universal_sequences": sequences_picture,
    "universal_rate": rate_picture,
}

if __name__ == "__main__":
    main(PICTURES, __doc__)
