"""What all figures share: texts that fit a column, ticks that do not touch, words for names."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import matplotlib as mpl
import pytest

from jaxprompt.core.claim import Mark, Panel, Panels
from jaxprompt.core.parameters import Parameter
from jaxprompt.presentation import canvas
from jaxprompt.presentation.panels import draw_panels

LONG = [
    "the function's own values, as the paper has them",
    "two terms",
    "deconvolved values with the largest of them at most ten",
    "theory",
]


def drawn_panels(panels, width):
    spec = Panels(lambda *_: panels, "A title of some length that a column has to fold")
    with mpl.rc_context(canvas.figure_style()), canvas.drawing_width(width):
        figure = draw_panels(spec, panels)
        canvas._lay_out_once(figure)
    return figure


@pytest.mark.parametrize("width", [3.4, 7.0])
def test_a_legend_is_no_wider_than_its_figure(width):
    marks = [Mark("line", (1, 2), (k, 1), label=name, colour=k) for k, name in enumerate(LONG)]
    figure = drawn_panels([Panel(marks, "", "n", "share")], width)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_long_words_of_an_axis_are_folded_to_its_length():
    words = "content positions that a prefix of several vectors changes in the last layer of all"
    figure = drawn_panels([Panel([Mark("line", (1, 2), (1, 2))], words, words, words)], 3.4)
    (axis,) = figure.axes
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        assert "\n" in text.get_text()
        assert text.get_text().replace("\n", " ") == words
        box = text.get_window_extent()
        assert box.y1 - box.y0 <= figure.bbox.height
        assert box.x1 - box.x0 <= figure.bbox.width


@pytest.mark.parametrize("count", [2, 4])
def test_names_along_an_axis_do_not_touch(count):
    names = ["noise 300", "photograph 300", "noise 40", "photograph 40"][:count]
    bars = Panel([Mark("bars", range(count), [0.5] * count)], x_names=names)
    figure = drawn_panels([bars, bars, bars], 7.0)
    ticks = figure.axes[0].xaxis.get_major_ticks()
    boxes = [tick.label1.get_window_extent() for tick in ticks]
    assert len(boxes) == count
    assert all(second.x0 > first.x1 for first, second in itertools.pairwise(boxes))


def latex_finds(*files):
    """Whether LuaLaTeX is there with these files."""
    if not all(map(shutil.which, ("lualatex", "kpsewhich"))):
        return False
    return all(subprocess.run(["kpsewhich", f], capture_output=True).returncode == 0 for f in files)


@pytest.mark.skipif(
    not latex_finds("pgf.sty", "fontspec.sty", "luaotfload.sty"),
    reason="LuaLaTeX with pgf, fontspec and luaotfload is not there",
)
def test_latex_compiles_a_pgf_figure(tmp_path):
    marks = [Mark("line", (1, 2), (0.5, 0.6), label="theory, ζ = ½ and 95 %, a_b")]
    figure = drawn_panels([Panel(marks, "$e^{x}$ & more", "n / d", "share ⟨w, w⋆⟩")], 3.4)
    (path,) = canvas.save_figure(figure, tmp_path, "figure", ("pgf",))
    document = "\\documentclass{article}\\usepackage{fontspec,pgf}\\setmainfont{DejaVu Sans}"
    text = document + "\\begin{document}\\input{" + path.name + "}\\end{document}"
    (tmp_path / "page.tex").write_text(text, encoding="utf-8")
    made = subprocess.run(
        ["lualatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:]


def test_limits_from_above_and_below_differ_in_grey():
    limits = [Mark("limit", [0], [k], label=str(k), colour=k) for k in (1, 2)]
    figure = drawn_panels([Panel([Mark("bars", [0], [1.5]), *limits], x_names=["one"])], 7.0)
    dashes = {str(lines.get_linestyle()) for lines in figure.axes[0].collections}
    assert len(dashes) >= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(10_000, "10000"), (0.70710678, "0.7071"), (1.0, "1"), ([[0.0, 0.5]], "(0, 0.5)"),
     ("two_term", "two term"), (1e-7, "1e-07")],
)  # fmt: skip
def test_values_in_words(value, text):
    assert canvas.format_value(value) == text


def test_parameters_in_words():
    ridge = Parameter("ridge", "real", "ridge strength", "λ")
    width = Parameter("head_dim", "integer", "width of a head, even", "d_h")
    assert canvas.name_and_value(ridge, "ridge", 0.05) == "ridge strength λ = 0.05"
    assert canvas.name_and_value(width, "head_dim", 8) == "head dim $d_h$ = 8"
    assert canvas.name_and_value(None, "shift_weights", 1) == "shift weights 1"


def test_the_last_digits_of_a_layout_do_not_reach_the_file(tmp_path, monkeypatch):
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    place = ConstrainedLayoutEngine.execute
    steps = itertools.count()

    def place_a_little_off(engine, figure):
        place(engine, figure)
        shift = 1e-15 * next(steps)
        for axis in figure.axes:
            box = axis.get_position(original=True)
            axis._set_position(box.translated(shift, -shift))

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", place_a_little_off)
    marks = [Mark("line", (1, 2), (1, 2), label="theory")]
    spec = Panels(lambda *_: [], "A title")
    files = []
    for name in "ab":
        with mpl.rc_context(canvas.figure_style()):
            figure = draw_panels(spec, [Panel(marks, "", "n", "share")] * 2)
            canvas.save_figure(figure, tmp_path, name)
        files.append([(tmp_path / f"{name}.{kind}").read_bytes() for kind in ("png", "svg")])
    assert next(steps) > 1, "the layout was shifted between the two drawings"
    assert files[0] == files[1]
