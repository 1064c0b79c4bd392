"""One offline page on which a claim's closed form moves with sliders.

Everything the page shows is computed here, on the grid of the sliders' values, so that no number
on it is interpolated: a slider steps from one computed value to the next. The page needs no server
and no other file.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import markupsafe
import numpy as np

from jaxprompt.core.claim import Claim, Curves
from jaxprompt.core.figures import words_of_parameter
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import JaxpromptError, UsageError, suggest
from jaxprompt.presentation.canvas import format_value, half_widths
from jaxprompt.presentation.html_tables import render_template

__all__ = ["Exploration", "explore", "explorer_page"]

STEPS = ((13, 13, 9), (11, 11, 7), (9, 9, 5), (9, 9), (7, 7), (5, 5), (13,), (9,), (5,))
"""Values of the sliders, from the richest page to the cheapest."""

ABSCISSAE = 33
"""Places along the horizontal axis."""

SECONDS = 30.0
"""Processor time that the closed form may take in all."""

MOST_NUMBERS = 150_000
"""Numbers on a page, which keeps it below 2 MB."""

SPAN = 4.0
"""How far a slider reaches below and above its value in the claim's design, as a factor."""


@dataclass(frozen=True)
class Exploration:
    """What the page shows: axes, sliders, curves, measured points, all as plain values."""

    x: Mapping[str, Any]
    y: Mapping[str, Any]
    sliders: Sequence[Mapping[str, Any]]
    series: Mapping[str, Any]
    predicted: Sequence[float | None]
    points: Sequence[Mapping[str, Any]]
    fixed: Mapping[str, Any]

    def to_json(self) -> str:
        """As JSON that may stand inside an HTML element."""
        return json.dumps(vars(self), allow_nan=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        )


def explore(
    claim: Claim,
    *,
    x: str = "",
    y: str = "",
    sliders: Sequence[str] = (),
    points: Sequence[Mapping[str, Any]] = (),
) -> Exploration:
    """Compute what the page of a claim shows.

    `x` and `sliders` name parameters of the closed form that are numbers, `y` a quantity; by
    default those of the claim's figure, then those that its design varies. `points` are rows of a
    figure's stored points (``x``, ``y``, ``stderr``, ``parameters``); each is shown where the
    sliders have its parameters.

    Raises:
        UsageError: a name is none of the claim's, or the closed form takes no number.
    """
    base = _base_point(claim)
    numbers = {p.name: p for p in claim.parameters if _is_slidable(p, base)}
    spec = claim.figure if isinstance(claim.figure, Curves) else None
    x = x or (spec.x if spec and spec.x in numbers else "") or next(iter(numbers), "")
    y = y or (spec.y if spec else claim.quantities[0].name)
    _require_names(claim, x, y, sliders, numbers)
    series = (
        spec.series if spec and spec.series in base and spec.series not in (x, *sliders) else ""
    )
    measured = [_point_of(row) for row in points]
    abscissae = _axis_values(numbers[x], base[x], claim, spec, x)
    seconds = _seconds_of(claim, base, x, abscissae, y)
    levels = _series_values(claim, series)
    if len(levels) * seconds * math.prod(STEPS[4]) > SECONDS and series in numbers:
        series, levels = "", [None]  # a slider for it, so that another one can be afforded
    chosen = list(sliders) or _choose_sliders(claim, numbers, spec, x, series)

    def ranges_of(counts: Sequence[int]) -> dict[str, list[float]]:
        named = zip(chosen, counts, strict=False)
        return {n: _slider_values(numbers[n], base[n], k, measured) for n, k in named}

    ranges = _affordable(
        [ranges_of(c) for c in STEPS if len(c) >= len(chosen) or not sliders],
        len(levels) * len(abscissae),
        len(levels) * seconds,
    )
    chosen = list(ranges)
    predicted: list[float | None] = []
    for values in itertools.product(*ranges.values(), levels):
        at = {
            **base,
            **dict(
                zip(
                    [
                        *ranges,
                        series or "",
                    ],
                    values,
                    strict=True,
                )
            ),
        }
        at.pop("", None)
        predicted += [_short(v) for v in _along(claim, at, x, abscissae, y)]
    log_x = spec.log_x if spec else _spans_decades(abscissae)
    finite = [v for v in predicted if v is not None]
    log_y = bool(spec and spec.log_y) and min(finite, default=0) > 0
    return Exploration(
        x={"name": x, "label": _x_label(numbers[x], spec), "words": _words(numbers[x]),
           "values": abscissae, "log": log_x},
        y={"name": y, "label": _y_label(claim, spec, y), "log": log_y},
        sliders=[
            {"name": n, "label": _label(numbers[n]), "values": ranges[n],
             "start": int(np.argmin(np.abs(np.array(ranges[n]) - base[n])))}
            for n in chosen
        ],
        series={"name": series, "values": [_plain(v) for v in levels],
                "labels": [_series_label(spec, v) for v in levels]},
        predicted=predicted,
        points=[p for p in measured if x in p["parameters"]],
        fixed={n: _plain(v) for n, v in base.items() if n not in (x, *chosen, series)},
    )  # fmt: skip


def explorer_page(claim: Claim, found: Exploration, verdict: Mapping[str, Any] | None) -> str:
    """The page as HTML. `verdict` is an entry of a report, or None where none is stored."""
    # JSON is no HTML: `to_json` itself leaves nothing in it that could end the element.
    data = markupsafe.Markup(found.to_json())
    known = {p.name: _words(p) for p in claim.parameters}
    values = {
        "claim": claim.describe(), "data": data, "found": vars(found), "verdict": verdict,
        "fixed": {known[name]: value for name, value in found.fixed.items()},
    }  # fmt: skip
    return render_template("explorer", **values)


# --- what is explored ---


def _base_point(claim: Claim) -> dict[str, Any]:
    """The first run of the claim's figure, or of its quick design, as parameters of the formula."""
    spec = claim.figure
    design = spec.design if isinstance(spec, Curves) and spec.design else claim.designs["quick"]
    predicting = {p.name for p in claim.parameters if not p.simulate_only}
    if not design.runs:
        raise UsageError(f"{claim.id}: its design has no run to start from")
    run = {n: v for n, v in design.runs[0].items() if n in predicting}
    return {n: v[0] if n in claim.shared and np.ndim(v) == 1 else v for n, v in run.items()}


def _is_slidable(parameter: Parameter, base: Mapping[str, Any]) -> bool:
    value = base.get(parameter.name)
    numeric = isinstance(value, int | float | np.integer | np.floating)
    return parameter.kind in ("integer", "real") and numeric and not parameter.simulate_only


def _require_names(
    claim: Claim, x: str, y: str, sliders: Sequence[str], numbers: Mapping[str, Parameter]
) -> None:
    if not numbers:
        raise UsageError(f"{claim.id}: its closed form takes no number that a slider could move")
    for what, name in (("--x", x), *(("--slider", s) for s in sliders)):
        if name not in numbers:
            raise UsageError(
                f"{claim.id}: {what} {name} must be one of {', '.join(numbers)}"
                f"{suggest(name, numbers, most=1)}"
            )
    known = [q.name for q in claim.quantities]
    if y not in known:
        raise UsageError(
            f"{claim.id}: --y {y} must be one of {', '.join(known)}{suggest(y, known, most=1)}"
        )


def _choose_sliders(
    claim: Claim, numbers: Mapping[str, Parameter], spec: Curves | None, x: str, series: str
) -> list[str]:
    """The figure's panels first, then what the design varies, then the other real numbers."""
    runs = claim.designs["quick"].runs
    varies = [n for n in numbers if len({str(run.get(n)) for run in runs}) > 1]
    wanted = [*([spec.series, spec.panel] if spec else []), *varies]
    wanted += [n for n in numbers if numbers[n].kind == "real"] + list(numbers)
    usable = [n for n in dict.fromkeys(wanted) if n in numbers and n not in (x, series)]
    return usable[: len(STEPS[0])]


def _series_values(claim: Claim, series: str) -> list[Any]:
    if not series or series == claim.size:
        return [None]
    spec = claim.figure
    assert isinstance(spec, Curves)
    runs = (spec.design or claim.designs["quick"]).runs
    values = [v for run in runs for v in (run[series] if np.ndim(run[series]) else [run[series]])]
    return list(dict.fromkeys(values))


def _axis_values(
    parameter: Parameter, value: float, claim: Claim, spec: Curves | None, x: str
) -> list[float]:
    """Places along the horizontal axis: those of the figure's range, or around the design's."""
    if spec and spec.x == x:
        low, high = min(spec.lines), max(spec.lines)
        spaced = np.geomspace if spec.log_x else np.linspace
        found = spaced(low, high, ABSCISSAE)
    else:
        found = np.array(_around(parameter, value, ABSCISSAE))
    if parameter.kind == "integer":
        found = np.unique(np.round(found))
    return [float(v) for v in found]


def _slider_values(
    parameter: Parameter, value: float, steps: int, points: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Values of a slider: around the design's, and those at which something was measured."""
    measured = {p["parameters"].get(parameter.name) for p in points}
    shown = {float(v) for v in measured if isinstance(v, int | float)}
    values = {*_around(parameter, value, steps), float(value)}
    if len(shown) <= 4:
        values |= shown
    return sorted(values)


def _around(parameter: Parameter, value: float, count: int) -> list[float]:
    """Numbers around a value within what the parameter allows, evenly on its natural scale."""
    low, high = value / SPAN, value * SPAN
    if value <= 0 or parameter.low < 0:
        width = max(abs(value), 1.0)
        low, high = value - width, value + width
    low, high = max(low, parameter.low), min(high, parameter.high)
    if parameter.open_low and low == parameter.low:
        low += 0.02 * (high - low)
    if parameter.open_high and high == parameter.high:
        high -= 0.02 * (high - low)
    spaced = np.geomspace if low > 0 else np.linspace
    found = spaced(low, high, count)
    if parameter.kind == "integer":
        found = np.unique(np.round(found))
    return [float(f"{v:.3g}") for v in found if low * 0.995 <= float(f"{v:.3g}") <= high * 1.005]


def _affordable(
    choices: Sequence[dict[str, list[float]]], numbers: int, seconds: float
) -> dict[str, list[float]]:
    """The first choice of sliders that fits on the page and is computed in time, or the last.

    `numbers` and `seconds` are those of one position of the sliders.
    """
    for ranges in choices:
        positions = math.prod(len(values) for values in ranges.values())
        if positions * numbers <= MOST_NUMBERS and positions * seconds <= SECONDS:
            return ranges
    return choices[-1]


# --- its numbers ---


def _seconds_of(
    claim: Claim, base: Mapping[str, Any], x: str, abscissae: Sequence[float], y: str
) -> float:
    """Processor time of one curve, which is computed twice: the first time may compile."""
    _along(claim, base, x, abscissae, y)
    started = time.process_time()
    _along(claim, base, x, abscissae, y)
    return time.process_time() - started


def _along(
    claim: Claim, at: Mapping[str, Any], x: str, abscissae: Sequence[float], y: str
) -> list[float | None]:
    """The closed form along the axis; None where it has no number."""
    kind = next(p.kind for p in claim.parameters if p.name == x)
    places: list[Any] = [int(v) for v in abscissae] if kind == "integer" else list(abscissae)
    try:
        values = np.asarray(claim.predict(**{**at, x: np.asarray(places)})[y], np.float64)
        if values.shape == (len(places),):
            return [_finite(v) for v in values.tolist()]
    except (JaxpromptError, TypeError, ValueError, KeyError):
        pass  # it takes one number at a time, or has none at some place
    return [_value(claim, {**at, x: place}, y) for place in places]


def _value(claim: Claim, at: Mapping[str, Any], y: str) -> float | None:
    try:
        value: Any = claim.predict(**at).get(y)
        return _finite(float(value)) if np.ndim(value) == 0 and value is not None else None
    except JaxpromptError:
        return None  # no number, or a combination that the claim refuses: a gap in the curve


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _point_of(row: Mapping[str, Any]) -> dict[str, Any]:
    parameters = row["parameters"]
    named = json.loads(parameters) if isinstance(parameters, str) else dict(parameters)
    return {
        "x": row["x"],
        "y": row["y"],
        "half": half_widths([row])[0],
        "parameters": {n: v for n, v in named.items() if isinstance(v, int | float | str)},
    }


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 10 * min(values)


def _y_label(claim: Claim, spec: Curves | None, y: str) -> str:
    """The figure's words for the vertical axis, or the quantity's if they are short."""
    if spec and spec.y == y and spec.y_label != claim.quantity(y).meaning:
        return spec.y_label
    meaning = claim.quantity(y).meaning
    return meaning if len(meaning) <= 48 else y.replace("_", " ")


def _x_label(parameter: Parameter, spec: Curves | None) -> str:
    """The figure's words for the horizontal axis, or the parameter's."""
    if spec and spec.x == parameter.name and "\\" not in spec.x_label:
        return spec.x_label.replace("$", "")
    return _label(parameter)


def _words(parameter: Parameter) -> str:
    """What a parameter is and its symbol, without formulas."""
    words = words_of_parameter(parameter)
    return words.partition(" $")[0]


def _series_label(spec: Curves | None, value: Any) -> str:
    """The figure's words for a curve."""
    if spec is None or value is None:
        return "theory"
    return spec.series_label.format(value=format_value(value)).replace("$", "")


def _label(parameter: Parameter) -> str:
    symbol, meaning = parameter.symbol, parameter.meaning
    named = symbol.isalpha() and symbol not in meaning.split()
    return f"{meaning}, {symbol}" if named else meaning
