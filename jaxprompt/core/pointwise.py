"""Closed forms that are evaluated at one point of numbers at a time, for arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprompt.stats import Estimate

__all__ = ["evaluate_pointwise"]


def evaluate_pointwise(
    evaluate: Callable[..., Mapping[str, Estimate | float]], **numbers: Any
) -> dict[str, Any]:
    """What ``evaluate(**point)`` gives at every point of broadcast `numbers`, in their shape.

    `evaluate` gets Python numbers, whole where the array's are, and returns a float or an estimate
    for each quantity. Float64 arrays of the broadcast shape, or numbers where all are numbers.
    """
    arrays = dict(zip(numbers, np.broadcast_arrays(*numbers.values()), strict=True))
    shape = next(iter(arrays.values())).shape
    points = [
        evaluate(**{name: array[index].item() for name, array in arrays.items()})
        for index in np.ndindex(shape)
    ]

    def gather(values: list[float]) -> Any:
        return np.array(values, np.float64).reshape(shape)[()]

    gathered: dict[str, Any] = {}
    for name, first in points[0].items():
        column: list[Any] = [point[name] for point in points]
        if isinstance(first, Estimate):
            mean, stderr = gather([e.mean for e in column]), gather([e.stderr for e in column])
            gathered[name] = Estimate(mean, stderr, first.trials)
        else:
            gathered[name] = gather(column)
    return gathered
