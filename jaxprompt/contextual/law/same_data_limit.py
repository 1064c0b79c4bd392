r"""Limit of head step, prompt step and ridge head that all use one and the same data set.

A sequence that has been learned from is not a fresh one: the head remembers its mean token, and the
prompt its tokens about that mean. Conditioning the Gaussian noise on what the two steps saw of it
leaves three traces in the last fit: a shift of one coordinate, a shift of the scores, and the loss
of one direction of the sample space. Derived in docs/learning.md. Samples are counted as d/n;
everything is float64 NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxprompt.contextual.law.attention_moments import normal_nodes
from jaxprompt.contextual.law.ridge_limit import resolvent, sign_error_means
from jaxprompt.contextual.law.staged_limit import (
    coarse_learned_features,
    head_after_step,
    learned_features,
    mean_token_noise,
    prompt_alignment,
    prompt_pull,
)
from jaxprompt.contextual.setting import Setting

__all__ = ["SameDataLimit", "same_data_limit"]


class SameDataLimit(NamedTuple):
    r"""Limits, each with one value for each replicate of the quadrature.

    Test error; :math:`\langle\omega,w_\star\rangle`; :math:`|\omega|^2`; the training objective;
    and the prompt's cosine with :math:`q_\star`, which needs no quadrature.
    """

    error: np.ndarray
    head_signal: np.ndarray
    head_energy: np.ndarray
    objective: np.ndarray
    prompt_alignment: np.ndarray


class _TrainingLaw(NamedTuple):
    """What the last fit sees of a training sequence, at nodes of shape (replicate, node).

    `along` and `across` are its signed feature along the head of step 1 and, in the mean, along the
    orthogonal direction in the plane of that head and w⋆, where it has the further variance
    `noise`, as in all other directions. `removed` is its entry in the direction of the sample space
    that the head step used up, in units in which it competes with `noise`.
    """

    along: np.ndarray
    across: np.ndarray
    noise: np.ndarray
    removed: np.ndarray
    weights: np.ndarray

    def mean(self, values: np.ndarray) -> Float[np.ndarray, " R"]:
        """Expectation over sequences, one for each replicate."""
        return np.einsum("rn,rn->r", self.weights, values)


def same_data_limit(
    setting: Setting, ratio: float, ridge: float, prompt_norm: float, head_rate: float,
    *, head_memory: float = 1.0, prompt_memory: float = 1.0, constraint: float = 1.0,
    nodes: int | None = None, replicates: int | None = None,
) -> SameDataLimit:  # fmt: skip
    r"""All limits at d/n → `ratio` (κ), ridge λ, prompt norm R and head rate η.

    With A, :math:`w_2` and the cosine c of :mod:`jaxprompt.contextual.law.staged_limit`, the
    length :math:`|\hat q|` of the prompt step, standard normals :math:`g_t,u_t` for each of
    N = T − k irrelevant tokens and :math:`\mu=\eta\sigma^2\kappa/T`, a *training* sequence has

    .. math::
       h_t &= \mu-\delta_wA+\sigma\sqrt{w_2}\,g_t,\quad f=\tfrac1T\big(kA+\textstyle\sum_th_t\big),
         \quad c_t=\tfrac1T(1-f)(h_t-f)\\
       \text{scores} &:\; RQc \text{ (relevant)},\quad
         -\delta_qRQc+\sigma Ru_t+\tfrac{R}{|\hat q|}\sigma^2\kappa\,c_t \text{ (irrelevant)}.

    With its weights φ, the relevant share s and :math:`\tau^2=\sigma^2\sum_t\varphi_t^2`, its
    signed feature has the mean :math:`((s-(1-s)\delta_w)W,\;(1-s)\sigma\sqrt{\kappa/N})` along
    w⋆/W and along what is left of the head of step 1, plus :math:`\sigma\sum\varphi_tg_t` along the
    whole head and noise of variance :math:`\tau^2` everywhere else; :math:`U=(1-s)/\sqrt N`. The
    minimiser on those two coordinates, the objective and its derivative in λ are in
    :func:`_ridge_head`. At κ > 1 without ridge the expressions are taken at m → ∞.

    `nodes` and `replicates`, given together, cut the quadrature, for searches. Falsifiers change
    the keywords before them: multiples of the memory of step 1, of that of step 2, and of
    :math:`U`.
    """
    head = head_after_step(setting, ratio, head_rate)
    memory = head_memory * float(head_rate) * mean_token_noise(setting) * ratio
    pull = prompt_pull(setting, head, memory)
    alignment = float(prompt_alignment(setting, pull, ratio))
    length = float(np.hypot(pull.context * setting.context, np.sqrt(pull.noise * ratio)))
    scalars = normal_nodes(2 * setting.irrelevant)[:replicates, :nodes]
    laws = [
        _training_law(
            setting, ratio, prompt_norm, alignment, prompt_memory * prompt_norm / length, head_rate,
            head_memory, rows,
        )
        for rows in scalars
    ]  # fmt: skip
    law = _TrainingLaw(*(np.stack(parts) for parts in zip(*laws, strict=True)))
    coordinates, objective, energy = _ridge_head(law, ratio, ridge, constraint)
    direction = _head_direction(setting, ratio, head_rate)
    signal = coordinates @ np.array([direction[0], -direction[1]])
    if nodes is None or replicates is None:
        features = learned_features(setting, prompt_norm, alignment)
    else:
        features = coarse_learned_features(
            setting, prompt_norm, alignment, nodes=nodes, replicates=replicates
        )
    share = signal / np.sqrt(energy)
    error = np.array([sign_error_means(features, x)[i, 0] for i, x in enumerate(share)])
    return SameDataLimit(
        error, signal * float(setting.signal), energy, objective, np.full(len(error), alignment)
    )


def _head_direction(setting: Setting, ratio: float, head_rate: float) -> tuple[float, float]:
    """Unit vector of the head of step 1, along w⋆ and along what is orthogonal to it."""
    head = head_after_step(setting, ratio, head_rate)
    along = float(head.signal / setting.signal) if setting.signal else 0.0
    across = float(head_rate) * np.sqrt(mean_token_noise(setting) * ratio)
    norm = float(np.hypot(along, across)) or 1.0
    return along / norm, across / norm


def _training_law(
    setting: Setting, ratio: float, prompt_norm: float, alignment: float, score_memory: float,
    head_rate: float, head_memory: float, scalars: Float[np.ndarray, "M K"],
) -> _TrainingLaw:  # fmt: skip
    """The law on the nodes of one replicate, for all shifts; by symmetry the label is +1.

    The laws for both labels are mirror images in w⋆, and so are the head and what it learns.
    """
    total, relevant, count = setting.tokens, setting.relevant, setting.irrelevant
    sigma, size = float(setting.noise), float(setting.signal)
    head = head_after_step(setting, ratio, head_rate)
    unit = _head_direction(setting, ratio, head_rate)
    along_head, along_prompt = scalars[:, :count], scalars[:, count:]
    shift_of_score = head_memory * float(head_rate) * sigma**2 * ratio / total
    shift_across = head_memory * sigma * np.sqrt(ratio / count)
    context_score = prompt_norm * alignment * float(setting.context)
    rows: list[tuple[np.ndarray, ...]] = []
    for (shift_context, shift_signal), odds in zip(
        np.asarray(setting.shifts), np.asarray(setting.shift_weights), strict=True
    ):
        mean = shift_of_score - shift_signal * head.signal
        scores = mean + sigma * np.sqrt(head.energy) * along_head
        output = (relevant * head.signal + scores.sum(axis=1, keepdims=True)) / total
        taught = (1 - output) * (scores - output) / total
        scores = sigma * prompt_norm * along_prompt - shift_context * context_score
        scores = scores + score_memory * sigma**2 * ratio * taught
        peak = np.maximum(scores.max(axis=1, keepdims=True), context_score)
        weights = np.exp(scores - peak)
        mass = relevant * np.exp(context_score - peak[:, 0])
        weights = weights / (mass + weights.sum(axis=1))[:, None]
        rest = weights.sum(axis=1)
        signal = (1 - rest * (1 + shift_signal)) * size
        drift = sigma * (weights * along_head).sum(axis=1)
        rows.append((
            unit[0] * signal + unit[1] * rest * shift_across + drift,
            -unit[1] * signal + unit[0] * rest * shift_across,
            sigma**2 * np.square(weights).sum(axis=1),
            sigma * rest / np.sqrt(count),
            np.full(len(rest), odds / len(rest)),
        ))  # fmt: skip
    return _TrainingLaw(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def _ridge_head(
    law: _TrainingLaw, ratio: float, ridge: float, constraint: float
) -> tuple[Float[np.ndarray, "R 2"], Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    r"""Coordinates of the ridge head, its training objective and :math:`|\omega|^2`.

    With :math:`\lambda m+E[\tau^2m/(1+\tau^2m)]=\kappa`, :math:`\omega=1/(1+\tau^2m)`,
    :math:`\langle X,Y\rangle=E[\omega XY]` and
    :math:`\mathcal A(X,Y)=\langle X,Y\rangle+m\sigma^2\langle X,U\rangle\langle U,Y\rangle/
    (1-m\sigma^2\langle U,U\rangle)`,

    .. math::
       c=(\mathcal A(\theta,\theta)+\lambda)^{-1}\mathcal A(\theta,1),\quad
       F=\tfrac12\big(\mathcal A(1,1)-\mathcal A(1,\theta)c\big),\quad
       |\omega|^2=2\frac{dF}{d\lambda}=|c|^2+\frac{dm}{d\lambda}
         \frac{\partial\mathcal A(r,r)}{\partial m},

    with :math:`r=1-\theta\cdot c` held fixed in the last derivative (c minimises).
    """
    along, across, noise = law.along, law.across, law.noise
    removed = law.removed * constraint
    smooth = ridge > 0 or ratio < 1
    if smooth:
        m = resolvent(noise, law.weights, ratio, ridge)
        omega, scale, penalty = 1 / (1 + noise * m[:, None]), m, np.full(len(m), ridge)
    else:  # m times each expression, at m → ∞: ωm → 1/τ² and λm → κ − 1
        m = np.full(len(noise), np.inf)
        omega, scale, penalty = 1 / noise, np.ones(len(noise)), np.full(len(noise), ratio - 1)
    ones = np.ones_like(along)
    columns = (ones, along, across, removed)
    gram = np.array([[law.mean(omega * x * y) for y in columns] for x in columns])
    gram[2, 2] += law.mean(omega * noise)
    gram = np.moveaxis(gram, -1, 0)
    factor = scale / (1 - scale * gram[:, 3, 3])
    pairs = gram[:, :3, :3] + factor[:, None, None] * gram[:, :3, 3:] * gram[:, 3:, :3]
    matrix = pairs[:, 1:, 1:] + penalty[:, None, None] * np.eye(2)
    head = np.linalg.solve(matrix, pairs[:, 1:, :1])[..., 0]
    left = pairs[:, 0, 0] - (pairs[:, 0, 1:] * head).sum(axis=1)
    if not smooth:
        return head, np.zeros(len(m)), left / (ratio - 1)
    residual = 1 - head[:, :1] * along - head[:, 1:] * across
    weight = noise * omega**2
    squares = law.mean(weight * (residual**2 + head[:, 1:] ** 2 * noise))
    crossed, removed_square = law.mean(weight * removed * residual), law.mean(weight * removed**2)
    overlap = gram[:, 0, 3] - (gram[:, 1:3, 3] * head).sum(axis=1)
    # d factor/dm, where dE[ωU²]/dm = −E[τ²ω²U²].
    slope = (1 - m**2 * removed_square) / (1 - m * gram[:, 3, 3]) ** 2
    change = slope * overlap**2 - 2 * factor * overlap * crossed - squares
    energy = np.square(head).sum(axis=1) - m / (ridge + law.mean(weight)) * change
    return head, left / 2, energy
