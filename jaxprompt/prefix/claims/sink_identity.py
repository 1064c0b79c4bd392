r"""Claim ``prefix.sink_identity``: a sink is a prefix of one vector of value 0, and one softmax
shares a query's attention between sink, prefix and content."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.attention import log_sum_and_weights
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
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.head_identity import (
    HEAD,
    PAIR,
    SINGLE,
    head_by_definition,
    head_from_scores,
)
from jaxprompt.prefix.pictures import panels_of_sinks
from jaxprompt.prefix.random_heads import HEAD_CELL, HeadKind, draw_heads, head_tolerance
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Let a head have a sink: a score $b$ that no key has to earn and that no value follows (a learned
sink; with $b=0$ the softmax with 1 in its denominator). With a prefix and content in sight
$$(\rho_{\mathrm{sink}},\rho_{\mathrm{prefix}},\rho_{\mathrm{content}})
  =\mathrm{softmax}\Big(b,\ \log\sum_ke^{\ell_{ik}},\ \log\sum_je^{\ell_{ij}}\Big),\qquad
  t_i^{pt}=\rho_{\mathrm{prefix}}\sum_kp_{ik}W_Vs_k+\rho_{\mathrm{content}}\,t_i,$$
with $p_i$ the softmax within the prefix and $t_i$ the output on the content alone. A sink is a
prefix of one vector whose score is $b$ for every query and whose value is 0: it damps, and neither
turns the output nor changes a ratio of weights. It starts from scores, so scale, soft cap, norms of
queries and keys, position biases and shared keys change nothing about it.
"""

DERIVATION = r"""
The joint softmax has the normaliser $e^b+Z_P+Z_C$ with $Z_P=\sum_ke^{\ell_{ik}}$ and
$Z_C=\sum_je^{\ell_{ij}}$. The sums of the weights of the three kinds are $e^b$, $Z_P$ and $Z_C$
over it: the softmax of their logarithms. Within a kind the weights keep their ratios, so the values
of the prefix are averaged by $p_i$ and those of the content as without prefix and sink; the sink's
share meets no value.

A prefix imitates a sink for all queries exactly if one of its keys has $q_i^\top\kappa=b$ at
every query and its value is 0. With as many queries in general position as a head is wide no key
has that unless one coordinate of the queries is constant. No sink imitates a prefix with a value
other than 0.

*Tolerances.* A query given by its arrays is held to $10^{-13}$. Measured heads are held to what
their float type leaves of a score, $\sqrt{d_h}\,\epsilon\,(1+L)$ with $L$ the largest one, at the
size of the output.
"""


# --- the closed form ---


def closed_form(
    *, content_scores: Any, content_values: Any, prefix_scores: Any, prefix_values: Any,
    sink_scores: Any, visible: Any = None, prefix_visible: Any = None,
    gates: Literal["joint", "independent"] = "joint",
    rival: Literal["all content", "strongest content"] = "all content",
    share_goes_to: Literal["nothing", "prefix values"] = "nothing",
    sink_value: float = 0.0, sink_counts: bool = True, masked_prefix: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Output (…, v), weights on the content (…, m), and the three masses (…).

    Runs under jit and vmap, in the dtype of the arrays, whose leading axes broadcast. Falsifiers
    change the last six arguments, which the theory has at their defaults.
    """
    query = (content_scores, content_values, prefix_scores, prefix_values, visible)
    prefix_mask = prefix_visible if masked_prefix else None
    sink = jnp.asarray(sink_scores)
    if not sink_counts:
        head = head_from_scores(*query, prefix_mask)
        nothing = jnp.zeros_like(head["prefix_mass"])
        head |= {"content_mass": 1 - head["prefix_mass"], "sink_mass": nothing}
    else:
        if rival == "strongest content":
            sink = sink + _log_sum_above_strongest(content_scores, visible)
        head = head_from_scores(*query, prefix_mask, sink)
    if gates == "independent":
        head |= _independent_gates(query, prefix_mask, sink)
    lost = head["sink_mass"][..., None]
    if share_goes_to == "prefix values":
        mass = jnp.where(head["prefix_mass"] > 0, head["prefix_mass"], 1)
        within = head["prefix_attention"] / mass[..., None]
        bias = jnp.einsum("...n,...nv->...v", within, jnp.asarray(prefix_values))
        head["output"] = head["output"] + lost * bias
    if sink_value:
        head["output"] = head["output"] + sink_value * lost
    return {name: head[name] for name in _QUANTITIES}


_QUANTITIES = ("output", "attention", "content_mass", "prefix_mass", "sink_mass")


def _log_sum_above_strongest(scores: Any, visible: Any) -> Array:
    """By how much the log-sum-exp of the content's scores exceeds the largest of them."""
    scores = jnp.asarray(scores)
    if visible is not None:
        scores = jnp.where(jnp.asarray(visible) > 0, scores, -jnp.inf)
    log_sum, _ = log_sum_and_weights(scores)
    return jnp.where(jnp.isfinite(log_sum), log_sum - scores.max(axis=-1), 0)


def _independent_gates(
    query: tuple[Any, Any, Any, Any, Any], prefix_mask: Any, sink: Array
) -> dict[str, Array]:
    """Prefix and sink each take their share of the content as if the other were not there."""
    content_scores, content_values, prefix_scores, prefix_values, visible = query
    no_prefix = (prefix_scores, prefix_values, visible, jnp.zeros(jnp.shape(prefix_scores)[-1:]))
    alone = head_from_scores(content_scores, content_values, *no_prefix, sink)
    both = head_from_scores(*query, prefix_mask, jnp.full_like(sink, -jnp.inf))
    content = (1 - alone["sink_mass"]) * (1 - both["prefix_mass"])
    seen = jnp.where(alone["content_mass"] > 0, alone["content_mass"], 1)
    attention = (content / seen)[..., None] * alone["attention"]
    bias = jnp.einsum("...n,...nv->...v", both["prefix_attention"], jnp.asarray(prefix_values))
    output = jnp.einsum("...m,...mv->...v", attention, jnp.asarray(content_values))
    return {
        "content_mass": content, "prefix_mass": both["prefix_mass"],
        "sink_mass": alone["sink_mass"], "attention": attention, "output": output + bias,
    }  # fmt: skip


FALSIFIERS = (
    Falsifier("independent gates", "sink and prefix damp one after the other: (1 − α₁)(1 − α₂)",
              gates="independent"),
    Falsifier("strongest", "the sink competes with the strongest content alone",
              rival="strongest content"),
    Falsifier("sink in the prefix", "the sink's share goes to the prefix's values",
              share_goes_to="prefix values"),
    Falsifier("sink of value 0.1", "the sink's share meets a value of 0.1", sink_value=0.1),
    Falsifier("no sink", "the sink takes nothing", sink_counts=False),
    Falsifier("whole prefix", "every query sees the whole prefix", masked_prefix=False),
)  # fmt: skip


# --- the simulation ---


def simulate(*, key: Key[Array, ""], trials: int, **arrays: Any) -> dict[str, Estimate]:
    """One query by the definition, one softmax over prefix, content and sink; float64."""
    if np.ndim(arrays["sink_scores"]):
        raise ParameterError(
            "sink_scores", f"shape {np.shape(arrays['sink_scores'])}", "one number",
            "call simulate once for each query", CLAIM.id,
        )  # fmt: skip
    with jax.enable_x64(True):
        head = head_by_definition(**arrays)
    return {name: exact_estimate(np.asarray(head[name]), trials) for name in _QUANTITIES}


KINDS = {
    "quick": (
        (HeadKind("float64", window=5, soft_cap=30.0), 50.0),
        (HeadKind("float64", norm=True), 1e4),
        (HeadKind("float32", window=5, norm=True), 10.0),
        (HeadKind("bfloat16", window=4, soft_cap=5.0), 4.0),
    ),
    "full": tuple(
        (HeadKind(dtype, window, cap, norm), scale)
        for dtype, scales in (
            ("float64", (5.0, 1e4)), ("float32", (5.0, 1e3)), ("float16", (1.0, 10.0)),
            ("bfloat16", (1.0, 10.0)),
        )
        for window, cap, norm in ((None, None, False), (3, None, True), (5, 3.0, False))
        for scale in scales
    ),
}  # fmt: skip
"""Random heads of each profile, and the largest score of each."""

DRAWS = {"quick": 1000, "full": 5000}
"""Random layers of four heads for each kind; about 7 MB for a thousand."""


# One sample of heads serves its scores, which are the cell's parameters, and its outputs.
def measure(
    claim: Claim, profile: str, key: Key[Array, ""], draws: int | None = None
) -> list[Cell]:
    """One cell for each kind of head: exact scores and values of its draws, and its run."""
    cells: list[Cell] = []
    draws = draws or DRAWS[profile]
    for index, (kind, largest) in enumerate(KINDS[profile]):
        drawn = draw_heads(kind, largest, draws, key=jax.random.fold_in(key, index))
        weights = np.asarray(drawn.pattern)
        measured = {
            "output": drawn.output,
            "attention": weights[..., kind.prefix : -1],
            "content_mass": weights[..., kind.prefix : -1].sum(axis=-1),
            "prefix_mass": weights[..., : kind.prefix].sum(axis=-1),
            "sink_mass": weights[..., -1],
        }
        estimates = {name: exact_estimate(value, draws) for name, value in measured.items()}
        cells.append(Cell({**kind.describe(largest), **drawn.parameters}, estimates))
    return [*cells, *claim.measure_design(claim.designs[profile], key)]


# --- the design ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """The arrays of a query and its sink, without what describes measured heads."""
    return head_identity.validate(params, where, describing=HEAD_CELL, has_sink=True)


def _query(visible: tuple[int, int], prefix_visible: tuple[int, int], sink: float) -> Run:
    """The worked example with two prefix vectors; masks are always given: one program for all."""
    masks = {"visible": np.array(visible), "prefix_visible": np.array(prefix_visible)}
    return Run({**PAIR, **masks}, sink_scores=sink)


_QUERIES = (
    Run(SINGLE, sink_scores=0.0),
    _query((1, 1), (1, 1), float(np.log(2.0))),
    _query((1, 1), (1, 0), 0.0),
    _query((1, 1), (0, 0), 0.0),
    _query((0, 0), (1, 1), 0.0),
    # It sees neither content nor prefix: the sink has all, and the output is 0.
    _query((0, 0), (0, 0), -3.0),
)

CLAIM = Claim(
    id="prefix.sink_identity",
    title="Sink, prefix and content share one softmax",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="derived here, after Petrov et al., ICLR 2024",
    parameters=(
        *(Parameter(p.name, p.kind, p.meaning, p.symbol) for p in HEAD[:4]),
        Parameter("sink_scores", "array", "score of the sink, (…); one number to simulate", "b"),
        *HEAD[4:],
    ),
    ignored=HEAD_CELL,
    check_parameters=validate,
    quantities=(
        Quantity("output", "the head's output (…, v)", head_tolerance, symbol=r"t^{pt}"),
        Quantity("attention", "weights on the content (…, m)", head_tolerance, symbol=r"A^{pt}"),
        Quantity("content_mass", "attention on the content in all", head_tolerance,
                 symbol=r"\rho_{content}"),
        Quantity("prefix_mass", "attention on the prefix in all", head_tolerance,
                 symbol=r"\rho_{prefix}"),
        Quantity("sink_mass", "attention on the sink", head_tolerance, symbol=r"\rho_{sink}"),
    ),
    compared=Compared(
        {"content_scores": (-1e6, 1e6), "content_values": (-1e6, 1e6), "prefix_scores": (-1e6, 1e6),
         "prefix_values": (-1e6, 1e6), "sink_scores": (-1e6, 1e6), "visible": (0, 1),
         "prefix_visible": (0, 1)},
        elsewhere="exact up to rounding: a score of size L leaves some L 1e-16 of a weight",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    measure=measure,
    designs={"quick": Design(*_QUERIES, trials=2), "full": Design(*_QUERIES, trials=2)},
    broadcasts="leading axes of the arrays",
    traceable=True,
    cost="short",
    figure=Panels(
        panels_of_sinks,
        "A sink takes from prefix and content alike",
        "one random head with a prefix of three, one query; points: the head run with each sink",
        needs_check=False,
    ),
)  # fmt: skip
