"""The identity inside deep models, in the rows of a check, and against a layer that breaks it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Design
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.claims import bias_identity
from jaxprompt.prefix.head_identity import SINGLE

CLAIM = jp.claim("prefix.bias_identity")


@pytest.mark.slow  # the claim's own check covers it too
def test_a_deep_model_changes_after_its_first_layer():
    inside = bias_identity.deviations_inside(3, 30, key=jax.random.key(0))
    assert inside["own_inputs"].max() < 1e-11
    assert inside["first_layer"].max() < 1e-11
    assert (inside["second_layer"] > bias_identity.CHANGE).all()


@pytest.fixture
def two_layers(monkeypatch):
    """One layer of each float type, of one head without norm and of two with it."""
    plain, normed = bias_identity.LAYERS["quick"][0], bias_identity.LAYERS["quick"][3]
    monkeypatch.setitem(bias_identity.LAYERS, "quick", (plain, normed))


def check_few_draws(claim):
    """A check of 200 draws a layer, whose design has one query."""
    quick = Design(SINGLE, trials=claim.designs["quick"].trials)
    measure = functools.partial(claim.measure, draws=200)
    return dataclasses.replace(
        claim, designs={**claim.designs, "quick": quick}, measure=measure
    ).check()


def test_a_wrong_layer_is_refuted(monkeypatch, two_layers):
    """The check can fail: a layer that leaks 1 % of its mass is caught."""
    real = head_identity.draw_layer

    def leaky(layer, scale, draws, *, key):
        drawn = real(layer, scale, draws, key=key)
        return drawn._replace(attention=0.99 * drawn.attention)

    monkeypatch.setattr(head_identity, "draw_layer", leaky)
    assert check_few_draws(CLAIM).status == "refuted"


def test_rows_of_layers_name_the_layer_and_have_its_tolerance(two_layers):
    """The worst entry of each array, held to what rounding leaves at the size of the array."""
    verdict = check_few_draws(CLAIM)
    rows = [row for row in verdict.rows if "precision" in row.parameters]
    assert len(rows) == 4 * 4, "four quantities of four layers and scales"
    assert {row.verdict for row in rows} == {"confirmed"}
    cells = [cell for cell in verdict.cells if "precision" in cell.parameters]
    for row, cell in zip(rows[::4], cells, strict=True):
        described = row.parameters
        assert (row.quantity, described["width"], described["norm"]) == (
            "output",
            16,
            described["heads"] - 1,
        )
        assert described["content_scores"] == f"array(200, {described['heads']}, 8, 8)"
        query = {p.name: cell.parameters[p.name] for p in head_identity.HEAD
                 if p.name in cell.parameters}  # fmt: skip
        expected, measured = CLAIM.predict(**query)["output"], cell.estimates["output"].mean
        assert abs(row.predicted - row.simulated) == np.abs(expected - measured).max()
        terms, eps = 32 + 16 // described["heads"], float(np.finfo(described["precision"]).eps)
        allowed = terms**0.5 * eps * np.abs(expected).max() * (1 + described["scale"])
        assert row.tolerance == pytest.approx(allowed, rel=1e-12)


def test_what_describes_a_layer_changes_no_prediction():
    described = {"precision": "float32", "width": 8, "heads": 2, "scale": 3.0, "norm": 0}
    with_layer, plain = CLAIM.predict(**SINGLE, **described), CLAIM.predict(**SINGLE)
    assert with_layer.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(with_layer[name], value)
    assert CLAIM.simulate(key=0, trials=2, **SINGLE, **described).keys() == plain.keys()
