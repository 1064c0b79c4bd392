"""Limits and slopes: measured false-alarm rates, power, and tests of the fit itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from quick_cases import some_slow
from rates import CHECKS, LEVEL, estimates, rate_at_least, rate_at_most
from scipy import stats as sps

from jaxprompt import stats
from jaxprompt.stats import Estimate, Status

SIZES = (64, 128, 256)


def limit_check(rng, trials, off, law, spreads=(1.0, 2.0, 1.0), tolerance=99.0):
    found = []
    for size, spread in zip(SIZES, spreads, strict=True):
        (e,) = estimates(rng, trials, 1, mean=0.3 + law(size), spread=spread)
        found.append(e)
    row = stats.compare_asymptotic("a", {}, SIZES, [0.3 + off] * 3, found, tolerance=tolerance)
    return stats.decide([row], LEVEL)[0]


@pytest.mark.parametrize("trials", some_slow([4, 64, 8, 16], first=1))
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


# --- forms of correction ---


def forms_of(law, limit, powers, sizes=(50, 100, 200, 400, 800), error=1e-3, seeds=200):
    """Verdicts on `limit` where numbers follow `law` with normal errors."""
    rng, found = np.random.default_rng(4), []
    for _ in range(seeds):
        drawn = [
            Estimate(law(s) + error * rng.normal(), error, 10**6, kind="sampled") for s in sizes
        ]
        row = stats.compare_asymptotic(
            "a", {}, sizes, [limit] * len(sizes), drawn, tolerance=0.1, powers=powers,
            fitted_powers=powers is None,
        )  # fmt: skip
        found.append(stats.decide([row], 1e-3)[0].verdict)
    return found


@pytest.mark.parametrize("power", some_slow([1 / 4, 2.0, 1.0, 1 / 3, 1 / 2, 2 / 3], first=1))
@pytest.mark.parametrize("stated", [True, False])
def test_a_right_limit_is_not_refuted_whatever_its_correction(power, stated):
    verdicts = forms_of(lambda s: 1 + (50 / s) ** power / 2, 1.0, (power,) if stated else None)
    assert verdicts.count(Status.REFUTED) <= 2
    if stated:
        assert verdicts.count(Status.CONFIRMED) >= 190
        wrong = forms_of(lambda s: 1.2 + (50 / s) ** power / 2, 1.0, (power,))
        assert wrong.count(Status.REFUTED) >= 190


@pytest.mark.parametrize(
    "law",
    some_slow(
        [lambda s: 1 + 1 / math.log(s), lambda s: 1 + 3 / s - 200 / s**2,
         lambda s: 1 + math.log(s) / s, lambda s: 1 + s**-0.5 + s**-1.0],
        first=1,
    ),
    ids=["log", "non-monotone", "log over size", "two powers"],
)  # fmt: skip
def test_a_right_limit_of_an_unstated_form_is_not_refuted(law):
    assert forms_of(law, 1.0, None).count(Status.REFUTED) <= 2


def test_limits_without_noise():
    sizes = (20, 40, 80, 160)
    exact = [stats.exact_estimate(1 + 1 / s) for s in sizes]
    for limit, verdict in ((1.0, Status.CONFIRMED), (1.01, Status.REFUTED)):
        row = stats.compare_asymptotic(
            "a", {}, sizes, [limit] * 4, exact, tolerance=0.002, powers=(1,)
        )
        assert stats.decide([row], 1e-3)[0].verdict == verdict
    still = [Estimate(1 + 1 / s, 0.0, 100, kind="sampled") for s in sizes]
    row = stats.compare_asymptotic("a", {}, sizes, [1.01] * 4, still, tolerance=0.002, powers=(1,))
    assert stats.decide([row], 1e-3)[0].verdict == Status.INCONCLUSIVE, "nothing was declared exact"


def test_rates_with_logarithms():
    sizes = (64, 128, 256, 512, 1024)
    law = {s: s * (math.log(s) + 0.577) for s in sizes}
    drawn = [Estimate(law[s], 1e-3 * law[s], 10**6, kind="sampled") for s in sizes]
    for exponent, verdict in ((1.0, Status.CONFIRMED), (1.5, Status.REFUTED)):
        fit, others = stats.rate_fits(sizes, drawn, log_power=1.0)
        row = stats.compare_rate("a", {}, exponent, fit, tolerance=0.2, alternatives=others)
        assert stats.decide([row], 1e-3)[0].verdict == verdict
    with pytest.raises(ValueError, match="needs positive ones"):
        stats.rate_fits(sizes, [Estimate(-1.0, 0.1, 9), *drawn[1:]])


def test_a_slope_of_numbers_without_a_logarithm_is_refused():
    with pytest.raises(ValueError, match="must be finite"), np.errstate(divide="ignore"):
        stats.slope([1, 2, 3], np.log([0.0, 1.0, 2.0]), [0.1] * 3)
