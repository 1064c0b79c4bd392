"""Where a check measures: runs of the simulation, and the cells that come of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.core.json_values import to_json_values
from jaxprompt.core.points import Point
from jaxprompt.stats import Estimate

__all__ = ["Cell", "Design", "Run", "split_into_cells"]


@dataclass(frozen=True)
class Cell:
    """One parameter point of a check, with what was measured there."""

    parameters: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    instances: Any = None
    error: str = ""


class Run(Mapping[str, Any]):
    """One call of a claim's simulation: its parameters, and how many trials it has.

    ``Run(base, dim=40, samples=80)`` takes `base`'s parameters with those changes. `trials` is a
    number of its own; in a design that states trials a Run without one has the design's.
    `times` multiplies the design's trials where this run needs more than the others.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any] | None = None,
        /,
        *,
        trials: int | None = None,
        times: float = 1,
        **changes: Any,
    ) -> None:
        merged = {**(parameters or {}), **changes}
        inherited = merged.pop("trials", None)  # a dict of 0.1 may carry its trials
        self.parameters: Mapping[str, Any] = merged
        self.trials: int | None = trials if trials is not None else inherited
        self.times = times

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __repr__(self) -> str:
        return f"Run({dict(self.parameters)!r}, trials={self.trials})"

    def with_trials(self, trials: int | None) -> Run:
        """The same point with another number of trials."""
        return Run(self.parameters, trials=trials)


@dataclass(frozen=True, init=False)
class Design:
    """The parameter points a check visits, one :class:`Run` each.

    Parameters along which the simulation shares its work (:attr:`Claim.shared`) may be lists in a
    run, and their product gives the cells. `trials` is the number of trials of a cell, for runs
    that state none of their own. A `partial` design visits only some points of
    another one, so that quantities may be missing from it.
    """

    runs: tuple[Run, ...]
    trials: int
    partial: bool = False

    def __init__(
        self,
        *runs: Any,
        trials: int | None = None,
        partial: bool = False,
    ) -> None:
        entries = list(runs)
        if len(entries) == 2 and isinstance(entries[1], int):  # Design(runs, trials) of 0.1
            trials = entries.pop()
        if len(entries) == 1 and not isinstance(entries[0], Mapping):
            entries = list(entries[0])
        made = tuple(r if isinstance(r, Run) else Run(r) for r in entries)
        object.__setattr__(self, "runs", made)
        object.__setattr__(self, "trials", 64 if trials is None else trials)
        object.__setattr__(self, "partial", partial)

    @classmethod
    def product(
        cls, fixed: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], trials: int
    ) -> Design:
        """All combinations of `grid`'s values, the last varying fastest, over `fixed`."""
        names = list(grid)
        points = itertools.product(*grid.values())
        runs = (Run(fixed, **dict(zip(names, p, strict=True))) for p in points)
        return cls(*runs, trials=trials)

    def trials_of(self, run: Run) -> int:
        """How many trials a run has."""
        return run.trials if run.trials is not None else round(self.trials * run.times)

    def with_trials(self, trials: int) -> Design:
        """The same points with this number of trials; runs keep their multiples of it."""
        share = trials / self.trials
        shares = (max(2, round(share * self.trials_of(run))) for run in self.runs)
        kept = (r.with_trials(t) for r, t in zip(self.runs, shares, strict=True))
        return Design(*kept, trials=trials, partial=self.partial)

    def times(self, trials: int) -> Design:
        """The same runs with `trials` as the design's own number."""
        return Design(*self.runs, trials=trials, partial=self.partial)

    def matching(self, wanted: Mapping[str, Any]) -> Design:
        """Only the runs that agree with `wanted`; a list in a run is cut to the wanted values."""
        kept = []
        for run in self.runs:
            changes: dict[str, Any] = {}
            for name, value in wanted.items():
                offered: Any = run.get(name)
                options = list(np.ravel(offered)) if np.ndim(offered) == 1 else [offered]
                if not any(_is_same_value(value, option) for option in options):
                    break
                changes[name] = [value] if np.ndim(offered) == 1 else offered
            else:
                kept.append(Run({**run, **changes}, trials=run.trials, times=run.times))
        return Design(*kept, trials=self.trials, partial=True)


def _is_same_value(first: Any, other: Any) -> bool:
    if isinstance(first, str) or isinstance(other, str):
        return first == other
    return other is not None and bool(np.all(np.asarray(first) == np.asarray(other)))


def split_into_cells(
    params: Mapping[str, Any], estimates: Mapping[str, Estimate], shared: Sequence[str]
) -> Iterator[Cell]:
    """Split one run's estimates into a cell for each combination of its shared arrays.

    The cells of a :class:`Point` have points too, which take its values over.
    """
    axes = [name for name in shared if name in params and np.ndim(params[name]) == 1]
    lengths = [len(params[name]) for name in axes]
    if not axes:
        yield Cell(_rewritten(params, {}), dict(estimates))
        return
    for index in itertools.product(*map(range, lengths)):
        position = dict(zip(axes, index, strict=True))
        cells = {name: _estimate_at(estimate, index) for name, estimate in estimates.items()}
        yield Cell(_rewritten(params, position), cells)


def _rewritten(params: Mapping[str, Any], position: Mapping[str, int]) -> Mapping[str, Any]:
    """Parameters as plain lists and numbers; of arrays in `position`, the entry there."""
    single = {name: params[name][place] for name, place in position.items()}
    written = to_json_values({**params, **single})
    if not isinstance(params, Point):
        return written
    if not position:
        return params.written_as(written)
    values = params.canonical_values
    return params.changed(written, {n: values[n][at].item() for n, at in position.items()})


def _estimate_at(estimate: Estimate, index: tuple[int, ...]) -> Estimate:
    entry = Estimate(
        np.asarray(estimate.mean)[index],
        np.broadcast_to(estimate.stderr, np.shape(estimate.mean))[index],
        estimate.trials,
        kind=getattr(estimate, "kind", "undeclared"),
        values=None if estimate.values is None else estimate.values[(slice(None), *index)],
        dof=getattr(estimate, "dof", None),
    )
    if np.ndim(entry.mean) == 0:
        return Estimate(
            float(entry.mean), float(entry.stderr), entry.trials,
            kind=entry.kind, values=entry.values, dof=entry.dof,
        )  # fmt: skip
    return entry
