r"""Softmax heads on one sequence, without and with a prefix (Petrov et al., ICLR 2024).

The options are those of models in use: scale, soft cap, learned sinks, masks of truth values or of
a float type, keys and values shared by groups of query heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxprompt.attention.masks import split_mask
from jaxprompt.errors import ParameterError

__all__ = [
    "PrefixedOutput",
    "attention_head",
    "attention_scores",
    "grouped_heads",
    "grouped_prefixed_heads",
    "log_sum_and_weights",
    "prefixed_head",
]

Given = Array | np.ndarray
"""What callers may pass: JAX or NumPy arrays."""


def attention_scores(
    queries: Float[Given, "*batch T k"],
    keys: Float[Given, "*batch S k"],
    mask: Shaped[Given, "*mask_shape"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Float[Array, "*batch T S"]:
    r"""Scores of every query on every key, as the softmax takes them.

    Scores are multiplied by `scale` (models divide by :math:`\sqrt k`), and with `soft_cap`
    :math:`c` then become :math:`c\tanh(\ell/c)`. `mask`, which broadcasts to their shape, is true
    where a query may look, or is of a float type and added after the cap: position biases, and
    −∞ or the least number of its dtype where a query may not look
    (:func:`~jaxprompt.attention.masks.split_mask`). There the score is −∞.

    Raises:
        ParameterError: `soft_cap` is not above 0.
    """
    if soft_cap is not None and not soft_cap > 0:
        raise ParameterError(
            "soft_cap", soft_cap, "a number > 0", "leave it out for uncapped scores"
        )
    scores = jnp.asarray(queries) @ jnp.asarray(keys).swapaxes(-1, -2)
    if scale != 1.0:
        scores = scores * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    visible, added = split_mask(mask)
    if added is not None:
        scores = scores + added.astype(scores.dtype)
    return scores if visible is None else jnp.where(visible, scores, -jnp.inf)


def attention_head(
    queries: Float[Given, "T k"],
    keys: Float[Given, "S k"],
    values: Float[Given, "S v"],
    mask: Shaped[Given, "T S"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_score: float | Float[Given, ""] | None = None,
) -> Float[Array, "T v"]:
    r"""One softmax head: row `i` is :math:`\sum_j \varphi(q_i K^\top)_j v_j`.

    `mask`, `scale` and `soft_cap` are those of :func:`attention_scores`. A query that may look
    nowhere gives NaN. With `sink_score` :math:`b` the denominator has one more term
    :math:`e^b`, which has no value: a learned sink, or with b = 0 the softmax with "+1". A query
    that may look nowhere then gives 0.
    """
    scores = attention_scores(queries, keys, mask, scale=scale, soft_cap=soft_cap)
    values = jnp.asarray(values)
    if sink_score is None:
        return jax.nn.softmax(scores, axis=-1) @ values
    sink = jnp.broadcast_to(jnp.asarray(sink_score, scores.dtype), (scores.shape[0], 1))
    weights = jax.nn.softmax(jnp.concatenate([scores, sink], axis=-1), axis=-1)
    return weights[:, :-1] @ values


def grouped_heads(
    queries: Float[Given, "H T k"],
    keys: Float[Given, "G S k"],
    values: Float[Given, "G S v"],
    mask: Shaped[Given, "*mask_heads T S"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_scores: Float[Given, " H"] | None = None,
) -> Float[Array, "H T v"]:
    """H query heads on G key and value heads, each shared by H/G consecutive query heads.

    The options are those of :func:`attention_head`; each query head has its own sink, and a mask
    (H, T, S) is one for each of them, as ALiBi's biases are.

    Raises:
        ParameterError: H is not a multiple of G.
    """

    def one_head(query: Array, key: Array, value: Array, single: dict[str, Any]) -> Array:
        return attention_head(query, key, value, scale=scale, soft_cap=soft_cap, **single)

    return _over_groups(
        one_head, queries, (keys, values), {"mask": mask}, {"sink_score": sink_scores}
    )


class PrefixedOutput(NamedTuple):
    r"""What a head with a prefix computes at each of `T` queries.

    `mass` is the attention :math:`\alpha_i` that goes to the prefix, `content_mass` that to the
    content (:math:`1-\alpha_i` without a sink). The output is `mass` · `bias` + `content_mass` ·
    `content`, with `bias` the prefix values averaged by the attention within the prefix and
    `content` the output on the content alone, without prefix and sink. `bias` is 0 at a query that
    sees no prefix, `content` at one that sees no content.
    """

    output: Float[Array, "T v"]
    mass: Float[Array, " T"]
    bias: Float[Array, "T v"]
    content: Float[Array, "T v"]
    content_mass: Float[Array, " T"]


def prefixed_head(
    queries: Float[Given, "T k"],
    keys: Float[Given, "S k"],
    values: Float[Given, "S v"],
    prefix_keys: Float[Given, "n k"],
    prefix_values: Float[Given, "n v"],
    mask: Shaped[Given, "T S"] | None = None,
    prefix_mask: Shaped[Given, "T n"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_score: float | Float[Given, ""] | None = None,
) -> PrefixedOutput:
    r"""One softmax head over content and prefix together, split into its two parts.

    `mask` says which content a query sees, `prefix_mask` which prefix vectors; without them it
    sees all. The output equals :func:`attention_head` with the same options on the concatenated
    keys, values and masks. Without a prefix in sight that is the output without a prefix; with
    nothing in sight, and no sink, it is NaN. The mass without a sink is
    :math:`\sigma(\mathrm{LSE}_k\,\ell_{ik} - \mathrm{LSE}_j\,\ell_{ij})`, and with a sink
    of score b it comes from one softmax over :math:`(b, \mathrm{LSE}_k, \mathrm{LSE}_j)`. Neither
    overflows nor divides by :math:`1-\alpha_i`.
    """
    content_log, content_weights = log_sum_and_weights(
        attention_scores(queries, keys, mask, scale=scale, soft_cap=soft_cap)
    )
    prefix_log, prefix_weights = log_sum_and_weights(
        attention_scores(queries, prefix_keys, prefix_mask, scale=scale, soft_cap=soft_cap)
    )
    # What competes with a part is all the rest, and so has one number: a log-sum-exp.
    prefix_rival, content_rival = content_log, prefix_log
    if sink_score is not None:
        prefix_rival = jnp.logaddexp(content_log, jnp.asarray(sink_score, content_log.dtype))
        content_rival = jnp.logaddexp(prefix_log, jnp.asarray(sink_score, prefix_log.dtype))
    mass = jax.nn.sigmoid(prefix_log - prefix_rival)
    content_mass = jax.nn.sigmoid(content_log - content_rival)
    bias = prefix_weights @ jnp.asarray(prefix_values)
    content = content_weights @ jnp.asarray(values)
    output = mass[:, None] * bias + content_mass[:, None] * content
    return PrefixedOutput(output, mass, bias, content, content_mass)


def grouped_prefixed_heads(
    queries: Float[Given, "H T k"],
    keys: Float[Given, "G S k"],
    values: Float[Given, "G S v"],
    prefix_keys: Float[Given, "G n k"],
    prefix_values: Float[Given, "G n v"],
    mask: Shaped[Given, "*mask_heads T S"] | None = None,
    prefix_mask: Shaped[Given, "*prefix_mask_heads T n"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_scores: Float[Given, " H"] | None = None,
) -> PrefixedOutput:
    """:func:`prefixed_head` for H query heads on G shared key and value heads.

    Every field has a leading axis H: heads of one group share the prefix's keys and values, but
    not its mass. Options as there; each query head has its own sink, and masks may have a leading
    axis H too.

    Raises:
        ParameterError: H is not a multiple of G.
    """

    def one_head(query: Array, *others: Any) -> PrefixedOutput:
        *shared, single = others
        return prefixed_head(query, *shared, scale=scale, soft_cap=soft_cap, **single)

    shared = (keys, values, prefix_keys, prefix_values)
    masks = {"mask": mask, "prefix_mask": prefix_mask}
    return _over_groups(one_head, queries, shared, masks, {"sink_score": sink_scores})


def log_sum_and_weights(
    scores: Float[Array, "*batch n"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch n"]]:
    """Logarithm of the sum of exponentials, and the softmax, over the last axis.

    Where all scores are −∞, or there are none, the first is −∞ and the second 0: a query that sees
    nothing of this kind gives it no attention, and no NaN.
    """
    if scores.shape[-1] == 0:
        return jnp.full(scores.shape[:-1], -jnp.inf, scores.dtype), scores
    some = jnp.any(scores > -jnp.inf, axis=-1, keepdims=True)
    # Replaced before the softmax too, since its gradient would be NaN at −∞ alone.
    finite = jnp.where(some, scores, 0)
    log_sum = jnp.where(some[..., 0], jax.nn.logsumexp(finite, axis=-1), -jnp.inf)
    return log_sum, jnp.where(some, jax.nn.softmax(finite, axis=-1), 0)


def _over_groups(
    one_head: Any, queries: Any, shared: tuple[Any, ...], masks: dict[str, Any],
    sinks: dict[str, Any],
) -> Any:  # fmt: skip
    """`one_head` for every query head, with the arrays of its group, its masks and its sink."""
    queries, shared = jnp.asarray(queries), tuple(jnp.asarray(x) for x in shared)
    heads, groups = queries.shape[0], shared[0].shape[0]
    if not groups or heads % groups:
        raise ParameterError(
            "queries", f"{heads} heads", f"a multiple of the {groups} key heads",
            "give every group as many query heads",
        )  # fmt: skip

    def grouped(x: Array) -> Array:
        return x.reshape(groups, heads // groups, *x.shape[1:])

    # A mask of two axes serves every head.
    single = {name: jnp.asarray(x) for name, x in {**masks, **sinks}.items() if x is not None}
    each = {name for name, x in single.items() if name in sinks or x.ndim == 3}
    for name in each:
        if single[name].shape[0] != heads:
            raise ParameterError(
                name, f"shape {single[name].shape}", f"{heads} along its first axis",
                "give one for each query head",
            )  # fmt: skip
    single = {name: grouped(x) if name in each else x for name, x in single.items()}
    axes = {name: 0 if name in each else None for name in single}
    within = jax.vmap(one_head, in_axes=(0, *[None] * len(shared), axes))
    outputs = jax.vmap(within, in_axes=(0, *[0] * len(shared), axes))(
        grouped(queries), *shared, single
    )
    return jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), outputs)
