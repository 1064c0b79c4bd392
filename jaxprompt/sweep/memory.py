"""What a sweep needs of this machine's memory, estimated before anything is made or computed.

Estimates are lower bounds, so that nothing that fits is refused: of a simulation, the arrays of
its largest single step that a compiled program has to hold as a whole (operands and results of
products, factorisations, sorts and loops); of the results, what Python holds of every cell.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprompt.compute.devices import block_observer, map_trials
from jaxprompt.compute.workers import WorkerPool
from jaxprompt.core.claim import Claim
from jaxprompt.core.keys import as_key
from jaxprompt.errors import UsageError
from jaxprompt.sweep.config import Sweep
from jaxprompt.sweep.fingerprint import functions_reached

__all__ = ["available_memory", "refuse_what_cannot_fit", "simulation_memory"]

BYTES_PER_CELL = 2000
"""What Python holds of one cell while it is judged, beside its numbers; measured on a million."""

_BYTES_PER_NUMBER = 40
"""A stored number: in the store, in the dataset, and a copy while it is judged."""

_WHOLE_ARRAYS = {
    *("dot_general", "conv_general_dilated", "cholesky", "eigh", "svd", "lu", "qr", "geqrf"),
    *("householder_product", "triangular_solve", "sort", "fft", "scan", "while", "cumsum"),
}
"""Operations whose operands and results XLA keeps as arrays; others may be fused away."""


def refuse_what_cannot_fit(sweep: Sweep, executor: Any = None) -> None:
    """Refuse a sweep whose largest cell, or whose results, this machine cannot hold.

    The cells of a dask client are computed on other machines, so only the results count there.

    Raises:
        UsageError: it needs more than there is; the message says what would fit.
    """
    limit, whose = available_memory()
    cells = math.prod(sweep.shape)
    needed = cells * (BYTES_PER_CELL + _BYTES_PER_NUMBER * 4 * len(sweep.target.quantities))
    if needed > limit:
        raise UsageError(
            f"a sweep of {cells} cells needs {_in_words(needed)} for its results, {whose} "
            f"{_in_words(limit)}: at most {cells * limit // needed} cells fit; split the sweep"
        )
    if executor is not None and hasattr(executor, "get_executor"):
        return
    workers = executor.workers if isinstance(executor, WorkerPool) else 1
    run = _largest_run(sweep)
    estimate = simulation_memory(sweep.target, sweep.trials, run, limit)
    needed = workers * estimate.held(estimate.value)
    if needed > limit:
        fitting = estimate.value
        while fitting > 0 and workers * estimate.held(fitting) > limit:
            fitting //= 2
        shown = f"`{estimate.name}` = {estimate.value}" if estimate.name else "its largest cell"
        remedy = f"`{estimate.name}` up to {fitting} fits" if fitting else "choose another size"
        raise UsageError(
            f"{sweep.claim} at {shown} needs {_in_words(needed)}, {whose} {_in_words(limit)}: "
            f"{remedy}"
        )


def available_memory() -> tuple[int, str]:
    """The bytes that this process may hold, and whose limit that is ("this machine has")."""
    physical = _page_count() * resource.getpagesize()
    limits = [(physical, "this machine has")] if physical else []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        left = max(0, soft - _virtual_bytes())
        limits.append((left, "the limit of this process (ulimit -v) leaves"))
    with contextlib.suppress(OSError, ValueError):
        limits.extend((value, "this container has") for value in _cgroup_limits())
    return min(limits, default=(2**63 - 1, "this machine has"))


def _page_count() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _virtual_bytes() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def _cgroup_limits() -> Iterator[int]:
    """Limits of this process's control groups, of either version."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if base not in (place, *place.parents):
                break
            file = place / name
            if file.is_file():
                text = file.read_text(encoding="ascii").strip()
                if text.isdecimal():
                    yield int(text)


# --- a simulation ---

_TRACED_DIRECTLY = 2**15
"""Size up to which shapes are traced as they are; loops that Python unrolls take seconds there."""

_TRACED_FIRST, _TRACED_SECOND = 2**11, 2**13
"""Sizes whose shapes say how memory grows to those beyond."""


class SimulationMemory(NamedTuple):
    """The integer parameter that decides what a simulation holds, its value, and how it grows.

    `held` maps a size to bytes; it gives 0 where nothing is known.
    """

    name: str
    value: int
    held: Callable[[int], float]


def simulation_memory(
    target: Claim, trials: int, run: Mapping[str, Any], limit: int
) -> SimulationMemory:
    """What one simulation holds at least, in bytes, by the size of its largest integer.

    A claim may say it itself, by its `memory`, a function of parameters that gives bytes. Else the
    shapes of the compiled trials are traced, without computing any, where the simulation is one
    of trials and a matrix as wide as that integer would take more than 1/64 of `limit`; beyond
    some size they are extrapolated by their power of it.
    """
    values = target.validated(run, simulate=True)
    whole = {n: v for n, v in run.items() if type(v) is int}
    name = max(whole, key=lambda n: whole[n], default="")
    value = whole.get(name, 0)
    if target.memory is not None:
        arguments = inspect.signature(target.memory).parameters
        more = {"trials": trials} if "trials" in arguments else {}
        says = target.memory
        return SimulationMemory(
            name,
            value,
            lambda size: float(says(**{**values, name: size} if name else values, **more)),
        )
    wide = 8 * value**2 > limit / 64
    if not wide or map_trials not in functions_reached(target.simulation, target):
        return SimulationMemory(name, value, lambda size: 0.0)
    traced = functools.lru_cache(lambda size: _trace(target, trials, {**run, name: size}))

    def held(size: int) -> float:
        if size <= _TRACED_DIRECTLY:
            return traced(size)
        first, second = traced(_TRACED_FIRST), traced(_TRACED_SECOND)
        if not first or not second:
            return 0.0
        power = math.log(second / first) / math.log(_TRACED_SECOND / _TRACED_FIRST)
        return second * (size / _TRACED_SECOND) ** max(power, 0.0)

    return SimulationMemory(name, value, held)


def _trace(target: Claim, trials: int, run: Mapping[str, Any]) -> float:
    """Bytes of the largest step of the compiled trials; 0 where they cannot be traced."""
    token = block_observer.set(_raise_bytes)
    try:
        target.simulate(key=as_key(0), trials=trials, **run)
    except _Traced as traced:
        return traced.held
    except (ArithmeticError, ValueError, TypeError, MemoryError):
        return 0.0  # the cell itself says what is wrong with it
    finally:
        block_observer.reset(token)
    return 0.0


class _Traced(Exception):
    """The shapes are known, so the simulation ends here."""

    def __init__(self, held: int) -> None:
        super().__init__(held)
        self.held = held


def _raise_bytes(block: Callable[..., Any], indices: np.ndarray) -> None:
    jaxpr = jax.make_jaxpr(block)(indices[0])
    raise _Traced(len(indices) * _largest_step(jaxpr.jaxpr))


def _largest_step(jaxpr: Any) -> int:
    """Bytes of the operands and results of the largest operation that holds whole arrays."""
    largest = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _WHOLE_ARRAYS:
            held = [*equation.invars, *equation.outvars]
            largest = max(largest, sum(_array_bytes(variable.aval) for variable in held))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest_step(inner))
    return largest


def _array_bytes(shape: Any) -> int:
    try:
        return math.prod(shape.shape) * shape.dtype.itemsize
    except AttributeError:  # a key or a token
        return 0


def _largest_run(sweep: Sweep) -> dict[str, Any]:
    """The run of the grid with the largest of every integer."""
    run = dict(sweep.fixed)
    for name, values in sweep.grid.items():
        if name in sweep.target.shared:
            run[name] = list(values)
        else:
            run[name] = max(values) if all(type(v) is int for v in values) else values[0]
    return run


def _in_words(size: float) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(int(math.log2(max(size, 1))) // 10, len(units) - 1)
    return f"{size / 1024**power:.3g} {units[power]}"
