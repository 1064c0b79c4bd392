"""Residuals of a report: ±1 is where the check itself would refute a row."""

from __future__ import annotations

import math
import re

import pytest
from scipy.stats import norm

import jaxprompt as jp
from jaxprompt.presentation import report
from jaxprompt.presentation.residuals import FARTHEST, MET_BY_FAR, residuals_by_quantity

LEVEL = 0.01


def row(**changes):
    return {
        "quantity": "value", "difference": 0.0, "tolerance": 1.0, "p_value": 1.0, "side": "two",
        "exact": False, "verdict": "confirmed", **changes,
    }  # fmt: skip


def share_of(changed, beside=0):
    """The share of one row among so many noisy ones."""
    rows = [row(**changed), *(row(quantity="other") for _ in range(beside))]
    (mark,) = residuals_by_quantity(rows, LEVEL)["value"]
    return mark.share


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("side", ["two", "upper", "lower"])
def test_the_largest_allowed_difference_is_one(side, rows):
    out = -1.0 if side == "lower" else 1.0
    at_level = {"side": side, "p_value": LEVEL / rows, "difference": out}
    assert share_of(at_level, rows - 1) == pytest.approx(out, abs=1e-3)
    assert abs(share_of({**at_level, "p_value": 0.5 * LEVEL / rows}, rows - 1)) > 1
    assert abs(share_of({**at_level, "p_value": 2 * LEVEL / rows}, rows - 1)) < 1


def test_a_mean_is_at_its_standard_errors():
    """Two standard errors below, among ten rows."""
    p = 2 * norm.sf(2.0)
    expected = -2.0 / norm.isf(LEVEL / 10 / 2)
    assert share_of({"p_value": p, "difference": -0.1}, 9) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("difference", "tolerance", "expected"),
    [(0.5, 1.0, 0.5), (-3.0, 2.0, -1.5), (0.0, 0.0, 0.0), (1e-300, 0.0, FARTHEST),
     (9.0, 1.0, FARTHEST)],
)  # fmt: skip
def test_an_exact_number_is_at_its_tolerances(difference, tolerance, expected):
    exact = {"exact": True, "difference": difference, "tolerance": tolerance}
    assert share_of(exact) == expected


@pytest.mark.parametrize(("side", "expected"), [("upper", -MET_BY_FAR), ("lower", MET_BY_FAR)])
@pytest.mark.parametrize("exact", [True, False])
def test_a_bound_met_by_far_is_within_what_is_allowed(side, expected, exact):
    far = {"side": side, "exact": exact, "p_value": 1.0,
           "difference": math.copysign(50.0, expected)}  # fmt: skip
    (mark,) = residuals_by_quantity([row(**far)], LEVEL)["value"]
    assert (mark.share, mark.beyond) == (expected, True)


def test_rows_without_numbers_are_left_out():
    rows = [row(difference=None), row(p_value=None), row(exact=True, difference=math.nan)]
    assert residuals_by_quantity(rows, LEVEL) == {}


def test_the_page_shows_every_row(toy_claim, toy_registry, tmp_path):
    claim = toy_claim()
    toy_registry(claim)
    verdict = claim.check()
    report.write_json(tmp_path, {"jaxprompt": "0"}, [verdict], {})
    page = report.write_html(tmp_path).read_text(encoding="utf-8")
    (picture,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    marks = re.findall(r'<(?:circle|path) class="(\w+)"', picture)
    assert marks.count("confirmed") == len(verdict.rows)
    assert verdict.status is jp.Status.CONFIRMED
