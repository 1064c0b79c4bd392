"""Limits and slopes from measurements at several sizes, each with a test of the fit itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jaxprompt.stats.estimates import Estimate
from jaxprompt.stats.tests import Comparison, FittedLine, Side

__all__ = [
    "ADMISSIBLE_LEVEL",
    "LOG",
    "UNSTATED_POWERS",
    "Fit",
    "compare_asymptotic",
    "compare_rate",
    "correction_columns",
    "extrapolate",
    "extrapolate_forms",
    "line_of_rate",
    "rate_fits",
    "slope",
    "weighted_fit",
]

LOG = "log"
"""In place of a power: a correction in 1/log(size)."""

UNSTATED_POWERS = (0.25, 1 / 3, 0.5, 2 / 3, 1.0, 1.5, 2.0)
"""Leading powers of 1/size that are tried where a claim states none; with 1/log(size) beside."""

ADMISSIBLE_LEVEL = 0.01
"""A form of correction is admissible unless its goodness of fit has a smaller p-value."""

SINGLE_TERM_LEVEL = 0.1
"""A single term of unstated power fits well if it leaves a goodness of fit of this p-value."""

LEAST_PAIRED_POWER = 0.5
"""Least leading power that is tried with a second term beside single terms that fit well."""

LINE_POINTS = 25
"""Places at which a fitted line is stored for figures."""

Powers = tuple[float | str, ...]


class Fit(NamedTuple):
    """A fitted number, its standard error, its degrees of freedom and the fit's p-value.

    `coefficients` belong to the columns of the fit's design; `powers` are those of a limit's form.
    """

    value: float
    stderr: float
    dof: float
    goodness: float
    coefficients: tuple[float, ...] = ()
    powers: Powers = ()


def extrapolate(
    sizes: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    stderrs: Sequence[float] | np.ndarray,
    dofs: Sequence[float] | np.ndarray | float = math.inf,
    *,
    order: int = 1,
    powers: Powers | None = None,
) -> Fit:
    r"""Limit of `values` at infinite size, from a weighted fit of a stated form.

    .. math:: v(s) = v_\infty + \sum_i a_i s^{-p_i}

    `powers` states the :math:`p_i`; ``"log"`` stands for :math:`1/\log s`. By default they are
    1, 2, …, `order`. Weights are inverse squared standard errors; with standard errors of 0
    throughout (a trajectory without noise) all weights are equal, and the result has none either.
    Needs more sizes than coefficients, so that the fit itself is tested (chi-squared on what it
    leaves).

    Raises:
        ValueError: with too few distinct sizes, or a size or standard error that is not positive.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    if not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"sizes {sizes}: every one must be positive and finite")
    values, errors = np.asarray(values, np.float64), np.asarray(stderrs, np.float64)
    if powers is None:
        powers = tuple(float(p) for p in range(1, order + 1))
        needed = f"order {order}"
    else:
        needed = f"{len(powers)} powers"
    if np.unique(sizes).size < len(powers) + 2:
        raise ValueError(
            f"{np.unique(sizes).size} sizes: {needed} needs at least {len(powers) + 2}; add a size"
        )
    design = correction_columns(sizes, powers)
    if not errors.any():
        return _exact_fit(design, values, 0)._replace(powers=powers)
    return weighted_fit(design, values, errors, dofs, 0)._replace(powers=powers)


def correction_columns(sizes: np.ndarray, powers: Powers) -> np.ndarray:
    """A column of ones, and one for each power of the smallest size over the size."""
    scaled = sizes.min() / sizes
    columns = [np.ones_like(sizes)]
    for power in powers:
        if isinstance(power, str):
            if sizes.min() <= 1:
                raise ValueError(f"size {sizes.min():g}: a correction in 1/log needs sizes above 1")
            columns.append(math.log(sizes.min()) / np.log(sizes))
        else:
            columns.append(scaled**power)
    return np.stack(columns, axis=1)


def extrapolate_forms(
    sizes: Sequence[float],
    values: Sequence[float],
    stderrs: Sequence[float],
    dofs: Sequence[float] | float,
    powers: Powers | None,
) -> tuple[Fit, tuple[Fit, ...]]:
    """The limit under the claim's form of correction, and under the other admissible forms.

    With `powers` stated, those are one power more and the smallest size left out, as far as there
    are sizes enough. Without, the leading power is one of :data:`UNSTATED_POWERS` or 1/log: the
    main fit is the one that leaves least (the first among equals), and every form that the data do
    not reject at :data:`ADMISSIBLE_LEVEL` beside the best is admissible. Two terms, the second of
    twice the power, are tried too; with powers below :data:`LEAST_PAIRED_POWER`, which reach far
    beyond the data, only where no single term fits well (:data:`SINGLE_TERM_LEVEL`).
    """
    sizes_array = np.asarray(sizes, np.float64)
    numbers = np.asarray(values, np.float64)
    errors = np.asarray(stderrs, np.float64)
    degrees = np.broadcast_to(np.asarray(dofs, np.float64), numbers.shape)

    def fit(form: Powers, keep: np.ndarray) -> Fit:
        return extrapolate(
            sizes_array[keep], numbers[keep], errors[keep], degrees[keep], powers=form
        )

    every = np.ones(numbers.shape, bool)
    if powers is not None:
        main = fit(powers, every)
        others = [fit(form, keep) for form, keep in _neighbours(sizes_array, powers)]
        return main, tuple(f for f in others if f.goodness >= min(ADMISSIBLE_LEVEL, main.goodness))
    forms: list[Powers] = [(p,) for p in UNSTATED_POWERS]
    if sizes_array.min() > 1:
        forms.append((LOG,))
    fits = [fit(form, every) for form in forms]
    single = max(f.goodness for f in fits) if errors.any() else 0.0
    if np.unique(sizes_array).size >= 4:
        least = LEAST_PAIRED_POWER if single >= SINGLE_TERM_LEVEL else 0.0
        forms += [(p, 2 * p) for p in UNSTATED_POWERS if p >= least]
        fits += [fit(form, every) for form in forms[len(fits) :]]
    if not errors.any():
        residuals = [_residual(sizes_array, numbers, form) for form in forms]
        best = int(np.argmin(residuals))
        floor = max(residuals[best] * 10, 1e-12 * float(np.abs(numbers).max()))
        return fits[best], tuple(f for f, r in zip(fits, residuals, strict=True) if r <= floor)
    best = max(range(len(fits)), key=lambda i: (fits[i].goodness, -len(forms[i])))
    kept = [f for f in fits if f.goodness >= min(ADMISSIBLE_LEVEL, fits[best].goodness)]
    return fits[best], tuple(kept)


def _neighbours(sizes: np.ndarray, powers: Powers) -> Iterator[tuple[Powers, np.ndarray]]:
    """Forms beside the stated one: one power more, and the smallest size left out."""
    distinct = np.unique(sizes)
    every = np.ones(sizes.shape, bool)
    if distinct.size >= len(powers) + 3:
        yield (*powers, _next_power(powers)), every
        yield powers, sizes > distinct[0]


def _next_power(powers: Powers) -> float:
    """The next term of an expansion with these powers: their spacing beyond the last."""
    numbers = [p for p in powers if not isinstance(p, str)]
    if not numbers:
        return 1.0
    step = numbers[-1] - numbers[-2] if len(numbers) > 1 else numbers[0]
    return numbers[-1] + step


def _residual(sizes: np.ndarray, values: np.ndarray, powers: Powers) -> float:
    design = correction_columns(sizes, powers)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    dof = max(values.size - design.shape[1], 1)
    return float(np.sqrt(np.square(values - design @ coefficients).sum() / dof))


def slope(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    stderrs: Sequence[float] | np.ndarray,
    dofs: Sequence[float] | np.ndarray | float = math.inf,
) -> Fit:
    """Slope of `y` against `x` from a weighted straight line, with the fit's p-value.

    Raises:
        ValueError: with fewer than three distinct places, or a number that is not finite (the
            logarithm of a measured 0, say).
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, np.float64)
    errors = np.asarray(stderrs, np.float64)
    for name, numbers in (("x", x), ("y", y), ("stderrs", errors)):
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} = {numbers}: must be finite; leave out what has no logarithm")
    if np.unique(x).size < 3:
        raise ValueError(f"{np.unique(x).size} points: a tested slope needs at least 3")
    design = np.vander(x - x.mean(), 2, increasing=True)
    if not errors.any():
        return _exact_fit(design, y, 1)
    return weighted_fit(design, y, errors, dofs, 1)


def _exact_fit(design: np.ndarray, values: np.ndarray, which: int) -> Fit:
    """The least-squares fit of numbers without errors."""
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    return Fit(float(coefficients[which]), 0.0, math.inf, 1.0, tuple(coefficients.tolist()))


def weighted_fit(
    design: np.ndarray, values: np.ndarray, errors: np.ndarray, dofs: Any, which: int
) -> Fit:
    """Coefficient `which` of the fit of `values` by the columns of `design`, with its p-value.

    Weights are inverse squared `errors`, known with `dofs` degrees of freedom.

    Raises:
        ValueError: a standard error is not positive.
    """
    if not (errors > 0).all():
        raise ValueError("every standard error must be positive: weights are their inverse squares")
    weighted = design / errors[:, None]
    solve = np.linalg.pinv(weighted)
    coefficients = solve @ (values / errors)
    residual = values / errors - weighted @ coefficients
    spare = values.size - design.shape[1]
    goodness = float(special.chdtrc(spare, float(residual @ residual))) if spare else 1.0
    # The weights come from estimated errors, so a value whose error happens to be small weighs too
    # much and the plain standard error is too small. The factor is Kackar and Harville's (1984)
    # correction; with it the least of the dofs keeps the false-alarm rate below its level, which
    # Welch's does not at a few trials (`tests/stats/test_fits.py` measures both).
    dofs = np.broadcast_to(np.asarray(dofs, np.float64), values.shape)
    leverage = (weighted * solve.T).sum(axis=1)
    variance = (solve[which] ** 2 * (1 + 4 * (1 - leverage) / dofs)).sum()
    return Fit(
        float(coefficients[which]),
        math.sqrt(variance),
        float(dofs.min()),
        goodness,
        tuple(coefficients.tolist()),
    )


def compare_asymptotic(
    quantity: str,
    parameters: Mapping[str, Any],
    sizes: Sequence[float],
    predicted: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    tolerance: float,
    predicted_stderr: float = 0.0,
    limit: float | None = None,
    order: int = 1,
    powers: Powers | None = None,
    fitted_powers: bool = False,
    side: Side = "two",
    note: str = "",
) -> Comparison:
    """Equal in the limit of infinite size.

    The difference between simulation and prediction at each size is extrapolated to infinite
    size and compared with 0. `predicted` holds the prediction at each size's own parameters (a
    ratio of integers differs a little from size to size); `limit`, the prediction the row
    reports, is by default the one at the largest size. `predicted_stderr` is common to all
    sizes, so it enters once, not averaged. The form of the correction is `powers` (default: 1 to
    `order`); with `fitted_powers` it is found from the data. The limit under the other admissible
    forms goes with the comparison, since only what all of them contradict is refuted.
    """
    form = None if fitted_powers else powers or tuple(float(p) for p in range(1, order + 1))
    differences = [float(e.mean) - p for e, p in zip(estimates, predicted, strict=True)]
    errors = [float(e.stderr) for e in estimates]
    dofs = [float(getattr(e, "dof", e.trials - 1)) for e in estimates]
    main, others = extrapolate_forms(sizes, differences, errors, dofs, form)
    limit = float(predicted[int(np.argmax(sizes))]) if limit is None else limit
    declared = all(getattr(e, "kind", "undeclared") in ("exact", "undeclared") for e in estimates)
    return Comparison(
        quantity,
        parameters,
        limit,
        limit + main.value,
        tolerance,
        stderr=None if main.stderr == 0 and declared else main.stderr,
        dof=main.dof,
        predicted_stderr=predicted_stderr,
        goodness=main.goodness,
        note=note,
        side=side,
        trials=min(e.trials for e in estimates),
        alternatives=tuple((limit + f.value, f.stderr, f.dof) for f in others),
        form_found=fitted_powers,
        fit=_line_to_limit(sizes, differences, errors, dofs, main),
    )


def _line_to_limit(
    sizes: Sequence[float],
    values: Sequence[float],
    stderrs: Sequence[float],
    dofs: Sequence[float],
    fit: Fit,
) -> FittedLine:
    """The fit of a limit, from infinite size to the smallest, over its leading correction."""
    measured = np.asarray(sizes, np.float64)
    smallest, leading = measured.min(), fit.powers[0]
    along = np.linspace(0.0, 1.0, LINE_POINTS)[1:]  # shares of the smallest size's correction
    if isinstance(leading, str):
        line_sizes = smallest ** (1 / along)
    else:
        line_sizes = smallest * along ** (-1 / leading)
    line_sizes = line_sizes[line_sizes < 1e300]
    # The last of them is the smallest size, with which the columns scale.
    line = correction_columns(line_sizes, fit.powers) @ np.asarray(fit.coefficients)
    return FittedLine(
        leading,
        tuple(measured.tolist()),
        tuple(values),
        tuple(stderrs),
        tuple(dofs),
        (math.inf, *line_sizes.tolist()),
        (fit.value, *line.tolist()),
    )


def compare_rate(
    quantity: str,
    parameters: Mapping[str, Any],
    predicted: float,
    fit: Fit,
    *,
    tolerance: float,
    side: Side = "two",
    note: str = "",
    alternatives: Sequence[Fit] = (),
    line: FittedLine | None = None,
) -> Comparison:
    """A slope against the predicted exponent; `line` is what it was read from, for figures."""
    return Comparison(
        quantity,
        parameters,
        predicted,
        fit.value,
        tolerance,
        stderr=fit.stderr if fit.stderr else None,
        dof=fit.dof,
        side=side,
        goodness=fit.goodness,
        note=note,
        alternatives=tuple((f.value, f.stderr, f.dof) for f in alternatives),
        fit=line,
    )


def line_of_rate(
    sizes: Sequence[float], estimates: Sequence[Estimate], fit: Fit, log_power: float = 0.0
) -> FittedLine:
    """The straight line of a rate through its measured means, on logarithmic axes.

    Only the exponent is the fit's: the line goes through the weighted centre of the points.
    """
    measured = np.asarray(sizes, np.float64)
    means = np.array([float(e.mean) for e in estimates])
    stderrs = np.array([float(e.stderr) for e in estimates])
    weights = (means / stderrs) ** 2 if stderrs.all() else np.ones_like(means)

    def shape(size: np.ndarray) -> np.ndarray:
        power = fit.value * np.log(size)
        return power + log_power * np.log(np.log(size)) if log_power else power

    centre = float(np.average(np.log(means) - shape(measured), weights=weights))
    line_sizes = np.geomspace(measured.min(), measured.max(), LINE_POINTS)
    return FittedLine(
        None,
        tuple(measured.tolist()),
        tuple(means.tolist()),
        tuple(stderrs.tolist()),
        tuple(float(getattr(e, "dof", e.trials - 1)) for e in estimates),
        tuple(line_sizes.tolist()),
        tuple(np.exp(centre + shape(line_sizes)).tolist()),
    )


def rate_fits(
    sizes: Sequence[float], estimates: Sequence[Estimate], log_power: float = 0.0
) -> tuple[Fit, tuple[Fit, ...]]:
    """Exponent of measured ~ size^rate · (log size)^`log_power`, and its admissible neighbours.

    A line through the logarithms; beside it, with four sizes or more, a line without the smallest
    size and a line with a correction in 1/size. Where a power of the logarithm is stated, a
    constant beside the logarithm makes a correction in 1/log(size): with four sizes or more the
    line has that one, and the plain line is a neighbour if it fits.

    Raises:
        ValueError: a measured mean is not positive, or there are fewer than three sizes.
    """
    means = np.array([float(e.mean) for e in estimates])
    if not (means > 0).all():
        raise ValueError(f"measured means {means}: a rate needs positive ones")
    x = np.log(np.asarray(sizes, np.float64))
    if log_power and not (x > 0).all():
        raise ValueError(f"sizes {sizes}: a power of the logarithm needs sizes above 1")
    y = np.log(means) - (log_power * np.log(x) if log_power else 0.0)
    errors = np.array([float(e.stderr) for e in estimates]) / means
    dofs = np.array([getattr(e, "dof", e.trials - 1) for e in estimates], np.float64)
    plain = slope(x, y, errors, dofs)
    if np.unique(x).size < 4:
        return plain, ()

    def corrected(correction: np.ndarray) -> Fit:
        design = np.stack([np.ones_like(x), x, correction], axis=1)
        if errors.any():
            return weighted_fit(design, y, errors, dofs, 1)
        return _exact_fit(design, y, 1)

    keep = x > x.min()
    others = [slope(x[keep], y[keep], errors[keep], dofs[keep]), corrected(np.exp(x.min() - x))]
    main = plain
    if log_power:
        main, others = corrected(x.min() / x), [plain, *others]
    level = min(ADMISSIBLE_LEVEL, main.goodness)
    return main, tuple(f for f in others if f.goodness >= level)
