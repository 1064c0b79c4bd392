"""What a simulation measured: a mean over independent trials, a proportion, or an exact number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats as sps

__all__ = [
    "Estimate",
    "binomial_interval",
    "combine",
    "exact_estimate",
    "half_width",
    "interval",
    "jackknife",
    "mean_estimate",
    "mean_estimates",
    "proportion_estimate",
    "require_level",
    "sample_estimate",
]

Kind = Literal["undeclared", "sampled", "proportion", "exact"]

JACKKNIFE_BLOCKS = 200
"""Blocks that :func:`jackknife` leaves out in turn; with more trials a block has several."""

SECTIONS = 25
"""Separate parts of the trials from which a statistic that is not smooth gets its error."""

SMOOTHNESS = 0.1
"""Standard errors by which a smooth statistic's correction for bias may depend on the blocks."""

LARGEST_SAMPLE = 10**6
"""Numbers that one estimate keeps at most; a larger sample keeps its mean and error alone."""


class _Numbers(NamedTuple):
    mean: Any
    stderr: Any
    trials: int


class Estimate(_Numbers):
    """A measured quantity: its mean over `trials` and the standard error of that mean.

    `mean` and `stderr` are floats, or float64 arrays of one shape when a simulation served several
    parameter points, or an axis, at once. It is a tuple of these three. Beside them,

    `kind` declares what the number is: ``"sampled"`` (a mean over random trials), ``"proportion"``
    (of independent trials that each gave 0 or 1), ``"exact"`` (a deterministic construction: no
    other run would give another number), or ``"undeclared"``. A standard error of 0 says nothing
    by itself: a rare event that was not seen leaves the same trace as a number without scatter.

    `values` holds the trials themselves, (trials, …) in float64, where they were kept; of a
    jackknife what each block of trials contributes.
    """

    kind: Kind
    values: np.ndarray | None
    dof: float

    def __new__(
        cls,
        mean: Any,
        stderr: Any,
        trials: int,
        *,
        kind: Kind = "undeclared",
        values: np.ndarray | None = None,
        dof: float | None = None,
    ) -> Estimate:
        made = super().__new__(cls, mean, stderr, trials)
        made.kind = kind
        made.values = values
        made.dof = float(max(trials - 1, 1)) if dof is None else dof
        return made

    def at(self, index: tuple[int, ...]) -> Estimate:
        """The estimate at one place of its arrays."""
        return Estimate(
            float(np.asarray(self.mean)[index]),
            float(np.broadcast_to(self.stderr, np.shape(self.mean))[index]),
            self.trials,
            kind=self.kind,
            values=None if self.values is None else self.values[(slice(None), *index)],
            dof=self.dof,
        )


def mean_estimate(values: Any, axis: int = 0) -> Estimate:
    """Mean over `axis` with its standard error, in float64.

    Equal numbers average to themselves, to the last bit.

    Raises:
        ValueError: with fewer than two values along `axis`, which leave no standard error.
    """
    values = np.asarray(values, dtype=np.float64)
    trials = values.shape[axis]
    if trials < 2:
        raise ValueError(f"{trials} value along the axis: a standard error needs at least 2")
    with np.errstate(over="ignore", invalid="ignore"):  # of equal large numbers nothing is lost
        mean = values.mean(axis=axis)
        stderr = values.std(axis=axis, ddof=1) / math.sqrt(trials)
    first = values.take(0, axis=axis)
    same = (values == np.expand_dims(first, axis)).all(axis=axis)
    mean, stderr = np.where(same, first, mean), np.where(same, 0.0, stderr)
    if mean.ndim == 0:
        return Estimate(float(mean), float(stderr), trials, kind="sampled")
    return Estimate(mean, stderr, trials, kind="sampled")


def mean_estimates(values: np.ndarray) -> list[Estimate]:
    """:func:`mean_estimate` of each row of an array (rows, trials), to the last bit, in one go."""
    rows = mean_estimate(np.ascontiguousarray(values), axis=1)
    pairs = zip(rows.mean.tolist(), rows.stderr.tolist(), strict=True)
    return [Estimate(mean, stderr, rows.trials, kind=rows.kind) for mean, stderr in pairs]


def sample_estimate(values: Any) -> Estimate:
    """:func:`mean_estimate` over the first axis that keeps the trials, and knows a proportion.

    Trials of truth values are a proportion by their type, and so are numbers among which both 0
    and 1, and nothing else, was seen.
    """
    raw = np.asarray(values)
    numbers = raw.astype(np.float64)
    made = mean_estimate(numbers)
    kind: Kind = "sampled"
    if numbers.ndim == 1 and (raw.dtype == np.bool_ or _is_binary(numbers)):
        made, kind = proportion_estimate(float(numbers.sum()), len(numbers)), "proportion"
    kept = numbers if numbers.size <= LARGEST_SAMPLE else None
    return Estimate(made.mean, made.stderr, made.trials, kind=kind, values=kept)


def _is_binary(values: np.ndarray) -> bool:
    zeros, ones = int((values == 0).sum()), int((values == 1).sum())
    return zeros > 0 and ones > 0 and zeros + ones == values.size


def proportion_estimate(successes: float, trials: int) -> Estimate:
    """Proportion of independent trials that succeeded.

    Its standard error uses (successes + ½)/(trials + 1), so that it is never 0.

    Raises:
        ValueError: not 0 ≤ successes ≤ trials with trials ≥ 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"{successes} of {trials}: must be 0 ≤ successes ≤ trials and trials ≥ 1; count again"
        )
    near = (successes + 0.5) / (trials + 1)
    error = math.sqrt(near * (1 - near) / trials)
    return Estimate(successes / trials, error, trials, kind="proportion")


def exact_estimate(value: Any, trials: int = 1) -> Estimate:
    """A deterministic number or float64 array: no sampling error, whatever the seed."""
    number = float(value) if np.ndim(value) == 0 else np.asarray(value, np.float64)
    return Estimate(
        number, np.zeros(np.shape(value)) if np.ndim(value) else 0.0, trials, kind="exact"
    )


def jackknife(
    statistic: Callable[..., Any], *samples: Any, blocks: int = JACKKNIFE_BLOCKS
) -> Estimate:
    """``statistic(*samples)`` with its standard error, from leaving out blocks of trials in turn.

    Each sample is an array (trials, …); `statistic` takes arrays of any number of trials and
    returns a number. The estimate is corrected for bias of order 1/trials, and its standard error
    has blocks − 1 degrees of freedom.

    That holds for smooth functions of means. A quantile jumps where a block is left out, and its
    correction is noise: it shows as a correction that depends on the number of blocks. Such a
    statistic keeps its value, and gets its standard error from :data:`SECTIONS` separate parts of
    the trials, with as many degrees of freedom less one (Asmussen and Glynn, *Stochastic
    Simulation* (2007), III.5, call it sectioning).

    Raises:
        ValueError: there are fewer than four trials, or the samples' lengths differ.
    """
    arrays = [np.asarray(sample) for sample in samples]
    trials = len(arrays[0])
    if any(len(array) != trials for array in arrays):
        raise ValueError("the samples must have one length: give each trial's numbers together")
    if trials < 4:
        raise ValueError(f"{trials} trials: a jackknife needs at least 4; simulate more")
    count = min(blocks, trials)
    whole = float(statistic(*arrays))
    without = _leave_blocks_out(statistic, arrays, count)
    if (without == whole).all():
        return Estimate(whole, 0.0, trials, kind="sampled", dof=count - 1)
    center = without.mean()
    stderr = math.sqrt((count - 1) / count * float(np.square(without - center).sum()))
    correction = (count - 1) * (whole - center)
    if trials >= 8 * SECTIONS:
        # Four numbers of blocks, since one or two corrections may agree by luck.
        for fewer in (count // 2, count // 3, count // 5):
            again = (fewer - 1) * (whole - _leave_blocks_out(statistic, arrays, fewer).mean())
            if abs(correction - again) > SMOOTHNESS * stderr:
                return _section(statistic, arrays, whole)
    # What each block contributes; its skewness is that of the statistic.
    contributions = count * whole - (count - 1) * without
    return Estimate(
        float(whole + correction),
        stderr,
        trials,
        kind="sampled",
        values=contributions,
        dof=count - 1,
    )


def _leave_blocks_out(
    statistic: Callable[..., Any], arrays: Sequence[np.ndarray], count: int
) -> np.ndarray:
    """The statistic without each of `count` blocks of trials."""
    cuts = np.linspace(0, len(arrays[0]), count + 1).astype(int)
    return np.array(
        [
            float(statistic(*(np.concatenate([a[:low], a[high:]]) for a in arrays)))
            for low, high in itertools.pairwise(cuts)
        ]
    )


def _section(statistic: Callable[..., Any], arrays: Sequence[np.ndarray], whole: float) -> Estimate:
    """The statistic of all trials, with the scatter of that of separate parts about it."""
    trials = len(arrays[0])
    cuts = np.linspace(0, trials, SECTIONS + 1).astype(int)
    parts = np.array(
        [float(statistic(*(a[low:high] for a in arrays))) for low, high in itertools.pairwise(cuts)]
    )
    stderr = math.sqrt(float(np.square(parts - whole).sum()) / (SECTIONS * (SECTIONS - 1)))
    return Estimate(whole, stderr, trials, kind="sampled", dof=SECTIONS - 1)


def combine(parts: Sequence[Estimate]) -> Estimate:
    """Pool estimates of the same quantity from disjoint sets of trials, exactly.

    Raises:
        ValueError: there is no estimate to pool.
    """
    if not parts:
        raise ValueError("no estimate: pooling needs at least one")
    kinds: set[Kind] = {getattr(estimate, "kind", "undeclared") for estimate in parts}
    kind: Kind = kinds.pop() if len(kinds) == 1 else "undeclared"
    counts = np.array([estimate.trials for estimate in parts], dtype=np.float64)
    means = np.array([estimate.mean for estimate in parts], dtype=np.float64)
    errors = np.array([estimate.stderr for estimate in parts], dtype=np.float64)
    shape = (-1,) + (1,) * (means.ndim - 1)
    weights, total = counts.reshape(shape), counts.sum()
    if kind == "proportion" and means.ndim == 1:
        return proportion_estimate(float(np.round(weights * means).sum()), int(total))
    mean = (weights * means).sum(axis=0) / total
    within = errors**2 * weights * (weights - 1)
    scatter = (within + weights * (means - mean) ** 2).sum(axis=0)
    stderr = np.sqrt(scatter / (total * max(total - 1, 1)))
    same = (means == means[0]).all(axis=0)
    mean = np.where(same, means[0], mean)
    stderr = np.where(same & (errors == 0).all(axis=0), 0.0, stderr)
    if mean.ndim == 0:
        return Estimate(float(mean), float(stderr), int(total), kind=kind)
    return Estimate(mean, stderr, int(total), kind=kind)


def interval(estimate: Estimate, level: float = 0.95) -> tuple[Any, Any]:
    """Two-sided confidence interval of an estimate: Student's, or the binomial of a proportion.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    require_level("level", level)
    if getattr(estimate, "kind", "") == "proportion" and np.ndim(estimate.mean) == 0:
        return binomial_interval(round(estimate.mean * estimate.trials), estimate.trials, level)
    half = half_width(np.asarray(estimate.stderr), estimate.trials - 1, level)
    return estimate.mean - half, estimate.mean + half


def half_width(stderr: Any, dof: float, level: float = 0.95) -> Any:
    """Half the width of Student's interval of a number with that standard error; 0 for none."""
    return sps.t.ppf(0.5 + level / 2, max(dof, 1)) * stderr


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of a probability from `successes` out of `trials`.

    Raises:
        ValueError: `level` is not between 0 and 1, or not 0 ≤ successes ≤ trials ≥ 1.
    """
    require_level("level", level)
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials}: must be 0 ≤ successes ≤ trials and trials ≥ 1")
    result = sps.binomtest(int(successes), int(trials)).proportion_ci(level, method="exact")
    return float(result.low), float(result.high)


def require_level(name: str, value: float) -> None:
    """Refuse a probability that is not strictly between 0 and 1 with a ValueError."""
    if not 0 < value < 1:
        raise ValueError(f"{name} = {value}: must be between 0 and 1")
