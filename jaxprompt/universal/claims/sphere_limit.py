r"""Claim ``universal.sphere_limit``: the infinite prefix multiplies harmonics by a Bessel ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Key
from scipy import special

from jaxprompt.compute.namespace import Numbers, namespace_of
from jaxprompt.core.claim import Claim, Curves, Design, Falsifier, Quantity, Relation
from jaxprompt.core.compared import Compared
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.numerics import bessel, kernel_averages
from jaxprompt.universal.numerics.harmonics import eigenvalue, zonal
from jaxprompt.universal.parameters import CONCENTRATION, DEGREE, SPHERE_DIM

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
When the centres fill $S^m$ uniformly ($N\to\infty$) and $v_i=f(b_i)$, the head without content is
convolution with the von Mises–Fisher kernel. It multiplies every spherical harmonic of degree $k$
by
$$ \rho_k(\lambda)=\frac{I_{k+\nu}(\lambda)}{I_\nu(\lambda)},\qquad \nu=\tfrac{m-1}{2},\qquad
   \rho_k = 1-\frac{K}{2\lambda}+\frac{K(K-2)}{8\lambda^2}+O(\lambda^{-3}),\quad K=k(k+m-1), $$
and its largest error over geodesically $L$-Lipschitz $f$ is $L\,E_{\mathrm{vMF}}[\theta]$, the
mean angle to the query under the kernel.
"""

DERIVATION = r"""
By Funk–Hecke the multiplier is the kernel's mean of the zonal harmonic $P_k(\cos\theta)$; the
generating integral of Gegenbauer polynomials gives the ratio of Bessel functions. The expansion
follows from the large-argument series of both. For the last part,
$|\int w\,(f(y)-f(x))| \le L\int w\,d(x,y)$, with equality for $f=L\,d(x,\cdot)$. For $m=1$ the
mean angle is $\pi/2-(4/\pi)\sum_{k\,\mathrm{odd}} I_k/(k^2I_0)$, for $m=2$ it is
$\pi\,(I_0(\lambda)-e^{-\lambda})/(2\sinh\lambda)$.

*Tolerances.* Log-weights of size $m$ are rounded to $m$ ulps, 1e-13 for the largest $m$, and the
quadrature's range is cut where the kernel is $e^{-80}$: 1e-12. The defect's recurrence in the
degree loses two digits more at angles far below 1: 1e-10, as for the angle itself.
"""


# --- the closed form ---


def closed_form(
    *, sphere_dim: ArrayLike, degree: ArrayLike, concentration: ArrayLike, order_shift: float = 0.0
) -> dict[str, Numbers]:
    """Multiplier, its defect and logarithm, and the mean angle; the parameters broadcast.

    A falsifier changes `order_shift`, which is added to the order ν and which the theory has at 0.
    """
    xp = namespace_of(sphere_dim, degree, concentration, order_shift)
    m, lam = xp.asarray(sphere_dim), xp.asarray(concentration)
    lam = lam if jnp.issubdtype(lam.dtype, jnp.floating) else lam.astype(float)
    log = bessel.log_ratio((m - 1) / 2 + order_shift, degree, lam)
    return {
        "multiplier": xp.exp(log),
        "defect": -xp.expm1(log),
        "log_multiplier": log,
        "lipschitz_bias": xp.broadcast_to(kernel_averages.mean_angle(m, lam), log.shape),
    }


def _defect_of_first_order(right: Mapping[str, Any], at: Mapping[str, Any]) -> Mapping[str, Any]:
    first = eigenvalue(at["sphere_dim"], at["degree"]) / (2 * at["concentration"])
    return {**right, "defect": first}


def _mean_chord(right: Mapping[str, Any], at: Mapping[str, Any]) -> Mapping[str, Any]:
    theta, weight, _ = kernel_averages.kernel_quadrature(at["sphere_dim"], at["concentration"])
    chord = (2 * namespace_of(theta).sin(theta / 2) * weight).sum(-1) / weight.sum(-1)
    return {**right, "lipschitz_bias": chord}


FALSIFIERS = (
    Falsifier("order off by a half", "ν = m/2 in place of (m−1)/2", order_shift=0.5),
    Falsifier.after("first order only", "defect K/(2λ)", _defect_of_first_order),
    Falsifier.after("chordal distance", "mean chord in place of mean angle", _mean_chord),
)


# --- the simulation ---

RADIAL_NODES = 220


# One deterministic sum: in NumPy, since every degree has a prefix of another length to compile for.
def simulate(
    *, key: Key[Array, ""], trials: int, sphere_dim: int, degree: int, concentration: float
) -> dict[str, Estimate]:
    """A head whose weighted prefix is a quadrature rule fine enough to stand for infinity.

    The rule is a fan of circles around the query. A zonal harmonic enters through three
    coordinates only (along the query, along its pole, and the rest), so centres have three.
    """
    centres, log_weights, angle = _quadrature_prefix(sphere_dim, degree, concentration)
    tilt = 0.4 / (1 + degree)  # close enough to the query for the harmonic to be large there
    pole = np.array([np.cos(tilt), np.sin(tilt), 0.0])
    harmonic = zonal(centres @ pole, sphere_dim, degree)
    at_query = float(zonal(np.array([np.cos(tilt)]), sphere_dim, degree)[0])
    defects = _zonal_defect(angle, sphere_dim, degree)
    values = np.stack([harmonic / at_query, defects, angle], axis=1)
    # The query is the first axis.
    multiplier, defect, bias = (
        special.softmax(concentration * (centres[:, 0] - 1) + log_weights) @ values
    )
    return {
        "multiplier": exact_estimate(multiplier, trials),
        "defect": exact_estimate(defect, trials),
        "lipschitz_bias": exact_estimate(bias, trials),
    }


def _quadrature_prefix(
    m: int, degree: int, lam: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (P, 3), log-weights (P) and angles to the query (P) of the quadrature prefix."""
    grid = np.concatenate([np.geomspace(1e-8, 1e-2, 2000), np.linspace(1e-2, np.pi, 6002)[1:-1]])
    density = (m - 1) * np.log(np.sin(grid)) - 2 * lam * np.sin(grid / 2) ** 2
    inside = grid[density > density.max() - 80]
    low = 0.0 if inside[0] < 2e-8 or m == 1 else inside[0]
    high = np.pi if inside[-1] > 3.14 else inside[-1]
    node, weight = np.polynomial.legendre.leggauss(RADIAL_NODES)
    theta = low + (high - low) * (node + 1) / 2
    radial = np.log(weight) + (m - 1) * np.log(np.sin(theta))
    if m == 1:
        along, share = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    else:
        along, share = special.roots_jacobi(degree + 2, (m - 3) / 2, (m - 3) / 2)
    angle, across = np.repeat(theta, along.size), np.tile(along, theta.size)
    third = np.sqrt(np.maximum(1 - across**2, 0))
    centres = np.stack([np.cos(angle), np.sin(angle) * across, np.sin(angle) * third], axis=1)
    log_weights = np.repeat(radial, along.size) + np.tile(np.log(share / share.sum()), theta.size)
    return centres, log_weights, angle


def _zonal_defect(angle: np.ndarray, m: int, degree: int) -> np.ndarray:
    """1 − P_k(cos θ) by a recurrence of its own, since it may be far below rounding of 1."""
    gap, cosine = 2 * np.sin(angle / 2) ** 2, np.cos(angle)
    previous, current = np.zeros_like(gap), gap
    for k in range(1, degree):
        following = ((2 * k + m - 1) * (cosine * current + gap) - k * previous) / (k + m - 1)
        previous, current = current, following
    return current if degree else previous


# --- the design ---

_QUICK_GRID = {
    "sphere_dim": (1, 2, 3, 9), "degree": (1, 3, 8),
    "concentration": (0.05, 1.0, 10.0, 100.0, 1e4),
}  # fmt: skip
_FULL_GRID = {
    "sphere_dim": (1, 2, 3, 4, 9, 40, 400), "degree": (0, 1, 2, 3, 8, 20),
    "concentration": (0.01, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e5, 1e7),
}  # fmt: skip

FIGURE = Curves(
    x="concentration", y="defect", lines=tuple(np.geomspace(0.05, 1e4, 61).tolist()),
    design=Design.product({}, {"sphere_dim": (1, 2, 3), "degree": (1, 3, 8),
                               "concentration": (0.1, 1.0, 10.0, 100.0, 1000.0)}, trials=2),
    x_label="concentration λ", y_label="share that is lost, 1 − ρ",
    title="What an infinite prefix takes from a harmonic of degree k",
    series="degree", series_label="k = {value}", panel="sphere_dim",
    panel_label="sphere of dimension {value}", log_x=True, log_y=True,
)  # fmt: skip

CLAIM = Claim(
    id="universal.sphere_limit",
    title="An infinite prefix multiplies harmonics by a Bessel ratio",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICML 2024; expansion and Lipschitz bias derived here",
    parameters=(SPHERE_DIM, replace(DEGREE, high=10_000), CONCENTRATION),
    quantities=(
        Quantity("multiplier", "factor on harmonics of the degree", tolerance=1e-12,
                 symbol=r"\rho_k"),
        Quantity("defect", "one minus the factor", tolerance=1e-10, relative=True,
                 symbol=r"1-\rho_k"),
        Quantity("lipschitz_bias", "largest error over 1-Lipschitz functions", tolerance=1e-10,
                 relative=True, symbol=r"E_{\mathrm{vMF}}[\theta]"),
        Quantity("log_multiplier", "logarithm of the factor", symbol=r"\log\rho_k",
                 unmeasured=True),
    ),
    compared=Compared(
        {"sphere_dim": (1, 401), "degree": (0, 1000), "concentration": (1e-2, 1e7)},
        elsewhere="digits of the Bessel ratio are lost slowly beyond",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design.product({}, _QUICK_GRID, trials=2),
        "full": Design.product({}, _FULL_GRID, trials=2),
    },
    broadcasts="all parameters",
    traceable=True,
    figure=FIGURE,
)  # fmt: skip
