"""Many small simulations that differ only in numbers, in one compiled program.

A cell of a sweep may compute for less time than it takes to start its program. So the trials of
many cells become rows of one loop: a row is a batch of trials of one cell, and its body is that of
the cell's own program, at numbers that are looked up in a table. The table and the loop have one
shape whatever the number of cells and of trials, so one compilation serves all, and what a row
gives depends on its cell and its trials alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from jaxprompt.compute.devices import (
    IDLE_ROW_INDEX,
    ROWS,
    cores,
    devices,
    map_rows_bit_stable,
    run_on_threads,
)

__all__ = [
    "LARGEST_CELL",
    "Structure",
    "cells_share_programs",
    "loop_over_rows",
    "map_cells",
    "structure_of",
    "with_cells",
]

LARGEST_CELL = 2**16
"""Bytes of numbers of one cell, above which cells are simulated one after another."""


class Structure(NamedTuple):
    """What the cells of one program have in common, hashable.

    `tree` is that of JAX, `weak` tells which leaves are Python numbers, `shapes` the others' shapes
    and types.
    """

    tree: Any
    weak: tuple[bool, ...]
    shapes: tuple[tuple[tuple[int, ...], str], ...]


def structure_of(cell: Any) -> Structure | None:
    """The structure of a tree of Python numbers and arrays; None if it is too large for a table."""
    leaves, tree = jax.tree.flatten(cell)
    arrays = [np.asarray(leaf) for leaf in leaves]
    if sum(array.nbytes for array in arrays) > LARGEST_CELL:
        return None
    if any(a.dtype.kind == "i" and max(map(abs, a.flat), default=0) >= 2**31 for a in arrays):
        return None  # types of 32 bits do not hold it
    weak = tuple(type(leaf) in (int, float) for leaf in leaves)
    return Structure(tree, weak, tuple((a.shape, a.dtype.str) for a in arrays))


def _look_up(structure: Structure, columns: Sequence[jax.Array], slot: jax.Array) -> Any:
    """The tree of one cell, inside a program that has the numbers of all.

    A Python number is again one to JAX, that is: it takes the type of what it meets.
    """
    leaves = [
        _as_python_number(column[slot]) if weak else column[slot]
        for column, weak in zip(columns, structure.weak, strict=True)
    ]
    # Nothing of the look-up is fused into what follows, which so is rounded in one way.
    return jax.tree.unflatten(structure.tree, jax.lax.optimization_barrier(leaves))


def _as_python_number(value: jax.Array) -> jax.Array:
    return convert_element_type_p.bind(value, new_dtype=value.dtype, weak_type=True, sharding=None)


def loop_over_rows(
    batch_of_trials: Callable[[jax.Array, Any], Any],
    structure: Structure,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[np.ndarray, Sequence[np.ndarray]], Any]:
    """A compiled program for :func:`map_cells`, of cells of one structure.

    ``batch_of_trials(indices, cell)`` gives what trials (uint32, batch) of a cell return, each
    result with `batch` as its first axis.
    """

    def block(rows: jax.Array, columns: Sequence[jax.Array]) -> Any:
        def row(numbers: jax.Array) -> Any:
            cell = _look_up(structure, columns, numbers[0].astype(jnp.int32))
            return batch_of_trials(numbers[1:], cell)

        return map_rows_bit_stable(row, rows)

    return jax.jit(block, compiler_options=compiler_options or None)


def map_cells(
    program: Callable[[np.ndarray, Sequence[np.ndarray]], Any],
    cells: Sequence[Any],
    trials: int,
    *,
    batch: int = 1,
    first: int = 0,
    threads: int | None = None,
) -> Any:
    """Run a program of :func:`loop_over_rows` over the trials `first` … of every cell.

    Results are trees of NumPy arrays (cells, trials, …). The JAX settings are the caller's.
    """
    leaves = zip(*map(jax.tree.leaves, cells), strict=True)
    table = [np.stack([np.asarray(leaf) for leaf in column]) for column in leaves]
    needed = -(-trials // batch)
    used = len(cells) * needed
    indices = first + np.arange(needed * batch, dtype=np.uint64).reshape(needed, batch)
    rows = np.full((-(-used // ROWS) * ROWS, 1 + batch), IDLE_ROW_INDEX, np.uint32)
    rows[:used, 0] = np.repeat(np.arange(len(cells), dtype=np.uint32), needed)
    rows[:used, 1:] = np.tile(indices.astype(np.uint32), (len(cells), 1))
    calls = rows.reshape(-1, ROWS, 1 + batch)

    def run(rows: np.ndarray) -> Any:
        lowest = rows[0, 0]
        places = np.minimum(lowest + np.arange(ROWS), len(cells) - 1)
        local = rows.copy()
        local[:, 0] -= np.where(rows[:, 0] == IDLE_ROW_INDEX, np.uint32(0), lowest)
        return program(local, [column[places] for column in table])

    workers = min(threads or cores(), len(calls))
    parts = run_on_threads(run, calls, [None] * len(calls), workers)

    def join(*arrays: np.ndarray) -> np.ndarray:
        joined = np.concatenate(arrays)[:used]
        return joined.reshape(len(cells), needed * batch, *joined.shape[2:])[:, :trials]

    return jax.tree.map(join, *parts)


def cells_share_programs() -> bool:
    """Whether they may: on one device. On a mesh one cell is enough for all."""
    return len(devices()) == 1


def with_cells(simulation: Any, many: Callable[..., list[Any]]) -> Any:
    """The simulation, with its ``simulate_cells(points, *, key_words, trials, first=0)``.

    That gives for each point (validated parameters) what the simulation gives there, or None
    where the simulation is better called by itself. `key_words` holds the words of the points'
    threefry keys (points × 2, uint32). Simulations made by ``per_trial`` have one.
    """
    simulation.simulate_cells = many
    return simulation
