"""What a check would do, before anything is simulated."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.compute.operations import seconds_for
from jaxprompt.compute.trials import TrialSimulation
from jaxprompt.core.checking import choose_design
from jaxprompt.core.designs import Design, split_into_cells
from jaxprompt.core.figures import Curves, parameters_of_line, predicted_line
from jaxprompt.core.json_values import format_parameters, to_json_values
from jaxprompt.core.memory import trial_outputs
from jaxprompt.core.points import Point
from jaxprompt.errors import NumericalError

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["DryRun", "PlannedLine", "PlannedRun", "plan_check"]


_OF_INSTANCES = 3
"""Programs beside the trials where both sides are evaluated on what is drawn: the closed form, and
each side once more to find how it rounds."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a design: its parameters, trials, and what the closed form predicts there.

    `note` says why a prediction is missing. `memory` is the number of bytes that the trials'
    numbers (or, where the claim says it, the whole simulation) take; None where that is unknown.
    `seconds` is the processor time expected for the trials, with compiling, right to a factor of
    about three; None for simulations that ``per_trial`` does not make, and where a set-up draws.
    `seconds_at_least` says that a loop of unknown length was counted once.
    """

    parameters: Mapping[str, Any]
    trials: int
    predicted: Mapping[str, Any]
    note: str
    memory: int | None
    seconds: float | None = None
    seconds_at_least: bool = False


@dataclass(frozen=True)
class PlannedLine:
    """One line of the claim's figure: the closed form along an axis, at one set of the others.

    `y` has None where the closed form has no number, and `note` says why (at the first of them).
    """

    parameters: Mapping[str, Any]
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    note: str


@dataclass(frozen=True)
class DryRun:
    """The plan of a check: quantities, the shape of what a trial returns, and every run.

    `shapes` maps what a trial returns to its shape (found by ``jax.eval_shape``); it is empty for
    simulations that are not made by ``per_trial`` and for those with a set-up. `lines` are those
    of a figure that is declared as curves.
    """

    id: str
    profile: str
    quantities: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    runs: tuple[PlannedRun, ...]
    lines: tuple[PlannedLine, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Processor seconds expected for all runs; None where one is unknown."""
        each = [run.seconds for run in self.runs]
        return None if None in each else sum(s for s in each if s is not None)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain lists, dicts and numbers."""
        return to_json_values(
            {
                "id": self.id,
                "profile": self.profile,
                "quantities": list(self.quantities),
                "shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "runs": [vars(run) for run in self.runs],
                "lines": [vars(line) for line in self.lines],
                "seconds": self.seconds,
            }
        )


def plan_check(
    claim: Claim, profile: str, trials: int | None, point: Mapping[str, Any] | None
) -> DryRun:
    """See :meth:`jaxprompt.Claim.dry_run`."""
    design = choose_design(claim, profile, trials, point)
    shapes: dict[str, tuple[int, ...]] = {}
    if design.runs:
        shapes = {name: tuple(s.shape) for name, s in trial_outputs(claim, design.runs[0]).items()}
    names = tuple(q.name for q in claim.quantities)
    runs = tuple(_planned_runs(claim, design))
    return DryRun(claim.id, profile, names, shapes, runs, tuple(_planned_lines(claim, design)))


def _planned_runs(claim: Claim, design: Design) -> Iterator[PlannedRun]:
    compiled: set[Any] = set()
    for run in design.runs:
        point = claim.point(dict(run))
        predicted: Mapping[str, Any] = {}
        note = "predicted on each draw" if claim.instance is not None else ""
        if not note:
            try:
                predicted = claim.predict(point)
            except NumericalError as error:
                note = str(error)
        trials = design.trials_of(run)
        held = _bytes_of_run(claim, point, trials)
        seconds, at_least = _seconds_of_run(claim, point, trials, compiled)
        yield PlannedRun(point, trials, predicted, note, held, seconds, at_least)


def _seconds_of_run(
    claim: Claim, point: Point, trials: int, compiled: set[Any]
) -> tuple[float | None, bool]:
    """Expected processor seconds, and whether that is a lower bound.

    `compiled` holds the programs of earlier runs: none is compiled twice.
    """
    if not isinstance(claim.simulation, TrialSimulation):
        return None, False
    values = claim.validated(point, simulate=True)
    work = claim.simulation.operations(values)
    if work is None:
        return None, False
    program = claim.simulation.program_of(values)
    programs = 0 if program in compiled else 1 + (claim.instance is not None) * _OF_INSTANCES
    compiled.add(program)
    return seconds_for(work, trials, programs=programs), work.at_least


def _planned_lines(claim: Claim, design: Design) -> Iterator[PlannedLine]:
    """The closed form along the figure's axis, once for each set of the other parameters."""
    spec = claim.figure
    if not isinstance(spec, Curves) or claim.instance is not None:
        return
    drawn: set[str] = set()
    for run in (spec.design or design).runs:
        for cell in split_into_cells(claim.point(dict(run)), {}, claim.shared):
            others = parameters_of_line(claim, spec, cell.parameters)
            if format_parameters(others) not in drawn:
                drawn.add(format_parameters(others))
                yield _planned_line(claim, spec, others)


def _planned_line(claim: Claim, spec: Curves, others: Mapping[str, Any]) -> PlannedLine:
    values, reason = predicted_line(claim, spec, others)
    ordinates = tuple(None if math.isnan(value) else value for value in values)
    return PlannedLine(others, spec.x, spec.y, spec.lines, ordinates, reason)


def _bytes_of_run(claim: Claim, point: Point, trials: int) -> int | None:
    if claim.memory is not None:
        values = claim.validated(point, simulate=True)
        named = inspect.signature(claim.memory).parameters
        more = {"trials": trials} if "trials" in named else {}
        return int(claim.memory(**values, **more))
    outputs = trial_outputs(claim, point)
    if not outputs:
        return None
    return trials * sum(8 * int(np.prod(s.shape, dtype=np.int64)) for s in outputs.values())
