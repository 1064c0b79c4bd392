r"""Claim ``contextual.sample_complexity``: the samples needed after three steps grow like d."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from scipy import optimize

from jaxprompt import stats
from jaxprompt.contextual.setting import (
    CONTEXT,
    DIM,
    MODEL,
    NOISE,
    RELEVANT,
    SHIFT_WEIGHTS,
    SHIFTS,
    SIGNAL,
    TOKENS,
    Setting,
    learnable,
)  # fmt: skip
from jaxprompt.contextual.three_steps import BLOCK, PROMPT_NORM, limit_error, simulate_trials
from jaxprompt.engine import (
    Agreement,
    Cell,
    Claim,
    Design,
    Falsifier,
    Prediction,
    Predictor,
    Quantity,
    Relation,
    along,
)  # fmt: skip
from jaxprompt.errors import ParameterError
from jaxprompt.parameters import Parameter
from jaxprompt.stats import Comparison, Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]


# --- the closed form -----------------------------------------------------------------------------


def closed_form(**params: Any) -> Prediction:
    """`exponent` 1, and `samples_per_dim`, the limit of n/d, with its standard error.

    Raises:
        ParameterError: no number of samples brings the error down to `target`.
    """
    return _closed_form({}, **params)


def _closed_form(
    wrong: Mapping[str, float], *, target: float, prompt_norm: float, dim: Any = None,
    **params: Any,
) -> Prediction:  # fmt: skip
    setting = Setting.make(**params, where=CLAIM.id)

    def error(log_ratio: float) -> np.ndarray:
        return limit_error(setting, math.exp(log_ratio), prompt_norm, wrong)

    low, high = math.log(1e-2), math.log(1e4)
    best = float(error(high).mean())
    if not best < target < float(error(low).mean()):
        raise ParameterError(
            "target", target, f"> {best:.4g}, the error with unlimited samples, and less than ½",
            "choose one in between", CLAIM.id,
        )  # fmt: skip
    found: Any = optimize.brentq(lambda x: float(error(x).mean()) - target, low, high, xtol=1e-6)
    root = float(found)
    slope = float((error(root + 0.02) - error(root - 0.02)).mean()) / 0.04
    at = error(root)
    stderr = float(at.std(ddof=1)) / math.sqrt(at.size) / abs(slope)
    ratio = math.exp(root)
    return {
        "exponent": wrong.get("exponent", 1.0),
        "samples_per_dim": ratio,
        "samples_per_dim_stderr": ratio * stderr,
    }


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


# --- the simulation ------------------------------------------------------------------------------

_OFFSETS = np.array([-0.2, 0.0, 0.2])
"""Logarithms of n around the centre at which the search measures the error."""


def simulate(
    *, key: Key[Array, ""], trials: int, target: float, prompt_norm: float, dim: int, **params: Any
) -> dict[str, Estimate]:
    """The least n with error `target`, divided by d, from measured errors alone.

    A search with an eighth of the trials finds the neighbourhood and the slope of log error in
    log n; `trials` trials at one n there give the crossing.
    """
    setting = Setting.make(**params, where=CLAIM.id)
    found = _crossing(setting, dim, float(dim), target, prompt_norm, trials, key)
    return {"samples_per_dim": Estimate(found.mean / dim, found.stderr / dim, found.trials)}


def _crossing(
    setting: Setting, dim: int, guess: float, target: float, prompt_norm: float, trials: int,
    key: Any,
) -> Estimate:  # fmt: skip
    measure = functools.partial(_error, setting, dim, prompt_norm=prompt_norm)
    search_key, final_key = jax.random.split(key)
    few, centre = max(trials // 8, BLOCK), math.log(guess)
    for attempt in range(24):
        counts = [max(round(x), 2) for x in np.exp(centre + _OFFSETS)]
        here = jax.random.fold_in(search_key, attempt)
        found = [
            measure(samples=n, trials=few, key=jax.random.fold_in(here, i))
            for i, n in enumerate(counts)
        ]
        line = stats.slope(
            np.log(counts), [math.log(e.mean) for e in found], [e.stderr / e.mean for e in found]
        )
        level = float(np.mean([math.log(e.mean) for e in found]))
        slope = min(line.value, -0.2)  # noise must not send the search away
        shift = (math.log(target) - level) / slope
        centre += min(max(shift, -0.7), 0.7)
        if abs(shift) < 0.2:
            break
    else:
        raise ArithmeticError(f"{CLAIM.id}: no n with error {target} found at dim {dim}")
    count = max(round(math.exp(centre)), 2)
    last = measure(samples=count, trials=trials, key=final_key)
    shift = (math.log(target) - math.log(last.mean)) / slope
    spread = math.hypot(last.stderr / last.mean, shift * line.stderr) / abs(slope)
    crossing = count * math.exp(shift)
    return Estimate(crossing, crossing * spread, trials)


def _error(
    setting: Setting, dim: int, *, samples: int, prompt_norm: float, trials: int, key: Any
) -> Estimate:
    errors = simulate_trials(setting, dim, samples, trials, prompt_norm, key=key)
    return stats.mean_estimate(errors[:, 1])


def _measure(claim: Claim, profile: str, key: Any) -> list[Cell]:
    """The crossing at every d; the search at each starts from the one before, scaled."""
    design, cells = claim.designs[profile], []
    ratio = 4.0
    for run in design.runs:
        values = claim.validated({n: v for n, v in run.items() if n != "trials"})
        dim, trials = values.pop("dim"), run["trials"]
        target, norm = values.pop("target"), values.pop("prompt_norm")
        setting = Setting.make(**values, where=claim.id)
        here = jax.random.fold_in(key, dim)
        found = _crossing(setting, dim, ratio * dim, target, norm, trials, here)
        ratio = found.mean / dim
        scaled = Estimate(ratio, found.stderr / dim, found.trials)
        point = {n: v for n, v in run.items() if n != "trials"}
        cells.append(Cell(point, {"samples_per_dim": scaled}))
    return cells


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    r"""The exponent s of :math:`\log n = A + s\log d + B/d`, and the limit of n/d."""
    return [
        row
        for rest, members in along(cells, "dim", least=3)
        for row in _joined(claim, rest, members, predict)
    ]


def _joined(
    claim: Claim, rest: Mapping[str, Any], cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    dims = np.array([cell.parameters["dim"] for cell in cells], dtype=np.float64)
    ratios = [cell.estimates["samples_per_dim"] for cell in cells]
    predicted = predict(**rest)
    shown = {**rest, "dim": dims.tolist()}
    means = np.array([r.mean for r in ratios])
    relative = np.array([r.stderr for r in ratios]) / means
    freedoms = [r.trials - 1 for r in ratios]
    design = np.column_stack([np.ones_like(dims), np.log(dims / dims[0]), dims[0] / dims])
    fit = stats.weighted_fit(design, np.log(means * dims), relative, freedoms, 1)
    limit = float(predicted["samples_per_dim"])
    return [
        stats.compare_rate(
            "exponent", shown, float(predicted["exponent"]), fit,
            tolerance=claim.quantity("exponent").tolerance,
        ),
        stats.compare_asymptotic(
            "samples_per_dim", shown, dims.tolist(), [limit] * len(cells), ratios, limit=limit,
            tolerance=claim.quantity("samples_per_dim").allowance(limit),
            predicted_stderr=float(predicted["samples_per_dim_stderr"]),
        ),
    ]  # fmt: skip


# --- the claim -----------------------------------------------------------------------------------

_BASE = {
    "tokens": 10, "relevant": 2, "signal": 1.5, "context": 2.0, "noise": 1.0,
    "shifts": ((0.2, 0.0), (0.0, 0.2)), "shift_weights": (0.7, 0.3), "prompt_norm": 2.5,
    "target": 0.03,
}  # fmt: skip


def _design(sizes: Sequence[tuple[int, int]]) -> Design:
    # Errors fluctuate more at a small d, where trials are cheap.
    runs = [{**_BASE, "dim": dim, "trials": trials} for dim, trials in sizes]
    return Design(tuple(runs), max(trials for _, trials in sizes))


CLAIM = Claim(
    id="contextual.sample_complexity",
    title="Samples needed after three steps grow in proportion to the dimension",
    statement=r"""
Let $n(d)$ be the least number of sequences a step at which the test error after three gradient
steps (`contextual.three_steps`) reaches a fixed target. As $d\to\infty$, $n(d)/d$ tends to a
constant: $n$ grows like $d^1$, and
$$\log n(d)=A+\log d+O(1/d).$$
The constant solves "limiting error at $n/d$ = target", in which the order parameters do not
fluctuate.
""",
    derivation=r"""
In `contextual.three_steps` $d$ enters through the orthogonal energies $\bar D\,\chi^2_{d-2}/n$ and
$\bar D\,\chi^2_{d-3}/n$ only, which tend to $\bar D\,d/n$, and $n$ alone enters through
fluctuations of the order parameters of variance $1/n$. So the error is a decreasing function of
$n/d$ plus terms of order $1/n$; inverting at a fixed target gives $n/d=r+O(1/d)$.
""",
    relation=Relation.RATE,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        TOKENS,
        RELEVANT,
        SIGNAL,
        CONTEXT,
        NOISE,
        SHIFTS,
        SHIFT_WEIGHTS,
        PROMPT_NORM,
        Parameter(
            "target",
            "real",
            "test error to be reached",
            low=0,
            high=0.5,
            open_low=True,
            open_high=True,
        ),
        Parameter("dim", "integer", "token dimension", "d", low=4, default=None),
    ),
    accepted=tuple(p for p in MODEL if p is not DIM),
    quantities=(
        # d log d has slope 1.1 to 1.2 over such dimensions: a check must tell it from d.
        Quantity("exponent", "slope of log n in log d", 0.08),
        # To plan a data budget; choices outside the theory matter more than 5 %.
        Quantity("samples_per_dim", "limit of n/d", 0.05, True),
    ),
    falsifiers=(
        Falsifier("sublinear", "exponent 6/7", _wrong(exponent=6 / 7)),
        Falsifier("superlinear", "exponent 8/7, as of d log d", _wrong(exponent=8 / 7)),
        Falsifier("less_noise", "0.8 of the prompt's orthogonal energy", _wrong(orthogonal=0.8)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design(((500, 480), (1200, 240), (3000, 96), (7500, 40), (18000, 24))),
        "full": _design(
            ((500, 8192), (1000, 4096), (2000, 2048), (5000, 1024), (12000, 512), (30000, 256))
        ),
    },
    validate=learnable,
    measure=_measure,
    compare=_compare,
    figure=Agreement(title="Samples needed after three steps", label="exponent, limit of n/d"),
)
