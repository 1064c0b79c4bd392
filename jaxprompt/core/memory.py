"""What a claim's simulation needs of this machine's memory, before it is started.

What cannot fit is refused in one line. For what nearly fits fewer trials run at the same time,
which changes no number: what a trial gives depends on its index alone.

Estimates rise in steps. A simulation too small to matter is not looked at. The shapes of the trials
of a larger one are traced, which bounds it from below. If that comes near to what there is, the
program is compiled and says what it holds. Nothing is computed before the answer is known.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxprompt.compute.devices import block_observer, map_trials
from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.compute.memory import (
    TrialMemory,
    bytes_in_words,
    trace_block,
    trace_trials,
    usable_memory,
)
from jaxprompt.compute.trials import TrialSimulation
from jaxprompt.core.fingerprint import functions_reached
from jaxprompt.core.keys import as_key
from jaxprompt.errors import JaxpromptError, UsageError

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = [
    "SimulationMemory",
    "blocks_that_fit",
    "refuse_runs_that_cannot_fit",
    "simulation_memory",
    "trial_outputs",
]

_SMALL = 2**24
"""Bytes below which nothing is looked at."""

_SHARE_LOOKED_AT = 1 / 64
"""Share of the memory from which on a simulation's shapes are traced."""

_SHARE_COMPILED = 1 / 8
"""Share of the memory from which on a lower bound does not do."""

_SHARE_USED = 0.9
"""Share of the memory that trials may fill; the program itself needs some."""

_SAFELY = 2
"""How much less than there is a size must need by a lower bound, to be recommended."""

_COPIES = 3
"""How often what trials return is held, while it is joined and averaged."""

_TRACED_DIRECTLY = 2**15
"""Size up to which shapes are traced as they are; loops that Python unrolls take seconds there."""

_TRACED_FIRST, _TRACED_SECOND = 2**11, 2**13
"""Sizes whose shapes say how memory grows to those beyond."""


class SimulationMemory(NamedTuple):
    """What a simulation holds, by the integer parameter that decides it.

    Attributes:
        name: that parameter; empty where no parameter is an integer.
        value: what it is.
        block: maps a value of it to the bytes of one block of trials; 0 where nothing is known.
        blocks: how many run at the same time.
        results: bytes of what all trials return.
    """

    name: str
    value: int
    block: Callable[[int], float]
    blocks: int = 1
    results: float = 0.0

    def held(self, value: int) -> float:
        """Bytes that it needs at least: one block after another, and the results."""
        return self.block(value) + self.results


def refuse_runs_that_cannot_fit(
    claim: Claim, runs: Iterable[tuple[Mapping[str, Any], int]], processes: int = 1
) -> None:
    """Refuse runs (parameters and trials) of which one cannot be held, even block by block.

    `processes` simulate at the same time.

    Raises:
        UsageError: it cannot; the message says what it needs, what there is and what would fit.
    """
    for run, trials in runs:
        if not _may_matter(claim, run, trials):
            continue
        limit, whose = usable_memory()
        try:
            estimate = simulation_memory(claim, trials, run, limit)
        except JaxpromptError:
            continue  # the run itself says what is wrong with it
        _refuse(claim, estimate, trials, processes, limit, whose)


@contextlib.contextmanager
def blocks_that_fit(claim: Claim, run: Mapping[str, Any], trials: int) -> Generator[None]:
    """Within it no more blocks of trials run at the same time than memory holds.

    Raises:
        UsageError: (at the latest from within, before a block runs) it does not hold one.
    """
    large = block_observer.get() is None and _may_matter(claim, run, trials)
    limit, whose = usable_memory() if large else (0, "")
    name, value = _largest_integer(run)
    if not large or not _is_wide(value, limit):
        yield
        return
    if value > _TRACED_DIRECTLY:
        refuse_runs_that_cannot_fit(claim, [(run, trials)])
        yield
        return

    def choose_blocks(block: Callable[..., Any], indices: np.ndarray) -> int:
        traced = trace_block(block, indices, functools.partial(_is_near, limit))
        held = traced.compiled or traced.at_least
        growth = _proportional(value, held)
        estimate = SimulationMemory(name, value, growth, traced.blocks)
        _refuse(claim, estimate, trials, 1, limit, whose)
        return max(1, int(_SHARE_USED * limit / max(held, 1)))

    token = block_observer.set(choose_blocks)
    try:
        yield
    finally:
        block_observer.reset(token)


def _proportional(value: int, held: float) -> Callable[[int], float]:
    """Bytes that grow as the square of a size, as a matrix does."""
    return lambda size: held * (size / max(value, 1)) ** 2


def _refuse(
    claim: Claim, estimate: SimulationMemory, trials: int, processes: int, limit: int, whose: str
) -> None:
    needed = processes * estimate.held(estimate.value)
    if needed <= limit:
        return
    if processes * estimate.results > limit / 2:
        remedy = f"{int(trials * limit / needed / 2)} trials fit"
    else:
        fitting = estimate.value
        while fitting > 0 and _SAFELY * processes * estimate.held(fitting) > limit:
            fitting //= 2
        remedy = f"`{estimate.name}` up to {fitting} fits" if fitting else "choose another size"
    shown = f"`{estimate.name}` = {estimate.value}" if estimate.name else "its largest size"
    raise UsageError(
        f"{claim.id} at {shown} needs {bytes_in_words(needed)}, {whose} {bytes_in_words(limit)}: "
        f"{remedy}"
    )


def simulation_memory(
    claim: Claim, trials: int, run: Mapping[str, Any], limit: int
) -> SimulationMemory:
    """What one simulation holds, of a memory of `limit` bytes.

    A claim may say it itself, by its `memory`, a function of parameters that gives bytes. Else the
    shapes of the compiled trials are traced, without computing any, where the simulation is one
    of trials and a matrix as wide as its largest integer would take more than 1/64 of `limit`;
    beyond some size they are extrapolated by their power of it.

    Raises:
        ParameterError: no simulation is allowed at `run`.
    """
    values = claim.validated(run, simulate=True)
    name, value = _largest_integer(run)
    if claim.memory is not None:
        arguments = inspect.signature(claim.memory).parameters
        more = {"trials": trials} if "trials" in arguments else {}
        says = claim.memory
        return SimulationMemory(
            name,
            value,
            lambda size: float(says(**{**values, name: size} if name else values, **more)),
        )
    results = _result_bytes(claim, run, trials, limit)
    unknown = SimulationMemory(name, value, lambda size: 0.0, 1, results)
    if not _is_wide(value, limit) or claim.simulation_sets_up:  # a set-up may train
        return unknown
    if not _runs_trials(claim):
        return unknown
    traced = functools.lru_cache(functools.partial(_trace, claim, trials, run, name, limit))

    def held(size: int) -> float:
        if size <= _TRACED_DIRECTLY:
            memory = traced(size)
            return memory.compiled or memory.at_least
        first, second = traced(_TRACED_FIRST).at_least, traced(_TRACED_SECOND).at_least
        if not first or not second:
            return 0.0
        power = math.log(second / first) / math.log(_TRACED_SECOND / _TRACED_FIRST)
        return second * (size / _TRACED_SECOND) ** max(power, 0.0)

    blocks = traced(min(value, _TRACED_FIRST)).blocks
    return SimulationMemory(name, value, held, blocks, results)


def _runs_trials(claim: Claim) -> bool:
    """Whether the simulation is one of compiled trials, as far as its code tells."""
    if isinstance(claim.simulation, TrialSimulation):
        return True
    return map_trials in functions_reached(claim.simulation, claim)


def _trace(
    claim: Claim, trials: int, run: Mapping[str, Any], name: str, limit: int, size: int
) -> TrialMemory:
    return trace_trials(
        lambda: claim.simulate(key=as_key(0), trials=trials, **{**run, name: size}),
        functools.partial(_is_near, limit),
    )


def _is_near(limit: int, memory: TrialMemory) -> bool:
    """Whether a lower bound is so near to the limit that the program has to say itself."""
    return memory.at_least <= limit and memory.at_least * memory.blocks > limit * _SHARE_COMPILED


def _largest_integer(run: Mapping[str, Any]) -> tuple[str, int]:
    whole = {n: v for n, v in run.items() if type(v) is int}
    name = max(whole, key=lambda n: whole[n], default="")
    return name, whole.get(name, 0)


def _is_wide(value: int, limit: int) -> bool:
    """Whether a matrix as wide as `value` would take a share of the memory that matters."""
    return 8 * value**2 > limit * _SHARE_LOOKED_AT


def _may_matter(claim: Claim, run: Mapping[str, Any], trials: int) -> bool:
    """Whether a simulation may hold more than next to nothing, as its largest numbers tell."""
    value = _largest_integer(run)[1]
    returned = trials * max(value, _grid_size(run))
    return claim.memory is not None or 8 * max(value**2, _COPIES * returned) > _SMALL


def _grid_size(run: Mapping[str, Any]) -> int:
    """Entries of the product of all parameters that are lists; 1 where none is."""
    return math.prod(len(v) for v in run.values() if isinstance(v, list | tuple | np.ndarray))


def _result_bytes(claim: Claim, run: Mapping[str, Any], trials: int, limit: int) -> float:
    """Bytes of what all trials return; 0 where that is little or unknown."""
    most = max(_largest_integer(run)[1], _grid_size(run))
    if 8 * _COPIES * trials * most <= limit * _SHARE_LOOKED_AT:
        return 0.0
    numbers = sum(math.prod(shape.shape) for shape in trial_outputs(claim, run).values())
    return 8.0 * _COPIES * trials * numbers * _shared_size(claim, run)


def _shared_size(claim: Claim, run: Mapping[str, Any]) -> int:
    return _grid_size({n: v for n, v in run.items() if n in claim.shared and np.ndim(v)})


def trial_outputs(claim: Claim, run: Mapping[str, Any]) -> dict[str, Any]:
    """Shape and dtype of each number of a trial, at the first value of what trials share.

    Empty for simulations that are not made by ``per_trial``, and for those with a set-up.
    """
    shapes = getattr(claim.simulation, "output_shapes", None)
    if shapes is None:
        return {}
    single = {n: v[0] if n in claim.shared and np.ndim(v) else v for n, v in run.items()}
    values = claim.validated(single, simulate=True)
    with own_settings(x64=True):
        return shapes(claim.id, values)
