r"""The least error any head and prompt of a model can have on noisy tokens.

The error of a head and a prompt depends on their coordinates along :math:`w_\star` and
:math:`q_\star`, on what is left of their lengths, and on the angle between the rests: two rests
lie in two further dimensions, so eight coordinates stand for all heads and prompts of any
dimension. A rest need not be 0 at the optimum: where one shift is beyond reach and wrong more than
half of the time, noise helps it. Given the scores each error is explicit
(`contextual.conditional_error`), and descent on it from many starts finds the least.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float
from scipy import special
from scipy.stats import qmc

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    mean_error,
    token_products,
)  # fmt: skip
from jaxprompt.contextual.setting import Setting

__all__ = ["CEILINGS", "exact_error", "least_error", "linear_prompt_error"]

CEILINGS = ("linear", "linear_prompt", "prompt")
"""Models whose least error is known."""

_SEARCH_NODES = 128
_FINAL_NODES = 2048
_SPREAD = 5  # the logarithm to base 2 of the number of spread starts
_STEPS = 120
_RATE = 0.2


def linear_prompt_error(
    setting: Setting, geometry: Geometry, scalars: Float[Array, "M N"]
) -> Float[Array, ""]:
    r"""Probability of a wrong sign of :math:`w\cdot X^\top Xq/T` on a fresh sequence.

    With :math:`v_t=\langle q,z_t\rangle/(\sigma|q|)`, a relevant token's products with head and
    prompt :math:`R_w,R_q`, an irrelevant one's mean products :math:`A,B` and
    :math:`w_\parallel=\langle w,q\rangle/|q|`,

    .. math::
        T\mu &= kR_wR_q + \sum_t(A+\sigma w_\parallel v_t)(B+\sigma|q|v_t), \\
        T^2v &= \sigma^2(|w|^2-w_\parallel^2)\sum_t(B+\sigma|q|v_t)^2, \qquad
        \text{error} = E\,\Phi(-y\mu/\sqrt v):

    given the :math:`v_t` the rest is Gaussian. Arguments as in
    :func:`~jaxprompt.contextual.law.error_given_prompt.conditional_error`. Derived here.
    """
    dtype = scalars.dtype
    on = labels_and_shifts(setting, dtype)
    along, across = along_and_across(geometry, dtype)
    head_relevant, head_irrelevant = token_products(on, geometry.head_context, geometry.head_signal)
    relevant_score, irrelevant_score = token_products(
        on, geometry.prompt_context, geometry.prompt_signal
    )
    norm = jnp.asarray(geometry.prompt_norm, dtype)
    scores = irrelevant_score[..., None] + setting.noise * norm * scalars
    products = (head_irrelevant[..., None] + setting.noise * along * scalars) * scores
    mean = setting.relevant * (head_relevant * relevant_score) + products.sum(axis=-1)
    deviation = setting.noise * across * jnp.sqrt(jnp.square(scores).sum(axis=-1))
    return mean_error(setting, on.label * mean, deviation)


def exact_error(
    model: str, setting: Setting, head: Array, prompt: Array, scalars: Float[Array, "M N"]
) -> Float[Array, ""]:
    """Probability of a wrong sign of a model of :data:`CEILINGS` with given weights.

    The first two coordinates of `head` and `prompt` are along w⋆ and q⋆. The prompt of a linear
    model is 0.
    """
    rule = linear_prompt_error if model == "linear_prompt" else conditional_error
    return rule(setting, Geometry.of_vectors(setting, head, prompt), scalars)


@functools.partial(jax.jit, static_argnums=0)
def _descend(
    model: str, setting: Setting, starts: Float[Array, "R 8"], free: Array, scalars: Array
) -> tuple[Array, Array]:
    """Each start's end and its error: Adam on the error itself, in the coordinates set free."""
    optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, _STEPS))

    def error(point: Array) -> Array:
        head = point[:4] / jnp.linalg.norm(point[:4])
        return exact_error(model, setting, head, point[4:], scalars)

    def run(start: Array) -> tuple[Array, Array]:
        def step(state: tuple[Array, Any], _: None) -> tuple[Any, None]:
            # A norm has no derivative at 0, where a linear model's prompt stays.
            slope = jnp.where(free, jax.grad(error)(state[0]), 0.0)
            updates, rest = optimiser.update(slope, state[1])
            return (jnp.asarray(optax.apply_updates(state[0], updates)), rest), None

        first = (start, optimiser.init(start))
        (point, _), _ = lax.scan(step, first, None, length=_STEPS)
        return point, error(point)

    return jax.vmap(run)(starts)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(model: str, setting: Setting, point: Array, nodes: Array) -> Array:
    head = point[:4] / jnp.linalg.norm(point[:4])
    return jax.vmap(lambda v: exact_error(model, setting, head, point[4:], v))(nodes)


def least_error(model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """The least error of `model` over all heads and prompts, and weights that have it; float64.

    The error comes once for each replicate of the law of the scores. The weights are the head's
    coordinates along w⋆, q⋆ and two orthogonal directions, then the prompt's. Both are found once
    for equal settings, and read-only.
    """
    numbers = (float(x) for x in (setting.signal, setting.context, setting.noise))
    shifts = tuple((float(a), float(b)) for a, b in setting.shifts)
    weights = tuple(float(x) for x in setting.shift_weights)
    return _least(model, setting.tokens, setting.relevant, *numbers, shifts, weights)


@functools.lru_cache(maxsize=512)
def _least(
    model: str, tokens: int, relevant: int, signal: float, context: float, noise: float,
    shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.array(shifts), np.array(shift_weights)
    )
    nodes = attention_moments.normal_nodes(setting.irrelevant)
    with jax.enable_x64(True):
        few = jnp.asarray(nodes[0, :_SEARCH_NODES])
        free = np.arange(8) < (4 if model == "linear" else 8)
        rule = "linear_prompt" if model == "linear_prompt" else "prompt"
        starts = jnp.asarray(_starts(setting) * free)
        points, errors = _descend(rule, setting, starts, jnp.asarray(free), few)
        best = points[jnp.nanargmin(errors)]
        found = _evaluate(rule, setting, best, jnp.asarray(nodes[:, :_FINAL_NODES]))
        point = np.array(best)
    point[:4] /= np.linalg.norm(point[:4])
    errors = np.array(found)
    for array in (errors, point):
        array.setflags(write=False)
    return errors, point


def _starts(setting: Setting) -> np.ndarray:
    """Starts of the search: spread points, and prompts along the context with the head w⋆."""
    uniform = qmc.Sobol(8, scramble=True, rng=np.random.default_rng(8)).random_base2(_SPREAD)
    spread = special.ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    gains = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 3.0])
    known = np.zeros((gains.size, 8))
    known[:, 0], known[:, 5] = 1.0, gains
    known += 0.05 * spread[: gains.size]  # off the symmetry that a gradient cannot leave
    size = 1 / max(float(setting.noise), 0.1)
    return np.concatenate([spread, known]) * np.array([1.0] * 4 + [size] * 4)
