"""One head of 10⁵ prefix tokens at 10⁵ points of the sphere S², against the machine and NumPy.

    python benchmarks/universal_head.py [--points 100000] [--tokens 100000]

Times, in float32, the library's chunked evaluation; the *floor*, the same two matrix products
and exponentials on random numbers with the best chunk found; and plain NumPy (on fewer points,
scaled). Reports times for all points, the ratio to the floor (to stay below 2), the peak memory
of the library's part (to stay below 2 GiB), and the largest error against float64.
"""

from __future__ import annotations

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets


def clock(run, repeats: int = 1) -> float:
    """Least wall time of `repeats` runs, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


@jax.jit
def floor_block(query, centres, values):
    """Two matrix products and the exponentials between them: nothing less computes a head."""
    return jnp.exp(query @ centres.T - 1) @ values


def floor(points: int, centres: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Seconds for all points at the best chunk of a few, and that chunk."""
    at, to = jnp.asarray(centres), jnp.asarray(values)
    best = (float("inf"), 0)
    for chunk in (16, 32, 64, 128, 512):
        block = at[:chunk]
        floor_block(block, at, to).block_until_ready()
        count = max(2048 // chunk, 1)
        seconds = clock(lambda: [np.asarray(floor_block(block, at, to)) for _ in range(count)], 3)  # noqa: B023
        best = min(best, (seconds * points / (chunk * count), chunk))
    return best


def plain_numpy(query, centres, values, lam, chunk: int = 64) -> np.ndarray:
    """What one would write without the library; scores by dot products."""
    parts = []
    for start in range(0, len(query), chunk):
        score = lam * (query[start : start + chunk] @ centres.T)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        parts.append(weight @ values / weight.sum(axis=1, keepdims=True))
    return np.concatenate(parts)


def main() -> None:
    """Run and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=100_000)
    options = parser.parse_args()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    query = np.float32(point_sets.fibonacci(options.points) @ turn)
    centres = np.float32(point_sets.fibonacci(options.tokens))
    values, lam = np.float32(centres), 0.2 * options.tokens

    def library(points=query):
        return head.estimate(points, centres, values, lam, dtype=np.float32)

    library(query[:64])
    ours = clock(library)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    least, chunk = floor(options.points, centres, values)
    few = query[:1024]
    numpy = clock(lambda: plain_numpy(few, centres, values, np.float32(lam))) * len(query) / 1024
    exact = head.estimate(few, np.float64(centres), np.float64(values), lam)
    error = np.abs(library(few) - exact).max()
    dot_error = np.abs(plain_numpy(few, centres, values, np.float32(lam)) - exact).max()
    pairs = options.points * options.tokens
    print(f"{options.tokens} prefix tokens at {options.points} points of S^2, float32, λ = {lam:g}")
    print(f"library      {ours:8.2f} s  {pairs / ours / 1e9:6.2f} G pairs/s  error {error:.1e}")
    print(
        f"floor        {least:8.2f} s  (best chunk {chunk}); library / floor = {ours / least:.2f}"
    )
    print(f"plain NumPy  {numpy:8.2f} s  (from 1024 points); error {dot_error:.1e} by dot products")
    print(f"peak memory  {peak:8.2f} GiB, Python and JAX included")


if __name__ == "__main__":
    main()
