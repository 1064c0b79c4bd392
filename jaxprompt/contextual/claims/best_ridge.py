r"""Claim ``contextual.best_ridge``: the best ridge and gain at each d/n, and what they save."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key
from scipy import interpolate

from jaxprompt.contextual.law.convex_limit import convex_limit
from jaxprompt.contextual.law.feature_law import FeatureLaw, coarse_feature_law, feature_law
from jaxprompt.contextual.law.finite_ridge import at_finite_dim, best_finite_ridge
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.ridge_limit import (
    SEARCHED_NODES,
    SEARCHED_REPLICATES,
    Limit,
    best_gain,
    best_ridge,
    refined_optimum,
    ridge_limit,
)
from jaxprompt.contextual.parameters import (
    COMPARED_LAW,
    DATA_LAW,
    DIM,
    FAMILY,
    GAIN,
    RATIO,
    SETTING_NAMES,
    check_law_and_ratio,
    required,
    sample_counts,
    to_simulate,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.evaluation import errors_over_known_prompt
from jaxprompt.contextual.simulation.sampling import row_stream
from jaxprompt.core.claim import (
    Cell,
    Claim,
    Compared,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.comparing import group_by_size
from jaxprompt.stats import Comparison, Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Let $e(\lambda,\gamma,\kappa)$ be the limiting error of a ridge head over the prompt
$\gamma q_\star$ at $d/n\to\kappa$ (`contextual.prompt_error`). For a given gain the least error
over ridges at dimension $d$, for heads orthogonal to the prompt, tends to
$\min_\lambda e(\lambda,\gamma,\kappa)$. The saving is $e(0,\gamma,\kappa)$ less that minimum; it
is largest near $\kappa=1$, where the head without ridge is of no use. The best gain minimises
$\min_\lambda e(\lambda,\gamma,\kappa)$ over $\gamma$.

With `dim` given the error, the saving and the best ridge are those at that $d$ and $n$, to order
$1/n$; without it they are the limits, and the best gain and its error always are.
"""

DERIVATION = r"""
The errors at all ridges converge to those of `contextual.prompt_error`, uniformly over the ridges
from any positive one to infinity, so their minimum converges to the limit's. With noise of one
level for all sequences the best ridge is infinite: the noise is isotropic, and the mean row is the
matched filter. Sequences of different noise make it finite, because a ridge weighs them
differently.

Along $q_\star$ a signed feature is the context times an independent sign. A head that learns this
coordinate too has the same limit, but a large ridge does not shrink it more than the others, and
its share $Q^4/(d\,\tau^4)$ of the margin's variance is small only at a large $d$ (125/d here).
The prompt is known, so the head is kept orthogonal to it.

At a finite $d$ the errors of such heads are those of `contextual.prompt_error` there without the
coordinate along the prompt, and the best ridge is sought near the limit's.

Minima are found on a scan that scales with the tokens and has gains of both signs, and refined on
all nodes; the places come with the standard error that the quadrature leaves. The check sets both
least errors beside those of a fixed grid. The simulation learns heads at nine ridges, takes the
minimum of a cubic spline in $\log\lambda$ through the mean errors, and the check extrapolates in
$1/d$: in that the errors at all ridges approach their limits, and at a minimum the error does not
see the place's own deviation to first order. At the best ridge the limit is also solved as the
fixed point of any convex loss (`contextual.convex_head`), here the square loss, in which it is a
root in three unknowns.

*Tolerances.* 0.005 of the least error: choosing the ridge by validation costs as much. 0.01 of the
saving, whose other part is the error without ridge, as in `contextual.prompt_error`. The place of
the minimum is not measured: the error is too flat there. 0.002 between a least error and that of
the grid, whose steps miss up to half of it.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, gain: Any, ratio: Any,
    shifts: Any, shift_weights: Any, dim: Any = None, averaged_noise: bool = False,
    ratio_factor: float = 1.0, ridge_factor: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """`error` at the `best_ridge` and its `saving`, `best_gain` and `best_gain_error`.

    With `dim` the first three are those at that d and n, to order 1/n; without it, and for the best
    gain, they are limits. Numbers of any shape broadcast. Standard errors come with all of them;
    that of a place is 0 where the error has no valley told from the quadrature's noise. Falsifiers
    change the last three arguments, which the theory has at their defaults.
    """

    def optima_at(*, ratio: float, **numbers: float) -> dict[str, Estimate]:
        return _optimal_ridge_and_gain(
            tokens=tokens, relevant=relevant, shifts=shifts, shift_weights=shift_weights,
            ratio=ratio * ratio_factor, averaged_noise=averaged_noise, ridge_factor=ridge_factor,
            **numbers,
        )  # fmt: skip

    return evaluate_pointwise(
        optima_at, signal=signal, context=context, noise=noise, gain=gain, ratio=ratio,
        dim=math.inf if dim is None else dim,
    )  # fmt: skip


def _optimal_ridge_and_gain(
    *, dim: float, ratio: float, gain: float, ridge_factor: float, **law: Any
) -> dict[str, Estimate]:
    """The optima of the limit, moved to a finite dimension."""
    optima, here, plain, least = _best_ridge_in_the_limit(
        ratio=ratio, gain=gain, ridge_factor=ridge_factor, **law
    )
    optima = {**optima, **_best_gain_in_the_limit(ratio=ratio, **law)}
    if not math.isfinite(dim):
        return optima
    ridge, samples = float(optima["best_ridge"].mean) / ridge_factor, dim / ratio
    moved, change = best_finite_ridge(here, dim, samples, ridge)
    if ridge_factor != 1:
        at_moved = ridge_limit(here, ratio, ridge * ridge_factor)
        wrong = at_finite_dim(
            at_moved, here, dim, samples, ridge * ridge_factor, prompt_coordinate=False
        ).error  # fmt: skip
        change = float((wrong - at_moved.error).mean())
    without = at_finite_dim(plain, here, dim, samples, 0.0, prompt_coordinate=False).error
    stderr = float(optima["best_ridge"].stderr) * moved / ridge
    return {
        **optima,
        "best_ridge": Estimate(moved * ridge_factor, stderr, len(least)),
        "error": quadrature_estimate(least + change),
        "saving": quadrature_estimate(without - least - change),
    }


def _features(averaged_noise: bool, gain: float, setting: Mapping[str, Any]) -> FeatureLaw:
    law = feature_law(**setting, gain=gain)
    return law.averaged() if averaged_noise else law


@functools.lru_cache(maxsize=32)
def _best_ridge_in_the_limit(
    *, ratio: float, gain: float, averaged_noise: bool, ridge_factor: float, **setting: Any
) -> tuple[dict[str, Estimate], FeatureLaw, Limit, np.ndarray]:
    """The best ridge at one point: a check asks for the same one at every dimension.

    Also the law of features there, the limit without ridge, and the replicates of the least error.
    """
    here = _features(averaged_noise, gain, setting)
    optimum = refined_optimum(
        lambda log_ridge: ridge_limit(here, ratio, float(np.exp(log_ridge))),
        float(np.log(best_ridge(here, ratio))), _RIDGE_STEP,
    )  # fmt: skip
    ridge, least = float(np.exp(optimum.place)), optimum.limit.error
    if ridge_factor != 1:
        least = ridge_limit(here, ratio, ridge * ridge_factor).error
    plain = ridge_limit(here, ratio, 0.0)
    if ridge_factor == 1 and plain.error.mean() < least.mean():
        least = plain.error  # the least ridge that is searched stands for none
    optima = {
        "best_ridge": Estimate(ridge * ridge_factor, ridge * optimum.stderr, len(least)),
        "error": quadrature_estimate(least),
        "saving": quadrature_estimate(plain.error - least),
    }
    return optima, here, plain, least


@functools.lru_cache(maxsize=256)
def _best_gain_in_the_limit(
    *, ratio: float, averaged_noise: bool, **setting: Any
) -> dict[str, Estimate]:
    """The best gain, each gain with its own best ridge: the same for all gains of points."""

    def features(gain: float) -> FeatureLaw:
        return _features(averaged_noise, gain, setting)

    def coarse_features(gain: float) -> FeatureLaw:
        law = coarse_feature_law(
            setting, gain, nodes=SEARCHED_NODES, replicates=SEARCHED_REPLICATES
        )
        return law.averaged() if averaged_noise else law

    def at_best_ridge(gain: float) -> Limit:
        law = features(gain)
        return ridge_limit(law, ratio, best_ridge(law, ratio))

    scan = _scanned_gains(**setting)
    best = best_gain(features, ratio, scan=scan, coarse_features=coarse_features)
    step = _GAIN_STEP * (abs(best) or float(scan.max()))
    joint = refined_optimum(at_best_ridge, best, step)
    return {
        "best_gain": Estimate(joint.place, joint.stderr, len(joint.limit.error)),
        "best_gain_error": quadrature_estimate(joint.limit.error),
    }


_RIDGE_STEP = 0.4
"""Natural logarithms of the ridge between the places of the parabola through its minimum."""

_GAIN_STEP = 0.15
"""The same for the gain, as a share of it."""

_GAIN_SPACING = 1.5
"""Factor between successive gains of the scan; a valley is wider."""

_ENDLESS = 4.0 ** np.arange(1, 6)
"""Multiples of the largest usual gain, the last of which stands for an endless one: from 0.02 above
the infimum, in corners of the ranges compared, the error falls to 1e-4 or less above it, or to
0.0015 where the best ridge is below 1e-130 E[τ²]."""


def _scanned_gains(
    *, signal: float, context: float, noise: float, shifts: Any, **unused: Any
) -> Float[np.ndarray, " G"]:
    r"""Gains on which the best one is sought, of both signs, in ascending order.

    They scale as :math:`1/s^2` when the tokens scale as s. The least is so small that neither the
    gap :math:`\gamma(1+\delta_q)Q^2` nor the scores' noise :math:`\gamma\sigma Q` moves a weight;
    the largest so large that the softmax picks one token, and what is left of the others is less
    than the signal (:math:`\gamma\sigma Q=10` at a usual noise), and beyond the best gain for many
    tokens, :math:`(1+\delta_q)/(2\sigma^2)`. A negative gain is best where
    :math:`\delta_q<-1`: the irrelevant tokens are then those nearer to the context. Where no gain
    is best the error goes on falling as 1/γ, while sequences whose largest two scores are close
    become rare: gains of :data:`_ENDLESS` times the largest one stand for endless ones.
    """
    largest = 1 + max(abs(float(pair[0])) for pair in shifts)
    if context == 0 or noise == 0:
        return np.array([0.0])  # the gain moves nothing, or there is no error to lower
    low = 0.05 / max(noise * context, largest * context**2, noise**2)
    sharp = 10 + 100 * np.log1p(0.01 * noise / signal if signal else 0.0)
    high = max(sharp / (noise * context), 6 * largest / noise**2)
    count = int(np.log(high / low) / np.log(_GAIN_SPACING)) + 2
    gains = np.concatenate([np.geomspace(low, high, count), high * _ENDLESS])
    return np.concatenate([-gains[::-1], [0.0], gains])


FALSIFIERS = (
    Falsifier("averaged_noise", "every sequence has the average noise", averaged_noise=True),
    Falsifier("half_data", "d/n twice as large", ratio_factor=2.0),
    Falsifier("small_ridge", "a fifth of the best ridge", ridge_factor=0.2),
    Falsifier.after(
        "correction_left",
        "a correction of 1.0/d left in the error, as at d = 48",
        lambda right, _: with_correction(right, "error", plus=1.0 / 48),
    ),
)


# --- the simulation ---

_RIDGES = np.geomspace(0.03, 300.0, 9)


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, ratio: Any, gain: float, **params: Any
) -> dict[str, Estimate]:
    """Learn heads at nine ridges and none, and find the least mean error along them; float64.

    Heads are orthogonal to the prompt, so d − 1 coordinates are learned. One stream of samples
    serves all of `ratio`, and the minimum is one of means, so this is no function of one trial.
    The least error is that of a cubic spline in log λ through the nine means, with a jackknife
    standard error over the trials.
    """
    setting = Setting.of({**params, "gain": gain})
    counts = np.atleast_1d(sample_counts(dim, ratio)).tolist()
    most = max(counts)
    rows = row_stream(setting, dim, 0, trials * most, key).reshape(trials, most, dim)
    rows = rows[:, :, np.arange(dim) != 1]  # a head orthogonal to the prompt
    heads = np.stack([_ridge_heads(rows[:, :n].astype(np.float64)) for n in counts], axis=1)
    errors = np.moveaxis(_errors_of_heads(setting, heads, key), 1, 2)
    total = errors.sum(axis=0)
    whole, without_one = _least(total / trials), _least((total - errors) / (trials - 1))
    return {
        name: _jackknife(whole[name], without_one[name], np.ndim(ratio) == 0)
        for name in ("error", "saving")
    }


def _ridge_heads(rows: Float[np.ndarray, "t n d"]) -> Float[np.ndarray, "t r d"]:
    """Heads of every trial at ridge 0 (minimum norm) and at each of the ridges.

    From one eigendecomposition of the rows' Gram matrix of the smaller kind.
    """
    count, dim = rows.shape[1:]
    turned = rows.swapaxes(1, 2)
    if count < dim:
        values, vectors = np.linalg.eigh(rows @ turned / count)
        along = vectors.sum(axis=1)[:, None] / count
        return along * _inverted(values) @ vectors.swapaxes(1, 2) @ rows
    values, vectors = np.linalg.eigh(turned @ rows / count)
    along = rows.mean(axis=1)[:, None] @ vectors
    return along * _inverted(values) @ vectors.swapaxes(1, 2)


def _inverted(values: Float[np.ndarray, "t m"]) -> Float[np.ndarray, "t r m"]:
    """1/(eigenvalue + ridge) for ridge 0 and each of the ridges; 0 where rounding decides the sum,
    as without ridge where rows span less than they could."""
    total = values[:, None] + np.concatenate([[0.0], _RIDGES])[:, None]
    least = values.shape[-1] * np.finfo(values.dtype).eps * values.max(axis=-1)[:, None, None]
    return np.divide(1.0, total, out=np.zeros_like(total), where=total > least)


def _errors_of_heads(
    setting: Setting, heads: Float[np.ndarray, "t *s d"], key: Array
) -> np.ndarray:
    """Each head's probability of a wrong sign; none has a component along the prompt."""
    along, norms = heads[..., 0], np.linalg.norm(heads, axis=-1)
    numbers = np.stack([along, np.zeros_like(along), norms], axis=-1)
    return errors_over_known_prompt(setting, numbers, key=key)


def _least(errors: np.ndarray) -> dict[str, np.ndarray]:
    """Least error over ridges and what it saves; ridges are on the axis before last."""
    errors = np.moveaxis(errors, -2, -1)
    unit, fine = np.linspace(-1, 1, _RIDGES.size), np.linspace(-1, 1, 2001)
    # Between the ridges the limit's own curve is met to 2e-5, where a polynomial of degree 5 misses
    # it by 2e-4: half a standard error of the quick check.
    fit = interpolate.CubicSpline(unit, np.eye(_RIDGES.size))(fine)
    curve = errors[..., 1:] @ fit.T
    least = curve.min(axis=-1)
    return {
        "error": least,
        "saving": errors[..., 0] - least,
    }


def _jackknife(whole: np.ndarray, without_one: np.ndarray, scalar: bool) -> Estimate:
    """The estimate of all trials less its bias; `without_one` leaves out each trial in turn."""
    trials = without_one.shape[0]
    mean = without_one.mean(axis=0)
    stderr = np.sqrt((trials - 1) / trials * np.square(without_one - mean).sum(axis=0))
    centre = trials * whole - (trials - 1) * mean
    if scalar:
        return Estimate(float(centre[0]), float(stderr[0]), trials)
    return Estimate(centre, stderr, trials)


# --- rows beside the standard comparison ---

_SOLVED = 1e-7
"""Share to which two solutions of one fixed point agree."""


def _compare_derivations(
    claim: Claim, cells: Sequence[Cell], predict: Predictor
) -> list[Comparison]:
    """The least error by another derivation; and both least errors beside those of a grid."""
    rows: list[Comparison] = []
    for point, _ in group_by_size(cells, claim.size):
        predicted, given = predict(**point), claim.validated(point)
        features = feature_law(**{n: given[n] for n in SETTING_NAMES})
        ratio, ridge = float(given["ratio"]), float(predicted["best_ridge"])
        again = float(convex_limit(features, ratio, ridge, "square").limit.error.mean())
        value = float(predicted["error"])
        rows.append(
            Comparison("error", point, value, again, _SOLVED * value, note="any loss's fixed point")
        )
        rows += _by_plain_grid(point, given, predicted)
    return rows


_GRID_TOLERANCE = 0.002
"""What the grid may miss of a least error: its steps cost at most half of that in the designs."""

_GRID = np.geomspace(1e-3, 1e3, 61)
_GRID_NODES = 512


def _by_plain_grid(
    parameters: Mapping[str, Any], given: Mapping[str, Any], predicted: Mapping[str, Any]
) -> Iterator[Comparison]:
    """Both least errors beside those of fixed grids; `given` has the defaults of `parameters`."""
    values = _least_errors_on_grids(
        float(given["ratio"]), **{name: given[name] for name in SETTING_NAMES}
    )
    for name, value in values.items():
        yield Comparison(
            name, parameters, float(predicted[name]), value, _GRID_TOLERANCE, note="a plain grid"
        )


@functools.lru_cache(maxsize=256)
def _least_errors_on_grids(ratio: float, *, gain: float, **setting: Any) -> dict[str, float]:
    """Least errors over fixed grids of ridges in units of σ², and of gains of both signs in units
    of 1/σ², with no search; each falsifier is set beside the same ones."""
    unit = float(setting["noise"]) ** 2 or 1.0

    def least(gain: float, ridges: np.ndarray) -> float:
        law = coarse_feature_law(setting, gain, nodes=_GRID_NODES, replicates=2)
        return min(float(ridge_limit(law, ratio, float(x)).error.mean()) for x in ridges * unit)

    gains = _GRID[20:45] / unit
    return {
        "error": least(float(gain), _GRID[::4]),
        "best_gain_error": min(least(s * float(g), _GRID[::12]) for g in gains for s in (-1, 1)),
    }


# --- the design ---

_USUAL = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}


def _optima_design(trials_by_dim: Mapping[int, int]) -> Design:
    # Whole samples realise the ratios at every dimension, so there is one limit for all.
    runs = [
        Run(_USUAL, ratio=[0.5, 0.6, 2.0], dim=dim, trials=trials)
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


def _without_ridge(ratio: float, **parameters: Any) -> float:
    predicted = CLAIM.predict(**parameters, ratio=ratio)
    return float(predicted["error"] + predicted["saving"])


def _at_best_gain(ratio: float, **parameters: Any) -> float:
    return float(CLAIM.predict(**parameters, ratio=ratio)["best_gain_error"])


CLAIM = Claim(
    id="contextual.best_ridge",
    title="The best ridge and the best gain, and what they buy",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, GAIN, required(RATIO), to_simulate(DIM)),
    ignored=FAMILY,
    quantities=(
        Quantity("error", "error at the best ridge; without `dim` its limit", 0.005),
        Quantity("saving", "error without ridge less that; without `dim` its limit", 0.01),
        Quantity(
            "best_ridge",
            "ridge with the least error; the largest tried, 1e4 E[α² + τ²], stands for infinity, "
            "and the least for none. Its place is not measured, only the error there",
            symbol="λ⋆",
            unmeasured=True,
        ),
        Quantity(
            "best_gain",
            "gain of either sign with the least limiting error at its own best ridge. "
            "Its place is not measured",
            symbol="γ⋆",
            unmeasured=True,
        ),
        Quantity(
            "best_gain_error",
            "the limiting error there; compared with a plain grid of gains",
            0.002,
        ),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "gain": (-0.5, 1.0),
            "ratio": (0.2, 3.0),
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "a minimum is sought at every scale of the tokens; where the error falls with the gain "
        "without end, the best gain is the largest that is scanned, and its error was up to 0.0015 "
        "above the infimum",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _optima_design({48: 384, 96: 192, 192: 96}),
        "full": _optima_design({48: 4096, 96: 2048, 192: 1024, 288: 512}),
    },
    check_parameters=check_law_and_ratio,
    also=_compare_derivations,
    shared=("ratio",),
    size="dim",
    powers=(1,),
    broadcasts="signal, context, noise, gain and ratio",
    figure=Curves(
        x="ratio",
        y="error",
        log_x=True,
        lines=tuple(np.geomspace(0.25, 3.0, 9).round(3).tolist()),
        title="The best ridge takes away the peak at d = n",
        y_label="probability of a wrong sign",
        limit_label="best ridge, theory",
        extra=(
            ExtraLine("no ridge", _without_ridge),
            ExtraLine("best ridge at the best gain", _at_best_gain),
        ),
    ),
)
