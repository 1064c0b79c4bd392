"""Figures from stored tables. Nothing here simulates, and equal numbers give equal bytes.

Theory is a line, simulation is points with 95 % intervals. Curves differ in colour, line style
and marker, so they stay apart for colour-blind readers and in grey.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.claim import Agreement, Claim, Curves, Evidence, Panels, Regions
from jaxprompt.presentation.canvas import (
    LINE_STYLES,
    MARKERS,
    PAGE_WIDTH,
    add_legend_and_caption,
    add_title_and_caption,
    curve_colour,
    figure_style,
    first_panels,
    format_value,
    half_widths,
    is_narrow,
    name_and_value,
    new_figure,
    plain_log_ticks,
    point_style,
    point_trials,
)
from jaxprompt.presentation.evidence import draw_evidence, draw_fit
from jaxprompt.presentation.figure_tables import FigureTables, Row
from jaxprompt.presentation.panels import draw_panels, panels_from_tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_ASIDE = 0.12
"""How far apart the points of two series stand where abscissae are levels, in units of them."""


def draw(claim: Claim, tables: FigureTables) -> Figure:
    """The claim's figure; the caller saves it with :func:`.canvas.save_figure`."""
    import matplotlib as mpl

    with mpl.rc_context(figure_style()):
        if isinstance(claim.figure, Panels):
            made = panels_from_tables(tables.points, tables.lines, tables.axes)
            return draw_panels(claim.figure, made)
        if isinstance(claim.figure, Evidence):
            return draw_evidence(claim, claim.figure, tables.points, tables.lines)
        if isinstance(claim.figure, Agreement):
            drawing = _draw_limits if claim.figure.limits else _draw_agreement
            return drawing(claim, claim.figure, tables.points)
        if isinstance(claim.figure, Curves):
            return _draw_curves(claim, claim.figure, tables)
        if isinstance(claim.figure, Regions):
            return _draw_regions(claim.figure, tables)
    raise ValueError(f"claim {claim.id} has no figure")


def _draw_curves(claim: Claim, spec: Curves, tables: FigureTables) -> Figure:
    panels = _distinct_entries(tables.points, "panel")
    count = len(panels) + bool(tables.fits)
    figure, axes = new_figure(count, 5.2 if count == 1 else PAGE_WIDTH, 3.0, share=not tables.fits)
    fit_axis = axes.pop() if tables.fits else None
    if fit_axis:
        for axis in axes[1:]:
            axis.sharey(axes[0])
    series = _distinct_entries(tables.points, "series")
    for panel, axis in zip(panels, axes, strict=True):
        for index, value in enumerate(series):
            points = [r for r in tables.points if r["panel"] == panel and r["series"] == value]
            lines = [r for r in tables.lines if r["panel"] == panel and r.get("series") == value]
            label = _axis_label(spec.series_label, value)
            theory = [r for r in lines if r["kind"] == "theory"]
            _draw_line(axis, theory, index, label, spec.steps)
            aside = _ASIDE * (index - (len(series) - 1) / 2) if spec.steps else 0.0
            _draw_points(axis, points, index, "" if lines else label, aside)
        _draw_shared(axis, [r for r in tables.lines if r["panel"] == panel])
        _finish_figure(axis, spec, _axis_label(spec.panel_label, panel) if panel != "" else "")
    for axis in first_panels(axes):
        axis.set_ylabel(spec.y_label)
    handles, labels = axes[0].get_legend_handles_labels()
    caption = _figure_caption(claim, spec, tables.points)
    if fit_axis:
        draw_fit(fit_axis, claim, claim.quantity(spec.y), tables.fits, tables.fit_lines)
        fit_axis.set_title("extrapolation")
        caption += (
            "\nextrapolation: points of the check, the fit of their correction, its limit at ∞"
        )
    if count == 1 and not is_narrow(figure) and max(map(len, labels)) < 24:
        figure.legend(handles, labels, loc="outside right center")
        add_title_and_caption(figure, spec.title, caption)
    else:
        shown = dict(zip(labels, handles, strict=True))
        add_legend_and_caption(figure, spec.title, caption, shown)
    return figure


def _finish_figure(axis: Axes, spec: Curves, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_title(title)
    axis.set_xlabel(spec.x_label)
    axis.set_xscale("log" if spec.log_x else "linear")
    axis.set_yscale("log" if spec.log_y else "linear")
    if spec.log_x:
        plain_log_ticks(axis)
    elif all(float(x).is_integer() for line in axis.lines for x in np.asarray(line.get_xdata())):
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    if spec.log_y and axis.get_ylim()[1] < 100 * axis.get_ylim()[0]:
        plain_log_ticks(axis, "y")
    if spec.y_range:
        axis.set_ylim(*spec.y_range)


def _draw_line(axis: Axes, rows: Sequence[Row], index: int, label: str, steps: bool) -> None:
    if rows:
        axis.plot(
            [r["x"] for r in rows],
            [r["y"] for r in rows],
            label=label,
            color=curve_colour(index),
            linestyle=LINE_STYLES[index % 7],
            drawstyle="steps-mid" if steps else "default",
        )


def _draw_points(axis: Axes, rows: Sequence[Row], index: int, label: str, aside: float) -> None:
    axis.errorbar(
        [r["x"] + aside for r in rows],
        [r["y"] for r in rows],
        yerr=half_widths(rows),
        label=label or "_",
        color=curve_colour(index),
        marker=MARKERS[index % 7],
        linestyle="none",
        markerfacecolor="white",
        capsize=1.5,
        elinewidth=0.8,
        zorder=3,
    )


def _draw_shared(axis: Axes, rows: Sequence[Row]) -> None:
    """Lines that belong to no series: the limit, extra lines, and vertical marks."""
    loose = [r for r in rows if _is_missing(r.get("series"))]
    for index, label in enumerate(
        _distinct_entries([r for r in loose if r["kind"] != "mark"], "label")
    ):
        labelled = [r for r in loose if r["label"] == label and r["kind"] != "mark"]
        limit = labelled[0]["kind"] == "theory"
        # A line of one place alone has no length: a stroke stands for it.
        stroke = len({r["x"] for r in labelled}) == 1
        axis.plot(
            [r["x"] for r in labelled],
            [r["y"] for r in labelled],
            label=label,
            marker="_" if stroke else "",
            markersize=18,
            linewidth=1.5 if limit else 1.0,
            color="#000000" if limit else "#777777",
            linestyle="-" if limit else LINE_STYLES[6 - index % 4],
            zorder=1.9,
        )
    for x, label in sorted({(r["x"], r["label"]) for r in rows if r["kind"] == "mark"}):
        axis.axvline(x, color="#777777", linewidth=1, linestyle=":", label=label)


def _draw_agreement(claim: Claim, spec: Agreement, points: Sequence[Row]) -> Figure:
    noisy = [r for r in points if r["stderr"] > 0]
    figure, (equality_axis, *residual_axes) = new_figure(
        2 if noisy else 1, PAGE_WIDTH if noisy else 4.2, 3.1, share=False
    )
    both = [v for r in points for v in (r["predicted"], r["simulated"])]
    values = [v for v in both if math.isfinite(v)] or [0.0]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.1
    equality_axis.plot(
        [low - pad, high + pad], [low - pad, high + pad], color="#777777", label="equality"
    )
    for index, quantity in enumerate(_distinct_entries(points, "quantity")):
        quantity_rows = [r for r in points if r["quantity"] == quantity]
        half = half_widths(quantity_rows)
        x, y = [r["predicted"] for r in quantity_rows], [r["simulated"] for r in quantity_rows]
        equality_axis.errorbar(
            x, y, yerr=half, label=claim.quantity(quantity).meaning, capsize=2, zorder=3,
            **point_style(index),
        )  # fmt: skip
        for axis in residual_axes:
            quantity_rows = [r for r in noisy if r["quantity"] == quantity]
            z = [(r["simulated"] - r["predicted"]) / r["stderr"] for r in quantity_rows]
            axis.plot([r["predicted"] for r in quantity_rows], z, **point_style(index))
    equality_axis.set_xlabel(f"predicted {spec.label}")
    equality_axis.set_ylabel(f"measured {spec.label}")
    for axis in residual_axes:
        _finish_residuals(axis, f"predicted {spec.label}", noisy)
    what = "bars and shaded band: 95 %" if noisy else "exact values: no sampling error"
    handles, labels = equality_axis.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    add_legend_and_caption(figure, spec.title, _with_count(points, what), shown)
    return figure


def _draw_limits(claim: Claim, spec: Agreement, points: Sequence[Row]) -> Figure:
    """One line for each row, from the top: what was measured, and the limit it must keep to."""
    figure, (axis,) = new_figure(1, PAGE_WIDTH, 0.9 + 0.22 * len(points))
    places = range(len(points))
    axis.errorbar(
        [r["simulated"] for r in points],
        places,
        xerr=half_widths(points),
        label="measured",
        capsize=2,
        zorder=3,
        **point_style(0),
    )
    limits = [r["predicted"] for r in points]
    axis.plot(limits, places, "|", color="C1", markersize=11, mew=2, label="limit or prediction")
    axis.set_yticks(places, _names_of_rows(points))
    axis.invert_yaxis()
    axis.set_xlabel(spec.label)
    handles, labels = axis.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    add_legend_and_caption(figure, spec.title, _with_count(points, "bars: 95 %"), shown)
    return figure


def _names_of_rows(points: Sequence[Row]) -> list[str]:
    """Quantity and note of each row; of rows that share them also what tells them apart."""
    names = [r["quantity"] + (r["note"] and f", {r['note']}") for r in points]
    tables = [json.loads(r["parameters"]) for r in points]
    columns = {n: [format_value(t.get(n)) for t in tables] for table in tables for n in table}
    # Short values first: where they tell all apart, long ones are left out.
    for name, values in sorted(columns.items(), key=lambda c: (max(map(len, c[1])), c[0])):
        alike = [
            {v for v, other in zip(values, names, strict=True) if other == name_of_row}
            for name_of_row in names
        ]
        names = [
            f"{name_of_row}, {name} {value}" if len(shared_values) > 1 else name_of_row
            for name_of_row, value, shared_values in zip(names, values, alike, strict=True)
        ]
    return names


def _draw_regions(spec: Regions, tables: FigureTables) -> Figure:
    panels = _distinct_entries(tables.points, "panel")
    figure, axes = new_figure(len(panels), PAGE_WIDTH if len(panels) > 1 else 4.2, 2.7)
    shown = None
    for panel, axis in zip(panels, axes, strict=True):
        panel_rows = [r for r in tables.points if r["panel"] == panel]
        low, high = spec.value_range
        shown = axis.scatter(
            [r["x"] for r in panel_rows],
            [r["y"] for r in panel_rows],
            c=[r["value"] for r in panel_rows],
            vmin=low,
            vmax=high,
            cmap="cividis",
            marker="s",
            s=24,
            edgecolors="#777777",
            linewidths=0.4,
            zorder=2,
        )
        for line in _distinct_lines([r for r in tables.lines if r["panel"] == panel]):
            axis.plot(*line, color=curve_colour(2), linewidth=1.5, zorder=3)
        axis.set_xlim(spec.x_lines[0], spec.x_lines[-1])
        axis.set_ylim(spec.y_lines[0], spec.y_lines[-1])
        axis.set_title(panel)
        axis.set_xlabel(spec.x_label)
        axis.set_yscale("log" if spec.log_y else "linear")
        if spec.log_y:
            plain_log_ticks(axis, "y")
    for axis in first_panels(axes):
        axis.set_ylabel(spec.y_label)
    assert shown is not None  # a figure has a panel
    figure.colorbar(shown, ax=axes, label=spec.value_label, shrink=0.9)
    add_title_and_caption(
        figure, spec.title, "\n".join(filter(None, ["lines: theory", spec.caption]))
    )
    return figure


def _distinct_lines(rows: Sequence[Row]) -> Iterator[tuple[list[float], list[float]]]:
    """x and y along each line on which the closed form passes a level."""
    for _, line in itertools.groupby(rows, key=lambda r: (r["level"], r["line"])):
        places = list(line)
        yield [r["x"] for r in places], [r["y"] for r in places]


def _finish_residuals(axis: Axes, label: str, noisy: Sequence[Row]) -> None:
    band = max(half_widths([{**r, "stderr": 1.0} for r in noisy]))
    axis.axhspan(-band, band, color="#eeeeee", zorder=0)
    axis.axhline(0, color="#777777", linewidth=1)
    axis.set_xlabel(label)
    axis.set_ylabel("difference / its standard error")
    sizes = [abs(v) * 1.1 for line in axis.lines for v in np.asarray(line.get_ydata())]
    reach = max([3.0, 1.1 * band, *filter(math.isfinite, sizes)])
    axis.set_ylim(-reach, reach)


def _figure_caption(claim: Claim, spec: Curves, points: Sequence[Row]) -> str:
    """Sample counts and the parameters that all points share."""
    tables = [json.loads(r["parameters"]) for r in points]
    fixed = {
        name: value
        for name, value in tables[0].items()
        if all(t.get(name) == value for t in tables)
        and name not in (spec.x, spec.series, spec.panel)
    }
    if any(r["stderr"] > 0 for r in points):
        trials = sorted({int(r["trials"]) for r in points})
        count = f"{trials[0]}" if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
        measured = f"mean of {count} trials with 95 % interval"
    else:
        measured = "exact evaluation"
    known = {p.name: p for p in (*claim.ignored, *claim.parameters)}
    named = ", ".join(
        name_and_value(known.get(name), name, value)
        for name, value in fixed.items()
        if not _says_nothing(name, value)
    )
    text = "; ".join(filter(None, [f"lines: theory; points: {measured}", named]))
    return f"{text}\n{spec.caption}" if spec.caption else text


def _says_nothing(name: str, value: Any) -> bool:
    """Whether these are shifts of nothing, or their equal weights."""
    if name == "shifts":
        return not np.any(np.asarray(value, np.float64))
    return name == "shift_weights" and len(set(np.ravel(value))) == 1


def _with_count(points: Sequence[Row], what: str) -> str:
    """How many trials stand behind the points, of which a fit joins several."""
    least = min((point_trials(r) for r in points if r["stderr"] > 0), default=math.inf)
    return f"means of at least {least:.0f} trials; {what}" if math.isfinite(least) else what


def _axis_label(pattern: str, value: Any) -> str:
    return pattern.format(value=format_value(value))


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _distinct_entries(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(r[name] for r in rows))
