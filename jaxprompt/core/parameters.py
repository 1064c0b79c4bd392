"""Parameters of claims: what each may be, and one clear line when it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jax.core import Tracer

from jaxprompt.errors import ParameterError, suggest

__all__ = [
    "KINDS",
    "MAX_EXACT_INTEGER",
    "MAX_MAGNITUDE",
    "REQUIRED",
    "Parameter",
    "check_parameters",
    "complete_parameters",
    "convert_parameters",
    "is_traced",
]

MAX_MAGNITUDE = 1e30
"""No number may be larger in size, and no single one other than 0 nearer to 0 than its inverse:
products of ten of them stay within float64."""

MAX_EXACT_INTEGER = 2**53
"""No integer may be larger in size; beyond it float64 does not hold every integer."""

Kind = Literal["integer", "real", "choice", "pairs", "weights", "array"]

KINDS = ("integer", "real", "choice", "pairs", "weights", "array")
"""What a parameter may be."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
"""Default of a parameter that must be given."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a claim.

    `low` and `high` bound numbers; the bounds themselves are allowed unless `open_low` or
    `open_high` is set. `default` is :data:`REQUIRED`, a value, or None for "left out".
    Parameters with ``simulate_only`` are not needed by the closed form. Numbers are also refused
    beyond :data:`MAX_MAGNITUDE` and integers beyond :data:`MAX_EXACT_INTEGER`.
    """

    name: str
    kind: Kind
    meaning: str
    symbol: str = ""
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    default: Any = REQUIRED
    simulate_only: bool = False

    def __post_init__(self) -> None:
        if self.kind == "choice" and not self.choices:
            raise ValueError(f"parameter {self.name}: a choice needs `choices`")

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED

    @property
    def allowed(self) -> str:
        """What the parameter may be, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        if self.kind == "pairs":
            return "a list of pairs of finite numbers, such as [[0.0, 0.0], [0.5, 0.3]]"
        if self.kind == "weights":
            return "a list of probabilities that sum to 1, one for each shift"
        noun = {
            "integer": "an integer",
            "real": "a finite number",
            "array": "an array of finite numbers",
        }
        return noun[self.kind] + self._range_text()

    def _range_text(self) -> str:
        low = "" if self.low == -math.inf else f"{'>' if self.open_low else '≥'} {self.low:g}"
        high = "" if self.high == math.inf else f"{'<' if self.open_high else '≤'} {self.high:g}"
        return "".join(
            f" {bounds}" for bounds in [" and ".join(filter(None, [low, high]))] if bounds
        )

    def describe(self) -> dict[str, Any]:
        """Name, meaning, symbol, what is allowed and the default, as plain values."""
        if self.default is REQUIRED:
            default = "required to simulate" if self.simulate_only else "required"
        else:
            default = "may be left out" if self.default is None else str(self.default)
        return {
            "name": self.name,
            "meaning": self.meaning,
            "symbol": self.symbol,
            "allowed": self.allowed,
            "default": default,
        }

    def convert(self, value: Any, where: str = "") -> Any:
        """Return `value` in canonical form, or raise :class:`ParameterError`.

        Numbers stay Python numbers, arrays of numbers become float64 or int64 NumPy arrays,
        pairs and weights become tuples. Values traced by JAX pass unchecked.
        """
        if is_traced(value):
            return value
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                raise self._parameter_error(
                    value, where, "choose one of those" + suggest(str(value), self.choices)
                )
            return value
        if self.kind in ("pairs", "weights"):
            return self._convert_table(value, where)
        return self._convert_number(value, where)

    def _convert_number(self, value: Any, where: str) -> Any:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, OverflowError):
            raise self._parameter_error(
                value, where, "give a number or an array of numbers"
            ) from None
        if array.dtype.kind not in "iuf" or array.size == 0:
            raise self._parameter_error(
                value, where, "give a number or a non-empty array of numbers"
            )
        numbers = array.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise self._parameter_error(value, where, "replace the value that is not finite")
        self._refuse_extremes(value, array, where)
        too_low = (numbers <= self.low) if self.open_low else (numbers < self.low)
        too_high = (numbers >= self.high) if self.open_high else (numbers > self.high)
        if self.low == -math.inf:
            too_low = np.zeros_like(too_low)
        if self.high == math.inf:
            too_high = np.zeros_like(too_high)
        if (too_low | too_high).any():
            raise self._parameter_error(value, where, "choose a value in that range")
        if self.kind == "integer":
            if (numbers != np.round(numbers)).any():
                raise self._parameter_error(value, where, "round it")
            return int(numbers) if array.ndim == 0 else numbers.astype(np.int64)
        return float(numbers) if array.ndim == 0 else numbers

    def _refuse_extremes(self, value: Any, array: np.ndarray, where: str) -> None:
        """Refuse numbers whose products would leave float64, or that it cannot hold."""
        sizes = np.abs(array.astype(np.float64))
        # The integers themselves: as float64, 2^53 + 1 would pass for 2^53.
        whole = array if array.dtype.kind in "iu" else np.trunc(array)
        allowed, remedy = self.allowed, "choose a value of another size"
        if (
            self.kind == "integer"
            and ((whole > MAX_EXACT_INTEGER) | (whole < -MAX_EXACT_INTEGER)).any()
        ):
            raise ParameterError(self.name, value, f"{allowed}, at most 2^53", remedy, where)
        if (sizes > MAX_MAGNITUDE).any():
            allowed = f"{allowed}, at most {MAX_MAGNITUDE:g} in size"
            raise ParameterError(self.name, value, allowed, remedy, where)
        if self.kind == "real" and ((sizes > 0) & (sizes < 1 / MAX_MAGNITUDE)).any():
            zero = "" if self.low == 0 and self.open_low else "0 or "
            allowed = f"{allowed}, {zero}at least {1 / MAX_MAGNITUDE:g} in size"
            raise ParameterError(self.name, value, allowed, remedy, where)

    def _convert_table(self, value: Any, where: str) -> tuple[Any, ...]:
        try:
            table = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self._parameter_error(value, where, "write it as a list") from None
        shape_ok = (
            table.ndim == 2 and table.shape[1] == 2 if self.kind == "pairs" else table.ndim == 1
        )
        if not shape_ok or table.size == 0:
            raise self._parameter_error(value, where, "write it as such a list")
        if not np.isfinite(table).all():
            raise self._parameter_error(value, where, "replace the value that is not finite")
        self._refuse_extremes(value, table, where)
        if self.kind == "weights" and ((table < 0).any() or abs(table.sum() - 1) > 1e-9):
            raise self._parameter_error(
                value, where, f"make them non-negative and scale them by 1/{table.sum():g}"
            )
        return tuple(map(tuple, table.tolist())) if self.kind == "pairs" else tuple(table.tolist())

    def _parameter_error(self, value: Any, where: str, remedy: str) -> ParameterError:
        return ParameterError(self.name, value, self.allowed, remedy, where)


def is_traced(value: Any) -> bool:
    """Whether JAX is tracing `value`, so that it has no numbers to check."""
    return isinstance(value, Tracer)


def check_parameters(
    parameters: Sequence[Parameter],
    given: Mapping[str, Any],
    *,
    where: str = "",
    accepted: Sequence[Parameter] = (),
    simulate: bool = False,
) -> dict[str, Any]:
    """Validate `given` against `parameters` and fill in defaults.

    `accepted` are further parameters that are validated when given and otherwise left out, so
    that one set of model parameters serves every claim of a family. Parameters left out with
    default None are absent from the result.
    """
    values = convert_parameters(parameters, given, where=where, accepted=accepted)
    return complete_parameters(parameters, values, where=where, simulate=simulate)


def convert_parameters(
    parameters: Sequence[Parameter],
    given: Mapping[str, Any],
    *,
    where: str = "",
    accepted: Sequence[Parameter] = (),
) -> dict[str, Any]:
    """`given` in canonical form; None, which leaves a parameter out, is absent.

    Raises:
        ParameterError: a name is unknown, or a value outside what is allowed.
    """
    known = {p.name: p for p in (*accepted, *parameters)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ParameterError(
            unknown[0],
            given[unknown[0]],
            "a known parameter",
            f"use one of {', '.join(known)}{suggest(unknown[0], known, most=1)}",
            where,
        )
    return {
        name: known[name].convert(value, where)
        for name, value in given.items()
        if value is not None
    }


def complete_parameters(
    parameters: Sequence[Parameter],
    values: Mapping[str, Any],
    *,
    where: str = "",
    simulate: bool = False,
) -> dict[str, Any]:
    """Converted `values` with the defaults of those that one side needs and that were left out.

    Raises:
        ParameterError: one without a default is missing.
    """
    result = dict(values)
    for parameter in parameters:
        if parameter.name in result or (parameter.simulate_only and not simulate):
            continue
        if parameter.default is REQUIRED:
            raise ParameterError(
                parameter.name,
                "(missing)",
                parameter.allowed,
                f"give it: {parameter.meaning}",
                where,
            )
        if parameter.default is not None:
            result[parameter.name] = parameter.convert(parameter.default, where)
    return result
