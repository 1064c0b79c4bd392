r"""Claim ``universal.prefix_lower_bound``: fewer prefix tokens cannot do, whatever the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Key
from scipy import optimize

from jaxprompt.core.claim import Claim, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.compared import Compared
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.numerics import point_sets
from jaxprompt.universal.parameters import ACCURACY, CENTRES, CONCENTRATION, LIPSCHITZ

__all__ = ["CLAIM", "closed_form", "minimax_error", "simulate"]

STATEMENT = r"""
Let the keys and the concentration of a prefix of $N$ tokens be fixed before $f$ is known, the
values free. On any $N+1$ points that are pairwise $2\varepsilon/L$ apart some $L$-Lipschitz
function is missed by at least $\varepsilon$ at one of them. On the circle the error that $N$ tokens
cannot avoid, and the least number of tokens for accuracy $\varepsilon$, are
$$ \varepsilon(N)\ \ge\ \frac{\pi L}{2\lceil N/2\rceil},\qquad
   N(\varepsilon)\ \ge\ 2\left\lceil\frac{\pi L}{2\varepsilon}\right\rceil - 1 . $$
"""

DERIVATION = r"""
The outputs at $N+1$ points are $Wv$ with $W$ of rank at most $N$, so some $c\ne0$ has
$c^\top W=0$. Any values $\pm\varepsilon$ at points $2\varepsilon/L$ apart extend to an
$L$-Lipschitz function; take the signs of $c$. Then $c^\top(f-Wv)=\varepsilon\|c\|_1$ whatever
$v$ is, so some entry is off by $\varepsilon$. On the circle $N+1$ points can be
$2\pi/(N+1)$ apart, which gives the bound for odd $N$. Outputs are a space of $N$ functions, so
the error is at least the width of the Lipschitz class, which is $\pi L/(2n)$ for
$N=2n-1$ and for $N=2n$ (Tikhomirov). A linear programme over the values finds exactly
that error, and no error with one token more (the positive control): for odd $N$ with any keys, at
$N+1$ points; for even $N$ with equispaced keys, where the alternating sum over the $N$ midpoints of
neighbouring keys annihilates every output, because a turn by one key reverses its sign.

*Tolerances.* 1e-6 of the error, and 1e-6 for the control: the solver (HiGHS) meets its constraints
to 1e-7, and the programme is scaled to a target of size 1.
"""


# --- the closed form ---


def closed_form(
    *, lipschitz: ArrayLike, accuracy: ArrayLike | None = None, centres: ArrayLike | None = None
) -> dict[str, Any]:
    """`centres` needed for an accuracy, `error` unavoidable with so many centres; broadcasts.

    At least one of `accuracy` and `centres` must be given; float64 (`centres` a whole number).
    The concentration of the head does not matter.
    """
    result: dict[str, Any] = {}
    if accuracy is not None:
        pairs = np.pi / 2 * np.divide(lipschitz, accuracy)
        # An accuracy equal to the bound for N is within reach of N.
        result["centres"] = np.maximum(2 * np.ceil(pairs * (1 - 1e-12)) - 1, 1.0)
    if centres is not None:
        result["error"] = np.pi * np.divide(lipschitz, 2 * np.ceil(np.divide(centres, 2)))
        result["control"] = 0.0 * result["error"]
    return result


def _with_error(formula: Callable[[Any, Any, Any], Any]) -> Callable[..., Mapping[str, Any]]:
    """A wrong error, as a function of the right one, the Lipschitz constant and the centres."""

    def change(right: Mapping[str, Any], at: Mapping[str, Any]) -> Mapping[str, Any]:
        if "error" not in right:
            return right
        return {**right, "error": formula(right["error"], at["lipschitz"], at["centres"])}

    return change


FALSIFIERS = (
    Falsifier.scaled("constant +3 %", closed_form, 1.03),
    Falsifier.after("gaps for every N", "πL/(N+1) for even N too",
                    _with_error(lambda _, lip, count: np.pi * np.divide(lip, np.add(count, 1)))),
    Falsifier.after("points for every N", "πL/N for odd N too",
                    _with_error(lambda _, lip, count: np.pi * np.divide(lip, count))),
    Falsifier.after("twice", "the packing distance not halved",
                    lambda right, _: {name: 2.0 * value for name, value in right.items()}),
    Falsifier.after("chordal distance", "chords between the points in place of arcs",
                    _with_error(lambda arc, lip, _: lip * 2 * np.sin(arc / (2 * lip)))),
)  # fmt: skip


# --- the simulation ---


# A linear programme of SciPy cannot be traced, and one set of random keys serves all trials.
def simulate(
    *, key: Key[Array, ""], trials: int, lipschitz: float, centres: int,
    accuracy: float | None = None, concentration: float = 10.0,
) -> dict[str, Estimate]:  # fmt: skip
    """Least largest error over the values, by linear programme, and the same with one token more.

    For odd N the keys are random, the points N + 1, and the hardest function is found from the head
    itself. For even N the keys are equispaced and the points their midpoints. The control has
    random keys.
    """
    count = centres + centres % 2
    points, rounding = point_sets.equispaced(count), 1e-13
    jitter = np.asarray(jax.random.uniform(key, (centres + 1,)), np.float64)
    angle = 2 * np.pi * (np.arange(centres + 1) + 0.5 * jitter) / count
    keys = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if centres % 2:
        weights = _attention_weights(points, keys[:-1], concentration)
        signs = np.sign(_annihilating_vector(weights))
    else:
        equispaced_keys = point_sets.equispaced(count, np.pi / count)
        weights = _attention_weights(points, equispaced_keys, concentration)
        signs = (-1.0) ** np.arange(count)
        # Two keys are equally near to a midpoint; a rounded score of size λ breaks the tie.
        rounding = max(rounding, 1e-15 * concentration)
    target = signs * lipschitz / _lipschitz_constant(points, signs)
    with_one_more = _attention_weights(points, keys, concentration)
    return {
        "error": exact_estimate(minimax_error(weights, target, rounding), trials),
        "control": exact_estimate(minimax_error(with_one_more, target), trials),
    }


def _attention_weights(points: np.ndarray, keys: np.ndarray, concentration: float) -> np.ndarray:
    score = concentration * (points @ keys.T)
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def _annihilating_vector(weights: np.ndarray) -> np.ndarray:
    """A vector c (P) with c·weights = 0, for weights (P, N) with P > N."""
    return np.linalg.svd(weights)[0][:, -1]


def _lipschitz_constant(points: np.ndarray, values: np.ndarray) -> float:
    """Largest |difference of values| over geodesic distance, over all pairs of points."""
    i, j = np.triu_indices(len(points), 1)
    chord = np.linalg.norm(points[i] - points[j], axis=1)
    return float((np.abs(values[i] - values[j]) / (2 * np.arcsin(chord / 2))).max())


def minimax_error(weights: np.ndarray, target: np.ndarray, rounding: float = 1e-13) -> float:
    """min over v of max_i |target_i − (weights v)_i|, by linear programme; float64.

    Directions of the columns that are smaller than their `rounding`, as a share of the largest, are
    no columns.

    weights (P, N), target (P). The programme runs in an orthonormal basis of the columns and in
    units of the target, so that neither small columns nor a small target meet its tolerances.
    """
    scale = float(np.abs(target).max()) or 1.0
    vectors, singular, _ = np.linalg.svd(weights, full_matrices=False)
    basis = vectors[:, singular > rounding * singular[0]]
    ones, aim = np.ones((len(target), 1)), target / scale
    result: Any = optimize.linprog(
        c=np.append(np.zeros(basis.shape[1]), 1.0),
        A_ub=np.block([[basis, -ones], [-basis, -ones]]),
        b_ub=np.concatenate([aim, -aim]),
        bounds=[(None, None)] * basis.shape[1] + [(0, None)],
    )
    if result.status != 0:
        raise RuntimeError(f"the linear programme stopped: {result.message}")
    return scale * float(result.fun)


# --- the parameters ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """One of accuracy and centres must be given."""
    if "accuracy" not in params and "centres" not in params:
        raise ParameterError(
            "centres", "(missing)", "given when `accuracy` is not", "give one of the two", where
        )
    return params


# --- the design ---

_QUICK_PREFIXES = {"centres": (3, 8, 15), "concentration": (1.0, 10.0, 200.0)}
_FIGURE_PREFIXES = {"centres": (2, 4, 8, 15, 30, 60), "concentration": (1.0, 20.0, 500.0)}
_LEAST_CONCENTRATIONS = {1: 1.0, 3: 1.0, 8: 1.0, 15: 1.0, 40: 20.0, 100: 150.0}
"""For numbers of centres: below, even N+1 rows of the head are dependent to rounding, and the
control fails."""

FIGURE = Curves(
    x="centres", y="error", lines=tuple(float(n) for n in range(1, 121)),
    design=Design.product({"lipschitz": 1.0}, _FIGURE_PREFIXES, trials=2),
    x_label="prefix tokens N", y_label="error no values can avoid",
    title="What N fixed keys cannot do",
    series="concentration", series_label="λ = {value}", log_x=True, log_y=True,
    caption="points: linear programme over the values, random keys",
)  # fmt: skip

CLAIM = Claim(
    id="universal.prefix_lower_bound",
    title="How many prefix tokens are needed",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IMPOSSIBILITY,
    source="derived here",
    parameters=(LIPSCHITZ, replace(ACCURACY, default=None), replace(CENTRES, default=None)),
    ignored=(replace(CONCENTRATION, meaning="inverse temperature of the head that is tried"),),
    quantities=(
        Quantity("error", "unavoidable error with so many tokens", tolerance=1e-6, relative=True,
                 side="two"),
        Quantity("control", "error of the same programme with one token more", tolerance=1e-6,
                 side="two"),
        Quantity("centres", "tokens needed for the accuracy", unmeasured=True),
    ),
    compared=Compared(
        {"lipschitz": (1e-3, 1e3), "centres": (1, 15)},
        elsewhere="a formula, exact for all numbers of centres",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    check_parameters=validate,
    designs={
        "quick": Design.product({"lipschitz": 1.0}, _QUICK_PREFIXES, trials=2),
        "full": Design(
            *(Run(lipschitz=lipschitz, centres=centres, concentration=concentration)
              for centres, least in _LEAST_CONCENTRATIONS.items()
              for concentration in (least, 10 * least, 100 * least)
              for lipschitz in (0.3, 1.0)), trials=2,
        ),
    },
    broadcasts="all parameters",
    cost="short",
    figure=FIGURE,
)  # fmt: skip
