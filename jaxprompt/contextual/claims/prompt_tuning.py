r"""Claim ``contextual.prompt_tuning``: a prompt learned by SGD over a head that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    estimates_of,
    limit_of_state,
)
from jaxprompt.contextual.law.pointwise import evaluate_pointwise, with_correction
from jaxprompt.contextual.law.sgd_flow import Rates, flow_path
from jaxprompt.contextual.law.sgd_moments import Formula, Loss
from jaxprompt.contextual.parameters import COMPARED_LAW, DATA_LAW, DIM, FAMILY
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_paths import path_values
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
A head $w$ with $A=\langle w,w_\star\rangle$ and $\langle w,q_\star\rangle=0$ was learned before and
is frozen. The prompt alone takes one pass of SGD from a random direction, one fresh sequence a
step: $q\leftarrow q+\frac{\eta_q}d\,e\sum_t\psi_tx_t$. As $d\to\infty$ at $n=td$, $B=\langle
q,q_\star\rangle$ and $r^2=|q|^2$ tend to the solution of
$$\dot B=\eta_q\big(Q^2G_1+\tfrac{\sigma B}rG_2\big),\qquad
\tfrac d{dt}|q|^2=2\eta_q(BG_1+\sigma rG_2)+\eta_q^2\sigma^2N$$
with $G_1$, $G_2$ and $N$ as in `contextual.sgd_flow` at the constant $A$ and $|w|^2$. The
probability of a wrong sign tends to $E\,\Phi(-\alpha A/(\sigma\sqrt{p_2}|w|))$. At a constant rate
it falls first, and rises again where the prompt's noise outgrows its use.
"""

DERIVATION = r"""
Put $\eta_w=0$ in `contextual.sgd_flow`: $A$ and $|w|^2$ stay. The argument of symmetry needs
$\langle w,q_\star\rangle=0$ at the start, which a head has that was learned from labels alone at
$d\to\infty$, since the labels are independent of $q_\star$. From $q=0$ the first steps are
$\eta_q e\sum\psi_tx_t/d$ with uniform attention, and $B$ grows like
$\eta_qQ^2G_1t$ with $G_1=E[(1+\delta_q)\zeta((1-\alpha A)(1-\zeta)(1+\delta_w)A+v p_2)]$ there:
both the label and the variance of the output teach the prompt.

The head's noise enters through $v=\sigma^2|w|^2$. A head with as much noise as signal learns a
prompt faster at first, by its variance, and to a worse end.

*Tolerances.* Those of `contextual.sgd_flow`, with their reasons.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, time: Any,
    prompt_rate: Any, head_signal: Any, head_norm: Any, prompt_norm: Any,
    shifts: Any = ((0.0, 0.0),), shift_weights: Any = (1.0,), loss: Loss = "square",
    sgd_noise: float = 1.0, feedback: float = 1.0, drag: float = 1.0, score_noise: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """`prompt_context`, `prompt_energy` and `error` at `time`; numbers of any shape broadcast.

    Falsifiers change the last four arguments, which the theory has at their defaults.

    Raises:
        NumericalError: the flow diverges before `time`, or needs too many steps to it.
    """
    formula = Formula(sgd_noise, feedback, drag, score_noise)

    def limit_at(
        *, signal: float, context: float, noise: float, time: float, prompt_rate: float,
        head_signal: float, head_norm: float, prompt_norm: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        start = (head_signal, 0.0, head_norm**2, prompt_norm**2)
        path = flow_path(setting, Rates(0.0, prompt_rate), start, loss, formula)
        return _of_the_prompt(limit_of_state(setting, path.at(time)))

    return evaluate_pointwise(
        limit_at, signal=signal, context=context, noise=noise, time=time, prompt_rate=prompt_rate,
        head_signal=head_signal, head_norm=head_norm, prompt_norm=prompt_norm,
    )  # fmt: skip


def _of_the_prompt(numbers: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """What the frozen head leaves open."""
    return {name: numbers[name] for name in ("prompt_context", "prompt_energy", "error")}


FALSIFIERS = (
    Falsifier("no_sgd_noise", "drops the term with the square of the rate", sgd_noise=0.0),
    Falsifier("no_feedback", "only the label teaches the prompt", feedback=0.0),
    Falsifier("no_drag", "drops what the prompt's noise scores cost the variance", drag=0.0),
    Falsifier("known_prompt_scores", "the scores have no noise", score_noise=0.0),
    Falsifier.after(
        "correction_left",
        "a correction of 1.5/d left in the error, as at d = 64",
        lambda right, _: with_correction(right, "error", plus=1.5 / 64),
    ),
)


# --- the simulation ---


def simulate(
    *, key: Key[Array, ""], trials: int, first: int = 0, **parameters: Any
) -> dict[str, Estimate]:
    """Paths of the prompt by their exact law at finite d; one path serves every time, so that this
    is no function of one trial at one point."""
    values = path_values(
        key=key, trials=trials, first=first, where=CLAIM.id, head_rate=0.0, **parameters
    )
    return _of_the_prompt(estimates_of(values))


# --- the parameters ---

HEAD = (
    Parameter("head_signal", "real", "inner product ⟨w, w⋆⟩ of the frozen head", "⟨w, w⋆⟩"),
    Parameter("head_norm", "real", "length of the frozen head", "|w|", low=0),
)


def _check_head(values: dict[str, Any], where: str) -> dict[str, Any]:
    """:func:`check_times`, and that a head has this product and this length."""
    values = check_times(values, where)
    product, length, signal = (
        np.asarray(values[name], np.float64) for name in ("head_signal", "head_norm", "signal")
    )
    if np.any((signal == 0) & (product != 0)):
        raise ParameterError(
            "head_signal", values["head_signal"], "0 where `signal` is 0", "set it to 0", where
        )
    least = np.abs(product) / np.where(signal > 0, signal, 1.0)
    if np.any(length < least * (1 - 1e-9)):
        raise ParameterError(
            "head_norm", values["head_norm"],
            f"at least {np.max(least):.6g}, which the product implies",
            "raise `head_norm` or lower `head_signal`", where,
        )  # fmt: skip
    return values


# --- the design ---

_HEAD_AS_NOISY = {**TWO_SHIFTS, "head_signal": 1.0, "head_norm": 1.2, "prompt_norm": 0.3}
_CLEAN_HEAD = {
    "tokens": 8, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "head_signal": 1.0,
    "head_norm": 1.0, "prompt_norm": 0.0,
}  # fmt: skip


def _tuning_design(trials_by_dim: Mapping[int, int], times: list[float]) -> Design:
    runs = [
        Run(setting, prompt_rate=rate, dim=dim, time=times, trials=trials)
        for setting, rate in ((_HEAD_AS_NOISY, 2.0), (_CLEAN_HEAD, 1.0))
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


_FIGURE = Curves(
    x="time",
    y="error",
    design=Design.product(
        {
            **_CLEAN_HEAD, "tokens": 10, "dim": 256,
            "time": [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
        },
        {"prompt_rate": [0.5, 1.0, 3.0]},
        trials=128,
    ),
    lines=tuple(float(x) for x in np.linspace(0.0, 8.0, 33)),
    title="A prompt tuned over a frozen head",
    x_label="n / d",
    y_label="probability of a wrong sign",
    series="prompt_rate",
    series_label="rate η = {value}",
)  # fmt: skip

CLAIM = Claim(
    id="contextual.prompt_tuning",
    title="Prompt tuning by SGD over a frozen head follows two numbers",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW, TIME, RATES[1], *HEAD, replace(START[1], default=0.0), LOSS, SGD_DIM,
    ),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    check_parameters=_check_head,
    quantities=(
        Quantity("prompt_context", "limit of ⟨q, q⋆⟩", tolerance=0.05, symbol="B"),
        Quantity("prompt_energy", "limit of |q|²", tolerance=0.1, relative=True),
        Quantity("error", "limit of the probability of a wrong sign on a fresh sequence", 0.01),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "time": (0.1, 1.5), "prompt_rate": (0.1, 1.5), "head_signal": (0.05, 0.9),
            "head_norm": (3.0, 4.0), "prompt_norm": (0.05, 0.8), "loss": LOSS.choices,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "paths that diverge, or take more than 200 time steps, are refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _tuning_design({64: 512, 128: 384, 256: 192, 512: 96}, [1.0, 4.0]),
        "full": _tuning_design({128: 8192, 256: 4096, 512: 2048, 1024: 1024}, [1.0, 2.0, 4.0, 8.0]),
    },
    shared=("time",),
    size="dim",
    powers=(1, 2),
    broadcasts="every real parameter",
    figure=_FIGURE,
)  # fmt: skip
