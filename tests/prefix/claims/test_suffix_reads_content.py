"""A suffix that reads the content: its sequences, its output, and a certificate that can fail."""

from __future__ import annotations

import functools
from fractions import Fraction

import jax
import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.attention import prompt_attention
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import sample_sequence
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import suffix_reads_content as suffix

jit = functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)


def test_noise_free_sequences_are_those_of_the_contextual_family():
    setting = Setting.make(tokens=6, relevant=2, signal=1.0, context=1.0, noise=0.0, gain=0.0,
                           shifts=((1.5, 1.5),), shift_weights=(1.0,), where="test")  # fmt: skip
    drawn = jit(lambda key: sample_sequence(setting, 2, key=key))(jax.random.key(0))
    ours, labels = suffix.noise_free(2, 6, 1.5)
    place = 2 if float(drawn.label) > 0 else 3
    assert float(labels[place]) == float(drawn.label)
    np.testing.assert_allclose(ours[place], drawn.tokens, atol=1e-6)


def test_suffix_output_is_prompt_attention():
    with jax.enable_x64(True):
        tokens, _ = suffix.noise_free(2, 6, 1.5)
        prompt = suffix.SHARPNESS * np.array([0.0, 1.0])
        expected = jit(jax.vmap(lambda x: prompt_attention(x, prompt)))(tokens)
        np.testing.assert_allclose(suffix._outputs_with_suffix(tokens), expected, atol=1e-12)


def test_certificate_on_known_sets():
    square = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    assert suffix.best_affine(square, np.array([1.0, 1, -1, -1])) == 0.75  # exclusive or
    assert suffix.best_affine(square, np.array([1.0, -1, 1, -1])) == 1.0
    assert suffix.best_affine(np.zeros((4, 2)), np.array([1.0, -1, 1, -1])) == 0.5


def separable_points(relevant, tokens, shift):
    """Most of the four means that a linear read-out with intercept gets right, in fractions.

    The means are c·(1, y) with c = ζ or ζ − (1 − ζ)Δ, two of each label. All four can be had
    exactly when no point of the plane is in the hull of both labels: when both c are positive,
    since then y alone decides; at c = 0 two of them coincide, below they surround 0.
    """
    share = Fraction(relevant, tokens)
    shifted = share - (1 - share) * Fraction(shift)
    return 1.0 if shifted > 0 else 0.75


THRESHOLDS = (
    (98, 99, Fraction(98)), (3, 10, Fraction(3, 7)), (5, 10, Fraction(1)), (1, 2, Fraction(1)),
    (1, 3, Fraction(1, 2)), (1, 50, Fraction(1, 49)), (9, 10, Fraction(9)),
)  # fmt: skip
"""Relevant tokens, tokens, and the shift at which the shifted means are 0."""


def accuracies_around(shift):
    """Shifts at the threshold, just below and just above; and the best accuracy of a prefix."""
    yield shift, 0.75
    yield shift * (1 - Fraction(1, 10**6)), 1.0
    yield shift * (1 + Fraction(1, 10**6)), 0.75


@pytest.mark.parametrize(("relevant", "tokens", "shift"), THRESHOLDS)
def test_prefix_accuracy_at_below_and_above_the_threshold(relevant, tokens, shift):
    """At Δ = ζ/(1 − ζ) the shifted means are 0, whatever the label: ¾, not 1."""
    claim = jp.claim("prefix.suffix_reads_content")
    for exact, accuracy in accuracies_around(shift):
        assert separable_points(relevant, tokens, exact) == accuracy
        given = {"relevant": relevant, "tokens": tokens, "shift": float(exact)}
        assert claim.predict(**given)["prefix_accuracy"] == accuracy


# Every number of tokens is a program.
@pytest.mark.parametrize("vectors", some_slow([1, 5], first=1))
@pytest.mark.parametrize(("relevant", "tokens", "shift"), some_slow(THRESHOLDS, first=1))
def test_heads_at_below_and_above_the_threshold(relevant, tokens, shift, vectors):
    claim = jp.claim("prefix.suffix_reads_content")
    for exact, accuracy in accuracies_around(shift):
        given = {"relevant": relevant, "tokens": tokens, "shift": float(exact), "vectors": vectors}
        run = claim.simulate(key=0, trials=3, **given)
        assert run["prefix_accuracy"].mean == accuracy
        assert run["suffix_accuracy"].mean == 1.0


def test_the_threshold_holds_for_every_way_to_compute_it():
    """As k/(T − k) and as ζ/(1 − ζ), which differ by roundings."""
    tokens = 100
    for relevant in range(1, tokens):
        share = relevant / tokens
        shifts = [relevant / (tokens - relevant), share / (1 - share)]
        found = suffix.closed_form(relevant=relevant, tokens=tokens, shift=np.array(shifts))
        assert found["prefix_accuracy"].tolist() == [0.75, 0.75], relevant


def test_hull_gaps_are_distances():
    """Two corners, corner and edge, crossing, touching, one inside the other."""
    for points, labels, gap in (
        ([[0, 0], [3, 4]], [1, -1], 5.0),
        ([[0, 0], [-1, 2], [1, 2]], [1, -1, -1], 2.0),
        ([[1, 1], [-1, -1], [1, -1], [-1, 1]], [1, 1, -1, -1], 0.0),
        ([[0, 0], [-1, 0], [1, 0]], [1, -1, -1], 0.0),
        ([[0, 0.1], [-1, 0], [1, 0], [0, 1]], [1, -1, -1, -1], 0.0),
        ([[0, 0], [1, 0]], [1, 1], np.inf),
    ):
        found = suffix._hull_gap(np.array(points, float), np.array(labels, float))
        assert found == pytest.approx(gap, abs=1e-15)


def test_all_tokens_relevant_is_refused():
    with pytest.raises(ParameterError, match="`relevant`"):
        jp.claim("prefix.suffix_reads_content").predict(relevant=4, tokens=4, shift=1.0)
