"""What experiments count, state and keep."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_cases import some_slow
from small_models import initial_arrays

from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.networks.transformer import Added, Config
from jaxprompt.prefix.claims import soft_prompt
from jaxprompt.prefix.training import adaptation, experiments, tasks
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import constant_answer

SMALL = Config(2, 2, 16, 4, 7, tasks.SYMBOLS)


@pytest.mark.parametrize("law", some_slow(["published", "uniform"], first=1))
@pytest.mark.parametrize(("task", "length"), some_slow([("double_hist", 4), ("desc", 6)], first=1))
def test_constant_answers_are_counted_or_drawn(task, length, law, monkeypatch):
    key = jax.random.key(3)
    counted = experiments.constant_answer_share(task, length, key=key, input_law=law)
    assert counted.kind == "exact"
    assert counted.mean == pytest.approx(constant_answer(task, length, law), rel=1e-14)
    monkeypatch.setattr(experiments, "MAX_COUNTED_INPUTS", 8**length - 8)
    drawn = experiments.constant_answer_share(task, length, key=key, input_law=law)
    assert drawn.kind == "proportion"
    assert abs(drawn.mean - counted.mean) < 5 * drawn.stderr


def test_counted_shares_have_no_tolerance():
    """8⁶ inputs are counted, 8⁷ are drawn."""
    tolerance = experiments.count_tolerance(0.01)
    assert [tolerance({"length": length}) for length in (2, 6, 7, 10)] == [0, 0, 0.01, 0.01]
    assert "0.01" in tolerance.__doc__


def test_a_falsifier_states_only_what_the_theory_predicts():
    change = experiments.state_instead(right=AtLeast(0.5), absent=0.0)
    wrong = change({"right": AtMost(0.05), "kept": 1.0}, {})
    assert wrong == {"right": 0.5, "kept": 1.0}
    assert isinstance(wrong["right"], AtLeast)


@pytest.mark.slow
def test_the_other_content_of_a_soft_prompt_is_other(monkeypatch):
    """Also where all tokens are one: with equal content nothing changes, mask or not."""
    ones = lambda key, shape, low, high: jnp.ones(shape, jnp.int32)  # noqa: E731
    monkeypatch.setattr(jax.random, "randint", ones)
    soft_prompt.deviations.clear_cache()
    with jax.enable_x64(True):
        found = soft_prompt.deviations(2, 1, 3, key=jax.random.key(0))
    soft_prompt.deviations.clear_cache()
    assert (np.asarray(found["unmasked"]) > soft_prompt.CHANGE).all()
    assert (np.asarray(found["soft"]) < 1e-12).all()


@pytest.fixture(scope="module")
def trained():
    base = experiments.plan_pretraining(SMALL, ["asc"], Recipe(250, 1e-3), 2, (0, 1))
    plan = experiments.Plan(SMALL, "prefix", (("desc",),) * 2, Recipe(250, 1e-2), (0, 1),
                    Added(prefix=2), base, (0, 1))  # fmt: skip
    return experiments.train_or_load(base), experiments.train_or_load(plan)


@pytest.mark.slow  # trains two models for 250 steps
def test_only_the_prefix_moves_and_removal_restores(trained):
    base, prefixed = trained
    own = nnx.filter_state(prefixed.state, nnx.Param)
    for before, after in zip(jax.tree.leaves(base.state), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(before, after)
    assert prefixed.losses.shape == (2, 1)


@pytest.mark.slow  # trains two models for 250 steps
def test_cache_knows_its_plan(trained, tmp_path, monkeypatch):
    base, _ = trained
    monkeypatch.setenv("JAXPROMPT_CACHE", str(tmp_path))
    experiments._store(base)
    (path,) = tmp_path.glob("*.npz")
    again = experiments._load(base.plan, base.state)
    assert again is not None
    for a, b in zip(jax.tree.leaves(again.state), jax.tree.leaves(base.state), strict=True):
        np.testing.assert_array_equal(a, b)
    other = experiments.plan_pretraining(SMALL, ["asc"], Recipe(250, 2e-3), 2, (0, 1))
    assert experiments._load(other, base.state) is None
    # A file under the wrong name is not believed.
    path.rename(tmp_path / f"{other.digest()}.npz")
    assert experiments._load(other, base.state) is None


@pytest.mark.parametrize("tests", some_slow([300, 100], first=1))  # of 128 different ones
def test_an_input_counts_as_often_as_it_is_drawn(tests):
    """Each is read once, against a model that reads all draws; the last bits are rounding."""
    config = experiments.small_config(3, width=8)
    plan = experiments.plan_pretraining(config, ["asc"], Recipe(250, 1e-3), 1, (0, 1))
    sharp = jax.tree.map(lambda x: (30 if x.ndim > 1 else 1) * x, initial_arrays(config))
    trained = experiments.Trained(plan, jax.tree.map(lambda x: x[None], sharp), np.zeros((1, 1)))
    key = jax.random.key(1)
    found = experiments.scores(trained, 0, "asc", key=key, tests=tests)
    drawn = experiments.draw_tests(tests, 3, key=key)
    plain = adaptation.score(config, Added(), sharp, drawn.digits, drawn.solutions["asc"])
    np.testing.assert_allclose(found.losses, plain.losses, rtol=1e-4)
    np.testing.assert_array_equal(found.solved, plain.solved)
    assert tests < 128 or len(np.unique(np.asarray(drawn.digits), axis=0)) < tests


def test_test_inputs_are_counted():
    for length in (2, 3):
        every = experiments._all_inputs(length)
        assert int(jax.jit(tasks.is_test)(every).sum()) == tasks.test_inputs(length)


def test_a_plan_tells_its_first_matrices_only_where_they_are_unusual():
    """So plans from before they could be kept their digest, and with it their random numbers."""
    usual = experiments.plan_pretraining(SMALL, ["asc"], Recipe(250, 1e-3), 1, (0, 1))
    wide = dataclasses.replace(SMALL, initial_deviation=0.1)
    base = dataclasses.replace(usual, config=wide)
    unusual = experiments.Plan(
        wide, "prefix", (("asc",),), Recipe(250, 1e-3), (0, 1), Added(prefix=1), base, (0,)
    )
    assert "initial_deviation" not in usual.describe()["plan"]["config"]
    for plan in (unusual.describe()["plan"], unusual.describe()["plan"]["base"]):
        assert plan["config"]["initial_deviation"] == 0.1
    kernel, usual_kernel = (
        initial_arrays(config)["blocks"][0]["qkv"]["kernel"] for config in (wide, SMALL)
    )
    np.testing.assert_allclose(kernel[...], 5 * usual_kernel[...], rtol=1e-6)
