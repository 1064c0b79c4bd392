r"""Samplers of contextual data: token by token, and by the exact law of the pooled feature.

Coordinates: axis 0 is the direction of :math:`w_\star`, axis 1 that of :math:`q_\star`.

With the prompt :math:`q = \gamma q_\star` only the projections :math:`v_t` of the noise on
:math:`q_\star` enter the softmax, and the noise orthogonal to it stays Gaussian given the
weights. So a pooled feature is exactly

.. math:: \bar x = \big(s - (1-s)\delta_q\big) q_\star + y \big(s - (1-s)\delta_w\big) w_\star
   + \sigma \bar v \, \frac{q_\star}{Q} + \sigma \sqrt{p_2}\, g, \qquad g \perp q_\star,

at the cost of T − k scalars and d − 1 normals instead of T·d. The token sampler is the oracle.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key

from jaxprompt.compute import random_table
from jaxprompt.contextual.setting import Setting

__all__ = [
    "Sequence", "pooled_rows", "row_stream", "sample_sequence", "sequence_rows", "shift_index",
]  # fmt: skip


class Sequence(NamedTuple):
    """One sequence: its tokens as rows (the relevant ones first), label ±1 and shift's index."""

    tokens: Float[Array, "T d"]
    label: Float[Array, ""]
    shift: Int[Array, ""]


def sample_sequence(
    setting: Setting, dim: int, *, key: Key[Array, ""], dtype: jnp.dtype | type = jnp.float32
) -> Sequence:
    """Draw one sequence token by token, in `dtype`. Needs ``dim >= 2``."""
    label_key, shift_key, noise_key = jax.random.split(key, 3)
    label = jax.random.rademacher(label_key, (), dtype=dtype)
    shift = shift_index(setting, jax.random.uniform(shift_key, (), dtype=jnp.float32))
    noise = jax.random.normal(noise_key, (setting.irrelevant, dim), dtype=dtype)
    return Sequence(_draw_tokens(setting, label, shift, noise), label, shift)


def sequence_rows(
    setting: Setting, dim: int, first: int | Array, rows: int, *, key: Key[Array, ""]
) -> Sequence:
    """Sequences ``first …`` of a stream, token by token, in float32; `rows` is the leading axis.

    Their law is that of :func:`sample_sequence`, at half its cost and less. Sequence `i` is the
    same whatever chunk it is drawn in.
    """
    noise_key, choice_key = jax.random.split(key)
    label, shift = _draw_choices(setting, first, rows, choice_key)
    noise = random_table.normals(noise_key, first, rows, setting.irrelevant * dim)
    noise = noise.reshape(rows, setting.irrelevant, dim)
    tokens = jax.vmap(functools.partial(_draw_tokens, setting))(label, shift, noise)
    return Sequence(tokens, label, shift)


def _draw_tokens(setting: Setting, label: Array, shift: Array, noise: Float[Array, "N d"]) -> Array:
    """A sequence's tokens from its label, its shift's index and standard normals; their dtype."""
    dtype, dim = noise.dtype, noise.shape[-1]
    signal = jnp.asarray(setting.signal, dtype) * jnp.eye(1, dim, 0, dtype=dtype)[0]
    context = jnp.asarray(setting.context, dtype) * jnp.eye(1, dim, 1, dtype=dtype)[0]
    shift_context, shift_signal = jnp.asarray(setting.shifts, dtype)[shift]
    relevant = jnp.broadcast_to(context + label * signal, (setting.relevant, dim))
    irrelevant = -shift_context * context - shift_signal * label * signal
    irrelevant = irrelevant + jnp.asarray(setting.noise, dtype) * noise
    return jnp.concatenate([relevant, irrelevant])


def _draw_choices(
    setting: Setting, first: int | Array, rows: int, key: Array
) -> tuple[Float[Array, " rows"], Int[Array, " rows"]]:
    """Labels, and indices of the shifts, of sequences ``first …`` of a stream."""
    choice = random_table.uniforms(key, first, rows, 2)
    label = jnp.where(choice[:, 0] < 0.5, -1.0, 1.0).astype(jnp.float32)
    return label, shift_index(setting, choice[:, 1])


def pooled_rows(
    setting: Setting,
    dim: int,
    first: int | Integer[Array, ""],
    rows: int,
    *,
    key: Key[Array, ""],
) -> Float[Array, "rows d"]:
    r"""Label times pooled feature, :math:`y_i \bar x_i`, for training sequences ``first …``.

    float32, by the exact law, for the prompt :math:`\gamma q_\star`. Row `i` is the same
    whatever chunk it is drawn in, so sample sizes on a grid share one stream.
    """
    scalar_key, noise_key, choice_key = jax.random.split(key, 3)
    label, index = _draw_choices(setting, first, rows, choice_key)
    shift = jnp.asarray(setting.shifts, jnp.float32)[index]
    scalars = random_table.normals(scalar_key, first, rows, setting.irrelevant)
    # The sampler's own softmax, over all T tokens: the closed forms use another route.
    context, noise = (jnp.asarray(x, jnp.float32) for x in (setting.context, setting.noise))
    gain = jnp.asarray(setting.gain, jnp.float32) * context
    relevant_score = jnp.broadcast_to(gain * context, (rows, setting.relevant))
    irrelevant_score = gain * (noise * scalars - shift[:, :1] * context)
    weights = jax.nn.softmax(jnp.concatenate([relevant_score, irrelevant_score], axis=1), axis=1)
    attention = weights[:, : setting.relevant].sum(axis=1)
    weights = weights[:, setting.relevant :]
    spread = noise * jnp.sqrt((weights**2).sum(axis=1))
    along_signal = (attention - (1 - attention) * shift[:, 1]) * jnp.asarray(
        setting.signal, jnp.float32
    )
    along_context = (attention - (1 - attention) * shift[:, 0]) * context
    along_context = label * (along_context + noise * (weights * scalars).sum(axis=1))
    # y g has the law of g, so the label enters only where the feature is not symmetric in it.
    # One expression for the whole table, so that its numbers are made and used in one loop.
    column = lax.broadcasted_iota(jnp.int32, (1, dim), 1)
    bulk = spread[:, None] * random_table.normals(noise_key, first, rows, dim)
    bulk = bulk + jnp.where(column == 0, along_signal[:, None], 0)
    return jnp.where(column == 1, along_context[:, None], bulk)


def shift_index(setting: Setting, uniform: Float[Array, "*n"]) -> Int[Array, "*n"]:
    """Index of the shift that a uniform number in (0, 1) selects."""
    edges = jnp.cumsum(jnp.asarray(setting.shift_weights, uniform.dtype))[:-1]
    return jnp.searchsorted(edges, uniform, side="right").astype(jnp.int32)


_COLUMNS = 96
_DRAWN = 1024


def row_stream(setting: Setting, dim: int, first: int, count: int, key: Array) -> np.ndarray:
    """Rows ``first …`` of the stream of signed features :math:`y_i\\bar x_i`, in float32.

    One compilation serves all counts and all dimensions up to the next multiple of 96: a dimension
    is a prefix of the columns.
    """
    columns = -(-dim // _COLUMNS) * _COLUMNS
    start = first // _DRAWN * _DRAWN
    parts = [
        np.asarray(_draw(setting, columns, jnp.uint32(at), key))[:, :dim]
        for at in range(start, first + count, _DRAWN)
    ]
    return np.concatenate(parts)[first - start :][:count]


@functools.partial(jax.jit, static_argnums=1)
def _draw(setting: Setting, columns: int, first: Array, key: Array) -> Array:
    return pooled_rows(setting, columns, first, _DRAWN, key=jax.random.fold_in(key, 0))
