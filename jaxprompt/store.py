"""Labelled results on disk: sweeps cell by cell, and flat tables of figures.

A sweep's store is a zarr group with one chunk for each cell. A cell's numbers are written first,
then their checksum, and its `done` flag last, so whatever happens in between, a cell that counts
as done is complete; and one whose numbers changed since is found. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.stats import Estimate, Status

if TYPE_CHECKING:
    import xarray
    import zarr

__all__ = [
    "SCHEMA",
    "STATUS_CODES",
    "SweepStore",
    "load",
    "load_table",
    "lock",
    "save_table",
    "writable",
]

SCHEMA = 2
STATUS_CODES = ("", *(status.value for status in Status))
"""Names of the integer codes in the variable `status`; 0 stands for "not judged yet"."""

_SWEEP, _SUFFIX, _START = "sweep.zarr", ".zarr", "start_"
_STARTS = _START + "trials"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What zarr raises on a file that is cut short or holds something else."""


class SweepStore:
    """The store of one sweep, open for reading and writing.

    Cells are addressed by their index along each dimension of the grid, in file order. A cell
    counts as done when its flag is set and its numbers have the checksum stored with them.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        self.grid: dict[str, list[Any]] = json.loads(str(group.attrs["grid"]))
        self.quantities: list[str] = json.loads(str(group.attrs["quantities"]))
        names = list(_fills(self.quantities))
        if group.attrs["starts"]:
            names += [_START + name for name in names if name not in ("done", "status")]
        self._arrays: dict[str, Any] = {name: group[name] for name in names}

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
        writable(folder)
        with _replacing(folder / _SWEEP) as part:
            _new_group(part, grid, quantities, config, environment)
        return cls.open(folder, "r+")

    def extend(
        self, folder: Path, grid: Mapping[str, Sequence[Any]], config: str, trials: int
    ) -> SweepStore:
        """Replace this store, that of `folder`, by one for a larger `grid` or more `trials`.

        Cells are copied by their labels. Those that have fewer trials become open again, and
        keep their numbers as the :meth:`start` from which more trials go on. A kill leaves the
        old store or the new one.
        """
        place = np.ix_(
            *(
                [[_label(v) for v in grid[name]].index(_label(v)) for v in values]
                for name, values in self.grid.items()
            )
        )
        counts, done, starts = self.values("trials"), self.done, _STARTS in self._arrays
        again = done & (counts < trials)
        shape = tuple(len(values) for values in grid.values())

        def spread(values: np.ndarray, fill: Any) -> np.ndarray:
            whole = np.full(shape, fill, values.dtype)
            whole[place] = values
            return whole

        with _replacing(folder / _SWEEP) as part:
            group = _new_group(
                part,
                grid,
                self.quantities,
                config,
                json.loads(str(self.group.attrs["environment"])),
            )
            group.attrs["sessions"] = self.group.attrs["sessions"]
            group.attrs["starts"] = starts or bool(again.any())
            for name, (dtype, fill) in _fills(self.quantities).items():
                if name == "status":  # judged anew, with the new cells beside the old
                    continue
                now, empty = self._read(name), np.array(fill, dtype)
                array: Any = group[name]
                array[...] = spread(np.where(done & (counts >= trials), now, empty), fill)
                if name != "done" and (starts or again.any()):
                    before = self._read(_START + name) if starts else empty
                    array = _array(group, _START + name, shape, dtype, fill)
                    array[...] = spread(np.where(again, now, before), fill)
        return SweepStore.open(folder, "r+")

    @classmethod
    def open(cls, folder: Path, mode: str = "r") -> SweepStore:
        """Open the store in `folder`.

        Raises:
            UsageError: there is none, it has another schema, or its description is damaged.
        """
        import zarr

        path = Path(folder) / _SWEEP
        if not SweepStore.exists(folder):
            raise UsageError(f"no sweep in '{folder}': give the folder a sweep wrote with --out")
        try:
            group = zarr.open_group(path, mode=mode)  # pyright: ignore[reportArgumentType]
            if group.attrs.get("schema") != SCHEMA:
                raise UsageError(
                    f"the sweep in '{folder}' has schema {group.attrs.get('schema')}, this version "
                    f"reads {SCHEMA}: run the sweep again into another folder"
                )
            return cls(group)
        except _DAMAGE as error:
            raise UsageError(
                f"the sweep in '{folder}' is damaged ({type(error).__name__}: {error}): its "
                "description cannot be read; run the sweep again into another folder"
            ) from None

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `folder` holds a sweep."""
        return (Path(folder) / _SWEEP).is_dir()

    @staticmethod
    def tidy(folder: Path) -> None:
        """Clear up what a killed sweep left in `folder`; only for the holder of its lock."""
        path = folder / _SWEEP
        old = _old(path)
        if not path.exists() and old.is_dir():  # killed between the two renames of a replacement
            old.rename(path)
        for rest in (old, _part(path)):
            shutil.rmtree(rest, ignore_errors=True)
        for file in path.rglob("*.partial"):  # a chunk that was being written
            file.unlink(missing_ok=True)

    @property
    def config(self) -> str:
        """Canonical text of the configuration the store was made for."""
        return str(self.group.attrs["config"])

    @property
    def done(self) -> np.ndarray:
        """Which cells are complete and undamaged (boolean, in the grid's shape)."""
        return self._read("done") & ~self.damaged

    @property
    def damaged(self) -> np.ndarray:
        """Which cells count as done, but hold other numbers than were written (boolean)."""
        return self._altered("", self._read("done"))

    def _altered(self, prefix: str, held: np.ndarray) -> np.ndarray:
        """Which of the cells `held` have numbers that do not give their checksum."""
        names = [*_variables(self.quantities), "trials"]
        table = np.stack([self._read(prefix + n).astype(np.float64) for n in names], axis=-1)
        sums, wrong = self._read(prefix + "checksum"), np.zeros(held.shape, bool)
        for index in zip(*np.nonzero(held), strict=True):
            wrong[index] = sums[index] != zlib.crc32(table[index].tobytes())
        return wrong

    @property
    def errors(self) -> dict[str, str]:
        """Messages of cells whose computation failed, by index written as "i,j,…"."""
        return json.loads(str(self.group.attrs["errors"]))

    def session(self, environment: Mapping[str, Any]) -> list[str]:
        """Record what computes from now on; the names of what differs from the first session."""
        sessions = json.loads(str(self.group.attrs["sessions"]))
        first = json.loads(str(self.group.attrs["environment"]))
        self.group.attrs["sessions"] = json.dumps([*sessions, dict(environment)])
        names = [name for name in environment if environment[name] != first.get(name)]
        return [name for name in names if name not in ("command", "seed", "revision")]

    def write(self, index: tuple[int, ...], values: Mapping[str, float], trials: int) -> None:
        """Store one cell's numbers, then mark it done."""
        numbers = []
        for name in _variables(self.quantities):
            numbers.append(values.get(name, np.nan))
            self._write(name, index, numbers[-1])
        self._write("trials", index, trials)
        numbers.append(trials)
        self._write("checksum", index, zlib.crc32(np.array(numbers, np.float64).tobytes()))
        self._write("done", index, True)

    def reopen(self, cells: np.ndarray) -> None:
        """Mark cells (a boolean array) as not done."""
        for index in np.argwhere(cells):
            self._write("done", tuple(index.tolist()), False)

    def starts(self) -> dict[tuple[int, ...], dict[str, Estimate]]:
        """Estimates from which cells with too few trials go on, by index."""
        if _STARTS not in self._arrays:
            return {}
        trials = self._read(_STARTS)
        trials[self._altered(_START, trials > 0)] = 0  # a damaged start is none
        means = {name: self._read(_START + name) for name in self.quantities}
        errors = {name: self._read(f"{_START}{name}_stderr") for name in self.quantities}
        return {
            index: {
                name: Estimate(float(mean[index]), float(errors[name][index]), int(trials[index]))
                for name, mean in means.items()
            }
            for index in map(tuple, np.argwhere(trials > 0).tolist())
        }

    def fail(self, index: tuple[int, ...], message: str) -> None:
        """Record that a cell's computation failed; it stays open and is tried again on resume."""
        self.group.attrs["errors"] = json.dumps({**self.errors, _place(index): message})

    def clear_errors(self) -> None:
        """Forget recorded failures, before the cells are tried again."""
        if self.errors:
            self.group.attrs["errors"] = "{}"

    def judge(self, statuses: np.ndarray) -> None:
        """Store every cell's status code."""
        self._arrays["status"][...] = statuses.astype(np.int8)

    def values(self, name: str) -> np.ndarray:
        """A variable as an array in the grid's shape."""
        return self._read(name)

    def dataset(self) -> xarray.Dataset:
        """The sweep as a labelled dataset; dimensions are the grid's parameters in file order.

        Raises:
            UsageError: a cell holds other numbers than were written.
        """
        import xarray

        wrong = self.damaged
        if wrong.any():
            cell = _place(np.argwhere(wrong)[0].tolist())
            raise UsageError(
                f"{int(wrong.sum())} cells of the sweep are damaged (first: cell {cell}): run it "
                "again with --resume, which computes them anew"
            )
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
                "sessions": str(self.group.attrs["sessions"]),
            },
        )

    def _read(self, name: str) -> np.ndarray:
        """A whole array; a chunk that cannot be read has the fill value, so its cell's checksum
        is wrong, or it is not done."""
        array = self._arrays[name]
        try:
            return np.asarray(array[...])
        except _DAMAGE:
            values = np.full(array.shape, array.fill_value, array.dtype)
            for index in np.ndindex(array.shape):
                with contextlib.suppress(*_DAMAGE):
                    values[index] = array[index]
            return values

    def _write(self, name: str, index: tuple[int, ...], value: Any) -> None:
        self._arrays[name][index] = value


def _fills(quantities: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Type and fill value of every array of a store."""
    kinds: dict[str, tuple[str, Any]] = dict.fromkeys(_variables(quantities), ("float64", np.nan))
    flags = {"checksum": ("uint32", 0), "done": ("bool", False), "status": ("int8", 0)}
    return {**kinds, "trials": ("int64", 0), **flags}


def _new_group(
    path: Path,
    grid: Mapping[str, Sequence[Any]],
    quantities: Sequence[str],
    config: str,
    environment: Mapping[str, Any],
) -> zarr.Group:
    import zarr

    group = zarr.open_group(path, mode="w-")
    group.attrs.update(
        {
            "schema": SCHEMA,
            "grid": json.dumps({n: list(v) for n, v in grid.items()}),
            "quantities": json.dumps(list(quantities)),
            "config": config,
            "environment": json.dumps(dict(environment)),
            "sessions": "[]",
            "starts": False,
            "errors": "{}",
        }
    )
    shape = tuple(len(values) for values in grid.values())
    for name, (dtype, fill) in _fills(quantities).items():
        _array(group, name, shape, dtype, fill)
    return group


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A place for a folder that becomes `path` when it is complete, and vanishes if it fails."""
    part, old = _part(path), _old(path)
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of `folder` as long as this process is at work, however it ends.

    Raises:
        UsageError: another sweep is at work there.
    """
    try:
        import fcntl
    except ImportError:  # a system without advisory locks
        yield
        return
    path = folder / ".lock"
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UsageError(
                f"--out '{folder}': a sweep is at work there ({holder}): wait for it to end, or "
                "give another folder"
            ) from None
        except OSError:
            file.close()
            raise
        try:  # the holder before may have removed the file between its opening and its locking
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


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
    with _replacing(path) as part:
        _table(part, rows)


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import zarr

    group = zarr.open_group(path, mode="w-")
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


def _label(value: Any) -> str:
    return json.dumps(value, default=list)


def _place(index: Sequence[int]) -> str:
    return ",".join(map(str, index))
