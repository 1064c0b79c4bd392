r"""Claim ``contextual.first_step``: the head after one gradient step, exactly, at every n and d."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.contextual.parameters import DATA_LAW, DIM, FAMILY, SAMPLES, check_law, required
from jaxprompt.contextual.pictures import along_samples
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.gradient_steps import head_step, steps_in_few_coordinates
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Design,
    Falsifier,
    Panels,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.stats import Estimate, jackknife, mean_estimate

__all__ = ["CLAIM", "closed_form", "pooled_coefficients", "simulate"]

STATEMENT = r"""
Start at head 0 and prompt 0 and take one gradient step of the square loss on $n$ sequences:
$\hat w=\frac1n\sum_i y_i\bar x_i$ up to the step size. With $a=\zeta-(1-\zeta)\delta_w$,
$b=\zeta-(1-\zeta)\delta_q$ and $s^2=\sigma^2(1-\zeta)/T$, for every $n$ and $d$,
$$E\langle\hat w,w_\star/W\rangle=E[a]\,W,\qquad
E|\hat w|^2=(E[a]W)^2+\frac{\mathrm{Var}(a)W^2+E[b^2]Q^2+d\,s^2}{n}.$$
The alignment $E\langle\hat w,w_\star/W\rangle/\sqrt{E|\hat w|^2}$ is of order one as soon as $n$ is
of order $d\,s^2$.
"""

DERIVATION = r"""
At prompt 0 attention is uniform, so the pooled feature is the mean token
$\bar x=b\,q_\star+a\,y\,w_\star+\bar z$ with $\bar z\sim N(0,s^2I_d)$: $T-k$ independent noises,
each with weight $1/T$. At head 0 the residual is $y$, so $-\nabla_w L=\frac1n\sum_i y_i\bar x_i$,
with independent terms $a_i w_\star+y_ib_iq_\star+y_i\bar z_i$. Their mean is $E[a]w_\star$, because
$y$ is odd; their covariance has trace $\mathrm{Var}(a)W^2+E[b^2]Q^2+d\,s^2$.

*Tolerances.* 5 % of the step's length and direction; a step size is never chosen more finely, and
every single term of the formula that a falsifier drops is larger somewhere in the design.
"""


# --- the closed form ---


def pooled_coefficients(
    tokens: Any, relevant: Any, shifts: Any, shift_weights: Any
) -> tuple[Any, Any, Any]:
    r"""E[a], Var(a) and E[b²] of the mean token :math:`b\,q_\star + a\,y\,w_\star`."""
    share, weights = np.asarray(relevant) / np.asarray(tokens), np.asarray(shift_weights)
    shift = np.asarray(shifts, dtype=np.float64)
    a = share[..., None] - (1 - share[..., None]) * shift[:, 1]
    b = share[..., None] - (1 - share[..., None]) * shift[:, 0]
    mean = a @ weights
    return mean, np.square(a - mean[..., None]) @ weights, np.square(b) @ weights


def closed_form(
    *, dim: Any, samples: Any, tokens: Any, relevant: Any, signal: Any, context: Any, noise: Any,
    shifts: Any, shift_weights: Any, noisy_tokens: Literal["irrelevant", "all"] = "irrelevant",
    mixture_variance: float = 1.0, context_energy: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """`signal`, `energy` and `alignment`; every number may be an array.

    Falsifiers change the last three arguments, which the theory has at their defaults.
    """
    mean, variance, square = pooled_coefficients(tokens, relevant, shifts, shift_weights)
    tokens = np.asarray(tokens)
    noisy = tokens - np.asarray(relevant) if noisy_tokens == "irrelevant" else tokens
    pooled_noise = np.square(noise) * noisy / np.square(tokens * 1.0)
    along = mean * np.asarray(signal)
    spread = mixture_variance * variance * np.square(signal)
    spread = spread + context_energy * square * np.square(context)
    energy = np.square(along) + (spread + np.asarray(dim) * pooled_noise) / np.asarray(samples)
    along = np.broadcast_to(along, energy.shape)
    return {"signal": along, "energy": energy, "alignment": along / np.sqrt(energy)}


FALSIFIERS = (
    Falsifier("unpooled", "noise of T, not T − k, tokens", noisy_tokens="all"),
    Falsifier("no_mixture", "drops the variance of a", mixture_variance=0.0),
    Falsifier("no_context", "drops the energy along q⋆", context_energy=0.0),
)


# --- the simulation ---


# No function of one trial: sequences of all trials are differentiated together.
def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, samples: int, **params: Any
) -> dict[str, Estimate]:
    """One gradient step from 0 by automatic differentiation on sequences drawn token by token.

    In the plane of w⋆ and q⋆: over the noise in the other coordinates the energy is averaged
    exactly. float32.
    """
    signal, energy = simulate_trials(Setting.of(params), dim, samples, trials, key=key)
    return {
        "signal": mean_estimate(signal),
        "energy": mean_estimate(energy),
        "alignment": jackknife(alignment, signal, energy),
    }


def simulate_trials(
    setting: Setting, dim: int, samples: int, trials: int, *, key: Key[Array, ""]
) -> tuple[Float[np.ndarray, " trials"], Float[np.ndarray, " trials"]]:
    """The head's component along w⋆ and its energy in every trial; float64."""
    plane, across = steps_in_few_coordinates(
        head_step, setting, dim, samples, trials, np.zeros(2), key=key
    )
    return plane[:, 0], np.square(plane).sum(axis=1) + across


def alignment(signal: np.ndarray, energy: np.ndarray) -> float:
    """E[signal] over the root of E[energy]."""
    return float(signal.mean() / np.sqrt(energy.mean()))


# --- the design ---

_MIXED = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.5, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
_SHIFTED_SIGNAL = {
    "tokens": 8, "relevant": 2, "signal": 3.0, "context": 0.5, "noise": 0.7,
    "shifts": ((0.0, 0.0), (0.5, 1.0)), "shift_weights": (0.4, 0.6),
}  # fmt: skip
_RUNS = (
    # More trials where the head fluctuates more.
    Run(_MIXED, dim=40, samples=80),
    Run(_MIXED, dim=40, samples=12, times=4),
    Run(_SHIFTED_SIGNAL, dim=40, samples=80),
    Run(_SHIFTED_SIGNAL, dim=40, samples=12, times=4),
    # Where one term is most of the energy: E[b²]Q² in the first, Var(a)W² in the second.
    Run(_MIXED, context=5.0, noise=0.5, dim=6, samples=4, times=12),
    Run(_SHIFTED_SIGNAL, context=0.2, noise=0.3, shifts=((0.0, 0.0), (0.5, 2.0)), dim=6, samples=4,
        times=12),
)  # fmt: skip

CLAIM = Claim(
    id="contextual.first_step",
    title="The head after one gradient step",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, required(DIM), required(SAMPLES)),
    ignored=FAMILY,
    check_parameters=check_law,
    quantities=(
        Quantity("signal", "component of the head along w⋆/W", tolerance=0.05, relative=True),
        Quantity("energy", "squared norm of the head", tolerance=0.05, relative=True),
        Quantity("alignment", "signal over the root of the energy", tolerance=0.05, relative=True),
    ),
    compared=Compared(
        {
            "tokens": (2, 30),
            "relevant": (1, 5),
            "signal": (0.2, 4.0),
            "context": (0.2, 3.0),
            "noise": (0.2, 2.0),
            "shifts": (-0.5, 1.5),
            "dim": (2, 24),
            "samples": (1, 1000),
        },
        elsewhere="a rational formula, exact at every size, which rounding alone limits",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={"quick": Design(*_RUNS, trials=4096), "full": Design(*_RUNS, trials=32768)},
    broadcasts="every number",
    figure=Panels(
        along_samples(
            (
                ("alignment of the head with w⋆", "alignment", {"alignment": ""}),
                ("energy of the head", "squared norm", {"energy": ""}),
            ),
            lambda at: f"signal W = {at['signal']:g}, context Q = {at['context']:g}",
        ),
        "One gradient step: with n/d the head turns to w⋆ and loses its noise",
        "lines: theory at the largest dimension measured; points: the check's, 95 % intervals",
    ),
)
