r"""The fixed point of a convex head, evaluated by its definition.

One application of the equations that `contextual.convex_head` states, with nothing of how
`convex_limit` solves them: the loss's slope at the proximal point itself, every expectation as a
plain sum over sequences and over :math:`Z`, the derivative in :math:`\hat V` by Gaussian
integration by parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from scipy import special

from jaxprompt.contextual.law.feature_law import FeatureLaw

__all__ = ["applied_once", "proximal_force"]

_STEP = 0.5
"""Step of the trapezoid rule over Z. An analytic integrand is exact to rounding; the error at a
kink depends on where it falls between two nodes, which differs from sequence to sequence and
averages out."""

_REACH = 18
"""Steps from the middle of the grid to its ends."""

_HALVINGS = 40


def proximal_force(
    loss: str, omega: Float[np.ndarray, "*s"], step: Float[np.ndarray, "*#s"]
) -> Float[np.ndarray, "*s"]:
    r"""Minus the slope of `loss` at its proximal point :math:`\mathrm{prox}_{v\ell}(\omega)`.

    That point is where :math:`x+v\,\ell'(x)`, which increases, passes ω. For the logistic loss the
    force f is between 0 and 1, and found by bisection of :math:`f=\sigma(-\omega-vf)`.
    """
    if loss == "square":
        return (1 - omega) / (1 + step)
    if loss == "hinge":
        return np.clip((1 - omega) / step, 0.0, 1.0)
    low, high = np.zeros_like(omega), np.ones_like(omega)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = middle < special.expit(-omega - step * middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def applied_once(
    features: FeatureLaw, ratio: float, ridge: float, loss: str,
    spread: float, head_signal: float, head_noise: float,
) -> tuple[float, float, float]:  # fmt: skip
    r"""(V, c, ρ) that the stated equations make of a given (V, c, ρ): the same at a fixed point.

    `spread` is V; where it is infinite (no ridge, and a training set that some head fits) V f is
    :math:`(1-\omega)/\tau^2`, its positive part unless the loss is the square, and V is returned as
    it is. Float64.
    """
    root, hard = np.hypot(head_signal, head_noise), np.isinf(spread)
    pull = energy = stein = 0.0
    for alpha, tau, weights, z in _quadrature_nodes(features):
        omega = alpha * head_signal + tau * root * z
        if hard:
            short = 1 - omega if loss == "square" else np.maximum(1 - omega, 0.0)
            force = short / tau**2
        else:
            force = proximal_force(loss, omega, tau**2 * spread)
        pull += (weights * alpha * force).sum()
        energy += (weights * np.square(tau * force)).sum()
        stein -= (weights * tau * force * z).sum()
    size = 1.0 if hard else spread
    after = np.inf if hard else 1 / (ridge / ratio + stein / root / ratio)
    return float(after), float(pull / ratio * size), float(np.sqrt(energy / ratio) * size)


_ROWS_TOGETHER = 1024
"""Nodes of the law whose grids of Z are held at once: they stay in a processor's cache."""


def _quadrature_nodes(
    features: FeatureLaw,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Nodes of the law, in rows, and a grid of Z for each, shifted by a part of a step; in
    blocks of rows."""
    every = [np.ravel(x)[:, None] for x in features[:3]]
    offsets, total = np.random.default_rng(0).uniform(size=every[0].shape), every[2].sum()
    for first in range(0, len(offsets), _ROWS_TOGETHER):
        block = slice(first, first + _ROWS_TOGETHER)
        alpha, tau, weights = (x[block] for x in every)
        z = _STEP * (np.arange(-_REACH, _REACH) + offsets[block])
        density = np.exp(-np.square(z) / 2)
        shares = density / density.sum(axis=1, keepdims=True)
        yield alpha, tau, weights / total * shares, z
