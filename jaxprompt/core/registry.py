"""All claims by id: those of the families, and those that a user brings.

A user's claims run only when the user names them: a file by its path, an installed package by the
family it announces under the entry point group ``jaxprompt.claims``. Nothing else imports them.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprompt.core.claim import Claim
from jaxprompt.core.claim_files import modules_beside, run_claim_file
from jaxprompt.errors import UnknownClaimError, UsageError, short, suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "ENTRY_POINTS",
    "FAMILIES",
    "claim",
    "claims",
    "installed",
    "load_claims",
    "load_folder",
    "measurable",
    "origin",
    "register",
    "select",
]

FAMILIES = ("contextual", "prefix", "universal")

ENTRY_POINTS = "jaxprompt.claims"
"""Group of the entry points by which a package brings claims: the name is their family, the value
a sequence of claims, such as ``my_family = "my_package.claims:CLAIMS"``."""

_user_claims: dict[str, tuple[Claim, str]] = {}
"""Claims of the user's in this process, each with the file or package it came from."""


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
    """Every claim of jaxprompt's own, or those of one family, ordered by id.

    A family may also be one that an installed package brings, or that was loaded from a file.

    Raises:
        UnknownClaimError: there is no such family.
        UsageError: the package that brings the family cannot be loaded.
    """
    if family is None:
        return tuple(_table().values())
    if family in FAMILIES:
        brought = [c for c, _ in _user_claims.values() if c.family == family]
        packaged = [c for c in _table().values() if c.family == family]
        return tuple(sorted([*packaged, *brought], key=lambda c: c.id))
    brought_claims = [c for c, _ in _user_claims.values() if c.family == family] or _load_installed(
        family
    )
    if brought_claims:
        return tuple(sorted(brought_claims, key=lambda c: c.id))
    known = (*FAMILIES, *installed(), *sorted({c.family for c, _ in _user_claims.values()}))
    raise UnknownClaimError(
        f"unknown family {short(family)}: the families are {', '.join(dict.fromkeys(known))}"
        f"{suggest(family, known, most=1)}"
    )


def claim(id: str) -> Claim:
    """The claim called `id`.

    Raises:
        UnknownClaimError: (a KeyError) there is none; the message names the nearest ids.
        UsageError: the package that brings its family cannot be loaded.
    """
    table = _table()
    if id in table:
        return table[id]
    family = id.partition(".")[0]
    if id not in _user_claims and family not in FAMILIES:
        _load_installed(family)
    if id in _user_claims:
        return _user_claims[id][0]
    near = suggest(id, (*table, *_user_claims, *FAMILIES))
    raise UnknownClaimError(f"unknown claim {short(id)}{near or ';'} `jaxprompt list` shows all")


def select(names: Iterable[str]) -> tuple[Claim, ...]:
    """Claims named by id, by family, or by the path of a file or a folder of claims, ordered by id.

    All of jaxprompt's own when `names` is empty.
    """
    chosen: dict[str, Claim] = {}
    for name in names:
        for entry in _claims_named(name):
            chosen[entry.id] = entry
    return tuple(chosen[id] for id in sorted(chosen)) if chosen else claims()


def measurable(names: Iterable[str]) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
    """The claims :func:`select` gives, and apart from them those whose extra is not installed.

    Raises:
        MissingExtraError: a claim named by its own id, or every claim chosen, needs an extra that
            is not installed.
    """
    names = tuple(names)
    chosen = select(names)
    left_out = tuple(c for c in chosen if c.extra and c.extra.missing())
    for entry in left_out:
        if entry.extra and (entry.id in names or len(left_out) == len(chosen)):
            entry.extra.require(entry.id)
    return tuple(c for c in chosen if c not in left_out), left_out


def _claims_named(name: str) -> tuple[Claim, ...]:
    if name.endswith(".py"):
        return load_claims(name)
    if _names_folder(name):
        return load_folder(name)
    if "." in name:
        return (claim(name),)
    known = (*FAMILIES, *installed(), *(c.family for c, _ in _user_claims.values()))
    return claims(name) if name in known else (claim(name),)


def _names_folder(name: str) -> bool:
    """Whether a name is a folder's: it has a separator, or there is one and no such family."""
    if "/" in name or "\\" in name:
        return True
    return name not in (*FAMILIES, *installed()) and Path(name).is_dir()


# --- what users bring ---


def register(entries: Iterable[Claim], source: str) -> tuple[Claim, ...]:
    """Make claims known by id in this process; `source` tells where they came from.

    A claim that is known already, such as one of jaxprompt's own that a file lists, stays what it
    is and keeps its source.

    Raises:
        UsageError: an id is taken by another claim.
    """
    entries = tuple(entries)
    ids = [entry.id for entry in entries]
    new: dict[str, tuple[Claim, str]] = {}
    for entry in entries:
        if ids.count(entry.id) > 1:
            raise _id_taken(entry, source, source)
        known, other = _known_claim(entry.id)
        if known is not None and not _same_source(other, source):
            if known is not entry:
                raise _id_taken(entry, source, other)
            continue
        new[entry.id] = entry, source
    _user_claims.update(new)
    return entries


def _known_claim(id: str) -> tuple[Claim | None, str]:
    """A claim with where it comes from; (None, "") for an id that is free."""
    if id in _table():
        return _table()[id], "jaxprompt"
    return _user_claims.get(id, (None, ""))


def _id_taken(entry: Claim, source: str, other: str) -> UsageError:
    return UsageError(
        f"claim '{entry.id}' of {source} is defined by {other} too: give it another id"
    )


def origin(id: str) -> str:
    """The file a claim was loaded from, to be named beside its id; "" where the id is enough."""
    source = _user_claims[id][1] if id in _user_claims else ""
    return source if source.endswith(".py") else ""


def load_claims(path: str | Path) -> tuple[Claim, ...]:
    """Run a Python file and make its claims known by id in this process.

    Takes the file's ``CLAIMS`` (a sequence) where it has one, else every claim that the file
    defines under a global name. The file's code runs as with ``python FILE``: it may import
    modules beside it, which files of other folders do not see.

    Raises:
        UsageError: the file cannot be read or run, or holds no claim.
    """
    source = str(path)
    return register(_claims_in(run_claim_file(path), source), source)


def load_folder(path: str | Path) -> tuple[Claim, ...]:
    """The claims of every file of a folder, as :func:`load_claims` gives them, in order of names.

    Its own folders are not entered. Files that do not mention jaxprompt, and those whose names
    begin with ``_``, ``.``, ``test_`` or are ``conftest.py`` or ``setup.py``, are not run.

    Raises:
        UsageError: the folder cannot be read, one of its files cannot be run, or none holds claims.
    """
    try:
        files = sorted(file for file in Path(path).iterdir() if _may_hold_claims(file))
    except OSError as error:
        raise UsageError(
            f"folder of claims '{path}' cannot be read ({error.strerror}): check the path"
        ) from None
    loaded: list[Claim] = []
    for file in files:
        source = str(file)
        names = run_claim_file(source)
        if "CLAIMS" in names or _distinct_claims(names.values()):
            loaded += register(_claims_in(names, source), source)
    if not loaded:
        raise UsageError(
            f"folder '{path}' brings no claims: name a folder whose .py files define some "
            "(`jaxprompt new FILE.py` writes one)"
        )
    return tuple(loaded)


def _may_hold_claims(file: Path) -> bool:
    apart = file.name.startswith(("_", ".", "test_")) or file.name in ("conftest.py", "setup.py")
    return file.suffix == ".py" and not apart and b"jaxprompt" in file.read_bytes()


def _claims_in(names: dict[str, Any], source: str) -> tuple[Claim, ...]:
    """The claims a file lists, or else those it defines; what it only looked up is not its own."""
    listed = names.get("CLAIMS")
    if listed is None:
        known = [*_table().values(), *_other_claims(source)]
        held = [
            v for v in _distinct_claims(names.values()) if not any(v is other for other in known)
        ]
        beside = [v for module in modules_beside(source) for v in vars(module).values()]
        defined = [v for v in held if not any(v is other for other in beside)]
        listed = defined or held
    return _claims_of(listed, source)


def _distinct_claims(values: Iterable[Any]) -> list[Claim]:
    return list({id(value): value for value in values if isinstance(value, Claim)}.values())


def _other_claims(source: str) -> list[Claim]:
    """Claims that were brought by other files and packages than `source`."""
    return [entry for entry, other in _user_claims.values() if not _same_source(other, source)]


def _same_source(first: str, other: str) -> bool:
    """Whether two sources are one: two spellings of a path name the same file."""
    if first.endswith(".py") and other.endswith(".py"):
        return Path(first).resolve() == Path(other).resolve()
    return first == other


def _claims_of(listed: Any, source: str) -> tuple[Claim, ...]:
    try:
        claims_listed = tuple(listed)
    except TypeError:
        claims_listed = ()
    if not claims_listed or not all(isinstance(entry, Claim) for entry in claims_listed):
        raise UsageError(
            f"{source} brings no claims: define some (jaxprompt.Claim), or list them in CLAIMS"
        )
    return claims_listed


def installed() -> dict[str, EntryPoint]:
    """Families that installed packages announce, by name; nothing is imported.

    Raises:
        UsageError: two packages announce one family, or one of jaxprompt's own.
    """
    from importlib.metadata import entry_points

    announced: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINTS):
        taken = "jaxprompt" if point.name in FAMILIES else _package(announced.get(point.name))
        if taken:
            raise UsageError(
                f"{_package(point)} and {taken} both bring a family '{point.name}': "
                "uninstall one of them, or rename its entry point"
            )
        announced[point.name] = point
    return announced


def _load_installed(family: str) -> tuple[Claim, ...]:
    point = installed().get(family)
    if point is None:
        return ()
    source = _package(point)
    try:
        listed = point.load()
    except Exception as error:
        raise UsageError(
            f"family '{family}' of {source} cannot be loaded "
            f"({type(error).__name__}: {error}): repair or uninstall that package"
        ) from error
    claims_listed = _claims_of(listed, source)
    for entry in claims_listed:
        if entry.family != family:
            raise UsageError(
                f"{source} lists the claim '{entry.id}' in the family '{family}': "
                "give each family an entry point of its own"
            )
    return register(claims_listed, source)


def _package(point: EntryPoint | None) -> str:
    if point is None:
        return ""
    return f"the package {point.dist.name}" if point.dist else f"the entry point {point.value}"
