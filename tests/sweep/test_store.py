"""The store of a sweep: what comes back is what was put in."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import UsageError
from jaxprompt.sweep import store
from jaxprompt.sweep.store import SweepStore, dof_column, kind_column, variables


@pytest.fixture
def sweep_store(tmp_path):
    grid = {"dim": (8, 16), "loss": ("b", "a"), "shifts": ([[0.0, 0.0]], [[1.0, 1.0]])}
    config = json.dumps({"claim": "family.claim", "seed": 3, "trials": 7})
    return SweepStore.create(tmp_path / "out", grid, ["error"], config, {"jax": "1", "seed": 3})


def test_a_new_store_is_empty(sweep_store, tmp_path):
    assert SweepStore.exists(tmp_path / "out")
    assert not sweep_store.done.any()
    assert sweep_store.errors == {}
    data = jp.load(tmp_path / "out")
    assert data.sizes == {"dim": 2, "loss": 2, "shifts": 2}
    assert np.isnan(data["error"]).all()
    assert (data["status"] == "").all()
    assert data["loss"].values.tolist() == ["b", "a"]
    assert data["shifts"].values.tolist() == ["[[0.0, 0.0]]", "[[1.0, 1.0]]"]


def test_cells_round_trip(sweep_store, tmp_path):
    values = {"error": 0.25, "error_stderr": 0.1, "error_predicted": np.pi}
    sweep_store.write((1, 0, 1), values, 7)
    again = SweepStore.open(tmp_path / "out")
    assert again.done.sum() == 1
    assert again.done[1, 0, 1]
    for name, value in values.items():
        assert again.values(name)[1, 0, 1] == value
    assert again.values("trials")[1, 0, 1] == 7
    assert again.config == sweep_store.config


def test_cells_are_written_together(sweep_store, tmp_path):
    """What was added is in the file after the next `flush`, and not before."""
    for place in np.ndindex(2, 2, 2):
        sweep_store.add(place, {"error": float(sum(place))}, 7)
    assert not SweepStore.open(tmp_path / "out").done.any()
    sweep_store.flush()
    again = SweepStore.open(tmp_path / "out")
    assert again.done.all()
    expected = [[[0.0, 1.0], [1.0, 2.0]], [[1.0, 2.0], [2.0, 3.0]]]
    assert again.values("error").tolist() == expected


@pytest.mark.parametrize("value", [-0.0, 5e-324, np.inf, -np.inf, np.nan, np.nextafter(1.0, 2.0)])
def test_every_number_comes_back_to_the_last_bit(sweep_store, tmp_path, value):
    sweep_store.write((0, 0, 0), {"error": value}, 7)
    found = SweepStore.open(tmp_path / "out").values("error")[0, 0, 0]
    assert np.float64(found).tobytes() == np.float64(value).tobytes()


def test_fewer_trials_than_asked_for_are_a_start(sweep_store, tmp_path):
    kinds = {kind_column("error"): 2.0, dof_column("error"): 3.0}
    sweep_store.write((1, 0, 0), {"error": 0.5, "error_stderr": 0.1, **kinds}, 4)
    again = SweepStore.open(tmp_path / "out")
    assert not again.done.any()
    assert np.isnan(again.values("error")).all()
    begun = again.start((1, 0, 0))["error"]
    assert begun == (0.5, 0.1, 4)
    assert (begun.kind, begun.dof) == ("proportion", 3.0)
    assert again.start((0, 0, 0)) == {}


def test_a_cell_costs_few_bytes(tmp_path):
    """At most 200 bytes a stored number, and one file."""
    levels, config = tuple(float(i) for i in range(5000)), json.dumps({"trials": 2})
    made = SweepStore.create(tmp_path / "out", {"level": levels}, ["a", "b"], config, {})
    names = variables(["a", "b"])
    for place in range(5000):
        made.add((place,), dict.fromkeys(names, 0.1 * place), 2)
    made.flush()
    (file,) = (tmp_path / "out").iterdir()
    assert file.stat().st_size / (5000 * len(names)) < 50


def test_growing_keeps_cells_under_their_values(tmp_path):
    config = json.dumps({"trials": 2})
    made = SweepStore.create(tmp_path / "out", {"a": [1, 2], "b": ["x", "y"]}, ["q"], config, {})
    for place in np.ndindex(2, 2):
        made.add(place, {"q": 10.0 * place[0] + place[1]}, 2)
    made.judge(np.array([[1, 2], [3, 4]]))
    made.extend({"a": [0, 2, 1], "b": ["y", "z", "x"]}, config)
    for held in (made, SweepStore.open(tmp_path / "out")):
        assert held.done.tolist() == [[False] * 3, [True, False, True], [True, False, True]]
        assert held.values("q")[1:, [2, 0]].tolist() == [[10.0, 11.0], [0.0, 1.0]]
        assert held.codes[1:, [2, 0]].tolist() == [[3, 4], [1, 2]]
    made.write((0, 0), {"q": 5.0}, 2)
    assert SweepStore.open(tmp_path / "out").done.sum() == 5


def test_failures_are_recorded_and_cleared(sweep_store, tmp_path):
    sweep_store.add_failure((0, 1, 0), "ValueError: no")
    sweep_store.flush()
    assert SweepStore.open(tmp_path / "out").errors == {"0,1,0": "ValueError: no"}
    assert json.loads(jp.load(tmp_path / "out").attrs["errors"]) == {"0,1,0": "ValueError: no"}
    sweep_store.forget_failures()
    sweep_store.flush()
    assert SweepStore.open(tmp_path / "out").errors == {}


def test_a_half_made_store_does_not_count(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.sqlite.part").write_bytes(b"half")
    assert not SweepStore.exists(tmp_path / "out")
    SweepStore.create(tmp_path / "out", {"a": (1,)}, ["error"], "{}", {})
    assert SweepStore.exists(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["sweep.sqlite"]


def test_nothing_to_load(tmp_path):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "nothing.zarr"):
        with pytest.raises(UsageError, match="no sweep in"):
            jp.load(place)


def test_writable(tmp_path):
    store.writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written"):
            store.writable(place)
