"""Many trials of staged training, each judged by its exact conditional error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.evaluation import fresh_scores
from jaxprompt.contextual.simulation.staged_steps import FittedStages

__all__ = ["staged_trials"]

_TRIALS_TOGETHER = 64
"""Trials whose errors one compiled call evaluates."""


def staged_trials(
    setting: Setting, fit: Callable[[np.random.Generator], FittedStages], trials: int,
    *, key: Key[Array, ""], first: int = 0,
) -> dict[str, Float[np.ndarray, " trials"]]:  # fmt: skip
    """What each trial of ``fit(rng)`` gives, from trial `first` on; float64.

    `error` is exact up to the rule of :func:`fresh_scores` and float32's rounding, `head_signal` is
    ⟨ω, w⋆⟩ and `head_energy` |ω|². Trials are spread over the cores.
    """
    seed = np.asarray(jax.random.key_data(key)).ravel()

    def block(indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = [_fitted_row(fit, seed, int(index)) for index in np.ravel(indices)]
        return {"fitted": np.stack(rows).reshape(*np.shape(indices), -1)}

    fitted = map_trials(block, trials, first=first)["fitted"]
    geometries = fitted[:, :7]
    return {
        "error": _errors(setting, geometries, key, first),
        "prompt_alignment": fitted[:, 7],
        "objective": fitted[:, 8],
        "head_signal": geometries[:, 0],
        "head_energy": np.square(geometries[:, 2]),
    }


def _fitted_row(
    fit: Callable[[np.random.Generator], FittedStages], seed: np.ndarray, index: int
) -> np.ndarray:
    fitted = fit(np.random.Generator(np.random.SFC64([*seed.tolist(), index])))
    return np.append(fitted.geometry, [fitted.prompt_alignment, fitted.objective])


def _errors(
    setting: Setting, geometries: Float[np.ndarray, "trials 7"], key: Array, first: int
) -> Float[np.ndarray, " trials"]:
    """Each trial's probability of a wrong sign, on scores of its own."""
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(geometries), _TRIALS_TOGETHER):
            places = np.minimum(start + np.arange(_TRIALS_TOGETHER), len(geometries) - 1)
            indices = (first + places).astype(np.uint32)
            parts.append(np.asarray(_errors_of_block(setting, geometries[places], indices, key)))
    return np.concatenate(parts)[: len(geometries)].astype(np.float64)


@jax.jit
def _errors_of_block(
    setting: Setting, geometries: Float[Array, "b 7"] | np.ndarray, indices: Any, key: Array
) -> Float[Array, " b"]:
    def error_of_trial(trial: tuple[Array, Array]) -> Array:
        products, index = trial
        test_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)
        scalars = fresh_scores(setting.irrelevant, key=test_key)
        # In float32: its rounding, some 1e-7, is nothing beside what trials differ by.
        return conditional_error(setting, Geometry(*products.astype(jnp.float32)), scalars)

    return jax.lax.map(error_of_trial, (jnp.asarray(geometries), jnp.asarray(indices)))
