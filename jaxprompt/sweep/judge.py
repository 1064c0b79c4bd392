"""The statuses of a sweep's cells, from the comparison that the claim's check makes.

Comparisons are made from the stored numbers, predictions included; nothing is predicted again
where the standard comparison asks for a cell's own prediction. Where each cell is judged by
itself, the stored columns are judged as they are. A comparison of several cells has rows, of which
each names the parameters it speaks of, and so a box of the grid, in which each cell gets the
gravest verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt import stats
from jaxprompt.core.claim import FALSE_ALARM, Cell, Claim, Relation
from jaxprompt.core.comparing import EXACT_RELATIONS, standard_comparison
from jaxprompt.core.quantities import AtLeast, AtMost, Quantity
from jaxprompt.errors import NumericalError
from jaxprompt.stats import Comparison, Status
from jaxprompt.sweep.config import Sweep
from jaxprompt.sweep.store import (
    ESTIMATE_KINDS,
    PREDICTION_SIDES,
    STATUS_CODES,
    SweepStore,
    dof_column,
    kind_column,
    make_estimate,
    side_column,
)
from jaxprompt.sweep.verdicts import (
    Columns,
    decide_columns,
    decide_equivalence_columns,
    join_columns,
)

__all__ = ["judge_cells"]

_GRAVITY = (Status.CONFIRMED, Status.INCONCLUSIVE, Status.FAILED, Status.REFUTED)
"""From the mildest verdict to the one that decides, as :func:`stats.combine_statuses` has it."""

_JOINING = (Relation.ASYMPTOTIC, Relation.RATE)
"""Relations whose standard comparison joins the cells of several sizes."""

_LEAST_SIZES = 3
_STATEMENT = PREDICTION_SIDES.index("statement")
_FAILED = STATUS_CODES.index(Status.FAILED)
Grid = Mapping[str, Mapping[Any, int]]
"""The place of each value along each dimension."""


def judge_cells(sweep: Sweep, store: SweepStore) -> np.ndarray:
    """Status code of each cell (int8, in the grid's shape).

    A claim about a limit, swept over at least three sizes, is judged by extrapolation and every
    cell of a group gets the group's status; at fewer sizes each cell is judged by whether its
    difference lies within the claim's tolerance. Other claims are judged cell by cell. All
    comparisons with sampling error share one false-alarm rate, so growing a sweep judges those
    cells again; exact cells keep the status they have. A cell that no comparison speaks of is
    inconclusive; one that was not computed has failed.
    """
    target, done = sweep.target, store.done
    codes = np.full(store.shape, _FAILED, dtype=np.int8)
    joins_sizes = target.compare is None and target.relation in _JOINING
    enough = len(sweep.grid.get(target.size, ())) >= _LEAST_SIZES and bool(done.all())
    chosen = done
    if target.compare or target.also or (joins_sizes and enough):
        grid = {n: {_hashable(v): i for i, v in enumerate(vs)} for n, vs in sweep.grid.items()}
        try:
            comparisons = _compared_together(sweep, store, grid)
        except NumericalError:  # the limit has no number there: the cells keep theirs, no verdict
            return codes
        gravity = _gravest(target, stats.decide(comparisons, FALSE_ALARM), grid, store.shape)
    elif target.relation is Relation.RATE:
        gravity = np.zeros(store.shape, dtype=np.int8)  # an exponent needs sizes to be joined
    elif target.relation is Relation.ASYMPTOTIC:
        gravity = _judge_alone(sweep, store, chosen, decide_equivalence_columns)
    else:
        chosen = done & ((store.codes == 0) | (store.codes == _FAILED) | _noisy(store))
        gravity = _judge_alone(sweep, store, chosen, decide_columns)
    by_gravity = np.array([0, *(STATUS_CODES.index(status) for status in _GRAVITY)], dtype=np.int8)
    found = by_gravity[gravity]
    found[(found == 0) & _has_numbers(store)] = STATUS_CODES.index(Status.INCONCLUSIVE)
    found[found == 0] = _FAILED
    codes[done] = store.codes[done]
    codes[chosen] = found[chosen]
    return codes


def _judge_alone(
    sweep: Sweep,
    store: SweepStore,
    chosen: np.ndarray,
    decide: Callable[[Columns, float], np.ndarray],
) -> np.ndarray:
    """The gravest verdict on each cell that has numbers, as :func:`_gravest` has it.

    A quantity that ignores parameters of the grid has one row for all cells that differ only
    there, and its verdict is theirs.
    """
    places: list[np.ndarray] = []
    tables: list[Columns] = []
    joined: list[np.ndarray] = []
    every = np.arange(chosen.size).reshape(store.shape)
    for quantity in sweep.target.quantities:
        side = store.numbers(side_column(quantity.name))
        if (side == _STATEMENT).any():  # what a law says of one cell needs its trials
            continue
        compared = chosen & ~np.isnan(store.numbers(quantity.name)) & ~np.isnan(side)
        alike = every
        for axis, name in enumerate(sweep.grid):
            if name in quantity.ignores:
                alike = np.broadcast_to(alike.take([0], axis), store.shape)
        _, first = np.unique(alike[compared], return_index=True)
        cells = np.flatnonzero(compared)[first]
        places.append(alike.flat[cells])
        joined.append(alike)
        tables.append(_columns(sweep, store, quantity, cells))
    gravity = np.zeros(store.shape, dtype=np.int8)
    if not tables:
        return gravity
    verdicts = decide(join_columns(tables), FALSE_ALARM)
    ends = np.cumsum([len(cells) for cells in places])[:-1]
    for cells, alike, found in zip(places, joined, np.split(verdicts, ends), strict=True):
        rank = np.zeros(chosen.size, dtype=np.int8)
        for place, status in enumerate(_GRAVITY):
            rank[cells[found == status]] = 1 + place
        gravity = np.maximum(gravity, rank[alike])
    return gravity


def _columns(sweep: Sweep, store: SweepStore, quantity: Quantity, cells: np.ndarray) -> Columns:
    """What the standard comparison of a quantity says of these cells (flat indices)."""
    name, relation = quantity.name, sweep.target.relation

    def stored(column: str) -> np.ndarray:
        return store.numbers(column).reshape(-1)[cells]

    predicted, mean, stderr = stored(f"{name}_predicted"), stored(name), stored(f"{name}_stderr")
    trials = store.trials.reshape(-1)[cells]
    kinds = np.nan_to_num(stored(kind_column(name)))
    undeclared, exact, proportion = (
        kinds == ESTIMATE_KINDS.index(kind) for kind in ("undeclared", "exact", "proportion")
    )
    if quantity.proportion:
        proportion |= ~exact
    elif relation in EXACT_RELATIONS:
        exact |= undeclared & (stderr == 0)
    stored_dof = stored(dof_column(name))
    tolerance, rounding = _allowances(sweep, quantity, cells, predicted)
    sides = np.select(
        [stored(side_column(name)) == PREDICTION_SIDES.index(s) for s in ("at most", "at least")],
        [1, -1],
        {"upper": 1, "lower": -1, "two": 0, "predicted": 0, "": int(relation is Relation.BOUND)}[
            quantity.side
        ],
    )
    return Columns(
        predicted,
        stored(f"{name}_predicted_stderr"),
        mean,
        np.where(exact, 0.0, stderr),
        np.where(np.isnan(stored_dof), np.maximum(trials - 1, 1), stored_dof),
        trials,
        tolerance,
        rounding,
        sides,
        exact,
        proportion,
    )


def _allowances(
    sweep: Sweep, quantity: Quantity, cells: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tolerance and rounding of a quantity at these cells, where they are functions one by one."""
    tolerance, size = quantity.tolerance, quantity.magnitude
    points = [{}] * len(cells)
    if callable(tolerance) or callable(size):
        shape = sweep.shape
        indices = np.stack(np.unravel_index(cells, shape), axis=1).tolist()
        points = [sweep.parameters(tuple(index)) for index in indices]
    if callable(tolerance):
        allowed = [
            float(quantity.allowance(value, point))
            for value, point in zip(predicted.tolist(), points, strict=True)
        ]
    else:
        allowed = quantity.allowance(predicted) if quantity.relative else float(tolerance)
    rounding = [quantity.rounding(p) for p in points] if callable(size) else quantity.rounding({})
    return (
        np.broadcast_to(np.asarray(allowed, np.float64), predicted.shape),
        np.broadcast_to(np.asarray(rounding, np.float64), predicted.shape),
    )


def _compared_together(sweep: Sweep, store: SweepStore, grid: Grid) -> list[Comparison]:
    """The claim's own comparison of all cells, or the standard one with the rows added to it."""
    target, cells = sweep.target, list(_cells(sweep, store, store.done))
    if target.compare is not None:
        return list(target.compare(target, cells, target.predict))
    stored = _stored_predictor(sweep, store, grid)
    comparisons = standard_comparison(target)(target, cells, stored)
    if target.also is not None:
        comparisons += target.also(target, cells, target.predict)
    return comparisons


def _cells(sweep: Sweep, store: SweepStore, chosen: np.ndarray) -> Iterator[Cell]:
    """The chosen cells with what was measured there."""
    places, trials = np.nonzero(chosen), store.trials[chosen].tolist()
    measured = {
        name: [
            store.numbers(column)[chosen].tolist()
            for column in (name, f"{name}_stderr", kind_column(name), dof_column(name))
        ]
        for name in store.quantities
    }
    for row, index in enumerate(zip(*(p.tolist() for p in places), strict=True)):
        estimates = {
            name: make_estimate(means[row], errors[row], trials[row], kinds[row], dofs[row])
            for name, (means, errors, kinds, dofs) in measured.items()
            if means[row] == means[row]  # NaN where the simulation gave no such quantity
        }
        yield Cell(sweep.parameters(index), estimates)


def _stored_predictor(sweep: Sweep, store: SweepStore, grid: Grid) -> Callable[..., dict[str, Any]]:
    """The claim's `predict`, which looks the grid's own points up."""
    target = sweep.target
    columns = {
        name: tuple(
            store.numbers(column)
            for column in (f"{name}_predicted", f"{name}_predicted_stderr", side_column(name))
        )
        for name in store.quantities
    }
    makers = (float, AtMost, AtLeast)
    count = len(sweep.fixed) + len(grid)

    def predict(point: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        parameters = named if point is None else {**point, **named} if named else point
        if len(parameters) == count:
            try:
                index = tuple(places[_hashable(parameters[n])] for n, places in grid.items())
            except KeyError:
                return target.predict(**parameters)
            if all(parameters.get(n) == v for n, v in sweep.fixed.items()):
                found: dict[str, Any] = {}
                for name, (values, errors, sides) in columns.items():
                    side = sides[index]
                    if side == _STATEMENT:
                        return target.predict(**parameters)
                    if side == side:  # NaN where there is no prediction
                        found[name] = makers[int(side)](values[index])
                        found[f"{name}_stderr"] = float(errors[index])
                return found
        return target.predict(**parameters)

    return predict


def _gravest(
    target: Claim, rows: Iterable[stats.Row], grid: Grid, shape: Sequence[int]
) -> np.ndarray:
    """The gravest verdict that speaks of each cell: 0 for none, else 1 + its place in _GRAVITY."""
    found = np.zeros(shape, dtype=np.int8)
    ranks = {status: 1 + rank for rank, status in enumerate(_GRAVITY)}
    ignored = {q.name: frozenset(q.ignores) for q in target.quantities}
    for row in rows:
        box = _box(row.parameters, ignored[row.quantity], grid)
        if box is None:
            continue
        if all(len(places) == 1 for places in box):
            index, rank = tuple(places[0] for places in box), ranks[row.verdict]
            found[index] = max(int(found[index]), rank)
        else:
            at = np.ix_(*box)
            found[at] = np.maximum(found[at], ranks[row.verdict])
    return found


def _box(
    parameters: Mapping[str, Any], ignored: frozenset[str], grid: Grid
) -> list[Sequence[int]] | None:
    """Places along each dimension that a row speaks of; None where it is about no cell.

    A row that joins several cells has a list of their values where a cell has a single one.
    """
    box: list[Sequence[int]] = []
    for name, places in grid.items():
        if name not in parameters or name in ignored or len(places) == 1:
            box.append(range(len(places)))
            continue
        value = _hashable(parameters[name])
        if value in places:
            box.append((places[value],))
        elif isinstance(value, tuple):
            box.append([places[item] for item in value if item in places])
        else:
            return None
    return box


def _hashable(value: Any) -> Any:
    """Equal keys for equal values: a size may be a float in a row, and an integer in a cell."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _noisy(store: SweepStore) -> np.ndarray:
    """Cells of which some number has sampling error, or may have."""
    found = np.zeros(store.shape, dtype=bool)
    for name in store.quantities:
        kinds = store.numbers(kind_column(name))
        found |= ~np.isnan(kinds) & (kinds != ESTIMATE_KINDS.index("exact"))
        found |= np.nan_to_num(store.numbers(f"{name}_predicted_stderr")) != 0
    return found


def _has_numbers(store: SweepStore) -> np.ndarray:
    found = np.zeros(store.shape, dtype=bool)
    for name in store.quantities:
        found |= ~np.isnan(store.values(name))
    return found
