r"""Claim ``universal.optimal_values``: better values than the function's make errors spectral."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Key
from scipy import integrate

from jaxprompt.core.claim import Claim, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.core.pointwise import evaluate_pointwise
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.networks import circle_head
from jaxprompt.universal.numerics import bessel, equispaced, point_sets
from jaxprompt.universal.parameters import CENTRES, CONCENTRATION, DEGREE

__all__ = ["CLAIM", "METHODS", "closed_form", "simulate"]

STATEMENT = r"""
On the circle, with $N$ equispaced centres and the target $e^{ik\theta}$, let the values be
$c\,f(b_i)$ with $c=1$ (raw), $c=1/\rho_k$ (deconvolution), $c=1+k^2/(2\lambda)$ (two terms,
$f-\Delta f/(2\lambda)$) or the least-squares choice. After deconvolution only aliases are left,
$$ 1-\frac{h}{\rho_k\,e^{ik\theta}} = \frac{\sum_{l\ne0}(\rho_k I_{lN}-I_{k+lN})\,e^{il\psi}}
   {\rho_k\sum_l I_{lN}\,e^{il\psi}}, $$
which fall spectrally with $N$, where the raw error is at least $1-\rho_k\approx k^2/(2\lambda)$.
The price is the size of the values, $|v|=1/\rho_k$, which grows as $\lambda^{-k}$ for small
$\lambda$.
"""

DERIVATION = r"""
The head's output for $e^{ik\theta}$ is $\rho_k$ times the target plus aliases. The problem is
invariant under rotation by $2\pi/N$, so the least-squares values are a multiple of the raw ones
too: with $e$ the deconvolved error and $\langle\cdot\rangle$ the mean over the phase, the factor
is $(1-\langle\bar e\rangle)/\langle|1-e|^2\rangle/\rho_k$.

*Tolerances.* 1e-12 of the errors: outputs of size 1 are rounded to 1e-16, times the size of the
values, below 1e2 here. 1e-9 of the values, since those of least squares are rounded to 1e-16 times
the condition number $1/\rho_{N/2}$, below 1e6.
"""


# --- the closed form ---

METHODS = ("raw", "deconvolution", "two_term", "least_squares")
PHASES = 512
"""Phases whose mean is that over the phase while λ ≤ N²: the error then has few harmonics."""


def closed_form(
    *, centres: ArrayLike, concentration: ArrayLike, degree: ArrayLike,
    method: str = "deconvolution", deconvolved_order: float = 0.0, laplacian_weight: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """Largest and root-mean-square error over the phase, and the largest value |v|.

    `centres`, `concentration` and `degree` broadcast; float64. The target has modulus 1. Falsifiers
    change the last two arguments, which the theory has at their defaults: the order ν of the ratio
    I_{k+ν}/I_ν that deconvolution divides by, and the factor of −Δf/λ in the two terms.
    """

    def errors_at(centres: int, concentration: float, degree: int) -> dict[str, float]:
        return _errors_over_phase(
            int(centres), float(concentration), int(degree), method,
            deconvolved_order, laplacian_weight,
        )  # fmt: skip

    return evaluate_pointwise(
        errors_at, centres=centres, concentration=concentration, degree=degree
    )


def _errors_over_phase(
    count: int, lam: float, k: int, method: str, deconvolved_order: float, laplacian_weight: float
) -> dict[str, float]:
    circle = _circle(count, lam, k)
    phase, weight = _phase_rule(count, lam, k)
    error = circle.error_at(phase)
    factor = np.exp(circle.log_factor)
    # The values are `scale` times the raw ones; `defect` is 1 − scale·ρ_k, without cancellation.
    if method == "raw":
        scale, defect = 1.0, -np.expm1(circle.log_factor)
    elif method == "deconvolution":
        scale, defect = _deconvolution(circle.log_factor, lam, k, deconvolved_order)
    elif method == "two_term":
        scale = 1 + laplacian_weight * k * k / lam
        defect = 1 - scale * factor
    else:
        mean_error = float((weight * np.real(error)).sum())
        mean_square = float((weight * np.abs(error) ** 2).sum())
        mean_power = float((weight * np.abs(1 - error) ** 2).sum())
        defect = (mean_square - mean_error) / mean_power
        scale = abs(1 - defect) / factor

    def modulus(psi: np.ndarray) -> np.ndarray:
        return np.abs(defect + (1 - defect) * circle.error_at(psi))

    largest = equispaced.enlarged_maximum(modulus, equispaced.phases_that_resolve(count, lam, k))
    square = float((weight * modulus(phase) ** 2).sum())
    return {"sup_error": largest, "rms_error": float(np.sqrt(square)), "value_norm": float(scale)}


def _deconvolution(log_factor: float, lam: float, k: int, order: float) -> tuple[float, float]:
    """Scale 1/ρ_k of the values, and 1 − ρ_k times that; ρ_k from Bessel functions of `order`."""
    if order == 0:
        return 1 / np.exp(log_factor), 0.0
    with jax.enable_x64(True):
        other = float(bessel.log_ratio(order, k, lam))
    return np.exp(-other), -np.expm1(log_factor - other)


class _Circle(NamedTuple):
    """One equispaced prefix: log-ratio ρ_k, and the deconvolved error at an array of phases."""

    log_factor: float
    error_at: Callable[[np.ndarray], np.ndarray]


def _circle(count: int, lam: float, k: int) -> _Circle:
    if lam > count**2:  # the sums over aliases cancel nearly to nothing: over the centres instead
        with jax.enable_x64(True):
            target = float(bessel.log_ratio(0.0, k, lam))

        def over_centres(phase: np.ndarray) -> np.ndarray:
            raw = equispaced.relative_error(count, lam, k, phase)
            return (raw + np.expm1(target)) / np.exp(target)

        return _Circle(target, over_centres)
    reach = 2 ** int(np.ceil(np.log2((k + 12 + 9 * np.sqrt(lam)) / count + 2)))
    index = np.arange(-reach, reach + 1)
    with jax.enable_x64(True):
        orders = np.abs(np.stack([index * count, index * count + k, 0 * index + k]))
        zero, alias, log_factor = np.asarray(bessel.log_ratio(0.0, orders, lam))
    above = np.exp(zero) - np.exp(alias - log_factor)
    above[index == 0] = 0.0  # by construction: this term is what deconvolution removes

    def over_aliases(phase: np.ndarray) -> np.ndarray:
        wave = np.exp(1j * phase[:, None] * index)
        return (wave @ above) / (wave @ np.exp(zero))

    return _Circle(float(log_factor[0]), over_aliases)


def _phase_rule(count: int, lam: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Phases and weights of a mean over the phase, for what is even about 0 and about π."""
    if lam <= count**2:
        return 2 * np.pi * np.arange(PHASES) / PHASES, np.full(PHASES, 1 / PHASES)
    # Beyond, the nearest centre changes within a layer about π: panels on both sides of its edge.
    layer = equispaced.LAYER_WIDTHS * count / (2 * lam * np.sin(np.pi / count))
    edge = max(np.pi - layer, 0.0)
    panels = 8 + int(np.ceil(k / count))
    cuts = np.concatenate([
        np.linspace(0, edge, panels + 1)[:-1] if edge else np.zeros(0),
        np.linspace(edge, np.pi, panels + equispaced.LAYER_WIDTHS + 1),
    ])  # fmt: skip
    node, weight = np.polynomial.legendre.leggauss(16)
    width = np.diff(cuts)
    phase = cuts[:-1, None] + width[:, None] * (node + 1) / 2
    return phase.ravel(), (width[:, None] * weight / (2 * np.pi)).ravel()


def _as_good_as_raw(
    *, centres: ArrayLike, concentration: ArrayLike, degree: ArrayLike,
    method: str = "deconvolution",
) -> dict[str, Any]:  # fmt: skip
    return closed_form(centres=centres, concentration=concentration, degree=degree, method="raw")


FALSIFIERS = (
    Falsifier("order off by a half", "deconvolution by I_{k+1/2}/I_{1/2}", deconvolved_order=0.5),
    Falsifier("Δ/λ", "two-term values f − Δf/λ in place of f − Δf/(2λ)", laplacian_weight=1.0),
    Falsifier.after("norm +2 %", "value norm two per cent too large",
                    lambda right, _: {**right, "value_norm": 1.02 * right["value_norm"]}),
    Falsifier("no gain", "every method as good as the raw values", _as_good_as_raw),
)  # fmt: skip


# --- the simulation ---


# Searches by SciPy, adapted to what they find, cannot be traced, and nothing is drawn.
def simulate(
    *, key: Key[Array, ""], trials: int, centres: int, concentration: float, degree: int,
    method: str = "deconvolution",
) -> dict[str, Estimate]:  # fmt: skip
    """A head with such values on the circle; least squares solves for real values on a grid.

    The largest error is found by bisection on the head's own errors, and the mean square by
    adaptive quadrature where the head is sharp: by other routes than the closed form's.
    """
    if method == "least_squares" and concentration > centres**2:
        raise ParameterError(
            "concentration", concentration, f"at most {centres**2} to simulate least squares",
            "lower it: a fit on a grid does not see kernels that are so much narrower", CLAIM.id,
        )  # fmt: skip
    angle = 2 * np.pi * np.arange(centres) / centres
    raw = np.stack([np.cos(degree * angle), np.sin(degree * angle)], axis=1)
    if method == "least_squares":
        values = _fitted_values(centres, concentration, degree)
    else:
        values = raw * _scale_of_values(method, concentration, degree)
    prefix = point_sets.equispaced(centres)

    def error(psi: np.ndarray) -> np.ndarray:
        theta = psi / centres
        query = np.stack([np.cos(theta), np.sin(theta)], axis=1)
        target = np.stack([np.cos(degree * theta), np.sin(degree * theta)], axis=1)
        output = circle_head.head_outputs(query, prefix, values, concentration)
        return np.linalg.norm(output - target, axis=1)

    largest = circle_head.bisected_maximum(error, PHASES * (1 + degree // (8 * centres)))[1]
    if concentration <= centres**2:
        square = float((error(2 * np.pi * np.arange(PHASES) / PHASES) ** 2).mean())
    else:
        square = integrate.quad(
            lambda psi: float(error(np.array([psi]))[0]) ** 2, 0, np.pi, epsrel=1e-10, limit=500,
            points=[np.pi - shift for shift in (1e-6, 1e-4, 1e-2)],
        )[0] / np.pi  # fmt: skip
    return {
        "sup_error": exact_estimate(largest, trials),
        "rms_error": exact_estimate(np.sqrt(square), trials),
        "value_norm": exact_estimate(np.linalg.norm(values, axis=1).max(), trials),
    }


def _scale_of_values(method: str, lam: float, k: int) -> float:
    """Factor of the values, ρ_k measured as the mean of e^{λ cos α} cos kα, not from Bessel."""
    if method == "raw":
        return 1.0
    if method == "two_term":
        return 1 + k * k / (2 * lam)
    alpha = 2 * np.pi * np.arange(4096) / 4096
    kernel = np.exp(-2 * lam * np.sin(alpha / 2) ** 2)
    return float(kernel.sum() / (kernel * np.cos(k * alpha)).sum())


def _fitted_values(count: int, lam: float, k: int) -> np.ndarray:
    """Free values fitted on a grid that the rotation by one centre leaves as it is."""
    per_cell = 64  # as a mean over phases: sharp kernels need many
    theta = 2 * np.pi * np.arange(per_cell * count) / (per_cell * count)
    score = lam * np.cos(theta[:, None] - 2 * np.pi * np.arange(count) / count)
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    target = np.stack([np.cos(k * theta), np.sin(k * theta)], axis=1)
    return np.linalg.lstsq(weight, target, rcond=None)[0]


# --- the design ---

_QUICK_CIRCLES = ((8, 2.0, 1), (16, 4.0, 1), (16, 4.0, 3), (16, 12.0, 2), (32, 20.0, 5))
"""Numbers of centres, concentrations and degrees."""

_FULL_CONCENTRATIONS = {
    8: (2.0, 4.0, 30.0), 16: (2.0, 4.0, 10.0, 30.0), 32: (10.0, 30.0, 100.0),
    64: (30.0, 100.0, 300.0),
}  # fmt: skip
"""For each number of centres. At smaller λ the head's rows are dependent to rounding, and least
squares has no single answer: its condition number is 1/ρ_{N/2}(λ)."""


def _with_every_method(heads: Iterable[tuple[int, float, int]]) -> Design:
    return Design(
        *(Run(centres=centres, concentration=concentration, degree=degree, method=method)
          for centres, concentration, degree in heads for method in METHODS), trials=2,
    )  # fmt: skip


FIGURE = Curves(
    x="concentration", y="sup_error", lines=tuple(np.geomspace(1, 60, 61).tolist()),
    design=Design.product(
        {"degree": 1}, {"centres": (16, 32), "method": METHODS,
                        "concentration": (2.0, 5.0, 12.0, 30.0)}, trials=2,
    ),
    x_label="concentration λ", y_label="largest error, target exp(iθ)",
    title="Choosing the values: the function's own, or better ones",
    series="method", series_label="{value} values",
    panel="centres", panel_label="N = {value}", log_x=True, log_y=True,
    y_range=(1e-17, 3.0),
    caption="points below 1e-15 are rounding",
)  # fmt: skip

CLAIM = Claim(
    id="universal.optimal_values",
    title="Better values than the function's own: the error becomes spectral",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="derived here",
    parameters=(
        replace(CENTRES, low=3, high=4096),
        replace(CONCENTRATION, high=1e9),
        replace(DEGREE, low=1),
        Parameter("method", "choice", "how values are chosen", choices=METHODS,
                  default="deconvolution"),
    ),
    quantities=(
        Quantity("sup_error", "largest error over the phase", tolerance=1e-12),
        Quantity("rms_error", "root-mean-square error over the phase", tolerance=1e-12),
        Quantity("value_norm", "largest value |v|, target of modulus 1", tolerance=1e-9,
                 relative=True),
    ),
    compared=Compared(
        {"centres": (8, 256), "concentration": (1.0, 1e4), "degree": (1, 3),
         "method": METHODS},
        elsewhere="sums keep their digits; values of length 1e8 and more leave errors of 1e-8",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _with_every_method(_QUICK_CIRCLES),
        "full": _with_every_method(
            (centres, concentration, degree)
            for centres, concentrations in _FULL_CONCENTRATIONS.items()
            for concentration in concentrations
            for degree in (1, 2, 3)
        ),
    },
    broadcasts="centres, concentration, degree",
    figure=FIGURE,
)  # fmt: skip
