"""Identities and bounds that hold for every instance: both sides see the same draws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.core.arguments import arguments_of
from jaxprompt.core.relation import Relation
from jaxprompt.errors import JaxpromptError
from jaxprompt.stats import Comparison

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.core.designs import Cell
    from jaxprompt.core.falsifiers import Predictor

__all__ = ["compare_instances", "evaluate_on_instances"]

ULPS_OF_AN_INSTANCE = 64.0
"""Units in the last place of the largest number of an instance below which sides are equal."""

ROUNDING_MARGIN = 16.0
"""Times the rounding of a side that its evaluation in float32 suggests."""

PERTURBATIONS = 4
"""Evaluations in float32 whose largest deviation stands for a side's rounding: one alone may be
right by luck."""

Side = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class DrawnSide(NamedTuple):
    """One side of an identity or a bound on every draw: its numbers, and their rounding.

    `values` is (draws, …) in float64; `rounding` (draws,) what float64 arithmetic may have moved
    the largest number of each draw by, beyond a few units in the last place.
    """

    values: np.ndarray
    rounding: np.ndarray


def compare_instances(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """The largest difference, or ratio to a bound, over all draws of each cell."""
    rows: list[Comparison] = []
    for cell in cells:
        if cell.instances is None:
            continue
        right = predict(cell.parameters, **cell.instances)
        rounding = _left_rounding(claim, cell)
        for name, estimate in cell.estimates.items():
            if name not in right:
                continue
            left = estimate.values
            if left is None:
                raise JaxpromptError(
                    f"{claim.id}: the draws of `{name}` were not kept: return them by per_trial"
                )
            side = right[name]
            measured, bound = np.broadcast_arrays(left, _align_with_draws(side.values, left))
            flat = (len(left), -1)
            compare = _bound_row if claim.relation is Relation.BOUND else _identity_row
            both = rounding[name] + side.rounding
            sides = (measured.reshape(flat), bound.reshape(flat), both)
            rows.append(compare(claim, name, cell.parameters, *sides))
    return rows


def evaluate_on_instances(
    closed_form: Predictor, values: Mapping[str, Any], instances: Mapping[str, np.ndarray]
) -> dict[str, DrawnSide]:
    """The closed form on each draw of `instances` (stacked along the first axis), in float64.

    One draw after another: compiled where JAX can trace it.
    """
    named = arguments_of(closed_form, {**values, **instances})
    drawn = {name: value for name, value in named.items() if name in instances}
    fixed = {name: value for name, value in named.items() if name not in instances}
    side = _side_of(closed_form, tuple((n, _frozen(v)) for n, v in fixed.items()))
    try:
        with own_settings(x64=True):
            sides = side(drawn)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        count = len(next(iter(instances.values())))
        with own_settings(x64=True):
            rows = [
                closed_form(**fixed, **{n: v[i] for n, v in drawn.items()}) for i in range(count)
            ]
        stacked = {n: np.stack([np.asarray(row[n], np.float64) for row in rows]) for n in rows[0]}
        return {n: DrawnSide(v, np.zeros(len(v))) for n, v in stacked.items()}
    numbers = {name: np.asarray(value, np.float64) for name, value in sides.items()}
    rounding = _estimate_rounding(side, drawn, numbers)
    return {name: DrawnSide(value, rounding[name]) for name, value in numbers.items()}


class _Frozen(NamedTuple):
    """A parameter that is an array, as a key of a cache."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    def thaw(self) -> np.ndarray:
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return _Frozen(array.tobytes(), str(array.dtype), array.shape)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=256)
def _side_of(closed_form: Predictor, fixed: tuple[tuple[str, Any], ...]) -> Side:
    """The compiled closed form on stacked draws, one for each of its other parameters."""
    values = {n: v.thaw() if isinstance(v, _Frozen) else v for n, v in fixed}

    def one(drawn: Mapping[str, Any]) -> dict[str, Any]:
        numbers = closed_form(**values, **drawn)
        return {n: jnp.asarray(v).astype(float) for n, v in numbers.items()}

    return _on_every_draw(one)


@functools.lru_cache(maxsize=256)
def _left_side_of(simulation: Any, fixed: tuple[tuple[str, Any], ...]) -> Side:
    """The compiled trial on stacked draws."""
    values = {n: v.thaw() if isinstance(v, _Frozen) else v for n, v in fixed}
    return _on_every_draw(simulation.trial_of_instance(values))


def _on_every_draw(side: Side) -> Side:
    # Not `vmap`: batched factorisations in one program can wait for each other for ever.
    return jax.jit(lambda drawn: jax.lax.map(side, drawn))


def _left_rounding(claim: Claim, cell: Cell) -> dict[str, np.ndarray]:
    """What float64 arithmetic may have moved the measured side by, on every draw."""
    values = claim.validated(cell.parameters, simulate=True)
    fixed = tuple((n, _frozen(v)) for n, v in values.items())
    side = _left_side_of(claim.simulation, fixed)
    numbers = {n: np.asarray(e.values) for n, e in cell.estimates.items() if e.values is not None}
    return _estimate_rounding(side, cell.instances, numbers)


def _estimate_rounding(
    side: Side, drawn: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the same side loses in float32, on draws moved within its precision, scaled to float64.

    That sees cancellation and bad conditioning, wherever they are in a side's arithmetic. A number
    beyond float32 says nothing.
    """
    rng = np.random.default_rng(20_250_102)
    eps = float(np.finfo(np.float32).eps)
    largest = {name: np.zeros(len(v)) for name, v in values.items()}
    for _ in range(PERTURBATIONS):
        moved = {n: _move_within_float32(np.asarray(v), eps, rng) for n, v in drawn.items()}
        with own_settings(x64=False), np.errstate(all="ignore"):
            sides = {n: np.asarray(v, np.float64) for n, v in side(moved).items()}
        for name, value in values.items():
            if name not in sides:
                continue
            deviation = np.abs(sides[name] - value).reshape(len(value), -1).max(axis=1)
            known = np.where(np.isfinite(deviation), deviation, 0.0)
            largest[name] = np.maximum(largest[name], known)
    ratio = float(np.finfo(np.float64).eps) / eps
    return {
        name: ROUNDING_MARGIN * ratio * np.maximum(value, _typical_deviation(value, values[name]))
        for name, value in largest.items()
    }


def _typical_deviation(deviations: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What the deviation of each draw would be if it were, relative to its size, the median one.

    A draw's own deviations may all be small by luck.
    """
    size = np.abs(values).reshape(len(values), -1).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = deviations / size
    known = relative[np.isfinite(relative)]
    return size * (float(np.median(known)) if known.size else 0.0)


def _move_within_float32(values: np.ndarray, eps: float, rng: np.random.Generator) -> np.ndarray:
    """Draws in float32, each number moved by at most one unit in its last place."""
    if not np.issubdtype(values.dtype, np.floating):
        return values.astype(np.int32) if values.dtype == np.int64 else values
    return (values * (1 + eps * rng.uniform(-1, 1, values.shape))).astype(np.float32)


def _align_with_draws(right: Any, left: np.ndarray) -> np.ndarray:
    """The right side with the draws as its first axis."""
    array = np.asarray(right, np.float64)
    missing = left.ndim - array.ndim
    return array.reshape(array.shape + (1,) * missing) if array.ndim and missing > 0 else array


def _unit_in_last_place(claim: Claim) -> float:
    """A unit in the last place of 1, of the type that trials compute in."""
    return float(np.finfo(getattr(claim.simulation, "dtype", "float64")).eps)


def _identity_row(
    claim: Claim,
    name: str,
    parameters: Mapping[str, Any],
    left: np.ndarray,
    right: np.ndarray,
    rounding: np.ndarray,
) -> Comparison:
    """The largest difference over draws, relative to the largest number of its draw.

    Without a tolerance the sides must be equal up to rounding; a tolerance is kept to, and where
    rounding alone may be larger the row is undecided.
    """
    quantity = claim.quantity(name)
    size = np.maximum(np.abs(left).max(axis=1), np.abs(right).max(axis=1))
    stated = quantity.magnitude(parameters) if callable(quantity.magnitude) else quantity.magnitude
    size = np.maximum(size, stated)
    difference = np.abs(left - right).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / size)
        lost = np.where(rounding == 0, 0.0, rounding / size)
    relative = np.where(np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1), np.nan, relative)
    eps = _unit_in_last_place(claim)
    allowed = float(quantity.allowance(1.0, parameters))
    limits = np.maximum(np.maximum(allowed, ULPS_OF_AN_INSTANCE * eps), lost)
    worst = int(np.argmax(np.where(np.isnan(relative), np.inf, relative / limits)))
    return Comparison(
        name,
        dict(parameters),
        0.0,
        float(relative[worst]),
        max(allowed, ULPS_OF_AN_INSTANCE * eps) if allowed else float(limits[worst]),
        side="two",
        note=f"worst relative difference over {len(left)} draws, "
        f"{relative[worst] / eps:.3g} units in the last place",
        rounding=float(lost.max()) if allowed else 0.0,
        trials=len(left),
    )


def _bound_row(
    claim: Claim,
    name: str,
    parameters: Mapping[str, Any],
    left: np.ndarray,
    right: np.ndarray,
    rounding: np.ndarray,
) -> Comparison:
    """The largest ratio to a bound over draws (the smallest, to a bound from below)."""
    quantity = claim.quantity(name)
    lower = quantity.side == "lower"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((left == 0) & (right == 0), 1.0, left / right)
        lost = np.where(rounding[:, None] == 0, 0.0, rounding[:, None] / np.abs(right))
    if (right < 0).any() or ((right == 0).any() and not (left[right == 0] == 0).all()):
        # A ratio says nothing where a bound is not positive: compare the difference to its size.
        scale = np.maximum(np.abs(left), np.abs(right)).max() or 1.0
        ratio = 1.0 + (left - right) / scale
        lost = np.broadcast_to(rounding[:, None] / scale, ratio.shape)
    low, high = float(np.nanmin(ratio)), float(np.nanmax(ratio))
    broken = bool(np.isnan(ratio).any())
    eps = _unit_in_last_place(claim)
    allowed = max(float(quantity.allowance(1.0, parameters)), ULPS_OF_AN_INSTANCE * eps)
    signed = (1 - ratio if lower else ratio - 1) / np.maximum(allowed, lost)
    worst = np.unravel_index(int(np.nanargmax(signed)) if not broken else 0, ratio.shape)
    return Comparison(
        name,
        dict(parameters),
        1.0,
        float("nan") if broken else float(ratio[worst]),
        max(allowed, float(lost[worst])),
        side="lower" if lower else "upper",
        note=f"measured / bound {low:.3g} to {high:.3g} over {len(left)} draws",
        trials=len(left),
    )
