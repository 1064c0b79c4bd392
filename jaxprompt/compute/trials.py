"""A claim's simulation from a function of one trial."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.devices import loop, map_trials
from jaxprompt.errors import JaxpromptError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["per_trial"]

Trial = Callable[..., Mapping[str, Any]]


def per_trial(
    trial: Trial, *, traced: Sequence[str] = (), batch: int = 1
) -> Callable[..., dict[str, Estimate]]:
    """Make a claim's simulation from ``trial(*, key, **parameters)``, one independent experiment.

    `trial` is a pure JAX function that draws all its randomness from `key` and returns a dict from
    quantity name to a scalar. Trial `t` gets ``fold_in(key, t)``; the simulation returns the mean
    over trials of each scalar with its standard error. Everything is in float64.

    Parameters are plain Python numbers inside `trial`, so they may be shapes, and each new point
    is compiled. Those named in `traced` are traced instead and share a compilation.

    Trials are spread over the cores of a CPU; `batch` of them run at once on each, vectorised:
    choose some hundreds for short trials, and leave it at 1 where a trial factorises or solves
    matrices, because batches of those on several cores can wait for each other for ever.

    Raises:
        JaxpromptError: (from the simulation) a trial returned something else than scalars.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: must be an integer ≥ 1")

    @functools.lru_cache(maxsize=8)
    def compiled(fixed: tuple[tuple[str, Any], ...]) -> Callable[..., dict[str, jax.Array]]:
        def block(indices: jax.Array, key: jax.Array, free: dict[str, Any]) -> dict[str, jax.Array]:
            def one(index: jax.Array) -> dict[str, jax.Array]:
                own = jax.random.fold_in(key, index)
                return _scalars(trial(key=own, **dict(fixed), **free))

            # A batch of one is no batch to LAPACK only without vmap.
            several = jax.vmap(one) if batch > 1 else lambda row: _stacked(one(row[0]))
            return loop(several, indices)

        return jax.jit(block)

    def simulation(
        *, key: jax.Array, trials: int, first: int = 0, **parameters: Any
    ) -> dict[str, Estimate]:
        free = {n: v for n, v in parameters.items() if n in traced or isinstance(v, np.ndarray)}
        block = compiled(tuple((n, v) for n, v in parameters.items() if n not in free))
        with jax.enable_x64(True):
            run = functools.partial(block, key=key, free=free)
            values = map_trials(run, trials, batch=batch, first=first, loops=True)
        return {name: mean_estimate(np.asarray(array)) for name, array in values.items()}

    # Not its signature: this function takes `trials` and `first` too.
    simulation.__doc__ = trial.__doc__
    return simulation


def _stacked(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: value[None] for name, value in values.items()}


def _scalars(found: Any) -> dict[str, jax.Array]:
    if not isinstance(found, Mapping):
        raise JaxpromptError(
            f"a trial returned {type(found).__name__}: must be a dict from quantity name to a "
            "scalar; return one"
        )
    shapes = {name: jnp.shape(value) for name, value in found.items()}
    for name, shape in shapes.items():
        if shape:
            raise JaxpromptError(
                f"a trial's `{name}` has shape {shape}: must be a scalar; average it or give each "
                "number a name"
            )
    return {name: jnp.asarray(value, dtype=float) for name, value in found.items()}
