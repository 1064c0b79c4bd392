r"""Claim ``prefix.prefix_subspace``: in how many dimensions a prefix can move its bias."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.core.claim import (
    Cell,
    Claim,
    Design,
    Falsifier,
    Mark,
    Panel,
    Panels,
    Quantity,
    Relation,
    Run,
    Verdict,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.keys import fold_in_parameters
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.networks.attention_layer import Projections, attend
from jaxprompt.networks.transformer import Added, Config, Trace
from jaxprompt.prefix.claims import new_task_limit
from jaxprompt.prefix.head_identity import split_row
from jaxprompt.prefix.training import adaptation, experiments, tasks
from jaxprompt.stats import Estimate, exact_estimate

__all__ = [
    "CLAIM",
    "bias_and_bounds",
    "closed_form",
    "largest_over_layers",
    "random_layer_biases",
    "simulate",
]

STATEMENT = r"""
Through a head of width $d_h$, a prefix of $n$ vectors adds at position $i$ a bias in
$\alpha_i\,\mathrm{conv}\{W_Vs_1,\dots,W_Vs_n\}$. Over all positions and inputs the biases span at
most $\min(n,d_h)$ dimensions in each head: one vector has one direction, whose length alone
varies. After the heads are joined it is at most $H\min(n,d_h)$, so one vector through $H$ heads has
not one direction but up to $H$. Inside the hull the weights are tied by
$$\frac{p_{ik}}{p_{ik'}}=\exp\frac{q_i^\top(k_k-k_{k'})}{\sqrt{d_h}},$$
so between two positions the log-odds of two vectors move by at most
$|q_i-q_{i'}|\,|k_k-k_{k'}|/\sqrt{d_h}$.
"""

DERIVATION = r"""
By `prefix.bias_identity` the bias is $\alpha_i\sum_kp_{ik}W_Vs_k$ with $p_i$ a softmax over the
prefix, so it is a nonnegative combination of $n$ vectors of width $d_h$ that sums to $\alpha_i$.
The log-odds are differences of scores, linear in $q_i$; apply Cauchy and Schwarz.

*Tolerances.* Ranks are whole numbers. The others have the rounding of float64: of scores of size 10
in the odds, of outputs of size 1 outside the hull.
"""


# --- the closed form ---


def closed_form(
    *, vectors: Any, heads: Any, head_width: Any, fewer: int = 0,
    directions: Literal["of each head", "shared"] = "of each head", odds_limit: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Upper bounds of every quantity: ranks, the move of log-odds as a share of its limit, and the
    part of a bias outside the hull; numbers broadcast.

    Falsifiers change the last three arguments, which the theory has at their defaults.
    """
    dimensions = np.maximum(np.minimum(vectors, head_width) - fewer, 0)
    shape = np.broadcast_shapes(np.shape(vectors), np.shape(heads), np.shape(head_width))
    joined = dimensions if directions == "shared" else np.multiply(heads, dimensions)
    zero = np.zeros(shape)
    return {
        "rank": zero + dimensions,
        "joined_rank": zero + joined,
        "effective_rank": zero + dimensions,
        "odds_move": zero + odds_limit,
        "outside": zero,
    }


FALSIFIERS = (
    Falsifier("n − 1 dimensions", "min(n, d_h) − 1 in each head", fewer=1),
    Falsifier("one direction", "joined heads share their directions", directions="shared"),
    Falsifier("half the odds", "log-odds move by half the limit", odds_limit=0.5),
)


# --- the simulation ---

_TOKENS, _INPUTS = 12, 16


# No function of one trial: a bound is held by the largest over all layers, which share one SVD.
def simulate(
    *, key: Key[Array, ""], trials: int, vectors: int, heads: int, head_width: int
) -> dict[str, Estimate]:
    """Largest values over `trials` random layers, each with one prefix and 16 inputs; float64.

    `rank` and `joined_rank` count singular values above 1e-9 of the largest; `effective_rank` is
    the exponential of the entropy of a head's squared singular values, as shares of their sum.
    """
    with jax.enable_x64(True):
        return largest_over_layers(
            *random_layer_biases(vectors, heads, head_width, trials, key=key)
        )


def largest_over_layers(
    bias: Array, bounded: Mapping[str, Array], noise: float = 0.0
) -> dict[str, Estimate]:
    """Largest ranks over R layers with the biases (R, B, T, H, v), and largest values of `bounded`.

    `noise` is the rounding error of one entry of the biases: singular values that such errors
    alone can give are not counted as dimensions.
    """
    trials, heads, width = bias.shape[0], *bias.shape[-2:]
    flat = np.asarray(bias).reshape(trials, -1, heads, width)
    single = np.linalg.svd(flat.swapaxes(1, 2), compute_uv=False)
    joined = np.linalg.svd(flat.reshape(trials, -1, heads * width), compute_uv=False)
    largest = {
        "rank": _count_dimensions(single, noise * np.sqrt(flat[0, :, 0].size)).max(),
        "joined_rank": _count_dimensions(joined, noise * np.sqrt(flat[0].size)).max(),
        "effective_rank": _effective_ranks(single).max(),
        **{name: np.asarray(value).max() for name, value in bounded.items()},
    }
    return {name: exact_estimate(value, trials) for name, value in largest.items()}


def _count_dimensions(singular: np.ndarray, least: float) -> np.ndarray:
    return (singular > np.maximum(1e-9 * singular[..., :1], least)).sum(axis=-1)


def _effective_ranks(singular: np.ndarray) -> np.ndarray:
    shares = singular**2 / (singular**2).sum(axis=-1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.exp(-(shares * logs).sum(axis=-1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=RUN_ONCE_OPTIONS)
def random_layer_biases(
    vectors: int, heads: int, head_width: int, draws: int, *, key: Key[Array, ""]
) -> tuple[Float[Array, "R B T H v"], dict[str, Float[Array, " R"]]]:
    """Biases of R random layers with random prefixes, and the bounds of each.

    Both as :func:`bias_and_bounds` gives them, with a leading axis R.
    """
    d = heads * head_width
    shapes = ((d, 3 * d), (3 * d,), (_INPUTS, _TOKENS, d), (vectors, d))

    def layer(numbers: Array) -> tuple[Array, dict[str, Array]]:
        kernel, offset, content, prefix = split_row(numbers, shapes)
        weights = Projections(kernel / np.sqrt(d) * 1.5, offset)
        return bias_and_bounds(weights, content, prefix, heads)

    numbers = random_table.normals(key, 0, draws, sum(int(np.prod(shape)) for shape in shapes))
    return jax.vmap(layer)(numbers.astype(jnp.result_type(float)))


def bias_and_bounds(
    weights: Projections,
    content: Float[Array, "B T d"],
    prefix: Float[Array, "n d"],
    heads: int,
    causal: bool = True,
) -> tuple[Float[Array, "B T H v"], dict[str, Float[Array, ""]]]:
    """The biases of a layer with a prefix, and two numbers that the theory bounds.

    A bias is the output with the prefix, less the damped output without it. `odds_move` is the
    largest move of log-odds between two positions as a share of its limit, `outside` the largest
    difference between a bias and the combination of prefix values that the pattern prescribes. In
    the dtype of the arguments.
    """
    width = content.shape[-1] // heads
    run = functools.partial(attend, weights, heads=heads, causal=causal)
    full, alone = run(content, prefix), run(content)
    mass = full.prefix.sum(axis=-1).swapaxes(-1, -2)[..., None]
    bias = full.output - (1 - mass) * alone.output

    def split(x: Array) -> Array:
        wide = x @ weights.kernel + weights.bias
        return jnp.moveaxis(wide.reshape(*x.shape[:-1], 3, heads, width), -3, 0)

    query, (_, prefix_key, value) = split(content)[0], split(prefix)
    hull = jnp.einsum("bhtn,nhv->bthv", full.prefix, value)
    odds = jnp.log(full.prefix[..., :1]) - jnp.log(full.prefix)
    move = jnp.abs(odds[:, :, 1:] - odds[:, :, :-1])
    step = jnp.linalg.norm(query[:, 1:] - query[:, :-1], axis=-1).swapaxes(1, 2)
    gap = jnp.linalg.norm(prefix_key[:1] - prefix_key, axis=-1).T
    limit = step[..., None] * gap[None, :, None] / np.sqrt(width)
    # The first vector against itself has odds 1 at every position: 0 out of 0.
    share = jnp.where(limit > 0, move / jnp.where(limit > 0, limit, 1), 0)
    return bias, {"odds_move": share.max(), "outside": jnp.abs(bias - hull).max()}


# --- the trained prefixes ---


def measure(
    claim: Claim, profile: str, key: Key[Array, ""], trained: Mapping[str, Any] | None = None
) -> list[Cell]:
    """The design's random layers, and the trained prefixes of ten vectors.

    The last are those of `prefix.new_task_limit` at the same profile and seed, on their own test
    inputs; with `trained`, those of a run with these parameters.
    """
    # An own experiment, since other claims' trained models are measured beside random layers.
    cells = list(claim.measure_design(claim.designs[profile], key))
    design = new_task_limit.CLAIM.designs[profile]
    run = dict(design.runs[0]) | dict(trained or {})
    copies = design.trials_of(design.runs[0])
    run_key = fold_in_parameters(key, run)
    words = experiments.key_words(run_key)
    plan = new_task_limit.plans(**run, copies=copies, seed=words)["prefix_ten"]
    digits = tasks.draw_inputs(
        _INPUTS, run["length"], key=jax.random.fold_in(run_key, 7), test=True
    )
    sizes = {
        "vectors": plan.added.prefix,
        "heads": plan.config.heads,
        "head_width": plan.config.width // plan.config.heads,
    }
    largest = _largest_over_trained(plan, experiments.train_or_load(plan), digits)
    return [*cells, Cell(sizes, largest)]


def _largest_over_trained(
    plan: experiments.Plan, trained: experiments.Trained, digits: Array
) -> dict[str, Estimate]:
    """The quantities of :func:`simulate` for trained one-layer models, in float64."""
    content = jnp.concatenate([digits, tasks.solve_all("desc", digits)[:, :-1]], axis=1)
    layers = [
        _first_layer(plan.config, plan.added, trained.parameters_of(run), content)
        for run in range(len(plan.runs))
    ]
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float64), *layers)
        every = jax.vmap(functools.partial(bias_and_bounds, heads=plan.config.heads))
        return largest_over_layers(*jax.jit(every, compiler_options=RUN_ONCE_OPTIONS)(*stacked))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_layer(
    config: Config, added: Added, state: Any, content: Array
) -> tuple[Projections, Array, Array]:
    """Weights, normed content and normed prefix of the first layer."""
    model, trace = adaptation.model_of(config, added, state), Trace([], [])
    model(content, trace=trace)
    block = model.blocks[0]
    assert model.prefix is not None
    assert block.norm is not None
    weights = Projections(block.qkv.kernel[...], block.qkv.bias[...])
    return weights, block.norm(trace.streams[0]), block.norm(model.prefix[...][0])


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse more dimensions than a run has positions, which could not show the rank."""
    size = np.multiply(params["heads"], params["head_width"])
    if (size > _TOKENS * _INPUTS).any():
        raise ParameterError(
            "head_width", params["head_width"], f"at most {_TOKENS * _INPUTS} over all heads",
            "the rank is measured on as many positions", where,
        )  # fmt: skip
    return params


# --- the design ---

_SIZES = (
    {"vectors": 1, "heads": 1, "head_width": 16},
    {"vectors": 1, "heads": 4, "head_width": 8},
    {"vectors": 3, "heads": 2, "head_width": 8},
    {"vectors": 12, "heads": 2, "head_width": 8},
)

# --- the figure ---


def _panels(claim: Claim, verdict: Verdict, key: Key[Array, ""]) -> list[Panel]:
    """Singular values of a head's biases, and measured ranks against their bound."""
    scree: list[Mark] = []
    for colour, vectors in enumerate((1, 3, 5)):
        with jax.enable_x64(True):
            bias, _ = random_layer_biases(vectors, 2, 8, 1, key=jax.random.fold_in(key, vectors))
        values = np.linalg.svd(np.asarray(bias)[0, :, :, 0].reshape(-1, 8), compute_uv=False)
        scree += [
            Mark("points", np.arange(1, 9), np.maximum(values / values[0], 1e-17),
                 label=f"{vectors} vector{'s' if vectors > 1 else ''}", colour=colour),
            Mark("vertical", [vectors + 0.5], colour=colour),
        ]  # fmt: skip
    ranks = [r for r in verdict.rows if r.quantity in ("rank", "joined_rank", "effective_rank")]
    words = {"rank": "one head", "joined_rank": "heads joined",
             "effective_rank": "one head, weighted by use"}  # fmt: skip
    top = max(row.predicted for row in ranks)
    held = [Mark("line", [0.8, top * 1.2], [0.8, top * 1.2], label="theory: at most", colour=6)]
    for colour, (name, label) in enumerate(words.items(), 3):
        own = [(row.predicted, row.simulated) for row in ranks if row.quantity == name]
        held.append(Mark("points", *np.transpose(own), label=label, colour=colour))
    return [
        Panel(scree, "singular values of a head's biases", "direction", "share of the largest",
              log_y=True, y_range=(1e-18, 10)),
        Panel(held, "dimensions", "bound on the dimensions", "largest measured", log_x=True,
              log_y=True),
    ]  # fmt: skip


CLAIM = Claim(
    id="prefix.prefix_subspace",
    title="The room a prefix has for its bias",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.BOUND,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(
        Parameter("vectors", "integer", "prefix vectors", "n", low=1),
        Parameter("heads", "integer", "attention heads", "H", low=1),
        Parameter("head_width", "integer", "width of a head", "d_h", low=1),
    ),
    quantities=(
        Quantity("rank", "dimensions of a head's biases: at most", 0.0),
        Quantity("joined_rank", "dimensions of the joined biases: at most", 0.0),
        Quantity("effective_rank", "dimensions weighted by their use: at most", 1e-9),
        Quantity("odds_move", "move of log-odds as a share of its limit: at most", 1e-9),
        Quantity("outside", "part of a bias outside the hull: at most", 1e-12),
    ),
    compared=Compared(
        {"vectors": (1, 24), "heads": (1, 12), "head_width": (1, 16)},
        elsewhere="exact: whole numbers and limits; no layer wider than 192 is taken",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*map(Run, _SIZES), trials=100),
        "full": Design.product(
            {}, {"vectors": (1, 2, 5, 20), "heads": (1, 2, 4), "head_width": (4, 16)}, 2000
        ),
    },
    check_parameters=validate,
    measure=measure,
    broadcasts="all parameters",
    figure=Panels(
        _panels,
        "The bias of a prefix has no more dimensions than vectors, or than the head is wide",
        "singular values: two random heads of width 8; dimensions: the check's random layers",
    ),
)  # fmt: skip
