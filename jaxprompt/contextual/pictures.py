"""What figures of the family show, as data: quantities against the samples, and bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.core.claim import Claim, Mark, Panel, Verdict
from jaxprompt.core.json_values import canonical
from jaxprompt.stats import Row

__all__ = ["along_samples", "bars_of_rows"]

_REACH = 4.0
"""How far a curve goes below and above the samples that were measured, as a factor."""

_PLACES = 15


def along_samples(
    panels: Sequence[tuple[str, str, Mapping[str, str]]],
    words: Callable[[Mapping[str, Any]], str],
) -> Callable[[Claim, Verdict, Any], list[Panel]]:
    """Panels of the closed form against n/d, with what the check measured.

    Each of `panels` is a title, the vertical axis, and words by quantity. `words` names a setting
    from its parameters; settings differ in more than dimension and samples.
    """

    def make(claim: Claim, verdict: Verdict, key: Any) -> list[Panel]:
        settings: dict[str, list[Any]] = {}
        for row in verdict.rows:
            settings.setdefault(canonical(_setting(row.parameters)), []).append(row)
        made: list[Panel] = []
        for title, y_label, quantities in panels:
            marks: list[Mark] = []
            for colour, rows in enumerate(settings.values()):
                marks += _marks(claim, rows, quantities, words(rows[0].parameters), colour)
            made.append(Panel(marks, title, "samples / dimension", y_label, log_x=True))
        return made

    return make


def _setting(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in parameters.items() if n not in ("dim", "samples")}


def _marks(
    claim: Claim, rows: Sequence[Any], quantities: Mapping[str, str], words: str, colour: int
) -> list[Mark]:
    ratios = [row.parameters["samples"] / row.parameters["dim"] for row in rows]
    dim = max(row.parameters["dim"] for row in rows)
    low, high = max(min(ratios) / _REACH, 1 / dim), max(ratios) * _REACH
    samples = np.unique(np.round(dim * np.geomspace(low, high, _PLACES))).astype(int)
    setting = {**rows[0].parameters, "dim": dim}
    curve = [claim.predict(**{**setting, "samples": int(n)}) for n in samples]
    marks: list[Mark] = []
    for name, meaning in quantities.items():
        shown = [row for row in rows if row.quantity == name]
        label = ", ".join(filter(None, [words, meaning]))
        line = [float(numbers[name]) for numbers in curve]
        marks += [
            Mark("line", samples / dim, line, label=label, colour=colour),
            Mark(
                "points",
                [row.parameters["samples"] / row.parameters["dim"] for row in shown],
                [row.simulated for row in shown],
                half=[row.half_width for row in shown],
                colour=colour,
            ),
        ]
    return marks


def bars_of_rows(
    bar_of: Callable[[Row], tuple[str, str, str] | None], words: Mapping[str, str]
) -> Callable[[Claim, Verdict, Any], list[Panel]]:
    """Panels of bars: what was measured, with the limits that the rows keep it to.

    `bar_of` gives the panel's title, its vertical axis and the bar's name of a row, or None for a
    row that is not shown. Rows of the same name at other parameters have a bar of their own.
    `words` says what a limit on each side is, by ``"upper"`` and ``"lower"``.
    """

    def make(claim: Claim, verdict: Verdict, key: Any) -> list[Panel]:
        bars_by_panel: dict[tuple[str, str], dict[tuple[str, str], list[Row]]] = {}
        for row in verdict.rows:
            bar = bar_of(row)
            if bar is not None:
                title, y_label, name = bar
                bars = bars_by_panel.setdefault((title, y_label), {})
                bars.setdefault((name, canonical(row.parameters)), []).append(row)
        return [
            _bars(bars, words, title, y_label) for (title, y_label), bars in bars_by_panel.items()
        ]

    return make


def _bars(
    bars: Mapping[tuple[str, str], Sequence[Row]], words: Mapping[str, str], title: str,
    y_label: str,
) -> Panel:  # fmt: skip
    """One panel: the rows of a bar share what was measured, and each has its limit."""
    first = [rows[0] for rows in bars.values()]
    marks = [
        Mark("bars", range(len(first)), [row.simulated for row in first],
             half=[row.half_width for row in first], label="measured")
    ]  # fmt: skip
    for colour, (side, label) in enumerate(words.items(), 1):
        limits = [
            (place, row.predicted)
            for place, rows in enumerate(bars.values())
            for row in rows
            if row.side == side
        ]
        if limits:
            places, heights = zip(*limits, strict=True)
            marks.append(Mark("limit", places, heights, label=label, colour=colour))
    return Panel(marks, title, y_label=y_label, x_names=[name for name, _ in bars])
