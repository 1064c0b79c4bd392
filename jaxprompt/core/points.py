"""A point: the parameters of a claim, validated once and frozen.

A point is made where parameters enter (a call, a run of a design, a cell of a sweep). From there
it travels as it is, and neither side, no key and no label validates it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxprompt.core.json_values import canonical, format_parameters

__all__ = ["Point"]


class Point(Mapping[str, Any]):
    """Parameters of one claim: an immutable, hashable mapping, made by ``Claim.point``.

    As a mapping it holds the parameters as they were written, which is what labels, keys and rows
    show. Beside that it keeps their canonical values, in which those left out (None) are absent,
    and what each side takes, once that was asked for. Two points are equal if they belong to one
    claim and are written alike.
    """

    __slots__ = ("_completed", "_text", "_values", "_written", "claim_id")

    claim_id: str
    _written: dict[str, Any]
    _values: dict[str, Any]
    _completed: dict[bool, dict[str, Any]]
    _text: str | None

    def __init__(
        self, claim_id: str, written: Mapping[str, Any], values: Mapping[str, Any]
    ) -> None:
        for name, content in (
            ("claim_id", claim_id),
            ("_written", dict(written)),
            ("_values", {name: _freeze_array(value) for name, value in values.items()}),
            ("_completed", {}),
            ("_text", None),
        ):
            object.__setattr__(self, name, content)

    # --- as a mapping: what was written ---

    def __getitem__(self, name: str) -> Any:
        return self._written[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)

    # --- as a value ---

    @property
    def canonical_values(self) -> dict[str, Any]:
        """The canonical values by parameter (a copy)."""
        return dict(self._values)

    @property
    def key_text(self) -> str:
        """One text for equal points, from which random keys and hashes are made."""
        if self._text is None:
            object.__setattr__(self, "_text", canonical(self._written))
        assert self._text is not None
        return self._text

    @property
    def label(self) -> str:
        """The point in one short line, for messages."""
        return format_parameters(self._written)

    def completed(
        self, simulate: bool, complete: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `complete` makes of the values for one side; computed once, then a copy of it."""
        if simulate not in self._completed:
            values = complete(dict(self._values))
            self._completed[simulate] = {n: _freeze_array(value) for n, value in values.items()}
        return dict(self._completed[simulate])

    def written_as(self, written: Mapping[str, Any]) -> Point:
        """The same point with its parameters written in another way, such as lists for arrays."""
        point = Point(self.claim_id, written, self._values)
        object.__setattr__(point, "_completed", self._completed)
        return point

    def changed(self, written: Mapping[str, Any], values: Mapping[str, Any]) -> Point:
        """The same point with some parameters replaced by others, already in canonical form."""
        return Point(self.claim_id, {**self._written, **written}, {**self._values, **values})

    def __hash__(self) -> int:
        return hash((self.claim_id, self.key_text))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Point):
            return self.claim_id == other.claim_id and self.key_text == other.key_text
        return Mapping.__eq__(self, other)

    def __repr__(self) -> str:
        return f"Point({self.claim_id}: {self.label})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a point is frozen: make another one with {name} = {value!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a point is frozen: {name} cannot be taken out")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_point, (self.claim_id, self._written, self._values, self._completed)


def _restore_point(
    claim_id: str,
    written: dict[str, Any],
    values: dict[str, Any],
    completed: dict[bool, dict[str, Any]],
) -> Point:
    """A point that was sent to another process, with what had been completed."""
    point = Point(claim_id, written, values)
    for side, arguments in completed.items():
        point.completed(side, lambda _, arguments=arguments: arguments)
    return point


def _freeze_array(value: Any) -> Any:
    """The value; of an array a view that refuses to be written to."""
    if not isinstance(value, np.ndarray):
        return value
    view = value.view()
    view.flags.writeable = False
    return view
