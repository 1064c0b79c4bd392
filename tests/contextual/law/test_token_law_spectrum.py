"""The laws that claims on any token law are checked with, against their description."""

from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual.claims.score_universality import CLAIM as UNIVERSALITY
from jaxprompt.contextual.law.token_law_spectrum import spectrum, spectrum_token_law


@pytest.mark.parametrize(("dim", "exponent"), [(5, 0.6), (24, 0.0), (64, 1.7)])
def test_eigenvalues_and_vectors(dim, exponent):
    law = spectrum(dim, exponent, 1.3, 0.7)
    powers = [((i - 0.5) / dim) ** -exponent for i in range(1, dim + 1)]
    expected = [dim * power / sum(powers) for power in powers]
    np.testing.assert_allclose(law.eigenvalues, expected, rtol=1e-12)
    assert np.linalg.norm(law.signal) == pytest.approx(1.3)
    assert np.linalg.norm(law.context) == pytest.approx(0.7)
    assert law.signal @ law.context == pytest.approx(0.0, abs=1e-14)
    # Spread: no coordinate holds more than a few times its share.
    for vector in (law.signal, law.context):
        assert dim * np.max(vector**2) < 5 * vector @ vector


def test_covariances():
    """Each at its own scale, that of relevant tokens in reverse, and their correlation."""
    given = {"dim": 6, "tokens": 5, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 0.5}
    law = spectrum_token_law(
        **given, exponent=1.0, relevant_noise=0.3, common_noise=0.2, token_correlation=-0.4
    )
    shares = np.array([2 / (2 * i - 1) for i in range(1, 7)])
    shares *= 6 / shares.sum()
    np.testing.assert_allclose(law.irrelevant_noise, 0.25 * shares)
    np.testing.assert_allclose(law.relevant_noise, 0.09 * shares[::-1])
    np.testing.assert_allclose(law.common_noise, 0.04)
    rows = [[1, -0.4, 0.16], [-0.4, 1, -0.4], [0.16, -0.4, 1]]
    np.testing.assert_allclose(law.irrelevant_correlation, rows)
    assert (law.tokens, law.relevant) == (5, 2)


@pytest.mark.parametrize("prompt", ["spread", "one"])
def test_vectors_of_score_universality(prompt):
    """w⋆ and q⋆ have their lengths and are orthogonal; one prompt has one coordinate."""
    setup = UNIVERSALITY.simulation.setup  # pyright: ignore[reportFunctionMemberAccess]
    w, q = setup(dim=8, signal=1.2, context=0.6, prompt=prompt)["vectors"]
    assert np.linalg.norm(w) == pytest.approx(1.2)
    assert np.linalg.norm(q) == pytest.approx(0.6)
    assert w @ q == pytest.approx(0.0, abs=1e-15)
    assert np.count_nonzero(q) == (1 if prompt == "one" else 8)
    assert np.ptp(np.abs(w[1:])) == pytest.approx(0.0, abs=1e-15)
