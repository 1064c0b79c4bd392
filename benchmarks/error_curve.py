"""One error curve, three ways: time to the same standard error.

    python benchmarks/error_curve.py [--trials 64] [--repeats 5]

The curve has 8 points (T = 32, k = 4, d = 128, n from 64 to 1024, ridge 0.05, gain 1). Rivals:

* token level: NumPy draws every token of every sequence and estimates each head's error on a
  sampled test set, with the test set's size chosen to reach the target soonest;
* exact law: NumPy as its best user would write it, with the same exact law of the pooled feature,
  the same nested stream of samples, the same conditional error on a quasi-random rule (shifted
  anew in each trial, as a fixed rule's error would not average out),
  float32 random numbers from the fastest generator, a Cholesky factorisation per system, trials
  spread over one thread for each core (NumPy and LAPACK release the interpreter's lock) with
  single-threaded BLAS inside.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# Before NumPy loads: BLAS threads inside threads would only slow the rival down.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, special
from scipy.stats import qmc

from jaxprompt import random
from jaxprompt.contextual.prompt_error import CLAIM

T, K, D, RIDGE, GAIN, W, Q, SIGMA = 32, 4, 128, 0.05, 1.0, 1.0, 1.0, 1.0
N = T - K
SAMPLES = (64, 128, 256, 384, 512, 640, 768, 1024)
PARAMS = {
    "tokens": T,
    "relevant": K,
    "signal": W,
    "context": Q,
    "noise": SIGMA,
    "gain": GAIN,
    "ridge": RIDGE,
    "dim": D,
    "samples": list(SAMPLES),
}


def best_time(run: Callable[[], object], repeats: int) -> float:
    """Least wall time of `repeats` runs after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


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


# --- rival 2: the exact law in NumPy ---

RULE = qmc.Sobol(N, scramble=False).random_base2(9).astype(np.float32)


def moments(v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevant weight, root of the sum of squared irrelevant weights, weighted scalar."""
    e = np.exp(GAIN * Q * SIGMA * v)
    own = K * np.exp(GAIN * Q * Q)
    z = own + e.sum(axis=1)
    return own / z, np.sqrt(np.einsum("ij,ij->i", e, e)) / z, np.einsum("ij,ij->i", e, v) / z


def exact_law(trials: int, seed: int) -> np.ndarray:
    """Errors (trials, points) with shared samples along n and no test set, on all cores."""
    workers = os.cpu_count() or 1
    shares = [len(part) for part in np.array_split(np.arange(trials), workers)]
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(exact_law_share, shares, range(seed, seed + workers))
    return np.concatenate(list(parts))


def exact_law_share(trials: int, seed: int) -> np.ndarray:
    """One thread's trials."""
    rng = np.random.Generator(np.random.SFC64(seed))
    errors = np.empty((trials, len(SAMPLES)))
    bulk, scalars = np.empty((SAMPLES[-1], D), np.float32), np.empty((SAMPLES[-1], N), np.float32)
    for trial in range(trials):
        rng.standard_normal(out=bulk, dtype=np.float32)
        rng.standard_normal(out=scalars, dtype=np.float32)
        y = rng.integers(0, 2, SAMPLES[-1], dtype=np.int8) * 2.0 - 1
        a, tau, u = moments(scalars)
        shifted = (RULE + rng.random(N, dtype=np.float32)) % 1
        s, root, drift = moments(special.ndtri(np.clip(shifted, 2**-24, 1 - 2**-24)))
        rows = (SIGMA * tau[:, None]) * bulk.astype(np.float64)
        rows[:, 0] += a * W
        rows[:, 1] = y * (a * Q + SIGMA * u)
        gram, moment, done = np.zeros((D, D)), np.zeros(D), 0
        for place, n in enumerate(SAMPLES):
            new = rows[done:n]
            gram += new.T @ new
            moment += new.sum(axis=0)
            done = n
            matrix = gram / n
            matrix[np.diag_indices(D)] += RIDGE
            factor = linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
            w = linalg.cho_solve(factor, moment / n, check_finite=False)
            noise = SIGMA * root * np.sqrt(max(w @ w - w[1] ** 2, 0.0))
            mean, odd = s * W * w[0], s * Q * w[1] + SIGMA * drift * w[1]
            errors[trial, place] = (
                special.ndtr(-(mean + odd) / noise) + special.ndtr(-(mean - odd) / noise)
            ).mean() / 2
    return errors


# --- the floor ---


def floor(trials: int, repeats: int) -> tuple[float, float]:
    """Seconds to generate the curve's normals, and to multiply its matrices, and nothing else."""
    rows = SAMPLES[-1] * trials
    generate = jax.jit(lambda key: random.normals(key, 0, rows, D + N).sum())
    key = jax.random.key(0)
    x = jnp.ones((trials, SAMPLES[-1], D), jnp.float32)  # as jaxprompt's, with this ridge
    multiply = jax.jit(lambda x: jnp.einsum("tnd,tne->tde", x, x))
    product = best_time(lambda: multiply(x).block_until_ready(), repeats)
    return best_time(lambda: generate(key).block_until_ready(), repeats), product


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

    numpy_time = best_time(lambda: exact_law(trials, 1), repeats)
    exact = exact_law(trials, 1)
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
    generate, product = floor(trials, repeats)
    total = generate + product
    print(f"floor            {total:8.3f} s: normals {generate:.3f}, products {product:.3f}")
    print(f"token level / jaxprompt = {best / ours:.0f}   (target 300)")
    print(f"exact law / jaxprompt   = {numpy_time / ours:.2f}  (target 1.5)")
    print(f"floor / jaxprompt       = {total / ours:.2f}")


if __name__ == "__main__":
    main()
