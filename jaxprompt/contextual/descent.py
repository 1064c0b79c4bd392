r"""Gradient descent on the square loss of prompt-attention: token by token, and by its exact law.

From head 0 and prompt 0, each step on a fresh batch of n sequences:

1. head: :math:`\hat w = -\nabla_w L(0, 0)`;
2. prompt: :math:`\hat q = -\nabla_q L(\hat w, 0)`, rescaled to a given norm;
3. head again, from 0, with that prompt: :math:`\hat w_3 = -\nabla_w L(0, \hat q)`.

:func:`token_steps` differentiates the loss of sampled tokens and costs T·d normals a sequence.
:func:`reduced_steps` has the same law at a cost without d: only the coordinates along
:math:`w_\star`, :math:`q_\star` and one more direction are drawn token by token; given those, what
lies orthogonal to them is Gaussian with a known variance, and only its length matters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxprompt import random
from jaxprompt.attention import prompt_attention
from jaxprompt.contextual.conditional_error import Geometry
from jaxprompt.contextual.data import sample_sequence, shift_index
from jaxprompt.contextual.setting import Setting

__all__ = [
    "Batch", "head_step", "prompt_step", "reduced_steps", "sample_batch", "square_loss",
    "token_steps",
]  # fmt: skip


class Batch(NamedTuple):
    """Sequences as tokens and labels."""

    tokens: Float[Array, "n T d"]
    labels: Float[Array, " n"]


# --- token by token --------------------------------------------------------------------------------


def sample_batch(setting: Setting, dim: int, samples: int, *, key: Key[Array, ""]) -> Batch:
    """Draw `samples` sequences token by token, in float32."""
    keys = jax.random.split(key, samples)
    drawn = jax.vmap(lambda k: sample_sequence(setting, dim, key=k, dtype=jnp.float32))(keys)
    return Batch(drawn.tokens, drawn.label)


def square_loss(head: Float[Array, " d"], prompt: Float[Array, " d"], batch: Batch) -> Array:
    r"""Mean of :math:`(y - w\cdot X^\top\varphi(Xq))^2/2` over the batch, in its dtype."""
    features = jax.vmap(prompt_attention, (0, None))(batch.tokens, prompt)
    return jnp.square(batch.labels - features @ head).mean() / 2


def head_step(head: Array, prompt: Array, batch: Batch) -> Array:
    """Minus the gradient of the loss in the head, by automatic differentiation."""
    return -jax.grad(square_loss, 0)(head, prompt, batch)


def prompt_step(head: Array, prompt: Array, batch: Batch) -> Array:
    """Minus the gradient of the loss in the prompt, by automatic differentiation."""
    return -jax.grad(square_loss, 1)(head, prompt, batch)


class Steps(NamedTuple):
    """Inner products after step 2 (head of step 1) and after step 3, both with the new prompt."""

    second: Geometry
    third: Geometry


def token_steps(
    setting: Setting,
    dim: int,
    samples: int,
    prompt_norm: float | Array,
    *,
    key: Key[Array, ""],
) -> Steps:
    """All three steps by automatic differentiation on sampled tokens, in float32."""
    first, second, third = (
        sample_batch(setting, dim, samples, key=k) for k in jax.random.split(key, 3)
    )
    zero = jnp.zeros(dim, jnp.float32)
    head = head_step(zero, zero, first)
    prompt = prompt_step(head, zero, second)
    prompt = prompt * (prompt_norm / jnp.linalg.norm(prompt))
    return Steps(
        _geometry(setting, head, prompt), _geometry(setting, head_step(zero, prompt, third), prompt)
    )


def _geometry(setting: Setting, head: Array, prompt: Array) -> Geometry:
    """Inner products of vectors whose first two coordinates are along w⋆ and q⋆."""
    return Geometry(
        head_signal=head[0] * setting.signal,
        head_context=head[1] * setting.context,
        head_norm=jnp.linalg.norm(head),
        prompt_signal=prompt[0] * setting.signal,
        prompt_context=prompt[1] * setting.context,
        prompt_norm=jnp.linalg.norm(prompt),
        head_prompt=head @ prompt,
    )


# --- by the exact law ------------------------------------------------------------------------------


def reduced_steps(
    setting: Setting,
    dim: int | Array,
    samples: int,
    prompt_norm: float | Array,
    *,
    key: Key[Array, ""],
) -> Steps:
    """All three steps by their exact law, in float32, for any `dim` ≥ 4 at the same cost."""
    keys = jax.random.split(key, 3)
    head = _first(setting, dim, samples, keys[0])
    prompt = _second(setting, dim, samples, head, keys[1])
    prompt = prompt * (prompt_norm / jnp.linalg.norm(prompt))
    # Two frames: along w⋆, q⋆, the head's rest and the prompt's rest; then along w⋆, q⋆ and all
    # of the prompt's rest, with the new head's rest as a fourth direction.
    second = _geometry(setting, jnp.append(head, 0.0), prompt)
    residue = jnp.hypot(prompt[2], prompt[3])
    framed = jnp.array([prompt[0], prompt[1], residue, 0.0])
    third = _third(setting, dim, samples, framed, keys[2])
    return Steps(second, _geometry(setting, third, framed))


def _labels(setting: Setting, samples: int, key: Array) -> tuple[Array, Array]:
    choice = random.uniforms(key, 0, samples, 2)
    label = jnp.where(choice[:, 0] < 0.5, -1.0, 1.0).astype(jnp.float32)
    return label, jnp.asarray(setting.shifts, jnp.float32)[shift_index(setting, choice[:, 1])]


def _plane(setting: Setting, label: Array, shift: Array) -> tuple[Array, Array]:
    """Relevant and mean irrelevant token of each sequence, along w⋆ and q⋆."""
    size = jnp.array([setting.signal, setting.context], jnp.float32)
    signs = jnp.stack([label, jnp.ones_like(label)], axis=1)
    return signs * size, -shift[:, ::-1] * signs * size


def _first(setting: Setting, dim: int | Array, samples: int, key: Array) -> Array:
    """Head of step 1 along w⋆, q⋆ and its own rest: uniform attention has Gaussian noise."""
    choice_key, noise_key, rest_key = jax.random.split(key, 3)
    label, shift = _labels(setting, samples, choice_key)
    own, other = _plane(setting, label, shift)
    share = setting.relevant / setting.tokens
    pooled = label[:, None] * (share * own + (1 - share) * other)
    level = setting.noise * jnp.sqrt(setting.irrelevant / (setting.tokens**2 * samples))
    plane = pooled.mean(axis=0) + level * jax.random.normal(noise_key, (2,), jnp.float32)
    return jnp.append(plane, level * _chi(rest_key, dim - 2))


def _second(setting: Setting, dim: int | Array, samples: int, head: Array, key: Array) -> Array:
    """Prompt of step 2 along w⋆, q⋆, the head's rest, and its own rest."""
    choice_key, noise_key, rest_key = jax.random.split(key, 3)
    label, shift = _labels(setting, samples, choice_key)
    own, other = _plane(setting, label, shift)
    count = setting.irrelevant
    noise = random.normals(noise_key, 0, samples, 3 * count).reshape(samples, count, 3)
    flat = ((0, 0), (0, 1))
    irrelevant = jnp.pad(other, flat)[:, None] + setting.noise * noise
    relevant = jnp.broadcast_to(jnp.pad(own, flat)[:, None], (samples, setting.relevant, 3))
    tokens = jnp.concatenate([relevant, irrelevant], axis=1)
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    scores = centred @ head
    miss = label - tokens.mean(axis=1) @ head
    plane = (miss[:, None] * (scores[:, None] @ centred)[:, 0] / setting.tokens).mean(axis=0)
    # Given these coordinates, each orthogonal one is Gaussian with this variance.
    level = jnp.square(miss) * jnp.square(scores[:, setting.relevant :]).sum(axis=1)
    level = setting.noise / setting.tokens * jnp.sqrt(level.mean() / samples)
    return jnp.append(plane, level * _chi(rest_key, dim - 3))


def _third(setting: Setting, dim: int | Array, samples: int, prompt: Array, key: Array) -> Array:
    """Head of step 3 along w⋆, q⋆, the prompt's rest, and its own rest."""
    choice_key, scalar_key, noise_key, rest_key = jax.random.split(key, 4)
    label, shift = _labels(setting, samples, choice_key)
    own, other = _plane(setting, label, shift)
    norm = jnp.linalg.norm(prompt)
    scalars = random.normals(scalar_key, 0, samples, setting.irrelevant)
    along = setting.noise * norm * scalars
    scores = [jnp.repeat((own @ prompt[:2])[:, None], setting.relevant, axis=1)]
    scores.append((other @ prompt[:2])[:, None] + along)
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=1), axis=1)
    share = weights[:, : setting.relevant].sum(axis=1, keepdims=True)
    weights = weights[:, setting.relevant :]
    unit = prompt[:3] / norm
    drift = setting.noise * (weights * scalars).sum(axis=1, keepdims=True)
    energy = jnp.square(weights).sum(axis=1)
    away = random.normals(noise_key, 0, samples, 3)
    away = away - (away @ unit)[:, None] * unit
    mean = jnp.pad(share * own + (1 - share) * other, ((0, 0), (0, 1))) + drift * unit
    feature = mean + setting.noise * jnp.sqrt(energy)[:, None] * away
    level = setting.noise * jnp.sqrt(energy.mean() / samples)
    return jnp.append((label[:, None] * feature).mean(axis=0), level * _chi(rest_key, dim - 3))


def _chi(key: Array, freedom: int | Array) -> Array:
    """Length of a standard normal vector with `freedom` coordinates."""
    return jnp.sqrt(2 * jax.random.gamma(key, jnp.asarray(freedom, jnp.float32) / 2))
