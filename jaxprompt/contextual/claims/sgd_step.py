r"""Claim ``contextual.sgd_step``: what one step of SGD does on average, exactly, at every d."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.compute.trials import per_trial
from jaxprompt.contextual.claims.conditional_error import PRODUCTS, check_products
from jaxprompt.contextual.claims.sgd_flow import LOSS, RATES
from jaxprompt.contextual.law.attention_moments import REPLICATES
from jaxprompt.contextual.law.pointwise import evaluate_pointwise, quadrature_estimate
from jaxprompt.contextual.law.sgd_flow import Rates
from jaxprompt.contextual.law.sgd_increments import OVERLAPS, StepFormula, mean_increments
from jaxprompt.contextual.law.sgd_moments import Loss
from jaxprompt.contextual.parameters import COMPARED_LAW, DATA_LAW, DIM, FAMILY, check_trainable
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_chain import (
    LEAST_DIM,
    Frame,
    SgdRates,
    frame_of_products,
    one_step,
    overlaps_of,
)
from jaxprompt.contextual.simulation.sgd_paths import padded_setting
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
From any head $w$ and prompt $q$ take one step of SGD on one fresh sequence, both gradients at the
old point: with $e$ minus the loss's slope ($y-f$ for the square loss), $G_w=\sum_t\varphi_tx_t$,
$G_q=\sum_t\psi_tx_t$ and $\psi_t=\varphi_t(\langle w,x_t\rangle-f)$,
$w\leftarrow w+\frac{\eta_w}deG_w$ and $q\leftarrow q+\frac{\eta_q}deG_q$. Then for every $d\ge6$,
with $v=w_\star$ or $q_\star$,
$$d\,E\Delta\langle w,v\rangle=\eta_wE[e\langle\mu_w,v\rangle],\qquad
d\,E\Delta\langle q,v\rangle=\eta_qE[e\langle\mu_q,v\rangle],$$
$$d\,E\Delta|w|^2=2\eta_wE[ef]+\tfrac{\eta_w^2}dE\big[e^2(|\mu_w|^2+(d-2)\sigma^2\textstyle\sum\varphi^2)\big],$$
$$d\,E\Delta\langle w,q\rangle=E\big[e(\eta_w\langle\mu_w,q\rangle+\eta_q\langle\mu_q,w\rangle)\big]
+\tfrac{\eta_w\eta_q}dE\big[e^2(\mu_w\cdot\mu_q+(d-2)\sigma^2\textstyle\sum\varphi\psi)\big],$$
$$d\,E\Delta|q|^2=2\eta_qE[e\langle\mu_q,q\rangle]+\tfrac{\eta_q^2}dE\big[e^2(|\mu_q|^2+(d-2)\sigma^2\textstyle\sum\psi^2)\big].$$
$\mu_w$ and $\mu_q$ are the means of $G_w$ and $G_q$ given the noise of the tokens along $q$ and
along $w$, which decides $e$, $\varphi$ and $\psi$; the sums of squares run over irrelevant tokens.
"""

DERIVATION = r"""
$\partial f/\partial w=G_w$, and $\partial f/\partial q=\sum_t\varphi_t(h_t-f)x_t=G_q$ with
$h_t=\langle w,x_t\rangle$, by the derivative of the softmax. The scores $\langle q,x_t\rangle$ and
the $h_t$ depend on the noise $z_t$ through its parts along $q$ and along what $w$ has across $q$.
Given these two numbers of each token, $z_t$ is still $N(0,\sigma^2)$ in each of the other $d-2$
directions, so $G_w$ and $G_q$ are Gaussian there, with mean $\mu_w$, $\mu_q$ and, in each of them,
covariance $\sigma^2$ times $\sum\varphi^2$, $\sum\varphi\psi$, $\sum\psi^2$. Products with a vector
keep the mean; squares add $d-2$ variances. The mean over the 2(T − k) normals is by randomised
quasi-Monte Carlo with a stated error, those over label and shift are sums.

Had the prompt's gradient been taken at the new head, $\langle w,q\rangle$ would differ by a term in
$1/d$ of its change; the order of the two updates does not enter the limit.

*Tolerances.* 0.05 of a change times $d$, as much as `contextual.sgd_flow` allows a product at n/d
= 1, where the changes of $d$ steps have added up. Falsifiers move a product by more than that.
"""


# --- the closed form ---


def closed_form(
    *, dim: Any, tokens: int, relevant: int, signal: Any, context: Any, noise: Any,
    head_rate: Any, prompt_rate: Any, head_signal: Any, head_context: Any, head_norm: Any,
    prompt_signal: Any, prompt_context: Any, prompt_norm: Any, head_prompt: Any,
    shifts: Any = ((0.0, 0.0),), shift_weights: Any = (1.0,), loss: Loss = "square",
    second_order: float = 1.0, cross_noise: float = 1.0, centring: float = 1.0,
    more_directions: int = 0,
) -> dict[str, Estimate]:  # fmt: skip
    """Mean changes of the seven products times d; numbers of any shape broadcast.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    formula = StepFormula(second_order, cross_noise, centring, more_directions)

    def changes_at(
        *, dim: float, signal: float, context: float, noise: float, head_rate: float,
        prompt_rate: float, head_signal: float, head_context: float, head_norm: float,
        prompt_signal: float, prompt_context: float, prompt_norm: float, head_prompt: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        state = np.array(
            [head_signal, head_context, prompt_signal, prompt_context, head_norm**2, head_prompt,
             prompt_norm**2]
        )  # fmt: skip
        replicates = np.repeat(state[:, None], REPLICATES, axis=1)
        rates = Rates(head_rate, prompt_rate)
        changes = mean_increments(setting, replicates, rates, dim, loss, formula)
        return {
            f"{name}_change": quadrature_estimate(change)
            for name, change in zip(OVERLAPS, changes, strict=True)
        }

    return evaluate_pointwise(
        changes_at, dim=dim, signal=signal, context=context, noise=noise, head_rate=head_rate,
        prompt_rate=prompt_rate, head_signal=head_signal, head_context=head_context,
        head_norm=head_norm, prompt_signal=prompt_signal, prompt_context=prompt_context,
        prompt_norm=prompt_norm, head_prompt=head_prompt,
    )  # fmt: skip


FALSIFIERS = (
    Falsifier("more_directions", "d + 4 orthogonal directions for d", more_directions=4),
    Falsifier("no_cross_noise", "drops the noise that both gradients share", cross_noise=0.0),
    Falsifier("first_order", "drops the squares of the rates", second_order=0.0),
    Falsifier("uncentred", "φ h for φ (h − f) in the prompt's gradient", centring=0.0),
)


# --- the simulation ---


def _make_frame(**parameters: Any) -> dict[str, Any]:
    """The set-up of a point: its setting, and head and prompt with the given products."""
    products = {name: parameters[name] for name in OVERLAPS if name in parameters}
    products["head_energy"] = parameters["head_norm"] ** 2
    products["prompt_energy"] = parameters["prompt_norm"] ** 2
    setting = padded_setting(parameters, CLAIM.id)
    return {
        "setting": setting,
        "frame": frame_of_products(setting, **products),
        "logistic": np.asarray(parameters["loss"] == "logistic"),
    }


@per_trial(
    dtype="float64", batch=4096, setup=_make_frame, traced=("dim", "head_rate", "prompt_rate")
)
def simulate(
    *, key: Key[Array, ""], setting: Setting, frame: Frame, logistic: Array, dim: Array,
    head_rate: Array, prompt_rate: Array,
) -> dict[str, Array]:  # fmt: skip
    """Changes times d in one step of the exact chain."""
    rates = SgdRates(head_rate, prompt_rate)
    moved = one_step(setting, dim, rates, frame, key=key, logistic=logistic)
    old, new = overlaps_of(setting, frame), overlaps_of(setting, moved)
    return {f"{name}_change": dim * (new[name] - old[name]) for name in OVERLAPS}


# --- the design ---

_GENERAL = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5), "head_signal": 0.3,
    "head_context": 0.1, "head_norm": 0.5**0.5, "prompt_signal": 0.15, "prompt_context": 0.4,
    "prompt_norm": 0.8**0.5, "head_prompt": 0.1, "head_rate": 1.5, "prompt_rate": 3.0,
}  # fmt: skip
_RUNS = (
    Run(_GENERAL, dim=6),
    Run(_GENERAL, dim=12),
    Run(_GENERAL, dim=100, loss="logistic"),
    # A head and a prompt that share much noise.
    Run(_GENERAL, dim=8, head_prompt=0.9, head_norm=1.2, prompt_norm=1.1, head_rate=0.8,
        prompt_rate=1.5),
)  # fmt: skip

_MEANINGS = {
    "head_signal": "⟨w, w⋆⟩", "head_context": "⟨w, q⋆⟩", "prompt_signal": "⟨q, w⋆⟩",
    "prompt_context": "⟨q, q⋆⟩", "head_energy": "|w|²", "head_prompt": "⟨w, q⟩",
    "prompt_energy": "|q|²",
}  # fmt: skip

CLAIM = Claim(
    id="contextual.sgd_step",
    title="One step of SGD on head and prompt",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        Parameter("dim", "integer", "token dimension", "d", low=LEAST_DIM),
        *PRODUCTS,
        *RATES,
        LOSS,
    ),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    check_parameters=lambda values, where: check_products(check_trainable(values, where), where),
    quantities=tuple(
        Quantity(f"{name}_change", f"mean change of {meaning} in a step, times d", tolerance=0.05)
        for name, meaning in _MEANINGS.items()
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "dim": (6, 24),
            "head_rate": (0.1, 1.5),
            "prompt_rate": (0.1, 3.0),
            "head_norm": (0.1, 1.5),
            "prompt_norm": (0.1, 1.5),
            "loss": LOSS.choices,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; exact at every dimension"
        ", and products that no vectors have are refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={"quick": Design(*_RUNS, trials=163_840), "full": Design(*_RUNS, trials=2_000_000)},
    broadcasts="every real parameter and dim",
    figure=Curves(
        x="dim",
        y="head_energy_change",
        design=Design.product(
            _GENERAL,
            {"loss": ["square", "logistic"], "dim": [6, 10, 20, 50, 150, 500]},
            trials=40_960,
        ),
        lines=(6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 80, 150, 300, 500),
        title="What one step of SGD adds to the head's squared norm, at every dimension",
        x_label="token dimension d",
        y_label="mean change of |w|², times d",
        series="loss",
        series_label="{value} loss",
        log_x=True,
    ),
)
