r"""Beyond the setting: noise on relevant tokens, signal and context at an angle, several classes.

The exact error needs neither :math:`w_\star\perp q_\star` nor noise-free relevant tokens:

* only inner products enter `contextual.conditional_error`, so an angle between signal and context
  changes the seven numbers and nothing else (:func:`tilted_geometry`);
* covariances that are no multiples of the identity, correlated tokens and a part common to all are
  in :func:`any_covariance_error`, of which the claim's formula is the isotropic case;
* with noise of level :math:`\sigma_r` on the relevant tokens every token has a scalar of its own,
  and :func:`noisy_relevant_error` is the same formula with both kinds in its sums.

For several classes there is no closed form here: :func:`class_accuracies` simulates heads learned
one class against the rest, and is a measurement only. Derived here (setting: Oymak et al., 2023).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.compute import random_table
from jaxprompt.contextual.law.attention_moments import mean_and_stderr
from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    mean_error,
    token_products,
)  # fmt: skip
from jaxprompt.contextual.law.token_law import TokenLaw, conditional_token_error, pooled_law
from jaxprompt.contextual.setting import Setting
from jaxprompt.stats import Estimate

__all__ = ["any_covariance_error", "class_accuracies", "noisy_relevant_error", "tilted_geometry"]


def tilted_geometry(
    setting: Setting, cosine: float | Array, head: Float[Array, " d"], prompt: Float[Array, " d"]
) -> Geometry:
    r"""Inner products for a signal :math:`w_\star` and a context at an angle with that `cosine`.

    Axis 0 is along :math:`w_\star`; :math:`q_\star` lies in the plane of axes 0 and 1. Give the
    result to :func:`~jaxprompt.contextual.law.error_given_prompt.conditional_error`.
    """
    sine = jnp.sqrt(1 - jnp.square(cosine))

    def with_context(x: Array) -> Array:
        return setting.context * (cosine * x[0] + sine * x[1])

    return Geometry(
        head[0] * setting.signal, with_context(head), jnp.linalg.norm(head),
        prompt[0] * setting.signal, with_context(prompt), jnp.linalg.norm(prompt), head @ prompt,
    )  # fmt: skip


def any_covariance_error(
    law: TokenLaw, head: Float[np.ndarray, " d"], prompt: Float[np.ndarray, " d"]
) -> Estimate:
    r"""Probability of a wrong sign of any head and prompt under any token law; float64.

    Given the T scores the output is Gaussian: its mean is that of `contextual.conditional_error`
    with the regression :math:`w^\top\Sigma q/q^\top\Sigma q` of each kind's noise on its score,
    its variance :math:`\sum_ja_jw^\top\Sigma_j^\perp w`. The standard error is the quadrature's.
    """
    replicates = conditional_token_error(pooled_law(law, prompt), head)
    mean, stderr = mean_and_stderr(replicates)
    return Estimate(float(mean), float(stderr), len(replicates))


def noisy_relevant_error(
    setting: Setting,
    relevant_noise: float | Array,
    geometry: Geometry,
    scalars: Float[Array, "M T"],
) -> Float[Array, ""]:
    r"""Probability of a wrong sign when relevant tokens carry noise of level :math:`\sigma_r` too.

    With a standard normal :math:`v_t` for each of the T tokens, its noise level
    :math:`\sigma_t\in\{\sigma_r,\sigma\}` and the softmax weights :math:`\varphi_t` of the scores
    (mean product with the prompt) :math:`+\,\sigma_t|q|v_t`,

    .. math::
        \mu = s\,(\ldots) + (1-s)(\ldots)
              + \frac{\langle w,q\rangle}{|q|}\sum_t\varphi_t\sigma_tv_t, \qquad
        v = \Big(|w|^2-\frac{\langle w,q\rangle^2}{|q|^2}\Big)\sum_t\varphi_t^2\sigma_t^2,

    the brackets being those of `contextual.conditional_error`; error :math:`=E\,\Phi(-y\mu/\sqrt
    v)`. The relevant tokens' scalars come first in `scalars`, whose dtype is the result's.
    """
    dtype, k = scalars.dtype, setting.relevant
    on = labels_and_shifts(setting, dtype)
    along, across = along_and_across(geometry, dtype)
    head_relevant, head_irrelevant = token_products(on, geometry.head_context, geometry.head_signal)
    relevant_score, irrelevant_score = token_products(
        on, geometry.prompt_context, geometry.prompt_signal
    )
    relevant = jnp.arange(setting.tokens) < k
    level = jnp.where(relevant, relevant_noise, setting.noise).astype(dtype)
    scores = jnp.where(relevant, relevant_score[..., None], irrelevant_score[..., None])
    norm = jnp.asarray(geometry.prompt_norm, dtype)
    weights = jax.nn.softmax(scores + level * norm * scalars, axis=-1)
    share = weights[..., :k].sum(axis=-1)
    mean = share * head_relevant + (1 - share) * head_irrelevant
    mean = mean + along * (weights * level * scalars).sum(axis=-1)
    deviation = across * jnp.sqrt(jnp.square(weights * level).sum(axis=-1))
    return mean_error(setting, on.label * mean, deviation)


def class_accuracies(
    setting: Setting, classes: int, dim: int, samples: int, ridge: float, trials: int,
    *, key: Key[Array, ""], tested: int = 1024,
) -> Float[Array, " trials"]:  # fmt: skip
    r"""Accuracy on fresh data of heads learned by ridge regression, one class against the rest.

    Class c has relevant tokens :math:`q_\star+w_c` and shifted ones
    :math:`-\delta_qq_\star-\delta_ww_c+z`, with orthogonal :math:`w_c` of norm W; the prompt is
    :math:`\gamma q_\star`. Features and one-hot labels are centred, which stands for intercepts.
    A simulation in float32 by the exact law of the pooled feature; no formula is known here. Needs
    ``dim > classes``.
    """
    return _accuracies(setting, classes, dim, samples, jnp.float32(ridge), trials, tested, key)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 5, 6))
def _accuracies(
    setting: Setting, classes: int, dim: int, samples: int, ridge: Array, trials: int, tested: int,
    key: Array,
) -> Array:  # fmt: skip
    def trial(index: Array) -> Array:
        trial_key = jax.random.fold_in(key, index)
        features, chosen = _class_features(setting, classes, dim, samples + tested, trial_key)
        train, test = features[:samples], features[samples:]
        marks = jax.nn.one_hot(chosen[:samples], classes, dtype=jnp.float32)
        middle, share = train.mean(axis=0), marks.mean(axis=0)
        centred = train - middle
        gram = centred.T @ centred / samples + ridge * jnp.eye(dim, dtype=jnp.float32)
        heads = jnp.linalg.solve(gram, centred.T @ (marks - share) / samples)
        guess = jnp.argmax((test - middle) @ heads + share, axis=1)
        return (guess == chosen[samples:]).mean(dtype=jnp.float32)

    # One trial after another, so that no two batched factorisations are ready at once.
    return jax.lax.map(trial, jnp.arange(trials, dtype=jnp.uint32))


def _class_features(
    setting: Setting, classes: int, dim: int, rows: int, key: Array
) -> tuple[Array, Array]:
    """Pooled features, with q⋆ along axis 0 and the classes along axes 1 …, and their classes."""
    choice_key, scalar_key, noise_key = jax.random.split(key, 3)
    uniform = random_table.uniforms(choice_key, 0, rows, 2)
    chosen = jnp.minimum((uniform[:, 0] * classes).astype(jnp.int32), classes - 1)
    edges = jnp.cumsum(jnp.asarray(setting.shift_weights, jnp.float32))[:-1]
    shift = jnp.asarray(setting.shifts, jnp.float32)[
        jnp.searchsorted(edges, uniform[:, 1], side="right")
    ]
    scalars = random_table.normals(scalar_key, 0, rows, setting.irrelevant)
    size = setting.gain * setting.context
    relevant_noise = jnp.full((rows, setting.relevant), size * setting.context, jnp.float32)
    other = size * (setting.noise * scalars - shift[:, :1] * setting.context)
    weights = jax.nn.softmax(jnp.concatenate([relevant_noise, other], axis=1), axis=1)
    share = weights[:, : setting.relevant].sum(axis=1)
    weights = weights[:, setting.relevant :]
    context = (share - (1 - share) * shift[:, 0]) * setting.context
    context = context + setting.noise * (weights * scalars).sum(axis=1)
    signal = (share - (1 - share) * shift[:, 1]) * setting.signal
    spread = setting.noise * jnp.sqrt(jnp.square(weights).sum(axis=1))
    bulk = spread[:, None] * random_table.normals(noise_key, 0, rows, dim - 1)
    bulk = bulk + signal[:, None] * jax.nn.one_hot(chosen, dim - 1, dtype=jnp.float32)
    return jnp.concatenate([context[:, None], bulk], axis=1), chosen
