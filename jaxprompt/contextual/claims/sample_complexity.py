r"""Claim ``contextual.sample_complexity``: the samples needed after three steps grow like d."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from scipy import optimize

from jaxprompt import stats
from jaxprompt.contextual.claims import first_step, prompt_step
from jaxprompt.contextual.claims.three_steps import (
    INFINITE,
    MEANS,
    NAMES,
    PROMPT_NORM,
    THREE_TOKENS,
    UNEVEN_SHIFTS,
    limits,
    simulate_trials,
)
from jaxprompt.contextual.law.pointwise import quadrature_estimate
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    check_trainable,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.core.claim import (
    Cell,
    Claim,
    Compared,
    Design,
    Falsifier,
    Mark,
    Panel,
    Panels,
    Prediction,
    Predictor,
    Quantity,
    Relation,
    Run,
    Verdict,
)
from jaxprompt.core.comparing import group_by_size
from jaxprompt.core.json_values import canonical
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Comparison, Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Let $n(d)$ be the least number of sequences a step at which the test error after three gradient
steps (`contextual.three_steps`) reaches a fixed target. As $d\to\infty$, $n(d)/d$ tends to a
constant: $n$ grows like $d^1$, and
$$\log n(d)=A+\log d+O(1/d).$$
The constant is the least root of "limiting error at $n/d$ = target", in which the order parameters
do not fluctuate; at $n(d)$ the means of the steps' terms tend to those of that limit.
"""

DERIVATION = r"""
In `contextual.three_steps` $d$ enters through the orthogonal energies $\bar D\,\chi^2_{d-2}/n$ and
$\bar D\,\chi^2_{d-3}/n$ only, which tend to $\bar D\,d/n$, and $n$ alone enters through
fluctuations of the order parameters of variance $1/n$. So the error is a function of $n/d$ plus
terms of order $1/n$; it need not decrease everywhere, but where it first passes the target it
falls, and inverting it there gives $n/d=r+O(1/d)$ for the least $n$. The same holds of
what a step's terms are on average: they are measured beside the errors, near $n(d)$, and moved to
it along their own slopes. For step 2 `contextual.first_step` and `contextual.prompt_step` give the
same means by other derivations.

The check fits $\log n=A+s\log d+B/d$, and extrapolates $n/d$ and the means in $1/d$, since they are
smooth functions of $1/n$ at a fixed $n/d$. What is of order $1/d^2$ takes 0.0003 off the limit of a
mean at ten tokens, 1.6 standard errors of the quick check, and 0.003 off that of $n/d$, a quarter
of one: so the means have a term in $1/d^2$ from four dimensions on, and $n/d$ from six on, as it
would leave five of them undecided.

*Tolerances.* 0.08 in the exponent, as $d\log d$ has one of 1.1 to 1.2 over such dimensions; 5 % of
the limit of $n/d$, and of a term's mean as in `contextual.three_steps`.
"""


# --- the closed form ---


def closed_form(
    *, target: float, prompt_norm: float, tokens: int, relevant: int, signal: float,
    context: float, noise: float, shifts: Any, shift_weights: Any, exponent: float = 1.0,
    orthogonal_energy: float = 1.0, samples_factor: float = 1.0,
) -> Prediction:  # fmt: skip
    """`exponent` 1; `samples_per_dim`, the limit of n/d, and means of the steps' terms there, with
    standard errors.

    Falsifiers change the last three arguments, which the theory has at their defaults.

    Raises:
        ParameterError: no number of samples brings the error down to `target`.
    """
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
        np.asarray(shift_weights),
    )  # fmt: skip

    def limits_at(log_ratio: float) -> dict[str, np.ndarray]:
        return limits(
            setting, math.exp(log_ratio), prompt_norm, orthogonal_energy=orthogonal_energy
        )

    def error(log_ratio: float) -> float:
        return float(limits_at(log_ratio)["final_error"].mean())

    root = _least_root(error, target)
    at, above, below = limits_at(root), limits_at(root + 0.02), limits_at(root - 0.02)
    # Linearise each replicate of the quadrature around the common root, for its standard error.
    slopes = {n: float((above[n] - below[n]).mean()) / 0.04 for n in at}
    shift = (target - at["final_error"]) / slopes["final_error"]
    ratio = math.exp(root) * samples_factor
    means = {name: quadrature_estimate(at[name] + slopes[name] * shift) for name in MEANS}
    log_error = quadrature_estimate(shift).stderr
    return {
        "exponent": exponent,
        "samples_per_dim": Estimate(ratio, ratio * log_error, len(shift)),
        **means,
    }


_LEAST_RATIO, _LARGEST_RATIO = 1e-2, 1e4
"""Samples per dimension between which the least is sought."""

_SCAN_STEP = 0.4
"""In log(n/d); a dip of the error is wider."""


def _least_root(error: Callable[[float], float], target: float) -> float:
    """The least log(n/d) at which the limiting error comes down to `target`.

    The error need not fall with n/d: a head that overshoots turns the prompt away, so it may rise
    and fall again. The range is scanned upwards, dips between the scanned places are looked into,
    and the first passage is refined.

    Raises:
        ParameterError: `target` is passed before the range begins, or nowhere in it.
    """
    low, high = math.log(_LEAST_RATIO), math.log(_LARGEST_RATIO)
    places = np.linspace(low, high, math.ceil((high - low) / _SCAN_STEP) + 1)
    values = [error(low)]
    if not values[0] > target:
        raise ParameterError(
            "target", target,
            f"less than {values[0]:.4g}, the limiting error at {_LEAST_RATIO:g} samples per "
            "dimension, the fewest that are considered", "lower it", CLAIM.id,
        )  # fmt: skip
    lowest = values[0]
    for i in range(1, len(places)):
        values.append(error(places[i]))
        if values[i] > target and i > 1 and values[i - 1] < min(values[i - 2], values[i]):
            dip: Any = optimize.minimize_scalar(
                error, bounds=(places[i - 2], places[i]), method="bounded", options={"xatol": 1e-3}
            )
            lowest = min(lowest, float(dip.fun))
            if dip.fun <= target:
                return _passage(error, target, float(places[i - 2]), float(dip.x))
        lowest = min(lowest, values[i])
        if values[i] <= target:
            return _passage(error, target, float(places[i - 1]), float(places[i]))
    raise ParameterError(
        "target", target, f"> {lowest:.4g}, the least limiting error at any number of samples",
        "raise it, or choose a setting in which the first prompt points towards the context"
        if lowest > 0.45 else "raise it", CLAIM.id,
    )  # fmt: skip


def _passage(error: Callable[[float], float], target: float, low: float, high: float) -> float:
    root: Any = optimize.brentq(lambda x: error(x) - target, low, high, xtol=1e-6)
    return float(root)


FALSIFIERS = (
    Falsifier("sublinear", "exponent 6/7", exponent=6 / 7),
    Falsifier("superlinear", "exponent 8/7, as of d log d", exponent=8 / 7),
    Falsifier("less_noise", "0.8 of the prompt's orthogonal energy", orthogonal_energy=0.8),
    Falsifier("not_the_least", "a tenth fewer samples do", samples_factor=0.9),
)


# --- the simulation ---

_OFFSETS = np.array([-0.2, 0.0, 0.2])
"""Logarithms of n around the centre at which the search measures the error."""

FEWEST = 8
"""Trials that the search has at least."""


def simulate(
    *, key: Key[Array, ""], trials: int, target: float, prompt_norm: float, dim: int, **params: Any
) -> dict[str, Estimate]:
    """The least n with error `target`, divided by d, from measured errors alone; and the means of
    the steps' terms at that n.

    A search with an eighth of the trials finds the neighbourhood and the slopes in log n; `trials`
    trials at one n there give the crossing. It is no mean over trials, so no function of one.
    """
    setting = Setting.of(params)
    return _crossing(setting, dim, float(dim), target, prompt_norm, trials, key)


def _crossing(
    setting: Setting, dim: int, guess: float, target: float, prompt_norm: float, trials: int,
    key: Any,
) -> dict[str, Estimate]:  # fmt: skip
    measure = functools.partial(_trials, setting, dim, prompt_norm=prompt_norm)
    search_key, final_key = jax.random.split(key)
    few, centre = max(trials // 8, FEWEST), math.log(guess)
    for attempt in range(24):
        counts = [max(round(x), 2) for x in np.exp(centre + _OFFSETS)]
        attempt_key = jax.random.fold_in(search_key, attempt)
        searched = [
            measure(samples=n, trials=few, key=jax.random.fold_in(attempt_key, i))
            for i, n in enumerate(counts)
        ]
        errors = [stats.mean_estimate(each["final_error"]) for each in searched]
        if not all(e.mean > 0 and e.stderr > 0 for e in errors):
            raise ArithmeticError(f"at dim {dim} and {counts[0]} samples the error does not vary")
        line = stats.slope(
            np.log(counts), [math.log(e.mean) for e in errors], [e.stderr / e.mean for e in errors]
        )
        level = float(np.mean([math.log(e.mean) for e in errors]))
        slope = min(line.value, -0.2)  # noise must not send the search away
        shift = (math.log(target) - level) / slope
        centre += min(max(shift, -0.7), 0.7)
        if abs(shift) < 0.2:
            break
    else:
        raise ArithmeticError(f"no n with error {target} found at dim {dim}")
    count = max(round(math.exp(centre)), 2)
    last = measure(samples=count, trials=trials, key=final_key)
    error = stats.mean_estimate(last["final_error"])
    shift = (math.log(target) - math.log(error.mean)) / slope
    spread = math.hypot(error.stderr / error.mean, shift * line.stderr) / abs(slope)
    crossing = count * math.exp(shift)
    out = {"samples_per_dim": Estimate(crossing / dim, crossing / dim * spread, trials)}
    for name in MEANS:
        terms = [stats.mean_estimate(each[name]) for each in searched]
        if not all(t.stderr > 0 for t in terms):
            raise ArithmeticError(f"at dim {dim} and {counts[0]} samples {name} does not vary")
        tilt = stats.slope(np.log(counts), [t.mean for t in terms], [t.stderr for t in terms])
        # A trial with a larger error has its crossing, and with it the term's mean, further up.
        up = tilt.value / slope
        moved = stats.mean_estimate(last[name] - up * last["final_error"] / error.mean)
        mean = float(last[name].mean()) + tilt.value * shift
        tilted = math.hypot(tilt.stderr, up * line.stderr)
        out[name] = Estimate(mean, math.hypot(moved.stderr, shift * tilted), trials)
    return out


def _trials(
    setting: Setting, dim: int, *, samples: int, prompt_norm: float, trials: int, key: Any
) -> dict[str, np.ndarray]:
    """The error and the means of the steps' terms in every trial."""
    values = simulate_trials(setting, dim, samples, trials, prompt_norm, key=key)
    return {name: values[:, NAMES.index(name)] for name in ("final_error", *MEANS)}


def _measure_crossings(claim: Claim, profile: str, key: Any) -> list[Cell]:
    """The crossing at every d; the search at each starts from the one before, scaled.

    That is why the standard experiment, which knows nothing of the run before, does not do.
    """
    design, cells, ratio_before = claim.designs[profile], [], {}
    for run in design.runs:
        point = dict(run)
        values = claim.validated(point)
        dim, target, norm = (values.pop(n) for n in ("dim", "target", "prompt_norm"))
        setting = Setting.of(values)
        run_key = jax.random.fold_in(key, dim)
        shared = canonical({n: v for n, v in point.items() if n != "dim"})
        guess = ratio_before.get(shared, 4.0) * dim
        crossing = _crossing(setting, dim, guess, target, norm, design.trials_of(run), run_key)
        ratio_before[shared] = float(crossing["samples_per_dim"].mean)
        cells.append(Cell(point, crossing))
    return cells


# --- the comparison ---


# One of its own, because the exponent is that of a fit with a correction, B/d, and the other
# quantities of the same cells have limits.
def _compare_over_dims(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    r"""The exponent s of :math:`\log n = A + s\log d + B/d`, and limits of n/d and of the means."""
    return [
        row
        for point, members in group_by_size(cells, "dim", least=3)
        for row in _joined(claim, point, members, predict)
    ]


def _joined(
    claim: Claim, point: Mapping[str, Any], cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    dims = np.array([cell.parameters["dim"] for cell in cells], dtype=np.float64)
    ratios = [cell.estimates["samples_per_dim"] for cell in cells]
    predicted = predict(**point)
    where = {**point, "dim": dims.tolist()}
    means = np.array([r.mean for r in ratios])
    relative = np.array([r.stderr for r in ratios]) / means
    dof = [r.trials - 1 for r in ratios]
    design = np.column_stack([np.ones_like(dims), np.log(dims / dims[0]), dims[0] / dims])
    fit = stats.weighted_fit(design, np.log(means * dims), relative, dof, 1)
    exponent = float(predicted["exponent"])
    tolerance = claim.quantity("exponent").allowance(exponent, point)
    samples = [
        Estimate(float(r.mean) * d, float(r.stderr) * d, r.trials, kind="sampled")
        for r, d in zip(ratios, dims.tolist(), strict=True)
    ]
    line = stats.line_of_rate(dims.tolist(), samples, fit)
    rows = [stats.compare_rate("exponent", where, exponent, fit, tolerance=tolerance, line=line)]
    sizes = np.unique(dims).size
    for name in ("samples_per_dim", *MEANS):
        limit = float(predicted[name])
        fewest = 6 if name == "samples_per_dim" else 4  # the derivation says why
        rows.append(
            stats.compare_asymptotic(
                name, where, dims.tolist(), [limit] * len(cells),
                [cell.estimates[name] for cell in cells], limit=limit,
                tolerance=claim.quantity(name).allowance(limit, point),
                predicted_stderr=float(predicted[f"{name}_stderr"]),
                powers=(1.0, 2.0) if sizes >= fewest else (1.0,),
            )
        )  # fmt: skip
    return rows


def _compare_single_steps(
    claim: Claim, cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    """The means of step 2 again, from what the claims of the single steps say of it."""
    return [
        row
        for point, _ in group_by_size(cells, "dim", least=3)
        for row in _by_single_steps(claim, point, predict(**point))
    ]


_AGREED = 1e-5
"""Share to which two derivations of a limit agree; its log n is found to 1e-6."""


def _by_single_steps(
    claim: Claim, point: Mapping[str, Any], predicted: Mapping[str, Any]
) -> Iterator[Comparison]:
    given = claim.validated(point)
    setting = {n: x for n, x in given.items() if n not in ("dim", "target", "prompt_norm")}
    samples = round(float(predicted["samples_per_dim"]) * INFINITE)
    first = first_step.CLAIM.predict(**setting, dim=INFINITE, samples=samples)
    head = {
        "head_signal": float(first["signal"]) * given["signal"],
        "head_context": 0.0,
        "head_norm": math.sqrt(first["energy"]),
    }
    second = prompt_step.CLAIM.predict(**setting, dim=INFINITE, samples=samples, **head)
    again = {
        "step2_context_mean": float(second["context"]),
        "step2_orthogonal_mean": float(second["orthogonal_energy"]) * samples / (INFINITE - 3),
    }
    for name, value in again.items():
        expected = float(predicted[name])
        yield Comparison(
            name,
            point,
            expected,
            value,
            _AGREED * abs(expected),
            note="by the single steps' claims",
        )


# --- the design ---

_TEN_TOKENS_WITH_TARGET = {**UNEVEN_SHIFTS, "target": 0.03}
_THREE_TOKENS_WITH_TARGET = {**THREE_TOKENS, "target": 0.06}
"""With three tokens every part of the steps' moments is a fair share of them, and n/d is a quarter
of the other's."""


def _design_over_dims(trials_by_dim: Mapping[int, int]) -> Design:
    # Errors fluctuate more at a small d, where trials are cheap.
    runs = [
        Run(base, dim=times * dim, trials=trials)
        for base, times in ((_TEN_TOKENS_WITH_TARGET, 1), (_THREE_TOKENS_WITH_TARGET, 2))
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


def _panels_over_dims(claim: Claim, verdict: Verdict, key: Any) -> list[Panel]:
    """The needed n against d, and n/d with its limit."""
    counts: list[Mark] = []
    ratios: list[Mark] = []
    slopes = [row for row in verdict.rows if row.quantity == "exponent"]
    limits = [row for row in verdict.rows if row.quantity == "samples_per_dim"]
    for colour, (slope, limit) in enumerate(zip(slopes, limits, strict=True)):
        line = slope.fit
        if line is None:
            continue
        dims, needed, errors = map(np.asarray, (line.sizes, line.values, line.stderrs))
        half = np.array([stats.half_width(e, d) for e, d in zip(errors, line.dofs, strict=True)])
        at = slope.parameters
        words = f"{at['tokens']} tokens, error {at['target']:g}: n → {limit.predicted:.3g} d"
        ends = np.array([dims.min() / 1.5, dims.max() * 1.5])
        for marks, scale, height in (
            (counts, 1.0, limit.predicted * ends),
            (ratios, dims, np.full(2, limit.predicted)),
        ):
            marks += [
                Mark("line", ends, height, label=words, colour=colour),
                Mark("points", dims, needed / scale, half=half / scale, colour=colour),
            ]
    x = "token dimension d"
    return [
        Panel(counts, "samples needed", x, "samples, n", log_x=True, log_y=True),
        Panel(ratios, "samples needed per dimension", x, "samples / dimension, n / d", log_x=True),
    ]


TARGET = Parameter(
    "target", "real", "test error to be reached", low=0, high=0.5, open_low=True, open_high=True
)

CLAIM = Claim(
    id="contextual.sample_complexity",
    title="Samples needed after three steps grow in proportion to the dimension",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.RATE,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        PROMPT_NORM,
        TARGET,
        Parameter("dim", "integer", "token dimension", "d", low=4, default=None),
    ),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    quantities=(
        # d log d has slope 1.1 to 1.2 over such dimensions: a check must tell it from d.
        Quantity("exponent", "slope of log n in log d", 0.08),
        # To plan a data budget; choices outside the theory matter more than 5 %.
        Quantity("samples_per_dim", "limit of n/d", 0.05, True),
        *(Quantity(name, f"limit of the {meaning}", 0.05, True) for name, meaning in MEANS.items()),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            "tokens": (4, 12),
            "relevant": (1, 3),
            "signal": (0.6, 2.0),
            "context": (0.8, 2.0),
            "noise": (0.5, 0.8),
            "shifts": (-0.3, 0.1),
            "prompt_norm": (1.0, 4.0),
            "target": (0.15, 0.35),
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "a target that is not reached is refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design_over_dims({500: 512, 1200: 256, 3000: 112, 7500: 48, 18000: 32}),
        "full": _design_over_dims(
            {500: 8192, 1000: 4096, 2000: 2048, 5000: 1024, 12000: 512, 30000: 256}
        ),
    },
    check_parameters=check_trainable,
    measure=_measure_crossings,
    compare=_compare_over_dims,
    also=_compare_single_steps,
    figure=Panels(
        _panels_over_dims,
        "Samples that three steps need grow in proportion to the dimension",
        "lines: n = d times the limit; points: measured, 95 % intervals",
    ),
)
