"""Figures of sweeps, from the labelled dataset that :func:`jaxprompt.load` gives.

One parameter that varies is the abscissa of a curve; a second one is a curve each, or the other
side of a heat map where it has many values; a third one is a panel each. Theory is drawn beside
what was measured in either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError, suggest
from jaxprompt.presentation.canvas import (
    LINE_STYLES,
    PAGE_WIDTH,
    add_legend_and_caption,
    add_title_and_caption,
    curve_colour,
    figure_style,
    first_panels,
    format_value,
    half_widths,
    is_narrow,
    new_figure,
    plain_log_ticks,
    point_style,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_sweep", "swept_quantities"]

_MOST_CURVES = 7
"""Curves of one panel; more values than this of a second parameter make a heat map."""

_MOST_PANELS = 9


def swept_quantities(data: xarray.Dataset) -> list[str]:
    """The quantities that a sweep measured: those that have a prediction beside them."""
    names = [str(name) for name in data.data_vars]
    return [name for name in names if f"{name}_predicted" in names]


@dataclass(frozen=True)
class _Layout:
    """Which dimension is shown how; "" where none is. `y` makes the panels heat maps."""

    x: str
    series: str = ""
    y: str = ""
    panel: str = ""


def draw_sweep(data: xarray.Dataset, quantity: str = "") -> Figure:
    """The figure of one quantity of a sweep, by default of its first.

    `data` is what :func:`jaxprompt.load` gives, or a part of it (``data.sel(dim=100)``).

    Raises:
        UsageError: the sweep has no such quantity, or more parameters vary than one figure shows.
    """
    import matplotlib as mpl

    known = swept_quantities(data)
    if not known or (quantity and quantity not in known):
        raise UsageError(
            f"quantity '{quantity}': the sweep has {', '.join(known) or 'none'}"
            f"{suggest(quantity, known)}; name one of its own"
        )
    quantity = quantity or known[0]
    layout = _choose_layout(data)
    with mpl.rc_context(figure_style()):
        drawing = _draw_maps if layout.y else _draw_curves
        return drawing(data, quantity, layout)


def _choose_layout(data: xarray.Dataset) -> _Layout:
    """The longest numeric dimension is the abscissa, the shortest one of three the panels."""
    sizes = {str(name): size for name, size in data.sizes.items()}
    varying = [name for name in sizes if sizes[name] > 1] or list(sizes)[:1]
    if len(varying) > 3:
        names = ", ".join(varying)
        raise UsageError(
            f"{names} vary: a figure shows three parameters; draw a part of the sweep, such as "
            f"data.sel({varying[-1]}={format_value(data[varying[-1]].values[0])})"
        )
    numeric = [name for name in varying if _is_numeric(data, name)]
    x = max(numeric or varying, key=lambda name: sizes[name])
    others = sorted((name for name in varying if name != x), key=lambda name: sizes[name])
    panel = others.pop(0) if len(others) == 2 else ""
    if panel and sizes[panel] > _MOST_PANELS:
        raise UsageError(
            f"{panel} has {sizes[panel]} values: a figure has at most {_MOST_PANELS} panels; draw "
            f"a part of the sweep, such as data.isel({panel}=slice(0, {_MOST_PANELS}))"
        )
    second = others[0] if others else ""
    if second and sizes[second] > _MOST_CURVES:
        if not (_is_numeric(data, x) and _is_numeric(data, second)):
            raise UsageError(
                f"{second} has {sizes[second]} values: a panel shows at most {_MOST_CURVES} "
                f"curves; draw a part of the sweep, such as data.isel({second}=slice(0, 7))"
            )
        return _Layout(x, y=second, panel=panel)
    return _Layout(x, series=second, panel=panel)


def _is_numeric(data: xarray.Dataset, name: str) -> bool:
    return bool(np.issubdtype(data[name].dtype, np.number))


def _pick_cells(data: xarray.Dataset, **chosen: Any) -> xarray.Dataset:
    """The part of a sweep at these values, without dimensions of one value."""
    selected = data.sel({name: value for name, value in chosen.items() if name})
    spare = {name: 0 for name, size in selected.sizes.items() if size == 1}
    return selected.isel(spare)


def _distinct_values(data: xarray.Dataset, name: str) -> list[Any]:
    return data[name].values.tolist() if name else [""]


# --- curves ---


def _draw_curves(data: xarray.Dataset, quantity: str, layout: _Layout) -> Figure:
    panels, series = _distinct_values(data, layout.panel), _distinct_values(data, layout.series)
    several = len(panels) > 1
    figure, axes = new_figure(len(panels), PAGE_WIDTH if several else 5.2, 3.0)
    for panel, axis in zip(panels, axes, strict=True):
        for number, value in enumerate(series):
            selected = data.sel(
                {n: v for n, v in ((layout.panel, panel), (layout.series, value)) if n}
            )
            _draw_curve(
                axis, selected, quantity, layout.x, number, _name_value(layout.series, value)
            )
        _scale_axis(axis, "x", data[layout.x].values)
        _scale_axis(axis, "y", data[quantity].values, many=100)
        axis.set_xlabel(layout.x)
        axis.set_title(_name_value(layout.panel, panel))
    for axis in first_panels(axes):
        axis.set_ylabel(quantity)
    handles, labels = axes[0].get_legend_handles_labels()
    title, caption = (
        _figure_title(data, quantity),
        _figure_caption(data, layout, "lines: theory; points: measured"),
    )
    if not several and not is_narrow(figure):
        figure.legend(handles, labels, loc="outside right center")
        add_title_and_caption(figure, title, caption)
    else:
        shown = dict(zip(labels, handles, strict=True))
        add_legend_and_caption(figure, title, caption, shown)
    return figure


def _draw_curve(
    axis: Axes, curve: xarray.Dataset, quantity: str, x: str, number: int, label: str
) -> None:
    """One series: its prediction as a line, its measurements with intervals as points."""
    curve = curve.squeeze([name for name in curve.dims if name != x])
    numeric = _is_numeric(curve, x)
    if numeric:
        curve = curve.sortby(x)
    places = curve[x].values if numeric else np.arange(curve.sizes[x])
    axis.plot(
        places,
        curve[f"{quantity}_predicted"].values,
        color=curve_colour(number),
        linestyle=LINE_STYLES[number % len(LINE_STYLES)],
        label=label or "theory",
    )
    rows = [
        {"stderr": float(stderr), "trials": int(trials)}
        for stderr, trials in zip(
            np.nan_to_num(curve[f"{quantity}_stderr"].values), curve["trials"].values, strict=True
        )
    ]
    axis.errorbar(
        places,
        curve[quantity].values,
        yerr=half_widths(rows),
        label="" if label else "measured",
        capsize=1.5,
        elinewidth=0.8,
        zorder=3,
        **point_style(number),
    )
    if not numeric:
        axis.set_xticks(places, [format_value(value) for value in curve[x].values])


# --- heat maps ---


def _draw_maps(data: xarray.Dataset, quantity: str, layout: _Layout) -> Figure:
    panels = _distinct_values(data, layout.panel)
    figure, axes = new_figure(len(panels), PAGE_WIDTH if len(panels) > 1 else 4.6, 3.0)
    measured = data[quantity].values
    finite = measured[np.isfinite(measured)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    shown = None
    for panel, axis in zip(panels, axes, strict=True):
        selected = _pick_cells(data, **({layout.panel: panel} if layout.panel else {}))
        selected = selected.sortby([layout.x, layout.y]).transpose(layout.y, layout.x)
        x, y = (selected[name].values.astype(np.float64) for name in (layout.x, layout.y))
        edges = _cell_edges(x), _cell_edges(y)
        values = selected[quantity].values
        shown = axis.pcolormesh(*edges, values, vmin=low, vmax=high, cmap="cividis")
        _draw_predicted_levels(axis, x, y, selected[f"{quantity}_predicted"].values)
        refuted = np.argwhere(selected["status"].values == "refuted")
        axis.plot(x[refuted[:, 1]], y[refuted[:, 0]], "x", color="#b23a00", markersize=4)
        _scale_axis(axis, "x", x)
        _scale_axis(axis, "y", y)
        axis.set_xlabel(layout.x)
        axis.set_title(_name_value(layout.panel, panel))
    for axis in first_panels(axes):
        axis.set_ylabel(layout.y)
    assert shown is not None  # a sweep has a cell
    figure.colorbar(shown, ax=axes, label=f"measured {quantity}", shrink=0.9)
    what = "colours: measured; lines: where theory passes the labelled values; crosses: refuted"
    add_title_and_caption(
        figure, _figure_title(data, quantity), _figure_caption(data, layout, what)
    )
    return figure


def _cell_edges(centres: np.ndarray) -> np.ndarray:
    """Limits of the cells of a map, half-way between their centres as its axis is scaled."""
    if _is_spread(centres):
        return np.exp(_cell_edges_between(np.log(centres)))
    return _cell_edges_between(centres)


def _cell_edges_between(centres: np.ndarray) -> np.ndarray:
    half = np.diff(centres) / 2
    first, last = centres[0] - half[0], centres[-1] + half[-1]
    return np.concatenate([[first], centres[:-1] + half, [last]])


def _draw_predicted_levels(axis: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """Lines on which the prediction passes round values."""
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() == finite.max():
        return
    levels = MaxNLocator(5).tick_values(float(finite.min()), float(finite.max()))
    levels = [level for level in levels if finite.min() < level < finite.max()]
    if levels:
        masked = np.ma.masked_invalid(values)
        lines = axis.contour(x, y, masked, levels=levels, colors="white", linewidths=1.0)
        axis.clabel(lines, fontsize=6)


# --- axes and words ---


def _scale_axis(axis: Axes, which: str, values: np.ndarray, many: float = 10.0) -> None:
    """Make an axis logarithmic where positive values spread over a factor of `many` or more."""
    if _is_spread(values, many):
        (axis.set_xscale if which == "x" else axis.set_yscale)("log")
        plain_log_ticks(axis, which)


def _is_spread(values: np.ndarray, many: float = 10.0) -> bool:
    """Whether values are positive numbers that spread over a factor of `many` or more."""
    if not np.issubdtype(np.asarray(values).dtype, np.number):
        return False
    finite = np.asarray(values, dtype=np.float64)
    finite = np.unique(finite[np.isfinite(finite)])
    return bool(finite.size >= 3 and finite[0] > 0 and finite[-1] >= many * finite[0])


def _name_value(name: str, value: Any) -> str:
    return f"{name} {format_value(value)}" if name else ""


def _figure_title(data: xarray.Dataset, quantity: str) -> str:
    claim = data.attrs.get("config_claim", "")
    return f"{quantity} of {claim}" if claim else quantity


def _figure_caption(data: xarray.Dataset, layout: _Layout, what: str) -> str:
    """What is drawn, how many trials stand behind it, and the parameters that do not vary."""
    trials = data["trials"].values
    counts = sorted({int(count) for count in trials[trials > 0].ravel()})
    number = " to ".join(str(n) for n in dict.fromkeys((counts or [0])[:1] + counts[-1:]))
    if layout.y:
        what = f"{what}; means of {number} trials"
    else:
        what = f"{what}, mean of {number} trials with 95 % interval"
    fixed = {
        **_fixed_parameters(data),
        **{str(n): data[n].values[0] for n, s in data.sizes.items() if s == 1},
    }
    fixed |= {str(n): c.values.item() for n, c in data.coords.items() if c.ndim == 0}
    shown = {n: v for n, v in fixed.items() if n not in (layout.x, layout.y, layout.series)}
    named = ", ".join(f"{name} {format_value(_to_scalar(value))}" for name, value in shown.items())
    return "; ".join(filter(None, [what, named]))


def _fixed_parameters(data: xarray.Dataset) -> Mapping[str, Any]:
    """The parameters under ``[fixed]`` in the sweep's file."""
    try:
        fixed = json.loads(data.attrs.get("config_fixed", "{}"))
    except (TypeError, ValueError):
        return {}
    return fixed if isinstance(fixed, dict) else {}


def _to_scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
