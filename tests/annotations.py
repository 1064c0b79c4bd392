"""Annotations of the package as checks, for `conftest.py`.

jaxtyping's hook alone took a third of the time of the tests of statistics: it builds the checks of
every function when a module is imported and of a nested one whenever it is made, and binds the
arguments of each call, also where no array is in the signature. Here a check is built at the first
call, jaxtyping makes those of arrays alone, and a test checks the first calls of each function.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import beartype
import jaxtyping

CALLS = 30
"""How many calls of a function each test checks: a search calls one many thousand times alike."""

CHECKED = 4
"""How many of the functions that one nested definition makes are checked: the first called ones."""

_with_axes = jaxtyping.jaxtyped
"""jaxtyping's decorator, by which axes of one name have one size throughout a call."""

_built: collections.Counter[Any] = collections.Counter()
"""How many checks were built of the functions of each nested definition."""

# The numeric tower: an int will do where a float is asked for, as type checkers have it.
check_types: Callable[[Any], Any] = beartype.beartype(
    conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)
)


_test = 0
"""The test that runs, by its number in this process."""


def begin_test() -> None:
    """The next calls of every function are checked again."""
    global _test
    _test += 1


class _State:
    """What changes of a function under checks: its check, and its calls in one test.

    An object of its own: what a function itself holds tells one simulation from another.
    """

    __slots__ = ("calls", "check", "test")

    def __init__(self) -> None:
        self.check: Callable[..., Any] | None = None
        self.test, self.calls = -1, 0

    def begin_call(self) -> bool:
        """Count a call; whether it is one of the first."""
        if self.test != _test:
            self.test, self.calls = _test, 0
        self.calls += 1
        return self.calls <= CALLS


def enforce_annotations(packages: Sequence[str]) -> None:
    """Hold all functions of packages that are imported later to their annotations."""
    jaxtyping.install_import_hook(packages, "annotations.check_types")
    # The hook writes this name before each definition; a module looks it up as it is imported.
    jaxtyping.jaxtyped = lambda *, typechecker: enforced


def enforced(defined: Any) -> Any:
    """A function whose calls are checked, or a class, of which a dataclass gets such an init."""
    if inspect.isclass(defined):
        # An init that is written out is a function, and checked already.
        own = vars(defined).get("__init__")
        if dataclasses.is_dataclass(defined) and own and not hasattr(own, "__wrapped__"):
            defined.__init__ = enforced(own)
        return defined
    state = _State()

    @functools.wraps(defined)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not state.begin_call():
            return defined(*args, **kwargs)
        if state.check is None:
            state.check = _build(defined)
        return state.check(*args, **kwargs)

    return call


def _build(function: Callable[..., Any]) -> Callable[..., Any]:
    if "<locals>" in function.__qualname__:
        _built[function.__code__] += 1
        if _built[function.__code__] > CHECKED:
            return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        if not any(map(_names_axes, hints.values())):
            return check_types(function)
    except Exception:
        # A name that only type checkers import, or a parameter specification, whose text beartype
        # reads twice: jaxtyping leaves the one argument out and resolves the other.
        pass
    return _with_axes(function, typechecker=check_types)


def _names_axes(hint: Any) -> bool:
    """Whether one of jaxtyping's types is in an annotation."""
    within = typing.get_args(hint)
    return getattr(hint, "__module__", "") == "jaxtyping" or any(map(_names_axes, within))
