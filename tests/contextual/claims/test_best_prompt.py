from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize

from jaxprompt.contextual.claims.best_prompt import CLAIM
from jaxprompt.contextual.law.token_law_spectrum import spectrum
from jaxprompt.errors import ParameterError

POINT = {
    "dim": 5, "sparsity": 0.2, "context": 0.9, "noise": 1.1, "exponent": 0.6, "shift_context": 0.3,
}  # fmt: skip


def test_no_prompt_has_a_larger_ratio():
    """The limit of s²/p₂ by quadrature of both exponential moments, maximised numerically."""
    law = spectrum(5, 0.6, 1.0, 0.9)
    variances, q = 1.21 * law.eigenvalues, law.context

    def moment(deviation, times):
        def integrand(u):
            return np.exp(times * deviation * u - u**2 / 2) / np.sqrt(2 * np.pi)

        return integrate.quad(integrand, -14, 14)[0]

    def log_ratio(prompt):
        deviation = np.sqrt(prompt**2 @ variances)
        first, second = moment(deviation, 1), moment(deviation, 2)
        # Of weights over uniform ones: the mean irrelevant weight drops out of s²/p₂.
        relevant = np.exp(1.3 * prompt @ q) / first
        return 2 * np.log(relevant) - np.log(second / first**2)

    best = optimize.minimize(lambda p: -log_ratio(p), 0.3 * q, method="BFGS")
    along = optimize.minimize_scalar(lambda g: -log_ratio(g * q), bounds=(0, 2), method="bounded")
    found = CLAIM.predict(**POINT)
    assert found["best_snr_gain"] == pytest.approx(np.exp(-best.fun), rel=1e-6)
    assert found["along_snr_gain"] == pytest.approx(np.exp(-along.fun), rel=1e-6)
    assert found["best_snr_gain"] > found["along_snr_gain"]


def test_isotropic_noise_makes_both_alike():
    found = CLAIM.predict(**{**POINT, "exponent": 0.0})
    expected = np.exp(1.3**2 * 0.9**2 / (2 * 1.1**2))
    assert found["best_snr_gain"] == pytest.approx(expected, rel=1e-12)
    assert found["along_snr_gain"] == pytest.approx(expected, rel=1e-12)


def test_without_noise_it_is_refused():
    with pytest.raises(ParameterError, match="`noise`"):
        CLAIM.predict(**{**POINT, "noise": 0.0})


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
