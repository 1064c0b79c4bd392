r"""Claim ``prefix.real_transformer``: the family's identities inside a pretrained transformer."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import (
    AtLeast,
    AtMost,
    Cell,
    Claim,
    Curves,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.extras import EXTRAS
from jaxprompt.core.keys import fold_in_parameters
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.networks.minilm import HEADS, Adapter
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.claims import bias_identity, pattern_invariance, prefix_subspace
from jaxprompt.prefix.claims.pattern_invariance import ratio_change
from jaxprompt.prefix.head_identity import HEAD, LAYER_CELL, PAIR, rounding_tolerance
from jaxprompt.prefix.training import encoder_layers, word_order
from jaxprompt.prefix.training.word_order import ARMS, BATCH, HEAD_WIDTH, Adaptation
from jaxprompt.stats import Estimate, exact_estimate, mean_estimate, proportion_estimate

__all__ = ["CLAIM", "closed_form", "measure_layers", "simulate"]

STATEMENT = r"""
MiniLM-L6, a pretrained encoder of 6 layers with $H=12$ heads of width $d_h=32$, reads real
sentences with $n$ prefix vectors $s_{k}$ in front of each layer's input. Given the inputs that a
layer actually gets, each of its heads has
$$t^{pt}_i=\sum_k\alpha_{ik}W_Vs_k+(1-\alpha_i)\,t_i,\qquad A^{pt}_{ij}=(1-\alpha_i)A_{ij},$$
so the biases of a head span at most $\min(n,d_h)$ dimensions, those of a layer at most
$H\min(n,d_h)$, and one vector gives each head one direction. In layer 1, whose inputs no prefix
can reach, the ratios of content attention are those of the model without a prefix, also after the
prefix was trained; from layer 2 on the inputs differ, and so do the ratios. Factors of low rank,
trained with as many parameters, change the ratios in layer 1 too. Trained to tell sentences from
the same words in reverse order, both do better than the model's own features.
"""

DERIVATION = r"""
`prefix.bias_identity`, `prefix.pattern_invariance` and `prefix.prefix_subspace` say nothing about
where weights and inputs come from. The encoder has no norm in front of its attention, so a prefix
vector enters as it is; empty places are no content. Rank-$r$ factors on the maps to queries and
values have $4dr$ parameters a layer, as many as $n=4r$ vectors. What accuracies a training reaches
is a measurement.

*Tolerances.* A layer is held to what its float type leaves of its scores, as in
`prefix.bias_identity`; the ranks count dimensions above that. Float64 scores of size $10^2$ leave
less than $10^{-9}$ of log-odds, and outputs of size 1 less than $10^{-12}$ outside the hull. Chance
leaves one half of the sentences open, so differences of less than a fifth decide nothing here.
"""

CHANGE, KEPT = 1e-3, 1e-11
"""A log-ratio that moves by more than the first number has changed; one that moves by less than the
second has been kept, up to rounding: weights down to 1e-30 come from float64 scores of size 10²."""

# --- the closed form ---


def closed_form(
    *, content_scores: Any = None, content_values: Any = None, prefix_scores: Any = None,
    prefix_values: Any = None, visible: Any = None, prefix_visible: Any = None,
    vectors: Any = None, layer: Any = None, added: str | None = None, content_damped: bool = True,
    mass_factor: float = 1.0, ratio_shift: float = 0.0,
    prefix_keeps: Literal["layer 1", "every layer"] = "layer 1",
    low_rank_keeps: Literal["no layer", "layer 1"] = "no layer", fewer: int = 0,
    prefix_gain: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Output and patterns for a query's arrays; with `vectors`, bounds of ranks and limits of
    accuracies; with `layer` and `added`, the limit of `pattern_change` in that layer.

    Falsifiers change the last seven arguments, which the theory has at their defaults.
    """
    predicted: dict[str, Any] = {}
    if content_scores is not None:
        predicted |= bias_identity.closed_form(
            content_scores=content_scores, content_values=content_values,
            prefix_scores=prefix_scores, prefix_values=prefix_values, visible=visible,
            prefix_visible=prefix_visible, content_damped=content_damped, mass_factor=mass_factor,
        )  # fmt: skip
        predicted["log_ratio_change"] = jnp.zeros_like(predicted["prefix_mass"]) + ratio_shift
    if layer is not None:
        keeps = {"prefix": prefix_keeps, "low_rank": low_rank_keeps}[str(added)]
        predicted["pattern_change"] = _limit_of_change(_keeps_ratios(keeps, layer))
    if vectors is not None:
        predicted |= prefix_subspace.closed_form(
            vectors=vectors, heads=HEADS, head_width=HEAD_WIDTH, fewer=fewer
        )
        predicted |= {f"{name}_accuracy": 0.5 for name in ("frozen", *ARMS)}
        predicted |= {"prefix_gain": prefix_gain, "low_rank_gain": 0.0, "first_layer": 0.0}
        predicted["later_layers"] = 0.0 if prefix_keeps == "every layer" else 1.0
        predicted["low_rank_first_layer"] = 0.0 if low_rank_keeps == "layer 1" else 1.0
    return predicted


def _keeps_ratios(keeps: str, layer: Any) -> Any:
    """Whether ratios in these layers are those of the model with nothing added."""
    return {
        "no layer": np.zeros(np.shape(layer), bool),
        "layer 1": np.equal(layer, 1),
        "every layer": np.ones(np.shape(layer), bool),
    }[keeps]


def _limit_of_change(kept: Any) -> Any:
    """At most rounding where ratios are kept, at least a visible change elsewhere."""
    if np.ndim(kept):
        return np.where(kept, KEPT, CHANGE)
    return AtMost(KEPT) if kept else AtLeast(CHANGE)


FALSIFIERS = (
    Falsifier("undamped", "adds the bias without damping the content", content_damped=False),
    Falsifier("mass +0.1 %", "a mass one per mille too large", mass_factor=1.001),
    Falsifier("ratios move", "log-ratios in a layer change by 0.001", ratio_shift=1e-3),
    Falsifier("every layer", "ratios stay those of the plain model in every layer",
              prefix_keeps="every layer"),
    Falsifier("factors keep too", "factors of low rank keep the ratios in layer 1",
              low_rank_keeps="layer 1"),
    Falsifier("n − 1 dimensions", "min(n, d_h) − 1 in each head", fewer=1),
    Falsifier("half more", "the prefix reads half of all sentences more", prefix_gain=0.5),
)  # fmt: skip


# --- the simulation ---


# No function of one trial: each start trains a model, which is then looked at in many ways.
def simulate(
    *, key: Key[Array, ""], trials: int, vectors: int | None = None, steps: int = 32,
    examples: int = 256, layer: int | None = None, added: str | None = None, **arrays: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """One query by the definition, and with `vectors` the training of a prefix and of factors.

    Both are trained from `trials` starts. Accuracies are proportions of all starts' test sentences,
    differences are paired; their standard errors are over test sentences. Ranks are the largest
    over layers, for the first start's prefix; changes of ratios those of the start and sentence
    that fit the claim least, or shares of both and of layers.

    Raises:
        ParameterError: a single layer was asked for, or `vectors` has no factors of equal size.
    """
    if layer is not None:
        raise ParameterError(
            "layer", layer, "left out in a simulation", "give `vectors`: all layers are measured",
            CLAIM.id,
        )  # fmt: skip
    estimates: dict[str, Estimate] = {}
    if arrays:
        estimates |= pattern_invariance.simulate(key=key, trials=trials, **arrays)
    if vectors is None:
        return estimates
    starts = word_order.adapt_from_starts(trials, vectors, steps, examples, key=key)
    right = {n: np.concatenate([x.right[n] for x in starts]) for n in ("frozen", *ARMS)}
    estimates |= {
        f"{name}_accuracy": proportion_estimate(int(read.sum()), len(read))
        for name, read in right.items()
    }
    frozen = right["frozen"].astype(np.float64)
    estimates |= {f"{arm}_gain": mean_estimate(right[arm] - frozen) for arm in ARMS}
    return {
        **estimates,
        **_bias_dimensions(starts[0].adapters["prefix"]),
        **_shares_of_changes(_pattern_changes(starts)),
    }


def _shares_of_changes(changes: Mapping[str, Float[np.ndarray, "starts L B"]]) -> dict[str, Any]:
    """The largest change in layer 1, and the shares that moved where each of them must."""
    prefix, low_rank = changes["prefix"], changes["low_rank"]
    numbers = {
        "first_layer": prefix[:, 0].max(),
        "later_layers": (prefix[:, 1:] > CHANGE).mean(),
        "low_rank_first_layer": (low_rank[:, 0] > CHANGE).mean(),
    }
    return {name: exact_estimate(value, len(prefix)) for name, value in numbers.items()}


def _bias_dimensions(adapter: Adapter) -> dict[str, Estimate]:
    """The quantities of `prefix.prefix_subspace` over all layers, on their own inputs."""
    with jax.enable_x64(True):
        weights, converted, encoded = encoder_layers.encode_sentences(adapter, "float64")
        assert converted.prefix is not None
        bias, bounded = _bias_and_bounds_by_layer(
            weights.layers.attention, encoded.streams, converted.prefix
        )
        draws = encoder_layers.run_layers(weights, encoded, converted.prefix)
        # A bias is a difference of outputs, so it is known to their rounding and no better.
        noise = rounding_tolerance(_describe_layer(draws, "float64"), np.asarray(draws.output))
        return prefix_subspace.largest_over_layers(bias, bounded, noise)


@functools.partial(jax.jit, compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _bias_and_bounds_by_layer(attention: Any, streams: Array, prefix: Array) -> Any:
    layer = functools.partial(prefix_subspace.bias_and_bounds, heads=HEADS, causal=False)
    return jax.vmap(layer)(attention, streams, prefix)


def _describe_layer(draws: head_identity.Draws, precision: str) -> dict[str, Any]:
    """Sizes and largest numbers of a measured layer (or of all), which set its rounding error."""
    largest = max(np.abs(draws.content_scores).max(), np.abs(draws.prefix_scores).max())
    sizes = {"width": HEADS * HEAD_WIDTH, "heads": HEADS}
    return {"precision": precision, **sizes, "scale": float(largest)}


def _pattern_changes(
    starts: Sequence[Adaptation],
) -> dict[str, Float[np.ndarray, "starts L B"]]:
    """Largest change of a log-ratio from the model with nothing added, by what was added.

    Over the heads and queries of each layer and sentence, in float64.
    """
    alone = encoder_layers.content_patterns(Adapter())

    def change(adapter: Adapter) -> np.ndarray:
        return ratio_change(encoder_layers.content_patterns(adapter), alone).max(axis=(-2, -1))

    return {arm: np.stack([change(x.adapters[arm]) for x in starts]) for arm in ARMS}


# --- the layers one by one ---


# An own experiment: what one training gave is measured in each layer and in both precisions.
def measure(claim: Claim, profile: str, key: Key[Array, ""]) -> list[Cell]:
    """The worked example and the training; then the first trained prefix, whole and its first
    vector alone, in every layer and in both precisions."""
    design = claim.designs[profile]
    cells = list(claim.measure_design(design, key))
    for run in design.runs:
        if "vectors" not in run:
            continue
        trained = dict(run)
        starts = word_order.adapt_from_starts(
            design.trials_of(run), **trained, key=fold_in_parameters(key, trained)
        )
        prefix = starts[0].adapters["prefix"]
        assert prefix.prefix is not None
        cells.append(Cell({"vectors": 1}, _bias_dimensions(Adapter(prefix.prefix[:, :1]))))
        for precision in ("float32", "float64"):
            cells += measure_layers(prefix, precision)
        cells += _change_cells(starts, trained["vectors"])
    return cells


def measure_layers(adapter: Adapter, precision: str) -> Iterator[Cell]:
    """One cell a layer: its heads' outputs in the model, and the exact scores of its inputs."""
    draws = encoder_layers.measure_heads(adapter, precision)
    for index in range(draws.output.shape[0]):
        layer = jax.tree.map(lambda x, index=index: x[index], draws)
        measured = {
            "output": layer.output,
            "attention": layer.attention,
            "prefix_attention": layer.prefix_attention,
            "prefix_mass": layer.prefix_attention.sum(axis=-1),
            "log_ratio_change": ratio_change(layer.attention, layer.alone),
        }
        sentences = len(layer.output)
        estimates = {name: exact_estimate(value, sentences) for name, value in measured.items()}
        which = {"layer": index + 1, "added": "prefix"}
        yield Cell({**which, **_describe_layer(layer, precision), **layer.parameters}, estimates)


def _change_cells(starts: Sequence[Adaptation], vectors: int) -> Iterator[Cell]:
    """One cell a layer, with the start and sentence that fit the claim worst.

    The largest change where the ratios must stay, the smallest where they must move.
    """
    for arm, moved in _pattern_changes(starts).items():
        for index in range(moved.shape[1]):
            must_stay = arm == "prefix" and index == 0
            worst = moved[:, index].max() if must_stay else moved[:, index].min()
            estimates = {"pattern_change": exact_estimate(worst, len(starts))}
            yield Cell({"vectors": vectors, "layer": index + 1, "added": arm}, estimates)


# --- the design ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """The arrays of a query, the size of a prefix, or a layer and what was added."""
    if not {"content_scores", "vectors", "layer"} & set(params):
        raise ParameterError(
            "vectors", "(missing)", "an integer ≥ 1", "give it, or a layer, or a query", where
        )
    if ("layer" in params) != ("added" in params):
        name = "added" if "layer" in params else "layer"
        raise ParameterError(name, "(missing)", "given with the other", "give both", where)
    return head_identity.validate(params, where)


CLAIM = Claim(
    id="prefix.real_transformer",
    title="The identities of prefixes inside a pretrained transformer",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024; model: all-MiniLM-L6-v2",
    parameters=(
        *HEAD,
        Parameter("vectors", "integer", "prefix vectors of each layer", "n", low=1, default=None),
        Parameter("steps", "integer", "training steps of each way", low=1, default=32,
                  simulate_only=True),
        Parameter("examples", "integer", "training sentences", low=BATCH, high=768, default=256,
                  simulate_only=True),
        Parameter("layer", "integer", "layer looked into", low=1, high=6, default=None),
        Parameter("added", "choice", "what was added", choices=tuple(ARMS), default=None),
    ),
    ignored=LAYER_CELL,
    check_parameters=validate,
    quantities=(
        Quantity("output", "a head's output (…, v)", rounding_tolerance, symbol=r"t^{pt}"),
        Quantity("attention", "weights on the content (…, m)", rounding_tolerance,
                 symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", rounding_tolerance,
                 symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", rounding_tolerance,
                 symbol=r"\alpha"),
        Quantity("log_ratio_change", "largest change of a log-ratio of content weights",
                 rounding_tolerance),
        Quantity("rank", "dimensions of a head's biases: at most", 0.0, side="upper"),
        Quantity("joined_rank", "dimensions of a layer's biases: at most", 0.0, side="upper"),
        Quantity("effective_rank", "dimensions weighted by their use: at most", 1e-9,
                 side="upper"),
        Quantity("odds_move", "move of log-odds as a share of its limit: at most", 1e-9,
                 side="upper"),
        Quantity("outside", "part of a bias outside the hull: at most", 1e-12, side="upper"),
        Quantity("pattern_change",
                 "largest change of a log-ratio, from the model with nothing added", 0.0,
                 side="predicted"),
        Quantity("first_layer", "the same of a prefix in layer 1: at most", KEPT, side="upper"),
        Quantity("later_layers", f"share of layers and sentences beyond it that move by {CHANGE}",
                 1e-9),
        Quantity("low_rank_first_layer", "share of sentences moved in layer 1 by factors", 1e-9),
        Quantity("frozen_accuracy", "the model's own features: at least", 0.2, side="lower"),
        Quantity("prefix_accuracy", "with a trained prefix: at least", 0.2, side="lower"),
        Quantity("low_rank_accuracy", "with factors of equal size: at least", 0.2, side="lower"),
        Quantity("prefix_gain", "prefix less the model's own features: at least", 0.2,
                 side="lower"),
        Quantity("low_rank_gain", "factors less the model's own features: at least", 0.2,
                 side="lower"),
    ),
    compared=Compared(
        {"content_scores": (-1e6, 1e6), "content_values": (-1e6, 1e6), "prefix_scores": (-1e6, 1e6),
         "prefix_values": (-1e6, 1e6), "visible": (0, 1), "prefix_visible": (0, 1),
         "vectors": (1, 48)},
        elsewhere="arrays: exact up to rounding, of a score of size L some L 1e-16 of a weight; "
        "ranks are exact; limits of the encoder's patterns and accuracies are no formulas, and "
        "stand for the check alone",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    measure=measure,
    designs={
        "quick": Design(Run(PAIR), Run(vectors=4, steps=32, examples=256), trials=2),
        "full": Design(Run(PAIR), Run(vectors=4, steps=120, examples=512), trials=5),
    },
    cost="trained",
    broadcasts="leading axes of the arrays; vectors, layer",
    extra=EXTRAS["transformer"],
    figure=Curves(
        x="layer",
        y="pattern_change",
        series="added",
        panel="vectors",
        panel_label="{value} vectors, or as many parameters",
        lines=(1, 2, 3, 4, 5, 6),
        log_y=True,
        steps=True,
        title="How far prefix and low rank move attention in MiniLM-L6",
        x_label="layer",
        y_label="change of a log-ratio",
        caption="limits to keep to: rounding for the prefix in layer 1, elsewhere a visible change",
    ),
)  # fmt: skip
