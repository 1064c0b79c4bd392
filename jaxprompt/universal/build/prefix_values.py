"""Values of a prefix with given keys: two-term, deconvolved, or fitted by least squares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.networks import head

__all__ = ["attention_weights", "fit_values"]

DENSE_LIMIT = 700
"""Most centres for which the least-squares problem is solved densely (a few seconds)."""

CORRECTIONS = 12


def fit_values(
    method: str,
    centres: np.ndarray,
    f: Callable[[np.ndarray], np.ndarray],
    concentration: float,
    content: int,
    limit: float,
    sample: np.ndarray,
    sample_values: np.ndarray,
) -> tuple[str, np.ndarray]:
    """Values (N, d) no longer than `limit`, and the method that gave them ("auto" chooses).

    ``two_term`` adds to f(b) what the head misses at the centres, f + (f − h_f), which is
    f − Δf/(2λ) to first order. ``deconvolution`` repeats that correction while it helps.
    ``least_squares`` fits the outputs at `sample` (Q, n) to `sample_values` (Q, d), with the
    least ridge that keeps the values within the limit. float64.
    """
    if method == "auto":
        method = "least_squares" if len(centres) <= DENSE_LIMIT else "deconvolution"
    if method == "least_squares":
        if len(centres) > 4 * DENSE_LIMIT:
            raise ParameterError(
                "method", method, f"another one for more than {4 * DENSE_LIMIT} tokens",
                'use "deconvolution" or "auto"', "build_prefix",
            )  # fmt: skip
        return method, _least_squares(centres, concentration, content, limit, sample, sample_values)
    steps = 1 if method == "two_term" else CORRECTIONS
    return method, _corrected_values(centres, f(centres), concentration, content, limit, steps)


def _corrected_values(
    centres: np.ndarray,
    target: np.ndarray,
    concentration: float,
    content: int,
    limit: float,
    steps: int,
) -> np.ndarray:
    values, best, least = target, target, np.inf
    for step in range(steps + 1):
        missed = target - head.estimate(centres, centres, values, concentration, content=content)
        size = float(np.abs(missed).max())
        if step and size >= least:
            break
        best, least = values, size
        if step < steps:
            values = values + missed
            if np.linalg.norm(values, axis=1).max() > limit:
                break
    return best if steps > 1 else values


def _least_squares(
    centres: np.ndarray,
    concentration: float,
    content: int,
    limit: float,
    sample: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    matrix = attention_weights(sample, centres, concentration, content)
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    projected = left.T @ target
    fitted = np.zeros((len(centres), target.shape[1]))
    for ridge in (0.0, *10.0 ** np.arange(-14, 1.0)):
        kept = singular > 1e-14 * singular[0]
        gain = np.where(kept, singular / np.maximum(singular**2 + (ridge * singular[0]) ** 2,
                                                    1e-300), 0.0)  # fmt: skip
        fitted = right.T @ (gain[:, None] * projected)
        if np.linalg.norm(fitted, axis=1).max() <= limit:
            break
    return fitted


def attention_weights(
    query: np.ndarray, centres: np.ndarray, concentration: float, content: int
) -> np.ndarray:
    """(Q, N) attention of queries on the prefix, content's share left out."""
    squared = ((query[:, None] - centres[None]) ** 2).sum(-1)
    weight = np.exp(-0.5 * concentration * (squared - squared.min(1, keepdims=True)))
    # Content scores 0 where the nearest centre scores λ(1 − d²/2).
    with np.errstate(over="ignore"):
        content_mass = content * np.exp(-concentration * (1 - squared.min(1, keepdims=True) / 2))
    return weight / (weight.sum(1, keepdims=True) + content_mass)
