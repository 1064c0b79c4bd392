"""Labelled results on disk: sweeps cell by cell, and flat tables of figures.

A sweep's store is a zarr group with one chunk for each cell. A cell's numbers are written first
and its `done` flag last, so whatever happens in between, a cell that counts as done is complete.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.stats import Status

if TYPE_CHECKING:
    import xarray
    import zarr

__all__ = ["SCHEMA", "STATUS_CODES", "SweepStore", "load", "load_table", "save_table", "writable"]

SCHEMA = 1
STATUS_CODES = ("", *(status.value for status in Status))
"""Names of the integer codes in the variable `status`; 0 stands for "not judged yet"."""

_SWEEP, _SUFFIX = "sweep.zarr", ".zarr"


class SweepStore:
    """The store of one sweep, open for reading and writing.

    Cells are addressed by their index along each dimension of the grid, in file order.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        self.grid: dict[str, list[Any]] = json.loads(str(group.attrs["grid"]))
        self.quantities: list[str] = json.loads(str(group.attrs["quantities"]))

    @classmethod
    def create(
        cls,
        folder: Path,
        grid: Mapping[str, Sequence[Any]],
        quantities: Sequence[str],
        config: str,
        environment: Mapping[str, Any],
    ) -> SweepStore:
        """Make an empty store in `folder`; it appears under its name only when complete."""
        import zarr

        writable(folder)
        part = folder / (_SWEEP + ".part")
        shutil.rmtree(part, ignore_errors=True)
        group = zarr.open_group(part, mode="w-")
        group.attrs.update(
            {
                "schema": SCHEMA,
                "grid": json.dumps({n: list(v) for n, v in grid.items()}),
                "quantities": json.dumps(list(quantities)),
                "config": config,
                "environment": json.dumps(dict(environment)),
                "errors": "{}",
            }
        )
        shape = tuple(len(values) for values in grid.values())
        for name in _variables(quantities):
            _array(group, name, shape, "float64", np.nan)
        _array(group, "trials", shape, "int64", 0)
        _array(group, "done", shape, "bool", False)
        _array(group, "status", shape, "int8", 0)
        part.rename(folder / _SWEEP)
        return cls(zarr.open_group(folder / _SWEEP, mode="r+"))

    @classmethod
    def open(cls, folder: Path, mode: str = "r") -> SweepStore:
        """Open the store in `folder`.

        Raises:
            UsageError: there is none, or it has another schema.
        """
        import zarr

        path = Path(folder) / _SWEEP
        if not path.is_dir():
            raise UsageError(f"no sweep in '{folder}': give the folder a sweep wrote with --out")
        group = zarr.open_group(path, mode=mode)  # pyright: ignore[reportArgumentType]
        if group.attrs.get("schema") != SCHEMA:
            raise UsageError(
                f"the sweep in '{folder}' has schema {group.attrs.get('schema')}, this version "
                f"reads {SCHEMA}: run the sweep again into another folder"
            )
        return cls(group)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `folder` holds a sweep."""
        return (Path(folder) / _SWEEP).is_dir()

    @property
    def config(self) -> str:
        """Canonical text of the configuration the store was made for."""
        return str(self.group.attrs["config"])

    @property
    def done(self) -> np.ndarray:
        """Which cells are complete (boolean, in the grid's shape)."""
        return np.asarray(self._read("done"))

    @property
    def errors(self) -> dict[str, str]:
        """Messages of cells whose computation failed, by index written as "i,j,…"."""
        return json.loads(str(self.group.attrs["errors"]))

    def write(self, index: tuple[int, ...], values: Mapping[str, float], trials: int) -> None:
        """Store one cell's numbers, then mark it done."""
        for name, value in values.items():
            self._write(name, index, value)
        self._write("trials", index, trials)
        self._write("done", index, True)

    def fail(self, index: tuple[int, ...], message: str) -> None:
        """Record that a cell's computation failed; it stays open and is tried again on resume."""
        self.group.attrs["errors"] = json.dumps({**self.errors, _place(index): message})

    def clear_errors(self) -> None:
        """Forget recorded failures, before the cells are tried again."""
        self.group.attrs["errors"] = "{}"

    def judge(self, statuses: np.ndarray) -> None:
        """Store every cell's status code."""
        array: Any = self.group["status"]
        array[...] = statuses.astype(np.int8)

    def values(self, name: str) -> np.ndarray:
        """A variable as an array in the grid's shape."""
        return np.asarray(self._read(name))

    def dataset(self) -> xarray.Dataset:
        """The sweep as a labelled dataset; dimensions are the grid's parameters in file order."""
        import xarray

        dims = tuple(self.grid)
        data = {name: (dims, self.values(name)) for name in _variables(self.quantities)}
        labels = np.asarray(STATUS_CODES)[self.values("status")]
        return xarray.Dataset(
            {**data, "trials": (dims, self.values("trials")), "status": (dims, labels)},
            coords={name: _coordinate(values) for name, values in self.grid.items()},
            attrs={
                **{f"config_{k}": _plain(v) for k, v in json.loads(self.config).items()},
                **json.loads(str(self.group.attrs["environment"])),
                "errors": json.dumps(self.errors),
            },
        )

    def _read(self, name: str) -> Any:
        array: Any = self.group[name]
        return array[...]

    def _write(self, name: str, index: tuple[int, ...], value: Any) -> None:
        array: Any = self.group[name]
        array[index] = value


def load(folder: str | Path) -> xarray.Dataset:
    """Open what a run left in `folder` as a labelled ``xarray.Dataset``.

    For a sweep: dimensions are the grid's parameters in file order; variables
    ``<quantity>_predicted``, ``<quantity>``, ``<quantity>_stderr`` and `status`; attributes hold
    the configuration, seed, versions, device and dtype. For a stored table (such as
    ``DIR/data/ID/points.zarr``): one dimension `row`.

    Raises:
        UsageError: there is no result in `folder`.
    """
    folder = Path(folder)
    if folder.suffix == _SUFFIX and (folder / "zarr.json").is_file() and folder.name != _SWEEP:
        return load_table(folder)
    return SweepStore.open(folder.parent if folder.name == _SWEEP else folder).dataset()


def save_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store rows of numbers and texts; a complete table replaces an older one under `path`."""
    import zarr

    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(part, mode="w-")
    group.attrs["schema"] = SCHEMA
    for name in dict.fromkeys(name for row in rows for name in row):
        column = [row.get(name) for row in rows]
        if all(isinstance(v, int | float | None) for v in column):
            values = np.array([np.nan if v is None else v for v in column], dtype=np.float64)
            _array(group, name, values.shape, "float64", np.nan, whole=True)[...] = values
        else:  # texts become integer codes and a list of labels
            texts = [
                "" if v is None else v if isinstance(v, str) else json.dumps(v) for v in column
            ]
            labels = list(dict.fromkeys(texts))
            array = _array(group, name, (len(texts),), "int32", 0, whole=True)
            array[...] = np.array([labels.index(t) for t in texts], dtype=np.int32)
            array.attrs["labels"] = json.dumps(labels)
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)


def load_table(path: Path) -> xarray.Dataset:
    """A stored table as a dataset with the one dimension `row`."""
    import xarray
    import zarr

    if not Path(path).is_dir():
        raise UsageError(f"no table at '{path}': give a folder that a run wrote with --out")
    group = zarr.open_group(Path(path), mode="r")
    columns = {}
    for name, array in sorted(group.arrays()):
        values = np.asarray(array[...])
        if "labels" in array.attrs:
            values = np.asarray(json.loads(str(array.attrs["labels"])))[values]
        columns[name] = ("row", values)
    return xarray.Dataset(columns)


def table_rows(path: Path) -> list[dict[str, Any]]:
    """A stored table as a list of rows."""
    data = load_table(path)
    names = list(data)
    return [
        {str(name): data[name].values[i].item() for name in names} for i in range(data.sizes["row"])
    ]


def writable(folder: Path) -> None:
    """Make `folder` if needed, and refuse it in one line if it cannot be written."""
    probe = folder / ".jaxprompt-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"--out '{folder}' cannot be written ({error.strerror}): give a folder you may write to"
        ) from None


def _variables(quantities: Sequence[str]) -> list[str]:
    suffixes = ("_predicted", "_predicted_stderr", "", "_stderr")
    return [quantity + suffix for quantity in quantities for suffix in suffixes]


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, fill: Any, whole: bool = False
) -> Any:
    chunks = tuple(max(n, 1) for n in shape) if whole else (1,) * len(shape)
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill)


def _coordinate(values: Sequence[Any]) -> np.ndarray:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.asarray([v if isinstance(v, str) else json.dumps(v) for v in values])


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _place(index: Sequence[int]) -> str:
    return ",".join(map(str, index))
