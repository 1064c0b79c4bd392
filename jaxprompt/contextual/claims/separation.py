r"""Claim ``contextual.separation``: what each attention model can and cannot separate."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.law.maximise import golden_section
from jaxprompt.contextual.parameters import CONTEXT, FAMILY, SIGNAL, SPARSITY, optional
from jaxprompt.contextual.simulation.noise_free_models import (
    best_accuracies,
    cases,
    map_points,
    measure_least_gains,
    measure_thresholds,
)
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Design,
    Falsifier,
    Quantity,
    Regions,
    Relation,
    Run,
)
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "least_gain", "self_attention_threshold", "simulate"]

STATEMENT = r"""
Let $\sigma=0$, equal odds of the two shifts, and $a=\Delta/(1+\Delta)$. The best accuracies any
parameters reach are

| model | aligned, $\{(0,0),(\Delta,\Delta)\}$ | opposed, $\{(0,0),(\Delta,-\Delta)\}$ |
| --- | --- | --- |
| linear | ½ when $\Delta>\zeta/(1-\zeta)$ | 1 |
| linear prompt, with or without intercept | 1 | ¾ when $(1-\zeta)\Delta^2>\zeta$ |
| self-attention | ½ when $a>M(\zeta,\Delta)$ | 1 |
| self-attention with intercept | ¾ when $a>M(\zeta,\Delta)$ | 1 |
| softmax prompt | 1 | 1 |

and 1 on the other side of each condition, where
$$M(\zeta,\Delta)=\sup_{A}\ \zeta p_1+(1-\zeta)p_2,\quad
p_1=\frac{\zeta e^{A}}{\zeta e^{A}+(1-\zeta)e^{-\Delta A}},\quad
p_2=\frac{\zeta e^{-\Delta A}}{\zeta e^{-\Delta A}+(1-\zeta)e^{\Delta^2A}}.$$
Under the aligned law the softmax prompt $\gamma q_\star$ separates exactly beyond
$$\gamma_0=\max\!\left(0,\frac{\log(\Delta(1-\zeta)/\zeta)}{(1+\Delta)Q^2}\right).$$
"""

DERIVATION = r"""
Put $r_y=q_\star+yw_\star$. *Aligned law.* Under the shift $(\Delta,\Delta)$ an irrelevant token is
$-\Delta r_y$; under $(0,0)$ it is 0. A pooled feature is then $c\,r_y$ with $c=s-(1-s)\Delta$, $s$
being the weight on relevant tokens, and $c=s>0$ without shift. If $c<0$ for the shifted case, a
head without intercept is right in exactly one of the two cases of each label, hence ½; with an
intercept $b$, both cases of $y=1$ right forces $b>0$ and both of $y=-1$ forces $b<0$, hence at
most ¾, which three points in general position reach. For uniform weights $s=\zeta$, so $c<0$ means
$\Delta>\zeta/(1-\zeta)$. Self-attention with $A=r_y^\top Mr_y$ has queries $r_y$ and $-\Delta r_y$,
which put $p_1$ and $p_2$ on relevant tokens, so $s=\zeta p_1+(1-\zeta)p_2\le M(\zeta,\Delta)$
whatever the matrix, and $c=(1+\Delta)s-\Delta$ is negative for every matrix exactly when
$a>M(\zeta,\Delta)$. The softmax prompt $\gamma q_\star$ has
$s/(1-s)=\frac{\zeta}{1-\zeta}e^{\gamma(1+\Delta)Q^2}$, and $c>0$ means that this exceeds $\Delta$.

*Opposed law.* An irrelevant token is $-\Delta r_{-y}$, so the mean token keeps the sign of $y$
along $w_\star$, and uniform weights already reach 1. With
$P=\langle w,q_\star\rangle\langle q,w_\star\rangle
 +\langle w,w_\star\rangle\langle q,q_\star\rangle$
the linear prompt gives $[\zeta-(1-\zeta)\Delta^2]\,yP+\text{const}$ with shift and
$\zeta yP+\text{const}$ without. A negative bracket reverses the part with $y$, so the four cases
cannot all be right; three can, since the constants may differ.

*Tolerances.* Rounding: best accuracies are ratios of small integers, thresholds and gains roots of
closed equations.
"""


# --- the closed form ---


@jax.jit
def self_attention_threshold(sparsity: Any, shift: Any) -> Array:
    r"""Largest share :math:`M(\zeta,\Delta)` of attention that self-attention can put on relevant
    tokens under the shift (Δ, Δ), in the dtype of its arguments, which broadcast.

    .. math:: M = \sup_B\ \zeta\,\sigma(\ell + B) + (1-\zeta)\,\sigma(\ell - \Delta B),
       \qquad \ell = \log\frac{\zeta}{1-\zeta},

    where :math:`B = (1+\Delta)A` and σ is the logistic function. Both limits, ζ and 1 − ζ, count.
    """
    z, delta = jnp.broadcast_arrays(jnp.asarray(sparsity), jnp.asarray(shift))
    return jax.vmap(_largest_attention)(z.reshape(-1), delta.reshape(-1)).reshape(z.shape)


def _largest_attention(sparsity: Array, shift: Array) -> Array:
    odds = jnp.log(sparsity) - jnp.log1p(-sparsity)
    steep = jnp.maximum(shift, 1e-6)

    def share(b: Any) -> Array:
        first, second = jax.nn.sigmoid(odds + b), jax.nn.sigmoid(odds - shift * b)
        return sparsity * first + (1 - sparsity) * second

    # Each term turns on a scale of its own, around its own middle: scan both, finest in between.
    spread = jnp.sinh(jnp.linspace(-4.5, 4.5, 601, dtype=odds.dtype))
    grid = jnp.sort(jnp.concatenate([spread - odds, (spread + odds) / steep]))
    top = jnp.clip(jnp.argmax(share(grid)), 1, grid.size - 2)
    best = share(golden_section(share, grid[top - 1], grid[top + 1]))
    return jnp.maximum(best, jnp.maximum(sparsity, 1 - sparsity))


def least_gain(sparsity: Any, shift: Any, context: Any = 1.0) -> Array:
    r"""Least gain γ ≥ 0 beyond which the prompt :math:`\gamma q_\star` separates the aligned law.

    .. math:: \gamma_0 = \max\Big(0, \frac{\log\big(\Delta(1-\zeta)/\zeta\big)}{(1+\Delta)Q^2}\Big)
    """
    log_shift = jnp.log(jnp.maximum(jnp.asarray(shift), jnp.finfo(jnp.result_type(float)).tiny))
    odds = jnp.log(sparsity) - jnp.log1p(-jnp.asarray(sparsity))
    return jnp.maximum(0.0, (log_shift - odds) / ((1 + jnp.asarray(shift)) * jnp.square(context)))


def closed_form(
    *, sparsity: Any, shift: Any, law: str, context: Any, linear_power: int = 1,
    prompt_power: int = 2, threshold_over: Literal["all strengths", "limits"] = "all strengths",
    with_intercept: float = 0.75, gain_power: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Best reachable accuracies, `threshold` and `least_gain`, for broadcastable arrays.

    On the boundary of a region an output is 0 whatever the parameters, which counts one half.
    Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    return _reachable(
        *map(jnp.asarray, (sparsity, shift, context)),
        np.bool_(law == "aligned"), linear_power, prompt_power, threshold_over, with_intercept,
        gain_power,
    )  # fmt: skip


# One compiled call: dispatched alone, each of its many small steps would be compiled alone.
@functools.partial(jax.jit, static_argnums=range(4, 9))
def _reachable(
    sparsity: Array, shift: Array, context: Array, aligned: Array | np.bool_, linear_power: int,
    prompt_power: int, threshold_over: str, with_intercept: float, gain_power: int,
) -> dict[str, Array]:  # fmt: skip
    zeta, delta, norm = jnp.broadcast_arrays(sparsity, shift, context)
    one = jnp.ones_like(zeta, dtype=jnp.result_type(float))
    if threshold_over == "limits":
        threshold = jnp.maximum(zeta, 1 - zeta)
    else:
        threshold = self_attention_threshold(zeta, delta)
    pooled = zeta - (1 - zeta) * delta**linear_power
    bracket = zeta - (1 - zeta) * delta**prompt_power
    attended = threshold * (1 + delta) - delta
    prompted = jnp.where(aligned, one, _accuracy_by_sign(bracket, 0.75))
    gain = least_gain(zeta, delta, norm) * (1 + delta) ** gain_power

    def if_aligned(coefficient: Array, reversed_accuracy: float) -> Array:
        return jnp.where(aligned, _accuracy_by_sign(coefficient, reversed_accuracy), one)

    return {
        "linear": if_aligned(pooled, 0.5),
        "linear_prompt": prompted,
        "linear_prompt_intercept": prompted,
        "self_attention": if_aligned(attended, 0.5),
        "self_attention_intercept": if_aligned(attended, with_intercept),
        "prompt": one,
        "threshold": threshold,
        "least_gain": jnp.where(aligned, gain, 0 * one),
    }


def _accuracy_by_sign(coefficient: Array, reversed_accuracy: float) -> Array:
    """1 where some parameters keep the sign, `reversed_accuracy` where all reverse it, and between
    at the boundary."""
    return jnp.where(coefficient > 0, 1.0, jnp.where(coefficient < 0, reversed_accuracy, 0.75))


FALSIFIERS = (
    Falsifier("linear_square", "Δ² for Δ in the linear condition", linear_power=2),
    Falsifier("prompt_linear", "Δ for Δ² in the linear prompt's", prompt_power=1),
    Falsifier("limits_only", "takes M = max(ζ, 1 − ζ)", threshold_over="limits"),
    Falsifier("useless_intercept", "½ for ¾ with intercept", with_intercept=0.5),
    Falsifier("gain_scale", "drops 1 + Δ from the least gain", gain_power=1),
)


# --- the simulation ---


# No function of one trial: all points share the batches of restarts, and the best restart counts.
def simulate(
    *, key: Key[Array, ""], trials: int, sparsity: Any, shift: Any, law: str, context: float = 1.0,
    signal: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """The best accuracy that `trials` restarts of each model visit.

    Every model, the softmax prompt included, gets the same restarts and steps, in float32.
    `sparsity` and `shift` may be arrays and form a product. `threshold` and `least_gain` are
    measured on the models' outputs, in float64. All results are exact: an accuracy that a restart
    reaches is reached.
    """
    zeta, delta = (
        x.reshape(-1)
        for x in np.meshgrid(np.atleast_1d(sparsity), np.atleast_1d(shift), indexing="ij")
    )
    points = cases(zeta, delta, law, context, signal)
    measured = best_accuracies(points, trials, key=key)
    with jax.enable_x64(True):
        aligned = cases(zeta, delta, "aligned", context, signal)
        measured["threshold"] = map_points(measure_thresholds, aligned, delta.astype(np.float64))
        measured["least_gain"] = map_points(measure_least_gains, points)
    shape = (*np.shape(sparsity), *np.shape(shift))
    return {
        name: exact_estimate(value.reshape(shape)[()], trials) for name, value in measured.items()
    }


# --- the design ---

SHIFT = Parameter("shift", "real", "size of the shift", "Δ", low=0)
LAW = Parameter(
    "law", "choice", "law of the shift: {(0,0),(Δ,Δ)} or {(0,0),(Δ,−Δ)}",
    choices=("aligned", "opposed"),
)  # fmt: skip

_PLANE = {"sparsity": [0.15, 0.3, 0.45, 0.6, 0.75, 0.9], "shift": [0.35, 0.8, 1.4, 2.2, 3.3, 5.2]}
_FINE_PLANE = {
    "sparsity": np.linspace(0.06, 0.94, 12).tolist(),
    "shift": np.geomspace(0.23, 7.7, 12).tolist(),
}
_REFERENCE = {"sparsity": [0.25, 0.5], "shift": [3.0, 8.0]}


def _both_laws(plane: Mapping[str, Any], restarts: int, at_reference: int) -> Design:
    return Design(
        Run(plane, law="aligned", context=1.0),
        Run(plane, law="opposed", context=1.0),
        Run(_REFERENCE, law="aligned", context=1.5, trials=at_reference),
        Run(_REFERENCE, law="opposed", context=1.5, trials=at_reference),
        trials=restarts,
    )


_FIGURE = Regions(
    x="sparsity",
    y="shift",
    panels=tuple(
        (f"{label}\n{law} shifts", {"law": law, "context": 1.0}, quantity)
        for label, law, quantity in (
            ("linear", "aligned", "linear"),
            ("self-attention", "aligned", "self_attention"),
            ("self-attention, intercept", "aligned", "self_attention_intercept"),
            ("linear prompt", "opposed", "linear_prompt"),
            ("softmax prompt", "aligned", "prompt"),
        )
    ),
    x_lines=tuple(np.linspace(0.02, 0.98, 97).tolist()),
    y_lines=tuple(np.geomspace(0.2, 9.0, 97).tolist()),
    levels=(0.9,),
    title="Best accuracy of each model without noise",
    x_label="share ζ of relevant tokens",
    y_label="shift Δ",
    value_label="best accuracy of all restarts",
    value_range=(0.5, 1.0),
    log_y=True,
    caption="squares: the best that descent from many starts finds; every model has equal restarts",
)

ROUNDING_OF_ROOTS = 64 * 2.0**-52

CLAIM = Claim(
    id="contextual.separation",
    title="What each attention model can separate without noise",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IMPOSSIBILITY,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(SPARSITY, SHIFT, LAW, optional(CONTEXT, 1.0), optional(SIGNAL, 1.0)),
    ignored=FAMILY,
    quantities=(
        *(
            Quantity(name, meaning, tolerance=ROUNDING_OF_ROOTS, side="two")
            for name, meaning in (
                ("linear", "best accuracy of a linear model, no intercept"),
                ("linear_prompt", "best accuracy of linear prompt-attention, no intercept"),
                ("linear_prompt_intercept", "the same with intercept"),
                ("self_attention", "best accuracy of self-attention, no intercept"),
                ("self_attention_intercept", "the same with intercept"),
                ("prompt", "best accuracy of softmax prompt-attention"),
            )
        ),
        Quantity("threshold", "largest attention self-attention puts on relevant tokens",
                 tolerance=ROUNDING_OF_ROOTS, side="two", symbol="M", ignores=("law", "context")),
        Quantity("least_gain", "gain beyond which the prompt γq⋆ separates",
                 tolerance=ROUNDING_OF_ROOTS, side="two", symbol="γ₀", infinite="where none does"),
    ),
    compared=Compared(
        {
            "sparsity": (0.01, 0.99), "shift": (0.02, 50.0), "context": (0.1, 10.0),
        },
        elsewhere="a search to 1e-9 of the threshold; accuracies are ratios of small integers",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": _both_laws(_PLANE, restarts=256, at_reference=2304),
        "full": _both_laws(_FINE_PLANE, restarts=2048, at_reference=73728),
    },
    shared=("sparsity", "shift"),
    broadcasts="sparsity, shift and context",
    traceable=True,
    figure=_FIGURE,
)  # fmt: skip
