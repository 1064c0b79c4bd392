r"""A head learned from 0 over a learned prompt, and the errors of two heads over it, in NumPy.

All that a step of the head shows depends on a sequence's label, its shift and the attention of the
prompt, which has three numbers (:mod:`jaxprompt.contextual.law.attention_moments`). They are
tabulated once for each prompt, and serve the moments of the step and the errors of any head: of the
head before the step, and of the head after it. Simulations judge heads by
:func:`jaxprompt.contextual.law.error_given_prompt.conditional_error`; nothing is shared with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jaxprompt.contextual.setting import Setting

__all__ = [
    "Attention", "ThirdStep", "attention_table", "covariance_root", "third_moments", "third_step",
]  # fmt: skip

_ENTRIES = 2**18
"""Entries of one table of the attention: few enough for a core's cache."""

_SCALARS = 2**21
"""Scores held together: with 100 000 tokens, those of few nodes."""


class Attention(NamedTuple):
    """Relevant weight, sum of squared irrelevant weights and weighted mean of the scalars.

    For each prompt, label, shift and node of the scores.
    """

    attention: Float[np.ndarray, "M 2 S K"]
    spread: Float[np.ndarray, "M 2 S K"]
    drift: Float[np.ndarray, "M 2 S K"]


class ThirdStep(NamedTuple):
    """Errors before and after the step; the new head along w⋆, and its length; and the law of the
    step's coordinates: mean, and square root of the covariance, for each prompt. The last is what
    the most extreme of a prompt's nodes adds to the variance of D."""

    errors: Float[np.ndarray, "M 2"]
    head_signal: Float[np.ndarray, " M"]
    head_norm: Float[np.ndarray, " M"]
    mean: Float[np.ndarray, "M 4"]
    root: Float[np.ndarray, "M 4 4"]
    largest: Float[np.ndarray, " M"]


def third_step(
    setting: Setting, heads: Float[np.ndarray, "M 3"], prompts: Float[np.ndarray, "M 4"],
    nodes: Float[np.ndarray, "M 4"], scale: float, energy: Float[np.ndarray, " M"],
    scalars: Float[np.ndarray, "P K N"], part: Int[np.ndarray, " M"],
) -> ThirdStep:  # fmt: skip
    """The step's law, and both errors at one draw of it, for each of M heads and prompts; float64.

    `heads` have coordinates along w⋆, q⋆ and their own remainder; `prompts` along these three
    directions and their own remainder. The step's coordinates are its mean plus `scale` times the
    root of its covariance times `nodes`; what is orthogonal to them has `energy` times D. The
    scores of prompt m are averaged over the nodes ``scalars[part[m]]``.
    """
    labelled = 2 * len(setting.shift_weights) * scalars.shape[1]
    scored = scalars.shape[1] * max(scalars.shape[2], 1)
    together = max(min(_ENTRIES // labelled, _SCALARS // scored), 1)
    chunks = [slice(i, i + together) for i in range(0, len(heads), together)]
    steps = [
        _step_of_chunk(
            setting, heads[c], prompts[c], nodes[c], scale, energy[c], scalars[part[c]]
        )
        for c in chunks
    ]  # fmt: skip
    return ThirdStep(*(np.concatenate(each) for each in zip(*steps, strict=True)))


def _step_of_chunk(
    setting: Setting, heads: np.ndarray, prompts: np.ndarray, nodes: np.ndarray, scale: float,
    energy: np.ndarray, scalars: Float[np.ndarray, "m K N"],
) -> ThirdStep:  # fmt: skip
    # In the frame along w⋆, q⋆ and all that remains of the prompt.
    framed = np.column_stack([prompts[:, :2], np.hypot(prompts[:, 2], prompts[:, 3])])
    table = attention_table(setting, framed, scalars)
    mean, covariance = third_moments(setting, framed, table)
    root = covariance_root(covariance) * scale
    step = mean + np.einsum("mij,mj->mi", root, nodes)
    square = np.square(step[:, :3]).sum(axis=1) + np.maximum(step[:, 3], 0.0) * energy
    length = np.linalg.norm(framed, axis=1)
    before = _mean_error(
        setting, table, heads, np.square(heads).sum(axis=1),
        np.einsum("mi,mi->m", heads, prompts[:, :3]) / length,
    )  # fmt: skip
    after = _mean_error(
        setting, table, step, square, np.einsum("mi,mi->m", step[:, :3], framed) / length
    )
    largest = _largest_share(setting, table, mean[:, 3])
    return ThirdStep(
        np.column_stack([before, after]), step[:, 0], np.sqrt(square), mean, root, largest
    )


def _largest_share(
    setting: Setting, table: Attention, mean: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """The most that one node of the scores adds to the variance of D, of each prompt."""
    level = np.square(setting.noise) * table.spread - mean[:, None, None, None]
    np.square(level, out=level)
    odds = np.asarray(setting.shift_weights) / (2 * level.shape[-1])
    return np.einsum("mlsk,s->mk", level, odds).max(axis=1)


def _token_means(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels; relevant tokens along w⋆ and q⋆ for each label; the means of irrelevant ones for each
    label and shift."""
    labels = np.array([-1.0, 1.0])
    shifts = np.asarray(setting.shifts, np.float64)
    relevant = np.stack([labels * setting.signal, np.full(2, float(setting.context))], axis=-1)
    return labels, relevant, -shifts[None, :, ::-1] * relevant[:, None]


def attention_table(
    setting: Setting, prompts: Float[np.ndarray, "M 3"], scalars: Float[np.ndarray, "M K N"]
) -> Attention:
    """Moments of the attention under each prompt, at each node of the standard normal scalars.

    The exponentials of the scores serve every label and shift. No score overflows: the largest is
    subtracted first.
    """
    _, relevant, irrelevant = _token_means(setting)
    gap = np.einsum("lsi,mi->mls", relevant[:, None] - irrelevant, prompts[:, :2])[..., None]
    scores = (setting.noise * np.linalg.norm(prompts, axis=1))[:, None, None] * scalars
    largest = scores.max(axis=-1, initial=-np.inf)
    terms = np.exp(scores - largest[..., None])
    first, second, third = (
        x[:, None, None]
        for x in (
            terms.sum(axis=-1),
            np.einsum("mkn,mkn->mk", terms, terms),
            np.einsum("mkn,mkn->mk", terms, scalars),
        )
    )
    largest = largest[:, None, None]
    peak = np.maximum(gap, largest)
    fall = np.exp(largest - peak)
    mass = setting.relevant * np.exp(gap - peak)
    total = mass + fall * first
    fall /= total
    return Attention(mass / total, np.square(fall) * second, fall * third)


def third_moments(
    setting: Setting, prompts: Float[np.ndarray, "M 3"], table: Attention
) -> tuple[Float[np.ndarray, "M 4"], Float[np.ndarray, "M 4 4"]]:
    r"""Mean and covariance of one sequence's :math:`y\bar x` under each prompt, and of
    :math:`\sigma^2p_2`, the variance of its coordinates orthogonal to w⋆, q⋆ and the prompt."""
    labels, relevant, irrelevant = _token_means(setting)
    unit = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    sign = labels[:, None, None]
    drift = (sign * setting.noise) * table.drift
    rows = np.empty((len(prompts), 4, *table.attention.shape[1:]))
    for i in (0, 1):
        far = irrelevant[None, :, :, None, i]
        near = relevant[None, :, None, None, i]
        rows[:, i] = sign * (far + table.attention * (near - far))
        rows[:, i] += drift * unit[:, i, None, None, None]
    rows[:, 2] = drift * unit[:, 2, None, None, None]
    rows[:, 3] = np.square(setting.noise) * table.spread
    nodes = rows.shape[-1]
    odds = np.tile(np.repeat(np.asarray(setting.shift_weights) / (2 * nodes), nodes), 2)
    rows = rows.reshape(len(prompts), 4, -1)
    first = rows @ odds
    covariance = (rows * odds) @ rows.swapaxes(1, 2) - first[:, :, None] * first[:, None]
    across = np.eye(3) - unit[:, :, None] * unit[:, None]
    covariance[:, :3, :3] += first[:, 3, None, None] * across
    return first, covariance


def _mean_error(
    setting: Setting, table: Attention, heads: Float[np.ndarray, "M _"],
    square: Float[np.ndarray, " M"], along: Float[np.ndarray, " M"],
) -> Float[np.ndarray, " M"]:  # fmt: skip
    """Probability of a wrong sign of heads with the given squared norms and components along the
    prompt's direction."""
    labels, relevant, irrelevant = _token_means(setting)
    near = labels * (heads[:, :2] @ relevant.T)
    far = labels[:, None] * np.einsum("lsi,mi->mls", irrelevant, heads[:, :2])
    near, far = near[:, :, None, None], far[..., None]
    margin = far + table.attention * (near - far)
    sign = (labels * setting.noise)[:, None, None]
    margin += sign * table.drift * along[:, None, None, None]
    across = np.sqrt(np.maximum(square - np.square(along), 0.0))
    deviation = setting.noise * across[:, None, None, None] * np.sqrt(table.spread)
    certain = deviation <= 0
    ratio = np.divide(margin, deviation, out=np.zeros_like(margin), where=~certain)
    error = np.where(certain, (1 - np.sign(margin)) / 2, special.ndtr(-ratio))
    return error.mean(axis=(1, 3)) @ np.asarray(setting.shift_weights)


def covariance_root(matrices: Float[np.ndarray, "*m 4 4"]) -> Float[np.ndarray, "*m 4 4"]:
    """Lower Cholesky factors, column by column; a direction without variance gives zeros."""
    rows = matrices.shape[-1]
    remaining, columns = np.array(matrices), []
    for i in range(rows):
        pivot = remaining[..., i, i]
        small = pivot <= 1e-13 * np.maximum(matrices[..., i, i], 1e-300)
        scale = np.where(small, 0.0, 1 / np.sqrt(np.where(small, 1.0, pivot)))
        column = remaining[..., :, i] * scale[..., None] * (np.arange(rows) >= i)
        remaining = remaining - column[..., :, None] * column[..., None, :]
        columns.append(column)
    return np.stack(columns, axis=-1)
