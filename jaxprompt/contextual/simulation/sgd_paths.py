"""Independent paths of one-pass SGD, read at several times.

One compiled program serves every dimension, every rate, both losses and as many times; the claims
on the flow, on its fluctuations and on a frozen head share it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Key
from scipy.stats import qmc

from jaxprompt.compute import random_table
from jaxprompt.compute.trials import per_trial
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.parameters import LAW_NAMES
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_chain import (
    Frame,
    SgdRates,
    Start,
    geometry_of,
    overlaps_of,
    run_sgd,
)

__all__ = ["errors_of", "padded_setting", "path_values", "step_counts"]

_BATCH = 256

_NODES = 64
"""Nodes of one estimate of an error: its noise is then a tenth of what paths differ by, or less."""

MOST_SOBOL_SCORES = 256
"""Scores beyond which a rule's points are no better than independent ones."""

_TRACED = (
    "dim", "steps", "head_rate", "prompt_rate", "head_norm", "prompt_norm", "logistic", "is_frozen",
    "head_signal",
)  # fmt: skip


def padded_setting(parameters: Mapping[str, Any], where: str) -> Setting:
    """The setting of a point, with at least two shifts: one compilation serves one and two."""
    setting = Setting.make(**{name: parameters[name] for name in LAW_NAMES}, where=where)
    if len(setting.shift_weights) > 1:
        return setting
    return replace(
        setting,
        shifts=np.concatenate([setting.shifts, np.zeros((1, 2))]),
        shift_weights=np.append(setting.shift_weights, 0.0),
    )


def step_counts(dim: int, time: Any) -> np.ndarray:
    """Whole numbers of steps nearest to time · d: uint32, in the order and shape of `time`."""
    return np.asarray(np.rint(np.asarray(time, np.float64) * dim), np.uint32)


@functools.lru_cache(maxsize=32)
def _sobol(count: int) -> np.ndarray:
    points = qmc.Sobol(count, scramble=False).random_base2(int(np.log2(_NODES)))
    return points.astype(np.float32)


def _few_scores(count: int, key: Key[Array, ""]) -> Float32[Array, "nodes count"]:
    """A Sobol rule for `count` ≤ 256 normals, shifted by a uniform vector; beyond that normals.

    As ``evaluation.fresh_scores``, with an eighth of its nodes.
    """
    if count > MOST_SOBOL_SCORES:
        return random_table.normals(key, 0, _NODES, count)
    # The barrier keeps XLA from drawing the vector again at every node.
    shift = lax.optimization_barrier(random_table.uniforms(key, 0, 1, count))
    shifted = _sobol(count) + shift
    unit = shifted - jnp.floor(shifted)
    return jnp.float32(np.sqrt(2)) * lax.erf_inv(jnp.clip(2 * unit - 1, -1 + 2**-23, 1 - 2**-23))


def errors_of(setting: Setting, frame: Frame, key: Key[Array, ""]) -> dict[str, Array]:
    """Two independent estimates of the error of a head and a prompt, both without bias; float32.

    Their mean is the error; their covariance over trials is the variance of the true error.
    """
    geometry = geometry_of(setting, frame)

    def error(key: Array) -> Array:
        return conditional_error(setting, geometry, _few_scores(setting.irrelevant, key))

    first, second = jax.vmap(error)(jax.random.split(key))
    return {"first_error": first, "second_error": second}


@per_trial(
    dtype="float64",
    batch=_BATCH,
    setup=lambda **parameters: {"setting": parameters["setting"]},
    traced=_TRACED,
)
def _paths(
    *, key: Key[Array, ""], setting: Setting, dim: Array, steps: Array, head_rate: Array,
    prompt_rate: Array, head_norm: Array, prompt_norm: Array, logistic: Array, is_frozen: Array,
    head_signal: Array,
) -> dict[str, Array]:  # fmt: skip
    """The seven inner products and the error after each number of steps."""
    path_key, error_key = jax.random.split(key)
    along_signal = jnp.where(
        jnp.asarray(setting.signal) > 0,
        head_signal / jnp.where(jnp.asarray(setting.signal) > 0, setting.signal, 1.0), 0.0,
    )  # fmt: skip
    start = Start(head_norm, prompt_norm, is_frozen, along_signal)

    def read(frame: Frame, count: Array) -> dict[str, Array]:
        errors = errors_of(setting, frame, jax.random.fold_in(error_key, count))
        return overlaps_of(setting, frame) | errors

    rates = SgdRates(head_rate, prompt_rate)
    return run_sgd(
        setting, dim, rates, start, steps, read, key=path_key, logistic=logistic, batch=_BATCH
    )


def path_values(
    *, key: Key[Array, ""], trials: int, first: int, where: str, time: Any, dim: int,
    head_rate: float, prompt_rate: float, head_norm: float, prompt_norm: float,
    loss: str = "square", head_signal: float | None = None, **parameters: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Of each trial the inner products and two estimates of the error, at every time.

    Arrays (trials, …) in float64, with the shape of `time`. With `head_signal` the head starts with
    this product with w⋆, and none with q⋆. A path is the same whatever times it is read at.
    """
    counts = np.atleast_1d(step_counts(dim, time))
    order = np.argsort(counts, kind="stable")
    values = _paths.trial_values(
        key=key, trials=trials, first=first, setting=padded_setting(parameters, where), dim=dim,
        steps=counts[order], head_rate=head_rate, prompt_rate=prompt_rate, head_norm=head_norm,
        prompt_norm=prompt_norm, logistic=np.asarray(loss == "logistic"),
        is_frozen=np.asarray(head_signal is not None), head_signal=head_signal or 0.0,
    )  # fmt: skip
    places = np.argsort(order)
    shape = (trials, *np.shape(time))
    return {name: value[:, places].reshape(shape) for name, value in values.items()}
