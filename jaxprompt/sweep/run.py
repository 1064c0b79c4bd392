"""Sweeps: a claim over a grid of parameters, from a TOML file to a labelled dataset.

Cells that differ only in parameters along which the simulation shares its work form one task.
Tasks go through a ``concurrent.futures.Executor``, the only seam to other ways of running them,
and their results are stored as they arrive.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import threading
import tomllib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.compute.environment import environment
from jaxprompt.compute.workers import TRIES, SerialExecutor, last_line, outcomes, process_pool
from jaxprompt.core.claim import FALSE_ALARM, MOST_TRIALS, Cell, Claim, Relation, expand
from jaxprompt.core.comparing import compare_cells, compare_limit
from jaxprompt.core.json_values import canonical
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.core.registry import claim as find_claim
from jaxprompt.errors import NumericalError, UsageError, short, suggest
from jaxprompt.stats import Status
from jaxprompt.sweep.store import MOST_CELLS, STATUS_CODES, SweepStore, lock, writable

if TYPE_CHECKING:
    import xarray

__all__ = [
    "SerialExecutor",
    "Sweep",
    "SweepResult",
    "Task",
    "compute",
    "process_pool",
    "report_failures",
    "run",
]

Progress = Callable[[int, int], None]
_KEYS = ("claim", "trials", "seed", "fixed", "grid")


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: every cell of the grid has been checked against the claim."""

    claim: str
    grid: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        target = find_claim(self.claim)
        _require_whole("trials", self.trials, 2, MOST_TRIALS)
        _require_whole("seed", self.seed, 0, 2**32 - 1)
        if not self.grid:
            raise UsageError("[grid] is empty: give at least one parameter a list of values")
        for name, value in (*self.fixed.items(), *self.grid.items()):
            if not name.isidentifier():
                raise UsageError(f"{short(name)} is no name of a parameter: change or remove it")
            if not _is_value(value):
                raise UsageError(
                    f"`{name}` = {short(value)}: must be a number, a text or a list of such; "
                    "write it so"
                )
        for name, values in self.grid.items():
            if name in self.fixed:
                raise UsageError(f"`{name}` stands in [fixed] and in [grid]: keep one of them")
            _require_list(name, values)
            if len({canonical({"": v}) for v in values}) < len(values):
                raise UsageError(
                    f"[grid] `{name}` = {short(values)}: a value repeats; remove the repeat"
                )
        if math.prod(self.shape) > MOST_CELLS:
            raise UsageError(
                f"[grid] has {math.prod(self.shape)} cells: must be at most {MOST_CELLS}; split "
                "the sweep into several files"
            )
        for index in self.indices():
            target.validated(self.parameters(index), simulate=True)

    @classmethod
    def from_toml(cls, path: str | Path) -> Sweep:
        """Read a sweep file.

        Raises:
            UsageError: it cannot be read, is not TOML, or has keys it should not have.
            ParameterError: a parameter is not what the claim allows.
        """
        table = _read_toml(path)
        for name in table:
            if name not in _KEYS:
                near = suggest(name, _KEYS, most=1)
                raise UsageError(
                    f"sweep file '{path}': unknown key `{short(name)[1:-1]}`: use "
                    f"{', '.join(_KEYS)}{near}"
                )
        if not isinstance(table.get("claim"), str):
            raise UsageError(f"sweep file '{path}': `claim` is missing: give a claim's id")
        for name in ("fixed", "grid"):
            if not isinstance(table.get(name, {}), dict):
                raise UsageError(f"sweep file '{path}': `{name}` must be a table; write [{name}]")
        grid = {n: tuple(_require_list(n, v)) for n, v in table.get("grid", {}).items()}
        trials = _require_whole("trials", table.get("trials", 64), 2, MOST_TRIALS)
        seed = _require_whole("seed", table.get("seed", 0), 0, 2**32 - 1)
        return cls(table["claim"], grid, table.get("fixed", {}), trials, seed)

    @property
    def config(self) -> str:
        """One text for equal sweeps, by which a resumed sweep is recognised."""
        return canonical(
            {
                "claim": self.claim,
                "trials": self.trials,
                "seed": self.seed,
                "fixed": self.fixed,
                "grid": self.grid,
                "order": list(self.grid),
            }
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values along each dimension of the grid."""
        return tuple(len(values) for values in self.grid.values())

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every cell's index, the last dimension varying fastest."""
        return itertools.product(*(range(n) for n in self.shape))

    def parameters(self, index: tuple[int, ...]) -> dict[str, Any]:
        """All parameters of one cell."""
        chosen = {n: v[i] for (n, v), i in zip(self.grid.items(), index, strict=True)}
        return {**self.fixed, **chosen}

    def tasks(self, wanted: np.ndarray, first: np.ndarray | None = None) -> list[Task]:
        """Tasks that cover the cells marked in `wanted`, those of equal shape together and the
        largest first. `first` holds how many trials each cell has already (by default none).

        A task holds every value of the parameters that share work, so that a cell's numbers do
        not depend on which of its neighbours were done before.
        """
        target = find_claim(self.claim)
        shared = [n for n in target.shared if n in self.grid]
        first = np.zeros(self.shape, int) if first is None or not target.continues else first
        groups: dict[str, list[tuple[int, ...]]] = {}
        for index in self.indices():
            rest = {n: v for n, v in self.parameters(index).items() if n not in shared}
            groups.setdefault(canonical(rest), []).append(index)
        tasks = []
        for members in groups.values():
            run = {**self.parameters(members[0]), **{n: list(self.grid[n]) for n in shared}}
            every = tuple(members)
            for start in sorted({int(first[index]) for index in members if wanted[index]}):
                chosen = tuple(i for i in members if wanted[i] and first[i] == start)
                tasks.append(Task(self.claim, self.seed, self.trials, run, every, chosen, start))

        def weight(task: Task) -> tuple[float, ...]:
            sizes = {n: v for n, v in task.run.items() if isinstance(v, int)}
            return (sizes.pop(target.size, 0), *(sizes[n] for n in sorted(sizes)))

        return sorted(tasks, key=weight, reverse=True)


MOST_BYTES = 2**20
"""A larger sweep file is refused: it would take longer to read than any sweep it could describe."""


def _read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a sweep file; raises UsageError for what is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(
                f"sweep file '{path}' has more than {MOST_BYTES} bytes: split it into several"
            )
        return tomllib.loads(data.decode("utf-8-sig"))  # some editors write a mark in front
    except OSError as error:
        raise UsageError(
            f"sweep file '{path}' cannot be read ({error.strerror}): check the path"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"sweep file '{path}' is not UTF-8 text: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        why = short(str(error), 200)[1:-1]
        raise UsageError(f"sweep file '{path}' is not TOML ({why}): mend that line") from None
    except RecursionError:
        raise UsageError(
            f"sweep file '{path}': its lists or tables are nested too deep: write them flat"
        ) from None
    except ValueError:  # an integer of more digits than Python reads, or a path none can have
        raise UsageError(
            f"sweep file '{path}' cannot be read (a number in it, or its path, is beyond what "
            "Python reads): write numbers with fewer digits"
        ) from None


def _is_value(value: Any, depth: int = 4) -> bool:
    """Whether a value of a table is a number, a text, or a list of such, not too deep."""
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_value(item, depth - 1) for item in value)
    return isinstance(value, bool | int | float | str | np.ndarray | np.number)


def _require_list(name: str, values: Any) -> Any:
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(
            f"[grid] `{name}` = {short(values)}: must be a list of values; make it one"
        )
    return values


def _require_whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` if it is an integer from `low` to `high`; the largest seed of a key is 2³² − 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(
            f"`{name}` = {short(value)}: must be an integer ≥ {low} and ≤ {high}; change it"
        )
    return value


@dataclass(frozen=True)
class Task:
    """One simulation call: plain values only, so that it travels to any executor.

    `run` covers the cells `indices`, of which `wanted` (by default all) are to be stored; trials
    before `first` have been done.
    """

    claim: str
    seed: int
    trials: int
    run: Mapping[str, Any]
    indices: tuple[tuple[int, ...], ...]
    wanted: tuple[tuple[int, ...], ...] | None = None
    first: int = 0

    @property
    def stored(self) -> tuple[tuple[int, ...], ...]:
        """The cells whose results are to be stored."""
        return self.indices if self.wanted is None else self.wanted


class CellResult(NamedTuple):
    """A cell's index in the grid, its prediction by variable, and what its trials gave."""

    place: tuple[int, ...]
    predicted: dict[str, float]
    estimates: dict[str, stats.Estimate]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left: the dataset, the cells whose computation failed, and notes on a resume."""

    dataset: xarray.Dataset
    errors: Mapping[str, str]
    notes: tuple[str, ...] = ()


_ONE_AT_A_TIME = threading.Lock()
"""A simulation uses every core; two at once in one process would only compete."""


def compute(task: Task) -> list[CellResult] | str:
    """Simulate and predict a task's cells; where that raises, what was raised.

    The message is a result like another, so that no executor tries a broken cell again.
    """
    try:
        with _ONE_AT_A_TIME:
            return _compute(task)
    except Exception as error:
        return last_line(error)


def _compute(task: Task) -> list[CellResult]:
    target = find_claim(task.claim)
    key = fold_in_parameters(as_key(task.seed), task.run, target.shared)
    more = {"first": task.first} if task.first else {}
    trials = task.trials - task.first
    estimates = target.simulate(key=key, trials=trials, **more, **task.run)
    cells = {
        canonical(cell.parameters): cell for cell in expand(task.run, estimates, target.shared)
    }
    results = []
    for index, parameters in zip(task.indices, _points(task, target), strict=True):
        if index in task.stored:
            cell = cells[canonical(parameters)]
            results.append(CellResult(index, target.predict(**parameters), dict(cell.estimates)))
    return results


def _points(task: Task, target: Claim) -> Iterator[dict[str, Any]]:
    """Parameters of each cell, in the order of the task's indices (that of the file)."""
    names = [n for n in task.run if n in target.shared and isinstance(task.run[n], list)]
    for values in itertools.product(*(task.run[n] for n in names)):
        yield {**task.run, **dict(zip(names, values, strict=True))}


def run(
    sweep: Sweep,
    out: str | Path,
    *,
    resume: bool = False,
    executor: Executor | Any | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Compute every cell of `sweep` and store it in the folder `out`.

    `executor` is any ``concurrent.futures.Executor`` or a ``dask.distributed.Client``; without one
    the cells are computed here. Every way gives the same bits. Each result is stored as soon as
    it arrives; a cell whose computation raises is recorded and the sweep goes on.

    With `resume`, cells that `out` already holds are kept, after checking that it was made by an
    equal sweep, or by one with fewer grid values or trials, to which the others are then added.

    Raises:
        UsageError: `out` cannot be written, is in use, holds a sweep already (without `resume`),
            or holds another sweep; a worker process died that
            cannot be replaced; or a scheduler ended.
    """
    folder = Path(out)
    if jax.process_count() > 1:
        raise UsageError(
            "a sweep is run by one process: start it in one, and spread it with `executor` "
            "(--scheduler)"
        )
    if SweepStore.exists(folder) and not resume:
        raise UsageError(
            f"--out '{out}' holds a sweep already: add --resume or give another folder"
        )
    writable(folder)
    try:
        with lock(folder):
            return _run(sweep, folder, executor, progress)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UsageError(
            f"--out '{out}' cannot be written ({error.strerror}): what is finished is kept; make "
            "room, then run again with --resume"
        ) from None


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _run(sweep: Sweep, folder: Path, executor: Any, progress: Progress | None) -> SweepResult:
    store, notes = _open(sweep, folder)
    store.clear_errors()
    done, starts = store.done, store.starts()
    first = np.zeros(sweep.shape, int)
    for index, estimates in starts.items():
        first[index] = max(e.trials for e in estimates.values())
    total, finished = done.size, int(done.sum())
    if progress:
        progress(finished, total)
    pool: Any = executor or SerialExecutor()
    if hasattr(pool, "get_executor"):  # a dask client
        pool = pool.get_executor(retries=3, pure=False)
    tasks = sweep.tasks(~done, first)
    with contextlib.closing(outcomes(pool, compute, tasks, _in_flight(pool))) as results:
        for task, outcome in results:
            finished += _record(store, task, outcome, starts)
            if progress:
                progress(finished, total)
    store.judge(_statuses(sweep, store))
    return SweepResult(store.dataset(), store.errors, notes)


def _in_flight(executor: Executor) -> int:
    return 1 if isinstance(executor, SerialExecutor) else 2 * _workers(executor)


def _workers(executor: Any) -> int:
    return getattr(executor, "workers", None) or getattr(executor, "_max_workers", 16)


def _open(sweep: Sweep, folder: Path) -> tuple[SweepStore, tuple[str, ...]]:
    """The store for a sweep, made, opened or extended; and what a person should know about it."""
    SweepStore.tidy(folder)
    here = environment(sweep.seed)
    if not SweepStore.exists(folder):
        names = [q.name for q in find_claim(sweep.claim).quantities]
        return SweepStore.create(folder, sweep.grid, names, sweep.config, here), ()
    store, notes = SweepStore.open(folder, "r+"), []
    damaged = store.damaged
    if damaged.any():
        store.reopen(damaged)
        notes.append(f"{int(damaged.sum())} damaged cells are computed anew")
    if store.config != sweep.config:
        difference = _difference(json.loads(store.config), json.loads(sweep.config))
        if difference:
            raise UsageError(
                f"--out '{folder}' holds another sweep ({difference}): "
                "give another folder, or the file it was made from"
            )
        store = store.extend(folder, sweep.grid, sweep.config, sweep.trials)
    changed = store.session(here)
    if changed:
        notes.append(
            f"what is stored was computed with another {', '.join(changed)}; "
            "new cells may differ in rounding"
        )
    return store, tuple(notes)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what a sweep is neither the stored one nor an extension of it; empty if it is."""
    found = [name for name in ("claim", "seed", "fixed", "order") if old.get(name) != new[name]]
    grid = old.get("grid")
    if not isinstance(grid, dict) or any(
        v not in new["grid"].get(n, ()) for n, values in grid.items() for v in values
    ):
        found.append("grid")
    trials = old.get("trials")
    if not isinstance(trials, int) or new["trials"] < trials:
        found.append("trials")
    return ", ".join(f"`{name}` differs" for name in new if name in found)


def _record(
    store: SweepStore,
    task: Task,
    results: Any,
    starts: Mapping[tuple[int, ...], Mapping[str, stats.Estimate]],
) -> int:
    """Store what a task gave; the number of cells it completed."""
    if isinstance(results, BrokenExecutor):
        results = f"its worker process died {TRIES} times: give it more memory, or lower --workers"
    elif isinstance(results, Exception):  # the worker could not give even a message
        results = last_line(results)
    if isinstance(results, str):
        for index in task.stored:
            store.fail(index, results)
        return 0
    for index, predicted, estimates in results:
        numbers = {}
        for name, estimate in estimates.items():
            if name not in predicted:  # a number that only the claim's own comparison uses
                continue
            if task.first:
                estimate = stats.combine([starts[index][name], estimate])
            numbers[f"{name}_predicted"] = float(predicted[name])
            numbers[f"{name}_predicted_stderr"] = float(predicted.get(f"{name}_stderr", 0.0))
            numbers[name], numbers[f"{name}_stderr"] = float(estimate.mean), float(estimate.stderr)
        store.write(index, numbers, task.trials)
    return len(results)


# --- judging the cells ---


def _statuses(sweep: Sweep, store: SweepStore) -> np.ndarray:
    """Status code of each cell, from the comparison that the claim's check makes.

    A claim about a limit, swept over at least three sizes, is judged by extrapolation and every
    cell of a group gets the group's status; at fewer sizes each cell is judged by whether its
    difference lies within the claim's tolerance. Other claims are judged cell by cell. All
    comparisons share one false-alarm rate. A cell that the claim states nothing about, alone or
    with the others, is inconclusive.
    """
    target = find_claim(sweep.claim)
    done, codes = store.done, np.full(sweep.shape, STATUS_CODES.index(Status.FAILED), dtype=np.int8)
    cells = _cells(target, sweep, store)
    if not cells:
        return codes
    limit = target.relation is Relation.ASYMPTOTIC and target.compare is None
    enough = len(sweep.grid.get(target.size, ())) >= 3
    extrapolated = limit and enough and bool(done.all())
    compare = target.compare or (compare_limit if extrapolated else compare_cells)
    try:
        comparisons = compare(target, list(cells.values()), target.predict)
    except NumericalError:  # the limit has no number there: the cells keep theirs, and no verdict
        return codes
    within = limit and not extrapolated
    rows = (stats.decide_within if within else stats.decide)(comparisons, FALSE_ALARM)
    for index, own in _verdicts(target, rows, cells).items():
        if not own and cells[index].estimates:
            own = [Status.INCONCLUSIVE]
        codes[index] = STATUS_CODES.index(stats.overall(own))
    return codes


def _verdicts(
    target: Claim, rows: Iterable[stats.Row], cells: Mapping[tuple[int, ...], Cell]
) -> dict[tuple[int, ...], list[Status]]:
    """The verdicts of the rows that speak of each cell.

    A row names the parameters it speaks of; for one that joins several cells, the values that it
    joins are a list (of sizes, say) where a cell has a single one.
    """
    varying = {
        name: {_plain(cell.parameters.get(name)) for cell in cells.values()}
        for name in {name for cell in cells.values() for name in cell.parameters}
    }
    # By the names a row tells cells apart by, then by their values.
    known: dict[tuple[str, ...], dict[tuple[str, ...], list[Status]]] = {}
    for row in rows:
        ignored = target.quantity(row.quantity).ignores
        told = tuple(
            name
            for name in row.parameters
            if len(varying.get(name, ())) > 1 and name not in ignored
        )
        choices = [_choices(row.parameters[name], varying[name]) for name in told]
        by_values = known.setdefault(told, {})
        for values in itertools.product(*choices):
            by_values.setdefault(values, []).append(row.verdict)
    return {
        index: [
            verdict
            for told, by_values in known.items()
            for verdict in by_values.get(tuple(_plain(cell.parameters.get(n)) for n in told), ())
        ]
        for index, cell in cells.items()
    }


def _choices(value: Any, known: Container[str]) -> list[str]:
    """The value of a row's parameter, or the values it joins."""
    if _plain(value) in known or not isinstance(value, list | tuple):
        return [_plain(value)]
    return [_plain(each) for each in value]


def _plain(value: Any) -> str:
    """One text for equal values: a size may be a float in a row, and an integer in a cell."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return canonical({"": float(value) if number else value})


def _cells(target: Claim, sweep: Sweep, store: SweepStore) -> dict[tuple[int, ...], Cell]:
    """Every complete cell of the store, by index."""
    done, trials = store.done, store.values("trials")
    values = {
        q.name: (store.values(q.name), store.values(f"{q.name}_stderr")) for q in target.quantities
    }
    cells = {}
    for index in sweep.indices():
        if done[index]:
            estimates = {
                name: stats.Estimate(float(mean[index]), float(stderr[index]), int(trials[index]))
                for name, (mean, stderr) in values.items()
                if not np.isnan(mean[index])
            }
            cells[index] = Cell(sweep.parameters(index), estimates)
    return cells


def report_failures(result: SweepResult) -> str:
    """One line that says how many cells failed and how to try them again; empty if none did."""
    if not result.errors:
        return ""
    place, message = next(iter(result.errors.items()))
    return (
        f"{len(result.errors)} cells failed (first: cell {place}: {message}); "
        "mend the cause and run again with --resume"
    )
