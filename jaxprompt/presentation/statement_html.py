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
    return markupsafe.Markup("".join(_block_html(block) for block in blocks if block))


def _block_html(block: str) -> str:
    lines = block.splitlines()
    if len(lines) > 2 and all(line.strip().startswith("|") for line in lines):
        return _table_html([line.strip() for line in lines])
    return f"<p>{_inline_html(block)}</p>"


def _table_html(lines: list[str]) -> str:
    head, _, *body = [_split_cells(line) for line in lines]
    header = "".join(f'<th scope="col">{_inline_html(cell)}</th>' for cell in head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_inline_html(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"


def _split_cells(line: str) -> list[str]:
    """The cells of a table's line; bars within formulas and code do not part them."""
    cells = [""]
    for piece in _PIECES.split(line.strip("|")):
        if piece.startswith(("$", "`")):
            cells[-1] += piece
        else:
            first, *alternatives = piece.split("|")
            cells[-1] += first
            cells += alternatives
    return [cell.strip() for cell in cells]


def _inline_html(text: str) -> str:
    return "".join(_inline_piece(piece) for piece in _PIECES.split(text))


def _inline_piece(piece: str) -> str:
    if piece.startswith("$$"):
        return _to_mathml(piece[2:-2].strip(), "block")
    if piece.startswith("$") and len(piece) > 1:
        return _to_mathml(piece[1:-1].strip(), "inline")
    if piece.startswith("`") and len(piece) > 1:
        return f"<code>{html.escape(piece[1:-1])}</code>"
    return re.sub(r"\*(\w[^*]*?)\*", r"<em>\1</em>", html.escape(piece))


@functools.lru_cache(maxsize=1024)
def _to_mathml(latex: str, display: str) -> str:
    """A formula as MathML; as code, where it is no formula or would be more than one."""
    from latex2mathml.converter import convert

    # The converter escapes < and & in formulas but not in texts within them.
    safe = re.sub(r"(\\text\{)([^{}]*)", lambda m: m[1] + html.escape(m[2], quote=False), latex)
    try:
        formula = convert(safe, display=display)
    except Exception:  # it raises errors of many kinds on what is not LaTeX
        formula = ""
    formula = _SCRIPT_AFTER_BRACKET.sub(r'\1<mi mathvariant="normal">\2</mi>', formula)
    return formula if _only_formula(formula) else f"<code>{html.escape(latex)}</code>"


_SCRIPT_AFTER_BRACKET = re.compile(
    r'(<m(?:sup|sub|subsup)>)<mo(?: fence="false")? stretchy="false">([^<]*)</mo>'
)
"""A bracket that carries a script: as an operator Chromium sets its script half a line too high, as
an identifier where a letter has it."""


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
        str(element.tag).startswith(space)
        and str(element.tag).removeprefix(space) in _ELEMENTS
        and element.attrib.keys() <= _ATTRIBUTES
        for element in root.iter()
    )
