"""The work of a sweep in pieces that travel: one simulation call each, joined into batches."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.compute.workers import last_line
from jaxprompt.core.claim import Claim
from jaxprompt.core.json_values import canonical
from jaxprompt.core.keys import as_key
from jaxprompt.core.registry import claim as find_claim
from jaxprompt.sweep.config import Sweep

__all__ = [
    "Batches",
    "CellResult",
    "Outcome",
    "Task",
    "claim_as_sent",
    "compute",
    "compute_batch",
    "make_tasks",
]

BATCH_SECONDS = 1.0
"""What a batch of tasks for a worker aims at: sending it costs milliseconds."""

_MOST_TASKS = 10_000


@dataclass(frozen=True)
class Task:
    """One simulation call: plain values only, so that it travels to any executor.

    `claim` is an id that the worker's registry knows, or the claim itself. `run` covers the cells
    `indices`, of which `wanted` (by default all) are to be stored; trials before `first` have
    been done.
    """

    claim: str | Claim
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


Outcome = list[CellResult] | str
"""What a task gave: its cells, or the message of what was raised."""


def make_tasks(
    sweep: Sweep,
    wanted: np.ndarray,
    first: np.ndarray | None = None,
    *,
    smallest_first: bool = False,
) -> Iterator[Task]:
    """Tasks that cover the cells marked in `wanted`, the largest first unless asked otherwise.

    `first` holds how many trials each cell has already (by default none). A task holds every
    value of the parameters that share work, so that a cell's numbers do not depend on which of
    its neighbours were done before.
    """
    target = sweep.target
    names = list(sweep.grid)
    outer = [n for n in names if n not in target.shared]
    inner = [n for n in names if n in target.shared]
    if first is None or not target.continues:
        first = np.zeros(sweep.shape, dtype=np.int64)
    axes = [names.index(n) for n in (*outer, *inner)]
    runs = int(np.prod([len(sweep.grid[n]) for n in outer], dtype=np.int64))
    open_cells = np.transpose(wanted, axes).reshape(runs, -1)
    begun = np.transpose(first, axes).reshape(runs, -1)
    inner_places = list(itertools.product(*(range(len(sweep.grid[n])) for n in inner)))
    lists = {n: list(sweep.grid[n]) for n in inner}
    place_of = [axes.index(axis) for axis in range(len(names))]
    claim = claim_as_sent(target)
    order = _largest_first(sweep, outer)
    for run in reversed(order) if smallest_first else order:
        if not open_cells[run].any():
            continue
        place = np.unravel_index(run, [len(sweep.grid[n]) for n in outer]) if outer else ()
        place = tuple(int(i) for i in place)
        chosen = {n: sweep.grid[n][i] for n, i in zip(outer, place, strict=True)}
        # In file order, as a cell's parameters are.
        values = {**sweep.fixed, **{n: lists.get(n, chosen.get(n)) for n in names}}
        every = [tuple((*place, *more)[i] for i in place_of) for more in inner_places]
        for start in np.unique(begun[run][open_cells[run]]).tolist():
            mask = open_cells[run] & (begun[run] == start)
            some = None if mask.all() else tuple(itertools.compress(every, mask))
            yield Task(claim, sweep.seed, sweep.trials, values, tuple(every), some, start)


def _largest_first(sweep: Sweep, outer: list[str]) -> list[int]:
    """Runs by their size parameter, then by their other integers, largest first."""
    shape = [len(sweep.grid[n]) for n in outer]
    if not outer:
        return [0]
    whole = [n for n in outer if all(isinstance(v, int) for v in sweep.grid[n])]
    # np.lexsort sorts by its last key first.
    keys = sorted(whole, key=lambda n: (n != sweep.target.size, n), reverse=True)
    places = np.unravel_index(np.arange(int(np.prod(shape))), shape)
    columns = [-np.asarray(sweep.grid[n])[places[outer.index(n)]] for n in keys]
    return (np.lexsort(columns) if columns else np.arange(int(np.prod(shape)))).tolist()


def claim_as_sent(target: Claim) -> str | Claim:
    """The id where the registry gives this very claim for it, else the claim itself."""
    try:
        return target.id if find_claim(target.id) is target else target
    except KeyError:
        return target


# --- computing, wherever that is ---

_ONE_AT_A_TIME = threading.Lock()
"""A simulation uses every core; two at once in one process would only compete."""


def compute(task: Task) -> Outcome:
    """Simulate and predict a task's cells; where that raises, what was raised.

    The message is a result like another, so that no executor tries a broken cell again.
    """
    try:
        with _ONE_AT_A_TIME:
            return _compute(task)
    except Exception as error:
        return last_line(error)


def compute_batch(tasks: tuple[Task, ...]) -> tuple[list[Outcome], float]:
    """The outcome of each task, and the seconds that they took."""
    started = time.monotonic()
    return [compute(task) for task in tasks], time.monotonic() - started


def _compute(task: Task) -> list[CellResult]:
    target = find_claim(task.claim) if isinstance(task.claim, str) else task.claim
    key = _task_key(task.seed, _checksum(task.run, target.shared))
    more = {"first": task.first} if task.first else {}
    estimates = target.simulate(key=key, trials=task.trials - task.first, **more, **task.run)
    names = list(task.run)
    shared = [n for n in names if n in target.shared and isinstance(task.run[n], list)]
    stored, results = set(task.stored), []
    arrays = {
        name: (_in_order(e.mean, target, shared), _in_order(e.stderr, target, shared), e)
        for name, e in estimates.items()
    }
    points = itertools.product(*(task.run[n] for n in shared))
    for cell, (index, values) in enumerate(zip(task.indices, points, strict=True)):
        if index in stored:
            parameters = {**task.run, **dict(zip(shared, values, strict=True))}
            found = {
                name: stats.Estimate(
                    float(mean[cell]), float(stderr[cell]), e.trials, kind=e.kind, dof=e.dof
                )
                for name, (mean, stderr, e) in arrays.items()
            }
            results.append(CellResult(index, target.predict(**parameters), found))
    return results


def _in_order(values: Any, target: Claim, shared: list[str]) -> np.ndarray:
    """Numbers of all cells of a run in the order of its indices.

    A simulation's axes are in the order of `target.shared`, those of the grid in that of the file.
    """
    array, axes = np.asarray(values), [n for n in target.shared if n in shared]
    if array.ndim == len(axes) and len(axes) > 1:
        array = np.transpose(array, [axes.index(n) for n in shared])
    return array.reshape(-1)


def _checksum(run: Mapping[str, Any], shared: Iterable[str]) -> int:
    """What tells a run's random numbers from those of others: see ``fold_in_parameters``."""
    return zlib.crc32(canonical({n: v for n, v in run.items() if n not in shared}).encode())


@functools.lru_cache(maxsize=8)
def _seed_key(seed: int) -> jax.Array:
    return as_key(seed)


_fold_in = jax.jit(jax.random.fold_in)


def _task_key(seed: int, checksum: int) -> jax.Array:
    """The key of ``fold_in_parameters``, compiled: a tenth of its cost for small cells."""
    return _fold_in(_seed_key(seed), np.uint32(checksum))


# --- batches ---


class Batches:
    """Tasks joined into batches that take about :data:`BATCH_SECONDS` each.

    How long a task takes is learnt from the batches before; the first ones are single tasks.
    """

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._seconds: float | None = None

    def learn(self, batch: tuple[Task, ...], seconds: float) -> None:
        """Take account of what a batch cost."""
        latest = seconds / len(batch)
        # The slowest of two neighbours: tasks get smaller, and compile at first.
        self._seconds = latest if self._seconds is None else (self._seconds + latest) / 2

    def __iter__(self) -> Iterator[tuple[Task, ...]]:
        size = 1
        while batch := tuple(itertools.islice(self._tasks, size)):
            yield batch
            if self._seconds is not None:
                fitting = int(BATCH_SECONDS / max(self._seconds, 1e-9))
                size = max(1, min(fitting, 4 * size, _MOST_TASKS))
