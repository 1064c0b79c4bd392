r"""The least error any head and prompt of a model can have on noisy tokens.

The error of a head and a prompt depends on their coordinates along :math:`w_\star` and
:math:`q_\star`, on what is left of their lengths, and on the angle between the rests: two rests
lie in two further dimensions, so eight coordinates stand for all heads and prompts of any
dimension. A rest need not be 0 at the optimum: where one shift is beyond reach and wrong more than
half of the time, noise helps it. Given the scores each error is explicit
(`contextual.conditional_error`), and descent on it from many starts finds the least. For a linear
head two numbers are left, and a scan of their plane finds it. Where the noise is strong no softmax
prompt is the best one: the error falls as the prompt grows, to the least error of
:mod:`jaxprompt.contextual.law.hard_attention`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize, special
from scipy.stats import qmc

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.law.error_slopes import errors_and_slopes
from jaxprompt.contextual.law.hard_attention import least_hard_error
from jaxprompt.contextual.law.margins import (
    Geometry,
    along_and_across,
    labels_and_shifts,
    mean_error,
    token_products,
)  # fmt: skip
from jaxprompt.contextual.setting import Setting

__all__ = ["CEILINGS", "LONGEST", "exact_error", "least_error", "linear_prompt_error"]

CEILINGS = ("linear", "linear_prompt", "prompt")
"""Models whose least error is known."""

_STAGES = ((16, 12, 128), (64, 20, 512), (512, 40, 2048))
"""Of the search: nodes of each randomised rule that descents use, their longest number of steps,
and the nodes on which the ends are compared. Where errors are rare few nodes show none, and a long
descent on them runs away from the valley; so the first ones are short."""

_KEPT = (6, 2, 2)
"""Ends that each stage leaves to the next one, and the last one to the comparison on all nodes."""

_SAME_VALLEY = 0.1
"""Distance of two ends' products below which they lie in one valley; of others it is about 1."""

_SPREAD = 4  # the logarithm to base 2 of the number of spread starts

LONGEST = 1e5
"""Length of a prompt that stands for an endless one, times the noise."""

_LONG = 100.0
"""The same from which a prompt counts as endless: few sequences have two scores so close."""


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
    model: str, setting: Setting, start: Float[np.ndarray, " 8"],
    scales: Float[np.ndarray, " 8"], scalars: Float[np.ndarray, "M N"], steps: int,
) -> np.ndarray:  # fmt: skip
    """The end of a descent of at most so many `steps` from `start`.

    Of the logarithm of the error, by its derivatives, with the prompt's length as a number of its
    own. A coordinate is measured in its scale: where the noise is small the error only varies over
    small changes of some coordinates, and is flat elsewhere.
    """
    units = start / scales
    sizes = scales * np.repeat([_length(part) for part in np.split(units, 2)], 4)

    def point_of(x: np.ndarray) -> np.ndarray:
        return x[:8] * sizes * np.repeat([1.0, np.exp(x[8])], 4)

    def logarithm(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = point_of(x)
        errors, slopes = errors_and_slopes(model, setting, point[None], scalars)
        if not np.isfinite(errors[0]):
            return 1e3, np.zeros(9)
        # A prompt of 0 has no derivative.
        slope = np.where(np.isfinite(slopes[0]), slopes[0], 0.0) / max(errors[0], 1e-300)
        by_length = slope[4:] @ point[4:]
        return np.log(max(errors[0], 1e-300)), np.append(slope * point_of(_ones(x[8])), by_length)

    end: Any = optimize.minimize(
        logarithm, np.append(start / sizes, 0.0), jac=True, method="L-BFGS-B",
        bounds=[(None, None)] * 8 + [(-12.0, 12.0)],
        options={"maxiter": steps, "ftol": 1e-8, "gtol": 1e-6},
    )  # fmt: skip
    point = point_of(end.x)
    return point / np.repeat([_length(point[:4]), 1.0], 4)


def _ones(length: float) -> np.ndarray:
    return np.append(np.ones(8), length)


def least_error(model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """The least error of `model` over all heads and prompts, and weights that have it; float64.

    The error comes once for each replicate of the law of the scores, spread more widely where the
    replicates leave open which of two valleys is the deeper one. Where it is that of an endless
    prompt, the weights have one of length :data:`LONGEST` and come near to it. They are the head's
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
    """By descents from many starts on few nodes, from the best ends on more, and from the best of
    those on still more; ends are compared on more nodes than their descents saw. The best of two
    valleys goes to the end with the best of the others, as few nodes may not tell them apart."""
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.array(shifts), np.array(shift_weights)
    )
    nodes = attention_moments.normal_nodes(setting.irrelevant)
    points, scales = _starts(model, setting)
    with np.errstate(all="ignore"):  # a start may run where the error has no number
        for (few, steps, more), kept in zip(_STAGES, _KEPT, strict=True):
            scalars = _pooled(nodes, few)
            ends = [
                _descend(model, setting, *start, scalars, steps)
                for start in zip(points, scales, strict=True)
            ]
            errors = _errors(model, setting, ends, _pooled(nodes, more))
            points = _best_ends(np.stack(ends), errors, kept)
            scales = np.repeat([[_length(x) for x in np.split(p, 2)] for p in points], 4, axis=1)
        by_rule = np.stack(
            [_errors(model, setting, list(points), r[: _STAGES[-1][-1]]) for r in nodes]
        )
    errors, best = _least_of_valleys(by_rule.T)
    point = points[best]
    sizes = setting.signal, setting.context, setting.noise
    if model == "prompt" and setting.irrelevant and all(sizes):
        of_long_prompts, head, direction = least_hard_error(setting)
        # A long prompt that descent found is one of these, with an error that nodes only estimate.
        if of_long_prompts < errors.mean() or np.linalg.norm(point[4:]) * noise > _LONG:
            errors = np.full_like(errors, of_long_prompts)
            point = np.append(head, direction * (LONGEST / noise))
    return _read_only(errors, point)


def _best_ends(
    ends: Float[np.ndarray, "K 8"], errors: Float[np.ndarray, " K"], kept: int
) -> Float[np.ndarray, "kept 8"]:
    """The ends of least error, the last of them from another valley than the first if one is.

    Valleys are told apart by the products of head and prompt along w⋆ and q⋆ and with each other.
    """
    order = np.argsort(errors, kind="stable")
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in np.split(ends, 2, 1)]
    crossed = (units[0][:, :2, None] * units[1][:, None, :2]).reshape(-1, 4)
    products = np.column_stack([crossed, (units[0] * units[1]).sum(axis=1)])[order]
    others = order[np.linalg.norm(products - products[0], axis=1) > _SAME_VALLEY]
    best = order[:kept]
    if kept > 1 and others.size and not np.isin(best, others).any():
        best = np.append(best[:-1], others[0])
    return ends[best]


def _least_of_valleys(
    errors: Float[np.ndarray, "K R"],
) -> tuple[Float[np.ndarray, " R"], int]:
    r"""The errors of the valley of least mean, by rule, and its place.

    Another valley may be the deeper one where the rules leave the difference of the two open. So
    the spread is widened: with a difference D of mean m and standard error s over the rules, the
    error of the mean gets :math:`E[(-D)_+^2]` for a normal D added to its square.
    """
    best = int(np.argmin(errors.mean(axis=1)))
    chosen, rules = errors[best], errors.shape[1]
    variance, more = float(chosen.var(ddof=1)) / rules, 0.0
    for other in np.delete(errors, best, axis=0):
        gap = other - chosen
        more = max(more, _mean_square_below(float(gap.mean()), float(gap.std(ddof=1)), rules))
    if variance == 0:
        return chosen, best
    return chosen.mean() + (chosen - chosen.mean()) * np.sqrt(1 + more / variance), best


def _mean_square_below(mean: float, deviation: float, count: int) -> float:
    """E[(−D)₊²] of a normal D with this mean and the deviation of a mean of `count`."""
    error = deviation / np.sqrt(count)
    if error == 0:
        return 0.0
    place = mean / error
    density = np.exp(-(place**2) / 2) / np.sqrt(2 * np.pi)
    return float(error**2 * ((place**2 + 1) * special.ndtr(-place) - place * density))


def _errors(
    model: str, setting: Setting, points: Sequence[np.ndarray], scalars: Float[np.ndarray, "M N"]
) -> Float[np.ndarray, " R"]:
    """Of each point, one after another: all nodes of many would not fit a core's cache."""
    return np.concatenate([errors_and_slopes(model, setting, p[None], scalars)[0] for p in points])


def _length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector)) or 1.0


def _pooled(nodes: Float[np.ndarray, "R K N"], each: int) -> Float[np.ndarray, "M N"]:
    """The first nodes of every rule: fewer where each holds many scores, whose sums then hardly
    differ."""
    halvings = int(np.log2(max(nodes.shape[2] / 32, 1)))
    return nodes[:, : max(each >> halvings, 1)].reshape(-1, nodes.shape[2])


_QUIET = 0.25
"""Noise below this share of the signal or the context is small: scales of its own are tried."""


def _starts(model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the search, and the scales that their coordinates are measured in: spread points
    with prompts of several lengths, and prompts along the context with the head w⋆; with little
    noise also spread points whose margins and scores are of the noise's size."""
    uniform = qmc.Sobol(8, scramble=True, rng=np.random.default_rng(8)).random_base2(_SPREAD)
    spread = special.ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    spread[:, :4] /= np.linalg.norm(spread[:, :4], axis=1, keepdims=True)
    spread[:, 4:] /= np.linalg.norm(spread[:, 4:], axis=1, keepdims=True)
    lengths = np.resize(_LENGTHS if model == "prompt" else [1.0], len(spread))
    known = np.zeros((len(_KNOWN_GAINS), 8))
    known[:, 0], known[:, 5] = 1.0, _KNOWN_GAINS
    known += 0.05 * spread[: len(known)]  # off the symmetry that a gradient cannot leave
    signal, context, noise = (float(x) for x in (setting.signal, setting.context, setting.noise))
    size = 1 / max(noise, 0.1)
    starts = np.concatenate(
        [spread * np.repeat([np.ones_like(lengths), lengths], 4, axis=0).T, known]
    )
    starts *= np.repeat([1.0, size], 4)
    scales = np.tile(np.repeat([1.0, size], 4), (len(starts), 1))
    if 0 < noise < _QUIET * max(signal, context):
        along = np.array([noise / signal if signal else 1.0, noise / context if context else 1.0])
        head = np.append(along, [1.0, 1.0])
        # A linear prompt's length is free; the scores of a softmax are to be of order 1.
        prompt = head if model == "linear_prompt" else head / noise
        for each in (np.append(head, prompt), np.append(np.ones(4), prompt)):
            starts = np.concatenate([starts, spread * each])
            scales = np.concatenate([scales, np.tile(each, (len(spread), 1))])
    return starts, scales


_LENGTHS = 10.0 ** np.array([-1.0, -0.5, 0.0, 0.5])
"""Of the prompts at the start of the search, in units of the scores' deviation."""

_KNOWN_GAINS = np.array([-1.0, -0.3, 0.3, 1.0])
"""The same of prompts along the context, against it and with it."""
