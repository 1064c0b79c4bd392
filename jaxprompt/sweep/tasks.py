"""The work of a sweep in pieces that travel: one simulation call each, joined into batches."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.compute.workers import last_line
from jaxprompt.core.claim import Claim
from jaxprompt.core.json_values import canonical
from jaxprompt.core.keys import as_key
from jaxprompt.core.points import Point
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
    "prepare_keys",
    "simulates_together",
]

BATCH_SECONDS = 1.0
"""What a batch of tasks for a worker aims at: sending it costs milliseconds."""

_MOST_TASKS = 10_000

SECONDS_TOGETHER = 0.25
"""What a group of cells in one program aims at, where they are computed here: nothing of it is
stored before its end."""

_LARGEST_SIZE = 1024
"""Integers beyond which a cell is simulated by itself: it takes longer than to start a program."""

_MOST_RESULTS = 2**18
"""Trials of all cells that are held at once."""

_RUNS_AT_ONCE = 10_000
_KEYS_AT_ONCE = 64


@dataclass(frozen=True)
class Task:
    """One simulation call: plain values only, so that it travels to any executor.

    `claim` is an id that the worker's registry knows, or the claim itself. `run` covers the cells
    `indices`, of which `wanted` (by default all) are to be stored; trials before `first` have
    been done. `checksum` tells its random numbers apart, and follows from the others.
    """

    claim: str | Claim
    seed: int
    trials: int
    run: Mapping[str, Any]
    indices: tuple[tuple[int, ...], ...]
    wanted: tuple[tuple[int, ...], ...] | None = None
    first: int = 0
    checksum: int | None = None

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
    claim: str | Claim | None = None,
    smallest_first: bool = False,
) -> Iterator[Task]:
    """Tasks that cover the cells marked in `wanted`, the largest first unless asked otherwise.

    `first` holds how many trials each cell has already (by default none). A task holds every
    value of the parameters that share work, so that a cell's numbers do not depend on which of
    its neighbours were done before. `claim` is what the tasks carry, by default the claim itself.
    """
    target = sweep.target
    names = list(sweep.grid)
    outer = [n for n in names if n not in target.shared]
    inner = [n for n in names if n in target.shared]
    if first is None or not target.continues:
        first = np.zeros(sweep.shape, dtype=np.int64)
    axes = [names.index(n) for n in (*outer, *inner)]
    shape = [len(sweep.grid[n]) for n in outer]
    open_cells = np.transpose(wanted, axes).reshape(math.prod(shape), -1)
    begun = np.transpose(first, axes).reshape(open_cells.shape)
    inner_places = list(itertools.product(*(range(len(sweep.grid[n])) for n in inner)))
    lists = {n: list(sweep.grid[n]) for n in inner}
    place_of = [axes.index(axis) for axis in range(len(names))]
    order = _largest_first(sweep, outer)
    order = order[open_cells[order].any(axis=1)]
    order = order[::-1] if smallest_first else order
    whole = open_cells.all(axis=1) & (begun == begun[:, :1]).all(axis=1)
    checksum = _RunChecksums(sweep, outer)
    all_along = dict.fromkeys(lists)
    for start in range(0, len(order), _RUNS_AT_ONCE):
        runs = order[start : start + _RUNS_AT_ONCE]
        places = np.stack(np.unravel_index(runs, shape), axis=1).tolist() if outer else [[]]
        for run, place in zip(runs.tolist(), places, strict=True):
            position = {**all_along, **dict(zip(outer, place, strict=True))}
            # In file order, as a cell's parameters are.
            position = {n: position[n] for n in names} if lists else position
            chosen = {n: lists[n] if i is None else sweep.grid[n][i] for n, i in position.items()}
            values = sweep.point_of({**sweep.fixed, **chosen}, position)
            if lists:
                joined = ((*place, *more) for more in inner_places)
                every = tuple(tuple(at[i] for i in place_of) for at in joined)
            else:
                every = (tuple(place),)  # the dimensions are in file order
            common = (claim or target, sweep.seed, sweep.trials, values, every)
            if whole[run]:
                yield Task(*common, None, int(begun[run, 0]), checksum(place))
                continue
            for trials in np.unique(begun[run][open_cells[run]]).tolist():
                mask = open_cells[run] & (begun[run] == trials)
                some = tuple(itertools.compress(every, mask))
                yield Task(*common, some, trials, checksum(place))


class _RunChecksums:
    """What :func:`_checksum` gives for each run of a sweep, from texts made once a value."""

    def __init__(self, sweep: Sweep, outer: list[str]) -> None:
        alone = {n: v for n, v in sweep.fixed.items() if n not in sweep.target.shared}
        self._names = sorted([*alone, *outer])
        self._place_of = {name: axis for axis, name in enumerate(outer)}
        self._texts = {
            name: [
                canonical({name: value})[1:-1]
                for value in (sweep.grid[name] if name in self._place_of else [alone[name]])
            ]
            for name in self._names
        }

    def __call__(self, place: Sequence[int]) -> int:
        axes, texts = self._place_of, self._texts
        parts = [texts[n][place[axes[n]] if n in axes else 0] for n in self._names]
        return zlib.crc32(f"{{{', '.join(parts)}}}".encode())


def _largest_first(sweep: Sweep, outer: list[str]) -> np.ndarray:
    """Runs by their size parameter, then by their other integers, largest first (int64)."""
    shape = [len(sweep.grid[n]) for n in outer]
    if not outer:
        return np.zeros(1, dtype=np.int64)
    whole = [n for n in outer if all(isinstance(v, int) for v in sweep.grid[n])]
    # np.lexsort sorts by its last key first.
    keys = sorted(whole, key=lambda n: (n != sweep.target.size, n), reverse=True)
    places = np.unravel_index(np.arange(math.prod(shape)), shape)
    columns = [-np.asarray(sweep.grid[n])[places[outer.index(n)]] for n in keys]
    return np.lexsort(columns) if columns else np.arange(math.prod(shape))


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

    The message is a result like another, so that no executor tries a broken cell again. A
    simulation that puts several cells into one program uses that program for one cell too, so
    that no number depends on what else was to be computed.
    """
    try:
        (together,) = _compute_together((task,))
        if together is not None:
            return together
        with _ONE_AT_A_TIME:
            return _compute(task)
    except Exception as error:
        return last_line(error)


def compute_batch(tasks: tuple[Task, ...]) -> tuple[list[Outcome], float]:
    """The outcome of each task, and the seconds that they took."""
    started = time.monotonic()
    outcomes: list[Outcome | None] = list(_compute_together(tasks))
    prepare_keys([task for task, outcome in zip(tasks, outcomes, strict=True) if outcome is None])
    filled = [compute(t) if o is None else o for t, o in zip(tasks, outcomes, strict=True)]
    return filled, time.monotonic() - started


def simulates_together(target: Claim) -> bool:
    """Whether the claim's simulation may put several cells into one program."""
    return getattr(target.simulation, "simulate_cells", None) is not None and not getattr(
        target.simulation, "is_deterministic", False
    )


def _compute_together(tasks: Sequence[Task]) -> list[Outcome | None]:
    """Outcomes of tasks whose simulations share programs; None where one is computed by itself.

    Whatever is wrong with one of them is left for :func:`compute` to say.
    """
    outcomes: list[Outcome | None] = [None] * len(tasks)
    groups: dict[Any, list[tuple[int, Any, int]]] = {}
    for place, task in enumerate(tasks):
        target = _claim_of(task)
        if not simulates_together(target):
            continue
        run = target.point(task.run)
        if any(type(value) is int and value > _LARGEST_SIZE for value in run.values()):
            continue
        group = (id(target), task.seed, task.trials - task.first, task.first)
        groups.setdefault(group, []).append((place, run, _task_checksum(task, target)))
    for (_, seed, trials, first), members in groups.items():
        target = _claim_of(tasks[members[0][0]])
        step = max(1, _MOST_RESULTS // trials)
        for start in range(0, len(members), step):
            chosen = members[start : start + step]
            words = _key_words(seed, [checksum for _, _, checksum in chosen])
            runs = [run for _, run, _ in chosen]
            for (place, run, _), estimates in zip(
                chosen, _estimates_together(target, runs, words, trials, first), strict=True
            ):
                if estimates is not None:
                    outcomes[place] = _predict(tasks[place], target, run, estimates)
    return outcomes


def _estimates_together(
    target: Claim, runs: Sequence[Point], words: np.ndarray, trials: int, first: int
) -> list[dict[str, stats.Estimate] | None]:
    """What the simulation gives at each run, from one program; None where it gives no numbers."""
    try:
        points = [target.validated(run, simulate=True) for run in runs]
        with _ONE_AT_A_TIME, np.errstate(all="ignore"), own_settings():
            simulate_cells: Any = getattr(target.simulation, "simulate_cells", None)
            found = simulate_cells(points, key_words=words, trials=trials, first=first)
    except Exception:  # one of them is to blame: each is computed by itself, and says why it fails
        return [None] * len(runs)
    return [None if e is None or not _is_finite(e) else e for e in found]


def _is_finite(estimates: Mapping[str, stats.Estimate]) -> bool:
    numbers = (number for e in estimates.values() for number in (e.mean, e.stderr))
    return all(bool(np.isfinite(number).all()) for number in numbers)


def _predict(
    task: Task, target: Claim, run: Point, estimates: Mapping[str, stats.Estimate]
) -> Outcome:
    try:
        return _cell_results(task, target, run, estimates)
    except Exception as error:
        return last_line(error)


def _compute(task: Task) -> list[CellResult]:
    target = _claim_of(task)
    key = _task_key(task.seed, _task_checksum(task, target))
    more = {"first": task.first} if task.first else {}
    run = target.point(task.run)
    estimates = target.simulate(run, key=key, trials=task.trials - task.first, **more)
    return _cell_results(task, target, run, estimates)


def _cell_results(
    task: Task, target: Claim, run: Point, estimates: Mapping[str, stats.Estimate]
) -> list[CellResult]:
    """The numbers of a task's cells, and their predictions."""
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
            single = dict(zip(shared, values, strict=True))
            point = run.changed(single, single) if single else run
            found = {
                name: stats.Estimate(
                    float(mean[cell]), float(stderr[cell]), e.trials, kind=e.kind, dof=e.dof
                )
                for name, (mean, stderr, e) in arrays.items()
            }
            results.append(CellResult(index, target.predict(point), found))
    return results


def _claim_of(task: Task) -> Claim:
    return find_claim(task.claim) if isinstance(task.claim, str) else task.claim


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


def _task_checksum(task: Task, target: Claim) -> int:
    return _checksum(task.run, target.shared) if task.checksum is None else task.checksum


@functools.lru_cache(maxsize=8)
def _seed_key(seed: int) -> jax.Array:
    return as_key(seed)


_fold_in = jax.jit(jax.random.fold_in)


@jax.jit
def _fold_in_words(key: jax.Array, checksums: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, checksums))


def _key_words(seed: int, checksums: Sequence[int]) -> np.ndarray:
    """Words of the keys that :func:`_task_key` gives, (tasks, 2) uint32."""
    padded = np.zeros(-(-len(checksums) // _KEYS_AT_ONCE) * _KEYS_AT_ONCE, dtype=np.uint32)
    padded[: len(checksums)] = checksums
    chunks = padded.reshape(-1, _KEYS_AT_ONCE)
    words = [np.asarray(_fold_in_words(_seed_key(seed), chunk)) for chunk in chunks]
    return np.concatenate(words)[: len(checksums)]


@jax.jit
def _fold_in_all(key: jax.Array, checksums: jax.Array) -> tuple[jax.Array, ...]:
    """Keys of their own, since taking one out of an array of keys costs a millisecond."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, checksums)
    return tuple(keys[place] for place in range(_KEYS_AT_ONCE))


_ready_keys: dict[tuple[int, int], jax.Array] = {}


def prepare_keys(tasks: Sequence[Task]) -> None:
    """Compute the keys of many small tasks at once: one by one they cost more than such a cell.

    A few tasks are left alone, for which it is not worth to compile a program.
    """
    _ready_keys.clear()
    if len(tasks) < 2 * _KEYS_AT_ONCE:
        return
    for seed in {task.seed for task in tasks}:
        sums = [_task_checksum(t, _claim_of(t)) for t in tasks if t.seed == seed]
        for start in range(0, len(sums), _KEYS_AT_ONCE):
            some = sums[start : start + _KEYS_AT_ONCE]
            padded = np.zeros(_KEYS_AT_ONCE, dtype=np.uint32)
            padded[: len(some)] = some
            keys = _fold_in_all(_seed_key(seed), padded)
            _ready_keys.update({(seed, c): key for c, key in zip(some, keys, strict=False)})


def _task_key(seed: int, checksum: int) -> jax.Array:
    """The key that ``fold_in_parameters`` gives, to the bit."""
    ready = _ready_keys.get((seed, checksum))
    return _fold_in(_seed_key(seed), np.uint32(checksum)) if ready is None else ready


# --- batches ---


class Batches:
    """Tasks joined into batches that take about `seconds` each.

    How long a task takes is learnt from the batches before; the first ones are single tasks.
    """

    def __init__(self, tasks: Iterator[Task], seconds: float | None = None) -> None:
        self._tasks = tasks
        self._aim = BATCH_SECONDS if seconds is None else seconds
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
                fitting = int(self._aim / max(self._seconds, 1e-9))
                size = max(1, min(fitting, 4 * size, _MOST_TASKS))
