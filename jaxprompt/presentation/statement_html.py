"""A statement's markup as safe HTML, with its mathematics as MathML.

Statements and derivations are written with $inline$ and $$display$$ LaTeX, `code`, *emphasis* and
tables of ``| cells |``. The result needs no script and no network.
"""

from __future__ import annotations

import functools
import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "card",
    "deviation",
    "markup",
    "number",
    "parameters",
    "surprise",
    "table",
    "verdict_page",
]

_PIECES = re.compile(r"(\$\$.+?\$\$|\$.+?\$|`.+?`)", re.DOTALL)


def markup(text: str) -> Any:
    """The text as HTML (a ``markupsafe.Markup``): paragraphs, tables, code, emphasis, MathML.

    Everything else is escaped.
    """
    import markupsafe

    blocks = [block.strip() for block in re.split(r"\n\s*\n", text.strip())]
    return markupsafe.Markup("".join(_block(block) for block in blocks if block))


def _block(block: str) -> str:
    lines = block.splitlines()
    if len(lines) > 2 and all(line.strip().startswith("|") for line in lines):
        return _table([line.strip() for line in lines])
    return f"<p>{_inline(block)}</p>"


def _table(lines: list[str]) -> str:
    head, _, *body = [_cells(line) for line in lines]
    header = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(line: str) -> list[str]:
    """The cells of a table's line; bars within formulas and code do not part them."""
    cells = [""]
    for piece in _PIECES.split(line.strip("|")):
        if piece.startswith(("$", "`")):
            cells[-1] += piece
        else:
            first, *rest = piece.split("|")
            cells[-1] += first
            cells += rest
    return [cell.strip() for cell in cells]


def _inline(text: str) -> str:
    return "".join(_part(part) for part in _PIECES.split(text))


def _part(part: str) -> str:
    if part.startswith("$$"):
        return _mathml(part[2:-2].strip(), "block")
    if part.startswith("$") and len(part) > 1:
        return _mathml(part[1:-1].strip(), "inline")
    if part.startswith("`") and len(part) > 1:
        return f"<code>{html.escape(part[1:-1])}</code>"
    return re.sub(r"\*(\w[^*]*?)\*", r"<em>\1</em>", html.escape(part))


@functools.lru_cache(maxsize=1024)
def _mathml(latex: str, display: str) -> str:
    """A formula as MathML; as code, where it is no formula or would be more than one."""
    from latex2mathml.converter import convert

    # The converter escapes < and & in formulas but not in texts within them.
    safe = re.sub(r"(\\text\{)([^{}]*)", lambda m: m[1] + html.escape(m[2], quote=False), latex)
    try:
        found = convert(safe, display=display)
    except Exception:  # it raises errors of many kinds on what is not LaTeX
        found = ""
    return found if _only_formula(found) else f"<code>{html.escape(latex)}</code>"


_ELEMENTS = {
    "math", "mrow", "mi", "mo", "mn", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot",
    "mstyle", "mpadded", "mphantom", "msub", "msup", "msubsup", "munder", "mover", "munderover",
    "mmultiscripts", "mprescripts", "none", "mtable", "mtr", "mtd", "menclose",
}  # fmt: skip
_ATTRIBUTES = {
    "display", "mathvariant", "stretchy", "fence", "separator", "form", "lspace", "rspace",
    "minsize", "maxsize", "largeop", "movablelimits", "accent", "accentunder", "linethickness",
    "width", "height", "depth", "voffset", "columnalign", "rowspacing", "columnspacing",
    "columnlines", "rowlines", "notation", "displaystyle", "scriptlevel", "symmetric",
    "fontstyle", "mathcolor", "mathbackground", "mathsize", "rowspan", "columnspan", "align",
}  # fmt: skip


def _only_formula(text: str) -> bool:
    """Whether a text is one MathML element that can do nothing but be shown."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return False
    space = "{http://www.w3.org/1998/Math/MathML}"
    return all(
        str(part.tag).startswith(space)
        and str(part.tag).removeprefix(space) in _ELEMENTS
        and part.attrib.keys() <= _ATTRIBUTES
        for part in root.iter()
    )


# --- numbers and rows in words ---


def deviation(row: Mapping[str, Any]) -> str:
    """How far a row's measured value lies from the predicted one, in words."""
    value = row["statistic"]
    if row["stderr"] or row["predicted_stderr"]:
        return "no number" if value is None else f"z = {value:+.3g}".replace("-", "\N{MINUS SIGN}")
    if value is None:  # infinite: nothing was allowed
        return "a difference where none is allowed"
    return "no difference" if value == 0 else f"{value:.2g} times the tolerance"


def number(value: Any) -> str:
    """A number in a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4f}"
    return str(value)


def parameters(values: Mapping[str, Any]) -> str:
    """Parameters in a table: names and short values."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        text = "[" + ", ".join(map(_short, value)) + "]"
        return text if len(text) <= 48 else text[:47] + "…"
    return f"{value:g}" if isinstance(value, float) else str(value)


def surprise(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Sorts the rows that say most against a claim first."""
    p, statistic = row["p_value"], row["statistic"]
    return (-1.0 if p is None else p, -math.inf if statistic is None else -abs(statistic))


# --- what a notebook shows ---

_SHOWN = 12
"""Rows of a verdict shown in a notebook."""


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """An HTML table of texts; everything is escaped."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def card(claim: Mapping[str, Any]) -> str:
    """A claim (as its ``describe()`` gives it) as HTML: statement, derivation, tables."""
    parts = [
        f"<h4>{html.escape(claim['title'])}</h4>",
        f"<p><code>{html.escape(claim['id'])}</code> · {html.escape(claim['relation'])} · "
        f"{html.escape(claim['source'])}</p>",
        str(markup(claim["statement"])),
    ]
    if claim["derivation"]:
        derived = markup(claim["derivation"])
        parts.append(f"<details><summary>Derivation</summary>{derived}</details>")
    for name, columns in (
        ("parameters", ("name", "meaning", "allowed", "default")),
        ("quantities", ("name", "meaning", "tolerance")),
        ("falsifiers", ("name", "what")),
    ):
        rows = [[item[column] for column in columns] for item in claim[name]]
        parts.append(table(columns, rows, name))
    return "".join(parts)


def verdict_page(verdict: Mapping[str, Any]) -> str:
    """A verdict (as its ``to_dict()`` gives it) as HTML: the rows that say most come first."""
    rows = sorted(verdict["rows"], key=surprise)
    columns = ("quantity", "parameters", "predicted", "measured", "std. error", "difference")
    cells = [
        [
            row["quantity"],
            parameters(row["parameters"]),
            number(row["predicted"]),
            number(row["simulated"]),
            number(row["stderr"]),
            deviation(row),
            number(row["detectable"]),
            row["verdict"],
        ]
        for row in rows[:_SHOWN]
    ]
    of = f"the {_SHOWN} of {len(rows)} rows that say most" if len(rows) > _SHOWN else "all rows"
    wrong = f", falsifier {verdict['falsifier']}" if verdict["falsifier"] else ""
    title = f"{verdict['id']}{wrong}: {verdict['status']}"
    facts = f"false-alarm rate {number(verdict['false_alarm'])}, {verdict['seconds']:.1f} s; {of}"
    error = f"<pre>{html.escape(verdict['error'])}</pre>" if verdict["error"] else ""
    shown = table((*columns, "detectable", "verdict"), cells) if cells else ""
    return f"<p><strong>{html.escape(title)}</strong> ({facts})</p>{error}{shown}"
