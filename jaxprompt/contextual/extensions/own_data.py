r"""Predicted learning curves from a user's own tokens, and the prompt that the theory calls best.

A pool of labelled sequences and a prompt give the error of a ridge head at every number of training
sequences, at three levels of knowledge:

* `isotropic`: tokens with the pool's means, every covariance a multiple of the identity;
* `all_moments`: means, covariances, correlations between tokens and the common part, Gaussian
  scores (:mod:`~jaxprompt.contextual.law.token_law_limit`);
* `semi_empirical`: the pooled features themselves. Their law enters through mean and covariance in
  the resolvent alone; their attention weights, tails and labels are the data's own
  (:mod:`~jaxprompt.contextual.extensions.own_data_heads`).

The semi-empirical curve is cross-fitted: the law of the heads comes from all folds of the pool but
one, and the error is averaged over the sequences of that one. A training set of n sequences is
taken as a part of the m others, so no dimension d is too large for the pool: what m sequences
cannot know enters as it does for a real training set. At n = m this is the ridge head of all m,
exactly. Derived in docs/own_data.md; everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jaxprompt.contextual.extensions.own_data_heads import (
    MOST_WEIGHED_RANK,
    EmpiricalHeads,
    make_targets,
    ridge_heads,
)
from jaxprompt.contextual.extensions.own_data_input import (
    FOLDS,
    Pool,
    check_counts,
    make_pool,
    refuse_too_large,
    split_folds,
)
from jaxprompt.contextual.extensions.own_data_moments import TokenMoments, token_moments
from jaxprompt.contextual.law.token_law import pooled_law
from jaxprompt.contextual.law.token_law_limit import ridge_head_law
from jaxprompt.errors import ParameterError

__all__ = ["PredictedCurve", "best_prompt", "measure_curve", "pool_features", "predict_curve"]

Progress = Callable[[int, int], None]

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
    intercept: Any = False, class_shares: Any = None, label_noise: Any = 0.0,
    gaussian_levels: bool | None = None, seed: int = 0, progress: Progress | None = None,
) -> PredictedCurve:  # fmt: skip
    r"""Predict the test error of a ridge head over `prompt` at each number of `samples`.

    The head minimises :math:`\frac1{2n}\sum_i|y_i-W^\top\bar x_i-b|^2+\frac\lambda2|W|^2` over
    features pooled by the softmax attention of the prompt. Two classes have the targets y = ±1 and
    the answer is a sign; more have a target each, 1 or −1, and the answer is the largest. b is 0
    without an `intercept`. Memory holds one block of sequences, the pooled features, a few d × d
    matrices and one of m × m numbers, for m up to 8192.

    Args:
        tokens: (sequences, T, d) numbers; a memory map is read block by block.
        labels: one for each sequence, of 2 to 50 kinds; of two the larger counts as +1.
        prompt: d numbers, or rows of d, whose features are joined. A zero prompt attends
            uniformly.
        samples: numbers of training sequences, each at most four fifths of the pool.
        ridge: λ, at least 0; 0 is taken as the limit of a vanishing ridge.
        relevant: marks (sequences, T), equally many in every sequence, or one row of T marks. The
            Gaussian levels need them, one prompt and two classes: NaN without.
        intercept: whether the head has one; it is not penalised.
        class_shares: of the classes in training sets and tests, in the order of the sorted labels;
            by default those of the pool.
        label_noise: share of training labels that are exchanged for another class's, each other
            class alike. Errors count against the labels as they are given.
        gaussian_levels: whether to compute them; by default up to d = 1024.
        seed: of the folds.
        progress: called with (steps done, steps in all).

    Raises:
        ParameterError: an argument is not as described; the line says what to do.
    """
    pool = make_pool(
        tokens, labels, prompt, ridge, relevant, intercept=intercept, class_shares=class_shares,
        label_noise=label_noise,
    )  # fmt: skip
    counts = check_counts(samples, pool)
    missing = _why_no_gaussian_levels(pool, gaussian_levels)
    refuse_too_large(pool, gaussian=missing is None)
    steps = FOLDS * len(counts) + (1 + 2 * len(counts) if missing is None else 0)
    tick = _Ticks(progress or (lambda done, total: None), steps)

    semi, stderr = _semi_empirical(pool, counts, seed, tick)
    nothing = np.full(len(counts), np.nan)
    isotropic, moments = nothing, nothing.copy()
    if missing is None:
        found = token_moments(pool)
        tick()
        moments = _gaussian_errors(found, pool, counts, tick)
        isotropic = _gaussian_errors(found.isotropic(), pool, counts, tick)
    return PredictedCurve(counts, isotropic, moments, semi, stderr, _assumptions(pool, missing))


class _Ticks:
    """Counts the steps of long work."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _why_no_gaussian_levels(pool: Pool, wanted: bool | None) -> str | None:
    """What the token law cannot hold; None where nothing is in the way."""
    if wanted is None and pool.dim > MOST_GAUSSIAN_DIM:
        return f"at d = {pool.dim}; gaussian_levels=True has them"
    if wanted is False:
        return "as asked for"
    if pool.relevant is None:
        return "because no tokens are marked as relevant"
    if pool.classes > 2:
        return f"because their tokens have two labels, not {pool.classes}"
    if len(pool.prompts) > 1:
        return f"because they know one prompt, not {len(pool.prompts)}"
    return None


def _assumptions(pool: Pool, missing: str | None) -> tuple[str, ...]:
    lines = [
        f"sequences are independent, and new ones are like the {pool.sequences} of the pool",
        f"semi_empirical: moments from {FOLDS - 1} of {FOLDS} folds, errors on the other; heads "
        "are Gaussian given them",
    ]
    rank = min(pool.prompts.size, pool.sequences)
    if rank > MOST_WEIGHED_RANK:
        lines.append(
            f"semi_empirical: all sequences have one leverage (rank {rank}, above "
            f"{MOST_WEIGHED_RANK}), which is too high an error where lengths of features vary much"
        )
    if pool.shares_given:
        shown = ", ".join(f"{share:.3g}" for share in pool.shares)
        lines.append(f"shares of the classes in training and test: {shown}")
    if pool.label_noise:
        lines.append(
            f"{pool.label_noise:.3g} of the training labels are another class's, at random; errors "
            "count against the labels of the pool"
        )
    if missing is None:
        lines.append(
            "all_moments: Gaussian tokens; one correlation matrix between the irrelevant tokens "
            "for all coordinates"
        )
        lines.append("isotropic: as all_moments, and every covariance a multiple of the identity")
    else:
        lines.append(f"isotropic, all_moments: left out, {missing}")
    return tuple(lines)


def pool_features(pool: Pool) -> Float[np.ndarray, "N D"]:
    """The features that the prompts' attention pools, of every sequence, side by side."""
    rows = np.empty((pool.sequences, *pool.prompts.shape))
    for part in pool.blocks():
        block = pool.tokens_of(part)
        weights = special.softmax(block @ pool.prompts.T, axis=1)
        rows[part] = np.einsum("nth,ntd->nhd", weights, block)
    return rows.reshape(pool.sequences, -1)


# --- the semi-empirical level ---


def _semi_empirical(
    pool: Pool, counts: Sequence[int], seed: int, tick: _Ticks
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Errors, and their standard errors over the sequences of the pool."""
    features, targets = pool_features(pool), make_targets(pool.classes, pool.label_noise)
    probabilities = np.empty((pool.sequences, len(counts)))
    for fold in split_folds(pool, np.random.default_rng(seed)):
        train = np.setdiff1d(np.arange(pool.sequences), fold)
        head_laws = EmpiricalHeads.of(
            features[train], pool.kinds[train], _odds(pool, train), features[fold],
            pool.kinds[fold], targets, pool.ridge, intercept=pool.intercept,
        )  # fmt: skip
        for place, n in enumerate(counts):
            probabilities[fold, place] = head_laws.wrong_probabilities(n)
            tick()
    weights = _odds(pool, np.arange(pool.sequences))
    errors = weights @ probabilities
    spread = np.square(weights) @ np.square(probabilities - errors)
    return errors, np.sqrt(spread * pool.sequences / (pool.sequences - 1))


def _odds(pool: Pool, part: np.ndarray) -> Float[np.ndarray, " m"]:
    """Chances of the sequences of a part to be the next one that is drawn."""
    if not pool.shares_given:
        return np.full(len(part), 1 / len(part))
    kinds = pool.kinds[part]
    return (pool.shares / np.bincount(kinds))[kinds]


# --- the Gaussian levels ---


def _gaussian_errors(
    moments: TokenMoments, pool: Pool, counts: Sequence[int], tick: _Ticks
) -> Float[np.ndarray, " S"]:
    pooled = pooled_law(moments.law(), pool.prompts[0], replicates=1, nodes=_GAUSSIAN_NODES)
    # Its two labels are equally frequent; classes need not be.
    pooled = pooled._replace(weights=pooled.weights * 2 * pool.shares[(pooled.label > 0) * 1])
    errors: list[float] = []
    for n in counts:
        found = ridge_head_law(
            pooled, n, pool.ridge, intercept=pool.intercept, label_noise=pool.label_noise
        )
        errors.append(found.error)
        tick()
    return np.array(errors)


# --- the measured curve ---


def measure_curve(
    tokens: Any, labels: Any, prompt: Any, samples: Any, ridge: float, *, trials: Any = 40,
    intercept: Any = False, class_shares: Any = None, label_noise: Any = 0.0, seed: int = 1,
    progress: Progress | None = None,
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:  # fmt: skip
    """Test errors of ridge heads trained on the pool, cross-fitted, and their standard errors.

    In each of `trials` a fifth of the sequences is set aside for the test, and heads are trained on
    n of the others. The standard error is that of the trials' mean; all share one pool, so it does
    not say how another pool would differ.

    Raises:
        ParameterError: an argument is not as :func:`predict_curve` describes it.
    """
    pool = make_pool(
        tokens, labels, prompt, ridge, None, intercept=intercept, class_shares=class_shares,
        label_noise=label_noise,
    )  # fmt: skip
    counts = check_counts(samples, pool)
    if not isinstance(trials, int) or trials < 2:
        raise ParameterError("trials", trials, "an integer ≥ 2", "raise it")
    features, rng = pool_features(pool), np.random.default_rng(seed)
    clean = make_targets(pool.classes, 0.0).clean
    tick = _Ticks(progress or (lambda done, total: None), trials)
    errors = np.empty((trials, len(counts)))
    for trial in range(trials):
        test = split_folds(pool, rng)[0]
        train = rng.permutation(np.setdiff1d(np.arange(pool.sequences), test))
        weights = _odds(pool, test)
        for place, n in enumerate(counts):
            drawn = _training_part(pool, train, n, rng)
            answers = clean[_exchanged(pool, pool.kinds[drawn], rng)]
            heads, start = ridge_heads(
                features[drawn], answers, pool.ridge, intercept=pool.intercept
            )
            scores = features[test] @ heads + start
            errors[trial, place] = weights @ _wrong_share(scores, pool.kinds[test])
        tick()
    return errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(trials)


def _training_part(
    pool: Pool, train: np.ndarray, samples: int, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """`samples` of the shuffled sequences `train`, each with its chance to be among them.

    Chances are laid end to end and met at steps of 1 from a random start, so that every one of them
    is as it should be, whatever the shares of the classes.
    """
    if not pool.shares_given:
        return train[:samples]
    ends = np.cumsum(samples * _odds(pool, train))
    met = np.searchsorted(ends, rng.random() + np.arange(samples), side="right")
    return train[np.minimum(met, len(train) - 1)]


def _exchanged(pool: Pool, kinds: np.ndarray, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """The classes, some of them exchanged for others."""
    if not pool.label_noise:
        return kinds
    wrong = rng.random(len(kinds)) < pool.label_noise
    return (kinds + wrong * rng.integers(1, pool.classes, len(kinds))) % pool.classes


def _wrong_share(scores: np.ndarray, kinds: np.ndarray) -> Float[np.ndarray, " N"]:
    """0 for a right answer, 1 for a wrong one, and between them where the best scores tie."""
    if scores.shape[1] == 1:
        return (1 - (2 * kinds - 1) * np.sign(scores[:, 0])) / 2
    best = scores == scores.max(axis=1, keepdims=True)
    return 1 - best[np.arange(len(kinds)), kinds] / best.sum(axis=1)


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
