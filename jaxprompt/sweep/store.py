"""The store of a sweep: one SQLite file, with a row for each finished cell.

Rows are written in transactions, many cells at a time, so a process killed at any moment leaves
every cell whole or not there. A transaction is kept safe by SQLite's rollback journal rather than
its write-ahead log: the log needs memory that all readers share, which network file systems do
not give, and leaves two more files beside the store. There is one writer (:func:`lock`), so
nothing is lost by it.

A file may be damaged or come from elsewhere. The description, the statuses and each cell carry a
checksum, and the number of cells is stored too, so what changed or vanished is found. What the
file says is checked before it is used, triggers and views are refused, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import sqlite3
import struct
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxprompt.errors import UsageError
from jaxprompt.stats import Estimate, Status

__all__ = [
    "ESTIMATE_KINDS",
    "FILE",
    "MOST_CELLS",
    "OLD_STORE",
    "PREDICTION_SIDES",
    "SCHEMA",
    "STATUS_CODES",
    "SweepStore",
    "cell_name",
    "dof_column",
    "kind_column",
    "lock",
    "make_estimate",
    "side_column",
    "variables",
    "writable",
]

FILE = "sweep.sqlite"
"""Name of the store within the folder of a sweep."""

SCHEMA = 4
"""Schemas 2 and 3 were folders of zarr arrays, see :data:`OLD_STORE`."""

OLD_STORE = "sweep.zarr"
"""Name of the store that jaxprompt 0.1 wrote."""

MOST_CELLS = 10_000_000
"""Cells a sweep may have; beyond it what Python holds of them takes tens of gigabytes."""

STATUS_CODES = ("", *(status.value for status in Status))
"""Names of the integer codes in the variable `status`; 0 stands for "not judged yet"."""

ESTIMATE_KINDS: tuple[Literal["undeclared", "sampled", "proportion", "exact"], ...] = (
    "undeclared",
    "sampled",
    "proportion",
    "exact",
)
"""What an estimate declares itself to be, by its stored code."""

PREDICTION_SIDES = ("number", "at most", "at least", "statement")
"""What a prediction is, by its stored code; a statement (a law, a rate) is no single number."""

_TABLES = {
    "meta": (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL, "
        "checksum INTEGER NOT NULL) WITHOUT ROWID"
    ),
    "cells": (
        "CREATE TABLE cells (cell INTEGER PRIMARY KEY, record BLOB NOT NULL, "
        "checksum INTEGER NOT NULL)"
    ),
    "failures": (
        "CREATE TABLE failures (cell INTEGER PRIMARY KEY, message TEXT NOT NULL, "
        "checksum INTEGER NOT NULL)"
    ),
}
_LONGEST_VALUE = 2**28
"""Bytes of one stored value; SQLite refuses a file that claims more before reading it."""

_WAIT_SECONDS = 60
"""How long a reader and the writer wait for each other's transaction."""

_ROWS_AT_ONCE = 20_000
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What `flock` answers where a file system has no locks."""

_LOCK_FAILED = ("SQLITE_IOERR", "SQLITE_PROTOCOL", "SQLITE_PERM", "SQLITE_NOLFS")
"""How the names of SQLite's errors begin where a file system has no locks."""


class _DamagedPages(ValueError):
    """Something else than a description or a cell's numbers is damaged."""


class SweepStore:
    """The store of one sweep, held in memory; what is added goes to the file with :meth:`flush`.

    Cells are addressed by their index along each dimension of the grid, in file order. Arrays
    have the grid's shape. A cell that has fewer trials than the sweep asks for counts as not
    done; its estimates are kept as the start from which more trials may go on.

    Attributes:
        grid: values along each dimension, as JSON has them.
        quantities: names of the claim's quantities.
        config: canonical text of the configuration the store was made for.
        environment: versions and device of the first session; `sessions` are the later ones.
        fingerprint: what the code of the claim was, see :mod:`jaxprompt.core.fingerprint`.
        trials: trials that each cell holds, int64; 0 where it holds none.
        damaged: cells whose numbers are not those that were written, bool.
        vanished: how many cells were written but are not in the file.
        codes: status of each cell, an index into :data:`STATUS_CODES`, int8.
        failures: messages of cells whose computation failed, by index.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], locks: bool) -> None:
        self.folder, self._locks = folder, locks
        self.grid: dict[str, list[Any]] = description["grid"]
        self.quantities: list[str] = description["quantities"]
        self.config: str = description["config"]
        self.environment: dict[str, Any] = description["environment"]
        self.sessions: list[dict[str, Any]] = description["sessions"]
        self.fingerprint: dict[str, str] = description["fingerprint"]
        self.failures: dict[tuple[int, ...], str] = {}
        self.vanished = 0
        self.statuses_damaged = False
        names = [*variables(self.quantities), *_hidden_columns(self.quantities)]
        self._columns = {name: i for i, name in enumerate(names)}
        self._record = np.dtype(
            [("cell", "<i8"), ("trials", "<i8"), ("numbers", "<f8", (len(self._columns),))]
        )
        self._pack = struct.Struct(f"<qq{len(self._columns)}d").pack  # the same bytes, faster
        self._clear_arrays()
        self._clear_pending()

    def _clear_arrays(self) -> None:
        self.shape = tuple(len(values) for values in self.grid.values())
        size = math.prod(self.shape)
        self._numbers = np.full((size, len(self._columns)), np.nan)
        self.trials = np.zeros(self.shape, dtype=np.int64)
        self.damaged = np.zeros(self.shape, dtype=bool)
        self.codes = np.zeros(self.shape, dtype=np.int8)
        self._asked_trials = _asked_trials(self.config)

    def _clear_pending(self) -> None:
        self._pending: dict[int, bytes | None] = {}
        self._pending_failures: dict[int, str] = {}
        self._statuses_changed = self._failures_forgotten = False

    # --- making and opening ---

    @classmethod
    def create(
        cls,
        folder: Path,
        grid: Mapping[str, Sequence[Any]],
        quantities: Sequence[str],
        config: str,
        environment: Mapping[str, Any],
        fingerprint: Mapping[str, str] | None = None,
        *,
        locks: bool = True,
    ) -> SweepStore:
        """Make an empty store in `folder`; it appears under its name only when complete."""
        writable(folder)
        description = {
            "schema": SCHEMA,
            "grid": {name: list(values) for name, values in grid.items()},
            "quantities": list(quantities),
            "config": config,
            "environment": dict(environment),
            "sessions": [],
            "fingerprint": dict(fingerprint or {}),
        }
        _make_file(folder, description)
        return cls.open(folder, "r+", locks=locks)

    @classmethod
    def open(cls, folder: Path | str, mode: str = "r", *, locks: bool = True) -> SweepStore:
        """Read the store in `folder`; opened with mode ``"r+"`` it may be written afterwards.

        To be written, a store with damaged pages is first rebuilt from the cells that can be
        read, and damaged cells are dropped. `locks` says whether the file system has them.

        Raises:
            UsageError: there is none, it has another schema, its description is damaged, or (to
                be read only) its pages are.
        """
        folder = Path(folder)
        if not cls.exists(folder):
            if (folder / OLD_STORE).is_dir():
                raise UsageError(
                    f"the sweep in '{folder}' was stored by jaxprompt 0.1: convert it with "
                    f"`jaxprompt export {folder} --to sqlite`"
                )
            raise UsageError(f"no sweep in '{folder}': give the folder a sweep wrote with --out")
        try:
            try:
                store = cls._read(folder, locks)
            except (_DamagedPages, sqlite3.DatabaseError) as error:
                name = getattr(error, "sqlite_errorname", "")
                if name.startswith(_LOCK_FAILED) and locks and mode == "r":
                    return cls.open(folder, mode, locks=False)
                if name.startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
                    raise UsageError(
                        f"the sweep in '{folder}' cannot be opened ({error}): check that it may "
                        "be read and written, and that no other program holds it"
                    ) from None
                if mode == "r":
                    raise UsageError(
                        f"the sweep in '{folder}' is damaged ({_brief(error)}): run it again with "
                        "--resume, which computes anew what cannot be read"
                    ) from None
                store = cls._rebuild(folder, locks)
        except UsageError:
            raise
        except Exception as error:  # whatever a file of unknown origin leads to
            raise UsageError(
                f"the sweep in '{folder}' is damaged ({type(error).__name__}: {_brief(error)}): "
                "its description cannot be read; run the sweep again into another folder"
            ) from error
        if mode != "r":
            store._pending = dict.fromkeys(np.flatnonzero(store.damaged).tolist())
        return store

    @classmethod
    def _read(cls, folder: Path, locks: bool) -> SweepStore:
        with _connected(folder / FILE, "rw" if locks else "ro", locks) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")  # one state of the file, whatever a writer does
            store = cls(folder, _read_description(connection), locks)
            rows = connection.execute("SELECT cell, record, checksum FROM cells ORDER BY cell")
            count = 0
            while batch := rows.fetchmany(_ROWS_AT_ONCE):
                store._take_rows(batch)
                count += len(batch)
            counts = _read_counts(connection)
            store.vanished = counts["cells"] - count
            store._take_failures(connection, counts["failures"])
            store._take_statuses(_read_meta(connection, "statuses"), counts["judged"])
        return store

    @classmethod
    def _rebuild(cls, folder: Path, locks: bool) -> SweepStore:
        """A store of the cells that can be read one by one, in place of one with damaged pages."""
        with _connected(folder / FILE, "rw", locks) as connection:
            old = cls(folder, _read_description(connection), locks)
            for cell in range(old.trials.size):
                with contextlib.suppress(sqlite3.DatabaseError):
                    old._take_rows(
                        connection.execute(
                            "SELECT cell, record, checksum FROM cells WHERE cell = ?", (cell,)
                        ).fetchall()
                    )
            try:
                expected = _read_counts(connection)["cells"]
            except (_DamagedPages, sqlite3.DatabaseError):
                expected = 0
        _make_file(folder, old._description())
        _journal(folder / FILE).unlink(missing_ok=True)
        new = cls(folder, old._description(), locks)
        for cell in np.flatnonzero(old.trials):
            new._set(int(cell), int(old.trials.flat[cell]), old._numbers[cell].tolist())
        new.flush()
        new.vanished = max(1, expected - len(np.flatnonzero(old.trials)))
        return new

    def _take_rows(self, rows: list[Any]) -> None:
        """Put rows of the table `cells` into the arrays."""
        length, size = self._record.itemsize, self.trials.size
        whole: list[bytes] = []
        for cell, record, checksum in rows:
            if not 0 <= cell < size:
                raise _DamagedPages("a cell is outside the grid")
            if (
                isinstance(record, bytes)
                and len(record) == length
                and zlib.crc32(record) == checksum
                and int.from_bytes(record[:8], "little", signed=True) == cell
            ):
                whole.append(record)
            else:
                self.damaged.flat[cell] = True
        table = np.frombuffer(b"".join(whole), dtype=self._record)
        self._numbers[table["cell"]] = table["numbers"]
        self.trials.reshape(-1)[table["cell"]] = table["trials"]

    def _take_failures(self, connection: sqlite3.Connection, expected: int) -> None:
        rows = connection.execute("SELECT cell, message, checksum FROM failures").fetchall()
        if len(rows) != expected:
            raise _DamagedPages("a failure's message vanished")
        for cell, message, checksum in rows:
            if not isinstance(message, str) or checksum != _failure_sum(cell, message):
                raise _DamagedPages("a failure's message is another than was written")
            self.failures[self._index(cell)] = message

    def _take_statuses(self, stored: bytes | None, judged: bool) -> None:
        if not judged:
            return
        codes = np.frombuffer(stored or b"", dtype=np.int8)
        known = bool(((codes >= 0) & (codes < len(STATUS_CODES))).all())
        if codes.size == self.codes.size and known:
            self.codes = codes.reshape(self.shape).copy()
        else:
            self.statuses_damaged = True

    @staticmethod
    def exists(folder: Path | str) -> bool:
        """Whether `folder` holds a sweep."""
        return (Path(folder) / FILE).is_file()

    @staticmethod
    def tidy(folder: Path) -> None:
        """Remove what a killed sweep left in `folder`; only for the holder of its lock."""
        part = _part(folder)
        for file in (part, _journal(part)):
            file.unlink(missing_ok=True)

    # --- what it holds ---

    @property
    def done(self) -> np.ndarray:
        """Which cells are complete and undamaged (boolean, in the grid's shape)."""
        return self.trials >= self._asked_trials

    @property
    def errors(self) -> dict[str, str]:
        """Messages of cells whose computation failed, by index written as "i,j,…"."""
        return {cell_name(index): message for index, message in sorted(self.failures.items())}

    def values(self, name: str) -> np.ndarray:
        """A variable as an array in the grid's shape; NaN (0 for `trials`) where not done."""
        if name == "trials":
            return np.where(self.done, self.trials, 0)
        return np.where(self.done, self.numbers(name), np.nan)

    def numbers(self, column: str) -> np.ndarray:
        """A column as it is stored, also where cells have fewer trials than are asked for."""
        return self._numbers[:, self._columns[column]].reshape(self.shape)

    def start(self, index: tuple[int, ...]) -> dict[str, Estimate]:
        """Estimates of a cell from which more trials go on; empty if it has none."""
        trials, row = int(self.trials[index]), self._numbers[self._cell(index)].tolist()
        if trials == 0:
            return {}
        return {
            name: make_estimate(
                row[self._columns[name]],
                row[self._columns[f"{name}_stderr"]],
                trials,
                row[self._columns[kind_column(name)]],
                row[self._columns[dof_column(name)]],
            )
            for name in self.quantities
        }

    def _cell(self, index: Sequence[int]) -> int:
        cell = 0
        for place, length in zip(index, self.shape, strict=True):
            cell = cell * length + place
        return cell

    def _index(self, cell: int) -> tuple[int, ...]:
        if not 0 <= cell < self.trials.size:
            raise _DamagedPages("a cell is outside the grid")
        return tuple(int(i) for i in np.unravel_index(cell, self.shape))

    # --- writing ---

    def add(self, index: tuple[int, ...], values: Mapping[str, float], trials: int) -> None:
        """Take one cell's numbers, to be written by the next :meth:`flush`."""
        numbers = [values.get(name, math.nan) for name in self._columns]
        self._set(self._cell(index), trials, numbers)

    def _set(self, cell: int, trials: int, numbers: Sequence[float]) -> None:
        self._numbers[cell] = numbers
        self.trials.flat[cell] = trials
        self.damaged.flat[cell] = False
        self._pending[cell] = self._pack(cell, trials, *numbers)
        if self.codes.flat[cell]:
            self.codes.flat[cell], self._statuses_changed = 0, True

    def write(self, index: tuple[int, ...], values: Mapping[str, float], trials: int) -> None:
        """Store one cell's numbers at once."""
        self.add(index, values, trials)
        self.flush()

    def add_failure(self, index: tuple[int, ...], message: str) -> None:
        """Take the message of a cell whose computation failed; it is tried again on resume."""
        self.failures[index] = message
        self._pending_failures[self._cell(index)] = message

    def forget_failures(self) -> None:
        """Forget recorded failures, before the cells are tried again."""
        self._failures_forgotten = bool(self.failures) or self._failures_forgotten
        self.failures = {}
        self._pending_failures = {}

    def forget_statuses(self, cells: np.ndarray) -> None:
        """Mark cells (a boolean array) as not judged."""
        if self.statuses_damaged or (self.codes[cells] != 0).any():
            self.codes[cells] = 0
            self._statuses_changed, self.statuses_damaged = True, False

    def judge(self, codes: np.ndarray) -> None:
        """Store every cell's status code."""
        self.codes = codes.astype(np.int8).reshape(self.shape)
        self._statuses_changed, self.statuses_damaged = True, False
        self.flush()

    def flush(self) -> None:
        """Write what was added since the last call, in one transaction.

        Raises:
            UsageError: the disk is full or refuses; what was added is kept for the next call.
        """
        if not (
            self._pending
            or self._pending_failures
            or self._statuses_changed
            or self._failures_forgotten
        ):
            return
        with self._transaction() as connection:
            self._write_pending(connection)
        self._clear_pending()

    def _write_pending(self, connection: sqlite3.Connection) -> None:
        removed = [(cell,) for cell, record in self._pending.items() if record is None]
        connection.executemany("DELETE FROM cells WHERE cell = ?", removed)
        connection.executemany(
            "INSERT OR REPLACE INTO cells VALUES (?, ?, ?)",
            (
                (cell, record, zlib.crc32(record))
                for cell, record in self._pending.items()
                if record is not None
            ),
        )
        if self._failures_forgotten:
            connection.execute("DELETE FROM failures")
        connection.executemany(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
            [(c, text, _failure_sum(c, text)) for c, text in self._pending_failures.items()],
        )
        judged = bool(self.codes.any())
        if self._statuses_changed:
            _write_meta(connection, "statuses", self.codes.tobytes() if judged else b"")
        self._write_counts(connection)

    def _write_counts(self, connection: sqlite3.Connection) -> None:
        (failures,) = connection.execute("SELECT count(*) FROM failures").fetchone()
        counts = {
            "cells": int(np.count_nonzero(self.trials)),
            "failures": failures,
            "judged": bool(self.codes.any()),
        }
        _write_meta(connection, "counts", json.dumps(counts).encode())

    def describe(self, **changes: Any) -> None:
        """Change entries of the description, such as `fingerprint`, in the file and here."""
        for name, value in changes.items():
            setattr(self, name, value)
        with self._transaction() as connection:
            self._write_description(connection)

    def replace_predictions(
        self, fresh: Mapping[tuple[int, ...], Mapping[str, float]], fingerprint: Mapping[str, str]
    ) -> None:
        """Put other predictions beside the stored estimates, all in one transaction.

        `fresh` holds the predicted variables by cell; `fingerprint` is that of the code that
        gave them. A kill leaves the old predictions or the new ones.
        """
        for index, values in fresh.items():
            cell = self._cell(index)
            for name, value in values.items():
                column = self._columns[name]
                self._numbers[cell, column] = value
            self._set(cell, int(self.trials[index]), self._numbers[cell].tolist())
        self.fingerprint = dict(fingerprint)
        with self._transaction() as connection:
            self._write_pending(connection)
            self._write_description(connection)
        self._clear_pending()

    def begin_session(self, environment: Mapping[str, Any]) -> list[str]:
        """Record what computes from now on; the names of what differs from the first session."""
        self.describe(sessions=[*self.sessions, dict(environment)])
        names = [n for n in environment if environment[n] != self.environment.get(n)]
        return [name for name in names if name not in ("command", "seed", "revision")]

    def extend(self, grid: Mapping[str, Sequence[Any]], config: str) -> None:
        """Grow to a larger `grid`, or to a `config` that asks for more trials.

        Cells keep their numbers under their new index, all in one transaction: a kill leaves the
        old store or the new one.
        """
        self.flush()
        larger = {name: list(values) for name, values in grid.items()}
        places = [
            np.array(
                [{_label(v): i for i, v in enumerate(larger[name])}[_label(v)] for v in values]
            )
            for name, values in self.grid.items()
        ]
        held = np.flatnonzero(self.trials)
        numbers, trials = self._numbers[held], self.trials.ravel()[held]
        codes = self.codes.ravel()[held]
        index = np.unravel_index(held, self.shape)
        moved = tuple(place[i] for place, i in zip(places, index, strict=True))
        same = tuple(len(values) for values in larger.values()) == self.shape
        self.grid, self.config = larger, config
        self._clear_arrays()
        cells = np.ravel_multi_index(moved, self.shape) if held.size else held
        self._numbers[cells] = numbers
        self.trials.reshape(-1)[cells] = trials
        self.codes.reshape(-1)[cells] = np.where(trials >= self._asked_trials, codes, 0)
        with self._transaction() as connection:
            if not same or not np.array_equal(cells, held):
                connection.execute("DELETE FROM cells")
                self._pending = {
                    cell: self._pack(cell, self.trials.flat[cell], *self._numbers[cell])
                    for cell in cells.tolist()
                }
            self._statuses_changed = True
            connection.execute("DELETE FROM failures")
            self._write_pending(connection)
            self._write_description(connection)
        self.failures = {}
        self._clear_pending()

    def _description(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "grid": self.grid,
            "quantities": self.quantities,
            "config": self.config,
            "environment": self.environment,
            "sessions": self.sessions,
            "fingerprint": self.fingerprint,
        }

    def _write_description(self, connection: sqlite3.Connection) -> None:
        _write_meta(connection, "description", json.dumps(self._description()).encode())

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        try:
            with _connected(self.folder / FILE, "rw", self._locks) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")  # an error leaves the file as it was
        except sqlite3.Error as error:
            raise _cannot_write(self.folder, error) from None


# --- the file ---


@contextlib.contextmanager
def _connected(path: Path, mode: str, locks: bool = True) -> Generator[sqlite3.Connection]:
    """A connection that runs nothing of what an untrusted file may define."""
    address = f"{path.resolve().as_uri()}?mode={mode}" + ("" if locks else "&nolock=1")
    connection = sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        yield connection
    finally:
        connection.close()  # which rolls an open transaction back


def _make_file(folder: Path, description: Mapping[str, Any]) -> None:
    """Put an empty store with that description in place of the one in `folder`, if any."""
    part = _part(folder)
    try:
        part.unlink(missing_ok=True)
        with _connected(part, "rwc") as connection:
            connection.execute("BEGIN")
            for statement in _TABLES.values():
                connection.execute(statement)
            _write_meta(connection, "description", json.dumps(description).encode())
            counts = {"cells": 0, "failures": 0, "judged": False}
            _write_meta(connection, "counts", json.dumps(counts).encode())
            connection.execute("COMMIT")
        os.replace(part, folder / FILE)
    except sqlite3.Error as error:
        raise _cannot_write(folder, error) from None
    finally:
        for file in (part, _journal(part)):
            file.unlink(missing_ok=True)


def _cannot_write(folder: Path, error: Exception) -> UsageError:
    return UsageError(
        f"--out '{folder}' cannot be written ({error}): what is finished is kept; make room, then "
        "run again with --resume"
    )


def _write_meta(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, _meta_sum(name, value))
    )


def _read_meta(connection: sqlite3.Connection, name: str) -> bytes | None:
    """An entry as it was written, or None."""
    row = connection.execute("SELECT value, checksum FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None or not isinstance(row[0], bytes) or row[1] != _meta_sum(name, row[0]):
        return None
    return row[0]


def _meta_sum(name: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(name.encode()))


def _failure_sum(cell: int, message: str) -> int:
    return zlib.crc32(message.encode("utf-8", "backslashreplace"), cell & 0xFFFFFFFF)


def _read_counts(connection: sqlite3.Connection) -> dict[str, Any]:
    stored = _read_meta(connection, "counts")
    if stored is None:
        raise _DamagedPages("the number of cells is another than was written")
    return json.loads(stored)


def _read_description(connection: sqlite3.Connection) -> dict[str, Any]:
    """A store's description; raises ValueError unless it is one that was written here."""
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    _require(found == _TABLES, "its tables are not those of a sweep")
    stored = _read_meta(connection, "description")
    if stored is None:
        raise ValueError("its description is not the one that was written")
    description = json.loads(stored)
    _require(isinstance(description, dict), "its description is no table")
    schema = description.get("schema")
    if schema != SCHEMA:
        raise UsageError(
            f"the sweep has schema {_brief(schema)}, this version reads {SCHEMA}: run the sweep "
            "again into another folder"
        )
    _require_description(description)
    return description


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _require_description(description: Mapping[str, Any]) -> None:
    grid = description.get("grid")
    _require(isinstance(grid, dict), "its grid is no table")
    assert isinstance(grid, dict)
    sizes = [len(v) if isinstance(v, list) else 0 for v in grid.values()]
    _require(bool(sizes) and min(sizes) > 0, "its grid is no table of lists")
    _require(math.prod(sizes) <= MOST_CELLS, f"it has more than {MOST_CELLS} cells")
    _require(_is_plain(list(grid.values())), "its grid holds something else than values")
    for values in grid.values():
        _require(len({_label(v) for v in values}) == len(values), "its grid repeats a value")
    names = description.get("quantities")
    texts = isinstance(names, list) and all(isinstance(n, str) for n in names)
    _require(texts, "its quantities are no list of names")
    assert isinstance(names, list)
    columns = variables(names)
    taken = {*grid, "status", "trials"}
    distinct = len(set(columns)) == len(columns) and not taken & set(columns)
    _require(len(names) > 0 and distinct, "its quantities are no list of names")
    config, environment = description.get("config"), description.get("environment")
    _require(isinstance(config, str), "its configuration is no text")
    assert isinstance(config, str)
    _require(isinstance(json.loads(config), dict), "its configuration is no table")
    sessions, fingerprint = description.get("sessions"), description.get("fingerprint")
    _require(isinstance(environment, dict), "its environment is no table")
    plain = isinstance(sessions, list) and all(isinstance(entry, dict) for entry in sessions)
    _require(plain, "its sessions are no tables")
    _require(isinstance(fingerprint, dict), "its fingerprint is no table")


def _is_plain(value: Any, depth: int = 5) -> bool:
    """Whether a value is a number, a text, or a list of such."""
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, int | float):
        return abs(value) < 2**63 or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, str)


def _asked_trials(config: str) -> int:
    trials = json.loads(config).get("trials")
    return trials if isinstance(trials, int) and trials > 0 else 1


def _brief(value: Any) -> str:
    """What a file says, in one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:199] + "…"


def _part(folder: Path) -> Path:
    return folder / (FILE + ".part")


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _label(value: Any) -> str:
    return json.dumps(value, default=list)


def cell_name(index: Iterable[int]) -> str:
    """A cell's index as messages and the attribute `errors` write it: ``"i,j,…"``."""
    return ",".join(map(str, index))


def _hidden_columns(quantities: Sequence[str]) -> list[str]:
    """Columns that judge a cell and are no variables of the dataset."""
    kinds = (kind_column, dof_column, side_column)
    return [column(quantity) for quantity in quantities for column in kinds]


def kind_column(quantity: str) -> str:
    """Column of the place in :data:`ESTIMATE_KINDS` of what a quantity's estimate is."""
    return f"{quantity}\0kind"


def dof_column(quantity: str) -> str:
    """Column of the degrees of freedom of a quantity's standard error."""
    return f"{quantity}\0dof"


def side_column(quantity: str) -> str:
    """Column of the place in :data:`PREDICTION_SIDES` of what a quantity's prediction states."""
    return f"{quantity}\0side"


def make_estimate(mean: float, stderr: float, trials: int, kind: float, dof: float) -> Estimate:
    """An estimate from its stored numbers."""
    word = ESTIMATE_KINDS[int(kind)] if kind in range(len(ESTIMATE_KINDS)) else "undeclared"
    return Estimate(mean, stderr, trials, kind=word, dof=None if math.isnan(dof) else dof)


def variables(quantities: Sequence[str]) -> list[str]:
    """Names of the variables that a sweep stores for its quantities."""
    suffixes = ("_predicted", "_predicted_stderr", "", "_stderr")
    return [quantity + suffix for quantity in quantities for suffix in suffixes]


# --- the folder ---


@contextlib.contextmanager
def lock(folder: Path) -> Generator[str]:
    """Keep other sweeps out of `folder` as long as this process is at work, however it ends.

    Yields a note for the user where the file system has no locks, else "".

    Raises:
        UsageError: another sweep is at work there.
    """
    try:
        import fcntl
    except ImportError:
        yield f"this system keeps no locks: start no second sweep into '{folder}'"
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
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            yield (
                f"the file system of '{folder}' keeps no locks ({error.strerror}): start no "
                "second sweep there"
            )
            return
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
        yield ""
    finally:
        path.unlink(missing_ok=True)
        file.close()


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
