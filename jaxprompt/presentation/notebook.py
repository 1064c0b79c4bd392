"""Figures in a notebook."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from jaxprompt.core.claim import Claim, Verdict
from jaxprompt.core.keys import as_key
from jaxprompt.errors import UsageError
from jaxprompt.presentation import plot
from jaxprompt.presentation.canvas import save_figure
from jaxprompt.presentation.figure_tables import FigureTables, figure_needs_verdict, figure_tables
from jaxprompt.presentation.sweep_figure import draw_sweep, swept_quantities

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["Drawing", "SweepDrawing", "draw"]


@dataclass(frozen=True)
class Drawing:
    """A claim's figure with the numbers behind it; a notebook shows it as a picture."""

    claim: Claim
    tables: FigureTables

    def save(self, folder: str | Path = ".") -> tuple[Path, ...]:
        """Write ``ID.png`` and ``ID.svg`` into `folder`."""
        return save_figure(plot.draw(self.claim, self.tables), Path(folder), self.claim.id)

    def _repr_png_(self) -> bytes:
        return _to_png(plot.draw(self.claim, self.tables))


@dataclass(frozen=True)
class SweepDrawing:
    """The figure of one quantity of a sweep; a notebook shows it as a picture."""

    data: xarray.Dataset
    quantity: str

    def save(self, folder: str | Path = ".", name: str = "sweep") -> tuple[Path, ...]:
        """Write ``NAME.QUANTITY.png`` and ``NAME.QUANTITY.svg`` into `folder`."""
        figure = draw_sweep(self.data, self.quantity)
        return save_figure(figure, Path(folder), f"{name}.{self.quantity}")

    def _repr_png_(self) -> bytes:
        return _to_png(draw_sweep(self.data, self.quantity))


def _to_png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def draw(
    shown: Claim | xarray.Dataset,
    verdict: Verdict | None = None,
    key: jax.Array | int = 0,
    *,
    quantity: str = "",
) -> Drawing | SweepDrawing:
    """The figure of a claim, or of a sweep that :func:`jaxprompt.load` opened.

    A claim's figure is made from `verdict` where it shows what a check measured; without a verdict
    such a claim is checked at profile `quick`. Other figures measure their own points. `key` is a
    JAX key or an integer seed. A sweep's figure shows `quantity`, by default its first one:
    ``jaxprompt.load("ratio").pipe(jaxprompt.draw)``.

    Raises:
        UsageError: the claim has no figure, the sweep no such quantity, or more parameters vary
            than one figure can show.
    """
    if not isinstance(shown, Claim):
        names = swept_quantities(shown)
        draw_sweep(shown, quantity)  # what cannot be drawn is refused here
        return SweepDrawing(shown, quantity or names[0])
    if shown.figure is None:
        raise UsageError(f"claim {shown.id} has no figure: give it one, such as Agreement")
    if verdict is None and figure_needs_verdict(shown):
        verdict = shown.check("quick", key)
    tables = figure_tables(shown, verdict, as_key(key))
    assert tables is not None  # the claim has a figure
    return Drawing(shown, tables)
