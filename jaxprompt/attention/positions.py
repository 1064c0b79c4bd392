r"""How models tell a head where its tokens stand: rotations of vectors, and biases of scores."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprompt.errors import ParameterError

__all__ = ["alibi_bias", "alibi_slopes", "relative_buckets", "rotary_frequencies", "rotate"]


def rotary_frequencies(head_dim: int, base: float = 10_000.0) -> Float[np.ndarray, " f"]:
    r"""Angles by which a step of one position turns each pair: :math:`\theta_f=b^{-2f/d_h}`.

    float64. They fall from 1 to little more than 1/base.

    Raises:
        ParameterError: `head_dim` is not an even number ≥ 2, or `base` is not above 0.
    """
    if head_dim < 2 or head_dim % 2:
        raise ParameterError(
            "head_dim", head_dim, "an even number ≥ 2", "rotations turn pairs of coordinates"
        )
    if not base > 0:
        raise ParameterError("base", base, "a number > 0", "models use 10000 or more")
    return float(base) ** (-np.arange(0, head_dim, 2) / head_dim)


def rotate(
    vectors: Float[Array | np.ndarray, "*batch T k"], positions: Any, base: float = 10_000.0
) -> Float[Array, "*batch T k"]:
    r"""Rotary encoding: vector `i` turned to its position, :math:`R(p_i)x_i`.

    Coordinates f and f + k/2 are a pair, as in LLaMA. `positions` are numbers, negative ones too.
    The score of two turned vectors depends on the difference of their positions alone:
    :math:`(R(p)q)^\top R(r)\kappa=q^\top R(r-p)\kappa`.
    """
    vectors = jnp.asarray(vectors)
    frequencies = rotary_frequencies(vectors.shape[-1], base)
    # In the dtype of the vectors, but never below float32: bfloat16 has no integers above 256.
    exact = jnp.promote_types(vectors.dtype, jnp.float32)
    angles = jnp.outer(jnp.asarray(positions, exact), jnp.asarray(frequencies, exact))
    angles = angles.reshape((1,) * (vectors.ndim - 2) + angles.shape)
    cosine, sine = jnp.cos(angles).astype(vectors.dtype), jnp.sin(angles).astype(vectors.dtype)
    first, second = jnp.split(vectors, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def alibi_slopes(heads: int) -> Float[np.ndarray, " H"]:
    r"""Slopes of ALiBi (Press et al., ICLR 2022): :math:`2^{-8h/H}` for h = 1 … H; float64.

    For H that is no power of two, those of the largest power below, and then every other one of
    twice as many heads, as its authors and BLOOM have it.

    Raises:
        ParameterError: `heads` is below 1.
    """
    if heads < 1:
        raise ParameterError("heads", heads, "an integer ≥ 1", "a layer has one head at least")
    power = 2 ** (heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    finer = 2.0 ** (-4.0 * np.arange(1, 2 * power + 1, 2) / power)
    return np.concatenate([slopes, finer])[:heads]


def alibi_bias(heads: int, query_positions: Any, key_positions: Any) -> Float[np.ndarray, "H T S"]:
    """ALiBi's biases of scores, slope · (key position − query position), as a float mask."""
    distance = np.asarray(key_positions)[None, :] - np.asarray(query_positions)[:, None]
    return alibi_slopes(heads)[:, None, None] * distance


def relative_buckets(
    query_positions: Any, key_positions: Any, *, buckets: int = 32, reach: int = 128,
    causal: bool = True,
) -> Int[np.ndarray, "T S"]:  # fmt: skip
    """T5's buckets of relative positions; a table of `buckets` biases a head is read at them.

    Half of the buckets (half of one side's, where queries see both sides) are single distances,
    the others grow in size up to the distance `reach`, beyond which all share the last. A causal
    layer counts keys after the query as at distance 0.
    """
    distance = np.asarray(query_positions)[:, None] - np.asarray(key_positions)[None, :]
    if causal:
        side, size, distance = 0, buckets, np.maximum(distance, 0)
    else:
        size = buckets // 2
        side, distance = np.where(distance < 0, size, 0), np.abs(distance)
    single = size // 2
    growth = np.log(np.maximum(distance, 1) / single) / np.log(reach / single)
    wide = np.minimum(single + (growth * (size - single)).astype(np.int64), size - 1)
    return side + np.where(distance < single, distance, wide)
