"""Running a sweep: what is open is computed, here or on an executor, and stored as it arrives."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.compute.environment import environment
from jaxprompt.compute.workers import (
    MAX_ATTEMPTS,
    SerialExecutor,
    WorkerPool,
    last_line,
    process_pool,
    run_tasks,
)
from jaxprompt.core.claim import Claim
from jaxprompt.core.fingerprint import PARTS, changed_parts, fingerprint_claim
from jaxprompt.core.quantities import AtLeast, AtMost
from jaxprompt.errors import JaxpromptError, UsageError
from jaxprompt.sweep.config import Sweep
from jaxprompt.sweep.dataset import make_dataset
from jaxprompt.sweep.judge import judge_cells
from jaxprompt.sweep.memory import refuse_what_cannot_fit
from jaxprompt.sweep.store import (
    ESTIMATE_KINDS,
    OLD_STORE,
    PREDICTION_SIDES,
    SweepStore,
    cell_name,
    dof_column,
    kind_column,
    lock,
    side_column,
    writable,
)
from jaxprompt.sweep.tasks import (
    SECONDS_TOGETHER,
    Batches,
    Outcome,
    Task,
    claim_as_sent,
    compute,
    compute_batch,
    make_tasks,
    prepare_keys,
    simulates_together,
)

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

COMMIT_SHARE = 0.05
"""Share of the time that may go into writing: results wait until they took longer to compute than
this allows for one transaction, which on a local disk is a tenth of a second."""

_TASKS_AHEAD = 256

_LONGEST_WAIT = 2.0
"""Seconds that a result waits at most, on a disk however slow, until the next one arrives."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left: the dataset, the cells whose computation failed, and notes on a resume."""

    dataset: xarray.Dataset
    errors: Mapping[str, str]
    notes: tuple[str, ...] = ()


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
    the cells are computed here. Every way gives the same bits. Results are stored as they arrive,
    those of short cells several at a time; a cell whose computation raises is recorded and the
    sweep goes on. `progress` is called with the number of finished cells and of all cells.

    With `resume`, cells that `out` already holds are kept, after checking that it was made by an
    equal sweep of the same simulation, or by one with fewer grid values or trials, to which the
    others are then added. Where the closed form has changed since, every prediction is computed
    anew.

    Raises:
        UsageError: it cannot fit into memory; `out` cannot be written, is in use, holds a sweep
            already (without `resume`), or holds another sweep; a worker process died that cannot
            be replaced, or cannot be given the claim; or a scheduler ended.
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
    if (folder / OLD_STORE).is_dir() and not SweepStore.exists(folder):
        SweepStore.open(folder)  # which says how an old store is converted
    _refuse_unsendable(sweep.target, executor)
    refuse_what_cannot_fit(sweep, executor)
    writable(folder)
    try:
        with lock(folder) as note:
            return _run(sweep, folder, executor, progress, note)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UsageError(
            f"--out '{out}' cannot be written ({error.strerror}): what is finished is kept; make "
            "room, then run again with --resume"
        ) from None


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _run(
    sweep: Sweep, folder: Path, executor: Any, progress: Progress | None, note: str
) -> SweepResult:
    store, notes = _open(sweep, folder, locks=not note)
    done = store.done
    store.forget_failures()
    store.forget_statuses(~done)
    total, finished = done.size, int(done.sum())
    if progress:
        progress(finished, total)
    writer = _Writer(store)
    try:
        here = executor is None or isinstance(executor, SerialExecutor)
        claim = None if here else claim_as_sent(sweep.target)
        tasks = make_tasks(sweep, ~done, np.where(done, 0, store.trials), claim=claim)
        with contextlib.closing(
            _computed(tasks, executor, simulates_together(sweep.target))
        ) as results:
            for task, outcome in results:
                finished += _record(store, task, outcome)
                writer.write_if_due()
                if progress:
                    progress(finished, total)
    finally:
        store.flush()
    if store.statuses_damaged or (store.codes == 0).any():
        store.judge(judge_cells(sweep, store))
    store.vanished = 0  # what was lost is computed anew
    return SweepResult(make_dataset(store), store.errors, tuple(filter(None, (note, *notes))))


class _Writer:
    """Writes to the store often enough to lose little, and seldom enough to cost little."""

    def __init__(self, store: SweepStore) -> None:
        self._store = store
        self._cost = 0.0
        self._last = time.monotonic()

    def write_if_due(self) -> None:
        started = time.monotonic()
        wait = self._cost / COMMIT_SHARE if COMMIT_SHARE else 0.0
        if started - self._last >= min(wait, _LONGEST_WAIT):
            self._store.flush()
            self._last = time.monotonic()
            self._cost = max(self._last - started, 0.9 * self._cost)


def _computed(tasks: Iterator[Task], executor: Any, together: bool) -> Generator[tuple[Task, Any]]:
    """Each task with what it gave, or with the exception that took its place.

    `together` says that several cells may share a program.
    """
    if executor is None or isinstance(executor, SerialExecutor):
        if together:
            groups = Batches(tasks, SECONDS_TOGETHER)
            for group in groups:
                outcomes, seconds = compute_batch(group)
                groups.learn(group, seconds)
                yield from zip(group, outcomes, strict=True)
        while some := list(itertools.islice(tasks, _TASKS_AHEAD)):
            prepare_keys(some)
            for task in some:
                yield task, compute(task)
        return
    pool = executor
    if hasattr(pool, "get_executor"):  # a dask client
        pool = pool.get_executor(retries=3, pure=False)
    batches = _Retried(tasks)
    with contextlib.closing(
        run_tasks(pool, compute_batch, batches, 2 * _count_workers(pool))
    ) as results:
        for batch, outcome in results:
            if not isinstance(outcome, Exception):
                found, seconds = outcome
                batches.learn(batch, seconds)
                yield from zip(batch, found, strict=True)
            elif len(batch) == 1:
                yield batch[0], outcome
            else:  # one of its tasks failed: tried alone, only that one is recorded as failed
                batches.retry(batch)


class _Retried:
    """Batches, and before them the tasks of a failed batch, one by one."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._batches = Batches(tasks)
        self._source = iter(self._batches)
        self._single: deque[Task] = deque()
        self.learn = self._batches.learn

    def retry(self, batch: tuple[Task, ...]) -> None:
        self._single.extend(batch)

    def __iter__(self) -> Iterator[tuple[Task, ...]]:
        return self

    def __next__(self) -> tuple[Task, ...]:
        return (self._single.popleft(),) if self._single else next(self._source)


def _count_workers(executor: Any) -> int:
    return getattr(executor, "workers", None) or getattr(executor, "_max_workers", 16)


def _refuse_unsendable(target: Claim, executor: Any) -> None:
    """Refuse a claim that worker processes cannot be given, before a folder is made."""
    if not isinstance(executor, WorkerPool):
        return
    from multiprocessing.reduction import ForkingPickler

    sent = claim_as_sent(target)
    if isinstance(sent, str):
        return
    try:
        ForkingPickler.dumps(sent)
    except Exception as error:  # whatever a claim's functions lead pickle to
        raise UsageError(
            f"claim '{target.id}' cannot be sent to worker processes ({last_line(error)}): put it "
            "into a file and load that with load_claims, or leave the workers out"
        ) from None


# --- the store a sweep goes on with ---


def _open(sweep: Sweep, folder: Path, *, locks: bool) -> tuple[SweepStore, list[str]]:
    """The store for a sweep, made, opened or extended; and what a person should know about it."""
    SweepStore.tidy(folder)
    here, claim_now = environment(sweep.seed), fingerprint_claim(sweep.target)
    if not SweepStore.exists(folder):
        names = [q.name for q in sweep.target.quantities]
        made = SweepStore.create(
            folder, sweep.grid, names, sweep.config, here, claim_now, locks=locks
        )
        return made, []
    store, notes = SweepStore.open(folder, "r+", locks=locks), []
    lost = int(store.damaged.sum()) + store.vanished
    if lost:
        notes.append(f"{lost} damaged cells are computed anew")
    converted = not store.fingerprint  # from version 0.1, which kept none: all may have changed
    changed: list[str] = list(PARTS) if converted else changed_parts(store.fingerprint, claim_now)
    if store.quantities != [q.name for q in sweep.target.quantities]:
        raise UsageError(
            f"--out '{folder}' holds the quantities {', '.join(store.quantities)}, and "
            f"{sweep.claim} has others now: give another folder"
        )
    if store.config != sweep.config:
        difference = _difference(json.loads(store.config), json.loads(sweep.config))
        if difference:
            raise UsageError(
                f"--out '{folder}' holds another sweep ({difference}): "
                "give another folder, or the file it was made from"
            )
    if "simulation" in changed and (store.trials > 0).any():
        notes.append(_check_edited_simulation(sweep, store, converted))
    if store.config != sweep.config:
        store.extend(sweep.grid, sweep.config)
    if {"prediction", "judgement"} & set(changed):
        notes.append(_follow_edit(sweep, store, changed, converted))
    if store.fingerprint != claim_now:
        store.describe(fingerprint=claim_now)
    differing = store.begin_session(here)
    if differing:
        notes.append(
            f"what is stored was computed with another {', '.join(differing)}; "
            "new cells may differ in rounding"
        )
    return store, notes


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How a sweep conflicts with the stored one; empty if it equals or extends it."""
    found = [name for name in ("claim", "seed", "fixed", "order") if old.get(name) != new[name]]
    grid = old.get("grid")
    if not isinstance(grid, dict) or any(
        not {json.dumps(v) for v in values} <= {json.dumps(v) for v in new["grid"].get(n, ())}
        for n, values in grid.items()
    ):
        found.append("grid")
    trials = old.get("trials")
    if not isinstance(trials, int) or new["trials"] < trials:
        found.append("trials")
    return ", ".join(f"`{name}` differs" for name in new if name in found)


def _check_edited_simulation(sweep: Sweep, store: SweepStore, converted: bool) -> str:
    """Compute one stored run again with the edited code; a line that says that it is the same.

    An edit may mend what made other cells fail, or only tidy. What gives other numbers is
    refused: no store holds cells of two simulations.
    """
    held = json.loads(store.config)
    # The grid of the store is in file order, which that of the canonical text is not.
    old = Sweep(sweep.target, store.grid, held["fixed"], held["trials"], held["seed"])
    task = next(make_tasks(old, store.trials > 0, smallest_first=True))
    index = task.stored[0]
    task = replace(task, trials=int(store.trials[index]), wanted=(index,))
    outcome, stored = compute(task), store.start(index)
    if isinstance(outcome, str) or not all(
        _is_same_number(estimate, outcome[0].estimates.get(name))
        for name, estimate in stored.items()
        if not math.isnan(estimate.mean)
    ):
        why = f" ({outcome})" if isinstance(outcome, str) else ""
        raise UsageError(
            f"--out '{store.folder}' holds cells of another simulation: the code or the parameters "
            f"of {sweep.claim} have changed, and give other numbers at cell {cell_name(index)}"
            f"{why}; give another folder"
        )
    if converted:
        return (
            f"the sweep was converted from version 0.1; at cell {cell_name(index)} this version "
            "gives the stored numbers again, so the stored cells are kept"
        )
    return (
        f"the simulation of {sweep.claim} has changed; at cell {cell_name(index)} it gives the "
        "stored numbers again, so the stored cells are kept"
    )


def _is_same_number(stored: stats.Estimate, again: stats.Estimate | None) -> bool:
    """Whether two estimates differ by rounding alone, as those of pooled trials do."""
    if again is None:
        return False
    margin = 1e-3 * float(stored.stderr)
    close = functools.partial(math.isclose, rel_tol=1e-6, abs_tol=margin)
    return close(stored.mean, again.mean) and close(stored.stderr, again.stderr)


def _follow_edit(sweep: Sweep, store: SweepStore, changed: list[str], converted: bool) -> str:
    """Compute anew what depends on an edit of the claim; a line that says so.

    Predictions of all cells are replaced in one transaction, so that a kill leaves none mixed.
    """
    target, held = sweep.target, np.argwhere(store.trials > 0)
    if "prediction" in changed:
        fresh: dict[tuple[int, ...], dict[str, float]] = {}
        for index in map(tuple, held.tolist()):
            try:
                predicted = target.predict(sweep.point(index))
            except JaxpromptError as error:
                raise UsageError(
                    f"--out '{store.folder}': the closed form of {sweep.claim} has changed and "
                    f"gives no prediction any more ({error}); give another folder"
                ) from None
            measured = [n for n in store.quantities if not np.isnan(store.numbers(n)[index])]
            fresh[index] = _prediction_numbers(measured, predicted)
        store.replace_predictions(fresh, fingerprint_claim(target))
    store.forget_statuses(np.ones(store.shape, dtype=bool))
    store.flush()
    if converted:
        return f"{len(held)} predictions of version 0.1 are computed anew by this version"
    if "prediction" in changed:
        return (
            f"the closed form of {sweep.claim} has changed: {len(held)} stored predictions are "
            "computed anew"
        )
    return f"the comparison of {sweep.claim} has changed: every cell is judged anew"


def _prediction_numbers(quantities: list[str], predicted: Mapping[str, Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name in quantities:
        if name not in predicted:
            continue
        value = predicted[name]
        side = "number"
        if isinstance(value, AtMost | AtLeast):
            side = "at most" if isinstance(value, AtMost) else "at least"
        elif not isinstance(value, float | int | np.number):
            value, side = math.nan, "statement"
        numbers[f"{name}_predicted"] = float(value)
        numbers[f"{name}_predicted_stderr"] = float(predicted.get(f"{name}_stderr", 0.0))
        numbers[side_column(name)] = PREDICTION_SIDES.index(side)
    return numbers


def _record(store: SweepStore, task: Task, outcome: Outcome | Exception) -> int:
    """Give the store what a task gave; the number of cells it completed."""
    if isinstance(outcome, BrokenExecutor):
        outcome = (
            f"its worker process died {MAX_ATTEMPTS} times: give it more memory, or lower --workers"
        )
    elif isinstance(outcome, Exception):  # the worker could not give even a message
        outcome = last_line(outcome)
    if isinstance(outcome, str):
        for index in task.stored:
            store.add_failure(index, outcome)
        return 0
    for index, predicted, estimates in outcome:
        begun = store.start(index) if task.first else {}
        names = [n for n in store.quantities if n in estimates]
        numbers = _prediction_numbers(names, predicted)
        for name in names:
            estimate = estimates[name]
            if begun:
                estimate = stats.combine([begun[name], estimate])
            numbers[name], numbers[f"{name}_stderr"] = float(estimate.mean), float(estimate.stderr)
            numbers[kind_column(name)] = ESTIMATE_KINDS.index(estimate.kind)
            numbers[dof_column(name)] = estimate.dof
        store.add(index, numbers, task.trials)
    return len(outcome)


def report_failures(result: SweepResult) -> str:
    """One line that says how many cells failed and how to try them again; empty if none did."""
    if not result.errors:
        return ""
    place, message = next(iter(result.errors.items()))
    return (
        f"{len(result.errors)} cells failed (first: cell {place}: {message}); "
        "mend the cause and run again with --resume"
    )
