r"""The error of equispaced centres on the circle as a function of the phase, and its supremum.

Used by the closed forms of ``universal.circle_error`` and ``universal.optimal_values``. Derived
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Complex, Float

from jaxprompt.universal.numerics import bessel

__all__ = [
    "LAYER_WIDTHS", "enlarged_maximum", "modulus_of_phase", "phases_that_resolve", "relative_error",
]  # fmt: skip

PHASES = 129
"""Phases in [0, π] at which a supremum is first looked for, or more where the target needs them."""

LAYER_WIDTHS = 40
"""The change of nearest centre is resolved over so many of its own widths: e^{-40} is left out."""


def relative_error(
    centres: ArrayLike, concentration: ArrayLike, degree: ArrayLike, phase: ArrayLike
) -> Complex[np.ndarray, "*_"]:
    """1 − h e^{−ikθ}: complex128, of the broadcast shape of the four parameters."""
    arrays = np.broadcast_arrays(centres, concentration, degree, phase)
    shape = arrays[0].shape
    count, lam, k, psi = (np.asarray(a, np.float64).ravel() for a in arrays)
    result = np.empty(psi.size, complex)
    spectral = lam <= count**2
    if spectral.any():
        result[spectral] = _spectral_sum(count[spectral], lam[spectral], k[spectral], psi[spectral])
    for i in np.flatnonzero(~spectral):
        result[i] = _nodal_sum(int(count[i]), lam[i], k[i], psi[i : i + 1])[0]
    return result.reshape(shape)


def _spectral_sum(
    count: Float[np.ndarray, " n"],
    lam: Float[np.ndarray, " n"],
    k: Float[np.ndarray, " n"],
    psi: Float[np.ndarray, " n"],
) -> Complex[np.ndarray, " n"]:
    above, below, index = _fourier_coefficients(count, lam, k)
    wave = np.exp(1j * index[:, None] * psi)
    return (above * wave).sum(0) / (below * wave).sum(0)


def _fourier_coefficients(
    count: np.ndarray, lam: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """I_{lN} − I_{k+lN} and I_{lN} over I_0, one row for each l, and the values of l."""
    # Beyond order k + 10 + 9√λ the ratio to I_0 is below e^{-40}.
    # Rounding the number of rows up to a power of two keeps the compiled shapes few.
    top = float(((np.abs(k) + 12 + 9 * np.sqrt(lam)) / count).max())
    top = 2 ** math.ceil(math.log2(top + 1))
    index = np.arange(-top, top + 1)
    orders = index[:, None] * count
    with jax.enable_x64(True):
        log = np.asarray(bessel.log_ratio(0.0, np.abs(np.stack([orders, orders + k])), lam))
    at_zero, at_k = np.exp(log)
    above = at_zero - at_k
    above[index == 0] = -np.expm1(log[1][index == 0])
    return above, at_zero, index


def _nodal_sum(
    count: int, lam: float, k: float, psi: Float[np.ndarray, " phases"]
) -> Complex[np.ndarray, " phases"]:
    delta = (2 * np.pi * np.arange(count) - psi[:, None]) / count
    squared = np.sin(delta / 2) ** 2
    weight = np.exp(-2 * lam * (squared - squared.min(axis=1, keepdims=True)))
    lack = 2 * np.sin(k * delta / 2) ** 2 - 1j * np.sin(k * delta)
    return (weight * lack).sum(axis=1) / weight.sum(axis=1)


def modulus_of_phase(count: int, lam: float, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """|1 − h e^{−ikθ}| as a function of an array of phases."""
    if lam > count**2:
        return lambda psi: np.abs(_nodal_sum(count, lam, k, psi))
    above, below, index = _fourier_coefficients(np.array([count]), np.array([lam]), np.array([k]))

    def modulus(psi: np.ndarray) -> np.ndarray:
        wave = np.exp(1j * psi[:, None] * index)
        return np.abs((wave @ above)[:, 0] / (wave @ below)[:, 0])

    return modulus


def phases_that_resolve(count: int, lam: float, k: int) -> Float[np.ndarray, " phases"]:
    """Phases in [0, π], close enough together for the target's waves and the change of centre."""
    even = np.linspace(0, np.pi, max(PHASES, 16 * math.ceil(k / count) + 1))
    if count == 1:
        return even
    # The two nearest centres' scores differ by (π − ψ) over this width.
    width = count / (2 * lam * math.sin(math.pi / count))
    layer = np.pi - width * np.linspace(0, LAYER_WIDTHS, 8 * LAYER_WIDTHS + 1)
    return np.unique(np.concatenate([even, layer[layer > 0]]))


def enlarged_maximum(modulus: Callable[[np.ndarray], np.ndarray], psi: np.ndarray) -> float:
    """Largest value of a function of an array of phases, found from its values on the grid `psi`.

    Every local maximum of the grid that comes within a fiftieth of the largest value is enlarged
    until its neighbours are equal to rounding. The ends of the grid count as maxima: the modulus
    of an error is even about 0 and about π.
    """
    values = modulus(psi)
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    is_peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] >= padded[2:])
    peaks = np.flatnonzero(is_peak & (values >= 0.98 * values.max()))
    low, high = psi[np.maximum(peaks - 1, 0)], psi[np.minimum(peaks + 1, len(psi) - 1)]
    rows = np.arange(len(peaks))
    while True:
        inside = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 17)
        values = modulus(inside.ravel()).reshape(inside.shape)
        best = values.argmax(axis=1)
        before, after = np.maximum(best - 1, 0), np.minimum(best + 1, 16)
        top = values[rows, best]
        fall = top - np.minimum(values[rows, before], values[rows, after])
        low, high = inside[rows, before], inside[rows, after]
        if (fall <= 1e-14 * top).all() or (high - low).max() < 1e-14:
            return float(top.max())
