"""What a sweep is: a claim, a grid and its values, each validated once.

Values become what the claim's parameters make of them, and only then enter the grid, the random
keys, the stored configuration and the labels. So 4 and 4.0 are one value of an integer parameter,
0.0 and -0.0 one value of a real one, and a NumPy range is as good as a list.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxprompt.core.claim import MOST_TRIALS, Claim
from jaxprompt.core.json_values import canonical
from jaxprompt.core.parameters import Parameter
from jaxprompt.core.points import Point
from jaxprompt.core.registry import claim as find_claim
from jaxprompt.errors import UsageError, short, suggest
from jaxprompt.sweep.store import MOST_CELLS, variables

__all__ = ["MOST_BYTES", "Sweep"]

MOST_BYTES = 2**20
"""A larger sweep file is refused: it would take longer to read than any sweep it could describe."""

_KEYS = ("claim", "trials", "seed", "fixed", "grid")
_DEEPEST_LIST = 4


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: every cell of the grid has been checked against the claim.

    `claim` may be an id or a :class:`jaxprompt.Claim`, registered or not; afterwards it is the id.
    `grid` holds the values along each dimension in any sequence or one-dimensional array, `fixed`
    the value of other parameters. Both hold Python numbers, texts and tuples afterwards.

    Raises:
        UsageError: the grid is empty or too large, a value is no value, or a name clashes.
        ParameterError: a parameter is not what the claim allows.
    """

    claim: str
    grid: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 64
    seed: int = 0

    def __init__(
        self,
        claim: str | Claim,
        grid: Mapping[str, Any],
        fixed: Mapping[str, Any] | None = None,
        trials: int | np.integer = 64,
        seed: int | np.integer = 0,
    ) -> None:
        target = claim if isinstance(claim, Claim) else find_claim(claim)
        _require_whole("trials", trials, 2, MOST_TRIALS)
        _require_whole("seed", seed, 0, 2**32 - 1)
        if not grid:
            raise UsageError("[grid] is empty: give at least one parameter a list of values")
        single = dict(fixed or {})
        for name in (*single, *grid):
            if not name.isidentifier():
                raise UsageError(f"{short(name)} is no name of a parameter: change or remove it")
        lists = {name: _as_list(name, values) for name, values in grid.items()}
        for name, value in (*single.items(), *((n, v) for n, vs in lists.items() for v in vs)):
            _require_value(name, value)
        for name in lists:
            if name in single:
                raise UsageError(f"`{name}` stands in [fixed] and in [grid]: keep one of them")
        _refuse_what_no_cell_holds(target)
        _refuse_clashes(target, lists)
        declared = {p.name: p for p in (*target.ignored, *target.parameters)}
        validated = {n: _validated_value(declared.get(n), v, target) for n, v in single.items()}
        for name, values in lists.items():
            lists[name] = tuple(_validated_value(declared.get(name), v, target) for v in values)
            if len({canonical({"": v}) for v in lists[name]}) < len(lists[name]):
                raise UsageError(
                    f"[grid] `{name}` = {short(list(values))}: a value repeats; remove the repeat"
                )
        canonical_values = {
            n: tuple(_canonical_value(declared.get(n), v, target) for v in vs)
            for n, vs in (*((n, (v,)) for n, v in validated.items()), *lists.items())
        }
        values = {"claim": target.id, "grid": lists, "fixed": validated}
        values |= {"_target": target, "_canonical": canonical_values}
        for name, value in (*values.items(), ("trials", int(trials)), ("seed", int(seed))):
            object.__setattr__(self, name, value)
        if math.prod(self.shape) > MOST_CELLS:
            raise UsageError(
                f"[grid] has {math.prod(self.shape)} cells: must be at most {MOST_CELLS}; split "
                "the sweep into several files"
            )
        if not declared.keys() >= {*lists, *validated}:
            target.point(self.parameters((0,) * len(self.shape)))  # refuses the unknown name
        for index in self._indices_to_validate(target):
            target.validated(self.point(index), simulate=True)

    def _indices_to_validate(self, target: Claim) -> Iterable[tuple[int, ...]]:
        """Every cell, or one for each value where the claim does not judge combinations."""
        if target.check_parameters is not None:
            return self.indices()
        first = (0,) * len(self.shape)
        return itertools.chain(
            [first],
            (
                (*first[:axis], place, *first[axis + 1 :])
                for axis, length in enumerate(self.shape)
                for place in range(1, length)
            ),
        )

    @classmethod
    def from_toml(cls, path: str | Path) -> Sweep:
        """Read a sweep file.

        Raises:
            UsageError: it cannot be read, is not TOML, or has keys it should not have.
            ParameterError: a parameter is not what the claim allows.
        """
        table = _read_toml(path)
        for name in table:
            if name not in _KEYS:
                near = suggest(name, _KEYS, most=1)
                raise UsageError(
                    f"sweep file '{path}': unknown key `{short(name)[1:-1]}`: use "
                    f"{', '.join(_KEYS)}{near}"
                )
        if not isinstance(table.get("claim"), str):
            raise UsageError(f"sweep file '{path}': `claim` is missing: give a claim's id")
        for name in ("fixed", "grid"):
            if not isinstance(table.get(name, {}), dict):
                raise UsageError(f"sweep file '{path}': `{name}` must be a table; write [{name}]")
        trials = _require_whole("trials", table.get("trials", 64), 2, MOST_TRIALS)
        seed = _require_whole("seed", table.get("seed", 0), 0, 2**32 - 1)
        return cls(table["claim"], table.get("grid", {}), table.get("fixed", {}), trials, seed)

    @property
    def target(self) -> Claim:
        """The claim that is swept."""
        return self._target  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType]

    @property
    def config(self) -> str:
        """One text for equal sweeps, by which a resumed sweep is recognised."""
        return canonical(
            {
                "claim": self.claim,
                "trials": self.trials,
                "seed": self.seed,
                "fixed": self.fixed,
                "grid": self.grid,
                "order": list(self.grid),
            }
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values along each dimension of the grid."""
        return tuple(len(values) for values in self.grid.values())

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every cell's index, the last dimension varying fastest."""
        return itertools.product(*(range(n) for n in self.shape))

    def parameters(self, index: tuple[int, ...]) -> dict[str, Any]:
        """All parameters of one cell."""
        chosen = {n: v[i] for (n, v), i in zip(self.grid.items(), index, strict=True)}
        return {**self.fixed, **chosen}

    def point(self, index: tuple[int, ...]) -> Point:
        """One cell as a point of the claim, of values that were validated with the grid."""
        return self.point_of(self.parameters(index), dict(zip(self.grid, index, strict=True)))

    def point_of(self, written: Mapping[str, Any], position: Mapping[str, int | None]) -> Point:
        """A point at these positions along the grid; None stands for all values of a dimension."""
        known: Mapping[str, tuple[Any, ...]] = self._canonical  # pyright: ignore
        values = {name: known[name][0] for name in self.fixed}
        for name, place in position.items():
            values[name] = np.asarray(known[name]) if place is None else known[name][place]
        return Point(self.claim, written, values)


# --- values ---


def _as_list(name: str, values: Any) -> tuple[Any, ...]:
    """The values along a dimension, from a list, a range or a one-dimensional array."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, list | tuple | range) or not values:
        raise UsageError(
            f"[grid] `{name}` = {short(values)}: must be a list of values; make it one"
        )
    return tuple(values)


def _require_value(name: str, value: Any) -> None:
    if not _is_value(value):
        raise UsageError(
            f"`{name}` = {short(value)}: must be a number, a text or a list of such; write it so"
        )


def _is_value(value: Any, depth: int = _DEEPEST_LIST) -> bool:
    """Whether a value of a table is a number, a text, or a list of such, not too deep."""
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_value(item, depth - 1) for item in value)
    return isinstance(value, bool | int | float | str | np.ndarray | np.number)


def _validated_value(parameter: Parameter | None, value: Any, target: Claim) -> Any:
    """A value as the claim understands it; an unknown parameter is refused with the whole cell."""
    if parameter is None:
        return value
    return _plain(parameter.convert(value, target.id))


def _canonical_value(parameter: Parameter | None, value: Any, target: Claim) -> Any:
    """A validated value as both sides of the claim take it: a table is an array or tuples there."""
    if parameter is None or not isinstance(value, tuple):
        return value
    return parameter.convert(value, target.id)


def _plain(value: Any) -> Any:
    """Python numbers, texts and tuples, without the sign of a zero."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value + 0.0 if isinstance(value, float) else value  # -0.0 + 0.0 is 0.0


def _refuse_what_no_cell_holds(target: Claim) -> None:
    """Refuse claims that a number and its error for each quantity cannot hold."""
    if target.instance is not None:
        raise UsageError(
            f"{target.id} compares both sides on each draw, and a sweep keeps no draws: check it "
            f"at points of your choice, `jaxprompt check {target.id} --point NAME=VALUE`"
        )
    for quantity in target.quantities:
        if quantity.axis:
            raise UsageError(
                f"{target.id}: `{quantity.name}` is a function of `{quantity.axis}`, and a sweep "
                "stores numbers: simulate it cell by cell, or make it a quantity at one place"
            )


def _refuse_clashes(target: Claim, grid: Iterable[str]) -> None:
    """Refuse names that a dataset could not tell apart."""
    taken = {"status": "the status of each cell", "trials": "the trials of each cell"}
    taken |= dict.fromkeys(grid, "a dimension of the grid")
    for quantity in target.quantities:
        for name in variables([quantity.name]):
            if name in taken:
                raise UsageError(
                    f"{target.id}: the variable `{name}` of the quantity `{quantity.name}` is "
                    f"{taken[name]} too: rename the quantity, or take that parameter out of [grid]"
                )
        own = f"a variable of the quantity `{quantity.name}`"
        taken |= dict.fromkeys(variables([quantity.name]), own)
    for name in grid:
        if name in ("status", "trials"):
            raise UsageError(
                f"[grid] `{name}`: a dataset has a variable of that name; rename the parameter"
            )


def _require_whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` if it is an integer from `low` to `high`; the largest seed of a key is 2³² − 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise UsageError(
            f"`{name}` = {short(value)}: must be an integer ≥ {low} and ≤ {high}; change it"
        )
    return int(value)


# --- files ---


def _read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a sweep file; raises UsageError for what is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(
                f"sweep file '{path}' has more than {MOST_BYTES} bytes: split it into several"
            )
        return tomllib.loads(data.decode("utf-8-sig"))  # some editors write a mark in front
    except OSError as error:
        raise UsageError(
            f"sweep file '{path}' cannot be read ({error.strerror}): check the path"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"sweep file '{path}' is not UTF-8 text: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        why = short(str(error), 200)[1:-1]
        raise UsageError(f"sweep file '{path}' is not TOML ({why}): mend that line") from None
    except RecursionError:
        raise UsageError(
            f"sweep file '{path}': its lists or tables are nested too deep: write them flat"
        ) from None
    except ValueError:  # an integer of more digits than Python reads, or a path none can have
        raise UsageError(
            f"sweep file '{path}' cannot be read (a number in it, or its path, is beyond what "
            "Python reads): write numbers with fewer digits"
        ) from None
