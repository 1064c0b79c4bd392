r"""Claim ``universal.circle_error``: the exact error of equispaced centres on the circle."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key
from scipy import optimize

from jaxprompt.core.claim import (
    Claim,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.core.pointwise import evaluate_pointwise
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.networks import head
from jaxprompt.universal.networks.circle_head import bisected_maximum, head_outputs
from jaxprompt.universal.numerics import bessel, point_sets
from jaxprompt.universal.numerics.equispaced import (
    enlarged_maximum,
    modulus_of_phase,
    phases_that_resolve,
    relative_error,
)
from jaxprompt.universal.parameters import CENTRES, CONCENTRATION, DEGREE

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
For $N$ equispaced centres on the circle at offset $\varphi$, values $v_i=f(b_i)$ and the target
$f(\theta)=e^{ik\theta}$, the head's output $h$ has, with $\psi=N(\theta-\varphi)$, the relative
error
$$ 1-h(\theta)e^{-ik\theta}
   = 1-\frac{\sum_l I_{k+lN}(\lambda)\,e^{il\psi}}{\sum_l I_{lN}(\lambda)\,e^{il\psi}} . $$
A small $\lambda$ smooths too much, a large one lets single centres show; the worst phase is in
general neither at a node ($\psi=0$) nor at a midpoint ($\psi=\pi$).
"""

DERIVATION = r"""
$e^{\lambda\cos\alpha}=\sum_n I_n(\lambda)e^{in\alpha}$; summing over the centres keeps, by
aliasing, the orders $n\equiv k$ modulo $N$ in the numerator and $n\equiv0$ in the denominator.
When $\lambda>N^2$ both sums cancel nearly to nothing, and the same quantity is evaluated over the
centres, $\sum_j w_j\,(1-e^{ik\delta_j})$ with $\delta_j$ the angle from the query to centre $j$.
The supremum over the phase is searched on a grid that resolves both scales on which the error
changes: $N/k$, of the target, and $N^2/(2\pi\lambda)$ about $\psi=\pi$, where one nearest centre
takes over from the other. For $1\le k<N/2$ the error goes to $1$ as $\lambda\to0$, is smaller in
between and tends to $2\sin(k\pi/2N)$ at large $\lambda$; for $k\ge N/2$ none brings it under
$1$, and none is best.

*Tolerances.* 2e-13 of an error at a phase: the head rounds a score of size $\lambda$ to $\lambda$
ulps, 7e-14 at $\lambda=300$. 1e-9 of the suprema, whose searches interpolate to 1e-10, and a
relative error near 1e-4 of outputs near 1 loses four digits more. 1e-6 of the best $\lambda$,
about which the error is flat.
"""


# --- the closed form ---

DECADES_OF_BEST = (-2.0, 0.3)
"""The best λ over N² lies between these powers of ten: 0.05 for (N, k) = (4096, 1), and 0.34 as k
nears N/2."""


def closed_form(
    *, centres: ArrayLike, degree: ArrayLike, concentration: ArrayLike | None = None,
    phase: ArrayLike | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Error at a phase; without `phase` its supremum; without `concentration` the best of those.

    The parameters broadcast; float64 arrays of their shape, or floats.
    """
    if concentration is None:
        return evaluate_pointwise(_best_over_concentrations, centres=centres, degree=degree)
    if phase is None:
        return evaluate_pointwise(
            _largest_over_phases, centres=centres, degree=degree, concentration=concentration
        )
    error = relative_error(centres, concentration, degree, phase)
    return {"error": np.abs(error), "error_real": np.real(error), "error_imag": np.imag(error)}


def _best_over_concentrations(centres: int, degree: int) -> dict[str, float]:
    best, error = _best_concentration(int(centres), int(degree))
    return {"best_concentration": best, "best_error": error}


def _largest_over_phases(centres: int, degree: int, concentration: float) -> dict[str, float]:
    return {"sup_error": _largest_error(int(centres), float(concentration), int(degree))}


@functools.lru_cache(maxsize=4096)
def _largest_error(count: int, lam: float, k: int) -> float:
    return enlarged_maximum(modulus_of_phase(count, lam, k), phases_that_resolve(count, lam, k))


@functools.lru_cache(maxsize=1024)
def _best_concentration(count: int, k: int) -> tuple[float, float]:
    """The concentration that minimises the supremum, and the supremum there."""

    def error(log_lam: float) -> float:
        return _largest_error(count, math.exp(log_lam), k)

    scale = np.log(count**2 * 10.0 ** np.arange(*DECADES_OF_BEST, 0.1))
    best = int(np.argmin([error(t) for t in scale]))
    low, high = scale[max(best - 1, 0)], scale[min(best + 1, len(scale) - 1)]
    result: Any = optimize.minimize_scalar(
        error, bounds=(low, high), method="bounded", options={"xatol": 1e-4}
    )
    # Near the bottom the error is flat to rounding; a quartic through points further out
    # finds where it is to about 1e-10.
    step = 2e-3 * np.arange(-2, 3)
    fit = np.polynomial.Polynomial.fit(step, [error(result.x + h) for h in step], 4).convert()
    roots = fit.deriv().roots()
    bottom = float(roots[np.abs(roots).argmin()].real) if roots.size else math.inf
    if abs(bottom) <= 2e-3 and abs(fit(bottom) - error(result.x + bottom)) < 1e-9 * result.fun:
        return math.exp(result.x + bottom), float(fit(bottom))
    # A kink, where two phases are equally bad: a search by values finds it to rounding.
    result = optimize.minimize_scalar(
        error, bounds=(result.x - 4e-3, result.x + 4e-3), method="bounded",
        options={"xatol": 1e-11},
    )  # fmt: skip
    return math.exp(result.x), float(result.fun)


def _at_the_nodes(right: Mapping[str, Any], at: Mapping[str, Any]) -> Mapping[str, Any]:
    if "best_error" in right:
        return right
    error = relative_error(at["centres"], at["concentration"], at["degree"], 0.0)
    return _only_those_in(right, np.abs(error), np.real(error), np.imag(error))


def _without_aliases(right: Mapping[str, Any], at: Mapping[str, Any]) -> Mapping[str, Any]:
    if "best_error" in right:
        return right
    defect = _error_of_infinite_prefix(at["concentration"], at["degree"])
    return _only_those_in(right, defect, defect, 0.0)


def _only_those_in(
    right: Mapping[str, Any], modulus: Any, real: Any, imaginary: Any
) -> Mapping[str, Any]:
    """A wrong error under the names that a prediction at a phase, or of a supremum, has."""
    wrong = {"sup_error": modulus, "error": modulus, "error_real": real, "error_imag": imaginary}
    return {name: wrong[name] for name in right}


def _error_of_infinite_prefix(concentration: ArrayLike, degree: ArrayLike) -> np.ndarray:
    """1 − ρ_k, at every phase; float64, the arguments broadcast."""
    with jax.enable_x64(True):
        return np.asarray(bessel.defect(0.0, degree, np.asarray(concentration, np.float64)))


FALSIFIERS = (
    Falsifier.after("nodes only", "error taken at the centres", _at_the_nodes),
    Falsifier.after("infinite prefix", "no aliasing: 1 − ρ_k", _without_aliases),
    # Bessel functions are real, so another sign of the phase conjugates the error.
    Falsifier.after("phase reversed", "e^{−ilψ} in place of e^{ilψ}", lambda right, _: {
        name: -value if name == "error_imag" else value for name, value in right.items()}),
    Falsifier.after("best +3 %", "best λ and error three per cent too large", lambda right, _: {
        name: value * (1.03 if name.startswith("best") else 1) for name, value in right.items()}),
)  # fmt: skip


# --- the simulation ---


# Searches by SciPy, adapted to what they find, cannot be traced, and nothing is drawn.
def simulate(
    *, key: Key[Array, ""], trials: int, centres: int, degree: int,
    concentration: float | None = None, phase: float | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """A head with `centres` equispaced keys at an arbitrary offset, queried at the phase.

    Suprema are found by bisection on the head's own errors over the whole period, and the best
    concentration as the zero of the derivative of its worst error: by other routes than the
    closed form's, which it shares no search with.
    """
    measured = _measure_head(centres, degree, concentration, phase)
    return {name: exact_estimate(value, trials) for name, value in measured.items()}


def _measure_head(
    centres: int, degree: int, concentration: float | None, phase: float | None
) -> dict[str, float]:
    if phase is not None and concentration is not None:
        error = _head_error(centres, concentration, degree, np.array([phase]))[0]
        return {"error": abs(error), "error_real": error.real, "error_imag": error.imag}
    if concentration is not None:
        return {"sup_error": _worst_phase(centres, concentration, degree)[1]}
    if degree == 0:  # a constant is met exactly at any concentration
        return {"best_concentration": 0.1 * centres**2, "best_error": 0.0}

    def slope(log_lam: float) -> float:
        """Of the worst error in log λ: at the worst phase itself its derivative is 0."""
        psi, _ = _worst_phase(centres, math.exp(log_lam), degree)
        with jax.enable_x64(True):
            return float(_error_slope(log_lam, *_head_inputs(centres, degree, np.array([psi]))))

    low, high = (math.log(share * centres**2) for share in (0.02, 1.5))
    root: Any = optimize.brentq(slope, low, high, xtol=1e-11)
    best = math.exp(root)
    return {
        "best_concentration": best, "best_error": _worst_phase(centres, best, degree)[1]
    }  # fmt: skip


def _worst_phase(count: int, lam: float, k: int) -> tuple[float, float]:
    """The phase in [0, 2π] at which the head's error is largest, and the error there."""
    pieces = 64 * (4 + math.ceil(k / count))
    return bisected_maximum(lambda psi: np.abs(_head_error(count, lam, k, psi)), pieces)


def _head_inputs(
    count: int, k: int, psi: Float[np.ndarray, " phases"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries and centres on the circle, values at the centres, and the target at the queries."""
    offset = 0.3
    theta = offset + psi / count
    query = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    angle = offset + 2 * np.pi * np.arange(count) / count
    values = np.stack([np.cos(k * angle), np.sin(k * angle)], axis=1)
    target = np.stack([np.cos(k * theta), np.sin(k * theta)], axis=1)
    return query, point_sets.equispaced(count, offset), values, target


def _head_error(count: int, lam: float, k: int, psi: np.ndarray) -> np.ndarray:
    query, centres, values, target = _head_inputs(count, k, psi)
    output = head_outputs(query, centres, values, lam)
    return 1 - (output[:, 0] + 1j * output[:, 1]) * (target[:, 0] - 1j * target[:, 1])


@jax.jit
@jax.grad
def _error_slope(
    log_lam: ArrayLike,
    query: Float[Array, "1 2"],
    centres: Float[Array, "N 2"],
    values: Float[Array, "N 2"],
    target: Float[Array, "1 2"],
) -> Float[Array, ""]:
    return jnp.linalg.norm(head.core(query, centres, values, jnp.exp(log_lam))[0] - target)


# --- the parameters ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """A best concentration needs a target that so many centres can follow."""
    if params.get("concentration") is None:
        centres, degree = np.broadcast_arrays(params["centres"], params["degree"])
        if ((degree > 0) & (2 * degree >= centres)).any():
            raise ParameterError(
                "degree", params["degree"], "below half the centres without `concentration`",
                "use more centres: otherwise no concentration brings the error below 1, and the "
                "smaller, the better", where,
            )  # fmt: skip
        if params.get("phase") is not None:
            raise ParameterError(
                "phase", params["phase"], "given together with `concentration` only",
                "give both, or leave it out", where,
            )  # fmt: skip
    return params


# --- the design ---

_PHASES_OF_THE_CHECK = (0.0, 0.7, math.pi / 2, math.pi, 4.0)
_EQUISPACED_HEADS = (
    {"centres": 8, "concentration": 10.0, "degree": 1},
    {"centres": 16, "concentration": 40.0, "degree": 2},
    {"centres": 5, "concentration": 60.0, "degree": 1},
    {"centres": 64, "concentration": 300.0, "degree": 5},
)
_RUNS_AT_PHASES_AND_WORST = (
    *(Run(setting, phase=phase) for setting in _EQUISPACED_HEADS
      for phase in _PHASES_OF_THE_CHECK),
    *(Run(centres=centres, concentration=concentration, degree=1)
      for centres in (8, 32) for concentration in (1.0, 8.0, 90.0)),
)  # fmt: skip
_RUNS_AT_QUICK_BEST = (Run(centres=8, degree=1), Run(centres=32, degree=1))
_RUNS_AT_FULL_BEST = tuple(
    Run(centres=centres, degree=degree)
    for centres in (8, 16, 32, 64, 128, 256)
    for degree in (1, 2)
)


def _infinite_prefix_line(concentration: float, degree: int) -> float:
    return float(_error_of_infinite_prefix(concentration, degree))


_BEST_FOR_THE_FIGURE = {8: 8.5, 16: 26.9, 32: 92.0}
"""About the best concentration for each number of centres: points lie on both sides of it."""

FIGURE = Curves(
    x="concentration", y="sup_error", lines=tuple(np.geomspace(0.5, 400, 81).tolist()),
    design=Design(
        *(Run(centres=centres, degree=1, concentration=best * share)
          for centres, best in _BEST_FOR_THE_FIGURE.items()
          for share in (0.1, 0.3, 1.0, 2.5, 4.0)), trials=2,
    ),
    x_label="concentration λ", y_label="largest error, target exp(iθ)",
    title="Too smooth or too rough: the best λ",
    series="centres", series_label="N = {value}", log_x=True, log_y=True,
    extra=(ExtraLine("infinite prefix", _infinite_prefix_line),),
)  # fmt: skip

CLAIM = Claim(
    id="universal.circle_error",
    title="The exact error of equispaced centres on the circle",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="derived here",
    parameters=(
        replace(CENTRES, high=4096),
        DEGREE,
        replace(CONCENTRATION, high=1e9, default=None),
        Parameter("phase", "real", "N times the angle from a centre", r"\psi", low=-1000,
                  high=1000, default=None),
    ),
    quantities=(
        Quantity("error", "modulus of the relative error", tolerance=2e-13),
        Quantity("error_real", "its real part", tolerance=2e-13),
        Quantity("error_imag", "its imaginary part", tolerance=2e-13),
        Quantity("sup_error", "largest modulus over the phase", tolerance=1e-9, relative=True),
        Quantity("best_error", "least such supremum over λ", tolerance=1e-9, relative=True),
        Quantity("best_concentration", "the λ that attains it", tolerance=1e-6, relative=True),
    ),
    compared=Compared(
        {"centres": (1, 4096), "degree": (0, 1000), "concentration": (1e-2, 1e9),
         "phase": (-1000.0, 1000.0)},
        elsewhere="sums keep their digits; the largest error over phases and the best λ are "
        "searched for, and compared with denser searches for up to 128 centres",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    check_parameters=validate,
    designs={
        "quick": Design(*_RUNS_AT_PHASES_AND_WORST, *_RUNS_AT_QUICK_BEST, trials=2),
        "full": Design(*_RUNS_AT_PHASES_AND_WORST, *_RUNS_AT_FULL_BEST, trials=2),
    },
    broadcasts="all parameters",
    figure=FIGURE,
)  # fmt: skip
