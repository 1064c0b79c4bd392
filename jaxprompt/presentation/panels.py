"""Figures that a claim makes of marks: their tables, and how the marks are drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.figures import Mark, Panel, Panels
from jaxprompt.presentation.canvas import (
    LINE_STYLES,
    MARKERS,
    PAGE_WIDTH,
    add_legend_and_caption,
    curve_colour,
    new_figure,
    plain_log_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_panels", "panels_from_tables", "panels_to_tables"]

TableRow = dict[str, Any]

MEASURED = ("points", "bars", "map")
"""Marks that show what was measured; the others come from theory."""

_TEXTS = ("title", "x_label", "y_label", "value_label")
_RANGES = ("x_range", "y_range", "value_range")
_NAMES = ("x_names", "y_names")


# --- tables ---


def panels_to_tables(
    panels: Sequence[Panel],
) -> tuple[list[TableRow], list[TableRow], list[TableRow]]:
    """Rows of what was measured, of lines, and of the panels themselves."""
    points: list[TableRow] = []
    lines: list[TableRow] = []
    axes: list[TableRow] = []
    for number, panel in enumerate(panels):
        for order, mark in enumerate(panel.marks):
            target = points if mark.kind in MEASURED else lines
            target += [{"panel": number, "order": order, **row} for row in _mark_rows(mark)]
        row: TableRow = {name: getattr(panel, name) for name in _TEXTS}
        row |= {"log_x": int(panel.log_x), "log_y": int(panel.log_y)}
        for name in _RANGES:
            low, high = getattr(panel, name) or (math.nan, math.nan)
            row |= {f"{name}_low": low, f"{name}_high": high}
        row |= {name: "\n".join(getattr(panel, name)) for name in _NAMES}
        axes.append(row)
    return points, lines, axes


def _mark_rows(mark: Mark) -> Iterator[TableRow]:
    columns = {n: list(getattr(mark, n)) for n in ("x", "y", "half", "upper", "value")}
    count = max(map(len, columns.values()))
    for index in range(count):
        numbers = {n: float(c[index]) if c else math.nan for n, c in columns.items()}
        yield {"mark": mark.kind, "label": mark.label, "colour": mark.colour, **numbers}


def panels_from_tables(
    points: Sequence[TableRow], lines: Sequence[TableRow], axes: Sequence[TableRow]
) -> list[Panel]:
    """The panels that :func:`panels_to_tables` made tables of."""
    panels: list[Panel] = []
    for number, row in enumerate(axes):
        rows = [r for r in (*points, *lines) if r["panel"] == number]
        orders = sorted({r["order"] for r in rows})
        marks = [_mark_of([r for r in rows if r["order"] == order]) for order in orders]
        more: dict[str, Any] = {name: row[name] for name in _TEXTS}
        for name in _RANGES:
            ends = (row[f"{name}_low"], row[f"{name}_high"])
            more[name] = None if math.isnan(ends[0]) else ends
        more |= {name: row[name].split("\n") if row[name] else () for name in _NAMES}
        panels.append(Panel(marks, log_x=bool(row["log_x"]), log_y=bool(row["log_y"]), **more))
    return panels


def _mark_of(rows: Sequence[TableRow]) -> Mark:
    columns = {n: [r[n] for r in rows] for n in ("x", "y", "half", "upper", "value")}
    kept = {n: c for n, c in columns.items() if not all(map(math.isnan, c))}
    first = rows[0]
    return Mark(first["mark"], label=first["label"], colour=int(first["colour"]), **kept)


# --- drawing ---


def draw_panels(spec: Panels, panels: Sequence[Panel]) -> Figure:
    """Panels side by side, at most three in a row, with one legend below where they share marks."""
    width = 5.2 if len(panels) == 1 else PAGE_WIDTH
    figure, axes = new_figure(len(panels), width, spec.height, share=False)
    shown: dict[str, Any] = {}
    for panel, axis in zip(panels, axes, strict=True):
        for mark in panel.marks:
            _DRAWERS[mark.kind](axis, mark, panel)
        _finish_axis(axis, panel)
        handles, labels = axis.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    add_legend_and_caption(figure, spec.title, spec.caption, shown)
    return figure


def _finish_axis(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    for which, logarithmic in (("x", panel.log_x), ("y", panel.log_y)):
        if logarithmic:
            getattr(axis, f"set_{which}scale")("log")
            plain_log_ticks(axis, which)
    if panel.x_range:
        axis.set_xlim(*panel.x_range)
    if panel.y_range:
        axis.set_ylim(*panel.y_range)
    for which, names in (("x", panel.x_names), ("y", panel.y_names)):
        if names:
            folded = [textwrap.fill(name, 11) if which == "x" else name for name in names]
            getattr(axis, f"set_{which}ticks")(range(len(names)), folded)


def _mark_style(mark: Mark) -> dict[str, Any]:
    return {"color": curve_colour(mark.colour), "label": mark.label or "_"}


def _draw_line(axis: Axes, mark: Mark, panel: Panel) -> None:
    drawstyle = "steps-mid" if mark.kind == "step" else "default"
    style = LINE_STYLES[mark.colour % 7]
    axis.plot(mark.x, mark.y, linestyle=style, drawstyle=drawstyle, **_mark_style(mark))


def _draw_points(axis: Axes, mark: Mark, panel: Panel) -> None:
    half: Any = np.asarray(mark.half) if len(mark.half) else None
    if len(mark.half) and len(mark.upper):
        # An interval that is not symmetric has a length of its own above.
        half = np.stack([half, np.asarray(mark.upper) - np.asarray(mark.y)])
    axis.errorbar(
        mark.x,
        mark.y,
        yerr=half,
        marker=MARKERS[mark.colour % 7],
        linestyle="none",
        markerfacecolor="white",
        capsize=1.5,
        elinewidth=0.8,
        zorder=3,
        **_mark_style(mark),
    )


def _draw_bars(axis: Axes, mark: Mark, panel: Panel) -> None:
    groups = sorted({m.colour for m in panel.marks if m.kind == "bars"})
    width = 0.8 / len(groups)
    places = np.asarray(mark.x) + width * (groups.index(mark.colour) - (len(groups) - 1) / 2)
    half: Any = np.asarray(mark.half) if len(mark.half) else None
    hatch = ("", "//", "..", "xx", "\\\\", "++", "oo")[mark.colour % 7]
    axis.bar(
        places, mark.y, width, yerr=half, hatch=hatch, alpha=0.45,
        error_kw={"elinewidth": 0.8, "capsize": 1.5}, **_mark_style(mark),
    )  # fmt: skip
    # A lone bar is no wider than one of several.
    axis.set_xlim(*(sum(ends) for ends in zip((-0.7, 0.7), _middle_of(mark.x), strict=True)))


def _middle_of(places: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The ends of an axis for bars at these places, of at least three."""
    first, last = min(places), max(places)
    spare = max(0.0, 2.0 - (last - first)) / 2
    return first - spare, last + spare


def _draw_limit(axis: Axes, mark: Mark, panel: Panel) -> None:
    x = np.asarray(mark.x)
    style: dict[str, Any] = {"colors": curve_colour(mark.colour), "label": mark.label or "_"}
    # Limits from above and below differ in grey too.
    dashes = LINE_STYLES[mark.colour % 7]
    axis.hlines(mark.y, x - 0.45, x + 0.45, linewidth=2, linestyles=dashes, zorder=4, **style)


def _draw_band(axis: Axes, mark: Mark, panel: Panel) -> None:
    axis.fill_between(
        mark.x, mark.y, mark.upper, alpha=0.2, linewidth=0, zorder=0, **_mark_style(mark)
    )


def _draw_level(axis: Axes, mark: Mark, panel: Panel) -> None:
    style = LINE_STYLES[mark.colour % 7]
    for height in mark.y:
        axis.axhline(height, linewidth=1, linestyle=style, **_mark_style(mark))


def _draw_vertical(axis: Axes, mark: Mark, panel: Panel) -> None:
    for x in mark.x:
        axis.axvline(x, linewidth=1, linestyle=":", **_mark_style(mark))


def _draw_map(axis: Axes, mark: Mark, panel: Panel) -> None:
    x, y = np.unique(mark.x), np.unique(mark.y)
    values = np.full((y.size, x.size), np.nan)
    values[np.searchsorted(y, mark.y), np.searchsorted(x, mark.x)] = mark.value
    low, high = panel.value_range or (None, None)
    shown = axis.pcolormesh(x, y, values, cmap="cividis", vmin=low, vmax=high, shading="nearest")
    shown.set_rasterized(True)
    axis.grid(visible=False)
    axis.figure.colorbar(shown, ax=axis, label=panel.value_label, shrink=0.9)


_DRAWERS: Mapping[str, Callable[[Any, Mark, Panel], None]] = {
    "line": _draw_line,
    "step": _draw_line,
    "points": _draw_points,
    "bars": _draw_bars,
    "limit": _draw_limit,
    "band": _draw_band,
    "level": _draw_level,
    "vertical": _draw_vertical,
    "map": _draw_map,
}
