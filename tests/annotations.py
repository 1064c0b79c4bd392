"""Annotations of the package as checks, for the import hook of `conftest.py`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import beartype

# The numeric tower: an int will do where a float is asked for, as type checkers have it.
_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

_made: dict[tuple[str, str, str], Callable[..., Any]] = {}


def checked(item: Any) -> Any:
    """A function or class whose calls are held to its annotations.

    A function's check is built at its first call, and serves every function of that name and
    signature: most of the package is not called by one process, and functions made inside others
    are made thousands of times.
    """
    if inspect.isclass(item):
        return _checked(item)
    name = (item.__module__, item.__qualname__, str(inspect.signature(item)))

    @functools.wraps(item)
    def call(*args: Any, **kwargs: Any) -> Any:
        check = _made.get(name)
        if check is None:
            check = _made[name] = _checked(item)
        return check(*args, **kwargs)

    return call
