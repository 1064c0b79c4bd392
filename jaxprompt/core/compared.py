"""Where a claim's closed form was set beside an evaluation that shares nothing with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.parameters import REQUIRED, Parameter

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["Compared", "describe_compared"]


@dataclass(frozen=True)
class Compared:
    """Where a closed form was set beside an independent evaluation, beyond the claim's own check.

    `ranges` gives for a parameter its least and its largest number (of pairs: those of their
    entries), or the choices. A test draws points from them and compares, so they are what was done.
    The points of the designs count too, without being named here. `elsewhere` says in a sentence
    what a prediction is worth beyond both: what limits its digits, or who states what is lost.
    Values that are not allowed are refused everywhere.
    """

    ranges: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    elsewhere: str = ""


def describe_compared(claim: Claim) -> dict[str, Any]:
    """For each parameter the values at which the check and the tests compare, as texts."""
    rows = [
        {
            "name": parameter.name,
            "check": _span_of(list(_values_in_designs(claim, parameter))),
            "tests": _span_of([claim.compared.ranges.get(parameter.name)]),
        }
        for parameter in claim.parameters
    ]
    return {"compared": rows, "elsewhere": claim.compared.elsewhere}


def _values_in_designs(claim: Claim, parameter: Parameter) -> Iterator[Any]:
    """What the parameter is in every run of every profile; None where it is left out."""
    default = None if parameter.default is REQUIRED else parameter.default
    for design in claim.designs.values():
        for run in design.runs:
            yield run.get(parameter.name, default)


def _span_of(values: list[Any]) -> str:
    """The least and the largest of numbers of any shape, or the words among the values."""
    given = [value for value in values if value is not None]
    words = [v for value in given for v in _flat(value) if isinstance(v, str)]
    if words:
        return ", ".join(dict.fromkeys(words))
    numbers = [float(x) for value in given for x in _flat(value)]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _flat(value: Any) -> list[Any]:
    return np.asarray(value).ravel().tolist()
