"""Which of some values a function takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["arguments_of"]


def arguments_of(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that a function names as arguments; all if it takes any."""
    names = _argument_names(function)
    if names is None:
        return dict(values)
    return {name: value for name, value in values.items() if name in names}


@functools.lru_cache(maxsize=256)
def _argument_names(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names of a function's arguments; None if it takes any."""
    arguments = inspect.signature(function).parameters
    if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments.values()):
        return None
    return frozenset(arguments)
