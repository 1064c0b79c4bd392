"""What the claim on the fluctuations of SGD makes of the values of its paths."""

from __future__ import annotations

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.claims import sgd_spread
from jaxprompt.contextual.law.sgd_increments import OVERLAPS

SETTING = {"tokens": 4, "relevant": 1, "signal": 1.0, "context": 1.0, "noise": 0.8}
POINT = {**SETTING, "head_rate": 1.0, "prompt_rate": 1.5, "head_norm": 0.2, "prompt_norm": 0.3}
NAMES = (*OVERLAPS, "first_error", "second_error")


@pytest.mark.parametrize("time", [0.5, [0.0, 0.5]])
def test_deviations_are_those_over_paths(monkeypatch, time):
    """The paths are the test's own: to compile those of the simulation takes four seconds."""
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(40, *np.shape(time))) for name in NAMES}
    given["second_error"] = given["second_error"] + 2 * given["first_error"]
    monkeypatch.setattr(sgd_spread, "path_values", lambda **_: given)
    found = jp.claim("contextual.sgd_spread").simulate(**POINT, time=time, dim=25, key=1, trials=40)
    assert set(found) == {*OVERLAPS, "spread"}
    for name in OVERLAPS:
        np.testing.assert_allclose(found[name].mean, 5 * given[name].std(axis=0, ddof=1))
    first, second = given["first_error"].reshape(40, -1), given["second_error"].reshape(40, -1)
    covariance = [np.cov(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(np.ravel(found["spread"].mean), 5 * np.sqrt(covariance))


def test_the_standard_error_is_that_of_repeated_measurements():
    drawn = np.random.default_rng(1).normal(size=(200, 400))
    found = sgd_spread._scaled_deviation(drawn, drawn, 25)
    # The spread of 400 numbers is known to 1/√800, 3.5 %: 15 % is more than four of that.
    assert found.stderr.mean() == pytest.approx(found.mean.std(ddof=1), rel=0.15)
