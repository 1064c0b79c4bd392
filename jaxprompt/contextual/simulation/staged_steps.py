r"""Head step, prompt step and ridge head, on fresh batches or all on one, by their exact law.

Exact at every d, and no vector of length T·d is drawn. Coordinates are those along
:math:`w_\star`, :math:`q_\star` and what the steps leave over; given the coordinates that matter,
the noise orthogonal to them is Gaussian, and only its length is drawn.

* Fresh batches: the first step needs sums of labels and shifts, the second one score a token, the
  third a row of pooled features for each sequence.
* One batch: the noise :math:`Z` of all tokens enters step 1 through :math:`Z^\top a` and step 2
  through :math:`Z^\top c`, with vectors a and c over all tokens. Given those products, Z is a fresh
  Gaussian matrix without its components along a and c, plus two known rank-one matrices. The rows
  of pooled features are drawn from that law.

One trial at a time in NumPy, float32 where rows are drawn; a trial's numbers depend on its key and
index alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jaxprompt.compute.numpy_normals import NUMBERS_TOGETHER, fill_normals
from jaxprompt.contextual.setting import Setting

__all__ = ["FittedStages", "fit_on_fresh_batches", "fit_on_one_batch"]


class FittedStages(NamedTuple):
    """One trial: what the exact error needs, in the order of :class:`Geometry`, the prompt's cosine
    with q⋆ and the training objective of the last fit."""

    geometry: Float[np.ndarray, " 7"]
    prompt_alignment: float
    objective: float


class _Choices(NamedTuple):
    """Labels and shifts (along q⋆ and w⋆) of n sequences."""

    label: Float[np.ndarray, " n"]
    shift_context: Float[np.ndarray, " n"]
    shift_signal: Float[np.ndarray, " n"]


def _draw_choices(setting: Setting, samples: int, rng: np.random.Generator) -> _Choices:
    label = 1.0 - 2.0 * rng.integers(0, 2, samples)
    odds = np.asarray(setting.shift_weights, np.float64)
    shifts = np.asarray(setting.shifts, np.float64)
    if len(odds) == 1:
        return _Choices(label, *np.repeat(shifts.T, samples, axis=1))
    index = np.searchsorted(np.cumsum(odds)[:-1], rng.random(samples), side="right")
    return _Choices(label, *shifts[index].T)


def fit_on_fresh_batches(
    setting: Setting, dim: int, samples: tuple[int, int, int], *, ridge: float,
    prompt_norm: float, head_rate: float, rng: np.random.Generator,
) -> FittedStages:  # fmt: skip
    """Head step, prompt step and ridge head, each on as many fresh sequences as `samples` says."""
    head = _head_on_fresh_batch(setting, dim, samples[0], head_rate, rng)
    prompt = _prompt_on_fresh_batch(setting, dim, samples[1], head, rng)
    cosine = prompt[1] / np.linalg.norm(prompt)
    # The ridge head sees no difference between the directions that are neither w⋆ nor q⋆.
    prompt = np.array([prompt[0], prompt[1], np.hypot(prompt[2], prompt[3])])
    prompt = prompt * (prompt_norm / np.linalg.norm(prompt))
    features = _signed_features(setting, dim, samples[2], prompt, rng)
    ridge_head, objective = _ridge_head(features, ridge)
    return FittedStages(_geometry(setting, ridge_head, prompt), float(cosine), objective)


def _head_on_fresh_batch(
    setting: Setting, dim: int, samples: int, head_rate: float, rng: np.random.Generator
) -> Float[np.ndarray, " 3"]:
    """The head of step 1 along w⋆, q⋆ and what remains: uniform weights have Gaussian noise."""
    share = setting.relevant / setting.tokens
    chosen = _draw_choices(setting, samples, rng)
    signal = (share - (1 - share) * chosen.shift_signal).mean() * setting.signal
    context = (share - (1 - share) * chosen.shift_context) @ chosen.label / samples
    level = setting.noise * np.sqrt(setting.irrelevant / samples) / setting.tokens
    plane = np.array([signal, context * setting.context]) + level * rng.standard_normal(2)
    remainder = level * np.sqrt(rng.chisquare(dim - 2))
    return head_rate * np.append(plane, remainder)


def _prompt_on_fresh_batch(
    setting: Setting, dim: int, samples: int, head: Float[np.ndarray, " 3"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " 4"]:  # fmt: skip
    """The prompt step along w⋆, q⋆, the head's remainder and what is orthogonal to all three."""
    total, relevant = setting.tokens, setting.relevant
    chosen = _draw_choices(setting, samples, rng)
    norm = float(np.linalg.norm(head))
    along = setting.noise * rng.standard_normal((samples, setting.irrelevant))
    own = np.stack([chosen.label * setting.signal, np.full(samples, setting.context)], axis=1)
    other = -np.stack([chosen.shift_signal, chosen.shift_context], axis=1) * own
    own_score, scores = own @ head[:2], (other @ head[:2])[:, None] + norm * along
    output = (relevant * own_score + scores.sum(axis=1)) / total
    residual = (chosen.label - output) / total
    relevant_pull = residual * relevant * (own_score - output)
    pulls = residual[:, None] * (scores - output[:, None])
    # Noise of the tokens: along the head it is what the scores are made of; orthogonally to the
    # head it is independent of them, with the same variance in all d − 1 directions.
    step = np.zeros(4)
    step[:2] = (relevant_pull @ own + pulls.sum(axis=1) @ other) / samples
    step[:3] += head / (norm or 1.0) * (pulls * along).sum() / samples
    level = setting.noise * np.sqrt(np.square(pulls).sum()) / samples
    orthogonal = rng.standard_normal(3)
    step[:3] += level * (orthogonal - head * (head @ orthogonal) / (norm**2 or 1.0))
    step[3] = level * np.sqrt(rng.chisquare(dim - 3))
    return step


def _signed_features(
    setting: Setting, dim: int, samples: int, prompt: Float[np.ndarray, " 3"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "d n"]:  # fmt: skip
    """Label times pooled feature of fresh sequences under a prompt: a column each, in float32."""
    chosen = _draw_choices(setting, samples, rng)
    norm = float(np.linalg.norm(prompt))
    unit = prompt / (norm or 1.0)
    own = np.stack([chosen.label * setting.signal, np.full(samples, setting.context)], axis=1)
    other = -np.stack([chosen.shift_signal, chosen.shift_context], axis=1) * own
    along = setting.noise * rng.standard_normal((samples, setting.irrelevant))
    weights, attention = _attention(
        own @ prompt[:2], (other @ prompt[:2])[:, None] + norm * along, setting.relevant
    )
    features = np.empty((dim, samples), np.float32)
    scale = (setting.noise * np.sqrt(np.square(weights).sum(axis=1))).astype(np.float32)
    for rows in _blocks_of_rows(features):
        fill_normals(rows, rng)
        rows *= scale
    plane = attention[:, None] * own + (1 - attention[:, None]) * other
    if norm:  # the noise along the prompt is what the weights are made of
        drift = (weights * along).sum(axis=1) - unit @ features[:3]
        features[:3] += np.outer(unit, drift)
    features[:2] += plane.T
    # The label's sign changes nothing in the law of the coordinates that carry noise alone.
    features[:3] *= chosen.label
    return features


def _attention(
    relevant_score: Float[np.ndarray, " n"], scores: Float[np.ndarray, "n N"], relevant: int
) -> tuple[Float[np.ndarray, "n N"], Float[np.ndarray, " n"]]:
    """Softmax weights of the irrelevant tokens, and the total weight of the relevant ones."""
    peak = np.maximum(scores.max(axis=1), relevant_score)
    weights = np.exp(scores - peak[:, None])
    mass = relevant * np.exp(relevant_score - peak)
    total = mass + weights.sum(axis=1)
    return weights / total[:, None], mass / total


def _ridge_head(features: Float[np.ndarray, "d n"], ridge: float) -> tuple[np.ndarray, float]:
    """The ridge head on signed features and its training objective; minimum norm without ridge."""
    dim, samples = features.shape
    if ridge == 0:
        features = features.astype(np.float64)
    weights = np.full(samples, 1 / samples, features.dtype)
    mean = features @ weights
    matrix = features @ features.T if samples >= dim else features.T @ features
    matrix /= samples
    matrix.flat[:: len(matrix) + 1] += ridge
    # The transpose is the same matrix, in the order that LAPACK works on without a copy.
    factor = linalg.cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    if samples >= dim:
        head = linalg.cho_solve(factor, mean, check_finite=False)
    else:
        head = features @ linalg.cho_solve(factor, weights, check_finite=False)
    head = np.asarray(head, np.float64)
    return head, float((1 - mean.astype(np.float64) @ head) / 2)


def _geometry(
    setting: Setting, head: Float[np.ndarray, " d"], prompt: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " 7"]:
    """The seven inner products; the prompt's coordinates beyond those listed are 0."""
    return np.array([
        head[0] * setting.signal, head[1] * setting.context, np.linalg.norm(head),
        prompt[0] * setting.signal, prompt[1] * setting.context, np.linalg.norm(prompt),
        head[: len(prompt)] @ prompt,
    ])  # fmt: skip


def fit_on_one_batch(
    setting: Setting, dim: int, samples: int, *, ridge: float, prompt_norm: float,
    head_rate: float, rng: np.random.Generator,
) -> FittedStages:  # fmt: skip
    """Head step, prompt step and ridge head on one set of sequences; `dim` ≥ 5."""
    total, relevant, count = setting.tokens, setting.relevant, setting.irrelevant
    sigma = float(setting.noise)
    chosen = _draw_choices(setting, samples, rng)
    label = chosen.label
    own = np.stack([label * setting.signal, np.full(samples, setting.context)], axis=1)
    other = -np.stack([chosen.shift_signal, chosen.shift_context], axis=1) * own
    shape = (samples, count)
    plane = other[:, None] + sigma * rng.standard_normal((*shape, 2))
    # Step 1 weighs the noise of a token by a = y/T.
    used = np.repeat(label[:, None] / total, count, axis=1)
    used_norm = np.sqrt(samples * count) / total
    length = sigma * used_norm * np.sqrt(rng.chisquare(dim - 2))
    mean_token = (relevant * own + plane.sum(axis=1)) / total
    head = head_rate / samples * np.append(label @ mean_token, length)
    normals = rng.standard_normal(shape)
    normals -= used * ((used * normals).sum() / used_norm**2)
    along_head = used * (length / used_norm**2) + sigma * normals
    # Step 2 weighs it by the pull on a token.
    own_score = own @ head[:2]
    scores = plane @ head[:2] + head[2] * along_head
    output = (relevant * own_score + scores.sum(axis=1)) / total
    residual = (label - output) / total
    pulls = residual[:, None] * (scores - output[:, None])
    relevant_pull = residual * relevant * (own_score - output)
    kept = pulls - used * ((used * pulls).sum() / used_norm**2)
    kept_norm = np.linalg.norm(kept)
    length = sigma * kept_norm * np.sqrt(rng.chisquare(dim - 3))
    prompt = np.append(
        relevant_pull @ own + np.einsum("nt,ntc->c", pulls, plane),
        [(pulls * along_head).sum(), length],
    )  # a multiple of the step: only its direction is used
    cosine = prompt[1] / np.linalg.norm(prompt)
    prompt *= prompt_norm / np.linalg.norm(prompt)
    normals = rng.standard_normal(shape)
    normals -= used * ((used * normals).sum() / used_norm**2)
    normals -= kept * ((kept * normals).sum() / kept_norm**2)
    along_prompt = kept * (length / kept_norm**2) + sigma * normals
    # Step 3: features along w⋆, q⋆, the head's remainder and the prompt's, then everything else.
    relevant_score = own @ prompt[:2]
    scores = plane @ prompt[:2] + prompt[2] * along_head + prompt[3] * along_prompt
    weights, attention = _attention(relevant_score, scores, relevant)
    seen = np.stack([(weights * used).sum(axis=1) / used_norm,
                     (weights * kept).sum(axis=1) / kept_norm])  # fmt: skip
    features = np.empty((dim, samples), np.float32)
    features[:2] = (attention[:, None] * own + np.einsum("nt,ntc->nc", weights, plane)).T
    features[2] = (weights * along_head).sum(axis=1)
    features[3] = (weights * along_prompt).sum(axis=1)
    features[:4] *= label
    _draw_remaining_noise(features[4:], sigma, np.square(weights).sum(axis=1), seen * label, rng)
    ridge_head, objective = _ridge_head(features, ridge)
    return FittedStages(_geometry(setting, ridge_head, prompt), float(cosine), objective)


def _draw_remaining_noise(
    out: Float[np.ndarray, "m n"], sigma: float, spread: Float[np.ndarray, " n"],
    seen: Float[np.ndarray, "2 n"], rng: np.random.Generator,
) -> None:  # fmt: skip
    r"""Fill `out` with float32 rows of covariance :math:`\sigma^2(\mathrm{diag}(p_2)-U^\top U)`.

    U is `seen`, p₂ `spread`. With :math:`G\sim N(0,\mathrm{diag}(p_2))` and :math:`\xi` normal with
    covariance :math:`I-U\,\mathrm{diag}(p_2)^{-1}U^\top`, a row is
    :math:`\sigma(G-(G\,\mathrm{diag}(p_2)^{-1}U^\top+\xi)U)`: what is subtracted is distributed as
    the noise along the two used directions given G.
    """
    scaled = seen / spread
    values, vectors = np.linalg.eigh(np.eye(2) - scaled @ seen.T)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    fresh = (sigma * rng.standard_normal((len(out), 2)) @ root.T).astype(np.float32)
    scale = (sigma * np.sqrt(spread)).astype(np.float32)
    scaled, seen = scaled.astype(np.float32), seen.astype(np.float32)
    start = 0
    for rows in _blocks_of_rows(out):
        fill_normals(rows, rng)
        rows *= scale
        along = rows @ scaled.T + fresh[start : start + len(rows)]
        rows -= along @ seen
        start += len(rows)


def _blocks_of_rows(matrix: Float[np.ndarray, "m n"]) -> Iterator[Float[np.ndarray, "r n"]]:
    """Views of consecutive rows, of about `NUMBERS_TOGETHER` numbers each."""
    height = max(NUMBERS_TOGETHER // max(matrix.shape[1], 1), 1)
    for start in range(0, len(matrix), height):
        yield matrix[start : start + height]
