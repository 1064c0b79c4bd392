"""Figures that a claim's own function arranges: drawn from a check, as the main job does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Panels, Regions

STORED = Path(__file__).resolve().parents[2] / "figures" / "data"

ARRANGED = [
    pytest.param(
        claim, id=claim.id,
        marks=pytest.mark.skipif(
            bool(claim.extra and claim.extra.missing()), reason=f"{claim.id} needs an extra"
        ),
    )
    for claim in jp.claims() if isinstance(claim.figure, Panels | Regions)
]  # fmt: skip


def stored_rows(id, name):
    """Rows of a table of the committed figure; none where it has no such table."""
    path = STORED / id / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        assert next(file).startswith("# jaxprompt table")
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("claim", ARRANGED)
def test_a_figure_of_own_panels_is_drawn_from_a_check(claim, tmp_path):
    """It has the panels and rows of the stored one, and equal numbers give equal bytes."""
    drawing = jp.draw(claim, claim.check("quick", 0))
    for name in ("points", "lines", "axes"):
        rows, stored = getattr(drawing.tables, name), stored_rows(claim.id, name)
        assert len(rows) == len(stored), f"{name} of {claim.id}"
        assert [row.get("label") for row in rows] == [row.get("label") for row in stored]
    assert drawing._repr_png_() == drawing._repr_png_()
    assert all(path.stat().st_size for path in drawing.save(tmp_path))
