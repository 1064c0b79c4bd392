from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from scipy import special

from jaxprompt.contextual.claims.first_step import CLAIM

CASE = {
    "tokens": 3, "relevant": 1, "signal": 1.2, "context": 0.8, "noise": 0.9,
    "shifts": [[0.0, 0.1], [0.5, 0.3]], "shift_weights": [0.3, 0.7],
}  # fmt: skip


def test_against_enumeration_and_quadrature():
    """Labels and shifts enumerated, noise by Gauss–Hermite: tokens averaged, never pooled."""
    nodes, weights = special.roots_hermitenorm(4)
    weights = weights / weights.sum()
    signal = energy = 0.0
    for label, s in itertools.product((-1, 1), (0, 1)):
        (dq, dw), odds = CASE["shifts"][s], CASE["shift_weights"][s] / 2
        for picks in itertools.product(range(4), repeat=4):
            z = nodes[list(picks)].reshape(2, 2) * 0.9
            p = odds * weights[list(picks)].prod()
            tokens = [[label * 1.2, 0.8]]
            tokens += [[-dw * label * 1.2 + a, -dq * 0.8 + b] for a, b in z]
            x = label * np.mean(tokens, axis=0)
            signal, energy = signal + p * x[0], energy + p * (x @ x)
    one = CLAIM.predict(**CASE, dim=2, samples=1)
    assert one["signal"] == pytest.approx(signal, rel=1e-12)
    assert one["energy"] == pytest.approx(energy, rel=1e-12)
    # n independent sequences: the mean's energy is |mean|² plus the n-th part of the rest.
    many = CLAIM.predict(**CASE, dim=2, samples=7)
    assert many["energy"] == pytest.approx(signal**2 + (energy - signal**2) / 7, rel=1e-12)
    assert many["alignment"] == pytest.approx(signal / np.sqrt(many["energy"]), rel=1e-12)


def test_broadcasts_and_traces():
    dims, samples = np.array([10, 20])[:, None], np.array([5, 50, 500])
    table = CLAIM.predict(**CASE, dim=dims, samples=samples)
    assert table["energy"].shape == (2, 3) == table["signal"].shape
    assert table["energy"][1, 2] == CLAIM.predict(**CASE, dim=20, samples=500)["energy"]


def test_simulation_agrees_and_repeats():
    case = {**CASE, "dim": 10, "samples": 6}
    found = CLAIM.simulate(key=1, trials=2000, **case)
    predicted = CLAIM.predict(**case)
    for name, estimate in found.items():
        # Five standard errors: six such comparisons miss with odds below 1e-5.
        assert abs(estimate.mean - predicted[name]) < 5 * estimate.stderr, name
    again = CLAIM.simulate(key=jax.random.key(1), trials=2000, **case)
    assert again == found


def test_dim_and_samples_are_needed():
    with pytest.raises(ValueError, match="`samples`"):
        CLAIM.predict(**CASE, dim=5)


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
