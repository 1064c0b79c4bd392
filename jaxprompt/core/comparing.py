"""The standard comparisons of measured with predicted numbers, by relation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxprompt import stats
from jaxprompt.core.json_values import canonical
from jaxprompt.core.relation import Relation
from jaxprompt.stats import Comparison

if TYPE_CHECKING:
    from jaxprompt.core.claim import Cell, Claim, Predictor, Quantity

__all__ = ["COMPARE", "compare_cells", "compare_limit", "group_by_size"]


def compare_cells(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Each quantity of each cell against its prediction; one-sided for a bound."""
    side = "upper" if claim.relation is Relation.BOUND else "two"
    comparisons, seen = [], set()
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name, estimate in cell.estimates.items():
            if _repeats(claim.quantity(name), cell.parameters, seen):
                continue
            value = float(predicted[name])
            comparisons.append(
                stats.compare_mean(
                    name,
                    cell.parameters,
                    value,
                    estimate,
                    side=side,
                    tolerance=claim.quantity(name).allowance(value),
                    predicted_stderr=float(predicted.get(f"{name}_stderr", 0.0)),
                )
            )
    return comparisons


def compare_limit(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Each quantity extrapolated over the size parameter, at otherwise equal parameters."""
    comparisons, seen = [], set()
    for rest, members in group_by_size(cells, claim.size):
        sizes = [cell.parameters[claim.size] for cell in members]
        at = [predict(**cell.parameters) for cell in members]
        limit = predict(**rest)
        for name in members[-1].estimates:
            if _repeats(claim.quantity(name), rest, seen):
                continue
            value = float(limit[name])
            comparisons.append(
                stats.compare_asymptotic(
                    name,
                    {**rest, claim.size: sizes},
                    sizes,
                    [float(p[name]) for p in at],
                    [cell.estimates[name] for cell in members],
                    limit=value,
                    order=max(1, min(claim.order, len(set(sizes)) - 2)),
                    tolerance=claim.quantity(name).allowance(value),
                    predicted_stderr=float(limit.get(f"{name}_stderr", 0.0)),
                )
            )
    return comparisons


def group_by_size(
    cells: Sequence[Cell], size: str, least: int = 1
) -> Iterator[tuple[dict[str, Any], list[Cell]]]:
    """Cells that differ in the parameter `size` alone, in its order, and what they share.

    Groups of fewer than `least` cells are left out: a comparison that joins sizes says nothing
    of them.
    """
    groups: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in cells:
        rest = {name: value for name, value in cell.parameters.items() if name != size}
        groups.setdefault(canonical(rest), (rest, []))[1].append(cell)
    for rest, members in groups.values():
        if len(members) >= least:
            yield rest, sorted(members, key=lambda cell: cell.parameters[size])


def _repeats(quantity: Quantity, parameters: Mapping[str, Any], seen: set[str]) -> bool:
    """Whether a row for this quantity exists already, up to the parameters it ignores."""
    rest = {n: v for n, v in parameters.items() if n not in quantity.ignores}
    mark = f"{quantity.name} {canonical(rest)}"
    if mark in seen:
        return True
    seen.add(mark)
    return False


COMPARE: dict[Relation, Callable[[Claim, Sequence[Cell], Predictor], list[Comparison]]] = {
    Relation.IDENTITY: compare_cells,
    Relation.MEAN: compare_cells,
    Relation.BOUND: compare_cells,
    Relation.ASYMPTOTIC: compare_limit,
    Relation.RATE: compare_cells,
    Relation.EXISTENCE: compare_cells,
    Relation.IMPOSSIBILITY: compare_cells,
}
