r"""`universal.sequence_map`: stacked prefixed layers realise maps of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Key
from numpy.polynomial import chebyshev
from scipy import integrate, special

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
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Comparison, Estimate, compare_mean, mean_estimate
from jaxprompt.universal.networks import stack
from jaxprompt.universal.numerics.exact import exact
from jaxprompt.universal.parameters import CONTENT

__all__ = ["CLAIM", "closed_form", "smooth_target"]

STATEMENT = r"""
Softmax layers with fixed projections, each with a prefix of its own, realise maps of sequences
$x\in[0,1]^T$; the target of forms 1 and 2 is sorting.

1. **Cantor form** (the paper's, depth $T+2$): $f=g\big(3\sum_p3^{-p}\varphi(x_p)\big)$, where
   $\varphi$ turns $K$ binary digits into a point of the Cantor set. The mean error halves with
   every digit, $2^{-K}E|u|$ with $u$ uniform on $[-\frac12,\frac12]^T$. But $\varphi$ jumps, and
   a continuous head crosses the gap: near $x_1=\frac12$ the error is at least
   $\frac12-2^{-(K+1)}$. The form converges in the mean, not uniformly.
2. **Joint kernel** (not the paper's): a kernel on the whole sequence, $T\,n^T$ tokens, has the
   largest error $\frac1{2n}$, half the grid step, for every $x$.
3. **Ridge sum** (not the paper's): for smooth $f$ and $T=2$, a sum of $d+1$ layers that read one
   direction each does as well as polynomials of degree $d$.
"""

DERIVATION = r"""
In form 1 every cell of side $2^{-K}$ is sent to the sorted midpoint of the cell, and sorting
preserves distances within a cell. On the way across $x_1=\frac12$ the code of a sequence passes
the codes of all cells in between, whose second component runs from $0$ to $1$ while $x_2$ stays.
In form 2 the nearest grid point is returned. In form 3 polynomials of degree $d$ in two variables
are sums of polynomials in any $d+1$ distinct directions.
"""

FORMS = ("cantor", "joint", "ridge")


def smooth_target(x: np.ndarray) -> np.ndarray:
    """The smooth function of two numbers that the ridge sum approximates: (B, 2) to (B,)."""
    return np.exp(x[:, 0] * x[:, 1]) * np.cos(3 * x[:, 0] - x[:, 1])


def _sorted(x: np.ndarray) -> np.ndarray:
    return np.sort(x, axis=1)


# --- the closed form -----------------------------------------------------------------------------


def closed_form(form: str, resolution: int, content: int = 2) -> dict[str, float]:
    """Errors, depth and prefix tokens of a form. Numbers, float64; nothing broadcasts.

    `resolution` is the number of digits K (cantor), of grid points a side n (joint), or the
    degree d (ridge); `content` the length T of the sequence.
    """
    if form == "cantor":
        return {
            "mean_error": _mean_norm(content) * 2.0**-resolution,
            "edge_error": 0.5 - 0.5 * 2.0**-resolution,
            "layers": content + 2,
            "tokens": 2**resolution + content * 2 ** (resolution * content),
        }
    if form == "joint":
        return {
            "sup_error": 0.5 / resolution, "layers": 2, "tokens": content * resolution**content
        }  # fmt: skip
    return {"polynomial_error": _polynomial_error(resolution), "layers": resolution + 2}


def _mean_norm(length: int) -> float:
    r"""E|u| for u uniform on [−½, ½]^T.

    .. math:: E|u| = \frac{1}{\sqrt\pi} \int_0^\infty \frac{1 - E e^{-s^2|u|^2}}{s^2}\, ds
    """

    def integrand(s: float) -> float:
        inner = math.sqrt(math.pi) * special.erf(s / 2) / s
        return (1 - inner**length) / s**2

    low, high = integrate.quad(integrand, 1e-4, 1)[0], integrate.quad(integrand, 1, np.inf)[0]
    # Below 1e-4 the integrand is E|u|² = T/12 up to 1e-8.
    return (low + high + 1e-4 * length / 12) / math.sqrt(math.pi)


def _polynomial_error(degree: int) -> float:
    """Largest error on the square of the Chebyshev projection of total degree ≤ `degree`."""
    nodes = 64
    t = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    grid = np.stack(np.meshgrid(t, t, indexing="ij"), -1).reshape(-1, 2)
    values = smooth_target((grid + 1) / 2).reshape(nodes, nodes)
    basis = chebyshev.chebvander(t, nodes - 1) * np.where(np.arange(nodes), 2, 1) / nodes
    coefficients = basis.T @ values @ basis
    i, j = np.indices(coefficients.shape)
    coefficients[i + j > degree] = 0
    fine = np.linspace(-1, 1, 201)
    approx = chebyshev.chebgrid2d(fine, fine, coefficients)
    points = np.stack(np.meshgrid(fine, fine, indexing="ij"), -1).reshape(-1, 2)
    return float(np.abs(approx.ravel() - smooth_target((points + 1) / 2)).max())


# --- the layers themselves -----------------------------------------------------------------------


def simulate(
    *, key: Key[Array, ""], trials: int, form: str, resolution: int, content: int = 2
) -> dict[str, Estimate]:
    """Build the layers, run sequences through them, and measure; `trials` random sequences."""
    if form == "ridge":
        built = stack.ridge_stack(smooth_target, 2, resolution)
        side = np.linspace(0, 1, 41)
        x = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        error = np.abs(built(x) - smooth_target(x)[:, None]).max()
        return exact(trials, polynomial_error=error, layers=built.layers_that_matter(x[::40]))
    if form == "joint":
        built = stack.joint_stack(_sorted, content, resolution)
        x = _corners(resolution, content)
        error = np.abs(built(x) - _sorted(x)).max()
        return exact(trials, sup_error=error, **_counts(built, _grid(resolution, content)))
    built = stack.cantor_stack(_sorted, content, resolution)
    x = np.asarray(jax.random.uniform(key, (trials, content)), np.float64)
    mean = mean_estimate(np.linalg.norm(built(x) - _sorted(x), axis=1))
    x = _crossing(content)
    edge = np.abs(built(x) - _sorted(x)).max()
    counts = _counts(built, stack.cells(resolution, content))
    return {"mean_error": mean, **exact(trials, edge_error=edge, **counts)}


MOST_CELLS = 4096
"""Most cells that are all tried to count the prefix tokens in use; beyond, those built count."""


def _counts(built: stack.Stack, sequences: np.ndarray) -> dict[str, int]:
    """Layers and prefix tokens that the map needs: without which outputs change, and which hold
    more than half of the attention of some token. `sequences` has the middle of every cell."""
    if len(sequences) > MOST_CELLS:
        return {"layers": len(built.layers), "tokens": sum(built.tokens)}
    some = sequences[:: max(1, len(sequences) // 64)]
    return {
        "layers": built.layers_that_matter(some),
        "tokens": sum(built.tokens_that_win(sequences)),
    }


def _grid(side: int, length: int) -> np.ndarray:
    """Middles of the cells of a grid of `side` cells a side."""
    middle = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(*[middle] * length, indexing="ij"), -1).reshape(-1, length)


def _corners(side: int, length: int) -> np.ndarray:
    """Points just inside the corners of cells, where a nearest grid point is farthest."""
    inside = (np.array([1e-4, 1 - 1e-4]) + np.arange(side)[:, None]).ravel() / side
    return np.stack(np.meshgrid(*[inside] * length, indexing="ij"), -1).reshape(-1, length)


def _crossing(length: int) -> np.ndarray:
    """Sequences whose first number crosses ½, at every scale down to rounding."""
    step = np.geomspace(1e-14, 1e-2, 160)
    first = 0.5 + np.concatenate([-step, step])
    rest = np.linspace(0.003, 0.997, 40)
    x = np.full((first.size * rest.size, length), 0.2)
    x[:, 0], x[:, 1] = np.repeat(first, rest.size), np.tile(rest, first.size)
    return x


MOST_RIDGE_DEGREE = 63
"""Beyond, the 16 (d + 1) values of the ridge sum are more than the points they are fitted on."""


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Sizes that fit in memory, and two numbers for the ridge sum."""
    form, size, length = params["form"], params["resolution"], params.get("content", 2)
    if np.ndim(size) or np.ndim(length):
        raise ParameterError("resolution", size, "one number", "call it once for each", where)
    if form == "ridge" and length != 2:
        raise ParameterError("content", length, '2 with form "ridge"', "leave it out", where)
    if form == "ridge" and size > MOST_RIDGE_DEGREE:
        raise ParameterError(
            "resolution", size, f'at most {MOST_RIDGE_DEGREE} with form "ridge"',
            "lower it: 1024 points determine no more values, and the error is rounding from 14 on",
            where,
        )  # fmt: skip
    if form == "cantor" and size * length > stack.MOST_CANTOR_DIGITS:
        raise ParameterError(
            "resolution", size,
            f'at most {stack.MOST_CANTOR_DIGITS // length} with form "cantor" and content={length}',
            "lower it: float64 scores do not tell more codes apart", where,
        )  # fmt: skip
    if form == "joint" and length * float(size) ** length > 2**20:
        raise ParameterError(
            "resolution", size, "such that a layer has at most 2^20 prefix tokens",
            "choose a smaller one, or a shorter sequence", where,
        )  # fmt: skip
    return params


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    sides: dict[str, Literal["upper", "lower"]] = {
        "edge_error": "lower",
        "polynomial_error": "upper",
    }
    rows = []
    for cell in cells:
        predicted = predict(**cell.parameters)
        for name, estimate in cell.estimates.items():
            value, allowed = float(predicted[name]), claim.quantity(name)
            if estimate.stderr > 0:
                row = compare_mean(
                    name, cell.parameters, value, estimate, tolerance=allowed.allowance(value)
                )
            else:
                row = Comparison(
                    name, cell.parameters, value, float(estimate.mean),
                    allowed.allowance(value), side=sides.get(name, "two"),
                )  # fmt: skip
            rows.append(row)
    return rows


def _with(**changes: Callable[[float, int], float]) -> Predictor:
    def wrong(form: str, resolution: int, content: int = 2) -> dict[str, float]:
        result = closed_form(form, resolution, content)
        return {n: changes[n](v, resolution) if n in changes else v for n, v in result.items()}

    return wrong


def _edge_line(resolution: float, form: str) -> float:
    return 0.5 - 0.5 * 2.0**-resolution


def _joint_line(resolution: float, form: str) -> float:
    return 0.5 * 2.0**-resolution


CLAIM = Claim(
    id="universal.sequence_map",
    title="Stacked prefixed layers realise maps of whole sequences",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="Petrov et al., ICML 2024 (Cantor form, as recalled); the rest derived here",
    parameters=(
        Parameter("form", "choice", "construction", choices=FORMS),
        Parameter("resolution", "integer", "digits K, grid points n or degree d", "K", low=1,
                  high=1000),
        replace(CONTENT, meaning="length of the sequence", low=2, high=8, default=2),
    ),
    quantities=(
        Quantity("mean_error", "mean length of the error over random sequences", 0.05, True),
        # A lower bound: the scan finds the crossing to within a step of its own.
        Quantity("edge_error", "largest error of a component next to x_1 = 1/2", 1e-9),
        # Points lie 1e-4 of a cell inside its corners.
        Quantity("sup_error", "largest error of a component", 3e-4, True),
        # An upper bound up to the gap between least squares and the largest error.
        Quantity("polynomial_error", "error of polynomials of the degree", 0.1, True),
        # Counts, which must be equal.
        Quantity("layers", "depth: layers without which the map is another", 1e-9),
        Quantity("tokens", "prefix tokens in all layers that some sequence attends to", 1e-9),
    ),
    falsifiers=(
        Falsifier("mean error −6 %", "mean error six per cent smaller",
                  _with(mean_error=lambda v, k: 0.94 * v)),
        Falsifier("half at once", "edge error ½ at every K, not only in the limit",
                  _with(edge_error=lambda v, k: 0.5)),
        Falsifier("quarter step", "joint kernel off by a quarter of the step",
                  _with(sup_error=lambda v, k: v / 2)),
        Falsifier("one layer fewer", "depth T+1, 1 or d+1", _with(layers=lambda v, k: v - 1)),
        Falsifier("one token fewer", "a prefix token less", _with(tokens=lambda v, k: v - 1)),
        Falsifier("two degrees more", "ridge sum as good as polynomials of degree d+2",
                  _with(polynomial_error=lambda v, k: _polynomial_error(k + 2))),
    ),
    closed_form=closed_form,
    simulation=simulate,
    check_parameters=validate,
    designs={
        "quick": Design((
            *({"form": "cantor", "resolution": k} for k in (1, 2, 3, 4)),
            *({"form": "joint", "resolution": n} for n in (4, 16)),
            {"form": "joint", "resolution": 3, "content": 3},
            *({"form": "ridge", "resolution": d} for d in (4, 8))), 6000),
        "full": Design((
            *({"form": "cantor", "resolution": k} for k in (1, 2, 3, 4, 5, 6)),
            *({"form": "cantor", "resolution": k, "content": 3} for k in (1, 2, 3)),
            *({"form": "joint", "resolution": n} for n in (4, 8, 16, 32)),
            *({"form": "joint", "resolution": n, "content": 3} for n in (3, 6)),
            *({"form": "ridge", "resolution": d} for d in (2, 4, 6, 8, 10, 12))), 20_000),
    },
    compare=_compare,
    figure=Curves(
        x="resolution", y="mean_error", lines=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        design=Design(tuple(
            {"form": "cantor", "resolution": k, "content": t}
            for t, digits in ((2, (1, 2, 3, 4, 5)), (3, (1, 2, 3))) for k in digits), 2000),
        x_label="digits K", y_label="error of sorting",
        title="Sorting in the mean, not uniformly",
        series="content", series_label="mean error, T = {value}", log_y=True,
        extra=(ExtraLine("largest error near x₁ = ½, at least", _edge_line),
               ExtraLine("joint kernel with the same cells", _joint_line)),
    ),
)  # fmt: skip
