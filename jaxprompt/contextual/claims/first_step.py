r"""Claim ``contextual.first_step``: the head after one gradient step, exactly, at every n and d."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.compute.devices import loop, map_trials
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    SAMPLES,
    check_law,
    required,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.gradient_steps import head_step, sample_batch
from jaxprompt.core.claim import Agreement, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "pooled_coefficients", "simulate"]


# --- the closed form -----------------------------------------------------------------------------


def pooled_coefficients(
    tokens: Any, relevant: Any, shifts: Any, shift_weights: Any
) -> tuple[Any, Any, Any]:
    r"""E[a], Var(a) and E[b²] of the mean token :math:`b\,q_\star + a\,y\,w_\star`."""
    share, weights = np.asarray(relevant) / np.asarray(tokens), np.asarray(shift_weights)
    shift = np.asarray(shifts, dtype=np.float64)
    a = share[..., None] - (1 - share[..., None]) * shift[:, 1]
    b = share[..., None] - (1 - share[..., None]) * shift[:, 0]
    mean = a @ weights
    return mean, np.square(a - mean[..., None]) @ weights, np.square(b) @ weights


def closed_form(**params: Any) -> dict[str, Any]:
    """`signal`, `energy` and `alignment`, for broadcastable arrays of every number."""
    return _closed_form({}, **params)


def _closed_form(
    wrong: Mapping[str, float], *, dim: Any, samples: Any, tokens: Any, relevant: Any,
    signal: Any, context: Any, noise: Any, shifts: Any, shift_weights: Any, **unused: Any,
) -> dict[str, Any]:  # fmt: skip
    mean, variance, square = pooled_coefficients(tokens, relevant, shifts, shift_weights)
    count = jnp.asarray(tokens) - jnp.asarray(relevant)
    pooled = jnp.square(noise) * count / jnp.square(jnp.asarray(tokens) * 1.0)
    pooled = pooled * (jnp.asarray(tokens) / count if wrong.get("unpooled") else 1.0)
    along = mean * jnp.asarray(signal)
    spread = wrong.get("mixture", 1.0) * variance * jnp.square(signal)
    spread = spread + wrong.get("context", 1.0) * square * jnp.square(context)
    energy = jnp.square(along) + (spread + dim * pooled) / jnp.asarray(samples)
    along = jnp.broadcast_to(along, energy.shape)
    return {"signal": along, "energy": energy, "alignment": along / jnp.sqrt(energy)}


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


# --- the simulation ------------------------------------------------------------------------------


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, samples: int, **params: Any
) -> dict[str, Estimate]:
    """One gradient step from 0 on sequences drawn token by token, by autodiff in float32."""
    setting = Setting.make(**params, where=CLAIM.id)
    block = functools.partial(_heads, setting, dim, samples, key)
    heads = map_trials(block, trials, loops=True).astype(np.float64)
    signal, energy = heads[:, 0], np.square(heads).sum(axis=1)
    return {
        "signal": mean_estimate(signal),
        "energy": mean_estimate(energy),
        "alignment": _alignment(signal, energy),
    }


@functools.partial(jax.jit, static_argnames=("dim", "samples"))
def _heads(setting: Setting, dim: int, samples: int, key: Array, indices: Array) -> Array:
    zero = jnp.zeros(dim, jnp.float32)

    def trial(index: Array) -> Array:
        batch = sample_batch(setting, dim, samples, key=jax.random.fold_in(key, index))
        return head_step(zero, zero, batch)

    return loop(lambda row: trial(row[0])[None], indices)


def _alignment(signal: np.ndarray, energy: np.ndarray) -> Estimate:
    """E[signal]/√E[energy], with the jackknife's standard error and correction of bias."""
    trials = signal.size
    value = signal.mean() / np.sqrt(energy.mean())
    left_signal = (signal.sum() - signal) / (trials - 1)
    left = left_signal / np.sqrt((energy.sum() - energy) / (trials - 1))
    stderr = np.sqrt((trials - 1) / trials * np.square(left - left.mean()).sum())
    return Estimate(float(trials * value - (trials - 1) * left.mean()), float(stderr), trials)


# --- the claim -----------------------------------------------------------------------------------

_BASE = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.5, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
_SPREAD = {
    "tokens": 8, "relevant": 2, "signal": 3.0, "context": 0.5, "noise": 0.7,
    "shifts": ((0.0, 0.0), (0.5, 1.0)), "shift_weights": (0.4, 0.6),
}  # fmt: skip
_CASES = (
    (_BASE, 40, 80, 1), (_BASE, 40, 12, 4), (_SPREAD, 40, 80, 1), (_SPREAD, 40, 12, 4),
    # Where one term is most of the energy: E[b²]Q² in the first, Var(a)W² in the second.
    ({**_BASE, "context": 5.0, "noise": 0.5}, 6, 4, 12),
    ({**_SPREAD, "context": 0.2, "noise": 0.3, "shifts": ((0.0, 0.0), (0.5, 2.0))}, 6, 4, 12),
)  # fmt: skip
"""Setting, dim, samples, and trials in units: more where the head fluctuates more."""


def _design(trials: int) -> Design:
    return Design(
        tuple(
            {**case, "dim": dim, "samples": samples, "trials": times * trials}
            for case, dim, samples, times in _CASES
        ),
        trials,
    )


CLAIM = Claim(
    id="contextual.first_step",
    title="The head after one gradient step",
    statement=r"""
Start at head 0 and prompt 0 and take one gradient step of the square loss on $n$ sequences:
$\hat w=\frac1n\sum_i y_i\bar x_i$ up to the step size. With $a=\zeta-(1-\zeta)\delta_w$,
$b=\zeta-(1-\zeta)\delta_q$ and $s^2=\sigma^2(1-\zeta)/T$, for every $n$ and $d$,
$$E\langle\hat w,w_\star/W\rangle=E[a]\,W,\qquad
E|\hat w|^2=(E[a]W)^2+\frac{\mathrm{Var}(a)W^2+E[b^2]Q^2+d\,s^2}{n}.$$
The alignment $E\langle\hat w,w_\star/W\rangle/\sqrt{E|\hat w|^2}$ is of order one as soon as $n$ is
of order $d\,s^2$.
""",
    derivation=r"""
At prompt 0 attention is uniform, so the pooled feature is the mean token
$\bar x=b\,q_\star+a\,y\,w_\star+\bar z$ with $\bar z\sim N(0,s^2I_d)$: $T-k$ independent noises,
each with weight $1/T$. At head 0 the residual is $y$, so $-\nabla_w L=\frac1n\sum_i y_i\bar x_i$,
with independent terms $a_i w_\star+y_ib_iq_\star+y_i\bar z_i$. Their mean is $E[a]w_\star$, because
$y$ is odd; their covariance has trace $\mathrm{Var}(a)W^2+E[b^2]Q^2+d\,s^2$.

*Tolerances.* 5 % of the step's length and direction; a step size is never chosen more finely, and
every single term of the formula that a falsifier drops is larger somewhere in the design.
""",
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        required(DIM),
        required(SAMPLES),
    ),
    accepted=FAMILY,
    quantities=(
        Quantity("signal", "component of the head along w⋆/W", 0.05, True),
        Quantity("energy", "squared norm of the head", 0.05, True),
        Quantity("alignment", "signal over the root of the energy", 0.05, True),
    ),
    falsifiers=(
        Falsifier("unpooled", "noise of T, not T − k, tokens", _wrong(unpooled=True)),
        Falsifier("no_mixture", "drops the variance of a", _wrong(mixture=0.0)),
        Falsifier("no_context", "drops the energy along q⋆", _wrong(context=0.0)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={"quick": _design(4096), "full": _design(32768)},
    validate=check_law,
    broadcasts="every number",
    figure=Agreement(title="The head after one step", label="signal, energy, alignment"),
)
