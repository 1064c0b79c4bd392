"""What all figures share: style, size, saving, and the parts they are drawn from.

Theory is a line, simulation is points with 95 % intervals. Curves differ in colour, line style
and marker, so they stay apart for colour-blind readers and in grey.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import shutil
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.figures import words_of_parameter
from jaxprompt.errors import UsageError
from jaxprompt.presentation.files import replacing
from jaxprompt.stats import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxprompt.core.parameters import Parameter

__all__ = [
    "FIGURE_FORMATS",
    "LINE_STYLES",
    "MARKERS",
    "PAGE_WIDTH",
    "SCALE",
    "add_legend_and_caption",
    "add_title_and_caption",
    "curve_colour",
    "drawing_width",
    "figure_style",
    "first_panels",
    "format_value",
    "half_widths",
    "is_narrow",
    "name_and_value",
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

LEAST_SIZE = 5.5
"""Points of the smallest letters."""

USUAL_TEXT = 21
"""Points of a caption's second line and one row of a legend, for which a figure's height counts."""

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

    latex = next(filter(shutil.which, ("xelatex", "lualatex", "pdflatex")), "")
    if "pgf" in formats and not latex:
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
        style: dict[Any, Any] = {**figure_style(), **({"pgf.texsystem": latex} if latex else {})}
        # PGF is a text without metadata.
        facts = {"metadata": FIGURE_FORMATS[suffix]} if FIGURE_FORMATS[suffix] else {}
        texts = _texts_for_latex(figure) if suffix == "pgf" else contextlib.nullcontext()
        with replacing(path) as part, mpl.rc_context(style), texts:
            figure.savefig(part, format=suffix, **facts)
        paths.append(path)
    return tuple(paths)


@contextlib.contextmanager
def _texts_for_latex(figure: Figure) -> Generator[None]:
    """Inside, LaTeX prints the characters of the figure's texts that mean something to it."""
    from matplotlib.text import Text

    texts = [(text, text.get_text()) for text in figure.findobj(Text)]
    for text, words in texts:
        # Between dollars stand formulas.
        parts = words.split("$")
        parts[::2] = [re.sub("[&#_]", r"\\\g<0>", part) for part in parts[::2]]
        text.set_text("$".join(parts))
    try:
        yield
    finally:
        for text, words in texts:
            text.set_text(words)


def _lay_out_once(figure: Figure) -> None:
    """Place the panels now: saving would place them, and draw once more, for every format."""
    import matplotlib as mpl

    engine = figure.get_layout_engine()
    if engine is not None:
        with mpl.rc_context(figure_style()):
            engine.execute(figure)
            # Folded texts take room from the panels, whose labels may then be too long.
            for _ in range(3):
                if fit_texts_to_panels(figure):
                    engine.execute(figure)
            figure.set_layout_engine(None)
            _round_positions(figure)


def _round_positions(figure: Figure) -> None:
    """Panels stand at whole millionths: the solver that places them orders its unknowns by their
    addresses, so the last digits, from which SVG takes names, differ from one drawing to the next.
    """
    for axis in figure.axes:
        left, bottom, width, height = np.round(axis.get_position(original=True).bounds, 6).tolist()
        axis.set_position((left, bottom, width, height))


def _require_formulas(figure: Figure) -> None:
    """Show as they stand the texts whose dollars enclose no formula that Matplotlib knows."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parser: Any = MathTextParser("path")
    for text in figure.findobj(Text):
        if "$" in text.get_text():
            try:
                for line in text.get_text().split("\n"):
                    parser.parse(line)
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


def is_narrow(figure: Figure) -> bool:
    """Whether the figure has a paper's column's width: nothing fits beside a panel."""
    return bool(figure.get_figwidth() < 5.0)


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
    letters = figure.get_figwidth() * 72
    title = textwrap.fill(title, int(letters / 5.2))
    figure.suptitle(title)
    folded = "\n".join(textwrap.fill(line, int(letters / 3.55)) for line in caption.split("\n"))
    # Many lines of text make the figure higher, not its panels lower.
    text_lines = 9 * folded.count("\n") + 12 * rows + 11 * title.count("\n")
    figure.set_figheight(figure.get_figheight() + max(0, text_lines - USUAL_TEXT) / 72)
    points = 72 * figure.get_figheight()
    style: Any = {"fontsize": 6.5, "color": "#444444", "ha": "center", "va": "bottom"}
    figure.text(0.5, 2 / points, folded, **style)
    below = 9 * (folded.count("\n") + 1) + 4
    above = (below + (12 * rows + 6 if rows else 0)) / points
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, above, 1, 1 - above))
    return below / points


def add_legend_and_caption(
    figure: Figure, title: str, caption: str, shown: Mapping[str, Any]
) -> None:
    """Title above; below the panels a legend of what is `shown`, by label, and the caption."""
    if not shown:
        add_title_and_caption(figure, title, caption)
        return
    labels, columns, rows = fit_legend(tuple(shown), figure.get_figwidth())
    room = add_title_and_caption(figure, title, caption, rows=rows)
    figure.legend(
        list(shown.values()), labels, ncols=columns, borderaxespad=0,
        loc="lower center", bbox_to_anchor=(0.5, room),
    )  # fmt: skip


def fit_legend(labels: Sequence[str], width: float) -> tuple[list[str], int, int]:
    """Labels folded to a legend of `width` inches, its columns, and its lines of text."""
    size = figure_style()["legend.fontsize"]
    # Matplotlib's handle and the space behind it, and between columns, in letters.
    handle, between, page = 2.8 * size, 2.0 * size, 72 * width - size
    folded = [fold_text(label, page - handle, size) for label in labels]
    entries = [handle + text_width(label, size) for label in folded]
    for columns in range(len(labels), 0, -1):
        # Matplotlib fills the first columns with one entry more, where they differ.
        shares = np.array_split(np.arange(len(labels)), columns)
        total = sum(max(entries[i] for i in share) for share in shares) + between * (columns - 1)
        if total <= page or columns == 1:
            lines = (sum(folded[i].count("\n") + 1 for i in share) for share in shares)
            return folded, columns, max(lines)
    raise AssertionError("one column always fits")


def text_width(text: str, size: float) -> float:
    """Points that the widest line of a text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=figure_style()["font.family"], size=size)
    widths: list[float] = []
    for line in text.split("\n"):
        try:
            shape = text_to_path.get_text_width_height_descent(line, font, "$" in line)
        except ValueError:  # dollars that enclose no formula
            shape = text_to_path.get_text_width_height_descent(line, font, False)
        widths.append(float(shape[0]))
    return max(widths)


def fold_text(text: str, width: float, size: float) -> str:
    """A text in as many lines of about equal length as keep it within `width` points."""
    whole = text.replace("\n", " ")
    if text_width(text, size) <= width or " " not in whole:
        return text
    for lines in range(2, 6):
        folded = textwrap.fill(whole, math.ceil(len(whole) / lines) + 2, break_long_words=False)
        if any(line.count("$") % 2 for line in folded.split("\n")):
            return text
        if text_width(folded, size) <= width:
            return folded
    return textwrap.fill(whole, max(8, int(width / (0.6 * size))), break_long_words=False)


def fit_texts_to_panels(figure: Figure) -> bool:
    """Fold what is longer than its panel, and thin ticks that touch; whether anything changed."""
    per_point = figure.dpi / 72
    changed = False
    for axis in figure.axes:
        if not axis.get_visible():
            continue
        box = axis.get_window_extent()
        # A little more than the panel: texts may reach over its ticks' labels.
        room = (
            (axis.yaxis.label, 1.1 * box.height),
            (axis.xaxis.label, 1.1 * box.width),
            (axis.title, box.width),
        )
        for text, length in room:
            size = float(text.get_fontsize())
            folded = fold_text(text.get_text(), length / per_point, size)
            changed |= folded != text.get_text()
            text.set_text(folded)
        changed |= _thin_ticks(axis)
    return changed


def _thin_ticks(axis: Axes) -> bool:
    """Leave out numbers along x that touch their neighbours, and fold names more tightly."""
    from matplotlib.ticker import FixedLocator

    ticks = [t for t in axis.xaxis.get_major_ticks() if t.label1.get_text()]
    low, high = sorted(axis.get_xlim())
    ticks = [t for t in ticks if low <= t.get_loc() <= high]
    boxes = [t.label1.get_window_extent() for t in ticks]
    if all(second.x0 - first.x1 > 2 for first, second in itertools.pairwise(boxes)):
        return False
    if isinstance(axis.xaxis.get_major_locator(), FixedLocator):
        centres = [(box.x0 + box.x1) / 2 for box in boxes]
        room = min(b - a for a, b in itertools.pairwise(centres)) * 72 / axis.figure.dpi
        names = [t.label1.get_text() for t in ticks]
        size = float(ticks[0].label1.get_fontsize())
        folded = [fold_text(name.replace("\n", " "), 0.92 * room, size) for name in names]
        if folded == names:
            # Words that are too long by themselves.
            if size <= LEAST_SIZE:
                return False
            axis.tick_params(axis="x", labelsize=LEAST_SIZE)
            return True
        axis.set_xticks([t.get_loc() for t in ticks], folded)
        return True
    kept: list[float] = []
    end = -math.inf
    for tick, box in zip(ticks, boxes, strict=True):
        if box.x0 - end > 2:
            kept.append(float(tick.get_loc()))
            end = box.x1
    axis.xaxis.set_major_locator(FixedLocator(kept))
    return True


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
    if isinstance(value, int | float):
        short = f"{value:.4g}"
        return f"{value:g}" if "e" in short else short
    if isinstance(value, list | tuple):
        parts: Sequence[Any] = value
        nested = any(isinstance(part, list | tuple) for part in parts)
        joined = ", ".join(map(format_value, parts))
        return joined if nested else f"({joined})"
    return str(value).replace("_", " ")


def name_and_value(parameter: Parameter | None, name: str, value: Any) -> str:
    """A parameter and its value in words; `name` serves where the parameter is not known."""
    if parameter is None:
        return f"{name.replace('_', ' ')} {format_value(value)}"
    equals = " = " if parameter.symbol else " "
    return f"{words_of_parameter(parameter)}{equals}{format_value(value)}"


def _plain_or_power(value: float) -> str:
    """A number as it is written, or as a power of ten where that has many zeros."""
    text = f"{value:g}"
    if text.startswith("1e"):
        return f"$10^{{{int(text[2:])}}}$"
    return text


def plain_log_ticks(axis: Axes, which: str = "x") -> None:
    """Label a logarithmic axis with plain numbers, of which even a short axis has several."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0, 3.0) if high / low < 3000 else (1.0,)
    scale = axis.xaxis if which == "x" else axis.yaxis
    short = high / low < 4
    scale.set_major_locator(MaxNLocator(5) if short else LogLocator(base=10, subs=subs))
    scale.set_major_formatter(FuncFormatter(lambda x, _: _plain_or_power(x)))
    scale.set_minor_formatter(NullFormatter())
