"""The claim engine on toy claims: construction, verdicts, falsifiers, cells, keys."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt import stats
from jaxprompt.core.claim import (
    FALSE_ALARM,
    Cell,
    Claim,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Verdict,
)
from jaxprompt.core.comparing import compare_limit, summarise
from jaxprompt.core.designs import split_into_cells
from jaxprompt.core.json_values import canonical, to_json_values
from jaxprompt.core.keys import fold_in_parameters
from jaxprompt.errors import JaxpromptError, ParameterError
from jaxprompt.stats import Estimate, Status

# --- construction ---


@pytest.mark.parametrize("id", ["one", "family.", ".stem", "fam ily.stem", "a.b.c", "family.a-b"])
def test_ids_are_family_and_stem(toy_claim, id):
    with pytest.raises(ValueError, match=r"must be family\.word_stem"):
        toy_claim(id=id)


def test_a_claim_needs_two_falsifiers_with_distinct_names(toy_claim):
    one = Falsifier("a", "wrong", lambda **p: {})
    with pytest.raises(ValueError, match="at least two falsifiers"):
        toy_claim(falsifiers=(one,))
    with pytest.raises(ValueError, match="distinct names"):
        toy_claim(falsifiers=(one, one))


def test_an_asymptotic_claim_names_its_size(toy_claim):
    with pytest.raises(ValueError, match="`size`"):
        toy_claim(relation=Relation.ASYMPTOTIC)


def test_lookups(toy_claim):
    claim = toy_claim()
    assert claim.family == "contextual"
    assert claim.falsifier("shifted").name == "shifted"
    assert claim.quantity("value").name == "value"
    for lookup in (claim.falsifier, claim.quantity):
        with pytest.raises(KeyError):
            lookup("nothing")


def test_describe_is_json(toy_claim):
    described = json.loads(json.dumps(toy_claim().describe()))
    assert [p["name"] for p in described["parameters"]] == ["size", "level"]
    assert [f["name"] for f in described["falsifiers"]] == ["shifted", "doubled"]
    assert described["quantities"][0]["tolerance"] == "0.2"


# --- verdicts ---


def test_a_true_claim_is_confirmed(toy_claim):
    verdict = toy_claim().check()
    assert verdict.status == Status.CONFIRMED
    assert verdict.profile == "quick"
    assert verdict.seed == 0
    assert verdict.false_alarm == FALSE_ALARM
    assert 0 < verdict.detectable < 0.2
    assert verdict.seconds > 0
    assert len(verdict.rows) == 2
    assert verdict.worst in verdict.rows


def test_every_falsifier_of_the_toy_is_refuted(toy_claim):
    claim = toy_claim()
    found = claim.falsify()
    assert {name: v.status for name, v in found.items()} == dict.fromkeys(
        ("shifted", "doubled"), Status.REFUTED
    )
    assert all(verdict.falsifier == name for name, verdict in found.items())


def test_a_false_claim_is_refuted_and_a_vague_one_inconclusive(toy_claim):
    assert toy_claim(offset=0.5).check().status == Status.REFUTED
    assert toy_claim(tolerance=1e-6).check().status == Status.INCONCLUSIVE


def test_seeds_reproduce_and_differ(toy_claim):
    claim = toy_claim()

    def measured(key):
        return [row.simulated for row in claim.check(key=key).rows]

    assert measured(3) == measured(3) == measured(jax.random.key(3))
    assert measured(3) != measured(4)
    assert measured(None) == measured(0)


@pytest.mark.parametrize("side", ["simulation", "closed_form"])
def test_an_exception_fails_the_check_with_its_traceback(toy_claim, side):
    def broken(**params):
        raise ZeroDivisionError("the toy broke")

    verdict = toy_claim(**{side: broken}).check()
    assert verdict.status == Status.FAILED
    assert "ZeroDivisionError: the toy broke" in verdict.error
    assert "Traceback" in verdict.error
    assert verdict.rows == ()
    assert json.loads(verdict.to_json())["detectable"] is None


def test_falsifiers_of_a_failed_check_have_failed_too(toy_claim):
    def broken(**params):
        raise ZeroDivisionError

    found = toy_claim(simulation=broken).falsify()
    assert {v.status for v in found.values()} == {Status.FAILED}


def test_nan_fails(toy_claim):
    def nothing(*, key, trials, **params):
        return {"value": Estimate(math.nan, 0.1, trials)}

    assert toy_claim(simulation=nothing).check().status == Status.FAILED


def test_an_empty_comparison_is_not_agreement(toy_claim):
    assert toy_claim(compare=lambda claim, cells, predict: []).check().status == Status.FAILED


@pytest.mark.parametrize("profile", ["fast", "", "Quick"])
def test_unknown_profiles(toy_claim, profile):
    with pytest.raises(ParameterError, match=r"`profile` = .*must be quick or full"):
        toy_claim().check(profile)


def test_bad_parameters_are_raised_not_recorded(toy_claim):
    design = Design(({"size": 8, "level": -1.0},), 4)
    with pytest.raises(ParameterError, match="`level`"):
        toy_claim(designs={"quick": design}).check()


def test_verdict_as_json(toy_claim):
    verdict = toy_claim().check()
    found = json.loads(verdict.to_json())
    named = {"id", "relation", "status", "rows", "false_alarm", "detectable", "seconds"}
    assert named | {"profile", "seed"} <= set(found)
    assert found["status"] == "confirmed"
    row = found["rows"][0]
    for name in ("parameters", "predicted", "predicted_stderr", "simulated", "stderr"):
        assert name in row
    assert row["verdict"] == "confirmed"
    assert row["simulated"] == verdict.rows[0].simulated  # to the last digit
    assert "cells" not in found


def test_exact_checks_state_no_false_alarm(toy_claim):
    def exact(*, key, trials, level, size):
        return {"value": Estimate(level, 0.0, trials)}

    verdict = toy_claim(simulation=exact, relation=Relation.IDENTITY).check()
    assert verdict.status == Status.CONFIRMED
    assert verdict.false_alarm == 0.0


def test_bounds_count_only_above(toy_claim):
    claim = toy_claim(relation=Relation.BOUND, offset=-0.5)  # measured far below
    assert claim.check().status == Status.CONFIRMED
    assert toy_claim(relation=Relation.BOUND, offset=0.5).check().status == Status.REFUTED


def test_asymptotic_claims_extrapolate(toy_claim):
    def approaching(*, key, trials, level, size):
        noise = 0.01 * np.asarray(jax.random.normal(key, (trials,)))
        return {"value": Estimate(level + 3 / size + noise.mean(), 0.01 / trials**0.5, trials)}

    design = Design.product({"level": 1.0}, {"size": [8, 16, 32, 64]}, trials=100)
    claim = toy_claim(
        relation=Relation.ASYMPTOTIC, size="size", simulation=approaching, designs={"quick": design}
    )
    verdict = claim.check()
    assert verdict.status == Status.CONFIRMED
    assert len(verdict.rows) == 1
    assert verdict.rows[0].parameters["size"] == [8, 16, 32, 64]
    assert verdict.rows[0].simulated == pytest.approx(1.0, abs=0.01)
    assert all(v.status == Status.REFUTED for v in claim.falsify_cells(verdict).values())


def test_quantities_that_ignore_a_parameter_give_one_row(toy_claim):
    claim = toy_claim(quantities=(Quantity("value", "v", 0.2, ignores=("size",)),))
    design = Design.product({"level": 1.0}, {"size": [8, 16, 32]}, trials=100)
    claim = dataclasses.replace(claim, designs={"quick": design})
    assert len(claim.check().rows) == 1


def test_a_tolerance_may_depend_on_the_point_and_on_the_prediction(toy_claim):
    def share_of_largest(point, predicted):
        """A thousandth of the largest predicted number, times the level."""
        return 1e-3 * point["level"] * np.abs(predicted).max()

    quantity = Quantity("value", "v", share_of_largest)
    assert quantity.allowance(np.array([3.0, -5.0]), {"level": 2.0}) == pytest.approx(0.01)
    assert Quantity("value", "v", lambda point: point["level"]).allowance(7.0, {"level": 2.0}) == 2
    assert quantity.describe_tolerance().startswith("A thousandth")

    estimate = stats.exact_estimate([3.0, 5.02], trials=2)
    claim = toy_claim(
        relation=Relation.IDENTITY,
        quantities=(quantity,),
        closed_form=lambda **_: {"value": np.array([3.0, 5.0])},
    )
    cells = [Cell({"level": level, "size": 8}, {"value": estimate}) for level in (1.0, 5.0)]
    rows = stats.decide(claim.comparisons(cells), 1e-3)
    assert [(row.predicted, row.simulated) for row in rows] == [(5.0, 5.02)] * 2, "the worst entry"
    assert [row.tolerance for row in rows] == pytest.approx([0.005, 0.025])
    assert [row.verdict for row in rows] == [Status.REFUTED, Status.CONFIRMED]


def test_no_text_is_made_of_the_arrays_of_a_cell(toy_claim, monkeypatch):
    """It took minutes for the millions of numbers that a sampled layer has as its parameters."""

    def caught(*args):
        raise AssertionError("a text was made of all parameters of a cell")

    claim = toy_claim()
    verdict = claim.check()
    monkeypatch.setattr("jaxprompt.core.comparing.canonical", caught)
    monkeypatch.setattr("jaxprompt.core.checking.canonical", caught)
    assert [v.status for v in claim.falsify_cells(verdict).values()] == [Status.REFUTED] * 2
    table = np.zeros((30, 40))
    row = summarise({"table": table, "level": 1.0, "short": [1, 2]})
    assert row == {"table": "array(30, 40)", "level": 1.0, "short": [1, 2]}


def test_progress_is_told(toy_claim):
    seen = []
    toy_claim().check(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


# --- predict and simulate ---


def test_predict_gives_floats_and_float64_arrays(toy_claim):
    claim = toy_claim()
    assert claim.predict(level=2.0) == {"value": 2.0}
    found = claim.predict(level=[1.0, 2.0])["value"]
    assert found.dtype == np.float64
    assert isinstance(claim.predict(level=np.float32(1))["value"], float)


def test_predict_under_jit_only_where_said(toy_claim):
    with pytest.raises(JaxpromptError, match="cannot run under jit"):
        jax.jit(lambda level: toy_claim().predict(level=level))(1.0)
    traced = jax.jit(lambda level: toy_claim(traceable=True).predict(level=level))(1.0)
    assert float(traced["value"]) == 1.0


def test_simulate_takes_integer_seeds_and_old_keys(toy_claim):
    claim = toy_claim()
    found = {
        claim.simulate(key=key, trials=8, size=4, level=1.0)["value"]
        for key in (5, jax.random.key(5), jax.random.PRNGKey(5))
    }
    assert len(found) == 1


# --- designs, cells and keys ---


def test_design_product_order():
    design = Design.product({"a": 1}, {"b": [1, 2], "c": [3, 4]}, trials=7)
    assert [(r["b"], r["c"]) for r in design.runs] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert all(r["a"] == 1 for r in design.runs)
    assert design.trials == 7


def test_expand_splits_shared_arrays_in_their_order():
    mean = np.arange(6.0).reshape(2, 3)
    cells = list(
        split_into_cells(
            {"ratio": [1, 2, 3], "ridge": np.array([0.0, 0.1]), "dim": 8},
            {"error": Estimate(mean, mean / 10, 5)},
            ("ridge", "ratio"),
        )
    )
    assert len(cells) == 6
    assert cells[4] == Cell({"ratio": 2, "ridge": 0.1, "dim": 8}, {"error": Estimate(4.0, 0.4, 5)})
    (only,) = split_into_cells({"dim": 8}, {"error": Estimate(1.0, 0.1, 5)}, ("ridge",))
    assert only.estimates["error"] == (1.0, 0.1, 5)


def test_keys_come_from_parameters_not_from_order():
    key = jax.random.key(0)
    one = fold_in_parameters(key, {"a": 1, "b": (0.5, [1, 2])})
    other = fold_in_parameters(key, {"b": [0.5, (1, 2)], "a": np.int64(1)})
    assert one == other
    assert one != fold_in_parameters(key, {"a": 2, "b": (0.5, [1, 2])})
    shared = fold_in_parameters(key, {"a": 1, "b": (0.5, [1, 2]), "ratio": [1, 2]}, ("ratio",))
    assert shared == one


def test_canonical_and_plain():
    assert canonical({"b": np.float64(1), "a": (1, 2)}) == '{"a": [1, 2], "b": 1.0}'
    assert to_json_values({"x": [math.nan, math.inf, np.bool_(True), Status.FAILED]}) == {
        "x": [None, None, True, "failed"]
    }


def test_worst_is_a_row_with_the_verdict(toy_claim):
    verdict = toy_claim(offset=0.5).check()
    assert verdict.worst.verdict == Status.REFUTED
    assert verdict.worst.p_value == min(row.p_value for row in verdict.rows)
    assert dataclasses.replace(verdict, rows=()).worst is None


def test_types():
    assert {relation.value for relation in Relation} == {
        *("identity", "mean", "bound", "asymptotic", "rate", "existence", "impossibility")
    }
    assert dataclasses.is_dataclass(Claim)
    assert dataclasses.is_dataclass(Verdict)


def test_more_sizes_raise_the_order_of_an_extrapolation():
    """A deviation in 1/d² is fitted at four sizes, and found wanting a term at three."""
    claim = jp.claim("contextual.prompt_error")
    point = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
    point |= {"ratio": 2.0, "ridge": 0.1}
    limit = claim.predict(**point)["error"]

    def judged(sizes):
        cells = [
            Cell({**point, "dim": d}, {"error": Estimate(limit + 1 / d - 40 / d**2, 1e-5, 10_000)})
            for d in sizes
        ]
        (row,) = stats.decide(compare_limit(claim, cells, claim.predict), 1e-3)
        return row.verdict

    assert judged([64, 128, 256, 512]) == Status.CONFIRMED
    assert judged([64, 128, 256]) != Status.CONFIRMED


def test_a_falsifier_may_change_a_parameter_of_the_claim(toy_claim):
    """The point's own value gives way to the wrong one."""
    claim = toy_claim(
        falsifiers=(
            Falsifier("level", "the mean is 3 whatever the level", level=3.0),
            Falsifier("doubled", "twice", lambda level, **_: {"value": 2 * level}),
        )
    )
    verdict = claim.check()
    found = claim.falsify_cells(verdict)["level"]
    assert found.status == Status.REFUTED
    assert {row.predicted for row in found.rows} == {3.0}
