"""What the first prediction of each claim costs, in a process of its own.

    python benchmarks/first_prediction.py [ID ...]

Processor seconds of one call of `predict` at the first point of the quick design, with no
compilation cache, after `jaxprompt` and every claim are imported; and by how much it raises the
most memory that the process held, in MiB. The least of some processes, as other work may run beside
them. The aim is less than 1 s, and at no claim more than 2 s or 1024 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jaxprompt as jp

PROGRAM = """
import json, resource, sys, time
import jaxprompt as jp
from golden import first_point
jp.claims()
claim = jp.claim(sys.argv[1])
point = first_point(claim)
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
claim.predict(**point)
first = time.process_time() - started
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
claim.predict(**point)
print(json.dumps([first, time.process_time() - started, (most - held) / 1024]))
"""

TESTS = Path(__file__).resolve().parents[1] / "tests"
"""Where the first point of a design is chosen, for the table of stored numbers."""

AIM, LIMIT, LARGEST = 1.0, 2.0, 1024.0
"""Processor seconds aimed at, and the most of them and of MiB."""


class Cost(NamedTuple):
    """Processor seconds of the first and of the second prediction, and MiB of the first."""

    first: float
    second: float
    memory: float


def cost_of(id: str, repeats: int) -> Cost:
    """The least of each number over so many fresh processes."""
    environment = {
        **os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(TESTS),
        "JAX_COMPILATION_CACHE_DIR": "", "JAXPROMPT_CACHE": "",
    }  # fmt: skip
    costs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, id],
                capture_output=True, text=True, check=True, env=environment,
            ).stdout
        )
        for _ in range(repeats)
    ]  # fmt: skip
    return Cost(*(min(each) for each in zip(*costs, strict=True)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    print("| claim | first, s | second, s | memory, MiB | |")
    print("| --- | --: | --: | --: | --- |")
    for id in options.ids or [claim.id for claim in jp.claims()]:
        cost = cost_of(id, options.repeats)
        over = "over" if cost.first > LIMIT or cost.memory > LARGEST else ""
        note = over or ("above the aim" if cost.first > AIM else "")
        row = f"{cost.first:.2f} | {cost.second:.2f} | {cost.memory:.0f} | {note}"
        print(f"| `{id}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
