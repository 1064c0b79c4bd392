r"""The identity behind the family, its random layers, and what rounding leaves of both.

A head with a prefix is the head without it, damped, plus a bias:
:math:`A^{pt}_{ij}=(1-\alpha_i)A_{ij}` and
:math:`t^{pt}_i=\sum_k\alpha_{ik}W_Vs_k+(1-\alpha_i)t_i`. Source: Petrov et al., ICLR 2024;
derived again in :mod:`jaxprompt.prefix.claims.bias_identity`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.attention import attention_head, log_sum_and_weights, rounding_allowance
from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS, QuickJit
from jaxprompt.core.parameters import Parameter, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.networks.attention_layer import Projections, attend, normalise_rows

__all__ = [
    "HEAD",
    "LAYER_CELL",
    "Draws",
    "Layer",
    "draw_layer",
    "head_by_definition",
    "head_from_scores",
    "measure_layer",
    "rounding_tolerance",
    "validate",
]

HEAD = (
    Parameter("content_scores", "array", "scores of one query on the content, (…, m)", "ℓ_j",
              default=None),
    Parameter("content_values", "array", "values of the content, (…, m, v)", "W_V x_j",
              default=None),
    Parameter("prefix_scores", "array", "scores of the query on the prefix, (…, n)", "ℓ_k",
              default=None),
    Parameter("prefix_values", "array", "values of the prefix, (…, n, v)", "W_V s_k",
              default=None),
    Parameter("visible", "array", "1 for content the query sees, else 0, (…, m); all if left out",
              low=0, high=1, default=None),
    Parameter("prefix_visible", "array",
              "1 for prefix vectors the query sees, else 0, (…, n); all if left out",
              low=0, high=1, default=None),
)  # fmt: skip
"""Parameters of one query of a prefixed head; leading axes broadcast.

What a query sees is its own affair, of the prefix as of the content: one that sees no prefix has
the plain head's output, one that sees no content has the bias alone.
"""


# A fifth of the time to compile, and as fast.
@QuickJit
def head_from_scores(
    content_scores: Any, content_values: Any, prefix_scores: Any, prefix_values: Any,
    visible: Any = None, prefix_visible: Any = None, sink_scores: Any = None,
) -> dict[str, Array]:  # fmt: skip
    r"""Output (…, v), patterns (…, m) and (…, n) and mass (…) of a head with a prefix.

    .. math:: \alpha=\sigma\Big(\log\sum_k e^{\ell_k}-\log\sum_je^{\ell_j}\Big),\qquad
       t^{pt}=\alpha\sum_kp_kW_Vs_k+(1-\alpha)t

    with p the softmax over the prefix alone and t the output without it. Leading axes broadcast;
    dtype as given. Neither overflows nor divides by 1 − α. Scores of −∞ count as not seen. Where
    no prefix is seen α = 0, where no content is seen α = 1, and where nothing is seen all is NaN.

    With `sink_scores` (…), one number for each query, attention also goes to a sink that has no
    value: the three masses are one softmax over the sink's score and the two logarithms above, and
    the result has `content_mass` and `sink_mass` (…) too. A query that sees nothing else then gives
    everything to the sink, and 0.
    """
    content, prefix = jnp.asarray(content_scores), jnp.asarray(prefix_scores)
    if visible is not None:
        content = jnp.where(jnp.asarray(visible) > 0, content, -jnp.inf)
    if prefix_visible is not None:
        prefix = jnp.where(jnp.asarray(prefix_visible) > 0, prefix, -jnp.inf)
    prefix_log, prefix_weights = log_sum_and_weights(prefix)
    content_log, content_weights = log_sum_and_weights(content)
    masses: dict[str, Array] = {}
    if sink_scores is None:
        gap = prefix_log - content_log
        mass, content_mass = jax.nn.sigmoid(gap), jax.nn.sigmoid(-gap)
    else:
        sink = jnp.asarray(sink_scores, prefix_log.dtype)
        logs = jnp.stack(jnp.broadcast_arrays(sink, prefix_log, content_log), axis=-1)
        sink_mass, mass, content_mass = jnp.moveaxis(jax.nn.softmax(logs, axis=-1), -1, 0)
        masses = {"content_mass": content_mass, "sink_mass": sink_mass}
    bias = jnp.einsum("...n,...nv->...v", prefix_weights, jnp.asarray(prefix_values))
    output = jnp.einsum("...m,...mv->...v", content_weights, jnp.asarray(content_values))
    return {
        "output": mass[..., None] * bias + content_mass[..., None] * output,
        "attention": content_mass[..., None] * content_weights,
        "prefix_attention": mass[..., None] * prefix_weights,
        "prefix_mass": mass,
        **masses,
    }


def validate(
    params: dict[str, Any], where: str, *, describing: Sequence[Parameter] = (),
    has_sink: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The four arrays together, of shapes that fit; without what describes a measured layer.

    That is :data:`LAYER_CELL`, or the parameters in `describing`. With `has_sink` a query may see
    neither content nor prefix: it attends to its sink.

    Raises:
        ParameterError: an array is missing, or does not fit the others.
    """
    unused = {p.name for p in describing or LAYER_CELL}
    params = {name: value for name, value in params.items() if name not in unused}
    names = [p.name for p in HEAD[:4]]
    given = [name for name in names if name in params]
    if not given:
        return params
    for name in names:
        if name not in given:
            raise ParameterError(
                name, "(missing)", "an array of finite numbers", f"give it with {given[0]}", where
            )
    for scores, values in (
        ("content_scores", "content_values"),
        ("prefix_scores", "prefix_values"),
    ):
        size, shape = np.shape(params[scores]), np.shape(params[values])
        if len(size) < 1 or len(shape) < 2 or shape[-2] != size[-1]:
            raise ParameterError(
                values, f"shape {shape}", f"an array (…, {size[-1] if size else 'm'}, v)",
                f"give one row for each of `{scores}`", where,
            )  # fmt: skip
    _check_masks(params, where, has_sink)
    return params


def _check_masks(params: Mapping[str, Any], where: str, has_sink: bool) -> None:
    """Refuse masks that do not fit their scores, or that leave a query with nothing to see."""
    masks = {"visible": "content_scores", "prefix_visible": "prefix_scores"}
    given = {mask: scores for mask, scores in masks.items() if mask in params}
    for mask, scores in given.items():
        shape, size = np.shape(params[mask]), np.shape(params[scores])[-1]
        if not shape or shape[-1] != size:
            raise ParameterError(
                mask, f"shape {shape}", f"an array (…, {size})",
                f"give one entry for each of `{scores}`", where,
            )  # fmt: skip
    # A traced mask has no values yet, and with one part unmasked every query sees something.
    known = [np.asarray(params[mask]) for mask in given if not is_traced(params[mask])]
    for mask, entries in zip(given, known, strict=False):
        if not np.isin(entries, (0, 1)).all():
            raise ParameterError(mask, params[mask], "made of 0 and 1", "round its entries", where)
    if len(known) == len(masks) and not has_sink:
        anything = functools.reduce(np.logical_or, [entries.any(axis=-1) for entries in known])
        if not anything.all():
            raise ParameterError(
                "visible", f"shape {known[0].shape}", "1 somewhere, there or in `prefix_visible`",
                "let every query see some content or some of the prefix", where,
            )  # fmt: skip


def head_by_definition(
    content_scores: Any, content_values: Any, prefix_scores: Any, prefix_values: Any,
    visible: Any = None, prefix_visible: Any = None, sink_scores: Any = None,
) -> dict[str, Array]:  # fmt: skip
    """The same numbers by the definition, for one query: one softmax over prefix and content.

    With `sink_scores`, one number, it goes over the sink too.

    Raises:
        ParameterError: `content_scores` is not of one query.
    """
    if np.ndim(content_scores) != 1:
        raise ParameterError(
            "content_scores", f"shape {np.shape(content_scores)}", "one query, shape (m,)",
            "call simulate once for each query",
        )  # fmt: skip
    return _head_by_definition(
        content_scores, content_values, prefix_scores, prefix_values, visible, prefix_visible,
        sink_scores,
    )  # fmt: skip


@functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)
def _head_by_definition(
    content_scores: Any, content_values: Any, prefix_scores: Any, prefix_values: Any,
    visible: Any, prefix_visible: Any, sink_scores: Any,
) -> dict[str, Array]:  # fmt: skip
    scores = jnp.concatenate([jnp.asarray(prefix_scores), jnp.asarray(content_scores)])
    values = jnp.concatenate([jnp.asarray(prefix_values), jnp.asarray(content_values)])
    count = len(prefix_scores)
    seen = jnp.ones(len(scores), bool)
    if visible is not None:
        seen = seen.at[count:].set(jnp.asarray(visible) > 0)
    if prefix_visible is not None:
        seen = seen.at[:count].set(jnp.asarray(prefix_visible) > 0)
    query, keys = jnp.ones((1, 1), scores.dtype), scores[:, None]
    output = attention_head(query, keys, values, seen[None], sink_score=sink_scores)[0]
    every_weight = jnp.eye(len(scores), dtype=scores.dtype)
    pattern = attention_head(query, keys, every_weight, seen[None], sink_score=sink_scores)[0]
    head = {
        "output": output,
        "attention": pattern[count:],
        "prefix_attention": pattern[:count],
        "prefix_mass": pattern[:count].sum(),
    }
    if sink_scores is None:
        return head
    return {**head, "content_mass": pattern[count:].sum(), "sink_mass": 1 - pattern.sum()}


# --- random layers ---


class Layer(NamedTuple):
    """Sizes of a random layer; `dtype` is that of its run, any float type of JAX."""

    dtype: str = "float64"
    causal: bool = False
    prefix: int = 1
    heads: int = 1
    norm: bool = False
    tokens: int = 8
    width: int = 16


class Draws(NamedTuple):
    """Measured on R draws of a layer, at every position i and head h; R may be several axes.

    Scores and values are the exact ones of the weights, in float64; patterns and outputs come
    from the layer itself in its dtype, with the prefix and without (`alone`).
    """

    content_scores: Float[Array | np.ndarray, "*R H T S"]
    content_values: Float[Array | np.ndarray, "*R H 1 S v"]
    prefix_scores: Float[Array | np.ndarray, "*R H T n"]
    prefix_values: Float[Array | np.ndarray, "*R H 1 n v"]
    visible: Any
    output: Float[Array | np.ndarray, "*R H T v"]
    attention: Float[Array | np.ndarray, "*R H T S"]
    prefix_attention: Float[Array | np.ndarray, "*R H T n"]
    alone: Float[Array | np.ndarray, "*R H T S"]
    alone_output: Float[Array | np.ndarray, "*R H T v"]
    prefix_visible: Any = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the closed form."""
        named = {p.name: getattr(self, p.name) for p in HEAD}
        return {name: value for name, value in named.items() if value is not None}


def draw_layer(layer: Layer, scale: float, draws: int, *, key: Key[Array, ""]) -> Draws:
    """R random layers with random content and prefix, in one vmapped call.

    Weights, biases, content and prefix are normal, then queries are scaled so that the largest
    score of each draw is `scale`. Weights are representable in float32 in either dtype.
    """
    with jax.enable_x64(True):
        numbers = _normals(key, draws, -(-_numbers_per_layer(layer) // 1024) * 1024)
        drawn = _draw_layers(layer, jnp.float32(scale), numbers)
        arrays: Any = (None if x is None else np.asarray(x, _widest_dtype(x)) for x in drawn)
        return Draws(*arrays)


def split_row(row: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Arrays of these shapes from consecutive entries of one long row."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    pieces = jnp.split(row[: ends[-1]], ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _numbers_per_layer(layer: Layer) -> int:
    return 3 * layer.width * (layer.width + 1) + (layer.tokens + layer.prefix) * layer.width


def _widest_dtype(x: Array) -> type:
    # NumPy's own kind of bfloat16 is "V", so the question goes to JAX.
    return np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else np.int64


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normals(key: Array, draws: int, size: int) -> Array:
    return random_table.normals(key, 0, draws, size)


# A layer and its scales take less time to run so than to compile with optimisations.
@functools.partial(jax.jit, static_argnums=0, compiler_options=RUN_ONCE_OPTIONS)
def _draw_layers(layer: Layer, scale: Array, numbers: Array) -> Draws:
    return jax.vmap(functools.partial(_draw_layer, layer, scale))(numbers)


def _draw_layer(layer: Layer, scale: Array, numbers: Array) -> Draws:
    d, h, n, t = layer.width, layer.heads, layer.prefix, layer.tokens
    kernel, bias, content, prefix = split_row(numbers, ((d, 3 * d), (3 * d,), (t, d), (n, d)))
    kernel = kernel / np.float32(d**0.5)
    if layer.norm:
        content, prefix = normalise_rows(3 * content + 1), normalise_rows(3 * prefix + 1)
    content_scores, prefix_scores, *_ = _float64_scores_and_values(kernel, bias, content, prefix, h)
    largest = jnp.maximum(jnp.abs(content_scores).max(), jnp.abs(prefix_scores).max())
    column = jnp.where(jnp.arange(3 * d) < d, (scale / largest).astype(jnp.float32), 1)
    run = jnp.dtype(layer.dtype)
    weights = Projections((kernel * column).astype(run), (bias * column).astype(run))
    return measure_layer(
        weights, content.astype(run), prefix.astype(run), heads=h, causal=layer.causal
    )


def measure_layer(
    weights: Projections, content: Array, prefix: Array, *, heads: int, causal: bool
) -> Draws:
    """Measure a layer on one content (T, d) and prefix (n, d), in their dtype; no leading axis R.

    Scores and values are recomputed in float64, so 64-bit types must be on. `visible` is None
    where every position sees all.
    """
    content_scores, prefix_scores, *values = _float64_scores_and_values(
        *weights, content, prefix, heads
    )
    with_prefix = attend(weights, content, prefix, heads=heads, causal=causal)
    alone = attend(weights, content, heads=heads, causal=causal)
    causal_mask = None
    if causal:
        causal_mask = jnp.broadcast_to(jnp.tri(len(content), dtype=jnp.int32), content_scores.shape)
    return Draws(
        content_scores,
        values[0][:, None],
        prefix_scores,
        values[1][:, None],
        causal_mask,
        with_prefix.output.swapaxes(0, 1),
        with_prefix.content,
        with_prefix.prefix,
        alone.content,
        alone.output.swapaxes(0, 1),
    )


def _float64_scores_and_values(
    kernel: Array, bias: Array, content: Array, prefix: Array, heads: int
) -> tuple[Array, Array, Array, Array]:
    """Scores (H, T, S) and (H, T, n), values (H, S, v) and (H, n, v), in float64."""

    def split(x: Array) -> Array:
        wide = x.astype(jnp.float64) @ kernel.astype(jnp.float64) + bias.astype(jnp.float64)
        return wide.reshape(x.shape[0], 3, heads, -1).transpose(1, 2, 0, 3)

    (query, key, value), (_, prefix_key, prefix_value) = split(content), split(prefix)
    root = jnp.sqrt(jnp.float64(query.shape[-1]))

    def scores(keys: Array) -> Array:
        return query @ keys.swapaxes(1, 2) / root

    return scores(key), scores(prefix_key), value, prefix_value


# --- what rounding leaves ---

LAYER_CELL = (
    Parameter("precision", "choice", "float type that a measured layer ran in",
              choices=("float64", "float32", "float16", "bfloat16"), default=None),
    Parameter("width", "integer", "width of a measured layer", "d", low=1, default=None),
    Parameter("heads", "integer", "heads of a measured layer", "H", low=1, default=None),
    Parameter("scale", "real", "largest score of a measured layer", "L", low=0, default=None),
    Parameter("norm", "integer", "1 if its content and prefix passed a layer norm, else 0",
              low=0, high=1, default=None),
)  # fmt: skip
"""What a cell of a measured layer says of it beside :data:`HEAD`; neither side takes it.

The first four give the cell's tolerance (:func:`rounding_tolerance`), all of them name its rows.
"""

QUERY_TOLERANCE = 1e-13
"""Tolerance of one query that is given by its arrays, in float64: some hundred units of 1."""


def rounding_tolerance(point: Mapping[str, Any], predicted: Any) -> float:
    """√terms · eps · (1 + largest score) of a measured layer; 1e-13 for a query by its arrays.

    A score is a sum of d + d + d_h products, each rounded; roundings add like the root of their
    number, so a score is off by about √terms units in the last place of the largest score, and a
    softmax weight moves by as much relative to 1. That counts at the size of the largest predicted
    number where it is above 1. `point` has the parameters of :data:`LAYER_CELL`, in any float type
    that JAX computes in.
    """
    if "precision" not in point:
        return QUERY_TOLERANCE
    terms = 2 * point["width"] + point["width"] // point["heads"]
    sizes = np.abs(np.asarray(predicted, np.float64))
    size = float(sizes.max(initial=1.0, where=np.isfinite(sizes)))
    return rounding_allowance(
        point["precision"], terms=terms, largest_score=point["scale"], largest_value=size
    )


# --- worked examples ---

SINGLE = {
    "content_scores": np.log([1.0, 2.0]),
    "content_values": np.array([[1.0], [3.0]]),
    "prefix_scores": np.log([5.0]),
    "prefix_values": np.array([[-2.0]]),
}
"""The worked example: A = (1/3, 2/3), t = 7/3, α = 5/8, output −3/8."""

PAIR = {
    **SINGLE,
    "prefix_scores": np.log([5.0, 2.0]),
    "prefix_values": np.array([[-2.0], [4.0]]),
}
"""The same content with a second prefix vector: α = 7/10, output −2·5/10 + 4·2/10 + 7/10."""

PARTLY_SEEN = (
    {**PAIR, "prefix_visible": np.array([1, 0])},
    {**PAIR, "prefix_visible": np.array([0, 0])},
    {**PAIR, "visible": np.array([0, 0])},
)
"""The second vector hidden, which is :data:`SINGLE`; no prefix: output 7/3; no content: −2/7."""
