"""Identities and bounds that hold for every instance: both sides see the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def compare_instances(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """The largest difference, or ratio to a bound, over all draws of each cell."""
    rows: list[Comparison] = []
    for cell in cells:
        if cell.instances is None:
            continue
        right = predict(**cell.parameters, **cell.instances)
        for name, estimate in cell.estimates.items():
            if name not in right:
                continue
            left = estimate.values
            if left is None:
                raise JaxpromptError(
                    f"{claim.id}: the draws of `{name}` were not kept: return them by per_trial"
                )
            sides = np.broadcast_arrays(left, _aligned(right[name], left))
            draws = tuple(np.reshape(side, (len(left), -1)) for side in sides)
            compare = _bound_row if claim.relation is Relation.BOUND else _identity_row
            rows.append(compare(claim, name, cell.parameters, *draws))
    return rows


def evaluate_on_instances(
    closed_form: Predictor, values: Mapping[str, Any], instances: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The closed form on each draw of `instances` (stacked along the first axis), in float64.

    Vectorised where JAX can trace it, else one draw after another.
    """
    named = arguments_of(closed_form, {**values, **instances})
    drawn = {name: value for name, value in named.items() if name in instances}
    fixed = {name: value for name, value in named.items() if name not in instances}

    def one(instance: Mapping[str, Any]) -> dict[str, Any]:
        return {n: jnp.asarray(v, float) for n, v in closed_form(**fixed, **instance).items()}

    with own_settings(x64=True):
        try:
            sides = jax.jit(jax.vmap(one))(drawn)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            count = len(next(iter(instances.values())))
            rows = [one({n: v[i] for n, v in drawn.items()}) for i in range(count)]
            sides = {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: np.asarray(value, np.float64) for name, value in sides.items()}


def _aligned(right: Any, left: np.ndarray) -> np.ndarray:
    """The right side with the draws as its first axis."""
    array = np.asarray(right, np.float64)
    missing = left.ndim - array.ndim
    return array.reshape(array.shape + (1,) * missing) if array.ndim and missing > 0 else array


def _identity_row(
    claim: Claim, name: str, parameters: Mapping[str, Any], left: np.ndarray, right: np.ndarray
) -> Comparison:
    """The largest difference over draws, relative to the largest number of its draw."""
    quantity = claim.quantity(name)
    size = np.maximum(np.abs(left).max(axis=1), np.abs(right).max(axis=1))
    stated = quantity.magnitude(parameters) if callable(quantity.magnitude) else quantity.magnitude
    size = np.maximum(size, stated)
    difference = np.abs(left - right).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / size)
    relative = np.where(np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1), np.nan, relative)
    worst = int(np.argmax(np.where(np.isnan(relative), np.inf, relative)))
    eps = float(np.finfo(np.float64).eps)
    allowed = float(quantity.allowance(1.0, parameters))
    return Comparison(
        name,
        dict(parameters),
        0.0,
        float(relative[worst]),
        max(allowed, ULPS_OF_AN_INSTANCE * eps),
        side="two",
        note=f"largest relative difference over {len(left)} draws, "
        f"{relative[worst] / eps:.3g} units in the last place",
        trials=len(left),
    )


def _bound_row(
    claim: Claim, name: str, parameters: Mapping[str, Any], left: np.ndarray, right: np.ndarray
) -> Comparison:
    """The largest ratio to a bound over draws (the smallest, to a bound from below)."""
    quantity = claim.quantity(name)
    lower = quantity.side == "lower"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((left == 0) & (right == 0), 1.0, left / right)
    if (right < 0).any() or ((right == 0).any() and not (left[right == 0] == 0).all()):
        # A ratio says nothing where a bound is not positive: compare the difference to its size.
        scale = np.maximum(np.abs(left), np.abs(right)).max() or 1.0
        ratio = 1.0 + (left - right) / scale
    low, high = float(np.nanmin(ratio)), float(np.nanmax(ratio))
    broken = bool(np.isnan(ratio).any())
    eps = float(np.finfo(np.float64).eps)
    return Comparison(
        name,
        dict(parameters),
        1.0,
        float("nan") if broken else (low if lower else high),
        max(float(quantity.allowance(1.0, parameters)), ULPS_OF_AN_INSTANCE * eps),
        side="lower" if lower else "upper",
        note=f"measured / bound {low:.3g} to {high:.3g} over {len(left)} draws",
        trials=len(left),
    )
