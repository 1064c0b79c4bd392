"""The picture that belongs to each kind of comparison, made from what a check measured.

A limit shows its fit over the inverse size, a rate its line on logarithmic axes, a function of an
axis its simultaneous band, a distribution its distribution function, an identity or a bound both
sides on every draw, and anything else measured beside predicted values. Tables are made here from a
verdict (:func:`evidence_tables`) and drawn from tables alone (:func:`draw_evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats as sps

from jaxprompt.core.claim import Claim, Evidence, Verdict
from jaxprompt.core.instances import evaluate_on_instances
from jaxprompt.core.json_values import canonical
from jaxprompt.core.quantities import Distribution, Quantity
from jaxprompt.core.relation import Relation
from jaxprompt.presentation.canvas import (
    LINE_STYLES,
    MARKERS,
    PAGE_WIDTH,
    add_legend_and_caption,
    add_title_and_caption,
    curve_colour,
    format_value,
    new_figure,
    plain_log_ticks,
)
from jaxprompt.stats import Row, half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_evidence", "draw_fit", "evidence_tables", "fit_tables"]

TableRow = dict[str, Any]

MOST_POINTS = 400
"""Points or steps that one series of a panel has; of more draws these are spread evenly."""


# --- tables ---


def evidence_tables(
    claim: Claim, spec: Evidence, verdict: Verdict
) -> tuple[list[TableRow], list[TableRow]]:
    """Points that were measured, and lines of the theory and of fits, one panel a quantity."""
    points: list[TableRow] = []
    lines: list[TableRow] = []
    for name in spec.quantities or tuple(dict.fromkeys(row.quantity for row in verdict.rows)):
        rows = [row for row in verdict.rows if row.quantity == name]
        if not rows:
            continue
        kind, tables = _kind_of(claim, claim.quantity(name), verdict)
        made = tables(claim, name, rows, verdict)
        for target, entries in zip((points, lines), made, strict=True):
            target += [{"panel": name, "kind": kind, **entry} for entry in entries]
    return points, lines


Tables = Callable[
    [Claim, str, Sequence[Row], Verdict], tuple[Sequence[TableRow], Sequence[TableRow]]
]


def _kind_of(claim: Claim, quantity: Quantity, verdict: Verdict) -> tuple[str, Tables]:
    """The kind of picture of a quantity, and what makes its tables."""
    if any(row.fit for row in verdict.rows if row.quantity == quantity.name):
        rate = claim.relation is Relation.RATE
        return ("rate" if rate else "limit"), _fit_tables
    if claim.instance is not None:
        return "sides", _both_sides
    cells = [cell for cell in verdict.cells if quantity.name in cell.estimates]
    if cells and _predicts_distribution(claim, quantity.name, cells[0].parameters):
        return "distribution", _distribution_tables
    if cells and np.ndim(cells[0].estimates[quantity.name].mean) == 1:
        return "function", _function_tables
    return "values", _value_tables


def _predicts_distribution(claim: Claim, name: str, parameters: Mapping[str, Any]) -> bool:
    return isinstance(_predict_at_cell(claim, parameters).get(name), Distribution)


def _predict_at_cell(claim: Claim, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The closed form at a cell, whose parameters of the simulation alone it does without."""
    predicting = {p.name for p in claim.parameters if not p.simulate_only}
    return claim.predict(**{n: v for n, v in parameters.items() if n in predicting})


def _varying(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the parameters that differ between points."""
    names = dict.fromkeys(name for table in tables for name in table)
    return [n for n in names if len({canonical({"": t.get(n)}) for t in tables}) > 1]


def _label(parameters: Mapping[str, Any], names: Sequence[str]) -> str:
    """What tells a point from the others, in words; what it leaves out or has as a list is not."""
    values = {n: parameters.get(n) for n in names}
    shown = {n: v for n, v in values.items() if v is not None and np.ndim(v) == 0}
    return ", ".join(f"{n} {format_value(v)}" for n, v in shown.items())


def fit_tables(
    claim: Claim, name: str, verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """Points and lines of the fits from which the check read a quantity's limits or exponents."""
    rows = [row for row in verdict.rows if row.quantity == name and row.fit]
    return _fit_tables(claim, name, rows, verdict)


def _fit_tables(
    claim: Claim, name: str, rows: Sequence[Row], verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """A limit's differences from the prediction with their fits; a rate's measured means."""
    points: list[TableRow] = []
    lines: list[TableRow] = []
    names = [n for n in _varying([row.parameters for row in rows]) if n != claim.size]
    powers = [row.fit.power for row in rows if row.fit]
    # Rows whose correction was fitted may have several powers; one axis serves them all.
    power = max(dict.fromkeys(powers), key=powers.count)
    for row in rows:
        if row.fit is None:
            continue
        fit, series = row.fit, _label(row.parameters, names)
        measured = zip(fit.sizes, fit.values, fit.stderrs, fit.dofs, strict=True)
        points += [
            {"series": series, "role": "measured", "size": size, "x": _axis_value(size, power),
             "y": y, "half": float(half_width(error, dof)), "note": ""}
            for size, y, error, dof in measured
        ]  # fmt: skip
        lines += [
            {"series": series, "role": "fit", "x": _axis_value(size, power), "y": y}
            for size, y in zip(fit.line_sizes, fit.line_values, strict=True)
        ]
        if power is None:
            ends = (0, -1)
            x, y = ([math.log(v[end]) for end in ends] for v in (fit.line_sizes, fit.line_values))
            centre = sum(y) / 2 - row.predicted * sum(x) / 2
            lines += [
                {"series": series, "role": "theory", "x": math.exp(v),
                 "y": math.exp(centre + row.predicted * v)}
                for v in x
            ]  # fmt: skip
            measured_text = f"{row.simulated:.3f} ± {row.stderr:.3f}"
            points[-1]["note"] = f"exponent {measured_text}, predicted {row.predicted:g}"
        else:
            half = float(half_width(row.stderr, min(fit.dofs)))
            points.append(
                {"series": series, "role": "limit", "size": math.inf, "x": 0.0,
                 "y": row.simulated - row.predicted, "half": half, "note": ""}
            )  # fmt: skip
            lines.append({"series": series, "role": "tolerance", "x": 0.0, "y": row.tolerance})
    return points, lines


def _axis_value(size: float, power: float | str | None) -> float:
    """Where a size stands on the axis of a fit: for a limit infinite size is 0."""
    if power is None:
        return size
    if isinstance(power, str):
        return 1 / math.log(size)
    return size**-power


def _both_sides(
    claim: Claim, name: str, rows: Sequence[Row], verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """Left against right on the draws of every cell, of arrays the numbers that differ most."""
    points: list[TableRow] = []
    cells = [cell for cell in verdict.cells if name in cell.estimates and cell.instances]
    names = _varying([cell.parameters for cell in cells])
    for cell in cells:
        values = claim.validated(dict(cell.parameters))
        right = evaluate_on_instances(claim.closed_form, values, cell.instances)[name].values
        left = np.asarray(cell.estimates[name].values, np.float64)
        if right.ndim < left.ndim:
            right = right.reshape(right.shape + (1,) * (left.ndim - right.ndim))
        left, right = (s.reshape(len(left), -1) for s in np.broadcast_arrays(left, right))
        worst = np.argmax(np.abs(left - right), axis=1)[:, None]
        left, right = (np.take_along_axis(side, worst, axis=1)[:, 0] for side in (left, right))
        shown = _spread_indices(len(left), int(np.argmax(np.abs(left - right))))
        series = _label(cell.parameters, names)
        points += [
            {"series": series, "role": "draw", "x": float(right[i]), "y": float(left[i])}
            for i in shown
        ]
    reach = [v for p in points for v in (p["x"], p["y"]) if math.isfinite(v)] or [0.0]
    ends = (min(reach), max(reach))
    note = "; ".join(dict.fromkeys(row.note for row in rows))
    return points, [{"series": "", "role": "theory", "x": v, "y": v, "note": note} for v in ends]


def _spread_indices(count: int, always: int) -> list[int]:
    """Indices of at most :data:`MOST_POINTS` draws, spread evenly, with one that must be shown."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    return sorted({*chosen.tolist(), always})


def _distribution_tables(
    claim: Claim, name: str, rows: Sequence[Row], verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """Empirical distribution functions of trials, and the predicted ones on the same range."""
    points: list[TableRow] = []
    lines: list[TableRow] = []
    cells = [cell for cell in verdict.cells if name in cell.estimates]
    names = _varying([cell.parameters for cell in cells])
    for cell in cells:
        values = np.sort(np.asarray(cell.estimates[name].values, np.float64).ravel())
        count, series = len(values), _label(cell.parameters, names)
        band = float(sps.kstwo.isf(0.05, count))
        points += [
            {"series": series, "role": "empirical", "x": float(values[i]),
             "y": (i + 1) / count, "half": band}
            for i in _spread_indices(count, 0)
        ]  # fmt: skip
        law = _predict_at_cell(claim, cell.parameters)[name]
        places = np.linspace(values[0], values[-1], MOST_POINTS // 2)
        if law.cdf is not None:
            heights = np.asarray(law.cdf(places), np.float64)
        else:
            sample = np.sort(law.sampler(np.random.default_rng(20_250_101), 100_000))
            heights = np.searchsorted(sample, places, side="right") / len(sample)
        lines += [
            {"series": series, "role": "theory", "x": float(x), "y": float(y)}
            for x, y in zip(places, heights, strict=True)
        ]
    return points, lines


def _function_tables(
    claim: Claim, name: str, rows: Sequence[Row], verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """A measured function of an axis with its simultaneous band, beside the predicted one."""
    points: list[TableRow] = []
    lines: list[TableRow] = []
    axis = claim.quantity(name).axis
    cells = [cell for cell in verdict.cells if name in cell.estimates]
    names = _varying([cell.parameters for cell in cells])
    for cell in cells:
        estimate = cell.estimates[name]
        mean = np.asarray(estimate.mean, np.float64)
        places = np.asarray(cell.parameters.get(axis, range(len(mean))), np.float64)
        dof = float(np.min(getattr(estimate, "dof", estimate.trials - 1)))
        # Bonferroni: the band holds the whole function with probability 95 %.
        factor = float(half_width(1.0, dof, 1 - 0.05 / len(mean)))
        errors = np.broadcast_to(np.asarray(estimate.stderr, np.float64), mean.shape)
        predicted = np.broadcast_to(_predict_at_cell(claim, cell.parameters)[name], mean.shape)
        series = _label(cell.parameters, [n for n in names if n != axis])
        for x, y, error, theory in zip(places, mean, errors, predicted, strict=True):
            points.append(
                {"series": series, "role": "measured", "x": float(x), "y": float(y),
                 "half": factor * float(error)}
            )  # fmt: skip
            lines.append({"series": series, "role": "theory", "x": float(x), "y": float(theory)})
    return points, lines


def _value_tables(
    claim: Claim, name: str, rows: Sequence[Row], verdict: Verdict
) -> tuple[Sequence[TableRow], Sequence[TableRow]]:
    """Measured beside predicted numbers along the parameter that varies most, or in a row."""
    tables = [row.parameters for row in rows]
    names = _varying(tables)
    numeric = [n for n in names if all(isinstance(t.get(n), int | float) for t in tables)]
    x_name = max(numeric, key=lambda n: len({t[n] for t in tables}), default="")
    others = [n for n in names if n != x_name]
    points: list[TableRow] = []
    lines: list[TableRow] = []
    ordered = sorted(rows, key=lambda r: r.parameters[x_name]) if x_name else list(rows)
    for row_index, row in enumerate(ordered):
        series = _label(row.parameters, others) or (row.note if not x_name else "")
        x = float(row.parameters[x_name]) if x_name else float(row_index)
        points.append(
            {"series": series, "role": "measured", "x": x, "y": row.simulated,
             "half": row.half_width, "along": x_name}
        )  # fmt: skip
        role = {"upper": "at most", "lower": "at least"}.get(row.side, "theory")
        lines.append({"series": series, "role": role, "x": x, "y": row.predicted})
    return points, lines


# --- drawing ---


def draw_evidence(
    claim: Claim, spec: Evidence, points: Sequence[TableRow], lines: Sequence[TableRow]
) -> Figure:
    """One panel a quantity, each of the kind that its comparison has."""
    panels = list(dict.fromkeys(row["panel"] for row in (*points, *lines)))
    width = 4.2 if len(panels) == 1 else PAGE_WIDTH
    figure, axes = new_figure(len(panels), width, 3.1, share=False)
    captions: list[str] = []
    for panel, axis in zip(panels, axes, strict=True):
        shown = [row for row in points if row["panel"] == panel]
        theory = [row for row in lines if row["panel"] == panel]
        draw_panel = _DRAWERS[(shown or theory)[0]["kind"]]
        captions.append(draw_panel(axis, claim, claim.quantity(panel), shown, theory))
        if len(panels) > 1:
            axis.set_title(claim.quantity(panel).meaning)
    text = "; ".join(dict.fromkeys(captions))
    caption = "\n".join([text, spec.caption]).strip()
    shown = [dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True)) for axis in axes]
    if any(list(panel) != list(shown[0]) for panel in shown):
        # Labels that not all panels have may stand for other styles in each.
        for axis, panel in zip(axes, shown, strict=True):
            if panel:
                axis.legend()
        add_title_and_caption(figure, spec.title or claim.title, caption)
    else:
        add_legend_and_caption(figure, spec.title or claim.title, caption, shown[0])
    return figure


def _series_of(rows: Sequence[TableRow]) -> Iterator[tuple[int, str, list[TableRow]]]:
    """Number, label and rows of each series."""
    for number, label in enumerate(dict.fromkeys(row["series"] for row in rows)):
        yield number, label, [row for row in rows if row["series"] == label]


def _plot_points(
    axis: Axes, rows: Sequence[TableRow], number: int, label: str, color: str = ""
) -> None:
    axis.errorbar(
        [r["x"] for r in rows],
        [r["y"] for r in rows],
        yerr=[r["half"] for r in rows],
        label=label or "_",
        color=color or curve_colour(number),
        marker=MARKERS[number % 7],
        linestyle="none",
        markerfacecolor="white",
        capsize=1.5,
        elinewidth=0.8,
        zorder=3,
    )


def _plot_line(axis: Axes, rows: Sequence[TableRow], number: int, label: str, **more: Any) -> None:
    style: dict[str, Any] = {"color": curve_colour(number), "linestyle": LINE_STYLES[number % 7]}
    x, y = [r["x"] for r in rows], [r["y"] for r in rows]
    axis.plot(x, y, label=label or "_", **{**style, **more})


def draw_fit(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    """A limit's differences from theory over the inverse size; at 0 stands what the fit reaches.

    Its series are grey: beside curves the colours stand for something else.
    """
    grey: dict[str, Any] = {"color": "#666666"}
    for number, label, rows in _series_of(points):
        shown = label if label and number < 7 else ""
        _plot_points(axis, [r for r in rows if r["role"] == "measured"], number, shown, **grey)
        fitted = [r for r in lines if r["series"] == label and r["role"] == "fit"]
        _plot_line(axis, fitted, number, "", linewidth=0.9, **grey)
        limits = [r for r in rows if r["role"] == "limit"]
        axis.errorbar(
            [0.0] * len(limits),
            [r["y"] for r in limits],
            yerr=[r["half"] for r in limits],
            marker="_",
            capsize=3,
            linestyle="none",
            zorder=4,
            **grey,
        )
    tolerance = min((r["y"] for r in lines if r["role"] == "tolerance"), default=0.0)
    axis.axhline(0.0, color="#000000", linewidth=1.2, label="theory")
    if tolerance:
        axis.axhspan(-tolerance, tolerance, color="#e8e8e8", zorder=0, label="tolerance")
    labels = {r["x"]: "∞" if r["x"] == 0 else f"{r['size']:g}" for r in points} | {0.0: "∞"}
    ticks = _apart(labels)
    axis.set_xticks(ticks, [labels[tick] for tick in ticks])
    named = next((p for p in claim.parameters if p.name == claim.size), None)
    size = named.meaning if named else claim.size
    axis.set_xlabel(size)
    axis.set_ylabel("measured − limit")
    return "points: means with 95 % interval; lines: fit of the correction; at ∞ its intercept"


def _apart(labels: Mapping[float, str]) -> list[float]:
    """Places of an axis that are far enough from each other to carry their labels.

    Labels are kept from the right, and the one at 0 always.
    """
    reach = max(labels) or 1.0

    def room(first: float, second: float) -> float:
        characters = (len(labels[first]) + len(labels[second])) / 2
        return reach * max(0.08, 0.02 + 0.024 * characters)

    kept: list[float] = []
    for tick in sorted((x for x in labels if x > 0), reverse=True):
        if tick > room(tick, 0.0) and (not kept or kept[-1] - tick > room(tick, kept[-1])):
            kept.append(tick)
    return [0.0, *reversed(kept)]


def _draw_rate(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    for number, label, rows in _series_of(points):
        note = next((r["note"] for r in rows if r.get("note")), "")
        _plot_points(axis, rows, number, ": ".join(filter(None, [label, note])))
        for role, style in (("fit", "-"), ("theory", "--")):
            drawn = [r for r in lines if r["series"] == label and r["role"] == role]
            _plot_line(axis, drawn, number, "", linestyle=style, linewidth=1.0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for which in ("x", "y"):
        plain_log_ticks(axis, which)
    named = next((p for p in claim.parameters if p.name == claim.size), None)
    axis.set_xlabel(named.meaning if named else claim.size)
    axis.set_ylabel(quantity.meaning)
    return "points: means with 95 % interval; solid: fitted slope; dashed: predicted slope"


def _draw_sides(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    bound = claim.relation is Relation.BOUND
    for number, label, rows in _series_of(points):
        axis.plot(
            [r["x"] for r in rows],
            [r["y"] for r in rows],
            label=label or "_",
            color=curve_colour(number),
            marker=MARKERS[number % 7],
            markersize=3,
            linestyle="none",
            alpha=0.6,
        )
    (low, high) = (lines[0]["x"], lines[-1]["x"])
    axis.plot([low, high], [low, high], color="#000000", label="bound" if bound else "equality")
    if bound:
        beyond = low if quantity.side == "lower" else high
        axis.fill_between([low, high], [low, high], beyond, color="#e8e8e8", zorder=0)
        axis.text(
            0.97 if quantity.side == "lower" else 0.03,
            0.03 if quantity.side == "lower" else 0.97,
            "excluded",
            transform=axis.transAxes,
            ha="right" if quantity.side == "lower" else "left",
            va="bottom" if quantity.side == "lower" else "top",
            color="#555555",
        )
    positive = [v for r in points for v in (r["x"], r["y"])]
    if min(positive) > 0 and max(positive) > 100 * min(positive):
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel(f"{'bound on ' if bound else ''}{quantity.meaning}, right side")
    axis.set_ylabel(f"{quantity.meaning}, left side")
    return f"a point a draw; {lines[0]['note']}" if lines[0].get("note") else "a point a draw"


def _draw_distribution(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    for number, label, rows in _series_of(points):
        x, y = [r["x"] for r in rows], np.array([r["y"] for r in rows])
        half = rows[0]["half"]
        axis.fill_between(
            x, np.clip(y - half, 0, 1), np.clip(y + half, 0, 1),
            step="post", color=curve_colour(number), alpha=0.15, linewidth=0,
        )  # fmt: skip
        named = f"{label}: measured" if label else "measured"
        axis.step(x, y, where="post", color=curve_colour(number), label=named, linewidth=0.9)
        theory = [r for r in lines if r["series"] == label]
        _plot_line(axis, theory, 0, "theory" if number == 0 else "", color="#000000", linewidth=1.0)
    axis.set_xlabel(quantity.meaning)
    axis.set_ylabel("probability of at most that")
    return "band: 95 % for the whole distribution function"


def _draw_function(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    for number, label, rows in _series_of(points):
        theory = [r for r in lines if r["series"] == label]
        _plot_line(axis, theory, number, label or "theory")
        _plot_points(axis, rows, number, "")
    named = next((p for p in claim.parameters if p.name == quantity.axis), None)
    axis.set_xlabel(named.meaning if named else quantity.axis)
    axis.set_ylabel(quantity.meaning)
    return "line: theory; bars: 95 % for the whole function"


def _draw_values(
    axis: Axes,
    claim: Claim,
    quantity: Quantity,
    points: Sequence[TableRow],
    lines: Sequence[TableRow],
) -> str:
    along = points[0].get("along", "")
    for number, label, rows in _series_of(points):
        theory = [r for r in lines if r["series"] == label]
        one_sided = theory[0]["role"] if theory[0]["role"] != "theory" else ""
        text = ", ".join(filter(None, [label, one_sided and f"line: {one_sided}"]))
        if along and len(theory) > 1:
            _plot_line(axis, theory, number, text or "theory")
            _plot_points(axis, rows, number, "")
        else:
            axis.plot(
                [r["x"] for r in theory], [r["y"] for r in theory], "_",
                color=curve_colour(number), markersize=14, mew=1.6,
            )  # fmt: skip
            _plot_points(axis, rows, number, text)
    named = next((p for p in claim.parameters if p.name == along), None)
    if not along:
        axis.set_xticks([])
        axis.set_xlim(-0.8, len(points) - 0.2)
    axis.set_xlabel(named.meaning if named else along)
    axis.set_ylabel(quantity.meaning)
    return "lines: theory; points: measured with 95 % interval"


_DRAWERS: Mapping[str, Callable[..., str]] = {
    "limit": draw_fit,
    "rate": _draw_rate,
    "sides": _draw_sides,
    "distribution": _draw_distribution,
    "function": _draw_function,
    "values": _draw_values,
}
