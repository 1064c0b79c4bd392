r"""What a prefix does to the attention layers of any model, from their arrays.

For each head the identity

.. math:: t^{pt}_i=\sum_k\alpha_{ik}v_k+(1-\alpha_i)t_i,\qquad A^{pt}_{ij}=(1-\alpha_i)A_{ij}

(Petrov et al., ICLR 2024; with sinks, caps, windows and shared keys in docs/prefix.md) is computed
in float64 from the scores and compared with what the layer computed in its own float type. What
follows from the identity is then measured: the mass α, the rank of the bias, and how much of the
effect one constant vector a head would reproduce.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.attention import attention_scores, grouped_heads, rounding_allowance, split_mask
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.audit_results import (
    Audit,
    BiasShape,
    Comparison,
    Deviation,
    LayerAudit,
    PrefixMass,
)
from jaxprompt.prefix.head_identity import head_from_scores

__all__ = ["TapedLayer", "audit", "audit_layer"]

DIRECTIONS = 3
"""Leading directions of the bias that are kept."""

ENERGIES = 8
"""Shares of the bias's leading directions that are kept."""

ROUNDINGS = 6
"""Roundings between a finished sum of products and an output, each in the layer's float type: of
the scale, the cap, the bias or mask, the softmax, the weight, and the sum over values."""

MOST_ALLOWED = 0.25
"""Rounding that may move a quarter of a query's attention leaves no comparison of patterns."""


@dataclass(frozen=True)
class TapedLayer:
    """One attention layer on one sequence with a prefix: arrays of NumPy, JAX or PyTorch.

    Shapes: H query heads on G key and value heads, T queries, n prefix vectors in front of S
    content positions. A leading axis of length 1 is taken off.

    `values` (G, n + S, v) and either `queries` (H, T, d) with `keys` (G, n + S, d), or `scores`
    (H, T, n + S), which are final. `mask` broadcasts to (H, T, n + S): true where a query sees a
    key, or of a float type and added to the scores, its dtype's minimum for what is not seen.
    `score_bias` is added too. `scale` multiplies the scores (1/√d if left out), then `soft_cap` c
    makes them c·tanh(ℓ/c). `sink_scores` (H) are learned sinks.

    What the layer computed, as far as it was recorded: `output` (H, T, v) and `pattern`
    (H, T, n + S), and the same of the layer without the prefix on the same input, `plain_output`
    (H, T, v) and `plain_pattern` (H, T, S). Without any of them the layer is computed here by its
    definition, in the dtype of `values`. `precision` names the layer's float type where `values`
    have another.

    `same_positions` and `shifted_positions` (H, T, S) are the patterns of the model without prefix,
    with the content at the positions it has behind the prefix, and at those from 0 on. `first` says
    that the layer's input is the same in all these runs, and `angle_error` how exactly positions
    enter it: the error of a rotary angle, 0 where there are none.
    """

    values: Any
    prefix: int
    queries: Any = None
    keys: Any = None
    scores: Any = None
    mask: Any = None
    score_bias: Any = None
    scale: float | None = None
    soft_cap: float | None = None
    sink_scores: Any = None
    output: Any = None
    pattern: Any = None
    plain_output: Any = None
    plain_pattern: Any = None
    same_positions: Any = None
    shifted_positions: Any = None
    first: bool = False
    angle_error: float = 0.0
    name: str = "layer"
    precision: str | None = None


def audit(
    layers: TapedLayer | Iterable[TapedLayer],
    *,
    untouched: Iterable[str] = (),
    model: Mapping[str, Any] | None = None,
) -> Audit:
    """Audit layers one after another; an iterator of tapes is consumed one layer at a time.

    `untouched` names layers without prefix and `model` describes the whole; both are passed on.

    Raises:
        ParameterError: an array of a layer does not fit the others.
    """
    given = (layers,) if isinstance(layers, TapedLayer) else layers
    audited = tuple(audit_layer(layer) for layer in given)
    return Audit(audited, tuple(untouched), dict(model or {}))


def audit_layer(tape: TapedLayer) -> LayerAudit:
    """One layer's numbers.

    Raises:
        ParameterError: an array does not fit the others.
    """
    with jax.enable_x64(True):
        layer = _read_layer(tape)
        with_prefix, plain = _closed_forms(layer)
        bias = np.einsum(
            "htn,hnv->htv", with_prefix["prefix_attention"], layer.values[:, : layer.prefix]
        )
        effect = with_prefix["output"] - plain["output"]
        uneven = effect - effect.mean(axis=1, keepdims=True)
        energy, uneven_energy = (np.square(x).sum(axis=(1, 2)) for x in (effect, uneven))
        pattern_identity, output_identity = _identities(tape, layer, with_prefix, plain)
        return LayerAudit(
            name=tape.name,
            precision=layer.precision,
            heads=layer.scores.shape[0],
            groups=layer.groups,
            head_dim=layer.values.shape[-1],
            prefix=layer.prefix,
            queries=layer.scores.shape[1],
            pattern_identity=pattern_identity,
            output_identity=output_identity,
            mass=_prefix_mass(layer, with_prefix["prefix_mass"]),
            share_seeing=float(layer.visible[..., : layer.prefix].any(axis=-1).mean()),
            bias=_bias_shape(bias, layer.prefix),
            effect_size=_ratio(energy.sum(), np.square(plain["output"]).sum()) ** 0.5,
            constant_share=1 - _ratio(uneven_energy.sum(), energy.sum()),
            constant_share_by_head=np.array(
                [1 - _ratio(u, e) for u, e in zip(uneven_energy, energy, strict=True)]
            ),
            same_positions=_compare(tape, layer, plain, "same_positions"),
            shifted_positions=_compare(tape, layer, plain, "shifted_positions"),
        )


# --- reading a tape ---


class _Layer(NamedTuple):
    """A tape in float64: scores (H, T, n + S), −∞ where a query does not see, values (H, n + S, v).

    `coordinate_errors` and `angle_errors` (H, T, n + S) are what a relative error of 1 of each
    coordinate, by chance of either sign, and of the angle between a query and a key would do to
    their score.
    """

    scores: np.ndarray
    values: np.ndarray
    sinks: np.ndarray | None
    prefix: int
    groups: int
    precision: str
    terms: float
    coordinate_errors: np.ndarray
    angle_errors: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        return self.scores > -np.inf

    @property
    def score_sizes(self) -> np.ndarray:
        """Absolute scores, 0 for what is not seen."""
        return np.where(self.visible, np.abs(np.where(self.visible, self.scores, 0)), 0)

    def allowance(self, size: float) -> float:
        """What rounding may leave where scores of this size count in full."""
        return rounding_allowance(self.precision, terms=self.terms, largest_score=size)


def _read_layer(tape: TapedLayer) -> _Layer:
    values = _float64(tape, "values", 3)
    if values is None:
        raise ParameterError("values", None, "an array (G, n + S, v)", "record them", tape.name)
    scores = _final_scores(tape)
    heads, _, keys = scores.shape
    groups, n = values.shape[0], int(tape.prefix)
    if heads % groups or values.shape[1] != keys:
        raise ParameterError(
            "values", f"shape {values.shape}", f"of shape (G, {keys}, v), G a divisor of {heads}",
            "give one row for each key, the prefix's first", tape.name,
        )  # fmt: skip
    if not 0 < n < keys:
        raise ParameterError(
            "prefix", n, f"an integer ≥ 1 and < {keys}, the number of keys",
            "say how many of the first keys are the prefix's", tape.name,
        )  # fmt: skip
    if not (scores > -np.inf).any(axis=-1).all():
        raise ParameterError(
            "mask", "hides every key from some query", "such that each query sees one",
            "leave padding out", tape.name,
        )  # fmt: skip
    sinks = _float64(tape, "sink_scores", 1, (heads,))
    precision = tape.precision or _dtype_name(tape.values)
    if precision not in ("float64", "float32", "float16", "bfloat16"):
        raise ParameterError(
            "precision", precision, "float64, float32, float16 or bfloat16",
            "say in which float type the layer ran", tape.name,
        )  # fmt: skip
    coordinate_errors, angle_errors = _score_errors(tape, scores)
    # Sums of products are kept in float32 at least, so that a 16-bit type rounds them once.
    summed = np.shape(tape.queries)[-1] if tape.queries is not None else values.shape[-1]
    return _Layer(
        scores=scores,
        values=np.repeat(values, heads // groups, axis=0),
        sinks=None if sinks is None else np.broadcast_to(sinks[:, None], scores.shape[:2]),
        prefix=n,
        groups=groups,
        precision=precision,
        terms=ROUNDINGS + (0 if precision.endswith("16") else summed),
        coordinate_errors=coordinate_errors,
        angle_errors=angle_errors,
    )


def _final_scores(tape: TapedLayer) -> np.ndarray:
    """Scores in float64 after scale, cap, bias and mask, −∞ where nothing is seen."""
    scores = _float64(tape, "scores", 3)
    if scores is not None:
        return np.where(scores > 0.5 * float(np.finfo(np.float32).min), scores, -np.inf)
    queries, keys = _float64(tape, "queries", 3), _float64(tape, "keys", 3)
    if queries is None or keys is None:
        raise ParameterError(
            "scores", None, "an array, or `queries` and `keys` given", "record either", tape.name
        )
    if queries.shape[0] % keys.shape[0] or queries.shape[2] != keys.shape[2]:
        raise ParameterError(
            "keys", f"shape {keys.shape}", f"(G, n + S, {queries.shape[2]}), G a divisor of "
            f"{queries.shape[0]}", "give the keys of every group", tape.name,
        )  # fmt: skip
    shape = (*queries.shape[:2], keys.shape[1])
    keys = np.repeat(keys, queries.shape[0] // keys.shape[0], axis=0)
    added = _additive_mask(tape, shape)
    scores = _scores(queries, keys, added, scale=_scale(tape), soft_cap=tape.soft_cap)
    return np.asarray(scores)


_scores = jax.jit(attention_scores, static_argnames=("scale", "soft_cap"))
_heads = jax.jit(grouped_heads, static_argnames=("scale", "soft_cap"))


def _scale(tape: TapedLayer) -> float:
    return np.shape(tape.queries)[-1] ** -0.5 if tape.scale is None else float(tape.scale)


def _additive_mask(tape: TapedLayer, shape: tuple[int, ...]) -> np.ndarray | None:
    """Mask and bias as one array to add, in float64; −∞ hides."""
    visible, added = split_mask(_unbatched(_numpy(tape.mask), len(shape)))
    bias = _float64(tape, "score_bias", 3)
    if visible is None and added is None and bias is None:
        return None
    total = np.zeros(shape)
    try:
        for term in (added, bias):
            total = total if term is None else total + np.asarray(term, np.float64)
        total = total if visible is None else np.where(np.asarray(visible), total, -np.inf)
    except ValueError:
        total = np.zeros(0)
    if total.shape != shape:
        raise ParameterError(
            "mask", f"shape {np.shape(tape.mask)}, `score_bias` {np.shape(tape.score_bias)}",
            f"broadcastable to {shape}", "give one entry for each key, the prefix's first",
            tape.name,
        )  # fmt: skip
    return total


def _score_errors(tape: TapedLayer, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ of squared products of coordinates, its root; and lengths of a query times a key.

    Absolute scores where queries and keys are not known.
    """
    queries, keys = _float64(tape, "queries", 3), _float64(tape, "keys", 3)
    visible = scores > -np.inf
    sizes = np.where(visible, np.abs(np.where(visible, scores, 0)), 0)
    if queries is None or keys is None:
        return sizes, sizes
    keys = np.square(np.repeat(keys, len(queries) // len(keys), axis=0))
    queries, scale = np.square(queries), abs(_scale(tape))
    coordinates = np.sqrt(queries @ keys.swapaxes(1, 2)) * scale
    lengths = np.sqrt(queries.sum(axis=-1)[..., None] * keys.sum(axis=-1)[:, None]) * scale
    return np.where(visible, coordinates + sizes, 0), np.where(visible, lengths, 0)


def _float64(
    tape: TapedLayer, name: str, axes: int, shape: tuple[int, ...] | None = None
) -> np.ndarray | None:
    """A tape's array in float64 with this many axes, or None where it has none."""
    given = _numpy(getattr(tape, name))
    if given is None:
        return None
    array = _unbatched(np.asarray(given, np.float64), axes)
    if array.ndim != axes or (shape is not None and array.shape != shape):
        wanted = f"of shape {shape}" if shape else f"an array with {axes} axes"
        raise ParameterError(
            name, f"shape {np.shape(given)}", wanted, "audit one sequence at a time", tape.name
        )
    return array


def _unbatched(array: Any, axes: int) -> Any:
    """Without a leading axis of length 1 that is one too many."""
    if array is not None and array.ndim == axes + 1 and array.shape[0] == 1:
        return array[0]
    return array


def _numpy(array: Any) -> Any:
    """As a NumPy array of the same kind; PyTorch's bfloat16, which NumPy lacks, as float32."""
    if array is None:
        return None
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        return (array.float() if _dtype_name(array) == "bfloat16" else array).numpy()
    return np.asarray(array)


def _dtype_name(array: Any) -> str:
    dtype = getattr(array, "dtype", None)
    return str(np.asarray(array).dtype if dtype is None else dtype).removeprefix("torch.")


# --- the identity ---


def _closed_forms(layer: _Layer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The heads with the prefix and without it, by the identity."""
    n = layer.prefix
    prefix, content = layer.scores[..., :n], layer.scores[..., n:]
    values = layer.values[:, None]

    def heads(prefix_scores: np.ndarray) -> dict[str, np.ndarray]:
        head = head_from_scores(
            content, values[..., n:, :], prefix_scores, values[..., :n, :], sink_scores=layer.sinks
        )
        return {name: np.asarray(value) for name, value in head.items()}

    return heads(prefix), heads(np.full_like(prefix, -np.inf))


def _identities(
    tape: TapedLayer,
    layer: _Layer,
    with_prefix: Mapping[str, np.ndarray],
    plain: Mapping[str, np.ndarray],
) -> tuple[Deviation, Deviation]:
    """What the layer computed against the closed forms: attention weights, and outputs."""
    computed = {
        name: _float64(tape, name, 3)
        for name in ("pattern", "plain_pattern", "output", "plain_output")
    }
    if all(array is None for array in computed.values()):
        computed = _by_definition(tape, layer)
    joint = np.concatenate([with_prefix["prefix_attention"], with_prefix["attention"]], axis=-1)
    expected = {
        "pattern": joint,
        "plain_pattern": plain["attention"],
        "output": with_prefix["output"],
        "plain_output": plain["output"],
    }
    sees_content = layer.visible[..., layer.prefix :].any(axis=-1)

    n, sizes, values = layer.prefix, layer.score_sizes, layer.values
    runs = ((joint, sizes, values), (plain["attention"], sizes[..., n:], values[:, n:]))
    unit = float(np.abs(values).max()) or 1.0
    weight_error = max(_weight_error(pattern, size) for pattern, size, _ in runs)
    output_error = max(_output_error(*run) for run in runs) / unit

    def deviation(
        names: tuple[str, str], effect: np.ndarray, unit: float, size: float
    ) -> Deviation:
        worst = 0.0
        for name in names:
            measured = computed[name]
            if measured is None:
                continue
            if measured.shape != expected[name].shape:
                raise ParameterError(
                    name, f"shape {measured.shape}", f"of shape {expected[name].shape}",
                    "record it as (heads, queries, …), the prefix's keys first", tape.name,
                )  # fmt: skip
            # A query that sees no content is nothing without the prefix: models differ there.
            rows = sees_content if name.startswith("plain") else np.ones_like(sees_content)
            worst = float(np.maximum(worst, np.abs(measured - expected[name])[rows].max()))
        largest = float(np.abs(effect).max())
        return Deviation(worst / unit, layer.allowance(size), largest / unit)

    change = with_prefix["attention"] - plain["attention"]
    return (
        deviation(("pattern", "plain_pattern"), change, 1.0, weight_error),
        deviation(
            ("output", "plain_output"), with_prefix["output"] - plain["output"], unit,
            output_error,
        ),
    )  # fmt: skip


def _weight_error(pattern: np.ndarray, sizes: np.ndarray) -> float:
    r"""How errors of the scores, of these sizes and by chance of either sign, show in a weight.

    To first order :math:`\mathrm dA_j=A_j(\mathrm d\ell_j-\sum_lA_l\,\mathrm d\ell_l)`, and squares
    add up. So large scores do not count where there is no attention, nor where there is all of it.
    """
    squares = np.square(pattern * sizes)
    total = squares.sum(axis=-1, keepdims=True)
    # The score's own term counts 1 − A, the others' A each.
    return float(np.sqrt(np.max((1 - 2 * pattern) * squares + np.square(pattern) * total)))


def _output_error(pattern: np.ndarray, sizes: np.ndarray, values: np.ndarray) -> float:
    r"""The same in an output: :math:`\mathrm dt=\sum_jA_j(v_j-t)\,\mathrm d\ell_j`."""
    squares = np.square(pattern * sizes)
    output = pattern @ values
    total = squares.sum(axis=-1, keepdims=True)
    variance = squares @ np.square(values) - 2 * output * (squares @ values)
    return float(np.sqrt(np.max(variance + np.square(output) * total)))


def _by_definition(tape: TapedLayer, layer: _Layer) -> dict[str, np.ndarray | None]:
    """One softmax over all keys, and one over the content, in the layer's own float type."""
    dtype, n = jnp.dtype(layer.precision), layer.prefix
    queries, keys = _float64(tape, "queries", 3), _float64(tape, "keys", 3)
    mask: np.ndarray | None = layer.visible
    scale, cap = 1.0, None
    if queries is None or keys is None:
        # A query is its own row of scores, and a key picks one of its entries.
        queries = np.where(layer.visible, layer.scores, 0)
        keys = np.broadcast_to(np.eye(queries.shape[-1]), (len(queries), *queries.shape[-1:] * 2))
    else:
        keys = np.repeat(keys, len(queries) // len(keys), axis=0)
        added = _additive_mask(tape, layer.scores.shape)
        mask = None if added is None else added.astype(dtype)
        scale, cap = _scale(tape), tape.soft_cap
    sinks = None if layer.sinks is None else layer.sinks[:, 0].astype(dtype)
    # Beside its values each key has a row of the identity, whose average is the weights.
    every_weight = np.broadcast_to(np.eye(keys.shape[1]), (len(keys), *keys.shape[1:2] * 2))
    values = np.concatenate([layer.values, every_weight], axis=-1)

    def heads(start: int) -> tuple[np.ndarray, np.ndarray]:
        computed = _heads(
            *(array.astype(dtype) for array in (queries, keys[:, start:], values[:, start:])),
            None if mask is None else mask[..., start:],
            scale=scale, soft_cap=cap, sink_scores=sinks,
        )  # fmt: skip
        outputs = np.asarray(computed, np.float64)
        width = layer.values.shape[-1]
        return outputs[..., :width], outputs[..., width + start :]

    (output, pattern), (plain_output, plain_pattern) = heads(0), heads(n)
    return {
        "pattern": pattern,
        "plain_pattern": plain_pattern,
        "output": output,
        "plain_output": plain_output,
    }


def _compare(
    tape: TapedLayer, layer: _Layer, plain: Mapping[str, np.ndarray], name: str
) -> Comparison | None:
    """The layer's relative pattern, from its own scores, against a run without prefix."""
    pattern = plain["attention"]
    other = _float64(tape, name, 3, pattern.shape)
    if other is None:
        return None
    difference = np.abs(pattern - other)
    n = layer.prefix
    size = _weight_error(pattern, layer.coordinate_errors[..., n:])
    turned = _weight_error(pattern, layer.angle_errors[..., n:])
    # Two runs round each for itself.
    allowed = 2 * (layer.allowance(size) + tape.angle_error * turned)
    largest = float(difference.max())
    return Comparison(
        largest=largest,
        distance=float(0.5 * difference.sum(axis=-1).mean()),
        allowed=allowed,
        equal=largest <= allowed if tape.first and allowed < MOST_ALLOWED else None,
    )


# --- what follows from it ---


def _prefix_mass(layer: _Layer, mass: np.ndarray) -> PrefixMass:
    n = layer.prefix
    visible = layer.visible
    on_prefix, on_content = visible[..., :n].sum(axis=-1), visible[..., n:].sum(axis=-1)
    lengths = np.unique(on_content)
    if len(lengths) > 12:
        # Lengths that double: the first and the last are always there.
        doubling = [length for length in lengths if (length & (length - 1)) == 0]
        lengths = np.unique([*doubling, lengths[-1]])
    return PrefixMass(
        mean=float(mass.mean()),
        by_head=mass.mean(axis=1),
        by_query=mass.mean(axis=0),
        quantiles=tuple(float(q) for q in np.quantile(mass, PrefixMass.LEVELS)),
        uniform=float((on_prefix / np.maximum(on_prefix + on_content, 1)).mean()),
        by_length=tuple((int(t), float(mass[on_content == t].mean())) for t in lengths),
        by_prefix_length=_mass_by_prefix_length(layer),
    )


def _mass_by_prefix_length(layer: _Layer) -> tuple[tuple[int, float], ...]:
    """Mean α with the first m vectors alone, for m = 1, 2, 4, … and n."""
    n = layer.prefix
    # The log-sum-exp of the first m scores, for all m at once.
    growing = np.logaddexp.accumulate(layer.scores[..., :n], axis=-1)
    rival = np.logaddexp.reduce(layer.scores[..., n:], axis=-1)
    if layer.sinks is not None:
        rival = np.logaddexp(rival, layer.sinks)
    kept = sorted({*(2**k for k in range(n.bit_length())), n})
    with np.errstate(invalid="ignore", over="ignore"):
        mass = 1 / (1 + np.exp(rival[..., None] - growing[..., [m - 1 for m in kept]]))
    return tuple((m, float(mean)) for m, mean in zip(kept, mass.mean(axis=(0, 1)), strict=True))


def _bias_shape(bias: np.ndarray, prefix: int) -> BiasShape:
    heads, queries, width = bias.shape
    rows = bias.swapaxes(0, 1).reshape(queries, heads * width)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    squares = np.square(sizes)
    total = squares.sum()
    return BiasShape(
        rank=int(_rank(sizes, rows.shape)),
        bound=min(queries, heads * min(prefix, width)),
        rank_by_head=_rank(np.linalg.svd(bias, compute_uv=False), (queries, width)),
        effective_rank=_ratio(total**2, np.square(squares).sum()),
        energy=tuple(_ratio(s, total) for s in squares[:ENERGIES]),
        directions=directions[:DIRECTIONS].astype(np.float32),
    )


def _rank(sizes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Singular values above what float64's rounding leaves of zeros."""
    least = sizes.max(axis=-1, keepdims=True) * max(shape) * np.finfo(np.float64).eps
    return np.asarray((sizes > least).sum(axis=-1))


def _ratio(numerator: Any, denominator: Any) -> float:
    """NaN where both are 0, as they are where no prefix is seen."""
    return float(numerator / denominator) if denominator > 0 else float("nan")
