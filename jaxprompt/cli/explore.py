"""The command `explore`: a page on which a claim's closed form moves with sliders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprompt.cli.paper import claim_named
from jaxprompt.errors import UsageError, short

__all__ = ["write_explorer"]


def write_explorer(options: argparse.Namespace) -> int:
    """Write the page; points and verdict come from a run's folder."""
    from jaxprompt.presentation.explorer import explore, explorer_page
    from jaxprompt.presentation.files import write_atomically

    claim = claim_named(options.id)
    points, verdict = _stored(options.source, claim.id) if options.source else ([], None)
    exploration = explore(
        claim, x=options.x, y=options.y, sliders=options.slider or (), points=points
    )
    path: Path = options.out or Path(f"{claim.id}.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, explorer_page(claim, exploration, verdict).encode())
    except OSError as error:
        raise UsageError(
            f"--out '{short(str(path))}' cannot be written ({error.strerror}): choose another file"
        ) from None
    print(path)
    return 0


def _stored(folder: Path, id: str) -> tuple[list[dict[str, Any]], Mapping[str, Any] | None]:
    """The points of the claim's figure and its entry of the report, as far as they are there."""
    from jaxprompt.presentation import report
    from jaxprompt.presentation.table_files import load_table_rows

    if not folder.is_dir():
        raise UsageError(f"--from '{folder}': no such folder; give one that a check wrote")
    table = folder / "data" / id / "points.csv"
    points = load_table_rows(table) if table.is_file() else []
    points = [row for row in points if {"x", "y", "stderr", "parameters"} <= row.keys()]
    entry = None
    if report.has_report(folder):
        entries = report.read_report(folder)["claims"]
        entry = next((e for e in entries if e["id"] == id), None)
    return points, entry
