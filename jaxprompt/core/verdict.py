"""The outcome of a check."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxprompt.core.json_values import to_json_values
from jaxprompt.core.relation import Relation
from jaxprompt.stats import Row, Status

if TYPE_CHECKING:
    from jaxprompt.core.claim import Cell

__all__ = ["Verdict"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check.

    `rows` holds one :class:`~jaxprompt.stats.Row` for each compared quantity; `cells` what was
    measured; `false_alarm` the chance of refuting a true claim; `detectable` the smallest
    discrepancy the least sensitive row (relative to its tolerance) finds with probability 0.95;
    `seconds` the wall time.
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
