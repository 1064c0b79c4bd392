"""The ridge head's limit and the sums below it, against the statement written out in SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from jaxprompt.contextual.law.feature_law import FeatureLaw, feature_law
from jaxprompt.contextual.law.ridge_limit import (
    Limit,
    expected_at,
    jackknife_replicates,
    leave_one_out,
    refined_optimum,
    resolvent,
    ridge_limit,
    sign_error_means,
)

LAW = feature_law(6, 2, 1.0, 1.2, 0.9, 0.8, ((0.0, 0.0), (0.5, 0.3)), (0.4, 0.6))


def mean_of(law: FeatureLaw):
    """The mean over all nodes of all replicates."""
    return lambda values: float((law.weights * values).sum() / len(law.weights))


def stated(law: FeatureLaw, ratio: float, ridge: float) -> tuple[float, float, float]:
    """Error, c and ρ by the formulas of `contextual.prompt_error` as they are printed there."""
    mean, alpha, tau2 = mean_of(law), law.alpha, law.tau**2
    if ridge == 0 and ratio > 1:
        c = mean(alpha / tau2) / (ratio + mean(alpha**2 / tau2))
        rho2 = mean(((1 - alpha * c) ** 2 + tau2 * c**2) / tau2) / (ratio - 1)
    else:

        def excess(log_m: float) -> float:
            m = np.exp(log_m)
            return ridge * m + mean(tau2 * m / (1 + tau2 * m)) - ratio

        m = np.exp(optimize.brentq(excess, -30, 30, xtol=1e-14))
        omega = 1 / (1 + tau2 * m)
        c = mean(omega * alpha) / (ridge + mean(omega * (alpha**2 + tau2)))
        noise = mean(tau2 * omega**2 * ((1 - alpha * c) ** 2 + tau2 * c**2))
        rho2 = m * noise / (ridge + mean(tau2 * omega**2))
    error = mean(special.ndtr(-alpha * c / np.sqrt(tau2 * (c**2 + rho2))))
    return error, c, np.sqrt(rho2)


@pytest.mark.parametrize(("ratio", "ridge"), [(0.4, 0.0), (0.4, 0.1), (1.7, 0.03), (1.7, 0.0)])
def test_the_limit_is_the_statement(ratio, ridge):
    found = [values.mean() for values in ridge_limit(LAW, ratio, ridge)]
    np.testing.assert_allclose(found, stated(LAW, ratio, ridge), rtol=1e-9)


def test_stated_error_is_a_jackknife_over_replicates():
    """The limit with one replicate left out, computed anew each time."""
    ratio, ridge = 0.4, 0.1
    limit = ridge_limit(LAW, ratio, ridge)
    count = len(LAW.weights)
    without = np.array([
        stated(FeatureLaw(*(x[np.arange(count) != i] for x in LAW[:3])), ratio, ridge)
        for i in range(count)
    ])  # fmt: skip
    errors = np.sqrt((count - 1) * without.var(axis=0))
    found = [values.std(ddof=1) / np.sqrt(count) for values in limit]
    np.testing.assert_allclose(found, errors, rtol=2e-3)


def test_means_without_one_and_their_jackknife():
    values = np.random.default_rng(0).normal(size=(5, 2))
    table = leave_one_out(values)
    np.testing.assert_allclose(table[0], values.mean(axis=0))
    for i in range(5):
        np.testing.assert_allclose(table[i + 1], np.delete(values, i, axis=0).mean(axis=0))
    # Of a mean, the jackknife's replicates are the numbers themselves.
    np.testing.assert_allclose(jackknife_replicates(table[:, 0]), values[:, 0])
    assert jackknife_replicates(np.array([np.inf, 1.0, 2.0])).tolist() == [np.inf, np.inf]


def test_expectations_at_places_close_to_each_other():
    powers = np.array([0.5, 1.0, 3.0])

    def means(place):
        return np.array([[np.exp(p * place * (1 + i)) for p in powers] for i in range(4)])

    places = 0.7 + 1e-4 * np.array([0.0, 1.0, -0.6, 0.3, 0.8])
    exact = np.stack([leave_one_out(means(x))[j] for j, x in enumerate(places)])
    np.testing.assert_allclose(expected_at(means, places), exact, rtol=1e-9)


def test_parts_of_a_law_are_laws():
    whole, few = LAW.as_one_replicate(), LAW.thinned(256, 2)
    for function in (lambda f: f.alpha, lambda f: f.tau**2):
        expected = mean_of(LAW)(function(LAW))
        assert mean_of(whole)(function(whole)) == pytest.approx(expected, rel=1e-12)
    # The first 256 nodes of two replicates, each with both shifts, which keep their odds.
    np.testing.assert_array_equal(few.tau, LAW.tau[:2, :512])
    shares = few.weights.reshape(2, 256, 2).sum(axis=1)
    np.testing.assert_allclose(shares, [[0.4, 0.6]] * 2)
    # The mean noise of all its sequences, which every one of them has then.
    even = LAW.averaged()
    np.testing.assert_allclose(even.tau.var(axis=1), 0.0, atol=1e-20)
    np.testing.assert_allclose(mean_of(even)(even.tau**2), mean_of(LAW)(LAW.tau**2))
    np.testing.assert_allclose(sign_error_means(LAW, 0.0), 0.5)


def test_an_independent_noise_level_keeps_its_distribution():
    mean, apart = mean_of(LAW), LAW.independent()
    draws = np.sqrt(apart.tau.size)
    for power in (2, -2):
        spread = np.sqrt(mean(LAW.tau ** (2 * power)) - mean(LAW.tau**power) ** 2)
        assert abs(mean(apart.tau**power) - mean(LAW.tau**power)) < 4.5 * spread / draws
    np.testing.assert_array_equal(apart.alpha, LAW.alpha)
    product = mean(LAW.alpha) * mean(LAW.tau**2)
    spread = np.sqrt(mean((LAW.alpha * LAW.tau**2) ** 2))
    assert abs(mean(apart.alpha * apart.tau**2) - product) < 4.5 * spread / draws
    assert abs(mean(LAW.alpha * LAW.tau**2) - product) > 20 * spread / draws


def test_shortfalls_keep_their_digits():
    """W − α where α is within 1e-20 of W, and a reference that only shifts it."""
    sharp = feature_law(6, 2, 1.0, 3.0, 0.4, 5.0)
    short = sharp.accurate_shortfall()
    assert 0 < short.min() < 1e-20
    np.testing.assert_allclose(short, 1 - sharp.alpha, atol=1e-15)
    quiet = feature_law(6, 2, 1.0, 1.2, 1e-6, 0.8)
    reference = quiet.reference_shortfall()
    np.testing.assert_allclose(reference - reference.mean(), quiet.alpha.mean() - quiet.alpha,
                               atol=1e-15)  # fmt: skip
    assert np.abs(reference).max() < 1e-4 * quiet.accurate_shortfall().max()


@pytest.mark.parametrize("ratio", [0.02, 0.3, 0.97, 1.01, 1.3, 4.0])
@pytest.mark.parametrize("ridge", [1e-130, 1e-20, 1e-3, 1e3])
@pytest.mark.parametrize("decades", [2.0, 30.0, 120.0])
def test_the_resolvent_over_many_decades_of_noise(ratio, ridge, decades):
    """Against bisection in log m; Newton's iteration in m alone took some ten steps a decade."""
    random = np.random.default_rng(3)
    tau2 = 10.0 ** -random.uniform(0, decades, (1, 400))
    weights = random.dirichlet(np.ones(400), 1)

    def excess(log_m: float) -> float:
        m = np.exp(log_m)
        return ridge * m + float((weights * (tau2 * m / (1 + tau2 * m))).sum()) - ratio

    expected = optimize.brentq(excess, -30, 690, xtol=1e-13)
    for start in (None, np.array([1e-3]), np.array([np.exp(expected + 20)])):
        found = float(resolvent(tau2, weights, ratio, ridge, start=start)[0])
        # What a sum of about `ratio` loses to rounding moves log m by so much.
        slope = (excess(expected + 1e-4) - excess(expected - 1e-4)) / 2e-4
        assert abs(np.log(found) - expected) < 1e-11 + 2e-15 * ratio / slope


def limits_along(noise_of_bend: float, deep: float = 1.0):
    """Errors with a valley at 0.3 whose curvature differs between replicates by `noise_of_bend`."""
    shares = np.random.default_rng(5).normal(size=16)
    bends, places = 1 + noise_of_bend * shares, 0.3 + 0.01 * np.roll(shares, 3)

    def limit_at(place: float) -> Limit:
        error = deep * (0.1 + bends * (place - places) ** 2 / 2)
        return Limit(error, error, error)

    return limit_at, float((bends * places).mean() / bends.mean())


@pytest.mark.parametrize("deep", [1.0, 1e-17])
def test_a_place_and_its_error_are_those_of_the_valley(deep):
    limit_at, lowest = limits_along(0.1, deep)
    found = refined_optimum(limit_at, 0.25, 0.1)
    assert found.place == pytest.approx(lowest, rel=1e-6)
    assert 0.5 < found.stderr / (0.01 / 4) < 2


def test_a_place_of_which_no_curvature_is_sure_has_no_error():
    limit_at, _ = limits_along(4.0)
    assert refined_optimum(limit_at, 0.25, 0.1).stderr == 0
