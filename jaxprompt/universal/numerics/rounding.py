r"""Numbers of few bits, and what rounding a prefix to them does to the head's output.

Rounded keys perturb scores, and a softmax whose scores move by errors of oscillation D (largest
less smallest) changes by at most :math:`\tanh(D/4)` in total variation. Derived in
docs/universal.md.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxprompt.errors import ParameterError, suggest

__all__ = [
    "FLOAT_FORMATS", "MOST_BITS", "check_bits", "largest_spread", "mean_square_change", "round_to",
    "steps_of", "total_variation_limit",
]  # fmt: skip

FLOAT_FORMATS = {
    "float16": jnp.float16,
    "bfloat16": jnp.bfloat16,
    "float8_e4m3": jnp.float8_e4m3fn,
    "float8_e5m2": jnp.float8_e5m2,
}
"""Floating-point formats by name; any other number of bits is an integer times one scale."""

MOST_BITS = 32
"""Most bits of an integer entry; with more, rounding is that of float64's own arithmetic."""


def check_bits(bits: Any, where: str) -> int | str:
    """A number of bits from 2 to 32, or the name of a float format.

    Raises:
        ParameterError: it is neither.
    """
    whole = isinstance(bits, int | np.integer) and not isinstance(bits, bool)
    if whole and 2 <= int(bits) <= MOST_BITS:
        return int(bits)
    if isinstance(bits, str) and bits in FLOAT_FORMATS:
        return bits
    names = [*FLOAT_FORMATS]
    raise ParameterError(
        "bits", bits, f"an integer from 2 to {MOST_BITS}, or one of {', '.join(names)}",
        "8 stands for int8" + (suggest(bits, names) if isinstance(bits, str) else ""), where,
    )  # fmt: skip


def round_to(
    numbers: Float[np.ndarray, "*n"], bits: int | str
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """The nearest numbers of a format, and the format's step at each; float64, same shape.

    All numbers share one scale. Integers of b bits are symmetric, from −(2^{b−1} − 1) to
    2^{b−1} − 1, and the scale takes the largest number to the last of them. Float formats have the
    power of two as their scale that takes the largest number near the top of their range.
    """
    numbers = np.asarray(numbers, np.float64)
    largest = float(np.abs(numbers).max(initial=0.0))
    steps = steps_of(numbers, bits)
    if largest == 0:
        return numbers, steps
    if isinstance(bits, str):
        scale = _power_of_two_scale(largest, bits)
        kept = (numbers / scale).astype(FLOAT_FORMATS[bits])
        return np.asarray(kept, np.float64) * scale, steps
    # The scale is divided out last: 127 levels of 0.1/127 are 0.1, to the last bit.
    top = 2 ** (bits - 1) - 1
    return np.rint(numbers * (top / largest)) * largest / top, steps


def steps_of(numbers: Float[np.ndarray, "*n"], bits: int | str) -> Float[np.ndarray, "*n"]:
    """The distance between neighbouring numbers of a format at each number, for one scale."""
    largest = float(np.abs(numbers).max(initial=0.0))
    if largest == 0:
        return np.zeros_like(numbers)
    if not isinstance(bits, str):
        return np.full(np.shape(numbers), largest / (2 ** (bits - 1) - 1))
    info, scale = jnp.finfo(FLOAT_FORMATS[bits]), _power_of_two_scale(largest, bits)
    size = np.maximum(np.abs(numbers) / scale, float(info.smallest_normal))
    return scale * float(info.eps) * 2.0 ** np.floor(np.log2(size))


def _power_of_two_scale(largest: float, bits: str) -> float:
    # One power below the top, so that nothing is rounded beyond it.
    top = float(jnp.finfo(FLOAT_FORMATS[bits]).max)
    return 2.0 ** (math.floor(math.log2(largest)) - math.floor(math.log2(top)) + 1)


def total_variation_limit(oscillation: Any) -> Any:
    """tanh(D/4): the most that a softmax changes, in total variation, when its scores move.

    D is the largest less the smallest change of a score, elementwise.
    """
    return np.tanh(np.asarray(oscillation, np.float64) / 4)


def largest_spread(vectors: Float[np.ndarray, "N n"], with_zero: bool) -> float:
    """An upper bound on the largest distance between two of the vectors, and 0 `with_zero`.

    The largest distance itself for up to 2000 vectors; beyond, twice the radius of a ball about
    their middle.
    """
    points = np.asarray(vectors, np.float64)
    if with_zero:
        points = np.concatenate([points, np.zeros((1, points.shape[1]))])
    if len(points) > 2000:
        middle = (points.max(axis=0) + points.min(axis=0)) / 2
        return float(2 * np.linalg.norm(points - middle, axis=1).max())
    from scipy.spatial.distance import pdist

    return float(pdist(points).max(initial=0.0))


def mean_square_change(
    weights: Float[np.ndarray, "Q N"],
    values: Float[np.ndarray, "N d"],
    outputs: Float[np.ndarray, "Q d"],
    score_variance: Float[np.ndarray, "Q N"] | Float[np.ndarray, ""],
    value_variance: Float[np.ndarray, " N"] | Float[np.ndarray, ""],
) -> Float[np.ndarray, " Q"]:
    r"""Mean squared length of the output's change under independent errors, to second order.

    .. math:: \sum_i \varphi_i^2\big[|v_i - o|^2\,\mathrm{Var}\,e_i + E|\eta_i|^2\big]

    with :math:`e_i` the error of score i and :math:`\eta_i` that of value i, both of mean 0.
    `weights` are those of the whole softmax, content included; `outputs` are the head's.
    """
    # Coordinate by coordinate: neither a matrix of differences (Q, N, d) nor cancellation.
    distance = np.zeros_like(weights)
    for column in range(values.shape[1]):
        distance += np.square(values[:, column] - outputs[:, column, None])
    return (np.square(weights) * (distance * score_variance + value_variance)).sum(axis=1)
