"""Shifts of positions against rotation matrices, sums over positions, and published formulas."""

from __future__ import annotations

import jax
import mpmath
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import position_shift

CLAIM = jp.claim("prefix.position_shift")


def rotation(position, width, base):
    """The rotation of all pairs as one matrix."""
    matrix = np.zeros((width, width))
    half = width // 2
    for f in range(half):
        angle = position * base ** (-2 * f / width)
        matrix[np.ix_([f, f + half], [f, f + half])] = [
            [np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]
        ]  # fmt: skip
    return matrix


@pytest.mark.parametrize("base", [10.0, 10_000.0])
def test_given_vectors_against_matrices(base):
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 6))
    scores = np.array([(rotation(p, 6, base) @ query) @ key for p in range(45)])
    # The same as a key that is turned back, seen from the query's place.
    np.testing.assert_allclose(
        scores, [query @ rotation(-p, 6, base) @ key for p in range(45)], atol=1e-12
    )
    found = CLAIM.predict(
        kind="cached", head_dim=6, base=base, length=40, prefix=5, query=query, cached_key=key
    )
    np.testing.assert_allclose(found["scores"], scores[:40], atol=1e-12)
    assert found["mean"] == pytest.approx(scores[:40].mean(), abs=1e-13)
    assert found["variance"] == pytest.approx(scores[:40].var(), rel=1e-12)
    moved = scores[5:] - scores[:40]
    assert found["shift_square"] == pytest.approx((moved**2).mean(), rel=1e-12)
    measured = position_shift.cached_scores(query[None], key[None], np.arange(45), base)[0]
    np.testing.assert_allclose(measured, scores, atol=1e-12)


def test_averages_against_sums_of_cosines():
    """Normal vectors: E s(p) s(p') is 2 Σ cos θ(p − p'), summed in 30 digits over positions."""
    width, base, length, shift = 6, 50.0, 23, 4
    found = CLAIM.predict(kind="cached", head_dim=width, base=base, length=length, prefix=shift)
    with mpmath.workdps(30):
        angles = [mpmath.mpf(base) ** (-mpmath.mpf(2 * f) / width) for f in range(width // 2)]

        def covariance(gap):
            return 2 * sum(mpmath.cos(angle * gap) for angle in angles)

        places = range(length)
        of_mean = sum(covariance(p - r) for p in places for r in places) / length**2
        variance = covariance(0) - of_mean
        moved = 2 * covariance(0) - 2 * covariance(shift)
    assert found["variance"] == pytest.approx(float(variance), rel=1e-12)
    assert found["shift_square"] == pytest.approx(float(moved), rel=1e-12)
    assert found["mean"] == 0.0


def test_long_sequences_tend_to_half_the_sum_of_amplitudes():
    """Base 100 and width 8, as in the notes: 11.40 at P = 4000 against a limit of 11.46."""
    rng = np.random.default_rng(2)
    query, key = rng.normal(size=(2, 8))
    found = CLAIM.predict(
        kind="cached", head_dim=8, base=100.0, length=4000, query=query, cached_key=key
    )
    sizes = [np.hypot(x[:4], x[4:]) ** 2 for x in (query, key)]
    assert found["variance"] == pytest.approx((sizes[0] * sizes[1]).sum() / 2, rel=0.02)
    assert abs(found["mean"]) < 0.05


def test_slow_pairs_keep_a_constant_score():
    found = CLAIM.predict(kind="cached", head_dim=64, base=1e6, length=20)
    assert found["variance"] < 64 * 0.5


@pytest.mark.parametrize("kind", ["rope", "alibi", "t5"])
def test_relative_positions_forget_a_shift(kind):
    changes = position_shift.shifted_weights(
        kind, 8, 100.0, 500, 37, precision="float64", key=jax.random.key(1), trials=20
    )
    assert changes["deviation"].max() < 1e-12


def test_learned_positions_do_not():
    changes = position_shift.shifted_weights(
        "learned", 8, 100.0, 20, 3, precision="float64", key=jax.random.key(1), trials=50
    )
    assert changes["deviation"].min() > 0.01
    assert changes["shift_square"].mean() == pytest.approx(48, rel=0.1)


def test_a_rotated_cached_key_is_refuted(monkeypatch):
    """The check can fail: a model that rotates its cached keys too is caught."""

    def rotated(queries, keys, positions, base):
        return np.repeat((queries * keys).sum(axis=1, keepdims=True), len(positions), axis=1)

    monkeypatch.setattr(position_shift, "cached_scores", rotated)
    point = {"kind": "cached", "head_dim": 16, "base": 100.0, "length": 100}
    assert CLAIM.check(trials=500, point=point).status == "refuted"


def test_refusals_name_the_parameter():
    with pytest.raises(ParameterError, match=r"`head_dim`.*even"):
        CLAIM.predict(kind="rope", head_dim=5)
    with pytest.raises(ParameterError, match="`query`"):
        CLAIM.predict(kind="cached", head_dim=2, query=[1.0, 0.0])
    with pytest.raises(ParameterError, match=r"`cached_key`.*one number for each coordinate"):
        CLAIM.predict(kind="cached", head_dim=2, query=[1.0, 0.0], cached_key=[1.0])
