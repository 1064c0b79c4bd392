r"""`universal.prefix_bound`: how many prefix tokens suffice (a Jackson-type upper bound)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import (
    Cell,
    Claim,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
)
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Comparison, Estimate
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets
from jaxprompt.universal.numerics.exact import exact
from jaxprompt.universal.parameters import ACCURACY, CONTENT, LIPSCHITZ, SPHERE_DIM

__all__ = ["CLAIM", "Construction", "closed_form", "concentration_for", "construct"]

STATEMENT = r"""
For every $m\ge1$ one fixed head of width $3n$ matches every geodesically $L$-Lipschitz
$f:S^m\to\mathbb R^n$ with $|f|\le B$, within $\varepsilon$ at every point and beside $T$ content
tokens, by a prefix of
$$ N \le C_m\,\delta^{-m},\qquad \delta=\min\big(\tfrac12,\tfrac{\varepsilon}{6L}\big),\qquad
   C_m = 2m\,\pi^{m-1}\frac{A_m}{A_{m-1}}\quad(2\pi,\ 8\pi,\ 3\pi^3), $$
tokens: a maximal $\delta$-separated set of centres, values $f(b_i)$ and
$\lambda=\max\{2\delta^{-2}\log(\pi N/\delta),\ \log(2BT/\varepsilon)/\cos\delta\}$.
"""

DERIVATION = r"""
Caps of radius $\delta/2$ about the centres are disjoint; comparing areas gives $N\le
C_m\delta^{-m}$. Centres within $2\delta$ of $x$ contribute at most $2L\delta$ to the error. Some
centre lies within $\delta$, so those beyond $2\delta$ hold at most
$N e^{-\lambda(\cos\delta-\cos2\delta)}\le\delta/\pi$ of the mass, at a distance of at most $\pi$.
Content adds at most $BTe^{-\lambda\cos\delta}\le\varepsilon/2$. The check builds a certified net,
evaluates $\sum_i w_i\,d(x,b_i)$, the exact worst case over Lipschitz functions, at the holes of
the net and elsewhere, and compares both with the theorem.
"""

PROBES = 3000


class Construction(NamedTuple):
    """The theorem's prefix for a class of functions: a certified net and a concentration."""

    cover: point_sets.Cover
    concentration: float


def constant(sphere_dim: ArrayLike) -> Float[np.ndarray, "*_"]:
    """C_m = 2 m π^{m−1} A_m / A_{m−1}; float64, elementwise over whole numbers."""
    return np.vectorize(_constant, otypes=[float])(sphere_dim)


def _constant(m: int) -> float:
    return 2 * m * math.pi ** (m - 1) * point_sets.area(int(m)) / point_sets.area(int(m) - 1)


def concentration_for(
    radius: np.ndarray | float,
    count: np.ndarray | float,
    content: ArrayLike,
    sup_norm: ArrayLike,
    accuracy: ArrayLike,
) -> np.ndarray | float:
    """The theorem's λ for a net of `count` centres of that radius; elementwise float64."""
    near = 2 / radius**2 * np.log(np.pi * count / radius)
    with np.errstate(divide="ignore"):
        away = np.log(2 * np.multiply(sup_norm, content) / accuracy) / np.cos(radius)
    return np.maximum(near, away)


def closed_form(
    sphere_dim: ArrayLike,
    lipschitz: ArrayLike,
    accuracy: ArrayLike,
    content: ArrayLike = 1,
    sup_norm: ArrayLike = 1.0,
) -> dict[str, np.ndarray | float]:
    """The theorem's numbers; all parameters broadcast, float64."""
    radius = np.minimum(0.5, np.divide(accuracy, np.multiply(6.0, lipschitz)))
    factor = constant(sphere_dim)
    count = factor * radius ** -np.asarray(sphere_dim, float)
    m = np.asarray(sphere_dim, float)
    with np.errstate(over="ignore"):  # infinite where it is beyond the largest float
        paper = np.divide(lipschitz, accuracy) ** (10 + 14 * m + 4 * m * m)
    return {
        "separation": radius,
        "constant": factor,
        "centres": count,
        "concentration": concentration_for(radius, count, content, sup_norm, accuracy),
        "error": np.asarray(accuracy, float),
        "paper_scaling": paper,
    }


def construct(
    sphere_dim: int, lipschitz: float, accuracy: float, content: int, sup_norm: float, seed: int = 0
) -> Construction:
    """Carry out the theorem's construction: net and concentration, for `sphere_dim` 1, 2 or 3."""
    radius = min(0.5, accuracy / (6 * lipschitz))
    cover = point_sets.net(sphere_dim, radius, seed)
    return Construction(
        cover,
        float(concentration_for(radius, len(cover.centres), content, sup_norm, accuracy)),
    )


def simulate(
    *,
    key: Key[Array, ""],
    trials: int,
    sphere_dim: int,
    lipschitz: float,
    accuracy: float,
    content: int = 1,
    sup_norm: float = 1.0,
) -> dict[str, Estimate]:
    """Size of the certified net, its separation, and the exact worst error found on it."""
    cover, concentration = construct(sphere_dim, lipschitz, accuracy, content, sup_norm)
    error = head.worst_case(
        probes(cover.centres), cover.centres, concentration, content=content,
        sup_norm=sup_norm, lipschitz=lipschitz,
    )  # fmt: skip
    return exact(trials, centres=len(cover.centres), separation=cover.separation, error=error.max())


def probes(centres: np.ndarray, count: int = PROBES, seed: int = 1) -> np.ndarray:
    """Where an error is likely largest: the deepest holes, other holes, and random points."""
    random = np.random.default_rng(seed)
    holes, depth = point_sets.circumcentres(centres)
    order = np.argsort(-depth, kind="stable")
    deep, other = order[: count // 3], order[count // 3 :]
    normal = random.normal(size=(count // 3, centres.shape[1]))
    return np.concatenate([
        holes[deep],
        holes[random.permutation(other)[: count // 3]],
        normal / np.linalg.norm(normal, axis=1, keepdims=True),
    ])  # fmt: skip


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Centres and error at most, separation at least what the theorem says; no sampling error."""
    rows = []
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name, estimate in cell.estimates.items():
            value = float(predicted[name])
            rows.append(
                Comparison(
                    name, cell.parameters, value, float(estimate.mean),
                    tolerance=claim.quantity(name).allowance(value),
                    side="lower" if name == "separation" else "upper",
                )
            )  # fmt: skip
    return rows


def _with(
    changes: Callable[
        [dict[str, np.ndarray | float], dict[str, Any]], dict[str, np.ndarray | float]
    ],
) -> Predictor:
    def wrong(**params: Any) -> dict[str, np.ndarray | float]:
        result = closed_form(**params)
        return {**result, **changes(result, params)}

    return wrong


def _paper_line(accuracy: float, sphere_dim: int, lipschitz: float = 1.0) -> float:
    return float((1 / accuracy) ** (10 + 14 * sphere_dim + 4 * sphere_dim**2))


def _needed_line(accuracy: float, sphere_dim: int, lipschitz: float = 1.0) -> float:
    return point_sets.packing_bound(sphere_dim, 2 * accuracy)


ROUNDING = 1e-9
"""Distances near δ come from arccos of a facet's offset: rounding 1e-16 over δ², at most."""

CLAIM = Claim(
    id="universal.prefix_bound",
    title="How many prefix tokens suffice",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.BOUND,
    source="derived here; the question and the larger exponent are from Petrov et al., ICML 2024",
    parameters=(
        replace(SPHERE_DIM, high=100),
        LIPSCHITZ,
        ACCURACY,
        CONTENT,
        Parameter("sup_norm", "real", "largest |f|", "B", low=0, default=1.0),
    ),
    quantities=(
        Quantity("centres", "prefix tokens that suffice", ROUNDING, True, "N"),
        Quantity("separation", "radius of the net", ROUNDING, True, r"\delta"),
        Quantity("error", "worst error over the class: at most the accuracy", ROUNDING, True),
        Quantity("constant", "constant of the bound", symbol="C_m", unmeasured=True),
        Quantity("concentration", "inverse temperature", symbol=r"\lambda", unmeasured=True),
        Quantity("paper_scaling", "tokens by the paper's exponent, up to a constant",
                 symbol=r"(L/\varepsilon)^{10+14m+4m^2}",
                 infinite="beyond the largest float64", unmeasured=True),
    ),
    falsifiers=(
        Falsifier("constant −2 %", "C_m two per cent smaller",
                  _with(lambda r, p: {"centres": 0.98 * r["centres"]})),
        Falsifier("no factor 6", "δ = ε/L counted in place of ε/(6L)",
                  _with(lambda r, p: {"centres": r["centres"] / 6 ** np.asarray(p["sphere_dim"])})),
        Falsifier("one dimension less", "δ^{−(m−1)} in place of δ^{−m}",
                  _with(lambda r, p: {"centres": r["centres"] * r["separation"]})),
        Falsifier("error an eighth", "error at most ε/8",
                  _with(lambda r, p: {"error": r["error"] / 8})),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(tuple(
            {"sphere_dim": m, "lipschitz": lip, "accuracy": eps, "content": t, "sup_norm": b}
            for m, lip, eps, t, b in (
                (1, 1.0, 0.5, 1, 1.0), (1, 2.0, 0.1, 50, 4.0), (1, 1.0, 4.0, 5, 2.0),
                (2, 1.0, 0.5, 1, 1.0), (2, 1.0, 1.2, 1000, 3.0), (2, 3.0, 20.0, 5, 8.0),
                (3, 1.0, 1.5, 10, 2.0), (3, 1.0, 3.0, 10, 2.0))), 2),
        "full": Design(tuple(
            {"sphere_dim": m, "lipschitz": 1.0, "accuracy": eps, "content": t, "sup_norm": 2.0}
            for t in (1, 100)
            for m, accuracies in ((1, (3.0, 0.5, 0.02)), (2, (3.0, 1.0, 0.5, 0.15)),
                                  (3, (3.0, 1.5, 1.0, 0.5)))
            for eps in accuracies), 2),
    },
    broadcasts="all parameters",
    compare=_compare,
    figure=Curves(
        x="accuracy", y="centres", lines=tuple(np.geomspace(0.1, 6, 41).tolist()),
        design=Design(tuple(
            {"sphere_dim": m, "lipschitz": 1.0, "accuracy": eps}
            for m, accuracies in ((1, (0.1, 0.3, 1.0, 3.0)), (2, (0.3, 0.6, 1.2, 3.0)),
                                  (3, (1.2, 2.0, 3.0)))
            for eps in accuracies), 2),
        x_label="accuracy ε (Lipschitz constant 1)", y_label="prefix tokens",
        title="Tokens that suffice: the bound, certified nets, and the paper's exponent",
        series="lipschitz", series_label="bound (line), certified net (points)",
        panel="sphere_dim", panel_label="sphere of dimension {value}", log_x=True, log_y=True,
        y_range=(1.0, 1e10),
        extra=(ExtraLine("paper's exponent, constant 1", _paper_line),
               ExtraLine("needed, keys fixed in advance", _needed_line)),
    ),
)  # fmt: skip
