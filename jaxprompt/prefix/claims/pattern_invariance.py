r"""Claim ``prefix.pattern_invariance``: no prefix changes the ratios of content attention."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import Cell, Claim, Design, Falsifier, Panels, Quantity, Relation, Run
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import REQUIRED, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.claims.bias_identity import DRAWS, measure_random_layers
from jaxprompt.prefix.head_identity import (
    HEAD,
    LAYER_CELL,
    PAIR,
    PARTLY_SEEN,
    SINGLE,
    head_by_definition,
    head_from_scores,
    rounding_tolerance,
)
from jaxprompt.prefix.pictures import panels_of_patterns
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "ratio_change", "simulate"]

STATEMENT = r"""
With a prefix, a query's attention on the content is its attention without one, times one number:
$$A^{pt}_{ij}=(1-\alpha_i)A_{ij},\qquad
  \frac{A^{pt}_{ij}}{A^{pt}_{ij'}}=\frac{A_{ij}}{A_{ij'}}=e^{\ell_{ij}-\ell_{ij'}}.$$
So a prefix cannot make a head look at other content, whatever its vectors and however many.
"""

DERIVATION = r"""
The prefix enters the softmax only through its normaliser, which is common to a query's content:
$A^{pt}_{ij}=e^{\ell_{ij}}/(Z_P+Z_C)$ and $A_{ij}=e^{\ell_{ij}}/Z_C$ differ by the factor
$Z_C/(Z_P+Z_C)=1-\alpha_i$, and ratios do not see it.

*Tolerances.* As in `prefix.bias_identity`: $10^{-13}$ for one query in float64, and for a measured
layer what its float type leaves of its largest score.
"""


# --- the closed form ---


def closed_form(
    *, content_scores: Any, content_values: Any, prefix_scores: Any, prefix_values: Any,
    visible: Any = None, prefix_visible: Any = None, masked_prefix: bool = True,
    undamped_mass: float = 0.0, sharpening: float = 1.0, log_ratio_change: float = 0.0,
    mass_from: Literal["prefix", "first"] = "prefix",
) -> dict[str, Any]:  # fmt: skip
    """Patterns with the prefix: weights on content and prefix, mass, and change of log-ratios.

    Runs under jit and vmap, in the dtype of the arrays, whose leading axes broadcast. Falsifiers
    change the last five arguments, which the theory has at their defaults.
    """
    prefix_mask = prefix_visible if masked_prefix else None
    head = head_from_scores(
        content_scores, content_values, prefix_scores, prefix_values, visible, prefix_mask
    )
    mass = head["prefix_mass"]
    if undamped_mass:
        head["attention"] = head["attention"] / (1 - undamped_mass * mass[..., None])
    if sharpening != 1:
        head["attention"] = head["attention"] ** sharpening
    if mass_from == "first":
        head["prefix_mass"] = head["prefix_attention"][..., 0]
    return {**head, "log_ratio_change": jnp.zeros_like(mass) + log_ratio_change}


FALSIFIERS = (
    Falsifier("undamped", "content weights are not damped", undamped_mass=1.0),
    Falsifier("damped 1 % less", "damps with 0.99 α", undamped_mass=0.01),
    Falsifier("sharper", "content weights to the power 1.001", sharpening=1.001),
    Falsifier("ratios move", "log-ratios change by 0.001", log_ratio_change=1e-3),
    Falsifier("whole prefix", "every query sees the whole prefix", masked_prefix=False),
    Falsifier("first token", "the mass of the first prefix token is all", mass_from="first"),
)


# --- the simulation ---


def ratio_change(
    attention: Float[np.ndarray, "*batch m"], alone: Float[np.ndarray, "*batch m"]
) -> Float[np.ndarray, "*batch"]:
    """Largest change of a log-ratio of two content weights, prefixed against alone; float64.

    Weights below 1e-30 are left out: float32 does not hold their ratios.
    """
    held = (attention > 1e-30) & (alone > 1e-30)
    change = np.log(np.where(held, attention, 1.0)) - np.log(np.where(held, alone, 1.0))
    high = np.where(held, change, -np.inf).max(axis=-1)
    low = np.where(held, change, np.inf).min(axis=-1)
    return np.where(held.any(axis=-1), high - low, 0.0)


def _without_prefix(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same query on the content alone, its prefix being of no vectors."""
    shape = np.shape(arrays["prefix_values"])
    return {
        **arrays,
        "prefix_scores": np.zeros(0),
        "prefix_values": np.zeros((0, shape[-1])),
        "prefix_visible": None,
    }


def simulate(*, key: Key[Array, ""], trials: int, **arrays: Any) -> dict[str, Estimate]:
    """One query by the definition, with and without the prefix; float64."""
    with jax.enable_x64(True):
        head = {name: np.asarray(value) for name, value in head_by_definition(**arrays).items()}
        alone = np.asarray(head_by_definition(**_without_prefix(arrays))["attention"])
    head["log_ratio_change"] = ratio_change(head["attention"], alone)
    return {name: exact_estimate(value, trials) for name, value in head.items()}


# One sample of a layer serves its scores, which are the cell's parameters, and its patterns.
def measure(
    claim: Claim, profile: str, key: Key[Array, ""], draws: int | None = None
) -> list[Cell]:
    """The patterns of every random layer, run with its prefix and without."""
    cells, draws = [], draws or DRAWS[profile]
    for parameters, drawn in measure_random_layers(profile, key, draws):
        measured = {
            "attention": drawn.attention,
            "prefix_mass": drawn.prefix_attention.sum(axis=-1),
            "log_ratio_change": ratio_change(np.asarray(drawn.attention), np.asarray(drawn.alone)),
        }
        estimates = {name: exact_estimate(value, draws) for name, value in measured.items()}
        cells.append(Cell(parameters, estimates))
    return [*cells, *claim.measure_design(claim.designs[profile], key)]


# --- the design ---

_DESIGN = Design(Run(SINGLE), Run(PAIR), *map(Run, PARTLY_SEEN[:2]), trials=2)


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """The arrays of a query that sees some content: of none there are no ratios."""
    mask = params.get("visible")
    if mask is not None and not is_traced(mask) and not np.asarray(mask).any(axis=-1).all():
        raise ParameterError(
            "visible", f"shape {np.shape(mask)}", "1 somewhere for every query",
            "let every query see some content; `prefix.bias_identity` takes those that see none",
            where,
        )  # fmt: skip
    return head_identity.validate(params, where)


CLAIM = Claim(
    id="prefix.pattern_invariance",
    title="A prefix does not change where a head looks in the content",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(*(dataclasses.replace(p, default=REQUIRED) for p in HEAD[:4]), *HEAD[4:]),
    ignored=LAYER_CELL,
    check_parameters=validate,
    quantities=(
        Quantity("attention", "weights on the content (…, m)", rounding_tolerance,
                 symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", rounding_tolerance,
                 symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", rounding_tolerance,
                 symbol=r"\alpha"),
        Quantity("output", "the head's output (…, v)", rounding_tolerance, symbol=r"t^{pt}"),
        Quantity("log_ratio_change", "largest change of a log-ratio of content weights",
                 rounding_tolerance),
    ),
    compared=Compared(
        {"content_scores": (-1e6, 1e6), "content_values": (-1e6, 1e6), "prefix_scores": (-1e6, 1e6),
         "prefix_values": (-1e6, 1e6), "visible": (0, 1), "prefix_visible": (0, 1)},
        elsewhere="exact up to rounding: a score of size L leaves some L 1e-16 of a weight",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    measure=measure,
    designs={"quick": _DESIGN, "full": _DESIGN},
    broadcasts="leading axes of the arrays",
    traceable=True,
    figure=Panels(
        panels_of_patterns,
        "A prefix takes one share of every query's attention, and leaves the ratios",
        "one random causal head; whatever the prefix, all weights of a query shrink by one factor",
        needs_check=False,
    ),
)  # fmt: skip
