"""Rows for measurements without sampling error, which is most of this family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.core.claim import Cell, Claim, Predictor
from jaxprompt.stats import Comparison, Estimate

__all__ = ["compare_exact", "exact"]


def exact(trials: int, **values: Any) -> dict[str, Estimate]:
    """Estimates with standard error 0, of the shape and dtype float64 of each value."""
    return {
        name: Estimate(float(v) if np.ndim(v) == 0 else np.asarray(v, np.float64), 0.0, trials)
        for name, v in values.items()
    }


def compare_exact(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Both sides free of sampling error: the quantity's tolerance is the largest gap allowed."""
    rows = []
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name, estimate in cell.estimates.items():
            value = float(np.squeeze(predicted[name]))
            measured = float(np.squeeze(estimate.mean))
            tolerance = claim.quantity(name).allowance(value)
            rows.append(Comparison(name, summary(cell.parameters), value, measured, tolerance))
    return rows


def summary(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with arrays shortened to their shape, for a row that people read."""
    short = {}
    for name, value in parameters.items():
        shape = np.shape(value)
        short[name] = value if len(shape) == 0 else f"array{tuple(shape)}"
    return short
