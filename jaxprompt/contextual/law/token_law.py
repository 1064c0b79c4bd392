r"""Any token law: pooled features under any covariances, correlated tokens and a common part.

A sequence with label y = ±1 has T tokens, k of them relevant:

* relevant: :math:`x_t = q_\star + y w_\star + r_t + c`;
* irrelevant: :math:`x_t = -\delta_q q_\star - \delta_w y w_\star + g + y h + z_t + c`.

Rows of r have covariance :math:`\Sigma_R` and the correlation matrix :math:`R_R` between tokens,
rows of z :math:`\Sigma_I` and :math:`R_I`; c is common to all tokens of a sequence, with
:math:`\Sigma_C`. All are Gaussian and independent.

The scores of a prompt q are T scalars. Given them the noise of token t is its regression on its own
score plus a part that the scores say nothing of: :math:`Z = (Zq) q^\top\Sigma/V + R^{1/2} G
(\Sigma^\perp)^{1/2}` with :math:`V = q^\top\Sigma q` and
:math:`\Sigma^\perp = \Sigma - \Sigma q q^\top \Sigma/V`. So the label times the pooled feature is

.. math:: M\theta + \big(a_I\Sigma_I^\perp + a_R\Sigma_R^\perp + \Sigma_C\big)^{1/2} G',

with a matrix M of fixed vectors, and :math:`\theta`, :math:`a` functions of the T scalars alone. A
common part shifts all scores alike, which a softmax does not see. Everything here is float64; the
derivation is in docs/contextual.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.token_law_maps import LinearMap, apply, covariance_map

__all__ = [
    "NODES", "REPLICATES", "PooledLaw", "TokenLaw", "conditional_token_error", "mean_over_nodes",
    "pooled_law", "score_mixture", "wrong_sign_probability",
]  # fmt: skip

REPLICATES, NODES = 8, 2048
"""Independent scramblings of the quasi-random rule, and the nodes of each."""

Covariance = Float[np.ndarray, "d d"] | Float[np.ndarray, " d"]


class TokenLaw(NamedTuple):
    """The law of a sequence's tokens, float64; a covariance is a matrix, or its diagonal.

    `behind` and `behind_signal` are g and h; the correlation matrices are those between the
    irrelevant and between the relevant tokens of a sequence (None: independent).
    """

    tokens: int
    relevant: int
    signal: Float[np.ndarray, " d"]
    context: Float[np.ndarray, " d"]
    irrelevant_noise: Covariance
    relevant_noise: Covariance
    common_noise: Covariance
    irrelevant_correlation: Float[np.ndarray, "N N"] | None = None
    relevant_correlation: Float[np.ndarray, "k k"] | None = None
    behind: Float[np.ndarray, " d"] | None = None
    behind_signal: Float[np.ndarray, " d"] | None = None
    shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    shift_weights: tuple[float, ...] = (1.0,)


class PooledLaw(NamedTuple):
    """The law of the label times the pooled feature: Mθ plus Gaussian noise of covariance Σ a_j
    Σ_j.

    `basis` is M; `coefficients` holds θ and `levels` a at every node, (replicate, node, …), and
    `weights`, (replicate, node), sum to 1 over each replicate's nodes. `label` is y at the nodes.
    """

    basis: Float[np.ndarray, "d r"]
    covariances: tuple[LinearMap, ...]
    coefficients: Float[np.ndarray, "R N r"]
    levels: Float[np.ndarray, "R N J"]
    weights: Float[np.ndarray, "R N"]
    label: Float[np.ndarray, "R N"]

    def replicate(self, index: int) -> PooledLaw:
        """The law on the nodes of one replicate."""
        part = slice(index, index + 1)
        return self._replace(
            coefficients=self.coefficients[part],
            levels=self.levels[part],
            weights=self.weights[part],
            label=self.label[part],
        )


def pooled_law(
    law: TokenLaw,
    prompt: Float[np.ndarray, " d"],
    *,
    replicates: int = REPLICATES,
    nodes: int = NODES,
    score_map: Callable[[np.ndarray], np.ndarray] | None = None,
) -> PooledLaw:
    """The law of the pooled feature over a fixed prompt, on `nodes` of each of `replicates` rules.

    The prompt may be any vector: also a learned one, with a part along the signal, which makes the
    attention depend on the label. A zero prompt attends uniformly. `score_map` makes scores of unit
    variance of another law from standard normals: those of tokens that are not Gaussian.
    """
    q = np.asarray(prompt, np.float64)
    irrelevant, relevant = law.tokens - law.relevant, law.relevant
    images = [_image(c, q) for c in (law.irrelevant_noise, law.relevant_noise)]
    variances = [max(float(q @ image), 0.0) for image in images]
    counts = [n if v > 0 else 0 for n, v in zip((irrelevant, relevant), variances, strict=True)]
    scalars = attention_moments.normal_nodes(sum(counts))[:replicates, :nodes]
    if score_map is not None:
        scalars = score_map(scalars)
    noises = [
        _correlated_scores(part, count, np.sqrt(variance), correlation)
        for part, count, variance, correlation in zip(
            (scalars[..., : counts[0]], scalars[..., counts[0] :]), (irrelevant, relevant),
            variances, (law.irrelevant_correlation, law.relevant_correlation), strict=True,
        )
    ]  # fmt: skip

    def nodes_at(label: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        return _coefficients_and_levels(law, q, noises, label, shift)

    coefficients, levels, weights, label = score_mixture(
        nodes_at, law.shifts, law.shift_weights, scalars.shape[:2]
    )
    zero = np.zeros_like(law.signal)
    slopes = [
        image / variance if variance > 0 else zero
        for image, variance in zip(images, variances, strict=True)
    ]
    vectors = [law.signal, law.context, _or_zero(law.behind_signal, zero),
               _or_zero(law.behind, zero), *slopes]  # fmt: skip
    kept = [i for i, vector in enumerate(vectors) if i < 2 or vector.any()]
    covariances = (
        *(
            covariance_map(c, image / np.sqrt(v) if v > 0 else None)
            for c, image, v in zip(
                (law.irrelevant_noise, law.relevant_noise), images, variances, strict=True
            )
        ),
        covariance_map(law.common_noise, None),
    )
    basis = np.stack([np.asarray(vectors[i], np.float64) for i in kept], axis=1)
    return PooledLaw(basis, covariances, coefficients[..., kept], levels, weights, label)


def score_mixture(
    nodes_at: Callable[[float, tuple[float, float]], tuple[np.ndarray, np.ndarray]],
    shifts: Sequence[tuple[float, float]],
    shift_weights: Sequence[float],
    shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes of both labels and all shifts side by side: coefficients, levels, weights, labels."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for shift, odds in zip(shifts, shift_weights, strict=True):
        for label in (-1.0, 1.0):
            coefficients, levels = nodes_at(label, shift)
            weights = np.full(shape, odds / 2 / shape[1])
            parts.append((coefficients, levels, weights, np.full(shape, label)))
    joined = [np.concatenate(x, axis=1) for x in zip(*parts, strict=True)]
    return joined[0], joined[1], joined[2], joined[3]


def _or_zero(vector: np.ndarray | None, zero: np.ndarray) -> np.ndarray:
    return zero if vector is None else np.asarray(vector, np.float64)


def _image(covariance: Covariance, vector: np.ndarray) -> np.ndarray:
    matrix = np.asarray(covariance, np.float64)
    return matrix * vector if matrix.ndim == 1 else matrix @ vector


class _Scores(NamedTuple):
    """Noise of the tokens' scores at each node, (replicate, node, token), and the correlation
    matrix between the tokens (None: independent)."""

    values: np.ndarray
    correlation: np.ndarray | None

    def level(self, weights: np.ndarray) -> np.ndarray:
        """φᵀRφ of the tokens' attention weights φ."""
        turned = weights if self.correlation is None else weights @ self.correlation
        return np.einsum("...t,...t->...", turned, weights)


def _correlated_scores(
    scalars: np.ndarray, count: int, deviation: float, correlation: np.ndarray | None
) -> _Scores:
    if not deviation:
        return _Scores(np.zeros((*scalars.shape[:-1], count)), correlation)
    values = deviation * scalars
    if correlation is not None and count:
        values = values @ _root(correlation).T
    return _Scores(values, correlation)


def _root(matrix: np.ndarray) -> np.ndarray:
    """L with L Lᵀ = matrix, which may be singular."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0))


def _coefficients_and_levels(
    law: TokenLaw, q: np.ndarray, noises: list[_Scores], label: float, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """θ for (w⋆, q⋆, h, g, Σ_I q/V_I, Σ_R q/V_R) and (a_I, a_R, 1) at every node."""
    with_context, with_signal = float(q @ law.context), label * float(q @ law.signal)
    far = -shift[0] * with_context - shift[1] * with_signal
    for vector, sign in ((law.behind, 1.0), (law.behind_signal, label)):
        far += 0.0 if vector is None else sign * float(q @ vector)
    irrelevant, relevant = noises
    scores = np.concatenate(
        [far + irrelevant.values, with_context + with_signal + relevant.values], axis=-1
    )
    phi = special.softmax(scores, axis=-1)
    count = irrelevant.values.shape[-1]
    far_weights, near_weights = phi[..., :count], phi[..., count:]
    s = near_weights.sum(axis=-1)
    others = far_weights.sum(axis=-1)
    theta = [
        s - others * shift[1],
        label * (s - others * shift[0]),
        others,
        label * others,
        label * np.einsum("...t,...t->...", far_weights, irrelevant.values),
        label * np.einsum("...t,...t->...", near_weights, relevant.values),
    ]
    levels = [irrelevant.level(far_weights), relevant.level(near_weights), np.ones_like(s)]
    return np.stack(theta, axis=-1), np.stack(levels, axis=-1)


def mean_over_nodes(law: PooledLaw, values: np.ndarray) -> Float[np.ndarray, " R"]:
    """Each replicate's mean of `values` (replicate, node)."""
    return np.einsum("rn,rn->r", law.weights, values)


def conditional_token_error(
    pooled: PooledLaw, head: Float[np.ndarray, " d"], intercept: float = 0.0
) -> Float[np.ndarray, " R"]:
    r"""Probability of a wrong sign of a fixed head w: :math:`E\,\Phi(-\theta\cdot M^\top w/\sqrt
    v)` with :math:`v = \sum_j a_j w^\top\Sigma_j w`; one number for each replicate.

    Exact but for the quadrature over the T scalars. Where v is 0 the sign is certain, and half of
    the answers are wrong where the margin is 0 too.
    """
    w = np.asarray(head, np.float64)
    margin = pooled.coefficients @ (pooled.basis.T @ w) + intercept * pooled.label
    spread = [float(w @ apply(c, w[:, None])[:, 0]) for c in pooled.covariances]
    variance = pooled.levels @ np.maximum(spread, 0.0)
    return mean_over_nodes(pooled, wrong_sign_probability(margin, variance))


def wrong_sign_probability(margin: np.ndarray, variance: Any) -> np.ndarray:
    """Φ(−margin/√variance), and 0, ½ or 1 where the variance is 0."""
    variance = np.asarray(variance)
    certain = variance <= 0
    ratio = margin / np.sqrt(np.where(certain, 1.0, variance))
    return np.where(certain, (1 - np.sign(margin)) / 2, special.ndtr(-ratio))
