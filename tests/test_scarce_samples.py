"""The benchmark of scarce samples: what each fold trains on, what each rule chooses, its claim."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import scarce_samples

# Each is one program, where every operation alone would be one.
training_rows = jax.jit(scarce_samples.training_rows)
draw_sequences = jax.jit(scarce_samples.draw_sequences, static_argnums=3)
held_out_sums = jax.jit(scarce_samples.held_out_sums, static_argnums=0)


@pytest.mark.parametrize("samples", [3, 5, 20, 1000])
def test_folds_hold_out_each_sample_once_and_train_on_the_others(samples):
    held: list[int] = []
    for fold in range(scarce_samples.FOLDS):
        rows, count = training_rows(fold, samples)
        trained = set(np.asarray(rows)[: int(count)].tolist())
        assert len(trained) == int(count) > 0
        assert trained <= set(range(samples))
        held += set(range(samples)) - trained
    assert sorted(held) == list(range(samples))
    rows, count = training_rows(scarce_samples.FOLDS, samples)
    assert np.asarray(rows)[: int(count)].tolist() == list(range(samples))


@functools.partial(jax.jit, static_argnums=0)
def network_and_sequences(width, key):
    """A network's weights, sequences with their labels, and its answers to them."""
    keys = jax.random.split(key, 3)
    weights = scarce_samples.vision_transformer.initial(
        scarce_samples.config_of(width), key=keys[0]
    )
    means = scarce_samples.draw_means(keys[1], 4.0)
    x, y = scarce_samples.draw_sequences(keys[2], means, 1, scarce_samples.LARGEST)
    return weights, x, y, scarce_samples.logits_of(width, weights, x)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [20, 5])
def test_held_out_sums_are_those_of_the_samples_left_out(samples):
    width, key = 8, jax.random.key(0, impl="threefry2x32")
    weights, x, y, answers = network_and_sequences(width, key)
    answers = np.asarray(answers, np.float64)
    losses = np.log(np.exp(answers).sum(1)) - answers[np.arange(len(y)), np.asarray(y)]
    wrong = answers.argmax(1) != np.asarray(y)
    for fold in range(scarce_samples.FOLDS):
        left_out = np.arange(fold, samples, scarce_samples.FOLDS)
        found = held_out_sums(width, weights, x, y, fold, samples)
        expected = losses[left_out].sum(), wrong[left_out].sum()
        assert np.asarray(found) == pytest.approx(expected, rel=1e-4)


def test_each_rule_chooses_its_rate():
    errors = np.array([[[0.5, 0.4, 0.3, 0.2, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5]]])
    losses = np.array([[[5.0, 1.0, 3.0, 4.0, 2.0], [3.0, 3.0, 3.0, 3.0, 0.0]]])
    held = np.array([[[0.2, 0.2, 0.1, 0.1, 0.3], [0.4, 0.4, 0.4, 0.4, 0.4]]])
    found = scarce_samples.errors_by_rule(errors, np.stack([losses, held], -1), (4, 1))
    assert {rule: np.asarray(value).ravel().tolist() for rule, value in found.items()} == {
        "few": pytest.approx([0.4, 0.5]),
        "few, by errors": pytest.approx([0.3, 0.1]),  # of equals the smaller rate
        "many": pytest.approx([0.9, 0.2]),
        "best": pytest.approx([0.2, 0.1]),
    }


@pytest.mark.parametrize("relevant", [1, 4])
def test_as_many_tokens_show_the_class_as_are_relevant(relevant):
    key = jax.random.key(1, impl="threefry2x32")
    means = 100.0 * np.eye(scarce_samples.CLASSES + 1, scarce_samples.DIM)
    x, y = draw_sequences(key, jax.numpy.asarray(means), relevant, 200)
    shown = np.asarray(x).argmax(-1)
    assert ((shown == np.asarray(y)[:, None]).sum(1) == relevant).all()
    assert ((shown == scarce_samples.CLASSES).sum(1) == scarce_samples.TOKENS - relevant).all()


@pytest.mark.slow
def test_the_claim_is_confirmed_and_its_variants_refuted():
    verdict = scarce_samples.CLAIM.check()
    assert verdict.status == "confirmed", verdict.advice
    for variant, found in scarce_samples.CLAIM.falsify_cells(verdict).items():
        assert found.status == "refuted", variant
