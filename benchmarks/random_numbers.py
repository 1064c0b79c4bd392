"""Normals a second: jaxprompt's table of normals, jax.random, and NumPy; and what they compile.

    python benchmarks/random_numbers.py [--count 20000000]

Compiling is counted for trials that each fold in their index, split a key in three and draw from
each part, with JAX's keys and with unrolled ones, in processor seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ["JAX_COMPILATION_CACHE_DIR"] = ""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute import random_table
from jaxprompt.compute.threefry import unrolled


def rate(run: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Millions a second, from the fastest of `repeats` runs after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return count / min(times) / 1e6


def trials(key: jax.Array) -> jax.Array:
    """Ten trials of three draws each."""

    def trial(index: jax.Array) -> jax.Array:
        parts = jax.random.split(jax.random.fold_in(key, index), 3)
        return jnp.stack([jax.random.normal(part, (100, 30)).sum() for part in parts])

    return jax.vmap(trial)(jnp.arange(10))


def seconds_to_compile(function: Callable[[jax.Array], jax.Array], key: jax.Array) -> float:
    """Processor seconds, the least of three."""
    found = []
    for _ in range(3):
        lowered = jax.jit(lambda k: function(k)).lower(key)
        started = time.process_time()
        lowered.compile()
        found.append(time.process_time() - started)
    return min(found)


def main() -> None:
    """Print the rates and their ratios to jax.random."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000_000)
    count = parser.parse_args().count // 1000 * 1000
    key = jax.random.key(0)
    table = jax.jit(lambda k: random_table.normals(k, 0, count // 1000, 1000))
    usual = jax.jit(lambda k: jax.random.normal(k, (count // 1000, 1000), dtype=jnp.float32))
    generator, buffer = np.random.Generator(np.random.SFC64(0)), np.empty(count, np.float32)
    mine = jax.jit(lambda k: jax.random.normal(unrolled(k), (count // 1000, 1000), jnp.float32))
    rates = {
        "jax.random.normal": rate(lambda: usual(key).block_until_ready(), count),
        "jax.random.normal, unrolled key": rate(lambda: mine(key).block_until_ready(), count),
        "jaxprompt.compute.random_table.normals": rate(
            lambda: table(key).block_until_ready(), count
        ),
        "NumPy SFC64 (one thread)": rate(
            lambda: generator.standard_normal(out=buffer, dtype=np.float32), count
        ),
    }
    for name, value in rates.items():
        ratio = value / rates["jax.random.normal"]
        print(f"{name:<40} {value:7.0f} M/s   {ratio:.2f} of jax.random")
    slow = seconds_to_compile(trials, key)
    quick = seconds_to_compile(lambda k: trials(unrolled(k)), key)
    print(f"compiling trials of three draws: {slow:.2f} s with JAX's keys, {quick:.2f} s unrolled")


if __name__ == "__main__":
    main()
