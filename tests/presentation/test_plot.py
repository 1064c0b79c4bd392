"""Figures: equal tables give equal bytes, drawn from what was stored."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import jaxprompt as jp
from jaxprompt.core.claim import Agreement, Curves, Design, ExtraLine, Regions, Relation
from jaxprompt.core.keys import as_key
from jaxprompt.presentation import canvas, plot, report
from jaxprompt.presentation.canvas import save_figure
from jaxprompt.presentation.figure_tables import FigureTables, figure_tables
from jaxprompt.presentation.table_files import load_table_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def curves(toy_claim):
    return toy_claim(
        size="size",
        figure=Curves(
            x="level",
            y="value",
            design=Design.product({}, {"level": [1.0, 2.0, 4.0], "size": [4, 8, 16]}, 12),
            lines=(1.0, 2.0, 3.0, 4.0),
            title="Toy curves",
            x_label="level",
            y_label="value",
            series="size",
            series_label="size = {value}",
            log_x=True,
            marks={"value": "a mark"},
            extra=(ExtraLine("twice", lambda x, **params: 2 * x),),
            caption="a caption",
        ),
    )


@pytest.fixture(scope="module")
def agreement(toy_claim):
    return toy_claim(figure=Agreement(title="Toy", label="value"))


@pytest.fixture(scope="module")
def regions(toy_claim):
    return toy_claim(
        designs={"quick": Design.product({}, {"level": [1.0, 2.0, 4.0], "size": [4, 8]}, 12)},
        figure=Regions(
            x="level",
            y="size",
            panels=(("all", {}, "value"),),
            x_lines=(1.0, 2.0, 4.0),
            y_lines=(4.0, 8.0),
            levels=(0.5, 1.5),
            title="Toy regions",
            x_label="level",
            y_label="size",
            value_label="value",
            value_range=(0.0, 4.0),
            log_y=True,
        ),
    )


@pytest.fixture(scope="module", params=["curves", "agreement", "regions"])
def figure_claim(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def saved(figure_claim, tmp_path_factory):
    """The files of each kind of figure."""
    folder = tmp_path_factory.mktemp("one")
    return save_figure(plot.draw(figure_claim, tables_of(figure_claim)), folder, figure_claim.id)


def tables_of(claim):
    verdict = claim.check() if isinstance(claim.figure, Agreement | Regions) else None
    return figure_tables(claim, verdict, as_key(0))


def test_an_agreement_shows_the_quantities_it_names(toy_claim):
    figure = Agreement(title="Toy", label="value", quantities=("value",))
    assert tables_of(toy_claim(figure=figure)) == tables_of(toy_claim(figure=Agreement("Toy", "")))
    with pytest.raises(ValueError, match="quantity 'valve' must be one of value"):
        toy_claim(figure=Agreement(title="Toy", label="value", quantities=("valve",)))


def test_an_agreement_says_how_many_trials_and_how_wide_their_intervals_are(toy_claim):
    runs = [{"level": 1.0, "size": size, "trials": n} for size, n in ((4, 40), (8, 10), (16, 20))]
    design = Design(tuple(runs), 40)
    figure = Agreement(title="Toy", label="value", limits=True)

    apart = toy_claim(designs={"quick": design}, figure=figure)
    tables = tables_of(apart)
    assert [r["trials"] for r in tables.points] == [40, 10, 20]
    drawn = plot.draw(apart, tables)
    assert any("means of at least 10 trials" in text.get_text() for text in drawn.texts)
    names = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert names == ["value, size 4", "value, size 8", "value, size 16"]
    (bars,) = drawn.axes[0].containers
    for path, r in zip(bars[2][0].get_paths(), tables.points, strict=True):
        half = np.ptp(path.vertices[:, 0]) / 2
        assert half == pytest.approx(scipy.stats.t.ppf(0.975, r["trials"] - 1) * r["stderr"])

    for r in tables.points:
        del r["trials"]
    assert any(text.get_text() == "bars: 95 %" for text in plot.draw(apart, tables).texts), (
        "tables of earlier versions do not say how many trials"
    )

    changes = {"relation": Relation.ASYMPTOTIC, "size": "size"}
    fitted = toy_claim(designs={"quick": design}, figure=figure, **changes)
    assert [r["trials"] for r in tables_of(fitted).points] == [10], "the least of what it joins"


def test_a_figure_has_two_files(saved):
    assert [path.name for path in saved] == ["contextual.toy.png", "contextual.toy.svg"]
    assert all(path.stat().st_size > 5000 for path in saved)
    assert sorted(saved[0].parent.iterdir()) == sorted(saved)


@pytest.mark.slow
def test_equal_tables_give_equal_bytes(figure_claim, saved, tmp_path):
    again = save_figure(plot.draw(figure_claim, tables_of(figure_claim)), tmp_path, figure_claim.id)
    for first, second in zip(saved, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), f"{first.suffix} differs between draws"


def test_a_figure_from_stored_tables_equals_the_original(figure_claim, saved, tmp_path):
    """So equal tables give equal bytes."""
    report.write_data(tmp_path, figure_claim, tables_of(figure_claim))
    report.draw_figures(tmp_path, [figure_claim], tmp_path / "stored")
    for direct in saved:
        stored = tmp_path / "stored" / direct.name
        assert direct.read_bytes() == stored.read_bytes(), f"{direct.suffix} from the store differs"


@pytest.mark.parametrize(
    "ids", [["universal.kernel_head"], pytest.param([], marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_the_committed_figures_are_what_their_numbers_give(ids, tmp_path):
    """One command redraws `figures/` from the data beside it, to the same bytes."""
    import matplotlib

    lock = (ROOT / "requirements.lock").read_text()
    drawn_with = re.search(r"^matplotlib==(\S+)", lock, re.MULTILINE)[1]
    if matplotlib.__version__ != drawn_with:
        pytest.skip(f"the bytes are those of matplotlib {drawn_with}, of the lock file")
    chosen = [claim for claim in jp.claims() if not ids or claim.id in ids]
    for path in report.draw_figures(ROOT / "figures", chosen, tmp_path):
        committed = ROOT / "figures" / path.name
        assert path.read_bytes() == committed.read_bytes(), f"{path.name}: redraw it and commit"


def test_the_style_is_a_file_that_others_can_use():
    import matplotlib as mpl
    import matplotlib.style

    with mpl.rc_context():
        mpl.style.use("jaxprompt.figures")
        assert mpl.rcParams["font.size"] == 8
        assert mpl.rcParams["savefig.dpi"] == 100 * canvas.SCALE
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"][0] == canvas.curve_colour(0)


def test_figures_fit_a_page(figure_claim):
    figure = plot.draw(figure_claim, tables_of(figure_claim))
    assert figure.get_figwidth() <= 7.0


def test_tables_hold_both_sides(curves):
    tables = tables_of(curves)
    assert len(tables.points) == 9
    assert {row["series"] for row in tables.points} == {4, 8, 16}
    kinds = {row["kind"] for row in tables.lines}
    assert kinds == {"theory", "mark", "extra"}
    theory = [row for row in tables.lines if row["kind"] == "theory"]
    assert [row["x"] for row in theory] == [1.0, 2.0, 3.0, 4.0], "the limit has one line"
    assert all(row["y"] == row["x"] for row in theory)


def test_points_are_measured_at_the_design(curves):
    points = tables_of(curves).points
    assert sorted({row["x"] for row in points}) == [1.0, 2.0, 4.0]
    assert all(row["trials"] == 12 and row["stderr"] > 0 for row in points)
    assert points == tables_of(curves).points


def nowhere_at_two(*, level, **unused):
    return {"value": level * (level - 2.0) / (level - 2.0)}


def test_where_the_closed_form_has_no_number_a_line_has_a_gap(toy_claim, tmp_path):
    design = Design.product({}, {"level": [1.0, 4.0], "size": [8]}, 12)
    figure = Curves(x="level", y="value", design=design, lines=(1.0, 2.0, 3.0))
    claim = toy_claim(closed_form=nowhere_at_two, figure=figure)
    tables = tables_of(claim)
    np.testing.assert_array_equal([row["y"] for row in tables.lines], [1.0, np.nan, 3.0])
    assert save_figure(plot.draw(claim, tables), tmp_path, "gap", ("png",))


def test_where_the_closed_form_has_no_number_a_plane_has_a_hole(regions, toy_claim):
    verdict = regions.check()
    whole = figure_tables(regions, verdict, as_key(0)).lines
    holed = toy_claim(closed_form=nowhere_at_two, designs=regions.designs, figure=regions.figure)
    lines = figure_tables(holed, verdict, as_key(0)).lines
    assert whole
    assert len(lines) < len(whole)


def test_labels_and_legend(curves):
    figure = plot.draw(curves, tables_of(curves))
    (axis,) = figure.axes
    assert axis.get_xlabel() == "level"
    assert axis.get_ylabel() == "value"
    assert axis.get_xscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"size = 4", "size = 8", "size = 16", "limit", "twice", "a mark"} <= set(labels)


def test_series_differ_in_more_than_colour(curves):
    figure = plot.draw(curves, tables_of(curves))
    markers = [container.lines[0].get_marker() for container in figure.axes[0].containers]
    assert len(markers) == len(set(markers)) == 3


def test_no_figure(toy_claim):
    claim = toy_claim()
    assert figure_tables(claim, None, as_key(0)) is None
    with pytest.raises(ValueError, match="no figure"):
        plot.draw(claim, FigureTables([], []))


def test_regions_hold_the_check_and_the_closed_form(regions):
    tables = tables_of(regions)
    assert [(r["x"], r["y"]) for r in tables.points][:2] == [(1.0, 4.0), (1.0, 8.0)]
    # The toy's value is its level: it is 1.5 where x is, and nowhere 0.5.
    assert {row["level"] for row in tables.lines} == {1.5}
    assert all(row["x"] == pytest.approx(1.5) for row in tables.lines)
    assert {row["y"] for row in tables.lines} == {4.0, 8.0}
    (axis, _) = plot.draw(regions, tables).axes
    assert axis.get_yscale() == "log"
    (line,) = axis.lines
    assert np.ptp(line.get_xdata()) == pytest.approx(0.0)


def test_an_agreement_needs_a_verdict(agreement):
    with pytest.raises(ValueError, match="needs the check's verdict"):
        figure_tables(agreement, None, as_key(0))


def test_stored_tables_keep_every_number(curves, tmp_path):
    tables = tables_of(curves)
    report.write_data(tmp_path, curves, tables)
    rows = load_table_rows(tmp_path / "data" / curves.id / "points.csv")
    for row, original in zip(rows, tables.points, strict=True):
        for name in ("x", "y", "stderr", "trials", "series", "parameters"):
            assert row[name] == original[name]
