r"""The law of a prompt's attention over irrelevant tokens: T − k scalars, whatever the dimension.

Given the score gap :math:`g` between a relevant token and the mean of the irrelevant ones, and
the irrelevant scores :math:`g_t = \beta v_t` with standard normal :math:`v_t`, everything the
theory needs is in three numbers:

.. math:: s = \frac{k e^{g}}{Z}, \quad p_2 = \frac{\sum_t e^{2 \beta v_t}}{Z^2}, \quad
          \bar v = \frac{\sum_t v_t e^{\beta v_t}}{Z}, \quad
          Z = k e^{g} + \sum_t e^{\beta v_t}.

Expectations over the :math:`v_t` are taken by randomised quasi-Monte Carlo: independently
scrambled Sobol points, whose spread gives the standard error.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special
from scipy.stats import qmc

__all__ = ["REPLICATES", "Moments", "moments", "normal_nodes", "pooled"]

REPLICATES = 16
"""Independent scramblings; their spread gives a prediction's standard error."""

_MOST_NODES = 4096
_SCALAR_BUDGET = 2**24
_SOBOL_LIMIT = 21201  # dimensions for which direction numbers are tabulated


class Moments(NamedTuple):
    """Total relevant weight, sum of squared irrelevant weights, weighted mean of the scalars."""

    attention: Float[Array, "*shape"]
    spread: Float[Array, "*shape"]
    drift: Float[Array, "*shape"]


def moments(
    gap: Float[Array, "*shape"],
    scale: Float[Array, ""] | float,
    relevant: int,
    scalars: Float[Array, "*shape_or_more N"],
) -> Moments:
    """Moments of the attention for each row of `scalars`; `gap` broadcasts against the rows.

    No score overflows: the largest is subtracted first. With N = 0 all weight is relevant.
    """
    gap = jnp.asarray(gap)
    scores = scale * scalars
    shape = jnp.broadcast_shapes(gap.shape, scores.shape[:-1])
    gap = jnp.broadcast_to(gap, shape)
    peak = jnp.maximum(gap, jnp.max(scores, axis=-1, initial=-jnp.inf))
    weights = jnp.exp(scores - peak[..., None])
    mass = relevant * jnp.exp(gap - peak)
    total = mass + weights.sum(axis=-1)
    return Moments(
        mass / total,
        (weights**2).sum(axis=-1) / total**2,
        (weights * scalars).sum(axis=-1) / total,
    )


@functools.lru_cache(maxsize=8)
def normal_nodes(count: int) -> np.ndarray:
    """Quadrature nodes for `count` independent standard normals: (replicate, node, scalar).

    float64, the same numbers in every process; the array is read-only. The number of nodes falls
    with `count` so that memory stays bounded, which the law of large numbers over tokens repays.
    """
    if count == 0:
        return np.zeros((2, 1, 0))
    affordable = max(_SCALAR_BUDGET // (REPLICATES * count), 16)
    power = int(np.log2(min(affordable, _MOST_NODES)))
    uniform = np.stack([_points(count, power, replicate) for replicate in range(REPLICATES)])
    nodes = special.ndtri(np.clip(uniform, 1e-16, 1 - 1e-16))
    nodes.setflags(write=False)
    return nodes


def _points(count: int, power: int, replicate: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([count, replicate]))
    if count > _SOBOL_LIMIT:
        return rng.random((2**power, count))
    return qmc.Sobol(count, scramble=True, rng=rng).random_base2(power)


def pooled(per_replicate: np.ndarray) -> tuple[Any, Any]:
    """Mean over the first axis (replicates) and the standard error of that mean."""
    values = np.asarray(per_replicate, dtype=np.float64)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(values.shape[0])
