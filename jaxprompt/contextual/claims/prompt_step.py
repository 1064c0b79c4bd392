r"""Claim ``contextual.prompt_step``: the prompt after one gradient step, given the head."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    SAMPLES,
    check_law,
    required,
)
from jaxprompt.contextual.pictures import along_samples
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import gradient_steps
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
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "component_along", "simulate", "turning_signal"]

STATEMENT = r"""
Take one gradient step of the square loss in the prompt, from $q=0$, on $n$ fresh sequences, with
a head $w$ independent of them, of step size 1; any other multiplies $\hat q$. Put
$h=(1+\delta_q)q_\star+(1+\delta_w)y\,w_\star$,
$m=(\zeta-(1-\zeta)\delta_q)q_\star+(\zeta-(1-\zeta)\delta_w)y\,w_\star$, $e_0=y-w\cdot m$, $N=T-k$
and $s^2=\sigma^2(1-\zeta)/T$. Then, in expectation over $y$ and $\delta$,
$$E\hat q=E\big[e_0\big(\zeta(1-\zeta)(h\cdot w)h+\sigma^2(1-\zeta)(1-\tfrac1T)w\big)
 +\zeta s^2|w|^2h+\zeta s^2(h\cdot w)w\big],$$
and each coordinate orthogonal to $w_\star$, $q_\star$ and $w$ has mean 0 and variance $v/n$ with
$$v=\frac{\sigma^2}{T^2}E\big[e_0^2E_s-2e_0|w|\sigma E_{sg}+|w|^2\sigma^2E_{sgg}\big],$$
where, with $A=N\zeta^2(h\cdot w)^2$, $B=-2\zeta(h\cdot w)\sigma|w|k$, $C=\sigma^2|w|^2$ and
$g=N/T^2$: $E_s=A+C(N-(2T-N)g)$, $E_{sg}=Bg$, $E_{sgg}=Ag+C(g(N+2)-3(2T-N)g^2)$. The orthogonal
energy is $v(d-3)/n$.

A head $w\propto w_\star$ with $p=\langle w,w_\star\rangle$ moves the prompt along $q_\star$ alone
as $n\to\infty$, by $\zeta(1-\zeta)Q\,p\,(A-Bp)$ with $A=E[(1+\delta_q)(1+\delta_w)]$ and
$B=E[(1+\delta_q)((1+\delta_w)a-\sigma^2/(TW^2))]$, $a=\zeta-(1-\zeta)\delta_w$. So gradient descent
finds the prompt exactly if $p\,(A-Bp)>0$: without shifts, for every $p>0$ if $kW^2\le\sigma^2$, and
otherwise for $0<p<TW^2/(kW^2-\sigma^2)$. A longer head overshoots the labels and turns the prompt
away from the context.
"""

DERIVATION = r"""
At $q=0$ the softmax's derivative is the centring projection over $T$, so
$-\nabla_qL=\frac1n\sum_i(y_i-w\cdot\bar x_i)C_iw$ with $C_i$ the token covariance of sequence $i$.
A relevant token differs from the mean irrelevant one by $h$. With $\bar z=\frac1T\sum_tz_t$,
$$Cw=\zeta(1-\zeta)(h\cdot w)h-\zeta(\bar z\cdot w)h-\zeta(h\cdot w)\bar z
 +\tfrac1T\textstyle\sum_tz_t(z_t\cdot w)-\bar z(\bar z\cdot w),$$
and $y-w\cdot\bar x=e_0-w\cdot\bar z$. Since $E\bar z\bar z^\top=s^2I$ and odd moments vanish, the
product's mean is the formula. Orthogonally to $w_\star,q_\star,w$ only
$\frac1T\sum_tz_t^\perp\,(z_t\cdot w-\bar z\cdot w-\zeta\,h\cdot w)$ is left, in which
$z_t^\perp$ is independent of the bracket and of the residual. With $z_t\cdot w=|w|\sigma g_t$ and
$G=\frac1T\sum_tg_t$, the brackets' squares sum to
$A+BG+C(\sum_tg_t^2-(2T-N)G^2)$, and the moments $E[G^2]=g$,
$E[G^2\sum_tg_t^2]=g(N+2)$, $E[G^4]=3g^2$ give $E_s,E_{sg},E_{sgg}$.

For $w=p\,w_\star/W^2$ one has $h\cdot w=(1+\delta_w)yp$ and $e_0=y(1-ap)$. Of $E\hat q$ every term
along $w_\star$ is odd in $y$, so its mean is 0; along $q_\star/Q$ the two terms with $h$ are
$\zeta(1-\zeta)(1+\delta_q)Q\,[(1-ap)(1+\delta_w)p+\sigma^2p^2/(TW^2)]$.

*Tolerances.* Components have an absolute one, because one of them is exactly 0 in the design: 0.03
is 4 % of the longest step's length there, 0.75, and so the accuracy of its direction. The
orthogonal energy's is 5 %, half of that in length.
"""


# --- the closed form ---


def closed_form(
    *, dim: Any, samples: Any, tokens: Any, relevant: Any, signal: Any, context: Any, noise: Any,
    shifts: Any, shift_weights: Any, head_signal: Any, head_context: Any, head_norm: Any,
    prompt_rate: Any = 1.0, pooled_noise: float = 1.0, special_directions: int = 3,
    residual_noise: float = 1.0, cross_term: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """`context`, `signal` and `orthogonal_energy`, for broadcastable arrays of every number.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    total = np.asarray(tokens) * 1.0
    share, irrelevant = relevant / total, (total - relevant) / total
    energy = np.square(head_norm)
    mean_token_noise = np.square(noise) * irrelevant / total * pooled_noise
    own_noise = np.square(noise) * irrelevant * (1 - 1 / total)
    along_context = along_signal = orthogonal_energy = 0.0
    for (shift_context, shift_signal), weight in zip(shifts, shift_weights, strict=True):
        for label in (-1.0, 1.0):
            # h·w and e₀ of the statement.
            hw = (1 + shift_context) * head_context + (1 + shift_signal) * label * head_signal
            miss = label - (share - irrelevant * shift_context) * head_context
            miss = miss - (share - irrelevant * shift_signal) * label * head_signal
            along_h = miss * share * irrelevant * hw + share * mean_token_noise * energy
            along_w = miss * own_noise + share * mean_token_noise * hw
            step = along_h * (1 + shift_context) * np.asarray(context)
            along_context = along_context + weight / 2 * (
                step + along_w * component_along(head_context, context)
            )
            step = along_h * (1 + shift_signal) * label * np.asarray(signal)
            along_signal = along_signal + weight / 2 * (
                step + along_w * component_along(head_signal, signal)
            )
            orthogonal = _orthogonal_variance(
                miss, hw, head_norm, noise, total, relevant, residual_noise, cross_term
            )
            directions = (dim - special_directions) / np.asarray(samples)
            orthogonal_energy = orthogonal_energy + weight / 2 * (directions * orthogonal)
    rate = np.asarray(prompt_rate)
    return {
        "context": along_context * rate,
        "signal": along_signal * rate,
        "orthogonal_energy": orthogonal_energy * np.square(rate),
    }


def component_along(product: Any, norm: Any) -> Any:
    """The component along the unit vector of a vector with this norm; 0 for the zero vector."""
    norm = np.asarray(norm, dtype=np.float64)
    return np.where(norm > 0, product / np.where(norm > 0, norm, 1.0), 0.0)


def _orthogonal_variance(
    miss: Any, hw: Any, head_norm: Any, noise: Any, tokens: Any, relevant: Any,
    residual_noise: float, cross_term: float,
) -> Any:  # fmt: skip
    r"""Variance of one sequence's contribution to :math:`\hat q` in an orthogonal direction.

    .. math:: v = \frac{\sigma^2}{T^2}\big(e_0^2 E_s - 2 e_0|w|\sigma E_{sg}
                  + |w|^2\sigma^2 E_{sgg}\big)
    """
    count, share = tokens - relevant, relevant / tokens
    a = count * np.square(share * hw)
    b = -2 * share * hw * noise * head_norm * relevant
    c = np.square(noise * head_norm)
    g = count / np.square(tokens)
    e_s = a + c * (count - (2 * tokens - count) * g)
    e_sg = b * g
    e_sgg = a * g + c * (g * (count + 2) - 3 * (2 * tokens - count) * np.square(g))
    total = np.square(miss) * e_s - 2 * cross_term * miss * head_norm * noise * e_sg
    return np.square(noise / tokens) * (total + residual_noise * c * e_sgg)


def turning_signal(
    *, tokens: Any, relevant: Any, signal: Any, noise: Any, shifts: Any = ((0.0, 0.0),),
    shift_weights: Any = (1.0,),
) -> np.ndarray:  # fmt: skip
    r"""Product :math:`p_\star=A/B` of a head :math:`w\propto w_\star` with :math:`w_\star` at
    which the step along :math:`q_\star` changes sign; float64, infinite where B is 0.

    With :math:`p=\langle w,w_\star\rangle` and :math:`a=\zeta-(1-\zeta)\delta_w`,

    .. math:: \langle E\hat q, q_\star/Q\rangle = \zeta(1-\zeta)Q\,p\,(A-Bp),\quad
       A=E[(1+\delta_q)(1+\delta_w)],\quad
       B=E\Big[(1+\delta_q)\Big((1+\delta_w)a-\frac{\sigma^2}{TW^2}\Big)\Big].

    For A > 0 the step points towards :math:`q_\star` between 0 and :math:`p_\star` if B > 0, and
    outside of that interval if B < 0. The arguments broadcast, `signal` > 0. Derived here.
    """
    total, size = np.asarray(tokens, np.float64), np.asarray(signal, np.float64)
    share = np.asarray(relevant) / total
    first, second = 0.0, 0.0
    for (shift_context, shift_signal), odds in zip(shifts, shift_weights, strict=True):
        level = share - (1 - share) * shift_signal
        noisy = np.square(noise / size) / total
        first = first + odds * (1 + shift_context) * (1 + shift_signal)
        second = second + odds * (1 + shift_context) * ((1 + shift_signal) * level - noisy)
    nonzero = np.where(second == 0, 1.0, second)
    return np.where(second == 0, np.inf, first / nonzero)


FALSIFIERS = (
    Falsifier("no_pooled_noise", "drops the terms with s²", pooled_noise=0.0),
    Falsifier("all_directions", "d for d − 3", special_directions=0),
    Falsifier("no_residual_noise", "the residual's noise left out of v", residual_noise=0.0),
    Falsifier("no_cross_term", "drops E_sg", cross_term=0.0),
    Falsifier.after("always_found", "along q⋆ whatever the head",
                    lambda right, _: {**right, "context": np.abs(right["context"])}),
)  # fmt: skip


# --- the simulation ---


# No function of one trial: sequences of all trials are differentiated together.
def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, samples: int, head_signal: float,
    head_context: float, head_norm: float, prompt_rate: float, first: int = 0, **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """One gradient step of the prompt from 0, by automatic differentiation on sequences drawn
    token by token.

    Along w⋆, q⋆ and the rest of the head: over the noise in the other coordinates the energy is
    averaged exactly. float32.

    Raises:
        ParameterError: `dim` has no room for a direction orthogonal to three special ones.
    """
    if dim < 4:
        raise ParameterError(
            "dim", dim, "an integer ≥ 4 in a simulation", "raise it: three directions are special",
            CLAIM.id,
        )  # fmt: skip
    setting = Setting.of(params)
    head = np.zeros(3)
    head[0] = component_along(head_signal, setting.signal)
    head[1] = component_along(head_context, setting.context)
    head[2] = np.sqrt(max(head_norm**2 - np.square(head[:2]).sum(), 0.0))
    along, across = gradient_steps.steps_in_few_coordinates(
        gradient_steps.prompt_step, setting, dim, samples, trials, head, key=key, first=first
    )
    return {
        "context": mean_estimate(prompt_rate * along[:, 1]),
        "signal": mean_estimate(prompt_rate * along[:, 0]),
        "orthogonal_energy": mean_estimate(prompt_rate**2 * across),
    }


# --- the parameters ---

PRODUCTS = (
    Parameter("head_signal", "real", "inner product ⟨w, w⋆⟩", "⟨w, w⋆⟩"),
    Parameter("head_context", "real", "inner product ⟨w, q⋆⟩", "⟨w, q⋆⟩"),
    Parameter("head_norm", "real", "norm of the head", "|w|", low=0),
)

PROMPT_RATE = Parameter(
    "prompt_rate", "real", "step size of the prompt step", "η", low=0, open_low=True, default=1.0
)


def _check_head(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse products that no head can have."""
    values = check_law(values, where)
    names = ("head_signal", "head_context", "head_norm", "signal", "context")
    along_signal, along_context, norm, signal, context = (
        np.asarray(values[name], dtype=np.float64) for name in names
    )
    for name, product, size in (
        ("head_signal", along_signal, signal), ("head_context", along_context, context),
    ):  # fmt: skip
        if np.any((size == 0) & (product != 0)):
            allowed = "0 where the vector is 0"
            raise ParameterError(name, values[name], allowed, "set it to 0", where)
    least = np.hypot(component_along(along_signal, signal), component_along(along_context, context))
    if np.any(norm < least * (1 - 1e-9)):
        raise ParameterError(
            "head_norm", values["head_norm"], f"at least {np.max(least):.6g}, which they imply",
            "raise `head_norm` or lower the products", where,
        )  # fmt: skip
    return values


# --- the design ---

_TWO_SHIFTS = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5), "samples": 40,
}  # fmt: skip
# With one token of each kind every term of v is a fair share of it: 0.05 of one shows.
_TWO_TOKENS = {
    **_TWO_SHIFTS, "tokens": 2, "relevant": 1, "context": 1.5, "samples": 16, "dim": 40,
    "shifts": ((0.0, 0.0), (0.8, 0.6)),
}  # fmt: skip
_RUNS = (
    # As step 1 leaves it; far along w⋆ with a large remainder; half along the context.
    Run(_TWO_SHIFTS, head_signal=0.25, head_context=0.0, head_norm=0.4, dim=16),
    Run(_TWO_SHIFTS, head_signal=1.5, head_context=0.3, head_norm=2.0, dim=40),
    Run(_TWO_SHIFTS, head_signal=0.5, head_context=0.6, head_norm=0.9, dim=40),
    Run(_TWO_TOKENS, noise=0.8, head_signal=-1.4, head_context=0.9, head_norm=2.4, times=8),
    Run(_TWO_TOKENS, noise=0.4, head_signal=0.6, head_context=-0.9, head_norm=0.9, times=8),
    # A head along w⋆ that turns the prompt away from the context: p⋆ is 72/17.
    Run(_TWO_SHIFTS, signal=3.0, shifts=((0.0, 0.0), (0.0, 0.0)), head_signal=5.0,
        head_context=0.0, head_norm=5 / 3, dim=16, times=2),
)  # fmt: skip

CLAIM = Claim(
    id="contextual.prompt_step",
    title="The prompt after one gradient step",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, required(DIM), required(SAMPLES), *PRODUCTS, PROMPT_RATE),
    ignored=FAMILY,
    check_parameters=_check_head,
    quantities=(
        Quantity("context", "component of the prompt along q⋆/Q", tolerance=0.03),
        Quantity("signal", "component of the prompt along w⋆/W", tolerance=0.03),
        Quantity("orthogonal_energy", "squared norm orthogonal to w⋆, q⋆ and w", tolerance=0.05,
                 relative=True),
    ),
    compared=Compared(
        {
            "tokens": (2, 16), "relevant": (1, 5), "signal": (0.2, 4.0), "context": (0.2, 3.0),
            "noise": (0.2, 2.0), "shifts": (-0.5, 1.5), "dim": (4, 12), "samples": (1, 1000),
            "head_signal": (-0.4, 0.4), "head_context": (-0.4, 0.4), "head_norm": (3.0, 20.0),
            "prompt_rate": (0.3, 3.0),
        },
        elsewhere="a polynomial, exact at every size, which rounding alone limits",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={"quick": Design(*_RUNS, trials=6144), "full": Design(*_RUNS, trials=49152)},
    broadcasts="every number",
    figure=Panels(
        along_samples(
            (("the prompt along q⋆", "component", {"context": ""}),
             ("the prompt off the plane", "squared norm", {"orthogonal_energy": ""})),
            lambda at: f"head along w⋆ {at['head_signal']:g}, |w|² {at['head_norm'] ** 2:.2g}",
        ),
        "One prompt step: its part along q⋆ does not depend on n, its noise falls as 1/n",
        "lines: theory at the largest dimension measured; points: the check's, 95 % intervals",
    ),
)  # fmt: skip
