"""Any token law: brute force on tokens, reference numbers, and the isotropic limit."""

from __future__ import annotations

import numpy as np
import pytest
from contextual_oracles import Pooled, stated_head
from quick_cases import some_slow
from scipy import special

import jaxprompt as jp
from jaxprompt.contextual.law.token_law import TokenLaw, conditional_token_error, pooled_law
from jaxprompt.contextual.law.token_law_limit import ridge_head_law, ridge_token_errors
from jaxprompt.contextual.law.token_law_maps import (
    apply,
    covariance_map,
    product,
    ridge_inverse,
    trace_of_product,
)
from jaxprompt.contextual.law.token_law_spectrum import spectrum_token_law

BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
COLOURED = {
    "exponent": 0.8, "relevant_noise": 0.6, "common_noise": 0.15, "token_correlation": 0.7,
}  # fmt: skip


def dense_law(dim=5):
    """A law with nothing simple about it: dense covariances, both correlations, every mean."""
    rng = np.random.default_rng(0)

    def covariance(scale):
        root = rng.standard_normal((dim, dim)) / np.sqrt(dim)
        return scale * (root @ root.T + 0.2 * np.eye(dim))

    vectors = rng.standard_normal((4, dim))
    return TokenLaw(
        6, 2, 0.8 * vectors[0], vectors[1], covariance(0.9), covariance(0.3), covariance(0.2),
        irrelevant_correlation=0.5 ** np.abs(np.subtract.outer(range(4), range(4))),
        relevant_correlation=np.array([[1.0, -0.3], [-0.3, 1.0]]),
        behind=0.3 * vectors[2], behind_signal=0.2 * vectors[3],
        shifts=((0.0, 0.0), (0.4, 0.3)), shift_weights=(0.3, 0.7),
    )  # fmt: skip


def drawn_features(law, prompt, count, rng):
    """Labels and pooled features of sequences drawn token by token."""
    dim, near, far = len(law.signal), law.relevant, law.tokens - law.relevant

    def matrix(x):
        return np.asarray(x) if np.ndim(x) == 2 else np.diag(x)

    def noise(covariance, correlation, tokens):
        rows = rng.multivariate_normal(np.zeros(dim), matrix(covariance), (count, tokens))
        root = np.eye(tokens) if correlation is None else np.linalg.cholesky(correlation)
        return np.einsum("st,ntd->nsd", root, rows)

    y = rng.choice([-1.0, 1.0], count)
    shift = np.array(law.shifts)[rng.choice(len(law.shifts), count, p=law.shift_weights)]
    behind = -shift[:, :1] * law.context - (shift[:, 1] * y)[:, None] * law.signal
    behind += 0 if law.behind is None else law.behind + y[:, None] * law.behind_signal
    relevant = (law.context + y[:, None] * law.signal)[:, None]
    tokens = np.concatenate(
        [
            relevant + noise(law.relevant_noise, law.relevant_correlation, near),
            behind[:, None] + noise(law.irrelevant_noise, law.irrelevant_correlation, far),
        ],
        axis=1,
    )
    tokens += noise(law.common_noise, None, 1)
    weights = special.softmax(tokens @ prompt, axis=1)
    return y, np.einsum("nt,ntd->nd", weights, tokens)


@pytest.mark.parametrize("prompt_scale", [0.0, 0.7])
def test_conditional_error_against_tokens(prompt_scale):
    law, rng = dense_law(), np.random.default_rng(1)
    head, prompt = rng.standard_normal((2, 5))
    prompt *= prompt_scale
    exact = conditional_token_error(pooled_law(law, prompt), head, 0.2)
    y, features = drawn_features(law, prompt, 60_000, rng)
    wrong = y * (features @ head + 0.2) < 0
    error = np.hypot(wrong.std() / np.sqrt(len(wrong)), exact.std() / np.sqrt(8))
    assert abs(wrong.mean() - exact.mean()) < 4.2 * error


def test_moments_of_the_pooled_feature_against_tokens():
    law, rng = dense_law(), np.random.default_rng(2)
    prompt = 0.5 * rng.standard_normal(5)
    pooled = pooled_law(law, prompt)
    odds = pooled.weights / len(pooled.weights)
    theta = pooled.coefficients
    mean = pooled.basis @ np.einsum("rn,rni->i", odds, theta)
    second = pooled.basis @ np.einsum("rn,rni,rnj->ij", odds, theta, theta) @ pooled.basis.T
    levels = np.einsum("rn,rnj->j", odds, pooled.levels)
    second = second + sum(a * c for a, c in zip(levels, pooled.covariances, strict=True))
    y, features = drawn_features(law, prompt, 60_000, rng)
    rows = y[:, None] * features
    outer = rows[:, :, None] * rows[:, None]
    for exact, drawn in ((mean, rows), (second, outer)):
        spread = drawn.std(axis=0) / np.sqrt(len(rows))
        assert (np.abs(drawn.mean(axis=0) - exact) < 4.5 * spread).all()


def test_error_of_learned_heads_against_tokens():
    """Heads trained and tested on tokens; what the formula leaves out is of order 1/n."""
    law = spectrum_token_law(dim=24, **BASE, **COLOURED)
    prompt, n, ridge = 0.8 * law.context, 72, 0.05
    predicted = ridge_token_errors(pooled_law(law, prompt), n, ridge).mean()
    rng, errors = np.random.default_rng(3), []
    for _ in range(60):
        y, features = drawn_features(law, prompt, n, rng)
        head = np.linalg.solve(features.T @ features / n + ridge * np.eye(24), y @ features / n)
        y, features = drawn_features(law, prompt, 1000, rng)
        errors.append((y * (features @ head) < 0).mean())
    error = np.std(errors, ddof=1) / np.sqrt(60)
    assert abs(np.mean(errors) - predicted) < 4 * error + 0.1 / n


@pytest.mark.parametrize(
    ("dim", "settings", "reference"),
    [
        # Of an independent program, up to 0.2/n: it leaves out terms of that order.
        (128, {"exponent": 0.7, "relevant_noise": 0.3, "common_noise": 0.3,
               "token_correlation": 0.4}, 0.26167),
        (128, COLOURED, 0.22949),
    ],
)  # fmt: skip
def test_reference_errors(dim, settings, reference):
    law = spectrum_token_law(dim=dim, **BASE, **settings)
    found = ridge_token_errors(pooled_law(law, 0.8 * law.context), 2 * dim, 0.02)
    assert abs(found.mean() - reference) < 0.3 / dim


def test_reference_noise_that_a_head_keeps():
    law = spectrum_token_law(dim=128, **BASE, **COLOURED)
    head = ridge_head_law(pooled_law(law, 0.8 * law.context, replicates=1), 256, 0.02)
    np.testing.assert_allclose(head.noise_kept, [1.442, 0.691, 0.0575], rtol=0.02)


@pytest.mark.parametrize(("ratio", "ridge"), [(0.5, 0.05), (1.6, 0.05), (0.5, 0.0), (2.0, 0.0)])
def test_the_isotropic_case_is_prompt_error_in_the_limit(ratio, ridge):
    dim = 4000
    law = spectrum_token_law(
        dim=dim, **BASE, exponent=0.0, relevant_noise=0.0, common_noise=0.0, token_correlation=0.0
    )
    pooled = pooled_law(law, law.context, replicates=2, nodes=1024)
    found = ridge_token_errors(pooled, round(dim / ratio), ridge).mean()
    limit = jp.claim("contextual.prompt_error").closed_form(
        **BASE, gain=1.0, ridge=ridge, ratio=ratio
    )["error"]
    assert found == pytest.approx(float(limit.mean), abs=5e-4)


def test_diagonal_covariances_are_those_of_matrices():
    law = spectrum_token_law(dim=12, **BASE, **COLOURED)
    dense = law._replace(
        irrelevant_noise=np.diag(law.irrelevant_noise), relevant_noise=np.diag(law.relevant_noise),
        common_noise=np.diag(law.common_noise),
    )  # fmt: skip
    prompt = 0.5 * law.context + 0.4 * law.signal
    for intercept in (False, True):
        first, second = (
            ridge_head_law(
                pooled_law(x, prompt, replicates=1, nodes=256), 20, 0.05, intercept=intercept
            )
            for x in (law, dense)
        )
        assert first.error == pytest.approx(second.error, rel=1e-9)
        np.testing.assert_allclose(first.noise_kept, second.noise_kept, rtol=1e-8)
        np.testing.assert_allclose(first.mean, second.mean, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("noise", some_slow([0.2, 0.0], first=1))
def test_an_intercept_is_that_of_centred_heads(noise):
    """A prompt along the signal makes attention depend on the label; token-level training."""
    law = spectrum_token_law(
        dim=24, **BASE, exponent=0.5, relevant_noise=0.4, common_noise=0.2, token_correlation=0.5,
        shifts=((0.0, 0.0), (0.8, 0.5)), shift_weights=(0.35, 0.65),
    )  # fmt: skip
    prompt, n, ridge = 0.5 * law.context + 0.9 * law.signal, 96, 0.05
    predicted = ridge_head_law(
        pooled_law(law, prompt, replicates=2), n, ridge, intercept=True, label_noise=noise
    )
    rng, starts, errors = np.random.default_rng(4), [], []
    for _ in range(60):
        y, features = drawn_features(law, prompt, n, rng)
        y = np.where(rng.random(n) < noise, -y, y)
        centred = features - features.mean(axis=0)
        matrix = centred.T @ centred / n + ridge * np.eye(24)
        head = np.linalg.solve(matrix, centred.T @ (y - y.mean()) / n)
        start = y.mean() - features.mean(axis=0) @ head
        y, features = drawn_features(law, prompt, 1000, rng)
        starts.append(start)
        errors.append((y * (features @ head + start) < 0).mean())
    for found, exact in ((errors, predicted.error), (starts, predicted.intercept)):
        error = np.std(found, ddof=1) / np.sqrt(60)
        assert abs(np.mean(found) - exact) < 4 * error + 0.2 / n


def test_a_head_that_nothing_holds_answers_by_chance():
    """One sequence, an intercept, no ridge: the noise has no bound."""
    law = spectrum_token_law(dim=3, **BASE, **COLOURED)
    found = ridge_head_law(
        pooled_law(law, law.context, replicates=1), 1, 0.0, intercept=True, label_noise=0.3
    )
    assert found.error == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("dim", "samples"), [(3, 3), (3, 1), (3, 40), (4, 3), (24, 24)])
@pytest.mark.parametrize("ridge", [1e-3, 0.05])
def test_few_sequences_solve_the_stated_equations(dim, samples, ridge):
    """By plain iteration of dense matrices, to the end."""
    law = spectrum_token_law(dim=dim, **BASE, **COLOURED)
    pooled = pooled_law(law, law.context, replicates=1, nodes=64)
    dense = [
        np.stack([apply(m, e[:, None])[:, 0] for e in np.eye(dim)], 1) for m in pooled.covariances
    ]
    nodes = Pooled(pooled.coefficients[0], pooled.levels[0], pooled.basis, dense)
    right = stated_head(nodes, samples, ridge)
    found = ridge_head_law(pooled, samples, ridge)
    assert found.error == pytest.approx(right["error"], rel=1e-5)
    assert found.noise_kept[0] == pytest.approx(right["irrelevant_noise"], rel=1e-5)


@pytest.mark.parametrize("dim", some_slow([24, 3], first=1))
def test_as_many_sequences_as_dimensions_need_no_ridge(dim):
    """The law is continuous in the ridge, though plain iteration would take for ever there."""
    law = spectrum_token_law(dim=dim, **BASE, **COLOURED)
    pooled = pooled_law(law, np.zeros(dim), replicates=1, nodes=64)
    errors = [ridge_head_law(pooled, dim, ridge).error for ridge in (0.0, 1e-6, 1e-4)]
    assert np.all(np.diff(errors) < 0)
    assert errors[0] - errors[1] < 0.05


def test_maps_are_matrices():
    rng = np.random.default_rng(5)
    diagonals, removed = rng.uniform(0.5, 1.5, (2, 6)), 0.3 * rng.standard_normal((2, 6))
    sparse = [covariance_map(d, r) for d, r in zip(diagonals, removed, strict=True)]
    full = [np.diag(d) - np.outer(r, r) for d, r in zip(diagonals, removed, strict=True)]
    inverse = ridge_inverse(0.1, [0.7, 1.3], sparse)
    exact = np.linalg.inv(0.1 * np.eye(6) + 0.7 * full[0] + 1.3 * full[1])
    assert trace_of_product(inverse, sparse[1]) == pytest.approx(np.trace(exact @ full[1]))
    twice = trace_of_product(product(sparse[0], inverse), product(sparse[1], inverse))
    assert twice == pytest.approx(np.trace(full[0] @ exact @ full[1] @ exact))
