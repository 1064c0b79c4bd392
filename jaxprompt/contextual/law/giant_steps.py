r"""The limit of a few steps on large fresh batches: head and prompt after each, in four numbers.

A step takes the mean gradient of :math:`n=\nu d` fresh sequences, at rates that are not divided by
d. Means move the state by their whole size, and the orthogonal noise of the mean adds
:math:`\sigma^2\eta^2E[\cdot]/\nu` to the energies.
"""

from __future__ import annotations

import numpy as np

from jaxprompt.contextual.law.sgd_flow import Rates
from jaxprompt.contextual.law.sgd_moments import (
    THEORY,
    Formula,
    Loss,
    gradient_moments,
    unit_of_energy,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError

__all__ = ["giant_steps"]

MOST_ENERGY = 1e6
"""Energy, as a pure number, beyond which the steps count as divergent."""


def giant_steps(
    setting: Setting, state: np.ndarray, rates: Rates, samples_per_dim: float, steps: int,
    loss: Loss = "square", formula: Formula = THEORY, cross: float = 1.0,
) -> np.ndarray:  # fmt: skip
    r"""A symmetric state, (4, replicates), after `steps` steps; float64.

    With :math:`a=\eta_wE[e\alpha]`, :math:`c=\eta_w\sigma^2E[p_2e']`, :math:`g=\eta_qG_1` and
    :math:`h=\eta_q\sigma G_2/|q|`, the mean gradients make the head :math:`(1+c)w+aw_\star` and the
    prompt :math:`(1+h)q+gq_\star`, so

    .. math::
        A' &= (1+c)A + aW^2,\\
        |w'|^2 &= (1+c)^2|w|^2+2(1+c)aA+a^2W^2+\eta_w^2\sigma^2E[e^2p_2]/\nu,

    and the prompt alike. `cross` multiplies the terms in 2(1 + c)a and 2(1 + h)g, for falsifiers.

    Raises:
        NumericalError: the state grows beyond what float64 can follow.
    """
    signal_square, context_square = float(setting.signal) ** 2, float(setting.context) ** 2
    unit = unit_of_energy(setting)
    for step in range(steps):
        signal, context, head, prompt = state
        moments = gradient_moments(setting, state, loss, formula)
        a = rates.head * moments.signal_gain
        kept_head = 1 + rates.head * moments.head_shrinkage
        g = rates.prompt * moments.context_gain
        kept_prompt = 1 + rates.prompt * moments.prompt_drag
        head_noise = rates.head**2 * moments.head_noise / samples_per_dim
        prompt_noise = rates.prompt**2 * moments.prompt_noise / samples_per_dim
        state = np.stack(
            [
                kept_head * signal + a * signal_square,
                kept_prompt * context + g * context_square,
                kept_head**2 * head
                + 2 * cross * kept_head * a * signal
                + a**2 * signal_square
                + head_noise,
                kept_prompt**2 * prompt
                + 2 * cross * kept_prompt * g * context
                + g**2 * context_square
                + prompt_noise,
            ]
        )
        if not np.isfinite(state).all() or np.abs(state[2:]).max() * unit > MOST_ENERGY:
            raise NumericalError(
                f"the steps diverge at step {step + 1}: lower `head_rate` or `prompt_rate`, or "
                "take fewer steps"
            )
    return state
