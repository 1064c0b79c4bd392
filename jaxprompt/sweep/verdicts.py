"""Verdicts of many plain comparisons at once, from arrays.

The rules are those of ``decide`` and ``decide_equivalence`` in :mod:`jaxprompt.stats` for one
number beside one prediction, without a fit, trials or places along an axis. There a comparison is
an object with its parameters; here a million of them are a few columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special
from scipy import stats as sps

from jaxprompt import stats
from jaxprompt.stats import BinomialTest, Side, Status
from jaxprompt.stats.tests import PREDICTION_DOF, ULPS

__all__ = ["Columns", "decide_columns", "decide_equivalence_columns", "join_columns"]

_SIDES: tuple[Side, ...] = ("lower", "two", "upper")
"""Sides, from −1 to 1."""


class Columns(NamedTuple):
    """One comparison a row, arrays of equal length; the attributes are those of a `Comparison`.

    `side` is −1 where only numbers below the prediction count, 1 where only those above do, and
    0 where both do. `exact` says that the measured number has no sampling error, and `proportion`
    that it is a share of `trials`, tested by the binomial distribution.
    """

    predicted: np.ndarray
    predicted_stderr: np.ndarray
    simulated: np.ndarray
    stderr: np.ndarray
    dof: np.ndarray
    trials: np.ndarray
    tolerance: np.ndarray
    rounding: np.ndarray
    side: np.ndarray
    exact: np.ndarray
    proportion: np.ndarray


def join_columns(parts: list[Columns]) -> Columns:
    """The rows of all parts, one after another."""
    return Columns(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def decide_columns(table: Columns, false_alarm: float) -> np.ndarray:
    """The verdict of each row (objects :class:`Status`), at a shared `false_alarm` rate."""
    valid, exact, still = _kinds(table)
    verdicts = np.full(len(valid), Status.FAILED, dtype=object)
    verdicts[exact] = _decide_exact(_rows(table, exact))
    verdicts[still] = _decide_still(_rows(table, still))
    tested = valid & ~exact & ~still
    count = int(tested.sum())
    if count:
        chosen = _rows(table, tested)
        level = false_alarm / count
        p_values, resolution = _test(chosen, level)
        rejected = stats.holm(p_values, false_alarm)
        blunt = resolution > chosen.tolerance + np.maximum(-_excess(chosen), 0.0)
        found = np.where(blunt, Status.INCONCLUSIVE, Status.CONFIRMED).astype(object)
        found[rejected] = Status.REFUTED
        verdicts[tested] = found
    return verdicts


def decide_equivalence_columns(table: Columns, false_alarm: float) -> np.ndarray:
    """Whether each difference lies within its tolerance, all at a shared `false_alarm` rate."""
    valid, _, still = _kinds(table)
    level = false_alarm / max(len(valid), 1)
    verdicts = np.full(len(valid), Status.FAILED, dtype=object)
    verdicts[still] = _decide_still(_rows(table, still))
    judged = valid & ~still
    chosen = _rows(table, judged)
    error, dof = _total(chosen)
    half = np.zeros(len(error))
    noisy = error > 0
    half[noisy] = error[noisy] * sps.t.isf(level / 2, dof[noisy])
    excess = _excess(chosen)
    found = np.full(len(error), Status.INCONCLUSIVE, dtype=object)
    found[excess - half > chosen.tolerance] = Status.REFUTED
    found[excess + half <= chosen.tolerance] = Status.CONFIRMED
    verdicts[judged] = found
    return verdicts


def _rows(table: Columns, chosen: np.ndarray) -> Columns:
    return Columns(*(column[chosen] for column in table))


def _kinds(table: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows can be judged, and of those the exact ones and the samples without scatter."""
    valid = ~np.isnan(table.tolerance) & (table.tolerance >= 0)
    for column in (table.predicted, table.simulated, table.stderr, table.predicted_stderr):
        valid &= np.isfinite(column)
    valid &= (table.stderr >= 0) & (table.predicted_stderr >= 0)
    plain = valid & ~table.proportion
    exact = plain & table.exact & (table.predicted_stderr == 0)
    still = plain & ~exact & (table.stderr == 0) & (table.predicted_stderr == 0)
    return valid, exact, still


def _excess(table: Columns) -> np.ndarray:
    """The discrepancy that counts: signed for one side, absolute for two."""
    difference = table.simulated - table.predicted
    return np.where(table.side == 0, np.abs(difference), table.side * difference)


def _allowed_rounding(table: Columns) -> np.ndarray:
    size = np.maximum(np.abs(table.predicted), np.abs(table.simulated))
    return np.maximum(table.rounding, ULPS * float(np.finfo(np.float64).eps) * size)


def _decide_exact(table: Columns) -> np.ndarray:
    rounding = _allowed_rounding(table)
    equal = np.abs(table.simulated - table.predicted) <= rounding
    excess = np.where(equal, 0.0, _excess(table))
    hidden = (table.tolerance > 0) & (rounding > table.tolerance) & (table.side == 0)
    verdicts = np.where(hidden, Status.INCONCLUSIVE, Status.CONFIRMED).astype(object)
    verdicts[excess > table.tolerance] = Status.REFUTED
    return verdicts


def _decide_still(table: Columns) -> np.ndarray:
    agrees = _excess(table) <= _allowed_rounding(table)
    return np.where(agrees, Status.CONFIRMED, Status.INCONCLUSIVE).astype(object)


def _total(table: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of each difference, and its Welch–Satterthwaite degrees of freedom."""
    error = np.hypot(table.stderr, table.predicted_stderr)
    peak = np.maximum(np.maximum(table.stderr, table.predicted_stderr), 1e-300)
    measured, predicted = (table.stderr / peak) ** 2, (table.predicted_stderr / peak) ** 2
    spread = measured**2 / table.dof + predicted**2 / PREDICTION_DOF
    with np.errstate(divide="ignore", invalid="ignore"):  # of rows without any error
        dof = np.where(spread == 0, np.inf, (measured + predicted) ** 2 / spread)
    return error, dof


def _test(table: Columns, level: float) -> tuple[np.ndarray, np.ndarray]:
    """p-value of each row, and the discrepancy that its test at `level` finds."""
    error, dof = _total(table)
    p_values, resolution = np.ones(len(error)), np.zeros(len(error))
    student = ~table.proportion
    difference = table.simulated - table.predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = difference / error
        shift = np.where(table.side == 0, np.abs(statistic), table.side * statistic)
        tail = np.where(np.isinf(dof), special.ndtr(-shift), special.stdtr(dof, -shift))
    p_student = np.minimum(1.0, np.where(table.side == 0, 2 * tail, tail))
    p_student[(table.side == 0) & (_excess(table) <= _allowed_rounding(table))] = 1.0
    p_values[student] = p_student[student]
    resolution[student] = (error * _shifts_found(dof, table.side, level))[student]
    for row in np.flatnonzero(table.proportion):
        test = BinomialTest(
            round(float(table.simulated[row]) * int(table.trials[row])),
            int(table.trials[row]),
            float(table.predicted[row]),
            _SIDES[1 + int(table.side[row])],
            float(table.predicted_stderr[row]),
        )
        p_values[row] = min(1.0, test.p_value())
        resolution[row] = test.detectable(level)
    return p_values, resolution


def _shifts_found(dof: np.ndarray, side: np.ndarray, level: float) -> np.ndarray:
    """Standard errors that a t-test at `level` finds, computed once for equal `dof`."""
    shifts = np.zeros(len(dof))
    rounded = np.where(np.isinf(dof), np.inf, np.round(np.maximum(dof, 1.0), 2))
    for two_sided in (False, True):
        chosen = np.flatnonzero((side == 0) == two_sided)
        values, places = np.unique(rounded[chosen], return_inverse=True)
        found = [stats.detectable(1.0, float(v), level, two_sided=two_sided) for v in values]
        shifts[chosen] = np.asarray(found)[places] if found else 0.0
    return shifts
