r"""One attention layer with a prefix, as a pure function.

Notation of Petrov et al., ICLR 2024: queries come from the content alone, keys and values from
the prefix and the content together, so the joint pattern of head h at position i is
:math:`(A^{pt}_{h,i,k})` over the prefix, then :math:`(A^{pt}_{h,i,j})` over the content.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = ["Attended", "Projections", "attend", "dense", "normed", "visible"]


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


def visible(queries: int, keys: int, causal: bool) -> Bool[Array, "queries keys"]:
    """Which keys each query sees: all, or those up to its own place, the last one being last."""
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
    flat = x.reshape(-1, x.shape[-1]) @ kernel
    flat = flat if bias is None else flat + bias
    return flat.reshape(*x.shape[:-1], -1)


def normed(x: Float[Array, "*batch d"], epsilon: float = 1e-5) -> Float[Array, "*batch d"]:
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
    seen, count = visible(rows, size, causal), 0
    if prefix is not None:
        # The same for every sequence, so it is projected once.
        count = prefix.shape[0]
        own = jnp.broadcast_to(
            project(prefix, width, 3 * width), (*pairs.shape[:-4], count, *pairs.shape[-3:])
        )
        pairs = jnp.concatenate([own, pairs], axis=-4)
        seen = jnp.concatenate([jnp.ones((rows, count), bool), seen], axis=1)
    if present is not None:
        there = jnp.pad(present, [(0, 0)] * (present.ndim - 1) + [(count, 0)], constant_values=True)
        seen = seen & there[..., None, None, :]
    key, value = pairs[..., 0, :, :], pairs[..., 1, :, :]
    query = query / np.sqrt(query.shape[-1]).astype(query.dtype)
    scores = jnp.einsum("...thk,...shk->...hts", query, key)
    pattern = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    output = jnp.einsum("...hts,...shk->...thk", pattern, value)
    return Attended(output, pattern[..., :count], pattern[..., count:])
