r"""Attention on one sequence, as pure functions; the caller vmaps.

Symbols: ``X`` holds the `tokens` as rows, ``q`` is a prompt, :math:`\varphi` the softmax. Every
function computes in the dtype of its arguments. Sources: Oymak et al., ICML 2023 (prompt
attention and its rivals); Petrov et al., ICLR 2024 (heads with a prefix).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxprompt.errors import ParameterError

__all__ = [
    "PrefixedOutput",
    "attention_head",
    "grouped_heads",
    "grouped_prefixed_heads",
    "linear_pooling",
    "linear_prompt_attention",
    "log_sum_and_weights",
    "prefixed_head",
    "prompt_attention",
    "prompt_weights",
    "self_attention",
]

Given = Array | np.ndarray
"""What callers may pass: JAX or NumPy arrays."""


def prompt_weights(tokens: Float[Given, "T d"], prompt: Float[Given, " d"]) -> Float[Array, " T"]:
    r"""Softmax weights of a prompt: :math:`\varphi(Xq)`."""
    return jax.nn.softmax(jnp.asarray(tokens) @ prompt)


def prompt_attention(tokens: Float[Given, "T d"], prompt: Float[Given, " d"]) -> Float[Array, " d"]:
    r"""Softmax prompt-attention: :math:`X^\top \varphi(Xq)`."""
    return jnp.asarray(tokens).T @ prompt_weights(tokens, prompt)


def linear_prompt_attention(
    tokens: Float[Given, "T d"], prompt: Float[Given, " d"]
) -> Float[Array, " d"]:
    r"""Prompt-attention without softmax: :math:`X^\top X q / T`."""
    tokens = jnp.asarray(tokens)
    return tokens.T @ (tokens @ prompt) / tokens.shape[0]


def linear_pooling(tokens: Float[Given, "T d"]) -> Float[Array, " d"]:
    r"""Mean of the tokens: :math:`X^\top \mathbf 1 / T`."""
    return jnp.asarray(tokens).mean(axis=0)


def self_attention(tokens: Float[Given, "T d"], matrix: Float[Given, "d d"]) -> Float[Array, " d"]:
    r"""Mean-pooled self-attention: :math:`\frac1T \sum_t [\varphi(X M X^\top) X]_t`."""
    tokens = jnp.asarray(tokens)
    weights = jax.nn.softmax(tokens @ matrix @ tokens.T, axis=-1)
    return weights.mean(axis=0) @ tokens


def attention_head(
    queries: Float[Given, "T k"],
    keys: Float[Given, "S k"],
    values: Float[Given, "S v"],
    mask: Bool[Given, "T S"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_score: float | Float[Given, ""] | None = None,
) -> Float[Array, "T v"]:
    r"""One softmax head: row `i` is :math:`\sum_j \varphi(q_i K^\top)_j v_j`.

    Scores are multiplied by `scale` (models divide by :math:`\sqrt k`), and with `soft_cap`
    :math:`c` then become :math:`c\tanh(\ell/c)`. `mask` is true where a query may look; a query
    that may look nowhere gives NaN. With `sink_score` :math:`b` the denominator has one more term
    :math:`e^b`, which has no value: a learned sink, or with b = 0 the softmax with "+1". A query
    that may look nowhere then gives 0.
    """
    scores = _scores(queries, keys, mask, scale, soft_cap)
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
    mask: Bool[Given, "T S"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_scores: Float[Given, " H"] | None = None,
) -> Float[Array, "H T v"]:
    """H query heads on G key and value heads, each shared by H/G consecutive query heads.

    The options are those of :func:`attention_head`; each query head has its own sink.

    Raises:
        ParameterError: H is not a multiple of G.
    """
    head = functools.partial(attention_head, mask=mask, scale=scale, soft_cap=soft_cap)

    def one_head(query: Array, key: Array, value: Array, sink: Array | None) -> Array:
        return head(query, key, value, sink_score=sink)

    return _over_groups(one_head, queries, (keys, values), sink_scores)


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
    mask: Bool[Given, "T S"] | None = None,
    prefix_mask: Bool[Given, "T n"] | None = None,
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
        _scores(queries, keys, mask, scale, soft_cap)
    )
    prefix_log, prefix_weights = log_sum_and_weights(
        _scores(queries, prefix_keys, prefix_mask, scale, soft_cap)
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
    mask: Bool[Given, "T S"] | None = None,
    prefix_mask: Bool[Given, "T n"] | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    sink_scores: Float[Given, " H"] | None = None,
) -> PrefixedOutput:
    """:func:`prefixed_head` for H query heads on G shared key and value heads.

    Every field has a leading axis H: heads of one group share the prefix's keys and values, but
    not its mass. Options as there; each query head has its own sink.

    Raises:
        ParameterError: H is not a multiple of G.
    """
    head = functools.partial(
        prefixed_head, mask=mask, prefix_mask=prefix_mask, scale=scale, soft_cap=soft_cap
    )

    def one_head(query: Array, *others: Any) -> PrefixedOutput:
        return head(query, *others[:-1], sink_score=others[-1])

    shared = (keys, values, prefix_keys, prefix_values)
    return _over_groups(one_head, queries, shared, sink_scores)


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


def _scores(
    queries: Any, keys: Any, mask: Any, scale: float, soft_cap: float | None
) -> Float[Array, "T S"]:
    """Scores of every query on every key; −∞ where it may not look."""
    if soft_cap is not None and not soft_cap > 0:
        raise ParameterError(
            "soft_cap", soft_cap, "a number > 0", "leave it out for uncapped scores"
        )
    scores = jnp.asarray(queries) @ jnp.asarray(keys).T
    if scale != 1.0:
        scores = scores * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    return scores if mask is None else jnp.where(jnp.asarray(mask), scores, -jnp.inf)


def _over_groups(one_head: Any, queries: Any, shared: tuple[Any, ...], sinks: Any) -> Any:
    """`one_head` for every query head, with the arrays of its group."""
    queries, shared = jnp.asarray(queries), tuple(jnp.asarray(x) for x in shared)
    heads, groups = queries.shape[0], shared[0].shape[0]
    if heads % groups:
        raise ParameterError(
            "queries", f"{heads} heads", f"a multiple of the {groups} key heads",
            "give every group as many query heads",
        )  # fmt: skip

    def grouped(x: Array) -> Array:
        return x.reshape(groups, heads // groups, *x.shape[1:])

    sinks = None if sinks is None else grouped(jnp.asarray(sinks))
    sink_axis = None if sinks is None else 0
    within = jax.vmap(one_head, in_axes=(0, *[None] * len(shared), sink_axis))
    outputs = jax.vmap(within, in_axes=(0, *[0] * len(shared), sink_axis))(
        grouped(queries), *shared, sinks
    )
    return jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), outputs)
