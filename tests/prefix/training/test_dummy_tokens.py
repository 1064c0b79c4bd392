"""Dummy tokens of pretraining, and a prefix in their place, against the published way by hand.

There a prefix is written over the first rows of each layer's input, its own rows ask queries too,
and the causal mask runs over everything.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_cases import some_slow
from small_models import initial_arrays

from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config, Trace
from jaxprompt.prefix.claims import new_task_limit, skill_selection
from jaxprompt.prefix.training import adaptation, experiments, tasks
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.experiments import Plan

LENGTH = 3


def sizes(dummies, first_norm=True):
    """Two layers, two heads."""
    small = Config(2, 2, 8, LENGTH, 2 * LENGTH - 1, tasks.SYMBOLS, first_norm=first_norm)
    return experiments.with_dummies(small, dummies)


def sharp_state(config, added=Added()):  # noqa: B008
    """Parameters thirty times as large, so that attention is not flat, in float64."""
    state = initial_arrays(config, added)
    return jax.tree.map(lambda x: (30 if x.ndim > 1 else 1) * np.asarray(x, np.float64), state)


def norm(x, scale, shift):
    """Layer norm of every row."""
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * scale + shift


def published_logits(config, state, tokens, prefix=None):
    """Logits of one sequence of tokens, dummies included, in NumPy; `prefix` is (layers, k, d)."""
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
    x = state["embedding"][tokens] + state["position"][: len(tokens)]
    hidden = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)
    for layer in range(config.layers):
        block = state["blocks"][layer]
        seen = x.copy()
        if prefix is not None:
            seen[: prefix.shape[1]] = prefix[layer]
        if config.first_norm or layer:
            seen = norm(seen, block["norm"]["scale"], block["norm"]["shift"])
        qkv = seen @ block["qkv"]["kernel"] + block["qkv"]["bias"]
        outputs = []
        for q, k, v in zip(*(np.split(part, config.heads, 1) for part in np.split(qkv, 3, 1)),
                           strict=True):  # fmt: skip
            scores = np.where(hidden, -np.inf, q @ k.T / np.sqrt(q.shape[1]))
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            outputs.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        x = x + np.concatenate(outputs, 1) @ block["out"]["kernel"] + block["out"]["bias"]
        h = norm(x, block["mlp_norm"]["scale"], block["mlp_norm"]["shift"])
        h = h @ block["wide"]["kernel"] + block["wide"]["bias"]
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block["narrow"]["kernel"] + block["narrow"]["bias"]
    return norm(x, state["final_norm"]["scale"], state["final_norm"]["shift"]) @ state["readout"]


@pytest.mark.parametrize(("dummies", "prefixed", "first_norm"), some_slow([
    (0, False, True),
    (3, False, False),
    (1, True, True),
    (1, False, True),
    (3, True, False),
], first=3))  # fmt: skip
def test_logits_are_those_of_the_published_way(dummies, prefixed, first_norm):
    config = sizes(dummies, first_norm)
    added = Added(prefix=dummies) if prefixed else Added()
    content = np.array([[1, 5, 2, 1, 2], [7, 0, 0, 3, 3]])
    with jax.enable_x64(True):
        state = sharp_state(config, added)
        found = adaptation.logits(config, added, state, jnp.asarray(content))
        prefix = np.asarray(state["prefix"][...]) if added.prefix else None
    for row, logits in zip(content, np.asarray(found), strict=True):
        tokens = np.concatenate([np.zeros(dummies, int), row])
        expected = published_logits(config, state, tokens, prefix)[dummies:]
        np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("added", "changes"), some_slow([
    (Added(), True), (Added(prefix=2), False), (Added(rank=1), True),
], first=2))  # fmt: skip
def test_dummies_are_seen_until_a_prefix_takes_their_place(added, changes):
    """Another first position changes what the content's queries do, and nothing with a prefix."""
    config, content = sizes(2), np.array([[1, 5, 2, 1, 2]])
    state = sharp_state(config, added)
    before = np.asarray(adaptation.logits(config, added, state, content))
    # The dummies' positions and no others: rows 0 and 1 of seven.
    state["position"][...] = state["position"][...] + np.eye(7, 8) * (np.arange(7) < 2)[:, None]
    after = np.asarray(adaptation.logits(config, added, state, content))
    assert (np.abs(after - before).max() > 1e-3) == changes


def test_queries_see_prefix_and_content_only():
    """Masses over the prefix and the causal content sum to one, whatever number of dummies."""
    config, added = sizes(3), Added(prefix=5)

    @functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)
    def attended_in_every_layer(state):
        model, trace = adaptation.model_of(config, added, state), Trace([], [])
        adaptation.content_logits(model, jnp.array([1, 5, 2, 1, 2]), trace=trace)
        return trace.attended

    for attended in attended_in_every_layer(sharp_state(config, added)):
        assert attended.prefix.shape == (2, 5, 5)
        assert attended.content.shape == (2, 5, 5)
        total = attended.prefix.sum(axis=-1) + attended.content.sum(axis=-1)
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert not np.triu(np.asarray(attended.content)[0], 1).any()


def test_a_model_without_dummies_is_as_before():
    """The same plan, to the last key: no digest moves, so nothing is trained anew."""
    base = new_task_limit.plans(4, 250, 2, (0, 1))["base"]
    assert base == new_task_limit.plans(4, 250, 2, (0, 1), 48, "uniform", 0)["base"]
    plain = base.describe()["plan"]
    assert list(plain) == ["config", "trains", "runs", "recipe", "seed", "added", "base",
                           "base_runs"]  # fmt: skip
    assert plain["config"]["positions"] == 7
    prefixed = new_task_limit.plans(4, 250, 2, (0, 1))["prefix_one"]
    assert prefixed.describe()["plan"]["base"] == plain
    model = adaptation.model_of(base.config, Added(), sharp_state(base.config))
    assert adaptation.without_dummies(model) is model


def test_options_reach_every_arm_and_only_they_differ():
    chosen = {"input_law": "published", "dummies": 2}
    pairs = [
        (
            new_task_limit.plans(4, 250, 2, (0, 1)),
            new_task_limit.plans(4, 250, 2, (0, 1), **chosen),
        ),
        (
            dict(enumerate(skill_selection.plans(4, 1500, (0, 1)))),
            dict(enumerate(skill_selection.plans(4, 1500, (0, 1), **chosen))),
        ),
    ]
    for ours, theirs in pairs:
        for name in ours:
            for plan, other in ((ours[name], theirs[name]), (ours[name].base, theirs[name].base)):
                if plan is None:
                    continue
                assert (plan.input_law, other.input_law) == ("uniform", "published")
                assert (plan.trains, plan.runs, plan.recipe, plan.added, plan.base_runs) == (
                    other.trains, other.runs, other.recipe, other.added, other.base_runs
                )  # fmt: skip
                assert experiments.with_dummies(plan.config, 2) == other.config
                assert plan.digest() != other.digest()


def test_a_soft_prompt_has_no_dummies_in_front():
    config, added = sizes(1), Added(soft_prompt=1)
    with pytest.raises(ParameterError, match="`positions` = 6: must be 5 for a model with a soft"):
        adaptation.logits(config, added, sharp_state(config, added), jnp.array([[1, 5, 2, 1, 2]]))


@pytest.mark.slow
def test_greedy_decoding_and_one_pass_agree_with_dummies():
    for added in (Added(), Added(prefix=2)):
        config = sizes(2)
        state = jax.tree.map(np.float32, sharp_state(config, added))
        digits = jnp.asarray(list(itertools.product(range(8), repeat=LENGTH)), jnp.int32)[::5]
        written = adaptation.decode_greedily(config, added, state, digits)
        right = (written == digits + 1).all(axis=1)
        found = adaptation.score(config, added, state, digits, digits + 1).solved
        np.testing.assert_array_equal(found, right)


@pytest.mark.slow  # trains two models for 250 steps
def test_training_with_dummies_moves_their_position_and_a_prefix_leaves_it():
    config = sizes(2)
    base = experiments.plan_pretraining(config, ["asc"], Recipe(250, 1e-3), 1, (0, 1), "published")
    plan = Plan(config, "prefix", (("desc",),), Recipe(250, 1e-2), (0, 1), Added(prefix=2), base,
                (0,), "published")  # fmt: skip
    pretrained, prefixed = map(experiments.train_or_load, (base, plan))
    keys = jax.random.split(jax.random.wrap_key_data(
        jnp.asarray(experiments._plan_key_words(base)), impl="threefry2x32"), 1)  # fmt: skip
    start = adaptation.initial_state(config, key=jax.random.fold_in(keys[0], 1))
    moved = np.abs(
        np.asarray(pretrained.parameters_of(0)["position"][...] - start["position"][...])
    )
    assert (moved.max(axis=1) > 1e-4).all()
    own = nnx.filter_state(prefixed.state, nnx.Param)
    for before, after in zip(jax.tree.leaves(pretrained.state), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(before, after)
