"""Combination of known skills: limits, and what is not simulated."""

from __future__ import annotations

import pytest

import jaxprompt as jp
from jaxprompt.core.calibration import reduced
from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.errors import ParameterError

CLAIM = jp.claim("prefix.skill_combination")


def test_limits_state_their_sides():
    predicted = CLAIM.predict(tasks=4, length=6)
    assert isinstance(predicted["combined"], AtLeast)
    assert isinstance(predicted["counting"], AtMost)
    assert isinstance(predicted["counting_tuned"], AtLeast)
    assert "combined_low_rank" not in predicted
    assert CLAIM.predict(tasks=4, length=6, low_rank=1)["combined_low_rank"] == 0.5


def test_another_number_of_tasks_is_not_simulated():
    with pytest.raises(ParameterError, match="`tasks` = 3: must be 4 in a simulation"):
        CLAIM.simulate(key=0, trials=2, tasks=3, length=4)


def test_the_brief_design_stays_partial_however_it_is_changed():
    """It trains no low-rank factors, so that quantity has no row there."""
    design = CLAIM.designs["quick"]
    assert all(run.get("low_rank", 0) == 0 for run in design.runs)
    smaller = reduced(CLAIM, changes={"steps": 2250}).designs["quick"]
    for changed in (design, smaller, design.with_trials(8), design.times(8)):
        assert changed.partial
    assert not CLAIM.designs["full"].partial
