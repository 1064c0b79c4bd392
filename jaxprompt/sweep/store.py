"""Labelled results on disk: sweeps cell by cell, and flat tables of figures.

A sweep's store is a zarr group with one chunk for each cell. A cell's numbers are written first,
then their checksum, and its `done` flag last, so whatever happens in between, a cell that counts
as done is complete; and one whose numbers changed since is found. The description and the statuses
have checksums too. A store may come from anywhere: what it says is checked before it is used, and
nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import zlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.stats import Estimate, Status

if TYPE_CHECKING:
    import xarray
    import zarr

__all__ = [
    "MOST_CELLS",
    "SCHEMA",
    "STATUS_CODES",
    "SweepStore",
    "load",
    "load_table",
    "lock",
    "save_table",
    "writable",
]

SCHEMA = 3
"""Schema 2, without checksums of the description and the statuses, is read too."""

MOST_CELLS = 100_000
"""Cells a sweep may have: each is a file for every variable."""

STATUS_CODES = ("", *(status.value for status in Status))
"""Names of the integer codes in the variable `status`; 0 stands for "not judged yet"."""

_SWEEP, _SUFFIX, _START = "sweep.zarr", ".zarr", "start_"
_STARTS = _START + "trials"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError)
"""What zarr raises on a chunk that is cut short or holds something else."""

_CODECS = {"bytes", "zstd", "blosc", "gzip", "crc32c"}
"""What a chunk may be encoded with; all of them give bytes back and do nothing else."""

_MOST_ROWS = 10_000_000


class SweepStore:
    """The store of one sweep, open for reading and writing.

    Cells are addressed by their index along each dimension of the grid, in file order. A cell
    counts as done when its flag is set and its numbers have the checksum stored with them.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        _require_description(dict(group.attrs))
        self.grid: dict[str, list[Any]] = json.loads(str(group.attrs["grid"]))
        self.quantities: list[str] = json.loads(str(group.attrs["quantities"]))
        kinds = _fills(self.quantities)
        if group.attrs["starts"]:
            kinds |= {_START + n: k for n, k in kinds.items() if n not in ("done", "status")}
        shape = tuple(len(values) for values in self.grid.values())
        self._arrays: dict[str, Any] = {
            name: _require_array(group, name, shape, *kind) for name, kind in kinds.items()
        }

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
            sessions = self.group.attrs["sessions"]
            _describe(group, sessions=sessions, starts=starts or bool(again.any()))
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
        """Open the store in `folder`; to write, in the schema of this version.

        Raises:
            UsageError: there is none, it has another schema, or its description is damaged.
        """
        path = Path(folder) / _SWEEP
        if not SweepStore.exists(folder):
            raise UsageError(f"no sweep in '{folder}': give the folder a sweep wrote with --out")
        again = "run the sweep again into another folder"
        try:
            group = _group(path, mode)
            schema = group.attrs.get("schema")
            if schema not in (2, SCHEMA):
                raise UsageError(
                    f"the sweep in '{folder}' has schema {_brief(schema)}, this version reads "
                    f"{SCHEMA}: {again}"
                )
            store = cls(group)
            if schema != SCHEMA and mode != "r":
                codes = store.values("status")
                _describe(group, schema=SCHEMA, statuses=_sum(codes) if codes.any() else None)
            return store
        except UsageError:
            raise
        except Exception as error:  # whatever a file of unknown origin leads zarr to
            raise UsageError(
                f"the sweep in '{folder}' is damaged ({type(error).__name__}: {_brief(error)}): "
                f"its description cannot be read; {again}"
            ) from error

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
        _describe(self.group, sessions=json.dumps([*sessions, dict(environment)]))
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
        errors = json.dumps({**self.errors, _place(index): message})
        _describe(self.group, errors=errors)

    def clear_errors(self) -> None:
        """Forget recorded failures, before the cells are tried again."""
        if self.errors:
            _describe(self.group, errors="{}")

    def judge(self, statuses: np.ndarray) -> None:
        """Store every cell's status code."""
        codes = statuses.astype(np.int8)
        _describe(self.group, statuses=None)  # a kill from here on leaves cells not judged
        self._arrays["status"][...] = codes
        _describe(self.group, statuses=_sum(codes))

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
        labels = np.asarray(STATUS_CODES)[self._codes()]
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

    def _codes(self) -> np.ndarray:
        """Status codes as they were written; 0 where the cells are not judged."""
        codes, known = self.values("status"), self.group.attrs.get("statuses", self)
        if known is None:
            return np.zeros_like(codes)
        wrong = (codes < 0) | (codes >= len(STATUS_CODES))
        if wrong.any() or known not in (self, _sum(codes)):  # self: schema 2 has no checksum
            raise UsageError(
                "the statuses of the sweep are damaged: run it again with --resume, which judges "
                "its cells anew"
            )
        return codes

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
    _describe(
        group,
        schema=SCHEMA,
        grid=json.dumps({n: list(v) for n, v in grid.items()}),
        quantities=json.dumps(list(quantities)),
        config=config,
        environment=json.dumps(dict(environment)),
        sessions="[]",
        starts=False,
        errors="{}",
        statuses=None,
    )
    shape = tuple(len(values) for values in grid.values())
    for name, (dtype, fill) in _fills(quantities).items():
        _array(group, name, shape, dtype, fill)
    return group


# --- what a description says, and whether it may be believed ---


def _group(path: Path, mode: str) -> zarr.Group:
    """Open a group of the one format that is written here: older ones name codecs by any word."""
    import zarr

    return zarr.open_group(
        path,
        mode=mode,  # pyright: ignore[reportArgumentType]
        zarr_format=3,
        use_consolidated=False,
    )


def _describe(group: zarr.Group, **changes: Any) -> None:
    """Change a group's description, in one write, together with its checksum."""
    whole = {**dict(group.attrs), **changes}
    group.attrs.update({**changes, "checksum": _description_sum(whole)})


def _description_sum(attributes: Mapping[str, Any]) -> int:
    rest = {name: value for name, value in attributes.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _sum(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).tobytes())


def _require(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _require_description(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError unless a sweep's description is one that was written here."""
    if attributes.get("schema") == SCHEMA:
        right = attributes.get("checksum") == _description_sum(attributes)
        _require(right, "its description is not the one that was written")
    grid = _table_of(attributes, "grid", dict)
    sizes = [len(v) if isinstance(v, list) else 0 for v in grid.values()]
    _require(bool(sizes) and min(sizes) > 0, "its grid is no table of lists")
    _require(math.prod(sizes) <= MOST_CELLS, f"it has more than {MOST_CELLS} cells")
    _require(_is_plain(list(grid.values())), "its grid holds something else than values")
    names = _table_of(attributes, "quantities", list)
    words = all(isinstance(n, str) and n.isidentifier() for n in names)
    _require(words and 0 < len(names) == len(set(names)), "its quantities are no list of names")
    for name in ("config", "environment"):
        _table_of(attributes, name, dict)
    errors = _table_of(attributes, "errors", dict)
    _require(all(isinstance(e, str) for e in errors.values()), "its errors are no texts")
    sessions = _table_of(attributes, "sessions", list)
    _require(all(isinstance(entry, dict) for entry in sessions), "its sessions are no tables")
    _require(isinstance(attributes.get("starts"), bool), "`starts` is neither true nor false")


def _table_of(attributes: Mapping[str, Any], name: str, kind: type) -> Any:
    text = attributes.get(name)
    value = json.loads(text) if isinstance(text, str) else None
    _require(isinstance(value, kind), f"`{name}` is missing or something else")
    return value


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether a value is a number, a text, or a list of such."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, int | float):
        return abs(value) < 2**63  # not NaN either
    return isinstance(value, str)


def _require_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, fill: Any
) -> Any:
    """The array of that name, if it is laid out as it is written here; raises ValueError if not."""
    array: Any = group[name]
    _require(getattr(array, "shape", None) == shape, f"`{name}` has another shape than the grid")
    _require(array.dtype == np.dtype(dtype), f"`{name}` has another type than {dtype}")
    _require(array.chunks == (1,) * len(shape), f"`{name}` has other chunks than cells")
    same = np.array_equal(np.asarray(array.fill_value), np.array(fill, dtype), equal_nan=True)
    _require(same if dtype == "float64" else array.fill_value == fill, f"`{name}` is filled oddly")
    _require_codecs(array, name)
    return array


def _require_codecs(array: Any, name: str) -> None:
    used = {codec["name"] for codec in array.metadata.to_dict()["codecs"]}
    _require(used <= _CODECS, f"`{name}` is encoded with {_brief(sorted(used - _CODECS))}")


def _brief(value: Any) -> str:
    """What a file says, in one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


@contextlib.contextmanager
def _replacing(path: Path) -> Generator[Path]:
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
def lock(folder: Path) -> Generator[None]:
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
    group.attrs.update({"schema": SCHEMA, "checksum": _table_sum(_columns(group, path))})


def _columns(group: zarr.Group, path: Path) -> dict[str, np.ndarray]:
    """A table's columns by name; raises ValueError for what is no such table."""
    columns: dict[str, np.ndarray] = {}
    # One by one: of several, zarr reads the others on, and logs what they raise.
    for name in sorted(part.name for part in path.iterdir() if part.is_dir()):
        array: Any = group[name]
        shape = array.shape
        _require(len(shape) == 1 and shape[0] <= _MOST_ROWS, f"`{name}` is no column")
        _require_codecs(array, name)
        if "labels" not in array.attrs:
            _require(array.dtype == np.float64, f"`{name}` holds no numbers")
            columns[name] = np.asarray(array[...])
            continue
        _require(array.dtype == np.int32, f"`{name}` holds no codes of labels")
        labels = _table_of(array.attrs, "labels", list)
        _require(all(isinstance(t, str) for t in labels), f"the labels of `{name}` are no texts")
        codes = np.asarray(array[...])
        _require(bool(((codes >= 0) & (codes < len(labels))).all()), f"`{name}` has no such label")
        columns[name] = np.asarray(labels)[codes]
    _require(len({c.size for c in columns.values()}) <= 1, "its columns differ in length")
    return columns


def _table_sum(columns: Mapping[str, np.ndarray]) -> int:
    total = 0
    for name, values in columns.items():
        total = zlib.crc32(name.encode("utf-8", "backslashreplace"), total)
        held = values if values.dtype == np.float64 else np.char.encode(values, "utf-32-le")
        total = zlib.crc32(np.ascontiguousarray(held).tobytes(), total)
    return total


def load_table(path: Path) -> xarray.Dataset:
    """A stored table as a dataset with the one dimension `row`.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    import xarray

    if not Path(path).is_dir():
        raise UsageError(f"no table at '{path}': give a folder that a run wrote with --out")
    again = "run the command that wrote it again"
    try:
        group = _group(Path(path), "r")
        schema, known = group.attrs.get("schema"), group.attrs.get("checksum")
        # The first two schemas are tables without a checksum.
        _require(schema in (1, 2, SCHEMA), f"schema {_brief(schema)}, this version reads {SCHEMA}")
        columns = _columns(group, Path(path))
        if schema == SCHEMA:
            _require(known == _table_sum(columns), "it holds other numbers than were written")
    except Exception as error:  # whatever a file of unknown origin leads zarr to
        raise UsageError(
            f"the table '{path}' is damaged ({type(error).__name__}: {_brief(error)}): {again}"
        ) from error
    return xarray.Dataset({name: ("row", values) for name, values in columns.items()})


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
    except (OSError, ValueError) as error:  # ValueError: no path may hold that character
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"--out '{folder}' cannot be written ({why}): give a folder you may write to"
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
