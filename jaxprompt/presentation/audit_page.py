"""The page of an audit: maps of layers by heads, a verdict for each layer, and what it says.

Everything is in one file and is drawn as SVG here: the page needs no script, no server and no host.
It is made from the audit as plain values, as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.presentation.html_tables import render_template

__all__ = ["COLUMNS", "audit_page", "describe_model", "table_rows"]

COLUMNS = (
    "layer", "verdict", "identity / allowed", "α mean", "see it", "rank", "directions", "constant",
    "plain, same places", "plain, from 0",
)  # fmt: skip
"""Heads of the table's columns, explained on the page and in docs/own_model.md."""

MAPS = (
    ("mass", "attention that goes to the prefix, α", "mean over the queries of each head"),
    ("constant", "what a constant bias would do", "share of the prefix's effect on each head"),
)

MOST_ROWS = 60
"""Rows of a map with names beside them; with more only every so many are named."""


def describe_model(model: Mapping[str, Any]) -> str:
    """One line: the model, its adapter and what it read."""
    size = model["parameters"]
    unit, name = next(u for u in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if size >= u[0])
    return (
        f"{model['folder']}: {model['model_type']}, {size / unit:.3g}{name} parameters in "
        f"{model['precision']}; "
        f"{model['adapter']}; {model['text']}"
    )


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of texts for each layer."""
    return [_table_row(layer) for layer in report["layers"]]


def _table_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    identities = (layer["pattern_identity"], layer["output_identity"])
    worst = max(identities, key=_times_allowed)
    bias = layer["bias"]
    return (
        layer["name"],
        layer["status"],
        f"{_brief(worst['value'])} / {_brief(worst['allowed'])}",
        _share(layer["mass"]["mean"]),
        _share(layer["share_seeing"]),
        f"{bias['rank']} of {bias['bound']}",
        "–" if bias["effective_rank"] is None else f"{bias['effective_rank']:.1f}",
        _share(layer["constant_share"]),
        _comparison(layer["same_positions"]),
        _comparison(layer["shifted_positions"]),
    )


def _times_allowed(deviation: Mapping[str, Any]) -> float:
    if deviation["value"] is None:
        return math.inf
    return deviation["value"] / deviation["allowed"]


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" if value >= 0.095 or value == 0 else f"{100 * value:.2g} %"


def _comparison(comparison: Mapping[str, Any] | None) -> str:
    """Equal or not where theory says, else how far attention has moved."""
    if comparison is None:
        return "–"
    if comparison["equal"] is None:
        return f"moved {_share(comparison['distance'])}"
    return "equal" if comparison["equal"] else f"off by {comparison['largest']:.2g}"


def audit_page(report: Mapping[str, Any]) -> str:
    """The page as HTML. `report` is an audit's `to_dict` with an `environment`."""
    layers = report["layers"]
    values = {
        "mass": [layer["mass"]["by_head"] for layer in layers],
        "constant": [layer["constant_share_by_head"] for layer in layers],
    }
    names = [layer["name"] for layer in layers]
    return render_template(
        "audit",
        report=report,
        title=describe_model(report["model"]),
        columns=COLUMNS,
        rows=list(zip(table_rows(report), layers, strict=True)),
        maps=[
            {"title": title, "note": note, **_map(values[name], names)}
            for name, title, note in MAPS
        ],
        curves=[curve for curve in (_by_length(layers), _by_prefix_length(layers)) if curve],
        marks={"confirmed": "✓", "refuted": "✗", "inconclusive": "?", "failed": "!"},
    )


# --- drawings, as numbers for the template ---


def _map(values: Sequence[Sequence[float | None]], names: Sequence[str]) -> dict[str, Any]:
    """Cells of layers by heads, with the number of each for its title."""
    heads = max((len(row) for row in values), default=0)
    height = 18 if len(values) <= MOST_ROWS else 8
    width = max(6, min(26, 560 // max(heads, 1)))
    every = 1 if len(values) <= MOST_ROWS else math.ceil(len(values) / MOST_ROWS * 2)
    left = 8 + 7 * max((len(name) for name in names), default=0)
    cells = [
        {
            "x": left + column * width, "y": 22 + row * height, "share": value,
            "title": f"{names[row]}, head {column}: {_share(value)}",
        }
        for row, line in enumerate(values)
        for column, value in enumerate(line)
    ]  # fmt: skip
    labels = [
        {"y": 22 + row * height + height - 5, "text": name}
        for row, name in enumerate(names)
        if row % every == 0
    ]
    step = max(1, math.ceil(heads / 16))
    ticks = [{"x": left + (h + 0.5) * width, "text": str(h)} for h in range(0, heads, step)]
    return {
        "cells": cells, "labels": labels, "ticks": ticks, "left": left, "cell_width": width,
        "cell_height": height, "width": max(left + heads * width + 8, 320),
        "height": 30 + len(values) * height,
    }  # fmt: skip


def _by_length(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    return _curve(
        [layer["mass"]["by_length"] for layer in layers],
        "α against the content positions that a query sees",
        "content positions seen",
    )


def _by_prefix_length(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    return _curve(
        [layer["mass"]["by_prefix_length"] for layer in layers],
        "α if only the first vectors of the prefix were there",
        "prefix vectors",
    )


def _curve(series: Sequence[Sequence[Any]], title: str, label: str) -> dict[str, Any] | None:
    """Lines from 0 to 1 over a logarithmic axis, first layer light and last layer dark."""
    largest = max((point[0] for line in series for point in line), default=1)
    if largest < 2 or all(len(line) < 2 for line in series):
        return None
    left, right, top, bottom = 44, 430, 10, 190

    def place(count: float, share: float) -> str:
        x = left + (right - left) * math.log(max(count, 1)) / math.log(largest)
        return f"{x:.1f} {bottom - (bottom - top) * share:.1f}"

    lines = [
        {
            "path": "M" + "L".join(place(x, y) for x, y in line if y is not None),
            "depth": row / max(len(series) - 1, 1),
        }
        for row, line in enumerate(series)
        if len(line) > 1
    ]
    powers = [2**k for k in range(int(math.log2(largest)) + 1)]
    ticks = [
        {"x": left + (right - left) * math.log(n) / math.log(largest), "text": str(n)}
        for n in powers[:: max(1, len(powers) // 6)]
    ]
    levels = (0, 0.25, 0.5, 0.75, 1)
    shares = [{"y": bottom - (bottom - top) * s, "text": f"{100 * s:.0f} %"} for s in levels]
    return {"title": title, "label": label, "lines": lines, "ticks": ticks, "shares": shares}
