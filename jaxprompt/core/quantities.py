"""What a claim predicts: named numbers, and how each is held against what was measured."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["AtLeast", "AtMost", "Distribution", "Quantity", "Rate", "one_sided"]

Number = float | Callable[[Mapping[str, Any]], float]
Tolerance = float | Callable[..., float]
DeclaredSide = Literal["", "two", "upper", "lower", "predicted"]


class AtMost(float):
    """A predicted number that what is measured must not exceed."""


class AtLeast(float):
    """A predicted number that what is measured must not undercut."""


@dataclass(frozen=True)
class Distribution:
    """A predicted distribution of a trial's number: its distribution function, or a sampler.

    `cdf` maps a sorted float64 array to probabilities; `sampler` maps (a NumPy generator, a count)
    to as many independent numbers. Give one of them.
    """

    cdf: Callable[[Any], Any] | None = None
    sampler: Callable[[Any, int], Any] | None = None

    def __post_init__(self) -> None:
        if (self.cdf is None) == (self.sampler is None):
            raise ValueError("a Distribution has a `cdf` or a `sampler`: give one of them")


@dataclass(frozen=True)
class Rate:
    """A predicted growth ``size**exponent * log(size)**log_power``, up to a constant."""

    exponent: float
    log_power: float = 0.0


@dataclass(frozen=True)
class Quantity:
    """A named number that a claim predicts.

    `tolerance` is the discrepancy a check must be able to see before it may say *confirmed*: in
    the quantity's own units, or as a share of the prediction when `relative`. It may be a function
    of the point, ``tolerance(parameters)``, where the reason for it depends on the point, or of the
    point and the predicted number or array, ``tolerance(parameters, predicted)``, where it depends
    on the size of that too. For an exact quantity it is the largest difference allowed.

    `side` says which differences count: ``"two"`` all of them; ``"upper"`` only measured numbers
    above the prediction (a bound from above); ``"lower"`` only those below; ``"predicted"`` leaves
    it to the prediction (:class:`AtMost`, :class:`AtLeast`, or a plain number for equality). By
    default a bound has ``"upper"`` and every other relation ``"two"``.

    `magnitude` is the size of the largest intermediate number, where it is larger than the
    quantity itself: a difference of a few ulps of it is rounding. `axis` names the axis along
    which a trial returns an array: the whole function is one row. `proportion` says that a trial
    gives 0 or 1. An `unmeasured` number is one that the closed form states beside the others, such
    as a constant of the theorem, and that no simulation gives; or one that a simulation gives
    beside the others and of which the closed form says nothing. Neither has a row. The quantity
    does not depend on the parameters in `ignores`: cells that differ only there give one row.
    `infinite` says in words where the prediction is infinite; where it is empty an infinite value
    is an error.
    """

    name: str
    meaning: str
    tolerance: Tolerance = math.nan
    relative: bool = False
    symbol: str = ""
    ignores: tuple[str, ...] = ()
    infinite: str = ""
    side: DeclaredSide = ""
    magnitude: Number = 0.0
    axis: str = ""
    proportion: bool = False
    unmeasured: bool = False

    def allowance(self, predicted: Any, parameters: Mapping[str, Any] | None = None) -> Any:
        """The tolerance at a given prediction (and point), in the quantity's units."""
        number = self.tolerance
        if callable(number):
            sees_prediction = "predicted" in inspect.signature(number).parameters
            more = {"predicted": predicted} if sees_prediction else {}
            number = number(parameters or {}, **more)
        return number * abs(predicted) if self.relative else number

    def rounding(self, parameters: Mapping[str, Any]) -> float:
        """What a few ulps of the largest intermediate number are."""
        size = self.magnitude(parameters) if callable(self.magnitude) else self.magnitude
        return 8 * 2.0**-52 * size

    def describe_tolerance(self) -> str:
        """The tolerance in words, for people."""
        if self.unmeasured:
            return "stated beside the others, not compared"
        if callable(self.tolerance):
            summary, *_ = (self.tolerance.__doc__ or "depends on the point").strip().split("\n\n")
            text = " ".join(summary.split()).rstrip(".")
        else:
            text = f"{self.tolerance:g}"
        return text + (" of the prediction" if self.relative else "")


def one_sided(predicted: Any) -> Literal["two", "upper", "lower"]:
    """The side that a prediction states by its type."""
    if isinstance(predicted, AtMost):
        return "upper"
    return "lower" if isinstance(predicted, AtLeast) else "two"
