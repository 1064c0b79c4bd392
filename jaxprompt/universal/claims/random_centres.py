r"""Claim ``universal.random_centres``: the mean squared error with independent random centres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Key

from jaxprompt.compute.devices import map_trials
from jaxprompt.compute.namespace import Numbers, namespace_of
from jaxprompt.compute.numpy_normals import NUMBERS_TOGETHER, generator_of
from jaxprompt.core.claim import (
    Cell,
    Claim,
    Curves,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.comparing import group_by_size
from jaxprompt.core.parameters import is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.stats import (
    Comparison,
    Estimate,
    Fit,
    compare_asymptotic,
    mean_estimate,
    weighted_fit,
)
from jaxprompt.universal.numerics import bessel, kernel_averages
from jaxprompt.universal.parameters import CENTRES, CONCENTRATION, SPHERE_DIM

__all__ = ["CLAIM", "MOST_RATIO", "closed_form", "exact_error", "simulate", "variance_scale"]

STATEMENT = r"""
Let $N$ centres be independent and uniform on $S^m$, the target $f(x)=x$ and the values $v_i=b_i$.
With $M(\lambda)=\Gamma(\nu+1)(2/\lambda)^\nu I_\nu(\lambda)$, $R=M(2\lambda)/M(\lambda)^2$ and
$A=\rho_1$, the head without content has, up to a relative error of order $R/N$,
$$ E\|h(x)-x\|^2 = \Big[1-A(\lambda)+\tfrac RN\big(A(2\lambda)-A(\lambda)\big)\Big]^2
   + \tfrac RN\big[1-2A(\lambda)A(2\lambda)+A(\lambda)^2\big]. $$
For few centres ($R/N$ not small) the formula says nothing: it is off by up to $2R/N$ of the
error, and for $N=1$ the error is $2$.
"""

DERIVATION = r"""
Write $h=\overline{Kb}/\overline K$ with $K_i=e^{\lambda\langle x,b_i\rangle}$; then
$E K=M(\lambda)$, $E K b=M(\lambda)A(\lambda)x$ and $E K^2b=M(2\lambda)A(2\lambda)x$. The delta
method gives the mean $A(\lambda)-\tfrac RN(A(2\lambda)-A(\lambda))$ along $x$ and the variance
$\tfrac RN\,E_{2\lambda}\|b-A(\lambda)x\|^2$. The first term left out is of order $(R/N)^2$, which
is why the check lets $N$ grow: $N$ times the difference must vanish.
For every $N$ the error is a double integral: with $1/S^2=\int_0^\infty se^{-sS}\,ds$,
$t=\langle x,b\rangle$, $K=e^{\lambda(t-1)}$ and $\varphi(s)=E\,e^{-sK}$,
$$ E\|h-x\|^2 = \int_0^\infty s\Big[N\,E[2(1-t)K^2e^{-sK}]\,\varphi^{N-1}
   + N(N-1)\,\big(E[(1-t)Ke^{-sK}]\big)^2\varphi^{N-2}\Big]\,ds . $$
The head is a smooth function of averages over $N$ independent centres, so that its mean squared
error is a series in $1/N$, in which the check extrapolates. What it measures are means over drawn
$t_i=\langle x,b_i\rangle$: across $x$ the centres are independent vectors with mean 0 and mean
square $1-t_i^2$, over which a squared error is $(\sum w_i(1-t_i))^2+\sum w_i^2(1-t_i^2)$.

*Tolerances.* 4 % of the variance part of the error, which is less than the 5 % of a falsifier.
"""


# --- the closed form ---

MOST_RATIO = 0.25
"""Largest R/N at which the formula is given. It is then off by up to 2R/N of the
error: by the exact integral between −1.9 and +1.7 of R/N, for m ≤ 12 and λ ≤ 200."""


def closed_form(
    *, sphere_dim: Any, centres: Any, concentration: Any, shift_factor: float = 1.0,
    variance_factor: float = 1.0, spread_kernel: Literal["squared", "plain"] = "squared",
) -> dict[str, Numbers]:  # fmt: skip
    """Mean squared error; the parameters broadcast, dtype of `concentration` (float64).

    Falsifiers change the last three arguments, which the theory has at their defaults.

    Raises:
        ParameterError: so few centres that the formula says nothing (R/N above `MOST_RATIO`).
    """
    law = _error_law(sphere_dim, centres, concentration)
    _refuse_few_centres(sphere_dim, centres, concentration, law.inverse)
    bias = law.defect + shift_factor * law.inverse * law.shift
    spread = law.spread if spread_kernel == "squared" else law.plain_spread
    return {"mse": bias**2 + variance_factor * law.inverse * spread}


class _ErrorLaw(NamedTuple):
    """1 − A(λ), A(2λ) − A(λ), the squared spread under the kernel's square and itself, and R/N."""

    defect: Numbers
    shift: Numbers
    spread: Numbers
    plain_spread: Numbers
    inverse: Numbers


def _error_law(m: ArrayLike, count: ArrayLike, lam: ArrayLike) -> _ErrorLaw:
    xp = namespace_of(m, count, lam)
    m, lam = xp.asarray(m), xp.asarray(lam, dtype=float)
    order = (m - 1) / 2
    defect, defect2 = bessel.defect(order, 1, lam), bessel.defect(order, 1, 2 * lam)
    log_ratio = kernel_averages.log_mean_exp(m, 2 * lam) - 2 * kernel_averages.log_mean_exp(m, lam)
    inverse = xp.asarray(xp.exp(log_ratio) / count)
    a, a2 = 1 - defect, 1 - defect2
    # 1 − 2AA₂ + A² without cancellation near A = 1: (1−A)² + 2A(1−A₂)
    spread = defect**2 + 2 * a * defect2
    return _ErrorLaw(defect, a2 - a, spread, defect * (1 + a), inverse)


def _refuse_few_centres(m: ArrayLike, count: ArrayLike, lam: ArrayLike, inverse: Numbers) -> None:
    """The formula is the leading order in R/N; traced numbers pass unchecked."""
    if is_traced(inverse) or not (inverse > MOST_RATIO).any():
        return
    dims, counts, lams = (np.ravel(a) for a in np.broadcast_arrays(m, count, lam))
    worst = int(np.ravel(inverse).argmax())
    least = math.ceil(float(inverse.max()) * float(counts[worst]) / MOST_RATIO)
    raise ParameterError(
        "centres", int(counts[worst]),
        f"at least {least} at sphere_dim={int(dims[worst])}, concentration={lams[worst]:g}",
        "use more, lower the concentration, or call random_centres.exact_error: the formula is "
        "the leading order in R/N", CLAIM.id,
    )  # fmt: skip


def variance_scale(sphere_dim: ArrayLike, concentration: ArrayLike) -> Float[Numbers, "*_"]:
    """R times the squared spread: N times the variance part of the error, for large N."""
    law = _error_law(sphere_dim, 1, concentration)
    return law.inverse * law.spread


FALSIFIERS = (
    Falsifier("no pull", "the shift (R/N)(A(2λ) − A(λ)) dropped", shift_factor=0.0),
    Falsifier("spread at λ", "variance with A(λ)² for 2A(λ)A(2λ) − A(λ)²", spread_kernel="plain"),
    Falsifier("variance +5 %", "variance five per cent too large", variance_factor=1.05),
)


# --- the error at any number of centres ---

MOST_CONCENTRATION = 500.0
"""Largest concentration of the exact integral; its cost grows as the square."""


def exact_error(sphere_dim: int, centres: int, concentration: float) -> float:
    """Mean squared error for any number of centres, by the double integral of the derivation.

    One number, float64, to about 1e-9 relative. The cost grows as λ²: seconds at its limit.

    Raises:
        ParameterError: `concentration` above `MOST_CONCENTRATION`.
    """
    if not 0 < concentration <= MOST_CONCENTRATION:
        raise ParameterError(
            "concentration", concentration, f"> 0 and at most {MOST_CONCENTRATION:g} here",
            "simulate the claim instead", "exact_error",
        )  # fmt: skip
    gap, share = _gap_rule(sphere_dim, concentration)
    count, total = float(centres), 0.0
    # In log s both ends fall off doubly exponentially or as s², so equal steps are spectral.
    step = 0.25
    log_s = np.arange(-math.log(count) - 40, 2 * concentration + 6, step)
    for block in np.array_split(log_s, max(1, log_s.size * gap.size // 2_000_000)):
        # s K, in which neither factor overflows; beyond e^50 nothing is left of e^{−sK}.
        scaled = np.exp(np.minimum(block[:, None] - concentration * gap, 50.0))
        lost = np.exp(-scaled) * share
        log_missed = np.log(np.maximum(lost.sum(1), 1e-300))
        pull, square = (lost * scaled * gap).sum(1), (lost * scaled**2 * 2 * gap).sum(1)
        value = count * square * np.exp((count - 1) * log_missed)
        if centres > 1:
            value += count * (count - 1) * pull**2 * np.exp((count - 2) * log_missed)
        total += float(value.sum()) * step
    return total


def _gap_rule(m: int, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """1 − ⟨x, b⟩ at nodes in the angle, and the share of the sphere that each stands for.

    Panels of 16 Gauss–Legendre nodes, each so short that λ(1 − t) changes by a few units in it.
    """
    node, weight = np.polynomial.legendre.leggauss(16)
    panels = 16 + math.ceil(2 * lam)
    edge = np.pi * np.arange(panels) / panels
    angle = (edge[:, None] + np.pi / panels * (1 + node) / 2).ravel()
    share = np.tile(weight, panels) * np.sin(angle) ** (m - 1)
    return 2 * np.sin(angle / 2) ** 2, share / share.sum()


# --- the simulation ---

MOST_CENTRES = 2**24
"""Centres of which one trial can be drawn: with what is computed from them, some 400 MB."""


# No function of one trial: as many trials are drawn together as fit into a core's cache.
def simulate(
    *, key: Key[Array, ""], trials: int, sphere_dim: int, centres: int, concentration: float
) -> dict[str, Estimate]:
    """Squared error of the head at a query, over random centres; NumPy, in float32.

    By symmetry the query may stand still. A centre is drawn by its product t with it; over the
    directions of the centres' other parts the squared error is averaged exactly.
    """
    if centres > MOST_CENTRES:
        raise ParameterError(
            "centres", centres, f"at most {MOST_CENTRES} in a simulation", "use fewer centres",
            CLAIM.id,
        )  # fmt: skip
    together = max(1, NUMBERS_TOGETHER // centres)

    def block(indices: np.ndarray) -> np.ndarray:
        errors = [
            _squared_errors(
                _draw_gaps(sphere_dim, (together, centres), generator_of(key, int(index))),
                concentration,
            )
            for index in np.ravel(indices)
        ]  # fmt: skip
        return np.stack(errors).reshape(*np.shape(indices), together)

    errors = map_trials(block, -(-trials // together)).reshape(-1)[:trials]
    return {"mse": mean_estimate(errors.astype(np.float64))}


def _draw_gaps(
    sphere_dim: int, shape: tuple[int, ...], rng: np.random.Generator
) -> Float32[np.ndarray, "*shape"]:
    """1 − t for the first coordinate t of independent uniform points of the sphere.

    Two coordinates of such a point have a uniform angle and a squared length r² of which
    (1 − r²)^((m−1)/2) is uniform; one coordinate is itself uniform for m = 2.
    """
    if sphere_dim == 2:
        return 2 * rng.random(shape, np.float32)
    first = np.cos(np.float32(2 * np.pi) * rng.random(shape, np.float32))
    if sphere_dim > 1:
        beyond = rng.random(shape, np.float32)
        if sphere_dim > 3:
            beyond **= np.float32(2 / (sphere_dim - 1))
        first *= np.sqrt(1 - beyond)
    return 1 - first


def _squared_errors(
    gap: Float32[np.ndarray, "trials centres"], concentration: float
) -> Float32[np.ndarray, " trials"]:
    """E‖h − x‖² given each centre's 1 − t.

    The head is shift-equivariant in its values, so b − x stands for b: along x that is −(1 − t),
    and across it independent vectors with mean 0 and mean square 1 − t² = (1 − t)(1 + t).
    """
    weight = gap - gap.min(axis=1, keepdims=True)
    weight *= -np.float32(concentration)
    np.exp(weight, out=weight)
    total = weight.sum(axis=1)
    pull = weight * gap
    along = pull.sum(axis=1) / total
    weight *= 2 - gap
    return np.square(along) + np.einsum("tn,tn->t", pull, weight) / np.square(total)


# --- the comparison ---

LEAST_SIZES = 3
"""Numbers of centres through which a line in 1/N can be tested."""

BIAS_ALONE = 10**15
"""Centres of which the variance is below rounding."""


# The unit of both rows is the variance part, which varies from point to point, and the first row
# compares the coefficient of 1/N, not a limit of the error: the standard comparison of a limit
# would see the squared bias alone.
def compare_variance_and_bias(
    claim: Claim, cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    """N · (measured − predicted), in units of the variance scale, must vanish as N grows.

    And what N → ∞ leaves of the error must be the squared bias: a wrong bias makes the first
    grow with N, which no line in 1/N fits, so that by itself it would leave the row undecided.
    """
    rows: list[Comparison] = []
    tolerance = claim.quantity("mse").allowance(1.0)
    for point, members in group_by_size(cells, "centres", least=LEAST_SIZES):
        sizes = [cell.parameters["centres"] for cell in members]
        with jax.enable_x64(True):
            unit = float(variance_scale(**point))
        scale, shown = [n / unit for n in sizes], {**point, "centres": sizes}
        predicted = [predict(**cell.parameters)["mse"] for cell in members]
        measured = [cell.estimates["mse"] for cell in members]
        rows.append(
            compare_asymptotic(
                "mse", shown, sizes, [s * p for s, p in zip(scale, predicted, strict=True)],
                [_scaled_estimate(e, s) for e, s in zip(measured, scale, strict=True)],
                tolerance=tolerance, note="in units of the variance scale over N",
            )
        )  # fmt: skip
        estimates = [_scaled_estimate(e, scale[0]) for e in measured]
        bias = predict(**point, centres=BIAS_ALONE)["mse"]
        residual = _residual_at_infinity(sizes, [scale[0] * p for p in predicted], estimates)
        rows.append(
            Comparison(
                "mse", shown, scale[0] * bias, scale[0] * bias + residual.value, tolerance,
                stderr=residual.stderr, dof=residual.dof, goodness=residual.goodness,
                note="as N grows, in units of the variance scale over the smallest N",
            )
        )  # fmt: skip
    return rows


def _residual_at_infinity(
    sizes: Sequence[int], predicted: Sequence[float], estimates: Sequence[Estimate]
) -> Fit:
    """What 1/N → 0 leaves of measured − predicted; the first terms left out are 1/N and 1/N²."""
    share = sizes[0] / np.asarray(sizes, np.float64)
    return weighted_fit(
        np.column_stack([np.ones_like(share), share, share**2]),
        np.array([float(e.mean) - p for e, p in zip(estimates, predicted, strict=True)]),
        np.array([float(e.stderr) for e in estimates]),
        [e.trials - 1 for e in estimates],
        0,
    )


def _scaled_estimate(estimate: Estimate, scale: float) -> Estimate:
    mean, stderr = estimate.mean * scale, estimate.stderr * scale
    return Estimate(mean, stderr, estimate.trials, kind=estimate.kind)


# --- the design ---

_QUICK_POINTS = (
    ({"sphere_dim": 1, "concentration": 20.0}, 13_000),
    ({"sphere_dim": 2, "concentration": 10.0}, 48_000),
    ({"sphere_dim": 3, "concentration": 10.0}, 70_000),
)
_FULL_POINTS = (
    # The smallest N is at least 20 R, so that the line in 1/N fits at this precision.
    ({"sphere_dim": 1, "concentration": 10.0}, 110),
    ({"sphere_dim": 1, "concentration": 40.0}, 230),
    ({"sphere_dim": 2, "concentration": 10.0}, 200),
    ({"sphere_dim": 2, "concentration": 20.0}, 400),
    ({"sphere_dim": 3, "concentration": 10.0}, 300),
    ({"sphere_dim": 4, "concentration": 12.0}, 500),
)

FIGURE = Curves(
    x="centres", y="mse", lines=tuple(np.geomspace(80, 3000, 31).round().tolist()),
    design=Design(
        *(Run(sphere_dim=m, centres=count, concentration=10.0)
          for m in (1, 2, 3) for count in (80, 200, 600, 2000)), trials=4000,
    ),
    x_label="random centres N", y_label="mean squared error",
    title="Random centres: variance onto bias",
    series="sphere_dim", series_label="sphere of dimension {value}", log_x=True, log_y=True,
)  # fmt: skip

CLAIM = Claim(
    id="universal.random_centres",
    title="The error of independent random centres",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="derived here",
    parameters=(SPHERE_DIM, CENTRES, CONCENTRATION),
    quantities=(
        Quantity("mse", "mean squared error for f(x) = x, in units of its variance part", 0.04),
    ),
    compared=Compared(
        {"sphere_dim": (1, 4), "centres": (2000, 10**7), "concentration": (1e-2, 20.0)},
        elsewhere="Bessel ratios keep their digits; the formula is of first order in R/N, and "
        "refused beyond R/N = 1/4",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(
            *(Run(point, centres=count, trials=trials)
              for point, trials in _QUICK_POINTS for count in (100, 200, 400)), trials=70_000,
        ),
        "full": Design(
            *(Run(point, centres=times * least)
              for point, least in _FULL_POINTS for times in (1, 2, 4)), trials=200_000,
        ),
    },
    broadcasts="all parameters",
    traceable=True,
    size="centres",
    powers=(1,),
    compare=compare_variance_and_bias,
    figure=FIGURE,
)  # fmt: skip
