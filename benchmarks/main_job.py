"""What the main job costs: processor seconds of every claim, and what they go into.

    python benchmarks/main_job.py [ID ...]

Checks run in one process, one after another, with no compilation cache, as in a first run of
`jaxprompt check`. The total is also given in units of a fixed work, measured in the same run: a
matrix product of two 1024 × 1024 float64 matrices and a draw of 4 million float32 normals. Seconds
of different machines cannot be compared, these units roughly can.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
os.environ["JAXPROMPT_CACHE"] = ""

from jaxprompt.compute.compiler_flags import compile_quickly

compile_quickly()  # as `jaxprompt check` does

import jax
import numpy as np

import jaxprompt as jp
from jaxprompt.compute.programs import forget_programs

COMPILED = "/jax/core/compile/backend_compile_duration"
UNIT_REPEATS = 20


class Cost(NamedTuple):
    """Processor seconds of one check, programs compiled in it, and wall seconds of compiling."""

    id: str
    status: str
    seconds: float
    programs: int
    compiling: float


def unit_of_work() -> float:
    """Processor seconds of the fixed work, the least of some repeats."""
    random = np.random.default_rng(0)
    matrix = random.standard_normal((1024, 1024))
    best = float("inf")
    for _ in range(UNIT_REPEATS):
        started = time.process_time()
        matrix @ matrix
        random.standard_normal(4_000_000, dtype=np.float32)
        best = min(best, time.process_time() - started)
    return best


def cost_of(id: str, compilations: list[float]) -> Cost:
    """Check one claim and count what it took."""
    compilations.clear()
    started = time.process_time()
    verdict = jp.claim(id).check("quick")
    seconds = time.process_time() - started
    return Cost(id, verdict.status.value, seconds, len(compilations), sum(compilations))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    options = parser.parse_args()
    compilations: list[float] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == COMPILED:
            compilations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    unit = unit_of_work()
    ids = options.ids or [c.id for c in jp.claims() if not (c.extra and c.extra.missing())]
    print(f"{'claim':34} {'status':12} {'processor s':>11} {'programs':>8} {'compiling s':>11}")
    costs: list[Cost] = []
    for id in ids:
        cost = cost_of(id, compilations)
        costs.append(cost)
        forget_programs()
        row = f"{cost.seconds:11.1f} {cost.programs:8} {cost.compiling:11.1f}"
        print(f"{cost.id:34} {cost.status:12} {row}", flush=True)
    total = sum(cost.seconds for cost in costs)
    programs = sum(cost.programs for cost in costs)
    compiling = sum(cost.compiling for cost in costs)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'total':34} {'':12} {total:11.1f} {programs:8} {compiling:11.1f}")
    print(
        f"unit of work {unit:.4f} s; total {total / unit:.0f} units; peak memory {memory:.1f} GiB"
    )


if __name__ == "__main__":
    main()
