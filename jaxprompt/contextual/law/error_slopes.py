r"""Errors of many heads and prompts at once, with their derivatives, in NumPy.

What a search for the least error needs (:mod:`jaxprompt.contextual.law.least_error`): the formulas
are those of :func:`~jaxprompt.contextual.law.error_given_prompt.conditional_error` and
:func:`~jaxprompt.contextual.law.least_error.linear_prompt_error`, which tests compare it with, and
the derivatives are written out. With a margin m and a deviation s the error is
:math:`E\,\Phi(-m/s)`, so a change of :math:`x=m/s` changes it by
:math:`-E\,\varphi(x)\,(\dot m/s-x\,\dot s/s)`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxprompt.contextual.setting import Setting

__all__ = ["errors_and_slopes"]

_TINY = 1e-300


class _Products(NamedTuple):
    """Of R heads and prompts: coordinates, each (R, 1, 1, 1), against label, shift and node."""

    head_signal: np.ndarray
    head_context: np.ndarray
    prompt_signal: np.ndarray
    prompt_context: np.ndarray
    norm: np.ndarray
    along: np.ndarray
    across: np.ndarray


class _Slopes(NamedTuple):
    """Derivatives of x in what the margin depends on; arrays broadcast against (R, 2, S, M)."""

    head_signal: np.ndarray
    head_context: np.ndarray
    prompt_signal: np.ndarray
    prompt_context: np.ndarray
    norm: np.ndarray
    along: np.ndarray


def errors_and_slopes(
    model: str, setting: Setting, points: Float[np.ndarray, "R 8"],
    scalars: Float[np.ndarray, "M N"],
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, "R 8"]]:  # fmt: skip
    """Each point's probability of a wrong sign, and its derivatives in the point; float64.

    A point is a head's coordinates along w⋆, q⋆ and two orthogonal directions, then a prompt's; no
    head may be 0. `model` is ``"prompt"`` or ``"linear_prompt"``; `scalars` are nodes of the scores
    in units of their deviation. Where a prompt is 0 its derivatives need not be numbers.
    """
    heads, prompts = points[:, :4], points[:, 4:]
    norm = np.linalg.norm(prompts, axis=1)
    unit = prompts / np.where(norm > 0, norm, np.inf)[:, None]
    along = np.einsum("ri,ri->r", heads, unit)
    across = np.sqrt(np.maximum(np.square(heads).sum(axis=1) - along**2, _TINY))
    sizes = np.array([float(setting.signal), float(setting.context)])
    products = _Products(
        *(x.reshape(-1, 1, 1, 1) for x in (*(heads[:, :2] * sizes).T, *(prompts[:, :2] * sizes).T,
                                          norm, along, across))
    )  # fmt: skip
    rule = _linear_prompt if model == "linear_prompt" else _softmax_prompt
    x, slopes = rule(setting, products, scalars)
    nodes = scalars.shape[0]
    odds = np.asarray(setting.shift_weights)[:, None] / (2 * nodes)
    errors = (special.ndtr(-x) * odds).sum(axis=(1, 2, 3))
    density = np.exp(-(x**2) / 2) * (odds / np.sqrt(2 * np.pi))

    def mean(slope: np.ndarray) -> Float[np.ndarray, "R 1"]:
        return -(density * slope).sum(axis=(1, 2, 3))[:, None]

    signal, context = np.eye(4)[:2] * sizes[:, None]
    by = _Slopes(*map(mean, slopes))
    # The deviation has the factor `across`, the root of |w|² less the square along the prompt.
    squared = mean(-x) / (across**2)[:, None]
    by_along = by.along - along[:, None] * squared
    safe = np.where(norm > 0, norm, np.inf)[:, None]
    by_head = by.head_signal * signal + by.head_context * context
    by_head += by_along * unit + heads * squared
    by_prompt = by.prompt_signal * signal + by.prompt_context * context
    by_prompt += by.norm * unit + by_along * (heads - along[:, None] * unit) / safe
    return errors, np.concatenate([by_head, by_prompt], axis=1)


def _labels_and_shifts(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and shifts of the context and of the signal, on axes of their own."""
    shifts = np.asarray(setting.shifts, np.float64)
    label = np.array([-1.0, 1.0])[:, None, None]
    return label, shifts[:, :1], shifts[:, 1:]


def _softmax_prompt(
    setting: Setting, w: _Products, scalars: Float[np.ndarray, "M N"]
) -> tuple[np.ndarray, _Slopes]:
    label, shift_context, shift_signal = _labels_and_shifts(setting)
    noise = float(setting.noise)
    scores = (noise * w.norm[:, :, 0]) * scalars
    largest = scores.max(axis=-1, initial=-np.inf)
    terms = np.exp(scores - largest[..., None])
    squares = np.square(terms)
    total, first, second, energy, energy_first = (
        each[:, None, None]
        for each in (
            terms.sum(axis=-1), np.einsum("rmn,mn->rm", terms, scalars),
            np.einsum("rmn,mn->rm", terms, scalars**2), squares.sum(axis=-1),
            np.einsum("rmn,mn->rm", squares, scalars),
        )
    )  # fmt: skip
    largest = largest[:, None, None]
    gap = (1 + shift_context) * w.prompt_context + (1 + shift_signal) * label * w.prompt_signal
    peak = np.maximum(gap, largest)
    fall = np.exp(largest - peak)
    mass = setting.relevant * np.exp(gap - peak)
    fall = fall / (mass + fall * total)
    inattention = fall * total
    attention = 1 - inattention
    drift, drift_second = fall * first, fall * second
    near = w.head_signal + label * w.head_context
    far = -shift_signal * w.head_signal - shift_context * label * w.head_context
    margin = attention * near + inattention * far + (noise * label) * drift * w.along
    deviation = noise * fall * np.sqrt(energy) * w.across
    deviation = np.maximum(deviation, _TINY)
    x = margin / deviation
    # A larger gap moves weight to the relevant tokens; larger scores move it among the others.
    by_gap = attention * (inattention * (near - far) - (noise * label) * drift * w.along)
    by_gap = by_gap / deviation + x * attention
    by_scale = -attention * drift * (near - far)
    by_scale = by_scale + (noise * label) * w.along * (drift_second - drift**2)
    by_scale = by_scale / deviation - x * (energy_first / energy - drift)
    return x, _Slopes(
        head_signal=(attention - shift_signal * inattention) / deviation,
        head_context=label * (attention - shift_context * inattention) / deviation,
        prompt_signal=(1 + shift_signal) * label * by_gap,
        prompt_context=(1 + shift_context) * by_gap,
        norm=noise * by_scale,
        along=(noise * label) * drift / deviation,
    )


def _linear_prompt(
    setting: Setting, w: _Products, scalars: Float[np.ndarray, "M N"]
) -> tuple[np.ndarray, _Slopes]:
    label, shift_context, shift_signal = _labels_and_shifts(setting)
    noise, count = float(setting.noise), scalars.shape[1]
    first, second = scalars.sum(axis=1), np.square(scalars).sum(axis=1)
    head_near = w.head_context + label * w.head_signal
    score_near = w.prompt_context + label * w.prompt_signal
    head_far = -shift_context * w.head_context - shift_signal * label * w.head_signal
    score_far = -shift_context * w.prompt_context - shift_signal * label * w.prompt_signal
    along, size = noise * w.along, noise * w.norm
    # Derivatives of the margin in the four products; those of an irrelevant token are summed.
    by_head_far = count * score_far + size * first
    by_score_far = count * head_far + along * first
    margin = setting.relevant * head_near * score_near + head_far * by_head_far
    margin = label * (margin + along * (score_far * first + size * second))
    power = score_far * by_head_far + size * (score_far * first + size * second)
    power = np.maximum(power, _TINY)
    deviation = np.maximum(noise * w.across * np.sqrt(power), _TINY)
    x = margin / deviation
    near = label * setting.relevant / deviation
    head_far_slope = label * by_head_far / deviation
    score_far_slope = label * by_score_far / deviation - x * by_head_far / power
    crossed = score_far * first + size * second
    return x, _Slopes(
        head_signal=label * (near * score_near - shift_signal * head_far_slope),
        head_context=near * score_near - shift_context * head_far_slope,
        prompt_signal=label * (near * head_near - shift_signal * score_far_slope),
        prompt_context=near * head_near - shift_context * score_far_slope,
        norm=noise
        * (label * (head_far * first + along * second) / deviation - x * crossed / power),
        along=noise * label * crossed / deviation,
    )
