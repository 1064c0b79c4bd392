"""What experiments count, state and keep."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_cases import some_slow

from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.networks.transformer import Added, Config
from jaxprompt.prefix.claims import soft_prompt
from jaxprompt.prefix.training import experiments, tasks
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import constant_answer

SMALL = Config(2, 2, 16, 4, 7, tasks.SYMBOLS)


@pytest.mark.parametrize("law", some_slow(["published", "uniform"], first=1))
@pytest.mark.parametrize(("task", "length"), [("desc", 6), ("double_hist", 4)])
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
