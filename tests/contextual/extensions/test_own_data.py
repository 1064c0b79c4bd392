"""Learning curves of a user's own data: against training, at the ends, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

import jaxprompt.contextual as contextual
from jaxprompt.contextual.extensions import own_data
from jaxprompt.contextual.extensions.own_data_input import make_pool
from jaxprompt.contextual.extensions.own_data_moments import token_moments
from jaxprompt.errors import ParameterError

TOKENS, RELEVANT, DIM = 6, 2, 12
MARKS = np.arange(TOKENS) < RELEVANT


def sequences(count, seed=0):
    """Tokens with heavy tails, unequal variances and a context; labels ±1."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], count)
    x = rng.standard_t(5, (count, TOKENS, DIM)) * np.linspace(0.4, 1.2, DIM)
    x[:, :RELEVANT] *= 0.4
    x[:, :RELEVANT, 0] += 1.2
    x[:, :RELEVANT, 1] += 0.7 * y[:, None]
    return x, y


def test_the_curve_is_that_of_training_on_new_sequences():
    tokens, labels = sequences(3000)
    prompt = contextual.best_prompt(tokens, MARKS)
    samples = (16, 64, 400)
    curve = contextual.predict_curve(tokens, labels, prompt, samples, 0.05, relevant=MARKS)
    fresh, answers = sequences(12_000, seed=1)
    rows = own_data.pool_features(make_pool(fresh, answers, prompt, 0.05, None))
    train, test = rows[:6000], rows[6000:]
    for place, n in enumerate(samples):
        errors = [
            (test @ own_data.ridge_head(train[first : first + n], 0.05) < 0).mean()
            for first in range(0, 6000 - n, max(n, 100))
        ]
        error = np.hypot(np.std(errors) / np.sqrt(len(errors)), curve.stderr[place])
        assert abs(np.mean(errors) - curve.semi_empirical[place]) < 4 * error + 0.01
    assert (np.diff(curve.semi_empirical) < 0).all()
    assert curve.samples_for(float(curve.semi_empirical[1])) == 64
    assert contextual.samples_for(float(curve.semi_empirical[1]), curve=curve) == 64
    # Unequal variances are most of what the isotropic level misses.
    off = [np.abs(x - curve.semi_empirical).max() for x in (curve.all_moments, curve.isotropic)]
    assert off[0] < off[1]


def test_with_all_of_the_pool_the_head_is_the_ridge_head():
    tokens, labels = sequences(100)
    rows = own_data.pool_features(make_pool(tokens, labels, np.ones(DIM), 0.1, None))
    heads = own_data._EmpiricalHeads.of(rows[:80], rows[80:], 0.1)
    margin = rows[80:] @ own_data.ridge_head(rows[:80], 0.1)
    np.testing.assert_array_equal(heads.wrong_probabilities(80), margin < 0)
    near = heads.wrong_probabilities(79)
    assert np.abs(near - (margin < 0)).mean() < 0.1


def test_more_dimensions_than_sequences():
    tokens, labels = sequences(60)
    wide = np.concatenate([tokens, np.zeros((60, TOKENS, 100))], axis=-1)
    padded = np.concatenate([np.ones(DIM), np.zeros(100)])
    narrow = contextual.predict_curve(tokens, labels, np.ones(DIM), [8, 40], 0.1)
    found = contextual.predict_curve(wide, labels, padded, [8, 40], 0.1)
    np.testing.assert_allclose(found.semi_empirical, narrow.semi_empirical, atol=1e-7)
    assert np.isnan(found.isotropic).all()
    assert "marked" in found.assumed[-1]


def test_moments_are_found():
    rng, count = np.random.default_rng(3), 20_000
    y = rng.choice([-1.0, 1.0], count)
    common = 0.5 * rng.standard_normal((count, 1, 3))
    tokens = common + rng.standard_normal((count, TOKENS, 3)) * np.array([0.5, 1.0, 1.5])
    tokens[:, :RELEVANT] += np.array([1.0, 0.0, 0.0]) + y[:, None, None] * np.array([0, 0.6, 0])
    found = token_moments(make_pool(tokens, y, np.zeros(3), 0.0, MARKS))
    np.testing.assert_allclose(found.signal, [0, 0.6, 0], atol=0.03)
    np.testing.assert_allclose(found.context, [1, 0, 0], atol=0.03)
    np.testing.assert_allclose(found.common, 0.25 * np.eye(3), atol=0.03)
    np.testing.assert_allclose(found.irrelevant, np.diag([0.25, 1, 2.25]), atol=0.05)
    assert abs(found.irrelevant_correlation) < 0.02
    prompt = contextual.best_prompt(tokens, MARKS)
    np.testing.assert_allclose(prompt, [2.0, 0, 0], atol=0.15)


def test_labels_may_be_any_two_values_and_blocks_do_not_matter(monkeypatch):
    tokens, labels = sequences(200)
    first = contextual.predict_curve(tokens, labels, np.ones(DIM), [20], 0.1)
    words = np.where(labels > 0, "yes", "no")
    monkeypatch.setattr("jaxprompt.contextual.extensions.own_data_input._BLOCK_BYTES", 4096)
    second = contextual.predict_curve(tokens, words, np.ones(DIM), [20], 0.1)
    np.testing.assert_allclose(second.semi_empirical, first.semi_empirical, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": np.zeros((30, 4))}, "tokens"),
        ({"tokens": np.full((30, 4, 3), np.nan)}, "tokens"),
        ({"tokens": np.zeros((5, 4, 3)), "labels": np.arange(5) % 2}, "tokens"),
        ({"labels": np.ones(30)}, "labels"),
        ({"labels": np.arange(30)}, "labels"),
        ({"labels": np.arange(29) % 2}, "labels"),
        ({"prompt": np.zeros(4)}, "prompt"),
        ({"samples": [25]}, "samples"),
        ({"samples": [2.5]}, "samples"),
        ({"ridge": -0.1}, "ridge"),
        ({"relevant": np.ones(4, bool)}, "relevant"),
        ({"relevant": np.zeros(3, bool)}, "relevant"),
    ],
)
def test_refusals_name_the_argument(change, named):
    good = {
        "tokens": np.random.default_rng(0).standard_normal((30, 4, 3)),
        "labels": np.arange(30) % 2, "prompt": np.zeros(3), "samples": [10], "ridge": 0.1,
    }  # fmt: skip
    contextual.predict_curve(**good)
    with pytest.raises(ParameterError, match=f"parameter `{named}`"):
        contextual.predict_curve(**{**good, **change})


def test_what_cannot_be_answered_is_refused():
    tokens, labels = sequences(200)
    curve = contextual.predict_curve(tokens, labels, np.ones(DIM), [20, 100], 0.1)
    with pytest.raises(ParameterError, match="`error`"):
        curve.samples_for(1e-9)
    with pytest.raises(ParameterError, match="`level`"):
        curve.samples_for(0.3, "isotropic")
