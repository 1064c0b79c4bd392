"""The head on the circle at any number of queries, and the largest value of what it misses.

Simulations measure with these; closed forms have `jaxprompt.universal.numerics.equispaced`, which
shares no search with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from scipy import optimize

from jaxprompt.universal.networks import head

__all__ = ["bisected_maximum", "head_outputs"]

BLOCK = 64
"""Queries that the head is given at once: a single compiled shape for each number of centres."""


def head_outputs(
    query: np.ndarray, centres: np.ndarray, values: np.ndarray, lam: float
) -> Float[np.ndarray, "Q d"]:
    """The head without content at any number of queries (Q, 2), in blocks of one shape; float64."""
    padded = np.concatenate([query, np.repeat(query[-1:], -len(query) % BLOCK, axis=0)])
    with jax.enable_x64(True):
        blocks = [
            np.asarray(_compiled_core(block, centres, values, lam)[0])
            for block in padded.reshape(-1, BLOCK, 2)
        ]
    return np.concatenate(blocks)[: len(query)]


_compiled_core = jax.jit(head.core)


def bisected_maximum(error: Callable[[np.ndarray], np.ndarray], pieces: int) -> tuple[float, float]:
    """Where in [0, 2π] a function of an array of phases is largest, and its value, by bisection.

    Intervals whose ends differ, and that could hold the largest value if it changes inside them
    as much as between their ends, are halved until they do not differ any more.
    """
    psi = np.linspace(0, 2 * np.pi, pieces + 1)
    values = error(psi)
    while True:
        change, top = np.abs(np.diff(values)), values.max()
        hopeful = np.maximum(values[1:], values[:-1]) + 2 * change >= top
        halved = np.flatnonzero(hopeful & (change > 1e-4 * top) & (np.diff(psi) > 1e-12))
        if not halved.size:
            break
        middle = (psi[halved] + psi[halved + 1]) / 2
        psi = np.insert(psi, halved + 1, middle)
        values = np.insert(values, halved + 1, error(middle))
    best = int(values.argmax())
    low, high = psi[max(best - 1, 0)], psi[min(best + 1, len(psi) - 1)]
    result: Any = optimize.minimize_scalar(
        lambda x: -error(np.array([x]))[0], bounds=(low, high), method="bounded",
        options={"xatol": 1e-9 * (high - low)},
    )  # fmt: skip
    if -result.fun < values[best]:
        return float(psi[best]), float(values[best])
    return float(result.x), float(-result.fun)
