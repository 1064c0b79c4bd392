r"""Heads that minimise a convex margin loss on given rows, each certified by its duality gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["GAP", "convex_heads", "max_margin_head"]

GAP = 1e-9
"""Duality gap to which every head is solved; it bounds the head's error by √(2·gap/λ).

For the max-margin head the gap is relative to the head's energy |w|²/2.
"""

_MOST_STEPS = 20_000


def convex_heads(
    rows: Float[Array, "n d"], ridge: Array | float, loss: str, samples: Array | int | None = None
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    r"""Minimiser of :math:`\frac1n\sum_i \ell(r_i\cdot w) + \frac\lambda2|w|^2`, and its gap.

    The sum runs over the first `samples` rows; those after them must be 0. Newton's method for the
    smooth losses, projected dual ascent for the hinge. Either way the result is the head of dual
    feasible multipliers, so its duality gap certifies it.
    """
    p = _Problem(rows, rows.shape[0] if samples is None else samples, ridge, loss)
    dual = _hinge_multipliers(p) if loss == "hinge" else _newton_step(p)
    return p.head(dual), p.gap(dual)


class _Problem(NamedTuple):
    """Training rows (zero beyond the first `samples`), ridge and loss."""

    rows: Array
    samples: Any
    ridge: Any
    loss: str

    @property
    def used(self) -> Array:
        return (jnp.arange(self.rows.shape[0]) < self.samples).astype(self.rows.dtype)

    def head(self, dual: Array) -> Array:
        """The head that stationarity assigns to multipliers."""
        return self.rows.T @ dual / (self.samples * self.ridge)

    def gap(self, dual: Array) -> Array:
        """Primal value of the multipliers' head less their dual value: at least its excess loss."""
        head = self.head(dual)
        sides = _loss_value(self.loss, self.rows @ head) - _conjugate_loss(self.loss, dual)
        return (sides * self.used).sum() / self.samples + self.ridge * (head @ head)


def _newton_step(p: _Problem) -> Array:
    """Multipliers −ℓ′ at the minimum of a smooth loss, one factorisation a step."""
    rows, n, dim = p.rows, p.samples, p.rows.shape[1]
    eye = jnp.eye(dim, dtype=rows.dtype)

    def multipliers(head: Array) -> Array:
        margin = rows @ head
        return 1 - margin if p.loss == "square" else jax.nn.sigmoid(-margin)

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        dual = multipliers(state[0])
        curvature = jnp.ones_like(dual) if p.loss == "square" else dual * (1 - dual)
        hessian = (rows * curvature[:, None]).T @ rows / n + p.ridge * eye
        slope = p.ridge * state[0] - rows.T @ dual / n
        factor = jax.scipy.linalg.cho_factor(hessian, lower=True)
        return state[0] - jax.scipy.linalg.cho_solve(factor, slope), state[1] + 1

    def unfinished(state: tuple[Array, Array]) -> Array:
        return (p.gap(multipliers(state[0])) > GAP) & (state[1] < 50)

    start = (jnp.zeros(dim, rows.dtype), jnp.zeros((), jnp.int32))
    return multipliers(lax.while_loop(unfinished, advance, start)[0])


def _hinge_multipliers(p: _Problem) -> Array:
    kernel = p.rows @ p.rows.T / (p.samples * p.ridge)
    return _ascend_dual(kernel, p.used, 1.0, lambda dual: p.gap(dual) > GAP)


def max_margin_head(
    rows: Float[Array, "n d"], samples: Array | int | None = None
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    r"""Least :math:`|w|` with :math:`r_i\cdot w\ge1` for the first `samples` rows, and its gap.

    Rows after those must be 0. The gap compares the dual value of the multipliers with the energy
    of their head, scaled until it meets every constraint; it is relative to that energy, and
    infinite while the head separates nothing.
    """
    samples = rows.shape[0] if samples is None else samples
    used = (jnp.arange(rows.shape[0]) < samples).astype(rows.dtype)

    def gap(dual: Array) -> Array:
        head = rows.T @ dual
        margin = jnp.where(used > 0, rows @ head, jnp.inf).min()
        energy = head @ head / 2
        primal = energy / jnp.square(margin)
        return jnp.where(margin > 0, (primal - (dual @ used - energy)) / primal, jnp.inf)

    dual = _ascend_dual(rows @ rows.T, used, jnp.inf, lambda dual: gap(dual) > GAP)
    return rows.T @ dual, gap(dual)


def _ascend_dual(
    kernel: Array, used: Array, most: Any, unsolved: Callable[[Array], Array]
) -> Float[Array, " n"]:
    """Accelerated projected ascent of Σθ − θ·Kθ/2 over [0, most], restarted when it turns back.

    Products with the kernel only: no factorisation.
    """
    step = 1 / jnp.abs(kernel).sum(axis=1).max()  # no eigenvalue exceeds the largest row sum

    def once(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        dual, before, pace = state
        following = (1 + jnp.sqrt(1 + 4 * pace**2)) / 2
        ahead = dual + (pace - 1) / following * (dual - before)
        new = jnp.clip(ahead + step * (used - kernel @ ahead), 0.0, most)
        turned = ((ahead - new) * (new - dual)).sum() > 0
        return new, dual, jnp.where(turned, 1.0, following)

    def advance(state: tuple[Any, Array]) -> tuple[Any, Array]:
        return lax.fori_loop(0, 50, once, state[0]), state[1] + 50

    def unfinished(state: tuple[Any, Array]) -> Array:
        return unsolved(state[0][0]) & (state[1] < _MOST_STEPS)

    start = used / 2
    first = ((start, start, jnp.ones((), kernel.dtype)), jnp.zeros((), jnp.int32))
    return lax.while_loop(unfinished, advance, first)[0][0]


def _loss_value(loss: str, margin: Array) -> Array:
    if loss == "square":
        return jnp.square(1 - margin) / 2
    return jnp.maximum(1 - margin, 0.0) if loss == "hinge" else jax.nn.softplus(-margin)


def _conjugate_loss(loss: str, dual: Array) -> Array:
    r""":math:`-\ell^*(-\theta)` at the multipliers θ."""
    if loss == "square":
        return dual - jnp.square(dual) / 2
    if loss == "hinge":
        return dual
    return -jax.scipy.special.xlogy(dual, dual) - jax.scipy.special.xlogy(1 - dual, 1 - dual)
