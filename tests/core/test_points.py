"""A point: parameters validated once, frozen, and taken by both sides as they are."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.parameters import Parameter
from jaxprompt.core.points import Point
from jaxprompt.errors import ParameterError

BASE: dict[str, Any] = {
    "tokens": 8, "relevant": 4, "signal": 2, "context": 1.0, "noise": 0.5, "gain": 1.0,
    "ratio": 0.5, "dim": 12, "ridge": 0.2,
}  # fmt: skip
"""With a ridge, since systems without one are solved in float64, which takes longer to compile."""


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parameters that are converted while the test runs, in order."""
    names: list[str] = []
    convert = Parameter.convert

    def counted(self: Parameter, value: Any, where: str = "") -> Any:
        names.append(self.name)
        return convert(self, value, where)

    monkeypatch.setattr(Parameter, "convert", counted)
    return names


def test_a_point_is_frozen_hashable_and_reads_as_what_was_written():
    point = jp.claim("contextual.prompt_error").point(**BASE)
    assert dict(point) == BASE
    assert {**point, "dim": 3}["dim"] == 3
    assert point.canonical_values["signal"] == 2.0
    assert isinstance(point.canonical_values["signal"], float)
    assert {point: 1}[jp.claim("contextual.prompt_error").point(**BASE)] == 1
    assert "ratio = 0.5" in repr(point)
    with pytest.raises(AttributeError, match="frozen"):
        point.claim_id = "contextual.best_ridge"
    with pytest.raises(AttributeError, match="frozen"):
        del point.claim_id


def test_arrays_of_a_point_cannot_be_written_to():
    ratios = np.array([0.5, 2.0])
    point = jp.claim("contextual.prompt_error").point({**BASE, "ratio": ratios})
    with pytest.raises(ValueError, match="read-only"):
        point.canonical_values["ratio"][0] = 1.0
    ratios[0] = 3.0  # what was given stays the caller's
    assert point.canonical_values["ratio"][0] == 0.5


def test_points_of_two_claims_differ():
    first, second = (jp.claim(f"contextual.{stem}") for stem in ("prompt_error", "best_ridge"))
    assert first.point(ratio=0.5) != second.point(ratio=0.5)
    assert first.point(ratio=0.5) == first.point(ratio=0.5)
    assert second.point(first.point(ratio=0.5)).claim_id == second.id


def test_both_sides_take_a_point_and_give_the_same_bits_as_by_names(conversions: list[str]):
    claim = jp.claim("contextual.prompt_error")
    point = claim.point(**BASE)
    assert conversions == list(BASE)
    predicted, measured = claim.predict(point), claim.simulate(point, key=1, trials=4)
    assert claim.predict(point) == predicted
    given = [name for name in conversions if name in BASE]
    assert given == list(BASE), "a parameter was validated again"
    assert claim.predict(**BASE) == predicted
    by_name = claim.simulate(key=1, trials=4, **BASE)
    assert {n: e.mean for n, e in by_name.items()} == {n: e.mean for n, e in measured.items()}


def test_a_name_beside_a_point_replaces_its_own():
    claim = jp.claim("contextual.prompt_error")
    point = claim.point(**BASE)
    assert claim.predict(point, ratio=2.0) == claim.predict(**{**BASE, "ratio": 2.0})


def test_what_a_side_lacks_is_refused_when_it_is_asked():
    claim = jp.claim("contextual.prompt_error")
    with pytest.raises(ParameterError, match="a known parameter"):
        claim.point(rato=0.5)
    point = claim.point({n: v for n, v in BASE.items() if n != "dim"})
    claim.predict(point)
    with pytest.raises(ParameterError, match="dim"):
        claim.simulate(point, key=0, trials=4)


def test_a_point_travels_with_what_was_completed(conversions: list[str]):
    claim = jp.claim("contextual.prompt_error")
    point = claim.point(**BASE)
    predicted = claim.predict(point)
    conversions.clear()
    sent = pickle.loads(pickle.dumps(point))
    assert isinstance(sent, Point)
    assert sent == point
    assert claim.predict(sent) == predicted
    assert conversions == []


def test_a_check_converts_each_parameter_of_a_run_once(conversions: list[str]):
    claim = jp.claim("universal.sphere_limit")
    design = claim.designs["quick"]
    verdict = claim.check(trials=8)
    claim.falsify_cells(verdict)
    written = sum(len(run) for run in design.runs)
    assert len([n for n in conversions if any(n in run for run in design.runs)]) <= 2 * written


def test_a_sweep_converts_each_value_of_the_grid_once(conversions: list[str], tmp_path: Any):
    from jaxprompt import sweep as sweeps

    grid = {"ratio": [0.5, 2.0], "signal": [1.0, 2.0]}
    fixed = {n: v for n, v in BASE.items() if n not in grid}
    sweep = sweeps.Sweep("contextual.prompt_error", grid, fixed, trials=4)
    sweeps.run(sweep, tmp_path / "out")
    # One more point may be looked at before the sweep starts, for the memory that it needs.
    for name, values in grid.items():
        assert conversions.count(name) <= len(values) + 1
    for name in fixed:
        assert conversions.count(name) <= 2
