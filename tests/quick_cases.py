"""Which cases of a parametrised test the default run takes; the others run under `slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], quick: Callable[[Any], bool]) -> list[Any]:
    """All cases, of which those that are not `quick` carry the mark `slow`."""
    return [case if quick(case) else slow_case(case) for case in cases]


def some_slow(cases: Sequence[Any], first: int) -> list[Any]:
    """All cases, of which those after the `first` ones carry the mark `slow`."""
    return [*cases[:first], *map(slow_case, cases[first:])]


def slow_case(case: Any) -> Any:
    """A case, or a tuple of values, under the mark `slow`."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
