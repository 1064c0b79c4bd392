"""A check: measure the cells of a design, compare them with the closed form, and judge."""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxprompt import stats
from jaxprompt.core.comparing import standard_comparison
from jaxprompt.core.designs import Cell, Design, Run, split_into_cells
from jaxprompt.core.instances import evaluate_on_instances
from jaxprompt.core.json_values import canonical, to_json_values
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.core.memory import refuse_runs_that_cannot_fit
from jaxprompt.core.verdict import Verdict, remedy
from jaxprompt.errors import JaxpromptError, NumericalError, ParameterError, suggest
from jaxprompt.stats import Comparison, Row, Status

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.core.falsifiers import Falsifier, Predictor

__all__ = [
    "FALSE_ALARM",
    "check_claim",
    "choose_design",
    "compare_measured",
    "falsify_verdict",
    "measure_runs",
    "refuse_design_that_cannot_fit",
]

FALSE_ALARM = 1e-3
"""Chance that a check refutes a true claim, shared over all its rows."""

Progress = Callable[[int, int], None]


def check_claim(
    claim: Claim,
    profile: str,
    key: Any,
    trials: int | None,
    point: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Verdict:
    """See :meth:`jaxprompt.Claim.check`."""
    design = choose_design(claim, profile, trials, point)
    if claim.extra:
        claim.extra.require(claim.id)
    refuse_design_that_cannot_fit(claim, design)
    started = time.perf_counter()
    seed = 0 if key is None else int(key) if isinstance(key, int) else None
    random_key = as_key(0 if key is None else key)
    try:
        cells = tuple(_measure_cells(claim, profile, design, random_key, progress))
    except Exception as error:
        if _is_user_error(error):
            raise
        seconds = time.perf_counter() - started
        return _failed_verdict(claim, profile, seed, seconds, traceback.format_exc())
    seconds = time.perf_counter() - started
    failures = [cell for cell in cells if cell.error]
    if failures and len(failures) == len(cells):
        return _failed_verdict(claim, profile, seed, seconds, failures[0].error)
    return _judge_cells(claim, claim.closed_form, cells, profile, seed, seconds)


def choose_design(
    claim: Claim, profile: str, trials: int | None, point: Mapping[str, Any] | None
) -> Design:
    """The design of a profile, with another number of trials or at chosen points alone.

    Raises:
        ParameterError: there is no such profile, or no run of the design lies there.
    """
    if profile not in claim.designs:
        raise ParameterError(
            "profile",
            profile,
            " or ".join(claim.designs),
            "choose one of those" + suggest(profile, claim.designs),
            claim.id,
        )
    design = claim.designs[profile]
    if point:
        kept = design.matching(point)
        if not kept.runs:
            values = {n: sorted({str(run.get(n)) for run in design.runs}) for n in point}
            raise ParameterError(
                "point",
                ", ".join(f"{n} = {v}" for n, v in point.items()),
                f"one that the design {profile} visits",
                "; ".join(f"`{n}` is {', '.join(v)} there" for n, v in values.items()),
                claim.id,
            )
        design = kept
    return design if trials is None else design.with_trials(trials)


def refuse_design_that_cannot_fit(claim: Claim, design: Design) -> None:
    """Refuse a design of which a run cannot be held in memory, before any is simulated.

    Raises:
        UsageError: it cannot; the message says what it needs, what there is and what would fit.
    """
    if claim.measure is None:  # else the runs may be no simulations
        runs = ((run, design.trials_of(run)) for run in design.runs)
        refuse_runs_that_cannot_fit(claim, runs)


def _measure_cells(
    claim: Claim, profile: str, design: Design, key: jax.Array, progress: Progress | None
) -> Iterator[Cell]:
    if claim.measure is not None:
        changed = claim
        if design is not claim.designs[profile]:
            changed = dataclasses.replace(claim, designs={**claim.designs, profile: design})
        yield from claim.measure(changed, profile, key)
        return
    yield from measure_runs(claim, design, key, progress)


def measure_runs(
    claim: Claim, design: Design, key: jax.Array, progress: Progress | None = None
) -> Iterator[Cell]:
    """Simulate every run of a design, one after another, and split them into cells.

    A run in which the computation fails gives a cell that carries the traceback.
    """
    for done, run in enumerate(design.runs):
        if progress:
            progress(done, len(design.runs))
        run_key = fold_in_parameters(key, run, claim.shared)
        trials = design.trials_of(run)
        point = claim.point(dict(run))
        try:
            estimates = claim.simulate(point, key=run_key, trials=trials)
        except Exception as error:
            if _is_user_error(error):
                raise
            yield Cell(
                point.written_as(to_json_values(dict(run))), {}, error=traceback.format_exc()
            )
            continue
        if claim.instance is not None:
            values = claim.validated(point, simulate=True)
            simulation: Any = claim.simulation
            drawn = simulation.draw_instances(key=run_key, trials=trials, **values)
            yield Cell(point, estimates, instances=drawn)
        else:
            yield from split_into_cells(point, estimates, claim.shared)
    if progress:
        progress(len(design.runs), len(design.runs))


def compare_measured(
    claim: Claim, cells: Sequence[Cell], closed_form: Predictor
) -> list[Comparison]:
    """What was measured beside what `closed_form` predicts; nothing is judged yet."""

    known = {p.name for p in (*claim.parameters, *claim.ignored)}

    def predict(point: Mapping[str, Any] | None = None, /, **params: Any) -> dict[str, Any]:
        drawn = {n: v for n, v in params.items() if n not in known}
        named = {n: v for n, v in params.items() if n in known}
        values = claim.validated({**(point or {}), **named} if named or point is None else point)
        if not drawn:
            return claim.evaluate(closed_form, values)
        return evaluate_on_instances(closed_form, values, drawn)

    measured = [cell for cell in cells if not cell.error]
    comparisons = list((claim.compare or standard_comparison(claim))(claim, measured, predict))
    if claim.also is not None:
        comparisons += claim.also(claim, measured, predict)
    for cell in cells:
        if cell.error:
            last = cell.error.strip().splitlines()[-1]
            comparisons += [
                Comparison(q.name, dict(cell.parameters), math.nan, math.nan, math.nan, note=last)
                for q in claim.quantities
            ]
    return comparisons


def _judge_cells(
    claim: Claim,
    closed_form: Predictor,
    cells: Sequence[Cell],
    profile: str,
    seed: int | None,
    seconds: float,
    falsifier: str = "",
) -> Verdict:
    started = time.perf_counter()
    try:
        comparisons = compare_measured(claim, cells, closed_form)
        rows = stats.decide(comparisons, FALSE_ALARM)
    except Exception as error:
        if _is_user_error(error):
            raise
        return _failed_verdict(claim, profile, seed, seconds, traceback.format_exc(), falsifier)
    seconds += time.perf_counter() - started
    status = stats.combine_statuses(row.verdict for row in rows)
    unmeasured = _unmeasured_quantities(claim, profile, cells, rows)
    error = ""
    if unmeasured and status is not Status.REFUTED:
        status = Status.FAILED
        error = f"{claim.id}: no row compares {', '.join(unmeasured)}: measure and predict each"
    least = _least_sensitive(rows)
    return Verdict(
        claim.id,
        claim.relation,
        status,
        rows,
        0.0 if all(row.exact for row in rows) else FALSE_ALARM,
        least.detectable if least else math.nan,
        seconds,
        profile,
        seed,
        tuple(cells),
        error=error,
        falsifier=falsifier,
        advice=remedy(rows, status, _largest_trials(claim, profile, cells), seconds),
    )


def _unmeasured_quantities(
    claim: Claim, profile: str, cells: Sequence[Cell], rows: Sequence[Row]
) -> list[str]:
    """Declared quantities without a row, where the whole design was measured."""
    compared = {row.quantity for row in rows}
    missing = [q.name for q in claim.quantities if q.name not in compared and not q.unmeasured]
    if not missing or not rows or claim.designs[profile].partial:
        return []
    if claim.measure is not None:
        return missing
    # Points are told apart by their text, which takes long where a cell holds large arrays.
    visited = {canonical_point(cell.parameters, claim.shared) for cell in cells}
    runs = claim.designs[profile].runs
    whole = all(canonical_point(run, claim.shared) in visited for run in runs)
    return missing if whole else []


def canonical_point(parameters: Mapping[str, Any], shared: Sequence[str]) -> str:
    """A text for the parameters that are not shared along one simulation."""
    return canonical({n: v for n, v in parameters.items() if n not in shared})


def _least_sensitive(rows: Sequence[Row]) -> Row | None:
    """The row whose detectable discrepancy is largest in units of its tolerance.

    Exact rows have no sampling error, so they do not count for the smallest detectable deviation.
    """
    finite = [row for row in rows if math.isfinite(row.detectable)]
    sampled = [row for row in finite if not row.exact]
    return max(
        sampled or finite,
        key=lambda r: r.detectable / r.tolerance if r.tolerance else 0.0,
        default=None,
    )


def _largest_trials(claim: Claim, profile: str, cells: Sequence[Cell]) -> int:
    """The design-level number of trials that these cells had."""
    design = claim.designs[profile]
    counts = [e.trials for cell in cells for e in cell.estimates.values()]
    return max(counts, default=design.trials)


def falsify_verdict(claim: Claim, verdict: Verdict) -> dict[str, Verdict]:
    """See :meth:`jaxprompt.Claim.falsify_cells`."""
    judged: dict[str, Verdict] = {}
    for f in claim.falsifiers:
        if not verdict.cells:
            judged[f.name] = dataclasses.replace(verdict, falsifier=f.name)
        elif f.simulation is not None:
            judged[f.name] = _check_control(claim, f, verdict)
        else:
            wrong = f.predictor(claim.closed_form)
            about = (verdict.profile, verdict.seed, verdict.seconds, f.name)
            judged[f.name] = _judge_cells(claim, wrong, verdict.cells, *about)
    return judged


def _check_control(claim: Claim, control: Falsifier, verdict: Verdict) -> Verdict:
    """Measure the points of a verdict by the control's simulation, and judge it as the claim."""
    assert control.simulation is not None
    changed = dataclasses.replace(claim, simulation=control.simulation, figure=None)
    started = time.perf_counter()
    # The same points with as many trials, whatever `--trials` and `--point` made of the design.
    measured = [cell for cell in verdict.cells if cell.estimates]
    runs = [
        Run(cell.parameters, trials=max(e.trials for e in cell.estimates.values()))
        for cell in measured
    ]
    key = jax.random.fold_in(as_key(verdict.seed or 0), 1)
    cells = tuple(measure_runs(changed, Design(*runs), key))
    about = (verdict.profile, verdict.seed, time.perf_counter() - started, control.name)
    return _judge_cells(changed, claim.closed_form, cells, *about)


def _failed_verdict(
    claim: Claim, profile: str, seed: int | None, seconds: float, error: str, falsifier: str = ""
) -> Verdict:
    return Verdict(
        claim.id,
        claim.relation,
        Status.FAILED,
        (),
        FALSE_ALARM,
        math.nan,
        seconds,
        profile,
        seed,
        error=error,
        falsifier=falsifier,
        advice=one_line_of(error),
    )


def one_line_of(error: str) -> str:
    """The last line of a traceback."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else ""


def _is_user_error(error: Exception) -> bool:
    """Whether a check was asked for wrongly; everything else is a failed computation."""
    return isinstance(error, JaxpromptError) and not isinstance(error, NumericalError)
