"""Sweeps: a claim's cells over a grid, computed, judged and stored.

>>> from jaxprompt.sweep import Sweep, run
>>> run(Sweep.from_toml("examples/ratio.toml"), "ratio", resume=True)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprompt.compute.workers import SerialExecutor, process_pool
    from jaxprompt.sweep.config import Sweep
    from jaxprompt.sweep.dataset import load_sweep
    from jaxprompt.sweep.runner import SweepResult, report_failures, run
    from jaxprompt.sweep.tasks import Task, compute

__all__ = [
    "SerialExecutor",
    "Sweep",
    "SweepResult",
    "Task",
    "compute",
    "load_sweep",
    "process_pool",
    "report_failures",
    "run",
]

_HOME = {
    "SerialExecutor": "compute.workers",
    "process_pool": "compute.workers",
    "Sweep": "sweep.config",
    "load_sweep": "sweep.dataset",
    "SweepResult": "sweep.runner",
    "report_failures": "sweep.runner",
    "run": "sweep.runner",
    "Task": "sweep.tasks",
    "compute": "sweep.tasks",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing one part of the room does not import them all.
    if name not in _HOME:
        raise AttributeError(f"module 'jaxprompt.sweep' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxprompt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
