r"""The law of a pooled feature over a known prompt, as nodes that expectations sum over.

A sequence's signed feature is Gaussian given two numbers: its signal
:math:`\alpha = (s - (1-s)\delta_w) W` and its noise level :math:`\tau = \sigma\sqrt{p_2}`, where
`s` is the attention on the relevant tokens and :math:`p_2` the sum of squared weights on the
others. Every limit of a head learned over the prompt is an expectation over (α, τ).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprompt.contextual.law import attention_moments

__all__ = ["FeatureLaw", "coarse_feature_law", "feature_law"]


class FeatureLaw(NamedTuple):
    """Nodes of the law of (α, τ): signal and noise level of a pooled feature.

    Shape (replicate, node), float64, with `weights` summing to 1 over the nodes of each replicate.
    `shortfall` is the largest signal a sequence can have, W, less α: near 0 it has digits that the
    difference of the two has not. It is computed from `alpha` where it is left out.
    `along_prompt` is the feature's component along the prompt, up to the label's sign: no limit
    needs it, but the numbers at a finite dimension do.
    """

    alpha: np.ndarray
    tau: np.ndarray
    weights: np.ndarray
    shortfall: np.ndarray | None = None
    along_prompt: np.ndarray | None = None

    def accurate_shortfall(self) -> np.ndarray:
        """W − α of every node, to all digits where the law has them; W is the largest α if not."""
        return self.alpha.max() - self.alpha if self.shortfall is None else self.shortfall

    def reference_shortfall(self) -> np.ndarray:
        """S − α of every node, for a number S that leaves the digits of 1 − αc whole.

        S is the signal W, from which most nodes of a sharp prompt differ by little; or the mean of
        α where the nodes hardly differ from each other, as with little noise.
        """
        short = self.accurate_shortfall()
        mean = float((self.weights * short).sum() / self.weights.sum())
        spread = float(np.sqrt((self.weights * (short - mean) ** 2).sum() / self.weights.sum()))
        return short - mean if spread < 1e-3 * abs(mean) else short

    def averaged(self) -> FeatureLaw:
        """The law in which every sequence has the mean noise variance of its replicate."""
        tau2 = (self.weights * self.tau**2).sum(axis=1, keepdims=True)
        return self._replace(tau=np.broadcast_to(np.sqrt(tau2), self.tau.shape))

    def independent(self) -> FeatureLaw:
        """The law in which signal and noise level are independent, each with its own distribution.

        Every noise level is drawn anew from those of its replicate, by their weights.
        """
        count = self.tau.shape[1]
        random = np.random.default_rng(0)
        places = [random.choice(count, count, p=row / row.sum()) for row in self.weights]
        return self._replace(tau=np.take_along_axis(self.tau, np.stack(places), axis=1))

    def thinned(self, nodes: int, replicates: int | None = None) -> FeatureLaw:
        """The law on the first `nodes` of every 4096, of its first `replicates`.

        A scrambled net's first 2^m points are a net again.
        """
        kept = nodes * max(1, round(self.alpha.shape[1] / 4096))
        part = slice(0, replicates), slice(0, kept)
        weights = self.weights[part]
        weights = weights / weights.sum(axis=1, keepdims=True)
        short, along = (None if x is None else x[part] for x in (self.shortfall, self.along_prompt))
        return FeatureLaw(self.alpha[part], self.tau[part], weights, short, along)

    def as_one_replicate(self) -> FeatureLaw:
        """The law on the nodes of all replicates together."""
        weights = self.weights.reshape(1, -1) / self.weights.shape[0]
        short, along = (
            None if x is None else x.reshape(1, -1) for x in (self.shortfall, self.along_prompt)
        )
        return FeatureLaw(self.alpha.reshape(1, -1), self.tau.reshape(1, -1), weights, short, along)


@functools.lru_cache(maxsize=32)  # up to ten megabytes each
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
    irrelevant = tokens - relevant
    sums = _summed_scores(irrelevant, abs(noise * gain * context))
    return _law_of_sums(sums, irrelevant > 0, relevant, signal, context, noise, gain, shifts,
                        shift_weights)  # fmt: skip


def coarse_feature_law(
    setting: Mapping[str, Any], gain: float, *, nodes: int, replicates: int
) -> FeatureLaw:
    """:func:`feature_law` on the first `nodes` of its first `replicates`, cheap enough to search.

    `setting` holds the arguments of :func:`feature_law` but for the gain.
    """
    irrelevant = setting["tokens"] - setting["relevant"]
    scale = abs(setting["noise"] * gain * setting["context"])
    scores = attention_moments.score_nodes(irrelevant, scale)
    part = slice(0, replicates), slice(0, nodes)
    weights = scores.weights[part]
    weights = weights / weights.sum(axis=1, keepdims=True)
    sums = _sums_over_tokens(scores.scalars[part], scale, weights)
    others = {n: setting[n] for n in ("relevant", "signal", "context", "noise")}
    shifts = setting.get("shifts", ((0.0, 0.0),))
    shift_weights = setting.get("shift_weights", (1.0 / len(shifts),) * len(shifts))
    return _law_of_sums(
        sums, irrelevant > 0, gain=gain, shifts=shifts, shift_weights=shift_weights, **others
    )


class _ScoreSums(NamedTuple):
    """For each node of the irrelevant tokens' scores: the largest score; the sums of the tokens'
    exponentials, of their squares, and of their products with the standard normal scalars, relative
    to it; and the node's weight."""

    largest: np.ndarray
    first: np.ndarray
    second: np.ndarray
    scalar: np.ndarray
    weights: np.ndarray


@functools.lru_cache(maxsize=8)
def _summed_scores(irrelevant: int, scale: float) -> _ScoreSums:
    """They do not depend on the shift, nor on the number of relevant tokens."""
    scores = attention_moments.score_nodes(irrelevant, scale)
    rows = [
        _sums_over_tokens(scalars[None], scale, weights[None])
        for scalars, weights in zip(scores.scalars, scores.weights, strict=True)
    ]
    return _ScoreSums(*(np.concatenate(each) for each in zip(*rows, strict=True)))


def _sums_over_tokens(scalars: np.ndarray, scale: float, weights: np.ndarray) -> _ScoreSums:
    scores = scale * scalars
    largest = np.max(scores, axis=-1, initial=-np.inf)
    if not scores.shape[-1]:
        none = np.zeros_like(largest)
        return _ScoreSums(largest, none, none, none, weights)
    scores -= largest[..., None]
    terms = np.exp(scores, out=scores)
    second, scalar = (np.einsum("...t,...t->...", terms, x) for x in (terms, scalars))
    return _ScoreSums(largest, terms.sum(axis=-1), second, scalar, weights)


def _law_of_sums(
    sums: _ScoreSums, noisy: bool, relevant: int, signal: float, context: float, noise: float,
    gain: float, shifts: tuple[tuple[float, float], ...], shift_weights: tuple[float, ...],
) -> FeatureLaw:  # fmt: skip
    shift = np.asarray(shifts, dtype=np.float64)
    gap = (1 + shift[:, 0]) * gain * context**2
    peak = np.maximum(gap, sums.largest[..., None])
    fall = np.exp(sums.largest[..., None] - peak)
    mass = relevant * np.exp(gap - peak)
    total = mass + fall * sums.first[..., None]
    attention, inattention = mass / total, fall * sums.first[..., None] / total
    spread = np.square(fall / total) * sums.second[..., None]
    alpha = (attention - inattention * shift[:, 1]) * signal
    shortfall = inattention * (1 + shift[:, 1]) * signal
    # A weight may underflow to 0 at extreme gains; its reciprocal is needed without ridge.
    tau = noise * np.sqrt(np.maximum(spread, 1e-200 if noisy else 0.0))
    along = (attention - inattention * shift[:, 0]) * context
    along = along + noise * np.copysign(1.0, gain) * fall / total * sums.scalar[..., None]
    weights = sums.weights[..., None] * np.asarray(shift_weights, dtype=np.float64)
    flat = (alpha.shape[0], -1)
    return FeatureLaw(*(x.reshape(flat) for x in (alpha, tau, weights, shortfall, along)))
