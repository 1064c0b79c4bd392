from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.contextual.claims.prompt_step import CLAIM, turning_signal
from jaxprompt.contextual.law.prompt_step_moments import prompt_moments
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import gradient_steps

MODEL = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6),
}  # fmt: skip
# One compiled program for each shape, where every operation alone would be one.
step_of = jax.jit(gradient_steps.prompt_step)
HEADS = np.array([[0.3, 0.1, 0.4], [1.2, 0.0, 0.0], [-0.7, 0.9, 2.0], [0.0, 0.0, 1.0]])


def drawn_tokens(model, dim, count, rng):
    """Labels and sequences, token by token in NumPy."""
    label = rng.choice([-1.0, 1.0], count)
    shifts = np.array(model["shifts"])
    shift = shifts[rng.choice(len(shifts), count, p=model["shift_weights"])]
    tokens = rng.normal(size=(count, 8, dim))
    tokens[:, :2] = 0
    tokens[:, :2, 0] = (label * model["signal"])[:, None]
    tokens[:, :2, 1] = 1.0
    tokens[:, 2:, 0] -= (shift[:, 1] * label * model["signal"])[:, None]
    tokens[:, 2:, 1] -= shift[:, :1]
    return label, tokens


def drawn_batch(model, dim, count, rng):
    label, tokens = drawn_tokens(model, dim, count, rng)
    return gradient_steps.Batch(tokens.astype(np.float32), label.astype(np.float32))


def predict(head, model=MODEL, **rest):
    return CLAIM.predict(
        **model, head_signal=head[0] * model["signal"], head_context=head[1] * model["context"],
        head_norm=float(np.linalg.norm(head)), **rest,
    )  # fmt: skip


def test_two_derivations_agree():
    """The statement's expansion, and Gauss quadrature of the conditional moments."""
    for model in (MODEL, {**MODEL, "tokens": 3}, {**MODEL, "tokens": 2}):
        moments = prompt_moments(Setting.make(**model), HEADS)
        for i, head in enumerate(HEADS):
            at = predict(head, model, dim=4, samples=1)
            np.testing.assert_allclose(moments.mean[i, 0], at["signal"], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(moments.mean[i, 1], at["context"], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(moments.mean[i, 3], at["orthogonal_energy"], rtol=1e-12)


def test_moments_against_brute_force():
    """Single sequences, token by token in NumPy, with the covariance written out."""
    rng = np.random.default_rng(0)
    count, head = 100_000, HEADS[0]
    label, tokens = drawn_tokens(MODEL, 3, count, rng)
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    miss = label - tokens.mean(axis=1) @ head
    rows = miss[:, None] * np.einsum("nti,nt->ni", centred, centred @ head) / 8
    level = miss**2 * ((centred @ head)[:, 2:] ** 2).sum(axis=1) / 64
    rows = np.column_stack([rows, level])
    moments = prompt_moments(Setting.make(**MODEL), HEADS[:1])
    error = rows.std(axis=0) / np.sqrt(count)
    assert np.all(np.abs(rows.mean(axis=0) - moments.mean[0]) < 5 * error)
    centred = rows - moments.mean[0]
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(count)
    assert np.all(np.abs(products.mean(axis=0) - moments.covariance[0]) < 5 * error)


def test_autodiff_equals_the_covariance_formula():
    """At q = 0 minus the gradient is the mean of (y − w·x̄) C w."""
    batch = drawn_batch(MODEL, 5, 9, np.random.default_rng(0))
    head = jnp.array([0.3, -0.2, 0.5, 0.1, 0.0], jnp.float32)
    step = step_of(head, jnp.zeros(5, jnp.float32), batch)
    x, y = np.asarray(batch.tokens, np.float64), np.asarray(batch.labels, np.float64)
    c = np.stack([np.cov(t.T, bias=True) for t in x])
    w = np.asarray(head, np.float64)
    by_hand = ((y - x.mean(axis=1) @ w)[:, None] * (c @ w)).mean(axis=0)
    np.testing.assert_allclose(step, by_hand, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_reference_setting():
    """The theory's setting; its head is not stated, and this one comes within 0.1% of 0.015175."""
    model = {**MODEL, "shift_weights": (0.5, 0.5)}
    case = {**model, "dim": 60, "samples": 150}
    head = {"head_signal": 0.6, "head_context": 0.3, "head_norm": float(np.sqrt(0.5))}
    predicted = CLAIM.predict(**case, **head)["orthogonal_energy"]
    assert predicted == pytest.approx(0.015175, rel=1e-3)
    assert abs(predicted - 0.015210) < 3 * 0.000034  # what the theory simulated
    found = CLAIM.simulate(key=5, trials=8000, **case, **head)["orthogonal_energy"]
    assert abs(found.mean - predicted) < 4 * found.stderr < 0.01 * predicted


def test_at_the_signal_the_prompt_points_along_the_context():
    model = {**MODEL, "shifts": ((0.4, 0.1),), "shift_weights": (1.0,)}
    at = predict(np.array([0.8, 0.0, 0.0]), model, dim=9, samples=5)
    assert at["context"] > 0.1
    # Only e₀ σ² (1 − 1/T) w and its like are left along w⋆, and they are odd in the label.
    assert abs(at["signal"]) < 1e-15


PLAIN = {
    "tokens": 8, "relevant": 2, "signal": 1.0, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0),), "shift_weights": (1.0,),
}  # fmt: skip


@pytest.mark.parametrize(("signal", "context"), [(1.0, 0.1640625), (3.0, -1.8984375)])
def test_a_long_head_along_the_signal_turns_the_prompt_away(signal, context):
    model = {**PLAIN, "signal": signal}
    at = predict(np.array([signal, 0.0, 0.0]), model, dim=9, samples=5)
    assert at["context"] == pytest.approx(context, rel=1e-14)
    assert at["signal"] == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize(
    "model",
    [
        {**PLAIN, "signal": 3.0},
        {**PLAIN, "signal": 0.5},  # kW² < σ²: towards the context from every positive product
        {**MODEL, "signal": 2.0},
        {**MODEL, "signal": 2.0, "shifts": ((-2.0, 0.4), (-1.5, -0.3))},  # A < 0
    ],
)
def test_sign_of_the_step_along_the_context(model):
    """Below, at and above the product at which it turns, by the formula and by autodiff."""
    law = {name: value for name, value in model.items() if name != "context"}
    turn = float(turning_signal(**law))

    def along(product):
        head = np.array([product / model["signal"], 0.0, 0.0])
        return predict(head, model, dim=4, samples=1)["context"]

    assert along(turn) == pytest.approx(0.0, abs=1e-12 * abs(along(2 * turn)))
    slope = sum(p * (1 + a) * (1 + b) for (a, b), p in
                zip(model["shifts"], model["shift_weights"], strict=True))  # fmt: skip
    # The step is at least five standard errors away from 0.
    batch = drawn_batch(model, 4, 20_000, np.random.default_rng(3))
    for share in (-0.6, 0.4, 1.7):
        sign = np.sign(slope * share * turn * (1 - share))
        assert np.sign(along(share * turn)) == sign
        head = jnp.zeros(4, jnp.float32).at[0].set(share * turn / model["signal"])
        step = step_of(head, jnp.zeros(4, jnp.float32), batch)
        assert np.sign(step[1]) == sign, share


def test_the_least_signal_without_a_turn():
    """Without shifts and with kW² = σ² the step points along the context from every head."""
    law = {**PLAIN, "signal": np.sqrt(0.5)}
    context = law.pop("context")
    assert np.abs(turning_signal(**law)) > 1e12
    assert turning_signal(**{**law, "signal": 1.0, "relevant": 1}) == np.inf
    far = predict(np.array([1e3, 0.0, 0.0]), {**law, "context": context}, dim=4, samples=1)
    assert far["context"] > 0


def test_simulation_agrees():
    case = {**MODEL, "dim": 9, "samples": 20}
    head = {"head_signal": 0.6, "head_context": 0.2, "head_norm": 0.9}
    found = CLAIM.simulate(key=2, trials=2000, **case, **head)
    predicted = CLAIM.predict(**case, **head)
    for name, estimate in found.items():
        assert abs(estimate.mean - predicted[name]) < 5 * estimate.stderr, name


def test_impossible_heads_are_refused():
    with pytest.raises(ValueError, match=r"`head_norm`.*at least"):
        CLAIM.predict(**MODEL, dim=9, samples=5, head_signal=2.0, head_context=0.0, head_norm=0.5)


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
