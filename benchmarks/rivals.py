"""What people would otherwise use for the error of a head learned over a known prompt.

The exact law of the pooled feature in NumPy, as its best user would write it: one nested stream of
samples for all sizes, the smaller of the two ridge systems, float32 random numbers from the
fastest generator, trials spread over one thread for each core (NumPy and LAPACK release the
interpreter's lock) with single-threaded BLAS inside, and the conditional error on a quasi-random
rule, shifted anew in each trial, as a fixed rule's error would not average out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

# Before NumPy loads: BLAS threads inside threads would only slow the rival down.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, special
from scipy.stats import qmc

from jaxprompt.compute import devices, random_table

__all__ = ["Model", "best_time", "exact_law", "factorisations", "floor", "rows"]


class Model(NamedTuple):
    """Parameters of the data and the prompt, by their usual letters."""

    T: int = 32
    K: int = 4
    gain: float = 1.0
    W: float = 1.0
    Q: float = 1.0
    sigma: float = 1.0

    @property
    def params(self) -> dict[str, Any]:
        """The same by jaxprompt's names."""
        return {
            "tokens": self.T,
            "relevant": self.K,
            "signal": self.W,
            "context": self.Q,
            "noise": self.sigma,
            "gain": self.gain,
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


def moments(model: Model, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevant weight, root of the sum of squared irrelevant weights, weighted scalar."""
    e = np.exp(model.gain * model.Q * model.sigma * v)
    own = model.K * np.exp(model.gain * model.Q * model.Q)
    z = own + e.sum(axis=1)
    return own / z, np.sqrt(np.einsum("ij,ij->i", e, e)) / z, np.einsum("ij,ij->i", e, v) / z


def rows(rng: np.random.Generator, model: Model, count: int, dim: int) -> np.ndarray:
    """`count` signed pooled features in float32, by their exact law."""
    bulk = rng.standard_normal((count, dim), dtype=np.float32)
    a, tau, u = moments(model, rng.standard_normal((count, model.T - model.K), dtype=np.float32))
    y = rng.integers(0, 2, count, dtype=np.int8) * np.float32(2) - 1
    bulk *= (model.sigma * tau)[:, None]
    bulk[:, 0] += a * model.W
    bulk[:, 1] = y * (a * model.Q + model.sigma * u)
    return bulk


def on_cores(share: Callable[[int, int], np.ndarray], trials: int, seed: int) -> np.ndarray:
    """``share(trials, seed)`` on one thread for each core, joined."""
    workers = os.cpu_count() or 1
    shares = [len(part) for part in np.array_split(np.arange(trials), workers) if len(part)]
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(share, shares, range(seed, seed + workers))))


def exact_law(
    model: Model,
    dim: int,
    samples: Sequence[int],
    ridges: Sequence[float],
    trials: int,
    seed: int,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Errors (trials, ridges, samples) for ascending `samples`; matrices in `dtype`."""
    rule = qmc.Sobol(model.T - model.K, scramble=False).random_base2(9).astype(np.float32)

    def share(count: int, seed: int) -> np.ndarray:
        rng = np.random.Generator(np.random.SFC64(seed))
        errors = np.empty((count, len(ridges), len(samples)))
        for trial in range(count):
            table = rows(rng, model, samples[-1], dim).astype(dtype, copy=False)
            shifted = (rule + rng.random(rule.shape[1], dtype=np.float32)) % 1
            fresh = moments(model, special.ndtri(np.clip(shifted, 2**-24, 1 - 2**-24)))
            heads = ridge_heads(table, samples, ridges)
            for place in np.ndindex(len(ridges), len(samples)):
                errors[(trial, *place)] = head_error(model, heads[place], *fresh)
        return errors

    return on_cores(share, trials, seed)


def ridge_heads(table: np.ndarray, samples: Sequence[int], ridges: Sequence[float]) -> np.ndarray:
    """Heads (ridges, samples, d): sums shared along the sizes, one system for each ridge."""
    dim, dtype = table.shape[1], table.dtype
    heads = np.empty((len(ridges), len(samples), dim), dtype)
    gram, moment, done = np.zeros((dim, dim), dtype), np.zeros(dim, dtype), 0
    few = [n for n in samples if n <= dim]
    dual = table[: few[-1]] @ table[: few[-1]].T if few else np.zeros((0, 0), dtype)
    for place, n in enumerate(samples):
        if n <= dim:
            matrix, vector = dual[:n, :n], np.ones(n, dtype)
        else:
            new = table[done:n]
            gram += new.T @ new
            moment += new.sum(axis=0)
            matrix, vector, done = gram, moment, n
        for level, ridge in enumerate(ridges):
            system = matrix / n
            system.flat[:: len(system) + 1] += ridge
            # A product with its own transpose is symmetric, so either triangle and either order
            # of storage will do: LAPACK works in place.
            factor = linalg.cho_factor(system.T, overwrite_a=True, check_finite=False)
            solved = linalg.cho_solve(factor, vector / n, check_finite=False)
            heads[level, place] = solved @ table[:n] if n <= dim else solved
    return heads


def head_error(
    model: Model, w: np.ndarray, s: np.ndarray, root: np.ndarray, drift: np.ndarray
) -> float:
    """Conditional error of a head, averaged over fresh scalars."""
    noise = model.sigma * root * np.sqrt(max(float(w @ w - w[1] ** 2), 0.0))
    mean = s * model.W * w[0]
    odd = s * model.Q * w[1] + model.sigma * drift * w[1]
    return (special.ndtr(-(mean + odd) / noise) + special.ndtr(-(mean - odd) / noise)).mean() / 2


def floor(model: Model, dim: int, most: int, trials: int, repeats: int) -> tuple[float, float]:
    """Seconds to generate a curve's normals, and to multiply its matrices, and nothing else."""
    generate = jax.jit(
        lambda key: random_table.normals(key, 0, most * trials, dim + model.T - model.K).sum()
    )
    key = jax.random.key(0)
    x = jnp.ones((trials, most, dim), jnp.float32)
    multiply = jax.jit(lambda x: jnp.einsum("tnd,tne->tde", x, x))
    product = best_time(lambda: multiply(x).block_until_ready(), repeats)
    return best_time(lambda: generate(key).block_until_ready(), repeats), product


def factorisations(dim: int, count: int, trials: int, repeats: int) -> float:
    """Seconds for `count` float32 Cholesky factorisations in each of `trials`, on all cores."""
    table = np.random.default_rng(0).normal(size=(2 * dim, dim)).astype(np.float32)
    matrix = jnp.asarray(table.T @ table / dim)

    @jax.jit
    def block(indices: jax.Array) -> jax.Array:
        def one(index: jax.Array) -> jax.Array:
            # A little of the index in the matrix, lest one factorisation serve all.
            own = matrix.at[0, 0].add(index.astype(jnp.float32) * 1e-6)
            return jnp.linalg.cholesky(own, symmetrize_input=False)[-1, -1]

        return jax.lax.map(one, indices.reshape(-1)).reshape(indices.shape)

    return best_time(lambda: devices.map_trials(block, count * trials), repeats)
