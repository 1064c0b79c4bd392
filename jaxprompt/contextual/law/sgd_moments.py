r"""Means of one sequence's gradient in a head and a prompt that keep the symmetry of their start.

A head :math:`w` and a prompt :math:`q` that start in random directions keep
:math:`\langle w,q_\star\rangle=\langle q,w_\star\rangle=\langle w,q\rangle=0` as d → ∞. Four
numbers describe them: :math:`A=\langle w,w_\star\rangle`, :math:`B=\langle q,q_\star\rangle`,
:math:`|w|^2`, :math:`|q|^2`. Everything a step needs is a mean over the T − k standard normals
:math:`m_t=\langle q,z_t\rangle/(\sigma|q|)`; the noise along the head is Gaussian given these, and
is integrated out by hand. ``docs/learning.md`` derives it.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.setting import Setting

__all__ = [
    "CONTEXT", "HEAD", "LOSSES", "MOST_PAIRS", "PROMPT", "SIGNAL", "THEORY", "Formula",
    "GradientMoments",
    "Loss", "constant_state", "gradient_moments", "loss_slope", "symmetric_error", "unit_of_energy",
]  # fmt: skip

Loss = Literal["square", "logistic"]
LOSSES = ("square", "logistic")
"""Losses of the margin: (1 − yf)²/2 and log(1 + exp(−yf))."""

SIGNAL, CONTEXT, HEAD, PROMPT = range(4)
"""Places of ⟨w, w⋆⟩, ⟨q, q⋆⟩, |w|² and |q|² in a state, an array (4, replicates)."""

MOST_PAIRS = 512
"""Nodes of a replicate, each with its mirror image, where there are few tokens."""

_SCALAR_BUDGET = 2**18
_HERMITE_NODES = 16


class Formula(NamedTuple):
    """Multiples of single terms; the theory has 1 everywhere, and falsifiers change them.

    `sgd_noise` belongs to the squares of the rates, `feedback` to the label-free pull of the
    prompt, `drag` to the push that the prompt's noise scores give it, `score_noise` to the scores.
    """

    sgd_noise: float = 1.0
    feedback: float = 1.0
    drag: float = 1.0
    score_noise: float = 1.0


THEORY = Formula()
"""The true formula."""


class GradientMoments(NamedTuple):
    """Means over a sequence of label 1, one for each replicate of the quadrature; float64.

    `e` is minus the slope of the loss, `φ` and `ψ` are the weights of the tokens in the gradients
    of head and prompt, and sums of them run over irrelevant tokens.
    """

    signal_gain: np.ndarray
    """E[e α]: the head's gradient along w⋆, as a multiple of w⋆."""
    head_shrinkage: np.ndarray
    """E[p₂ e′] σ², at most 0: the head's gradient along itself, as a multiple of w."""
    output_product: np.ndarray
    """E[e f]."""
    head_noise: np.ndarray
    """σ² E[e² Σφ²]."""
    context_gain: np.ndarray
    """G₁: the prompt's gradient along q⋆, as a multiple of q⋆."""
    prompt_drag: np.ndarray
    """σ G₂ / |q|: the prompt's gradient along itself, as a multiple of q."""
    prompt_noise: np.ndarray
    """σ² E[e² Σψ²]."""


def unit_of_energy(setting: Setting) -> float:
    """W² + Q² + σ²: times an energy it is a pure number, whatever the unit of length."""
    numbers = (setting.signal, setting.context, setting.noise)
    return sum(float(number) ** 2 for number in numbers) or 1.0


class _Nodes(NamedTuple):
    """Normals of the irrelevant tokens, (N, replicate, node), and the largest of each node.

    Tokens come first: sums over few of them are then sums of long rows.
    """

    normals: np.ndarray
    largest: np.ndarray


@functools.lru_cache(maxsize=8)
def _paired_nodes(count: int, most: int) -> _Nodes:
    """Nodes and their mirror images, so that odd functions have mean 0."""
    nodes = attention_moments.normal_nodes(count)
    affordable = max(_SCALAR_BUDGET // (2 * len(nodes) * max(count, 1)), 8)
    pairs = 2 ** int(np.log2(min(affordable, most, nodes.shape[1])))
    kept = nodes[:, :pairs]
    normals = np.ascontiguousarray(np.moveaxis(np.concatenate([kept, -kept], axis=1), -1, 0))
    nodes_and_largest = _Nodes(normals, normals.max(axis=0))
    for array in nodes_and_largest:
        array.setflags(write=False)
    return nodes_and_largest


class _Attention(NamedTuple):
    """Sums over irrelevant tokens at every replicate and node, for one shift."""

    share: np.ndarray
    p2: np.ndarray
    p3: np.ndarray
    p4: np.ndarray
    m1: np.ndarray
    m2: np.ndarray


class _ScoreSums(NamedTuple):
    """Sums of powers of exp(σ|q|(m_t − largest m)), at every replicate and node."""

    top: np.ndarray
    powers: tuple[np.ndarray, ...]
    first: np.ndarray
    second: np.ndarray


def _score_sums(scale: np.ndarray, nodes: _Nodes) -> _ScoreSums:
    normals, largest = nodes
    weights = np.exp(scale[:, None] * (normals - largest))
    squares = weights * weights
    return _ScoreSums(
        scale[:, None] * largest,
        (weights.sum(0), squares.sum(0), (squares * weights).sum(0), (squares * squares).sum(0)),
        (weights * normals).sum(0),
        (squares * normals).sum(0),
    )


def _attention(gap: np.ndarray, sums: _ScoreSums, relevant: int) -> _Attention:
    """`gap` is a relevant token's score less an irrelevant one's mean: (replicate,)."""
    ahead = gap[:, None] - sums.top
    mass = relevant * np.exp(np.minimum(ahead, 0.0))
    factor = np.exp(-np.maximum(ahead, 0.0))  # of every irrelevant weight; none overflows
    total = mass + factor * sums.powers[0]
    part = factor / total
    p2, p3, p4 = (part**n * sums.powers[n - 1] for n in (2, 3, 4))
    share = mass / total
    return _Attention(share, p2, p3, p4, part * sums.first, part**2 * sums.second)


class _Slopes(NamedTuple):
    """Means over the output's noise P ~ N(0, vp₂) of minus the loss's slope e(f₀ + P)."""

    mean: np.ndarray
    """E e."""
    slope: np.ndarray
    """E e′."""
    square: np.ndarray
    """E e²."""
    first: np.ndarray
    """E[e² P] / p₂."""
    second: np.ndarray
    """E[e² P²] / p₂²."""


def loss_slope(loss: Loss, output: np.ndarray) -> np.ndarray:
    """Minus the slope of the loss at the output `f` of a sequence with label 1."""
    return 1 - output if loss == "square" else special.expit(-output)


def _slopes_of_error(loss: Loss, output: np.ndarray, energy: np.ndarray, p2: np.ndarray) -> _Slopes:
    """At mean outputs (replicate, node) and v = σ²|w|² (replicate, 1)."""
    variance = energy * p2
    if loss == "square":
        rest = 1 - output
        return _Slopes(
            rest, np.full_like(rest, -1.0), rest**2 + variance, -2 * rest * energy,
            energy * (rest**2 / np.maximum(p2, 1e-300) + 3 * energy),
        )  # fmt: skip
    nodes, weights = special.roots_hermitenorm(_HERMITE_NODES)
    weights = weights / weights.sum()
    deviation = np.sqrt(variance)
    mean = slope = square = first = second = np.zeros_like(output)
    for x, weight in zip(nodes, weights, strict=True):
        e = special.expit(-(output + deviation * x))
        mean, slope = mean + weight * e, slope - weight * e * (1 - e)
        squared = weight * e**2
        square, first, second = square + squared, first + x * squared, second + x**2 * squared
    per_p2 = np.sqrt(energy / np.maximum(p2, 1e-300))
    return _Slopes(mean, slope, square, per_p2 * first, per_p2**2 * second)


def gradient_moments(
    setting: Setting, state: np.ndarray, loss: Loss = "square", formula: Formula = THEORY,
    most_pairs: int = MOST_PAIRS,
) -> GradientMoments:  # fmt: skip
    r"""The means of :class:`GradientMoments` at a symmetric state, an array (4, replicates).

    With :math:`e` at its mean over the noise along the head, :math:`b=-s(1+\delta_w)A` and
    :math:`v=\sigma^2|w|^2`,

    .. math::
        G_1 &= E[(1+\delta_q)s(\bar e(1-s)(1+\delta_w)A - v p_2\bar e')],\qquad
        G_2 = E[\bar e b\bar m + v(m_2-p_2\bar m)\bar e'],\\
        E[e^2\Sigma\psi^2] &= E\sum_t\varphi_t^2\{E_0(b^2+V_t)+2br_tE_1+r_t^2E_2\},

    :math:`r_t=(\varphi_t-p_2)/p_2`, :math:`V_t=v(1-2\varphi_t+p_2)-vp_2r_t^2` and
    :math:`E_j=E[e^2P^j]` over the output's noise P.
    """
    signal, context, head, prompt = state
    noise = float(setting.noise)
    # A prompt of length 0 has no direction; its limit is that of a very short one.
    length = np.sqrt(np.maximum(prompt, 1e-12 / unit_of_energy(setting)))
    nodes = _paired_nodes(
        setting.irrelevant, most_pairs if loss == "square" else max(most_pairs // 2, 1)
    )
    sums = _score_sums(noise * length * formula.score_noise, nodes)
    v = (noise**2 * head)[:, None]
    total = np.zeros((len(GradientMoments._fields), len(signal)))
    shifts, odds = np.asarray(setting.shifts), np.asarray(setting.shift_weights)
    for (shift_context, shift_signal), weight in zip(shifts, odds, strict=True):
        a = _attention((1 + shift_context) * context, sums, setting.relevant)
        alpha = a.share - (1 - a.share) * shift_signal
        product = signal[:, None]
        b = -a.share * (1 + shift_signal) * product
        e = _slopes_of_error(loss, alpha * product, v, a.p2)
        pull = e.mean * (1 - a.share) * (1 + shift_signal) * product
        pull = pull - formula.feedback * v * a.p2 * e.slope
        drag = e.mean * b * a.m1 + formula.drag * v * (a.m2 - a.p2 * a.m1) * e.slope
        # Σφ²(b² + V), Σφ²(φ − p₂) and Σφ²(φ − p₂)².
        third = a.p3 - a.p2**2
        fourth = a.p4 - 2 * a.p2 * a.p3 + a.p2**3
        scatter = b**2 * a.p2 + v * (a.p2 - 2 * a.p3 + a.p2**2)
        scatter = scatter - v * fourth / np.maximum(a.p2, 1e-300)
        prompt_noise = e.square * scatter + 2 * b * third * e.first + fourth * e.second
        rows = (
            alpha * e.mean, noise**2 * a.p2 * e.slope,
            alpha * product * e.mean + v * a.p2 * e.slope, noise**2 * a.p2 * e.square,
            (1 + shift_context) * a.share * pull, noise / length[:, None] * drag,
            noise**2 * prompt_noise,
        )  # fmt: skip
        total += weight * np.stack([row.mean(axis=1) for row in rows])
    moments = GradientMoments(*total)
    return moments._replace(
        head_noise=formula.sgd_noise * moments.head_noise,
        prompt_noise=formula.sgd_noise * moments.prompt_noise,
    )


def symmetric_error(
    setting: Setting, state: np.ndarray, most_pairs: int = MOST_PAIRS
) -> np.ndarray:
    r"""The error, :math:`E\,\Phi(-\alpha A/(\sigma\sqrt{p_2}|w|))`: one a replicate.

    Where the deviation is 0 it is its limit, and one half for a head without signal.
    """
    signal, context, head, prompt = state
    nodes = _paired_nodes(setting.irrelevant, most_pairs)
    noise = float(setting.noise)
    sums = _score_sums(noise * np.sqrt(np.maximum(prompt, 0.0)), nodes)
    error = np.zeros(len(signal))
    shifts, odds = np.asarray(setting.shifts), np.asarray(setting.shift_weights)
    for (shift_context, shift_signal), weight in zip(shifts, odds, strict=True):
        a = _attention((1 + shift_context) * context, sums, setting.relevant)
        margin = (a.share - (1 - a.share) * shift_signal) * signal[:, None]
        deviation = noise * np.sqrt(a.p2 * np.maximum(head, 0.0)[:, None])
        certain = deviation <= 0
        gaussian = special.ndtr(-margin / np.where(certain, 1.0, deviation))
        error += weight * np.where(certain, (1 - np.sign(margin)) / 2, gaussian).mean(axis=1)
    return error


def constant_state(
    signal: float, context: float, head_energy: float, prompt_energy: float
) -> np.ndarray:
    """A state that is the same in every replicate of the quadrature: (4, replicates)."""
    numbers: list[Any] = [signal, context, head_energy, prompt_energy]
    return np.tile(np.array(numbers, np.float64)[:, None], attention_moments.REPLICATES)
