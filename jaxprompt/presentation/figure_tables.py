"""The numbers behind a claim's figure, as plain tables: one row a point or a place on a line.

Tables are made here, stored by :mod:`jaxprompt.presentation.table_files` and drawn by
:mod:`jaxprompt.presentation.plot`, so a figure can always be redrawn from what was stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from contourpy import contour_generator

from jaxprompt.core.claim import (
    Agreement,
    Cell,
    Claim,
    Curves,
    Evidence,
    Panels,
    Regions,
    Verdict,
)
from jaxprompt.core.figures import parameters_of_line, predicted_line
from jaxprompt.core.json_values import canonical
from jaxprompt.core.relation import Relation
from jaxprompt.errors import NumericalError
from jaxprompt.presentation.evidence import evidence_tables, fit_tables
from jaxprompt.presentation.panels import panels_to_tables
from jaxprompt.presentation.wording import count_trials

__all__ = ["FigureTables", "figure_needs_verdict", "figure_tables"]

Row = dict[str, Any]
Progress = Callable[[int, int], None] | None


class FigureTables(NamedTuple):
    """`points` were measured, `lines` come from the closed form.

    `fits` and `fit_lines` are what the check read a limit from, shown beside the curves; `axes` are
    the panels of a figure that is made of marks.
    """

    points: list[Row]
    lines: list[Row]
    fits: Sequence[Row] = ()
    fit_lines: Sequence[Row] = ()
    axes: Sequence[Row] = ()


def figure_needs_verdict(claim: Claim) -> bool:
    """Whether the claim's figure shows what its check measured, and so needs the verdict."""
    if isinstance(claim.figure, Curves):
        return claim.figure.design is None or _shows_fit(claim)
    if isinstance(claim.figure, Panels):
        return claim.figure.needs_check
    return claim.figure is not None


def _shows_fit(claim: Claim) -> bool:
    """Whether the extrapolation of a limit stands beside the claim's curves."""
    return claim.relation is Relation.ASYMPTOTIC and claim.compare is None


def figure_tables(
    claim: Claim, verdict: Verdict | None, key: jax.Array, progress: Progress = None
) -> FigureTables | None:
    """Measure what the claim's figure needs beyond its check; None if it has no figure.

    Figures of agreement, of regions, and curves without a design of their own show what `verdict`
    holds (:func:`figure_needs_verdict`); the others do not need one.
    """
    if figure_needs_verdict(claim) and verdict is None:
        raise ValueError(f"{claim.id}: this figure needs the check's verdict")
    if isinstance(claim.figure, Curves):
        cells = _curve_cells(claim, claim.figure, verdict, key, progress)
        points, lines = (
            _measured_points(claim.figure, cells),
            list(_curve_lines(claim, claim.figure, cells)),
        )
        if verdict is None or not _shows_fit(claim):
            return FigureTables(points, lines)
        fits, fit_lines = fit_tables(claim, claim.figure.y, verdict)
        return FigureTables(points, lines, fits, fit_lines)
    if isinstance(claim.figure, Panels):
        points, lines, axes = panels_to_tables(claim.figure.make(claim, verdict, key))
        return FigureTables(points, lines, axes=axes)
    if verdict is None:
        return None
    if isinstance(claim.figure, Regions):
        return FigureTables(*_regions_tables(claim, claim.figure, verdict))
    if isinstance(claim.figure, Evidence):
        return FigureTables(*evidence_tables(claim, claim.figure, verdict))
    if isinstance(claim.figure, Agreement):
        return FigureTables(_agreement_tables(claim.figure, verdict), [])
    return None


def _curve_cells(
    claim: Claim, spec: Curves, verdict: Verdict | None, key: jax.Array, progress: Progress
) -> list[Cell]:
    if spec.design is not None:
        return list(claim.measure_design(spec.design, key, progress))
    assert verdict is not None  # figure_tables refuses otherwise
    return [cell for cell in verdict.cells if spec.y in cell.estimates]


def _agreement_tables(spec: Agreement, verdict: Verdict) -> list[Row]:
    return [
        {
            "quantity": row.quantity,
            "predicted": row.predicted,
            "simulated": row.simulated,
            "stderr": float(np.hypot(row.stderr, row.predicted_stderr)),
            "trials": count_trials(row, verdict.cells),
            "verdict": row.verdict.value,
            "note": row.note,
            "parameters": canonical(row.parameters),
        }
        for row in verdict.rows
        if not spec.quantities or row.quantity in spec.quantities
    ]


def _regions_tables(claim: Claim, spec: Regions, verdict: Verdict) -> tuple[list[Row], list[Row]]:
    """Measured values of each panel's cells, and the lines on which the closed form turns."""
    points: list[Row] = []
    lines: list[Row] = []
    for panel, fixed, quantity in spec.panels:
        cells = [
            cell
            for cell in verdict.cells
            if all(cell.parameters.get(name) == value for name, value in fixed.items())
        ]
        points += [
            {
                "panel": panel,
                "x": float(cell.parameters[spec.x]),
                "y": float(cell.parameters[spec.y]),
                "value": float(cell.estimates[quantity].mean),
                "parameters": canonical(cell.parameters),
            }
            for cell in cells
        ]
        grid = np.meshgrid(spec.x_lines, spec.y_lines)
        others = {n: v for n, v in cells[0].parameters.items() if n not in (spec.x, spec.y)}
        values = _predicted_map(claim, spec, others, *grid, quantity)
        lines += [{"panel": panel, **place} for place in _contours(spec, values)]
    return points, lines


def _contours(spec: Regions, values: np.ndarray) -> Iterator[Row]:
    """Places of the lines on which a gridded value passes a level, line by line."""
    contours = contour_generator(spec.x_lines, spec.y_lines, values)
    for level in spec.levels:
        for number, line in enumerate(contours.lines(level)):
            for x, y in np.asarray(line).tolist():
                yield {"level": level, "line": number, "x": x, "y": y}


def _predicted_map(
    claim: Claim, spec: Regions, others: Mapping[str, Any], x: np.ndarray, y: np.ndarray,
    quantity: str,
) -> np.ndarray:  # fmt: skip
    """Closed form on a grid, NaN where it has no number; in one call where the claim says that it
    takes arrays."""
    if claim.broadcasts:
        with contextlib.suppress(NumericalError):  # at one place: each by itself then
            return np.asarray(claim.predict(**{**others, spec.x: x, spec.y: y})[quantity])
    values = np.full(x.shape, np.nan)
    for place in np.ndindex(*x.shape):
        with contextlib.suppress(NumericalError):
            at = {**others, spec.x: float(x[place]), spec.y: float(y[place])}
            values[place] = float(claim.predict(**at)[quantity])
    return values


def _measured_points(spec: Curves, cells: list[Cell]) -> list[Row]:
    rows = []
    for cell in cells:
        estimate = cell.estimates[spec.y]
        rows.append(
            {
                "x": float(cell.parameters[spec.x]),
                "y": float(estimate.mean),
                "stderr": float(estimate.stderr),
                "trials": estimate.trials,
                "series": cell.parameters[spec.series] if spec.series else "",
                "panel": cell.parameters[spec.panel] if spec.panel else "",
                "parameters": canonical(cell.parameters),
            }
        )
    return rows


def _curve_lines(claim: Claim, spec: Curves, cells: list[Cell]) -> Iterator[Row]:
    """Closed form along `spec.lines` for each curve; marks and extra lines once for each panel."""
    drawn: set[str] = set()
    limit = spec.series in ("", claim.size)  # one line serves the whole panel
    for cell in cells:
        others = parameters_of_line(claim, spec, cell.parameters)
        if canonical(others) in drawn:
            continue
        drawn.add(canonical(others))
        panel = cell.parameters[spec.panel] if spec.panel else ""
        label = spec.limit_label if limit else ""
        headings = {"panel": panel, "label": label}
        if not limit:
            headings["series"] = cell.parameters[spec.series]
        for x, y in zip(spec.lines, predicted_line(claim, spec, others)[0], strict=True):
            yield {**headings, "kind": "theory", "x": float(x), "y": y}
        marks = claim.predict(**{**others, spec.x: spec.lines[0]}) if spec.marks else {}
        for quantity, text in spec.marks.items():
            yield {**headings, "kind": "mark", "x": float(marks[quantity]), "y": 0.0, "label": text}
        shared = {n: v for n, v in others.items() if n != spec.series}
        if spec.extra and f"extra {canonical(shared)}" not in drawn:
            drawn.add(f"extra {canonical(shared)}")
            for line in spec.extra:
                for x in line.at or spec.lines:
                    y = line.function(x, **shared)
                    yield {
                        "panel": panel,
                        "label": line.label,
                        "kind": "extra",
                        "x": float(x),
                        "y": y,
                    }
