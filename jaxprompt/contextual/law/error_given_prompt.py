r"""The exact error of any fixed head and prompt, from their seven inner products.

This closed form replaces test sets in the family's other claims; `contextual.conditional_error`
checks it against sequences drawn token by token.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    mean_error,
    token_products,
)  # fmt: skip
from jaxprompt.contextual.setting import Setting

__all__ = ["Geometry", "conditional_error"]


def conditional_error(
    setting: Setting,
    geometry: Geometry,
    scalars: Float[Array, "M N"],
    *,
    drift: float = 1.0,
    removed: float = 1.0,
    uniform_spread: bool = False,
    mean_weights: bool = False,
) -> Float[Array, ""]:
    r"""Probability of a wrong sign on a fresh sequence, for a fixed head and prompt.

    With :math:`u_t = \langle q, z_t\rangle` for the irrelevant tokens, :math:`s` the total relevant
    weight, :math:`p_2` the sum of squared irrelevant weights and
    :math:`\bar u = \sum_t \varphi_t u_t`,

    .. math::
        \mu &= s(\langle w,q_\star\rangle + y\langle w,w_\star\rangle)
           - (1-s)(\delta_q\langle w,q_\star\rangle + \delta_w y\langle w,w_\star\rangle)
           + \bar u \langle w,q\rangle / |q|^2 \\
        v &= \sigma^2 p_2 (|w|^2 - \langle w,q\rangle^2/|q|^2), \qquad
        \text{error} = E\,\Phi(-y\mu/\sqrt v).

    `scalars` are the M nodes of the N = T − k standard normals :math:`u_t/(\sigma|q|)` over which
    the mean is taken; the sum over labels and shifts is exact. Computes in the dtype of
    `scalars`; works under jit, vmap and grad. Derived here (setting: Oymak et al., ICML 2023).

    The keywords are for falsifiers: the multiple of the term with :math:`\bar u`, the multiple of
    :math:`\langle w,q\rangle^2/|q|^2` in :math:`v`, uniform weights in :math:`p_2`, and every
    moment of the attention replaced by its mean over the nodes.
    """
    dtype = scalars.dtype
    on = labels_and_shifts(setting, dtype)
    # A relevant token's score less an irrelevant one's mean. A prompt that is orthogonal to the
    # signal for certain gives both labels the same weights.
    gap = (1 + on.shift_context) * geometry.prompt_context
    if not (isinstance(geometry.prompt_signal, float) and geometry.prompt_signal == 0.0):
        gap = gap + (1 + on.shift_signal) * on.label * geometry.prompt_signal
    scale = setting.noise * jnp.asarray(geometry.prompt_norm, dtype)
    m = attention_moments.moments(gap.astype(dtype), scale, setting.relevant, scalars)
    if mean_weights:
        m = attention_moments.Moments(*(x.mean(axis=-1, keepdims=True) for x in m))
    spread = setting.irrelevant / setting.tokens**2 if uniform_spread else m.spread
    along, across = along_and_across(geometry, dtype, removed)
    # Times the label, so that a correct sign is a positive margin.
    relevant, irrelevant = token_products(
        on, on.label * geometry.head_context, on.label * geometry.head_signal
    )
    margin = m.attention * relevant + (1 - m.attention) * irrelevant
    margin = margin + drift * on.label * setting.noise * m.drift * along
    return mean_error(setting, margin, setting.noise * jnp.sqrt(spread) * across)
