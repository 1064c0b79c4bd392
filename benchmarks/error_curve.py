"""One error curve, three ways: time to the same standard error.

    python benchmarks/error_curve.py [--trials 64] [--repeats 5]

The curve has 8 points (T = 32, k = 4, d = 128, n from 64 to 1024, ridge 0.05, gain 1). Rivals:

* token level: NumPy draws every token of every sequence and estimates each head's error on a
  sampled test set, with the test set's size chosen to reach the target soonest;
* exact law: NumPy with the same law and the same sharing, in float64 (``benchmarks/rivals.py``).

The standard error of an estimate falls as one over the square root of time, so a rival's time to
jaxprompt's standard error is its time for its own trials, times the squared ratio of the errors.
The last lines say how far jaxprompt is from the floor that its own generator and matrix products
set on this machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

from rivals import Model, best_time, exact_law, floor

# isort: split
import jax
import numpy as np
from scipy import linalg

from jaxprompt.contextual.claims.prompt_error import CLAIM

MODEL, D, RIDGE = Model(), 128, 0.05
T, K, GAIN, W, Q, SIGMA = MODEL
SAMPLES = (64, 128, 256, 384, 512, 640, 768, 1024)
PARAMS = {**MODEL.params, "ridge": RIDGE, "dim": D, "samples": list(SAMPLES)}


# --- rival 1: token by token ---


def tokens(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` sequences of T tokens and their labels, in float32."""
    y = rng.integers(0, 2, count, dtype=np.int8).astype(np.float32) * 2 - 1
    x = np.zeros((count, T, D), np.float32)
    rng.standard_normal(out=x, dtype=np.float32)
    x *= SIGMA
    x[:, :K] = 0
    x[:, :K, 0] = y[:, None] * W
    x[:, :K, 1] = Q
    return x, y


def pool(x: np.ndarray) -> np.ndarray:
    """Prompt attention with the prompt GAIN · q⋆."""
    scores = GAIN * Q * x[:, :, 1]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.matmul(weights[:, None, :], x)[:, 0]


def token_level(trials: int, test: int, seed: int) -> np.ndarray:
    """Errors (trials, points) from sampled training and test sets."""
    rng = np.random.Generator(np.random.SFC64(seed))
    errors = np.empty((trials, len(SAMPLES)))
    for trial in range(trials):
        x, y = tokens(rng, SAMPLES[-1])
        rows = (pool(x) * y[:, None]).astype(np.float64)
        x, y = tokens(rng, test)
        fresh = pool(x) * y[:, None]
        for place, n in enumerate(SAMPLES):
            r = rows[:n]
            head = linalg.solve(r.T @ r / n + RIDGE * np.eye(D), r.mean(axis=0), assume_a="pos")
            errors[trial, place] = (fresh @ head < 0).mean()
    return errors


def curve(trials: int) -> np.ndarray:
    """Errors (trials, points) of the exact-law rival."""
    return exact_law(MODEL, D, SAMPLES, (RIDGE,), trials, 1)[:, 0]


def main() -> None:
    """Run the three ways side by side and print times, errors and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    trials, repeats = options.trials, options.repeats
    print(f"{platform.machine()}, {os.cpu_count()} processors seen, jax {jax.__version__}")

    ours = best_time(lambda: CLAIM.simulate(key=0, trials=trials, **PARAMS), repeats)
    estimate = CLAIM.simulate(key=0, trials=trials, **PARAMS)["error"]
    print(
        f"jaxprompt        {ours:8.3f} s for {trials} trials; errors {np.round(estimate.mean, 4)}"
    )

    numpy_time = best_time(lambda: curve(trials), repeats)
    exact = curve(trials)
    z = (exact.mean(axis=0) - estimate.mean) / np.hypot(
        exact.std(axis=0, ddof=1) / np.sqrt(trials), estimate.stderr
    )
    print(
        f"NumPy exact law  {numpy_time:8.3f} s for {trials} trials; differs by z {np.round(z, 1)}"
    )

    # Per-trial variances from many trials, so that their ratio is not itself noise.
    many = CLAIM.simulate(key=1, trials=1024, **PARAMS)["error"]
    variance = many.stderr**2 * 1024
    best = np.inf
    for test in (250, 1000, 4000):
        count = 2
        started = time.perf_counter()
        token_level(count, test, 2)
        each = (time.perf_counter() - started) / count
        sampled = variance + many.mean * (1 - many.mean) / test
        needed = trials * float((sampled / variance).max())
        print(
            f"NumPy tokens     {each * needed:8.1f} s with test sets of {test}: {needed:.0f} "
            f"trials of {each:.3f} s for the same standard error at every point"
        )
        best = min(best, each * needed)
    generate, product = floor(MODEL, D, SAMPLES[-1], trials, repeats)
    total = generate + product
    print(f"floor            {total:8.3f} s: normals {generate:.3f}, products {product:.3f}")
    print(f"token level / jaxprompt = {best / ours:.0f}   (target 300)")
    print(f"exact law / jaxprompt   = {numpy_time / ours:.2f}  (target 1.5)")
    print(f"floor / jaxprompt       = {total / ours:.2f}")


if __name__ == "__main__":
    main()
