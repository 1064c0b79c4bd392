"""Ridge heads at a finite dimension: against sampled tokens, the limit, and a change of units."""

from __future__ import annotations

import numpy as np
import pytest
from quick_cases import some_slow
from scipy import special

import jaxprompt as jp
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.finite_ridge import finite_ridge
from jaxprompt.contextual.law.ridge_limit import ridge_limit

CLAIM = jp.claim("contextual.prompt_error")
BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
SHIFTED = {**BASE, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6)}


def token_level(rng, law, gain, dim, samples, ridge, trials):
    """Heads learned on tokens drawn one by one, and their errors given 2048 fresh scores."""
    shifts = np.array(law.get("shifts", ((0.0, 0.0),)))
    odds = np.array(law.get("shift_weights", (1.0,)))
    signal, context, noise, relevant = (law[n] for n in ("signal", "context", "noise", "relevant"))
    errors, noises = [], []
    for _ in range(trials):
        label = rng.choice([-1.0, 1.0], samples)
        shift = shifts[rng.choice(len(odds), samples, p=odds)]
        tokens = np.zeros((samples, law["tokens"], dim))
        tokens[:, relevant:] = noise * rng.normal(size=tokens[:, relevant:].shape)
        tokens[:, :relevant, 0], tokens[:, :relevant, 1] = signal * label[:, None], context
        tokens[:, relevant:, 0] -= (shift[:, 1] * signal * label)[:, None]
        tokens[:, relevant:, 1] -= shift[:, :1] * context
        weights = special.softmax(gain * context * tokens[:, :, 1], axis=1)
        rows = label[:, None] * np.einsum("nt,ntd->nd", weights, tokens)
        if samples < dim:
            gram = rows @ rows.T / samples + ridge * np.eye(samples)
            head = rows.T @ np.linalg.solve(gram, np.ones(samples)) / samples
        else:
            head = np.linalg.solve(rows.T @ rows / samples + ridge * np.eye(dim), rows.mean(axis=0))
        scores = rng.normal(size=(2048, law["tokens"] - relevant))
        error = 0.0
        for (shift_context, shift_signal), chance in zip(shifts, odds, strict=True):
            near = np.full((2048, relevant), gain * context**2)
            far = gain * context * (noise * scores - shift_context * context)
            weights = special.softmax(np.hstack([near, far]), axis=1)
            attention, rest = weights[:, :relevant].sum(axis=1), weights[:, relevant:]
            alpha = (attention - (1 - attention) * shift_signal) * signal
            beta = (attention - (1 - attention) * shift_context) * context
            beta = beta + noise * (rest * scores).sum(axis=1)
            across = np.sqrt(head[0] ** 2 + np.square(head[2:]).sum())
            spread = noise * np.sqrt((rest**2).sum(axis=1)) * across
            for sign in (-1, 1):
                margin = alpha * head[0] + sign * beta * head[1]
                error += chance * special.ndtr(-margin / spread).mean() / 2
        errors.append(error)
        noises.append(np.square(head[1:]).sum())
    return [(np.mean(x), np.std(x) / np.sqrt(trials)) for x in (errors, noises)]


@pytest.mark.parametrize(
    ("law", "gain", "dim", "samples", "ridge"),
    [(BASE, 1.0, 100, 200, 10.0), (SHIFTED, 0.5, 40, 60, 0.05), (BASE, 1.0, 60, 36, 0.0)],
)
def test_against_sampled_tokens(law, gain, dim, samples, ridge):
    """What the formula leaves out is of order 1/n: a fifth of 1/n in these settings at most."""
    found = token_level(np.random.default_rng(0), law, gain, dim, samples, ridge, 60)
    named = {"gain": gain, "dim": dim, "samples": samples, "ridge": ridge}
    predicted = CLAIM.predict(**law, **named)
    (error, error_stderr), (square, square_stderr) = found
    assert abs(predicted["error"] - error) < 4 * error_stderr + 0.2 / samples
    missed = abs(predicted["head_noise"] ** 2 - square)
    assert missed < 4 * square_stderr + 2 / samples * square
    if ridge == 10:
        limit = CLAIM.predict(**law, gain=gain, ridge=ridge, ratio=dim / samples)["error"]
        assert abs(limit - error) > 4 * error_stderr


@pytest.mark.parametrize(("ratio", "ridge"), [(0.5, 0.0), (0.5, 0.3), (1.6, 0.0), (1.25, 0.05)])
def test_the_change_falls_as_one_over_d(ratio, ridge):
    law = feature_law(**SHIFTED, gain=1.0).thinned(512, 4)
    limit = [x.mean() for x in ridge_limit(law, ratio, ridge)]
    changes = [
        np.array(finite_ridge(law, dim, dim / ratio, ridge)) - limit for dim in (1600, 3200, 6400)
    ]
    np.testing.assert_allclose(changes[0], 2 * changes[1], rtol=0.05)
    np.testing.assert_allclose(changes[1], 2 * changes[2], rtol=0.03)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize(("samples", "ridge"), [(90, 0.0), (90, 0.05), (40, 0.0), (40, 2.0)])
def test_scaling_the_tokens_scales_the_head(scale, samples, ridge):
    sizes = {n: scale * BASE[n] for n in ("signal", "context", "noise")}
    plain = CLAIM.predict(**BASE, gain=1.2, ridge=ridge, dim=60, samples=samples)
    scaled = CLAIM.predict(
        **{**BASE, **sizes}, gain=1.2 / scale**2, ridge=ridge * scale**2, dim=60, samples=samples
    )
    for name, power in (("error", 0), ("head_signal", -1), ("head_noise", -1)):
        assert scaled[name] == pytest.approx(plain[name] * scale**power, rel=1e-8), name


@pytest.mark.parametrize("samples", [1, 3, 59, 61, 10**6])
def test_every_size_has_a_number(samples):
    for ridge in (0.0, 1e-9, 1e6):
        found = CLAIM.predict(**BASE, gain=1.0, ridge=ridge, dim=60, samples=samples)
        assert 0 < found["error"] < 0.5
        assert found["head_noise"] > 0


def test_the_variances_diverge_where_d_is_n():
    found = CLAIM.predict(**BASE, gain=1.0, dim=60, samples=60)
    assert found["error"] == 0.5
    assert found["head_noise"] == np.inf


def test_a_small_dimension_and_no_noise_keep_the_limit():
    for given in ({**BASE, "dim": 2, "samples": 5}, {**BASE, "noise": 0.0, "dim": 9, "samples": 5}):
        ratio = given["dim"] / given["samples"]
        limit = {n: v for n, v in given.items() if n not in ("dim", "samples")}
        at_size = CLAIM.predict(**given, gain=0.5, ridge=0.1)
        assert at_size == CLAIM.predict(**limit, gain=0.5, ridge=0.1, ratio=ratio)


@pytest.mark.parametrize("ratio", some_slow([0.8, 2.0], first=1))
def test_the_best_ridge_at_a_large_dimension_is_the_limits(ratio):
    best = jp.claim("contextual.best_ridge")
    limit = best.predict(**BASE, gain=1.0, ratio=ratio)
    near, far = (best.predict(**BASE, gain=1.0, ratio=ratio, dim=dim) for dim in (100, 10**6))
    for name in ("error", "saving"):
        assert far[name] == pytest.approx(limit[name], abs=1e-5)
        assert 1e-4 < abs(near[name] - limit[name]) < 5e-3
    assert near["best_gain"] == limit["best_gain"]
