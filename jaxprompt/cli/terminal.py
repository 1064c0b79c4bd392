"""What is printed, on any terminal: legible where it lacks the letters, and to a reader or none."""

from __future__ import annotations

import codecs
import json
import os
import re
import unicodedata
from typing import Any

__all__ = ["discard", "make_legible", "one_line", "print_json"]

_PLAIN = {
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "≠": "!=",
    "±": "+-",
    "×": "x",
    "·": "-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "∈": "in",
    "√": "sqrt",
    "∞": "inf",
    "⊥": "perp",
    "⋆": "*",
    "‖": "||",
    "⟨": "<",
    "⟩": ">",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}


def make_legible(*streams: Any) -> None:
    """Let streams print letters that their encoding lacks as words or signs that it has."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # not a stream that someone put in its place
            stream.reconfigure(errors="backslashreplace" if _is_utf8(stream) else _ERRORS)


def print_json(value: Any) -> None:
    """Print a value as JSON, exact in any encoding."""
    import sys

    print(json.dumps(value, ensure_ascii=not _is_utf8(sys.stdout)))


def one_line(text: str) -> str:
    """A text in one line, without characters that a terminal would obey."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: repr(m[0])[1:-1], " ".join(text.split()))


def discard(stream: Any) -> None:
    """Let what is still to be written to a stream whose reader has gone vanish."""
    try:
        place = stream.fileno()
    except (AttributeError, OSError, ValueError):  # not a file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, place)
    os.close(nowhere)


def _is_utf8(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf8")


def _in_other_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = "".join(map(_spelled, error.object[error.start : error.end]))
    return found, error.end


def _spelled(letter: str) -> str:
    """A letter in ASCII: by the table, by its parts, by its Greek name, or by its number."""
    if letter in _PLAIN:
        return _PLAIN[letter]
    parts = unicodedata.normalize("NFKD", letter)
    base = "".join(p for p in parts if not unicodedata.combining(p))
    if base.isascii() and base:
        return base
    name = unicodedata.name(base[:1] or letter, "")
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", name)
    if greek:
        return greek[2].lower() if greek[1] == "SMALL" else greek[2].capitalize()
    return letter.encode("ascii", "backslashreplace").decode()


_ERRORS = "jaxprompt.spelled"
codecs.register_error(_ERRORS, _in_other_letters)
