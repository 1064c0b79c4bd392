"""What a check would do, before anything is simulated."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.checking import choose_design
from jaxprompt.core.designs import Design
from jaxprompt.core.json_values import to_json_values
from jaxprompt.core.memory import trial_outputs
from jaxprompt.core.points import Point
from jaxprompt.errors import NumericalError

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["DryRun", "PlannedRun", "plan_check"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a design: its parameters, trials, and what the closed form predicts there.

    `note` says why a prediction is missing. `memory` is the number of bytes that the trials'
    numbers (or, where the claim says it, the whole simulation) take; None where that is unknown.
    """

    parameters: Mapping[str, Any]
    trials: int
    predicted: Mapping[str, Any]
    note: str
    memory: int | None


@dataclass(frozen=True)
class DryRun:
    """The plan of a check: quantities, the shape of what a trial returns, and every run.

    `shapes` maps what a trial returns to its shape (found by ``jax.eval_shape``); it is empty for
    simulations that are not made by ``per_trial`` and for those with a set-up.
    """

    id: str
    profile: str
    quantities: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    runs: tuple[PlannedRun, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain lists, dicts and numbers."""
        return to_json_values(
            {
                "id": self.id,
                "profile": self.profile,
                "quantities": list(self.quantities),
                "shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "runs": [vars(run) for run in self.runs],
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
    return DryRun(claim.id, profile, names, shapes, tuple(_planned_runs(claim, design)))


def _planned_runs(claim: Claim, design: Design) -> Iterator[PlannedRun]:
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
        yield PlannedRun(point, trials, predicted, note, _bytes_of_run(claim, point, trials))


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
