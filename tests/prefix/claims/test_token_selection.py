"""Token selection: reference numbers, both sides of the threshold, and limits of a run."""

from __future__ import annotations

import jax
import mpmath
import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import token_selection as selection

SELECT = jp.claim("prefix.token_selection")


def test_reference_threshold_and_both_sides():
    found = SELECT.predict(length=20, vocabulary=94, value=93 / 94)
    assert found["least_temperature"] == pytest.approx(39.650, abs=5e-4)
    read = jax.jit(jax.vmap(
        lambda value, heat: selection.leakage_and_reading(20, 94, value, heat), in_axes=(0, None)
    ))  # fmt: skip
    right = {}
    with jax.enable_x64(True):
        for heat in (30.0, 40.0):
            right[heat] = float(read(np.arange(1, 94) / 94.0, heat)[1].mean())
    assert right[40.0] == 1.0
    assert right[30.0] == 0.0


@pytest.mark.parametrize(("case", "vocabulary", "outputs", "count"), some_slow([
    ("completion", 3, 3, 27), ("one_to_one", 3, 1, 27), ("one_to_many", 2, 3, 64),
    ("two_to_one", 2, 1, 16), ("completion", 4, 3, 64), ("completion", 2, 5, 32),
    ("one_to_one", 2, 1, 4), ("one_to_one", 4, 1, 256), ("one_to_many", 2, 2, 16),
    ("one_to_many", 3, 2, 729),
], first=4))  # fmt: skip
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
    unpack = jax.jit(selection.unpack, static_argnums=1)
    np.testing.assert_array_equal(unpack(np.float32(packed), 5), digits)


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


# Every length and every vocabulary is a program.
@pytest.mark.parametrize(("length", "vocabulary", "value"), some_slow([
    (5, 2, 0.45), (5, 2, 0.5), (5, 2, 0.75), (8, 4, 0.375), (8, 4, 0.99), (8, 4, 0.126),
    (2, 2, 1.0), (20, 7, 0.49), (20, 94, 0.123456), (200, 5, 0.8),
], first=6))  # fmt: skip
def test_least_temperature_of_the_network(length, vocabulary, value):
    expected = temperature_by_search(length, vocabulary, value)
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
