r"""Pooled features of any token law by their exact law, and the error of a head on fresh sequences.

Only the T scalar scores of a sequence enter its softmax. The noise that the pooled feature keeps is
drawn as a whole: a vector with the tokens' covariance, of which the part that the score determines
is replaced. That costs three vectors of normals a sequence instead of T. Covariances are diagonal.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Key

from jaxprompt.compute import random_table

__all__ = [
    "Attended", "TokenArrays", "attend_scores", "error_on_fresh_sequences", "kept_noise",
    "signed_features",
]  # fmt: skip


class TokenArrays(NamedTuple):
    """The vectors of a token law and its prompt; variances are those of coordinates.

    `correlation_root` is a root of the irrelevant tokens' correlation matrix.
    """

    prompt: Float[Array, " d"]
    signal: Float[Array, " d"]
    context: Float[Array, " d"]
    irrelevant_variance: Float[Array, " d"]
    relevant_variance: Float[Array, " d"]
    common_variance: Float[Array, " d"]
    correlation_root: Float[Array, "N N"]
    shifts: Float[Array, "S 2"]
    shift_weights: Float[Array, " S"]


class Attended(NamedTuple):
    """What the softmax makes of each sequence: its label and shift, the relevant weight, and for
    irrelevant and relevant tokens the weighted score noise and the weighted variance."""

    label: Float[Array, " n"]
    shift: Float[Array, "n 2"]
    attention: Float[Array, " n"]
    irrelevant_score: Float[Array, " n"]
    relevant_score: Float[Array, " n"]
    irrelevant_level: Float[Array, " n"]
    relevant_level: Float[Array, " n"]


def attend_scores(
    arrays: TokenArrays, tokens: int, relevant: int, count: int, *, key: Key[Array, ""]
) -> Attended:
    """Draw the scores of `count` sequences and attend to them; float32."""
    arrays = _in_float32(arrays)
    choice_key, score_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (count, 2), jnp.float32)
    label = jnp.where(choice[:, 0] < 0.5, -1.0, 1.0).astype(jnp.float32)
    edges = jnp.cumsum(arrays.shift_weights)[:-1]
    index = (choice[:, 1:] > edges).sum(axis=1)
    shift = arrays.shifts[index]
    q = arrays.prompt
    # One table for all: each is unrolled code, which takes its time to compile.
    normals = random_table.normals(score_key, 0, count, tokens)
    near_normals, far_normals = normals[:, :relevant], normals[:, relevant:]
    far = jnp.sqrt(q**2 @ arrays.irrelevant_variance) * (far_normals @ arrays.correlation_root.T)
    near = jnp.sqrt(q**2 @ arrays.relevant_variance) * near_normals
    context, signal = q @ arrays.context, label * (q @ arrays.signal)
    behind = -shift[:, 0] * context - shift[:, 1] * signal
    scores = jnp.concatenate([(context + signal)[:, None] + near, behind[:, None] + far], axis=1)
    weights = jax.nn.softmax(scores, axis=1)
    near_weights, far_weights = weights[:, :relevant], weights[:, relevant:]
    # Independent normals are weighted by Rᵀ^{1/2}φ, so their squares sum to φᵀRφ.
    spread = far_weights @ arrays.correlation_root
    return Attended(
        label, shift, near_weights.sum(axis=1), (far_weights * far).sum(axis=1),
        (near_weights * near).sum(axis=1), jnp.square(spread).sum(axis=1),
        jnp.square(near_weights).sum(axis=1),
    )  # fmt: skip


def signed_features(
    arrays: TokenArrays, attended: Attended, *, key: Key[Array, ""]
) -> Float[Array, "n d"]:
    """Label times pooled feature of every sequence; float32."""
    arrays = _in_float32(arrays)
    count, dim = len(attended.label), len(arrays.prompt)
    normals = random_table.normals(key, 0, count, 3 * dim).reshape(count, 3, dim)

    def noise(which: int, variance: Array, level: Array, score: Array) -> Array:
        drawn = jnp.sqrt(variance) * normals[:, which]
        image = variance * arrays.prompt
        total = arrays.prompt @ image
        slope = image / jnp.where(total > 0, total, 1.0)
        wanted = score - jnp.sqrt(level) * (drawn @ arrays.prompt)
        return jnp.sqrt(level)[:, None] * drawn + wanted[:, None] * slope

    features = _mean_features(arrays, attended)
    features += noise(
        0, arrays.irrelevant_variance, attended.irrelevant_level, attended.irrelevant_score
    )
    features += noise(1, arrays.relevant_variance, attended.relevant_level, attended.relevant_score)
    common = jnp.sqrt(arrays.common_variance) * normals[:, 2]
    return attended.label[:, None] * (features + common)


def _in_float32(arrays: TokenArrays) -> TokenArrays:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)


def _mean_features(arrays: TokenArrays, attended: Attended) -> Float[Array, "n d"]:
    y, s = attended.label[:, None], attended.attention[:, None]
    near = arrays.context + y * arrays.signal
    far = -attended.shift[:, :1] * arrays.context - attended.shift[:, 1:] * y * arrays.signal
    return s * near + (1 - s) * far


def error_on_fresh_sequences(
    arrays: TokenArrays, head: Float[Array, " d"], fresh: Attended
) -> Float[Array, ""]:
    """Probability of a wrong sign given each sequence's scores, averaged over them."""
    context, signal = head @ arrays.context, head @ arrays.signal
    y, s = fresh.label, fresh.attention
    mean = s * (context + y * signal)
    mean -= (1 - s) * (fresh.shift[:, 0] * context + fresh.shift[:, 1] * y * signal)
    variance = head**2 @ arrays.common_variance
    for coordinate_variance, score, level in (
        (arrays.irrelevant_variance, fresh.irrelevant_score, fresh.irrelevant_level),
        (arrays.relevant_variance, fresh.relevant_score, fresh.relevant_level),
    ):
        kept, total = kept_noise(head, arrays.prompt, coordinate_variance)
        mean += score * ((head * coordinate_variance) @ arrays.prompt / total)
        variance += level * kept
    return ndtr(-y * mean / jnp.sqrt(variance)).mean()


def kept_noise(
    head: Float[Array, " d"], prompt: Float[Array, " d"], variance: Float[Array, " d"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Variance of a token's product with the head given its score; and the score's own, or 1."""
    total = prompt**2 @ variance
    total = jnp.where(total > 0, total, 1.0)
    return head**2 @ variance - ((head * variance) @ prompt) ** 2 / total, total
