"""What the scripts that draw the documentation's pictures share."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["log_axis", "panels"]


def panels(count: int, width: float = 3.0, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A row of panels with a light grid; sizes of each in inches."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for axis in axes:
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def log_axis(axis: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic abscissa with these ticks and no others."""
    axis.set_xscale("log")
    axis.set_xticks(ticks, labels=[f"{t:g}" for t in ticks])
    axis.minorticks_off()
