r"""Claim ``universal.prefix_bound``: how many prefix tokens suffice, a Jackson-type bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import (
    Claim,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets
from jaxprompt.universal.parameters import ACCURACY, CONTENT, LIPSCHITZ, SPHERE_DIM

__all__ = [
    "CLAIM", "Construction", "closed_form", "concentration_for", "constant", "construct", "probes",
    "simulate",
]  # fmt: skip

STATEMENT = r"""
For every $m\ge1$ one fixed head of width $3n$ matches every geodesically $L$-Lipschitz
$f:S^m\to\mathbb R^n$ with $|f|\le B$, within $\varepsilon$ at every point and beside $T$ content
tokens, by a prefix of
$$ N \le C_m\,\delta^{-m},\qquad \delta=\min\big(\tfrac12,\tfrac{\varepsilon}{6L}\big),\qquad
   C_m = 2m\,\pi^{m-1}\frac{A_m}{A_{m-1}}\quad(2\pi,\ 8\pi,\ 3\pi^3), $$
tokens: a maximal $\delta$-separated set of centres, values $f(b_i)$ and
$\lambda=\max\{2\delta^{-2}\log(\pi N/\delta),\ \log(2BT/\varepsilon)/\cos\delta\}$.
Any bound on how many points of $S^m$ are pairwise $\delta$ apart bounds $N$ too: on $S^2$ Fejes
Tóth's, about $\frac{8\pi}{\sqrt3}\delta^{-2}$, and on every sphere Levenshtein's.
"""

DERIVATION = r"""
Caps of radius $\delta/2$ about the centres are disjoint; comparing areas gives $N\le
C_m\delta^{-m}$. (Caps waste room between them: no three points of a separated set on $S^2$ span a
smaller triangle than the equilateral one of side $\delta$, and a hull of $N$ points has at most
$2N-4$ triangles. Linear programming over polynomials of the cosine does better than area in every
dimension.) Centres within $2\delta$ of $x$ contribute at most $2L\delta$ to the error. Some
centre lies within $\delta$, so those beyond $2\delta$ hold at most
$N e^{-\lambda(\cos\delta-\cos2\delta)}\le\delta/\pi$ of the mass, at a distance of at most $\pi$.
Content adds at most $BTe^{-\lambda\cos\delta}\le\varepsilon/2$. The check builds a certified net,
evaluates $\sum_i w_i\,d(x,b_i)$, the exact worst case over Lipschitz functions, at the holes of
the net and elsewhere, and compares both with the theorem.

*Tolerances.* 1e-9 of each: the separation of a net comes from the arccos of a facet's offset, whose
rounding of $10^{-16}$ is at most $10^{-16}/\delta^2$ of an angle near $\delta$.
"""


# --- the closed form ---


def closed_form(
    *, sphere_dim: Any, lipschitz: Any, accuracy: Any, content: Any = 1, sup_norm: Any = 1.0,
    constant_factor: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """The theorem's numbers; all parameters broadcast, float64.

    A falsifier changes `constant_factor`, which the theory has at its default.
    """
    radius = np.minimum(0.5, np.divide(accuracy, np.multiply(6.0, lipschitz)))
    factor = constant_factor * constant(sphere_dim)
    m = np.asarray(sphere_dim, np.float64)
    count = factor * radius**-m
    with np.errstate(over="ignore"):  # infinite where it is beyond the largest float
        paper = np.divide(lipschitz, accuracy) ** (10 + 14 * m + 4 * m * m)
    return {
        "separation": radius,
        "constant": factor,
        "centres": count,
        "sharper_centres": _most_points(sphere_dim, radius),
        "concentration": concentration_for(radius, count, content, sup_norm, accuracy),
        "error": np.asarray(accuracy, np.float64),
        "paper_scaling": paper,
    }


def _most_points(sphere_dim: ArrayLike, radius: ArrayLike) -> np.ndarray:
    return np.vectorize(point_sets.packing_limit, otypes=[float])(sphere_dim, radius)


def constant(sphere_dim: ArrayLike) -> Float[np.ndarray, "*_"]:
    """C_m = 2 m π^{m−1} A_m / A_{m−1}; float64, elementwise over whole numbers."""
    return np.vectorize(_constant_of_one_sphere, otypes=[float])(sphere_dim)


def _constant_of_one_sphere(m: int) -> float:
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


FALSIFIERS = (
    Falsifier("constant −2 %", "C_m two per cent smaller", constant_factor=0.98),
    Falsifier.after("no factor 6", "δ = ε/L counted in place of ε/(6L)",
                    lambda right, at: {
                        **right, "centres": right["centres"] / 6 ** np.asarray(at["sphere_dim"])}),
    Falsifier.after("one dimension less", "δ^{−(m−1)} in place of δ^{−m}",
                    lambda right, _: {
                        **right, "centres": right["centres"] * right["separation"]}),
    Falsifier.after("packing −2 %", "two per cent fewer points on the circle and elsewhere",
                    lambda right, _: {
                        **right, "sharper_centres": 0.98 * right["sharper_centres"]}),
    Falsifier.after("error an eighth", "error at most ε/8",
                    lambda right, _: {**right, "error": right["error"] / 8}),
)  # fmt: skip


# --- the simulation ---


class Construction(NamedTuple):
    """The theorem's prefix for a class of functions: a certified net and a concentration."""

    cover: point_sets.Cover
    concentration: float


def construct(
    sphere_dim: int, lipschitz: float, accuracy: float, content: int, sup_norm: float, seed: int = 0
) -> Construction:
    """Carry out the theorem's construction: net and concentration, for `sphere_dim` 1 to 5."""
    radius = min(0.5, accuracy / (6 * lipschitz))
    cover = point_sets.net(sphere_dim, radius, seed)
    return Construction(
        cover,
        float(concentration_for(radius, len(cover.centres), content, sup_norm, accuracy)),
    )


PROBES = 3000


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


# Nets come from SciPy's convex hulls and draw nothing from the key, so there is no trial to trace.
def simulate(
    *, key: Key[Array, ""], trials: int, sphere_dim: int, lipschitz: float, accuracy: float,
    content: int = 1, sup_norm: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """Size of the certified net, its separation, and the exact worst error found on it."""
    cover, concentration = construct(sphere_dim, lipschitz, accuracy, content, sup_norm)
    error = head.worst_case(
        probes(cover.centres), cover.centres, concentration, content=content,
        sup_norm=sup_norm, lipschitz=lipschitz,
    )  # fmt: skip
    return {
        "centres": exact_estimate(len(cover.centres), trials),
        "sharper_centres": exact_estimate(len(cover.centres), trials),
        "separation": exact_estimate(cover.separation, trials),
        "error": exact_estimate(error.max(), trials),
    }


# --- the design ---

_CLASSES = (
    {"sphere_dim": 1, "lipschitz": 1.0, "accuracy": 0.5, "content": 1, "sup_norm": 1.0},
    {"sphere_dim": 1, "lipschitz": 2.0, "accuracy": 0.1, "content": 50, "sup_norm": 4.0},
    {"sphere_dim": 1, "lipschitz": 1.0, "accuracy": 4.0, "content": 5, "sup_norm": 2.0},
    {"sphere_dim": 2, "lipschitz": 1.0, "accuracy": 0.5, "content": 1, "sup_norm": 1.0},
    {"sphere_dim": 2, "lipschitz": 1.0, "accuracy": 1.2, "content": 1000, "sup_norm": 3.0},
    {"sphere_dim": 2, "lipschitz": 3.0, "accuracy": 20.0, "content": 5, "sup_norm": 8.0},
    {"sphere_dim": 3, "lipschitz": 1.0, "accuracy": 1.5, "content": 10, "sup_norm": 2.0},
    {"sphere_dim": 3, "lipschitz": 1.0, "accuracy": 3.0, "content": 10, "sup_norm": 2.0},
)
_ACCURACIES = {1: (3.0, 0.5, 0.02), 2: (3.0, 1.0, 0.5, 0.15), 3: (3.0, 1.5, 1.0, 0.5)}
_FIGURE_ACCURACIES = {1: (0.1, 0.3, 1.0, 3.0), 2: (0.3, 0.6, 1.2, 3.0), 3: (1.2, 2.0, 3.0)}


def _paper_tokens_line(accuracy: float, sphere_dim: int, lipschitz: float = 1.0) -> float:
    return float((1 / accuracy) ** (10 + 14 * sphere_dim + 4 * sphere_dim**2))


def _sharper_tokens_line(accuracy: float, sphere_dim: int, lipschitz: float = 1.0) -> float:
    return point_sets.packing_limit(sphere_dim, min(0.5, accuracy / 6))


def _needed_tokens_line(accuracy: float, sphere_dim: int, lipschitz: float = 1.0) -> float:
    return point_sets.packing_bound(sphere_dim, 2 * accuracy)


FIGURE = Curves(
    x="accuracy", y="centres", lines=tuple(np.geomspace(0.1, 6, 41).tolist()),
    design=Design(
        *(Run(sphere_dim=m, lipschitz=1.0, accuracy=accuracy)
          for m, accuracies in _FIGURE_ACCURACIES.items() for accuracy in accuracies), trials=2,
    ),
    x_label="accuracy ε (Lipschitz constant 1)", y_label="prefix tokens",
    title="Tokens that suffice: the bound, certified nets, and the paper's exponent",
    series="lipschitz", series_label="bound (line), certified net (points)",
    panel="sphere_dim", panel_label="sphere of dimension {value}", log_x=True, log_y=True,
    y_range=(1.0, 1e10),
    extra=(ExtraLine("paper's exponent, constant 1", _paper_tokens_line),
           ExtraLine("Fejes Tóth's and Levenshtein's bounds", _sharper_tokens_line),
           ExtraLine("needed, keys fixed in advance", _needed_tokens_line)),
)  # fmt: skip

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
        Quantity("centres", "prefix tokens that suffice", 1e-9, True, "N", side="upper"),
        Quantity("sharper_centres", "the same by the best known bound on separated points", 1e-9,
                 True, side="upper"),
        Quantity("separation", "radius of the net", 1e-9, True, r"\delta", side="lower"),
        Quantity("error", "worst error over the class: at most the accuracy", 1e-9, True,
                 side="upper"),
        Quantity("constant", "constant of the bound", symbol="C_m", unmeasured=True),
        Quantity("concentration", "inverse temperature", symbol=r"\lambda", unmeasured=True),
        Quantity("paper_scaling", "tokens by the paper's exponent, up to a constant",
                 symbol=r"(L/\varepsilon)^{10+14m+4m^2}",
                 infinite="beyond the largest float64", unmeasured=True),
    ),
    compared=Compared(
        {"sphere_dim": (1, 7), "lipschitz": (1e-3, 1e3), "accuracy": (1e-3, 1e2),
         "content": (0, 10**6), "sup_norm": (0.0, 1e3)},
        elsewhere="formulas keep their digits; `sharper_centres` is compared with linear "
        "programmes for sphere_dim up to 7",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(*(Run(one_class) for one_class in _CLASSES), trials=2),
        "full": Design(
            *(Run(sphere_dim=m, lipschitz=1.0, accuracy=accuracy, content=content, sup_norm=2.0)
              for content in (1, 100)
              for m, accuracies in _ACCURACIES.items() for accuracy in accuracies),
            Run(sphere_dim=4, lipschitz=1.0, accuracy=3.0, content=10, sup_norm=2.0), trials=2,
        ),
    },
    broadcasts="all parameters",
    cost="short",
    figure=FIGURE,
)  # fmt: skip
