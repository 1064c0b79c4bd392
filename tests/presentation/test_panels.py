"""Figures made of marks: their tables hold them whole, and every mark is drawn."""

import math

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.figures import complete_figure
from jaxprompt.core.keys import as_key
from jaxprompt.presentation import plot, report
from jaxprompt.presentation.figure_tables import figure_needs_verdict, figure_tables
from jaxprompt.presentation.panels import panels_from_tables, panels_to_tables
from jaxprompt.presentation.table_files import load_table_rows, save_table

EVERY_MARK = (
    jp.Panel(
        (
            jp.Mark("line", [0, 1, 2], [0.0, 1.0, 4.0], label="theory"),
            jp.Mark("points", [0, 1, 2], [0.1, 1.1, 3.9], half=[0.2, 0.2, 0.2], label="measured"),
            jp.Mark("band", [0, 1, 2], [0, 0, 0], upper=[1, 2, 5]),
            jp.Mark("level", y=[2.0], label="bound", colour=2),
            jp.Mark("vertical", x=[1.5]),
            jp.Mark("step", [0, 1], [1, 2], colour=3),
        ),
        "curves", "n", "error", x_range=(-1, 3), y_range=(0, 5),
    ),
    jp.Panel(
        (jp.Mark("bars", [0, 1], [0.5, 0.7], half=[0.1, 0.1], label="one"),
         jp.Mark("bars", [0, 1], [0.2, 0.3], label="other", colour=1)),
        "bars", x_names=("first", "second"),
    ),
    jp.Panel(
        (jp.Mark("map", [0, 1, 0, 1], [0, 0, 1, 1], value=[0.1, 0.2, 0.3, math.nan]),),
        "map", value_range=(0, 1), value_label="mass",
    ),
    jp.Panel((jp.Mark("line", [1, 10], [1, 100]),), "logarithmic", log_x=True, log_y=True),
)  # fmt: skip


def plain(panel: jp.Panel) -> dict:
    """A panel with its numbers as lists, NaN as None, so that equality means equal."""

    def numbers(values):
        return [None if math.isnan(v) else float(v) for v in values]

    marks = [
        {
            n: numbers(v) if isinstance(v, list | tuple | np.ndarray) else v
            for n, v in vars(m).items()
        }
        for m in panel.marks
    ]
    rest = {n: list(v) if isinstance(v, tuple | list) else v for n, v in vars(panel).items()}
    return {**rest, "marks": marks}


def claim() -> jp.Claim:
    base = jp.claim("prefix.pattern_invariance")
    figure = jp.Panels(lambda claim, verdict, key: EVERY_MARK, "every mark", needs_check=False)
    object.__setattr__(base := type(base)(**vars(base)), "figure", complete_figure(base, figure))
    return base


def test_tables_hold_every_panel_whole(tmp_path):
    tables = []
    for name, rows in zip("abc", panels_to_tables(EVERY_MARK), strict=True):
        save_table(tmp_path / name, rows)
        tables.append(load_table_rows(tmp_path / name))
    assert [plain(p) for p in panels_from_tables(*tables)] == [plain(p) for p in EVERY_MARK]


@pytest.fixture(scope="module")
def figure():
    return plot.draw(claim(), figure_tables(claim(), None, as_key(0)))


def test_a_figure_of_marks_is_drawn_from_what_was_stored(tmp_path):
    own = claim()
    assert not figure_needs_verdict(own)
    report.write_data(tmp_path, own, figure_tables(own, None, as_key(0)))
    drawn = report.draw_figures(tmp_path, [own], tmp_path)
    assert {path.suffix for path in drawn} == {".png", ".svg"}


@pytest.mark.slow
def test_a_figure_of_marks_is_drawn_again_to_the_same_bytes(tmp_path):
    own = claim()
    report.write_data(tmp_path, own, figure_tables(own, None, as_key(0)))
    first = report.draw_figures(tmp_path, [own], tmp_path / "a")
    second = report.draw_figures(tmp_path, [own], tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_one_legend_names_every_labelled_mark_once(figure):
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["theory", "bound", "measured", "one",
                                                          "other"]  # fmt: skip


@pytest.mark.parametrize("panel", range(len(EVERY_MARK)))
def test_a_panel_keeps_its_words_and_ranges(panel, figure):
    axis, spec = figure.axes[panel], EVERY_MARK[panel]
    assert axis.get_title() == spec.title
    assert axis.get_xlabel() == spec.x_label
    if spec.x_range:
        assert axis.get_xlim() == spec.x_range
    if spec.x_names:
        assert [t.get_text() for t in axis.get_xticklabels()] == list(spec.x_names)
