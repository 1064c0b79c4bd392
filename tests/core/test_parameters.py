"""What parameters may be, and the one line said when they are not."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.parameters import FAMILY
from jaxprompt.contextual.setting import Setting
from jaxprompt.core.parameters import Parameter, check_parameters
from jaxprompt.errors import JaxpromptError, ParameterError

INTEGER = Parameter("count", "integer", "how many", low=1)
REAL = Parameter("ridge", "real", "strength", low=0)
OPEN = Parameter("share", "real", "share", low=0, high=1, open_low=True, open_high=True)
CHOICE = Parameter("loss", "choice", "loss", choices=("square", "logistic", "hinge"))
PAIRS = Parameter("shifts", "pairs", "shifts")
WEIGHTS = Parameter("odds", "weights", "odds")

MODEL_POINT = {
    "tokens": 10,
    "relevant": 2,
    "signal": 1.0,
    "context": 1.5,
    "noise": 1.0,
    "gain": 1.0,
    "ratio": 0.5,
}


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        (INTEGER, 3, 3),
        (INTEGER, 3.0, 3),
        (INTEGER, np.int32(4), 4),
        (REAL, 0, 0.0),
        (REAL, np.float32(0.5), 0.5),
        (OPEN, 0.3, 0.3),
        (CHOICE, "hinge", "hinge"),
        (PAIRS, [[0, 0], [0.5, 0.3]], ((0.0, 0.0), (0.5, 0.3))),
        (PAIRS, np.zeros((1, 2)), ((0.0, 0.0),)),
        (WEIGHTS, [0.25, 0.75], (0.25, 0.75)),
    ],
)
def test_accepted_values_become_canonical(parameter, value, expected):
    found = parameter.convert(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", [[1, 2], (1, 2), np.array([1, 2])])
def test_arrays_of_numbers(value):
    assert INTEGER.convert(value).dtype == np.int64
    assert REAL.convert(value).dtype == np.float64


@pytest.mark.parametrize(
    ("parameter", "value", "allowed"),
    [
        (INTEGER, 0, "an integer ≥ 1"),
        (INTEGER, 2.5, "an integer ≥ 1"),
        (INTEGER, "ten", "an integer"),
        (INTEGER, True, "an integer"),
        (INTEGER, math.nan, "an integer"),
        (INTEGER, None, "an integer"),
        (INTEGER, {}, "an integer"),
        (REAL, -0.1, "a finite number ≥ 0"),
        (REAL, math.nan, "a finite number"),
        (REAL, math.inf, "a finite number"),
        (REAL, [1.0, math.nan], "a finite number"),
        (REAL, "0.1", "a finite number"),
        (REAL, False, "a finite number"),
        (REAL, 1j, "a finite number"),
        (REAL, [], "a finite number"),
        (REAL, [[1.0], [1.0, 2.0]], "a finite number"),
        (OPEN, 0, "> 0 and < 1"),
        (OPEN, 1.0, "> 0 and < 1"),
        (CHOICE, "squared", '"square", "logistic", "hinge"'),
        (CHOICE, 3, "one of"),
        (PAIRS, [0.0, 0.0], "pairs"),
        (PAIRS, [[0.0, 0.0, 0.0]], "pairs"),
        (PAIRS, [], "pairs"),
        (PAIRS, [[0.0, math.nan]], "pairs"),
        (PAIRS, "zero", "pairs"),
        (WEIGHTS, [0.5, 0.6], "sum to 1"),
        (WEIGHTS, [1.5, -0.5], "sum to 1"),
        (WEIGHTS, [0.5, math.nan], "sum to 1"),
        (WEIGHTS, 1.0, "sum to 1"),
    ],
)
def test_refused_values_name_parameter_value_allowed_and_remedy(parameter, value, allowed):
    with pytest.raises(ParameterError) as caught:
        parameter.convert(value, "family.claim")
    text = str(caught.value)
    assert text.startswith(f"family.claim: parameter `{parameter.name}` = ")
    assert allowed in text
    assert "; " in text, "the remedy is missing"
    assert "\n" not in text
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, JaxpromptError)
    assert caught.value.name == parameter.name


def test_long_values_are_shortened():
    with pytest.raises(ParameterError) as caught:
        PAIRS.convert(list(range(1000)))
    assert len(str(caught.value)) < 250


def test_near_choices_are_suggested():
    with pytest.raises(ParameterError, match="did you mean logistic"):
        CHOICE.convert("logistics")


def test_a_choice_needs_choices():
    with pytest.raises(ValueError, match="choices"):
        Parameter("loss", "choice", "loss")


def test_traced_values_pass():
    assert jax.jit(lambda x: REAL.convert(x))(-1.0) == -1.0


def test_missing_unknown_default_and_left_out():
    optional = Parameter("extra", "real", "extra", default=None)
    given = Parameter("given", "real", "given", default=2.0)
    with pytest.raises(ParameterError, match=r"`count` = '\(missing\)'.*give it: how many"):
        check_parameters((INTEGER,), {})
    with pytest.raises(ParameterError, match=r"`cuont` = 3.*use one of count; did you mean count"):
        check_parameters((INTEGER,), {"cuont": 3})
    assert check_parameters((INTEGER, optional, given), {"count": 1}) == {"count": 1, "given": 2.0}
    assert check_parameters((INTEGER, optional), {"count": 1, "extra": None}) == {"count": 1}


def test_accepted_parameters_are_validated_but_not_required():
    assert check_parameters((INTEGER,), {"count": 1}, accepted=(REAL,)) == {"count": 1}
    with pytest.raises(ParameterError, match="`ridge`"):
        check_parameters((INTEGER,), {"count": 1, "ridge": -1}, accepted=(REAL,))


def test_simulate_only():
    later = Parameter("dim", "integer", "dimension", low=2, simulate_only=True)
    assert check_parameters((later,), {}) == {}
    with pytest.raises(ParameterError, match="`dim`"):
        check_parameters((later,), {}, simulate=True)


@pytest.mark.parametrize("parameter", FAMILY, ids=lambda p: p.name)
def test_descriptions_are_plain(parameter):
    described = parameter.describe()
    assert all(isinstance(value, str) for value in described.values())
    assert described["allowed"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"relevant": 11}, "relevant"),
        ({"noise": -1.0}, "noise"),
        ({"ridge": -1e-9}, "ridge"),
        ({"signal": math.nan}, "signal"),
        ({"tokens": "ten"}, "tokens"),
        ({"tokens": 0}, "tokens"),
        ({"ratio": 0.0}, "ratio"),
        ({"gain": True}, "gain"),
        ({"shifts": [[0, 0], [1, 1]], "shift_weights": [0.5, 0.6]}, "shift_weights"),
        ({"shifts": [[0, 0], [1, 1]], "shift_weights": [1.0]}, "shift_weights"),
        ({"signa": 1.0}, "signa"),
        ({"samples": 100, "dim": 50}, "samples"),
        ({"dim": 1}, "dim"),
    ],
    ids=str,
)
def test_bad_model_parameters_of_a_claim(change, named):
    claim = jp.claim("contextual.prompt_error")
    with pytest.raises(ParameterError, match=f"^contextual.prompt_error: parameter `{named}` = "):
        claim.predict(**{**MODEL_POINT, **change})
    with pytest.raises(ParameterError, match=f"parameter `{named}` = "):
        claim.simulate(key=0, trials=2, **{"dim": 8, **MODEL_POINT, **change})


@pytest.mark.parametrize("left_out", ["tokens", "noise", "gain", "ratio"])
def test_missing_model_parameters(left_out):
    point = {name: value for name, value in MODEL_POINT.items() if name != left_out}
    with pytest.raises(ParameterError, match=f"`{left_out}` = .*missing"):
        jp.claim("contextual.prompt_error").predict(**point)


@pytest.mark.parametrize(
    ("id", "needed"),
    [("contextual.prompt_error", "dim"), ("contextual.context_gain", "tokens")],
)
def test_what_a_simulation_needs_is_asked_for(id, needed):
    claim = jp.claim(id)
    run = {
        name: value[0] if isinstance(value, list) else value
        for name, value in claim.designs["quick"].runs[0].items()
        if name not in ("trials", needed)
    }
    assert claim.predict(**run)
    with pytest.raises(ParameterError, match=f"`{needed}` = .*missing"):
        claim.simulate(key=0, trials=2, **run)


def test_arrays_only_along_shared_parameters_in_a_simulation():
    claim = jp.claim("contextual.prompt_error")
    with pytest.raises(ParameterError, match=r"`gain` = .*"):
        claim.simulate(key=0, trials=2, **{**MODEL_POINT, "dim": 8, "gain": [0.5, 1.0]})


@pytest.mark.parametrize("trials", [1, 0, -3, True])
def test_bad_trials(trials):
    with pytest.raises(ParameterError, match="`trials`"):
        jp.claim("contextual.prompt_error").simulate(key=0, trials=trials, dim=8, **MODEL_POINT)


def test_setting_validates():
    with pytest.raises(ParameterError, match="`relevant` = 3: must be at most `tokens`"):
        Setting.make(tokens=2, relevant=3, signal=1.0, context=1.0, noise=1.0)
