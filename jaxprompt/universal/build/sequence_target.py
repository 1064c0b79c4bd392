"""Maps of sequences that people bring: made to take batches, checked, and their slopes estimated.

Sequences are arrays (…, T, m). The length of an array of sequences, or of the difference of two, is
that of its longest token: :math:`|x| = \\max_p |x_p|`.

Tokens of a torus are m angles for the map, and for the layers the unit vectors
:math:`(\\cos\\theta_1, \\sin\\theta_1, \\dots)/\\sqrt m`. Their distance is the length of the
angles' differences, each taken the short way round: constants are those of the map in its angles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build import domains
from jaxprompt.universal.numerics import point_sets

__all__ = ["WIDER", "Cells", "Domain", "batched_map", "largest_slope", "token_length"]

Batched = Callable[[np.ndarray], np.ndarray]

WHERE = "build_sequence_prefix"

WIDER = 1.01
"""A cell counts as near within WIDER times the radius within which cells cover."""


def token_length(difference: np.ndarray) -> np.ndarray:
    """Length of the longest token of each array (…, T, d): (…)."""
    return np.linalg.norm(difference, axis=-1).max(axis=-1)


# --- where tokens live ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """Nearest-point cells of one token: `centres` (c, m), and the chord within which they cover.

    `reach` is the distance, in that of the domain, within which near centres lie: those within
    WIDER times the radius. `together` bounds how many cells meet at one point. With `ordered` they
    are intervals of a line in order, and can be told by how many of them lie to the left.
    """

    centres: np.ndarray
    radius: float
    reach: float
    together: int
    ordered: bool

    def nearest(self, tokens: np.ndarray) -> np.ndarray:
        """Index of the nearest centre of tokens (…, m): (…) integers."""
        score = tokens @ self.centres.T - 0.5 * (self.centres**2).sum(axis=1)
        return score.argmax(axis=-1)


@dataclass(frozen=True)
class Domain:
    """The set in which each token lies, and the numbers `dim` that a token has in the layers.

    ``cube`` is [0, 1]^m, ``sphere`` the unit vectors of R^m, ``torus`` those of 2m numbers that
    stand for m angles.
    """

    kind: str
    length: int
    dim: int

    @property
    def axes(self) -> int:
        """Numbers that a caller gives for a token: angles of a torus."""
        return self.dim // 2 if self.kind == "torus" else self.dim

    @property
    def in_grid(self) -> bool:
        """Whether cells are those of a grid with equally many on each axis."""
        return self.kind != "sphere"

    @property
    def diameter(self) -> float:
        """Largest distance between two tokens."""
        if self.kind == "torus":
            return math.pi * math.sqrt(self.axes)
        return 2.0 if self.kind == "sphere" else math.sqrt(self.dim)

    @property
    def middle(self) -> np.ndarray:
        """A token (m)."""
        if self.kind == "torus":
            return self.embedded(np.zeros(self.axes))
        return np.eye(self.dim)[0] if self.kind == "sphere" else np.full(self.dim, 0.5)

    def embedded(self, points: np.ndarray) -> np.ndarray:
        """Tokens as the layers hold them, of tokens as the map takes them."""
        return domains.torus(self.axes).embed(points) if self.kind == "torus" else points

    def points(self, tokens: np.ndarray) -> np.ndarray:
        """The inverse of `embedded`: angles in [0, 2π)."""
        return domains.torus(self.axes).retract(tokens) if self.kind == "torus" else tokens

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Largest distance of two tokens at one place, of sequences (…, T, m): (…)."""
        if self.kind != "torus":
            return token_length(x - y)
        pairs = (x - y).reshape(*x.shape[:-1], self.axes, 2)
        half_chord = np.linalg.norm(pairs, axis=-1) * math.sqrt(self.axes) / 2
        return token_length(2 * np.arcsin(np.minimum(half_chord, 1.0)))

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Random sequences (count, T, m): uniform, with some tokens at the ends or all equal."""
        shape = (count, self.length, self.axes)
        if self.kind == "sphere":
            return self.clipped(random.normal(size=shape))
        x = random.uniform(size=shape)
        # An eighth of them each: on faces of the domain, where each number is at an end with a
        # chance that is 1 for half of them; in a narrow range; constant sequences.
        eighth = count // 8
        at_end = np.maximum(random.uniform(0, 2, size=(eighth, 1, 1)), 0.25)
        on_face = random.uniform(size=x[:eighth].shape) < at_end
        x[:eighth] = np.where(on_face, np.round(x[:eighth]), x[:eighth])
        width = random.uniform(0, 0.2, size=(eighth, 1, 1))
        x[eighth : 2 * eighth] = random.uniform(0, 0.8, size=(eighth, 1, 1)) + width * x[:eighth]
        x = random.permutation(x)
        # Half turns: 0 and 1 are opposite points of a circle, as far apart as any.
        return self.embedded(math.pi * _with_signs(x, random)) if self.kind == "torus" else x

    def clipped(self, x: np.ndarray) -> np.ndarray:
        """The nearest tokens that are allowed."""
        if self.kind == "cube":
            return np.clip(x, 0.0, 1.0)
        if self.kind == "torus":
            x = x.reshape(*x.shape[:-1], self.axes, 2)
        x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)
        if self.kind == "torus":
            return x.reshape(*x.shape[:-2], self.dim) / math.sqrt(self.axes)
        return x

    def moved(self, x: np.ndarray, direction: np.ndarray, step: Any) -> np.ndarray:
        """The sequences after a step in a direction (…, T, m), back in the domain."""
        return self.clipped(x + step * direction)

    def cells(self, count: int) -> Cells:
        """At most `count` cells of one token, spread evenly; at least one."""
        if count <= 1:
            radius = 0.5 * math.sqrt(self.dim) if self.kind == "cube" else 2.0
            reach = self.diameter if self.kind == "torus" else WIDER * radius
            ordered = self.kind == "cube" and self.dim == 1
            return Cells(self.middle[None], radius, reach, 1, ordered)
        if self.in_grid:
            side = max(1, math.floor(count ** (1 / self.axes) + 1e-9))
            return self._torus_cells(side) if self.kind == "torus" else self._cube_cells(side)
        if count <= self.dim:  # fewer points do not surround the sphere
            return self.cells(1)
        points = point_sets.quasi_uniform(self.dim - 1, count)
        angle = point_sets.covering_radius(points)
        radius = 2 * math.sin(min(angle, math.pi) / 2)
        return Cells(points, radius, WIDER * radius, count, False)

    def _cube_cells(self, side: int) -> Cells:
        points = (np.arange(side) + 0.5) / side
        grid = np.array(list(itertools.product(points, repeat=self.dim)))
        radius = 0.5 * math.sqrt(self.dim) / side
        return Cells(grid, radius, WIDER * radius, min(2**self.dim, len(grid)), self.dim == 1)

    def _torus_cells(self, side: int) -> Cells:
        """Of a grid of angles. The third nearest of one angle is never near, so that 2^m meet."""
        if side == 1:
            return self.cells(1)
        radius = 2 * math.sin(math.pi / (2 * side))
        reach = _arc_within(self.axes * (WIDER * radius / 2) ** 2, self.axes)
        grid = domains.torus_grid(self.axes, side)
        return Cells(grid, radius, reach, min(2**self.axes, len(grid)), False)

    def side_for_reach(self, reach: float) -> float:
        """Cells on each axis with which near centres lie within `reach`: of grids alone."""
        if self.kind == "cube":
            return math.ceil(min(WIDER * math.sqrt(self.dim) / (2 * reach), 1e300))
        if reach >= self.diameter:
            return 1.0
        turns = math.floor((reach / math.pi) ** 2)
        rest = math.sqrt(max(reach**2 - turns * math.pi**2, 0.0))
        sine = math.sqrt((turns + math.sin(rest / 2) ** 2) / self.axes) / WIDER
        return math.ceil(min(math.pi / (2 * math.asin(max(min(sine, 1.0), 1e-300))), 1e300))

    def corners(self, cells: Cells, count: int, random: np.random.Generator) -> np.ndarray:
        """Sequences (count, T, m) of tokens at the ends of cells: far from centres, or between two.

        Half of them have all tokens on the same side of their cells, or one token everywhere; in
        half all tokens are just inside, in the others at distances of every scale on both sides.
        """
        shape = (count, self.length)
        if self.kind == "sphere":
            if len(cells.centres) == 1:
                ends = np.concatenate([-cells.centres, cells.centres])
            else:
                ends = point_sets.circumcentres(cells.centres)[0]
            pick = random.integers(len(ends), size=shape)
            pick[: count // 4] = pick[: count // 4, :1]
            size = 10.0 ** random.uniform(-14, -3, size=(count, 1, 1))
            return self.clipped(ends[pick] + size * random.normal(size=(*shape, self.dim)))
        pick = random.integers(len(cells.centres), size=shape)
        pick[: count // 4] = pick[: count // 4, :1]
        side = np.sign(random.uniform(-1, 1, size=(*shape, self.axes)))
        side[: count // 2] = np.sign(random.uniform(-1, 1, size=(count // 2, 1, 1)))
        inside = 10.0 ** random.uniform(-14, -3, size=(*shape, self.axes))
        inside *= np.sign(random.uniform(-1, 1, size=inside.shape))
        inside[::2] = 1e-6
        if self.kind == "torus":  # half of the angle between two neighbours
            half_angle = math.pi / round(len(cells.centres) ** (1 / self.axes))
            offset = half_angle * (1 - inside) * side
            return self.embedded(self.points(cells.centres[pick]) + offset)
        reach = cells.radius / math.sqrt(self.dim) * (1 - inside)
        return self.clipped(cells.centres[pick] + reach * side)

    def points_apart(self, distance: float) -> float:
        """How many tokens fit with all distances above `distance`: a lower bound, at least 1."""
        if distance >= self.diameter or distance <= 0:
            return 1.0 if distance > 0 else math.inf
        if self.in_grid:
            # On a circle one point fewer than steps of the distance: the last is next to the first.
            around = self.kind == "torus"
            steps = 2 * math.pi / distance if around else 1 / distance
            side = max(math.ceil(round(min(steps, 1e300), 9)) - around, 1)
            return float(side) ** self.axes if self.axes * math.log(side) < 690 else math.inf
        angle = 2 * math.asin(distance / 2) * (1 + 1e-9)
        return point_sets.packing_bound(self.dim - 1, angle)


def _arc_within(squares: float, axes: int) -> float:
    """Most |δ| of m angles, each at most π, with Σ sin²(δ_j/2) ≤ `squares`.

    δ² is a convex function of sin²(δ/2), so the sum is largest where all but one angle are 0 or π.
    """
    turned = min(math.floor(squares), axes)
    rest = min(squares - turned, 1.0) if turned < axes else 0.0
    return math.hypot(math.pi * math.sqrt(turned), 2 * math.asin(math.sqrt(max(rest, 0.0))))


def _with_signs(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Sequences (B, T, m) turned as a whole into the other half of the circle, half of them."""
    return x * random.choice([-1.0, 1.0], size=(len(x), 1, x.shape[2]))


# --- the map -------------------------------------------------------------------------------------


def batched_map(f: Any, domain: Domain) -> tuple[Batched, bool]:
    """`f` as a checked function (B, T, m) → (B, T, d) float64, and whether it returns plain (T).

    It takes tokens as the layers hold them, and `f` gets them as points of the domain: a batch
    if that gives the same numbers as calls with one sequence each.

    Raises:
        ParameterError: (also later, by the function returned) `f` cannot be called, or returns
            something that is not finite numbers, one row a token.
    """
    if not callable(f):
        raise ParameterError("f", f, "a function of a sequence (T, m)", "give a function", WHERE)
    length = domain.length
    probe = domain.sample(length + domain.dim + 3, np.random.default_rng(12345))
    probe = domain.points(probe)
    single, flat = _as_outputs([f(x) for x in probe.copy()], length)
    try:
        together, _ = _as_outputs(np.asarray(f(probe.copy())), length)
        batch = together.shape == single.shape and np.allclose(
            together, single, rtol=1e-7, atol=1e-10
        )
    except Exception:  # it is asked whether f takes batches: any failure says no
        batch = False

    def evaluate(sequences: np.ndarray) -> np.ndarray:
        given = np.array(domain.points(sequences))  # f may change what it is given
        result, _ = _as_outputs(f(given) if batch else [f(x) for x in given], length)
        if result.shape != (len(sequences), *single.shape[1:]):
            raise _output_error(
                f"shape {result.shape[1:]}", f"an array {single.shape[1:]} everywhere"
            )
        return result

    return evaluate, flat


def _as_outputs(result: Any, length: int) -> tuple[np.ndarray, bool]:
    """Outputs (B, T, d) of a batch, and whether they came as (B, T)."""
    try:
        outputs = np.asarray(result)
        if np.iscomplexobj(outputs):
            raise TypeError
        outputs = outputs.astype(np.float64)
    except (TypeError, ValueError):
        raise _output_error("something else", f"an array ({length}, d) of one shape") from None
    if outputs.ndim not in (2, 3) or outputs.shape[1] != length or not outputs.size:
        raise _output_error(f"shape {outputs.shape[1:]}", f"an array ({length}, d)")
    if not np.isfinite(outputs).all():
        raise _output_error("a number that is not finite", "finite numbers everywhere")
    flat = outputs.ndim == 2
    return outputs.reshape(*outputs.shape[:2], -1), flat


def _output_error(value: str, allowed: str) -> ParameterError:
    return ParameterError(
        "f",
        f"(returns {value})",
        f"a function that returns {allowed}",
        "change the function",
        WHERE,
    )


def largest_slope(f: Batched, domain: Domain, points: np.ndarray, seed: int) -> float:
    """Largest slope of `f` found, in lengths of the longest token: an estimate from below.

    Steps from `points` (Q, T, m) that move each token its own way: the way that adds most to some
    output by its differences in single numbers. What rounding of the values may add is taken off.
    """
    random = np.random.default_rng(seed)
    values = f(points)
    rounding = 8 * float(np.finfo(np.float64).eps) * float(np.abs(values).max(initial=0.0))
    largest = 0.0
    for step in (1e-5, 1e-3):
        partial = np.stack(
            [
                (f(_shifted(points, domain, token, axis, step)) - values) / step
                for token in range(domain.length)
                for axis in range(domain.dim)
            ]
        )  # (T m, Q, T, d)
        partial = partial.reshape(domain.length, domain.dim, *values.shape)
        reach = np.abs(np.linalg.norm(partial, axis=1)).sum(axis=0)  # (Q, T, d)
        for choice in ("steepest", "random"):
            if choice == "steepest":
                output = reach.reshape(len(points), -1).argmax(axis=1)
            else:
                output = random.integers(reach[0].size, size=len(points))
            chosen = partial.reshape(domain.length, domain.dim, len(points), -1)
            direction = np.take_along_axis(chosen, output[None, None, :, None], axis=-1)[..., 0]
            direction = np.moveaxis(direction, 2, 0)
            size = np.linalg.norm(direction, axis=-1, keepdims=True)
            direction = direction / np.where(size > 0, size, 1.0)
            for sign in (1, -1):
                moved = domain.moved(points, sign * direction, step)
                largest = max(
                    largest,
                    _slope(f(moved) - values, domain.distance(moved, points), rounding, step),
                )
    other = random.permutation(len(points))
    pairs = points, points[other], values, values[other]
    return max(largest, _bisected_slope(f, domain, pairs, rounding))


_BISECTIONS = 16
"""Halvings of a pair of sequences: 5 orders of magnitude."""


def _bisected_slope(
    f: Batched, domain: Domain, pairs: tuple[np.ndarray, ...], rounding: float
) -> float:
    """Largest slope between pairs, of which the steeper half is kept again and again.

    One half is as steep as the whole at least, so this ends at a steep place, or at a jump.
    `pairs` are two sets of sequences (Q, T, m) and their values (Q, T, d).
    """
    start, end, at_start, at_end = pairs
    largest = 0.0
    for _ in range(_BISECTIONS):
        apart = domain.distance(start, end)
        largest = max(largest, _slope(at_end - at_start, apart, rounding, 1e-5))
        middle = domain.clipped((start + end) / 2)
        # Opposite points of a circle or sphere have no middle: these pairs stay.
        lengths = domain.distance(start, middle), domain.distance(middle, end)
        halves = (lengths[0] < 0.9 * apart) & (lengths[1] < 0.9 * apart)
        between = f(np.where(halves[:, None, None], middle, start))
        first = token_length(between - at_start) * lengths[1]
        later = token_length(at_end - between) * lengths[0]
        keep_first, keep_later = halves & (first >= later), halves & (first < later)
        end = np.where(keep_first[:, None, None], middle, end)
        at_end = np.where(keep_first[:, None, None], between, at_end)
        start = np.where(keep_later[:, None, None], middle, start)
        at_start = np.where(keep_later[:, None, None], between, at_start)
    return largest


def _shifted(points: np.ndarray, domain: Domain, token: int, axis: int, step: float) -> np.ndarray:
    direction = np.zeros((domain.length, domain.dim))
    direction[token, axis] = 1.0
    return domain.moved(points, direction, step)


def _slope(change: np.ndarray, distance: np.ndarray, rounding: float, step: float) -> float:
    far = distance > 0.1 * step
    return float(((token_length(change) - rounding)[far] / distance[far]).max(initial=0.0))
