r"""Heads that minimise a convex margin loss on given rows, each certified by its duality gap.

In NumPy, for many trials at once: an iteration is a batch of products and one of solves, and no
shape is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

__all__ = ["GAP", "convex_heads", "max_margin_heads"]

Rows = Float[np.ndarray, "t n d"]
Multipliers = Float[np.ndarray, "t n"]
Gaps = Float[np.ndarray, " t"]

GAP = 1e-9
"""Duality gap to which every head is solved; it bounds the head's error by √(2·gap/λ).

For the max-margin head the gap is relative to the head's energy |w|²/2.
"""

_MOST_STEPS = 60


def convex_heads(rows: Rows, ridge: float, loss: str) -> tuple[Float[np.ndarray, "t d"], Gaps]:
    r"""Minimisers of :math:`\frac1n\sum_i \ell(r_i\cdot w) + \frac\lambda2|w|^2`, and their gaps.

    One for each trial's rows; float64. Newton's method for the smooth losses, an interior-point
    method for the hinge. Either way the result is the head of dual feasible multipliers, so its
    duality gap certifies it.
    """
    rows = np.asarray(rows, np.float64)
    if loss == "hinge":
        dual = _box_multipliers(
            rows, rows.shape[1] * ridge, 1.0, lambda some, dual: _gaps(some, ridge, loss, dual)
        )
    else:
        dual = _newton_multipliers(rows, ridge, loss)
    return _heads(rows, ridge, dual), _gaps(rows, ridge, loss, dual)


def max_margin_heads(rows: Rows) -> tuple[Float[np.ndarray, "t d"], Gaps]:
    r"""Least :math:`|w|` with :math:`r_i\cdot w\ge1` for all rows of a trial, and the gaps.

    A gap compares the dual value of the multipliers with the energy of their head, scaled until it
    meets every constraint; it is relative to that energy, and infinite while the head separates
    nothing.
    """
    rows = np.asarray(rows, np.float64)
    dual = _box_multipliers(rows, 1.0, np.inf, _margin_gaps)
    return _pulled(rows, dual), _margin_gaps(rows, dual)


def _pulled(rows: Rows, dual: Multipliers) -> Float[np.ndarray, "t d"]:
    return np.matmul(dual[:, None], rows)[:, 0]


def _margins(rows: Rows, heads: Float[np.ndarray, "t d"]) -> Multipliers:
    return np.matmul(rows, heads[:, :, None])[:, :, 0]


def _heads(rows: Rows, ridge: float, dual: Multipliers) -> Float[np.ndarray, "t d"]:
    """The heads that stationarity assigns to multipliers."""
    return _pulled(rows, dual) / (rows.shape[1] * ridge)


def _gaps(rows: Rows, ridge: float, loss: str, dual: Multipliers) -> Gaps:
    """Primal value of the multipliers' head less their dual value: at least its excess loss."""
    heads = _heads(rows, ridge, dual)
    sides = _loss_value(loss, _margins(rows, heads)) - _conjugate_loss(loss, dual)
    return sides.mean(axis=1) + ridge * np.square(heads).sum(axis=1)


def _margin_gaps(rows: Rows, dual: Multipliers) -> Gaps:
    heads = _pulled(rows, dual)
    margin = _margins(rows, heads).min(axis=1)
    energy = np.square(heads).sum(axis=1) / 2
    separates = margin > 0
    primal = np.divide(energy, np.square(margin), out=np.ones_like(energy), where=separates)
    return np.where(separates, (primal - (dual.sum(axis=1) - energy)) / primal, np.inf)


def _newton_multipliers(rows: Rows, ridge: float, loss: str) -> Multipliers:
    """Multipliers −ℓ′ at the minimum of a smooth loss; trials leave when they are solved."""
    trials, count, dim = rows.shape
    heads = np.zeros((trials, dim))

    def multipliers(rows: Rows, heads: Float[np.ndarray, "t d"]) -> Multipliers:
        margins = _margins(rows, heads)
        return 1 - margins if loss == "square" else special.expit(-margins)

    dual, running, rows_running = multipliers(rows, heads), np.arange(trials), rows
    for _ in range(_MOST_STEPS):
        pull = dual[running]
        curvature = np.ones_like(pull) if loss == "square" else pull * (1 - pull)
        turned = rows_running.swapaxes(1, 2)
        hessian = (turned * curvature[:, None]) @ rows_running / count + ridge * np.eye(dim)
        slope = ridge * heads[running] - _pulled(rows_running, pull) / count
        heads[running] -= np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        dual[running] = multipliers(rows_running, heads[running])
        unsolved = ~(_gaps(rows_running, ridge, loss, dual[running]) <= GAP)
        if not unsolved.any():
            break
        running, rows_running = running[unsolved], rows_running[unsolved]
    return dual


class _Iterate(NamedTuple):
    """Multipliers θ of the margins, and those of the bounds 0 ≤ θ and θ ≤ most."""

    dual: Multipliers
    lower: Multipliers
    upper: Multipliers

    def of(self, trials: Bool[np.ndarray, " t"]) -> _Iterate:
        return _Iterate(*(x[trials] for x in self))


def _box_multipliers(
    rows: Rows, scale: float, most: float, gaps: Callable[[Rows, Multipliers], Gaps]
) -> Multipliers:
    """The largest Σθ − |Σθr|²/(2·scale) over 0 ≤ θ ≤ `most`, a path through the box's inside.

    Each step solves the conditions of optimality, with the products of a bound's distance and its
    multiplier at a tenth of their mean, to first order. Trials leave when their gap is small.
    """
    trials, count, _ = rows.shape
    # On the line of equal multipliers the largest value is at this place.
    even = count * scale / np.square(rows.sum(axis=1)).sum(axis=1)
    start = np.full((trials, count), 0.5) if np.isfinite(most) else np.repeat(even, count)
    start = start.reshape(trials, count)
    solution, running, rows_running = start.copy(), np.arange(trials), rows
    excess = _margins(rows, _pulled(rows, start)) / scale - 1
    upper = np.maximum(-excess, 0) + 1 if np.isfinite(most) else np.zeros_like(start)
    iterate = _Iterate(start, np.maximum(excess, 0) + 1, upper)
    for _ in range(_MOST_STEPS):
        iterate = _inner_step(rows_running, scale, most, iterate)
        solution[running] = iterate.dual
        unsolved = ~(gaps(rows_running, iterate.dual) <= GAP)
        if not unsolved.any():
            break
        running, rows_running, iterate = (
            running[unsolved],
            rows_running[unsolved],
            iterate.of(unsolved),
        )
    return solution


_CENTRED = 0.05
"""Share of the mean product that a step aims at."""

_SHORT = 0.99
"""Share of the way to the nearest bound that a step goes at most."""


def _inner_step(rows: Rows, scale: float, most: float, iterate: _Iterate) -> _Iterate:
    dual, lower, upper = iterate
    room = most - dual
    bounds = 2 if np.isfinite(most) else 1
    products = dual * lower + (room * upper if bounds == 2 else 0)
    aim = _CENTRED * products.mean(axis=1, keepdims=True) / bounds
    pulls = lower / dual + upper / room
    slope = 1 - _margins(rows, _pulled(rows, dual)) / scale
    change = _solve_shifted(rows, scale, pulls, slope + aim / dual - (bounds - 1) * aim / room)
    moves = _Iterate(
        change,
        aim / dual - lower - lower / dual * change,
        (aim / room - upper + upper / room * change) * (bounds - 1),
    )
    # How far each of the four positive numbers may go.
    ends = [(dual, moves.dual), (lower, moves.lower)]
    if bounds == 2:
        ends += [(room, -moves.dual), (upper, moves.upper)]
    falls = np.max([(-move / value).max(axis=1) for value, move in ends], axis=0)
    length = (_SHORT / np.maximum(falls, _SHORT))[:, None]
    return _Iterate(*(x + length * move for x, move in zip(iterate, moves, strict=True)))


_LEAST_PULL = 1e-13
"""Least entry of a system's diagonal, in units of the other matrix's: far below what is left of it
when a gap is small."""


def _solve_shifted(
    rows: Rows, scale: float, diagonal: Multipliers, right: Multipliers
) -> Multipliers:
    """Solve (RRᵀ/scale + diagonal) x = right, by a system of the smaller side's size."""
    count, dim = rows.shape[1:]
    turned = rows.swapaxes(1, 2)
    # Where no head separates the rows the multipliers grow without end, and the system with them.
    energy = np.square(rows).sum(axis=2).mean(axis=1, keepdims=True) / scale
    diagonal = np.maximum(diagonal, _LEAST_PULL * energy)
    if count <= dim:
        matrix = rows @ turned / scale
        matrix[:, np.arange(count), np.arange(count)] += diagonal
        return np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
    inverse = 1 / diagonal
    matrix = (turned * inverse[:, None]) @ rows + scale * np.eye(dim)
    inner = np.linalg.solve(matrix, _pulled(rows, inverse * right)[:, :, None])[:, :, 0]
    return inverse * (right - _margins(rows, inner))


def _loss_value(loss: str, margin: Multipliers) -> Multipliers:
    if loss == "square":
        return np.square(1 - margin) / 2
    return np.maximum(1 - margin, 0.0) if loss == "hinge" else np.logaddexp(0.0, -margin)


def _conjugate_loss(loss: str, dual: Multipliers) -> Multipliers:
    r""":math:`-\ell^*(-\theta)` at the multipliers θ."""
    if loss == "square":
        return dual - np.square(dual) / 2
    if loss == "hinge":
        return dual
    return special.entr(dual) + special.entr(1 - dual)
