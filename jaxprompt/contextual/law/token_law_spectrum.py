r"""The family of token laws that ``contextual.token_law_error`` is checked on.

With :math:`x_i=(i-\frac12)/d`, i = 1 … d: :math:`\Sigma_I=\sigma^2\operatorname{diag}(e)` with
:math:`e_i\propto x_i^{-p}` of mean 1, :math:`\Sigma_R` the same spectrum in reverse order times the
square of `relevant_noise`, :math:`\Sigma_C` a multiple of the identity. Signal and context are
spread over all coordinates, with weights that the spectrum does not follow; irrelevant tokens t, t'
have correlation :math:`\rho^{|t-t'|}`. float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxprompt.contextual.law.token_law import TokenLaw

__all__ = ["Spectrum", "spectrum", "spectrum_token_law"]


class Spectrum(NamedTuple):
    """Eigenvalues of mean 1 in falling order, and the vectors w⋆ and q⋆."""

    eigenvalues: Float[np.ndarray, " d"]
    signal: Float[np.ndarray, " d"]
    context: Float[np.ndarray, " d"]


def spectrum(dim: int, exponent: float, signal: float, context: float) -> Spectrum:
    """Eigenvalues :math:`\\propto x^{-p}`, and orthogonal w⋆ and q⋆ of the given norms."""
    coordinate = np.arange(dim)
    x = (coordinate + 0.5) / dim
    eigenvalues = x**-exponent
    w = np.where(coordinate % 2, 1.0, -1.0) * (1 + x)
    q = np.where(coordinate % 4 < 2, 1.0, -1.0) * (1.5 - x)
    q = q - (q @ w) / (w @ w) * w
    return Spectrum(
        eigenvalues / eigenvalues.mean(),
        signal * w / np.linalg.norm(w),
        context * q / np.linalg.norm(q),
    )


def spectrum_token_law(
    *, dim: int, tokens: int, relevant: int, signal: float, context: float, noise: float,
    exponent: float, relevant_noise: float, common_noise: float, token_correlation: float,
    shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),),
    shift_weights: tuple[float, ...] = (1.0,), isotropic: bool = False,
) -> TokenLaw:  # fmt: skip
    """The family's law; with `isotropic` each covariance is a multiple of the identity instead."""
    e, w, q = spectrum(dim, exponent, signal, context)
    flat = np.ones(dim)
    count = tokens - relevant
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    return TokenLaw(
        tokens, relevant, w, q,
        noise**2 * (flat if isotropic else e),
        relevant_noise**2 * (flat if isotropic else e[::-1]),
        common_noise**2 * flat,
        irrelevant_correlation=token_correlation**distance if token_correlation else None,
        shifts=tuple((float(a), float(b)) for a, b in shifts),
        shift_weights=tuple(float(x) for x in shift_weights),
    )  # fmt: skip
