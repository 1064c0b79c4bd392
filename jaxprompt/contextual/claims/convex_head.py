r"""Claim ``contextual.convex_head``: test error of a head learned by any convex margin loss."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from jaxprompt.contextual.law.convex_definition import applied_once
from jaxprompt.contextual.law.convex_limit import (
    LOSSES,
    Solution,
    separability_threshold,
    solved_law,
    varied_convex_limit,
)
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.parameters import (
    COMPARED_LAW,
    DATA_LAW,
    DIM,
    FAMILY,
    GAIN,
    RATIO,
    RIDGE,
    SAMPLES,
    SETTING_NAMES,
    check_law,
    optional,
    resolve_ratio,
    sample_counts,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.convex_heads import GAP, convex_heads, max_margin_heads
from jaxprompt.contextual.simulation.evaluation import errors_over_known_prompt
from jaxprompt.contextual.simulation.sampling import row_stream
from jaxprompt.core.claim import (
    Cell,
    Claim,
    Compared,
    Curves,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.comparing import group_by_size
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Comparison, Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
The head minimises $\frac1n\sum_i\ell(y_if_i)+\frac\lambda2|w|^2$ for a convex margin loss $\ell$,
over a known prompt $\gamma q_\star$. As $n,d\to\infty$ with $d/n\to\kappa$, put
$\omega=\alpha c+\tau\sqrt q\,Z$ and
$f(\omega)=-\ell'(\mathrm{prox}_{\tau^2V\ell}(\omega))$, and let $V,q,c$ solve
$$\hat c=\frac{E[\alpha f]}\kappa,\quad\hat q=\frac{E[\tau^2f^2]}\kappa,\quad
\hat V=-\frac{E[\tau^2\partial_\omega f]}\kappa,\qquad
V=\frac1{\lambda/\kappa+\hat V},\quad c=\hat cV,\quad q=(\hat c^2+\hat q)V^2.$$
Then the head's component along $w_\star/W$ tends to $c$, its norm away from it to
$\rho=\sqrt{q-c^2}$, and the error to $E\,\Phi(-\alpha c/(\tau\sqrt q))$. The training set is
linearly separable beyond
$$\kappa_\star=\min_c\,E\big[(c\,\alpha/\tau+\sqrt{1+c^2}\,Z)_-^2\big],$$
and there the logistic and hinge heads tend to the max-margin direction as $\lambda\to0$.
"""

DERIVATION = r"""
With signed rows $r_i=\alpha_ie_1+\tau_ig_i$ (as in `contextual.prompt_error`), leave one sequence
out. The margin of sequence $i$ under the head learned without it is
$\omega_i=\alpha_ic+\tau_i\sqrt q\,Z_i$, and putting it back moves its margin to the proximal point
with step $\tau_i^2V$, where $V$ is the limit of $\mathrm{tr}\,H^{-1}/n$ for the Hessian $H$ of the
objective. So $f(\omega_i)$ is minus the loss's slope at the training margin. The stationarity
condition $\lambda w=\frac1n\sum_if_ir_i$ gives the component along $e_1$ and, with the fluctuation
of $\frac1n\sum_i\tau_if_ig_i$, the energy; integration by parts turns the part of $g_i$ correlated
with $\omega_i$ into $\hat V$. For the square loss $f=(1-\omega)/(1+\tau^2V)$, $V$ is the resolvent
$m$, and the equations become those of `contextual.prompt_error`. For the max-margin head
$f=(1-\omega)_+/(\tau^2V)$ with $V\to\infty$, which leaves
$c=E[\alpha(1-\omega)_+/\tau^2]/\kappa$ and $\rho^2=E[(1-\omega)_+^2/\tau^2]/\kappa$. A row divided
by its noise level keeps its sign, so separability depends on $\alpha/\tau$ only, and the smallest
squared distance of the rows' span from the positive cone gives $\kappa_\star$. Expectations over
$Z$ are explicit for the square and hinge losses and by the trapezoid rule for the logistic loss.

At a finite $d$ sums over rows and coordinates fluctuate by $O(d^{-1/2})$ around their limits with
mean 0, so that the mean of a smooth function of them deviates by $O(1/d)$: the check extrapolates
in $1/d$. It also puts each predicted $(V,c,\rho)$ into the stated equations, with proximal points
and expectations as they are defined, and asks that it stays where it is.

*Tolerances.* The error's is 0.01. A relative change $x$ of $\rho$ or of $c$ changes the argument of
$\Phi$ by the share $\rho^2/(c^2+\rho^2)$ of $x$, here about one half, and $z\varphi(z)\le0.242$: so
8 % of $\rho$ and 10 % of $c$ also stand for about 0.01 of the error.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, gain: Any, ridge: Any,
    ratio: Any, loss: str, shifts: Any, shift_weights: Any, averaged_noise: bool = False,
    solved_loss: str = "", ridge_factor: float = 1.0, own_noise: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """`error`, `head_signal`, `head_noise` and `spread` in the limit, and `threshold`.

    Numbers of any shape broadcast. The equations are in
    :mod:`jaxprompt.contextual.law.convex_limit`. Standard errors are those of the quadrature over
    sequences. Falsifiers change the last four arguments, which the theory has at their defaults;
    `solved_loss` takes the place of `loss`.

    Raises:
        ArithmeticError: the fixed point did not converge; nothing is returned in its place.
    """

    def limit_at(**numbers: float) -> dict[str, Estimate | float]:
        solution, threshold = _solve_fixed_point(
            tokens=tokens, relevant=relevant, shifts=shifts, shift_weights=shift_weights,
            loss=solved_loss or loss, averaged_noise=averaged_noise, ridge_factor=ridge_factor,
            own_noise=own_noise, **numbers,
        )  # fmt: skip
        if not solution.converged:
            raise ArithmeticError(solution.reason)
        replicates = {**solution.limit._asdict(), "spread": solution.spread}
        estimates = {name: quadrature_estimate(x) for name, x in replicates.items()}
        return {**estimates, "threshold": threshold}

    return evaluate_pointwise(
        limit_at, signal=signal, context=context, noise=noise, gain=gain, ridge=ridge, ratio=ratio
    )


@functools.lru_cache(maxsize=256)
def _solve_fixed_point(
    *, tokens: int, relevant: int, signal: float, context: float, noise: float, gain: float,
    shifts: Any, shift_weights: Any, ratio: float, ridge: float, loss: str, averaged_noise: bool,
    ridge_factor: float, own_noise: float,
) -> tuple[Solution, float]:  # fmt: skip
    """Fixed point and threshold: a check asks for the same limit at every dimension."""
    law = (tokens, relevant, signal, context, noise, gain, shifts, shift_weights)
    features, threshold = feature_law(*law), _threshold(*law)
    if averaged_noise:
        features = features.averaged()
    solution = varied_convex_limit(features, ratio, ridge * ridge_factor, loss, own_noise=own_noise)
    return solution, threshold


@functools.lru_cache(maxsize=64)
def _threshold(*law: Any) -> float:
    """Where training sets become separable: the same for every loss, ridge and ratio."""
    return separability_threshold(feature_law(*law))


FALSIFIERS = (
    Falsifier("averaged_noise", "every sequence has the average noise", averaged_noise=True),
    Falsifier("square_loss", "the square loss's fixed point", solved_loss="square"),
    Falsifier("half_ridge", "halves the ridge", ridge_factor=0.5),
    Falsifier("no_own_noise", "the noise along w⋆ left out of the error", own_noise=0.0),
    Falsifier.after(
        "correction_left",
        "a correction of 0.5/d left in the error, as at d = 24",
        lambda right, _: with_correction(right, "error", plus=0.5 / 24),
    ),
)


# --- the simulation ---

_MEMORY = 2**25
"""Entries of the training rows held at once."""


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, loss: str, ratio: Any, ridge: float,
    **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """Learn the head from exact-law samples by a certified convex solver, in float64.

    Without ridge the hinge loss stands for its limit, the max-margin head. Blocks of trials share
    one stream of rows and are solved together, so this is no function of one trial.

    Raises:
        ParameterError: without ridge for another loss, where the optimum need not exist.
        ArithmeticError: a head's duality gap stayed above :data:`GAP`; without ridge, because a
            training set is not separable.
    """
    if ridge == 0 and loss != "hinge":
        raise ParameterError(
            "ridge", ridge, "> 0 in a simulation with this loss",
            "give a small one, such as 1e-3, or take the hinge loss for the max-margin head",
            CLAIM.id,
        )  # fmt: skip
    setting = Setting.of(params)
    heads, gaps = _learn(setting, dim, sample_counts(dim, ratio), loss, ridge, trials, key)
    if not gaps.max() <= GAP:
        why = "; without ridge every training set must be separable" if ridge == 0 else ""
        raise ArithmeticError(f"a duality gap of {gaps.max():.1e} is left{why}")
    numbers = np.column_stack([heads[:, :2], np.linalg.norm(heads, axis=1)])
    errors = errors_over_known_prompt(setting, numbers, key=key)
    noise = np.linalg.norm(heads[:, 1:], axis=1)
    values = {"error": errors, "head_signal": heads[:, 0], "head_noise": noise}
    return {name: mean_estimate(value) for name, value in values.items()}


def _learn(
    setting: Setting, dim: int, samples: int, loss: str, ridge: float, trials: int, key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Heads and duality gaps of all trials; trial t has the rows t·n … of one stream."""
    block = max(1, min(trials, _MEMORY // (samples * dim)))
    solved: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, trials, block):
        count = min(block, trials - first)
        rows = row_stream(setting, dim, first * samples, count * samples, key)
        rows = rows.reshape(count, samples, dim)
        solved.append(max_margin_heads(rows) if ridge == 0 else convex_heads(rows, ridge, loss))
    heads, gaps = zip(*solved, strict=True)
    return np.concatenate(heads), np.concatenate(gaps)


# --- rows beside the standard comparison ---

_FIXED = 0.002
"""Share by which a prediction may miss its own equations: what their quadrature resolves, and a
fortieth of what matters."""


def _compare_own_equations(
    claim: Claim, cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    """That each prediction solves the stated equations."""
    return [
        row
        for point, _ in group_by_size(cells, claim.size)
        for row in _by_definition(point, claim.validated(point), predict(**point))
    ]


def _by_definition(
    parameters: Mapping[str, Any], given: Mapping[str, Any], predicted: Mapping[str, Any]
) -> Iterator[Comparison]:
    """The stated equations applied once to a predicted point, which has to stay; `parameters` name
    the row, and `given` has the defaults too."""
    names = ("spread", "head_signal", "head_noise")
    point = [float(predicted[name]) for name in names]
    if not np.isfinite(point[1:]).all():
        return
    loss, ratio, ridge = given["loss"], float(given["ratio"]), float(given["ridge"])
    features = feature_law(**{n: given[n] for n in SETTING_NAMES})
    after = applied_once(solved_law(features, loss), ratio, ridge, loss, *point)
    for name, before, now in zip(names, point, after, strict=True):
        if np.isfinite(before):
            yield Comparison(
                name, parameters, before, now, _FIXED * abs(before), note="its own equation"
            )


# --- the design ---

# Two shifts in each, equal or not, so that one compiled draw serves both settings.
_EQUAL_SHIFTS = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0,
    "shifts": ((0.0, 0.0), (0.0, 0.0)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
_DIFFERENT_SHIFTS = {
    **_EQUAL_SHIFTS, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6),
}  # fmt: skip
_HEADS = (
    {**_EQUAL_SHIFTS, "loss": "logistic", "ratio": 0.5, "ridge": 0.02},
    {**_DIFFERENT_SHIFTS, "loss": "logistic", "ratio": 0.5, "ridge": 0.05},
    {**_EQUAL_SHIFTS, "loss": "hinge", "ratio": 1.2, "ridge": 0.1},
    {**_DIFFERENT_SHIFTS, "loss": "hinge", "ratio": 1.2, "ridge": 0.05},
    {**_EQUAL_SHIFTS, "loss": "hinge", "ratio": 1.2, "ridge": 0.0},  # the max-margin head
)


def _convex_design(trials_by_dim: Mapping[int, int]) -> Design:
    runs = [
        Run(head, dim=dim, trials=trials)
        for head in _HEADS
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


_FIGURE = Curves(
    x="ratio",
    y="error",
    design=Design.product(
        {**_EQUAL_SHIFTS, "ridge": 0.02, "dim": 64},
        {"loss": ["square", "logistic", "hinge"], "ratio": [0.1, 0.25, 0.5, 0.75, 1.0, 1.5]},
        trials=64,
    ),
    lines=tuple(float(x) for x in np.linspace(0.05, 1.6, 32)),
    title="A known prompt and a head learned by each loss",
    x_label="dimension / samples, d / n",
    y_label="probability of a wrong sign",
    series="loss",
    series_label="{value} loss",
    marks={"threshold": "training set separable from here on"},
)

LOSS = Parameter("loss", "choice", "margin loss of the head", "ℓ", choices=LOSSES)


def _check_noisy_law(values: dict[str, Any], where: str) -> dict[str, Any]:
    values = check_law(values, where)
    if values["tokens"] == values["relevant"] or np.any(np.asarray(values["noise"]) == 0):
        raise ParameterError(
            "noise", values["noise"], "> 0, with irrelevant tokens to carry it",
            "use contextual.separation for tokens without noise", where,
        )  # fmt: skip
    return resolve_ratio(values, where)


_UNBOUNDED = "where the training set is separable and there is no ridge"

CLAIM = Claim(
    id="contextual.convex_head",
    title="Test error of a head learned by a convex loss",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, GAIN, RIDGE, RATIO, LOSS, optional(SAMPLES), optional(DIM)),
    ignored=FAMILY,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", 0.01),
        Quantity(
            "head_signal", "component of the head along w⋆/W", 0.1, True, "c", infinite=_UNBOUNDED
        ),
        Quantity(
            "head_noise", "norm of the head away from w⋆", 0.08, True, "ρ", infinite=_UNBOUNDED
        ),
        Quantity(
            "spread",
            "V, limit of the trace of the inverse Hessian over n; compared with its equation",
            _FIXED,
            relative=True,
            symbol="V",
            infinite=_UNBOUNDED,
        ),
        Quantity(
            "threshold",
            "d/n beyond which the training set is separable",
            symbol="κ⋆",
            unmeasured=True,
        ),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "gain": (-0.5, 1.0),
            "ridge": (0.01, 1.0),
            "ratio": (0.1, 3.0),
            "loss": LOSSES,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "errors below 2e-5 are not resolved, and a fixed point that is not reached is refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _convex_design({24: 768, 48: 384, 96: 192}),
        "full": _convex_design({32: 4096, 64: 2048, 128: 1024, 256: 512}),
    },
    check_parameters=_check_noisy_law,
    also=_compare_own_equations,
    size="dim",
    powers=(1,),
    broadcasts="signal, context, noise, gain, ridge and ratio",
    figure=_FIGURE,
)
