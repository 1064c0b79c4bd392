"""Random heads with the options of models in use, run in any float type by the definition.

Keys and values are shared by groups of query heads, queries see a window, scores may be capped,
queries and keys normed, and every head has a sink.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxprompt.attention import rounding_allowance, visible_positions
from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.attention_layer import normalise_rows
from jaxprompt.prefix.head_identity import QUERY_TOLERANCE, split_row

__all__ = ["HEAD_CELL", "HeadDraws", "HeadKind", "draw_heads", "head_tolerance"]


class HeadKind(NamedTuple):
    """Sizes and options of random heads; `dtype` is that of their run, any float type of JAX.

    `window` counts the positions that a query sees, its own and those of the prefix among them;
    with `norm` queries and keys pass a layer norm.
    """

    dtype: str = "float64"
    window: int | None = None
    soft_cap: float | None = None
    norm: bool = False
    heads: int = 4
    groups: int = 2
    head_dim: int = 8
    tokens: int = 8
    prefix: int = 3

    def describe(self, largest_score: float) -> dict[str, Any]:
        """What :data:`HEAD_CELL` says of heads of this kind."""
        return {
            "precision": self.dtype, "head_dim": self.head_dim, "scale": largest_score,
            "window": self.window or 0, "soft_cap": self.soft_cap or 0.0, "norm": int(self.norm),
        }  # fmt: skip


HEAD_CELL = (
    Parameter("precision", "choice", "float type that measured heads ran in",
              choices=("float64", "float32", "float16", "bfloat16"), default=None),
    Parameter("head_dim", "integer", "width of a measured head", "d_h", low=1, default=None),
    Parameter("scale", "real", "largest score of a measured head, before a cap", "L", low=0,
              default=None),
    Parameter("window", "integer", "positions that a query of a measured head sees, 0 for all",
              low=0, default=None),
    Parameter("soft_cap", "real", "cap of a measured head's scores, 0 for none", low=0,
              default=None),
    Parameter("norm", "integer", "1 if its queries and keys were normed, else 0", low=0, high=1,
              default=None),
)  # fmt: skip
"""What a cell of measured heads says of them beside the arrays; neither side takes it.

The first three give the cell's tolerance (:func:`head_tolerance`), all of them name its rows.
"""


def head_tolerance(point: Mapping[str, Any], predicted: Any) -> float:
    """√d_h · eps · (1 + largest score) of a measured head; 1e-13 for a query by its arrays.

    A score is a sum of d_h products of numbers that are given, so only its own rounding counts
    (:func:`jaxprompt.attention.rounding_allowance`), at the size of the largest predicted number.
    """
    if "precision" not in point:
        return QUERY_TOLERANCE
    largest = float(np.abs(np.asarray(predicted, np.float64)).max(initial=0.0))
    return rounding_allowance(
        point["precision"], terms=point["head_dim"], largest_score=point["scale"],
        largest_value=largest,
    )  # fmt: skip


class HeadDraws(NamedTuple):
    """R draws of heads of one kind, at every position.

    Scores and values are the exact ones of the numbers that the heads were given, in float64;
    output and pattern (over prefix, content and sink, in this order) come from their run.
    """

    content_scores: Float[Array | np.ndarray, "R H T S"]
    content_values: Float[Array | np.ndarray, "R H 1 S v"]
    prefix_scores: Float[Array | np.ndarray, "R H T n"]
    prefix_values: Float[Array | np.ndarray, "R H 1 n v"]
    sink_scores: Float[Array | np.ndarray, "R H 1"]
    visible: Int[Array | np.ndarray, "T S"]
    prefix_visible: Int[Array | np.ndarray, "T n"]
    output: Float[Array | np.ndarray, "R H T v"]
    pattern: Float[Array | np.ndarray, "R H T P"]

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the closed form."""
        measured = ("output", "pattern")
        return {name: x for name, x in self._asdict().items() if name not in measured}


def draw_heads(
    kind: HeadKind, largest_score: float, draws: int, *, key: Key[Array, ""]
) -> HeadDraws:
    """R random causal layers of heads: normal queries, keys, values and sinks.

    Scores are scaled so that the largest of each draw is `largest_score`, before a cap; sinks are
    half as large, and never above it. All numbers given to a head are rounded to its dtype first.
    """
    with jax.enable_x64(True):
        drawn = _draw_heads(kind, draws, jnp.float64(largest_score), key)
        return HeadDraws(*(np.asarray(x) for x in drawn))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=RUN_ONCE_OPTIONS)
def _draw_heads(kind: HeadKind, draws: int, largest: Array, key: Array) -> HeadDraws:
    _, _, _, _, h, g, k, t, n = kind
    shapes = ((h, t, k), (g, n + t, k), (g, n + t, k), (h,))
    numbers = random_table.normals(key, 0, draws, sum(int(np.prod(shape)) for shape in shapes))
    each = jax.vmap(lambda row: _run_heads(kind, largest, split_row(row, shapes)))
    drawn = each(numbers.astype(jnp.float64))
    seen = jnp.asarray(_visible(kind), jnp.int32)
    return HeadDraws(**drawn, visible=seen[:, n:], prefix_visible=seen[:, :n])


def _visible(kind: HeadKind) -> Array:
    """What each query sees of the prefix, which stands just before the content, and of that."""
    positions = np.arange(-kind.prefix, kind.tokens)
    return visible_positions(positions[kind.prefix :], positions, window=kind.window)


def _run_heads(kind: HeadKind, largest: Array, arrays: list[Array]) -> dict[str, Array]:
    """One draw: exact scores and values, sinks, and output and pattern of the run."""
    dtype, n = jnp.dtype(kind.dtype), kind.prefix
    query, key, value, sink = arrays
    if kind.norm:
        query, key = normalise_rows(query), normalise_rows(key)
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    sink = jnp.clip(0.5 * largest * sink, -largest, largest).astype(dtype)
    key, value = (jnp.repeat(x, kind.heads // kind.groups, axis=0) for x in (key, value))
    wide = query.astype(jnp.float64) @ key.astype(jnp.float64).swapaxes(1, 2)
    scale = (largest / jnp.abs(wide).max()).astype(dtype)

    def capped(scores: Array) -> Array:
        cap = kind.soft_cap
        return scores if cap is None else cap * jnp.tanh(scores / cap)

    # The run: one softmax over prefix, content and sink, whose column then has no value.
    scores = capped((query @ key.swapaxes(1, 2)) * scale)
    scores = jnp.where(_visible(kind), scores, -jnp.inf)
    column = jnp.broadcast_to(sink[:, None, None], (*scores.shape[:2], 1))
    pattern = jax.nn.softmax(jnp.concatenate([scores, column], axis=2), axis=2)
    output = pattern[..., :-1] @ value
    exact = capped(wide * scale.astype(jnp.float64))
    values = value.astype(jnp.float64)[:, None]
    return {
        "content_scores": exact[..., n:],
        "content_values": values[:, :, n:],
        "prefix_scores": exact[..., :n],
        "prefix_values": values[:, :, :n],
        "sink_scores": sink.astype(jnp.float64)[:, None],
        "output": output.astype(jnp.float64),
        "pattern": pattern.astype(jnp.float64),
    }
