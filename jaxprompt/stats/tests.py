r"""Tests that can fail, and that say how small a discrepancy they would have seen.

A check compares several quantities at several parameter points. Every comparison with sampling
error is a test with a p-value, and all tests of one check share a single family-wise error rate by
Holm's step-down rule, so the chance that a check refutes a true claim is at most the stated rate
whatever the dependence between its rows.

For each row the *detectable* discrepancy is the difference between prediction and truth that the
row's test would have found with probability :data:`POWER`; it is computed at the Bonferroni level,
the strictest Holm can apply. A row that finds nothing but could not have seen a discrepancy as
large as the claim's tolerance is *inconclusive*, not confirmed.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from scipy import optimize, special
from scipy import stats as sps

from jaxprompt.stats.estimates import half_width, require_level

__all__ = [
    "FIT_LEVEL",
    "FIT_LEVEL_PER_CHECK",
    "POWER",
    "PREDICTION_DOF",
    "BinomialTest",
    "Comparison",
    "DistanceTest",
    "FittedLine",
    "Row",
    "Side",
    "Status",
    "combine_statuses",
    "decide",
    "decide_equivalence",
    "detectable",
    "holm",
    "skewness_corrected",
    "welch_dof",
]

POWER = 0.95
"""Probability with which a row finds a discrepancy as large as the one it calls detectable."""

FIT_LEVEL = 1e-4
"""Level below which one fit is called inadequate; the row is then inconclusive, never refuted."""

FIT_LEVEL_PER_CHECK = 1e-3
"""Total level of all goodness-of-fit tests of a check. With more than ten fits each gets an equal
share of it, so that a large check of a true claim is not inconclusive by chance."""

PREDICTION_DOF = 15
"""Degrees of freedom of a prediction's own standard error (16 randomised quadratures)."""

ULPS = 4.0
"""Units in the last place of the larger side below which a difference is rounding."""

Side = Literal["two", "upper", "lower"]


class Status(enum.StrEnum):
    """What a comparison found."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


@runtime_checkable
class SpecialTest(Protocol):
    """A test that is not Student's, of one comparison."""

    def p_value(self) -> float:
        """Probability of data at least as far from the prediction, if the prediction is right."""
        ...

    def detectable(self, level: float) -> float:
        """The discrepancy that the test at `level` finds with probability :data:`POWER`."""
        ...


@dataclass(frozen=True)
class FittedLine:
    """The points through which a limit or an exponent was fitted, and the line through them.

    `power` is the leading one of a limit's correction (``"log"`` for 1/log), and None for an
    exponent. `values` are differences from the prediction, or measured means of an exponent, in the
    quantity's units, with their standard errors and degrees of freedom. The line of a limit begins
    at infinite size.
    """

    power: float | str | None
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    dofs: tuple[float, ...]
    line_sizes: tuple[float, ...]
    line_values: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """One predicted number beside one measured number, before any verdict.

    Without a `stderr` the measured number is exact: a deterministic construction, judged by the
    tolerance alone. A standard error of 0 that is given stands for a sample without scatter, which
    is another thing.

    `side` says which discrepancies count: ``"two"`` any; ``"upper"`` only a measured value above
    the predicted one (the prediction is an upper bound); ``"lower"`` only one below it.
    `tolerance` is the discrepancy the claim must be able to see, in the quantity's units; for an
    exact comparison it is the largest one allowed. `rounding` is what floating-point arithmetic
    alone may move the difference by: a difference within it counts as none. `alternatives` holds
    the simulated number with its standard error and degrees of freedom under other admissible
    forms of a fit: what only some of them contradict is not refuted. `multiplicity` is the number
    of places that the row is the worst of, and `sensitivity` how much larger (relative to the
    tolerance) the standard error of the least sensitive of them is. `test` replaces Student's.
    `undecided` says why nothing can be tested here, such as too few sizes for a fit. `fit` is the
    line that a limit or an exponent was read from, for figures.
    """

    quantity: str
    parameters: Mapping[str, Any]
    predicted: float
    simulated: float
    tolerance: float
    stderr: float | None = None
    dof: float = math.inf
    predicted_stderr: float = 0.0
    side: Side = "two"
    goodness: float = 1.0
    note: str = ""
    rounding: float = 0.0
    trials: int = 0
    alternatives: tuple[tuple[float, float, float], ...] = ()
    form_found: bool = False
    multiplicity: int = 1
    sensitivity: float = 1.0
    skewness: float = 0.0
    test: SpecialTest | None = None
    undecided: str = ""
    fit: FittedLine | None = None

    @property
    def exact(self) -> bool:
        """Whether both sides are free of sampling error by declaration."""
        return self.stderr is None and self.predicted_stderr == 0 and self.test is None

    @property
    def sampling_stderr(self) -> float:
        """Standard error of the measured number; 0 where it is exact."""
        return self.stderr or 0.0

    @property
    def total_stderr(self) -> float:
        """Standard error of the difference."""
        return math.hypot(self.sampling_stderr, self.predicted_stderr)

    @property
    def total_dof(self) -> float:
        """Welch–Satterthwaite degrees of freedom of the difference."""
        return welch_dof([self.sampling_stderr, self.predicted_stderr], [self.dof, PREDICTION_DOF])

    @property
    def excess(self) -> float:
        """The discrepancy that counts: signed for one side, absolute for two."""
        return self.excess_of(self.simulated)

    def excess_of(self, simulated: float) -> float:
        """The discrepancy that counts if `simulated` had been measured."""
        difference = simulated - self.predicted
        return {"two": abs(difference), "upper": difference, "lower": -difference}[self.side]

    def worst_of(self, rows: Sequence[Comparison]) -> Comparison:
        """This row, standing for the worst of several: at a share of the level, as blunt as any."""
        unit = max(self.total_stderr / max(self.tolerance, 1e-300), 1e-300)
        bluntest = max(row.total_stderr / max(row.tolerance, 1e-300) for row in rows)
        return replace(
            self,
            multiplicity=len(rows),
            sensitivity=max(1.0, bluntest / unit),
            goodness=min(1.0, len(rows) * min(row.goodness for row in rows)),
        )

    @property
    def allowed_rounding(self) -> float:
        """The difference that counts as none: stated, or some ulps of the larger side."""
        size = max(abs(self.predicted), abs(self.simulated))
        return max(self.rounding, ULPS * float(np.finfo(np.float64).eps) * size)

    @property
    def systematic(self) -> float:
        """Half the range of the measured number over the admissible forms of its fit."""
        values = [self.simulated, *(value for value, _, _ in self.alternatives)]
        return (max(values) - min(values)) / 2


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
    side: str = "two"
    exact: bool = False
    trials: int = 0
    goodness: float = 1.0
    systematic: float = 0.0
    fit: FittedLine | None = None

    @property
    def half_width(self) -> float:
        """Half of Student's 95 % interval of the difference; 0 where both sides are exact."""
        error = math.hypot(self.stderr, self.predicted_stderr)
        return float(half_width(error, self.trials - 1))


# --- several hypotheses ---


def holm(p_values: Sequence[float] | np.ndarray, level: float) -> np.ndarray:
    """Which hypotheses Holm's step-down rule rejects at family-wise `level` (boolean array).

    Raises:
        ValueError: `level` is not between 0 and 1, or a p-value is not between 0 and 1.
    """
    require_level("level", level)
    p = np.asarray(p_values, dtype=np.float64)
    outside = ~((p >= 0) & (p <= 1))
    if outside.any():
        raise ValueError(f"p-value {p[outside][0]}: must be between 0 and 1; leave failed rows out")
    order = np.argsort(p, kind="stable")
    passed = p[order] <= level / np.arange(p.size, 0, -1)
    rejected = np.zeros(p.size, dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


# --- Student's t-test ---


@functools.lru_cache(maxsize=4096)
def _noncentrality(level: float, dof: float, two_sided: bool) -> float:
    """Shift, in standard errors, that a t-test at `level` finds with probability POWER."""
    tail = level / 2 if two_sided else level
    if dof > 1e4:
        return float(special.ndtri(1 - tail) + special.ndtri(POWER))
    cut = sps.t.isf(tail, dof)

    def shortfall(shift: float) -> float:
        return float(special.nctdtr(dof, shift, cut)) - (1 - POWER)

    # Upper end of the search. Each with probability 1 − (1 − POWER)/2: the estimated variance is
    # at most `ratio` times the true one, and the estimate is at most `fall` standard errors too
    # low. Together they guarantee the power.
    ratio = sps.chi2.isf((1 - POWER) / 2, dof) / dof
    fall = -special.ndtri((1 - POWER) / 2)
    enough = float(cut * math.sqrt(ratio) + fall)
    if math.isnan(shortfall(enough)):  # the non-central t distribution leaves its numerical range
        return enough
    root: Any = optimize.brentq(shortfall, 0.0, enough, xtol=1e-6)
    return float(root)


def detectable(stderr: float, dof: float, level: float, *, two_sided: bool = True) -> float:
    """Smallest discrepancy that a t-test at `level` finds with probability :data:`POWER`.

    Raises:
        ValueError: `level` is not between 0 and 1, or `stderr` is negative.
    """
    require_level("level", level)
    if stderr < 0:
        raise ValueError(f"stderr = {stderr}: must be ≥ 0; a standard error is a root of a sum")
    rounded = float("inf") if math.isinf(dof) else round(max(dof, 1.0), 2)
    return stderr * _noncentrality(float(level), rounded, two_sided)


def welch_dof(errors: Sequence[float], dofs: Sequence[float]) -> float:
    """Welch–Satterthwaite degrees of freedom of a sum with these standard errors."""
    scales = np.asarray(errors, dtype=np.float64)
    peak = scales.max()
    if peak == 0:
        return math.inf
    shares = np.square(scales / peak)  # scaled, so that tiny errors do not underflow when squared
    spread = float((shares**2 / np.asarray(dofs, dtype=np.float64)).sum())
    return math.inf if spread == 0 else float(shares.sum() ** 2 / spread)


def skewness_corrected(statistic: float, skewness: float, trials: int) -> float:
    r"""Hall's transform of a t-statistic of skewed numbers, which is nearer to Student's.

    .. math:: T + \tfrac13\gamma n^{-1/2} T^2 + \tfrac1{27}\gamma^2 n^{-1} T^3
              + \tfrac16 \gamma n^{-1/2}

    Source: Hall, *On the removal of skewness by transformation*, JRSS B 54 (1992).
    """
    g = skewness / math.sqrt(max(trials, 1))
    return statistic + g * statistic**2 / 3 + g**2 * statistic**3 / 27 + g / 6


# --- other tests ---


@dataclass(frozen=True)
class BinomialTest:
    """`successes` of `trials` against a predicted probability, exactly.

    A prediction with a standard error of its own is tested at the most favourable probability
    within four of them.
    """

    successes: int
    trials: int
    probability: float
    side: Side = "two"
    probability_stderr: float = 0.0

    def p_value(self) -> float:
        """Two-sided: twice the smaller tail. A probability outside [0, 1] is impossible."""
        reach = 4 * self.probability_stderr
        low, high = self.probability - reach, self.probability + reach
        if high < 0 or low > 1:
            return 0.0
        nearest = min(max(self.successes / self.trials, low), high)
        candidates = {min(max(p, 0.0), 1.0) for p in (low, high, nearest)}
        return max(self._p_value(p) for p in candidates)

    def _p_value(self, probability: float) -> float:
        below = float(sps.binom.cdf(self.successes, self.trials, probability))
        above = float(sps.binom.sf(self.successes - 1, self.trials, probability))
        if self.side == "upper":
            return min(1.0, above)
        if self.side == "lower":
            return min(1.0, below)
        return min(1.0, 2 * min(below, above))

    def detectable(self, level: float) -> float:
        """The larger of the detectable shifts upwards and downwards, where both can be."""
        tail = level / 2 if self.side == "two" else level
        center = min(max(self.probability, 0.0), 1.0)
        shifts = []
        if self.side != "lower":
            shifts.append(self._detectable_shift(center, tail))
        if self.side != "upper":
            mirrored = BinomialTest(self.trials - self.successes, self.trials, 1 - center)
            shifts.append(mirrored._detectable_shift(1 - center, tail))
        return max(shifts) + 4 * self.probability_stderr

    def _detectable_shift(self, center: float, tail: float) -> float:
        """Shift upwards that is found; all the room there is where none would be found."""
        room = 1.0 - center
        least = int(sps.binom.isf(tail, self.trials, center)) + 1
        while least > 0 and sps.binom.sf(least - 2, self.trials, center) <= tail:
            least -= 1
        if least > self.trials or room <= 0:
            return room

        def shortfall(probability: float) -> float:
            return float(sps.binom.sf(least - 1, self.trials, probability)) - POWER

        root: Any = optimize.brentq(shortfall, center, 1.0, xtol=1e-12)
        return float(root) - center


@dataclass(frozen=True)
class DistanceTest:
    """Kolmogorov's distance of an empirical distribution from a predicted one.

    `trials` is the effective number: n for a known distribution function, nm/(n + m) for two
    samples. With `trials` large both have Kolmogorov's distribution; for a known distribution the
    exact one is used.
    """

    distance: float
    trials: float
    known: bool = True

    def _upper_tail(self, distance: float) -> float:
        if self.known:
            return float(sps.kstwo.sf(distance, round(self.trials)))
        return float(sps.kstwobign.sf(distance * math.sqrt(self.trials)))

    def _critical_value(self, level: float) -> float:
        if self.known:
            return float(sps.kstwo.isf(level, round(self.trials)))
        return float(sps.kstwobign.isf(level)) / math.sqrt(self.trials)

    def p_value(self) -> float:
        """Probability of a distance at least as large."""
        return min(1.0, self._upper_tail(self.distance))

    def detectable(self, level: float) -> float:
        """A true distance of that size exceeds the critical one with probability POWER at least."""
        return self._critical_value(level) + self._critical_value(1 - POWER)


# --- verdicts ---


def decide(comparisons: Iterable[Comparison], false_alarm: float) -> tuple[Row, ...]:
    """Judge all comparisons of one check at a shared `false_alarm` rate.

    Exact rows are judged by their tolerance; sampled ones by tests under Holm's rule. A sample
    without scatter that differs from its prediction is inconclusive. A row with a number that is
    not finite, a negative standard error, or without a tolerance, has failed.
    """
    comparisons = list(comparisons)
    tested = [
        c for c in comparisons if _is_valid(c) and not (c.undecided or c.exact or _lacks_scatter(c))
    ]
    p_values = [_p_value(c) for c in tested]
    rejected = dict(zip(map(id, tested), holm(p_values, false_alarm), strict=True))
    level = false_alarm / max(len(tested), 1)
    fits = min(FIT_LEVEL, FIT_LEVEL_PER_CHECK / max(len(tested), 1))
    return tuple(_decide_row(c, level, fits, bool(rejected.get(id(c), False))) for c in comparisons)


def decide_equivalence(comparisons: Iterable[Comparison], false_alarm: float) -> tuple[Row, ...]:
    """Judge whether each difference lies within its tolerance, at a shared `false_alarm` rate.

    For a limit met at a single finite size, where a small difference is expected: *confirmed*
    when the whole interval of the difference lies inside the tolerance, *refuted* when all of it
    lies outside, *inconclusive* otherwise. Intervals are simultaneous (Bonferroni).
    """
    comparisons = list(comparisons)
    level = false_alarm / max(len(comparisons), 1)
    rows = []
    for c in comparisons:
        if not _is_valid(c):
            rows.append(_make_row(c, math.nan, math.nan, math.nan, Status.FAILED))
            continue
        if c.undecided:
            rows.append(_undecided_row(c))
            continue
        if _lacks_scatter(c):
            rows.append(_row_without_scatter(c, level))
            continue
        half = c.total_stderr * float(sps.t.isf(level / 2, c.total_dof)) if c.total_stderr else 0.0
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


def combine_statuses(statuses: Iterable[Status]) -> Status:
    """The status of a whole from those of its parts; with no part it has failed."""
    present = set(statuses)
    for status in (Status.REFUTED, Status.FAILED, Status.INCONCLUSIVE):
        if status in present:
            return status
    return Status.CONFIRMED if present else Status.FAILED


def _decide_row(c: Comparison, level: float, fits: float, rejected: bool) -> Row:
    if not _is_valid(c):
        return _make_row(c, math.nan, math.nan, math.nan, Status.FAILED)
    if c.undecided:
        return _undecided_row(c)
    if c.exact:
        return _exact_row(c)
    if _lacks_scatter(c):
        return _row_without_scatter(c, level)
    share = level / c.multiplicity
    if c.test is not None:
        resolution = c.test.detectable(share)
    else:
        resolution = detectable(c.total_stderr, c.total_dof, share, two_sided=c.side == "two")
    resolution *= c.sensitivity
    if c.goodness < fits:
        c = _with_note(c, f"the fit is inadequate (p = {c.goodness:.1e})")
        status = Status.INCONCLUSIVE
    elif rejected and not _every_form_rejects(c, share) and not _all_forms_agree(c, resolution):
        c = _with_note(c, f"the limit depends on the fit ({_range_text(c)})")
        status = Status.INCONCLUSIVE
    elif rejected and _every_form_rejects(c, share):
        status = Status.REFUTED
    # What lies far inside a bound needs less.
    elif resolution > c.tolerance + max(-c.excess, 0.0):
        status = Status.INCONCLUSIVE
    elif _forms_disagree(c):
        c = _with_note(c, f"the limit depends on the fit ({_range_text(c)})")
        status = Status.INCONCLUSIVE
    else:
        if rejected:  # by the main form alone, which nobody stated
            c = _with_note(c, f"within the tolerance under every form ({_range_text(c)})")
        status = Status.CONFIRMED
    statistic = (c.simulated - c.predicted) / c.total_stderr if c.total_stderr else 0.0
    return _make_row(c, statistic, _p_value(c), resolution, status)


def _exact_row(c: Comparison) -> Row:
    """Judge a number without sampling error by its tolerance, and by what rounding leaves."""
    excess = 0.0 if abs(c.simulated - c.predicted) <= c.allowed_rounding else c.excess
    ratio = (excess / c.tolerance) if c.tolerance else (math.inf if excess > 0 else 0.0)
    hidden = c.tolerance > 0 and c.allowed_rounding > c.tolerance
    if c.systematic > c.tolerance and c.excess - 2 * c.systematic <= c.tolerance:
        c = _with_note(c, f"the limit depends on the fit ({_range_text(c)})")
        return _make_row(c, ratio, 1.0, 2 * c.systematic, Status.INCONCLUSIVE)
    if excess > c.tolerance and c.excess - 2 * c.systematic > c.tolerance:
        return _make_row(c, ratio, 0.0, c.tolerance, Status.REFUTED)
    if excess > c.tolerance:
        c = _with_note(c, f"the limit depends on the fit ({_range_text(c)})")
        return _make_row(c, ratio, 1.0, 2 * c.systematic, Status.INCONCLUSIVE)
    if hidden and c.side == "two":
        c = _with_note(c, f"rounding alone may be {c.allowed_rounding:.1e}")
        return _make_row(c, ratio, 1.0, c.allowed_rounding, Status.INCONCLUSIVE)
    return _make_row(c, ratio, 1.0, c.tolerance, Status.CONFIRMED)


def _undecided_row(c: Comparison) -> Row:
    return _make_row(_with_note(c, c.undecided), 0.0, 1.0, math.inf, Status.INCONCLUSIVE)


def _lacks_scatter(c: Comparison) -> bool:
    """Whether it is a sample in which all trials gave one number."""
    return c.test is None and not c.exact and c.total_stderr == 0


def _row_without_scatter(c: Comparison, level: float) -> Row:
    """All trials gave one number: equal to the prediction, on its right side, or undecided."""
    unseen = f"; an event rarer than 1 in {c.trials / 3:.0f} may be unseen" if c.trials > 3 else ""
    note = f"all {c.trials or ''} trials gave one number{unseen}".replace("  ", " ")
    agrees = c.excess <= c.allowed_rounding
    status = Status.CONFIRMED if agrees else Status.INCONCLUSIVE
    statistic = 0.0 if agrees else math.inf
    return _make_row(_with_note(c, note), statistic, 1.0, c.tolerance, status)


def _every_form_rejects(c: Comparison, level: float) -> bool:
    """Whether the prediction is contradicted under each admissible form, from the same side.

    A prediction between two forms is within what the choice of a form leaves open.
    """
    return all(
        (value > c.predicted) == (c.simulated > c.predicted)
        and _student_p(c, value, math.hypot(error, c.predicted_stderr), dof) <= level
        for value, error, dof in c.alternatives
    )


def _all_forms_agree(c: Comparison, resolution: float) -> bool:
    """Whether, of a form that the claim does not state, every one keeps to the tolerance.

    Which of them is the main one then means nothing, and neither does its rejection alone.
    """
    return c.form_found and resolution <= c.tolerance and not _forms_disagree(c)


def _forms_disagree(c: Comparison) -> bool:
    """Whether a form puts the limit farther from the prediction than the tolerance, beyond noise.

    The noise is that of the difference between the two fits, of which the main one has the less.
    """
    return any(
        c.excess_of(value) - 2 * math.sqrt(max(error**2 - c.sampling_stderr**2, 0.0)) > c.tolerance
        for value, error, _ in c.alternatives
    )


def _range_text(c: Comparison) -> str:
    values = [c.simulated, *(value for value, _, _ in c.alternatives)]
    return f"{min(values):.4g} to {max(values):.4g}"


def _with_note(c: Comparison, note: str) -> Comparison:
    return replace(c, note=f"{c.note}; {note}".removeprefix("; "))


def _make_row(c: Comparison, statistic: float, p: float, resolution: float, status: Status) -> Row:
    return Row(
        c.quantity,
        dict(c.parameters),
        c.predicted,
        c.predicted_stderr,
        c.simulated,
        c.sampling_stderr,
        statistic,
        p,
        resolution,
        c.tolerance,
        status,
        c.note,
        c.side,
        c.exact,
        c.trials,
        c.goodness,
        c.systematic,
        c.fit,
    )


def _p_value(c: Comparison) -> float:
    if c.test is not None:
        return min(1.0, c.multiplicity * c.test.p_value())
    if c.excess <= c.allowed_rounding and c.side == "two":
        return 1.0
    return min(1.0, c.multiplicity * _student_p(c, c.simulated, c.total_stderr, c.total_dof))


def _student_p(c: Comparison, simulated: float, stderr: float, dof: float) -> float:
    """p-value of a t-test; of skewed numbers the larger one of the plain and the corrected test."""
    difference = simulated - c.predicted
    if stderr == 0:
        return 1.0 if c.excess_of(simulated) <= 0 else 0.0
    statistics = [difference / stderr]
    if c.skewness:
        statistics.append(skewness_corrected(statistics[0], c.skewness, c.trials))
    signed = {"two": np.abs, "upper": np.asarray, "lower": np.negative}[c.side]
    shift = float(np.min(signed(statistics)))
    tail = float(special.ndtr(-shift) if math.isinf(dof) else special.stdtr(dof, -shift))
    return min(1.0, 2 * tail) if c.side == "two" else tail


def _is_valid(c: Comparison) -> bool:
    numbers = [c.predicted, c.simulated, c.sampling_stderr, c.predicted_stderr]
    finite = bool(np.isfinite(numbers).all()) and not math.isnan(c.tolerance)
    return finite and c.sampling_stderr >= 0 and c.predicted_stderr >= 0 and c.tolerance >= 0
