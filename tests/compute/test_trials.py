"""Trials over threads: every trial once, in order, whatever the split."""

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.compute import trials as trials_module
from jaxprompt.compute.compiler_flags import thorough_options
from jaxprompt.compute.devices import (
    FAST_COMPILATION,
    compile_block,
    cores,
    map_trials,
    one_by_one_on_cpu,
    part_of_larger_program,
)


@jax.jit
def block(indices):
    values = jnp.sin(indices.astype(jnp.float32))
    return {"index": indices, "value": jnp.stack([values, -values], axis=-1)}


@pytest.mark.parametrize("trials", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_every_trial_once_and_in_order(trials, batch, threads):
    found = map_trials(block, trials, batch=batch, threads=threads)
    np.testing.assert_array_equal(found["index"], np.arange(trials))
    np.testing.assert_array_equal(found["value"], np.asarray(block(np.arange(trials))["value"]))


def test_one_compilation_for_all_threads():
    fresh = jax.jit(lambda indices: indices * 2)
    map_trials(fresh, 64, threads=8)
    assert fresh._cache_size() == 1


@pytest.mark.parametrize("x64", [False, True])
def test_threads_have_the_callers_types(x64):
    with jax.enable_x64(x64):
        found = map_trials(jax.jit(lambda indices: indices * 1.0 + jnp.zeros(())), 8, threads=2)
    assert found.dtype == (np.float64 if x64 else np.float32)


def test_a_failing_block_is_an_error():
    def fail(indices):
        raise ZeroDivisionError("one block failed")

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="one block failed"):
        map_trials(fail, 8, threads=2)
    assert threading.active_count() == before


def test_factorisations_run_beside_each_other():
    # Batched ones could wait for each other for ever; a hang here fails by the test's time limit.
    rows = np.random.default_rng(0).normal(size=(32, 40, 24)).astype(np.float32)
    matrices = np.einsum("bni,bnj->bij", rows, rows)

    def factor(matrix):
        return jnp.linalg.cholesky(matrix, symmetrize_input=False)

    run = jax.jit(
        lambda indices: jax.lax.map(
            lambda i: jax.vmap(one_by_one_on_cpu(factor))(jnp.asarray(matrices)[i]), indices
        )
    )
    found = map_trials(run, 32, batch=8, threads=2)
    np.testing.assert_allclose(found, np.linalg.cholesky(matrices), rtol=2e-4, atol=2e-4)


def test_at_least_one_core():
    assert cores() >= 1


@pytest.mark.parametrize(("limit", "options"), [(0.0, {}), (np.inf, FAST_COMPILATION)])
def test_trials_below_a_limit_are_compiled_fast(monkeypatch, limit, options):
    used = []
    monkeypatch.setattr(trials_module, "_SHORT_TRIAL", limit)
    monkeypatch.setattr(
        trials_module, "compile_block", lambda f, o: used.append(o) or compile_block(f, o)
    )
    simulation = jp.per_trial(lambda *, key: {"value": jax.random.normal(key)}, batch=4)
    few = simulation.trial_values(key=jax.random.key(0), trials=3)["value"]
    many = simulation.trial_values(key=jax.random.key(0), trials=1000)["value"]
    assert used == [thorough_options() | options]
    np.testing.assert_array_equal(few, many[:3])


def test_a_block_with_options_runs_within_another_program():
    block = functools.partial(compile_block(lambda x, y: x + y, FAST_COMPILATION), y=jnp.ones(3))
    inner = part_of_larger_program(block)
    np.testing.assert_array_equal(jax.jit(inner)(jnp.ones(3)), block(jnp.ones(3)))
    plain = functools.partial(compile_block(lambda x: x, {}))
    assert part_of_larger_program(plain) is plain


@pytest.mark.parametrize("batch", [1, 4])
def test_a_trial_is_traced_once_for_all_points(batch):
    traced = []

    @jp.per_trial(batch=batch, traced=("scale",))
    def simulate(*, key, scale):
        traced.append(scale)
        return {"x": scale * jax.random.normal(key)}

    first = simulate(key=jax.random.key(0), trials=9, scale=1.0)
    second = simulate(key=jax.random.key(0), trials=30, scale=2.0)
    assert len(traced) == 1
    with jax.enable_x64(True):
        keys = [jax.random.fold_in(jax.random.key(0), index) for index in range(30)]
        values = [float(jax.random.normal(key)) for key in keys]
    assert first["x"].mean == pytest.approx(np.mean(values[:9]), abs=1e-6)
    assert second["x"].mean == pytest.approx(2 * np.mean(values), abs=1e-6)
