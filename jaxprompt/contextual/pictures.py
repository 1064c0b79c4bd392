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
    panels: Sequence[tuple[str, str, Callable[[Row], str]]], words: Mapping[str, str]
) -> Callable[[Claim, Verdict, Any], list[Panel]]:
    """Panels of bars: what was measured, with the limits that the rows keep it to.

    Each of `panels` is a title, the vertical axis, and a function that gives the bar which a row
    belongs to (``""``: none). `words` says what a limit on each side is, by ``"upper"`` and
    ``"lower"``.
    """

    def make(claim: Claim, verdict: Verdict, key: Any) -> list[Panel]:
        made: list[Panel] = []
        for title, y_label, name_of in panels:
            rows = [(name, row) for row in verdict.rows if (name := name_of(row))]
            if not rows:
                continue
            names = list(dict.fromkeys(name for name, _ in rows))
            measured = dict(reversed(rows))
            bars = [measured[name] for name in names]
            marks = [
                Mark("bars", range(len(bars)), [row.simulated for row in bars],
                     half=[row.half_width for row in bars], label="measured")
            ]  # fmt: skip
            for colour, (side, label) in enumerate(words.items(), 1):
                limits = [(names.index(n), r.predicted) for n, r in rows if r.side == side]
                if limits:
                    places, heights = zip(*limits, strict=True)
                    marks.append(Mark("limit", places, heights, label=label, colour=colour))
            made.append(Panel(marks, title, y_label=y_label, x_names=names))
        return made

    return make
