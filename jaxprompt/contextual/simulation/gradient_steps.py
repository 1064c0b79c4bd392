r"""Gradient descent on the square loss of prompt-attention: token by token, and by its exact law.

From head 0 and prompt 0, each step on a fresh batch of n sequences:

1. head: :math:`\hat w = -\eta\nabla_w L(0, 0)`;
2. prompt: :math:`\hat q = -\nabla_q L(\hat w, 0)`, rescaled to a given norm;
3. head again, from 0, with that prompt: :math:`\hat w_3 = -\nabla_w L(0, \hat q)`.

:func:`token_steps` differentiates the loss of sampled tokens and costs T·d normals a sequence.
:func:`reduced_steps` has the same law at a cost without d: only the coordinates along
:math:`w_\star`, :math:`q_\star` and one more direction are drawn token by token; given those, what
lies orthogonal to them is Gaussian with a known variance, and only its length matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt.attention import prompt_attention
from jaxprompt.compute import random_table
from jaxprompt.contextual.law.margins import Geometry
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import sample_sequence, shift_index

__all__ = [
    "Batch", "Steps", "Terms", "head_step", "orthogonal_lengths", "prompt_step", "reduced_steps",
    "reduced_steps_and_terms", "sample_batch", "square_loss", "token_steps",
]  # fmt: skip


class Batch(NamedTuple):
    """Sequences as tokens and labels."""

    tokens: Float[Array, "n T d"]
    labels: Float[Array, " n"]


# --- token by token ------------------------------------------------------------------------------


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
    head_rate: float = 1.0,
) -> Steps:
    """All three steps by automatic differentiation on sampled tokens, in float32."""
    first, second, third = (
        sample_batch(setting, dim, samples, key=k) for k in jax.random.split(key, 3)
    )
    zero = jnp.zeros(dim, jnp.float32)
    head = head_rate * head_step(zero, zero, first)
    prompt = prompt_step(head, zero, second)
    prompt = prompt * (prompt_norm / jnp.linalg.norm(prompt))
    return Steps(
        Geometry.of_vectors(setting, head, prompt),
        Geometry.of_vectors(setting, head_step(zero, prompt, third), prompt),
    )


# --- by the exact law ----------------------------------------------------------------------------

CHUNK = 128
"""Sequences drawn together; the number of sequences itself is not a shape."""


def orthogonal_lengths(dim: int | Array, *, key: Key[Array, ""]) -> Float[Array, " 3"]:
    """Lengths of what is orthogonal to the coordinates drawn, in each of the three steps.

    Chi variables with d − 2, d − 3 and d − 3 degrees of freedom, in units of the standard
    deviation of one coordinate: norms of as many normals, so that d is not a shape. They are
    independent of everything else in :func:`reduced_steps`.
    """
    freedom = jnp.asarray(dim, jnp.uint32) - jnp.array([2, 3, 3], jnp.uint32)

    def add(chunk: Array, total: Array) -> Array:
        first = chunk * np.uint32(CHUNK)
        kept = first + jnp.arange(CHUNK, dtype=jnp.uint32)[:, None] < freedom
        squares = jnp.square(random_table.normals(key, first, CHUNK, 3))
        return total + jnp.where(kept, squares, 0.0).sum(axis=0)

    chunks = (freedom.max() + np.uint32(CHUNK - 1)) // np.uint32(CHUNK)
    return jnp.sqrt(lax.fori_loop(np.uint32(0), chunks, add, jnp.zeros(3, jnp.float32)))


class Terms(NamedTuple):
    """One sequence's terms in a step, as its batch shows them: sample means and sample variances.

    Entries are the coordinates along w⋆, q⋆ and the rest of what the step was given (nothing in
    step 1, the head in step 2, the prompt in step 3), then the variance of an orthogonal
    coordinate given the sequence's scalars (0 in step 1, where it is the same for all). The
    variances of fewer than two sequences mean nothing.
    """

    mean: Float[Array, " 4"]
    variance: Float[Array, " 4"]


def reduced_steps(
    setting: Setting,
    samples: int | Array,
    prompt_norm: float | Array,
    lengths: Float[Array, " 3"],
    *,
    key: Key[Array, ""],
) -> Steps:
    """All three steps by their exact law, in float32; neither `samples` nor d is a shape.

    `lengths` comes from :func:`orthogonal_lengths`, through which d enters.
    """
    return reduced_steps_and_terms(setting, samples, prompt_norm, lengths, key=key)[0]


def reduced_steps_and_terms(
    setting: Setting,
    samples: int | Array,
    prompt_norm: float | Array,
    lengths: Float[Array, " 3"],
    *,
    key: Key[Array, ""],
    head_rate: float = 1.0,
) -> tuple[Steps, tuple[Terms, Terms, Terms]]:
    """:func:`reduced_steps`, and the terms whose means the three steps were.

    `head_rate` multiplies the first head; its terms are those of a step of size 1.
    """
    keys = jax.random.split(key, 3)
    head, first = _first(setting, samples, lengths[0], keys[0])
    head = head_rate * head
    prompt, second = _second(setting, samples, head, lengths[1], keys[1])
    prompt = prompt * (prompt_norm / jnp.linalg.norm(prompt))
    # Two frames: along w⋆, q⋆, the head's rest and the prompt's rest; then along w⋆, q⋆ and all
    # of the prompt's rest, with the new head's rest as a fourth direction.
    known = Geometry.of_vectors(setting, jnp.append(head, 0.0), prompt)
    framed = jnp.array([prompt[0], prompt[1], jnp.hypot(prompt[2], prompt[3]), 0.0])
    last, third = _third(setting, samples, framed, lengths[2], keys[2])
    return Steps(known, Geometry.of_vectors(setting, last, framed)), (first, second, third)


def _terms(
    setting: Setting, samples: int | Array, columns: int, key: Array,
    row: Callable[[Array, Array, Array, Array], Array],
) -> Terms:  # fmt: skip
    """Mean and variance over `samples` sequences of ``row(label, own, other, normals)``.

    `own` and `other` are the relevant and the mean irrelevant token along w⋆ and q⋆, `normals` has
    `columns` standard normals for each sequence.
    """
    size = jnp.array([setting.signal, setting.context], jnp.float32)
    count = jnp.asarray(samples, jnp.uint32)

    def add(chunk: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        first = chunk * np.uint32(CHUNK)
        uniform = random_table.uniforms(key, first, CHUNK, columns + 2)
        label = jnp.where(uniform[:, 0] < 0.5, -1.0, 1.0).astype(jnp.float32)
        shift = jnp.asarray(setting.shifts, jnp.float32)[shift_index(setting, uniform[:, 1])]
        relevant = jnp.stack([label, jnp.ones_like(label)], axis=1) * size
        normals = jnp.sqrt(jnp.float32(2)) * lax.erf_inv(2 * uniform[:, 2:] - 1)
        rows = row(label, relevant, -shift[:, ::-1] * relevant, normals)
        # Powers are summed about the first row: about 0, rounding would hide a small variance.
        start = jnp.where(chunk == 0, rows[0], state[0])
        away = rows - start
        kept = (first + jnp.arange(CHUNK, dtype=jnp.uint32) < count)[:, None, None]
        powers = jnp.stack([away, jnp.square(away)], axis=1)
        return start, state[1] + jnp.where(kept, powers, 0.0).sum(axis=0)

    state = jnp.zeros(4, jnp.float32), jnp.zeros((2, 4), jnp.float32)
    chunks = (count + np.uint32(CHUNK - 1)) // np.uint32(CHUNK)
    start, total = lax.fori_loop(np.uint32(0), chunks, add, state)
    number = count.astype(jnp.float32)
    away, square = total / number
    mean = start + away
    variance = (square - jnp.square(away)) * (number / (number - 1))
    # Rows that are equal in exact arithmetic differ by some units in the last place.
    rounding = jnp.square(16 * jnp.finfo(jnp.float32).eps * mean)
    return Terms(mean, jnp.where(variance > rounding, variance, 0.0))


def _first(
    setting: Setting, samples: int | Array, length: Array, key: Array
) -> tuple[Array, Terms]:
    """Head of step 1 along w⋆, q⋆ and its own rest: uniform attention has Gaussian noise."""
    share = setting.relevant / setting.tokens
    level = setting.noise * jnp.sqrt(jnp.float32(setting.irrelevant)) / setting.tokens

    def row(label: Array, relevant: Array, other: Array, normals: Array) -> Array:
        plane = label[:, None] * (share * relevant + (1 - share) * other) + level * normals
        return jnp.pad(plane, ((0, 0), (0, 2)))

    terms = _terms(setting, samples, 2, key, row)
    noise_part = level / jnp.sqrt(jnp.asarray(samples, jnp.float32)) * length
    return jnp.append(terms.mean[:2], noise_part), terms


def _second(
    setting: Setting, samples: int | Array, head: Array, length: Array, key: Array
) -> tuple[Array, Terms]:
    """Prompt of step 2 along w⋆, q⋆, the head's rest, and its own rest."""
    count = setting.irrelevant

    def row(label: Array, own: Array, other: Array, normals: Array) -> Array:
        noise = setting.noise * normals.reshape(CHUNK, count, 3)
        irrelevant = jnp.pad(other, ((0, 0), (0, 1)))[:, None] + noise
        relevant = jnp.pad(own, ((0, 0), (0, 1)))[:, None]
        relevant = jnp.broadcast_to(relevant, (CHUNK, setting.relevant, 3))
        tokens = jnp.concatenate([relevant, irrelevant], axis=1)
        middle = tokens.mean(axis=1)
        scores = ((tokens - middle[:, None]) * head).sum(axis=2)
        miss = label - (middle * head).sum(axis=1)
        plane = miss[:, None] * (scores[:, :, None] * tokens).sum(axis=1) / setting.tokens
        # Given these coordinates, each orthogonal one is Gaussian with this variance.
        level = jnp.square(miss) * jnp.square(scores[:, setting.relevant :]).sum(axis=1)
        return jnp.column_stack([plane, jnp.square(setting.noise / setting.tokens) * level])

    terms = _terms(setting, samples, 3 * count, key, row)
    return _with_rest(terms, samples, length), terms


def _third(
    setting: Setting, samples: int | Array, prompt: Array, length: Array, key: Array
) -> tuple[Array, Terms]:
    """Head of step 3 along w⋆, q⋆, the prompt's rest, and its own rest."""
    norm = jnp.linalg.norm(prompt)
    unit = prompt[:3] / norm

    def row(label: Array, own: Array, other: Array, normals: Array) -> Array:
        scalars, away = normals[:, :-3], normals[:, -3:]
        relevant = (own * prompt[:2]).sum(axis=1, keepdims=True)
        relevant = jnp.repeat(relevant, setting.relevant, axis=1)
        irrelevant = (other * prompt[:2]).sum(axis=1, keepdims=True)
        irrelevant = irrelevant + setting.noise * norm * scalars
        weights = jax.nn.softmax(jnp.concatenate([relevant, irrelevant], axis=1), axis=1)
        share = weights[:, : setting.relevant].sum(axis=1, keepdims=True)
        weights = weights[:, setting.relevant :]
        drift = setting.noise * (weights * scalars).sum(axis=1, keepdims=True)
        energy = jnp.square(setting.noise) * jnp.square(weights).sum(axis=1)
        away = away - (away * unit).sum(axis=1, keepdims=True) * unit
        mean = jnp.pad(share * own + (1 - share) * other, ((0, 0), (0, 1))) + drift * unit
        feature = mean + jnp.sqrt(energy)[:, None] * away
        return jnp.column_stack([label[:, None] * feature, energy])

    terms = _terms(setting, samples, setting.irrelevant + 3, key, row)
    return _with_rest(terms, samples, length), terms


def _with_rest(terms: Terms, samples: int | Array, length: Array) -> Array:
    """A step's coordinates, the last of them along what is orthogonal to the others."""
    return terms.mean.at[3].set(jnp.sqrt(terms.mean[3] / samples) * length)
