"""``contextual.context_gain``: reference numbers, the best gain, and the simulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

import jaxprompt as jp
from jaxprompt.contextual.claims import context_gain
from jaxprompt.contextual.claims.context_gain import breakdown_gain, pooled_law, relevant_tokens
from jaxprompt.errors import ParameterError

CLAIM = jp.claim("contextual.context_gain")
BASE = {"sparsity": 0.1, "signal": 1.0, "context": 1.0, "noise": 1.0}


def test_reference_numbers():
    found = CLAIM.predict(**BASE, gain=0.5)
    assert found["best_gain"] == 0.5
    tokens, zeta, width, sigma = 5000, 0.1, 1.0, 1.0
    ratio = tokens * zeta**2 * width**2 / ((1 - zeta) * sigma**2) * found["snr_gain"]
    assert ratio == pytest.approx(91.60, abs=0.005), f"squared SNR {ratio:.3f}"
    assert found["best_snr_gain"] == pytest.approx(np.exp(0.5), rel=1e-12)
    assert found["snr_gain"] == pytest.approx(found["best_snr_gain"], rel=1e-12)


def test_reference_simulation():
    """The theory's 91.58 at T = 5000, from sampled weights."""
    found = CLAIM.simulate(key=0, trials=8, **BASE, gain=0.5, tokens=5000)["snr_gain"]
    scale = 5000 * 0.1**2 / 0.9
    assert abs(scale * found.mean - 91.58) < 3 * scale * found.stderr + 0.02  # its own 1/T


@pytest.mark.slow
def test_the_law_of_squares_stops_at_half_the_gain_of_the_law_of_sums():
    """Below √(2 log T)/(2σQ) the formula holds, and better with more tokens; beyond it does not."""
    off = {}
    for tokens in (300, 10_000):
        gains = breakdown_gain(tokens, 1.0, 1.0) * np.array([0.3, 0.8])
        found = CLAIM.simulate(key=1, trials=4, **BASE, gain=gains.tolist(), tokens=tokens)
        off[tokens] = (
            np.asarray(found["snr_gain"].mean) / CLAIM.predict(**BASE, gain=gains)["snr_gain"]
        )
    assert abs(off[10_000][0] - 1) < abs(off[300][0] - 1) < 0.1
    assert off[10_000][1] > off[300][1] > 10


def test_the_formula_in_plain_numbers():
    z, q, s, dq, dw, g = 0.2, 1.3, 0.8, 0.4, 0.1, 0.6
    relevant = z * np.exp(g * q**2)
    other = (1 - z) * np.exp(-g * dq * q**2 + g**2 * s**2 * q**2 / 2)
    attention = relevant / (relevant + other)
    spread = (1 - z) * np.exp(-2 * g * dq * q**2 + 2 * g**2 * s**2 * q**2)
    spread /= (relevant + other) ** 2
    found = CLAIM.predict(
        sparsity=z, signal=1.0, context=q, noise=s, gain=g, shift_context=dq, shift_signal=dw
    )
    assert found["attention"] == pytest.approx(attention, rel=1e-12)
    assert found["spread"] == pytest.approx(spread, rel=1e-12)
    snr = (attention - (1 - attention) * dw) ** 2 / spread
    none = (z - (1 - z) * dw) ** 2 / (1 - z)
    assert found["snr_gain"] == pytest.approx(snr / none, rel=1e-12)


@pytest.mark.parametrize("shift_context", [0.0, 0.5, -0.3])
@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_best_gain_without_signal_shift(shift_context, noise):
    point = {**BASE, "noise": noise, "shift_context": shift_context}
    found = CLAIM.predict(**point, gain=0.2)
    assert found["best_gain"] == pytest.approx((1 + shift_context) / (2 * noise**2))
    worth = np.exp((1 + shift_context) ** 2 / (2 * noise**2))
    assert found["best_snr_gain"] == pytest.approx(worth)


@pytest.mark.parametrize("shift_signal", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("sparsity", [0.05, 0.25, 0.6])
@pytest.mark.parametrize("noise", [0.7, 1.2])
def test_best_gain_with_signal_shift_against_scipy(shift_signal, sparsity, noise):
    rest = (sparsity, 1.1, noise, 0.2, shift_signal)
    with jax.enable_x64(True):

        def loss(gain):
            return -float(pooled_law(jnp.float64(gain), *rest).log_snr)

        scan = np.linspace(-12, 12, 2401)
        heights = np.asarray(pooled_law(jnp.asarray(scan), *rest).log_snr)
        start = scan[heights.argmax()]
        best = optimize.minimize_scalar(loss, bounds=(start - 0.01, start + 0.01), method="bounded")
    found = CLAIM.predict(
        sparsity=sparsity, signal=1.0, context=1.1, noise=noise, gain=0.1,
        shift_context=0.2, shift_signal=shift_signal,
    )  # fmt: skip
    assert found["best_gain"] == pytest.approx(best.x, abs=2e-4)


def _best_by_scan(sparsity, context, noise, dq, dw):
    """The best gain in NumPy, from the two bumps written out, on a scan of both and refined."""

    def height(gain):
        power = (gain * noise * context) ** 2
        near = np.log(sparsity) + gain * (1 + dq) * context**2 - power
        far = np.log(np.abs(dw) * (1 - sparsity)) - power / 2
        top = np.maximum(near, far)
        with np.errstate(divide="ignore"):
            return top + np.log(np.abs(np.exp(near - top) - np.sign(dw) * np.exp(far - top)))

    width, middle = 1 / (noise * context), (1 + dq) / (2 * noise**2)
    scan = np.linspace(-12, 12, 40_001) * width
    scan = np.concatenate([scan, middle + scan])
    start = scan[height(scan).argmax()]
    around = start + np.linspace(-1, 1, 40_001) * 1e-3 * width
    return around[height(around).argmax()], height(around).max() - height(np.float64(0.0))


@pytest.mark.parametrize("shift_signal", [-2.0, -0.3, -0.01, 0.02, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("sparsity", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("context", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("shift_context", [-1.5, 0.0, 0.7])
def test_best_gain_with_any_shift_of_the_signal(shift_signal, sparsity, context, shift_context):
    """Where the context is small the best gain lies many natural gains away from 0."""
    best, worth = _best_by_scan(sparsity, context, 1.0, shift_context, shift_signal)
    found = CLAIM.predict(
        sparsity=sparsity, signal=1.0, context=context, noise=1.0, gain=0.1,
        shift_context=shift_context, shift_signal=shift_signal,
    )  # fmt: skip
    assert np.log(found["best_snr_gain"]) == pytest.approx(2 * worth, rel=1e-6, abs=1e-7)
    # The place where both signs do equally well is no single one.
    if abs(float(found["best_gain"]) - best) > 1e-3 / context:
        assert sparsity == (1 - sparsity) * shift_signal


@pytest.mark.parametrize("shift_signal", [-0.4, -0.05])
def test_simulation_of_a_negative_shift(shift_signal):
    point = {**BASE, "sparsity": 0.25, "shift_signal": shift_signal, "gain": 0.3}
    predicted = CLAIM.predict(**point)
    found = CLAIM.simulate(key=1, trials=24, **point, tokens=1600)
    for name in ("attention", "spread", "snr_gain", "best_snr_gain"):
        assert found[name].mean == pytest.approx(predicted[name], rel=0.02), name
    assert found["best_gain"].mean == pytest.approx(predicted["best_gain"], abs=0.06)


def test_predict_broadcasts_and_traces():
    gains = np.array([0.0, 0.3, 0.6])
    found = CLAIM.predict(**{**BASE, "noise": [[0.8], [1.2]]}, gain=gains)
    assert found["snr_gain"].shape == (2, 3)
    assert (found["snr_gain"][:, 0] == 1).all()
    point = {n: v for n, v in BASE.items() if n != "context"}

    def worth(context, gain):
        return CLAIM.predict(**point, context=context, gain=gain)["snr_gain"]

    traced = jax.jit(jax.vmap(worth, (None, 0)))(1.0, jnp.asarray(gains, jnp.float32))
    np.testing.assert_allclose(traced, CLAIM.predict(**BASE, gain=gains)["snr_gain"], rtol=1e-5)


def test_extreme_gains_stay_finite():
    for gain in (-40.0, 40.0):
        found = CLAIM.predict(**BASE, gain=gain)
        assert 0 <= found["attention"] <= 1
        assert found["snr_gain"] >= 0


def test_whole_relevant_tokens():
    assert relevant_tokens(10, 0.26) == 3
    assert relevant_tokens(10, 0.001) == 1
    assert relevant_tokens(10, 0.999) == 9
    # With a number of tokens, the sparsity is the one it realises.
    realised = CLAIM.predict(**{**BASE, "sparsity": 0.26}, gain=0.5, tokens=10)
    assert realised == CLAIM.predict(**{**BASE, "sparsity": 0.3}, gain=0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"noise": 0.0}, "noise"),
        ({"sparsity": 0.0}, "sparsity"),
        ({"sparsity": 1.0}, "sparsity"),
    ],
)
def test_refusals(change, named):
    with pytest.raises(ParameterError, match=f"`{named}` = "):
        CLAIM.predict(**{**BASE, "gain": 0.5, **change})


# --- the simulation ---


def brute(tokens, gain, trials, rng, sparsity=0.1, noise=1.0, context=1.0):
    """Means of s and T p₂ over sequences of sampled scores, in NumPy."""
    k = round(tokens * sparsity)
    scores = gain * context * noise * rng.normal(size=(trials, tokens))
    scores[:, :k] = gain * context**2
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    s, p = weights[:, :k].sum(axis=1), tokens * (weights[:, k:] ** 2).sum(axis=1)
    return [(x.mean(), x.std() / np.sqrt(trials)) for x in (s, p)]


def test_simulation_is_unbiased():
    found = CLAIM.simulate(key=0, trials=64, **BASE, gain=0.7, tokens=40)
    measured = brute(40, 0.7, 40_000, np.random.default_rng(0))
    for name, (mean, error) in zip(("attention", "spread"), measured, strict=True):
        z = (found[name].mean - mean) / np.hypot(found[name].stderr, error)
        assert abs(z) < 4, f"{name}: {found[name].mean:.5f} against {mean:.5f}, z = {z:.1f}"


def test_sequences_of_a_trial_are_normal_each_and_even_together():
    """Numbers of one sequence are independent; those of one token are at all distances of 1/P."""
    drawn = [context_gain._draw_scores(200, np.random.default_rng(i)) for i in range(150)]
    scores = np.stack(drawn).astype(np.float64)  # trial, sequence, token
    sequences = context_gain.SEQUENCES
    for sequence in (0, 1, sequences - 1):
        assert stats.kstest(scores[:, sequence].ravel(), "norm").pvalue > 1e-3
    places = np.sort(special.ndtr(scores[3]), axis=0)
    np.testing.assert_allclose(np.diff(places, axis=0), 1 / sequences, atol=1e-5)
    # Two tokens: over trials and sequences every product has the mean of independent numbers.
    for f in (np.sign, np.exp, np.square):
        products = (f(scores[:, :, ::2]) - f(scores).mean()) * (
            f(scores[:, :, 1::2]) - f(scores).mean()
        )
        means = products.mean(axis=1).ravel()
        assert abs(means.mean()) < 4.5 * means.std() / np.sqrt(means.size)


@pytest.mark.parametrize("gain", [0.0, 0.4, -0.7, 30.0])
def test_sums_of_a_trial_by_softmax(gain):
    """At listed gains and along a scan, tokens one by one; more of them than one chunk holds."""
    law = context_gain._ScoreLaw(relevant=2, context=1.3, noise=0.8, shift_context=0.3)
    scores = np.random.default_rng(0).standard_normal((5, 40_000)).astype(np.float32)
    scan = gain + np.array([0.0, 0.02, 0.04])
    found = context_gain._trial_sums(scores, law, np.array([gain]), scan)
    assert found.shape == (2, 4)
    for place, g in enumerate([gain, *scan]):
        exponents = g * 1.3 * (0.8 * scores.astype(np.float64) - 0.3 * 1.3)
        exponents = np.column_stack([np.full((5, 2), g * 1.3**2), exponents])
        weights = special.softmax(exponents, axis=1)
        expected = weights[:, :2].sum(axis=1).mean(), np.square(weights[:, 2:]).sum(axis=1).mean()
        np.testing.assert_allclose(found[:, place], expected, rtol=2e-4 if gain == 30 else 1e-5)


def test_simulation_approaches_the_limit():
    gaps = []
    for tokens in (100, 1600):
        found = CLAIM.simulate(key=1, trials=24, **BASE, gain=0.5, tokens=tokens)
        predicted = CLAIM.predict(**BASE, gain=0.5)
        gaps.append(abs(found["snr_gain"].mean / predicted["snr_gain"] - 1))
        assert found["best_gain"].mean == pytest.approx(0.5, abs=0.06)
    assert gaps[1] < 0.02


def test_gains_share_their_scores():
    grid = CLAIM.simulate(key=1, trials=4, **BASE, gain=[0.2, 0.5], tokens=60)
    one = CLAIM.simulate(key=1, trials=4, **BASE, gain=0.5, tokens=60)
    for name in ("attention", "spread", "snr_gain"):
        assert grid[name].mean.shape == (2,)
        assert grid[name].mean[1] == pytest.approx(one[name].mean, rel=1e-5)


def test_where_the_law_of_large_numbers_stops():
    # Beyond the stated gain the measured ratio falls far below the formula.
    gain = 1.2 * breakdown_gain(1000, 1.0, 1.0)
    found = CLAIM.simulate(key=0, trials=8, **BASE, gain=float(gain), tokens=1000)
    inside = CLAIM.simulate(key=0, trials=8, **BASE, gain=0.3, tokens=1000)
    predicted = [CLAIM.predict(**BASE, gain=g)["spread"] for g in (float(gain), 0.3)]
    assert found["spread"].mean < 0.2 * predicted[0]
    assert inside["spread"].mean == pytest.approx(predicted[1], rel=0.02)
