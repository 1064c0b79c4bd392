r"""Averages under the head's kernel on the sphere :math:`S^m`, by Gauss–Legendre quadrature.

The kernel is :math:`e^{\lambda\cos\theta}` of the angle to the query, in radians.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy import special

from jaxprompt.compute.namespace import Numbers, namespace_of

__all__ = ["kernel_quadrature", "log_mean_exp", "mean_angle"]

QUADRATURE_NODES = 160
QUADRATURE_WIDTHS = 16.0
"""The kernel is integrated over ±16 of its own widths; beyond, it is below 1e-15 of its mass."""


def mean_angle(sphere_dim: ArrayLike, concentration: ArrayLike) -> Numbers:
    r"""Mean angle to the query under the kernel :math:`e^{\lambda\cos\theta}`, in radians.

    .. math:: E_{\mathrm{vMF}}[\theta] = \frac{\int_0^\pi \theta\, e^{\lambda\cos\theta}
              \sin^{m-1}\theta\, d\theta}{\int_0^\pi e^{\lambda\cos\theta}\sin^{m-1}\theta\,d\theta}

    It is the worst bias of the infinite prefix over 1-Lipschitz functions. The arguments
    broadcast; dtype of `concentration`; relative accuracy 1e-13 in float64. Derived here.
    """
    theta, weight, _ = kernel_quadrature(sphere_dim, concentration)
    return (theta * weight).sum(-1) / weight.sum(-1)


def log_mean_exp(sphere_dim: ArrayLike, concentration: ArrayLike) -> Numbers:
    r"""Logarithm of the kernel's average over the sphere.

    .. math:: \log M(\lambda) = \log \Gamma(\nu+1)(2/\lambda)^\nu I_\nu(\lambda)

    by the same quadrature, so nothing overflows. Arguments and dtype as :func:`mean_angle`.
    """
    _, weight, peak = kernel_quadrature(sphere_dim, concentration)
    xp = namespace_of(weight, sphere_dim)
    gammaln = jax.scipy.special.gammaln if xp is jnp else special.gammaln
    m = xp.asarray(sphere_dim, weight.dtype)
    log_norm = 0.5 * math.log(math.pi) + gammaln(m / 2) - gammaln((m + 1) / 2)
    return xp.log(weight.sum(-1)) + peak - log_norm


@functools.cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(QUADRATURE_NODES)


def kernel_quadrature(
    sphere_dim: ArrayLike, concentration: ArrayLike
) -> tuple[Float[Numbers, "*n nodes"], Float[Numbers, "*n nodes"], Float[Numbers, "*n"]]:
    """Angles, weights (kernel included, scaled to peak near 1) and the log of that scale."""
    xp = namespace_of(sphere_dim, concentration)
    lam = xp.asarray(concentration)
    lam = lam if jnp.issubdtype(lam.dtype, jnp.floating) else lam.astype(float)
    m1, lam = xp.broadcast_arrays(xp.asarray(sphere_dim, lam.dtype) - 1, lam)
    # The peak solves λ sin²θ = (m−1) cos θ; half the sine of its half angle, without cancellation.
    root = xp.sqrt(m1 * m1 + 4 * lam * lam)
    gap = (m1 + m1 * m1 / (root + 2 * lam)) / (m1 + root)
    peak_angle = 2 * xp.arcsin(xp.sqrt(gap / 2))
    curvature = lam * (1 - gap) + m1 / xp.where(m1 > 0, gap * (2 - gap), 1.0)
    half = QUADRATURE_WIDTHS / xp.sqrt(curvature)
    low, high = xp.maximum(peak_angle - half, 0.0), xp.minimum(peak_angle + half, math.pi)
    nodes, weights = (xp.asarray(a, lam.dtype) for a in _legendre())
    theta = low[..., None] + (high - low)[..., None] * (1 + nodes) / 2
    exponent = m1[..., None] * xp.log(xp.sin(theta)) - 2 * lam[..., None] * xp.square(
        xp.sin(theta / 2)
    )
    peak = exponent.max(-1)
    weight = weights * xp.exp(exponent - peak[..., None]) * ((high - low) / 2)[..., None]
    return theta, weight, peak + lam
