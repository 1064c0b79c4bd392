"""Extreme but legal parameters: closed forms against limits and formulas found independently."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.special import ndtr

import jaxprompt as jp
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.prompt_step_moments import laguerre_nodes
from jaxprompt.errors import NumericalError, ParameterError
from jaxprompt.universal.numerics import bessel

MODEL = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
HEAD = {
    "head_signal": 1.0,
    "head_context": 0.0,
    "head_norm": 1.0,
    "head_prompt": 0.0,
    "prompt_signal": 0.0,
    "prompt_context": 0.0,
    "prompt_norm": 0.0,
}


def prompt_error(**changes):
    return jp.claim("contextual.prompt_error").predict(**{**MODEL, **changes})


def conditional_error(gain=0.0, **changes):
    """Error of the head w⋆/W with the prompt γ q⋆."""
    law = {n: v for n, v in MODEL.items() if n != "gain"} | changes
    prompt = {"prompt_context": gain * law["context"] ** 2}
    prompt["prompt_norm"] = abs(gain) * law["context"]
    head = HEAD | {"head_signal": law["signal"]}  # ⟨w, w⋆⟩
    return jp.claim("contextual.conditional_error").predict(**law, **head | prompt)["error"]


# --- contextual ---


@pytest.mark.parametrize("tokens", [1, 10])
def test_only_relevant_tokens_are_learned_without_error(tokens):
    found = prompt_error(tokens=tokens, relevant=tokens, ratio=[0.5, 2.0])
    np.testing.assert_array_equal(found["error"], 0.0)
    assert conditional_error(tokens=tokens, relevant=tokens) == 0


def test_without_signal_every_answer_is_a_guess():
    np.testing.assert_allclose(prompt_error(signal=0.0, ratio=0.5)["error"], 0.5, atol=1e-12)
    np.testing.assert_allclose(conditional_error(signal=0.0), 0.5, atol=1e-12)


def test_a_ridge_without_end_leaves_the_mean_of_the_features():
    """ŵ → n⁻¹ Σ y x up to scale: c = E α and ρ² = κ E τ², whatever the fixed point."""
    ratio, found = 0.7, prompt_error(ratio=0.7, ridge=1e12)
    law = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)

    def mean(values):  # over all nodes of the quadrature together
        return (values * law.weights).sum() / law.weights.sum()

    c, rho = mean(law.alpha), np.sqrt(ratio * mean(law.tau**2))
    error = mean(ndtr(-law.alpha * c / (law.tau * np.hypot(c, rho))))
    assert abs(found["error"] - error) < 1e-12, f"{found['error']} for {error}"
    far = prompt_error(ratio=0.7, ridge=1e20)["error"]
    assert abs(far - found["error"]) < 1e-12


def test_a_ridge_towards_nothing_is_none():
    for ratio in (0.5, 2.0):
        none = prompt_error(ratio=ratio, ridge=0.0)
        little = prompt_error(ratio=ratio, ridge=1e-10)
        for name in ("error", "head_signal", "head_noise"):
            np.testing.assert_allclose(little[name], none[name], rtol=1e-6, err_msg=name)


def test_the_peak_at_as_many_samples_as_dimensions():
    at = prompt_error(ratio=1.0, ridge=0.0)
    assert at["head_noise"] == math.inf
    assert at["error"] == 0.5
    near = [prompt_error(ratio=1.0 + s, ridge=0.0) for s in (-1e-9, 1e-9)]
    for found in near:
        assert abs(found["error"] - 0.5) < 1e-4
        assert found["head_noise"] > 1e3


def test_noise_towards_nothing():
    none, little = (prompt_error(noise=s, ratio=0.5) for s in (0.0, 1e-12))
    assert none["error"] == 0
    assert little["error"] == 0
    # Without noise the sign is that of s − (1 − s) δ_w, exactly.
    wrong = conditional_error(noise=0.0, shifts=[[0.0, 0.3], [0.0, 0.2]], shift_weights=[0.4, 0.6])
    assert wrong == pytest.approx(0.4), "0.2 − 0.8·0.3 < 0 < 0.2 − 0.8·0.2"
    assert conditional_error(noise=1e-9, shifts=[[0.0, 0.3]]) == pytest.approx(1.0)


@pytest.mark.parametrize("gain", [1e3, 1e6])
def test_a_gain_without_end_looks_at_one_token(gain):
    """All weight is on the largest score: a relevant one unless some σ Q v_t exceeds Q²; and what
    an irrelevant token holds along w⋆ is a fair coin."""
    found = conditional_error(gain=gain, noise=0.8, tokens=6, relevant=2)
    exact = 0.5 * (1 - ndtr(1.5 / 0.8) ** 4)
    assert abs(found - exact) < 2e-3, f"{found} for {exact}"


def test_the_noise_of_many_tokens():
    """Laguerre weights overflow from power 171 on; moments of the Γ law do not."""
    for power in (0.5, 170.0, 500.0, 5e4):
        nodes, weights = laguerre_nodes(3, power)
        moments = [float(weights @ nodes**k) for k in range(6)]
        exact = [float(mpmath.rf(power + 1, k)) for k in range(6)]
        np.testing.assert_allclose(moments, exact, rtol=1e-12)
    found = jp.claim("contextual.prompt_step").predict(
        tokens=1000, relevant=100, signal=1.2, context=1.0, noise=1.0, samples=40, dim=16,
        head_signal=0.25, head_context=0.0, head_norm=0.4,
    )  # fmt: skip
    assert np.isfinite(list(found.values())).all()


def test_a_prompt_that_no_step_moves_is_refused():
    setting = {**MODEL, "relevant": 10, "dim": 200, "samples": 400, "prompt_norm": 4.0}
    del setting["gain"]
    with pytest.raises(ParameterError, match="less than `tokens`"):
        jp.claim("contextual.three_steps").predict(**setting)


def test_the_first_step_over_relevant_tokens_only():
    """w₁ = n⁻¹ Σ y x = w⋆ + (n⁻¹ Σ y) q⋆: its energy is W² + Q²/n, in any dimension."""
    for samples in (1, 7, 10**6):
        found = jp.claim("contextual.first_step").predict(
            tokens=4, relevant=4, signal=1.2, context=1.5, noise=1.0, dim=2, samples=samples
        )
        assert found["signal"] == pytest.approx(1.2, rel=1e-14)
        assert found["energy"] == pytest.approx(1.2**2 + 1.5**2 / samples, rel=1e-14)


def test_the_weight_of_the_context():
    claim = jp.claim("contextual.context_gain")
    setting = {"signal": 1.0, "context": 1.0, "noise": 0.5}
    for sparsity in (1e-9, 0.3, 1 - 1e-9):
        assert claim.predict(sparsity=sparsity, gain=0.0, **setting)["attention"] == pytest.approx(
            sparsity, rel=1e-12
        )
        gain = 0.4
        relevant = sparsity * math.exp(gain)
        rest = (1 - sparsity) * math.exp(gain**2 * 0.5**2 / 2)
        found = claim.predict(sparsity=sparsity, gain=gain, **setting)["attention"]
        assert found == pytest.approx(relevant / (relevant + rest), rel=1e-12)


# --- universal ---


@pytest.mark.parametrize(("order", "degree"), [(0.0, 1), (0.5, 30), (199.5, 30)])
@pytest.mark.parametrize("x", [1e-30, 1e-3, 700.0, 1e9, 1e30])
def test_bessel_ratios_at_the_ends(x64, order, degree, x):
    with mpmath.workdps(40):
        if x > 1e6:  # 1 − ρ from the first terms of the large-argument series
            top = mpmath.mpf(order) + degree
            mu, nu = 4 * top**2, 4 * mpmath.mpf(order) ** 2
            one, two = (
                1
                - (m - 1) / (8 * mpmath.mpf(x))
                + (m - 1) * (m - 9) / (2 * (8 * mpmath.mpf(x)) ** 2)
                for m in (mu, nu)
            )
            exact = mpmath.log(one / two)
        else:
            exact = mpmath.log(mpmath.besseli(order + degree, x) / mpmath.besseli(order, x))
    found = float(bessel.log_ratio(order, degree, x))
    rtol = 1e-12 if x <= 1e6 else max(1e-12, 10 * (order + degree) ** 4 / x**2)
    assert found == pytest.approx(float(exact), rel=rtol)


@pytest.mark.slow
def test_equispaced_centres_at_the_ends():
    claim = jp.claim("universal.circle_error")
    # One centre: a constant, at the worst place the opposite of the target.
    for concentration in (1e-30, 1.0, 1e9):
        found = claim.predict(centres=1, degree=1, concentration=concentration)["sup_error"]
        assert found == pytest.approx(2.0, abs=1e-9)
    # No concentration: the mean of the centres' values, 0 unless N divides k.
    assert claim.predict(centres=8, degree=3, concentration=1e-30)["sup_error"] == pytest.approx(1)
    # All of it: the nearest centre's value.
    for phase in (0.5, 2.5):
        found = claim.predict(centres=8, degree=3, concentration=1e9, phase=phase)["error"]
        assert found == pytest.approx(2 * math.sin(3 * phase / 16), rel=1e-9)


@pytest.mark.slow
def test_a_constant_is_itself_at_any_concentration():
    assert jp.claim("universal.circle_error").predict(centres=3, degree=0)["best_error"] == 0


@pytest.mark.parametrize(
    ("centres", "concentration", "method"),
    [(8, 640.0, "raw"), (8, 640.0, "deconvolution"), (3, 1e6, "deconvolution")],
)
def test_values_where_single_centres_show(centres, concentration, method):
    """Beyond λ = N² the sums over aliases cancel: they once gave 45 for 0.376."""
    claim = jp.claim("universal.optimal_values")
    setting = {"centres": centres, "concentration": concentration, "degree": 1, "method": method}
    found, head = claim.predict(**setting), claim.simulate(key=0, trials=2, **setting)
    for name in ("sup_error", "rms_error"):
        assert found[name] == pytest.approx(head[name].mean, rel=1e-8)
    if method == "raw":
        direct = jp.claim("universal.circle_error").predict(
            centres=centres, concentration=concentration, degree=1
        )
        assert found["sup_error"] == pytest.approx(direct["sup_error"], rel=2e-2)


def test_a_head_at_no_and_at_every_concentration():
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(5, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    values, query = chance.normal(size=(5, 2)), np.array([0.6, 0.8, 0.0])
    claim = jp.claim("universal.kernel_head")
    given = {"query": query, "centres": centres, "values": values}
    none = claim.predict(**given, concentration=0.0, content=0)
    np.testing.assert_allclose(none["core"], values.mean(axis=0), rtol=1e-14)
    assert none["gate"] == 1, "without content all attention is the prefix's"
    every = claim.predict(**given, concentration=1e30)
    np.testing.assert_array_equal(every["core"], values[np.argmax(centres @ query)])


def test_bounds_at_the_ends():
    bound = jp.claim("universal.prefix_bound")
    wide = bound.predict(sphere_dim=1, lipschitz=1.0, accuracy=1e30)
    assert wide["separation"] == 0.5
    assert wide["centres"] == pytest.approx(4 * math.pi)
    fine = bound.predict(sphere_dim=1, lipschitz=1.0, accuracy=1e-30)
    assert fine["centres"] == pytest.approx(12e30 * math.pi)
    assert fine["paper_scaling"] == math.inf, "as its description says"
    lower = jp.claim("universal.prefix_lower_bound")
    assert lower.predict(lipschitz=1.0, centres=1)["error"] == pytest.approx(math.pi / 2)
    assert lower.predict(lipschitz=1.0, accuracy=1e30)["centres"] == 1
    floor = jp.claim("universal.prefix_rate").predict(
        sphere_dim=3, smoothness="smooth", covering=1e-20
    )
    assert floor["floor"] == pytest.approx(0.5e-40, rel=1e-12), "1 − cos r without cancellation"


def test_an_infinite_prefix_at_the_ends():
    claim = jp.claim("universal.sphere_limit")
    for m, k in ((1, 1), (2, 3), (401, 2)):
        sharp = claim.predict(sphere_dim=m, degree=k, concentration=1e20)
        assert sharp["defect"] == pytest.approx(k * (k + m - 1) / 2e20, rel=1e-9)
        flat = claim.predict(sphere_dim=m, degree=k, concentration=1e-20)
        order = (m - 1) / 2
        exact = k * math.log(0.5e-20) + math.lgamma(order + 1) - math.lgamma(order + k + 1)
        assert flat["log_multiplier"] == pytest.approx(exact, rel=1e-12)
        # A flat kernel's mean angle is that of a uniform point: π/2.
        assert flat["lipschitz_bias"] == pytest.approx(math.pi / 2, rel=1e-9)


# --- prefix ---


@pytest.mark.parametrize("size", [1e4, -1e4, 1e29])
def test_prefix_identities_at_extreme_scores(size):
    claim = jp.claim("prefix.bias_identity")
    scores, own = np.array([0.0, 1.0]) * size, np.array([0.5]) * size
    values, bias = np.array([[1.0], [3.0]]), np.array([[-2.0]])
    found = claim.predict(
        content_scores=scores, content_values=values, prefix_scores=own, prefix_values=bias
    )
    every = np.concatenate([scores, own])
    winner = np.concatenate([values, bias])[np.argmax(every)]
    np.testing.assert_allclose(found["output"], winner, atol=1e-12)
    assert found["prefix_mass"] == 0


def test_selection_at_the_ends():
    claim = jp.claim("prefix.token_selection")
    setting = {"length": 20, "vocabulary": 5, "value": 0.8}
    assert claim.predict(**setting, temperature=1e30)["leakage"] == 0
    assert claim.predict(**setting, temperature=0.0)["leakage"] == pytest.approx(19 / 20)
    with pytest.raises(ParameterError):
        claim.predict(**{**setting, "length": 1}, temperature=1.0)
    with pytest.raises(NumericalError, match="functions"):
        claim.predict(case="one_to_one", vocabulary=10**12, outputs=1)
