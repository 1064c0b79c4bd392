"""What the claims on SGD take and refuse, and what they give at corners."""

from __future__ import annotations

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import NumericalError, ParameterError

SETTING = {"tokens": 4, "relevant": 1, "signal": 1.0, "context": 1.0, "noise": 0.8}
FLOW = {**SETTING, "head_rate": 1.0, "prompt_rate": 1.5, "head_norm": 0.2, "prompt_norm": 0.3}
flow, spread, tuning, step, batches = (
    jp.claim(f"contextual.{name}")
    for name in ("sgd_flow", "sgd_spread", "prompt_tuning", "sgd_step", "giant_steps")
)


def test_lists_of_times_give_the_numbers_of_single_ones():
    along = flow.predict(**FLOW, time=[2.0, 0.0, 0.5])
    for place, time in enumerate((2.0, 0.0, 0.5)):
        single = flow.predict(**FLOW, time=time)
        assert all(along[name][place] == single[name] for name in single)
    assert along["error"][1] == pytest.approx(0.5)
    assert along["head_energy"][1] == pytest.approx(0.04)


def test_time_is_that_of_a_whole_number_of_steps():
    rounded = flow.predict(**FLOW, time=1.04, dim=10)
    assert rounded == flow.predict(**FLOW, time=1.0)


# As many tokens as in test_sgd_chain.py, which follows paths by the same program.
SIMULATED = {**FLOW, "tokens": 8, "relevant": 2, "dim": 20, "key": 1, "trials": 16}


@pytest.mark.slow
def test_simulated_times_and_start():
    found = flow.simulate(**SIMULATED, time=[0.0, 0.5])
    assert found["head_energy"].mean[0] == pytest.approx(0.04)
    assert found["error"].mean.shape == (2,)
    # Of the same shape, so that it is compiled already.
    swapped = flow.simulate(**SIMULATED, time=[0.5, 0.0])
    for name, estimate in swapped.items():
        assert estimate.mean[0] == found[name].mean[1], name


@pytest.mark.slow
def test_simulated_lists_of_times_give_the_numbers_of_single_ones():
    found = flow.simulate(**SIMULATED, time=[0.0, 0.5])
    single = flow.simulate(**SIMULATED, time=0.5)
    for name, estimate in single.items():
        assert estimate.mean == found[name].mean[1], name


def test_frozen_head_and_known_lengths():
    at = {**SETTING, "prompt_rate": 1.0, "head_signal": 0.9, "head_norm": 1.0}
    assert tuning.predict(**at, time=0.0)["prompt_energy"] == 0.0
    joint = flow.predict(**{**FLOW, "head_rate": 0.0, "head_norm": 1.0}, time=1.0)
    assert joint["head_signal"] == 0.0
    assert joint["head_energy"] == 1.0
    with pytest.raises(ParameterError, match=r"head_norm.*at least 0.9"):
        tuning.predict(**{**at, "head_norm": 0.5}, time=1.0)


def test_spread_at_the_start_is_that_of_random_directions():
    found = spread.predict(**FLOW, time=0.0)
    assert found["head_signal"] == pytest.approx(0.2)
    assert found["head_prompt"] == pytest.approx(0.06)
    assert found["head_energy"] == 0.0


def test_changes_do_not_depend_on_units():
    """Tokens × c, head and prompt / c: products with w⋆ and q⋆ stay, energies take 1/c²."""
    at = {
        **SETTING, "dim": 9, "head_signal": 0.3, "head_context": 0.1, "head_norm": 0.7,
        "prompt_signal": 0.1, "prompt_context": 0.4, "prompt_norm": 0.9, "head_prompt": 0.1,
        "head_rate": 1.5, "prompt_rate": 3.0,
    }  # fmt: skip
    c = 10.0
    sizes = {"signal": c, "context": c, "noise": c, "head_norm": 1 / c, "prompt_norm": 1 / c,
             "head_prompt": 1 / c**2, "head_rate": 1 / c**2, "prompt_rate": 1 / c**2}  # fmt: skip
    scaled = {**at, **{name: at[name] * factor for name, factor in sizes.items()}}
    one, other = step.predict(**at), step.predict(**scaled)
    for name, value in one.items():
        power = 2 if "energy" in name or "head_prompt" in name else 0
        assert other[name] * c**power == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_batches_from_zero_move_the_head_first():
    at = {**SETTING, "ratio": 0.5, "head_rate": 1.0, "prompt_rate": 1.0}
    first = batches.predict(**at, steps=1)
    assert first["prompt_energy"] == pytest.approx(0.0, abs=1e-12)
    assert first["head_signal"] > 0
    along = batches.predict(**at, steps=[0, 1, 3])
    np.testing.assert_array_equal(along["head_signal"][:2], [0.0, first["head_signal"]])
    samples = batches.predict(
        **SETTING, dim=20, samples=40, head_rate=1.0, prompt_rate=1.0, steps=1
    )
    assert samples == first


def test_refusals():
    with pytest.raises(ParameterError, match=r"dim.*≥ 6"):
        flow.simulate(**FLOW, time=1.0, dim=5, key=0, trials=4)
    with pytest.raises(ParameterError, match=r"relevant.*less than `tokens`"):
        flow.predict(**{**FLOW, "relevant": 4}, time=1.0)
    with pytest.raises(ParameterError, match=r"time.*at most 4294967294 steps"):
        flow.simulate(**FLOW, time=9e3, dim=10**6, key=0, trials=4)
    with pytest.raises(NumericalError, match="diverges near n/d"):
        flow.predict(**{**FLOW, "tokens": 2, "head_rate": 60.0, "prompt_rate": 60.0}, time=40.0)
    with pytest.raises(ParameterError, match=r"loss.*logistic"):
        flow.predict(**FLOW, time=1.0, loss="hinge")
