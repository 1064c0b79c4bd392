r"""Moments of a user's tokens, as the parameters of
:class:`~jaxprompt.contextual.law.token_law.TokenLaw`.

Means are those of relevant and irrelevant tokens of each label. What the irrelevant tokens of a
sequence have in common and the relevant ones share with them is the common part; its covariance is
that of products between a relevant and an irrelevant token, made symmetric and positive. What is
left of each kind has a covariance between coordinates and a correlation matrix between tokens.
float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxprompt.contextual.extensions.own_data_input import Pool
from jaxprompt.contextual.law.token_law import Covariance, TokenLaw

__all__ = ["TokenMoments", "token_moments"]


class TokenMoments(NamedTuple):
    """Means of both kinds of tokens (half sum and half difference over the labels), covariances,
    and the correlation between two tokens of one kind in one sequence."""

    tokens: int
    relevant: int
    signal: Float[np.ndarray, " d"]
    context: Float[np.ndarray, " d"]
    behind: Float[np.ndarray, " d"]
    behind_signal: Float[np.ndarray, " d"]
    irrelevant: Covariance
    near: Covariance
    common: Covariance
    irrelevant_correlation: float
    near_correlation: float

    def isotropic(self) -> TokenMoments:
        """The same with every covariance a multiple of the identity of the same trace, held as its
        diagonal."""

        def flat(matrix: np.ndarray) -> np.ndarray:
            return np.full(len(matrix), np.trace(matrix) / len(matrix))

        return self._replace(
            irrelevant=flat(self.irrelevant), near=flat(self.near), common=flat(self.common)
        )

    def law(self) -> TokenLaw:
        """The Gaussian token law with these moments."""
        return TokenLaw(
            self.tokens, self.relevant, self.signal, self.context, self.irrelevant, self.near,
            self.common,
            irrelevant_correlation=_equal_correlation(
                self.tokens - self.relevant, self.irrelevant_correlation
            ),
            relevant_correlation=_equal_correlation(self.relevant, self.near_correlation),
            behind=self.behind, behind_signal=self.behind_signal,
        )  # fmt: skip


def _equal_correlation(count: int, correlation: float) -> Float[np.ndarray, "n n"]:
    return (1 - correlation) * np.eye(count) + correlation


def token_moments(pool: Pool, *, by_label: bool = True) -> TokenMoments:
    """Moments of a pool with marks; without `by_label` the two labels count as one."""
    assert pool.relevant is not None
    count = int(pool.relevant[0].sum())
    length, dim = pool.relevant.shape[1], pool.dim
    labels = pool.label if by_label else np.ones(pool.sequences)
    sums = _means(pool, labels, count)
    near_plus, near_minus, far_plus, far_minus = sums if by_label else (sums[0], sums[0], sums[2],
                                                                        sums[2])  # fmt: skip
    far_total, near_total, crossed = (np.zeros((dim, dim)) for _ in range(3))
    far_middle, near_middle = np.zeros((dim, dim)), np.zeros((dim, dim))
    for part in pool.blocks():
        near, far = _kinds(pool, part, count)
        up = (labels[part] > 0)[:, None, None]
        near = near - np.where(up, near_plus, near_minus)
        far = far - np.where(up, far_plus, far_minus)
        far_total += _second_moment(far.reshape(-1, dim))
        near_total += _second_moment(near.reshape(-1, dim))
        near_mean, far_mean = near.mean(axis=1), far.mean(axis=1)
        far_middle += _second_moment(far_mean)
        near_middle += _second_moment(near_mean)
        crossed += near_mean.T @ far_mean
    n, others = pool.sequences, length - count
    common = _positive_of_same_trace((crossed + crossed.T) / (2 * n))
    far_own = _positive(far_total / (n * others) - common)
    near_own = _positive(near_total / (n * count) - common)
    return TokenMoments(
        length, count, (near_plus - near_minus) / 2, (near_plus + near_minus) / 2,
        (far_plus + far_minus) / 2, (far_plus - far_minus) / 2, far_own, near_own, common,
        _pair_correlation(far_middle / n - common, far_own, others),
        _pair_correlation(near_middle / n - common, near_own, count),
    )  # fmt: skip


def _pair_correlation(middle: np.ndarray, total: np.ndarray, count: int) -> float:
    """Correlation between two tokens, from the trace of their mean's covariance."""
    size = float(np.trace(total))
    if count < 2 or not size > 0:
        return 0.0
    correlation = (count * float(np.trace(middle)) / size - 1) / (count - 1)
    return float(np.clip(correlation, -1 / count, 1.0))


def _kinds(pool: Pool, part: slice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Relevant and irrelevant tokens of a block, each (sequence, token, coordinate)."""
    assert pool.relevant is not None
    block, marks = pool.tokens_of(part), pool.relevant[part]
    n, length, dim = block.shape
    return block[marks].reshape(n, count, dim), block[~marks].reshape(n, length - count, dim)


def _means(pool: Pool, labels: np.ndarray, count: int) -> list[np.ndarray]:
    """Mean relevant token of label +1 and of −1, then the same of irrelevant ones."""
    sums = np.zeros((4, pool.dim))
    for part in pool.blocks():
        up = labels[part] > 0
        for place, kind in enumerate(_kinds(pool, part, count)):
            means = kind.mean(axis=1)
            sums[2 * place] += means[up].sum(axis=0)
            sums[2 * place + 1] += means[~up].sum(axis=0)
    plus = max(float((labels > 0).sum()), 1.0)
    minus = max(float((labels <= 0).sum()), 1.0)
    return [sums[0] / plus, sums[1] / minus, sums[2] / plus, sums[3] / minus]


def _second_moment(rows: np.ndarray) -> np.ndarray:
    return rows.T @ rows


def _positive_of_same_trace(matrix: np.ndarray) -> np.ndarray:
    """The same scaled to the matrix's own trace, which is an unbiased estimate; 0 if that is below
    0.

    The estimate of a covariance that is 0 has eigenvalues of both signs: keeping the positive ones
    alone would make up a common part.
    """
    positive = _positive(matrix)
    size = float(np.trace(positive))
    return positive * (max(float(np.trace(matrix)), 0.0) / size if size > 0 else 0.0)


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0)) @ vectors.T
