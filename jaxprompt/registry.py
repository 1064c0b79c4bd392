"""All claims of all families, by id."""

from __future__ import annotations

import functools
import importlib

from jaxprompt.engine import Claim
from jaxprompt.errors import UnknownClaimError, suggest

__all__ = ["FAMILIES", "claim", "claims", "select"]

FAMILIES = ("contextual", "prefix", "universal")


@functools.cache
def _table() -> dict[str, Claim]:
    table: dict[str, Claim] = {}
    for family in FAMILIES:
        for entry in importlib.import_module(f"jaxprompt.{family}").CLAIMS:
            if entry.family != family:
                raise ValueError(f"claim {entry.id} is listed by the family {family}")
            if entry.id in table:
                raise ValueError(f"claim {entry.id} is listed twice")
            table[entry.id] = entry
    return dict(sorted(table.items()))


def claims(family: str | None = None) -> tuple[Claim, ...]:
    """Every claim, or those of one family, ordered by id.

    Raises:
        UnknownClaimError: there is no such family.
    """
    if family is None:
        return tuple(_table().values())
    if family not in FAMILIES:
        raise UnknownClaimError(
            f"unknown family '{family}': the families are {', '.join(FAMILIES)}"
            f"{suggest(family, FAMILIES, most=1)}"
        )
    return tuple(c for c in _table().values() if c.family == family)


def claim(id: str) -> Claim:
    """The claim called `id`.

    Raises:
        UnknownClaimError: (a KeyError) there is none; the message names the nearest ids.
    """
    try:
        return _table()[id]
    except KeyError:
        raise UnknownClaimError(
            f"unknown claim '{id}'{suggest(id, _table()) or '; '}"
            f"{' ' if suggest(id, _table()) else ''}`jaxprompt list` shows all"
        ) from None


def select(names: list[str] | tuple[str, ...]) -> tuple[Claim, ...]:
    """Claims named by id or by family, in order of id; all of them when `names` is empty."""
    if not names:
        return claims()
    chosen: dict[str, Claim] = {}
    for name in names:
        for entry in claims(name) if name in FAMILIES else (claim(name),):
            chosen[entry.id] = entry
    return tuple(chosen[id] for id in sorted(chosen))
