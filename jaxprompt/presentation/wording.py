"""Numbers, parameters and rows of a verdict in words, one wording for terminal, page and notebook.

A row is a plain dict, as :meth:`~jaxprompt.core.verdict.Verdict.to_dict` gives it; numbers that
are not finite are None there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.core.claim import Cell, Verdict
from jaxprompt.core.json_values import canonical

__all__ = [
    "by_strength_of_evidence",
    "count_trials",
    "describe_row",
    "describe_verdict",
    "describe_worst_row",
    "format_number",
    "format_parameters",
]


def format_number(value: Any) -> str:
    """A number in a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4f}"
    return str(value)


def format_parameters(values: Mapping[str, Any]) -> str:
    """Parameters in a table: names and short values."""
    return ", ".join(f"{name} {_short_value(value)}" for name, value in values.items())


def _short_value(value: Any) -> str:
    if isinstance(value, list):
        text = "[" + ", ".join(map(_short_value, value)) + "]"
        return text if len(text) <= 48 else text[:47] + "…"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_row(row: Mapping[str, Any]) -> str:
    """What a row found: the two numbers, and how far apart they are."""
    measured, predicted = row["simulated"], row["predicted"]
    if measured is None or predicted is None:
        return f"{_brief(measured)} measured, {_brief(predicted)} predicted"
    bound = {"upper": "at most", "lower": "at least"}.get(row.get("side", "two"))
    if bound:
        return f"{_brief(measured)} measured, {bound} {_brief(predicted)} predicted"
    difference = abs(measured - predicted)
    if difference == 0:
        return f"{_brief(measured)} measured as predicted"
    both = f"{_brief(measured)} measured, {_brief(predicted)} predicted"
    error = math.hypot(row["stderr"] or 0.0, row["predicted_stderr"] or 0.0)
    if not _is_exact(row) and error > 0:
        return f"{both}, {_brief(difference / error, 2)} standard errors apart"
    tolerance = row["tolerance"]
    allowed = "none" if not tolerance else _brief(tolerance, 2)
    return f"{both}: they differ by {_brief(difference, 2)}, {allowed} allowed"


def _is_exact(row: Mapping[str, Any]) -> bool:
    """Whether a row has no sampling error; reports of earlier versions say it by a zero."""
    return row.get("exact", not (row["stderr"] or row["predicted_stderr"]))


def _brief(value: float | None, digits: int = 4) -> str:
    """A number in a sentence."""
    return "no number" if value is None else f"{value:.{digits}g}".replace("-", "−")


def describe_verdict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values: rows with their trials, and the index of the row that decided.

    That index, ``"worst"``, is what the terminal, the page and the JSON agree on; None where there
    is no such row.
    """
    fields = verdict.to_dict()
    for row, plain in zip(verdict.rows, fields["rows"], strict=True):
        plain["trials"] = plain.get("trials") or count_trials(row, verdict.cells)
    worst = verdict.worst
    fields["worst"] = next((i for i, row in enumerate(verdict.rows) if row is worst), None)
    return fields


def describe_worst_row(entry: Mapping[str, Any]) -> str:
    """The row that decided, of what :func:`describe_verdict` gave; "" where there is none."""
    worst = entry.get("worst")
    if worst is None:
        return ""
    row = entry["rows"][worst]
    return f"{row['quantity']}: {describe_row(row)}"


def by_strength_of_evidence(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Sorts the rows that say most against a claim first."""
    p, statistic = row["p_value"], row["statistic"]
    return (-1.0 if p is None else p, -math.inf if statistic is None else -abs(statistic))


def count_trials(row: Any, cells: Sequence[Cell]) -> int:
    """Fewest trials of the cells that a row was made from; 0 without sampling error.

    A fit joins several cells: what it runs over stands in the row's parameters as the list of its
    values. A row that names no cell's parameters counts as made from all.
    """
    if (not row.stderr and not row.predicted_stderr) or not cells:
        return 0
    joined = [cell for cell in cells if _speaks_of(row.parameters, cell.parameters)] or cells
    return min(
        (
            int(estimate.trials)
            for cell in joined
            for name, estimate in cell.estimates.items()
            if name == row.quantity or row.quantity not in cell.estimates
        ),
        default=0,
    )


def _speaks_of(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    return all(_includes(row[name], cell[name]) for name in row.keys() & cell.keys())


def _includes(named: Any, value: Any) -> bool:
    """Whether a row's value, or one of those it runs over, is a cell's; values may be arrays."""
    values = [named, *(named if isinstance(named, list | tuple) else ())]
    return canonical({"": value}) in [canonical({"": each}) for each in values]
