"""What one prefix vector can do to a one-layer model, by its attention layer and by search."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import initial_arrays

import jaxprompt as jp
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.networks.transformer import Added, Trace
from jaxprompt.prefix.claims import new_task_limit
from jaxprompt.prefix.training import adaptation, experiments, tasks

CONFIG = experiments.small_config(3, width=8)


def sharp_state(added, seed):
    """Parameters with matrices and vectors thirty times as large, so that attention is not flat."""
    state = initial_arrays(CONFIG, added, seed)
    return jax.tree.map(lambda x: (30 if x.ndim > 1 else 1) * x, state)


def test_limits_state_their_sides():
    predicted = jp.claim("prefix.new_task_limit").predict(length=6)
    assert isinstance(predicted["prefix_one"], AtMost)
    assert isinstance(predicted["fine_tune"], AtLeast)
    assert isinstance(predicted["relaxed_excess"], AtLeast)
    assert type(predicted["constant_answer"]) is float


def test_the_bias_of_one_vector_is_what_its_layer_adds():
    """Output with the prefix less the damped output without it, over the mass on the prefix."""

    @functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)
    def attended_with_and_without(state):
        model = adaptation.model_of(CONFIG, Added(prefix=1), state)
        tokens = jnp.array([1, 5, 2, 0, 7])
        full, alone = Trace([], []), Trace([], [])
        model(tokens, trace=full)
        model.prefix = None
        model(tokens, trace=alone)
        bias = new_task_limit.prefix_bias(CONFIG, state)
        return full.attended[0], alone.attended[0], bias

    state = sharp_state(Added(prefix=1), 0)
    full, alone, bias = jax.tree.map(np.asarray, attended_with_and_without(state))
    mass = full.prefix[0]  # one head: (positions, 1)
    added = full.output[:, 0] - (1 - mass) * alone.output[:, 0]
    np.testing.assert_allclose(added, mass * bias, atol=1e-4 * np.abs(bias).max())


@pytest.mark.slow
def test_the_relaxation_is_below_the_model_itself():
    """Mass 0 everywhere is the model without prefix, and belongs to what is searched."""
    state = sharp_state(Added(), 1)
    digits = tasks.draw_inputs(16, 3, key=jax.random.key(2), test=True)
    solution = tasks.solve_all("desc", digits)
    bias = jax.random.normal(jax.random.key(3), (CONFIG.width,))
    relaxed, _ = new_task_limit.relaxed_loss(
        CONFIG, state, digits, solution, bias, key=jax.random.key(4)
    )
    plain = adaptation.score(CONFIG, Added(), state, digits, solution).losses.mean()
    assert 0 < relaxed < plain
