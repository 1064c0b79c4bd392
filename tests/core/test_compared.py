"""What claims say of the ranges over which their closed forms were compared."""

from __future__ import annotations

import pytest

import jaxprompt as jp

WITHOUT_A_FORMULA = {"contextual.image_context", "prefix.no_forgetting"}
"""Claims of limits of what training finds: there is nothing to evaluate beside."""


@pytest.mark.parametrize("claim", jp.claims(), ids=lambda claim: claim.id)
def test_every_closed_form_has_ranges_or_says_why_not(claim):
    without = claim.id in WITHOUT_A_FORMULA
    assert bool(claim.compared.ranges) != without
    assert claim.compared.elsewhere.startswith("no formula: ") == without
    assert claim.compared.elsewhere, "what is a prediction worth outside of them?"


@pytest.mark.parametrize("claim", jp.claims("contextual"), ids=lambda claim: claim.id)
def test_parameters_without_a_range_are_known(claim):
    """Sizes that only a simulation needs, other names of what has a range, and a few more."""
    if claim.compared.ranges:
        open_names = {p.name for p in claim.parameters if not p.simulate_only}
        open_names -= claim.compared.ranges.keys() | OTHER_NAMES
        assert open_names == STATED_ALONE.get(claim.id, set())


OTHER_NAMES = {
    "samples", "shift_weights", "head_signal", "head_context", "prompt_signal", "prompt_context",
    "head_prompt",
}  # fmt: skip
"""A ratio has them, shifts have equal odds, and products come from drawn vectors."""

STATED_ALONE: dict[str, set[str]] = {
    "contextual.conditional_error": {"dim"},
    "contextual.convex_head": {"dim"},
    "contextual.sample_complexity": {"dim"},
    "contextual.separation": {"law", "signal"},
    "contextual.training": {"ridge"},
}
"""Parameters that change no prediction, or say only which of two of them is given."""
