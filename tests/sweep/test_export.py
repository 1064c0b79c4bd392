"""A sweep in the formats of other tools, and old stores in this version's."""

from __future__ import annotations

import csv
import importlib.util
import json
import zlib

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import main
from jaxprompt.errors import UsageError
from jaxprompt.sweep import Sweep, run
from jaxprompt.sweep.export import export_sweep
from jaxprompt.sweep.store import STATUS_CODES, SweepStore, variables


@pytest.fixture
def swept(toy, tmp_path):
    """A sweep of two dimensions, and the folder it is in."""
    job = Sweep("contextual.toy", {"level": (1.0, 1 / 3), "size": (4, 8, 6)}, {}, 20, 1)
    return run(job, tmp_path / "out").dataset, tmp_path / "out"


def test_csv_has_a_row_for_each_cell_and_every_digit(swept):
    data, out = swept
    path = export_sweep(out, "csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        cell = data.sel(level=float(row["level"]), size=int(row["size"]))
        assert row["status"] == str(cell["status"].item())
        for name in ("value", "value_stderr", "value_predicted"):
            assert float(row[name]) == cell[name].item()


@pytest.mark.filterwarnings("ignore:The data type")  # zarr's, of texts, when they are read
@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
def test_datasets_come_back(swept, kind):
    xarray = pytest.importorskip("xarray")
    if kind == "zarr":
        pytest.importorskip("zarr", reason="the package zarr is not installed")
    data, out = swept
    path = export_sweep(out, kind)
    export_sweep(out, kind)  # again, over the first
    opened = xarray.open_zarr(path, consolidated=False) if kind == "zarr" else None
    with opened if opened is not None else xarray.open_dataset(path) as found:
        assert dict(found.sizes) == {"level": 2, "size": 3}
        assert found.attrs["config_claim"] == "contextual.toy"
        for name in ("value", "value_stderr", "trials", "level"):
            np.testing.assert_array_equal(found[name].values, data[name].values)
        assert found["status"].values.astype(str).tolist() == data["status"].values.tolist()
    assert sorted(p.name for p in out.iterdir()) == sorted([path.name, "sweep.sqlite"])


def test_parquet_comes_back(swept):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
    data, out = swept
    table = pandas.read_parquet(export_sweep(out, "parquet"))
    np.testing.assert_array_equal(table["value"], data["value"].values.ravel())


def test_a_missing_package_is_one_line_that_says_what_to_install(swept, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main.main(["export", str(swept[1]), "--to", "parquet"]) == 2
    line = capsys.readouterr().err
    assert "needs the packages pandas and pyarrow: pip install pandas pyarrow" in line
    assert line.count("\n") == 1


def test_the_command_says_where_it_wrote(swept, capsys, tmp_path):
    assert main.main(["export", str(swept[1]), "--to", "csv"]) == 0
    assert str(swept[1] / "cells.csv") in capsys.readouterr().out
    assert main.main(["export", str(tmp_path), "--to", "csv"]) == 2
    assert "no sweep in" in capsys.readouterr().err


# --- version 0.1 ---


def old_store(folder, data, config, spoil=()):
    """A store as version 0.1 wrote it: a zarr array for each variable, a chunk for each cell."""
    zarr = pytest.importorskip("zarr", reason="the package zarr is not installed")
    group = zarr.open_group(folder / "sweep.zarr", mode="w-")
    grid = {name: data[name].values.tolist() for name in data.dims}
    texts = {"grid": grid, "quantities": ["value"], "environment": {"jax": "1"}, "errors": {}}
    group.attrs.update(
        {"schema": 3, "config": config, **{n: json.dumps(v) for n, v in texts.items()}}
    )
    names = [*variables(["value"]), "trials"]
    table = np.stack([data[n].values.astype(np.float64) for n in names], axis=-1)
    sums = np.array([zlib.crc32(row.tobytes()) for row in table.reshape(-1, len(names))], np.uint32)
    arrays = {n: data[n].values for n in names}
    arrays["checksum"] = sums.reshape(data["value"].shape)
    arrays["done"] = np.ones(data["value"].shape, bool)
    codes = [STATUS_CODES.index(str(s)) for s in data["status"].values.ravel()]
    arrays["status"] = np.array(codes, np.int8).reshape(data["value"].shape)
    for place in spoil:
        arrays["checksum"][place] += 1
    for name, values in arrays.items():
        chunks = (1,) * values.ndim
        array = group.create_array(name, shape=values.shape, chunks=chunks, dtype=values.dtype)
        array[...] = values


def test_a_store_of_version_0_1_is_converted_and_goes_on(swept, tmp_path, capsys):
    data, _ = swept
    job = Sweep("contextual.toy", {"level": (1.0, 1 / 3), "size": (4, 8, 6)}, {}, 20, 1)
    old_store(tmp_path / "old", data, job.config, spoil=[(1, 2)])
    with pytest.raises(UsageError, match=r"convert it with `jaxprompt export .* --to sqlite`"):
        jp.load(tmp_path / "old")
    assert main.main(["export", str(tmp_path / "old"), "--to", "sqlite"]) == 0
    capsys.readouterr()
    assert SweepStore.open(tmp_path / "old").done.sum() == 5, "the damaged cell is left out"
    found = run(job, tmp_path / "old", resume=True).dataset
    for name in data.data_vars:
        np.testing.assert_array_equal(found[name].values, data[name].values, err_msg=str(name))
    assert main.main(["export", str(tmp_path / "old"), "--to", "sqlite"]) == 2


def test_a_converted_store_takes_the_theory_of_this_version(swept, tmp_path):
    """Version 0.1 kept no fingerprint: another prediction is replaced, other numbers refused."""
    data, _ = swept
    job = Sweep("contextual.toy", {"level": (1.0, 1 / 3), "size": (4, 8, 6)}, {}, 20, 1)
    wrong = data.assign(value_predicted=data["value_predicted"] + 1.0)
    old_store(tmp_path / "old", wrong, job.config)
    assert main.main(["export", str(tmp_path / "old"), "--to", "sqlite"]) == 0
    grown = {"level": (1.0, 1 / 3, 2.0), "size": (4, 8, 6)}
    larger = Sweep("contextual.toy", grown, {}, 20, 1)
    result = run(larger, tmp_path / "old", resume=True)
    assert any("6 predictions of version 0.1 are computed anew" in note for note in result.notes)
    whole = run(larger, tmp_path / "whole").dataset
    for name in whole.data_vars:
        np.testing.assert_array_equal(result.dataset[name].values, whole[name].values)
    again = run(larger, tmp_path / "old", resume=True)
    assert not any("version 0.1" in note for note in again.notes), "said once"
    other = data.assign(value=data["value"] + 1.0)
    old_store(tmp_path / "other", other, job.config)
    assert main.main(["export", str(tmp_path / "other"), "--to", "sqlite"]) == 0
    with pytest.raises(UsageError, match="another simulation"):
        run(larger, tmp_path / "other", resume=True)
