"""Pictures for universal.md: functions beside their prefixed heads, and what accuracy costs.

    python docs/universal_pictures.py [FOLDER]

Writes universal_sphere.png, universal_values.png and universal_sequences.png. Everything is seeded;
the same versions give the same pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from drawing import log_axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxprompt.universal import build_prefix, build_sequence_prefix
from jaxprompt.universal.numerics import point_sets

COUNTS = (12, 48, 192, 768)


def target(x: np.ndarray) -> np.ndarray:
    """A function with bumps of two widths: unit vectors (…, 3) to numbers (…)."""
    wide = np.exp(3 * (x @ np.array([0.6, 0.0, 0.8]) - 1))
    narrow = np.exp(20 * (x @ np.array([-0.48, 0.6, 0.64]) - 1))
    return wide - 1.2 * narrow + 0.3 * np.sin(4 * x[..., 0])


def northern(pixels: int = 220) -> np.ndarray:
    """Unit vectors (pixels, pixels, 3) of the northern hemisphere seen from above; NaN outside."""
    u, v = np.meshgrid(np.linspace(-1, 1, pixels), np.linspace(1, -1, pixels))
    height = np.where(u * u + v * v < 1, 1 - u * u - v * v, np.nan)
    return np.stack([u, v, np.sqrt(height)], axis=-1)


def draw_sphere(folder: Path) -> None:
    """The target, and what heads with more and more prefix tokens make of it."""
    view = northern()
    inside = np.isfinite(view[..., 2])
    images, titles = [np.where(inside, target(view), np.nan)], ["target"]
    for count in COUNTS:
        prefix = build_prefix(
            target,
            sphere_dim=2,
            accuracy=1e-12,
            centres=point_sets.fibonacci(count),
            test_points=4000,
        )
        image = np.full(inside.shape, np.nan)
        image[inside] = prefix(view[inside])
        images.append(image)
        titles.append(f"N = {count}\nlargest error {prefix.certificate.measured:.2g}")
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    low, high = np.nanmin(images[0]), np.nanmax(images[0])
    axes = figure.subplots(1, len(images))
    for axis, image, title in zip(axes, images, titles, strict=True):
        shown = axis.imshow(image, vmin=low, vmax=high, cmap="cividis")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes, shrink=0.8)
    figure.savefig(folder / "universal_sphere.png", dpi=130, metadata={"Software": None})


def draw_values(folder: Path) -> None:
    """Largest value against error, as the limit on the values is raised."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    limits = (1.0, 1.3, 2.0, 4.0, 10.0, 100.0, 1e3, 1e4)
    for count, marker in zip((24, 48, 96, 192), "os^D", strict=True):
        notes = [
            build_prefix(
                target, sphere_dim=2, accuracy=1e-12, centres=point_sets.fibonacci(count),
                value_limit=limit, test_points=2000,
            ).certificate
            for limit in limits
        ]  # fmt: skip
        axis.loglog(
            [n.measured for n in notes], [n.value_norm / n.sup_norm for n in notes],
            marker=marker, markerfacecolor="white", label=f"N = {count}",
        )  # fmt: skip
    axis.axhline(10, color="#777777", linestyle=":", label="limit used by default")
    axis.set_xlabel("largest error on the sphere")
    axis.set_ylabel("largest value / sup|f|")
    axis.set_title("Accuracy is bought with large values", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(color="#dddddd", linewidth=0.5)
    figure.savefig(folder / "universal_values.png", dpi=130, metadata={"Software": None})


def running_maximum(x: np.ndarray) -> np.ndarray:
    """The largest number so far, of (…, T, 1)."""
    return np.maximum.accumulate(x, axis=-2)


def draw_sequences(folder: Path) -> None:
    """Tokens of the largest layer against the error found, for maps of four tokens."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    maps = (
        ("sorting", lambda x: np.sort(x, axis=-2), "o", "-"),
        ("running maximum", running_maximum, "s", "--"),
        ("reversal", lambda x: x[..., ::-1, :], "^", "-."),
    )
    for name, f, marker, line in maps:
        # Where the number of cells that are needed changes, and a rounding above.
        accuracies = [1.001 / (2 * cells) for cells in range(1, 11)]
        built = [
            build_sequence_prefix(f, length=4, dim=1, accuracy=accuracy, method="kernel")
            for accuracy in accuracies
        ]
        needed = [prefix.certificate.needed_tokens for prefix in built]
        (drawn,) = axis.loglog(
            accuracies, needed, linestyle=line, drawstyle="steps-pre", label=f"{name}: needed"
        )
        axis.loglog(
            [prefix.certificate.measured for prefix in built],
            [max(prefix.tokens) for prefix in built], linestyle="", marker=marker,
            color=drawn.get_color(), markerfacecolor="white", label=f"{name}: built",
        )  # fmt: skip
    log_axis(axis, (0.05, 0.1, 0.2, 0.5))
    axis.set_xlabel("largest error, of numbers in [0, 1]")
    axis.set_ylabel("prefix tokens of the largest layer")
    axis.set_title("What accuracy costs for maps of four tokens", fontsize=10)
    axis.legend(frameon=False, fontsize=7)
    axis.grid(color="#dddddd", linewidth=0.5)
    figure.savefig(folder / "universal_sequences.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    draw_sphere(where)
    draw_values(where)
    draw_sequences(where)
