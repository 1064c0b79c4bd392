"""Trials spread over the cores of a CPU, one thread for each.

XLA runs a loop over trials on one core, and LAPACK calls inside it too. The trials of a
simulation are independent, so they are cut into as many equal blocks as there are cores, and one
compiled program runs on all blocks at once. What a trial gives depends on its index alone, so the
numbers do not depend on the machine's cores.

Blocks must not hold *batched* LAPACK calls: two of them at work at the same time can wait for each
other for ever (jaxlib 0.10). :func:`unbatched` keeps them apart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

__all__ = ["cores", "map_trials", "unbatched"]


def cores() -> int:
    """Processors that this process may use; 1 where the default device is not a CPU."""
    if jax.default_backend() != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_trials(
    block: Callable[[np.ndarray], Any],
    trials: int,
    *,
    batch: int = 1,
    threads: int | None = None,
    first: int = 0,
) -> Any:
    """Run ``block(indices)`` on blocks of the trial indices `first` …, and join the results.

    `indices` is uint32 (steps, batch), the same shape in every block; results are trees of arrays
    with these two leading axes. They come back as NumPy arrays with one leading axis of `trials`.
    `block` is a jitted function, called for at most `threads` blocks (by default, one for each
    core). The thread's JAX settings (64-bit types) are those of the caller.
    """
    workers = min(threads or cores(), -(-trials // batch))
    steps = -(-trials // (batch * workers))
    indices = first + np.arange(workers * steps * batch, dtype=np.uint32)
    indices = indices.astype(np.uint32).reshape(workers, steps, batch)
    x64, dispatch = jnp.result_type(float) == np.float64, threading.Lock()

    def run(part: np.ndarray) -> Any:
        with jax.enable_x64(x64):
            # Dispatch returns at once, but the first one compiles: the others wait for that.
            with dispatch:
                result = block(part)
            return jax.tree.map(np.asarray, result)

    if workers == 1:
        parts = [run(indices[0])]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(run, indices))

    def join(*arrays: np.ndarray) -> np.ndarray:
        flat = [a.reshape(-1, *a.shape[2:]) for a in arrays]
        return np.concatenate(flat)[:trials]

    return jax.tree.map(join, *parts)


def unbatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run for one example after another under ``vmap`` on the CPU.

    For LAPACK calls: a batched one is no faster there, and not safe beside another.
    """
    return sequential_vmap(function) if jax.default_backend() == "cpu" else function
