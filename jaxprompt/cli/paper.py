"""The commands `table` and `cite`: what goes from a claim into a paper."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxprompt.cli import terminal
from jaxprompt.errors import UsageError

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["claim_named", "print_citation", "print_table"]


def print_table(options: argparse.Namespace) -> int:
    """Print the rows of a claim's check as a table, from a run or measured now."""
    from jaxprompt.presentation.paper import paper_table

    entry = claim_named(options.id)
    checked = _stored_entry(entry, options) if options.source else _checked_entry(entry, options)
    print(paper_table(entry, checked["rows"], options.format), end="")
    return 0


def claim_named(name: str) -> Claim:
    """The one claim of that name; UsageError where it names several."""
    from jaxprompt.core.registry import select

    chosen = select([name])
    if len(chosen) != 1:
        ids = ", ".join(claim.id for claim in chosen[:4])
        raise UsageError(f"'{name}' names {len(chosen)} claims: name one of them ({ids}, …)")
    return chosen[0]


def _stored_entry(entry: Claim, options: argparse.Namespace) -> Mapping[str, Any]:
    from jaxprompt.presentation import report

    for stored in report.read_report(options.source)["claims"]:
        if stored["id"] == entry.id:
            return stored
    raise UsageError(f"'{options.source}' holds no check of {entry.id}: drop --from, or check it")


def _checked_entry(entry: Claim, options: argparse.Namespace) -> Mapping[str, Any]:
    with terminal.show_progress(entry.id) as progress, terminal.print_lines_to_stderr():
        verdict = entry.check(options.profile, options.seed, progress=progress)
    if verdict.error:
        raise UsageError(f"{entry.id} could not be checked: {verdict.advice}")
    return verdict.to_dict()


def print_citation(options: argparse.Namespace) -> int:
    """Print BibTeX of a claim's source and of this software."""
    import jaxprompt
    from jaxprompt.presentation.paper import bibliography

    print(bibliography(claim_named(options.id), jaxprompt.__version__), end="")
    return 0
