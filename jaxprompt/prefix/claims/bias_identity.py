r"""Claim ``prefix.bias_identity``: a prefix damps a head's output and adds a bias."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import (
    Cell,
    Claim,
    Design,
    Falsifier,
    Panels,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, Trace
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.head_identity import (
    HEAD,
    LAYER_CELL,
    PAIR,
    PARTLY_SEEN,
    SINGLE,
    Draws,
    Layer,
    head_by_definition,
    head_from_scores,
    rounding_tolerance,
)
from jaxprompt.prefix.pictures import panels_of_outputs
from jaxprompt.prefix.training.adaptation import sharp_random_model
from jaxprompt.stats import Estimate, exact_estimate

__all__ = [
    "CLAIM",
    "LAYERS",
    "closed_form",
    "deviations_inside",
    "measure_random_layers",
    "simulate",
]

STATEMENT = r"""
Let a softmax head attend to content $x_j$ and to prefix vectors $s_1,\dots,s_n$, with the scores
$\ell_{ij}$ and $\ell_{ik}$, and let $A,t$ be its pattern and output without the prefix. Then
$$t^{pt}_i=\sum_k\alpha_{ik}W_Vs_k+(1-\alpha_i)\,t_i,\qquad
\alpha_i=\mathrm{sigmoid}\Big(\log\sum_k e^{\ell_{ik}}-\log\sum_je^{\ell_{ij}}\Big),\qquad
\alpha_{ik}=\alpha_i\frac{e^{\ell_{ik}}}{\sum_{k'}e^{\ell_{ik'}}},$$
where $j$ runs over the content and $k$ over the prefix vectors that position $i$ sees. A position
that sees no prefix has $\alpha_i=0$ and the plain output, one that sees no content has
$\alpha_i=1$. With several heads each has its own $\alpha$; a bias of $W_V$ belongs to the values,
and with a layer norm $W_Vs$ means $W_V\mathrm{LN}(s)$. In a deep model the identity holds inside
each layer for that layer's own inputs, so layer 1 is that of the model without a prefix and later
ones are not.
"""

DERIVATION = r"""
The joint softmax has the normaliser $Z_P+Z_C$ with $Z_P=\sum_ke^{\ell_{ik}}$ and
$Z_C=\sum_je^{\ell_{ij}}$. Put $\alpha_i=Z_P/(Z_P+Z_C)$. A content weight is
$e^{\ell_{ij}}/(Z_P+Z_C)=(1-\alpha_i)e^{\ell_{ij}}/Z_C=(1-\alpha_i)A_{ij}$, and a prefix weight
$\alpha_ie^{\ell_{ik}}/Z_P$. Sum the values with these weights. Nothing about the values, the
position or the rest of the model enters. Prompts and in-context examples are the case in which
the prefix vectors are the streams of real tokens (`prefix.soft_prompt`).

*Tolerances.* A query given by its arrays is held to $10^{-13}$, some hundred roundings in float64.
A measured layer is held to what its own float type leaves of a score, $\sqrt{N}\,\epsilon\,(1+L)$
with $N$ products in a score and $L$ the largest one, at the size of the output. Inside a deep
model, in float64 and with scores up to 50, three layers leave less than $10^{-11}$.
"""

# --- the closed form ---


def closed_form(
    *, content_scores: Any = None, content_values: Any = None, prefix_scores: Any = None,
    prefix_values: Any = None, visible: Any = None, prefix_visible: Any = None,
    layers: Any = None, content_damped: bool = True, masked_prefix: bool = True,
    prefix_weights: Literal["softmax", "uniform"] = "softmax",
    mass_from: Literal["prefix", "strongest"] = "prefix", mass_factor: float = 1.0,
    changed_share: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Output (…, v), patterns and mass of a head; with `layers`, limits for a deep model.

    Runs under jit and vmap, in the dtype of the arrays. Falsifiers change the last six arguments,
    which the theory has at their defaults.
    """
    deep: dict[str, Any] = {}
    if layers is not None:
        deep = {"own_inputs": 0.0, "first_layer": 0.0, "changed": changed_share}
    if content_scores is None:
        return deep
    query = (content_scores, content_values, prefix_scores, prefix_values, visible)
    prefix_mask = prefix_visible if masked_prefix else None
    head = head_from_scores(*query, prefix_mask)
    if not content_damped:
        plain = head_from_scores(*query, jnp.zeros(jnp.shape(prefix_scores), int))
        head["output"] = head["output"] + head["prefix_mass"][..., None] * plain["output"]
    if prefix_weights == "uniform":
        shape = jnp.shape(prefix_scores)
        share = head["prefix_mass"][..., None] / shape[-1]
        head["prefix_attention"] = jnp.broadcast_to(share, shape)
    if mass_from == "strongest":
        scores = jnp.asarray(prefix_scores)
        strongest = jnp.arange(scores.shape[-1]) == jnp.argmax(scores, axis=-1, keepdims=True)
        head["prefix_mass"] = head_from_scores(*query, strongest.astype(int))["prefix_mass"]
    return {**deep, **head, "prefix_mass": mass_factor * head["prefix_mass"]}


FALSIFIERS = (
    Falsifier("undamped", "adds the bias without damping the content", content_damped=False),
    Falsifier("uniform", "spreads the mass evenly over the prefix", prefix_weights="uniform"),
    Falsifier("strongest", "counts only the strongest prefix token in the mass",
              mass_from="strongest"),
    Falsifier("mass +0.1 %", "a mass one per mille too large", mass_factor=1.001),
    Falsifier("whole prefix", "every query sees the whole prefix", masked_prefix=False),
    Falsifier("every layer", "says that layer 2 matches the model without prefix too",
              changed_share=0.0),
)  # fmt: skip


# --- the simulation: inside a deep model ---

_WIDTH, _HEADS, _TOKENS, _PREFIX = 24, 2, 8, 3


def deviations_inside(
    layers: int, draws: int, *, key: Key[Array, ""]
) -> dict[str, Float[np.ndarray, " R"]]:
    """For R random causal transformers (float64): largest deviations from the identity.

    `own_inputs` in any layer, given that layer's inputs; `first_layer` in layer 1, with the
    pattern of the model without prefix; `second_layer` the same in layer 2.
    """
    with jax.enable_x64(True):
        return {n: np.asarray(v) for n, v in _deviations_inside(layers, draws, key).items()}


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _deviations_inside(layers: int, draws: int, key: Array) -> dict[str, Array]:
    config = Config(layers, _HEADS, _WIDTH, _TOKENS, _TOKENS, 11)

    def one(key: Array) -> dict[str, Array]:
        model_key, token_key = jax.random.split(key)
        model = sharp_random_model(config, Added(prefix=_PREFIX), key=model_key)
        assert model.prefix is not None
        tokens = jax.random.randint(token_key, (_TOKENS,), 0, 8)
        full, base = Trace([], []), Trace([], [])
        model(tokens, trace=full)
        prefix, model.prefix = model.prefix[...], None
        model(tokens, trace=base)
        blocks = list(enumerate(model.blocks))
        from_own = [_layer_deviation(b, prefix[i], full, full, i) for i, b in blocks]
        from_base = [_layer_deviation(b, prefix[i], base, full, i) for i, b in blocks[:2]]
        return {
            "own_inputs": jnp.stack(from_own).max(),
            "first_layer": from_base[0],
            "second_layer": from_base[1],
        }

    return jax.vmap(one)(jax.random.split(key, draws))


def _layer_deviation(block: Any, prefix: Array, source: Trace, actual: Trace, layer: int) -> Array:
    """Largest difference of a layer's output from the identity on the stream of `source`."""
    stream = source.streams[layer]
    content, extra = block.norm(stream), block.norm(prefix)

    def split(x: Array) -> Array:
        wide = block.qkv(x).reshape(x.shape[0], 3, _HEADS, -1)
        return wide.transpose(1, 2, 0, 3)

    (query, key, value), (_, prefix_key, prefix_value) = split(content), split(extra)
    root = jnp.sqrt(jnp.asarray(query.shape[-1], query.dtype))
    size = stream.shape[0]
    expected = head_from_scores(
        query @ key.swapaxes(1, 2) / root, value[:, None],
        query @ prefix_key.swapaxes(1, 2) / root, prefix_value[:, None],
        jnp.tri(size, dtype=int),
    )  # fmt: skip
    return jnp.abs(expected["output"].swapaxes(0, 1) - actual.attended[layer].output).max()


CHANGE = 1e-3
"""Deviation from the identity that counts as a change: far above rounding, 1e-13."""


def simulate(
    *, key: Key[Array, ""], trials: int, layers: Any = None, **arrays: Any
) -> dict[str, Estimate]:
    """One query by the definition, and `trials` random transformers when `layers` is given."""
    estimates: dict[str, Estimate] = {}
    if arrays:
        with jax.enable_x64(True):
            head = head_by_definition(**arrays)
        estimates |= {name: exact_estimate(value, trials) for name, value in head.items()}
    if layers is not None:
        inside = deviations_inside(layers, trials, key=key)
        estimates |= {
            "own_inputs": exact_estimate(inside["own_inputs"].max(), trials),
            "first_layer": exact_estimate(inside["first_layer"].max(), trials),
            "changed": exact_estimate((inside["second_layer"] > CHANGE).mean(), trials),
        }
    return estimates


# --- the simulation: random layers ---

DRAWS = {"quick": 2_000, "full": 10_000}
"""Random draws of each layer and scale. They stay in memory until they are compared: about 10 MB
for a thousand of one layer and scale."""
SCALES = (10.0, 100.0, 1e3, 1e4)
"""Largest scores; at ±1e4 the softmax saturates, and nothing may overflow."""

LAYERS = {
    "quick": tuple(
        Layer(dtype, *rest)
        for dtype in ("float64", "float32")
        for rest in ((True, 4, 1, False), (False, 1, 2, True))
    ),
    "full": tuple(
        Layer(dtype, causal, prefix, heads, norm)
        for dtype, causal, (prefix, heads), norm in itertools.product(
            ("float64", "float32"), (False, True), ((1, 1), (5, 2), (20, 4)), (False, True)
        )
    ),
}
"""Random layers of each profile, shared with `prefix.pattern_invariance`."""


def measure_random_layers(
    profile: str, key: Key[Array, ""], draws: int
) -> Iterator[tuple[dict[str, Any], Draws]]:
    """A cell's parameters and its draws, for every layer and scale of a profile."""
    # Each layer meets every other scale: together they meet all, in both dtypes.
    chosen = [(x, s) for i, x in enumerate(LAYERS[profile]) for s in SCALES[i % 2 :: 2]]
    for index, (layer, scale) in enumerate(chosen):
        drawn = head_identity.draw_layer(layer, scale, draws, key=jax.random.fold_in(key, index))
        described = {
            "precision": layer.dtype, "width": layer.width, "heads": layer.heads, "scale": scale,
            "norm": int(layer.norm),
        }  # fmt: skip
        yield {**described, **drawn.parameters}, drawn


# One sample of a layer serves its scores, which are the cell's parameters, and its outputs.
def measure(
    claim: Claim, profile: str, key: Key[Array, ""], draws: int | None = None
) -> list[Cell]:
    """One cell a layer and scale: exact scores and values of its draws, and its output."""
    cells, draws = [], draws or DRAWS[profile]
    for parameters, drawn in measure_random_layers(profile, key, draws):
        measured = {
            "output": drawn.output,
            "attention": drawn.attention,
            "prefix_attention": drawn.prefix_attention,
            "prefix_mass": drawn.prefix_attention.sum(axis=-1),
        }
        estimates = {name: exact_estimate(value, draws) for name, value in measured.items()}
        cells.append(Cell(parameters, estimates))
    return [*cells, *claim.measure_design(claim.designs[profile], key)]


# --- the design ---

DEPTH = Parameter("layers", "integer", "depth of a random transformer to look into", "L", low=2,
                  default=None)  # fmt: skip
_QUERIES = (Run(SINGLE), Run(PAIR), *map(Run, PARTLY_SEEN))


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Either the arrays of a query, or a depth, or both."""
    if "content_scores" not in params and "layers" not in params:
        raise ParameterError(
            "content_scores", "(missing)", "an array (…, m)", "give the arrays of a query", where
        )
    return head_identity.validate(params, where)


CLAIM = Claim(
    id="prefix.bias_identity",
    title="A prefix damps a head's output and adds a bias",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(*HEAD, DEPTH),
    ignored=LAYER_CELL,
    check_parameters=validate,
    quantities=(
        Quantity("output", "the head's output (…, v)", rounding_tolerance, symbol=r"t^{pt}"),
        Quantity("attention", "weights on the content (…, m)", rounding_tolerance,
                 symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", rounding_tolerance,
                 symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", rounding_tolerance,
                 symbol=r"\alpha"),
        Quantity("own_inputs", "largest deviation in a layer given its own inputs", 1e-11),
        Quantity("first_layer", "the same in layer 1, from the model without prefix", 1e-11),
        Quantity("changed", f"share of models whose layer 2 deviates by more than {CHANGE}", 1e-9),
    ),
    compared=Compared(
        {"content_scores": (-1e6, 1e6), "content_values": (-1e6, 1e6), "prefix_scores": (-1e6, 1e6),
         "prefix_values": (-1e6, 1e6), "visible": (0, 1), "prefix_visible": (0, 1),
         "layers": (2, 6)},
        elsewhere="exact up to rounding: a score of size L leaves some L 1e-16 of a weight; the "
        "numbers for `layers` are the same at any depth",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    measure=measure,
    designs={
        "quick": Design(*_QUERIES, Run(layers=3, trials=200), trials=2),
        "full": Design(
            *_QUERIES, Run(layers=2, trials=2000), Run(layers=6, trials=1000), trials=2
        ),
    },
    broadcasts="leading axes of the arrays",
    traceable=True,
    figure=Panels(
        panels_of_outputs,
        "A prefix moves every output part of the way towards a mean of its own values",
        "one random head of width two with a prefix of three",
        needs_check=False,
    ),
)  # fmt: skip
