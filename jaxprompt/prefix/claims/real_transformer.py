r"""Claim ``prefix.real_transformer``: the family's identities inside a pretrained transformer."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxprompt.core.claim import (
    Cell,
    Claim,
    Curves,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
)
from jaxprompt.core.extras import EXTRAS
from jaxprompt.core.keys import fold_in_parameters
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.networks import minilm
from jaxprompt.networks.descend import descend
from jaxprompt.networks.minilm import HEADS, Adapter, Encoded, Text, Weights
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.claims import bias_identity, pattern_invariance, prefix_subspace
from jaxprompt.prefix.claims.pattern_invariance import ratio_change
from jaxprompt.prefix.head_identity import HEAD, PAIR, exact
from jaxprompt.prefix.training import adaptation, experiments, sentences
from jaxprompt.stats import Comparison, Estimate, compare_mean, mean_estimate, share_estimate

__all__ = ["ARMS", "CLAIM", "Outcome", "closed_form", "experiment", "simulate", "start"]

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
"""

WIDTH = 32
"""Width of a head."""

CHANGE, KEPT = 1e-3, 1e-11
"""A log-ratio that moves by more than the first number has changed; one that moves by less than the
second has been kept, up to rounding: weights down to 1e-30 come from float64 scores of size 10²."""

PER_RANK = 4
"""Prefix vectors with as many parameters as one more rank of both pairs of factors."""

# --- the closed form ---


def closed_form(
    *, vectors: Any = None, layer: Any = None, added: Any = None, steps: Any = None,
    examples: Any = None, **arrays: Any,
) -> dict[str, Any]:  # fmt: skip
    """Output and patterns for a query's arrays; with `vectors`, bounds of ranks and limits of
    accuracies; with `layer` and `added`, the limit of `pattern_change` in that layer."""
    return _closed_form({}, vectors=vectors, layer=layer, added=added, **arrays)


def _closed_form(
    wrong: dict[str, Any], *, vectors: Any = None, layer: Any = None, added: Any = None,
    steps: Any = None, examples: Any = None, **arrays: Any,
) -> dict[str, Any]:  # fmt: skip
    result: dict[str, Any] = {}
    if arrays.get("content_scores") is not None:
        result |= bias_identity.closed_form(
            **arrays,
            content_damped=not wrong.get("undamped"),
            mass_factor=wrong.get("mass", 1.0),
        )
        moved = wrong.get("ratios", 0.0)
        result["log_ratio_change"] = jnp.zeros_like(result["prefix_mass"]) + moved
    if layer is not None:
        result["pattern_change"] = np.where(_keeps_ratios(layer, added, wrong), KEPT, CHANGE)
    if vectors is not None:
        result |= prefix_subspace.closed_form(
            vectors=vectors, heads=HEADS, head_width=WIDTH, fewer=wrong.get("fewer", 0)
        )
        result |= {f"{name}_accuracy": 0.5 for name in ("frozen", *ARMS)}
        result |= {f"{arm}_gain": wrong.get(f"{arm}_gain", 0.0) for arm in ARMS}
        result["first_layer"] = 0.0
        result["later_layers"] = 0.0 if wrong.get("every_layer") else 1.0
        result["low_rank_first_layer"] = 0.0 if wrong.get("low_rank_keeps") else 1.0
    return result


def _keeps_ratios(layer: Any, added: str, wrong: dict[str, Any]) -> Any:
    """Whether attention ratios in these layers are those of the model with nothing added."""
    if added == "low_rank":
        return np.equal(layer, 1) & bool(wrong.get("low_rank_keeps"))
    return np.equal(layer, 1) | bool(wrong.get("every_layer"))


# --- training ---


ARMS = {"prefix": 1e-1, "low_rank": 1e-2}
"""Ways to adapt the model, and the best learning rates of 0.01, 0.03, 0.1, 0.3 and of 0.003, 0.01,
0.03, in 60 steps on two splits of their own."""


def start(arm: str, vectors: int, *, key: Key[Array, ""]) -> Adapter:
    """What is added before training, float32: a small prefix, or factors with no effect yet."""
    layers, d, rank = 6, HEADS * WIDTH, vectors // PER_RANK
    if arm == "prefix":
        return Adapter(0.1 * jax.random.normal(key, (layers, vectors, d), jnp.float32))
    down = jax.random.normal(key, (layers, 2, d, rank), jnp.float32) / np.float32(d**0.5)
    return Adapter(down=down, up=jnp.zeros((layers, 2, rank, d), jnp.float32))


BATCH, SHARPNESS = 16, 20.0
"""Sentences in a training step; and the factor that makes logits of cosines."""


class Outcome(NamedTuple):
    """One seed: the split, what each arm added, and which test sentences were read right."""

    split: sentences.Split
    adapters: dict[str, Adapter]
    right: dict[str, Float[np.ndarray, " m"]]


def _unit_rows(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@jax.jit
def features(weights: Weights, text: Text, adapter: Adapter) -> Float[Array, "B d"]:
    """Sentence embeddings of length 1."""
    return _unit_rows(
        minilm.mean_embedding(minilm.encode(weights, text, adapter).output, text.present)
    )


@jax.jit
def _train(
    weights: Weights, adapter: Adapter, head: Array, text: Text, labels: Array, rates: Array
) -> Adapter:
    """Train the added parameters by Adam; axis 0 of `text`, `labels` and `rates` is the step."""

    def loss(adapter: Adapter, batch: tuple[Text, Array]) -> Array:
        text, labels = batch
        output = minilm.encode(weights, text, adapter).output
        logits = SHARPNESS * _unit_rows(minilm.mean_embedding(output, text.present)) @ head.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    batches = (text, labels)
    return descend(loss, adapter, adaptation.MOMENTS, data=batches, rates=rates).parameters


@functools.lru_cache(maxsize=64)
def _train_start(
    seed: tuple[int, ...], place: int, vectors: int, steps: int, examples: int
) -> Outcome:
    key = jax.random.fold_in(_key(seed), place)
    split_key, batch_key, start_key = jax.random.split(key, 3)
    weights = jax.tree.map(jnp.asarray, minilm.load_pretrained())
    split = sentences.split_sentences(examples, TESTS, key=split_key)
    own = np.asarray(features(weights, split.train, Adapter()))
    means = [own[split.train_labels == label].mean(axis=0) for label in range(2)]
    head = _unit_rows(jnp.asarray(np.stack(means)))
    order = _batches(len(split.train_labels), steps, batch_key)
    text = jax.tree.map(lambda x: jnp.asarray(x)[order], split.train)
    labels = jnp.asarray(split.train_labels, jnp.int32)[order]
    fall = np.float32(1) - np.arange(steps, dtype=np.float32) / np.float32(steps)
    adapters = {
        arm: _train(weights, start(arm, vectors, key=start_key), head, text, labels,
                    np.float32(rate) * fall)
        for arm, rate in ARMS.items()
    }  # fmt: skip
    right = {
        name: np.asarray((features(weights, split.test, adapter) @ head.T).argmax(axis=1))
        == split.test_labels
        for name, adapter in {"frozen": Adapter(), **adapters}.items()
    }
    return Outcome(split, adapters, {n: x.astype(np.float64) for n, x in right.items()})


def _key(seed: tuple[int, ...]) -> Array:
    return jax.random.wrap_key_data(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")


def _batches(count: int, steps: int, key: Array) -> Int[np.ndarray, "steps batch"]:
    """Sentences of each step: one pass over all of them after another, each in a new order."""
    passes = -(-steps * BATCH // count)
    keys = jax.random.split(key, passes)
    rows = np.concatenate([np.asarray(jax.random.permutation(k, count)) for k in keys])
    return rows[: steps * BATCH].reshape(steps, BATCH)


TESTS = 150
"""Test sentences of each start."""


def experiment(
    seeds: int, vectors: int, steps: int, examples: int, *, key: Key[Array, ""]
) -> list[Outcome]:
    """Adapt the model from `seeds` starts, each with a split of its own of the same sentences.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
        ParameterError: no factors have as many parameters as that many vectors.
    """
    if vectors % PER_RANK:
        raise ParameterError(
            "vectors", vectors, f"a multiple of {PER_RANK} in a simulation",
            "factors of equal size have 4dr parameters a layer", CLAIM.id,
        )  # fmt: skip
    words = experiments.key_words(key)
    return [_train_start(words, place, vectors, steps, examples) for place in range(seeds)]


# --- measurements ---


def simulate(
    *, key: Key[Array, ""], trials: int, vectors: int | None = None, steps: int = 32,
    examples: int = 256, layer: int | None = None, added: str | None = None, **arrays: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """One query by the definition, and with `vectors` the training of a prefix and of factors.

    Both are trained from `trials` starts. Accuracies are shares of all starts' test sentences,
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
    result: dict[str, Estimate] = {}
    if arrays:
        result |= pattern_invariance.simulate(key=key, trials=trials, **arrays)
    if vectors is None:
        return result
    made = experiment(trials, vectors, steps, examples, key=key)
    right = {n: np.concatenate([x.right[n] for x in made]) for n in made[0].right}
    result |= {
        f"{name}_accuracy": share_estimate(int(own.sum()), len(own)) for name, own in right.items()
    }
    result |= {f"{arm}_gain": mean_estimate(right[arm] - right["frozen"]) for arm in ARMS}
    moved = _pattern_changes([x.adapters for x in made])
    return {
        **result,
        **_bias_dimensions(made[0].adapters["prefix"]),
        **exact(
            trials,
            first_layer=moved["prefix"][:, 0].max(),
            later_layers=(moved["prefix"][:, 1:] > CHANGE).mean(),
            low_rank_first_layer=(moved["low_rank"][:, 0] > CHANGE).mean(),
        ),
    }


SENTENCES = 16
"""Sentences on which each layer is measured."""


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@jax.jit
def _encode(weights: Weights, text: Text, adapter: Adapter) -> Encoded:
    return minilm.encode(weights, text, adapter)


@functools.lru_cache(maxsize=2)
def _model_and_sentences(dtype: str) -> tuple[Weights, Text]:
    text = sentences.full_length_sentences(SENTENCES)
    return _cast(minilm.load_pretrained(), dtype), text


def _bias_dimensions(adapter: Adapter) -> dict[str, Estimate]:
    """The quantities of `prefix.prefix_subspace` over all layers, on their own inputs."""
    with jax.enable_x64(True):
        weights, text = _model_and_sentences("float64")
        own = _cast(adapter, "float64")
        streams = _encode(weights, text, own).streams
        bias, found = _bias_and_bounds_by_layer(weights.layers.attention, streams, own.prefix)
        draws = _measure_layers(weights.layers.attention, streams, own.prefix)
        # A bias is a difference of outputs, so it is known to their rounding and no better.
        scores = max(jnp.abs(draws.content_scores).max(), jnp.abs(draws.prefix_scores).max())
        noise = head_identity.rounding_tolerance(
            _rounding("float64", float(scores)), np.asarray(draws.output)
        )
        return prefix_subspace.largest_over_layers(bias, found, noise)


@functools.partial(jax.jit, compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _bias_and_bounds_by_layer(attention: Any, streams: Array, prefix: Array) -> Any:
    one = functools.partial(prefix_subspace.bias_and_bounds, heads=HEADS, causal=False)
    return jax.vmap(one)(attention, streams, prefix)


def _rounding(dtype: str, largest: float) -> dict[str, Any]:
    return head_identity.rounding(HEADS * WIDTH, HEADS, dtype, largest)


def _layer_cells(adapter: Adapter, dtype: str) -> Iterator[Cell]:
    """One cell a layer: its heads' outputs in the model, and the exact scores of its inputs."""
    with jax.enable_x64(True):
        weights, text = _model_and_sentences(dtype)
        own = _cast(adapter, dtype)
        run = _encode(weights, text, own)
        draws = _measure_layers(weights.layers.attention, run.streams, own.prefix)
        actual = run.attended
        draws = draws._replace(
            output=actual.output.swapaxes(-3, -2),
            attention=actual.content,
            prefix_attention=actual.prefix,
        )
        arrays = jax.tree.map(lambda x: np.asarray(x, np.float64), draws)
    for layer in range(arrays.output.shape[0]):
        one = jax.tree.map(lambda x, layer=layer: x[layer], arrays)
        largest = max(np.abs(one.content_scores).max(), np.abs(one.prefix_scores).max())
        found = exact(
            SENTENCES,
            output=one.output,
            attention=one.attention,
            prefix_attention=one.prefix_attention,
            prefix_mass=one.prefix_attention.sum(axis=-1),
            log_ratio_change=ratio_change(one.attention, one.alone),
        )
        rounding = _rounding(dtype, float(largest))
        label = {"layer": layer + 1, "dtype": dtype, "largest_score": float(largest)}
        yield Cell({**one.parameters, "rounding": rounding, "label": label}, found)


@functools.partial(jax.jit, compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _measure_layers(attention: Any, streams: Array, prefix: Array) -> head_identity.Draws:
    one = functools.partial(head_identity.measure_layer, heads=HEADS, causal=False)
    over_sentences = jax.vmap(one, in_axes=(None, 0, None))
    return jax.vmap(over_sentences)(attention, streams, prefix)


def _pattern_changes(
    adapters: Sequence[Mapping[str, Adapter]],
) -> dict[str, Float[np.ndarray, "starts L B"]]:
    """Largest change of a log-ratio from the model with nothing added, by what was added.

    Over the heads and queries of each layer and sentence, in float64.
    """
    with jax.enable_x64(True):
        weights, text = _model_and_sentences("float64")
        alone = _patterns(_encode(weights, text, Adapter()))

        def change(adapter: Adapter) -> np.ndarray:
            found = _patterns(_encode(weights, text, _cast(adapter, "float64")))
            return ratio_change(found, alone).max(axis=(-2, -1))

        return {name: np.stack([change(x[name]) for x in adapters]) for name in ARMS}


def _change_cells(made: Sequence[Outcome], vectors: int) -> Iterator[Cell]:
    """One cell a layer, with the start and sentence that fit the claim worst.

    The largest change where the ratios must stay, the smallest where they must move.
    """
    for name, moved in _pattern_changes([x.adapters for x in made]).items():
        for layer in range(moved.shape[1]):
            pick = np.max if _keeps_ratios(layer + 1, name, {}) else np.min
            found = exact(len(made), pattern_change=pick(moved[:, layer]))
            yield Cell({"vectors": vectors, "layer": layer + 1, "added": name}, found)


def _patterns(encoded: Encoded) -> Float[np.ndarray, "L B H T S"]:
    return np.asarray(encoded.attended.content)


def measure(claim: Claim, profile: str, key: Key[Array, ""]) -> list[Cell]:
    """The worked example and the training; then the first trained prefix, whole and its first
    vector alone, in every layer and in both precisions."""
    cells, design = [], claim.designs[profile]
    for run in design.runs:
        if "vectors" not in run:
            cells.append(Cell(run, claim.simulate(key=key, trials=design.trials, **run)))
            continue
        own = dict(run)
        cells += claim.measure_design(Design((run,), design.trials), key)
        seeds = design.trials_of(run)
        made = experiment(seeds, **own, key=fold_in_parameters(key, own))
        first = made[0].adapters["prefix"]
        assert first.prefix is not None
        cells.append(Cell({"vectors": 1}, _bias_dimensions(Adapter(first.prefix[:, :1]))))
        for dtype in ("float32", "float64"):
            cells += _layer_cells(first, dtype)
        cells += _change_cells(made, own["vectors"])
    return cells


# --- the comparison ---


def compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Identities up to rounding, ranks and changes against their limits, accuracies from below."""
    rows = []
    for cell in cells:
        if "content_scores" in cell.parameters:
            rows += head_identity.compare_rounding(claim, [cell], predict)
            continue
        predicted = predict(**cell.parameters)
        for name, estimate in cell.estimates.items():
            value, tolerance = float(predicted[name]), claim.quantity(name).tolerance
            if estimate.stderr > 0:
                rows.append(
                    compare_mean(name, cell.parameters, value, estimate, tolerance=tolerance,
                                 side="lower")
                )  # fmt: skip
                continue
            share = name in ("later_layers", "low_rank_first_layer")
            above = name == "pattern_change" and value > KEPT
            side = "two" if share else "lower" if above else "upper"
            mean = float(estimate.mean)
            rows.append(Comparison(name, cell.parameters, value, mean, tolerance, side=side))
    return rows


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


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


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
    quantities=(
        Quantity("output", "a head's output (…, v)", 1e-13, symbol=r"t^{pt}"),
        Quantity("attention", "weights on the content (…, m)", 1e-13, symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", 1e-13, symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", 1e-13, symbol=r"\alpha"),
        Quantity("log_ratio_change", "largest change of a log-ratio of content weights", 1e-13),
        Quantity("rank", "dimensions of a head's biases: at most", 0.0),
        Quantity("joined_rank", "dimensions of a layer's biases: at most", 0.0),
        Quantity("effective_rank", "dimensions weighted by their use: at most", 1e-9),
        # Rounding of float64 scores of size 10², and of outputs of size 1.
        Quantity("odds_move", "move of log-odds as a share of its limit: at most", 1e-9),
        Quantity("outside", "part of a bias outside the hull: at most", 1e-12),
        Quantity("pattern_change",
                 "largest change of a log-ratio, from the model with nothing added", 0.0),
        Quantity("first_layer", "the same of a prefix in layer 1: at most", KEPT),
        Quantity("later_layers", f"share of layers and sentences beyond it that move by {CHANGE}",
                 1e-9),
        Quantity("low_rank_first_layer", "share of sentences moved in layer 1 by factors", 1e-9),
        # Chance leaves one half open: differences of less than a fifth decide nothing here.
        Quantity("frozen_accuracy", "the model's own features: at least", 0.2),
        Quantity("prefix_accuracy", "with a trained prefix: at least", 0.2),
        Quantity("low_rank_accuracy", "with factors of equal size: at least", 0.2),
        Quantity("prefix_gain", "prefix less the model's own features: at least", 0.2),
        Quantity("low_rank_gain", "factors less the model's own features: at least", 0.2),
    ),
    falsifiers=(
        Falsifier("undamped", "adds the bias without damping the content",
                  _wrong(undamped=True)),
        Falsifier("mass +0.1 %", "a mass one per mille too large", _wrong(mass=1.001)),
        Falsifier("ratios move", "log-ratios in a layer change by 0.001", _wrong(ratios=1e-3)),
        Falsifier("every layer", "ratios stay those of the plain model in every layer",
                  _wrong(every_layer=True)),
        Falsifier("factors keep too", "factors of low rank keep the ratios in layer 1",
                  _wrong(low_rank_keeps=True)),
        Falsifier("n − 1 dimensions", "min(n, d_h) − 1 in each head", _wrong(fewer=1)),
        Falsifier("half more", "the prefix reads half of all sentences more",
                  _wrong(prefix_gain=0.5)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design((PAIR, {"vectors": 4, "steps": 32, "examples": 256}), 2),
        "full": Design((PAIR, {"vectors": 4, "steps": 120, "examples": 512}), 5),
    },
    check_parameters=validate,
    measure=measure,
    compare=compare,
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
