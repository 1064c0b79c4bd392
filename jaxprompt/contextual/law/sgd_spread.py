r"""Fluctuations of one-pass SGD about its limit: the covariance of the overlaps along n/d.

:math:`\sqrt d` times the deviation of the seven inner products from the flow tends to a normal
vector with covariance C(t), :math:`\dot C = JC + CJ^\top + D`: J is the derivative of the flow, and
D the covariance of one step's changes. The reflection that keeps the symmetric path also keeps its
four numbers and the other three inner products apart, so J, D and C have two blocks.
"""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import numpy as np

from jaxprompt.contextual.law.attention_moments import REPLICATES
from jaxprompt.contextual.law.sgd_flow import FlowPath, Rates, drift, flow_path
from jaxprompt.contextual.law.sgd_increments import OVERLAPS, limiting_increments
from jaxprompt.contextual.law.sgd_moments import Loss, symmetric_error, unit_of_energy
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError

__all__ = ["SpreadFormula", "SpreadPath", "error_slope", "spread_path", "start_covariance"]

SYMMETRIC = tuple(
    map(OVERLAPS.index, ("head_signal", "prompt_context", "head_energy", "prompt_energy"))
)
"""Places of the flow's four numbers among the seven."""

ACROSS = tuple(map(OVERLAPS.index, ("head_context", "prompt_signal", "head_prompt")))
"""Places of the three inner products that are 0 along the flow."""

_PAIRS, _NODES, _SLOPE_NODES = 128, 1024, 256
_DIFFERENCE = 2e-3
"""Half width of a central difference, in pure numbers: its error is of order 1e-6, and rounding
leaves 1e-13 of it."""

_LONGEST_STEP = 20.0
"""Time step, times the speed of the flow, that is tried first."""

_STEP_ERROR = 4e-2
"""How far two half steps of Runge and Kutta's rule may lie from a whole one, in standard deviations
of the two products; else the step is halved. What the half steps lose is a fifteenth of it."""

_SHORTEST_STEP = 1e-6
"""Shortest step, as a share of the longest: where even that is too long the flow diverges."""

_MOST_WORK = 48
"""Longest time steps, times shifts, times irrelevant tokens over ``_TOKENS``: under a minute."""

_TOKENS = 32
"""Irrelevant tokens up to which a step costs about the same."""


class SpreadFormula(NamedTuple):
    """Multiples of parts of the covariance; the theory has 1 everywhere, falsifiers change them.

    `transport` belongs to J, `residual_noise` to the part of D that head and prompt leave open,
    `start` to the covariance that random directions have at time 0.
    """

    transport: float = 1.0
    residual_noise: float = 1.0
    start: float = 1.0


THE_SPREAD = SpreadFormula()
"""The true formula."""


class _Rates(NamedTuple):
    """What drives the covariance at one time: (replicates, 7, 7) each."""

    slope: np.ndarray
    noise: np.ndarray
    residual: np.ndarray


def _widened(state: np.ndarray) -> np.ndarray:
    """The seven inner products of a symmetric state."""
    wide = np.zeros((7, state.shape[1]))
    wide[list(SYMMETRIC)] = state
    return wide


def _flow_slope(setting: Setting, state: np.ndarray, rates: Rates, loss: Loss) -> np.ndarray:
    """J at a symmetric state, (replicates, 7, 7).

    By differences of the flow of four numbers, and of the general drift across it.
    """
    unit = unit_of_energy(setting)
    slope = np.zeros((state.shape[1], 7, 7))
    steps = _DIFFERENCE * np.array([1.0, 1.0, 1 / unit, 1 / unit])
    inner = state.copy()
    inner[2:] = np.maximum(inner[2:], steps[2:, None])  # an energy does not fall below 0
    for place, step in enumerate(steps):
        moved = [inner.copy(), inner.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        ahead, behind = (drift(setting, m, rates, loss, most_pairs=_PAIRS) for m in moved)
        slope[:, list(SYMMETRIC), SYMMETRIC[place]] = ((ahead - behind) / (2 * step)).T
    lengths = np.sqrt(np.maximum(state[2:], 1e-6 / unit))
    sizes = lengths[0] * setting.context, lengths[1] * setting.signal, lengths[0] * lengths[1]
    for place, size in zip(ACROSS, sizes, strict=True):
        step = 1e-2 * size + 1e-9
        moved = _widened(np.concatenate([state[:2], lengths**2]))
        moved[place] += step
        # By the reflection the change to the other side is the opposite one.
        mean = limiting_increments(
            setting, moved, rates, loss, most_nodes=_SLOPE_NODES, covariance=False
        ).mean
        slope[:, list(ACROSS), place] = (mean[list(ACROSS)] / step).T
    return slope


def _step_noise(
    setting: Setting, state: np.ndarray, rates: Rates, loss: Loss
) -> tuple[np.ndarray, ...]:
    """D without its residual part, and that part: (replicates, 7, 7)."""
    step = limiting_increments(setting, _widened(state), rates, loss, most_nodes=_NODES)
    parts = step.covariance - step.residual, step.residual
    return tuple(_in_blocks(np.moveaxis(part, -1, 0)) for part in parts)


def _in_blocks(matrix: np.ndarray) -> np.ndarray:
    """The matrix with what joins the two blocks, which is rounding, set to 0."""
    kept = np.zeros((7, 7))
    for block in (SYMMETRIC, ACROSS):
        kept[np.ix_(block, block)] = 1.0
    return matrix * kept


def start_covariance(setting: Setting, head_energy: float, prompt_energy: float) -> np.ndarray:
    """C at time 0 of a head and a prompt of fixed lengths in independent random directions."""
    signal, context = float(setting.signal) ** 2, float(setting.context) ** 2
    variances = {
        "head_signal": head_energy * signal,
        "head_context": head_energy * context,
        "prompt_signal": prompt_energy * signal,
        "prompt_context": prompt_energy * context,
        "head_prompt": head_energy * prompt_energy,
    }
    return np.diag([variances.get(name, 0.0) for name in OVERLAPS])


class SpreadPath:
    """C along a flow, for every variant of the formula; what drives it is computed once."""

    def __init__(
        self, setting: Setting, rates: Rates, flow: FlowPath, start: np.ndarray, loss: Loss
    ) -> None:
        self._setting, self._rates, self._flow = setting, rates, flow
        self._start = start
        self._loss: Loss = loss
        self._speed = unit_of_energy(setting) * (abs(rates.head) + abs(rates.prompt))
        self._kept: dict[float, _Rates] = {}
        self._lock = threading.Lock()

    def _driving(self, time: float) -> _Rates:
        if time not in self._kept:
            mean = self._flow.at(time).mean(axis=1, keepdims=True)
            state = np.repeat(mean, REPLICATES, axis=1)
            slope = _flow_slope(self._setting, state, self._rates, self._loss)
            noise = _step_noise(self._setting, state, self._rates, self._loss)
            self._kept[time] = _Rates(slope, *noise)
        return self._kept[time]

    def _longest_step(self, time: float) -> float:
        """The step that is tried first on the way to `time`.

        Raises:
            NumericalError: the way takes too long.
        """
        longest = _LONGEST_STEP / self._speed
        irrelevant = self._setting.tokens - self._setting.relevant
        work = len(self._setting.shift_weights) * max(1.0, irrelevant / _TOKENS)
        furthest = max(1.0, _MOST_WORK / work) * longest
        if time > furthest:
            raise NumericalError(
                f"the spread at n/d = {time:.4g} takes too many steps; at these rates, tokens and "
                f"shifts they reach {furthest:.4g}: lower `time`, `head_rate` or `prompt_rate`"
            )
        return longest

    def at(self, time: float, formula: SpreadFormula = THE_SPREAD) -> np.ndarray:
        """C at a time, (replicates, 7, 7), in the order of ``OVERLAPS``; float64.

        Raises:
            NumericalError: the flow diverges before, or the way there is too long.
        """
        start = formula.start * self._start
        matrix = np.repeat(start[None], REPLICATES, axis=0)
        if time == 0 or self._speed == 0:
            return matrix
        longest = step = self._longest_step(time)
        reached = 0.0
        with self._lock:
            while reached < time:
                # Steps end at multiples of themselves, so that other times and formulas share them.
                end = min(reached + step, time)
                middle = (reached + end) / 2
                whole = self._one_step(matrix, reached, end, formula)
                half = self._one_step(matrix, reached, middle, formula)
                halves = self._one_step(half, middle, end, formula)
                if _distance(whole, halves) <= _STEP_ERROR:
                    matrix, reached = halves, end
                    grown = 2 * step
                    if grown <= longest and reached % grown < step / 2:
                        step = grown
                elif step <= _SHORTEST_STEP * longest:
                    raise NumericalError(
                        f"the spread changes too fast at n/d = {reached:.4g}: lower `time`, "
                        "`head_rate` or `prompt_rate`"
                    )
                else:
                    step /= 2
        return matrix

    def _one_step(
        self, matrix: np.ndarray, first: float, last: float, formula: SpreadFormula
    ) -> np.ndarray:
        """C after one step of Runge and Kutta's rule of fourth order."""
        step = last - first
        begin, middle, end = map(self._driving, (first, (first + last) / 2, last))

        def change(driving: _Rates, matrix: np.ndarray) -> np.ndarray:
            moved = formula.transport * driving.slope @ matrix
            noise = driving.noise + formula.residual_noise * driving.residual
            return moved + np.swapaxes(moved, 1, 2) + noise

        one = change(begin, matrix)
        two = change(middle, matrix + step / 2 * one)
        three = change(middle, matrix + step / 2 * two)
        four = change(end, matrix + step * three)
        return matrix + step / 6 * (one + 2 * two + 2 * three + four)


def _distance(first: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two covariances' means, in standard deviations of both places."""
    mean = other.mean(axis=0)
    deviation = np.sqrt(np.maximum(np.diag(mean), 0.0))
    scale = np.outer(deviation, deviation)
    difference = np.abs(first.mean(axis=0) - mean)
    return float(np.divide(difference, scale, out=np.zeros_like(scale), where=scale > 0).max())


def error_slope(setting: Setting, state: np.ndarray) -> np.ndarray:
    """Derivative of the error in the four numbers of a symmetric state: (4, replicates)."""
    unit = unit_of_energy(setting)
    slope = np.zeros_like(state)
    # A short head or prompt has small products, and the error changes over sizes of theirs.
    lengths = np.sqrt(np.maximum(state[2:], 1e-12 / unit))
    sizes = np.array(
        [
            lengths[0] * setting.signal,
            lengths[1] * setting.context,
            lengths[0] ** 2,
            lengths[1] ** 2,
        ]
    )
    steps = np.minimum(_DIFFERENCE * np.array([1.0, 1.0, 1 / unit, 1 / unit])[:, None], sizes / 50)
    for place, step in enumerate(steps):
        moved = [state.copy(), state.copy()]
        if place >= 2:
            for one in moved:
                one[place] = np.maximum(one[place], step)
        moved[0][place] += step
        moved[1][place] -= step
        ahead, behind = (symmetric_error(setting, m) for m in moved)
        slope[place] = (ahead - behind) / (2 * step)
    return slope


def spread_path(
    setting: Setting, rates: Rates, head_norm: float, prompt_norm: float, loss: Loss = "square"
) -> SpreadPath:
    """The covariance from random directions of these lengths; kept for the next call."""
    numbers = (setting.signal, setting.context, setting.noise)
    return _kept_path(
        setting.tokens, setting.relevant, *map(float, numbers),
        tuple(map(tuple, np.asarray(setting.shifts).tolist())),
        tuple(np.asarray(setting.shift_weights).tolist()), rates, float(head_norm),
        float(prompt_norm), loss,
    )  # fmt: skip


@functools.lru_cache(maxsize=32)
def _kept_path(
    tokens: int, relevant: int, signal: float, context: float, noise: float,
    shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...], rates: Rates,
    head_norm: float, prompt_norm: float, loss: Loss,
) -> SpreadPath:  # fmt: skip
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.array(shifts), np.array(shift_weights)
    )
    energies = head_norm**2, prompt_norm**2
    flow = flow_path(setting, rates, (0.0, 0.0, *energies), loss)
    return SpreadPath(setting, rates, flow, start_covariance(setting, *energies), loss)
