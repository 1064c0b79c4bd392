r"""Changes of the seven inner products of head and prompt in one step of SGD: mean and covariance.

At any head :math:`w` and prompt :math:`q`, given the normals :math:`m_t` and :math:`n_t` of the
noise along :math:`q` and along the rest of :math:`w`, the attention and the output are known, and
the tokens are Gaussian in all other directions. So a mean over 2(T − k) normals is left, for which
there is a randomised quasi-Monte Carlo rule. On the symmetric path
:mod:`jaxprompt.contextual.law.sgd_moments` does with half as many, by another derivation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.sgd_flow import Rates
from jaxprompt.contextual.law.sgd_moments import Loss, loss_slope, unit_of_energy
from jaxprompt.contextual.setting import Setting

__all__ = [
    "OVERLAPS", "Increments", "StepFormula", "limiting_increments", "mean_increments",
]  # fmt: skip

OVERLAPS = (
    "head_signal", "head_context", "prompt_signal", "prompt_context", "head_energy", "head_prompt",
    "prompt_energy",
)  # fmt: skip
"""⟨w, w⋆⟩, ⟨w, q⋆⟩, ⟨q, w⋆⟩, ⟨q, q⋆⟩, |w|², ⟨w, q⟩, |q|²: the order of a state (7, replicates)."""

_SCALAR_BUDGET = 2**20


class StepFormula(NamedTuple):
    """Parts of the one-step moments; the theory has these values, and falsifiers change them.

    `second_order` multiplies the squares of the rates, `cross_noise` the noise that both gradients
    share orthogonally, `centring` the output that the weights ψ subtract; `more_directions` counts
    so many orthogonal directions too many.
    """

    second_order: float = 1.0
    cross_noise: float = 1.0
    centring: float = 1.0
    more_directions: int = 0


THE_STEP = StepFormula()
"""The true formula."""


class Increments(NamedTuple):
    """Moments of one step's changes times d, for each replicate of the quadrature; float64."""

    mean: np.ndarray
    """(7, replicates)."""
    covariance: np.ndarray
    """(7, 7, replicates)."""
    residual: np.ndarray
    """The part of the covariance that the nodes leave open."""


@functools.lru_cache(maxsize=8)
def _nodes(count: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of the normals along the prompt and along the head: (token, replicate, node) each, so
    that sums over few tokens are sums of long rows."""
    nodes = attention_moments.normal_nodes(2 * count)
    affordable = max(_SCALAR_BUDGET // (len(nodes) * max(2 * count, 1)), 16)
    kept = nodes[:, : 2 ** int(np.log2(min(affordable, most, nodes.shape[1])))]
    along_prompt, along_head = (
        np.ascontiguousarray(np.moveaxis(kept[..., i::2], -1, 0)) for i in range(2)
    )
    return along_prompt, along_head


class _Coordinates(NamedTuple):
    """q, w, w⋆, q⋆ along orthonormal directions made of them in this order: (4, replicates, 1)."""

    prompt: np.ndarray
    head: np.ndarray
    signal: np.ndarray
    context: np.ndarray


def _coordinates(setting: Setting, state: np.ndarray) -> _Coordinates:
    """The Cholesky factor of the vectors' products; a vector of length 0 counts as very short."""
    signal, context, prompt_signal, prompt_context, head, cross, prompt = state
    squares = np.full_like(signal, setting.signal**2), np.full_like(signal, setting.context**2)
    zero = np.zeros_like(signal)
    gram = (
        (prompt,),
        (cross, head),
        (prompt_signal, signal, squares[0]),
        (prompt_context, context, zero, squares[1]),
    )
    tiny = 1e-12 / unit_of_energy(setting)
    factor = np.zeros((4, 4, len(signal)))
    for row, products in enumerate(gram):
        for column, product in enumerate(products):
            left = product - (factor[row, :column] * factor[column, :column]).sum(axis=0)
            if row == column:
                # Lengths of head and prompt divide later rows; those of w⋆ and q⋆ may be 0.
                left = np.sqrt(np.maximum(left, tiny if row < 2 else 0.0))
            else:
                pivot = factor[column, column]
                left = np.where(pivot > 0, left / np.where(pivot > 0, pivot, 1.0), 0.0)
            factor[row, column] = left
    return _Coordinates(*factor[..., None])


class _Case(NamedTuple):
    """One label and shift at all nodes: (replicate, node), with a leading 4 for vectors."""

    odds: float
    slope: np.ndarray
    output: np.ndarray
    head: np.ndarray
    """Mean of Σφx along the four directions, and of Σψx in the next."""
    prompt: np.ndarray
    spreads: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Σφ², Σφψ and Σψ² over irrelevant tokens."""


def _cases(
    setting: Setting, on: _Coordinates, loss: Loss, most_nodes: int, centring: float
) -> Iterator[_Case]:
    nodes = _nodes(setting.irrelevant, most_nodes)
    shifts, odds = np.asarray(setting.shifts), np.asarray(setting.shift_weights)
    for label in (1.0, -1.0):
        # With the noise along the head reversed, a symmetric state's other label is a mirror image.
        m, n = float(setting.noise) * nodes[0], label * float(setting.noise) * nodes[1]
        for (shift_context, shift_signal), weight in zip(shifts, odds, strict=True):
            relevant = on.context + label * on.signal
            other = -shift_context * on.context - shift_signal * label * on.signal
            far = (other * on.prompt).sum(axis=0)
            scores = far + on.prompt[0] * m
            near = (relevant * on.prompt).sum(axis=0)
            peak = np.maximum(scores.max(axis=0), near)
            weights = np.exp(scores - peak)
            mass = setting.relevant * np.exp(near - peak)
            total = mass + weights.sum(axis=0)
            share, weights = mass / total, weights / total
            values = (other * on.head).sum(axis=0) + on.head[0] * m + on.head[1] * n
            value = (relevant * on.head).sum(axis=0)
            output = share * value + (weights * values).sum(axis=0)
            middle = centring * output
            tilts = weights * (values - middle)
            gradients: list[np.ndarray] = []
            for own, each in ((share, weights), (share * (value - middle), tilts)):
                vector = own * relevant + each.sum(axis=0) * other
                vector[0] += (each * m).sum(axis=0)
                vector[1] += (each * n).sum(axis=0)
                gradients.append(vector)
            pairs = (weights, weights), (weights, tilts), (tilts, tilts)
            phi, cross, psi = ((one * two).sum(axis=0) for one, two in pairs)
            head, prompt = gradients
            slope = label * loss_slope(loss, label * output)
            yield _Case(0.5 * weight, slope, output, head, prompt, (phi, cross, psi))


def _changes(
    case: _Case, on: _Coordinates, rates: Rates, squares: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The seven changes times d at every node; `squares` are those of the gradients, times 1/d."""
    e, (a, b) = case.slope, rates

    def along(gradient: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return (gradient * vector).sum(axis=0)

    head, prompt = case.head, case.prompt
    return np.stack(
        [
            a * e * along(head, on.signal),
            a * e * along(head, on.context),
            b * e * along(prompt, on.signal),
            b * e * along(prompt, on.context),
            2 * a * e * case.output + a**2 * e**2 * squares[0],
            e * (a * along(head, on.prompt) + b * along(prompt, on.head))
            + a * b * e**2 * squares[1],
            2 * b * e * along(prompt, on.prompt) + b**2 * e**2 * squares[2],
        ]
    )


def mean_increments(
    setting: Setting, state: np.ndarray, rates: Rates, dim: float, loss: Loss = "square",
    formula: StepFormula = THE_STEP, most_nodes: int = 4096,
) -> np.ndarray:  # fmt: skip
    r"""Mean changes of :data:`OVERLAPS` in one step of SGD, times d, at a state (7, replicates).

    With :math:`\mu_w` and :math:`\mu_q` the gradients' means given the nodes,

    .. math::
        d\,E\Delta\langle w,v\rangle &= \eta_wE[e\langle\mu_w,v\rangle],\qquad
        d\,E\Delta\langle q,v\rangle = \eta_qE[e\langle\mu_q,v\rangle],\\
        d\,E\Delta|w|^2 &= 2\eta_wE[ef]
           +\tfrac{\eta_w^2}dE[e^2(|\mu_w|^2+(d-2)\sigma^2\Sigma\varphi^2)],

    and :math:`\Delta\langle w,q\rangle`, :math:`\Delta|q|^2` alike. Exact at every d ≥ 6; float64.
    """
    on = _coordinates(setting, state)
    noise = float(setting.noise) ** 2 * (dim - 2 + formula.more_directions) / dim
    total = np.zeros_like(state)
    for case in _cases(setting, on, loss, most_nodes, formula.centring):
        head, prompt = case.head, case.prompt
        inner = (head * head).sum(0), (head * prompt).sum(0), (prompt * prompt).sum(0)
        kept = 1.0, formula.cross_noise, 1.0
        squares = tuple(
            formula.second_order * (own / dim + noise * keep * spread)
            for own, keep, spread in zip(inner, kept, case.spreads, strict=True)
        )
        total += case.odds * _changes(case, on, rates, squares).mean(axis=-1)
    return total


def limiting_increments(
    setting: Setting, state: np.ndarray, rates: Rates, loss: Loss = "square",
    most_nodes: int = 512, covariance: bool = True,
) -> Increments:  # fmt: skip
    r"""Mean and covariance of one step's changes times d as d → ∞, at a state (7, replicates).

    Along w⋆ and q⋆ the gradients have noise that the nodes leave open, of covariance
    :math:`\sigma^2e^2\Sigma\varphi^2`, :math:`\sigma^2e^2\Sigma\varphi\psi` or
    :math:`\sigma^2e^2\Sigma\psi^2` times the products of w⋆ and q⋆ across head and prompt.
    """
    on = _coordinates(setting, state)
    noise = float(setting.noise) ** 2
    mean, second = np.zeros_like(state), np.zeros((7, *state.shape))
    residual = np.zeros_like(second)
    for case in _cases(setting, on, loss, most_nodes, 1.0):
        squares = tuple(noise * spread for spread in case.spreads)
        changes = _changes(case, on, rates, squares)
        mean += case.odds * changes.mean(axis=-1)
        if not covariance:
            continue
        nodes = changes.shape[-1]
        second += case.odds * np.einsum("irm,jrm->ijr", changes, changes, optimize=True) / nodes
        energies = [(case.slope**2 * spread).mean(axis=-1) * noise for spread in case.spreads]
        across = [vector[2:, :, 0] for vector in (on.signal, on.context)]
        for one in range(4):
            for two in range(4):
                energy = energies[one // 2 + two // 2]
                shared = (across[one % 2] * across[two % 2]).sum(axis=0)
                rate = rates[one // 2] * rates[two // 2]
                residual[one, two] += case.odds * rate * energy * shared
    return Increments(mean, second + residual - mean[:, None] * mean[None], residual)
