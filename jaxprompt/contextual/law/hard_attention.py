r"""The least error over prompts so long that the attention falls on a single token.

As a prompt grows in its direction the softmax tends to the choice of the token with the largest
score, and where the noise is strong no shorter prompt is as good. Relevant tokens are alike, and of
N irrelevant ones only that of the largest score counts. With :math:`g` the gap between the scores
of a relevant token and an irrelevant token's mean, in units of the scores' deviation
:math:`\sigma|q|`, and :math:`m` the largest of N standard normals,

.. math:: \text{error} = E\Big[\Phi(g)^N\,1\{R<0\} + \int_g^\infty N\varphi(m)\Phi(m)^{N-1}\,
   \Phi\Big(-\frac{F+y\sigma w_\parallel m}{\sigma w_\perp}\Big)\,dm\Big]

with the margins :math:`R=\langle w,w_\star\rangle+y\langle w,q_\star\rangle` of a relevant
token, :math:`F=-\delta_w\langle w,w_\star\rangle-y\delta_q\langle w,q_\star\rangle` of an
irrelevant one's mean, and the head's parts :math:`w_\parallel` along the prompt and
:math:`w_\perp` across it. One number is left to integrate over, so no sampling is needed. Derived
here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, special
from scipy.stats import qmc

from jaxprompt.contextual.setting import Setting

__all__ = ["hard_attention_error", "least_hard_error"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)

_FURTHEST = 8.5
"""Largest of the normals that counts, in deviations: beyond it are 1e-17 of each."""

_STARTS = 3
"""The logarithm to base 2 of the spread starts of each pattern of signs."""

_INSIDE = 1e-4
"""What a margin of 0 is moved by, as a share of the largest that a head of its length has."""

_PATTERNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0))
"""Signs of a relevant token's margin for the labels +1 and −1; the fourth is a reflection."""


def hard_attention_error(
    setting: Setting,
    head: Float[np.ndarray, " 4"],
    direction: Float[np.ndarray, " 4"],
    signs: tuple[float, float] | None = None,
) -> float:
    """Probability of a wrong sign under an endlessly long prompt along `direction`; float64.

    The first coordinates are along w⋆ and q⋆. `signs` of a relevant token's margin for the labels
    1 and −1 decide where that margin is 0, as it may be at the least error; by default the head's.
    """
    products = head[:2] * np.array([float(setting.signal), float(setting.context)])
    margins = np.array([products[0] + products[1], products[0] - products[1]])
    right = np.sign(margins) if signs is None else np.asarray(signs)
    return _error_and_slopes(setting, head, direction, right)[0]


def _error_and_slopes(
    setting: Setting, head: np.ndarray, direction: np.ndarray, right: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The error, and its derivatives in the head and in the direction."""
    count, noise = setting.irrelevant, float(setting.noise)
    length = np.linalg.norm(direction)
    unit = direction / length
    label = np.array([1.0, -1.0])[:, None, None]
    shift = np.asarray(setting.shifts, np.float64)[None, :, :, None]
    odds = np.asarray(setting.shift_weights)[:, None] / 2
    sizes = np.array([float(setting.signal), float(setting.context)])
    products, prompt_products = head[:2] * sizes, unit[:2] * sizes
    far = -shift[:, :, 1] * products[0] - label * shift[:, :, 0] * products[1]
    gap = (1 + shift[:, :, 0]) * prompt_products[1] + label * (
        1 + shift[:, :, 1]
    ) * prompt_products[0]
    gap = np.clip(gap / noise, -_FURTHEST, _FURTHEST)
    along = float(head @ unit)
    across = np.sqrt(max(float(head @ head) - along**2, 1e-300))

    def density(m: np.ndarray) -> np.ndarray:
        return count * np.exp((count - 1) * special.log_ndtr(m) - m**2 / 2) / np.sqrt(2 * np.pi)

    half = (_FURTHEST - gap) / 2
    largest = gap + half * (1 + _NODES)
    weights = odds * half * _WEIGHTS * density(largest)
    x = (far / noise + label * along * largest) / across
    missed = odds * (1 - right[:, None, None]) / 2
    error = (weights * special.ndtr(-x)).sum() + (
        missed * np.exp(count * special.log_ndtr(gap))
    ).sum()
    slope = -weights * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) / across
    by_products = np.array([
        -(slope * shift[:, :, 1]).sum() / noise, -(slope * label * shift[:, :, 0]).sum() / noise,
    ])  # fmt: skip
    by_across = -(slope * x).sum()
    by_along = (slope * label * largest).sum() - by_across * along / across
    # At the gap both choices are open, and the error changes by the difference of theirs.
    at_gap = special.ndtr(-(far / noise + label * along * gap) / across)
    by_gap = density(gap) * (missed - odds * at_gap) / noise
    by_prompt_products = np.array([
        (by_gap * label * (1 + shift[:, :, 1])).sum(), (by_gap * (1 + shift[:, :, 0])).sum(),
    ])  # fmt: skip
    by_head = by_along * unit + by_across * head / across
    by_head[:2] += by_products * sizes
    by_unit = by_along * head
    by_unit[:2] += by_prompt_products * sizes
    return float(error), by_head, (by_unit - (by_unit @ unit) * unit) / length


def least_hard_error(setting: Setting) -> tuple[float, np.ndarray, np.ndarray]:
    """The least such error, a head and the direction of a prompt, in four coordinates each.

    A margin of 0 on relevant tokens of one label, at which the least error often is, is moved to
    its right side by a share of :data:`_INSIDE`: long prompts of finite length come as near to
    the least error as that. Head and direction have length 1. Signal, context and noise are
    positive, and some tokens are irrelevant.
    """
    uniform = qmc.Sobol(7, scramble=True, rng=np.random.default_rng(9)).random_base2(_STARTS)
    spread = special.ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    ends = [
        (_descend(setting, np.array(pattern), start, steps=60), np.array(pattern))
        for pattern in _PATTERNS
        for start in spread
    ]
    rough, signs = min(ends, key=lambda each: each[0].fun)
    end = _descend(setting, signs, rough.x, steps=1000)
    if not end.fun < 0.5:
        return 0.5, np.eye(4)[2], np.eye(4)[1]
    numbers = end.x.copy()
    size = np.linalg.norm(_weights(setting, signs, numbers)[0])
    inside = _INSIDE * size * max(float(setting.signal), float(setting.context))
    numbers[:2] = np.sqrt(np.square(numbers[:2]) + inside)
    head, direction = _weights(setting, signs, numbers)
    return float(end.fun), head / np.linalg.norm(head), direction / np.linalg.norm(direction)


def _descend(setting: Setting, signs: np.ndarray, start: np.ndarray, steps: int) -> Any:
    return optimize.minimize(
        functools.partial(_of_free_numbers, setting, signs), start, jac=True, method="L-BFGS-B",
        options={"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-14, "gtol": 1e-10},
    )  # fmt: skip


def _of_free_numbers(
    setting: Setting, signs: np.ndarray, numbers: np.ndarray
) -> tuple[float, np.ndarray]:
    """The error and its derivatives in the seven numbers of :func:`_weights`."""
    error, by_head, by_direction = _error_and_slopes(
        setting, *_weights(setting, signs, numbers), signs
    )
    by_products = by_head[:2] / np.array([float(setting.signal), float(setting.context)])
    by_roots = signs * numbers[:2] * np.array([by_products.sum(), by_products[0] - by_products[1]])
    return error, np.concatenate([by_roots, by_head[2:], by_direction[:3]])


def _weights(
    setting: Setting, signs: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Head and direction from seven free numbers: the roots of a relevant token's two margins, so
    that they keep their `signs`, the head's two other coordinates, and the direction's three."""
    margins = signs * np.square(numbers[:2])
    products = np.array([margins.sum(), margins[0] - margins[1]]) / 2
    along = products / np.array([float(setting.signal), float(setting.context)])
    return np.array([*along, *numbers[2:4]]), np.array([*numbers[4:], 0.0])
