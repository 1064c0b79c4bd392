r"""Comparisons that can fail, and that say how small a discrepancy they would have seen.

A check compares several quantities at several parameter points. Every noisy comparison is a
Student test, and all comparisons of one check share a single false-alarm rate by Holm's step-down
rule, so the chance that a check refutes a true claim is at most the stated rate whatever the
dependence between its rows.

For each row the *detectable* discrepancy is the difference between prediction and truth that the
row's test would have found with probability :data:`POWER`; it is computed at the Bonferroni level,
the strictest Holm can apply, from the non-central t law. A row that finds nothing but could not
have seen a discrepancy as large as the claim's tolerance is *inconclusive*, not confirmed.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, special
from scipy import stats as sps

__all__ = [
    "POWER",
    "Comparison",
    "Estimate",
    "Fit",
    "Row",
    "Status",
    "binomial_interval",
    "combine",
    "compare_asymptotic",
    "compare_bound",
    "compare_identity",
    "compare_mean",
    "compare_rate",
    "decide",
    "decide_within",
    "detectable",
    "extrapolate",
    "holm",
    "interval",
    "mean_estimate",
    "overall",
    "share_estimate",
    "slope",
    "weighted_fit",
]

POWER = 0.95
"""Probability with which a row finds a discrepancy as large as the one it calls detectable."""

GOODNESS_LEVEL = 1e-4
"""Level below which one fit is called inadequate; the row is then inconclusive, never refuted."""

GOODNESS_SHARED = 1e-3
"""The most that the levels of all fits of one check add up to: beyond ten rows each has less than
:data:`GOODNESS_LEVEL`, so that a large check of a true claim is not inconclusive by chance."""

PREDICTION_FREEDOM = 15
"""Degrees of freedom of a prediction's own standard error (16 randomised quadratures)."""


class Status(enum.StrEnum):
    """What a comparison found."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


class Estimate(NamedTuple):
    """A simulated quantity: its mean over `trials` and the standard error of that mean.

    `mean` and `stderr` are floats, or float64 arrays of one shape when a simulation served
    several parameter points at once. `stderr` is 0 for an exact evaluation.
    """

    mean: Any
    stderr: Any
    trials: int

    def _repr_html_(self) -> str:
        from jaxprompt.presentation.statement_html import number, table

        means, errors = np.ravel(self.mean), np.ravel(self.stderr)
        rows = [
            (number(float(m)), number(float(e)), self.trials)
            for m, e in zip(means, errors, strict=True)
        ]
        return table(("mean", "std. error", "trials"), rows)


class Fit(NamedTuple):
    """A fitted number, its standard error, its degrees of freedom and the fit's p-value."""

    value: float
    stderr: float
    freedom: float
    goodness: float


@dataclass(frozen=True)
class Comparison:
    """One predicted number beside one measured number, before any verdict.

    `side` says which discrepancies count: ``"two"`` any; ``"upper"`` only a measured value above
    the predicted one (the prediction is an upper bound); ``"lower"`` only one below it.
    `tolerance` is the discrepancy the claim must be able to see, in the quantity's units; for an
    exact comparison (`stderr` and `predicted_stderr` both 0) it is the largest one allowed.
    """

    quantity: str
    parameters: Mapping[str, Any]
    predicted: float
    simulated: float
    tolerance: float
    stderr: float = 0.0
    freedom: float = math.inf
    predicted_stderr: float = 0.0
    side: Literal["two", "upper", "lower"] = "two"
    goodness: float = 1.0
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether both sides are free of sampling error."""
        return self.stderr == 0 and self.predicted_stderr == 0

    @property
    def total_stderr(self) -> float:
        """Standard error of the difference."""
        return math.hypot(self.stderr, self.predicted_stderr)

    @property
    def total_freedom(self) -> float:
        """Welch–Satterthwaite degrees of freedom of the difference."""
        return _welch([self.stderr, self.predicted_stderr], [self.freedom, PREDICTION_FREEDOM])

    @property
    def excess(self) -> float:
        """The discrepancy that counts: signed for one side, absolute for two."""
        difference = self.simulated - self.predicted
        return {"two": abs(difference), "upper": difference, "lower": -difference}[self.side]


@dataclass(frozen=True)
class Row:
    """A comparison with its verdict. All numbers are float64, in the quantity's units."""

    quantity: str
    parameters: Mapping[str, Any]
    predicted: float
    predicted_stderr: float
    simulated: float
    stderr: float
    statistic: float
    p_value: float
    detectable: float
    tolerance: float
    verdict: Status
    note: str = field(default="")


# --- estimates ---


def mean_estimate(values: np.ndarray, axis: int = 0) -> Estimate:
    """Mean over `axis` with its standard error, in float64.

    Raises:
        ValueError: with fewer than two values along `axis`, which leave no standard error.
    """
    values = np.asarray(values, dtype=np.float64)
    trials = values.shape[axis]
    if trials < 2:
        raise ValueError(f"{trials} value along the axis: a standard error needs at least 2")
    mean = values.mean(axis=axis)
    stderr = values.std(axis=axis, ddof=1) / math.sqrt(trials)
    if mean.ndim == 0:
        return Estimate(float(mean), float(stderr), trials)
    return Estimate(mean, stderr, trials)


def share_estimate(successes: float, trials: int) -> Estimate:
    """A share of independent trials; its standard error adds half of each kind, to be no 0."""
    near = (successes + 0.5) / (trials + 1)
    return Estimate(successes / trials, math.sqrt(near * (1 - near) / trials), trials)


def combine(parts: Sequence[Estimate]) -> Estimate:
    """Pool estimates of the same quantity from disjoint sets of trials, exactly.

    Raises:
        ValueError: there is no estimate to pool.
    """
    if not parts:
        raise ValueError("no estimate: pooling needs at least one")
    counts = np.array([part.trials for part in parts], dtype=np.float64)
    means = np.array([part.mean for part in parts], dtype=np.float64)
    errors = np.array([part.stderr for part in parts], dtype=np.float64)
    shape = (-1,) + (1,) * (means.ndim - 1)
    weights, total = counts.reshape(shape), counts.sum()
    mean = (weights * means).sum(axis=0) / total
    within = errors**2 * weights * (weights - 1)
    scatter = (within + weights * (means - mean) ** 2).sum(axis=0)
    stderr = np.sqrt(scatter / (total * (total - 1)))
    if mean.ndim == 0:
        return Estimate(float(mean), float(stderr), int(total))
    return Estimate(mean, stderr, int(total))


def interval(estimate: Estimate, level: float = 0.95) -> tuple[Any, Any]:
    """Two-sided Student confidence interval of an estimate's mean.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    _require_share("level", level)
    half = sps.t.ppf(0.5 + level / 2, max(estimate.trials - 1, 1)) * np.asarray(estimate.stderr)
    return estimate.mean - half, estimate.mean + half


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of a probability from `successes` out of `trials`.

    Raises:
        ValueError: `level` is not between 0 and 1, or not 0 ≤ successes ≤ trials ≥ 1.
    """
    _require_share("level", level)
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials}: must be 0 ≤ successes ≤ trials and trials ≥ 1")
    result = sps.binomtest(int(successes), int(trials)).proportion_ci(level, method="exact")
    return float(result.low), float(result.high)


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} = {value}: must be between 0 and 1")


# --- tests ---


def holm(p_values: Sequence[float] | np.ndarray, level: float) -> np.ndarray:
    """Which hypotheses Holm's step-down rule rejects at family-wise `level` (boolean array).

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    _require_share("level", level)
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    passed = p[order] <= level / np.arange(p.size, 0, -1)
    rejected = np.zeros(p.size, dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


@functools.lru_cache(maxsize=4096)
def _noncentrality(level: float, freedom: float, two_sided: bool) -> float:
    """Shift, in standard errors, that a Student test at `level` finds with probability POWER."""
    tail = level / 2 if two_sided else level
    if freedom > 1e4:
        return float(special.ndtri(1 - tail) + special.ndtri(POWER))
    cut = sps.t.isf(tail, freedom)

    def shortfall(shift: float) -> float:
        return float(special.nctdtr(freedom, shift, cut)) - (1 - POWER)

    # Enough for certain: the error is at most `most` in all but half the allowed misses, and the
    # estimate is at most `fall` too low in all but the other half.
    most, fall = sps.chi2.isf((1 - POWER) / 2, freedom) / freedom, -special.ndtri((1 - POWER) / 2)
    enough = float(cut * math.sqrt(most) + fall)
    if math.isnan(shortfall(enough)):  # the non-central t law is out of its numerical range
        return enough
    root: Any = optimize.brentq(shortfall, 0.0, enough, xtol=1e-6)
    return float(root)


def detectable(stderr: float, freedom: float, level: float, *, two_sided: bool = True) -> float:
    """Smallest discrepancy a Student test at `level` finds with probability :data:`POWER`.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    _require_share("level", level)
    rounded = float("inf") if math.isinf(freedom) else round(max(freedom, 1.0), 2)
    return stderr * _noncentrality(float(level), rounded, two_sided)


def decide(comparisons: Iterable[Comparison], false_alarm: float) -> tuple[Row, ...]:
    """Judge all comparisons of one check at a shared `false_alarm` rate.

    Exact rows are judged by their tolerance; noisy ones by Student tests under Holm's rule.
    A row with a number that is not finite, or without a tolerance, has failed.
    """
    comparisons = list(comparisons)
    noisy = [c for c in comparisons if not c.exact and _finite(c)]
    p_values = [_p_value(c) for c in noisy]
    rejected = dict(zip(map(id, noisy), holm(p_values, false_alarm), strict=True))
    level = false_alarm / max(len(noisy), 1)
    goodness = min(GOODNESS_LEVEL, GOODNESS_SHARED / max(len(noisy), 1))
    return tuple(_row(c, level, goodness, bool(rejected.get(id(c), False))) for c in comparisons)


def decide_within(comparisons: Iterable[Comparison], false_alarm: float) -> tuple[Row, ...]:
    """Judge whether each difference lies within its tolerance, at a shared `false_alarm` rate.

    For a limit met at a single finite size, where a small difference is expected: *confirmed*
    when the whole interval of the difference lies inside the tolerance, *refuted* when all of it
    lies outside, *inconclusive* otherwise. Intervals are simultaneous (Bonferroni).
    """
    comparisons = list(comparisons)
    level = false_alarm / max(len(comparisons), 1)
    rows = []
    for c in comparisons:
        if not _finite(c):
            rows.append(_make_row(c, math.nan, math.nan, math.nan, Status.FAILED))
            continue
        half = c.total_stderr * float(sps.t.isf(level / 2, c.total_freedom))
        if c.excess + half <= c.tolerance:
            status = Status.CONFIRMED
        elif c.excess - half > c.tolerance:
            status = Status.REFUTED
        else:
            status = Status.INCONCLUSIVE
        statistic = (c.simulated - c.predicted) / c.total_stderr if c.total_stderr else 0.0
        p = _p_value(c) if c.total_stderr else 1.0
        rows.append(_make_row(c, statistic, p, c.tolerance + half, status))
    return tuple(rows)


def overall(verdicts: Iterable[Status]) -> Status:
    """The status of a whole from those of its parts; with no part it has failed."""
    found = set(verdicts)
    for status in (Status.REFUTED, Status.FAILED, Status.INCONCLUSIVE):
        if status in found:
            return status
    return Status.CONFIRMED if found else Status.FAILED


def _row(c: Comparison, level: float, goodness: float, rejected: bool) -> Row:
    if not _finite(c):
        return _make_row(c, math.nan, math.nan, math.nan, Status.FAILED)
    if c.exact:
        none = math.inf if c.excess > 0 else 0.0
        statistic = c.excess / c.tolerance if c.tolerance else none
        status = Status.REFUTED if c.excess > c.tolerance else Status.CONFIRMED
        return _make_row(
            c, statistic, 0.0 if status is Status.REFUTED else 1.0, c.tolerance, status
        )
    seen = detectable(c.total_stderr, c.total_freedom, level, two_sided=c.side == "two")
    if c.goodness < goodness:
        note = f"{c.note}; the fit is inadequate (p = {c.goodness:.1e})".removeprefix("; ")
        c, status = replace(c, note=note), Status.INCONCLUSIVE
    elif rejected:
        status = Status.REFUTED
    elif seen > c.tolerance:
        status = Status.INCONCLUSIVE
    else:
        status = Status.CONFIRMED
    statistic = (c.simulated - c.predicted) / c.total_stderr
    return _make_row(c, statistic, _p_value(c), seen, status)


def _make_row(c: Comparison, statistic: float, p: float, seen: float, status: Status) -> Row:
    return Row(
        c.quantity,
        dict(c.parameters),
        c.predicted,
        c.predicted_stderr,
        c.simulated,
        c.stderr,
        statistic,
        p,
        seen,
        c.tolerance,
        status,
        c.note,
    )


def _p_value(c: Comparison) -> float:
    shift, freedom = c.excess / c.total_stderr, c.total_freedom
    tail = float(special.ndtr(-shift) if math.isinf(freedom) else special.stdtr(freedom, -shift))
    return min(1.0, 2 * tail) if c.side == "two" else tail


def _finite(c: Comparison) -> bool:
    numbers = [c.predicted, c.simulated, c.stderr, c.predicted_stderr]
    return bool(np.isfinite(numbers).all()) and not math.isnan(c.tolerance)


def _welch(errors: Sequence[float], freedoms: Sequence[float]) -> float:
    scales = np.asarray(errors, dtype=np.float64)
    peak = scales.max()
    if peak == 0:
        return math.inf
    shares = np.square(scales / peak)  # scaled, so that tiny errors do not underflow when squared
    spread = float((shares**2 / np.asarray(freedoms, dtype=np.float64)).sum())
    return math.inf if spread == 0 else float(shares.sum() ** 2 / spread)


# --- one comparison per relation ---


def compare_identity(
    quantity: str,
    parameters: Mapping[str, Any],
    predicted: float,
    simulated: float,
    *,
    magnitude: float | None = None,
    dtype: Any = np.float64,
    ulps: float = 64.0,
    note: str = "",
) -> Comparison:
    """Equal up to rounding: at most `ulps` units in the last place of `magnitude` in `dtype`.

    `magnitude` is the size of the largest intermediate number; by default that of the sides,
    and never below the smallest normal number.
    """
    scale = max(abs(predicted), abs(simulated)) if magnitude is None else magnitude
    info = np.finfo(dtype)
    tolerance = ulps * float(info.eps) * max(scale, float(info.tiny))
    return Comparison(quantity, parameters, predicted, simulated, tolerance, note=note)


def compare_mean(
    quantity: str,
    parameters: Mapping[str, Any],
    predicted: float,
    estimate: Estimate,
    *,
    tolerance: float,
    predicted_stderr: float = 0.0,
    side: Literal["two", "upper", "lower"] = "two",
    note: str = "",
) -> Comparison:
    """Equal in expectation (or, with `side`, bounded in expectation).

    When neither side has sampling error the comparison falls back to rounding.
    """
    if estimate.stderr == 0 and predicted_stderr == 0 and side == "two":
        return compare_identity(
            quantity,
            parameters,
            predicted,
            float(estimate.mean),
            magnitude=max(1.0, abs(predicted)),
            note=note,
        )
    return Comparison(
        quantity,
        parameters,
        predicted,
        float(estimate.mean),
        tolerance,
        stderr=float(estimate.stderr),
        freedom=estimate.trials - 1,
        predicted_stderr=predicted_stderr,
        side=side,
        note=note,
    )


def compare_bound(
    quantity: str,
    parameters: Mapping[str, Any],
    bound: float,
    estimate: Estimate,
    *,
    tolerance: float,
    side: Literal["upper", "lower"] = "upper",
    bound_stderr: float = 0.0,
    note: str = "",
) -> Comparison:
    """One-sided: the measured mean must not exceed (``"upper"``) or undercut the bound."""
    return compare_mean(
        quantity,
        parameters,
        bound,
        estimate,
        tolerance=tolerance,
        predicted_stderr=bound_stderr,
        side=side,
        note=note,
    )


def extrapolate(
    sizes: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    stderrs: Sequence[float] | np.ndarray,
    freedoms: Sequence[float] | np.ndarray | float = math.inf,
    *,
    order: int = 1,
) -> Fit:
    r"""Limit of `values` at infinite size, from a weighted polynomial fit in 1/size.

    .. math:: v(s) = v_\infty + a_1/s + \dots + a_{\mathrm{order}}/s^{\mathrm{order}}

    Weights are inverse squared standard errors. Needs more sizes than coefficients, so that the
    fit itself is tested (chi-squared on what the polynomial leaves).

    Raises:
        ValueError: with too few distinct sizes, or a size or standard error that is not positive.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    if not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"sizes {sizes}: every one must be positive and finite")
    values, errors = np.asarray(values, np.float64), np.asarray(stderrs, np.float64)
    if np.unique(sizes).size < order + 2:
        raise ValueError(f"{np.unique(sizes).size} sizes: order {order} needs at least {order + 2}")
    scaled = sizes.min() / sizes
    return weighted_fit(np.vander(scaled, order + 1, increasing=True), values, errors, freedoms, 0)


def slope(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    stderrs: Sequence[float] | np.ndarray,
    freedoms: Sequence[float] | np.ndarray | float = math.inf,
) -> Fit:
    """Slope of `y` against `x` from a weighted straight line, with the fit's p-value."""
    x = np.asarray(x, dtype=np.float64)
    if np.unique(x).size < 3:
        raise ValueError(f"{np.unique(x).size} points: a tested slope needs at least 3")
    design = np.vander(x - x.mean(), 2, increasing=True)
    return weighted_fit(
        design, np.asarray(y, np.float64), np.asarray(stderrs, np.float64), freedoms, 1
    )


def weighted_fit(
    design: np.ndarray, values: np.ndarray, errors: np.ndarray, freedoms: Any, which: int
) -> Fit:
    """Coefficient `which` of the fit of `values` by the columns of `design`, with its p-value.

    Weights are inverse squared `errors`, known with `freedoms` degrees of freedom.

    Raises:
        ValueError: a standard error is not positive.
    """
    if not (errors > 0).all():
        raise ValueError("every standard error must be positive: weights are their inverse squares")
    weighted = design / errors[:, None]
    solve = np.linalg.pinv(weighted)
    coefficients = solve @ (values / errors)
    residual = values / errors - weighted @ coefficients
    left = values.size - design.shape[1]
    goodness = float(sps.chi2.sf(float(residual @ residual), left)) if left else 1.0
    # The weights come from estimated errors, so a value whose error happens to be small weighs too
    # much and the plain standard error is too small. The factor is Kackar and Harville's (1984)
    # correction; with it the least of the freedoms keeps the false-alarm rate below its level,
    # which Welch's does not at a few trials (`tests/test_stats.py` measures both).
    freedoms = np.broadcast_to(np.asarray(freedoms, np.float64), values.shape)
    leverage = (weighted * solve.T).sum(axis=1)
    variance = (solve[which] ** 2 * (1 + 4 * (1 - leverage) / freedoms)).sum()
    return Fit(float(coefficients[which]), math.sqrt(variance), float(freedoms.min()), goodness)


def compare_asymptotic(
    quantity: str,
    parameters: Mapping[str, Any],
    sizes: Sequence[float],
    predicted: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    tolerance: float,
    predicted_stderr: float = 0.0,
    limit: float | None = None,
    order: int = 1,
    note: str = "",
) -> Comparison:
    """Equal in the limit of infinite size.

    The difference between simulation and prediction at each size is extrapolated to infinite
    size and compared with 0. `predicted` holds the prediction at each size's own parameters (a
    ratio of integers differs a little from size to size); `limit`, the prediction the row
    reports, is by default the one at the largest size. `predicted_stderr` is common to all
    sizes, so it enters once, not averaged.
    """
    fit = extrapolate(
        sizes,
        [float(e.mean) - p for e, p in zip(estimates, predicted, strict=True)],
        [float(e.stderr) for e in estimates],
        [e.trials - 1 for e in estimates],
        order=order,
    )
    limit = float(predicted[int(np.argmax(sizes))]) if limit is None else limit
    return Comparison(
        quantity,
        parameters,
        limit,
        limit + fit.value,
        tolerance,
        stderr=fit.stderr,
        freedom=fit.freedom,
        predicted_stderr=predicted_stderr,
        goodness=fit.goodness,
        note=note,
    )


def compare_rate(
    quantity: str,
    parameters: Mapping[str, Any],
    predicted: float,
    fit: Fit,
    *,
    tolerance: float,
    side: Literal["two", "upper", "lower"] = "two",
    note: str = "",
) -> Comparison:
    """A slope against the predicted exponent."""
    return Comparison(
        quantity,
        parameters,
        predicted,
        fit.value,
        tolerance,
        stderr=fit.stderr,
        freedom=fit.freedom,
        side=side,
        goodness=fit.goodness,
        note=note,
    )
