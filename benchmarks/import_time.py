"""Processor seconds of `import jaxprompt` and of loading every claim, beyond those of JAX.

    python benchmarks/import_time.py

Prints the least of several fresh processes: other work may be running beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, time
import jax, jax.numpy, numpy
start = time.process_time()
import jaxprompt
first = time.process_time() - start
jaxprompt.claims()
print(json.dumps([first, time.process_time() - start]))
"""
REPEATS = 5


def measure() -> tuple[float, float]:
    """Seconds of the import alone, and with every claim."""
    times = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(REPEATS)
    ]
    first, whole = (min(each) for each in zip(*times, strict=True))
    return first, whole


if __name__ == "__main__":
    first, whole = measure()
    print(f"import jaxprompt          {first:.3f} s beyond JAX (aim: below 0.5 s)")
    print(f"import with every claim   {whole:.3f} s beyond JAX (aim: below 2 s)")
