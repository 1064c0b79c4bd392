from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.contextual.claims import three_steps
from jaxprompt.contextual.claims.three_steps import CLAIM
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.law.staged_limit import turning_rate
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import gradient_steps
from jaxprompt.stats import mean_estimate

REFERENCE = {
    "tokens": 10, "relevant": 2, "signal": 1.5, "context": 1.5, "noise": 1.0,
    "shifts": [[0.0, 0.0], [0.5, 0.3]], "prompt_norm": 4.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "value", "stderr"), [(3000, 0.0913, 0.0018), (600, 0.1897, 0.0055)]
)
def test_reference_numbers(samples, value, stderr):
    """The theory's token-by-token numbers at d = 300; they are the error after step 2."""
    found = CLAIM.predict(**REFERENCE, dim=300, samples=samples)
    assert abs(found["error"] - value) < 3 * np.hypot(stderr, found["error_stderr"])
    assert found["final_error"] < found["error"]


@pytest.mark.parametrize(
    ("samples", "value", "stderr"), [(3000, 0.0924, 0.0019), (600, 0.1917, 0.0059)]
)
def test_reference_simulation_free_of_d(samples, value, stderr):
    """The theory's numbers for three coordinates and an orthogonal energy, d = 300."""
    found = CLAIM.simulate(key=0, trials=48, **REFERENCE, dim=300, samples=samples)["error"]
    assert abs(found.mean - value) < 3 * np.hypot(stderr, found.stderr)


def test_fluctuations_are_worth_one_to_four_hundredths():
    """What leaving them out misses, at d = 300 and n from 300 to 3000."""
    still = CLAIM.falsifier("no_fluctuations").predictor(CLAIM.closed_form)
    for samples, least in ((300, 0.01), (3000, 0.005)):
        point = CLAIM.validated({**REFERENCE, "dim": 300, "samples": samples})
        missed = CLAIM.predict(**point)["error"] - CLAIM.evaluate(still, point)["error"]
        assert least < missed < 0.04


def test_predicted_terms_are_those_of_many_trials():
    """The variances that the law of the steps is given are those of single terms, and their means
    over heads and prompts are those over trials: at a size where neither is near its limit."""
    few = {**REFERENCE, "dim": 60, "samples": 90}
    predicted, found = CLAIM.predict(**few), CLAIM.simulate(key=3, trials=1000, **few)
    assert list(found) == list(three_steps.NAMES)
    for name in three_steps._TERMS:
        error = np.hypot(found[name].stderr, predicted[f"{name}_stderr"])
        missed = abs(found[name].mean - predicted[name]) / error
        assert missed < 4.5, (
            f"{name}: {found[name].mean} for {predicted[name]}, {missed:.1f} errors"
        )


def test_moments_have_the_names_of_their_directions():
    """Prediction and simulation name them by one function: neither would see a swap there."""
    mean, variance = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])
    assert three_steps._name_moments(2, mean, variance) == {
        # along w⋆, q⋆, the rest of the head, and orthogonal to the three
        "step2_context_mean": 2.0, "step2_orthogonal_mean": 4.0, "step2_signal_variance": 5.0,
        "step2_context_variance": 6.0, "step2_rest_variance": 7.0,
        "step2_orthogonal_variance": 8.0,
    }  # fmt: skip
    assert three_steps._name_moments(3, mean, variance)["step3_signal_mean"] == 1.0


def test_terms_of_the_first_step_are_those_of_the_first_step():
    """Means over tokens drawn in NumPy, in their order."""
    found = CLAIM.predict(**REFERENCE, dim=40, samples=100)
    rng, count = np.random.default_rng(2), 400_000
    shift = np.array(REFERENCE["shifts"])[rng.integers(2, size=count)]
    pooled_noise = np.sqrt(0.8 / 10)
    along_signal = (0.2 - 0.8 * shift[:, 1]) * 1.5 + pooled_noise * rng.normal(size=count)
    assert found["step1_signal_variance"] == pytest.approx(along_signal.var(), rel=0.01)
    sign = rng.choice([-1, 1], count)
    along_context = sign * (0.2 - 0.8 * shift[:, 0]) * 1.5 + pooled_noise * rng.normal(size=count)
    assert found["step1_context_variance"] == pytest.approx(along_context.var(), rel=0.01)


def test_one_sequence_shows_no_variance():
    found = CLAIM.simulate(key=0, trials=2, **REFERENCE, dim=20, samples=1)
    assert not any(name.endswith("variance") for name in found)
    assert {"error", "step2_context_mean", "step3_orthogonal_mean"} <= set(found)


def test_every_score_node_has_its_turn():
    _, parts, each = three_steps._quadrature(3, moving=True)
    nodes = attention_moments.normal_nodes(3)
    for replicate, used in enumerate(np.split(each, 16)):
        turns = np.bincount(used, minlength=len(parts))
        assert turns.max() == 128 * 128 // nodes.shape[1] == turns[turns > 0].min()
        np.testing.assert_array_equal(
            parts[np.unique(used)].reshape(-1, 3), nodes[replicate], strict=True
        )


def test_without_noise_nothing_is_wrong():
    clean = {**REFERENCE, "shifts": [[0.0, 0.0]] * 2, "noise": 0.0}
    found = CLAIM.predict(**clean, dim=50, samples=2000)
    assert found["error"] == found["final_error"] == 0
    assert found["head_alignment"] == pytest.approx(1, rel=0.01)
    measured = CLAIM.simulate(key=0, trials=8, **clean, dim=50, samples=2000)
    for name in ("step1_signal_variance", "step2_orthogonal_mean", "step3_orthogonal_variance"):
        assert found[name] == measured[name].mean == measured[name].stderr == 0, name


@pytest.mark.slow
def test_prediction_against_full_gradient_descent():
    """Token-by-token descent by autodiff at d = 200, n = 400: no reduction anywhere."""
    setting = Setting.make(**{n: v for n, v in REFERENCE.items() if n != "prompt_norm"})

    @jax.jit
    def trial(index):
        train, test = jax.random.split(jax.random.fold_in(jax.random.key(6), index))
        steps = gradient_steps.token_steps(setting, 200, 400, 4.0, key=train)
        scalars = jax.random.normal(test, (256, 8), jnp.float32)
        aligned = steps.second.prompt_context / (steps.second.prompt_norm * setting.context)
        turned = steps.third.head_signal / (steps.third.head_norm * setting.signal)
        return jnp.stack(
            [*(conditional_error(setting, g, scalars) for g in steps), aligned, turned]
        )

    errors = np.asarray(jax.lax.map(trial, jnp.arange(300, dtype=jnp.uint32)))
    predicted = CLAIM.predict(**REFERENCE, dim=200, samples=400)
    for column, name in enumerate(three_steps._OUTCOMES):
        found = mean_estimate(errors[:, column])
        assert abs(found.mean - predicted[name]) < 4 * found.stderr, name


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    told = CLAIM.falsify()
    assert {v.status for v in told.values()} == {"refuted"}
    for name, verdict in told.items():  # by what the statement is about, not by the terms alone
        rows = {row.quantity for row in verdict.rows if row.verdict == "refuted"}
        assert rows & {"error", "final_error"}, name


STRONG = {
    "tokens": 10, "relevant": 2, "signal": 3.0, "context": 1.5, "noise": 1.0,
    "prompt_norm": 1.0, "dim": 50, "samples": 200,
}  # fmt: skip
"""A signal of kW² > σ² overshoots the labels beyond a step size."""
STRONG_SETTING = Setting.make(**{n: STRONG[n] for n in list(STRONG)[:5]})


def test_a_long_first_head_turns_the_prompt_away():
    """At three times the limit's step size, and not at a third of it, with the exact law."""
    rate = turning_rate(STRONG_SETTING, 50 / 200)
    for factor, sign in ((0.3, 1), (3.0, -1)):
        point = {**STRONG, "head_rate": factor * rate}
        predicted, found = CLAIM.predict(**point), CLAIM.simulate(key=0, trials=64, **point)
        assert np.sign(predicted["prompt_alignment"]) == sign
        for name in three_steps._OUTCOMES:
            missed = found[name].mean - predicted[name]
            assert abs(missed) < 4 * found[name].stderr + 0.01, (name, missed)


@pytest.mark.slow
def test_a_long_first_head_turns_the_prompt_away_on_tokens():
    rate = 3 * turning_rate(STRONG_SETTING, 50 / 200)
    predicted = CLAIM.predict(**STRONG, head_rate=rate)

    def aligned(index):
        key = jax.random.fold_in(jax.random.key(2), index)
        steps = gradient_steps.token_steps(STRONG_SETTING, 50, 200, 1.0, key=key, head_rate=rate)
        return steps.second.prompt_context / (steps.second.prompt_norm * STRONG_SETTING.context)

    drawn = mean_estimate(np.asarray(jax.lax.map(aligned, jnp.arange(64, dtype=jnp.uint32))))
    assert drawn.mean == pytest.approx(predicted["prompt_alignment"], abs=4 * drawn.stderr + 0.01)
