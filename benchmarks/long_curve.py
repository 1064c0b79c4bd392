"""A curve up to n = 10⁶ sequences (T = 64, d = 256): time and peak memory.

python benchmarks/long_curve.py [--samples 1000000] [--trials 2]
"""

from __future__ import annotations

import argparse
import resource
import time

from jaxprompt.contextual.claims.prompt_error import CLAIM


def main() -> None:
    """Run the curve and print its time, its errors and the process's peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, default=2)
    options = parser.parse_args()
    samples = [options.samples // 10**power for power in (3, 2, 1, 0)]
    started = time.perf_counter()
    found = CLAIM.simulate(
        key=0,
        trials=options.trials,
        tokens=64,
        relevant=4,
        signal=1.0,
        context=1.0,
        noise=1.0,
        gain=1.0,
        ridge=0.05,
        dim=256,
        samples=samples,
    )["error"]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    for n, mean, stderr in zip(samples, found.mean, found.stderr, strict=True):
        limit = CLAIM.predict(
            tokens=64,
            relevant=4,
            signal=1.0,
            context=1.0,
            noise=1.0,
            gain=1.0,
            ridge=0.05,
            ratio=256 / n,
        )["error"]
        print(f"n = {n:>9}: error {mean:.5f} ± {stderr:.5f}, limit {limit:.5f}")
    print(f"{options.trials} trials in {seconds:.1f} s, peak memory {peak:.2f} GiB (target 2)")


if __name__ == "__main__":
    main()
