"""Estimates: means, proportions, pooling, intervals and jackknives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_cases import some_slow
from rates import rate_at_most
from scipy import stats as sps

from jaxprompt import stats


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


def test_means_of_many_rows_are_those_of_each():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(7, 300)) * 10.0 ** rng.integers(-5, 5, (7, 1))
    values[2] = 0.1  # equal numbers average to themselves
    for made, row in zip(stats.mean_estimates(values), values, strict=True):
        alone = stats.mean_estimate(row)
        assert (made, made.kind, made.dof) == (alone, alone.kind, alone.dof)


def test_intervals():
    values = np.random.default_rng(1).normal(size=9)
    low, high = stats.interval(stats.mean_estimate(values), 0.9)
    expected = sps.t.interval(0.9, 8, values.mean(), sps.sem(values))
    np.testing.assert_allclose([low, high], expected)
    low, high = stats.binomial_interval(3, 20)
    assert sps.binom.sf(2, 20, low) == pytest.approx(0.025)
    assert sps.binom.cdf(3, 20, high) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("statistic", "truth"),
    some_slow(
        [(lambda x: math.log(np.exp(x).mean()), 0.5), (np.median, 0.0), (np.var, 1.0),
         (lambda x: np.quantile(x, 0.9), 1.2815516)],
        first=1,
    ),
    ids=["log mean", "median", "variance", "quantile"],
)  # fmt: skip
def test_statistics_of_trials_keep_their_rate(statistic, truth):
    rng, hits, checks = np.random.default_rng(8), 0, 250
    for _ in range(checks):
        found = stats.jackknife(statistic, rng.normal(size=800))
        p = 2 * sps.t.sf(abs(found.mean - truth) / found.stderr, found.dof)
        hits += bool(p < 0.01)
    rate_at_most(hits, checks, 0.02, "twice the level 0.01 of a statistic of trials")


def test_the_jackknife_takes_the_bias_of_a_smooth_statistic_away():
    values = np.random.default_rng(2).normal(size=60)
    assert stats.jackknife(np.var, values).mean == pytest.approx(values.var(ddof=1), rel=1e-10)


@pytest.mark.parametrize(("successes", "trials"), [(5, 0), (5, 3), (-1, 3)])
def test_proportions_are_counts(successes, trials):
    for function in (stats.proportion_estimate, stats.binomial_interval):
        with pytest.raises(ValueError, match="0 ≤ successes ≤ trials"):
            function(successes, trials)


def test_trials_of_zeros_and_ones_are_a_proportion():
    drawn = np.random.default_rng(0).uniform(size=50) < 0.5
    assert stats.sample_estimate(drawn).kind == "proportion"
    assert stats.sample_estimate(drawn * 1.0).kind == "proportion"
    assert stats.sample_estimate(np.ones(50)).kind == "sampled"
    assert stats.sample_estimate(np.ones(50, bool)).kind == "proportion"
