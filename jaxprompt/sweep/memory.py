"""What a sweep needs of this machine's memory, estimated before anything is made or computed.

Estimates are lower bounds, so that nothing that fits is refused: of a simulation what
:mod:`jaxprompt.core.memory` says; of the results, what Python holds of every cell.
"""

from __future__ import annotations

import math
from typing import Any

from jaxprompt.compute.memory import available_memory, bytes_in_words
from jaxprompt.compute.workers import WorkerPool
from jaxprompt.core.memory import refuse_runs_that_cannot_fit
from jaxprompt.errors import UsageError
from jaxprompt.sweep.config import Sweep

__all__ = ["refuse_what_cannot_fit"]

BYTES_PER_CELL = 2000
"""What Python holds of one cell while it is judged, beside its numbers; measured on a million."""

_BYTES_PER_NUMBER = 40
"""A stored number: in the store, in the dataset, and a copy while it is judged."""


def refuse_what_cannot_fit(sweep: Sweep, executor: Any = None) -> None:
    """Refuse a sweep whose largest cell, or whose results, this machine cannot hold.

    The cells of a dask client are computed on other machines, so only the results count there.

    Raises:
        UsageError: it needs more than there is; the message says what would fit.
    """
    limit, whose = available_memory()
    cells = math.prod(sweep.shape)
    needed = cells * (BYTES_PER_CELL + _BYTES_PER_NUMBER * 4 * len(sweep.target.quantities))
    if needed > limit:
        raise UsageError(
            f"a sweep of {cells} cells needs {bytes_in_words(needed)} for its results, {whose} "
            f"{bytes_in_words(limit)}: at most {cells * limit // needed} cells fit; split the sweep"
        )
    if executor is not None and hasattr(executor, "get_executor"):
        return
    workers = executor.workers if isinstance(executor, WorkerPool) else 1
    refuse_runs_that_cannot_fit(sweep.target, [(_largest_run(sweep), sweep.trials)], workers)


def _largest_run(sweep: Sweep) -> dict[str, Any]:
    """The run of the grid with the largest of every integer."""
    run = dict(sweep.fixed)
    for name, values in sweep.grid.items():
        if name in sweep.target.shared:
            run[name] = list(values)
        else:
            run[name] = max(values) if all(type(v) is int for v in values) else values[0]
    return run
