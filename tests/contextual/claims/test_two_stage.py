from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual.claims import prompt_error, two_stage
from jaxprompt.contextual.claims.two_stage import CLAIM
from jaxprompt.errors import NumericalError, ParameterError

BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
SHIFT = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)),
}  # fmt: skip
SPLIT = {"head_ratio": 1 / 2, "prompt_ratio": 1 / 4, "ratio": 1 / 2}
STEPS = {"ridge": 0.05, "prompt_norm": 1.5, "head_rate": 1.0}


def test_values_of_an_independent_program():
    base = CLAIM.predict(**BASE, **SPLIT, **STEPS)
    assert base["error"] == pytest.approx(0.19705, abs=3e-4)
    assert base["prompt_alignment"] == pytest.approx(0.7950, abs=1e-4)
    shift = CLAIM.predict(**SHIFT, **SPLIT, **STEPS)
    assert shift["error"] == pytest.approx(0.21522, abs=3e-4)
    bare = CLAIM.predict(
        **BASE, head_ratio=1.0, prompt_ratio=0.5, ratio=1 / 0.6, ridge=0.0, prompt_norm=1.0,
        head_rate=0.3,
    )  # fmt: skip
    assert bare["error"] == pytest.approx(0.35697, abs=3e-4)


def test_without_a_prompt_it_is_the_linear_probe():
    found = CLAIM.predict(**SHIFT, **SPLIT, **{**STEPS, "prompt_norm": 0.0})
    probe = prompt_error.CLAIM.predict(**SHIFT, gain=0.0, ratio=0.5, ridge=0.05)
    assert found["error"] == pytest.approx(probe["error"], abs=1e-12)


def test_with_many_samples_for_the_prompt_it_is_the_known_one():
    steps = {**STEPS, "prompt_norm": 1.5}
    found = CLAIM.predict(**BASE, head_ratio=0.5, prompt_ratio=1e-9, ratio=0.5, **steps)
    known = prompt_error.CLAIM.predict(**BASE, gain=1.0, ratio=0.5, ridge=0.05)
    assert found["prompt_alignment"] == pytest.approx(1.0, abs=1e-6)
    assert found["error"] == pytest.approx(known["error"], abs=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units(scale):
    """Tokens × s: the head step shrinks by 1/s² for the same output, the prompt by s, λ grows."""
    scaled = {**SHIFT, **{n: SHIFT[n] * scale for n in ("signal", "context", "noise")}}
    steps = {"ridge": 0.05 * scale**2, "prompt_norm": 1.5 / scale, "head_rate": 1.0 / scale**2}
    usual, found = (
        CLAIM.predict(**SHIFT, **SPLIT, **STEPS),
        CLAIM.predict(**scaled, **SPLIT, **steps),
    )
    assert found["error"] == pytest.approx(usual["error"], rel=1e-9)
    assert found["prompt_alignment"] == pytest.approx(usual["prompt_alignment"], rel=1e-9)


def test_signs():
    """Where irrelevant tokens carry more of the signal than relevant ones, E[a] < 0: a short head
    turns the prompt away from the context, and one that overshoots the labels turns it back."""
    turned = {**BASE, "shifts": ((0.0, 0.8),)}
    split = {"head_ratio": 0.1, "prompt_ratio": 0.1, "ratio": 0.5, "ridge": 0.05}
    short = CLAIM.predict(**turned, **split, prompt_norm=1.0, head_rate=0.05)
    long = CLAIM.predict(**turned, **split, prompt_norm=1.0, head_rate=8.0)
    assert short["prompt_alignment"] < -0.2 < 0.2 < long["prompt_alignment"]
    measured = CLAIM.simulate(
        key=0, trials=30, dim=200, **turned, **split, prompt_norm=1.0, head_rate=0.05
    )
    assert measured["prompt_alignment"].mean < -0.2


def test_a_head_without_signal_still_teaches_the_prompt():
    """By the output's variance alone, the more the longer it is: E[a] = 0."""
    balanced = {**BASE, "shifts": ((0.0, 0.25),)}
    rates = [0.1, 1.0, 5.0, 50.0]
    found = CLAIM.predict(**balanced, **SPLIT, **{**STEPS, "head_rate": rates})
    assert (found["prompt_alignment"] > 0).all()
    assert (found["prompt_alignment"][1:] > found["prompt_alignment"][:-1]).all()


@pytest.mark.parametrize("extreme", [{"ratio": 1 - 1e-9}, {"ratio": 1.0}, {"ratio": 1 + 1e-9}])
def test_without_ridge_near_as_many_samples_as_dimensions(extreme):
    found = CLAIM.predict(**BASE, **{**SPLIT, **extreme}, **{**STEPS, "ridge": 0.0})
    assert found["error"] == pytest.approx(0.5, abs=1e-3)


def test_one_relevant_token_of_two():
    found = CLAIM.predict(
        tokens=2, relevant=1, signal=1.0, context=1.0, noise=1.0, **SPLIT, **STEPS
    )
    assert 0 < found["error"] < 0.5


def test_what_is_refused():
    with pytest.raises(ParameterError, match="head_rate"):
        CLAIM.predict(**BASE, **SPLIT, **{**STEPS, "head_rate": 0.0})
    with pytest.raises(ParameterError, match="relevant"):
        CLAIM.predict(**{**BASE, "relevant": 10}, **SPLIT, **STEPS)
    with pytest.raises(NumericalError, match="no direction"):
        CLAIM.predict(**{**BASE, "signal": 0.0, "noise": 0.0}, **SPLIT, **STEPS)


def test_numbers_broadcast():
    found = CLAIM.predict(**BASE, **{**SPLIT, "ratio": [0.25, 0.5]}, **STEPS)
    single = CLAIM.predict(**BASE, **SPLIT, **STEPS)
    assert found["error"].shape == (2,)
    assert found["error"][1] == single["error"]


def test_falsifiers_differ_by_what_they_drop():
    """Errors of the wrong variants by a program that shares nothing with this one."""
    expected = {
        "no_head_noise": 0.1622, "no_feedback": 0.2026, "perfect_prompt": 0.1135,
        "cos_squared": 0.2745, "swapped_batches": 0.2292, "all_samples_for_head": 0.1648,
        "double_noise": 0.2515,
    }  # fmt: skip
    point = CLAIM.validated({**BASE, **SPLIT, **STEPS})
    falsifiers = {falsifier.name: falsifier for falsifier in CLAIM.falsifiers}
    # That one adds a number to what is right.
    assert falsifiers.keys() - {"correction_left"} == expected.keys()
    for name, error in expected.items():
        wrong = CLAIM.evaluate(falsifiers[name].predictor(two_stage.closed_form), point)
        assert wrong["error"] == pytest.approx(error, abs=4e-4), name


def test_whole_numbers_of_samples_are_what_is_predicted():
    at_dim = CLAIM.predict(**BASE, **{**SPLIT, "ratio": 0.3}, **STEPS, dim=10)
    exact = CLAIM.predict(**BASE, **{**SPLIT, "ratio": 10 / 33}, **STEPS)
    assert at_dim["error"] == pytest.approx(exact["error"], rel=1e-12)
    assert np.isfinite(at_dim["error_stderr"])
