r"""Models of attention on noise-free sequences, and a search for the best accuracy of each.

Without noise a sequence is one of four cases (two shifts, two labels), all tokens lie in the plane
of :math:`w_\star` and :math:`q_\star`, and equal tokens receive equal attention. So a sequence is
two vectors with the weights ζ and 1 − ζ, and every model here has at most nine parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt.compute import random_table
from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.law.maximise import golden_section
from jaxprompt.networks.descend import descend

__all__ = [
    "RIVALS", "Cases", "Rival", "best_accuracies", "cases", "map_points", "measure_least_gains",
    "measure_thresholds", "separable",
]  # fmt: skip


# --- the four cases, and the models on them ---


class Cases(NamedTuple):
    """The four equally likely sequences: their two kinds of token, labels, and share ζ.

    Coordinates are those along w⋆ and q⋆; shifts (0, 0), (0, 0), (Δ, ±Δ), (Δ, ±Δ).
    """

    relevant: Float[Array, "4 2"]
    irrelevant: Float[Array, "4 2"]
    labels: Float[Array, " 4"]
    sparsity: Float[Array, ""]


class Rival(NamedTuple):
    """Parameters of every model of the comparison; each uses some of them."""

    head: Float[Array, " 2"]
    prompt: Float[Array, " 2"]
    matrix: Float[Array, "2 2"]
    intercept: Float[Array, ""]


def cases(sparsity: Any, shift: Any, law: str, context: Any = 1.0, signal: Any = 1.0) -> Cases:
    """All cases of the law "aligned" {(0,0), (Δ,Δ)} or "opposed" {(0,0), (Δ,−Δ)}.

    NumPy, float64; `sparsity` and `shift` broadcast, and are the leading axes of the result.
    """
    sparsity, shift = np.broadcast_arrays(
        np.asarray(sparsity, np.float64), np.asarray(shift, np.float64)
    )
    labels = np.broadcast_to([1.0, -1.0, 1.0, -1.0], (*shift.shape, 4))
    shifted = np.array([0.0, 0.0, 1.0, 1.0]) * shift[..., None]
    sign = 1.0 if law == "aligned" else -1.0
    relevant = np.stack([labels * signal, np.full(labels.shape, context)], axis=-1)
    irrelevant = np.stack([-sign * shifted * labels * signal, -shifted * context], axis=-1)
    numbers: list[Any] = [relevant, irrelevant, labels, sparsity]
    return Cases(*numbers)


def _linear_output(p: Rival, c: Cases) -> Array:
    return (c.sparsity * c.relevant + (1 - c.sparsity) * c.irrelevant) @ p.head


def _linear_prompt_output(p: Rival, c: Cases) -> Array:
    relevant = (c.relevant @ p.prompt) * (c.relevant @ p.head)
    irrelevant = (c.irrelevant @ p.prompt) * (c.irrelevant @ p.head)
    return c.sparsity * relevant + (1 - c.sparsity) * irrelevant


def _attend_to_case(c: Cases, queries: Array) -> Array:
    """Softmax attention of each case's query over its tokens."""
    gap = ((c.relevant - c.irrelevant) * queries).sum(axis=1)
    share = jax.nn.sigmoid(gap + jnp.log(c.sparsity) - jnp.log1p(-c.sparsity))[:, None]
    return share * c.relevant + (1 - share) * c.irrelevant


def _softmax_prompt_output(p: Rival, c: Cases) -> Array:
    return _attend_to_case(c, jnp.broadcast_to(p.prompt, c.relevant.shape)) @ p.head


def _self_attention_output(p: Rival, c: Cases) -> Array:
    pooled = c.sparsity * _attend_to_case(c, c.relevant @ p.matrix)
    return (pooled + (1 - c.sparsity) * _attend_to_case(c, c.irrelevant @ p.matrix)) @ p.head


RIVALS: dict[str, tuple[Callable[[Rival, Cases], Array], float]] = {
    "linear": (_linear_output, 0.0),
    "linear_prompt": (_linear_prompt_output, 0.0),
    "linear_prompt_intercept": (_linear_prompt_output, 1.0),
    "self_attention": (_self_attention_output, 0.0),
    "self_attention_intercept": (_self_attention_output, 1.0),
    "prompt": (_softmax_prompt_output, 0.0),
}
"""Each model's output on the four cases, and whether it has an intercept (1) or not (0)."""


# --- the best accuracy that descent visits ---

STEPS = 100
"""Adam steps of one restart; half of them reach the ceilings 1.1 to 1.7 times less often."""

RATE = 0.6
"""Adam's step size, large: a restart is to visit many orderings of the cases, not to converge."""

ROUNDING = 16 * float(np.finfo(np.float32).eps)
"""Share of its largest term within which a margin counts as 0."""

RESTARTS_AT_ONCE = 256
"""Restarts of one compiled call: they stay in the processor's cache, which makes them three times
faster than all at once."""


def best_accuracies(points: Cases, trials: int, *, key: Key[Array, ""]) -> dict[str, np.ndarray]:
    """Best accuracy of each model over all restarts and steps, at each of P points; float32.

    Every point has `trials` restarts, the same ones for every model. Designs with equally many
    restarts in all share a compilation. A restart descends a logistic loss whose four cases have
    random weights: the accuracy has optima that equal weights do not lead to.
    """
    count = points.sparsity.size * trials
    every = (
        Cases(*(x.astype(np.float32).repeat(trials, axis=0) for x in points)),
        *map(np.asarray, _draw_restarts(count, key)),
    )

    def best(model: Callable[[Rival, Cases], Array], intercept: float) -> np.ndarray:
        def block(indices: np.ndarray) -> Array:
            rows = np.minimum(indices, count - 1)
            batches = jax.tree.map(lambda x: x[rows], every)
            return _run_restarts(model, np.float32(intercept), *batches)

        found = map_trials(block, count, batch=RESTARTS_AT_ONCE)
        return found.reshape(-1, trials).max(axis=1)

    return {name: best(*rival) for name, rival in RIVALS.items()}


@functools.partial(jax.jit, static_argnums=0)
def _draw_restarts(count: int, key: Array) -> tuple[Array, Array]:
    """Nine parameters over two decades of scale, four case weights over four, for each restart.

    The least likely ceilings of the quick design are the linear prompt's under opposed shifts,
    which at least one restart in 15 reaches, so that 256 miss it with a probability of 2·10⁻⁸; and
    that of self-attention with intercept at ζ = ¼, Δ = 3, which one of 50 reaches, of 2304.
    """
    value_key, other_key = jax.random.split(key)
    values = random_table.normals(value_key, 0, count, 9)
    uniform = random_table.uniforms(other_key, 0, count, 8)
    scales = jnp.repeat(10 ** (2 * uniform[:, :4]), np.array([2, 2, 4, 1]), axis=1)
    weights = 10 ** (4 * uniform[:, 4:])
    return values * scales, weights / weights.sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def _run_restarts(
    model: Callable[[Rival, Cases], Array], intercept: Array, points: Cases, starts: Array,
    weights: Array,
) -> Array:  # fmt: skip
    def restart(args: tuple[Cases, Array, Array]) -> Array:
        point, start, weight = args
        return _best_visited(model, intercept, point, weight, start)

    return lax.map(jax.vmap(restart), (points, starts, weights))


def _best_visited(
    model: Callable[[Rival, Cases], Array], intercept: Array, point: Cases, weights: Array,
    start: Array,
) -> Array:  # fmt: skip
    reach = jnp.maximum(jnp.abs(point.relevant).max(), jnp.abs(point.irrelevant).max())

    def loss(flat: Array, _: None) -> tuple[Array, Array]:
        # Parameters in units that suit the tokens' size.
        p = Rival(
            flat[:2] / reach, flat[2:4] / reach, flat[4:8].reshape(2, 2) / reach**2,
            intercept * flat[8],
        )  # fmt: skip
        margin = point.labels * (model(p, point) + p.intercept)
        # A margin within rounding of 0 has no sign; an impossible one must not count as right.
        sure = ROUNDING * (jnp.abs(flat[:2]).sum() + jnp.abs(p.intercept))
        return weights @ jax.nn.softplus(-margin), (margin > sure).mean(dtype=jnp.float32)

    _, (_, shares) = descend(loss, start, optax.adam(RATE), steps=STEPS, has_aux=True)
    return shares.max()


# --- thresholds and gains, from the models' outputs ---

POINTS_AT_ONCE = 36
"""Points of one compiled call."""


def map_points(measure: Callable[..., Array], *args: Any) -> np.ndarray:
    """`measure` on whole blocks of points, so that every design shares its compilation."""
    count = jax.tree.leaves(args)[0].shape[0]
    filled = -(-count // POINTS_AT_ONCE) * POINTS_AT_ONCE
    index = np.minimum(np.arange(filled), count - 1).reshape(-1, POINTS_AT_ONCE)
    blocks = [jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], args) for rows in index]
    return np.concatenate([np.asarray(measure(*block)) for block in blocks])[:count]


@jax.jit
def measure_thresholds(points: Cases, shifts: Array) -> Array:
    """Largest attention on relevant tokens over the strength of self-attention along q⋆."""

    def largest_share(c: Cases, shift: Array) -> Array:
        energy = c.relevant[2, 1] ** 2
        along_context, zero = jnp.array([0.0, 1.0], energy.dtype), jnp.zeros((), energy.dtype)

        def share(strength: Any) -> Array:
            matrix = jnp.zeros((2, 2), energy.dtype).at[1, 1].set(strength / energy)
            out = _self_attention_output(Rival(along_context, 0 * along_context, matrix, zero), c)
            return (out[2] / c.relevant[2, 1] + shift) / (1 + shift)

        # Strengths on a scale that shows steep and flat stretches both.
        grid = jnp.sinh(jnp.linspace(-9.0, 9.0, 4001)) / (1 + shift) ** 2
        values = lax.map(share, grid, batch_size=4001)
        top = jnp.clip(jnp.argmax(values), 1, grid.size - 2)
        return share(golden_section(share, grid[top - 1], grid[top + 1]))

    return lax.map(lambda row: largest_share(*row), (points, shifts))


def separable(vectors: Float[Array, "n 2"]) -> Array:
    """Whether some head gives every vector a positive product: a gap of more than half a turn."""
    angles = jnp.sort(jnp.arctan2(vectors[:, 1], vectors[:, 0]))
    gaps = jnp.append(jnp.diff(angles), angles[0] + 2 * jnp.pi - angles[-1])
    return (gaps.max() > jnp.pi) & (jnp.abs(vectors).sum(axis=1) > 0).all()


@jax.jit
def measure_least_gains(points: Cases) -> Array:
    """Least gain, by bisection, at which some head separates the pooled features of all cases."""

    def least(c: Cases) -> Array:
        def works(gain: Array) -> Array:
            query = jnp.broadcast_to(jnp.array([0.0, 1.0]) * gain * c.relevant[:, 1:], (4, 2))
            return separable(c.labels[:, None] * _attend_to_case(c, query))

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            good = works(middle)
            return jnp.where(good, ends[0], middle), jnp.where(good, middle, ends[1])

        high = 50 / c.relevant[0, 1] ** 2
        low, high = lax.fori_loop(0, 70, halve, (jnp.zeros(()), high))
        return jnp.where(works(jnp.zeros(())), 0.0, (low + high) / 2)

    return jax.vmap(least)(points)
