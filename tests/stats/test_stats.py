"""The statistics themselves: measured false-alarm rates and power, and the rules they apply.

Every rate is measured over many synthetic checks with fixed seeds, at a level large enough to
measure, and compared through its own exact binomial interval.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from jaxprompt import stats
from jaxprompt.stats import Comparison, Estimate, Status

LEVEL = 0.05
CHECKS = 800


def estimates(rng, trials, rows, mean=0.0, spread=1.0, common=0.0):
    """One check's estimates: `rows` means of normals, with correlation `common`."""
    noise = rng.normal(size=(trials, rows)) * math.sqrt(1 - common)
    noise = noise + rng.normal(size=(trials, 1)) * math.sqrt(common)
    e = stats.mean_estimate(mean + spread * noise)
    return [Estimate(float(m), float(s), e.trials) for m, s in zip(e.mean, e.stderr, strict=True)]


def rate_at_most(hits, checks, stated, what):
    low, high = stats.binomial_interval(hits, checks, 0.999)
    assert low <= stated, (
        f"{what}: {hits} of {checks} is a rate of {hits / checks:.4f}, between {low:.4f} and "
        f"{high:.4f}; at most {stated} is stated"
    )


def rate_at_least(hits, checks, stated, what):
    low, high = stats.binomial_interval(hits, checks, 0.999)
    assert high >= stated, (
        f"{what}: {hits} of {checks} is a rate of {hits / checks:.4f}, between {low:.4f} and "
        f"{high:.4f}; at least {stated} is stated"
    )


# --- false alarms and power of a check ---


@pytest.mark.parametrize("trials", [3, 64])
@pytest.mark.parametrize("common", [0.0, 0.8, 1.0])
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


@pytest.mark.parametrize("trials", [6, 32])
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


# --- limits by extrapolation ---

SIZES = (64, 128, 256)


def limit_check(rng, trials, off, law, spreads=(1.0, 2.0, 1.0), tolerance=99.0):
    found = []
    for size, spread in zip(SIZES, spreads, strict=True):
        (e,) = estimates(rng, trials, 1, mean=0.3 + law(size), spread=spread)
        found.append(e)
    row = stats.compare_asymptotic("a", {}, SIZES, [0.3 + off] * 3, found, tolerance=tolerance)
    return stats.decide([row], LEVEL)[0]


@pytest.mark.parametrize("trials", [4, 8, 16, 64])
def test_false_alarms_of_limits(trials):
    rng = np.random.default_rng(trials)
    rows = [limit_check(rng, trials, 0.0, lambda s: 40 / s) for _ in range(CHECKS)]
    hits = sum(row.verdict == Status.REFUTED for row in rows)
    rate_at_most(hits, CHECKS, LEVEL, f"false alarms of extrapolation, {trials} trials a size")


def test_power_of_limits():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(CHECKS):
        before = rng.bit_generator.state
        seen = limit_check(rng, 64, 0.0, lambda s: 40 / s).detectable
        rng.bit_generator.state = before  # the same data, with a prediction that far off
        hits += limit_check(rng, 64, seen, lambda s: 40 / s).verdict == Status.REFUTED
    rate_at_least(hits, CHECKS, 0.9, "power of extrapolation at the stated discrepancy")


def test_a_wrong_law_of_approach_is_inconclusive_not_refuted():
    rng = np.random.default_rng(9)
    rows = [
        limit_check(rng, 64, 0.0, lambda s: 5 * (SIZES[0] / s) ** 3, spreads=(0.1,) * 3)
        for _ in range(100)
    ]
    assert {row.verdict for row in rows} == {Status.INCONCLUSIVE}
    assert all("fit is inadequate" in row.note for row in rows)


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


def test_goodness_of_a_right_law_is_uniform():
    rng = np.random.default_rng(10)
    size = np.array([50, 100, 200, 400])
    p = []
    for _ in range(CHECKS):
        values = 0.3 + 7 / size + 0.1 * rng.normal(size=4)
        p.append(stats.extrapolate(size, values, [0.1] * 4).goodness)
    test = sps.kstest(p, "uniform")
    assert test.pvalue > 1e-3, f"goodness p-values are not uniform: KS p = {test.pvalue:.1e}"


def test_extrapolation_is_exact_on_exact_laws():
    size = np.array([10.0, 20.0, 40.0, 80.0])
    fit = stats.extrapolate(size, 2 + 3 / size, [0.1] * 4)
    assert fit.value == pytest.approx(2, abs=1e-12)
    second = stats.extrapolate(size, 2 + 3 / size - 5 / size**2, [0.1] * 4, order=2)
    assert second.value == pytest.approx(2, abs=1e-12)
    # With known errors the standard error is that of weighted least squares.
    design = np.vander(size.min() / size, 2, increasing=True) / 0.1
    expected = math.sqrt(np.linalg.inv(design.T @ design)[0, 0])
    assert fit.stderr == pytest.approx(expected, rel=1e-12)
    assert fit.dof == math.inf


@pytest.mark.parametrize("sizes", [(10, 20), (10, 10, 20), (10,)])
def test_extrapolation_needs_three_sizes(sizes):
    with pytest.raises(ValueError, match="needs at least 3"):
        stats.extrapolate(sizes, [1.0] * len(sizes), [0.1] * len(sizes))


def test_fits_need_positive_errors():
    with pytest.raises(ValueError, match="positive"):
        stats.extrapolate((1, 2, 3), [1.0] * 3, [0.1, 0.0, 0.1])
    with pytest.raises(ValueError, match="at least 3"):
        stats.slope([1, 2], [1, 2], [0.1, 0.1])


def test_a_common_prediction_error_enters_once():
    found = [Estimate(0.5, 0.01, 64)] * 3
    row = stats.compare_asymptotic(
        "a", {}, SIZES, [0.5] * 3, found, tolerance=1, predicted_stderr=0.04
    )
    assert row.total_stderr == pytest.approx(math.hypot(row.stderr, 0.04))


# --- slopes ---


def test_slope_and_its_interval():
    rng, hits = np.random.default_rng(2), 0
    x = np.log([10.0, 20.0, 40.0, 80.0, 160.0])
    for _ in range(CHECKS):
        fit = stats.slope(x, 1.5 * x + 4 + 0.2 * rng.normal(size=5), [0.2] * 5)
        hits += abs(fit.value - 1.5) > 1.959964 * fit.stderr
    low, high = stats.binomial_interval(hits, CHECKS, 0.999)
    assert low <= 0.05 <= high, f"95 % intervals miss at a rate between {low:.3f} and {high:.3f}"
    exact = stats.slope(x, 1.5 * x + 4, [0.2] * 5)
    assert exact.value == pytest.approx(1.5, abs=1e-12)
    row = stats.decide([stats.compare_rate("a", {}, 1.0, exact, tolerance=1.0)], LEVEL)[0]
    assert row.verdict == Status.REFUTED


# --- bounds ---


@pytest.mark.parametrize(
    ("side", "value", "expected"),
    [
        ("upper", 0.5, Status.CONFIRMED),
        ("upper", 1.0, Status.CONFIRMED),
        ("upper", 1.2, Status.REFUTED),
        ("lower", 0.5, Status.REFUTED),
        ("lower", 1.2, Status.CONFIRMED),
    ],
)
def test_bounds_are_one_sided(side, value, expected):
    row = stats.decide(
        [stats.compare_bound("a", {}, 1.0, Estimate(value, 0.01, 100), tolerance=0.1, side=side)],
        LEVEL,
    )[0]
    assert row.verdict == expected
    exact = stats.decide(
        [stats.compare_bound("a", {}, 1.0, Estimate(value, 0.0, 100), tolerance=1e-9, side=side)],
        LEVEL,
    )[0]
    assert exact.verdict == expected


def test_false_alarms_of_a_tight_bound():
    rng, hits = np.random.default_rng(4), 0
    for _ in range(CHECKS):
        found = estimates(rng, 10, 3, mean=1.0)
        rows = stats.decide(
            [stats.compare_bound("a", {}, 1.0, e, tolerance=9) for e in found], LEVEL
        )
        hits += any(row.verdict == Status.REFUTED for row in rows)
    rate_at_most(hits, CHECKS, LEVEL, "false alarms of a bound that is met exactly")


# --- identities ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-8, 1.0, 3e6])
def test_identity_scales_with_dtype_and_magnitude(dtype, size):
    eps = float(np.finfo(dtype).eps)
    for ulps, expected in ((32, Status.CONFIRMED), (200, Status.REFUTED)):
        row = stats.decide(
            [stats.compare_identity("a", {}, size, size * (1 + ulps * eps), dtype=dtype)], LEVEL
        )[0]
        assert row.verdict == expected, f"{ulps} units in the last place at {size} in {dtype}"


def test_identity_takes_the_magnitude_of_what_cancelled():
    cancelled = stats.compare_identity("a", {}, 0.0, 1e-13)
    assert stats.decide([cancelled], LEVEL)[0].verdict == Status.REFUTED
    cancelled = stats.compare_identity("a", {}, 0.0, 1e-13, magnitude=100.0)
    assert stats.decide([cancelled], LEVEL)[0].verdict == Status.CONFIRMED
    zero = stats.compare_identity("a", {}, 0.0, 0.0)
    assert stats.decide([zero], LEVEL)[0].verdict == Status.CONFIRMED


def test_means_without_any_error_fall_back_to_rounding():
    close = stats.compare_mean("a", {}, 0.5, Estimate(0.5 + 1e-15, 0.0, 8), tolerance=0.1)
    far = stats.compare_mean("a", {}, 0.5, Estimate(0.5 + 1e-6, 0.0, 8), tolerance=0.1)
    verdicts = [row.verdict for row in stats.decide([close, far], LEVEL)]
    assert verdicts == [Status.CONFIRMED, Status.REFUTED]


# --- the other verdicts ---


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
    row = Comparison("a", {}, 0.5, 0.5 + difference, 0.1, stderr=stderr, dof=60)
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


# --- building blocks ---


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


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), min_size=1, max_size=4))
def test_combine_equals_pooling(groups):
    pooled = stats.mean_estimate(np.concatenate(groups))
    combined = stats.combine([stats.mean_estimate(np.array(group)) for group in groups])
    assert combined.trials == pooled.trials
    np.testing.assert_allclose(combined.mean, pooled.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(combined.stderr, pooled.stderr, rtol=1e-6, atol=1e-6)


def test_combine_arrays():
    values = np.random.default_rng(0).normal(size=(12, 2, 3))
    parts = [stats.mean_estimate(values[:5]), stats.mean_estimate(values[5:])]
    combined, pooled = stats.combine(parts), stats.mean_estimate(values)
    np.testing.assert_allclose(combined.mean, pooled.mean, rtol=1e-12)
    np.testing.assert_allclose(combined.stderr, pooled.stderr, rtol=1e-12)


def test_a_share_has_an_error_even_where_all_or_none_succeed():
    middle = stats.proportion_estimate(3000, 10_000)
    assert middle.mean == 0.3
    assert middle.trials == 10_000
    assert middle.stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 10_000), rel=1e-4)
    none, every = stats.proportion_estimate(0, 100), stats.proportion_estimate(100, 100)
    assert (none.mean, every.mean) == (0.0, 1.0)
    assert none.stderr == pytest.approx(every.stderr)
    # What never happened in 100 trials has a share below 3 % with a chance of 95 %.
    assert 0.003 < none.stderr < 0.03


def test_mean_estimate():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = stats.mean_estimate(values)
    assert found == (3.0, pytest.approx(sps.sem(values)), 4)
    assert isinstance(found.mean, float)
    assert stats.mean_estimate(values.reshape(2, 2), axis=1).mean.tolist() == [1.5, 4.5]
    with pytest.raises(ValueError, match="at least 2"):
        stats.mean_estimate(np.ones(1))


def test_intervals():
    values = np.random.default_rng(1).normal(size=9)
    low, high = stats.interval(stats.mean_estimate(values), 0.9)
    expected = sps.t.interval(0.9, 8, values.mean(), sps.sem(values))
    np.testing.assert_allclose([low, high], expected)
    low, high = stats.binomial_interval(3, 20)
    assert sps.binom.sf(2, 20, low) == pytest.approx(0.025)
    assert sps.binom.cdf(3, 20, high) == pytest.approx(0.025)


def test_welch_freedom_of_a_difference():
    row = Comparison("a", {}, 0.0, 0.0, 1.0, stderr=3e-200, dof=10, predicted_stderr=4e-200)
    share = np.array([9, 16]) / 25
    expected = 1 / (share[0] ** 2 / 10 + share[1] ** 2 / stats.PREDICTION_DOF)
    assert row.total_dof == pytest.approx(expected)
