"""How often a check errs, by repeating it: for a toy whose rate is known, and for claims."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt import stats
from jaxprompt.core import calibration
from jaxprompt.core.calibration import (
    LOOSE,
    Calibration,
    Share,
    calibrate,
    check_under_seeds,
    reduced,
)
from jaxprompt.core.claim import FALSE_ALARM, Falsifier
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, Status

FEW, MANY = 80, 200
"""Seeds of the short and of the long form of the calibration."""


def gaussian(toy_claim, *, offset=0.0, shrink=1.0, **changes):
    """A toy of two runs whose 64 trials NumPy draws at once; its standard errors times `shrink`."""

    def simulation(*, key, trials, level, size):
        import jax

        rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)), size])
        found = stats.mean_estimate(level + offset + rng.normal(size=trials))
        return {"value": Estimate(found.mean, shrink * found.stderr, trials)}

    def half_more(level, **_):
        return {"value": 1.5 * level + 0.5}

    wrong = (
        Falsifier("half_more", "one too much", half_more),
        Falsifier("none", "no level", lambda level, **_: {"value": 0 * level}),
    )
    claim = toy_claim(simulation=simulation, falsifiers=wrong, tolerance=0.9, **changes)
    return reduced(claim, trials=0.64)


def test_a_right_claim_keeps_its_rates(toy_claim):
    found = calibrate(gaussian(toy_claim), FEW)
    assert found.refuted.low <= FALSE_ALARM
    assert found.unconfirmed.hits == found.refuted.hits
    assert found.inconclusive.hits == found.failed.hits == 0
    assert found.loose.low <= LOOSE <= found.loose.high, (
        f"two independent exact tests at {LOOSE}: refuted {found.loose}"
    )
    assert {name: share.hits for name, share in found.falsifiers.items()} == {
        "half_more": FEW, "none": FEW,
    }  # fmt: skip
    assert found.sound


@pytest.mark.parametrize("fault", [{"shrink": 0.6}, {"offset": 0.25}])
def test_wrong_errors_and_a_small_bias_show(toy_claim, fault):
    found = calibrate(gaussian(toy_claim, **fault), 30)
    assert not found.sound, f"{fault} went unnoticed: refuted {found.refuted}, {found.loose}"
    assert found.loose.low > LOOSE


def test_an_outcome_is_what_check_and_falsify_say(toy_claim):
    claim = gaussian(toy_claim)
    for outcome in check_under_seeds(claim, [3, 8]):
        verdict = claim.check("quick", outcome.seed)
        assert outcome.status is verdict.status
        wrong = {name: v.status for name, v in claim.falsify_cells(verdict).items()}
        assert outcome.falsifiers == wrong
        json.dumps(dataclasses.asdict(outcome))


def test_closed_forms_are_evaluated_once(toy_claim):
    calls = []

    def closed_form(*, level, size=None):
        calls.append(level)
        return {"value": level}

    claim = gaussian(toy_claim, closed_form=closed_form)
    calibrate(claim, range(5))
    assert len(calls) == len(claim.designs["quick"].runs)


def test_a_failure_is_counted_and_never_sound(toy_claim):
    def broken(*, key, trials, level, size):
        raise ArithmeticError("no convergence")

    found = calibrate(toy_claim(simulation=broken), [0, 1])
    assert found.failed.hits == 2
    assert not found.sound
    assert "no convergence" in found.outcomes[0].error
    assert {share.hits for share in found.falsifiers.values()} == {0}


def test_reduced_keeps_the_experiment(toy_claim):
    claim = toy_claim()
    design = claim.designs["quick"]
    small = reduced(claim, trials=0.1, runs=(1,)).designs["quick"]
    assert small.trials == 10
    assert small.runs == (design.runs[1],)
    assert reduced(claim, trials=0.001, least=6).designs["quick"].trials == 6
    assert reduced(claim, least=10_000).designs["quick"] == design, "trials were raised"
    assert reduced(claim, runs=(0,)).designs["full"] == claim.designs["full"]


def test_reduced_changes_parameters_and_the_experiment(toy_claim):
    seen = {}

    def measure(claim, profile, key, draws=100):
        seen["draws"] = draws
        return list(claim.measure_design(claim.designs[profile], key))

    claim = gaussian(toy_claim, measure=measure)
    small = reduced(claim, changes={"size": 3}, options={"draws": 7})
    cells = small.check("quick", 0).cells
    assert [cell.parameters["size"] for cell in cells] == [3] * len(claim.designs["quick"].runs)
    assert [cell.parameters["level"] for cell in cells] == [
        run["level"] for run in claim.designs["quick"].runs
    ]
    assert seen["draws"] == 7
    assert claim.measure is measure, "the claim itself is as it was"


@pytest.mark.parametrize(
    "wrong",
    [
        {"trials": 0}, {"trials": 1.5}, {"least": 1}, {"runs": (2,)}, {"changes": {"width": 3}},
        {"options": {"draws": 7}},
    ],
)  # fmt: skip
def test_reduced_refuses(toy_claim, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        reduced(toy_claim(), **wrong)


def test_shares():
    none = Share.made(0, 200)
    assert str(none) == "0 of 200 (0 to 1.83 %)"
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 200), rel=1e-9)
    assert (Share.made(0, 0).low, Share.made(0, 0).high) == (0, 1)
    assert Calibration("contextual.toy", ()).sound


@pytest.mark.slow
def test_a_claim_keeps_its_rates():
    """One run of a claim that some hundredths of a second check, once it is compiled."""
    claim = reduced(jp.claim("contextual.first_step"), trials=0.01, runs=(4,))
    found = calibrate(claim, FEW // 2)
    assert found.failed.hits == 0
    assert found.refuted.low <= FALSE_ALARM, f"refuted {found.refuted}; {FALSE_ALARM} is stated"
    assert found.loose.low <= LOOSE, f"at {LOOSE}: refuted {found.loose}"


REDUCED = {
    "contextual.conditional_error": {"trials": 1.0, "runs": (1, 4)},
    "contextual.first_step": {"trials": 0.5, "runs": (2, 4, 5)},
    "contextual.prompt_step": {"trials": 0.5, "runs": (3, 4)},
    "contextual.context_gain": {"trials": 1.0, "runs": tuple(range(3, 9))},
    "universal.sequence_map": {"trials": 0.35, "runs": (0, 1, 2, 3, 4, 7)},
}


@pytest.mark.slow
@pytest.mark.parametrize("id", REDUCED)
def test_claims_and_falsifiers_at_a_conclusive_size(id):
    found = calibrate(reduced(jp.claim(id), **REDUCED[id]), MANY)
    assert found.sound, f"refuted {found.refuted}, at {LOOSE} {found.loose}"
    for name, share in found.falsifiers.items():
        assert share.high >= 0.95, f"{name} is refuted in {share}; 95 % are asked for"
    assert found.inconclusive.value <= 0.05, f"inconclusive {found.inconclusive}"


def test_the_module_says_what_it_exports():
    assert set(calibration.__all__) >= {"calibrate", "reduced", "Calibration"}
    assert all(hasattr(calibration, name) for name in calibration.__all__)
    assert Status.REFUTED in Status


def test_no_seed_says_nothing():
    none = Share.made(0, 0)
    assert (none.low, none.high) == (0.0, 1.0)
    assert math.isnan(none.value)
