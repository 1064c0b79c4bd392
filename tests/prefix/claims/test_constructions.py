"""Token selection and suffixes: reference numbers, limits, and certificates that can fail."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.attention import prompt_attention
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import sample_sequence
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import suffix_reads_content as suffix
from jaxprompt.prefix.claims import token_selection as selection

SELECT = jp.claim("prefix.token_selection")


def test_reference_threshold_and_both_sides():
    found = SELECT.predict(length=20, vocabulary=94, value=93 / 94)
    assert found["least_temperature"] == pytest.approx(39.650, abs=5e-4)
    right = {}
    with jax.enable_x64(True):
        for heat in (30.0, 40.0):
            values = jnp.arange(1, 94) / 94.0
            read = jax.vmap(
                lambda v, t=heat: selection.leakage_and_reading(20, 94, v, jnp.float64(t))
            )
            right[heat] = float(read(values)[1].mean())
    assert right[40.0] == 1.0
    assert right[30.0] == 0.0


@pytest.mark.parametrize(("case", "vocabulary", "outputs", "count"), [
    ("completion", 3, 3, 27), ("completion", 4, 3, 64), ("completion", 2, 5, 32),
    ("one_to_one", 2, 1, 4), ("one_to_one", 3, 1, 27), ("one_to_one", 4, 1, 256),
    ("one_to_many", 2, 2, 16), ("one_to_many", 2, 3, 64), ("one_to_many", 3, 2, 729),
    ("two_to_one", 2, 1, 16),
])  # fmt: skip
def test_counts(case, vocabulary, outputs, count):
    assert SELECT.predict(case=case, vocabulary=vocabulary, outputs=outputs)["reached"] == count
    assert selection.count_reached(case, vocabulary, outputs) == count


@pytest.mark.parametrize(("precision", "largest"), [("float32", 7), ("float64", 13)])
def test_packing_limit(precision, largest):
    assert SELECT.predict(precision=precision)["largest"] == largest


def test_unpacking_against_integers():
    rng = np.random.default_rng(1)
    digits = rng.integers(0, 5, (20, 5))
    packed = [(int("".join(map(str, d)), 5) + 0.5) / 5**5 for d in digits]
    np.testing.assert_array_equal(selection.unpack(jnp.float32(packed), 5), digits)


def test_missing_partner_is_named():
    with pytest.raises(ParameterError, match="`vocabulary`"):
        SELECT.predict(value=0.5, length=3)


def test_noise_free_sequences_are_those_of_the_contextual_family():
    setting = Setting.make(tokens=6, relevant=2, signal=1.0, context=1.0, noise=0.0, gain=0.0,
                           shifts=((1.5, 1.5),), shift_weights=(1.0,), where="test")  # fmt: skip
    drawn = sample_sequence(setting, 2, key=jax.random.key(0))
    ours, labels = suffix.noise_free(2, 6, 1.5)
    place = 2 if float(drawn.label) > 0 else 3
    assert float(labels[place]) == float(drawn.label)
    np.testing.assert_allclose(ours[place], drawn.tokens, atol=1e-6)


def test_suffix_output_is_prompt_attention():
    with jax.enable_x64(True):
        tokens, _ = suffix.noise_free(2, 6, 1.5)
        tokens = jnp.asarray(tokens, jnp.float64)
        prompt = suffix.SHARPNESS * jnp.array([0.0, 1.0])
        expected = jax.vmap(lambda x: prompt_attention(x, prompt))(tokens)
        np.testing.assert_allclose(suffix._outputs_with_suffix(tokens), expected, atol=1e-12)


def test_certificate_on_known_sets():
    square = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    assert suffix.best_affine(square, np.array([1.0, 1, -1, -1])) == 0.75  # exclusive or
    assert suffix.best_affine(square, np.array([1.0, -1, 1, -1])) == 1.0
    assert suffix.best_affine(np.zeros((4, 2)), np.array([1.0, -1, 1, -1])) == 0.5


def test_all_tokens_relevant_is_refused():
    with pytest.raises(ParameterError, match="`relevant`"):
        jp.claim("prefix.suffix_reads_content").predict(relevant=4, tokens=4, shift=1.0)
