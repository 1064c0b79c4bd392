"""Rates of tests, measured over many synthetic checks with fixed seeds.

Every rate is measured at a level large enough to measure, and compared through its own exact
binomial interval.
"""

from __future__ import annotations

import math

from jaxprompt import stats
from jaxprompt.stats import Estimate

LEVEL = 0.05
CHECKS = 800


def estimates(rng, trials, rows, mean=0.0, spread=1.0, common=0.0):
    """One check's estimates: `rows` means of normals, with correlation `common`."""
    noise = rng.normal(size=(trials, rows)) * math.sqrt(1 - common)
    noise = noise + rng.normal(size=(trials, 1)) * math.sqrt(common)
    e = stats.mean_estimate(mean + spread * noise)
    return [Estimate(float(m), float(s), e.trials) for m, s in zip(e.mean, e.stderr, strict=True)]


def rate_at_most(hits, checks, stated, what):
    low, high = stats.binomial_interval(hits, checks, 0.999)
    assert low <= stated, (
        f"{what}: {hits} of {checks} is a rate of {hits / checks:.4f}, between {low:.4f} and "
        f"{high:.4f}; at most {stated} is stated"
    )


def rate_at_least(hits, checks, stated, what):
    low, high = stats.binomial_interval(hits, checks, 0.999)
    assert high >= stated, (
        f"{what}: {hits} of {checks} is a rate of {hits / checks:.4f}, between {low:.4f} and "
        f"{high:.4f}; at least {stated} is stated"
    )
