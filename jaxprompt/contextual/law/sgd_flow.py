r"""The limit of one-pass SGD of head and prompt: a flow of four numbers along n/d.

With one fresh sequence a step and the rates :math:`\eta_w/d` and :math:`\eta_q/d`, the overlaps at
:math:`n = td` tend, as d → ∞, to the solution of an ordinary differential equation in
:math:`(A, B, |w|^2, |q|^2)`, whose right side is made of the means in
:mod:`jaxprompt.contextual.law.sgd_moments`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxprompt.contextual.law.sgd_moments import (
    MOST_PAIRS,
    THEORY,
    Formula,
    Loss,
    constant_state,
    gradient_moments,
    unit_of_energy,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError

__all__ = ["FlowPath", "Rates", "drift", "flow_path"]

ACCURACY = 1e-6
"""Error of one time step, in pure numbers of size 1; the path's is of that order."""

MOST_ENERGY = 1e6
"""Energy, as a pure number, beyond which a path counts as divergent."""

MOST_STEPS = 200
"""Time steps of a path: seconds. A path at rest takes one in about 50 over its speed, so this
reaches n/d = 1000 at rates of 1 and 2 in the settings of the designs."""

_MOST_KEPT = 256
"""States between time steps that a path keeps."""


class Rates(NamedTuple):
    """Learning rates of head and prompt, times d."""

    head: float
    prompt: float


def drift(
    setting: Setting, state: np.ndarray, rates: Rates, loss: Loss = "square",
    formula: Formula = THEORY, most_pairs: int = MOST_PAIRS,
) -> np.ndarray:  # fmt: skip
    r"""Time derivative of a symmetric state, (4, replicates) in float64.

    .. math::
        \dot A &= \eta_w(W^2E[\alpha e]+\sigma^2AE[p_2e']),&
        \tfrac{d}{dt}|w|^2 &= 2\eta_wE[ef]+\eta_w^2\sigma^2E[e^2\Sigma\varphi^2],\\
        \dot B &= \eta_q(Q^2G_1+\sigma\tfrac B{|q|}G_2),&
        \tfrac{d}{dt}|q|^2 &= 2\eta_q(BG_1+\sigma|q|G_2)+\eta_q^2\sigma^2E[e^2\Sigma\psi^2].
    """
    signal, context, _, prompt = state
    g = gradient_moments(setting, state, loss, formula, most_pairs)
    size = float(setting.signal) ** 2, float(setting.context) ** 2
    return np.stack(
        [
            rates.head * (size[0] * g.signal_gain + signal * g.head_shrinkage),
            rates.prompt * (size[1] * g.context_gain + context * g.prompt_drag),
            2 * rates.head * g.output_product + rates.head**2 * g.head_noise,
            2 * rates.prompt * (context * g.context_gain + prompt * g.prompt_drag)
            + rates.prompt**2 * g.prompt_noise,
        ]
    )


# Dormand and Prince's pair of orders 5 and 4.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class FlowPath:
    """The solution of an autonomous equation, extended as far as it is asked for.

    Its time steps follow from the start alone, so the state at a time does not depend on what was
    asked before.
    """

    def __init__(
        self, derivative: Callable[[np.ndarray], np.ndarray], start: np.ndarray, *,
        speed: float, scale: np.ndarray, accuracy: float = ACCURACY,
    ) -> None:  # fmt: skip
        """`speed` is about the largest rate of change, `scale` makes states pure numbers."""
        self._derivative, self._scale, self._accuracy = derivative, scale, accuracy
        self._speed = speed
        self._times, self._states, self._slopes = [0.0], [start], [derivative(start)]
        self._step = 0.1 / speed if speed else np.inf
        self._between: dict[float, np.ndarray] = {}
        self._lock = threading.Lock()

    def at(self, time: float) -> np.ndarray:
        """The state at `time` ≥ 0.

        Raises:
            NumericalError: the path diverges before that time, or takes too many steps to it.
        """
        with self._lock:
            while self._times[-1] < time and self._step < np.inf:
                if len(self._times) > MOST_STEPS:
                    raise NumericalError(
                        f"the path needs more than {MOST_STEPS} steps to n/d = {time:.4g}; they "
                        f"reach {self._times[-1]:.4g}: lower `time`, `head_rate` or `prompt_rate`"
                    )
                self._extend()
        place = int(np.searchsorted(self._times, time, side="right")) - 1
        start, ahead = self._states[place], time - self._times[place]
        if ahead == 0 or self._step == np.inf:
            return start
        # A check asks for the same limit at every size, and a last step costs as much as any other.
        if time in self._between:
            return self._between[time]
        state = self._try_step(start, self._slopes[place], ahead)[0]
        if len(self._between) < _MOST_KEPT:
            self._between[time] = state
        return state

    def _try_step(
        self, state: np.ndarray, slope: np.ndarray, step: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The state after a step, the slope there, and the error in units of the accuracy."""
        slopes, moved = [slope], state
        for row in _STAGES:
            moved = state + step * sum(c * k for c, k in zip(row, slopes, strict=True))
            slopes.append(self._derivative(moved))
        error = step * sum(c * k for c, k in zip(_DIFFERENCE, slopes, strict=True))
        size = 1 + np.maximum(np.abs(state), np.abs(moved)) * self._scale
        worst = float((np.abs(error) * self._scale / size).max()) / self._accuracy
        return moved, slopes[-1], worst if np.isfinite(moved).all() else np.inf

    def _extend(self) -> None:
        state = self._states[-1]
        while True:
            moved, slope, error = self._try_step(state, self._slopes[-1], self._step)
            grown = 0.9 * max(error, 1e-8) ** -0.2
            step, self._step = self._step, self._step * float(np.clip(grown, 0.2, 5.0))
            if error <= 1:
                break
            if self._step * self._speed < 1e-9:
                self._refuse()
        self._times.append(self._times[-1] + step)
        self._states.append(moved)
        self._slopes.append(slope)
        if np.abs(moved * self._scale).max() > MOST_ENERGY:
            self._refuse()

    def _refuse(self) -> None:
        raise NumericalError(
            f"the path diverges near n/d = {self._times[-1]:.4g}: lower `head_rate` or "
            "`prompt_rate`, or stop before"
        )


def flow_path(
    setting: Setting, rates: Rates, start: tuple[float, float, float, float],
    loss: Loss = "square", formula: Formula = THEORY,
) -> FlowPath:  # fmt: skip
    """The flow from ⟨w, w⋆⟩, ⟨q, q⋆⟩, |w|² and |q|² of `start`; kept for the next call."""
    numbers = [setting.signal, setting.context, setting.noise]
    return _kept_path(
        setting.tokens, setting.relevant, *map(float, numbers),
        tuple(map(tuple, np.asarray(setting.shifts).tolist())),
        tuple(np.asarray(setting.shift_weights).tolist()), rates, start, loss, formula,
    )  # fmt: skip


@functools.lru_cache(maxsize=128)
def _kept_path(
    tokens: int, relevant: int, signal: float, context: float, noise: float,
    shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...], rates: Rates,
    start: tuple[float, float, float, float], loss: Loss, formula: Formula,
) -> FlowPath:  # fmt: skip
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.array(shifts), np.array(shift_weights)
    )
    unit = unit_of_energy(setting)
    return FlowPath(
        lambda state: drift(setting, state, rates, loss, formula),
        constant_state(*start),
        speed=unit * (abs(rates.head) + abs(rates.prompt)),
        scale=np.array([1.0, 1.0, unit, unit])[:, None],
    )
