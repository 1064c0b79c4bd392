"""Compare the time that a dry run expects with the time that the check takes.

Usage: python benchmarks/expected_time.py [FILE ...]      (default: all of examples/)

Prints for each claim the expected and the measured processor seconds of its quick design, with
compiling, and their ratio. Programs are compiled anew: no cache of earlier runs is read.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax

import jaxprompt as jp
from jaxprompt.core.claim_files import run_claim_file

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    """Print the table."""
    jax.config.update("jax_enable_compilation_cache", False)
    files = sys.argv[1:] or sorted(map(str, EXAMPLES.glob("**/*.py")))
    print(f"{'claim':36} {'expected':>9} {'measured':>9} {'ratio':>6}")
    for file in files:
        claims = {v.id: v for v in run_claim_file(file).values() if isinstance(v, jp.Claim)}
        for claim in claims.values():
            plan = claim.dry_run()
            if plan.seconds is None:
                print(f"{claim.id:36} {'not counted':>9}")
                continue
            least = ">" if any(run.seconds_at_least for run in plan.runs) else ""
            began = time.process_time()
            claim.check()
            measured = time.process_time() - began
            ratio = plan.seconds / measured
            expected = f"{least}{plan.seconds:.2f}"
            print(f"{claim.id:36} {expected:>9} {measured:9.2f} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
