r"""Claim ``contextual.sgd_flow``: one pass of SGD over head and prompt tends to a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.sgd_flow import Rates, flow_path
from jaxprompt.contextual.law.sgd_moments import LOSSES, Formula, Loss, symmetric_error
from jaxprompt.contextual.parameters import COMPARED_LAW, DATA_LAW, DIM, FAMILY, check_trainable
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_chain import LEAST_DIM
from jaxprompt.contextual.simulation.sgd_paths import path_values, step_counts
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.parameters import REQUIRED, Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
The model $f=\langle w,X^\top\varphi(Xq)\rangle$ learns head $w$ and prompt $q$ together, one fresh
sequence a step, both gradients at the old point: with $e=-y\,\ell'(yf)$, which is $y-f$ for the
square loss, $h_t=\langle w,x_t\rangle$ and $\psi_t=\varphi_t(h_t-f)$,
$$w\leftarrow w+\tfrac{\eta_w}d\,e\sum_t\varphi_tx_t,\qquad
q\leftarrow q+\tfrac{\eta_q}d\,e\sum_t\psi_tx_t.$$
Start with random directions of fixed lengths and let $d\to\infty$. After $n=td$ sequences
$\langle w,q_\star\rangle$, $\langle q,w_\star\rangle$ and $\langle w,q\rangle$ tend to 0, and
$A=\langle w,w_\star\rangle$, $B=\langle q,q_\star\rangle$, $|w|^2$ and $r^2=|q|^2$ to the solution
of
$$\dot A=\eta_wE[\alpha W^2\bar e+\sigma^2Ap_2\bar e'],\qquad
\tfrac d{dt}|w|^2=2\eta_wE[\alpha A\bar e+vp_2\bar e']+\eta_w^2\sigma^2E[p_2E_0],$$
$$\dot B=\eta_q\big(Q^2G_1+\tfrac{\sigma B}rG_2\big),\qquad
\tfrac d{dt}|q|^2=2\eta_q(BG_1+\sigma rG_2)+\eta_q^2\sigma^2N,$$
$$G_1=E\big[(1+\delta_q)s\,(\bar e\,(1-s)(1+\delta_w)A-vp_2\bar e')\big],\qquad
G_2=E\big[\bar e\,b\,\bar m+v(m_2-p_2\bar m)\bar e'\big],$$
$$N=E\sum_t\varphi_t^2\big[E_0(b^2+V_t)+2b\,r_tE_1+r_t^2E_2\big],\qquad
r_t=\tfrac{\varphi_t}{p_2}-1,\quad V_t=v(1-2\varphi_t+p_2)-vp_2r_t^2.$$
The means are over the shift and over standard normals $m_t$, one for each irrelevant token:
$\varphi$ is the softmax of 0 on relevant and $-(1+\delta_q)B+\sigma rm_t$ on irrelevant tokens, $s$
its weight on relevant ones, $\alpha=s-(1-s)\delta_w$, $b=-s(1+\delta_w)A$, $v=\sigma^2|w|^2$, and
over irrelevant tokens $p_2=\sum\varphi_t^2$, $\bar m=\sum\varphi_tm_t$, $m_2=\sum\varphi_t^2m_t$.
With $P\sim N(0,vp_2)$ and $e$ at $f=\alpha A+P$, $y=1$: $\bar e=E\,e$, $\bar e'=E\,\partial_fe$,
$E_j=E[e^2P^j]$. For the square loss $\bar e=1-\alpha A$ and $\bar e'=-1$. The probability of a
wrong sign is $E\,\Phi(-\alpha A/(\sigma\sqrt{p_2}|w|))$.
"""

DERIVATION = r"""
*Closure.* A step sees the tokens through their coordinates along $w_\star,q_\star,w,q$ and through
Gaussian vectors orthogonal to these, whose lengths concentrate. So the seven inner products follow
an equation of their own as $d\to\infty$; a step changes each by $O(1/d)$.

*Symmetry.* Let $R$ reflect $w_\star$. $(XR,-y)$ has the law of $(X,y)$, so the dynamics commute
with $(w,q)\mapsto(-Rw,Rq)$, under which $\langle w,q_\star\rangle$, $\langle q,w_\star\rangle$ and
$\langle w,q\rangle$ change sign and the other four do not. Random directions have all three 0 up to
$1/\sqrt d$, so they stay 0, and the label may be taken as 1.

*Noise along the head.* There $\langle w,z_t\rangle=\sigma|w|n_t$ with standard normals independent
of the $m_t$, which alone decide $\varphi$. Hence $f=\alpha A+P$ with
$P=\sigma|w|\sum\varphi_tn_t$. By Stein's lemma $E[eP]=vp_2\bar e'$. Now insert:
$\langle\sum\varphi x,w_\star\rangle=\alpha W^2+\sum\varphi_t\langle z_t,w_\star\rangle$, whose
noise has covariance $\sigma^2Ap_2$ with $P$; the relevant tokens carry
$\sum\psi=s(A-f)=s((1-s)(1+\delta_w)A-P)$; and an irrelevant one
$\psi_t=\varphi_t(b+\sigma|w|(n_t-\sum\varphi n))$, of which
$E[e\psi_t]=\varphi_t(\bar eb+v(\varphi_t-p_2)\bar e')$.
Given $m_t$ the noise along $q_\star$ has mean $\sigma(B/r)m_t$. This gives $\dot A$, $\dot B$ and
the terms with $2\eta$.

*Noise of SGD.* The square of a step adds $\eta_w^2\sigma^2e^2\sum\varphi^2$ and
$\eta_q^2\sigma^2e^2\sum\psi^2$ to the energies, times the $d$ orthogonal directions over $d^2$.
Given $P$, $\psi_t/\varphi_t$ is normal with mean $b+r_tP$ and variance $V_t$. That is $N$.

*What the terms say.* In $G_1$ the first term is the label teaching the prompt. The second needs no
label: relevant tokens carry no noise, so a prompt towards $q_\star$ lowers the variance of $f$, and
even a head without signal gives it a direction. $G_2$ is the prompt's own noise, which attracts
attention and is pushed back.

*Numbers.* Means over the $m_t$ are by randomised quasi-Monte Carlo with mirrored nodes; each of 16
rules has a path of its own, and their scatter is the standard error. The flow is integrated to
$10^{-6}$ a step.

*Tolerances.* 0.01 of an error, as in `contextual.prompt_error`. $A$ is the mean output and $B$ a
score, both pure numbers of order one: 0.05 of either changes an error by less than 0.02, and mostly
by a fifth of that. 10 % of an energy are 5 % of a length, as in that claim. At finite $d$ the means
differ by terms in $1/d$ and $1/d^2$.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, time: Any,
    head_rate: Any, prompt_rate: Any, head_norm: Any, prompt_norm: Any, shifts: Any = ((0.0, 0.0),),
    shift_weights: Any = (1.0,), loss: Loss = "square", sgd_noise: float = 1.0,
    feedback: float = 1.0, drag: float = 1.0, score_noise: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """The four numbers and the error at `time`; numbers of any shape broadcast.

    The formulas are in :mod:`jaxprompt.contextual.law.sgd_moments`. Falsifiers change the last four
    arguments, which the theory has at their defaults.

    Raises:
        NumericalError: the flow diverges before `time`, or needs too many steps to it.
    """
    formula = Formula(sgd_noise, feedback, drag, score_noise)

    def limit_at(
        *, signal: float, context: float, noise: float, time: float, head_rate: float,
        prompt_rate: float, head_norm: float, prompt_norm: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        start = (0.0, 0.0, head_norm**2, prompt_norm**2)
        state = flow_path(setting, Rates(head_rate, prompt_rate), start, loss, formula).at(time)
        return limit_of_state(setting, state)

    return evaluate_pointwise(
        limit_at, signal=signal, context=context, noise=noise, time=time, head_rate=head_rate,
        prompt_rate=prompt_rate, head_norm=head_norm, prompt_norm=prompt_norm,
    )  # fmt: skip


NAMES = ("head_signal", "prompt_context", "head_energy", "prompt_energy")
"""The four numbers, in the order of a state."""


def limit_of_state(setting: Setting, state: np.ndarray) -> dict[str, Estimate]:
    """The four numbers and the error of a state (4, replicates), with the quadrature's errors."""
    values = dict(zip(NAMES, state, strict=True)) | {"error": symmetric_error(setting, state)}
    return {name: quadrature_estimate(value) for name, value in values.items()}


FALSIFIERS = (
    Falsifier("no_sgd_noise", "drops the terms with the squares of the rates", sgd_noise=0.0),
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
    """Paths of SGD by their exact law at finite d; one path serves every time, so that this is no
    function of one trial at one point."""
    values = path_values(key=key, trials=trials, first=first, where=CLAIM.id, **parameters)
    return estimates_of(values)


def estimates_of(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Means of the four numbers and of the error over paths."""
    means = {name: mean_estimate(values[name]) for name in NAMES}
    error = (values["first_error"] + values["second_error"]) / 2
    return means | {"error": mean_estimate(error)}


# --- the parameters ---

TIME = Parameter("time", "real", "sequences over d, n/d", "n/d", low=0, high=1e4)
RATES = (
    Parameter("head_rate", "real", "learning rate of the head, times d", "η_w", low=0),
    Parameter("prompt_rate", "real", "learning rate of the prompt, times d", "η_q", low=0),
)
START = (
    Parameter("head_norm", "real", "length of the head's random start", "|w|", low=0),
    Parameter("prompt_norm", "real", "length of the prompt's random start", "|q|", low=0),
)
LOSS = Parameter("loss", "choice", "loss of the margin", choices=LOSSES, default="square")
SGD_DIM = Parameter(
    "dim", "integer", "token dimension", "d", low=LEAST_DIM, default=REQUIRED, simulate_only=True
)  # fmt: skip

MOST_STEPS = 2**32 - 2
"""Steps that a path's random numbers are counted up to."""


def check_times(values: dict[str, Any], where: str) -> dict[str, Any]:
    """:func:`check_trainable`; with `dim`, `time` becomes that of the nearest number of steps.

    Raises:
        ParameterError: there are more steps than random numbers are counted up to.
    """
    values = check_trainable(values, where)
    if "dim" in values and "time" in values:
        dim = np.asarray(values["dim"], np.float64)
        if np.any(np.asarray(values["time"]) * dim > MOST_STEPS):
            raise ParameterError(
                "time", values["time"], f"at most {MOST_STEPS} steps, n/d times d", "lower it",
                where,
            )  # fmt: skip
        if np.ndim(dim) == 0:
            time = step_counts(values["dim"], values["time"]) / dim
            values["time"] = float(time) if np.ndim(time) == 0 else time
    return values


# --- the design ---

TWO_SHIFTS = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5), "head_norm": 0.3,
    "prompt_norm": 0.3,
}  # fmt: skip
STRONG_CONTEXT = {
    "tokens": 8, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "head_norm": 0.0,
    "prompt_norm": 0.5,
}  # fmt: skip


def _flow_design(trials_by_dim: Mapping[int, int], times: list[float]) -> Design:
    # With a strong context errors fluctuate less.
    runs = [
        Run(setting, head_rate=head_rate, prompt_rate=prompt_rate, loss=loss, dim=dim, time=times,
            trials=round(share * trials))
        for setting, head_rate, prompt_rate, loss, share in (
            (TWO_SHIFTS, 1.0, 2.0, "square", 1.0),
            (STRONG_CONTEXT, 1.0, 1.5, "square", 0.5),
            (TWO_SHIFTS, 2.0, 4.0, "logistic", 1.0),
        )
        for dim, trials in trials_by_dim.items()
    ]  # fmt: skip
    return Design(*runs, trials=max(trials_by_dim.values()))


# --- the figure ---

_FIGURE = Curves(
    x="time",
    y="error",
    design=Design.product(
        {
            **TWO_SHIFTS, "head_rate": 1.0, "prompt_rate": 2.0, "loss": "square",
            "time": [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0],
        },
        {"dim": [50, 200, 800]},
        trials=96,
    ),
    lines=tuple(float(x) for x in np.linspace(0.0, 8.0, 33)),
    title="Test error along one pass of SGD",
    x_label="n / d",
    y_label="probability of a wrong sign",
    series="dim",
    series_label="simulated, d = {value}",
    limit_label="flow of four numbers",
)  # fmt: skip

CLAIM = Claim(
    id="contextual.sgd_flow",
    title="One-pass SGD of head and prompt follows four numbers",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, TIME, *RATES, *START, LOSS, SGD_DIM),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    check_parameters=check_times,
    quantities=(
        Quantity("head_signal", "limit of ⟨w, w⋆⟩", tolerance=0.05, symbol="A"),
        Quantity("prompt_context", "limit of ⟨q, q⋆⟩", tolerance=0.05, symbol="B"),
        Quantity("head_energy", "limit of |w|²", tolerance=0.1, relative=True),
        Quantity("prompt_energy", "limit of |q|²", tolerance=0.1, relative=True),
        Quantity("error", "limit of the probability of a wrong sign on a fresh sequence", 0.01),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "time": (0.1, 1.5),
            "head_rate": (0.1, 1.0),
            "prompt_rate": (0.1, 1.5),
            "head_norm": (0.05, 0.8),
            "prompt_norm": (0.05, 0.8),
            "loss": LOSSES,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "paths that diverge, or take more than 200 time steps, are refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _flow_design({64: 2048, 128: 1024, 256: 512, 512: 256}, [1.0, 4.0]),
        "full": _flow_design(
            {128: 8192, 256: 8192, 512: 4096, 1024: 2048, 2048: 1024}, [1.0, 2.0, 4.0]
        ),
    },
    shared=("time",),
    size="dim",
    powers=(1, 2),
    broadcasts="every real parameter",
    figure=_FIGURE,
)
