r"""Claim ``universal.sequence_map``: stacked prefixed layers realise maps of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from numpy.polynomial import chebyshev
from scipy import integrate, special

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
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate, mean_estimate
from jaxprompt.universal.networks import stack
from jaxprompt.universal.parameters import CONTENT

__all__ = [
    "CLAIM",
    "closed_form",
    "least_that_works",
    "mean_length_in_cube",
    "simulate",
    "smooth_target",
]

STATEMENT = r"""
Softmax layers with fixed projections, each with a prefix of its own, realise maps of sequences
$x\in[0,1]^T$; the target of forms 1 and 2 is sorting.

1. **Cantor form** (the paper's, depth $T+2$): $f=g\big(3\sum_p3^{-p}\varphi(x_p)\big)$, where
   $\varphi$ turns $K$ binary digits into a point of the Cantor set. The mean error halves with
   every digit, $2^{-K}E|u|$ with $u$ uniform on $[-\frac12,\frac12]^T$. But $\varphi$ jumps, and
   a continuous head crosses the gap: near $x_1=\frac12$ the error is at least
   $\frac12-2^{-(K+1)}$. The form converges in the mean, not uniformly.
2. **Joint kernel** (not the paper's): a kernel on the whole sequence, $T\,n^T$ tokens, has the
   largest error $\frac1{2n}$, half the grid step, for every $x$. Maps of constant 1 need as many
   tokens for that if keys are fixed in advance.
3. **Ridge sum** (not the paper's): for smooth $f$ and $T=2$, a sum of $d+1$ layers that read one
   direction each does as well as polynomials of degree $d$.
"""

DERIVATION = r"""
In form 1 every cell of side $2^{-K}$ is sent to the sorted midpoint of the cell, and sorting
preserves distances within a cell. On the way across $x_1=\frac12$ the code of a sequence passes
the codes of all cells in between, whose second component runs from $0$ to $1$ while $x_2$ stays.
In form 2 the nearest grid point is returned. Conversely $n$ numbers in $[0,1]$ can be
$\frac1{n-1}>\frac1n$ apart: a map may have the values $\pm a$, $a>\frac1{2n}$, with any signs on
the $T\,n^T$ places of sequences of such numbers. Outputs are linear in the values of the prefix,
and a space of fewer dimensions misses a pattern of signs. In form 3 polynomials of degree $d$ in
two variables are sums of polynomials in any $d+1$ distinct directions.

*Tolerances.* 5 % of the mean error, which is sampled and halves with every digit. The scan finds
the crossing of $x_1=\frac12$ to within a step of its own, from below: 1e-9 is rounding. Points of
the joint kernel lie 1e-4 of a cell inside its corners, which is 2e-4 of the largest error. The
error of a ridge sum may exceed that of the polynomials by the gap between least squares and the
least largest error, 10 %. Layers and tokens are counts, which must be equal. Neither is read off
the arrays: layers are taken out one at a time, tokens are those that hold most of the attention of
some sequence, and if one digit, or one grid point a side, less has the accuracy too, that smaller
stack is counted.
"""


# --- the closed form ---

FORMS = ("cantor", "joint", "ridge")


def closed_form(
    *, form: str, resolution: int, content: int = 2, mean_factor: float = 1.0,
    edge_gap: float = 0.5, grid_error: float = 0.5, missing_layers: int = 0,
    missing_tokens: int = 0, extra_degrees: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Errors, depth and prefix tokens of a form. Numbers, float64; nothing broadcasts.

    `resolution` is the number of digits K (cantor), of grid points a side n (joint), or the
    degree d (ridge); `content` the length T of the sequence. Falsifiers change the last six
    arguments, which the theory has at their defaults.
    """
    if form == "cantor":
        return {
            "mean_error": mean_factor * mean_length_in_cube(content) * 2.0**-resolution,
            "edge_error": 0.5 - edge_gap * 2.0**-resolution,
            "layers": content + 2 - missing_layers,
            "tokens": 2**resolution + content * 2 ** (resolution * content) - missing_tokens,
        }
    if form == "joint":
        return {
            "sup_error": grid_error / resolution,
            "layers": 2 - missing_layers,
            "tokens": content * resolution**content - missing_tokens,
        }
    return {
        "polynomial_error": _polynomial_error(resolution + extra_degrees),
        "layers": resolution + 2 - missing_layers,
    }


def smooth_target(x: np.ndarray) -> np.ndarray:
    """The smooth function of two numbers that the ridge sum approximates: (B, 2) to (B,)."""
    return np.exp(x[:, 0] * x[:, 1]) * np.cos(3 * x[:, 0] - x[:, 1])


def mean_length_in_cube(length: int) -> float:
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


FALSIFIERS = (
    Falsifier("mean error −6 %", "mean error six per cent smaller", mean_factor=0.94),
    Falsifier("half at once", "edge error ½ at every K, not only in the limit", edge_gap=0.0),
    Falsifier("quarter step", "joint kernel off by a quarter of the step", grid_error=0.25),
    Falsifier("one layer fewer", "depth T+1, 1 or d+1", missing_layers=1),
    Falsifier("one token fewer", "a prefix token less", missing_tokens=1),
    Falsifier("two degrees more", "ridge sum as good as polynomials of degree d+2",
              extra_degrees=2),
)  # fmt: skip

MOST_RIDGE_DEGREE = 63
"""Beyond, the 16 (d + 1) values of the ridge sum are more than the points they are fitted on."""


def validate_sizes(params: dict[str, Any], where: str) -> dict[str, Any]:
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


# --- the simulation ---


# One stack of NumPy layers serves a whole run; only form 1 draws sequences, in one array.
def simulate(
    *, key: Key[Array, ""], trials: int, form: str, resolution: int, content: int = 2
) -> dict[str, Estimate]:
    """Build the layers, run sequences through them, and measure; `trials` random sequences."""
    if form == "ridge":
        built = stack.ridge_stack(smooth_target, 2, resolution)
        side = np.linspace(0, 1, 41)
        x = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        error = np.abs(built(x) - smooth_target(x)[:, None]).max()
        layers = built.layers_that_matter(x[::40])
        return {
            "polynomial_error": exact_estimate(error, trials),
            "layers": exact_estimate(layers, trials),
        }
    if form == "joint":
        built = stack.joint_stack(_sort_components, content, resolution)
        x = _corners(resolution, content)
        error = np.abs(built(x) - _sort_components(x)).max()
        # Half way to the error 1/(2n − 2) of a grid with one point less a side.
        enough = 0.5 / resolution * (1 + 0.5 / resolution)
        least = least_that_works(
            built, resolution, enough,
            lambda side: stack.joint_stack(_sort_components, content, side), _error_at_corners,
        )  # fmt: skip
        counts = _layers_and_tokens(*least, content, trials)
        return {"sup_error": exact_estimate(error, trials), **counts}
    built = stack.cantor_stack(_sort_components, content, resolution)
    x = np.asarray(jax.random.uniform(key, (trials, content)), np.float64)
    mean = mean_estimate(np.linalg.norm(built(x) - _sort_components(x), axis=1))
    edges = _crossing_sequences(content)
    edge = np.abs(built(edges) - _sort_components(edges)).max()
    y = np.random.default_rng(1).uniform(size=(512, content))

    def mean_error(stacked: stack.Stack, _: int) -> float:
        return float(np.linalg.norm(stacked(y) - _sort_components(y), axis=1).mean())

    least = least_that_works(
        built, resolution, 1.5 * mean_error(built, resolution),  # half way to one digit less
        lambda digits: stack.cantor_stack(_sort_components, content, digits), mean_error,
    )  # fmt: skip
    counts = _layers_and_tokens(least[0], 2 ** least[1], content, trials)
    return {"mean_error": mean, "edge_error": exact_estimate(edge, trials), **counts}


def _error_at_corners(built: stack.Stack, side: int) -> float:
    """Largest error of sorting at some of the corners of a grid's cells."""
    x = _corners(side, built.length)[:512]
    return float(np.abs(built(x) - _sort_components(x)).max())


def _sort_components(x: np.ndarray) -> np.ndarray:
    return np.sort(x, axis=1)


MOST_CELLS = 4096
"""Most sequences that are tried at once: all cells, or as many of them at random."""

MOST_SCORES = 2**25
"""Most scores of the longest prefix that such a trial computes."""


def least_that_works(
    built: stack.Stack,
    resolution: int,
    enough: float,
    build: Callable[[int], stack.Stack],
    error: Callable[[stack.Stack, int], float],
) -> tuple[stack.Stack, int]:
    """The stack, or that of one step less if its error is at most `enough`, and its resolution."""
    if resolution > 1:
        fewer = build(resolution - 1)
        if error(fewer, resolution - 1) <= enough:
            return fewer, resolution - 1
    return built, resolution


def _layers_and_tokens(
    built: stack.Stack, side: int, length: int, trials: int
) -> dict[str, Estimate]:
    """Layers and prefix tokens that the map needs, never read off the arrays that were built.

    Layers without which outputs change, and tokens that hold more than half of the attention for
    the middle of some cell. Of many cells some are drawn at random: the lookup's tokens are then
    counted for each cell drawn.
    """
    most = max(32, min(MOST_CELLS, MOST_SCORES // (length * max(built.tokens))))
    sequences = _middles_of_cells(side, length, most)
    layers = built.layers_that_matter(sequences[:: max(1, len(sequences) // 64)])
    counts = built.tokens_that_win(sequences)
    share = len(sequences) / side**length
    tokens = sum(
        count / share if longest > side else count
        for count, longest in zip(counts, built.tokens, strict=True)
    )
    return {"layers": exact_estimate(layers, trials), "tokens": exact_estimate(tokens, trials)}


def _middles_of_cells(side: int, length: int, most: int) -> np.ndarray:
    """Middles of the cells of a grid of `side` cells a side: all, or `most` of them at random."""
    total = side**length
    index = np.arange(total)
    if total > most:
        drawn = np.random.default_rng(0).choice(total, most, replace=False)
        # Constant sequences show every token of a prefix that reads one number at a time.
        step = (total - 1) // (side - 1)
        index = np.union1d(drawn, np.arange(min(side, most)) * step)
    return (np.stack(np.unravel_index(index, [side] * length), -1) + 0.5) / side


def _corners(side: int, length: int) -> np.ndarray:
    """Points just inside the corners of cells, where a nearest grid point is farthest.

    All of them, or where these are too many for the layers' prefix, some at random.
    """
    inside = (np.array([1e-4, 1 - 1e-4]) + np.arange(side)[:, None]).ravel() / side
    total = (2 * side) ** length
    most = max(32, MOST_SCORES // (length**2 * side**length))
    index = np.arange(total)
    if total > most:
        index = np.random.default_rng(0).choice(total, most, replace=False)
    # Only at the ends of [0, 1] is no neighbour near enough to pull the output back.
    index = np.concatenate([[0, total - 1], index])
    return inside[np.stack(np.unravel_index(index, [2 * side] * length), -1)]


def _crossing_sequences(length: int) -> np.ndarray:
    """Sequences whose first number crosses ½, at every scale down to rounding."""
    step = np.geomspace(1e-14, 1e-2, 160)
    first = 0.5 + np.concatenate([-step, step])
    second = np.linspace(0.003, 0.997, 40)
    x = np.full((first.size * second.size, length), 0.2)
    x[:, 0], x[:, 1] = np.repeat(first, second.size), np.tile(second, first.size)
    return x


# --- the design ---


def _form_runs(form: str, *resolutions: int, **parameters: Any) -> tuple[Run, ...]:
    """One run for each resolution of a form."""
    return tuple(Run(form=form, resolution=size, **parameters) for size in resolutions)


def _edge_line(resolution: float, form: str) -> float:
    return 0.5 - 0.5 * 2.0**-resolution


def _joint_line(resolution: float, form: str) -> float:
    return 0.5 * 2.0**-resolution


FIGURE = Curves(
    x="resolution", y="mean_error", lines=(1.0, 2.0, 3.0, 4.0, 5.0),
    design=Design(
        *_form_runs("cantor", 1, 2, 3, 4, 5, content=2),
        *_form_runs("cantor", 1, 2, 3, content=3), trials=2000,
    ),
    x_label="digits K", y_label="error of sorting",
    title="Sorting in the mean, not uniformly",
    series="content", series_label="mean error, T = {value}", log_y=True,
    extra=(ExtraLine("largest error near x₁ = ½, at least", _edge_line),
           ExtraLine("joint kernel with the same cells", _joint_line)),
)  # fmt: skip

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
    check_parameters=validate_sizes,
    quantities=(
        Quantity("mean_error", "mean length of the error over random sequences", 0.05, True,
                 side="two"),
        Quantity("edge_error", "largest error of a component next to x_1 = 1/2", 1e-9,
                 side="lower"),
        Quantity("sup_error", "largest error of a component", 3e-4, True, side="two"),
        Quantity("polynomial_error", "error of polynomials of the degree", 0.1, True,
                 side="upper"),
        Quantity("layers", "depth: layers without which the map is another", 1e-9, side="two"),
        Quantity("tokens", "prefix tokens that win some sequence, in the least stack that does",
                 1e-9, side="two"),
    ),
    compared=Compared(
        {"form": FORMS, "resolution": (1, 16), "content": (2, 8)},
        elsewhere="counts and formulas are exact; the error of polynomials is rounding from degree "
        "14 on",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(
            *_form_runs("cantor", 1, 2, 3, 4),
            *_form_runs("joint", 4, 16),
            *_form_runs("joint", 3, content=3),
            *_form_runs("ridge", 4, 8),
            trials=6000,
        ),
        "full": Design(
            *_form_runs("cantor", 1, 2, 3, 4, 5, 6),
            *_form_runs("cantor", 1, 2, 3, content=3),
            *_form_runs("joint", 4, 8, 16, 32),
            *_form_runs("joint", 3, 6, content=3),
            *_form_runs("ridge", 2, 4, 6, 8, 10, 12),
            trials=20_000,
        ),
    },
    figure=FIGURE,
)  # fmt: skip
