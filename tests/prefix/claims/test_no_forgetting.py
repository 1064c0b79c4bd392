"""What is added can be taken away: by hand, without training."""

from __future__ import annotations

import itertools

import jax
import numpy as np
from small_models import initial_arrays

import jaxprompt as jp
from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.networks.transformer import Added
from jaxprompt.prefix.claims import no_forgetting
from jaxprompt.prefix.training import adaptation, experiments
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.experiments import Plan, Trained

CONFIG = experiments.small_config(3, width=8)
RECIPE = Recipe(250, 1e-3)


def untrained(added, change, config=CONFIG):
    """One run of a model as it starts, its own parameters changed by `change`."""
    base = jax.tree.map(lambda x: x + np.float32(change), initial_arrays(config))
    state = adaptation.replace_base(initial_arrays(config, added, 1), base)
    plan = Plan(config, "model", (("asc",),), RECIPE, (0, 0), added)
    return Trained(plan, jax.tree.map(lambda x: x[None], state), np.zeros((1, 1)))


def test_changes_of_logits_with_and_without_the_addition():
    base = untrained(Added(), 0.0)
    digits = np.random.default_rng(2).integers(0, 8, (8, 3), np.int32)
    prefixed = no_forgetting.logit_changes(base, untrained(Added(prefix=2), 0.0), 0, digits)
    assert prefixed.removed == 0
    assert prefixed.present > 0
    factored = no_forgetting.logit_changes(base, untrained(Added(rank=1), 0.0), 0, digits)
    assert factored == (0, 0), "factors have no effect before they are trained"
    overwritten = no_forgetting.logit_changes(base, untrained(Added(prefix=2), 1e-3), 0, digits)
    assert overwritten.removed > 0


def test_limits_state_their_sides():
    predicted = jp.claim("prefix.no_forgetting").predict(length=6)
    assert isinstance(predicted["old_task_tuned"], AtMost)
    assert isinstance(predicted["old_task_kept"], AtLeast)
    assert predicted["prefix_removed"] == predicted["low_rank_removed"] == 0
    assert isinstance(predicted["old_task_prefixed"], AtMost)
    assert isinstance(predicted["old_task_control"], AtLeast)


def test_old_and_new_task_share_no_answer_unless_all_digits_are_equal():
    """So that two accuracies add up to 1 + 8^(1 − n) at most, whatever is on."""
    for length in (2, 3, 4):
        every = np.array(list(itertools.product(range(8), repeat=length)), np.int32)
        up = np.sort(every, axis=1)
        down = up[:, ::-1]
        assert (up == down).all(axis=1).mean() == 8.0 ** (1 - length)


def test_removal_forgets_the_prefix_and_keeps_the_dummies():
    """Without the addition the model is the old one with its dummy tokens, on the same inputs."""
    padded = experiments.with_dummies(CONFIG, 2)
    base = untrained(Added(), 0.0, padded)
    prefixed = untrained(Added(prefix=2), 0.0, padded)
    digits = np.random.default_rng(2).integers(0, 8, (8, 3), np.int32)
    change = no_forgetting.logit_changes(base, prefixed, 0, digits)
    assert change.removed == 0
    assert change.present > 0
    bare = no_forgetting._without_addition(prefixed)
    assert bare.plan.added == Added()
    assert bare.plan.config == padded
    assert "prefix" not in bare.state
