"""The model and its training: each against something slower."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, LowRank, Prefix
from jaxprompt.prefix.training import adaptation, tasks
from jaxprompt.prefix.training.adaptation import Recipe

SMALL = Config(2, 2, 16, 4, 7, tasks.SYMBOLS)


def test_greedy_decoding_and_one_pass_agree():
    state = adaptation.initial_state(SMALL, key=jax.random.key(0))
    state = jax.tree.map(lambda x: 30 * x if x.ndim > 1 else x, state)
    digits = tasks.draw_inputs(200, 4, key=jax.random.key(1))
    written = adaptation.decode_greedily(SMALL, Added(), state, digits)
    for task in ("asc", "add1"):
        solved = jax.vmap(tasks.TASKS[task])(digits)
        right = (written == solved).all(axis=1)
        found = adaptation.score(SMALL, Added(), state, digits, solved).solved
        np.testing.assert_array_equal(found, right)


def test_causal_and_batched():
    added = Added(prefix=2, soft_prompt=1, suffix=2, rank=1)
    state = adaptation.initial_state(SMALL, added, key=jax.random.key(0))
    model = jax.jit(
        lambda tokens, last=None: adaptation.model_of(SMALL, added, state)(tokens, last),
        static_argnums=1,
    )
    tokens = jax.random.randint(jax.random.key(1), (5, 7), 0, 8)
    whole = model(tokens)
    assert whole.shape == (5, 10, tasks.SYMBOLS)
    np.testing.assert_allclose(whole[2], model(tokens[2]), atol=1e-6)
    np.testing.assert_allclose(whole[:, -3:], model(tokens, 3), atol=1e-6)
    later = model(tokens.at[:, -1].set(0))
    np.testing.assert_allclose(later[:, :-1], whole[:, :-1], atol=1e-6)


def test_parameter_counts():
    added = Added(prefix=10)
    low = Added(rank=1)
    assert added.size(SMALL) == low.size(SMALL) == 10 * 2 * 16
    for what, kind, parts in ((added, Prefix, 1), (low, LowRank, 8)):
        state = nnx.filter_state(adaptation.initial_state(SMALL, what, key=jax.random.key(0)), kind)
        leaves = jax.tree.leaves(state)
        assert len(leaves) == parts
        assert sum(x.size for x in leaves) == what.size(SMALL)


def test_low_rank_starts_as_the_base():
    base = adaptation.initial_state(SMALL, key=jax.random.key(0))
    with_low = adaptation.replace_base(
        adaptation.initial_state(SMALL, Added(rank=1), key=jax.random.key(1)), base
    )
    tokens = jnp.arange(7)
    np.testing.assert_array_equal(
        adaptation.model_of(SMALL, Added(rank=1), with_low)(tokens),
        adaptation.model_of(SMALL, Added(), base)(tokens),
    )


def test_training_lowers_the_loss_and_repeats_to_the_bit():
    state = adaptation.initial_state(SMALL, key=jax.random.key(5))
    stacked = jax.tree.map(lambda x: x[None], state)
    outcome = adaptation.train(
        SMALL, Added(), stacked, ["model"], ["asc"], np.ones((1, 1)), Recipe(500, 2e-3),
        key=jax.random.key(1)[None],
    )  # fmt: skip
    assert outcome.losses[0, 1] < 0.8 * outcome.losses[0, 0]
    again = adaptation.train(
        SMALL, Added(), stacked, ["model"], ["asc"], np.ones((1, 1)), Recipe(500, 2e-3),
        key=jax.random.key(1)[None],
    )  # fmt: skip
    np.testing.assert_array_equal(outcome.losses, again.losses)


@pytest.mark.parametrize(("make", "name"), [
    (lambda: Recipe(300, 1e-3), "steps"),
    (lambda: Config(1, 3, 16, 4, 7, 11), "width"),
])  # fmt: skip
def test_bad_settings_are_named(make, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        make()
