"""The picture that belongs to each kind of comparison, and that it can be drawn again."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from quick_cases import mostly_slow

import jaxprompt as jp
from jaxprompt.core.figures import complete_figure
from jaxprompt.core.keys import as_key
from jaxprompt.errors import ClaimError
from jaxprompt.presentation import plot, report
from jaxprompt.presentation.figure_tables import FigureTables, figure_needs_verdict, figure_tables

EXAMPLES = Path(__file__).parents[2] / "examples"

KINDS = {
    "semicircle_edge": "limit",
    "random_walk": "rate",
    "hoffman_wielandt": "sides",
    "determinant_lemma": "sides",
    "order_statistics": "function",
    "wigner_surmise": "distribution",
    "james_stein": "values",
}


def example(name: str) -> jp.Claim:
    (claim,) = jp.load_claims(EXAMPLES / f"{name}.py")
    return claim


@pytest.fixture(scope="module", params=mostly_slow(KINDS, "determinant_lemma".__ne__))
def drawn(request):
    """A claim of each kind, its verdict with few trials, and the tables of its figure."""
    claim = example(request.param)
    verdict = claim.check(trials=60)
    return claim, verdict, figure_tables(claim, verdict, as_key(0))


def test_each_kind_of_comparison_has_its_picture(drawn):
    claim, _, tables = drawn
    assert isinstance(claim.figure, jp.Evidence)
    assert {row["kind"] for row in tables.points} == {KINDS[claim.id.removeprefix("example.")]}
    assert tables.lines, "theory is drawn as a line"


def test_the_picture_is_drawn_again_from_what_was_stored(drawn, tmp_path):
    claim, _, tables = drawn
    report.write_data(tmp_path, claim, tables)
    first = report.draw_figures(tmp_path, [claim], tmp_path / "a")
    second = report.draw_figures(tmp_path, [claim], tmp_path / "b")
    assert first
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_fit_of_a_limit_ends_at_the_limit_of_the_row():
    claim = example("semicircle_edge")
    verdict = claim.check(trials=60)
    (row,) = verdict.rows
    assert row.fit.line_sizes[0] == np.inf
    np.testing.assert_allclose(row.predicted + row.fit.line_values[0], row.simulated, rtol=1e-12)
    # A stated form of two powers through four sizes, by ordinary weighted least squares.
    sizes, values = np.asarray(row.fit.sizes), np.asarray(row.fit.values)
    columns = np.stack([sizes**0, sizes ** (-2 / 3), sizes ** (-4 / 3)], axis=1)
    weights = 1 / np.asarray(row.fit.stderrs)
    found = np.linalg.lstsq(columns * weights[:, None], values * weights, rcond=None)[0]
    line = np.asarray(row.fit.line_sizes[1:])
    expected = found[0] + found[1] * line ** (-2 / 3) + found[2] * line ** (-4 / 3)
    np.testing.assert_allclose(row.fit.line_values[1:], expected, rtol=1e-8)


def test_the_line_of_a_rate_has_the_slope_of_the_row():
    claim = example("random_walk")
    (row,) = claim.check(trials=60).rows
    x, y = np.log(row.fit.line_sizes), np.log(row.fit.line_values)
    np.testing.assert_allclose(np.diff(y) / np.diff(x), row.simulated, rtol=1e-9)


@pytest.mark.slow
def test_curves_of_a_limit_show_its_extrapolation():
    claim = example("ridge_risk")
    assert figure_needs_verdict(claim)
    tables = figure_tables(claim, claim.check(trials=40), as_key(0))
    assert isinstance(tables, FigureTables)
    limits = [row for row in tables.fits if row["role"] == "limit"]
    assert len(limits) == 4, "one limit for each ratio and ridge of the design"
    assert all(row["x"] == 0 for row in limits)


def test_labels_of_sizes_do_not_meet():
    (claim,) = jp.load_claims(EXAMPLES / "gallery" / "token_selection.py")
    figure = plot.draw(claim, figure_tables(claim, claim.check(), as_key(0)))
    figure.draw_without_rendering()
    axis = next(a for a in figure.axes if a.get_title() == "extrapolation")
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert len(boxes) >= 3
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_a_quantity_that_the_claim_lacks_is_refused():
    claim = example("random_walk")
    with pytest.raises(ClaimError, match="distanse"):
        complete_figure(claim, jp.Evidence(quantities=("distanse",)))
