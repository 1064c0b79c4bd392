r"""Predicted learning curves from a user's own tokens, and the prompt that the theory calls best.

A pool of labelled sequences and a prompt give the error of a ridge head at every number of training
sequences, at three levels of knowledge:

* `isotropic`: tokens with the pool's means, every covariance a multiple of the identity;
* `all_moments`: means, covariances, correlations between tokens and the common part, Gaussian
  scores (:mod:`~jaxprompt.contextual.law.token_law_limit`);
* `semi_empirical`: the pooled features themselves. Their law enters through mean and covariance in
  the resolvent alone; their attention weights, tails and labels are the data's own.

The semi-empirical curve is cross-fitted: moments come from all folds of the pool but one, and the
error is averaged over the sequences of that one. A training set of n sequences is taken as a part
of the m others, drawn without replacement, so no dimension d is too large for the pool: what m
sequences cannot know enters as it does for a real training set. With signed features :math:`r_i`
and
:math:`1/n'=1/n-1/m`,

.. math:: \hat{\mathcal Q}=\Big(\lambda+\frac1m\sum_i\omega_ir_ir_i^\top\Big)^{-1},\quad
   h_i=r_i^\top\hat{\mathcal Q}r_i,\quad
   \omega_i=\Big(1+\frac1{n'}\frac{h_i}{1-\omega_ih_i/m}\Big)^{-1},

the head has mean :math:`\bar w=\hat{\mathcal Q}\frac1m\sum\omega_ir_i` and covariance
:math:`C=\frac1{n'}\hat{\mathcal Q}\big(\frac1m\sum_i\omega_i^2e_i^2r_ir_i^\top\big)
\hat{\mathcal Q}` with the squared residual of a sequence that was left out,
:math:`e_i^2=((1-r_i\cdot\bar w)^2+r_i^\top Cr_i)/(1-\omega_ih_i/m)^2`. At n = m this is the
ridge head of all m, exactly. Derived in
docs/own_data.md; everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from jaxprompt.contextual.extensions.own_data_input import Pool, check_counts, make_pool
from jaxprompt.contextual.extensions.own_data_moments import TokenMoments, token_moments
from jaxprompt.contextual.law.token_law import pooled_law, wrong_sign_probability
from jaxprompt.contextual.law.token_law_limit import ridge_head_law
from jaxprompt.errors import ParameterError

__all__ = ["PredictedCurve", "best_prompt", "measure_curve", "pool_features", "predict_curve"]

Progress = Callable[[int, int], None]

FOLDS = 5
"""Parts of the pool for cross-fitting."""

MOST_GAUSSIAN_DIM = 1024
"""Beyond this dimension the Gaussian levels, which invert several d × d matrices at every number of
samples, are left out unless they are asked for."""

_GAUSSIAN_NODES = 2048


@dataclass(frozen=True)
class PredictedCurve:
    """Predicted test errors of a ridge head, an entry for each of `samples`.

    `stderr` is the standard error of `semi_empirical` from the finite number of sequences that it
    is averaged over. Levels that could not be had hold NaN, and `assumed` says why, beside what
    each level takes for granted. float64.
    """

    samples: tuple[int, ...]
    isotropic: Float[np.ndarray, " S"]
    all_moments: Float[np.ndarray, " S"]
    semi_empirical: Float[np.ndarray, " S"]
    stderr: Float[np.ndarray, " S"]
    assumed: tuple[str, ...]

    def samples_for(self, error: Any, level: str = "semi_empirical") -> int:
        """The least number of training sequences whose predicted error is at most `error`.

        Between the predicted numbers the error is interpolated against log n; the answer is within
        their range.

        Raises:
            ParameterError: `error` is no probability, or below every predicted error.
        """
        if not isinstance(error, int | float) or not 0 < error < 1:
            raise ParameterError("error", error, "a number between 0 and 1", "give one")
        if level not in ("isotropic", "all_moments", "semi_empirical"):
            allowed = "isotropic, all_moments or semi_empirical"
            raise ParameterError("level", level, allowed, "choose one of the three")
        values = np.asarray(getattr(self, level))
        if np.isnan(values).any():
            raise ParameterError("level", level, "one that was predicted", "see `assumed`")
        good = np.flatnonzero(values <= error)
        if not good.size:
            allowed = f"at least {values.min():.4g}, the least predicted error"
            remedy = f"raise it, or predict beyond n = {max(self.samples)}"
            raise ParameterError("error", error, allowed, remedy)
        first = int(good[0])
        if first == 0:
            return self.samples[0]
        low, high = np.log(self.samples[first - 1]), np.log(self.samples[first])
        before, after = values[first - 1], values[first]
        return int(np.ceil(np.exp(low + (high - low) * (before - error) / (before - after))))


def predict_curve(
    tokens: Any, labels: Any, prompt: Any, samples: Any, ridge: float, *, relevant: Any = None,
    gaussian_levels: bool | None = None, seed: int = 0, progress: Progress | None = None,
) -> PredictedCurve:  # fmt: skip
    r"""Predict the test error of a ridge head over `prompt` at each number of `samples`.

    The head minimises :math:`\frac1{2n}\sum_i(1-y_i\,w\cdot\bar x_i)^2+\frac\lambda2|w|^2` over
    features pooled by the softmax attention of the prompt; it has no intercept. Memory holds one
    block of sequences, the pooled features and a few d × d matrices.

    Args:
        tokens: (sequences, T, d) numbers; a memory map is read block by block.
        labels: one for each sequence, of two kinds: ±1, 0/1 or any two values (the larger is +1).
        prompt: d numbers. A zero prompt attends uniformly.
        samples: numbers of training sequences, each at most four fifths of the pool.
        ridge: λ, at least 0; 0 is taken as the limit of a vanishing ridge.
        relevant: marks (sequences, T), equally many in every sequence, or one row of T marks. The
            Gaussian levels need them: NaN without.
        gaussian_levels: whether to compute them; by default up to d = 1024.
        seed: of the folds.
        progress: called with (steps done, steps in all).

    Raises:
        ParameterError: an argument is not as described; the line says what to do.
    """
    pool = make_pool(tokens, labels, prompt, ridge, relevant)
    counts = check_counts(samples, pool.sequences * (FOLDS - 1) // FOLDS)
    wanted = pool.dim <= MOST_GAUSSIAN_DIM if gaussian_levels is None else gaussian_levels
    gaussian = wanted and pool.relevant is not None
    steps = FOLDS + (1 + 2 * len(counts) if gaussian else 0)
    tick = _Ticks(progress or (lambda done, total: None), steps)

    features = pool_features(pool)
    probabilities = np.empty((pool.sequences, len(counts)))
    for inside, outside in _folds(pool.sequences, seed):
        head_laws = _EmpiricalHeads.of(features[inside], features[outside], pool.ridge)
        for place, n in enumerate(counts):
            probabilities[outside, place] = head_laws.wrong_probabilities(n)
        tick()
    semi = probabilities.mean(axis=0)
    stderr = probabilities.std(axis=0, ddof=1) / np.sqrt(pool.sequences)

    nothing = np.full(len(counts), np.nan)
    isotropic, moments = nothing, nothing.copy()
    if gaussian:
        found = token_moments(pool)
        tick()
        moments = _gaussian_errors(found, pool, counts, tick)
        isotropic = _gaussian_errors(found.isotropic(), pool, counts, tick)
    return PredictedCurve(
        counts, isotropic, moments, semi, stderr, _assumptions(pool, gaussian, wanted)
    )


class _Ticks:
    """Counts the steps of long work."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _assumptions(pool: Pool, gaussian: bool, wanted: bool) -> tuple[str, ...]:
    lines = [
        f"sequences are independent, and new ones are like the {pool.sequences} of the pool",
        f"semi_empirical: moments from {FOLDS - 1} of {FOLDS} folds, errors on the other; heads "
        "are Gaussian given them",
    ]
    if gaussian:
        lines.append(
            "all_moments: Gaussian tokens; one correlation matrix between the irrelevant tokens "
            "for all coordinates"
        )
        lines.append("isotropic: as all_moments, and every covariance a multiple of the identity")
    elif not wanted:
        lines.append(
            f"isotropic, all_moments: left out at d = {pool.dim}; gaussian_levels=True has them"
        )
    else:
        lines.append("isotropic, all_moments: left out, because no tokens are marked as relevant")
    return tuple(lines)


def _folds(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences inside and outside of each fold's complement."""
    order = np.random.default_rng(seed).permutation(count)
    parts = np.array_split(order, FOLDS)
    return [(np.setdiff1d(order, part), part) for part in parts]


def pool_features(pool: Pool) -> Float[np.ndarray, "N d"]:
    """Label times the feature that the prompt's attention pools, of every sequence."""
    rows = np.empty((pool.sequences, pool.dim))
    for part in pool.blocks():
        block = pool.tokens_of(part)
        weights = special.softmax(block @ pool.prompt, axis=1)
        rows[part] = pool.label[part, None] * np.einsum("nt,ntd->nd", weights, block)
    return rows


# --- the semi-empirical level ---


MOST_WEIGHED_RANK = 600
"""Up to this rank of the features every sequence has a leverage of its own; beyond it, where that
would take a d × d inverse for each round, all have the mean leverage."""

_ROUNDS = 200
_SETTLED = 1e-7


class _EmpiricalHeads(NamedTuple):
    """m training features and fresh ones, in the coordinates of the eigenvectors of the training
    features' second moment, and its eigenvalues."""

    values: Float[np.ndarray, " r"]
    rows: Float[np.ndarray, "m r"]
    fresh: Float[np.ndarray, "N r"]
    ridge: float

    @classmethod
    def of(cls, rows: np.ndarray, fresh: np.ndarray, ridge: float) -> _EmpiricalHeads:
        m, dim = rows.shape
        if m >= dim:
            values, vectors = np.linalg.eigh(rows.T @ rows / m)
        else:  # the other Gram matrix has the same eigenvalues
            values, weights = np.linalg.eigh(rows @ rows.T / m)
            vectors = rows.T @ weights / np.sqrt(m * np.maximum(values, 1e-300))
        kept = values > 1e-12 * values[-1]
        vectors = vectors[:, kept]
        floor = 1e-9 * float(values[kept].mean())
        return cls(values[kept], rows @ vectors, fresh @ vectors, max(ridge, floor))

    def wrong_probabilities(self, samples: int) -> Float[np.ndarray, " N"]:
        """Of every fresh sequence, over the heads that `samples` of the m train."""
        m, rank = self.rows.shape
        share = 1 / samples - 1 / m
        omega = np.full(m, self._mean_omega(share))
        if share > 0 and rank <= MOST_WEIGHED_RANK:
            omega = self._own_omegas(share, omega)
        inverse, leverage = self._inverse_and_leverages(omega)
        mean = inverse @ (omega @ self.rows / m)
        # What a residual would be, had its sequence been left out.
        left_out = 1 / (1 - omega * leverage / m)
        shortfall = (1 - self.rows @ mean) * left_out
        covariance = np.zeros((rank, rank))
        for _ in range(_ROUNDS if share > 0 else 0):
            own = self._quadratic(self.rows, covariance) * left_out**2
            weights = omega**2 * (shortfall**2 + own)
            moment = (self.rows * (weights / m)[:, None]).T @ self.rows
            moved = share * inverse @ moment @ inverse
            change = np.abs(moved - covariance).max()
            covariance = moved
            if change <= _SETTLED * np.abs(covariance).max():
                break
        margin = self.fresh @ mean
        return wrong_sign_probability(margin, self._quadratic(self.fresh, covariance))

    @staticmethod
    def _quadratic(rows: np.ndarray, matrix: np.ndarray) -> Float[np.ndarray, " n"]:
        return np.maximum(np.einsum("ni,ni->n", rows @ matrix, rows), 0.0)

    def _inverse_and_leverages(
        self, omega: np.ndarray
    ) -> tuple[Float[np.ndarray, "r r"], Float[np.ndarray, " m"]]:
        """The weighted resolvent, and every row's square in it."""
        m, rank = self.rows.shape
        if np.ptp(omega) == 0:
            inverse = np.diag(1 / (self.ridge + omega[0] * self.values))
        else:
            moment = (self.rows * (omega / m)[:, None]).T @ self.rows
            inverse = np.linalg.inv(moment + self.ridge * np.eye(rank))
        return inverse, self._quadratic(self.rows, inverse)

    def _own_omegas(self, share: float, start: np.ndarray) -> Float[np.ndarray, " m"]:
        """ω of every sequence, from its own leverage on heads that have not seen it."""
        m, omega = len(self.rows), start
        for _ in range(_ROUNDS):
            _, leverage = self._inverse_and_leverages(omega)
            fresh = leverage / np.maximum(1 - omega * leverage / m, 1e-12)
            moved = 1 / (1 + share * fresh)
            if np.abs(moved - omega).max() <= _SETTLED:
                return moved
            # Half a step: near n = d a whole one overshoots.
            omega = np.sqrt(omega * moved)
        return omega

    def _mean_omega(self, share: float) -> float:
        """Root of ω(1 + t·share) = 1 with one leverage t for all."""
        if share <= 0:
            return 1.0

        def excess(log_omega: float) -> float:
            omega = np.exp(log_omega)
            inside = float((self.values / (self.ridge + omega * self.values)).sum())
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


# --- the Gaussian levels ---


def _gaussian_errors(
    moments: TokenMoments, pool: Pool, counts: Sequence[int], tick: _Ticks
) -> Float[np.ndarray, " S"]:
    pooled = pooled_law(moments.law(), pool.prompt, replicates=1, nodes=_GAUSSIAN_NODES)
    errors: list[float] = []
    for n in counts:
        errors.append(ridge_head_law(pooled, n, pool.ridge).error)
        tick()
    return np.array(errors)


# --- the measured curve ---


def measure_curve(
    tokens: Any, labels: Any, prompt: Any, samples: Any, ridge: float, *, trials: Any = 40,
    seed: int = 1, progress: Progress | None = None,
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:  # fmt: skip
    """Test errors of ridge heads trained on the pool, cross-fitted, and their standard errors.

    In each of `trials` a fifth of the sequences is set aside for the test, and heads are trained on
    the first n of the others. The standard error is that of the trials' mean; all share one pool,
    so it does not say how another pool would differ.

    Raises:
        ParameterError: an argument is not as :func:`predict_curve` describes it.
    """
    pool = make_pool(tokens, labels, prompt, ridge, None)
    counts = check_counts(samples, pool.sequences * (FOLDS - 1) // FOLDS)
    if not isinstance(trials, int) or trials < 2:
        raise ParameterError("trials", trials, "an integer ≥ 2", "raise it")
    rows, rng = pool_features(pool), np.random.default_rng(seed)
    tick = _Ticks(progress or (lambda done, total: None), trials)
    errors = np.empty((trials, len(counts)))
    for trial in range(trials):
        order = rng.permutation(pool.sequences)
        cut = pool.sequences * (FOLDS - 1) // FOLDS
        train, test = rows[order[:cut]], rows[order[cut:]]
        for place, n in enumerate(counts):
            margin = test @ ridge_head(train[:n], pool.ridge)
            errors[trial, place] = ((1 - np.sign(margin)) / 2).mean()
        tick()
    return errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(trials)


def ridge_head(rows: Float[np.ndarray, "n d"], ridge: float) -> Float[np.ndarray, " d"]:
    """The ridge head of signed features, by the smaller of the two systems."""
    n, dim = rows.shape
    if n >= dim:
        matrix = rows.T @ rows / n
        matrix[np.diag_indices(dim)] += max(ridge, 1e-9 * np.trace(matrix) / dim)
        return np.linalg.solve(matrix, rows.mean(axis=0))
    matrix = rows @ rows.T / n
    matrix[np.diag_indices(n)] += max(ridge, 1e-9 * np.trace(matrix) / dim)
    return rows.T @ np.linalg.solve(matrix, np.full(n, 1 / n))


# --- the best prompt ---


def best_prompt(
    tokens: Any, relevant: Any, *, shrinkage: float | None = None
) -> Float[np.ndarray, " d"]:
    r"""The prompt :math:`\frac12\Sigma^{-1}h` that the theory calls best for many tokens.

    h is the mean relevant less the mean irrelevant token, Σ the covariance of irrelevant ones. No
    labels are needed. Σ is estimated as :math:`(1-\epsilon)\hat\Sigma+\epsilon\,
    \operatorname{tr}\hat\Sigma/d\cdot I`, with ε = `shrinkage`: by default d/(d + N), N being the
    number of irrelevant tokens. Where relevant tokens carry as much noise as irrelevant ones, or
    tokens are few, a shorter prompt can be better: try multiples of this one by
    :func:`predict_curve`.

    Raises:
        ParameterError: an argument is not as described.
    """
    count = len(tokens) if np.ndim(tokens) == 3 else 2
    labels, dim = np.arange(count) % 2, np.shape(tokens)[-1] if np.ndim(tokens) == 3 else 1
    pool = make_pool(tokens, labels, np.zeros(dim), 0.0, relevant)
    found = token_moments(pool, by_label=False)
    number = pool.sequences * (found.tokens - found.relevant)
    share = dim / (dim + number) if shrinkage is None else shrinkage
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ParameterError("shrinkage", shrinkage, "a number from 0 to 1", "give one")
    sigma = found.irrelevant
    flat = np.trace(sigma) / dim
    if not flat > 0:
        raise ParameterError(
            "tokens", "irrelevant tokens all alike", "with some variance", "give other tokens"
        )
    mixed = (1 - share) * sigma + share * flat * np.eye(dim)
    return np.linalg.solve(2 * mixed, found.context - found.behind)
