"""Closed forms that are solved at one point of numbers at a time, for arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprompt.contextual.law import attention_moments
from jaxprompt.stats import Estimate

__all__ = ["evaluate_pointwise", "quadrature_estimate"]


def quadrature_estimate(replicates: np.ndarray) -> Estimate:
    """The mean over a quadrature's randomised rules, with the standard error that they leave.

    A number that is infinite in some of them has none.
    """
    if not np.isfinite(replicates).all():
        return Estimate(float(replicates.mean()), 0.0, len(replicates))
    mean, stderr = attention_moments.mean_and_stderr(replicates)
    return Estimate(float(mean), float(stderr), len(replicates))


def evaluate_pointwise(
    evaluate: Callable[..., Mapping[str, Estimate | float]], **numbers: Any
) -> dict[str, Any]:
    """What ``evaluate(**point)`` gives at every point of broadcast `numbers`, in their shape.

    `evaluate` gets floats and returns a float or an estimate for each quantity.
    """
    arrays = dict(zip(numbers, np.broadcast_arrays(*numbers.values()), strict=True))
    shape = next(iter(arrays.values())).shape
    points = [
        evaluate(**{name: float(array[index]) for name, array in arrays.items()})
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
