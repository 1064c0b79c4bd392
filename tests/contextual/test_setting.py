"""The data model's parameters as a validated pytree."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.parameters import (
    FAMILY,
    check_law,
    check_trainable,
    optional,
    required,
    resolve_ratio,
    to_simulate,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.core.parameters import REQUIRED, Parameter
from jaxprompt.errors import ParameterError

POINT = {"tokens": 6, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 0.5}


def test_make():
    setting = Setting.make(**POINT, gain=2)
    assert setting.irrelevant == 4
    assert setting.gain == 2.0
    assert setting.shifts.tolist() == [[0.0, 0.0]]
    assert setting.shift_weights.tolist() == [1.0]


def test_equal_odds_by_default():
    setting = Setting.make(**POINT, shifts=[[0, 0], [1, 0], [0, 1], [1, 1]])
    assert setting.shift_weights.tolist() == [0.25] * 4


def test_further_model_parameters_are_left_out():
    assert Setting.make(**POINT, dim=8, ridge=0.1, samples=100)
    with pytest.raises(ParameterError, match="`ridge`"):
        Setting.make(**POINT, ridge=-0.1)
    with pytest.raises(ParameterError, match="`rigde`"):
        Setting.make(**POINT, rigde=0.1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"relevant": 7}, "relevant"),
        ({"relevant": 0}, "relevant"),
        ({"noise": -0.1}, "noise"),
        ({"shifts": [[0, 0]], "shift_weights": [0.5, 0.5]}, "shift_weights"),
        ({"shifts": [[0, 0], [1, 1]], "shift_weights": [0.9, 0.2]}, "shift_weights"),
    ],
)
def test_refusals(change, named):
    with pytest.raises(ParameterError, match=f"`{named}` = "):
        Setting.make(**{**POINT, **change})


def test_the_pytree_keeps_shapes_static():
    setting = Setting.make(**POINT)
    leaves, structure = jax.tree.flatten(setting)
    assert len(leaves) == 6
    assert jax.tree.unflatten(structure, leaves).tokens == 6
    same = jax.tree.structure(Setting.make(**{**POINT, "noise": 2.0}))
    assert structure == same, "a real parameter changes the compiled program"
    assert structure != jax.tree.structure(Setting.make(**{**POINT, "tokens": 7}))


def test_check_law_reads_arrays():
    with pytest.raises(ParameterError, match="`relevant`"):
        check_law({"tokens": np.array([4, 2]), "relevant": 3}, "here")


def test_derived_parameters():
    parameter = FAMILY[0]
    assert optional(parameter, 3).default == 3
    assert to_simulate(parameter).default is REQUIRED
    assert to_simulate(parameter).simulate_only


def test_required_parameters():
    assert required(FAMILY[0]).default is REQUIRED


@pytest.mark.parametrize(
    ("given", "ratio"),
    [
        ({"ratio": 0.5}, 0.5),
        ({"dim": 10, "samples": 4}, 2.5),
        ({"dim": 10, "ratio": 0.7}, 10 / 14),
        ({"dim": 10, "ratio": [0.7, 4.0, 100.0]}, [10 / 14, 5.0, 10.0]),
        ({"dim": 10, "samples": [4, 5]}, [2.5, 2.0]),
    ],
)
def test_ratio_is_the_one_that_whole_samples_have(given, ratio):
    found = resolve_ratio(dict(given), "here")
    assert "samples" not in found
    np.testing.assert_array_equal(found["ratio"], ratio)
    assert isinstance(found["ratio"], float) == (np.ndim(ratio) == 0)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"samples": 4, "ratio": 0.5}, "samples"), ({"samples": 4}, "dim"), ({"dim": 4}, "ratio")],
)
def test_refusals_of_sizes(given, named):
    with pytest.raises(ParameterError, match=f"`{named}` = "):
        resolve_ratio(dict(given), "here")


def test_some_token_must_be_irrelevant_to_train():
    check_trainable({"tokens": 3, "relevant": 2}, "here")
    with pytest.raises(ParameterError, match="`relevant` = 3"):
        check_trainable({"tokens": 3, "relevant": 3}, "here")


@pytest.mark.parametrize(
    "stem", ["first_step", "prompt_step", "two_stage", "same_data", "conditional_error"]
)
def test_a_claim_converts_the_law_once(stem, monkeypatch):
    """At the boundary; closed forms, set-ups and simulations take it as it is."""
    claim = jp.claim(f"contextual.{stem}")
    point = {n: v for n, v in claim.designs["quick"].runs[0].items() if n != "trials"}
    converted = []
    convert = Parameter.convert

    def noted(self, value, where=""):
        converted.append(self.name)
        return convert(self, value, where)

    monkeypatch.setattr(Parameter, "convert", noted)
    claim.predict(**point)
    assert converted.count("signal") == 1
    claim.simulate(key=0, trials=4, **point)
    assert converted.count("signal") == 2


def test_of_takes_what_a_claim_has_completed():
    values = {**POINT, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6), "dim": 8}
    built, made = Setting.of(values), Setting.make(**values)
    for one, other in zip(jax.tree.leaves(built), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (built.tokens, built.relevant, built.gain) == (6, 2, 0.0)
