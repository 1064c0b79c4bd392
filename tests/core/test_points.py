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

CLAIM = jp.claim("contextual.context_gain")
"""Its sides take little time: NumPy draws its trials."""

BASE: dict[str, Any] = {
    "sparsity": 0.5, "signal": 2, "context": 1.0, "noise": 0.5, "gain": 1.0, "tokens": 8,
}  # fmt: skip


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
    point = CLAIM.point(**BASE)
    assert dict(point) == BASE
    assert {**point, "tokens": 3}["tokens"] == 3
    assert point.canonical_values["signal"] == 2.0
    assert isinstance(point.canonical_values["signal"], float)
    assert {point: 1}[CLAIM.point(**BASE)] == 1
    assert "gain = 1.0" in repr(point)
    with pytest.raises(AttributeError, match="frozen"):
        point.claim_id = "contextual.best_ridge"
    with pytest.raises(AttributeError, match="frozen"):
        del point.claim_id


def test_arrays_of_a_point_cannot_be_written_to():
    gains = np.array([0.5, 2.0])
    point = CLAIM.point({**BASE, "gain": gains})
    with pytest.raises(ValueError, match="read-only"):
        point.canonical_values["gain"][0] = 1.0
    gains[0] = 3.0  # what was given stays the caller's
    assert point.canonical_values["gain"][0] == 0.5


def test_points_of_two_claims_differ():
    first, second = (jp.claim(f"contextual.{stem}") for stem in ("prompt_error", "best_ridge"))
    assert first.point(ratio=0.5) != second.point(ratio=0.5)
    assert first.point(ratio=0.5) == first.point(ratio=0.5)
    assert second.point(first.point(ratio=0.5)).claim_id == second.id


def test_both_sides_take_a_point_and_give_the_same_bits_as_by_names(conversions: list[str]):
    point = CLAIM.point(**BASE)
    assert conversions == list(BASE)
    predicted, measured = CLAIM.predict(point), CLAIM.simulate(point, key=1, trials=4)
    assert CLAIM.predict(point) == predicted
    given = [name for name in conversions if name in BASE]
    assert given == list(BASE), "a parameter was validated again"
    assert CLAIM.predict(**BASE) == predicted
    by_name = CLAIM.simulate(key=1, trials=4, **BASE)
    assert {n: e.mean for n, e in by_name.items()} == {n: e.mean for n, e in measured.items()}


def test_a_name_beside_a_point_replaces_its_own():
    point = CLAIM.point(**BASE)
    assert CLAIM.predict(point, gain=2.0) == CLAIM.predict(**{**BASE, "gain": 2.0})


def test_what_a_side_lacks_is_refused_when_it_is_asked():
    with pytest.raises(ParameterError, match="a known parameter"):
        CLAIM.point(gian=0.5)
    point = CLAIM.point({n: v for n, v in BASE.items() if n != "tokens"})
    CLAIM.predict(point)
    with pytest.raises(ParameterError, match="tokens"):
        CLAIM.simulate(point, key=0, trials=4)


def test_a_point_travels_with_what_was_completed(conversions: list[str]):
    point = CLAIM.point(**BASE)
    predicted = CLAIM.predict(point)
    conversions.clear()
    sent = pickle.loads(pickle.dumps(point))
    assert isinstance(sent, Point)
    assert sent == point
    assert CLAIM.predict(sent) == predicted
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

    grid = {"gain": [0.5, 2.0], "signal": [1.0, 2.0]}
    fixed = {n: v for n, v in BASE.items() if n not in grid}
    sweep = sweeps.Sweep(CLAIM.id, grid, fixed, trials=4)
    sweeps.run(sweep, tmp_path / "out")
    # One more point may be looked at before the sweep starts, for the memory that it needs.
    for name, values in grid.items():
        assert conversions.count(name) <= len(values) + 1
    for name in fixed:
        assert conversions.count(name) <= 2
