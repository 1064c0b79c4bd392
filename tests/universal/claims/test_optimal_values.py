"""`universal.optimal_values`: errors over the phase against dense sums that share no code."""

import numpy as np
import pytest
from quick_cases import some_slow
from scipy import special

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.universal.claims.optimal_values import _circle

CLAIM = "universal.optimal_values"


def dense(count, lam, k, factor):
    """Largest and root-mean-square error of the plain head with values c f(b), densely sampled.

    Towards π, where the nearest centre changes, the phases are graded; the mean is by trapezia.
    """
    graded = np.pi - np.geomspace(1e-9, np.pi, 30_000)
    psi = np.unique(np.concatenate([np.linspace(0, np.pi, 30_001), graded]))
    errors = []
    for part in np.array_split(psi, 40):
        distance = (2 * np.pi * np.arange(count) - part[:, None]) / count
        square = np.sin(distance / 2) ** 2
        weight = np.exp(-2 * lam * (square - square.min(axis=1, keepdims=True)))
        head = (weight * np.exp(1j * k * distance)).sum(1) / weight.sum(1)
        errors.append(np.abs(1 - factor * head))
    error = np.concatenate(errors)
    return error.max(), np.sqrt(np.trapezoid(error**2, psi) / (psi[-1] - psi[0]))


@pytest.mark.parametrize(
    ("count", "lam", "k"),
    some_slow(
        [(8, 1e7, 1), (3, 1e3, 40), (9, 79.0, 4), (16, 100.0, 1), (8, 60.0, 3), (32, 20.0, 5)],
        first=2,
    ),
)
@pytest.mark.parametrize("method", ["raw", "deconvolution", "two_term"])
def test_errors_over_the_phase(count, lam, k, method):
    """At λ = 1e7 both sides took the largest of 512 phases, which misses the layer about π."""
    factor = {
        "raw": 1.0,
        "deconvolution": special.ive(0, lam) / special.ive(k, lam),
        "two_term": 1 + k * k / (2 * lam),
    }[method]
    largest, root = dense(count, lam, k, factor)
    given = {"centres": count, "concentration": lam, "degree": k, "method": method}
    predicted = jp.claim(CLAIM).predict(**given)
    measured = jp.claim(CLAIM).simulate(key=0, trials=2, **given)
    for name, value in (("sup_error", largest), ("rms_error", root)):
        assert float(predicted[name]) == pytest.approx(value, rel=1e-6)
        assert measured[name].mean == pytest.approx(value, rel=1e-6)


def test_least_squares_where_kernels_are_narrow_is_not_simulated():
    with pytest.raises(ParameterError, match="concentration"):
        jp.claim(CLAIM).simulate(
            key=0, trials=2, centres=8, concentration=65.0, degree=1, method="least_squares"
        )


def test_deconvolved_error_at_two_phases():
    claim = jp.claim(CLAIM)
    error = abs(_circle(16, 4.0, 1).error_at(np.array([0.0, np.pi / 2])))
    assert error[0] == pytest.approx(2.64e-9, rel=2e-3)
    assert error[1] == pytest.approx(3.24e-9, rel=2e-3)
    raw = claim.predict(centres=16, concentration=4.0, degree=1, method="raw")
    assert raw["sup_error"] == pytest.approx(0.1365, abs=5e-5)
    small = claim.predict(centres=16, concentration=0.01, degree=3)
    assert small["value_norm"] == pytest.approx(48 / 0.01**3, rel=1e-4)  # |v| ~ λ^{−k}


def test_an_unknown_method_is_refused():
    with pytest.raises(ParameterError, match="`method`") as caught:
        jp.claim(CLAIM).predict(centres=8, concentration=1.0, degree=1, method="x")
    assert "\n" not in str(caught.value)
