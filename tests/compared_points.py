"""Points in the ranges over which claims say that their closed forms were compared.

The families' tests draw them, each with oracles of its own: what a claim states in `compared` is
then what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

import jaxprompt as jp

Point = dict[str, Any]


def points_of(
    claim: jp.Claim, count: int, *, repair: Callable[[Point], Point] = lambda point: point,
    coarse: Collection[str] = (), corners: bool = False,
) -> list[Point]:  # fmt: skip
    """`count` points in the ranges, and some at the ends of each and with each of the choices.

    With `corners` the ends of all parameters fall on as few points as there are choices; otherwise
    each has points of its own, whose other parameters are drawn. Of `coarse` integers, which are
    shapes, there are only the least, the largest and one between. `repair` makes a possible point
    of one whose parameters do not go together.
    """
    random = np.random.default_rng(count)
    points = [drawn_point(claim, random, coarse) for _ in range(count)]
    ranges, kinds = claim.compared.ranges, kinds_of(claim)
    places = {name: range(len(ranges[name])) for name in ranges}
    if corners:
        turns = {name: int(random.integers(len(places[name]))) for name in ranges}
        points += [
            {name: end_of(ranges[name], kinds[name], (turns[name] + corner) % len(places[name]),
                          random) for name in ranges}
            for corner in range(max(map(len, places.values())))
        ]  # fmt: skip
    else:
        points += [
            {**drawn_point(claim, random, coarse),
             name: end_of(ranges[name], kinds[name], place, random)}
            for name in ranges for place in places[name]
        ]  # fmt: skip
    return [repair(point) for point in points]


def drawn_point(
    claim: jp.Claim, random: np.random.Generator, coarse: Collection[str] = ()
) -> Point:
    kinds = kinds_of(claim)
    return {
        name: drawn_value(ends, kinds[name], random, name in coarse)
        for name, ends in claim.compared.ranges.items()
    }


def drawn_value(
    ends: tuple[Any, ...], kind: str, random: np.random.Generator, coarse: bool = False
) -> Any:
    """A choice, two pairs, or a number between the ends."""
    if kind == "pairs":
        return random.uniform(*ends, (2, 2)).tolist()
    if isinstance(ends[0], str):
        return ends[random.integers(len(ends))]
    share = random.uniform()
    return number_at(ends, kind, round(2 * share) / 2 if coarse else share)


def end_of(ends: tuple[Any, ...], kind: str, place: int, random: np.random.Generator) -> Any:
    """The end or the choice at a place; of two pairs, one entry of each kind is there."""
    if kind != "pairs":
        return ends[place]
    pairs = random.uniform(*ends, (2, 2))
    np.fill_diagonal(pairs, ends[place])
    return pairs.tolist()


def number_at(ends: tuple[Any, ...], kind: str, share: float) -> Any:
    """A share of the way from the least to the largest, geometrically where both are positive."""
    low, high = ends
    value = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return round(value) if kind == "integer" else float(np.clip(value, low, high))


def kinds_of(claim: jp.Claim) -> dict[str, str]:
    return {parameter.name: parameter.kind for parameter in claim.parameters}


def values_outside(parameter: jp.Parameter) -> Iterator[Any]:
    """Numbers just outside of what a parameter allows."""
    step = 1 if parameter.kind == "integer" else 1e-9
    for end, sign, open_ in ((parameter.low, -1, parameter.open_low),
                             (parameter.high, 1, parameter.open_high)):  # fmt: skip
        if np.isfinite(end):
            value = end if open_ else end + sign * step * max(1, abs(end) * 1e-3)
            yield round(value) if parameter.kind == "integer" else value
