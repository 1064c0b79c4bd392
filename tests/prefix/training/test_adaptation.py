"""The model and its training: each against something slower."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from small_models import initial_arrays

from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, LowRank, Prefix
from jaxprompt.prefix.training import adaptation, tasks
from jaxprompt.prefix.training.adaptation import Recipe

SMALL = Config(2, 2, 16, 4, 7, tasks.SYMBOLS)
FLAT = Config(1, 2, 16, 4, 7, tasks.SYMBOLS)
"""Of one layer, for what does not depend on their number: half as much to compile."""

KEY = jax.random.key(0)


def test_greedy_decoding_and_one_pass_agree():
    state = jax.tree.map(lambda x: 30 * x if x.ndim > 1 else x, initial_arrays(FLAT))
    digits = tasks.draw_inputs(200, 4, key=jax.random.key(1))
    written = adaptation.decode_greedily(FLAT, Added(), state, digits)
    for task in ("asc", "add1"):
        solved = tasks.solve_all(task, digits)
        right = (written == solved).all(axis=1)
        found = adaptation.score(FLAT, Added(), state, digits, solved).solved
        np.testing.assert_array_equal(found, right)


def test_causal_and_batched():
    added = Added(prefix=2, soft_prompt=1, suffix=2, rank=1)
    tokens = np.random.default_rng(1).integers(0, 8, (5, 7), np.int32)
    tokens[:, -1] = 1
    changed = tokens.copy()
    changed[:, -1] = 0

    @functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)
    def outputs(state):
        model = adaptation.model_of(FLAT, added, state)
        return model(tokens), model(tokens[2]), model(tokens, 3), model(changed)

    whole, alone, end, later = map(np.asarray, outputs(initial_arrays(FLAT, added)))
    assert whole.shape == (5, 10, tasks.SYMBOLS)
    np.testing.assert_allclose(whole[2], alone, atol=1e-6)
    np.testing.assert_allclose(whole[:, -3:], end, atol=1e-6)
    np.testing.assert_allclose(later[:, :-1], whole[:, :-1], atol=1e-6)
    assert np.abs(later[:, -1] - whole[:, -1]).max() > 1e-4


def test_parameter_counts():
    added = Added(prefix=10)
    low = Added(rank=1)
    assert added.size(SMALL) == low.size(SMALL) == 10 * 2 * 16
    for what, kind, parts in ((added, Prefix, 1), (low, LowRank, 8)):
        state = jax.eval_shape(functools.partial(adaptation.initial_state, SMALL, what), key=KEY)
        leaves = jax.tree.leaves(nnx.filter_state(state, kind))
        assert len(leaves) == parts
        assert sum(x.size for x in leaves) == what.size(SMALL)


@pytest.mark.slow
def test_models_drawn_at_once_are_those_drawn_alone():
    keys = jax.random.split(jax.random.key(3), 2)
    together = adaptation.initial_states(FLAT, Added(prefix=2), keys)
    alone = adaptation.initial_state(FLAT, Added(prefix=2), key=keys[1])
    for found, expected in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
        np.testing.assert_allclose(found[1], expected, rtol=1e-6)


def test_low_rank_starts_as_the_base():
    base = initial_arrays(FLAT)
    with_low = adaptation.replace_base(initial_arrays(FLAT, Added(rank=1), 1), base)
    tokens = np.arange(7)[None]
    np.testing.assert_array_equal(
        adaptation.logits(FLAT, Added(rank=1), with_low, tokens),
        adaptation.logits(FLAT, Added(), base, tokens),
    )


def test_training_lowers_the_loss_and_repeats_to_the_bit():
    """The first block of a longer training is a shorter one: the rate does not fall."""
    stacked = jax.tree.map(lambda x: x[None], initial_arrays(FLAT))
    losses = [
        adaptation.train(
            FLAT, Added(), stacked, ["model"], ["asc"], np.ones((1, 1)),
            Recipe(steps, 2e-3, batch=16), key=jax.random.key(1)[None],
        ).losses
        for steps in (500, 250)
    ]  # fmt: skip
    assert losses[0][0, 1] < 0.8 * losses[0][0, 0]
    np.testing.assert_array_equal(losses[0][:, :1], losses[1])


@pytest.mark.parametrize(("make", "name"), [
    (lambda: Recipe(300, 1e-3), "steps"),
    (lambda: Config(1, 3, 16, 4, 7, 11), "width"),
])  # fmt: skip
def test_bad_settings_are_named(make, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        make()
