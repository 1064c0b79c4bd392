r"""Claim ``prefix.pattern_invariance``: no prefix changes the ratios of content attention."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import Agreement, Cell, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.core.parameters import REQUIRED, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.claims.bias_identity import random_layers
from jaxprompt.prefix.head_identity import (
    HEAD,
    PAIR,
    PARTLY_SEEN,
    SINGLE,
    exact,
    head_by_definition,
    head_from_scores,
)
from jaxprompt.stats import Estimate

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
"""


def closed_form(**arrays: Any) -> dict[str, Any]:
    """Patterns with the prefix: weights on content and prefix, mass, and change of log-ratios.

    Runs under jit and vmap, in the dtype of the arrays, whose leading axes broadcast.
    """
    return _closed_form({}, **arrays)


def _closed_form(wrong: dict[str, Any], **arrays: Any) -> dict[str, Any]:
    if wrong.get("whole_prefix"):
        arrays["prefix_visible"] = None
    found = head_from_scores(**arrays)
    mass = found["prefix_mass"]
    if wrong.get("undamped"):
        found["attention"] = found["attention"] / (1 - wrong["undamped"] * mass[..., None])
    if wrong.get("first"):
        found["prefix_mass"] = found["prefix_attention"][..., 0]
    if wrong.get("sharper"):
        found["attention"] = found["attention"] ** 1.001
    return {**found, "log_ratio_change": jnp.zeros_like(mass) + wrong.get("change", 0.0)}


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
        found = {name: np.asarray(value) for name, value in head_by_definition(**arrays).items()}
        alone = np.asarray(head_by_definition(**_without_prefix(arrays))["attention"])
    return exact(trials, **found, log_ratio_change=ratio_change(found["attention"], alone))


def measure(
    claim: Claim, profile: str, key: Key[Array, ""], draws: int | None = None
) -> list[Cell]:
    """The patterns of every random layer, run with its prefix and without."""
    cells = []
    for parameters, drawn in random_layers(profile, key, draws):
        found = exact(
            len(drawn.output),
            attention=drawn.attention,
            prefix_mass=drawn.prefix_attention.sum(axis=-1),
            log_ratio_change=ratio_change(np.asarray(drawn.attention), np.asarray(drawn.alone)),
        )
        cells.append(Cell(parameters, found))
    return [*cells, *head_identity.measure_runs(claim, profile, key)]


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


_WRONG = functools.partial

CLAIM = Claim(
    id="prefix.pattern_invariance",
    title="A prefix does not change where a head looks in the content",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(*(dataclasses.replace(p, default=REQUIRED) for p in HEAD[:4]), *HEAD[4:]),
    quantities=(
        Quantity("attention", "weights on the content (…, m)", 1e-13, symbol=r"A^{pt}"),
        Quantity("prefix_attention", "weights on the prefix (…, n)", 1e-13, symbol=r"\alpha_{k}"),
        Quantity("prefix_mass", "attention on the prefix in all", 1e-13, symbol=r"\alpha"),
        Quantity("output", "the head's output (…, v)", 1e-13, symbol=r"t^{pt}"),
        Quantity("log_ratio_change", "largest change of a log-ratio of content weights", 1e-13),
    ),
    falsifiers=(
        Falsifier("undamped", "content weights are not damped",
                  _WRONG(_closed_form, {"undamped": 1.0})),
        Falsifier("damped 1 % less", "damps with 0.99 α", _WRONG(_closed_form, {"undamped": 0.01})),
        Falsifier("sharper", "content weights to the power 1.001",
                  _WRONG(_closed_form, {"sharper": True})),
        Falsifier("ratios move", "log-ratios change by 0.001",
                  _WRONG(_closed_form, {"change": 1e-3})),
        Falsifier("whole prefix", "every query sees the whole prefix",
                  _WRONG(_closed_form, {"whole_prefix": True})),
        Falsifier("first token", "the mass of the first prefix token is all",
                  _WRONG(_closed_form, {"first": True})),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={name: Design((SINGLE, PAIR, *PARTLY_SEEN[:2]), 2) for name in ("quick", "full")},
    check_parameters=validate,
    measure=measure,
    compare=head_identity.compare_rounding,
    broadcasts="leading axes of the arrays",
    traceable=True,
    figure=Agreement(title="Content attention with a prefix", label="entry"),
)  # fmt: skip
