r"""Limits of a prompt that was learned by one gradient step, and of a ridge head over it.

A head step from 0 leaves a head with product :math:`A` with :math:`w_\star` and squared length
:math:`w_2`; the prompt step that follows points along :math:`\beta q_\star` plus isotropic noise.
In the limit only the cosine between prompt and :math:`q_\star` is left of that, and a ridge head
over a prompt of norm R and cosine c is one over a *known* prompt in data whose context has norm
:math:`cQ`: so every limit of :mod:`jaxprompt.contextual.law.ridge_limit` applies. Derived in
docs/learning.md. Everything is float64 NumPy; samples are counted as d/n.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprompt.contextual.law.feature_law import FeatureLaw, coarse_feature_law, feature_law
from jaxprompt.contextual.setting import Setting

__all__ = [
    "HeadStep", "PromptPull", "coarse_learned_features", "head_after_step", "learned_features",
    "mean_token_noise", "prompt_alignment", "prompt_pull", "turning_rate",
]  # fmt: skip


class HeadStep(NamedTuple):
    r"""Limits of the head after one step from 0: :math:`\langle w,w_\star\rangle` and
    :math:`|w|^2`."""

    signal: Any
    energy: Any


class PromptPull(NamedTuple):
    r"""Limits of the prompt step: its coefficient :math:`\beta` of :math:`q_\star`, and the
    variance :math:`v` of one sequence's term in a direction orthogonal to everything else."""

    context: Any
    noise: Any


def mean_token_noise(setting: Setting) -> float:
    r"""Variance :math:`s^2=\sigma^2(1-\zeta)/T` of a coordinate of the mean token."""
    return float(setting.noise) ** 2 * setting.irrelevant / setting.tokens**2


def _shifts_and_odds(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts along q⋆ and w⋆, and their probabilities."""
    shifts = np.asarray(setting.shifts, np.float64)
    return shifts[:, 0], shifts[:, 1], np.asarray(setting.shift_weights, np.float64)


def head_after_step(
    setting: Setting, ratio: Any, head_rate: Any, *, pooled_noise: float = 1.0
) -> HeadStep:
    r"""The head :math:`\frac\eta n\sum_i y_i\bar x_i` at d/n → `ratio`; arrays broadcast.

    .. math:: A=\eta E[a]W^2,\quad w_2=\eta^2\big((E[a]W)^2+s^2\,d/n\big),\quad
              a=\zeta-(1-\zeta)\delta_w.

    A falsifier changes `pooled_noise`, the multiple of :math:`s^2\,d/n`.
    """
    _, shift_signal, odds = _shifts_and_odds(setting)
    share = setting.relevant / setting.tokens
    along = float((share - (1 - share) * shift_signal) @ odds) * float(setting.signal)
    rate = np.asarray(head_rate, np.float64)
    noise = mean_token_noise(setting) * np.asarray(ratio, np.float64) * pooled_noise
    return HeadStep(rate * along * float(setting.signal), rate**2 * (along**2 + noise))


def prompt_pull(
    setting: Setting, head: HeadStep, memory: Any = 0.0, *, feedback: float = 1.0,
    memory_pull: float = 1.0, memory_score: float = 1.0,
) -> PromptPull:  # fmt: skip
    r"""The prompt step from 0 under a head; arrays broadcast.

    `memory` is :math:`\mu=\eta s^2 d/n` where the head was made from the same sequences, and 0
    where it was not. With :math:`e_0=1-\mu-aA`, :math:`N=T-k`, :math:`p_2=N/T^2`,
    :math:`V=\sigma^2w_2` and
    :math:`b=-\zeta(1+\delta_w)A+\zeta\mu/(1-\zeta)`,

    .. math::
       \beta &= \zeta(1-\zeta)A\,E[(1+\delta_q)(1+\delta_w)e_0]+\zeta s^2w_2E[1+\delta_q]
                -\zeta\mu E[(1+\delta_q)e_0]\\
       v &= \sigma^2p_2\,E\big[(e_0^2+Vp_2)(b^2+V(1-\tfrac2T+p_2))
            -4e_0bV(\tfrac1T-p_2)+2V^2(\tfrac1T-p_2)^2\big].

    The three parts of β: the label teaches the prompt; less variance of the output does, since
    relevant tokens carry no noise; and a sequence that is in the head already teaches less.
    Falsifiers change the last three arguments: multiples of the second and third part of β, and of
    μ in b.
    """
    shift_context, shift_signal, odds = _shifts_and_odds(setting)
    total, share = setting.tokens, setting.relevant / setting.tokens
    s2, p2 = mean_token_noise(setting), setting.irrelevant / setting.tokens**2
    signal, energy, kept = (
        np.asarray(x, np.float64)[..., None] for x in (head.signal, head.energy, memory)
    )
    variance = float(setting.noise) ** 2 * energy
    residual = 1 - kept - (share - (1 - share) * shift_signal) * signal
    along = 1 + shift_context
    pull = share * (1 - share) * signal * along * (1 + shift_signal) * residual
    pull = pull + feedback * share * s2 * energy * along
    pull = pull - memory_pull * share * kept * along * residual
    score = -share * (1 + shift_signal) * signal + memory_score * share * kept / (1 - share)
    cross = 1 / total - p2
    noise = (residual**2 + variance * p2) * (score**2 + variance * (1 - 2 / total + p2))
    noise = noise - 4 * residual * score * variance * cross + 2 * (variance * cross) ** 2
    return PromptPull(pull @ odds, float(setting.noise) ** 2 * p2 * (noise @ odds))


def turning_rate(setting: Setting, ratio: float) -> float:
    r"""Head rate :math:`\eta_\star` at which a fresh prompt step changes its side of q⋆.

    :math:`\beta/\eta` is a straight line in η: with the head of rate 1, of product A₁ and squared
    length w₁,

    .. math::
       \frac\beta\eta=\zeta(1-\zeta)A_1E[(1+\delta_q)(1+\delta_w)]+\eta\,\zeta\big(
       s^2w_1E[1+\delta_q]-(1-\zeta)A_1^2E[a(1+\delta_q)(1+\delta_w)]\big).

    Below :math:`\eta_\star` the prompt turns towards q⋆ if the first term is positive, and away
    from it if that is negative; infinite where it keeps its side at every rate.
    """
    shift_context, shift_signal, odds = _shifts_and_odds(setting)
    share = setting.relevant / setting.tokens
    head = head_after_step(setting, ratio, 1.0)
    both = (1 + shift_context) * (1 + shift_signal)
    level = share - (1 - share) * shift_signal
    labels = (1 - share) * float(head.signal) * float(both @ odds)
    slope = mean_token_noise(setting) * float(head.energy) * float((1 + shift_context) @ odds)
    slope -= (1 - share) * float(head.signal) ** 2 * float((level * both) @ odds)
    return -labels / slope if labels * slope < 0 else float("inf")


def prompt_alignment(setting: Setting, pull: PromptPull, ratio: Any) -> Any:
    r"""Cosine of prompt and q⋆, :math:`\beta Q/\sqrt{\beta^2Q^2+v\,d/n}`; NaN without a step."""
    along = pull.context * float(setting.context)
    with np.errstate(invalid="ignore"):
        return along / np.hypot(along, np.sqrt(pull.noise * np.asarray(ratio, np.float64)))


def _equivalent_known_prompt(
    setting: Setting, prompt_norm: float, alignment: float
) -> tuple[float, float]:
    """Context norm and gain of the known prompt whose gap and score noise are the learned one's."""
    # Without a component along q⋆ the gap is 0 and the scores keep their noise: so they do for a
    # context as short as this one.
    context = float(setting.context) * float(alignment) or 1e-100
    return context, float(prompt_norm) / context


def learned_features(setting: Setting, prompt_norm: float, alignment: float) -> FeatureLaw:
    """Law of the pooled feature over a prompt of this norm and this cosine with q⋆.

    The gap of the scores is (1 + δq) R Q cos, their noise σR.
    """
    context, gain = _equivalent_known_prompt(setting, prompt_norm, alignment)
    return feature_law(
        setting.tokens, setting.relevant, float(setting.signal), context, float(setting.noise),
        gain, *_as_tuples(setting),
    )  # fmt: skip


def coarse_learned_features(
    setting: Setting, prompt_norm: float, alignment: float, *, nodes: int, replicates: int
) -> FeatureLaw:
    """:func:`learned_features` on the first `nodes` of its first `replicates`, for searches."""
    context, gain = _equivalent_known_prompt(setting, prompt_norm, alignment)
    shifts, odds = _as_tuples(setting)
    law = {
        "tokens": setting.tokens, "relevant": setting.relevant, "signal": float(setting.signal),
        "context": context, "noise": float(setting.noise), "shifts": shifts,
        "shift_weights": odds,
    }  # fmt: skip
    return coarse_feature_law(law, gain, nodes=nodes, replicates=replicates)


def _as_tuples(setting: Setting) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    """Shifts and their probabilities as hashable numbers."""
    shifts = tuple((float(a), float(b)) for a, b in np.asarray(setting.shifts))
    return shifts, tuple(float(x) for x in np.asarray(setting.shift_weights))
