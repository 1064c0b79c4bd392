"""A stored sweep in the formats of other tools, and stores of version 0.1 in this one's."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.sweep.dataset import load_sweep
from jaxprompt.sweep.store import FILE, OLD_STORE, STATUS_CODES, SweepStore, lock, variables

if TYPE_CHECKING:
    import xarray

__all__ = ["EXPORTS", "export_sweep"]

_PACKAGES = {"zarr": ("zarr",), "parquet": ("pandas", "pyarrow"), "sqlite": ("zarr",)}
"""Packages that a format needs beside those that jaxprompt needs itself."""


def export_sweep(folder: str | Path, kind: str) -> Path:
    """Write the sweep in `folder` beside its store, in another format; the path that was written.

    `kind` is ``"zarr"`` or ``"netcdf"`` (the labelled dataset), ``"csv"`` or ``"parquet"`` (a row
    for each cell), or ``"sqlite"``, which makes this version's store of one of version 0.1.

    Raises:
        UsageError: there is no sweep, it is damaged, a package is missing, or the disk refuses.
    """
    folder = Path(folder)
    missing = [name for name in _PACKAGES.get(kind, ()) if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"--to {kind} needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}"
        )
    if kind == "sqlite":
        return _convert_old_store(folder)
    name, write = EXPORTS[kind]
    path, part = folder / name, folder / (name + ".part")
    data = load_sweep(folder)
    try:
        write(data, part)
        _remove(path)
        os.replace(part, path)
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be written ({error.strerror or error}): make room, or give a folder "
            "you may write to"
        ) from None
    finally:
        _remove(part)
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_zarr(data: xarray.Dataset, path: Path) -> None:
    with warnings.catch_warnings():
        # Zarr's specification has no texts yet, and zarr says so of every one that it writes.
        warnings.filterwarnings("ignore", "The data type", Warning)
        _with_plain_attributes(data).to_zarr(path, mode="w", consolidated=False)


def _write_netcdf(data: xarray.Dataset, path: Path) -> None:
    # SciPy, which is always there, writes the classic format; the others HDF5.
    engines = {"netCDF4": "netcdf4", "h5netcdf": "h5netcdf"}
    found = (engine for name, engine in engines.items() if importlib.util.find_spec(name))
    _with_plain_attributes(data).to_netcdf(path, engine=next(found, "scipy"))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _with_plain_attributes(data: xarray.Dataset) -> xarray.Dataset:
    plain = {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in data.attrs.items()
    }
    return data.assign_attrs(plain)


def _columns(data: xarray.Dataset) -> dict[str, np.ndarray]:
    """A column for each dimension and variable, one row a cell, the last dimension fastest."""
    shape = tuple(data.sizes.values())
    places = np.indices(shape).reshape(len(shape), -1)
    along = {
        str(name): data[name].values[place] for name, place in zip(data.dims, places, strict=True)
    }
    return {**along, **{str(name): data[name].values.ravel() for name in data.data_vars}}


def _write_csv(data: xarray.Dataset, path: Path) -> None:
    columns = {name: values.tolist() for name, values in _columns(data).items()}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))  # repr gives every float64 exactly


def _write_parquet(data: xarray.Dataset, path: Path) -> None:
    import pandas  # pyright: ignore[reportMissingImports]

    pandas.DataFrame(_columns(data)).to_parquet(path, index=False)


EXPORTS: Mapping[str, tuple[str, Callable[[xarray.Dataset, Path], None]]] = {
    "zarr": ("dataset.zarr", _write_zarr),
    "netcdf": ("dataset.nc", _write_netcdf),
    "csv": ("cells.csv", _write_csv),
    "parquet": ("cells.parquet", _write_parquet),
}
"""Name of the file or folder, and what writes it, by format."""


# --- stores of version 0.1 ---

_OLD_SCHEMAS = (2, 3)
_OLD_CODECS = {"bytes", "zstd", "blosc", "gzip", "crc32c"}


def _convert_old_store(folder: Path) -> Path:
    """Make a store of this version from the zarr folder of version 0.1, which stays as it is.

    Cells whose numbers do not give their checksum are left out, so that resuming computes them.
    """
    if SweepStore.exists(folder):
        raise UsageError(f"'{folder}' holds a store of this version already: nothing to convert")
    if not (folder / OLD_STORE).is_dir():
        raise UsageError(f"no sweep of version 0.1 in '{folder}': give the folder of one")
    try:
        attributes, arrays = _read_old_store(folder / OLD_STORE)
        grid, names = json.loads(attributes["grid"]), json.loads(attributes["quantities"])
        config, environment = attributes["config"], json.loads(attributes["environment"])
    except Exception as error:  # whatever a folder of unknown origin leads zarr to
        raise UsageError(
            f"'{folder / OLD_STORE}' cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): run the sweep again into another folder"
        ) from None
    with lock(folder) as note:
        store = SweepStore.create(folder, grid, names, config, environment, locks=not note)
        columns = variables(names)
        for index in _whole_cells(arrays, columns):
            store.add(
                index,
                {name: float(arrays[name][index]) for name in columns},
                int(arrays["trials"][index]),
            )
        for place, message in json.loads(attributes["errors"]).items():
            store.add_failure(tuple(map(int, place.split(","))), str(message))
        store.flush()
        codes = np.where(store.done, arrays["status"], 0)
        if ((codes >= 0) & (codes < len(STATUS_CODES))).all():
            store.judge(codes)
    return folder / FILE


def _read_old_store(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import zarr

    group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    attributes: dict[str, Any] = dict(group.attrs)
    if attributes.get("schema") not in _OLD_SCHEMAS:
        raise ValueError(f"schema {attributes.get('schema')}")
    names = variables(json.loads(attributes["quantities"]))
    shape = tuple(len(values) for values in json.loads(attributes["grid"]).values())
    arrays: dict[str, np.ndarray] = {}
    for name in (*names, "trials", "checksum", "done", "status"):
        array: Any = group[name]
        if array.shape != shape or array.dtype.kind not in "fiub":
            raise ValueError(f"`{name}` is laid out otherwise")
        codecs = {codec["name"] for codec in array.metadata.to_dict()["codecs"]}
        if not codecs <= _OLD_CODECS:
            raise ValueError(f"`{name}` is encoded with {sorted(codecs - _OLD_CODECS)}")
        arrays[name] = np.asarray(array[...])
    return attributes, arrays


def _whole_cells(arrays: Mapping[str, np.ndarray], columns: list[str]) -> Iterator[tuple[int, ...]]:
    """Indices of the done cells whose numbers give their checksum."""
    table = np.stack([arrays[n].astype(np.float64) for n in (*columns, "trials")], axis=-1)
    for place in np.argwhere(arrays["done"]).tolist():
        index = tuple(place)
        if zlib.crc32(table[index].tobytes()) == int(arrays["checksum"][index]):
            yield index
