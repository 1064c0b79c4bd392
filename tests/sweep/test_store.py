"""Stores: tables and sweeps come back as they were put in."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import UsageError
from jaxprompt.sweep import store
from jaxprompt.sweep.store import SweepStore


@pytest.fixture
def sweep_store(tmp_path):
    grid = {"dim": (8, 16), "loss": ("b", "a"), "shifts": ([[0.0, 0.0]], [[1.0, 1.0]])}
    config = json.dumps({"claim": "family.claim", "seed": 3})
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


def test_a_cell_is_marked_done_last(sweep_store, monkeypatch):
    order = []
    write = SweepStore._write
    monkeypatch.setattr(
        SweepStore, "_write", lambda self, name, *a: (order.append(name), write(self, name, *a))[1]
    )
    sweep_store.write((0, 0, 0), {"error": 1.0}, 2)
    assert order[-1] == "done"


def test_failures_are_recorded_and_cleared(sweep_store, tmp_path):
    sweep_store.fail((0, 1, 0), "ValueError: no")
    assert SweepStore.open(tmp_path / "out").errors == {"0,1,0": "ValueError: no"}
    assert json.loads(jp.load(tmp_path / "out").attrs["errors"]) == {"0,1,0": "ValueError: no"}
    sweep_store.clear_errors()
    assert SweepStore.open(tmp_path / "out").errors == {}


def test_a_half_made_store_does_not_count(tmp_path):
    (tmp_path / "out" / "sweep.zarr.part").mkdir(parents=True)
    assert not SweepStore.exists(tmp_path / "out")
    SweepStore.create(tmp_path / "out", {"a": (1,)}, ["error"], "{}", {})
    assert SweepStore.exists(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["sweep.zarr"]


def test_nothing_to_load(tmp_path):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "nothing.zarr"):
        with pytest.raises(UsageError, match="no sweep in"):
            jp.load(place)


def test_another_schema_is_refused(sweep_store, tmp_path):
    sweep_store.group.attrs["schema"] = 99
    with pytest.raises(UsageError, match="has schema 99"):
        jp.load(tmp_path / "out")


def test_writable(tmp_path):
    store.writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written"):
            store.writable(place)
