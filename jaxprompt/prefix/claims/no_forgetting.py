r"""Claim ``prefix.no_forgetting``: what is added can be taken away, what is overwritten cannot."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from jaxprompt.core.claim import Agreement, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.transformer import Added
from jaxprompt.prefix.claims import new_task_limit
from jaxprompt.prefix.training import adaptation, experiments, tasks
from jaxprompt.prefix.training.experiments import FAILS, LEARNS, Trained
from jaxprompt.stats import Estimate, share_estimate

__all__ = ["CLAIM", "closed_form", "logit_changes", "simulate"]

STATEMENT = r"""
Training a prefix or low-rank factors (not merged) leaves the model's own parameters as they were,
so without the addition the model is the old one, bit for bit, and solves its old task as before.
Fine-tuning on the new task overwrites it: the old task is lost.
"""

DERIVATION = r"""
Only the added variables have gradients and updates. The base parameters are the same bits, and the
same program on the same bits gives the same numbers. That fine-tuning forgets is a measurement:
sorted upwards and downwards differ at the first symbol, and nothing in the data asks for the old
answer.
"""


def closed_form(*, length: Any, steps: Any = None) -> dict[str, Any]:
    """Changes that must be 0, shares that must be 1, and a limit on the old task's accuracy."""
    return _closed_form({})


def _closed_form(wrong: dict[str, float], **unused: Any) -> dict[str, Any]:
    right = {
        "prefix_removed": 0.0, "low_rank_removed": 0.0, "added_matters": 1.0,
        "old_task_tuned": FAILS, "old_task_kept": LEARNS,
    }  # fmt: skip
    return {**right, **wrong}


def simulate(
    *, key: Key[Array, ""], trials: int, length: int, steps: int = 750
) -> dict[str, Estimate]:
    """`trials` seeds of a model for asc, adapted to desc in three ways.

    Changes are the largest of any logit over seeds and test inputs; accuracies those of the seed
    that fits the claim least, their standard errors over test inputs.
    """
    plans = new_task_limit.plans(length, steps, trials, experiments.seeds(key))
    low = dataclasses.replace(plans["prefix_ten"], trains="low_rank", added=Added(rank=1))
    made = {
        name: experiments.train_or_load(plans[name]) for name in ("base", "prefix_ten", "fine_tune")
    }
    made["low_rank"] = experiments.train_or_load(low)
    test_key = jax.random.fold_in(key, 7)
    digits = tasks.inputs(256, length, key=test_key, test=True)
    prefix = [logit_changes(made["base"], made["prefix_ten"], r, digits) for r in range(trials)]
    factors = [logit_changes(made["base"], made["low_rank"], r, digits) for r in range(trials)]
    tuned = [experiments.accuracy(made["fine_tune"], r, "asc", key=test_key) for r in range(trials)]
    kept = [_old_task_accuracy(made["prefix_ten"], r, digits) for r in range(trials)]
    return {
        "prefix_removed": Estimate(max(x[0] for x in prefix), 0.0, trials),
        "low_rank_removed": Estimate(max(x[0] for x in factors), 0.0, trials),
        "added_matters": Estimate(
            float(np.mean([x[1] > 0 for x in prefix + factors])), 0.0, trials
        ),
        "old_task_tuned": max(tuned, key=lambda estimate: float(estimate.mean)),
        "old_task_kept": min(kept, key=lambda estimate: float(estimate.mean)),
    }


def logit_changes(
    base: Trained, adapted: Trained, place: int, digits: Array
) -> tuple[float, float]:
    """Largest change of a logit from the base model, with the addition removed and present."""
    config, added = base.plan.config, adapted.plan.added
    state = adapted.parameters_of(place)
    content = jnp.concatenate([digits, digits[:, :-1]], axis=1)
    before = adaptation.logits(config, Added(), base.parameters_of(place), content)
    without = adaptation.logits(config, Added(), nnx.filter_state(state, nnx.Param), content)
    present = adaptation.logits(config, added, state, content)
    return float(jnp.abs(without - before).max()), float(jnp.abs(present - before).max())


def _old_task_accuracy(adapted: Trained, place: int, digits: Array) -> Estimate:
    """Accuracy on the old task with the addition removed."""
    state = nnx.filter_state(adapted.parameters_of(place), nnx.Param)
    right = adaptation.exact_match(
        adapted.plan.config, Added(), state, digits, tasks.solved("asc", digits)
    )
    return share_estimate(int(right.sum()), digits.shape[0])


def _wrong(**values: float) -> Any:
    return functools.partial(_closed_form, values)


CLAIM = Claim(
    id="prefix.no_forgetting",
    title="What is added can be taken away again",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024",
    parameters=(
        Parameter("length", "integer", "digits of an input", "n", low=2, high=10),
        Parameter("steps", "integer", "training steps of every way, a multiple of 250",
                  low=adaptation.BLOCK, default=750),
    ),
    quantities=(
        Quantity("prefix_removed", "largest change of a logit once the prefix is removed", 0.0),
        Quantity("low_rank_removed", "the same for low-rank factors", 0.0),
        Quantity("added_matters", "share of additions that change some logit", 1e-9),
        # 256 inputs decide about halves and shares of a few per cent.
        Quantity("old_task_tuned", "asc after fine-tuning on desc: at most", 0.05),
        Quantity("old_task_kept", "asc after training and removing a prefix: at least", 0.05),
    ),
    falsifiers=(
        Falsifier("fine-tuning keeps", "asc survives fine-tuning", _wrong(old_task_tuned=LEARNS)),
        Falsifier("prefix forgets", "asc is lost with the prefix", _wrong(old_task_kept=FAILS)),
        Falsifier("nothing added", "the additions change nothing", _wrong(added_matters=0.0)),
        Falsifier("traces stay", "removal leaves a change of 1e-6", _wrong(prefix_removed=1e-6)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(({"length": 6, "steps": 500},), 2),
        "full": Design(({"length": 6, "steps": 5000},), 8),
    },
    compare=experiments.compare_limits,
    figure=Agreement("Removing what was added", "change or accuracy", limits=True),
)  # fmt: skip
