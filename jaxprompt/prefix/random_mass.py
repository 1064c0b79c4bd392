r"""Mean attention mass of a prefix whose scores are random: how it depends on n and T.

One query has n scores :math:`X_k` on a prefix and T scores :math:`Y_j` on the content, all
independent, the first :math:`N(\delta,s^2)`, the second :math:`N(0,r^2)`. Its mass on the prefix is

.. math:: \alpha=\frac{\sum_ke^{X_k}}{\sum_ke^{X_k}+\sum_je^{Y_j}}.

*Exchangeable scores.* If all n + T scores have one law, whatever it is and however they depend on
the query, each of the n + T weights has the same mean, and they sum to one:
:math:`\mathbb E\alpha=n/(n+T)`, for every n and T and every spread.

*In general.* Given the scores, a weight is the probability that its score is the largest of all
once independent standard Gumbel numbers are added. So :math:`\mathbb E\alpha` is the probability
that the largest of n variables :math:`X+G` exceeds the largest of T variables :math:`Y+G`,

.. math:: \mathbb E\alpha=\int_{-\infty}^\infty F_Y(v)^T\,\mathrm d\big(F_X(v)^n\big),\qquad
   F_X(v)=\mathbb E\exp(-e^{X-v}).

*Many keys.* For n and T large in a fixed ratio the sums are their means, and
:math:`\alpha\to n\kappa/(n\kappa+T)` with :math:`\kappa=e^{\delta+(s^2-r^2)/2}`: every e-fold of
the scores' odds is worth a factor e in the length of the prefix. Derived here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxprompt.errors import ParameterError

__all__ = ["limiting_prefix_mass", "mean_prefix_mass"]

_SCORE_STEP, _SCORE_REACH = 0.05, 9.0
"""Nodes of a standard normal score. A trapezoidal rule errs by exp(−π²/(s·step)) for a spread s."""

_LEVEL_STEP = 0.25
"""Nodes of the level v: the error is of the order of exp(−π²/step), below 1e-16."""

_LEVEL_BELOW, _LEVEL_ABOVE = 5.0, 42.0
"""How far the levels reach beyond the scores: F is exp(−e⁵) there, and 1 − 1e-18."""


MOST_SPREAD = 5.0
"""Largest deviation of scores for which the rules below keep 12 digits."""

MOST_SHIFT = 500.0
"""Largest mean difference of scores, of either sign: the mass is 0 or 1 long before."""


def mean_prefix_mass(
    prefix: Any, content: Any, *, shift: Any = 0.0, prefix_spread: Any = 0.0,
    content_spread: Any = 0.0,
) -> Float[np.ndarray, "*batch"]:  # fmt: skip
    """E α for `prefix` vectors and `content` tokens with independent normal scores, in float64.

    `shift` is the mean of a prefix score less that of a content score, the spreads are standard
    deviations. All arguments broadcast. Derived in the docstring of this module; the error is that
    of two trapezoidal rules, below 1e-12.

    Raises:
        ParameterError: numbers of vectors that are not whole, or less than 1 (0 for the content);
            a shift beyond 500 or a spread beyond 5.
    """
    _check_range("prefix", prefix, 1, np.inf, whole=True)
    _check_range("content", content, 0, np.inf, whole=True)
    _check_range("shift", shift, -MOST_SHIFT, MOST_SHIFT)
    for name, spread in (("prefix_spread", prefix_spread), ("content_spread", content_spread)):
        _check_range(name, spread, 0, MOST_SPREAD)
    mean = np.vectorize(_mean_prefix_mass, otypes=[np.float64])
    return mean(prefix, content, shift, prefix_spread, content_spread)


def _check_range(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    numbers = np.asarray(value, np.float64)
    inside = (low <= numbers) & (numbers <= high) & np.isfinite(numbers)
    if whole:
        inside &= numbers == np.round(numbers)
    if not inside.all():
        kind = "whole numbers" if whole else "numbers"
        allowed = f"{kind} from {low:g} to {high:g}" if np.isfinite(high) else f"{kind} ≥ {low:g}"
        raise ParameterError(
            name, numbers[~inside].flat[0], allowed, "sample the softmax elsewhere",
            "mean_prefix_mass",
        )  # fmt: skip


def _mean_prefix_mass(n: int, tokens: int, shift: float, s: float, r: float) -> float:
    lowest = min(shift - _SCORE_REACH * s, -_SCORE_REACH * r) - _LEVEL_BELOW
    highest = max(shift + _SCORE_REACH * s, _SCORE_REACH * r) + _LEVEL_ABOVE + np.log(n + tokens)
    levels = np.arange(lowest, highest, _LEVEL_STEP)
    below, density = _perturbed_score(levels - shift, s)
    content_below, _ = _perturbed_score(levels, r)
    # Probabilities of 0 to a power of 0 are 1.
    largest = n * density * below ** (n - 1) * content_below**tokens
    return float(largest.sum() * _LEVEL_STEP)


def _perturbed_score(levels: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Distribution and density of a centred normal score plus a standard Gumbel number."""
    nodes = np.arange(-_SCORE_REACH, _SCORE_REACH + _SCORE_STEP / 2, _SCORE_STEP)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    gap = np.minimum(spread * nodes - levels[:, None], 700.0)  # exp(−e⁷⁰⁰) is 0
    below = np.exp(-np.exp(gap))
    return below @ weights, (np.exp(gap) * below) @ weights


def limiting_prefix_mass(
    prefix: Any, content: Any, *, shift: Any = 0.0, prefix_spread: Any = 0.0,
    content_spread: Any = 0.0,
) -> Float[np.ndarray, "*batch"]:  # fmt: skip
    """nκ/(nκ + T) with κ = exp(shift + (s² − r²)/2): the mass for many vectors and tokens.

    Exact for any numbers where both spreads are 0. All arguments broadcast.
    """
    spreads = np.square(prefix_spread) - np.square(content_spread)
    odds = np.log(prefix) - np.log(content) + np.asarray(shift) + spreads / 2
    return np.asarray(1 / (1 + np.exp(-odds)), np.float64)
