"""A statement's markup as safe HTML, with its mathematics as MathML.

Statements and derivations are written with $inline$ and $$display$$ LaTeX, `code`, *emphasis* and
tables of ``| cells |``. The result needs no script and no network.
"""

from __future__ import annotations

import functools
import html
import re
from typing import Any

__all__ = ["markup"]

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
    from latex2mathml.converter import convert

    # The converter escapes < and & in formulas but not in texts within them.
    safe = re.sub(r"(\\text\{)([^{}]*)", lambda m: m[1] + html.escape(m[2], quote=False), latex)
    return convert(safe, display=display)
