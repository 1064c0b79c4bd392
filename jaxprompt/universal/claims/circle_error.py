r"""`universal.circle_error`: the exact error of finitely many equispaced centres on the circle."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Key
from scipy import optimize

from jaxprompt.core.claim import Claim, Curves, Design, ExtraLine, Falsifier, Quantity, Relation
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import bessel, point_sets
from jaxprompt.universal.numerics.exact import compare_exact, exact
from jaxprompt.universal.parameters import CENTRES, CONCENTRATION, DEGREE

__all__ = ["CLAIM", "closed_form", "relative_error"]

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
"""

PHASES = 129
FIRST_DECADES = (-3.5, 0.3)
"""The best λ is sought between these powers of ten times N² max(1, k)."""


# --- the closed form -----------------------------------------------------------------------------


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
        result[spectral] = _spectral(count[spectral], lam[spectral], k[spectral], psi[spectral])
    for i in np.flatnonzero(~spectral):
        result[i] = _nodal(int(count[i]), lam[i], k[i], psi[i])
    return result.reshape(shape)


def _spectral(
    count: Float[np.ndarray, " n"],
    lam: Float[np.ndarray, " n"],
    k: Float[np.ndarray, " n"],
    psi: Float[np.ndarray, " n"],
) -> Complex[np.ndarray, " n"]:
    above, below, index = _coefficients(count, lam, k)
    wave = np.exp(1j * index[:, None] * psi)
    return (above * wave).sum(0) / (below * wave).sum(0)


def _coefficients(
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


def _nodal(count: int, lam: float, k: float, psi: float) -> complex:
    delta = (2 * np.pi * np.arange(count) - psi) / count
    weight = np.exp(-2 * lam * (np.sin(delta / 2) ** 2 - (np.sin(delta / 2) ** 2).min()))
    lack = 2 * np.sin(k * delta / 2) ** 2 - 1j * np.sin(k * delta)
    return complex((weight * lack).sum() / weight.sum())


def _modulus(count: int, lam: float, k: int, psi: np.ndarray) -> np.ndarray:
    if lam > count**2:
        return np.abs([_nodal(count, lam, k, p) for p in np.atleast_1d(psi)])
    above, below, index = _coefficients(np.array([count]), np.array([lam]), np.array([k]))
    wave = np.exp(1j * np.atleast_1d(psi)[:, None] * index)
    return np.abs((wave @ above)[:, 0] / (wave @ below)[:, 0])


def supremum(modulus: Callable[[np.ndarray], np.ndarray]) -> float:
    """Largest value over phases in [0, π] of a function that takes arrays of phases."""
    psi = np.linspace(0, np.pi, PHASES)
    while True:
        values = modulus(psi)
        best = int(values.argmax())
        if not 0 < best < len(psi) - 1:
            # The modulus is even about 0 and about π: an end that wins is a maximum itself.
            return float(values[best])
        if psi[1] - psi[0] < 1e-3:
            # Three points h apart give the top of a smooth curve to h⁴.
            before, top, after = values[best - 1 : best + 2]
            bend = 2 * top - before - after
            return float(top + (after - before) ** 2 / (8 * bend) if bend > 0 else top)
        psi = np.linspace(psi[best - 1], psi[best + 1], 33)


def least(sup_error: Callable[[float], float], count: int, k: int) -> tuple[float, float]:
    """The concentration that minimises `sup_error(λ)`, and the error there."""
    scale = count**2 * 10.0 ** np.arange(*FIRST_DECADES, 0.1) / max(k, 1)
    coarse = [sup_error(lam) for lam in scale]
    best = int(np.argmin(coarse))
    low, high = np.log(scale[max(best - 1, 0)]), np.log(scale[min(best + 1, len(scale) - 1)])
    result: Any = optimize.minimize_scalar(
        lambda t: sup_error(math.exp(t)), bounds=(low, high), method="bounded",
        options={"xatol": 1e-4},
    )  # fmt: skip
    # Near the bottom the error is flat to rounding; a quartic through points further out
    # finds its place to about 1e-10.
    step = 2e-3 * np.arange(-2, 3)
    fit = np.polynomial.Polynomial.fit(
        step, [sup_error(math.exp(result.x + h)) for h in step], 4
    ).convert()
    roots = fit.deriv().roots()
    bottom = float(roots[np.abs(roots).argmin()].real) if roots.size else math.inf
    if abs(bottom) > 2e-3:  # a kink, the end of the range, or a constant: no smooth bottom
        return math.exp(result.x), float(result.fun)
    return math.exp(result.x + bottom), float(fit(bottom))


@functools.lru_cache(maxsize=4096)
def _sup(count: int, lam: float, k: int) -> float:
    return supremum(functools.partial(_modulus, count, lam, k))


@functools.lru_cache(maxsize=1024)
def _best(count: int, k: int) -> tuple[float, float]:
    return least(lambda lam: _sup(count, lam, k), count, k)


def closed_form(
    centres: ArrayLike,
    degree: ArrayLike,
    concentration: ArrayLike | None = None,
    phase: ArrayLike | None = None,
) -> dict[str, np.ndarray | float]:
    """Error at a phase; without `phase` its supremum; without `concentration` the best of those.

    The parameters broadcast; float64 arrays of their shape, or floats.
    """
    if concentration is None:
        return _broadcast_rows(("best_concentration", "best_error"), _best, centres, degree)
    if phase is None:
        return _broadcast_rows(
            ("sup_error",), lambda n, k, lam: (_sup(n, lam, k),), centres, degree, concentration
        )
    error = relative_error(centres, concentration, degree, phase)
    return {"error": np.abs(error), "error_real": np.real(error), "error_imag": np.imag(error)}


def _broadcast_rows(
    names: Sequence[str],
    function: Callable[..., tuple[float, ...]],
    centres: ArrayLike,
    degree: ArrayLike,
    *rest: ArrayLike,
) -> dict[str, np.ndarray | float]:
    arrays = np.broadcast_arrays(centres, degree, *rest)
    columns = np.array(
        [
            function(int(n), int(k), *map(float, more))
            for n, k, *more in zip(*(a.ravel() for a in arrays), strict=True)
        ]
    ).T
    return {
        name: column.reshape(arrays[0].shape) for name, column in zip(names, columns, strict=True)
    }


# --- the head itself -----------------------------------------------------------------------------


def simulate(
    *,
    key: Key[Array, ""],
    trials: int,
    centres: int,
    degree: int,
    concentration: float | None = None,
    phase: float | None = None,
) -> dict[str, Estimate]:
    """A head with `centres` equispaced keys at an arbitrary offset, queried at the phase.

    Suprema and the best concentration are searched on the head's own errors.
    """

    def sup_error(lam: float) -> float:
        return supremum(lambda psi: np.abs(_head_error(centres, lam, degree, psi)))

    if concentration is None:
        where, value = least(sup_error, centres, degree)
        return exact(trials, best_concentration=where, best_error=value)
    if phase is None:
        return exact(trials, sup_error=sup_error(concentration))
    error = _head_error(centres, concentration, degree, np.array([phase]))[0]
    return exact(trials, error=abs(error), error_real=error.real, error_imag=error.imag)


def _head_error(count: int, lam: float, k: int, psi: np.ndarray) -> np.ndarray:
    offset = 0.3
    angle = offset + 2 * np.pi * np.arange(count) / count
    values = np.stack([np.cos(k * angle), np.sin(k * angle)], axis=1)
    theta = offset + psi / count
    query = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    with jax.enable_x64(True):
        output = np.asarray(_core(query, point_sets.equispaced(count, offset), values, lam)[0])
    return 1 - (output[:, 0] + 1j * output[:, 1]) * np.exp(-1j * k * theta)


_core = jax.jit(head.core)


# --- wrong variants ------------------------------------------------------------------------------


def _nodes_only(
    centres: int, degree: int, concentration: float | None = None, phase: float | None = None
) -> dict[str, np.ndarray | float]:
    if phase is None and concentration is not None:
        return {"sup_error": closed_form(centres, degree, concentration, 0.0)["error"]}
    return closed_form(centres, degree, concentration, None if phase is None else 0 * phase)


def _infinite_prefix(
    centres: int, degree: int, concentration: float | None = None, phase: float | None = None
) -> dict[str, np.ndarray | float]:
    if concentration is None:
        return closed_form(centres, degree)
    with jax.enable_x64(True):
        defect = np.asarray(bessel.defect(0.0, degree, np.asarray(concentration, float)))
    if phase is None:
        return {"sup_error": defect}
    return {"error": defect, "error_real": defect, "error_imag": 0 * defect}


def _wrong_direction(
    centres: int, degree: int, concentration: float | None = None, phase: float | None = None
) -> dict[str, np.ndarray | float]:
    return closed_form(centres, degree, concentration, None if phase is None else -phase)


def _scaled_best(
    centres: int, degree: int, concentration: float | None = None, phase: float | None = None
) -> dict[str, np.ndarray | float]:
    result = closed_form(centres, degree, concentration, phase)
    return {n: v * (1.03 if n.startswith("best") else 1.0) for n, v in result.items()}


def _infinite_line(concentration: float, degree: int) -> float:
    return float(_infinite_prefix(1, degree, concentration)["sup_error"])


POINTS = tuple(
    {"centres": n, "concentration": lam, "degree": k, "phase": psi}
    for n, lam, k in ((8, 10.0, 1), (16, 40.0, 2), (5, 60.0, 1), (64, 300.0, 5))
    for psi in (0.0, 0.7, math.pi / 2, math.pi, 4.0)
)
SUPREMA = tuple(
    {"centres": n, "concentration": lam, "degree": 1} for n in (8, 32) for lam in (1.0, 8.0, 90.0)
)

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
        # The head rounds a score of size λ to λ ulps, 7e-14 at λ = 300.
        Quantity("error", "modulus of the relative error", 2e-13),
        Quantity("error_real", "its real part", 2e-13),
        Quantity("error_imag", "its imaginary part", 2e-13),
        # The searches' interpolations are good to 1e-10; a relative error near 1e-4 of outputs
        # near 1 loses four digits more.
        Quantity("sup_error", "largest modulus over the phase", 1e-9, True),
        Quantity("best_error", "least such supremum over λ", 1e-9, True),
        Quantity("best_concentration", "the λ that attains it", 1e-6, True),
    ),
    falsifiers=(
        Falsifier("nodes only", "error taken at the centres", _nodes_only),
        Falsifier("infinite prefix", "no aliasing: 1 − ρ_k", _infinite_prefix),
        Falsifier("phase reversed", "e^{−ilψ} in place of e^{ilψ}", _wrong_direction),
        Falsifier("best +3 %", "best λ and error three per cent too large", _scaled_best),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design((*POINTS, *SUPREMA, {"centres": 8, "degree": 1},
                         {"centres": 32, "degree": 1}), 2),
        "full": Design((*POINTS, *SUPREMA, *({"centres": n, "degree": k}
                        for n in (8, 16, 32, 64, 128, 256) for k in (1, 2))), 2),
    },
    broadcasts="all parameters",
    compare=compare_exact,
    figure=Curves(
        x="concentration", y="sup_error", lines=tuple(np.geomspace(0.5, 400, 81).tolist()),
        design=Design(tuple(
            {"centres": n, "degree": 1, "concentration": float(lam)}
            for n, best in ((8, 8.5), (16, 26.9), (32, 92.0))
            for lam in best * np.array([0.1, 0.3, 1.0, 2.5, 4.0])), 2),
        x_label="concentration λ", y_label="largest error, target $e^{i\\theta}$",
        title="Too smooth or too rough: the best λ",
        series="centres", series_label="N = {value}", log_x=True, log_y=True,
        extra=(ExtraLine("infinite prefix", _infinite_line),),
    ),
)  # fmt: skip
