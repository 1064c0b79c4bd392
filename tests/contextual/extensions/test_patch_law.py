"""The law of patches fitted to embeddings, and its closed form against measured errors."""

from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual.extensions import patch_law
from jaxprompt.core.extras import EXTRAS

needs_data = pytest.mark.skipif(bool(EXTRAS["data"].missing()), reason="needs the extra data")


def a_law(relevant_noise):
    rng = np.random.default_rng(2)
    context, signal = np.zeros(24), np.zeros(24)
    context[0], signal[1] = 1.5, 1.0
    root = np.diag(np.linspace(0.6, 1.3, 24)) + 0.05 * rng.standard_normal((24, 24))
    eye = np.eye(24)
    return patch_law.PatchLaw(
        10, 2, signal, context, -0.2 * context, -0.1 * signal, root @ root.T,
        relevant_noise**2 * eye, 0.25 * eye,
    )  # fmt: skip


def test_fit_finds_the_moments_it_was_given():
    law, labels = a_law(0.5), np.where(np.arange(20_000) % 2, 1, -1)
    tokens, relevant = patch_law.gaussian_tokens(law, labels, isotropic=False, seed=3)
    found = patch_law.fit(tokens, relevant, labels)
    for name in ("signal", "context", "behind", "behind_signal"):
        np.testing.assert_allclose(getattr(found, name), getattr(law, name), atol=0.025)
    for name in ("irrelevant", "shared", "own"):
        np.testing.assert_allclose(getattr(found, name), getattr(law, name), atol=0.06)
    wanted, setting = law.setting(), found.setting()
    for name in ("signal", "context", "noise"):
        assert setting[name] == pytest.approx(wanted[name], rel=0.01), name
    np.testing.assert_allclose(setting["shifts"], [(0.2, 0.1)], atol=0.015)
    assert found.relevant_noise == pytest.approx(np.sqrt(0.25 + 0.125), rel=0.02)
    white = patch_law.fit(patch_law.whitened(found, tokens), relevant, labels)
    np.testing.assert_allclose(white.irrelevant, np.eye(24), atol=1e-8)
    assert white.anisotropy == pytest.approx(1)


def test_isotropic_tokens_meet_the_closed_form():
    """The theory's own law at d = 24: what is left is of order 1/d."""
    law = a_law(0.0)._replace(own=np.zeros((24, 24)), irrelevant=np.eye(24))
    prompt = 0.6 * law.direction
    features = []
    for count, seed in ((4000, 1), (8000, 2)):
        labels = np.where(np.arange(count) % 2, 1, -1)
        tokens, _ = patch_law.gaussian_tokens(law, labels, isotropic=True, seed=seed)
        features.append((patch_law.pooled(tokens, prompt), labels))
    sizes = (16, 48, 200)
    (train, labels), (test, answers) = features
    errors = patch_law.measured_errors(train, labels, test, answers, sizes, 0.05, 60, seed=4)
    predicted = patch_law.predicted_errors(law, 0.6, 0.05, sizes)
    # Without noise on relevant tokens both limits are one.
    np.testing.assert_allclose(
        predicted["with_relevant_noise"], predicted["closed_form"], rtol=1e-9
    )
    bias, spread = 1 / 24, 4 * errors.std(axis=0) / np.sqrt(60)
    gap = np.abs(errors.mean(axis=0) - predicted["closed_form"])
    assert (gap < bias * predicted["closed_form"] + spread).all(), f"{gap} above {spread}"


@needs_data
def test_heads_on_embeddings_are_scikit_learns():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(5)
    train, test = rng.standard_normal((40, 6)), rng.standard_normal((300, 6))
    labels, answers = (np.where(x[:, 0] + 0.5 * x[:, 1] > 0, 1, -1) for x in (train, test))
    found = patch_law.measured_errors(train, labels, test, answers, (40,), 0.1, 1, seed=0)
    peer = Ridge(alpha=40 * 0.1, fit_intercept=False).fit(train, labels)
    assert found[0, 0] == (np.sign(peer.predict(test)) != answers).mean()
