"""Figures of bars: no row is lost, and each stands under what it was measured at."""

from __future__ import annotations

import pytest

import jaxprompt as jp
from jaxprompt.core.verdict import Verdict
from jaxprompt.stats import Row, Status

SHOWN = {
    "contextual.training": ("linear", "linear_prompt", "prompt", "prompt_lead"),
    "contextual.image_context": (
        "lead", "prompt_gain", "attention_gain", "best_off", "isotropic_excess",
    ),
}  # fmt: skip


def rows_of(claim, profile):
    """A row for each shown quantity at each point, told apart by what was measured."""
    rows = []
    for run in claim.designs[profile].runs:
        point = {n: v for n, v in run.items() if n != "trials"}
        for quantity in SHOWN[claim.id]:
            number = 1.0 + len(rows)
            for side in ("upper", "lower"):
                numbers = dict.fromkeys(("statistic", "p_value", "detectable", "tolerance"), 1.0)
                rows.append(
                    Row(
                        quantity, point, number + 0.5, 0.0, number, 0.1, **numbers,
                        verdict=Status.CONFIRMED, side=side, trials=8,
                    )
                )  # fmt: skip
    return rows


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("id", SHOWN)
def test_every_point_has_a_bar_and_its_limits(id, profile):
    claim = jp.claim(id)
    rows = rows_of(claim, profile)
    verdict = Verdict(
        id, claim.relation, Status.CONFIRMED, tuple(rows), 0.001, 0.1, 1.0, profile, seed=0
    )
    panels = claim.figure.make(claim, verdict, None)
    drawn, limits = [], []
    for panel in panels:
        bars, *sides = panel.marks
        assert len(panel.x_names) == len(bars.y)
        drawn += bars.y
        for side in sides:
            limits += [bars.y[place] - height for place, height in zip(side.x, side.y, strict=True)]
    assert sorted(drawn) == sorted({row.simulated for row in rows})
    assert len(limits) == len(rows)
    assert set(limits) == {-0.5}, "a limit stands at the bar of another row"
