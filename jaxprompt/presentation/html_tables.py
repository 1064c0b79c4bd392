"""Tables and cards as HTML: what a notebook shows, and the templates of the page.

Everything is escaped by Jinja, but for statements, which :mod:`statement_html` makes safe.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.core.claim import Claim, Verdict
from jaxprompt.presentation.statement_html import markup
from jaxprompt.presentation.wording import (
    by_strength_of_evidence,
    describe_row,
    describe_verdict,
    describe_worst_row,
    format_number,
    format_parameters,
)
from jaxprompt.stats import Estimate

__all__ = ["claim_card", "estimate_table", "render_template", "table", "verdict_card"]

_MOST_ROWS = 12
"""Rows of a verdict shown in a notebook."""


@functools.cache
def _templates() -> Any:
    import jinja2

    environment: Any = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("jaxprompt.presentation"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=format_number,
        parameters=format_parameters,
        seconds=lambda s: f"{s:.1f} s",
        described=describe_row,
        worst=describe_worst_row,
        markup=markup,
        columns=_columns,
    )
    return environment


def _columns(items: Sequence[Mapping[str, Any]], *names: str) -> list[list[Any]]:
    return [[item[name] for name in names] for item in items]


def render_template(name: str, **values: Any) -> str:
    """Fill in the template ``NAME.html.jinja``."""
    return _templates().get_template(f"{name}.html.jinja").render(**values)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """A table of texts."""
    return render_template("table", columns=columns, rows=rows, caption=caption)


def claim_card(claim: Claim) -> str:
    """A claim: statement, derivation, and tables of parameters, quantities and falsifiers."""
    return render_template("card", claim=claim.describe())


def verdict_card(verdict: Verdict) -> str:
    """A verdict: the rows that say most come first."""
    entry = describe_verdict(verdict)
    rows = sorted(entry["rows"], key=by_strength_of_evidence)
    return render_template("verdict", entry=entry, rows=rows[:_MOST_ROWS], most=_MOST_ROWS)


def estimate_table(estimate: Estimate) -> str:
    """An estimate: a row for each of its entries."""
    means = np.ravel(estimate.mean)
    errors = np.broadcast_to(estimate.stderr, np.shape(estimate.mean)).ravel()
    rows = [
        (float(mean), float(error), estimate.trials)
        for mean, error in zip(means, errors, strict=True)
    ]
    return render_template("estimate", rows=rows)
