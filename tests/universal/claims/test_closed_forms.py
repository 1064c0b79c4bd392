"""Closed forms of the family against brute force that shares no code with them."""

import numpy as np
import pytest

import jaxprompt as jp


def circle_head(count, lam, k, psi):
    """1 − h e^{−ikθ} by the plain sum over centres."""
    centre = 2 * np.pi * np.arange(count) / count
    theta = psi / count
    weight = np.exp(lam * (np.cos(theta - centre) - 1))
    return 1 - (weight * np.exp(1j * k * centre)).sum() / weight.sum() * np.exp(-1j * k * theta)


@pytest.mark.parametrize("lam", [0.02, 3.0, 70.0, 900.0])  # on both sides of λ = N²
@pytest.mark.parametrize("k", [0, 1, 4, 13])
def test_circle_error(lam, k):
    claim, psi = jp.claim("universal.circle_error"), np.array([0.0, 0.4, 2.0, np.pi, -1.0])
    predicted = claim.predict(centres=9, concentration=lam, degree=k, phase=psi)
    exact = np.array([circle_head(9, lam, k, p) for p in psi])
    np.testing.assert_allclose(predicted["error_real"], exact.real, atol=1e-12)
    np.testing.assert_allclose(predicted["error_imag"], exact.imag, atol=1e-12)
    np.testing.assert_allclose(predicted["error"], abs(exact), atol=1e-12)


@pytest.mark.parametrize(("count", "lam", "k"), [(8, 8.5, 1), (16, 40.0, 2), (5, 3.0, 1)])
def test_supremum_on_the_circle(count, lam, k):
    psi = np.linspace(0, 2 * np.pi, 20_001)
    brute = max(abs(circle_head(count, lam, k, p)) for p in psi)
    found = jp.claim("universal.circle_error").predict(centres=count, concentration=lam, degree=k)
    assert found["sup_error"] == pytest.approx(brute, rel=1e-7)
    assert found["sup_error"] >= brute * (1 - 1e-12)


def test_best_concentration_is_a_minimum():
    claim = jp.claim("universal.circle_error")
    best = claim.predict(centres=[8, 20], degree=[1, 2])
    for n, k, lam, error in zip([8, 20], [1, 2], *best.values(), strict=True):
        for other in (0.97 * lam, 1.03 * lam):
            assert claim.predict(centres=n, degree=k, concentration=other)["sup_error"] > error
