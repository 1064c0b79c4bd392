"""The standard comparisons of measured with predicted numbers.

Which one serves follows from what the claim declares: its relation, its instances, and for each
quantity the side, the axis, and the type of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt import stats
from jaxprompt.core.instances import compare_instances
from jaxprompt.core.json_values import canonical
from jaxprompt.core.quantities import AtLeast, AtMost, Distribution, Quantity, Rate, one_sided
from jaxprompt.core.relation import Relation
from jaxprompt.stats import Comparison, Estimate, Side

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.core.designs import Cell
    from jaxprompt.core.falsifiers import Predictor

__all__ = [
    "compare_cells",
    "compare_limit",
    "compare_rates",
    "group_by_size",
    "standard_comparison",
    "summarise",
]

EXACT_RELATIONS = (
    Relation.IDENTITY, Relation.EXISTENCE, Relation.IMPOSSIBILITY, Relation.BOUND,
    Relation.ASYMPTOTIC, Relation.RATE,
)  # fmt: skip
"""Relations that single objects may have: a number without scatter that a simulation of them gives
is exact, unless it is declared to be sampled."""


def standard_comparison(
    claim: Claim,
) -> Callable[[Claim, Sequence[Cell], Predictor], list[Comparison]]:
    """The comparison that a claim's relation calls for."""
    if claim.instance is not None:
        return compare_instances
    if claim.relation is Relation.ASYMPTOTIC:
        return compare_limit
    if claim.relation is Relation.RATE:
        return compare_rates
    return compare_cells


def compare_cells(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Each quantity of each cell against its prediction."""
    comparisons: list[Comparison] = []
    compared: set[str] = set()
    for cell in cells:
        if not cell.estimates:
            continue
        predicted = predict(cell.parameters)
        for name, estimate in cell.estimates.items():
            quantity = claim.quantity(name)
            if name not in predicted:
                # A prediction may say nothing of a quantity at some points.
                continue
            if _mark_compared(quantity, cell.parameters, compared):
                comparisons.append(compare_quantity(claim, quantity, cell, predicted, estimate))
    return comparisons


def compare_quantity(
    claim: Claim,
    quantity: Quantity,
    cell: Cell,
    predicted: Mapping[str, Any],
    estimate: Estimate,
) -> Comparison:
    """One quantity of one cell against its prediction, by the type of both."""
    name, value = quantity.name, predicted[quantity.name]
    where = summarise(cell.parameters)
    if isinstance(value, Distribution):
        return _compare_distribution(quantity, where, value, estimate)
    side = side_of(claim, quantity, value)
    tolerance = quantity.allowance(value, cell.parameters)
    own_error = predicted.get(f"{name}_stderr", 0.0)
    rounding = quantity.rounding(cell.parameters)
    declared = declare_kind(claim, quantity, estimate)
    if claim.relation is Relation.IDENTITY and declared.values is not None:
        declared = _worst_draw(declared, value)
    if np.ndim(value) or np.ndim(declared.mean):
        return stats.compare_band(
            name,
            where,
            np.asarray(value, np.float64),
            declared,
            tolerance=tolerance,
            side=side,
            predicted_stderr=own_error,
            rounding=rounding,
            labels=axis_labels(quantity, cell.parameters, np.shape(declared.mean)),
        )
    return stats.compare_mean(
        name,
        where,
        float(value),
        declared,
        tolerance=float(tolerance),
        predicted_stderr=float(own_error),
        side=side,
        rounding=rounding,
    )


def _compare_distribution(
    quantity: Quantity, where: dict[str, Any], value: Distribution, estimate: Estimate
) -> Comparison:
    tolerance = float(quantity.allowance(1.0, where))
    if value.cdf is not None:
        return stats.compare_distribution(
            quantity.name, where, estimate, tolerance=tolerance, cdf=value.cdf
        )
    assert value.sampler is not None
    # A sampler's own numbers are drawn once, many more than the trials, from a stated stream.
    count = max(100_000, 10 * estimate.trials)
    sample = np.asarray(value.sampler(np.random.default_rng(20_250_101), count), np.float64)
    return stats.compare_distribution(
        quantity.name, where, estimate, tolerance=tolerance, sample=sample
    )


def side_of(claim: Claim, quantity: Quantity, predicted: Any) -> Side:
    """Which differences count: declared by the quantity, the prediction, or the relation."""
    if isinstance(predicted, AtMost | AtLeast) or quantity.side == "predicted":
        return one_sided(predicted)
    if quantity.side:
        return quantity.side  # pyright: ignore[reportReturnType]
    return "upper" if claim.relation is Relation.BOUND else "two"


def declare_kind(claim: Claim, quantity: Quantity, estimate: Estimate) -> Estimate:
    """The estimate with the kind that claim and quantity declare for it."""
    kind: Any = getattr(estimate, "kind", "undeclared")
    values = getattr(estimate, "values", None)
    dof = getattr(estimate, "dof", float(max(estimate.trials - 1, 1)))
    if quantity.proportion and kind in ("undeclared", "sampled") and np.ndim(estimate.mean) == 0:
        kind = "proportion"
    if kind == "undeclared":
        still = not np.any(estimate.stderr)
        kind = "exact" if still and claim.relation in EXACT_RELATIONS else "sampled"
    return Estimate(
        estimate.mean, estimate.stderr, estimate.trials, kind=kind, values=values, dof=dof
    )


def _worst_draw(estimate: Estimate, predicted: Any) -> Estimate:
    """Of an identity's draws the one farthest from the prediction: each of them must equal it."""
    values = estimate.values
    assert values is not None
    deviation = np.abs(values - np.asarray(predicted, np.float64))
    deviation = deviation.reshape(len(values), -1).max(axis=1)
    worst = values[int(np.argmax(np.where(np.isnan(deviation), np.inf, deviation)))]
    return stats.exact_estimate(worst, estimate.trials)


def axis_labels(
    quantity: Quantity, parameters: Mapping[str, Any], shape: tuple[int, ...]
) -> list[str] | None:
    """What to call each place along a quantity's axis."""
    if not quantity.axis or len(shape) != 1:
        return None
    along: Any = parameters.get(quantity.axis)
    if np.ndim(along) == 1 and len(along) == shape[0]:
        return [f"{quantity.axis} = {value:g}" for value in along]
    return [f"{quantity.axis}[{index}]" for index in range(shape[0])]


def compare_limit(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Each quantity extrapolated over the size parameter, at otherwise equal parameters."""
    comparisons: list[Comparison] = []
    compared: set[str] = set()
    for shared, members in group_by_size(cells, claim.size):
        members = [cell for cell in members if cell.estimates]
        if not members:
            continue
        sizes = [cell.parameters[claim.size] for cell in members]
        at = [predict(cell.parameters) for cell in members]
        limit = predict(_without_size(claim, shared, members[-1].parameters))
        for name, estimate in members[-1].estimates.items():
            quantity = claim.quantity(name)
            if name not in limit or not _mark_compared(quantity, shared, compared):
                continue
            where = {**summarise(shared), claim.size: sizes}
            arguments = (claim, quantity, where, sizes)
            if np.ndim(estimate.mean) == 0:
                predicted = [float(p[name]) for p in at]
                estimates = [cell.estimates[name] for cell in members]
                comparisons.append(_one_limit(*arguments, predicted, estimates, limit))
            else:
                comparisons.append(_limit_along_axis(*arguments, at, members, limit))
    return comparisons


def _without_size(
    claim: Claim, shared: Mapping[str, Any], largest: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Parameters of the limit: without the size where the closed form does without it."""
    needed = any(
        p.name == claim.size and not p.simulate_only and p.is_required for p in claim.parameters
    )
    return largest if needed else shared


def _one_limit(
    claim: Claim,
    quantity: Quantity,
    where: Mapping[str, Any],
    sizes: Sequence[float],
    predicted: Sequence[float],
    estimates: Sequence[Estimate],
    limit: Mapping[str, Any],
) -> Comparison:
    value = limit[quantity.name]
    powers = claim.powers
    if powers is not None:  # fewer sizes bear fewer powers
        powers = powers[: max(1, len(set(sizes)) - 2)]
    tolerance = float(quantity.allowance(float(value), where))
    try:
        return stats.compare_asymptotic(
            quantity.name,
            where,
            sizes,
            predicted,
            [declare_kind(claim, quantity, e) for e in estimates],
            limit=float(value),
            powers=powers,
            fitted_powers=powers is None,
            tolerance=tolerance,
            predicted_stderr=float(limit.get(f"{quantity.name}_stderr", 0.0)),
            side=side_of(claim, quantity, value),
        )
    except ValueError as error:
        largest = estimates[int(np.argmax(sizes))]
        return undecided_row(quantity, where, float(value), largest, tolerance, error)


def undecided_row(
    quantity: Quantity,
    where: Mapping[str, Any],
    predicted: float,
    largest: Estimate,
    tolerance: float,
    reason: ValueError,
) -> Comparison:
    """A row for sizes through which no fit goes: it says why, and shows the largest size."""
    return Comparison(
        quantity.name,
        where,
        predicted,
        float(largest.mean),
        tolerance,
        stderr=float(largest.stderr),
        trials=largest.trials,
        undecided=str(reason),
    )


def _limit_along_axis(
    claim: Claim,
    quantity: Quantity,
    where: Mapping[str, Any],
    sizes: Sequence[float],
    at: Sequence[Mapping[str, Any]],
    members: Sequence[Cell],
    limit: Mapping[str, Any],
) -> Comparison:
    """The worst place of an axis, each place extrapolated by itself, at a share of the level."""
    name = quantity.name
    places = list(np.ndindex(np.shape(members[-1].estimates[name].mean)))
    rows: list[Comparison] = []
    for index in places:
        values = {n: np.asarray(v)[index] if np.ndim(v) else v for n, v in limit.items()}
        rows.append(
            _one_limit(
                claim,
                quantity,
                where,
                sizes,
                [float(np.broadcast_to(p[name], np.shape(members[-1].estimates[name].mean))[index])
                 for p in at],
                [cell.estimates[name].at(index) for cell in members],
                values,
            )
        )  # fmt: skip
    for row in rows:
        if row.undecided:
            return row
    worst = max(rows, key=lambda row: row.excess / max(row.total_stderr, 1e-300))
    return worst.worst_of(rows)


def compare_rates(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """The exponent with which each quantity grows with the size, from a fit of logarithms."""
    comparisons: list[Comparison] = []
    compared: set[str] = set()
    for shared, members in group_by_size(cells, claim.size):
        members = [cell for cell in members if cell.estimates]
        if not members:
            continue
        sizes = [float(cell.parameters[claim.size]) for cell in members]
        predicted = predict(members[-1].parameters)
        for name in members[-1].estimates:
            quantity = claim.quantity(name)
            if name not in predicted or not _mark_compared(quantity, shared, compared):
                continue
            value = predicted[name]
            rate = value if isinstance(value, Rate) else Rate(float(value))
            estimates = [declare_kind(claim, quantity, c.estimates[name]) for c in members]
            where = {**summarise(shared), claim.size: sizes}
            tolerance = float(quantity.allowance(rate.exponent, shared))
            try:
                fit, others = stats.rate_fits(sizes, estimates, rate.log_power)
            except ValueError as error:
                comparisons.append(
                    undecided_row(quantity, where, rate.exponent, estimates[-1], tolerance, error)
                )
                continue
            comparisons.append(
                stats.compare_rate(
                    name,
                    where,
                    rate.exponent,
                    fit,
                    tolerance=tolerance,
                    side=side_of(claim, quantity, value),
                    note="exponent",
                    alternatives=others,
                    line=stats.line_of_rate(sizes, estimates, fit, rate.log_power),
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
        shared = {name: value for name, value in cell.parameters.items() if name != size}
        groups.setdefault(canonical(shared), (shared, []))[1].append(cell)
    for shared, members in groups.values():
        if len(members) >= least:
            yield shared, sorted(members, key=lambda cell: cell.parameters[size])


def summarise(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with arrays shortened to their shape, for a row that people read."""
    short: dict[str, Any] = {}
    for name, value in parameters.items():
        large = isinstance(value, np.ndarray) or (np.ndim(value) >= 1 and np.size(value) > 24)
        short[name] = f"array{tuple(np.shape(value))}" if large else value
    return short


def _mark_compared(quantity: Quantity, parameters: Mapping[str, Any], compared: set[str]) -> bool:
    """Note that the quantity has a row here, up to what it ignores; False if it had one."""
    if not quantity.ignores:
        # Every cell has a row of its own, and no text is made of its arrays, which may be large.
        return True
    distinguishing = {n: v for n, v in parameters.items() if n not in quantity.ignores}
    mark = f"{quantity.name} {canonical(distinguishing)}"
    if mark in compared:
        return False
    compared.add(mark)
    return True
