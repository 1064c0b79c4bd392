"""Closed forms that are solved at one point of numbers at a time, for arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprompt.contextual.law import attention_moments
from jaxprompt.core import pointwise
from jaxprompt.stats import Estimate

__all__ = ["evaluate_pointwise", "quadrature_estimate", "with_correction"]


def quadrature_estimate(replicates: np.ndarray) -> Estimate:
    """The mean over a quadrature's randomised rules, with the standard error that they leave.

    A number that is infinite in some of them has none.
    """
    if not np.isfinite(replicates).all():
        return Estimate(float(replicates.mean()), 0.0, len(replicates))
    mean, stderr = attention_moments.mean_and_stderr(replicates)
    return Estimate(float(mean), float(stderr), len(replicates))


def with_correction(
    right: Mapping[str, Any], *names: str, plus: float = 0.0, times: float = 1.0
) -> dict[str, Any]:
    """Limits with `plus` added to the named ones after they are multiplied by `times`.

    Falsifiers of limits use it: they leave in what vanishes as the size grows.
    """
    moved = {name: times * np.asarray(right[name].mean) + plus for name in names}
    changed = {
        name: Estimate(mean, right[name].stderr * times, right[name].trials)
        for name, mean in moved.items()
    }
    return {**right, **changed}


def evaluate_pointwise(
    evaluate: Callable[..., Mapping[str, Estimate | float]], **numbers: Any
) -> dict[str, Any]:
    """What ``evaluate(**point)`` gives at every point of broadcast `numbers`, in their shape.

    `evaluate` gets floats and returns a float or an estimate for each quantity.
    """
    return pointwise.evaluate_pointwise(
        evaluate, **{name: np.asarray(value, np.float64) for name, value in numbers.items()}
    )
