r"""Claim ``contextual.same_data``: head step, prompt step and ridge head on one set of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.claims.two_stage import (
    HEAD_RATE,
    PROMPT_NORM,
    SIMULATED_DIM,
    settle_ratios,
)
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.same_data_limit import same_data_limit
from jaxprompt.contextual.parameters import (
    COMPARED_LAW,
    DATA_LAW,
    FAMILY,
    RATIO,
    RIDGE,
    required,
    sample_counts,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.staged_steps import fit_on_one_batch
from jaxprompt.contextual.simulation.staged_trials import staged_trials
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Curves,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
One set of $n$ sequences serves three times, $d/n\to\kappa$: a head step from 0,
$w=\frac\eta n\sum_iy_i\bar x_i$; a prompt step from 0 under that head, rescaled to length $R$; and
a ridge head $\omega$ on the pooled features of that prompt, with objective
$\frac1{2n}\sum_i(1-\omega\cdot r_i)^2+\frac\lambda2|\omega|^2$. With $A$, $w_2$, $s^2$, $a$, $N$ as
in `contextual.two_stage` (at $\kappa_0=\kappa$), $\mu=\eta s^2\kappa$ and $e_0=1-\mu-aA$, the
prompt's coefficient of $q_\star$ has a third term,
$$\beta=\zeta(1-\zeta)A\,E[e_0(1+\delta_w)(1+\delta_q)]+\zeta s^2w_2E[1+\delta_q]
-\zeta\mu E[(1+\delta_q)e_0],$$
in $v$ stand this $e_0$ and $b=-\zeta(1+\delta_w)A+\zeta\mu/(1-\zeta)$, and the cosine of the prompt
is $c=\beta Q/|\hat q|$ with $|\hat q|^2=\beta^2Q^2+v\kappa$. A training sequence (label $+1$) has,
with normals $g_t$, $u_t$ for each irrelevant token,
$$h_t=\tfrac{\mu}{1-\zeta}-\delta_wA+\sigma\sqrt{w_2}g_t,\quad
f=\tfrac1T\big(kA+\textstyle\sum h_t\big),\quad c_t=\tfrac1T(1-f)(h_t-f),$$
the scores $RQc$ (relevant) and $-\delta_qRQc+\sigma Ru_t+\frac{R\sigma^2\kappa}{|\hat q|}c_t$, and
so weights $\varphi$, relevant weight $s$, $\tau^2=\sigma^2\sum\varphi_t^2$, and the feature
$$\theta=\big((s-(1-s)\delta_w)W+\sigma\textstyle\sum\varphi_tz_{1t},\;
(1-s)\sigma\sqrt{\kappa/N}+\sigma\sum\varphi_tz_{2t}\big)$$
along $w_\star$ and along the rest of $w$; $z_1,z_2$ are normal with $w$'s own combination of them
equal to $g$. Let $\lambda m+E[\tau^2m/(1+\tau^2m)]=\kappa$, $\langle X,Y\rangle=E[XY/(1+\tau^2m)]$,
$U=(1-s)/\sqrt N$ and
$$\mathcal A(X,Y)=\langle X,Y\rangle+\frac{m\sigma^2\langle X,U\rangle\langle U,Y\rangle}
{1-m\sigma^2\langle U,U\rangle}.$$
Then the head's coordinates on those two directions tend to
$c_\omega=(\mathcal A(\theta,\theta)+\lambda)^{-1}\mathcal A(\theta,1)$, all its others are noise,
the objective to $F(\lambda)=\frac12[\mathcal A(1,1)-\mathcal A(1,\theta)c_\omega]$, $|\omega|^2$ to
$2F'(\lambda)$, and the test error to
$E\,\Phi\big(-\alpha\langle\omega,w_\star\rangle/(\tau W|\omega|)\big)$ over *fresh* sequences under
that prompt. Without ridge and for $\kappa>1$ the same holds with $m\to\infty$.
"""

DERIVATION = r"""
Collect the noise of all tokens, off $w_\star$ and $q_\star$, in a matrix $Z$ with a row for each of
$nN$ tokens. The steps see $Z$ through two products only.

*Step 1* uses $Z^\top a$ with $a_{it}=y_i/T$: what is left of $w$ has length
$\eta\sqrt{s^2\kappa}$ and a direction $\hat w$. Given $Z^\top a$ the rest of $Z$ is fresh, so
$Z\hat w=a\,|Z^\top a|/|a|^2$ plus fresh noise: each sequence finds its own label in the head,
$y\sigma\sqrt{\kappa/N}$ at each token. That shifts the output by $\mu$, and gives
$e_0$, $b$ and the third term of $\beta$ by the moments of `contextual.two_stage`.

*Step 2* uses $Z^\top c$ with the pulls $c_{it}$. Its energy off $q_\star$ is $\kappa v$, and in its
direction $Z$ is $\sigma^2\kappa\,c/|\hat q|$ plus fresh noise: a token that pulled the prompt
towards itself has a higher score now. The sum of the fresh noises of scores is $\sigma Ru_t$
whatever $c$ is.

*Step 3.* In all other directions $Z$ is fresh but for $a^\top Z=c^\top Z=0$, so with the weights in
$\Phi$ the features' covariance in the sample space is $\sigma^2\Phi(1-P)\Phi^\top$, where $P$
projects on $a$ and $c$: a diagonal matrix $\sigma^2\mathrm{diag}(p_2)$ less a matrix of rank two.
The ridge problem with that covariance $K$ and a residual $r$ on the coordinates kept apart has the
deterministic equivalent $\frac1{2n}r^\top(1+mK)^{-1}r$, and the rank-two term is inverted by hand.
Reflecting $w_\star$ and all labels leaves the law as it is and changes the sign of everything that
belongs to $q_\star$, to the prompt's direction and to $c$: those coordinates of the head, and the
second column of the rank-two term, drop out. What is left is the statement. $F$ is a minimum over
the coordinates, so $F'$ is its partial derivative, and $dF/d\lambda=\frac12|\omega|^2$.

*Checks.* At $R=0$ weights are uniform, the head step is of no use to the ridge head and every
number is that of `contextual.prompt_error` at gain 0, to all digits: shift and lost direction
cancel.

*Size.* Corrections are of order $1/d$ (1.3 to 2 of it in the error) and $1/d^2$, as in
`contextual.two_stage`. Each trial is exact at its $d$: rows are drawn given what the steps saw.

*Tolerances.* 0.006 of an error: a tenth of what the memory of the head step costs at $n=2d$, and
what dropping the lost direction would cost. 0.02 of a cosine; 5 % of the head and of its energy,
as in `contextual.prompt_error`; 2 % of the objective, a third of what the lost direction is worth.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, shifts: Any,
    shift_weights: Any, ratio: Any, ridge: Any, prompt_norm: Any, head_rate: Any,
    head_memory: float = 1.0, prompt_memory: float = 1.0, constraint: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """All five limits; numbers of any shape broadcast.

    The formulas are in :mod:`jaxprompt.contextual.law.same_data_limit`. Standard errors are those
    of the quadrature. Falsifiers change the last three arguments, which the theory has at their
    defaults.
    """

    def limits_at(
        *, signal: float, context: float, noise: float, ratio: float, ridge: float,
        prompt_norm: float, head_rate: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        limit = same_data_limit(
            setting, ratio, ridge, prompt_norm, head_rate, head_memory=head_memory,
            prompt_memory=prompt_memory, constraint=constraint,
        )  # fmt: skip
        return {name: quadrature_estimate(x) for name, x in limit._asdict().items()}

    return evaluate_pointwise(
        limits_at, signal=signal, context=context, noise=noise, ratio=ratio, ridge=ridge,
        prompt_norm=prompt_norm, head_rate=head_rate,
    )  # fmt: skip


FALSIFIERS = (
    Falsifier("no_head_memory", "sequences are not in the head they meet", head_memory=0.0),
    Falsifier("no_prompt_memory", "scores without the pulls", prompt_memory=0.0),
    Falsifier("no_lost_direction", "all of the sample space is fresh", constraint=0.0),
    Falsifier(
        "fresh_batches",
        "as if each step had n fresh sequences",
        head_memory=0.0,
        prompt_memory=0.0,
        constraint=0.0,
    ),
    Falsifier.after(
        "correction_left",
        "a correction of 1.3/d left in the error, as at d = 64",
        lambda right, _: with_correction(right, "error", plus=1.3 / 64),
    ),
)


# --- the simulation ---


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, ratio: float, ridge: float, prompt_norm: float,
    head_rate: float, first: int = 0, **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """All three stages on one data set by their exact law at a finite d; no function of one JAX
    trial, because a program would be compiled for each of many shapes."""
    setting = Setting.of(params)
    samples = int(sample_counts(dim, ratio))

    def fit(rng: np.random.Generator) -> Any:
        return fit_on_one_batch(
            setting, dim, samples, ridge=ridge, prompt_norm=prompt_norm, head_rate=head_rate,
            rng=rng,
        )  # fmt: skip

    values = staged_trials(setting, fit, trials, key=key, first=first)
    return {name: mean_estimate(value) for name, value in values.items()}


# --- the parameters ---


def _check(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Settle `ratio`, and refuse the one point at which the head diverges."""
    values = settle_ratios("ratio")(values, where)
    diverges = (np.asarray(values["ridge"]) == 0) & (np.asarray(values["ratio"]) == 1)
    if np.any(diverges):
        raise ParameterError(
            "ratio", values["ratio"], "not 1 where `ridge` is 0",
            "raise `ridge`: the head without ridge diverges at d = n", where,
        )  # fmt: skip
    return values


# --- the design ---

_BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
_SOMETIMES_SHIFTED = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
_FOURFOLD = {**_BASE, "ratio": 0.25, "ridge": 0.05, "prompt_norm": 1.0, "head_rate": 1.0}
_SHARP_PROMPT = {
    **_SOMETIMES_SHIFTED, "ratio": 0.25, "ridge": 0.05, "prompt_norm": 1.5, "head_rate": 3.0,
}  # fmt: skip
_AS_MANY = {
    **_SOMETIMES_SHIFTED, "ratio": 1.0, "ridge": 0.3, "prompt_norm": 1.0, "head_rate": 3.0,
}  # fmt: skip


def _reuse_design(
    settings: tuple[Mapping[str, Any], ...], trials_by_dim: Mapping[int, int]
) -> Design:
    return Design(
        *(
            Run(setting, dim=dim, trials=trials)
            for setting in settings
            for dim, trials in trials_by_dim.items()
        )
    )


CLAIM = Claim(
    id="contextual.same_data",
    title="Test error when all steps use the same data",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, required(RATIO), RIDGE, PROMPT_NORM, HEAD_RATE, SIMULATED_DIM),
    ignored=FAMILY,
    quantities=(
        Quantity("error", "limit of the probability of a wrong sign", 0.006),
        Quantity("prompt_alignment", "limit of ⟨q, q⋆⟩/(|q|Q)", 0.02, symbol="c"),
        Quantity("objective", "limit of the least training objective", 0.05, True, "F"),
        Quantity("head_signal", "limit of ⟨ω, w⋆⟩", 0.05, True),
        Quantity("head_energy", "limit of |ω|²", 0.05, True),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "ratio": (0.1, 2.0), "ridge": (0.02, 1.0), "prompt_norm": (0.3, 2.0),
            "head_rate": (0.3, 3.0),
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "errors below 2e-5 are not resolved",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _reuse_design(
            (_FOURFOLD, _SHARP_PROMPT), {64: 560, 128: 1216, 256: 64, 512: 224}
        ),
        "full": _reuse_design(
            (_FOURFOLD, _SHARP_PROMPT, _AS_MANY), {96: 6000, 160: 8000, 256: 2000, 512: 2000}
        ),
    },
    check_parameters=_check,
    size="dim",
    powers=(1, 2),
    broadcasts="every number but tokens and relevant",
    figure=Curves(
        x="ratio",
        y="error",
        design=Design.product(
            {n: v for n, v in _FOURFOLD.items() if n != "ratio"},
            {"ratio": [0.0625, 0.125, 0.25, 0.5, 0.75, 1.0], "dim": [64, 256]},
            trials=48,
        ),
        lines=tuple(float(x) for x in np.geomspace(0.05, 1.1, 33)),
        title="Head, prompt and head again on one data set",
        x_label="dimension / samples, d / n",
        y_label="probability of a wrong sign",
        series="dim",
        series_label="simulated, d = {value}",
        limit_label="limit",
        log_x=True,
    ),
)  # fmt: skip
