"""Trials spread over the cores of a CPU, one thread for each, or over several devices.

XLA runs a loop over trials on one core, and LAPACK calls inside it too. The trials of a
simulation are independent, so they are cut into as many equal blocks as there are cores, and one
compiled program runs on all blocks at once. What a trial gives depends on its index alone, so the
numbers do not depend on the machine's cores. Where JAX sees several devices (GPUs, or those of
all processes of ``jax.distributed``), the blocks are shards of one program on a mesh instead.

Blocks must not hold *batched* LAPACK calls: two of them at work at the same time can wait for each
other for ever (jaxlib 0.10). :func:`one_by_one_on_cpu` keeps them apart.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprompt.compute.jax_settings import own_settings

__all__ = [
    "FAST_COMPILATION",
    "IDLE_ROW_INDEX",
    "ROWS",
    "THREADS_VARIABLE",
    "block_observer",
    "compile_block",
    "cores",
    "devices",
    "is_compiled",
    "map_rows_bit_stable",
    "map_trials",
    "one_by_one_on_cpu",
    "part_of_larger_program",
    "run_on_threads",
    "trial_memory_bytes",
]


Device = Any  # jax.Device is no type to a type checker

THREADS_VARIABLE = "JAXPROMPT_THREADS"
"""Environment variable: at most so many threads in this process."""


def cores() -> int:
    """Processors that this process may use; 1 where the default device is not a CPU.

    ``JAXPROMPT_THREADS`` lowers the number, as where several processes share a machine.
    """
    if jax.default_backend() != "cpu":
        return 1
    limit = os.environ.get(THREADS_VARIABLE, "")
    return min(int(limit), _cores()) if limit.isdecimal() and int(limit) else _cores()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_trials(
    block: Callable[[np.ndarray], Any],
    trials: int,
    *,
    batch: int = 1,
    threads: int | None = None,
    first: int = 0,
    loops: bool = False,
) -> Any:
    """Run ``block(indices)`` on blocks of the trial indices `first` …, and join the results.

    `indices` is uint32 (steps, batch), the same shape in every block; results are trees of arrays
    with these two leading axes. They come back as NumPy arrays with one leading axis of `trials`.
    `block` is a jitted function, or a ``functools.partial`` of one whose integers and other
    hashable arguments are static, or any function of NumPy indices. It is called for at most
    `threads` blocks (by default, one for each core), or on every device where there are several.
    The JAX settings (64-bit types) are those of the caller. `loops` says that the block uses
    :func:`map_rows_bit_stable`, for numbers that do not depend on the number of blocks to the last
    bit.
    """
    found = devices()
    if len(found) == 1 and loops:
        return _looped_trials(block, trials, batch, threads or cores(), first)
    # Every process of a mesh takes part, however few trials there are; and a batch keeps its
    # size, because the rounding of a batched product may depend on it.
    workers = len(found) if len(found) > 1 else min(threads or cores(), -(-trials // batch))
    steps = -(-trials // (batch * workers))
    indices = first + np.arange(workers * steps * batch, dtype=np.uint32)
    indices = indices.astype(np.uint32).reshape(workers, steps, batch)
    if loops and steps == 1:
        indices = np.concatenate([indices, np.full_like(indices, IDLE_ROW_INDEX)], axis=1)
    if len(found) == 1:
        parts = run_on_threads(block, indices, [None] * workers, workers)
    elif isinstance(block, functools.partial) and is_compiled(block):
        parts = [_on_mesh(block, indices, tuple(found))]
    else:  # a function that looks at its indices on the host
        local = [device for device in found if device.process_index == jax.process_index()]
        places = [local[i % len(local)] for i in range(workers)]
        parts = run_on_threads(block, indices, places, workers)

    rows = indices.shape[1]

    def join(*arrays: np.ndarray) -> np.ndarray:
        blocks = [a.reshape(-1, rows, *a.shape[1:])[:, :steps] for a in arrays]
        return np.concatenate([a.reshape(-1, *a.shape[3:]) for a in blocks])[:trials]

    return jax.tree.map(join, *parts)


block_observer: ContextVar[Callable[[Callable[..., Any], np.ndarray], int] | None] = ContextVar(
    "block_observer", default=None
)
"""Called with a block, and the indices of those that would run at the same time, before any of them
runs; gives how many may. It may raise, where only the shapes are wanted."""


ROWS = 128
"""Rows of indices that one call of a looping block gets, whatever the number of trials: another
number of trials then compiles nothing."""


def _looped_trials(
    block: Callable[[np.ndarray], Any], trials: int, batch: int, threads: int, first: int
) -> Any:
    """Trials of a block that uses :func:`map_rows_bit_stable`, in calls of one shape.

    Idle rows cost nothing.
    """
    needed = -(-trials // batch)
    workers = min(threads, needed)
    rows = min(ROWS, -(-needed // workers))  # few trials are still spread over all threads
    calls = -(-needed // rows)
    flat = first + np.arange(calls * rows * batch, dtype=np.uint64)
    indices = np.full((calls, ROWS, batch), IDLE_ROW_INDEX, np.uint32)
    indices[:, :rows] = flat.astype(np.uint32).reshape(calls, rows, batch)
    indices.reshape(-1, batch)[_rows_beyond(needed, calls, rows)] = IDLE_ROW_INDEX
    parts = run_on_threads(block, indices, [None] * calls, workers)

    def join(*arrays: np.ndarray) -> np.ndarray:
        kept = [array[:rows].reshape(-1, *array.shape[2:]) for array in arrays]
        return np.concatenate(kept)[:trials]

    return jax.tree.map(join, *parts)


def _rows_beyond(needed: int, calls: int, rows: int) -> np.ndarray:
    """Flat places of rows that hold no trial at all."""
    used = np.zeros((calls, ROWS), bool)
    used[:, :rows] = np.arange(calls * rows).reshape(calls, rows) < needed
    return ~used.ravel()


def devices() -> list[Device]:
    """Devices that trials are spread over: all of the default kind, of every process, unless
    ``jax.default_device`` names one."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.devices() if chosen is None or isinstance(chosen, str) else [chosen]


def trial_memory_bytes() -> int:
    """Memory budget in bytes for one batch of trials.

    On a CPU: one core's share of the last-level cache. On an accelerator: a quarter of its memory.
    """
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return int(stats["bytes_limit"]) // 4 if stats and "bytes_limit" in stats else _CACHE


_CACHE = 2**21


def run_on_threads(
    block: Callable[[np.ndarray], Any],
    indices: np.ndarray,
    places: Sequence[Device | None],
    workers: int,
) -> list[Any]:
    """Blocks of indices on `workers` threads, each on its device (None: the default one)."""
    if observe := block_observer.get():
        workers = min(workers, observe(block, indices[:workers]))
    x64, dispatch = jnp.result_type(float) == np.float64, threading.Lock()

    def run(part: np.ndarray, place: Device | None) -> Any:
        own = jax.default_device(place) if place is not None else contextlib.nullcontext()
        with own_settings(x64), own:
            # Dispatch returns at once, but the first one compiles: the others wait for that. A
            # function of NumPy is done when it returns, and does not wait.
            with dispatch if is_compiled(block) else contextlib.nullcontext():
                result = block(part)
            return jax.tree.map(np.asarray, result)

    if len(indices) == 1 or workers == 1:
        return [run(part, place) for part, place in zip(indices, places, strict=True)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, indices, places))


def is_compiled(block: Callable[..., Any]) -> bool:
    """Whether a block of trials is a program of JAX, rather than a function of NumPy indices."""
    return hasattr(block.func if isinstance(block, functools.partial) else block, "lower")


FAST_COMPILATION: dict[str, Any] = {"xla_backend_optimization_level": 1}
"""Options of the compiler that halve its time; programs run up to twice as long."""


def compile_block(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """`function` jitted with options of the compiler, for :func:`map_trials` on any devices.

    JAX takes options from the outermost function alone; where the block is part of a larger program
    it must be :func:`part_of_larger_program`.
    """
    if not options:
        return jax.jit(function)
    block = jax.jit(function, compiler_options=options)
    _options_of[block] = options
    return block


_options_of: weakref.WeakKeyDictionary[Callable[..., Any], dict[str, Any]] = (
    weakref.WeakKeyDictionary()
)


def part_of_larger_program(block: functools.partial[Any]) -> functools.partial[Any]:
    """The block without options of the compiler, which JAX refuses within another function."""
    if block.func not in _options_of:
        return block
    return functools.partial(inspect.unwrap(block.func), *block.args, **block.keywords)


def _on_mesh(block: functools.partial[Any], indices: np.ndarray, places: tuple[Device, ...]) -> Any:
    """All blocks at once, one on each device, as one sharded program."""
    leaves, tree = jax.tree.flatten((block.args, block.keywords))
    moving = tuple(isinstance(leaf, jax.Array | np.ndarray | np.generic | float) for leaf in leaves)
    still = tuple(None if m else leaf for m, leaf in zip(moving, leaves, strict=True))
    options = tuple(_options_of.get(block.func, {}).items())
    function = part_of_larger_program(block).func
    run, sharding = _sharded(function, tree, still, moving, places, options)
    values = [leaf for m, leaf in zip(moving, leaves, strict=True) if m]
    flat = indices.reshape(-1, indices.shape[-1])
    result = run(values, jax.make_array_from_callback(flat.shape, sharding, lambda at: flat[at]))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(result, tiled=True)
    return jax.tree.map(np.asarray, result)


@functools.lru_cache(maxsize=64)
def _sharded(
    function: Callable[..., Any],
    tree: Any,
    still: tuple[Any, ...],
    moving: tuple[bool, ...],
    places: tuple[Device, ...],
    options: tuple[tuple[str, Any], ...],
) -> tuple[Callable[..., Any], NamedSharding]:
    """A jitted function of its array arguments and of the indices of all devices."""
    mesh = Mesh(np.array(places), ("trials",), axis_types=(AxisType.Auto,))

    def one(values: list[Any], indices: jax.Array) -> Any:
        rest = iter(values)
        leaves = [next(rest) if m else leaf for m, leaf in zip(moving, still, strict=True)]
        args, keywords = jax.tree.unflatten(tree, leaves)
        return function(*args, indices, **keywords)

    # No trial talks to another, so nothing has to be checked for being equal on all devices.
    every = jax.shard_map(
        one, mesh=mesh, in_specs=(P(), P("trials")), out_specs=P("trials"), check_vma=False
    )
    return jax.jit(every, compiler_options=dict(options) or None), NamedSharding(mesh, P("trials"))


def map_rows_bit_stable(trials: Callable[[jax.Array], Any], indices: jax.Array) -> Any:
    """Like ``lax.map(trials, indices)``, but row i gives the same bits in a batch of any size.

    XLA unrolls a loop of length one and then rounds differently, so the loop always has at least
    two rows (``map_trials(…, loops=True)`` adds idle ones). Rows whose index is that of an idle
    row are skipped.
    """
    steps = (indices[:, 0] != IDLE_ROW_INDEX).sum(dtype=jnp.int32)
    empty = jax.tree.map(
        lambda one: jnp.zeros((len(indices), *one.shape), one.dtype),
        jax.eval_shape(trials, indices[0]),
    )

    def step(row: jax.Array, results: Any) -> Any:
        return jax.tree.map(lambda all, one: all.at[row].set(one), results, trials(indices[row]))

    return lax.fori_loop(0, steps, step, empty)


IDLE_ROW_INDEX = np.uint32(2**32 - 1)
"""First number of a row that a loop skips; no trial has this index."""


def one_by_one_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run for one example after another under ``vmap`` on the CPU.

    For LAPACK calls: a batched one is no faster there, and not safe beside another.
    """
    return sequential_vmap(function) if jax.default_backend() == "cpu" else function
