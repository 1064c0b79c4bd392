from __future__ import annotations

import pytest

from jaxprompt.contextual.claims import prompt_error, same_data, two_stage
from jaxprompt.contextual.claims.same_data import CLAIM
from jaxprompt.errors import ParameterError

BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
SHIFT = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)),
}  # fmt: skip
STEPS = {"ridge": 0.05, "prompt_norm": 1.5, "head_rate": 1.0}


def test_values_of_an_independent_program():
    """Its quadrature was coarser: it is 0.001 low at the first point."""
    first = CLAIM.predict(**BASE, ratio=0.5, **STEPS)
    assert first["error"] == pytest.approx(0.28903, abs=1.2e-3)
    assert first["prompt_alignment"] == pytest.approx(0.5787, abs=1e-4)
    second = CLAIM.predict(**BASE, ratio=0.25, **{**STEPS, "prompt_norm": 1.0})
    assert second["error"] == pytest.approx(0.16156, abs=2e-4)
    assert second["objective"] == pytest.approx(0.19785, abs=4e-4)
    assert second["head_signal"] == pytest.approx(1.224, abs=4e-3)
    assert second["head_energy"] == pytest.approx(2.051, abs=6e-3)
    third = CLAIM.predict(**SHIFT, ratio=0.5, **STEPS)
    assert third["error"] == pytest.approx(0.30262, abs=3e-4)
    assert third["head_signal"] / 1.2 == pytest.approx(0.860, abs=3e-3)


def test_falsifiers_are_what_they_say():
    point = {**SHIFT, "ratio": 0.5, **STEPS}
    right = CLAIM.predict(**point)["error"]
    wrong = {
        f.name: CLAIM.evaluate(
            f.predictor(same_data.closed_form), CLAIM.validated(point)
        )["error"]
        for f in CLAIM.falsifiers
    }  # fmt: skip
    fresh = two_stage.CLAIM.predict(**point, head_ratio=0.5, prompt_ratio=0.5)["error"]
    assert wrong["fresh_batches"] == pytest.approx(fresh, abs=2e-4)
    assert wrong["no_head_memory"] < right - 0.05
    assert wrong["no_lost_direction"] > right + 0.004
    assert wrong["no_prompt_memory"] > right + 0.006


def test_without_a_prompt_it_is_the_linear_probe():
    found = CLAIM.predict(**SHIFT, ratio=1.5, **{**STEPS, "prompt_norm": 0.0})
    probe = prompt_error.CLAIM.predict(**SHIFT, gain=0.0, ratio=1.5, ridge=0.05)
    assert found["error"] == pytest.approx(probe["error"], abs=1e-5)
    assert found["head_signal"] == pytest.approx(1.2 * probe["head_signal"], rel=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units(scale):
    scaled = {**SHIFT, **{n: SHIFT[n] * scale for n in ("signal", "context", "noise")}}
    steps = {"ridge": 0.05 * scale**2, "prompt_norm": 1.5 / scale, "head_rate": 1.0 / scale**2}
    usual = CLAIM.predict(**SHIFT, ratio=0.5, **STEPS)
    found = CLAIM.predict(**scaled, ratio=0.5, **steps)
    for name, power in (
        ("error", 0), ("prompt_alignment", 0), ("objective", 0), ("head_signal", 0),
        ("head_energy", -2),
    ):  # fmt: skip
        assert found[name] == pytest.approx(usual[name] * scale**power, rel=1e-8), name


def test_with_many_samples_it_is_the_known_prompt():
    found = CLAIM.predict(**BASE, ratio=1e-5, **STEPS)
    known = prompt_error.CLAIM.predict(**BASE, gain=1.0, ratio=1e-5, ridge=0.05)
    assert found["prompt_alignment"] == pytest.approx(1.0, abs=1e-3)
    assert found["error"] == pytest.approx(known["error"], abs=1e-3)


def test_the_interpolating_head():
    """More dimensions than samples and no ridge: a point of the simulation at d = 400."""
    point = {**BASE, "ratio": 2.0, "ridge": 0.0, "prompt_norm": 1.5, "head_rate": 1.0}
    predicted = CLAIM.predict(**point)
    measured = CLAIM.simulate(key=1, trials=60, dim=400, **point)
    assert predicted["objective"] == 0.0
    assert measured["objective"].mean == pytest.approx(0.0, abs=1e-9)
    for name in ("error", "head_signal", "head_energy"):
        # Corrections of order 1/d are 1 % here, and the standard error is about as large.
        assert measured[name].mean == pytest.approx(predicted[name], rel=0.1), name


def test_as_many_samples_as_dimensions_need_a_ridge():
    with pytest.raises(ParameterError, match="diverges at d = n"):
        CLAIM.predict(**BASE, ratio=1.0, **{**STEPS, "ridge": 0.0})
    assert CLAIM.predict(**BASE, ratio=1.0, **STEPS)["error"] < 0.5


def test_one_relevant_token_of_two():
    found = CLAIM.predict(
        tokens=2, relevant=1, signal=1.0, context=1.0, noise=1.0, ratio=0.5, **STEPS
    )
    assert 0 < found["error"] < 0.5
