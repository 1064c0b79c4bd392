"""One comparison for each way in which a measured number is held against a predicted one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxprompt.stats.estimates import Estimate
from jaxprompt.stats.tests import BinomialTest, Comparison, DistanceTest, Side

__all__ = [
    "compare_band",
    "compare_bound",
    "compare_distribution",
    "compare_identity",
    "compare_mean",
]


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
    side: Side = "two",
    note: str = "",
    rounding: float = 0.0,
) -> Comparison:
    """Equal in expectation (or, with `side`, bounded in expectation).

    A proportion is tested by the binomial distribution, an estimate declared exact by the
    tolerance, and any other by a t-test, corrected for skewness where its trials were kept.
    """
    kind = getattr(estimate, "kind", "undeclared")
    mean = float(estimate.mean)
    test = None
    if kind == "proportion":
        successes = round(mean * estimate.trials)
        test = BinomialTest(successes, estimate.trials, predicted, side, predicted_stderr)
    return Comparison(
        quantity,
        parameters,
        predicted,
        mean,
        tolerance,
        stderr=None if kind == "exact" else float(estimate.stderr),
        dof=getattr(estimate, "dof", float(max(estimate.trials - 1, 1))),
        predicted_stderr=predicted_stderr,
        side=side,
        note=note,
        rounding=rounding,
        trials=estimate.trials,
        skewness=_skewness(getattr(estimate, "values", None), estimate.trials),
        test=test,
    )


def _skewness(values: np.ndarray | None, trials: int) -> float:
    """Third standardised moment of a trial; 0 where they were not kept or do not scatter.

    Of fewer values than trials each stands for a mean over as many trials.
    """
    if values is None or values.ndim != 1 or len(values) < 8:
        return 0.0
    deviation = values - values.mean()
    variance = float(np.square(deviation).mean())
    if variance == 0:
        return 0.0
    return float((deviation**3).mean() / variance**1.5) * math.sqrt(trials / len(values))


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


def compare_band(
    quantity: str,
    parameters: Mapping[str, Any],
    predicted: np.ndarray,
    estimate: Estimate,
    *,
    tolerance: np.ndarray | float,
    labels: Sequence[str] | None = None,
    side: Side = "two",
    predicted_stderr: np.ndarray | float = 0.0,
    rounding: float = 0.0,
) -> Comparison:
    """A function of an axis: one row for its worst place, with a simultaneous band.

    The band is Bonferroni's over the places of the axis, so it holds whatever their dependence.
    An exact estimate has its largest deviation, in units of the tolerance, as the worst place.
    """
    measured = np.asarray(estimate.mean, np.float64)
    expected, measured = np.broadcast_arrays(np.asarray(predicted, np.float64), measured)
    errors = np.broadcast_to(np.asarray(estimate.stderr, np.float64), measured.shape)
    own_errors = np.broadcast_to(np.asarray(predicted_stderr, np.float64), measured.shape)
    allowed = np.broadcast_to(np.asarray(tolerance, np.float64), measured.shape)
    signs = {"two": np.abs, "upper": np.asarray, "lower": np.negative}[side]
    excess = signs(measured - expected)
    exact = getattr(estimate, "kind", "") == "exact" and not own_errors.any()
    total = np.hypot(errors, own_errors)
    # How surprising each place is: in tolerances where nothing scatters, else in standard errors.
    unit = _at_least_tiny(np.where(total > 0, total, allowed) if not exact else allowed)
    surprise = np.where(np.isnan(excess), np.inf, np.where(excess > 0, excess, 0.0) / unit)
    worst = np.unravel_index(int(np.argmax(surprise)), measured.shape)
    scaled = total / _at_least_tiny(allowed)
    sensitivity = float(scaled.max() / scaled[worst]) if scaled[worst] > 0 else 1.0
    kept: Any = getattr(estimate, "values", None)
    if kept is not None:
        kept = kept.reshape(len(kept), -1)[:, int(np.argmax(surprise))]
    return Comparison(
        quantity,
        parameters,
        float(expected[worst]),
        float(measured[worst]),
        float(allowed[worst]),
        stderr=None if exact else float(errors[worst]),
        dof=getattr(estimate, "dof", float(max(estimate.trials - 1, 1))),
        predicted_stderr=float(own_errors[worst]),
        side=side,
        note=f"worst at {labels[int(worst[0])]}" if labels and len(worst) == 1 else "",
        rounding=rounding,
        trials=estimate.trials,
        multiplicity=1 if exact else int(measured.size),
        sensitivity=sensitivity,
        skewness=_skewness(kept, estimate.trials),
    )


def _at_least_tiny(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, np.finfo(np.float64).tiny)


def compare_distribution(
    quantity: str,
    parameters: Mapping[str, Any],
    estimate: Estimate,
    *,
    tolerance: float,
    cdf: Callable[[np.ndarray], Any] | None = None,
    sample: np.ndarray | None = None,
) -> Comparison:
    """The trials' empirical distribution against a distribution function, or a second sample.

    The row's number is Kolmogorov's distance, predicted to be 0; `tolerance` is the distance the
    claim must be able to see.

    Raises:
        ValueError: the trials were not kept, or neither (or both) of `cdf` and `sample` is given.
    """
    values = getattr(estimate, "values", None)
    if values is None:
        raise ValueError(
            f"the trials of `{quantity}` were not kept: return them by jaxprompt.per_trial"
        )
    if (cdf is None) == (sample is None):
        raise ValueError(f"`{quantity}`: give a distribution function or a second sample")
    drawn = np.sort(np.asarray(values, np.float64).ravel())
    if cdf is not None:
        # The distribution may have steps, at numbers that trials repeat: both of its limits there.
        places, counts = np.unique(drawn, return_counts=True)
        below = np.asarray(cdf(places), np.float64)
        before = np.asarray(cdf(np.nextafter(places, -np.inf)), np.float64)
        if ((below < -1e-9) | (below > 1 + 1e-9)).any() or (np.diff(below) < -1e-9).any():
            raise ValueError(
                f"`{quantity}`: the distribution function must grow from 0 to 1; it gives "
                f"{below.min():.4g} to {below.max():.4g}"
            )
        steps = np.concatenate([[0], np.cumsum(counts)]) / drawn.size
        differences = np.abs(np.concatenate([steps[1:] - below, steps[:-1] - before]))
        distance = float(differences.max())
        test = DistanceTest(distance, drawn.size)
    else:
        other = np.sort(np.asarray(sample, np.float64).ravel())
        places = np.concatenate([drawn, other])
        ours = np.searchsorted(drawn, places, side="right") / drawn.size
        theirs = np.searchsorted(other, places, side="right") / other.size
        distance = float(np.abs(ours - theirs).max())
        count = drawn.size * other.size / (drawn.size + other.size)
        test = DistanceTest(distance, count, known=False)
    return Comparison(
        quantity,
        parameters,
        0.0,
        distance,
        tolerance,
        stderr=0.0,
        side="upper",
        note="Kolmogorov distance",
        trials=drawn.size,
        test=test,
    )
