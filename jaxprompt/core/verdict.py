"""The outcome of a check."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxprompt.core.json_values import to_json_values
from jaxprompt.core.relation import Relation
from jaxprompt.stats import Row, Status

if TYPE_CHECKING:
    from jaxprompt.core.designs import Cell

__all__ = ["Verdict", "remedy"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check.

    `rows` holds one :class:`~jaxprompt.stats.Row` for each compared quantity; `cells` what was
    measured; `false_alarm` the chance of refuting a true claim; `detectable` the smallest
    discrepancy the least sensitive row (relative to its tolerance) finds with probability 0.95;
    `seconds` the wall time; `advice` what to do about a verdict that is not *confirmed*.
    """

    id: str
    relation: Relation
    status: Status
    rows: tuple[Row, ...]
    false_alarm: float
    detectable: float
    seconds: float
    profile: str
    seed: int | None
    cells: tuple[Cell, ...] = field(default=(), repr=False)
    error: str = ""
    falsifier: str = ""
    advice: str = ""

    def to_json(self) -> str:
        """The verdict as a JSON text; numbers that are not finite become null."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain lists, dicts and numbers, as written to ``report.json``."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "cells"
        }
        fields["rows"] = [dataclasses.asdict(row) for row in self.rows]
        return to_json_values(fields)

    @property
    def worst(self) -> Row | None:
        """The row that decided: the first with the verdict's status, by smallest p-value."""
        rows = [row for row in self.rows if row.verdict == self.status]
        return min(rows, key=lambda row: (row.p_value, -abs(row.statistic)), default=None)


def remedy(rows: Sequence[Row], status: Status, trials: int, seconds: float) -> str:
    """What an inconclusive check needs, with numbers; empty for other verdicts."""
    if status is not Status.INCONCLUSIVE:
        return ""
    undecided = [row for row in rows if row.verdict is Status.INCONCLUSIVE]
    blunt = [
        r
        for r in undecided
        if not r.exact and math.isfinite(r.detectable) and r.detectable > r.tolerance > 0
    ]
    if not blunt or len(blunt) < len(undecided):
        other = next(row for row in undecided if row not in blunt)
        return f"{len(undecided)} of {len(rows)} rows undecided; `{other.quantity}`: {other.note}"
    worst = max(blunt, key=lambda row: row.detectable / row.tolerance)
    factor = (worst.detectable / worst.tolerance) ** 2
    more = math.ceil(trials * factor / 10) * 10
    minutes = seconds * factor / 60
    time = f"{minutes:.0f} min" if minutes >= 1.5 else f"{max(seconds * factor, 1):.0f} s"
    return (
        f"{len(blunt)} of {len(rows)} rows cannot see {worst.tolerance:.3g}; the worst, "
        f"`{worst.quantity}`, sees {worst.detectable:.3g}: {factor:.2g} × the trials "
        f"({more} a cell, about {time}): --trials {more}"
    )
