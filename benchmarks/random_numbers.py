"""Normals a second: jaxprompt's table of normals, jax.random, and NumPy.

python benchmarks/random_numbers.py [--count 20000000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute import random_table


def rate(run: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Millions a second, from the fastest of `repeats` runs after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return count / min(times) / 1e6


def main() -> None:
    """Print the rates and their ratios to jax.random."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000_000)
    count = parser.parse_args().count // 1000 * 1000
    key = jax.random.key(0)
    table = jax.jit(lambda k: random_table.normals(k, 0, count // 1000, 1000))
    usual = jax.jit(lambda k: jax.random.normal(k, (count // 1000, 1000), dtype=jnp.float32))
    generator, buffer = np.random.Generator(np.random.SFC64(0)), np.empty(count, np.float32)
    rates = {
        "jax.random.normal": rate(lambda: usual(key).block_until_ready(), count),
        "jaxprompt.compute.random_table.normals": rate(
            lambda: table(key).block_until_ready(), count
        ),
        "NumPy SFC64 (one thread)": rate(
            lambda: generator.standard_normal(out=buffer, dtype=np.float32), count
        ),
    }
    for name, value in rates.items():
        ratio = value / rates["jax.random.normal"]
        print(f"{name:<26} {value:7.0f} M/s   {ratio:.2f} of jax.random")


if __name__ == "__main__":
    main()
