"""Every row of a check on one scale: its difference as a share of what the check allows.

A share of ±1 is where a row would contradict the prediction: for numbers with sampling error the
critical value of the check's false-alarm rate, shared by its rows, and for exact numbers the
tolerance. A bound is missed on one side only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import ndtri

__all__ = ["FARTHEST", "MET_BY_FAR", "Residual", "residuals_by_quantity"]

FARTHEST = 2.0
"""Shares beyond it are shown there."""

MET_BY_FAR = 0.9
"""Where a bound is shown that is met by more: on its allowed side nothing is too far."""


class Residual(NamedTuple):
    """One row: `share` of what is allowed, as it is shown; `beyond` if it is farther out."""

    share: float
    beyond: bool
    verdict: str


def residuals_by_quantity(
    rows: Sequence[Mapping[str, Any]], false_alarm: float | None
) -> dict[str, list[Residual]]:
    """The residuals of a report's rows, under their quantities in the order of first appearance.

    `false_alarm` is the family-wise error rate of the check. Rows without two numbers and a
    p-value or tolerance to compare them by are left out.
    """
    noisy = sum(not row["exact"] for row in rows)
    level = (false_alarm or 0.0) / max(noisy, 1)
    found: dict[str, list[Residual]] = {}
    for row in rows:
        share = _exact_share(row) if row["exact"] else _noisy_share(row, level)
        if share is None or math.isnan(share):
            continue
        low = -MET_BY_FAR if row["side"] == "upper" else -FARTHEST
        high = MET_BY_FAR if row["side"] == "lower" else FARTHEST
        shown = min(max(share, low), high)
        mark = Residual(round(shown, 3), shown != share, row["verdict"])
        found.setdefault(row["quantity"], []).append(mark)
    return found


def _exact_share(row: Mapping[str, Any]) -> float | None:
    difference, tolerance = row["difference"], row["tolerance"]
    if difference is None or tolerance is None:
        return None
    if tolerance == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / tolerance


def _noisy_share(row: Mapping[str, Any], level: float) -> float | None:
    p, difference = row["p_value"], row["difference"]
    if p is None or difference is None or not 0 < level < 1:
        return None
    if row["side"] in ("upper", "lower"):
        outwards = 1.0 if row["side"] == "upper" else -1.0
        return outwards * float(ndtri(p) / ndtri(level))
    return math.copysign(float(ndtri(p / 2) / ndtri(level / 2)), difference)
