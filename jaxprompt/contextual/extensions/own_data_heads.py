r"""The law of ridge heads trained on parts of given sequences, and the errors that it makes.

m sequences with features :math:`x_i` and targets :math:`y_i` are given; a training set of n holds
sequence i with probability :math:`\pi_i=np_i`, independently (:math:`p_i=1/m`, or a class's share
over its number of sequences). The heads minimise :math:`\frac1{2n}\sum|y_i-W^\top x_i|^2
+\frac\lambda2|W|^2`, a column of W for each target; an intercept is a constant feature without
penalty. With :math:`s_i=1/n-p_i`,

.. math:: \mathcal Q=\Big(\Lambda+\sum_ip_i\omega_ix_ix_i^\top\Big)^{-1},\quad
   h_i=x_i^\top\mathcal Qx_i,\quad
   \omega_i=\Big(1+s_i\frac{h_i}{1-p_i\omega_ih_i}\Big)^{-1}.

Targets have mean :math:`\mu_i` and covariance :math:`N_i`: labels that were exchanged by chance.
The heads have mean :math:`\bar W=\mathcal Q\sum p_i\omega_ix_i\mu_i^\top`, and the covariance
between two columns is :math:`\mathcal Q\big(\sum_ip_i\omega_i^2(s_iE_i+N_i/n)x_ix_i^\top\big)
\mathcal Q`, where :math:`E_i` is the second moment of :math:`\mu_i-W^\top x_i` for heads that have
not seen i:

.. math:: E_i=\frac{\rho_i\rho_i^\top+\sum_{j\ne i}(x_i^\top\mathcal Qx_j)^2
   p_j\omega_j^2(s_jE_j+N_j/n)}{(1-p_i\omega_ih_i)^2},\quad\rho_i=\mu_i-\bar W^\top x_i.

Derived in docs/own_data.md. Everything is float64.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special
from scipy.stats import qmc

from jaxprompt.contextual.extensions.own_data_input import MOST_PAIRS
from jaxprompt.contextual.law.token_law import wrong_sign_probability
from jaxprompt.errors import NumericalError

__all__ = ["EmpiricalHeads", "Targets", "make_targets", "ridge_heads"]


# --- what heads are trained to answer ---


class Targets(NamedTuple):
    """Mean and covariance of the targets of each class, a row for each.

    Two classes have one target, −1 or 1. More have a target for each class, 1 for the right one and
    −1 for the others (one against the rest).
    """

    mean: Float[np.ndarray, "C K"]
    covariance: Float[np.ndarray, "C K K"]
    clean: Float[np.ndarray, "C K"]


def make_targets(classes: int, label_noise: float) -> Targets:
    """Targets where a label is another class's, each alike, with probability `label_noise`."""
    signs = 2 * np.eye(classes) - 1
    clean = signs[:, 1:] if classes == 2 else signs
    chances = np.full((classes, classes), label_noise / (classes - 1))
    np.fill_diagonal(chances, 1 - label_noise)
    mean = chances @ clean
    moment = np.einsum("ck,ki,kj->cij", chances, clean, clean)
    return Targets(mean, moment - mean[:, :, None] * mean[:, None], clean)


def ridge_heads(
    features: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n K"],
    ridge: float,
    *,
    intercept: bool = False,
) -> tuple[Float[np.ndarray, "d K"], Float[np.ndarray, " K"]]:
    """Ridge heads, by the smaller of the two systems, and their intercepts (0 without)."""
    n, dim = features.shape
    centre, start = np.zeros(dim), np.zeros(targets.shape[1])
    if intercept:
        centre, start = features.mean(axis=0), targets.mean(axis=0)
        features, targets = features - centre, targets - start
    matrix = features.T @ features if n >= dim else features @ features.T
    floor = _LEAST_RIDGE * np.trace(matrix) / (n * dim)
    matrix = matrix / n
    matrix[np.diag_indices(len(matrix))] += max(ridge, floor, _TINY)
    if n >= dim:
        heads = np.linalg.solve(matrix, features.T @ targets / n)
    else:
        heads = features.T @ np.linalg.solve(matrix, targets / n)
    return heads, start - centre @ heads


_LEAST_RIDGE = 1e-9
"""Times the mean second moment of a coordinate, stands for no ridge: the minimum-norm head."""

_TINY = 1e-200
"""Ridge where all features are 0."""


# --- the law of the heads ---


MOST_WEIGHED_RANK = 768
"""Up to this rank of the features every sequence has a leverage of its own; beyond it, where that
would take a d × d inverse for each round, all have the mean leverage."""

_ROUNDS = 200
_SETTLED, _SETTLED_OF_MANY, _MANY = 1e-7, 1e-5, 300
"""Relative changes, and that for features of so high a rank that rounds are dear. Without a ridge
and with fewer sequences than dimensions every ω is next to 0."""

_SHARED_ROUNDS, _SHARED_SETTLED = 12, 1e-4
"""Where all have the mean leverage it is known to about 1/√(m d), and passes are dear."""

_UNSETTLED = 0.01
"""Relative change of the last round from which on there is no answer."""


class EmpiricalHeads(NamedTuple):
    """Training features in coordinates that span them, with what heads on parts of them need.

    `values` are eigenvalues of the features' second moment, `penalties` the ridge in each
    coordinate, `odds` are p_i; `fresh` features are in the same coordinates.
    """

    values: Float[np.ndarray, " r"]
    penalties: Float[np.ndarray, " r"]
    rows: Float[np.ndarray, "m r"]
    kinds: Int[np.ndarray, " m"]
    odds: Float[np.ndarray, " m"]
    fresh: Float[np.ndarray, "N r"]
    fresh_kinds: Int[np.ndarray, " N"]
    targets: Targets

    @classmethod
    def of(
        cls, features: np.ndarray, kinds: np.ndarray, odds: np.ndarray, fresh: np.ndarray,
        fresh_kinds: np.ndarray, targets: Targets, ridge: float, *, intercept: bool = False,
    ) -> EmpiricalHeads:  # fmt: skip
        """Turn features (m, d) and fresh ones (N, d) to coordinates; `kinds` are class numbers."""
        m, dim = features.shape
        if intercept:  # which makes heads indifferent to where the origin is
            centre = features.mean(axis=0)
            features, fresh = features - centre, fresh - centre
        if m >= dim:
            values, vectors = np.linalg.eigh(features.T @ features / m)
            kept = values > 1e-12 * values[-1]
            vectors = vectors[:, kept]
        else:  # the other Gram matrix has the same eigenvalues
            values, weights = np.linalg.eigh(features @ features.T / m)
            kept = values > 1e-12 * values[-1]
            vectors = features.T @ weights[:, kept] / np.sqrt(m * values[kept])
        values = values[kept]
        floor = _LEAST_RIDGE * float(values.sum()) / max(len(values), 1)
        penalties = np.full(len(values), max(ridge, floor, _TINY))
        rows, fresh = features @ vectors, fresh @ vectors
        if intercept:
            values, penalties = np.append(values, 1.0), np.append(penalties, 0.0)
            rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
            fresh = np.concatenate([fresh, np.ones((len(fresh), 1))], axis=1)
        return cls(values, penalties, rows, kinds, odds, fresh, fresh_kinds, targets)

    def wrong_probabilities(self, samples: int) -> Float[np.ndarray, " N"]:
        """Of every fresh sequence, over the heads that `samples` of the m train."""
        share = np.maximum(1 / samples - self.odds, 0.0)
        omega, inverse, leverage = self._resolvent(share)
        means, noises = self.targets.mean[self.kinds], self.targets.covariance[self.kinds]
        heads = inverse @ (self.rows.T @ ((self.odds * omega)[:, None] * means))
        # What a residual would be, had its sequence been left out.
        left_out = 1 / (1 - self.odds * omega * leverage)
        residual = means - self.rows @ heads
        low, high = np.tril_indices(means.shape[1])
        scale = left_out[:, None] ** 2
        weight = (self.odds * omega**2)[:, None]
        moved, noise = weight * share[:, None], weight / samples * noises[:, low, high]
        turned = self.rows @ inverse
        start = scale * residual[:, low] * residual[:, high]
        second = _left_out_moments(self.rows, turned, start, noise, moved, scale)
        if (second[:, low == high] < 0).any():
            raise NumericalError(
                f"no curve: {samples} samples are so near to the number of dimensions that the "
                "equations have no answer; raise the ridge or change n"
            )
        factors = moved * second + noise
        variance = _weighted_squares(self.fresh @ inverse, self.rows, factors)
        return self._wrong(self.fresh @ heads, variance)

    def _wrong(self, margin: np.ndarray, variance: np.ndarray) -> Float[np.ndarray, " N"]:
        if margin.shape[1] == 1:
            signs = self.targets.clean[self.fresh_kinds]
            return wrong_sign_probability(signs * margin, variance)[:, 0]
        size = margin.shape[1]
        low, high = np.tril_indices(size)
        covariance = np.empty((len(margin), size, size))
        covariance[:, low, high] = covariance[:, high, low] = variance
        return 1 - _chance_of_the_largest(margin, covariance, self.fresh_kinds)

    def _resolvent(
        self, share: np.ndarray
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "r r"], Float[np.ndarray, " m"]]:
        """ω of every sequence, 𝒬, and every sequence's square in it."""
        omega = np.full(len(self.rows), self._mean_omega(float(share.mean())))
        rank = len(self.values)
        singly = rank <= MOST_WEIGHED_RANK
        settled = _SETTLED if rank <= _MANY else _SETTLED_OF_MANY
        alike = np.ptp(self.odds) == 0 and np.ptp(share) == 0
        inverse, leverage = self._inverse_and_leverages(omega)
        if not share.any() or (alike and not singly):
            return omega, inverse, leverage
        change = np.inf
        for _ in range(_ROUNDS if singly else _SHARED_ROUNDS):
            level = leverage if singly else np.full_like(leverage, self.odds @ leverage)
            fresh = level / np.maximum(1 - self.odds * omega * level, 1e-12)
            moved = 1 / (1 + share * fresh)
            change = np.abs(moved / omega - 1).max()
            # Half a step: near n = d a whole one overshoots.
            omega = np.sqrt(omega * moved)
            inverse, leverage = self._inverse_and_leverages(omega)
            if change <= (settled if singly else _SHARED_SETTLED):
                break
        if not change < _UNSETTLED:
            raise _unsettled("weights of the sequences", change)
        return omega, inverse, leverage

    def _inverse_and_leverages(
        self, omega: np.ndarray
    ) -> tuple[Float[np.ndarray, "r r"], Float[np.ndarray, " m"]]:
        if np.ptp(omega) == 0 and np.ptp(self.odds) == 0:
            scale = omega[0] * self.odds[0] * len(omega)
            diagonal = 1 / (self.penalties + scale * self.values)
            return np.diag(diagonal), np.square(self.rows) @ diagonal
        moment = (self.rows * (omega * self.odds)[:, None]).T @ self.rows
        moment[np.diag_indices(len(moment))] += self.penalties
        inverse = np.linalg.inv(moment)
        return inverse, np.einsum("ni,ni->n", self.rows @ inverse, self.rows)

    def _mean_omega(self, share: float) -> float:
        """Root of ω(1 + t·share) = 1 with one leverage t for all."""
        if share <= 0:
            return 1.0

        def excess(log_omega: float) -> float:
            omega = np.exp(log_omega)
            inside = float((self.values / (self.penalties + omega * self.values)).sum())
            left = 1 - omega * inside / len(self.rows)
            if left <= 0:
                return 1e3
            return float(np.log1p(share * inside / left) + log_omega)

        low = -1.0
        while excess(low) > 0:
            low *= 2
        # The excess rises from below 0 to above it, at ω = 1.
        root: Any = optimize.brentq(excess, low, 0.0, xtol=1e-13)
        return float(np.exp(root))


def _unsettled(what: str, change: float) -> NumericalError:
    return NumericalError(
        f"no curve: the {what} still change by {change:.1g} of themselves after the last round; "
        "raise the ridge or change n"
    )


def _left_out_moments(
    rows: np.ndarray, turned: np.ndarray, start: np.ndarray, noise: np.ndarray, moved: np.ndarray,
    scale: np.ndarray,
) -> Float[np.ndarray, "m P"]:  # fmt: skip
    """E of every sequence, for each pair of targets: the root of E = start + scale A(moved E +
    noise), where A holds squared products between two different sequences."""
    if not (moved.any() or noise.any()):
        return start
    own = np.square(np.einsum("ni,ni->n", turned, rows))[:, None]
    pairs = _squared_pairs(turned, rows) if _pairs_are_cheaper(rows, start) else None
    settled = _SETTLED if len(rows) <= MOST_PAIRS else _SHARED_SETTLED

    def spread(factors: np.ndarray) -> np.ndarray:
        whole = _weighted_squares(turned, rows, factors) if pairs is None else pairs @ factors
        return whole - own * factors

    second, change = start, np.inf
    for _ in range(_ROUNDS):
        passed = start + scale * spread(moved * second + noise)
        change = np.abs(passed - second).max()
        second = passed
        if change <= settled * np.abs(second).max():
            return second
    if len(rows) > MOST_PAIRS:
        if not change < _UNSETTLED * np.abs(second).max():
            raise _unsettled("errors of left-out sequences", change / np.abs(second).max())
        return second
    # Near n = d without a ridge passes are slow: there the system is solved at once.
    system = -scale * _squared_pairs(turned, rows) * moved[:, 0]
    np.fill_diagonal(system, 1.0)
    return np.linalg.solve(system, start + scale * spread(noise))


def _squared_pairs(turned: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "N m"]:
    pairs = turned @ rows.T
    return np.square(pairs, out=pairs)


def _pairs_are_cheaper(rows: np.ndarray, factors: np.ndarray) -> bool:
    """Whether to hold all products: a pass then costs m² rather than m d² for each column."""
    m, rank = rows.shape
    return m <= MOST_PAIRS and factors.shape[1] * rank**2 > m


def _weighted_squares(
    turned: np.ndarray, rows: np.ndarray, factors: np.ndarray
) -> Float[np.ndarray, "N P"]:
    """Σ_j (turned_i · rows_j)² factors_j, for each column of factors."""
    if _pairs_are_cheaper(rows, factors):
        return _squared_pairs(turned, rows) @ factors
    columns = [
        np.einsum("ni,ni->n", turned @ ((rows * column[:, None]).T @ rows), turned)
        for column in factors.T
    ]
    return np.stack(columns, axis=1)


# --- several classes ---


_NODES, _NODE_ROWS = 256, 512
"""Nodes for the chance that a score is the largest, and sequences that are taken at once."""


def _chance_of_the_largest(
    mean: Float[np.ndarray, "N K"], covariance: Float[np.ndarray, "N K K"], kinds: np.ndarray
) -> Float[np.ndarray, " N"]:
    """Probability that score `kinds` is the largest of K Gaussian ones, each with its own law."""
    parts = [slice(i, i + _NODE_ROWS) for i in range(0, len(mean), _NODE_ROWS)]
    return np.concatenate(
        [_positive_chance(*_leads(mean[part], covariance[part], kinds[part])) for part in parts]
    )


def _leads(
    mean: np.ndarray, covariance: np.ndarray, kinds: np.ndarray
) -> tuple[Float[np.ndarray, "N L"], Float[np.ndarray, "N L L"]]:
    """Law of what a score is ahead of each other one."""
    size = mean.shape[1]
    others = np.array([[k for k in range(size) if k != kind] for kind in range(size)])
    signs = np.eye(size)[:, None] - np.eye(size)[others]
    chosen = signs[kinds]
    return (
        np.einsum("nlk,nk->nl", chosen, mean),
        chosen @ covariance @ chosen.swapaxes(1, 2),
    )


def _positive_chance(
    mean: Float[np.ndarray, "N L"], covariance: Float[np.ndarray, "N L L"]
) -> Float[np.ndarray, " N"]:
    """Probability that all L numbers are positive: one after another, each given those before it
    (Genz, J. Comput. Graph. Stat. 1992)."""
    count, size = mean.shape
    uniform = _uniform_nodes(size)
    factor = np.zeros((count, size, size))
    normals = np.zeros((count, len(uniform), size))
    chance = np.ones((count, len(uniform)))
    for k in range(size):
        known = factor[:, k, :k]
        for j in range(k):
            inner = covariance[:, k, j] - np.einsum("ni,ni->n", factor[:, j, :j], factor[:, k, :j])
            scale = factor[:, j, j]
            factor[:, k, j] = np.divide(inner, scale, out=np.zeros(count), where=scale > 0)
        left = covariance[:, k, k] - np.square(known).sum(axis=1)
        certain = left <= 1e-12 * covariance[:, k, k]
        factor[:, k, k] = np.sqrt(np.where(certain, 0.0, left))
        ahead = mean[:, k, None] + np.einsum("nsj,nj->ns", normals[..., :k], known)
        step = 1 - wrong_sign_probability(ahead, np.square(factor[:, k, k])[:, None])
        chance *= step
        normals[..., k] = -special.ndtri(np.maximum(uniform[:, k] * step, 1e-300))
    return chance.mean(axis=1)


@functools.lru_cache(maxsize=8)
def _uniform_nodes(size: int) -> Float[np.ndarray, "S L"]:
    return qmc.Sobol(size, scramble=True, rng=np.random.default_rng(0)).random(_NODES)
