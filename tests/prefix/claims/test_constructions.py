"""Token selection and suffixes: reference numbers, limits, and certificates that can fail."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
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


def temperature_by_search(length, vocabulary, value):
    """Where the reading turns, from plain exponentials and distances in 60 digits."""
    with mpmath.workdps(60):
        v, others = mpmath.mpf(value), length - 1

        def symbol_read(temperature):
            kept = mpmath.exp(temperature / mpmath.sqrt(length))
            carried = kept / (kept + others) * (1 + v) - 1
            z = max(carried, mpmath.mpf(0))
            return min(range(vocabulary), key=lambda j: abs(vocabulary * z - j))

        wanted = min(range(vocabulary), key=lambda j: abs(vocabulary * v - j))
        low, high = mpmath.mpf(0), mpmath.mpf(1)
        while symbol_read(high) != wanted:
            low, high = high, 2 * high
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if symbol_read(middle) == wanted else (middle, high)
        return float(high)


@pytest.mark.parametrize(("length", "vocabulary", "value"), [
    (5, 2, 0.45), (5, 2, 0.5), (2, 2, 1.0), (2, 2, 0.2500001), (5, 2, 0.75), (8, 4, 0.375),
    (8, 4, 0.99), (8, 4, 0.126), (20, 7, 0.49), (2500, 7, 0.5), (20, 94, 0.123456), (200, 5, 0.8),
    (10_000, 30, 0.77), (1_000_000, 94, 93 / 94),
])  # fmt: skip
def test_least_temperature_on_and_off_the_grid(length, vocabulary, value):
    """Symbols, entries between them, half way (read as the lower one) and beyond the last."""
    found = SELECT.predict(length=length, vocabulary=vocabulary, value=value)
    expected = temperature_by_search(length, vocabulary, value)
    assert found["least_temperature"] == pytest.approx(expected, rel=1e-12)
    if length <= 200 and value != 0.2500001:  # rounding moves that reading by 2e-9
        run = SELECT.simulate(key=0, trials=2, length=length, vocabulary=vocabulary, value=value)
        assert run["least_temperature"].mean == pytest.approx(expected, abs=1e-9)


def test_least_temperatures_above_a_thousand_are_found():
    given = {"length": 1900, "vocabulary": 90, "value": 0.9975}
    found = SELECT.simulate(key=0, trials=2, **given)["least_temperature"].mean
    assert found == pytest.approx(float(SELECT.predict(**given)["least_temperature"]), abs=1e-9)
    assert selection._search_least_temperature(2, 2, 0.5, first=0.01) == pytest.approx(
        2**0.5 * np.log(5), rel=1e-12
    ), "the search goes on beyond its first interval"


@pytest.mark.parametrize(("vocabulary", "value"), [(2, 0.25), (2, 0.1), (94, 0.005)])
def test_entries_read_as_zero_are_refused(vocabulary, value):
    with pytest.raises(ParameterError, match=r"`value`.*> 1/\(2 vocabulary\)"):
        SELECT.predict(length=5, vocabulary=vocabulary, value=value)


@pytest.mark.parametrize(("name", "given"), [
    ("length", {"length": 2001, "vocabulary": 5, "value": 0.9}),
    ("value", {"length": 2000, "vocabulary": 2000, "value": 0.9}),
    ("value", {"length": 2, "vocabulary": 2, "value": 0.2500001}),
])  # fmt: skip
def test_networks_that_show_nothing_are_not_run(name, given):
    """Too long to be held, or so close to half way that rounding decides; predictions stand."""
    assert np.isfinite(SELECT.predict(**given)["least_temperature"])
    with pytest.raises(ParameterError, match=rf"`{name}` = .*in a simulation"):
        SELECT.simulate(key=0, trials=2, **given)


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


def separable_points(relevant, tokens, shift):
    """Most of the four means that a linear read-out with intercept gets right, in fractions.

    The means are c·(1, y) with c = ζ or ζ − (1 − ζ)Δ, two of each label. All four can be had
    exactly when no point of the plane is in the hull of both labels: when both c are positive,
    since then y alone decides; at c = 0 two of them coincide, below they surround 0.
    """
    share = Fraction(relevant, tokens)
    shifted = share - (1 - share) * Fraction(shift)
    return 1.0 if shifted > 0 else 0.75


@pytest.mark.parametrize("vectors", [1, 5])
@pytest.mark.parametrize(
    ("relevant", "tokens", "shift"),
    [(5, 10, Fraction(1)), (1, 2, Fraction(1)), (1, 3, Fraction(1, 2)), (3, 10, Fraction(3, 7)),
     (1, 50, Fraction(1, 49)), (9, 10, Fraction(9)), (98, 99, Fraction(98))],
)  # fmt: skip
def test_prefix_accuracy_at_below_and_above_the_threshold(relevant, tokens, shift, vectors):
    """At Δ = ζ/(1 − ζ) the shifted means are 0, whatever the label: ¾, not 1."""
    claim = jp.claim("prefix.suffix_reads_content")
    for factor, accuracy in (
        (1, 0.75),
        (1 - Fraction(1, 10**6), 1.0),
        (1 + Fraction(1, 10**6), 0.75),
    ):
        exact = shift * factor
        assert separable_points(relevant, tokens, exact) == accuracy
        given = {"relevant": relevant, "tokens": tokens, "shift": float(exact), "vectors": vectors}
        assert claim.predict(**given)["prefix_accuracy"] == accuracy
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
