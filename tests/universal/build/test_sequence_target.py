"""Random sequences of a domain, and the slope of a map that is found from them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.universal.build.sequence_target import Domain, largest_slope


@pytest.mark.parametrize("seed", range(4))
def test_a_jump_has_a_slope_without_bound_wherever_the_search_begins(seed):
    domain = Domain("cube", 2, 1)
    points = domain.sample(40, np.random.default_rng(seed))
    slope = largest_slope(np.round, domain, points, seed)
    assert slope > 1e4, f"a jump of 1 was found with a slope of {slope}"


@pytest.mark.parametrize("kind", ["cube", "sphere", "torus"])
def test_no_slope_exceeds_the_constant(kind):
    """The running maximum of first coordinates moves no farther than some token does."""
    domain = Domain(kind, 3, 2)
    points = domain.sample(200, np.random.default_rng(8))
    slope = largest_slope(
        lambda x: np.maximum.accumulate(x[..., :1], axis=1), domain, points, seed=0
    )
    assert 0.8 < slope <= 1 + 1e-6


def test_random_sequences_lie_on_every_kind_of_face():
    x = Domain("cube", 4, 1).sample(4096, np.random.default_rng(0)).reshape(4096, 4)
    at_end = ((x == 0) | (x == 1)).sum(axis=1)
    counts = np.bincount(at_end, minlength=5)
    assert (counts[1:] >= 20).all(), f"sequences with 0 to 4 numbers at an end: {counts}"
