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

__all__ = [
    "REPLICATES", "Moments", "ScoreNodes", "mean_and_stderr", "moments", "normal_nodes",
    "score_nodes",
]  # fmt: skip

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
    # Weights relative to the largest irrelevant score do not depend on the gap: one set of
    # exponentials serves all gaps.
    largest = jnp.max(scores, axis=-1, initial=-jnp.inf)
    weights = jnp.exp(scores - largest[..., None])
    peak = jnp.maximum(gap, largest)
    mass, factor = relevant * jnp.exp(gap - peak), jnp.exp(largest - peak)
    total = mass + factor * weights.sum(axis=-1)
    return Moments(
        mass / total,
        jnp.square(factor / total) * jnp.square(weights).sum(axis=-1),
        factor / total * (weights * scalars).sum(axis=-1),
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
    nodes = np.empty((REPLICATES, 2**power, count))
    for replicate, rows in enumerate(nodes):  # one at a time: the whole table is large enough
        special.ndtri(np.clip(_points(count, power, replicate), 1e-16, 1 - 1e-16), out=rows)
    nodes.setflags(write=False)
    return nodes


class ScoreNodes(NamedTuple):
    """Nodes of the irrelevant tokens' standard normal scalars, (replicate, node, scalar), and their
    weights, (replicate, node), which sum to 1 over each replicate's nodes."""

    scalars: np.ndarray
    weights: np.ndarray


_PLAIN_SCALE = 2.0
"""Largest standard deviation of a score at which equally weighted nodes do."""

_TILTS = np.arange(5)
_TILT_ODDS = np.array([0.5, 0.125, 0.125, 0.125, 0.125])


def score_nodes(count: int, scale: float) -> ScoreNodes:
    r"""Nodes for `count` scores of standard deviation `scale`, float64.

    Up to :data:`_PLAIN_SCALE` they are :func:`normal_nodes` with equal weights. Beyond it an
    average of :math:`1/p_2` comes from rare sequences all of whose scores are low, which equally
    weighted nodes miss. Then as many nodes again are added, from normals whose mean is lower in
    every scalar by one to four times :math:`\\sqrt{2/N}`; the first step is one nat away. The
    weights are the ratio of the normal density to that of all nodes together (the balance
    heuristic), so the law stays the same.
    """
    if count == 0 or not scale > _PLAIN_SCALE:
        plain = normal_nodes(count)
        weights = np.full(plain.shape[:2], 1 / plain.shape[1])
        return ScoreNodes(plain, weights)
    return _tilted_nodes(count)


@functools.lru_cache(maxsize=2)
def _tilted_nodes(count: int) -> ScoreNodes:
    """Eight nodes in turn: four plain ones, and one of each tilt, so that the first nodes of a
    replicate are such a rule again. Each tilt has a quarter of the plain nodes, itself a net."""
    plain = normal_nodes(count)
    replicates, nodes, _ = plain.shape
    step = np.sqrt(2 / count)
    scalars = np.empty((replicates, nodes // 4, 8, count))
    scalars[:, :, :4] = plain.reshape(replicates, nodes // 4, 4, count)
    for tilt in _TILTS[1:]:
        quarter = plain[:, (tilt - 1) * nodes // 4 : tilt * nodes // 4]
        np.subtract(quarter, step * tilt, out=scalars[:, :, 3 + tilt])
    scalars = scalars.reshape(replicates, 2 * nodes, count)
    total = scalars.sum(axis=-1)[..., None]
    ratios = _TILT_ODDS * np.exp(-step * _TILTS * total - _TILTS**2)
    weights = 1 / ratios.sum(axis=-1)
    weights /= weights.sum(axis=1, keepdims=True)
    for array in (scalars, weights):
        array.setflags(write=False)
    return ScoreNodes(scalars, weights)


def _points(count: int, power: int, replicate: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([count, replicate]))
    if count > _SOBOL_LIMIT:
        return rng.random((2**power, count))
    return qmc.Sobol(count, scramble=True, rng=rng).random_base2(power)


def mean_and_stderr(per_replicate: np.ndarray) -> tuple[Any, Any]:
    """Mean over the first axis (replicates) and the standard error of that mean."""
    values = np.asarray(per_replicate, dtype=np.float64)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(values.shape[0])
