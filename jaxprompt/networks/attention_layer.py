r"""One attention layer with a prefix, as a pure function.

Notation of Petrov et al., ICLR 2024: queries come from the content alone, keys and values from
the prefix and the content together, so the joint pattern of head h at position i is
:math:`(A^{pt}_{h,i,k})` over the prefix, then :math:`(A^{pt}_{h,i,j})` over the content.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "Attended",
    "Projections",
    "attend",
    "attention_mask",
    "attention_with_vjp",
    "dense",
    "embed_tokens",
    "normalise_rows",
]


class Projections(NamedTuple):
    """Weights of one layer: query, key and value side by side, each split evenly over the heads.

    The output map is not part of it: the identities are about what comes before.
    """

    kernel: Float[Array, "d three_d"]
    bias: Float[Array, " three_d"]


class Attended(NamedTuple):
    """What a layer computes at each of T queries: outputs of all heads, and their patterns.

    `prefix` and `content` are the two parts of each pattern, which sum to 1 over both.
    """

    output: Float[Array, "*batch T H v"]
    prefix: Float[Array, "*batch H T n"]
    content: Float[Array, "*batch H T S"]


def attention_mask(queries: int, keys: int, causal: bool) -> Bool[Array, "queries keys"]:
    """Attention mask: true where a query sees a key.

    If causal, the queries are the last positions of the keys, and each sees the keys up to its own
    position.
    """
    if not causal:
        return jnp.ones((queries, keys), bool)
    return jnp.arange(keys) <= jnp.arange(keys - queries, keys)[:, None]


def dense(
    x: Float[Array, "*batch i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None = None,
) -> Float[Array, "*batch o"]:
    """x·W + b over the last axis, as one product of two matrices however many axes lead.

    On CPU the gradient of W is then twice as fast as with the axes left apart.
    """
    flat = _matrix_product(x.reshape(-1, x.shape[-1]), kernel)
    flat = flat if bias is None else flat + bias
    return flat.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _matrix_product(x: Float[Array, "n i"], kernel: Float[Array, "i o"]) -> Float[Array, "n o"]:
    return x @ kernel


def _product_gradient(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    """The gradients; that of the kernel with its longer side on the right.

    On CPU a tall product of a transposed matrix takes up to 1.6 times as long as a wide one.
    """
    x, kernel = saved
    if x.shape[1] > slope.shape[1]:
        # Without the barrier XLA turns the product round again.
        return slope @ kernel.T, jax.lax.optimization_barrier(slope.T @ x).T
    return slope @ kernel.T, x.T @ slope


_matrix_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_gradient)


@jax.custom_vjp
def embed_tokens(
    tokens: Int[Array, "*batch"], table: Float[Array, "V d"]
) -> Float[Array, "*batch d"]:
    """Each token's row of the table; NaN for a token of V or more.

    The gradient of the table is a product with ones and zeros, not a slow scatter.
    """
    return table.at[tokens].get(mode="fill", fill_value=jnp.nan)


def _embedding_gradient(
    saved: tuple[Array, int], slope: Float[Array, "*batch d"]
) -> tuple[None, Float[Array, "V d"]]:
    tokens, size = saved
    ones = jax.nn.one_hot(tokens.ravel(), size, dtype=slope.dtype)
    return None, ones.T @ slope.reshape(-1, slope.shape[-1])


embed_tokens.defvjp(
    lambda tokens, table: (embed_tokens(tokens, table), (tokens, table.shape[0])),
    _embedding_gradient,
)


def normalise_rows(x: Float[Array, "*batch d"], epsilon: float = 1e-5) -> Float[Array, "*batch d"]:
    """The rows of x with mean 0 and variance 1; `epsilon` is added to the variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)


def attend(
    weights: Projections,
    content: Float[Array, "*batch S d"],
    prefix: Float[Array, "n d"] | None = None,
    *,
    heads: int,
    causal: bool,
    queries: int | None = None,
    present: Bool[Array | np.ndarray, "*batch S"] | None = None,
) -> Attended:
    """Attention of the last `queries` rows (default: all) over the prefix and the content.

    Every query sees the whole prefix; a causal mask governs the content only. The joint softmax
    runs over the concatenated scores, which is the definition and not the identity. Computes in
    the dtype of its arguments; masked scores are −∞. Leading axes are independent sequences,
    which share the prefix. Content that is not `present` (default: all is) is seen by no query.
    """
    size, width = content.shape[-2:]
    rows = size if queries is None else queries

    def project(x: Array, first: int, last: int) -> Array:
        kernel, bias = weights.kernel[:, first:last], weights.bias[first:last]
        joint = dense(x, kernel, bias)
        return joint.reshape(*joint.shape[:-1], (last - first) // width, heads, width // heads)

    if rows == size:
        # One product for all three when every row needs all of them.
        parts = project(content, 0, 3 * width)
        query, pairs = parts[..., 0, :, :], parts[..., 1:, :, :]
    else:
        query = project(content[..., size - rows :, :], 0, width)[..., 0, :, :]
        pairs = project(content, width, 3 * width)
    visible, count = attention_mask(rows, size, causal), 0
    if prefix is not None:
        # The same for every sequence, so it is projected once.
        count = prefix.shape[0]
        prefix_pairs = jnp.broadcast_to(
            project(prefix, width, 3 * width), (*pairs.shape[:-4], count, *pairs.shape[-3:])
        )
        pairs = jnp.concatenate([prefix_pairs, pairs], axis=-4)
        visible = jnp.concatenate([jnp.ones((rows, count), bool), visible], axis=1)
    if present is not None:
        there = jnp.pad(present, [(0, 0)] * (present.ndim - 1) + [(count, 0)], constant_values=True)
        visible = visible & there[..., None, None, :]
    key, value = pairs[..., 0, :, :], pairs[..., 1, :, :]
    output, pattern = attention_with_vjp(query, key, value, visible)
    return Attended(output, pattern[..., :count], pattern[..., count:])


# --- softmax(q·kᵀ/√d)·v with its gradient ---
#
# Written out since XLA on CPU lowers the six small products well only where the batch is one axis,
# rows and columns are in order, and transposed arrays are copied first: hence the barriers.


@jax.custom_vjp
def attention_with_vjp(
    query: Float[Array, "*batch T H k"],
    key: Float[Array, "*batch S H k"],
    value: Float[Array, "*batch S H v"],
    seen: Bool[Array, "*masks T S"],
) -> tuple[Float[Array, "*batch T H v"], Float[Array, "*batch H T S"]]:
    """Outputs of all heads and their patterns, exactly 0 where nothing is seen.

    The axes in front of a mask are broadcast. Computes in the dtype of the arguments.
    """
    return _attention_forward(query, key, value, seen)[0]


def _attention_forward(query: Array, key: Array, value: Array, visible: Array) -> tuple[Any, Any]:
    batch, heads = query.shape[:-3], query.shape[-2]
    q, k, v = _one_matrix_a_head(query), _one_matrix_a_head(key), _one_matrix_a_head(value)
    scores = _score_scale(q) * (q @ _swap_last_axes(k))
    scores = jnp.where(visible, scores.reshape(*batch, heads, *scores.shape[1:]), -jnp.inf)
    pattern = jax.nn.softmax(scores, axis=-1)
    p = pattern.reshape(-1, *pattern.shape[-2:])
    return (_split_heads(p @ v, batch), pattern), (q, k, v, p)


def _attention_gradient(saved: tuple[Array, ...], slopes: tuple[Array, Array]) -> tuple[Any, ...]:
    q, k, v, p = saved
    batch, slope = slopes[0].shape[:-3], _one_matrix_a_head(slopes[0])
    weighted = p * (slope @ _swap_last_axes(v) + slopes[1].reshape(p.shape))
    scores = _score_scale(q) * (weighted - p * weighted.sum(axis=-1, keepdims=True))
    gradients = (scores @ k, _copy(_swap_last_axes(scores)) @ q, _copy(_swap_last_axes(p)) @ slope)
    return (*(_split_heads(x, batch) for x in gradients), None)


attention_with_vjp.defvjp(_attention_forward, _attention_gradient)
_copy = jax.lax.optimization_barrier


def _score_scale(query: Array) -> Array:
    return jnp.asarray(1 / np.sqrt(query.shape[-1]), query.dtype)


def _swap_last_axes(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _one_matrix_a_head(x: Float[Array, "*batch T H k"]) -> Float[Array, "batch_H T k"]:
    """One matrix for each sequence and head."""
    return _copy(jnp.swapaxes(x, -3, -2).reshape(-1, x.shape[-3], x.shape[-1]))


def _split_heads(
    x: Float[Array, "batch_H T k"], batch: tuple[int, ...]
) -> Float[Array, "*batch T H k"]:
    return jnp.swapaxes(_copy(x).reshape(*batch, -1, *x.shape[1:]), -3, -2)
