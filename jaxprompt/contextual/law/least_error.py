r"""The least error any head and prompt of a model can have on noisy tokens.

The error of a head and a prompt depends on their coordinates along :math:`w_\star` and
:math:`q_\star`, on what is left of their lengths, and on the angle between the rests: two rests
lie in two further dimensions, so eight coordinates stand for all heads and prompts of any
dimension. A rest need not be 0 at the optimum: where one shift is beyond reach and wrong more than
half of the time, noise helps it. Given the scores each error is explicit
(`contextual.conditional_error`), and descent on it from many starts finds the least. For a linear
head two numbers are left, and a scan of their plane finds it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize, special
from scipy.stats import qmc

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.law.error_slopes import errors_and_slopes
from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    mean_error,
    token_products,
)  # fmt: skip
from jaxprompt.contextual.setting import Setting

__all__ = ["CEILINGS", "exact_error", "least_error", "linear_prompt_error"]

CEILINGS = ("linear", "linear_prompt", "prompt")
"""Models whose least error is known."""

_SEARCH_NODES = 128
_FINAL_NODES = 2048
_SPREAD = 5  # the logarithm to base 2 of the number of spread starts
_STEPS = 120
_RATE = 0.2
_KEPT_MEAN, _KEPT_SQUARE = 0.9, 0.999  # what Adam keeps of its averages in a step


def linear_prompt_error(
    setting: Setting, geometry: Geometry, scalars: Float[Array, "M N"]
) -> Float[Array, ""]:
    r"""Probability of a wrong sign of :math:`w\cdot X^\top Xq/T` on a fresh sequence.

    With :math:`v_t=\langle q,z_t\rangle/(\sigma|q|)`, a relevant token's products with head and
    prompt :math:`R_w,R_q`, an irrelevant one's mean products :math:`A,B` and
    :math:`w_\parallel=\langle w,q\rangle/|q|`,

    .. math::
        T\mu &= kR_wR_q + \sum_t(A+\sigma w_\parallel v_t)(B+\sigma|q|v_t), \\
        T^2v &= \sigma^2(|w|^2-w_\parallel^2)\sum_t(B+\sigma|q|v_t)^2, \qquad
        \text{error} = E\,\Phi(-y\mu/\sqrt v):

    given the :math:`v_t` the rest is Gaussian. Arguments as in
    :func:`~jaxprompt.contextual.law.error_given_prompt.conditional_error`. Derived here.
    """
    dtype = scalars.dtype
    on = labels_and_shifts(setting, dtype)
    along, across = along_and_across(geometry, dtype)
    head_relevant, head_irrelevant = token_products(on, geometry.head_context, geometry.head_signal)
    relevant_score, irrelevant_score = token_products(
        on, geometry.prompt_context, geometry.prompt_signal
    )
    norm = jnp.asarray(geometry.prompt_norm, dtype)
    scores = irrelevant_score[..., None] + setting.noise * norm * scalars
    products = (head_irrelevant[..., None] + setting.noise * along * scalars) * scores
    mean = setting.relevant * (head_relevant * relevant_score) + products.sum(axis=-1)
    deviation = setting.noise * across * jnp.sqrt(jnp.square(scores).sum(axis=-1))
    return mean_error(setting, on.label * mean, deviation)


def exact_error(
    model: str, setting: Setting, head: Array, prompt: Array, scalars: Float[Array, "M N"]
) -> Float[Array, ""]:
    """Probability of a wrong sign of a model of :data:`CEILINGS` with given weights.

    The first two coordinates of `head` and `prompt` are along w⋆ and q⋆. The prompt of a linear
    model is 0.
    """
    rule = linear_prompt_error if model == "linear_prompt" else conditional_error
    return rule(setting, Geometry.of_vectors(setting, head, prompt), scalars)


def _descend(
    model: str, setting: Setting, starts: Float[np.ndarray, "R 8"],
    scales: Float[np.ndarray, "R 8"], scalars: Float[np.ndarray, "M N"],
) -> tuple[Float[np.ndarray, "R 8"], Float[np.ndarray, " R"]]:  # fmt: skip
    """Each start's end and its error: Adam on the error itself.

    A coordinate is measured in its scale: where the noise is small the error only varies over
    small changes of some coordinates, and is flat elsewhere.
    """
    units, mean, square = starts, np.zeros_like(starts), np.zeros_like(starts)
    for step in range(_STEPS):
        _, slopes = errors_and_slopes(model, setting, units * scales, scalars)
        # A prompt of 0 has no derivative.
        slopes = np.where(np.isfinite(slopes), slopes, 0.0) * scales
        mean = _KEPT_MEAN * mean + (1 - _KEPT_MEAN) * slopes
        square = _KEPT_SQUARE * square + (1 - _KEPT_SQUARE) * slopes**2
        size = np.sqrt(square / (1 - _KEPT_SQUARE ** (step + 1))) + 1e-8
        rate = _RATE * (1 + np.cos(np.pi * step / _STEPS)) / 2
        units = units - rate * mean / (1 - _KEPT_MEAN ** (step + 1)) / size
    points = units * scales
    return points, errors_and_slopes(model, setting, points, scalars)[0]


def least_error(model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """The least error of `model` over all heads and prompts, and weights that have it; float64.

    The error comes once for each replicate of the law of the scores. The weights are the head's
    coordinates along w⋆, q⋆ and two orthogonal directions, then the prompt's. Both are found once
    for equal settings, and read-only.
    """
    unit = float(setting.signal) or float(setting.context) or 1.0
    numbers = (float(x) / unit for x in (setting.signal, setting.context, setting.noise))
    shifts = tuple((float(a), float(b)) for a, b in setting.shifts)
    weights = tuple(float(x) for x in setting.shift_weights)
    if model == "linear":
        return _least_linear(setting.tokens, setting.relevant, *numbers, shifts, weights)
    errors, point = _least(model, setting.tokens, setting.relevant, *numbers, shifts, weights)
    # Tokens in another unit have the same scores under a prompt in its inverse.
    scaled = point / np.array([1.0] * 4 + [unit] * 4)
    scaled.setflags(write=False)
    return errors, scaled


@functools.lru_cache(maxsize=512)
def _least_linear(
    tokens: int, relevant: int, signal: float, context: float, noise: float,
    shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    r"""The least error of a linear head, by a scan of the plane.

    With :math:`\tau=\sigma\sqrt{N}/T`, a head of length 1 errs with probability
    :math:`E\,\Phi(-(ax+ybz))` for :math:`x=w_1W/\tau`, :math:`z=w_2Q/\tau`: two numbers in an
    ellipse, and no quadrature. A grid over all their sizes finds every valley, and the deepest are
    refined.
    """
    share = relevant / tokens
    pairs, odds = np.asarray(shifts), np.asarray(shift_weights)
    a = share - (1 - share) * pairs[:, 1]
    b = np.abs(share - (1 - share) * pairs[:, 0])
    tau = noise * np.sqrt(tokens - relevant) / tokens
    if tau == 0:
        return _least_noise_free(a * signal, b * context, odds)
    reach = np.array([signal, context]) / tau

    def inside(points: np.ndarray) -> np.ndarray:
        """Places drawn back to the ellipse along their ray."""
        units = np.divide(points, reach, out=np.zeros_like(points), where=reach > 0)
        return units / np.maximum(np.linalg.norm(units, axis=-1, keepdims=True), 1.0) * reach

    def error(points: np.ndarray) -> Any:
        x, z = points[..., :1] * a, points[..., 1:] * b
        return (special.ndtr(-(x + z)) + special.ndtr(-(x - z))) @ odds / 2

    def sizes(most: float, slope: np.ndarray) -> np.ndarray:
        if most == 0:
            return np.zeros(1)
        least = min(0.01 / max(float(np.abs(slope).max()), 1e-12), most)
        return np.concatenate([[0.0], np.geomspace(least, most, _LINEAR_SCAN)])

    along, across = sizes(reach[0], a), sizes(reach[1], b)
    along = np.concatenate([-along[:0:-1], along])
    grid = inside(np.stack(np.meshgrid(along, across, indexing="ij"), axis=-1).reshape(-1, 2))
    errors = error(grid)
    best, least = grid[np.argmin(errors)], float(errors.min())
    for start in grid[np.argsort(errors, kind="stable")[:_LINEAR_REFINED]]:
        # The inverse hyperbolic sine of a size follows valleys of any width.
        optimum: Any = optimize.minimize(
            lambda x: float(error(inside(np.sinh(np.clip(x, -460, 460))))), np.arcsinh(start),
            method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15},
        )  # fmt: skip
        if optimum.fun < least:
            best, least = inside(np.sinh(np.clip(optimum.x, -460, 460))), float(optimum.fun)
    point = np.zeros(8)
    point[:2] = np.divide(best, reach, out=np.zeros(2), where=reach > 0)
    point[2] = np.sqrt(max(1 - float(point[:2] @ point[:2]), 0.0))
    return _read_only(np.full(attention_moments.REPLICATES, least), point)


def _least_noise_free(
    a: np.ndarray, b: np.ndarray, odds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same without noise: only the signs of ax ± bz count, with a half for a tie; they change
    at the directions where one is 0, so those and the ones between them are all there are."""
    zeros = np.concatenate([np.arctan2(-a, b), np.arctan2(a, b)]) % np.pi
    edges = np.unique(np.concatenate([[0.0, np.pi], zeros, np.pi - zeros]))
    angles = np.concatenate([edges, (edges[1:] + edges[:-1]) / 2])
    angles = np.concatenate([angles, angles + np.pi])
    heads = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    margins = np.stack([heads[:, :1] * a + s * heads[:, 1:] * b for s in (-1, 1)], axis=-1)
    rounding = 1e-14 * (np.abs(heads[:, :1] * a) + np.abs(heads[:, 1:] * b))[..., None]
    signs = np.where(np.abs(margins) <= rounding, 0.0, np.sign(margins))
    errors = ((1 - signs) / 2).mean(axis=-1) @ odds
    least = int(np.argmin(errors))
    point = np.zeros(8)
    point[:2] = heads[least]
    if errors[least] >= 0.5:
        point[:3] = 0.0, 0.0, 1.0  # no direction beats chance
    value = min(float(errors[least]), 0.5)
    return _read_only(np.full(attention_moments.REPLICATES, value), point)


def _read_only(errors: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for array in (errors, point):
        array.setflags(write=False)
    return errors, point


_LINEAR_SCAN = 60
"""Sizes of each coordinate in the scan of linear heads, from a margin of 0.01 to the largest."""

_LINEAR_REFINED = 8


@functools.lru_cache(maxsize=512)
def _least(
    model: str, tokens: int, relevant: int, signal: float, context: float, noise: float,
    shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.array(shifts), np.array(shift_weights)
    )
    nodes = attention_moments.normal_nodes(setting.irrelevant)
    few = nodes[0, : _search_nodes(setting.irrelevant)]
    with np.errstate(all="ignore"):  # a start may run where the error has no number
        points, errors = _descend(model, setting, *_starts(model, setting), few)
    point = points[np.nanargmin(errors)].copy()
    point[:4] /= np.linalg.norm(point[:4])
    value = [
        float(errors_and_slopes(model, setting, point[None], rule[:_FINAL_NODES])[0][0])
        for rule in nodes
    ]
    return _read_only(np.array(value), point)


def _search_nodes(scores: int) -> int:
    """Nodes of the search: fewer where each holds many scores, whose sums then hardly differ."""
    halvings = int(np.log2(max(scores / 32, 1)))
    return max(_SEARCH_NODES >> halvings, 16)


_QUIET = 0.25
"""Noise below this share of the signal or the context is small: scales of its own are tried."""


def _starts(model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the search in units of their scales, and these: spread points, and prompts along
    the context with the head w⋆; with little noise also spread points whose margins and scores are
    of the noise's size."""
    uniform = qmc.Sobol(8, scramble=True, rng=np.random.default_rng(8)).random_base2(_SPREAD)
    spread = special.ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    gains = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 3.0])
    known = np.zeros((gains.size, 8))
    known[:, 0], known[:, 5] = 1.0, gains
    known += 0.05 * spread[: gains.size]  # off the symmetry that a gradient cannot leave
    signal, context, noise = (float(x) for x in (setting.signal, setting.context, setting.noise))
    size = 1 / max(noise, 0.1)
    starts = np.concatenate([spread, known]) * np.array([1.0] * 4 + [size] * 4)
    scales = np.ones_like(starts)
    if 0 < noise < _QUIET * max(signal, context):
        along = np.array([noise / signal if signal else 1.0, noise / context if context else 1.0])
        head = np.append(along, [1.0, 1.0])
        # A linear prompt's length is free; the scores of a softmax are to be of order 1.
        prompt = head if model == "linear_prompt" else head / noise
        small = [np.concatenate([h, prompt]) for h in (head, np.ones(4))]
        starts = np.concatenate([starts, *[spread] * 2])
        scales = np.concatenate([scales, *(np.tile(each, (len(spread), 1)) for each in small)])
    return starts, scales
