"""What the builders of prefixes accept: each refusal is one line that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.errors import ParameterError, suggest

__all__ = ["ArgumentChecks"]


@dataclass(frozen=True)
class ArgumentChecks:
    """Checks of the arguments of the function `where`; each raises ParameterError."""

    where: str

    def need(self, ok: bool, name: str, value: object, allowed: str, remedy: str) -> None:
        """Refuse the argument unless `ok`."""
        if not ok:
            raise ParameterError(name, value, allowed, remedy, self.where)

    def whole(
        self, name: str, value: Any, low: int, high: int | None = None, *, remedy: str,
        when: str = "",
    ) -> None:  # fmt: skip
        """An integer, and no truth value, from `low` to `high`; `when` says where that holds."""
        integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        allowed = f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}"
        ok = integer and low <= int(value) and (high is None or int(value) <= high)
        self.need(ok, name, value, f"{allowed} {when}".rstrip(), remedy)

    def positive(self, name: str, value: Any, *, remedy: str) -> None:
        """A finite number > 0, and no truth value."""
        self.need(_is_positive(value), name, value, "a finite number > 0", remedy)

    def choice(self, name: str, value: Any, choices: Sequence[str]) -> None:
        """One of some words."""
        self.need(
            value in choices, name, value, "one of " + ", ".join(choices),
            "choose one of those" + suggest(str(value), choices),
        )  # fmt: skip

    def goal(
        self, accuracy: Any, lipschitz: Any, method: Any, value_limit: Any, methods: Sequence[str]
    ) -> None:
        """The arguments that every builder has."""
        self.positive("accuracy", accuracy, remedy="give the error you accept")
        self.need(
            lipschitz is None or _is_positive(lipschitz) or lipschitz == 0, "lipschitz", lipschitz,
            "a finite number ≥ 0", "leave it out to have it estimated",
        )  # fmt: skip
        self.choice("method", method, methods)
        self.positive("value_limit", value_limit, remedy="10 is usual")


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and 0 < float(value) < math.inf
