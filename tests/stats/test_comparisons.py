"""How one measured number is held against one predicted number."""

from __future__ import annotations

import numpy as np
import pytest
from rates import CHECKS, LEVEL, estimates, rate_at_most
from scipy import stats as sps

from jaxprompt import stats
from jaxprompt.stats import Comparison, Estimate, Status


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
        [stats.compare_bound("a", {}, 1.0, stats.exact_estimate(value), tolerance=1e-9, side=side)],
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
    close = stats.compare_mean("a", {}, 0.5, stats.exact_estimate(0.5 + 1e-15), tolerance=1e-9)
    far = stats.compare_mean("a", {}, 0.5, stats.exact_estimate(0.5 + 1e-6), tolerance=1e-9)
    verdicts = [row.verdict for row in stats.decide([close, far], LEVEL)]
    assert verdicts == [Status.CONFIRMED, Status.REFUTED]


# --- what is declared exact, and what only did not scatter ---


@pytest.mark.parametrize("kind", ["sampled", "proportion"])
@pytest.mark.parametrize("side", ["two", "upper", "lower"])
def test_a_sample_without_scatter_refutes_nothing_and_confirms_no_other_number(kind, side):
    still = Estimate(1.0, 0.0, 100, kind=kind)
    above = () if kind == "proportion" else (1.001,)  # no probability is above 1
    for predicted in (0.999, 0.9999999, *above):
        row = stats.compare_mean("a", {}, predicted, still, tolerance=1e-9, side=side)
        verdict = stats.decide([row], 1e-3)[0].verdict
        beyond = {"two": True, "upper": predicted < 1.0, "lower": predicted > 1.0}[side]
        assert verdict == Status.INCONCLUSIVE or not beyond, (predicted, verdict)
        assert verdict != Status.REFUTED


def test_a_rare_event_is_judged_by_the_binomial_law():
    trials, probability = 200, 0.995

    def verdict(successes, level):
        seen = stats.sample_estimate(np.arange(trials) < successes)
        row = stats.compare_mean("a", {}, probability, seen, tolerance=1.0)
        return stats.decide([row], level)[0].verdict

    # The exact rate: every number of successes that is seen more often than once in 10^12.
    chance = sps.binom(trials, probability).pmf(np.arange(trials + 1))
    seen = np.flatnonzero(chance > 1e-12)
    refuted = [verdict(k, LEVEL) == Status.REFUTED for k in seen]
    assert chance[seen].sum() == pytest.approx(1.0, abs=1e-10)
    assert 0 < chance[seen][refuted].sum() <= LEVEL
    assert verdict(180, 1e-3) == Status.REFUTED


@pytest.mark.parametrize("number", [0.1, 0.3, 1e-20, 1e300, -7.7])
@pytest.mark.parametrize("count", [2, 100, 3000])
def test_equal_numbers_agree_with_themselves(number, count):
    found = stats.mean_estimate(np.full(count, number))
    assert found.mean == number
    row = stats.compare_mean("a", {}, number, found, tolerance=abs(number) * 1e-9)
    assert stats.decide([row], 1e-3)[0].verdict == Status.CONFIRMED


@pytest.mark.parametrize("size", [1e-300, 1e-20, 1.0, 1e20])
def test_exact_numbers_are_compared_in_their_own_size(size):
    wrong = stats.compare_mean("a", {}, size, stats.exact_estimate(5 * size), tolerance=size / 100)
    right = stats.compare_mean(
        "a", {}, size, stats.exact_estimate(size * (1 + 1e-15)), tolerance=size / 100
    )
    verdicts = [row.verdict for row in stats.decide([wrong, right], 1e-3)]
    assert verdicts == [Status.REFUTED, Status.CONFIRMED]


def test_rounding_larger_than_the_tolerance_confirms_nothing():
    row = Comparison("a", {}, 1.0, 1.0, 1e-9, rounding=1e-8)
    assert stats.decide([row], 1e-3)[0].verdict == Status.INCONCLUSIVE


def test_a_distribution_may_have_steps():
    rng, hits, checks = np.random.default_rng(3), 0, 200
    for _ in range(checks):  # by the law of continuous distributions all would be refuted
        drawn = stats.sample_estimate(rng.poisson(1.0, 300))
        row = stats.compare_distribution("a", {}, drawn, tolerance=1.0, cdf=sps.poisson(1).cdf)
        hits += stats.decide([row], LEVEL)[0].verdict == Status.REFUTED
    rate_at_most(hits, checks, LEVEL, "false alarms of a distribution with steps")
    drawn = stats.sample_estimate(rng.poisson(1.3, 2000))
    row = stats.compare_distribution("a", {}, drawn, tolerance=1.0, cdf=sps.poisson(1).cdf)
    assert stats.decide([row], 1e-3)[0].verdict == Status.REFUTED
    with pytest.raises(ValueError, match="must grow from 0 to 1"):
        stats.compare_distribution("a", {}, drawn, tolerance=1.0, cdf=lambda x: -x)
