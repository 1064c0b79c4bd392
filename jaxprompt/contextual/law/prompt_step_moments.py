r"""All second moments of a gradient step of the prompt from 0, given the head.

`contextual.prompt_step` states the mean and the energy of the step; claims about later steps need
the covariance of the coordinates that matter.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxprompt.contextual.setting import Setting

__all__ = ["PromptMoments", "laguerre_nodes", "prompt_moments"]


class PromptMoments(NamedTuple):
    r"""Moments of one sequence's contribution to :math:`\hat q`, for each of M heads.

    Coordinates 0 … 2 are those along w⋆, q⋆ and the head's remainder; entry 3 is the variance D of
    an orthogonal coordinate given the sequence's scalars. `mean` and `covariance` are those of the
    four; the sample mean of n sequences has covariance / n.
    """

    mean: Float[np.ndarray, "M 4"]
    covariance: Float[np.ndarray, "M 4 4"]


def prompt_moments(setting: Setting, heads: Float[np.ndarray, "M 3"]) -> PromptMoments:
    r"""Exact moments, in float64 NumPy. `heads` are coordinates along w⋆, q⋆ and
    what remains.

    With :math:`\hat w = w/|w|`, noise :math:`g_t` along it, :math:`G = \frac1T\sum_t g_t`,
    :math:`L = \zeta(1-\zeta)\,h\cdot w - \zeta|w|\sigma G` and
    :math:`U = -\zeta\sigma G\,h\cdot w + |w|\sigma^2(\frac1T\sum_t g_t^2 - G^2)`,

    .. math:: C w = L\,h + U\,\hat w + \xi, \qquad \xi \perp w, \quad
       \mathrm{Var}(\xi\cdot p) = \frac{\sigma^2}{T^2} \sum_t
       (|w|\sigma(g_t - G) - \zeta\,h\cdot w)^2,

    polynomials in the Gaussian G and in an independent chi-square variable (the scatter of the
    :math:`g_t`), so that few Gauss nodes integrate them exactly.
    """
    total, count = setting.tokens, setting.irrelevant
    share = setting.relevant / total
    norm = np.linalg.norm(heads, axis=1)
    unit = heads / np.where(norm > 0, norm, 1.0)[:, None]
    mean_noise, scatter, weights = _noise_nodes(total, count)
    sigma = float(setting.noise)
    first, second = 0.0, 0.0
    for (shift_context, shift_signal), odds in zip(
        np.asarray(setting.shifts), np.asarray(setting.shift_weights), strict=True
    ):
        for label in (-1.0, 1.0):
            size = np.array([label * setting.signal, setting.context, 0.0])
            h = (1 + np.array([shift_signal, shift_context, 0.0])) * size
            m = (share - (1 - share) * np.array([shift_signal, shift_context, 0.0])) * size
            hw, miss = (heads @ h)[:, None], label - (heads @ m)[:, None]
            w = norm[:, None]
            residual = miss - w * sigma * mean_noise
            pull = share * (1 - share) * hw - share * w * sigma * mean_noise
            noise_variance = (
                total**2 * mean_noise**2 / max(count, 1) + scatter
            ) / total - mean_noise**2
            drag = -share * sigma * mean_noise * hw + w * sigma**2 * noise_variance
            plane = pull[..., None] * h + drag[..., None] * unit[:, None, :]
            squares = count * (share * hw) ** 2
            squares = squares - 2 * share * hw * sigma * w * setting.relevant * mean_noise
            sums = total**2 * mean_noise**2 / max(count, 1) + scatter
            squares = squares + (sigma * w) ** 2 * (sums - (2 * total - count) * mean_noise**2)
            level = (sigma / total * residual) ** 2 * squares
            row = np.concatenate([residual[..., None] * plane, level[..., None]], axis=-1)
            first = first + odds / 2 * np.einsum("k,mki->mi", weights, row)
            second = second + odds / 2 * np.einsum("k,mki,mkj->mij", weights, row, row)
    mean = np.asarray(first)
    covariance = np.asarray(second) - mean[:, :, None] * mean[:, None, :]
    # The part of the noise that is orthogonal to the head but inside the three coordinates.
    across = np.eye(3) - unit[:, :, None] * unit[:, None, :]
    covariance[:, :3, :3] += mean[:, 3, None, None] * across
    return PromptMoments(mean, covariance)


def laguerre_nodes(count: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, of sum 1, for the density x^power e^−x / Γ(power + 1), from its Jacobi
    matrix: the weights of ``scipy.special.roots_genlaguerre`` overflow from `power` 171 on."""
    k = np.arange(count)
    beside = np.sqrt(k[1:] * (k[1:] + power))
    matrix = np.diag(2 * k + power + 1) + np.diag(beside, 1) + np.diag(beside, -1)
    nodes, vectors = np.linalg.eigh(matrix)
    return nodes, vectors[0] ** 2


@functools.lru_cache(maxsize=32)
def _noise_nodes(tokens: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes for G ~ N(0, N/T²) and the scatter χ²(N − 1), exact for degrees 15 and 5."""
    nodes, weights = special.roots_hermitenorm(8)
    mean = nodes * np.sqrt(count) / tokens
    if count > 1:
        scatter, scatter_weights = laguerre_nodes(3, (count - 1) / 2 - 1)
    else:
        scatter, scatter_weights = np.zeros(1), np.ones(1)
    joint = np.outer(weights / weights.sum(), scatter_weights / scatter_weights.sum())
    shape = joint.shape
    return (
        np.broadcast_to(mean[:, None], shape).reshape(-1),
        np.broadcast_to(2 * scatter[None, :], shape).reshape(-1),
        joint.reshape(-1),
    )
