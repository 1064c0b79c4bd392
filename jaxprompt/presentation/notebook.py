"""Figures in a notebook."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxprompt.core.claim import Claim, Verdict
from jaxprompt.core.keys import as_key
from jaxprompt.errors import UsageError
from jaxprompt.presentation import plot
from jaxprompt.presentation.figure_tables import FigureTables, figure_needs_verdict, figure_tables

__all__ = ["Drawing", "draw"]


@dataclass(frozen=True)
class Drawing:
    """A claim's figure with the numbers behind it; a notebook shows it as a picture."""

    claim: Claim
    tables: FigureTables

    def save(self, folder: str | Path = ".") -> tuple[Path, Path]:
        """Write ``ID.png`` and ``ID.svg`` into `folder`."""
        return plot.save(plot.draw(self.claim, self.tables), Path(folder), self.claim.id)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        plot.draw(self.claim, self.tables).savefig(data, format="png", dpi=100)
        return data.getvalue()


def draw(claim: Claim, verdict: Verdict | None = None, key: jax.Array | int = 0) -> Drawing:
    """The claim's figure, from `verdict` where it shows what a check measured.

    Without a verdict such a claim is checked at profile `quick`; other figures measure their own
    points. `key` is a JAX key or an integer seed.

    Raises:
        UsageError: the claim has no figure.
    """
    if claim.figure is None:
        raise UsageError(f"claim {claim.id} has no figure: give it one, such as Agreement")
    if verdict is None and figure_needs_verdict(claim):
        verdict = claim.check("quick", key)
    tables = figure_tables(claim, verdict, as_key(key))
    assert tables is not None  # the claim has a figure
    return Drawing(claim, tables)
