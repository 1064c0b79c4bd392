r"""The law of a pooled feature over a known prompt, as nodes that expectations sum over.

A sequence's signed feature is Gaussian given two numbers: its signal
:math:`\alpha = (s - (1-s)\delta_w) W` and its noise level :math:`\tau = \sigma\sqrt{p_2}`, where
`s` is the attention on the relevant tokens and :math:`p_2` the sum of squared weights on the
others. Every limit of a head learned over the prompt is an expectation over (α, τ).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxprompt.contextual.law import attention_moments

__all__ = ["FeatureLaw", "feature_law"]


class FeatureLaw(NamedTuple):
    """Nodes of the law of (α, τ): signal and noise level of a pooled feature.

    Shape (replicate, node) with `weights` summing to 1 over the nodes of each replicate.
    """

    alpha: np.ndarray
    tau: np.ndarray
    weights: np.ndarray

    def averaged(self) -> FeatureLaw:
        """The law in which every sequence has the mean noise variance of its replicate."""
        tau2 = (self.weights * self.tau**2).sum(axis=1, keepdims=True)
        return self._replace(tau=np.broadcast_to(np.sqrt(tau2), self.tau.shape))

    def thinned(self, nodes: int, replicates: int | None = None) -> FeatureLaw:
        """The law on the first `nodes` of every 4096, of its first `replicates`.

        A scrambled net's first 2^m points are a net again.
        """
        kept = nodes * max(1, round(self.alpha.shape[1] / 4096))
        part = slice(0, replicates), slice(0, kept)
        weights = self.weights[part]
        weights = weights / weights.sum(axis=1, keepdims=True)
        return FeatureLaw(self.alpha[part], self.tau[part], weights)


@functools.lru_cache(maxsize=256)
def feature_law(
    tokens: int,
    relevant: int,
    signal: float,
    context: float,
    noise: float,
    gain: float,
    shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),),
    shift_weights: tuple[float, ...] = (1.0,),
) -> FeatureLaw:
    r"""Law of :math:`\alpha = (s - (1-s)\delta_w) W` and :math:`\tau = \sigma\sqrt{p_2}`."""
    nodes = attention_moments.normal_nodes(tokens - relevant)
    shift = np.asarray(shifts)[None, None, :, :]
    with jax.enable_x64(True):
        m = _moments(
            (1 + shift[..., 0]) * gain * context**2, noise * gain * context, relevant, nodes
        )
    attention, spread = np.asarray(m.attention), np.asarray(m.spread)
    alpha = (attention - (1 - attention) * shift[..., 1]) * signal
    # A weight may underflow to 0 at extreme gains; its reciprocal is needed without ridge.
    tau = noise * np.sqrt(np.maximum(spread, 1e-200 if tokens > relevant else 0.0))
    weights = np.broadcast_to(np.asarray(shift_weights) / nodes.shape[1], alpha.shape)
    flat = (alpha.shape[0], -1)
    return FeatureLaw(alpha.reshape(flat), tau.reshape(flat), weights.reshape(flat))


@functools.partial(jax.jit, static_argnums=2)
def _moments(gap: Array, scale: Array, relevant: int, nodes: Array) -> attention_moments.Moments:
    return attention_moments.moments(gap, scale, relevant, nodes[:, :, None, :])
