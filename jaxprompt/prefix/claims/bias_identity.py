r"""Claim ``prefix.bias_identity``: a prefix damps a head's output and adds a bias."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import Agreement, Cell, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, Trace
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.head_identity import (
    HEAD,
    PAIR,
    PARTLY_SEEN,
    SINGLE,
    Draws,
    Layer,
    exact,
    head_by_definition,
    head_from_scores,
)
from jaxprompt.prefix.training.adaptation import sharp_random_model
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "LAYERS", "closed_form", "inside", "simulate", "variant"]

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
"""

# --- the identity inside a deep model ---

DEEP = Parameter("layers", "integer", "depth of a random transformer to look into", "L", low=2,
                 default=None)  # fmt: skip
_WIDTH, _HEADS, _TOKENS, _PREFIX = 24, 2, 8, 3


def closed_form(
    *, content_scores: Any = None, content_values: Any = None, prefix_scores: Any = None,
    prefix_values: Any = None, visible: Any = None, prefix_visible: Any = None,
    layers: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Output (…, v), patterns and mass of a head; with `layers`, limits for a deep model.

    Runs under jit and vmap, in the dtype of the arrays.
    """
    return variant({}, content_scores=content_scores, content_values=content_values,
                   prefix_scores=prefix_scores, prefix_values=prefix_values,
                   visible=visible, prefix_visible=prefix_visible, layers=layers)  # fmt: skip


def variant(wrong: dict[str, Any], *, layers: Any = None, **arrays: Any) -> dict[str, Any]:
    """The closed form, or with entries in `wrong` one of the falsifiers' variants of it."""
    result: dict[str, Any] = {}
    if layers is not None:
        result |= {"own_inputs": 0.0, "first_layer": 0.0, "changed": wrong.get("changed", 1.0)}
    if arrays.get("content_scores") is None:
        return result
    if wrong.get("whole_prefix"):
        arrays["prefix_visible"] = None
    head = head_from_scores(**arrays)
    if wrong.get("undamped"):
        unseen = jnp.zeros(jnp.shape(arrays["prefix_scores"]), int)
        plain = head_from_scores(**{**arrays, "prefix_visible": unseen})
        head["output"] = head["output"] + head["prefix_mass"][..., None] * plain["output"]
    if wrong.get("uniform"):
        shape = jnp.shape(arrays["prefix_scores"])
        share = head["prefix_mass"][..., None] / shape[-1]
        head["prefix_attention"] = jnp.broadcast_to(share, shape)
    if wrong.get("strongest"):
        scores = jnp.asarray(arrays["prefix_scores"])
        strongest = jnp.arange(scores.shape[-1]) == jnp.argmax(scores, axis=-1, keepdims=True)
        one_vector = {**arrays, "prefix_visible": strongest.astype(int)}
        head["prefix_mass"] = head_from_scores(**one_vector)["prefix_mass"]
    scale = wrong.get("mass", 1.0)
    return {**result, **head, "prefix_mass": scale * head["prefix_mass"]}


def inside(layers: int, draws: int, *, key: Key[Array, ""]) -> dict[str, Float[np.ndarray, " R"]]:
    """For R random causal transformers (float64): largest deviations from the identity.

    `own_inputs` in any layer, given that layer's inputs; `first_layer` in layer 1, with the
    pattern of the model without prefix; `second_layer` the same in layer 2.
    """
    with jax.enable_x64(True):
        return {n: np.asarray(v) for n, v in _inside(layers, draws, key).items()}


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _inside(layers: int, draws: int, key: Array) -> dict[str, Array]:
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
        own = [_deviation(b, prefix[i], full, full, i) for i, b in enumerate(model.blocks)]
        early = [_deviation(b, prefix[i], base, full, i) for i, b in enumerate(model.blocks)]
        return {
            "own_inputs": jnp.stack(own).max(),
            "first_layer": early[0],
            "second_layer": early[1],
        }

    return jax.vmap(one)(jax.random.split(key, draws))


def _deviation(block: Any, prefix: Array, source: Trace, actual: Trace, layer: int) -> Array:
    """Largest difference of a layer's output from the identity on the stream of `source`."""
    stream = source.streams[layer]
    content, extra = block.norm(stream), block.norm(prefix)

    def split(x: Array) -> Array:
        wide = block.qkv(x).reshape(x.shape[0], 3, _HEADS, -1)
        return wide.transpose(1, 2, 0, 3)

    (query, key, value), (_, prefix_key, prefix_value) = split(content), split(extra)
    root = jnp.sqrt(jnp.asarray(query.shape[-1], query.dtype))
    size = stream.shape[0]
    found = head_from_scores(
        query @ key.swapaxes(1, 2) / root, value[:, None],
        query @ prefix_key.swapaxes(1, 2) / root, prefix_value[:, None],
        jnp.tri(size, dtype=int),
    )  # fmt: skip
    return jnp.abs(found["output"].swapaxes(0, 1) - actual.attended[layer].output).max()


# --- measurements ---


def simulate(
    *, key: Key[Array, ""], trials: int, layers: Any = None, **arrays: Any
) -> dict[str, Estimate]:
    """One query by the definition, and `trials` random transformers when `layers` is given."""
    result: dict[str, Estimate] = {}
    if arrays:
        with jax.enable_x64(True):
            result |= exact(trials, **head_by_definition(**arrays))
    if layers is not None:
        result |= _deep(layers, trials, key)
    return result


CHANGE = 1e-3
"""Deviation from the identity that counts as a change: far above rounding, 1e-13."""


def _deep(layers: int, draws: int, key: Array) -> dict[str, Estimate]:
    found = inside(layers, draws, key=key)
    return exact(
        draws,
        own_inputs=found["own_inputs"].max(),
        first_layer=found["first_layer"].max(),
        changed=(found["second_layer"] > CHANGE).mean(),
    )


DRAWS = 10_000
"""Random draws of each layer and scale. They stay in memory until they are compared: about 100 MB
a layer and scale."""
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


def random_layers(
    profile: str, key: Key[Array, ""], draws: int | None = None
) -> Iterator[tuple[dict[str, Any], Draws]]:
    """A cell's parameters and its draws, for every layer and scale of a profile.

    `draws` of each, by default :data:`DRAWS`.
    """
    count = DRAWS if draws is None else draws
    # Each layer meets every other scale: together they meet all, in both dtypes.
    chosen = [(x, s) for i, x in enumerate(LAYERS[profile]) for s in SCALES[i % 2 :: 2]]
    for place, (layer, scale) in enumerate(chosen):
        found = head_identity.draw_layer(layer, scale, count, key=jax.random.fold_in(key, place))
        label = {"scale": scale, **layer._asdict()}
        yield (
            {
                **found.parameters,
                "rounding": head_identity.rounding(layer.width, layer.heads, layer.dtype, scale),
                "label": label,
            },
            found,
        )


def measure(
    claim: Claim, profile: str, key: Key[Array, ""], draws: int | None = None
) -> list[Cell]:
    """One cell a layer and scale: exact scores and values of its draws, and its output."""
    cells = []
    for parameters, drawn in random_layers(profile, key, draws):
        found = exact(
            len(drawn.output),
            output=drawn.output,
            attention=drawn.attention,
            prefix_attention=drawn.prefix_attention,
            prefix_mass=drawn.prefix_attention.sum(axis=-1),
        )
        cells.append(Cell(parameters, found))
    return [*cells, *head_identity.measure_runs(claim, profile, key)]


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
    parameters=(*HEAD, DEEP),
    quantities=(
        Quantity("output", "the head's output (…, v)", 1e-13, symbol=r"t^{pt}"),
        Quantity("attention", "weights on the content (…, m)", 1e-13, symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", 1e-13, symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", 1e-13, symbol=r"\alpha"),
        # Scores up to 50 in float64, three layers deep.
        Quantity("own_inputs", "largest deviation in a layer given its own inputs", 1e-11),
        Quantity("first_layer", "the same in layer 1, from the model without prefix", 1e-11),
        Quantity("changed", f"share of models whose layer 2 deviates by more than {CHANGE}", 1e-9),
    ),
    falsifiers=(
        Falsifier("undamped", "adds the bias without damping the content",
                  functools.partial(variant, {"undamped": True})),
        Falsifier("uniform", "spreads the mass evenly over the prefix",
                  functools.partial(variant, {"uniform": True})),
        Falsifier("strongest", "counts only the strongest prefix token in the mass",
                  functools.partial(variant, {"strongest": True})),
        Falsifier("mass +0.1 %", "a mass one per mille too large",
                  functools.partial(variant, {"mass": 1.001})),
        Falsifier("whole prefix", "every query sees the whole prefix",
                  functools.partial(variant, {"whole_prefix": True})),
        Falsifier("every layer", "says that layer 2 matches the model without prefix too",
                  functools.partial(variant, {"changed": 0.0})),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design((SINGLE, PAIR, {"layers": 3, "trials": 200}, *PARTLY_SEEN), 2),
        "full": Design(
            (SINGLE, PAIR, {"layers": 2, "trials": 2000}, {"layers": 6, "trials": 1000},
             *PARTLY_SEEN), 2
        ),
    },
    check_parameters=validate,
    measure=measure,
    compare=head_identity.compare_rounding,
    broadcasts="leading axes of the arrays",
    traceable=True,
    figure=Agreement(title="A prefixed head against bias plus damped output", label="entry"),
)  # fmt: skip
