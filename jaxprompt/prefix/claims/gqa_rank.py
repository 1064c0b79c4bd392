r"""Claim ``prefix.gqa_rank``: shared keys and values cost a prefix no dimension of its bias."""

from __future__ import annotations

from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import Claim, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "biases_of_shared_prefix", "closed_form", "simulate"]

STATEMENT = r"""
Let $H$ query heads of width $d_h$ share $G$ key and value heads, $H/G$ of them each, with $n$
prefix positions. The biases of all heads, joined, span at most
$$H\,\min(n,d_h)$$
dimensions over all positions and inputs, as many as with a key and value head for each query head,
and for almost all keys, values and queries they do. The prefix has $2\,G\,n\,d_h$ parameters: $H/G$
times fewer. Query heads of one group share the prefix's keys and values, and neither its mass nor
the weights within it: each has masses of its own, so that all $H$ are linearly independent.
"""

DERIVATION = r"""
Head $h$ of group $g$ adds $\alpha_{ih}\sum_kp_{ihk}v_{gk}$ at position $i$, in the span of the $n$
vectors $v_{g1},\dots,v_{gn}$ of width $d_h$: at most $\min(n,d_h)$ dimensions. Joined heads have
coordinates of their own, so the dimensions add over the $H$ heads, shared values or not.

The weights $\alpha_{ih}p_{ihk}$ are exponentials of $q_{ih}^\top\kappa_{gk}$ over a sum. With
queries in general position these $nH$ functions of the input are linearly independent, so the
bound is met; the same holds for the $H$ masses. Determinants are analytic in keys, values and
queries, so one case in which it is met shows it for almost all.

*Tolerances.* Ranks and counts are whole numbers: 0. A singular value counts as a dimension above
$10^{-11}$ of the largest; rounding leaves $10^{-15}$.
"""


# --- the closed form ---


def closed_form(
    *, heads: Any, groups: Any, head_dim: Any, prefix: Any,
    directions: Literal["of each query head", "of each group"] = "of each query head",
    limited_by_width: bool = True, fewer: int = 0,
    parameters_of: Literal["groups", "query heads"] = "groups",
    masses_of: Literal["query heads", "groups"] = "query heads",
) -> dict[str, Any]:  # fmt: skip
    """Dimensions of the joined biases and of the masses, and parameters; numbers broadcast.

    Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    shape = np.broadcast_shapes(*map(np.shape, (heads, groups, head_dim, prefix)))
    each = np.minimum(prefix, head_dim) if limited_by_width else np.asarray(prefix)
    counted = heads if directions == "of each query head" else groups
    stored = groups if parameters_of == "groups" else heads
    values = {
        "rank": np.multiply(counted, each) - fewer,
        "mass_rank": heads if masses_of == "query heads" else groups,
        "parameters": 2 * np.multiply(np.multiply(stored, prefix), head_dim),
    }
    return {name: np.broadcast_to(np.asarray(x), shape) for name, x in values.items()}


FALSIFIERS = (
    Falsifier("directions of groups", "G min(n, d_h): heads of a group share their directions",
              directions="of each group"),
    Falsifier("unlimited", "H n, also beyond the width of a head", limited_by_width=False),
    Falsifier("one fewer", "H min(n, d_h) − 1", fewer=1),
    Falsifier("masses of groups", "query heads of one group have one mass", masses_of="groups"),
    Falsifier("parameters of heads", "2 H n d_h parameters: the saving is not counted",
              parameters_of="query heads"),
)  # fmt: skip


# --- the simulation ---

_CONTENT = 6
LARGEST_WIDTH = 256
"""Joined width H · d_h that a simulation takes: it factorises matrices of that many columns."""

LEAST = 1e-11
"""Share of the largest singular value above which one counts as a dimension."""


def biases_of_shared_prefix(
    rows: int, *, heads: int, groups: int, head_dim: int, prefix: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "N H v"], Float[np.ndarray, "N H"], int]:
    """Biases and masses of a random layer at N independent inputs, and the prefix's parameters.

    Queries of all heads are linear in one normal input, keys and values of content and prefix are
    normal; every weight comes from one softmax over prefix and content, in float64.
    """
    width = heads * head_dim
    inputs = random.normal(size=(rows, width))
    project = random.normal(size=(width, heads, head_dim)) / np.sqrt(width)
    content_keys = random.normal(size=(rows, _CONTENT, groups, head_dim))
    keys, values = random.normal(size=(2, groups, prefix, head_dim))
    members = heads // groups
    query = np.einsum("id,dhk->ihk", inputs, project).reshape(rows, groups, members, head_dim)
    prefix_scores = np.einsum("igmk,gnk->igmn", query, keys)
    content_scores = np.einsum("igmk,isgk->igms", query, content_keys)
    scores = np.concatenate([prefix_scores, content_scores], axis=-1) * (2 / np.sqrt(head_dim))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = (weights / weights.sum(axis=-1, keepdims=True))[..., :prefix]
    biases = np.einsum("igmn,gnv->igmv", weights, values).reshape(rows, heads, head_dim)
    return biases, weights.sum(axis=-1).reshape(rows, heads), keys.size + values.size


# No function of one trial: the bound is held by the largest over all layers.
def simulate(
    *, key: Key[Array, ""], trials: int, heads: int, groups: int, head_dim: int, prefix: int
) -> dict[str, Estimate]:
    """Largest ranks over `trials` random layers, each at twice as many inputs as dimensions."""
    if heads * head_dim > LARGEST_WIDTH:
        raise ParameterError(
            "head_dim", head_dim, f"at most {LARGEST_WIDTH // heads} with {heads} heads",
            "the rank is measured on matrices that wide; predict takes any", CLAIM.id,
        )  # fmt: skip
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    rows = 2 * heads * head_dim
    largest = np.zeros(3)
    for _ in range(trials):
        biases, masses, parameters = biases_of_shared_prefix(
            rows, heads=heads, groups=groups, head_dim=head_dim, prefix=prefix, random=random
        )
        ranks = [_count_dimensions(biases.reshape(rows, -1)), _count_dimensions(masses), parameters]
        largest = np.maximum(largest, ranks)
    names = ("rank", "mass_rank", "parameters")
    return {n: exact_estimate(float(x), trials) for n, x in zip(names, largest, strict=True)}


def _count_dimensions(matrix: np.ndarray) -> int:
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > LEAST * singular[0]).sum())


# --- the design ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """As many query heads in every group."""
    if np.any(np.mod(params["heads"], params["groups"])):
        raise ParameterError(
            "groups", params["groups"], f"a divisor of heads = {params['heads']}",
            "give every key head as many query heads", where,
        )  # fmt: skip
    return params


_GROUPED = {"heads": 8, "groups": 2, "head_dim": 6}

CLAIM = Claim(
    id="prefix.gqa_rank",
    title="Shared keys and values cost a prefix no dimension",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.BOUND,
    source="derived here, after Petrov et al., ICLR 2024",
    parameters=(
        Parameter("heads", "integer", "query heads", "H", low=1, high=64),
        Parameter("groups", "integer", "key and value heads", "G", low=1, high=64),
        Parameter("head_dim", "integer", "width of a head", "d_h", low=1, high=256),
        Parameter("prefix", "integer", "prefix positions", "n", low=1, high=256),
    ),
    quantities=(
        # Generic layers meet the bound, so a smaller rank would refute it too.
        Quantity("rank", "dimensions of the joined biases", 0.0, side="two"),
        Quantity("mass_rank", "dimensions of the masses of all heads", 0.0, side="two"),
        Quantity("parameters", "parameters of the prefix in one layer", 0.0, side="two"),
    ),
    check_parameters=validate,
    compared=Compared(
        {"heads": (1, 12), "groups": (1, 12), "head_dim": (1, 16), "prefix": (1, 24)},
        elsewhere="exact: whole numbers",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(
            *(Run(_GROUPED, prefix=n) for n in (1, 2, 6, 9)),
            Run(heads=4, groups=4, head_dim=8, prefix=3),
            Run(heads=6, groups=1, head_dim=4, prefix=5),
            trials=5,
        ),
        "full": Design.product(
            {"heads": 12}, {"groups": (1, 2, 4, 12), "head_dim": (2, 8, 16),
                            "prefix": (1, 3, 8, 40)}, trials=20,
        ),
    },
    broadcasts="all parameters",
    cost="short",
    figure=Curves(
        x="prefix", y="rank", series="groups",
        design=Design.product(
            {"heads": 8, "head_dim": 6}, {"groups": [1, 2, 8], "prefix": list(range(1, 10))}, 3
        ),
        title="Heads that share keys and values keep directions of their own",
        caption="eight query heads of width 6; with one, two or eight key and value heads",
    ),
)  # fmt: skip
