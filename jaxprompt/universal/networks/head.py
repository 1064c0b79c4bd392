r"""One prefixed softmax head, as a kernel estimator and as the fixed block matrices.

With content rows that score 0 and have value 0, a prefix of centres :math:`b_i` and values
:math:`v_i` makes the head's output

.. math:: g(x) \sum_i w_i(x)\, v_i, \qquad w_i \propto e^{\lambda\langle x, b_i\rangle + \log
          \omega_i}, \qquad g = \mathrm{sigmoid}\big(\mathrm{LSE}_i - \log T\big):

a Nadaraya–Watson estimator times a gate. Source: Petrov et al., ICML 2024; the width and the
weights are derived here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float
from scipy.special import expit

from jaxprompt.compute.namespace import Numbers, namespace_of

__all__ = ["HeadWeights", "apply_blocks", "blocks", "core", "estimate", "worst_case"]

CHUNK_BYTES = 24 * 2**20
"""Memory for one block of scores. Larger ones are handed back to the system after each use, and
faulting them in again takes three times as long as the arithmetic."""


class HeadWeights(NamedTuple):
    """The fixed head and the tokens it is given, as plain matrices of one dtype.

    `w_query`, `w_key` and `w_value` map a token row (width) to query, key and value rows;
    `prefix` (N, width) are the prefix tokens. `apply_blocks` evaluates the head.
    """

    w_query: np.ndarray
    w_key: np.ndarray
    w_value: np.ndarray
    prefix: np.ndarray


# --- the head as block matrices ------------------------------------------------------------------


def blocks(
    centres: np.ndarray,
    values: np.ndarray,
    concentration: float,
    log_weights: np.ndarray | None = None,
    *,
    scaled: bool = False,
) -> HeadWeights:
    """The head of the universality theorem: fixed projections, everything else in the prefix.

    Token rows are (query part, key part, value part). Content is (x, 0, 0); prefix token i is
    (0, λ b_i, v_i). With `log_weights` the query and key parts have one more coordinate, 1 in
    content and log ω_i in the prefix. With `scaled` the head divides scores by √d_k, d_k the
    key width, and the prefix's keys are multiplied by √d_k to make up for it.

    centres (N, n), values (N, d); float64 in and out.
    """
    centres, values = np.asarray(centres, np.float64), np.asarray(values, np.float64)
    keys = concentration * centres
    if log_weights is not None:
        keys = np.concatenate([keys, np.asarray(log_weights, np.float64)[:, None]], axis=1)
    count, p = keys.shape
    d = values.shape[1]
    if scaled:
        keys = keys * math.sqrt(p)
    eye_p, width = np.eye(p), 2 * p + d
    w_query, w_key = np.zeros((p, width)), np.zeros((p, width))
    w_value = np.zeros((d, width))
    w_query[:, :p], w_key[:, p : 2 * p], w_value[:, 2 * p :] = eye_p, eye_p, np.eye(d)
    prefix = np.concatenate([np.zeros((count, p)), keys, values], axis=1)
    return HeadWeights(w_query, w_key, w_value, prefix)


def content_tokens(query: np.ndarray, width: int, weighted: bool) -> np.ndarray:
    """Content rows (x, 0, 0), or ((x, 1), 0, 0) when the centres are weighted."""
    query = np.asarray(query, np.float64)
    if weighted:
        query = np.concatenate([query, np.ones((*query.shape[:-1], 1))], axis=-1)
    pad = np.zeros((*query.shape[:-1], width - query.shape[-1]))
    return np.concatenate([query, pad], axis=-1)


@functools.partial(jax.jit, static_argnames=("scaled", "alone"))
def apply_blocks(
    weights: HeadWeights, content: jax.Array, *, scaled: bool = False, alone: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of every content row over prefix and content rows jointly.

    content (T, width); with `alone` the content rows attend to the prefix only. Returns the
    outputs (T, d) and the share of attention on the prefix (T,),
    in the arguments' dtype. A plain head: it knows nothing of kernels, centres or gates.
    """
    rows = weights.prefix if alone else jnp.concatenate([weights.prefix, content])
    query, key = content @ weights.w_query.T, rows @ weights.w_key.T
    scores = query @ key.T
    if scaled:
        scores = scores / jnp.sqrt(jnp.asarray(weights.w_key.shape[0], scores.dtype))
    attention = jax.nn.softmax(scores, axis=-1)
    share = attention[:, : weights.prefix.shape[0]].sum(-1)
    return attention @ (rows @ weights.w_value.T), share


# --- the head as a kernel estimator --------------------------------------------------------------


def core(
    query: ArrayLike,
    centres: ArrayLike,
    values: ArrayLike,
    concentration: ArrayLike,
    log_weights: ArrayLike | None = None,
) -> tuple[Float[Numbers, "*_"], Float[Numbers, "*_"]]:
    r"""Output of the prefix alone and the log of its total mass, in float64 or as traced.

    query (…, n), centres (N, n), values (N, d) or (N,); returns (…, d) or (…,), and (…,):

    .. math:: \frac{\sum_i \omega_i e^{\lambda\langle x,b_i\rangle} v_i}
                   {\sum_i \omega_i e^{\lambda\langle x,b_i\rangle}}, \qquad
              \log \sum_i \omega_i e^{\lambda\langle x,b_i\rangle}.
    """
    xp = namespace_of(query, centres, values, concentration, log_weights)
    held = xp.asarray(values)
    scores = xp.asarray(concentration)[..., None] * (xp.asarray(query) @ xp.asarray(centres).T)
    if log_weights is not None:
        scores = scores + xp.asarray(log_weights)
    peak = scores.max(-1, keepdims=True)
    weight = xp.exp(scores - peak)
    mass = weight.sum(-1)
    total = mass if held.ndim == 1 else mass[..., None]
    return (weight @ held) / total, xp.log(mass) + peak[..., 0]


def estimate(
    query: np.ndarray,
    centres: np.ndarray,
    values: np.ndarray,
    concentration: float,
    *,
    content: int = 0,
    chunk: int | None = None,
    dtype: DTypeLike = np.float64,
    any_keys: bool = False,
) -> np.ndarray:
    """The head's output at many points of the sphere, in chunks of bounded memory.

    query (Q, n) and centres (N, n) are unit vectors, values (N, d); `content` is the number of
    content tokens that score 0. Returns (Q, d) in `dtype`. Scores are squared distances, so that
    float32 keeps the relative accuracy of the weights at any concentration. With `any_keys` the
    centres are keys over the concentration and need not have length 1, as after rounding.
    """
    query, count = np.asarray(query, dtype), len(centres)
    chunk = chunk or max(1, min(len(query), CHUNK_BYTES // (count * np.dtype(dtype).itemsize)))
    # Below this a sum of `count` weights may have lost some to underflow.
    least = count * float(np.finfo(dtype).tiny) / float(np.finfo(dtype).eps)
    parts = []
    with jax.enable_x64(True):
        # A column of ones sums the weights in the same product that sums the values.
        columns = np.concatenate([values, np.ones((count, 1))], axis=1)
        arrays = jnp.asarray(centres, dtype), jnp.asarray(columns, dtype)
        lam = jnp.asarray(concentration, dtype)
        # The kernel is scaled to e^0 at a centre: content's score 0 becomes −λ there.
        log_content = math.log(content) - concentration if content else -math.inf
        log_content = jnp.asarray(log_content, dtype)
        log_weights = None
        if any_keys:  # λ⟨x, c⟩ = λ − λ|x − c|²/2 + λ(|c|² − 1)/2
            excess = np.square(np.asarray(centres, np.float64)).sum(axis=1) - 1
            log_weights = jnp.asarray(concentration / 2 * excess, dtype)
        for start, block in _padded_blocks(query, chunk):
            sums = None if any_keys else np.asarray(_weighted_sums(block, *arrays, lam))
            if sums is not None and sums[:, -1].min() > least:
                total = sums[:, -1:] + np.exp(np.asarray(log_content))
            else:
                sums, content_mass = map(
                    np.asarray, _shifted_sums(block, *arrays, lam, log_content, log_weights)
                )
                total = sums[:, -1:] + content_mass
            parts.append((sums[:, :-1] / total)[: len(query) - start])
    return np.concatenate(parts)


def _padded_blocks(query: np.ndarray, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of one shape (the last one padded), so that they compile once."""
    for start in range(0, len(query), chunk):
        block = query[start : start + chunk]
        if len(block) < chunk:
            block = np.concatenate([block, np.repeat(block[-1:], chunk - len(block), axis=0)])
        yield start, block


def _squared_distance(query: jax.Array, centres: jax.Array) -> jax.Array:
    """(Q, N) squared distances as sums over coordinates: no cancellation for close points."""
    return sum(
        jnp.square(query[:, None, axis] - centres[None, :, axis]) for axis in range(query.shape[1])
    )  # type: ignore[return-value]


@jax.jit
def _weighted_sums(
    query: Float[Array, "Q n"],
    centres: Float[Array, "N n"],
    columns: Float[Array, "N d"],
    concentration: Float[Array, ""],
) -> Float[Array, "Q d"]:
    """Sums of the columns under weights that are 1 at distance 0: one pass over the scores."""
    return jnp.exp(-0.5 * concentration * _squared_distance(query, centres)) @ columns


@jax.jit
def _shifted_sums(
    query: Float[Array, "Q n"],
    centres: Float[Array, "N n"],
    columns: Float[Array, "N d"],
    concentration: Float[Array, ""],
    log_content: Float[Array, ""],
    log_weights: Float[Array, " N"] | None = None,
) -> tuple[Float[Array, "Q d"], Float[Array, "Q 1"]]:
    """The same for queries far from all centres: scaled to the largest weight or to content."""
    scores = -0.5 * concentration * _squared_distance(query, centres)
    if log_weights is not None:
        scores = scores + log_weights
    peak = jnp.maximum(scores.max(-1, keepdims=True), log_content)
    return jnp.exp(scores - peak) @ columns, jnp.exp(log_content - peak)


def worst_case(
    query: np.ndarray,
    centres: np.ndarray,
    concentration: float,
    *,
    content: int = 0,
    sup_norm: float = 0.0,
    lipschitz: float = 1.0,
) -> np.ndarray:
    r"""Largest error at each query over all Lipschitz functions, with values f(b_i); exact.

    .. math:: g\,L \sum_i w_i\, d(x, b_i) + (1-g)\,B

    The first term is attained by :math:`f = L\,d(x, \cdot)`; the second is what content tokens
    of value 0 can add when :math:`|f| \le B`. query (Q, n), centres (N, n) unit vectors; returns
    (Q,) float64. Derived here.
    """
    query = np.asarray(query, np.float64)
    chunk = max(1, min(len(query), CHUNK_BYTES // (8 * len(centres))))
    with jax.enable_x64(True):
        at = jnp.asarray(centres, jnp.float64)
        parts = [
            np.stack(_distance_moments(block, at, concentration))[:, : len(query) - start]
            for start, block in _padded_blocks(query, chunk)
        ]
    distance, log_mass = np.concatenate(parts, axis=1)
    if content == 0:
        return lipschitz * distance
    gate = expit(log_mass - math.log(content))
    return gate * lipschitz * distance + (1 - gate) * sup_norm


@jax.jit
def _distance_moments(
    query: Float[Array, "Q n"], centres: Float[Array, "N n"], concentration: Float[Array, ""]
) -> tuple[Float[Array, " Q"], Float[Array, " Q"]]:
    """Σ w d and the log of the prefix's mass Σ e^{λ⟨x,b⟩}."""
    squared = _squared_distance(query, centres)
    scores = -0.5 * concentration * squared
    peak = scores.max(-1, keepdims=True)
    weight = jnp.exp(scores - peak)
    angle = 2 * jnp.arcsin(jnp.minimum(jnp.sqrt(squared) / 2, 1.0))
    mass = weight.sum(-1)
    return (weight * angle).sum(-1) / mass, jnp.log(mass) + peak[:, 0] + concentration
