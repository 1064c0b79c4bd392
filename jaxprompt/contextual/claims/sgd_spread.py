r"""Claim ``contextual.sgd_spread``: how much one pass of SGD differs from the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.claims.sgd_flow import (
    LOSS,
    RATES,
    SGD_DIM,
    START,
    TIME,
    TWO_SHIFTS,
    check_times,
)
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.sgd_flow import Rates, flow_path
from jaxprompt.contextual.law.sgd_increments import OVERLAPS
from jaxprompt.contextual.law.sgd_moments import Loss
from jaxprompt.contextual.law.sgd_spread import SYMMETRIC, SpreadFormula, error_slope, spread_path
from jaxprompt.contextual.parameters import COMPARED_LAW, DATA_LAW, DIM, FAMILY
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_paths import path_values
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Let $\theta_d(t)$ be the seven inner products of head and prompt with $w_\star$, $q_\star$ and each
other after $n=td$ steps of one-pass SGD from random directions (`contextual.sgd_flow`), and
$\theta(t)$ their limit. As $d\to\infty$, $\sqrt d\,(\theta_d-\theta)\to N(0,C)$ with
$$\dot C=JC+CJ^\top+D,\qquad
C(0)=\mathrm{diag}\,(|w|^2W^2,|w|^2Q^2,|q|^2W^2,|q|^2Q^2,0,|w|^2|q|^2,0),$$
in the order $\langle w,w_\star\rangle$, $\langle w,q_\star\rangle$, $\langle q,w_\star\rangle$,
$\langle q,q_\star\rangle$, $|w|^2$, $\langle w,q\rangle$, $|q|^2$. $J$ is the derivative of the
limiting drift, and $D$ the covariance, over one sequence, of the changes times $d$: with
$G_w=\sum\varphi_tx_t$, $G_q=\sum\psi_tx_t$ and sums of squares over irrelevant tokens,
$$\big(\eta_we\langle G_w,w_\star\rangle,\ \eta_we\langle G_w,q_\star\rangle,
\eta_qe\langle G_q,w_\star\rangle,\ \eta_qe\langle G_q,q_\star\rangle,
2\eta_wef+\eta_w^2\sigma^2e^2\textstyle\sum\varphi^2,$$
$$\eta_we\langle G_w,q\rangle+\eta_qe\langle G_q,w\rangle
+\eta_w\eta_q\sigma^2e^2\textstyle\sum\varphi\psi,
2\eta_qe\langle G_q,q\rangle+\eta_q^2\sigma^2e^2\sum\psi^2\big).$$
The test error of one run then scatters about its limit with standard deviation
$\sqrt{g^\top Cg/d}$, $g$ its derivative in the inner products: an error bar before the run.
"""

DERIVATION = r"""
A step changes the inner products by $1/d$ times a vector whose law depends on them alone, so they
are a Markov chain with small steps. Subtract the drift: what is left of a step is a martingale
difference of covariance $D/d^2$, and $td$ of them add $D\,dt/d$. Linearised about the flow, a
deviation moves with $J$. That is the equation for $C$.

*Start.* $\langle w,w_\star\rangle$ of a random direction of length $|w|$ has variance
$|w|^2W^2/d$, and likewise the others; the lengths are fixed.

*Blocks.* The reflection of $w_\star$ with the label (`contextual.sgd_flow`) changes the sign of
$\langle w,q_\star\rangle$, $\langle q,w_\star\rangle$, $\langle w,q\rangle$ alone. It maps the law
of a step at the flow to itself, so $J$, $D$ and $C$ do not mix these three with the other four.
The error does not change under it, so $g$ is 0 there, and the four numbers give the error bar.

*Computing it.* Given the normals along $q$ and along $w$ a step is known but for the noise across
both, which enters $\langle G_w,v\rangle$ and $\langle G_q,v\rangle$ linearly, with covariances
$\sigma^2\sum\varphi^2$, $\sigma^2\sum\varphi\psi$ and $\sigma^2\sum\psi^2$ times the product of
what $w_\star$ and $q_\star$ have across. The mean over these 2(T − k) normals is by quasi-Monte
Carlo, mirrored with the label, which keeps the blocks apart exactly. $J$ is made of differences of
the drift, and $C$ is integrated by Runge and Kutta's rule.

*Tolerance.* A tenth of an error bar: nobody redraws one for that. The standard deviations
differ from the limit by terms in $1/d$ and $1/d^2$; measured from $d=24$ on, the second is worth
0.8 % of the most curved of them, that of the error, at $d=64$, and leaving it out of a fit from
there on moves the limit by 0.2 %, a tenth of the quick check's standard error.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, time: Any,
    head_rate: Any, prompt_rate: Any, head_norm: Any, prompt_norm: Any, shifts: Any = ((0.0, 0.0),),
    shift_weights: Any = (1.0,), loss: Loss = "square", transport: float = 1.0,
    residual_noise: float = 1.0, start: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """√d times the standard deviation of each inner product, and of the error (`spread`).

    Numbers of any shape broadcast. Falsifiers change the last three arguments, which the theory has
    at their defaults.

    Raises:
        NumericalError: the flow diverges before `time`, or needs too many steps to it.
    """
    formula = SpreadFormula(transport, residual_noise, start)

    def spread_at(
        *, signal: float, context: float, noise: float, time: float, head_rate: float,
        prompt_rate: float, head_norm: float, prompt_norm: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        rates = Rates(head_rate, prompt_rate)
        path = spread_path(setting, rates, head_norm, prompt_norm, loss)
        covariance = path.at(time, formula)
        start = (0.0, 0.0, head_norm**2, prompt_norm**2)
        slope = error_slope(setting, flow_path(setting, rates, start, loss).at(time))
        block = covariance[:, SYMMETRIC][:, :, SYMMETRIC]
        diagonal = np.einsum("rii->ir", covariance)
        of_error = np.einsum("ir,rij,jr->r", slope, block, slope)
        variances = dict(zip((*OVERLAPS, "spread"), (*diagonal, of_error), strict=True))
        return {
            name: quadrature_estimate(np.sqrt(np.maximum(variance, 0.0)))
            for name, variance in variances.items()
        }

    return evaluate_pointwise(
        spread_at, signal=signal, context=context, noise=noise, time=time, head_rate=head_rate,
        prompt_rate=prompt_rate, head_norm=head_norm, prompt_norm=prompt_norm,
    )  # fmt: skip


FALSIFIERS = (
    Falsifier("accumulation", "noise adds up and is not carried along: J = 0", transport=0.0),
    Falsifier("half_transport", "carries deviations along at half the flow's rate", transport=0.5),
    Falsifier("no_residual", "drops the noise along w⋆ and q⋆ that head and prompt leave open",
              residual_noise=0.0),
    Falsifier("orthogonal_start", "starts with all products exactly 0", start=0.0),
    Falsifier.after(
        "correction_left", "a correction of 10.7/d left in the spreads, as at d = 64: a sixth",
        lambda right, _: with_correction(right, *right, times=7 / 6),
    ),
)  # fmt: skip


# --- the simulation ---


def simulate(
    *, key: Key[Array, ""], trials: int, first: int = 0, dim: int, **parameters: Any
) -> dict[str, Estimate]:
    """√d times standard deviations over independent paths; one path serves every time, so that this
    is no function of one trial at one point."""
    values = path_values(key=key, trials=trials, first=first, where=CLAIM.id, dim=dim, **parameters)
    estimates = {name: _scaled_deviation(values[name], values[name], dim) for name in OVERLAPS}
    # Two estimates with independent noise: their covariance is the variance of the error itself.
    errors = values["first_error"], values["second_error"]
    return estimates | {"spread": _scaled_deviation(*errors, dim)}


def _scaled_deviation(first: np.ndarray, second: np.ndarray, dim: int) -> Estimate:
    """√d times the root of the covariance over trials, with its standard error."""
    trials = len(first)
    products = dim * (first - first.mean(axis=0)) * (second - second.mean(axis=0))
    variance = products.sum(axis=0) / (trials - 1)
    deviation = np.sqrt(np.maximum(variance, 0.0))
    stderr = products.std(axis=0, ddof=1) / np.sqrt(trials)
    stderr = stderr / (2 * np.where(deviation > 0, deviation, 1.0))
    if np.ndim(deviation) == 0:
        return Estimate(float(deviation), float(stderr), trials, kind="sampled")
    return Estimate(deviation, stderr, trials, kind="sampled")


# --- the design ---


def _spread_design(trials_by_dim: Mapping[int, int], times: list[float]) -> Design:
    runs = [
        Run(TWO_SHIFTS, head_rate=1.0, prompt_rate=2.0, dim=dim, time=times, trials=trials)
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


_FIGURE = Curves(
    x="time",
    y="spread",
    design=Design.product(
        {
            **TWO_SHIFTS, "head_rate": 1.0, "prompt_rate": 2.0,
            "time": [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0],
        },
        {"dim": [50, 200, 800]},
        trials=384,
    ),
    lines=tuple(float(x) for x in np.linspace(0.0, 8.0, 17)),
    title="How much the test error differs between runs of SGD",
    x_label="n / d",
    y_label="√d times the standard deviation of the error",
    series="dim",
    series_label="simulated, d = {value}",
    limit_label="theory",
)  # fmt: skip

_MEANINGS = {
    "head_signal": "⟨w, w⋆⟩", "head_context": "⟨w, q⋆⟩", "prompt_signal": "⟨q, w⋆⟩",
    "prompt_context": "⟨q, q⋆⟩", "head_energy": "|w|²", "head_prompt": "⟨w, q⟩",
    "prompt_energy": "|q|²", "spread": "the probability of a wrong sign",
}  # fmt: skip

CLAIM = Claim(
    id="contextual.sgd_spread",
    title="The spread between runs of one-pass SGD",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, TIME, *RATES, *START, LOSS, SGD_DIM),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    check_parameters=check_times,
    quantities=tuple(
        Quantity(name, f"limit of √d times the standard deviation of {meaning}", 0.1, True)
        for name, meaning in _MEANINGS.items()
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "time": (0.1, 1.0),
            "head_rate": (0.1, 1.0),
            "prompt_rate": (0.1, 1.5),
            "head_norm": (0.05, 0.8),
            "prompt_norm": (0.05, 0.8),
            "loss": LOSS.choices,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses, but not the time steps, which "
        "are halved until they lose less than 0.3 % of a standard deviation; "
        "paths that diverge, or take too many time steps, are refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _spread_design({64: 5120, 128: 3072, 256: 2048, 512: 1024}, [1.0, 2.0]),
        "full": _spread_design({128: 32768, 256: 16384, 512: 12288, 1024: 8192}, [1.0, 2.0]),
    },
    shared=("time",),
    size="dim",
    powers=(1,),
    broadcasts="every real parameter",
    figure=_FIGURE,
)
