"""Errors a user can act on: one line each, naming the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ClaimError",
    "JaxpromptError",
    "MissingExtraError",
    "NumericalError",
    "ParameterError",
    "UnknownClaimError",
    "UsageError",
    "short",
    "suggest",
]


class JaxpromptError(Exception):
    """Base of every error that bad input, rather than a defect, can cause."""


class ClaimError(JaxpromptError, ValueError):
    """A claim that is not well defined; refused when it is built, with what to write instead."""


class UsageError(JaxpromptError):
    """A file, folder or option that cannot be used as given."""


class MissingExtraError(UsageError, ImportError):
    """Optional packages that are not installed; the message says how to get them."""


class ParameterError(JaxpromptError, ValueError):
    """A parameter outside what a claim allows.

    The message names the parameter, its value, what is allowed and what to do.
    """

    def __init__(
        self, name: str, value: object, allowed: str, remedy: str, where: str = ""
    ) -> None:
        prefix = f"{where}: " if where else ""
        super().__init__(
            f"{prefix}parameter `{short(name)[1:-1]}` = {short(value)}: must be {allowed}; {remedy}"
        )
        self.name = name


class NumericalError(JaxpromptError, ArithmeticError):
    """Parameters that are allowed, but at which no number could be computed."""


class UnknownClaimError(JaxpromptError, KeyError):
    """No claim has this id; the message names the nearest ones."""

    def __str__(self) -> str:  # KeyError would print the repr, quotes and all
        return str(self.args[0])


def suggest(word: str, known: Iterable[str], most: int = 3) -> str:
    """Return ``"; did you mean …?"`` for the entries of `known` nearest to `word`, or ``""``."""
    near = difflib.get_close_matches(word, list(known), n=most, cutoff=0.4)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def short(value: object, limit: int = 60) -> str:
    """A value as a message names it: in one line of at most `limit` characters."""
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        text = "(an integer of thousands of digits)"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
