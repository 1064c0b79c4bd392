"""What all figures share: style, size, saving, and the parts they are drawn from.

Theory is a line, simulation is points with 95 % intervals. Curves differ in colour, line style
and marker, so they stay apart for colour-blind readers and in grey.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprompt.errors import UsageError
from jaxprompt.presentation.files import replacing
from jaxprompt.stats import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FIGURE_FORMATS",
    "LINE_STYLES",
    "MARKERS",
    "PAGE_WIDTH",
    "SCALE",
    "add_title_and_caption",
    "curve_colour",
    "drawing_width",
    "figure_style",
    "first_panels",
    "format_value",
    "half_widths",
    "new_figure",
    "plain_log_ticks",
    "point_style",
    "point_trials",
    "save_figure",
]

LINE_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SCALE = 2
"""Pixels of a PNG for each hundredth of an inch (`savefig.dpi` of the style over 100)."""

PAGE_WIDTH = 7.0
"""Inches a figure may take: a page's text."""


@functools.cache
def figure_style() -> dict[Any, Any]:
    """The package's style file, which Matplotlib knows as ``jaxprompt.figures``."""
    import matplotlib as mpl

    path = Path(__file__).parents[1] / "figures.mplstyle"
    return dict(mpl.rc_params_from_file(path, use_default_template=False))


def curve_colour(number: int) -> str:
    """Colour of the curve with that number."""
    colours = figure_style()["axes.prop_cycle"].by_key()["color"]
    return colours[number % len(colours)]


FIGURE_FORMATS: dict[str, Any] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "pgf": None,
}
"""Formats of figures, and the metadata that would differ from one run to the next."""

_WIDTH: ContextVar[float | None] = ContextVar("width of figures in inches", default=None)


@contextlib.contextmanager
def drawing_width(inches: float | None) -> Generator[None]:
    """Figures drawn inside are that wide; narrow ones have their panels below each other."""
    token = _WIDTH.set(inches)
    try:
        yield
    finally:
        _WIDTH.reset(token)


def save_figure(
    figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png", "svg")
) -> tuple[Path, ...]:
    """Write ``name.png`` and so on, each complete under its final name or not at all.

    Raises:
        UsageError: a format needs LaTeX, which is not there.
    """
    import matplotlib as mpl

    if "pgf" in formats and not any(map(shutil.which, ("xelatex", "lualatex", "pdflatex"))):
        raise UsageError(
            "format pgf measures its texts with LaTeX, which is not on the path: install it, or "
            "choose pdf"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _require_formulas(figure)
    _lay_out_once(figure)
    paths: list[Path] = []
    for suffix in formats:
        path = folder / f"{name}.{suffix}"
        with replacing(path) as part, mpl.rc_context(figure_style()):
            figure.savefig(part, format=suffix, metadata=FIGURE_FORMATS[suffix])
        paths.append(path)
    return tuple(paths)


def _lay_out_once(figure: Figure) -> None:
    """Place the panels now: saving would place them, and draw once more, for every format."""
    import matplotlib as mpl

    engine = figure.get_layout_engine()
    if engine is not None:
        with mpl.rc_context(figure_style()):
            engine.execute(figure)
            figure.set_layout_engine(None)


def _require_formulas(figure: Figure) -> None:
    """Show as they stand the texts whose dollars enclose no formula that Matplotlib knows."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parser: Any = MathTextParser("path")
    for text in figure.findobj(Text):
        if "$" in text.get_text():
            try:
                parser.parse(text.get_text())
            except ValueError:
                text.set_parse_math(False)


def new_figure(
    panels: int, width: float, height: float, *, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` inches for each row of at most three panels.

    :func:`drawing_width` overrides the width.
    """
    # No pyplot: it keeps every figure alive and picks a backend for the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    asked = _WIDTH.get()
    most = 3 if asked is None else max(1, min(3, int(asked / 2.1)))
    rows = -(-panels // most)
    columns = -(-panels // rows)
    figure = Figure(figsize=(asked or width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share).ravel())
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def first_panels(axes: Sequence[Axes]) -> list[Axes]:
    """The first panel of each row."""
    first_axes: list[Axes] = []
    for axis in axes:
        slot = axis.get_subplotspec()
        if slot is None or slot.is_first_col():
            first_axes.append(axis)
    return first_axes


def add_title_and_caption(figure: Figure, title: str, caption: str, *, rows: int = 0) -> float:
    """Title above and caption below, folded to the width, with space between for a legend.

    `rows` are the legend's; returns the height at which it stands, as a share of the figure's.
    """
    letters, points = figure.get_figwidth() * 72, 72 * figure.get_figheight()
    figure.suptitle(textwrap.fill(title, int(letters / 5.2)))
    folded = "\n".join(textwrap.fill(line, int(letters / 3.4)) for line in caption.split("\n"))
    style: Any = {"fontsize": 6.5, "color": "#444444", "ha": "center", "va": "bottom"}
    figure.text(0.5, 2 / points, folded, **style)
    below = 9 * (folded.count("\n") + 1) + 4
    above = (below + (12 * rows + 6 if rows else 0)) / points
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, above, 1, 1 - above))
    return below / points


def half_widths(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Half widths of Student's 95 % intervals; 0 for what has no sampling error."""
    return [
        float(half_width(r["stderr"], point_trials(r) - 1)) if r["stderr"] > 0 else 0.0
        for r in rows
    ]


def point_trials(row: Mapping[str, Any]) -> float:
    """Trials of a point; infinite where a table of an earlier version does not say."""
    return row.get("trials", math.inf)


def point_style(number: int) -> dict[str, Any]:
    """How Matplotlib draws the points of the series with that number."""
    return {
        "color": curve_colour(number),
        "marker": MARKERS[number % 7],
        "linestyle": "none",
        "markerfacecolor": "white",
    }


def format_value(value: Any) -> str:
    """A value in a label."""
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def plain_log_ticks(axis: Axes, which: str = "x") -> None:
    """Label a logarithmic axis with plain numbers, of which even a short axis has several."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    scale = axis.xaxis if which == "x" else axis.yaxis
    short = high / low < 4
    scale.set_major_locator(MaxNLocator(5) if short else LogLocator(base=10, subs=subs))
    scale.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    scale.set_minor_formatter(NullFormatter())
