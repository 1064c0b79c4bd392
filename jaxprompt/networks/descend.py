"""Gradient descent as one compiled loop, for losses that fit in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import optax
from jax import lax
from jaxtyping import Array, Float

__all__ = ["Descent", "descend"]

Parameters = TypeVar("Parameters")


class Descent(NamedTuple, Generic[Parameters]):
    """Parameters after the last step, and what the objective gave before each step.

    `values` leads with the steps: the objective, or the objective and its auxiliary output.
    """

    parameters: Parameters
    values: Any


def descend(
    objective: Callable[[Parameters, Any], Any],
    start: Parameters,
    transform: optax.GradientTransformation,
    *,
    steps: int | None = None,
    data: Any = None,
    rates: Float[Array, " steps"] | None = None,
    has_aux: bool = False,
) -> Descent[Parameters]:
    """Follow ``objective(parameters, datum)`` downhill from `start`, in the dtype of `start`.

    `transform` turns gradients into moves, such as ``optax.adam(0.1)``. With `rates`, one for each
    step, it gives directions (``optax.scale_by_adam()``) and a step is minus the rate times one.
    `data` is a tree whose leaves lead with the steps; without it the objective is given None, and
    `steps` says how many there are. With `has_aux` the objective returns a pair. To keep some
    parameters as they start, stop their gradient in the objective. Traceable: call it under jit.
    """

    def step(carry: tuple[Any, Any], given: tuple[Any, Any]) -> tuple[tuple[Any, Any], Any]:
        parameters, memory = carry
        datum, rate = given
        value, slope = jax.value_and_grad(objective, has_aux=has_aux)(parameters, datum)
        moves, memory = transform.update(slope, memory)
        if rate is None:
            moved = optax.apply_updates(parameters, moves)
        else:
            moved = jax.tree.map(lambda x, move: x - rate * move, parameters, moves)
        return (moved, memory), value

    tree: Any = start  # a tree of arrays, which its type does not tell
    carry, values = lax.scan(step, (tree, transform.init(tree)), (data, rates), length=steps)
    return Descent(carry[0], values)
