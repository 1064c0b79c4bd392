"""What a claim's figure shows, as data; nothing is drawn here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.json_values import canonical
from jaxprompt.errors import ClaimError, NumericalError, suggest

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.core.designs import Design
    from jaxprompt.core.parameters import Parameter

__all__ = [
    "Agreement",
    "Curves",
    "Evidence",
    "ExtraLine",
    "Figure",
    "Mark",
    "Panel",
    "Panels",
    "Regions",
    "complete_figure",
    "parameters_of_line",
    "predicted_line",
    "words_of_parameter",
]


@dataclass(frozen=True)
class ExtraLine:
    """A reference line, drawn in the panel beside the series.

    ``function(x, **parameters)`` gives one ordinate from the abscissa and a panel's parameters; it
    is called at the abscissas `at`, by default those of the closed form.
    """

    label: str
    function: Callable[..., float]
    at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curves:
    """What a claim's figure shows, as data: lines from the closed form, points from simulation.

    `design` holds the runs measured for the figure alone; without it the figure shows what the
    check measured. The closed form is drawn at the abscissae `lines` (default: along the range of
    `x` in the quick design), for every combination of the other parameters in `design`. `x` and
    `series` and `panel` name parameters, `y` a quantity: one curve for each value of `series`
    (default: the claim's size parameter), one panel for each of `panel`. When `series` is the
    claim's size parameter the limit has one line, labelled `limit_label`. `marks` maps quantities
    of the closed form, drawn as vertical lines at their value, to labels. With `steps` lines keep
    their level around each abscissa, and points stand side by side. Labels are formats of
    ``{value}``; the title and the axes' labels default to the claim's own words.
    """

    x: str
    y: str
    design: Design | None = None
    lines: tuple[float, ...] = ()
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    series: str = ""
    series_label: str = "{value}"
    panel: str = ""
    panel_label: str = "{value}"
    limit_label: str = "limit"
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    steps: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[ExtraLine, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Agreement:
    """A figure of measured against predicted values, one point for each row of the check.

    Where the rows are `limits` to keep to, not values to equal, one line for each row shows both.
    `quantities` names those shown; all if it is empty.
    """

    title: str
    label: str
    limits: bool = False
    quantities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Regions:
    """A figure of what the check measured over a plane of two parameters, and where theory turns.

    `x` and `y` name parameters; each of `panels` is a title, the parameters that single its cells
    out, and a quantity. The closed form is evaluated on the product of `x_lines` and `y_lines`, and
    drawn as the lines on which it passes `levels`.
    """

    x: str
    y: str
    panels: tuple[tuple[str, Mapping[str, Any], str], ...]
    x_lines: tuple[float, ...]
    y_lines: tuple[float, ...]
    levels: tuple[float, ...]
    title: str
    x_label: str
    y_label: str
    value_label: str
    value_range: tuple[float, float]
    log_y: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Evidence:
    """The figure that belongs to the kind of each comparison, one panel a quantity.

    A limit shows its fit over the inverse size, a rate its line on logarithmic axes, a function of
    an axis its simultaneous band, a distribution its distribution function, an identity or a bound
    both sides on every draw, and anything else measured beside predicted values along the
    parameter that varies. `quantities` names the panels (default: all); `title` defaults to the
    claim's.
    """

    title: str = ""
    quantities: tuple[str, ...] = ()
    caption: str = ""


Numbers = Sequence[float] | np.ndarray
"""Numbers along one axis."""


@dataclass(frozen=True)
class Mark:
    """One thing that a panel shows, as plain numbers.

    `kind` is ``"line"`` or ``"step"`` (theory), ``"points"`` (measured, with the half widths `half`
    of their intervals; below alone, where `upper` are the upper ends), ``"bars"`` (measured, from
    0), ``"limit"`` (short lines that bars keep to), ``"band"`` (between `y` and `upper`),
    ``"level"`` (a horizontal line at `y`), ``"vertical"`` (a vertical line at `x`), or ``"map"``
    (`value` at each place (`x`, `y`) of a grid, in colour).
    `colour` numbers the colour, line style and marker that belong together.
    """

    kind: str
    x: Numbers = ()
    y: Numbers = ()
    half: Numbers = ()
    upper: Numbers = ()
    value: Numbers = ()
    label: str = ""
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what it shows, and the words and scales of its axes.

    `x_names` are written at x = 0, 1, … in place of numbers, `y_names` likewise.
    """

    marks: Sequence[Mark]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_names: Sequence[str] = ()
    y_names: Sequence[str] = ()
    value_label: str = ""
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panels:
    """A figure of its own make: ``make(claim, verdict, key)`` returns its panels, as data.

    `verdict` is what the check measured; `key` is for what the figure simulates beside it. Without
    `needs_check` the verdict may be None.
    """

    make: Callable[..., Sequence[Panel]]
    title: str = ""
    caption: str = ""
    needs_check: bool = True
    height: float = 2.9


Figure = Curves | Agreement | Evidence | Panels | Regions


def complete_figure(claim: Claim, figure: Figure) -> Figure:
    """The figure with what it leaves out taken from the claim.

    Raises:
        ClaimError: it names a parameter or a quantity that the claim lacks.
    """
    if isinstance(figure, Curves):
        return _fill_curve_defaults(claim, figure)
    if isinstance(figure, Evidence | Panels) and not figure.title:
        figure = dataclasses.replace(figure, title=claim.title)
    if isinstance(figure, Agreement | Evidence):
        known = [q.name for q in claim.quantities]
        for name in figure.quantities:
            if name not in known:
                raise ClaimError(
                    f"claim {claim.id}: the figure's quantity {name!r} must be one of "
                    f"{', '.join(known)}{suggest(name, known, most=1)}"
                )
    return figure


def _fill_curve_defaults(claim: Claim, spec: Curves) -> Curves:
    """`spec` with what it leaves out taken from the claim; refuses names the claim lacks."""
    known = {p.name: p for p in (*claim.ignored, *claim.parameters)}
    quantities = {q.name: q for q in claim.quantities}
    for what, name, names in (
        ("x", spec.x, known),
        ("series", spec.series, known),
        ("panel", spec.panel, known),
        ("y", spec.y, quantities),
    ):
        if name not in names and (name or what in ("x", "y")):
            raise ClaimError(
                f"claim {claim.id}: the figure's {what} = {name!r} must be one of "
                f"{', '.join(names)}{suggest(name, names, most=1)}"
            )
    x, y = known[spec.x], quantities[spec.y]
    series, panel = _curves_and_panels(claim, spec)
    changes: dict[str, Any] = {
        "lines": spec.lines or _line_positions(claim, spec, x.kind == "integer"),
        "title": spec.title or claim.title,
        "x_label": spec.x_label or x.meaning + (f", ${x.symbol}$" if x.symbol else ""),
        "y_label": spec.y_label or y.meaning,
        "series": series,
        "panel": panel,
    }
    if not series and spec.limit_label == Curves.limit_label:
        changes["limit_label"] = "theory"
    for name, label in ((series, "series_label"), (panel, "panel_label")):
        # A number needs its name beside it; a choice speaks for itself.
        if name and known[name].kind != "choice" and getattr(spec, label) == "{value}":
            changes[label] = f"{words_of_parameter(known[name])} = {{value}}"
    return dataclasses.replace(spec, **changes)


def parameters_of_line(claim: Claim, spec: Curves, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the curve through a point depends on: all but the abscissa, and but the size where the
    closed form is its limit."""
    needed = {p.name for p in claim.parameters if p.is_required and not p.simulate_only}
    left_out = {spec.x, claim.size} - (needed - {spec.x})
    return {name: value for name, value in parameters.items() if name not in left_out}


def predicted_line(
    claim: Claim, spec: Curves, others: Mapping[str, Any]
) -> tuple[list[float], str]:
    """Closed form along `spec.lines` at one set of the other parameters, in one call where the
    claim says that it takes arrays. NaN, and the first reason, where there is no number."""
    kinds = {p.name: p.kind for p in claim.parameters}
    if claim.broadcasts and kinds[spec.x] == "real":
        places = np.asarray(spec.lines, dtype=np.float64)
        with contextlib.suppress(NumericalError):  # at one place: each by itself then
            values = np.asarray(claim.predict(**{**others, spec.x: places})[spec.y])
            if values.shape == places.shape:
                return [float(v) for v in values], ""
    ordinates: list[float] = []
    reason = ""
    for x in spec.lines:
        try:
            ordinates.append(float(claim.predict(**{**others, spec.x: x})[spec.y]))
        except NumericalError as error:
            ordinates.append(math.nan)
            reason = reason or str(error)
    return ordinates, reason


def words_of_parameter(parameter: Parameter) -> str:
    """What a parameter is and its symbol, for a figure's labels: ``token dimension d``."""
    meaning, symbol = parameter.meaning, parameter.symbol
    # Long meanings, and those that hold formulas, are for tables.
    plain = len(meaning) <= 24 and all(c.isalpha() or c == " " for c in meaning)
    if "_" in symbol or "\\" in symbol:
        symbol = f"${symbol}$"
    return f"{meaning if plain else parameter.name.replace('_', ' ')} {symbol}".strip()


def _curves_and_panels(claim: Claim, spec: Curves) -> tuple[str, str]:
    """`series` and `panel`, where a figure of the check leaves them out: what else varies there."""
    if spec.design is not None or (spec.series and spec.panel):
        return spec.series, spec.panel
    runs = claim.designs["quick"].runs
    visited = {
        name: {canonical({"": run.get(name)}) for run in runs} for run in runs for name in run
    }
    several = [
        n for n, values in visited.items() if len(values) > 1 or np.ndim(runs[0].get(n, 0)) == 1
    ]
    free = [n for n in several if n not in ("trials", spec.x, spec.series, spec.panel)]
    series = spec.series
    if not series and claim.size in free:
        series = claim.size
        free.remove(series)
    series = series or (free.pop(0) if free else "")
    panel = spec.panel or (free.pop(0) if free else "")
    if free:
        raise ClaimError(
            f"claim {claim.id}: the figure tells {', '.join(free)} not apart: give it a design "
            "in which they do not vary"
        )
    return series, panel


def _line_positions(claim: Claim, spec: Curves, whole: bool) -> tuple[float, ...]:
    design = spec.design or claim.designs["quick"]
    places = [float(v) for run in design.runs for v in np.ravel(run[spec.x])]
    spaced = np.geomspace if spec.log_x else np.linspace
    grid = spaced(min(places), max(places), 81)
    return tuple(float(v) for v in (np.unique(np.round(grid)) if whole else grid))
