"""The memory that this process may hold, and what compiled trials would hold of it."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprompt.compute.devices import block_observer, is_compiled, part_of_larger_program

resource: Any
try:
    import resource
except ImportError:  # a system without limits of processes
    resource = None

__all__ = [
    "TrialMemory",
    "available_memory",
    "bytes_in_words",
    "share_memory",
    "trace_block",
    "trace_trials",
    "usable_memory",
]

_processes = 1


def share_memory(processes: int) -> None:
    """Say that so many processes, of which this is one, share the machine's memory."""
    global _processes
    _processes = max(1, processes)


def available_memory() -> tuple[int, str]:
    """The bytes that this process may hold, and whose limit that is ("this machine has")."""
    if resource is None:
        return 2**63 - 1, "this machine has"
    physical = _page_count() * resource.getpagesize()
    limits = [(physical // _processes, "this machine has")] if physical else []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        unused = max(0, soft - _virtual_bytes())
        limits.append((unused, "the limit of this process (ulimit -v) leaves"))
    with contextlib.suppress(OSError, ValueError):
        limits.extend((value // _processes, "this container has") for value in _cgroup_limits())
    return min(limits, default=(2**63 - 1, "this machine has"))


def usable_memory() -> tuple[int, str]:
    """As :func:`available_memory`, and no more than what other programs leave free just now."""
    limits = [available_memory()]
    with contextlib.suppress(OSError, ValueError):
        limits.append((_free_bytes() // _processes, "free on this machine are"))
    return min(limits)


def bytes_in_words(size: float) -> str:
    """A number of bytes as people write it, such as ``3.1 GiB``."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(int(math.log2(max(size, 1))) // 10, len(units) - 1)
    return f"{size / 1024**power:.3g} {units[power]}"


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


def _free_bytes() -> int:
    """What the system can give without taking it from others (``MemAvailable``)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise ValueError("this system does not say what is free")


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


# --- compiled trials ---

_WHOLE_ARRAYS = {
    *("dot_general", "conv_general_dilated", "cholesky", "eigh", "svd", "lu", "qr", "geqrf"),
    *("householder_product", "triangular_solve", "sort", "fft", "scan", "while", "cumsum"),
}
"""Operations whose operands and results XLA keeps as arrays; others may be fused away."""


class TrialMemory(NamedTuple):
    """What the first blocks of trials of a simulation hold.

    Attributes:
        at_least: bytes of one block, by the largest step of its program: a lower bound.
        blocks: how many run at the same time.
        compiled: bytes of one block as XLA lays them out; 0 where nothing was compiled.
    """

    at_least: int
    blocks: int
    compiled: int = 0


def trace_trials(
    simulate: Callable[[], Any], compile_if: Callable[[TrialMemory], bool]
) -> TrialMemory:
    """What the trials that `simulate` would run first hold; none of them runs.

    All is 0 where `simulate` runs no trials, or refuses what it is asked.
    """

    def observe(block: Callable[..., Any], indices: np.ndarray) -> int:
        raise _Traced(trace_block(block, indices, compile_if))

    token = block_observer.set(observe)
    try:
        simulate()
    except _Traced as traced:
        return traced.memory
    except (ArithmeticError, ValueError, TypeError, MemoryError):
        pass  # the simulation itself says what is wrong with it
    finally:
        block_observer.reset(token)
    return TrialMemory(0, 1)


def trace_block(
    block: Callable[..., Any], indices: np.ndarray, compile_if: Callable[[TrialMemory], bool]
) -> TrialMemory:
    """What blocks of trials hold that run at the same time, one for each row of `indices`.

    The program is compiled too if `compile_if` asks for it, which is given the lower bound. Of a
    block that computes by NumPy nothing is known: 0.
    """
    if not is_compiled(block):
        return TrialMemory(0, len(indices))
    if isinstance(block, functools.partial):
        block = part_of_larger_program(block)
    traced = TrialMemory(_largest_step(jax.make_jaxpr(block)(indices[0]).jaxpr), len(indices))
    if not compile_if(traced):
        return traced
    layout: Any = jax.jit(block).lower(indices[0]).compile().memory_analysis()
    if layout is None:  # a backend that does not say
        return traced
    return traced._replace(compiled=layout.temp_size_in_bytes + layout.output_size_in_bytes)


class _Traced(Exception):
    """The shapes are known, so the simulation ends here."""

    def __init__(self, memory: TrialMemory) -> None:
        super().__init__(memory)
        self.memory = memory


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
