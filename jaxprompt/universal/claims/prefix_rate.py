r"""Claim ``universal.prefix_rate``: how the best error falls with the number of prefix tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key
from scipy import optimize

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
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.comparing import group_by_size
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Comparison, Estimate, compare_rate, exact_estimate, slope
from jaxprompt.universal.claims.prefix_bound import constant, probes
from jaxprompt.universal.numerics import point_sets
from jaxprompt.universal.parameters import CENTRES, SPHERE_DIM

__all__ = [
    "CLAIM", "best_error", "centre_family", "closed_form", "exponent_tolerance", "hull_distance",
    "simulate",
]  # fmt: skip

STATEMENT = r"""
Let $\varepsilon^*(N)$ be the largest error over the sphere at the best $\lambda$, for evenly
spread centres and values $v_i=f(b_i)$.
For the class of $L$-Lipschitz functions it is $L$ times the covering radius of the centres,
$\varepsilon^*\sim N^{-1/m}$.
For a smooth $f$ (here $f(x)=x$) the error follows the local law
$h-f\approx\frac1\lambda\big(\tfrac12\Delta f+\langle\nabla f,\nabla\log Z\rangle\big)$, so that
$\varepsilon^*\sim N^{-2/m}\log N$, where the logarithm is the factor $N^{2/m}/\lambda^*$ by which
kernels must be wider than the spacing.
No $\lambda$ and no weighting of the centres gives an error for $f(x)=x$ below
$1-\cos(\text{covering radius})$.
"""

DERIVATION = r"""
Lipschitz class: the worst error at $x$ is $\sum_i w_id(x,b_i)\ge\min_id(x,b_i)$, attained as
$\lambda\to\infty$. Smooth case: expand $f$ and the density of centres about $x$ under a kernel of
width $\lambda^{-1/2}$; the lattice's own error falls as $e^{-cN^{2/m}/\lambda}$ and must not
exceed $1/\lambda$, so that $N^{2/m}/\lambda^*$ grows as $\log N$. Last part: the output is in the
convex hull of the centres, all of which have $\langle b_i,x\rangle\le\cos r$ at the deepest
hole $x$.

*Tolerances.* An exponent must be told from that of one dimension more: three quarters of the gap,
and never more than 0.12. A point of a slope has no sampling error, but one set of centres lies off
the trend of its family. Covering radii times $N^{1/m}$ scatter by 0.0115 on $S^3$ (standard
deviation over eight sizes from 60 to 2000, whose design is a local minimum each) and by less on
$S^1$ and $S^2$; each point of a Lipschitz slope is given 0.012. For smooth targets the terms of
order $1/\log N$ that the law leaves out, and the centres' own irregularity, are larger for the $N$
used here: 0.04. The bounds by area and the floor are exact, up to rounding (1e-9); the hull's
distance is found by least squares with a heavy equation in place of a constraint (1e-6).
"""


# --- the closed form ---

_SMOOTHNESS_ORDER = {"lipschitz": 1.0, "smooth": 2.0}


def closed_form(
    *, sphere_dim: Any, smoothness: str, centres: Any = None, covering: Any = None,
    dimensions_more: int = 0, area_factor: float = 1.0,
    floor_at: Literal["hull", "radius"] = "hull",
) -> dict[str, Any]:  # fmt: skip
    """Exponent of N; with `covering` (radians) also the floor of the error for f(x) = x, which is
    the hull's distance.

    With `centres` also `error`, what no set of so many centres can do better than, by area; and
    the covering radius is then by default the least possible.
    `sphere_dim`, `centres` and `covering` broadcast; float64. Falsifiers change the last three
    arguments, which the theory has at their defaults.
    """
    dimensions = np.asarray(sphere_dim, np.float64) + dimensions_more
    result: dict[str, Any] = {"exponent": -_SMOOTHNESS_ORDER[smoothness] / dimensions}
    if centres is not None:
        radius = np.vectorize(point_sets.covering_bound, otypes=[float])(sphere_dim, centres)
        least = radius if smoothness == "lipschitz" else 2 * np.sin(radius / 2) ** 2
        result["error"] = area_factor * least
        covering = radius if covering is None else covering
    if covering is not None:
        result["covering"] = np.asarray(covering, np.float64)
        result["hull"] = 2 * np.sin(result["covering"] / 2) ** 2
        result["floor"] = result["hull"] if floor_at == "hull" else result["covering"]
    return result


def _paper_exponent(right: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    m = np.asarray(at["sphere_dim"], np.float64)
    return {**right, "exponent": -1 / (10 + 14 * m + 4 * m * m)}


def _random_exponent(right: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    if at["smoothness"] != "smooth":
        return dict(right)
    return {**right, "exponent": -2 / (np.asarray(at["sphere_dim"], np.float64) + 2)}


FALSIFIERS = (
    Falsifier.after("paper's exponent", "N ~ ε^{−(10+14m+4m²)}, slope −1/(10+14m+4m²)",
                    _paper_exponent),
    Falsifier("one dimension more", "m+1 in place of m", dimensions_more=1),
    Falsifier.after("rate of random centres", "slope −2/(m+2) for smooth targets",
                    _random_exponent),
    Falsifier("area +4 %", "least error four per cent larger", area_factor=1.04),
    Falsifier("floor at the radius", "r itself in place of 1 − cos r", floor_at="radius"),
)  # fmt: skip


# --- the simulation ---


def centre_family(sphere_dim: int, count: int) -> np.ndarray:
    """Evenly spread centres: equispaced, Fibonacci, or on S³ a design of least energy."""
    return (
        point_sets.quasi_uniform(sphere_dim, count)
        if sphere_dim < 3
        else _repelling_points_on_s3(count)
    )


@functools.lru_cache(maxsize=16)
def _repelling_points_on_s3(count: int) -> np.ndarray:
    """Points on S³ that repel each other: local minimum of Σ d⁻⁴, from a spread-out start.

    120 points find the 600-cell, whose error is a third below the trend: no size for a slope.
    """
    start = point_sets.quasi_uniform(3, count, seed=0)
    with jax.enable_x64(True):

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _energy(flat.reshape(count, 4))
            return float(value), np.asarray(gradient, np.float64).ravel()

        result: Any = optimize.minimize(
            value_and_gradient, start.ravel(), jac=True, method="L-BFGS-B",
            options={"maxiter": 400, "maxfun": 500},
        )  # fmt: skip
    points = result.x.reshape(count, 4)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@jax.jit
@jax.value_and_grad
def _energy(points: Float[Array, "N 4"]) -> Float[Array, ""]:
    points = points / jnp.linalg.norm(points, axis=1, keepdims=True)
    count = points.shape[0]
    squared = 2 - 2 * points @ points.T + 100 * jnp.eye(count)
    return (squared**-2).sum() / count ** (4 / 3 + 1)


PROBES = 1500


def best_error(centres: np.ndarray) -> tuple[float, float]:
    """Least over λ of the largest error of the head for f(x) = x, and that λ; float64."""
    m = centres.shape[1] - 1
    query = probes(centres, PROBES)
    scale = (2 / m) * math.log(len(centres))
    with jax.enable_x64(True):

        def error(log_lam: float) -> float:
            return float(_largest_error(query, centres, math.exp(log_lam)))

        grid = scale + np.arange(-4.0, 1.01, 0.25)
        best = int(np.argmin([error(t) for t in grid]))
        result: Any = optimize.minimize_scalar(
            error, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
            method="bounded", options={"xatol": 1e-3},
        )  # fmt: skip
    return float(result.fun), math.exp(result.x)


@jax.jit
def _largest_error(
    query: Float[Array, "Q n"], centres: Float[Array, "N n"], concentration: ArrayLike
) -> Float[Array, ""]:
    # In float64 the difference loses ten digits at most: errors here are above 1e-7.
    weight = jax.nn.softmax(concentration * (query @ centres.T), axis=-1)
    return jnp.linalg.norm(weight @ centres - query, axis=-1).max()


def hull_distance(centres: np.ndarray) -> float:
    """Distance of the deepest hole from the centres' convex hull: the least error of any weights.

    Weights that are not negative and add up to 1 are found by least squares.
    """
    vertices, radii = point_sets.circumcentres(centres)
    hole = vertices[np.argmax(radii)]
    # A heavy last equation makes the weights add up to 1.
    heavy = 1e3
    near = centres[np.argsort(-(centres @ hole), kind="stable")[:64]]
    weights, _ = optimize.nnls(
        np.vstack([near.T, np.full(len(near), heavy)]), np.append(hole, heavy)
    )
    return float(np.linalg.norm(weights / weights.sum() @ near - hole))


# Centres and their least errors are found by SciPy and draw nothing from the key.
def simulate(
    *, key: Key[Array, ""], trials: int, sphere_dim: int, smoothness: str, centres: int,
    covering: float | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Best error for a number of centres; for smooth f also the log factor and the floor.

    The error of the Lipschitz class is the covering radius, exactly (λ → ∞).

    Raises:
        ParameterError: `sphere_dim` above 3, where no family of centres is built.
    """
    if sphere_dim > 3:
        raise ParameterError("sphere_dim", sphere_dim, "1, 2 or 3", "lower it", CLAIM.id)
    points = centre_family(sphere_dim, centres)
    radius = point_sets.covering_radius(points)
    if smoothness == "lipschitz":
        measured = {"error": radius, "covering": radius}
    else:
        error, lam = best_error(points)
        measured = {
            "error": error,
            "covering": radius,
            "log_factor": centres ** (2 / sphere_dim) / lam,
            "hull": hull_distance(points),
        }
    return {name: exact_estimate(value, trials) for name, value in measured.items()}


# --- the comparison ---

_POINT_SPREAD = {"lipschitz": 0.012, "smooth": 0.04}
"""Relative error given to each point of a slope; the derivation says why."""

LARGEST_TOLERANCE = 0.12


def exponent_tolerance(parameters: Mapping[str, Any]) -> float:
    """three quarters of the gap to the exponent of one dimension more, at most 0.12"""
    m, order = parameters["sphere_dim"], _SMOOTHNESS_ORDER[parameters["smoothness"]]
    return min(LARGEST_TOLERANCE, 0.75 * order / (m * (m + 1)))


# The slope is that of the error over its log factor, through points whose scatter is stated and
# not sampled, and the floor is predicted from the measured covering radius. The standard
# comparison of a rate takes neither.
def compare_slopes_and_floors(
    claim: Claim, cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    """The slope over sizes; each size above the bound; and for smooth f the floor.

    Stores of earlier versions lack the factor and the covering radius of a smooth f. Without them
    there is no slope and no floor to compare; with fewer than three sizes there is no slope.
    """
    rows: list[Comparison] = []
    for params, members in group_by_size(cells, "centres"):
        smooth = params["smoothness"] == "smooth"
        complete = not smooth or all("log_factor" in cell.estimates for cell in members)
        if complete and len(members) >= 3:
            rows.append(_exponent_row(params, members, predict))
        rows += [_area_row(claim, cell, predict) for cell in members]
        if smooth and complete:
            rows += [r for cell in members for r in _floor_rows(claim, cell, params, predict)]
    return rows


def _exponent_row(
    params: Mapping[str, Any], members: Sequence[Cell], predict: Predictor
) -> Comparison:
    count = np.array([cell.parameters["centres"] for cell in members], float)
    error = np.array([cell.estimates["error"].mean for cell in members])
    if params["smoothness"] == "smooth":
        error = error / np.array([cell.estimates["log_factor"].mean for cell in members])
    spread = np.full(count.size, _POINT_SPREAD[params["smoothness"]])
    return compare_rate(
        "exponent", {**params, "centres": count.astype(int).tolist()},
        float(predict(**params)["exponent"]), slope(np.log(count), np.log(error), spread),
        tolerance=exponent_tolerance(params),
    )  # fmt: skip


def _area_row(claim: Claim, cell: Cell, predict: Predictor) -> Comparison:
    least = float(predict(**cell.parameters)["error"])
    # No weights do better than the hull's distance, so it must keep to the bound too.
    measured = cell.estimates.get("hull", cell.estimates["error"])
    return Comparison(
        "error", cell.parameters, least, float(measured.mean),
        tolerance=claim.quantity("error").allowance(least), side="lower",
    )  # fmt: skip


def _floor_rows(
    claim: Claim, cell: Cell, params: dict[str, Any], predict: Predictor
) -> list[Comparison]:
    """The error stays above the floor, and the deepest hole's distance from the hull is it."""
    covering = float(cell.estimates["covering"].mean)
    predicted = predict(**params, covering=covering)
    shown = {**params, "centres": cell.parameters["centres"], "covering": covering}

    def row(name: str, measured: str, side: Literal["two", "lower"]) -> Comparison:
        value = float(predicted[name])
        return Comparison(
            name, shown, value, float(cell.estimates[measured].mean), side=side,
            tolerance=claim.quantity(name).allowance(value),
        )  # fmt: skip

    return [row("floor", "error", "lower"), row("hull", "hull", "two")]


# --- the design ---


_Sizes = Mapping[int, Mapping[str, Sequence[int]]]


def _smoothness_runs(sizes: _Sizes) -> tuple[Run, ...]:
    """A run for each class of targets, sphere dimension and number of centres."""
    return tuple(
        Run(sphere_dim=m, smoothness=smoothness, centres=count)
        for smoothness in ("lipschitz", "smooth")
        for m, counts in sizes.items()
        for count in counts[smoothness]
    )


def _same_sizes(sizes: Mapping[int, Sequence[int]]) -> _Sizes:
    return {m: {"lipschitz": counts, "smooth": counts} for m, counts in sizes.items()}


def _sufficient_error_line(centres: float, sphere_dim: int) -> float:
    """Accuracy that the upper bound gives for L = 1: 6δ with C_m δ^{−m} = N."""
    return 6 * float(constant(sphere_dim) / centres) ** (1 / sphere_dim)


def _needed_error_line(centres: float, sphere_dim: int) -> float:
    """Error that N keys fixed in advance cannot avoid for L = 1, as `prefix_lower_bound` has it.

    Beyond the circle it is half the distance at which N + 1 points are sure to fit.
    """
    if sphere_dim == 1:
        return math.pi / (2 * math.ceil(centres / 2))
    return point_sets.covering_bound(sphere_dim, centres + 1) / 2


def _paper_error_line(centres: float, sphere_dim: int) -> float:
    return float(centres) ** (-1 / (10 + 14 * sphere_dim + 4 * sphere_dim**2))


_QUICK_SIZES = {
    1: {"lipschitz": (16, 64, 256, 1024), "smooth": (16, 64, 256, 1024)},
    2: {"lipschitz": (100, 300, 1000, 3000), "smooth": (60, 150, 400, 1000, 2000)},
    3: {"lipschitz": (60, 160, 320, 640, 960), "smooth": (60, 160, 320, 640, 960)},
}
_FULL_SIZES = {
    1: {"lipschitz": tuple(2**j for j in range(4, 14)),
        "smooth": tuple(2**j for j in range(4, 14))},
    2: {"lipschitz": tuple(50 * 2**j for j in range(11)),
        "smooth": tuple(50 * 2**j for j in range(8))},
    3: {"lipschitz": (80, 160, 320, 640, 1280, 2000), "smooth": (80, 160, 320, 640, 1280, 2000)},
}  # fmt: skip
_FIGURE_SIZES = _same_sizes(
    {1: (8, 16, 64, 256, 1024), 2: (20, 60, 200, 700, 2000), 3: (40, 80, 160, 320)}
)

FIGURE = Curves(
    x="centres", y="error", lines=tuple(np.geomspace(8, 3000, 41).round().tolist()),
    design=Design(*_smoothness_runs(_FIGURE_SIZES), trials=2),
    x_label="prefix tokens N", y_label="largest error, L = 1",
    title="Best error against the length of the prefix",
    series="smoothness", series_label="{value} functions",
    panel="sphere_dim", panel_label="sphere of dimension {value}", log_x=True, log_y=True,
    extra=(ExtraLine("theorem: suffices for Lipschitz", _sufficient_error_line),
           ExtraLine("cannot be avoided, keys fixed in advance", _needed_error_line),
           ExtraLine("paper's exponent, constant 1", _paper_error_line)),
)  # fmt: skip

CLAIM = Claim(
    id="universal.prefix_rate",
    title="How fast the error falls with the length of the prefix",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.RATE,
    source="derived here; the paper's exponent from Petrov et al., ICML 2024",
    parameters=(
        replace(SPHERE_DIM, high=100),
        Parameter("smoothness", "choice", "class of targets", choices=("lipschitz", "smooth")),
        replace(CENTRES, low=2, default=None),
        Parameter("covering", "real", "covering radius of the centres", "r", low=0,
                  high=math.pi, default=None),
    ),
    quantities=(
        Quantity("exponent", "slope of log error (over its log factor) against log N",
                 exponent_tolerance),
        Quantity("floor", "error for f(x) = x that nothing goes below", 1e-9, True,
                 r"1-\cos r"),
        Quantity("hull", "least error of any weights at the deepest hole", 1e-6, True),
        Quantity("error", "best error; predicted: the least possible, by area", 1e-9, True),
        Quantity("covering", "covering radius of the centres", symbol="r", unmeasured=True),
        Quantity("log_factor", "how much wider kernels are than the spacing",
                 symbol=r"N^{2/m}/\lambda^*", unmeasured=True),
    ),
    compared=Compared(
        {"sphere_dim": (1, 60), "centres": (2, 10**6), "covering": (1e-3, 3.1)},
        elsewhere="formulas keep their digits; slopes are measured for sphere_dim 1, 2 and 3 alone",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(*_smoothness_runs(_QUICK_SIZES), trials=2),
        "full": Design(*_smoothness_runs(_FULL_SIZES), trials=2),
    },
    broadcasts="sphere_dim, centres, covering",
    compare=compare_slopes_and_floors,
    figure=FIGURE,
)  # fmt: skip
