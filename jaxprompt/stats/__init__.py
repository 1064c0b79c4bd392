"""Estimates, calibrated tests and fits: what a check is made of, as plain functions.

Everything is NumPy and float64, and may be used without a claim.
"""

from __future__ import annotations

from typing import Any

from jaxprompt.stats.comparisons import (
    compare_band,
    compare_bound,
    compare_distribution,
    compare_identity,
    compare_mean,
)
from jaxprompt.stats.estimates import (
    Estimate,
    binomial_interval,
    combine,
    exact_estimate,
    half_width,
    interval,
    jackknife,
    mean_estimate,
    mean_estimates,
    proportion_estimate,
    sample_estimate,
)
from jaxprompt.stats.fits import (
    Fit,
    compare_asymptotic,
    compare_rate,
    extrapolate,
    extrapolate_forms,
    line_of_rate,
    rate_fits,
    slope,
    weighted_fit,
)
from jaxprompt.stats.tests import (
    FIT_LEVEL,
    FIT_LEVEL_PER_CHECK,
    POWER,
    PREDICTION_DOF,
    BinomialTest,
    Comparison,
    DistanceTest,
    FittedLine,
    Row,
    Side,
    Status,
    combine_statuses,
    decide,
    decide_equivalence,
    detectable,
    holm,
    skewness_corrected,
)

__all__ = [
    "FIT_LEVEL",
    "FIT_LEVEL_PER_CHECK",
    "POWER",
    "PREDICTION_DOF",
    "BinomialTest",
    "Comparison",
    "DistanceTest",
    "Estimate",
    "Fit",
    "FittedLine",
    "Row",
    "Side",
    "Status",
    "binomial_interval",
    "combine",
    "combine_statuses",
    "compare_asymptotic",
    "compare_band",
    "compare_bound",
    "compare_distribution",
    "compare_identity",
    "compare_mean",
    "compare_rate",
    "decide",
    "decide_equivalence",
    "detectable",
    "exact_estimate",
    "extrapolate",
    "extrapolate_forms",
    "half_width",
    "holm",
    "interval",
    "jackknife",
    "line_of_rate",
    "mean_estimate",
    "mean_estimates",
    "proportion_estimate",
    "rate_fits",
    "sample_estimate",
    "skewness_corrected",
    "slope",
    "weighted_fit",
]

_NAMES_OF_0_1 = {
    "decide_within": "decide_equivalence",
    "overall": "combine_statuses",
    "share_estimate": "proportion_estimate",
}


def __getattr__(name: str) -> Any:
    # Scripts written for 0.1 use these public names.
    if name in _NAMES_OF_0_1:
        return globals()[_NAMES_OF_0_1[name]]
    raise AttributeError(f"module 'jaxprompt.stats' has no attribute {name!r}")
