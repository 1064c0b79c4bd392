from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import optimize, special

from jaxprompt import stats
from jaxprompt.contextual.claims import training
from jaxprompt.contextual.claims.training import BEST, CLAIM
from jaxprompt.contextual.law.least_error import CEILINGS, least_error
from jaxprompt.contextual.parameters import LAW_NAMES
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import token_models
from jaxprompt.contextual.simulation.gradient_steps import Batch
from jaxprompt.core.claim import Cell
from jaxprompt.core.keys import as_key, fold_in_parameters

POINT, OPPOSED = (
    {n: v for n, v in run.items() if n != "trials"} for run in CLAIM.designs["quick"].runs[:2]
)
SETTING = Setting.make(**{n: POINT[n] for n in LAW_NAMES})


@pytest.fixture(scope="module")
def batches():
    return training.training_batches(SETTING, 6, 192, key=jax.random.key(0))


@pytest.fixture(scope="module")
def trained(batches):
    """Weights of a model on all sequences, found once."""
    key = jax.random.key(1)
    return functools.cache(lambda name: training.trained_weights(name, batches, 192, 1e-3, key=key))


def logistic(tokens, labels, weights, dim):
    """Objective of linear heads over given features, in NumPy."""

    def value(w):
        margin = labels * (tokens @ w)
        slope = weights * w - (labels * special.expit(-margin)) @ tokens / len(labels)
        return np.logaddexp(0, -margin).mean() + weights / 2 * w @ w, slope

    start = np.zeros(dim)
    return optimize.minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-8}).x


def test_convex_training_finds_the_optimum(batches):
    """The linear head, against BFGS on the same objective."""
    found = training.trained_weights("linear", batches, 192, 0.01, key=jax.random.key(1))
    for trial in range(2):
        tokens = np.asarray(batches.tokens[trial, :192], np.float64).mean(axis=1)
        best = logistic(tokens, np.asarray(batches.labels[trial, :192], np.float64), 0.01, 6)
        np.testing.assert_allclose(found.head[trial], best, atol=0.02 * np.linalg.norm(best))
    assert not np.any(found.prompt)


@pytest.mark.slow
def test_only_the_given_parameters_move(trained):
    identity = np.eye(6) / np.sqrt(6)
    for name, model in token_models.MODELS.items():
        weights = trained(name)
        assert np.any(weights.prompt) == model.prompt
        moved = np.abs(np.asarray(weights.matrix) - identity).max() > 1e-3
        assert moved == model.matrix, name


@pytest.mark.slow
def test_unused_sequences_do_not_matter(batches):
    """Training on the first 24 of 192 sequences does not see the others."""
    other = Batch(batches.tokens.at[:, 24:].mul(-3.0), batches.labels)
    key = jax.random.key(2)
    for name in ("prompt", "fine_tuning"):
        one, two = (training.trained_weights(name, b, 24, 1e-2, key=key) for b in (batches, other))
        np.testing.assert_array_equal(one.head, two.head)


@pytest.mark.slow
@pytest.mark.parametrize("name", some_slow(["prompt", "linear_prompt", "fine_tuning"], first=1))
def test_the_objective_is_that_of_the_used_sequences(batches, name):
    """100 of 130 sequences in parts, against one sum over them; both in float32."""
    model = token_models.MODELS[name]
    batch = jax.tree.map(lambda x: x[0, :130], batches)
    start = token_models.initial_weights(6)._replace(head=jnp.ones(6), prompt=jnp.arange(6.0))
    weights, final, _ = jax.jit(token_models._run, static_argnums=0)(
        model, batch, jnp.int32(100), jnp.float32(0.1), start
    )

    @jax.jit
    def objective(weights):
        tokens, labels = batch.tokens[:100], batch.labels[:100]
        outputs = jax.vmap(lambda x: token_models.output(model.architecture, weights, x))(tokens)
        trained = [weights.head, weights.matrix if model.matrix else weights.prompt]
        energy = sum(jnp.square(x).sum() for x in trained)
        return jnp.log1p(jnp.exp(-labels * outputs)).mean() + 0.05 * energy

    np.testing.assert_allclose(final, objective(weights), rtol=1e-5)
    assert final < 0.8 * objective(start)
    slope = jax.tree.map(np.abs, jax.jit(jax.grad(objective))(weights))
    moved = (slope.head.max(), slope.matrix.max() if model.matrix else slope.prompt.max())
    assert max(moved) < 0.02, "the end is no minimum"


@pytest.mark.slow
@pytest.mark.parametrize("name", some_slow(["prompt", "linear_prompt", "linear"], first=1))
def test_exact_errors_against_fresh_sequences(batches, trained, name):
    """The conditional error of trained weights, against signs on the sampled tests."""
    key, model = jax.random.key(3), token_models.MODELS[name].architecture
    weights = trained(name)
    exact = 1 - training._exact_errors(model, SETTING, weights, jnp.uint32(0), key)
    tests = jax.tree.map(lambda x: np.asarray(x)[:, -training.TESTED :], batches)
    sampled = np.asarray(training._accuracy_on_tests(model, weights, tests), np.float64)
    error = np.sqrt((sampled * (1 - sampled)).sum() / training.TESTED) / sampled.size
    assert abs(float(exact.mean()) - sampled.mean()) < 4 * error


@pytest.mark.slow  # the claim's own check covers it too
def test_no_trained_model_beats_its_ceiling():
    ceilings = CLAIM.predict(**POINT)
    found = training.accuracies(SETTING, 6, 192, 1e-3, 8, key=jax.random.key(4))
    for name in ("linear", "linear_prompt", "prompt"):
        # Each trial's scores are few; 0.01 is four times the rule's own error.
        assert found[name].max() < ceilings[name] + 0.01


@pytest.fixture(scope="module")
def of_best_weights():
    setting = Setting.make(**{n: OPPOSED[n] for n in LAW_NAMES})
    return training.best_weights_accuracies(setting, 4, key=jax.random.key(6))


@pytest.mark.slow
def test_the_best_weights_reach_what_is_predicted(of_best_weights):
    predicted = CLAIM.predict(**OPPOSED)
    for model, name in BEST.items():
        assert predicted[name] == predicted[model]
        found = of_best_weights[name]
        assert found.trials == 4 * training.NOISES
        off = (found.mean - predicted[name]) / np.hypot(found.stderr, predicted[f"{name}_stderr"])
        assert abs(off) < 4.5, f"{name}: {found.mean} is {off:.1f} standard errors off"


PLAIN_WEIGHTS = {
    "linear": np.ones_like,
    "linear_prompt": np.asarray,
    "prompt": lambda scores: np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True),
}


@pytest.mark.parametrize("model", CEILINGS)
@pytest.mark.parametrize("relevant", [1, 3, 5])
def test_accuracy_on_one_noise_is_that_of_its_sequences(model, relevant):
    """Every label and shift token by token, against sums that are pooled first; float64."""
    random = np.random.default_rng(relevant)
    setting = Setting.make(**{n: OPPOSED[n] for n in LAW_NAMES} | {"relevant": relevant})
    point = random.normal(size=8)
    noise = 0.5 * random.normal(size=(50, 5 - relevant, 4))
    expected = np.zeros(50)
    for label in (-1, 1):
        for weight, (context, signal) in zip(setting.shift_weights, setting.shifts, strict=True):
            mean = np.array([label * setting.signal, setting.context, 0, 0])
            shifted = mean * [-signal, -context, 0, 0]
            own = np.broadcast_to(mean, (50, relevant, 4))
            tokens = np.concatenate([own, shifted + noise], axis=1)
            weights = PLAIN_WEIGHTS[model](tokens @ point[4:])
            outputs = (weights * (tokens @ point[:4])).sum(axis=1)
            expected += weight / 2 * (outputs * label > 0)
    found = training._accuracy_on_noise(setting, model, point, noise @ point[:4], noise @ point[4:])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_more_trials_keep_the_sequences_of_the_first(of_best_weights):
    setting = Setting.make(**{n: OPPOSED[n] for n in LAW_NAMES})
    hits = {}
    for trials in (3, 4):
        found = training.best_weights_accuracies(setting, trials, key=jax.random.key(6))[
            "linear_best"
        ]
        hits[trials] = found.mean * found.trials
    assert 0 < hits[4] - hits[3] < training.NOISES
    assert hits[4] == of_best_weights["linear_best"].mean * of_best_weights["linear_best"].trials


@pytest.mark.parametrize(
    "falsifier", some_slow(CLAIM.falsifiers, first=1), ids=[f.name for f in CLAIM.falsifiers]
)
def test_wrong_formulas_are_refuted_by_the_best_weights_alone(of_best_weights, falsifier):
    """At a size of which statements 2 and 3 say nothing."""
    cell = Cell({**OPPOSED, "samples": 60}, {**of_best_weights})

    def status(predict=None):
        rows = CLAIM.comparisons([cell], predict)
        assert [row.quantity for row in rows] == list(BEST.values())
        return stats.combine_statuses(row.verdict for row in stats.decide(rows, 1e-3))

    assert status() != "refuted"
    assert status(falsifier) == "refuted"


def test_the_best_weights_are_found_once():
    first, second = (least_error("linear", SETTING) for _ in range(2))
    assert first[1] is second[1]
    with pytest.raises(ValueError, match="read-only"):
        first[1][0] = 0.0


@pytest.mark.slow
def test_no_prompt_is_left_at_a_poor_start():
    """A set of which three starts in four end at a prompt along w⋆, and all eight once did."""
    key = fold_in_parameters(as_key(22), POINT, ())
    sets = training.training_batches(SETTING, 6, 192, key=key)
    weights = training.trained_weights("prompt", sets, 192, 1e-3, key=key)
    found = 1 - training._exact_errors("prompt", SETTING, weights, jnp.uint32(0), key)
    assert found.min() > 0.88, f"accuracies {found}: one of them is far behind"


@pytest.mark.slow
def test_predictions_broadcast():
    noises = np.array([0.8, 1.2])
    both = CLAIM.predict(**{**POINT, "noise": noises})
    assert both["prompt"][0] == CLAIM.predict(**POINT)["prompt"]
    assert both["prompt"][0] > both["prompt"][1]


def test_training_that_does_not_converge_is_an_error(batches, monkeypatch):
    monkeypatch.setattr(training, "_LATE_GAIN", -1.0)
    with pytest.raises(ArithmeticError, match="prompt had not converged"):
        training.trained_weights("prompt", batches, 192, 1e-3, key=jax.random.key(5))


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
