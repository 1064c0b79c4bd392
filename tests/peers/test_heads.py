"""Heads on pooled features against scikit-learn's linear models."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.contextual.simulation.convex_heads import GAP, convex_heads, max_margin_heads
from jaxprompt.contextual.simulation.ridge_heads import Chunks, ridge_path

from .conftest import peer

linear = peer("sklearn.linear_model")
svm = peer("sklearn.svm")

SAMPLES, DIM = 60, 8


def data(*, shift=0.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 1.0], SAMPLES)
    return rng.normal(size=(SAMPLES, DIM)) + shift * labels[:, None], labels


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 2.0])
def test_ridge(ridge):
    """Ours is theirs with ``alpha = n·λ`` and no intercept."""
    features, labels = data()
    theirs = linear.Ridge(alpha=SAMPLES * ridge, fit_intercept=False, solver="svd")
    theirs.fit(features, labels)
    rows = jnp.asarray(features * labels[:, None])
    sizes = np.array([SAMPLES], np.uint32)

    def draw(first, count):
        return jnp.take(rows, first + jnp.arange(count), axis=0, mode="fill", fill_value=0.0)

    path = ridge_path(
        draw, DIM, jnp.asarray(sizes[:0]), jnp.asarray(sizes), jnp.asarray([ridge]),
        chunks=Chunks.for_sizes([SAMPLES], DIM),
    )  # fmt: skip
    np.testing.assert_allclose(path[0, 0], theirs.coef_, rtol=1e-10, atol=1e-12)
    square, _ = convex_heads(np.asarray(rows)[None], ridge, "square")
    np.testing.assert_allclose(square[0], theirs.coef_, rtol=1e-7, atol=1e-8)


def reach(ridge):
    """How far a head may be from the minimiser, by its certified duality gap."""
    return np.sqrt(2 * GAP / ridge)


@pytest.mark.parametrize("ridge", [1e-2, 0.1, 1.0])
def test_logistic_regression(ridge):
    """Ours is theirs with ``C = 1/(n·λ)`` and no intercept."""
    features, labels = data()
    theirs = linear.LogisticRegression(
        C=1 / (SAMPLES * ridge), fit_intercept=False, tol=1e-12, max_iter=10_000, solver="lbfgs"
    ).fit(features, labels)
    heads, gaps = convex_heads((features * labels[:, None])[None], ridge, "logistic")
    assert gaps[0] <= GAP
    np.testing.assert_allclose(heads[0], theirs.coef_[0], rtol=0, atol=reach(ridge))


@pytest.mark.parametrize("ridge", [1e-2, 0.1, 1.0])
def test_linear_svc(ridge):
    """The hinge loss: theirs with ``C = 1/(n·λ)`` and no intercept."""
    features, labels = data()
    theirs = svm.LinearSVC(
        C=1 / (SAMPLES * ridge), loss="hinge", fit_intercept=False, tol=1e-10, max_iter=10**6,
        random_state=0,
    ).fit(features, labels)  # fmt: skip
    heads, gaps = convex_heads((features * labels[:, None])[None], ridge, "hinge")
    assert gaps[0] <= GAP
    np.testing.assert_allclose(heads[0], theirs.coef_[0], rtol=0, atol=2 * reach(ridge))


def test_max_margin():
    """Theirs at a ridge so small that no multiplier reaches its limit."""
    features, labels = data(shift=3.0)
    theirs = svm.LinearSVC(
        C=1e4, loss="hinge", fit_intercept=False, tol=1e-10, max_iter=10**6, random_state=0
    ).fit(features, labels)
    heads, gaps = max_margin_heads((features * labels[:, None])[None])
    assert gaps[0] <= GAP
    size = float(np.linalg.norm(heads[0]))
    # A relative gap g of |w|²/2 leaves the head within √g of its own length.
    np.testing.assert_allclose(heads[0], theirs.coef_[0], rtol=0, atol=2 * size * np.sqrt(GAP))
