"""Verdicts of whole checks: measured false-alarm rates and power, and the rules they apply."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_cases import some_slow
from rates import CHECKS, LEVEL, estimates, rate_at_least, rate_at_most
from scipy import stats as sps

from jaxprompt import stats
from jaxprompt.stats import Comparison, Estimate, Status


@pytest.mark.parametrize("trials", [3, 64])
@pytest.mark.parametrize("common", some_slow([0.8, 0.0, 1.0], first=1))
def test_false_alarms_of_means(trials, common):
    rng = np.random.default_rng([trials, int(10 * common)])
    hits = 0
    for _ in range(CHECKS):
        found = estimates(rng, trials, 6, mean=0.4, spread=2.0, common=common)
        rows = stats.decide(
            [stats.compare_mean("a", {}, 0.4, e, tolerance=9) for e in found], LEVEL
        )
        hits += any(row.verdict == Status.REFUTED for row in rows)
    rate_at_most(hits, CHECKS, LEVEL, f"false alarms, 6 rows of {trials} trials, corr. {common}")
    if common == 0.0:  # the level is used, not wasted: Holm over 6 independent rows is near exact
        rate_at_least(hits, CHECKS, 0.8 * LEVEL, "false alarms of independent rows")


def test_false_alarms_with_a_prediction_error():
    rng = np.random.default_rng(5)
    freedom, hits = stats.PREDICTION_DOF, 0
    for _ in range(CHECKS):
        (found,) = estimates(rng, 64, 1)
        own = 0.05
        guess = rng.normal() * own
        stated = own * math.sqrt(rng.chisquare(freedom) / freedom)
        rows = stats.decide(
            [stats.compare_mean("a", {}, guess, found, tolerance=9, predicted_stderr=stated)], LEVEL
        )
        hits += rows[0].verdict == Status.REFUTED
    rate_at_most(hits, CHECKS, LEVEL, "false alarms with a noisy prediction")


@pytest.mark.parametrize("trials", some_slow([6, 32], first=1))
def test_power_at_the_stated_discrepancy(trials):
    rng = np.random.default_rng(trials)
    rows_of_a_check, hits = 4, 0
    true_error = 1 / math.sqrt(trials)
    shift = stats.detectable(true_error, trials - 1, LEVEL / rows_of_a_check)
    stated = []
    for _ in range(CHECKS):
        found = estimates(rng, trials, rows_of_a_check)
        wrong = [shift, 0.0, 0.0, 0.0]
        rows = stats.decide(
            [
                stats.compare_mean("a", {}, w, e, tolerance=9)
                for w, e in zip(wrong, found, strict=True)
            ],
            LEVEL,
        )
        hits += rows[0].verdict == Status.REFUTED
        stated.append(rows[0].detectable)
    rate_at_least(hits, CHECKS, 0.95, f"power at the detectable discrepancy, {trials} trials")
    assert np.mean(stated) == pytest.approx(shift, rel=0.1), "stated and true detectable differ"


def test_power_at_what_each_check_states_itself():
    # A false prediction is off by exactly what that very check calls detectable.
    rng, hits = np.random.default_rng(17), 0
    for _ in range(CHECKS):
        (found,) = estimates(rng, 64, 1)
        off = stats.detectable(found.stderr, 63, LEVEL)
        row = stats.decide([stats.compare_mean("a", {}, off, found, tolerance=9)], LEVEL)[0]
        hits += row.verdict == Status.REFUTED
    rate_at_least(hits, CHECKS, 0.9, "power at the discrepancy each check states")


@pytest.mark.parametrize(
    ("rows", "goodness", "status"),
    [(1, 9e-5, "inconclusive"), (1, 1.1e-4, "confirmed"), (10, 9e-5, "inconclusive"),
     (100, 9e-6, "inconclusive"), (100, 1.1e-5, "confirmed")],
)  # fmt: skip
def test_fits_of_one_check_share_their_level(rows, goodness, status):
    fits = [stats.Comparison("a", {}, 0.0, 0.0, 9.0, stderr=1.0, dof=63, goodness=g)
            for g in (goodness, *[0.5] * (rows - 1))]  # fmt: skip
    found = [row.verdict for row in stats.decide(fits, LEVEL)]
    assert found == [status, *["confirmed"] * (rows - 1)]


def test_inconclusive_when_the_detectable_exceeds_the_tolerance():
    noisy = Estimate(0.5, 0.1, 50)
    row = stats.decide([stats.compare_mean("a", {}, 0.5, noisy, tolerance=0.01)], LEVEL)[0]
    assert row.verdict == Status.INCONCLUSIVE
    assert row.detectable > row.tolerance
    wrong = stats.decide([stats.compare_mean("a", {}, 5.0, noisy, tolerance=0.01)], LEVEL)[0]
    assert wrong.verdict == Status.REFUTED, "a clear contradiction refutes at any tolerance"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["predicted", "simulated", "stderr", "predicted_stderr"])
def test_numbers_that_are_not_finite_fail(bad, place):
    numbers = {"predicted": 0.5, "simulated": 0.5, "stderr": 0.1, "predicted_stderr": 0.0}
    good = Comparison("a", {}, 0.5, 0.5, 1.0, stderr=0.1)
    broken = Comparison("a", {}, tolerance=1.0, **{**numbers, place: bad})
    for judge in (stats.decide, stats.decide_equivalence):
        rows = judge([good, broken], LEVEL)
        assert rows[0].verdict == Status.CONFIRMED
        assert rows[1].verdict == Status.FAILED


def test_a_failed_row_does_not_change_the_level_of_the_others():
    good = Comparison("a", {}, 0.5, 0.5, 1.0, stderr=0.1, dof=20)
    alone = stats.decide([good], LEVEL)[0]
    beside = stats.decide([good, Comparison("a", {}, math.nan, 0.5, 1.0, stderr=0.1)], LEVEL)[0]
    assert alone.detectable == beside.detectable


@pytest.mark.parametrize(
    ("difference", "stderr", "expected"),
    [
        (0.0, 0.001, Status.CONFIRMED),
        (0.05, 0.001, Status.CONFIRMED),
        (0.2, 0.001, Status.REFUTED),
        (0.1, 0.01, Status.INCONCLUSIVE),
        (0.0, 0.2, Status.INCONCLUSIVE),
        (0.05, 0.0, Status.CONFIRMED),
        (0.2, 0.0, Status.REFUTED),
    ],
)
def test_decide_equivalence(difference, stderr, expected):
    row = Comparison("a", {}, 0.5, 0.5 + difference, 0.1, stderr=stderr or None, dof=60)
    assert stats.decide_equivalence([row], LEVEL)[0].verdict == expected


def test_rates_of_decide_equivalence():
    rng, wrong = np.random.default_rng(6), {0.1: 0, -0.1: 0}
    for _, edge in itertools.product(range(CHECKS), wrong):
        (found,) = estimates(rng, 20, 1, mean=0.5 + edge, spread=0.1)
        row = stats.compare_mean("a", {}, 0.5, found, tolerance=0.1)
        wrong[edge] += stats.decide_equivalence([row], LEVEL)[0].verdict != Status.INCONCLUSIVE
    for edge, hits in wrong.items():
        rate_at_most(hits, CHECKS, LEVEL, f"certain verdicts at the tolerance's edge {edge}")


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ("c", "confirmed"),
        ("ci", "inconclusive"),
        ("cif", "failed"),
        ("cifr", "refuted"),
        ("", "failed"),
    ],
)
def test_overall(parts, whole):
    names = {status.value[0]: status for status in Status}
    assert stats.combine_statuses(names[p] for p in parts) == whole


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=7),
    st.floats(0.001, 0.5),
)
def test_holm_against_the_closure_principle(p_values, level):
    # Holm rejects i exactly when every intersection that contains i fails its Bonferroni test.
    n = len(p_values)
    expected = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        sets = itertools.chain.from_iterable(itertools.combinations(others, r) for r in range(n))
        expected.append(
            all(min(p_values[j] for j in (i, *rest)) <= level / (1 + len(rest)) for rest in sets)
        )
    assert stats.holm(p_values, level).tolist() == expected


@pytest.mark.parametrize("freedom", [1, 2, 5, 15, 63, 1000, 2e4, math.inf])
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("level", [0.05, 1e-3, 1e-5])
def test_detectable_against_the_noncentral_t_law(freedom, two_sided, level):
    shift = stats.detectable(1.0, freedom, level, two_sided=two_sided)
    tail = level / 2 if two_sided else level
    if freedom == 1 and level < 1e-4:  # SciPy's law fails there: by Monte Carlo
        rng = np.random.default_rng(0)
        error = np.abs(rng.normal(size=10**6))
        power = (rng.normal(size=10**6) + shift > sps.t.isf(tail, 1) * error).mean()
        assert 0.949 <= power <= 0.98, f"power {power:.5f} at {shift:.3f}"
        return
    if freedom > 1e4:
        power = sps.norm.sf(sps.norm.isf(tail) - shift)
    else:
        power = sps.nct.sf(sps.t.isf(tail, freedom), freedom, shift)
    assert power == pytest.approx(stats.POWER, abs=2e-4), f"power {power:.5f} at {shift:.3f}"
    assert stats.detectable(0.01, freedom, level, two_sided=two_sided) == pytest.approx(
        0.01 * shift
    )


def test_welch_freedom_of_a_difference():
    row = Comparison("a", {}, 0.0, 0.0, 1.0, stderr=3e-200, dof=10, predicted_stderr=4e-200)
    share = np.array([9, 16]) / 25
    expected = 1 / (share[0] ** 2 / 10 + share[1] ** 2 / stats.PREDICTION_DOF)
    assert row.total_dof == pytest.approx(expected)


def test_numbers_that_are_no_statistics_are_refused():
    for p_values in ([math.nan, 0.5], [-1.0], [1.5]):
        with pytest.raises(ValueError, match="p-value"):
            stats.holm(p_values, 0.05)
    with pytest.raises(ValueError, match="must be ≥ 0"):
        stats.detectable(-1.0, 10, 0.05)
    negative = Comparison("a", {}, 0.5, 0.5, 1.0, stderr=-0.1)
    assert stats.decide([negative], LEVEL)[0].verdict == Status.FAILED


def test_one_trial_says_nothing_and_says_so():
    row = stats.compare_mean("a", {}, 0.0, Estimate(50.0, 1.0, 1), tolerance=1.0)
    assert stats.decide([row], 1e-3)[0].verdict != Status.CONFIRMED


def test_what_cannot_be_tested_is_undecided_beside_the_others():
    none = Comparison("a", {}, 0.5, 0.9, 1.0, stderr=0.1, undecided="2 sizes: add a size")
    good = Comparison("b", {}, 0.5, 0.5, 1.0, stderr=0.1, dof=20)
    for judge in (stats.decide, stats.decide_equivalence):
        rows = judge([none, good], LEVEL)
        assert [row.verdict for row in rows] == [Status.INCONCLUSIVE, Status.CONFIRMED]
        assert rows[0].note == "2 sizes: add a size"


def test_forms_that_nobody_stated_are_judged_together():
    near = {"stderr": 0.01, "dof": 100, "form_found": True}
    inside = Comparison("a", {}, 1.0, 1.06, 0.1, alternatives=((0.97, 0.01, 100),), **near)
    outside = Comparison("a", {}, 1.0, 1.06, 0.1, alternatives=((0.7, 0.01, 100),), **near)
    against = Comparison("a", {}, 1.0, 1.3, 0.1, alternatives=((1.2, 0.01, 100),), **near)
    verdicts = [stats.decide([c], 1e-3)[0].verdict for c in (inside, outside, against)]
    assert verdicts == [Status.CONFIRMED, Status.INCONCLUSIVE, Status.REFUTED]
