r"""Claim ``prefix.no_forgetting``: what is added can be taken away, what is overwritten cannot."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Key

from jaxprompt.core.claim import (
    AtLeast,
    AtMost,
    Claim,
    Design,
    Falsifier,
    Panels,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.transformer import Added
from jaxprompt.prefix.claims import new_task_limit
from jaxprompt.prefix.pictures import bars_against_limits
from jaxprompt.prefix.training import adaptation, experiments
from jaxprompt.prefix.training.experiments import FAILS, LEARNS, Trained, state_instead
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "logit_changes", "simulate"]

STATEMENT = r"""
Training a prefix or low-rank factors (not merged) leaves the model's own parameters as they were,
so without the addition the model is the old one, bit for bit, and solves its old task as before.
Fine-tuning on the new task overwrites it: the old task is lost. While a prefix of ten vectors for
the new task is *on*, the old task suffers too, although the new one is not learned
(`prefix.new_task_limit`): fewer than half of the old answers stay right. It is not the presence of
a prefix that does so: with one trained as long on the old task itself (the control) more than half
do.
"""

DERIVATION = r"""
Only the added variables have gradients and updates. The base parameters are the same bits, and the
same program on the same bits gives the same numbers. That fine-tuning forgets is a measurement:
sorted upwards and downwards differ at the first symbol, and nothing in the data asks for the old
answer.

While the prefix is on, one bound holds whatever was trained: a model writes one answer, and sorting
upwards and downwards want different ones unless all digits are equal, so that the two accuracies
add up to $1+8^{1-n}$ at most. What the new task gains the old one loses. A prefix gains nothing on
the new task, so the bound leaves open what the old one keeps, and that is a measurement. For a
reason: the new task's first symbol is the largest digit where the old one's is the smallest, so
training can lower the loss only by making the old answers less likely. How much is lost differs
from seed to seed, and one vector takes less than ten.

*Tolerances.* What must be the same bits has none. Accuracies decide about halves and shares of a
few per cent. With a prefix on, one half divides: of forty models that were trained before this was
stated, and are no part of the check, ten vectors for the new task left 4 to 45 % of the old one; in
twenty of these models ten vectors for the old task itself kept 70 to 84 %.
"""


# --- the closed form ---


def closed_form() -> dict[str, Any]:
    """Changes that must be 0, a share that must be 1, and limits of the old task's accuracy."""
    return {
        "prefix_removed": 0.0,
        "low_rank_removed": 0.0,
        "added_matters": 1.0,
        "old_task_tuned": AtMost(FAILS),
        "old_task_kept": AtLeast(LEARNS),
        "old_task_prefixed": AtMost(LEARNS),
        "old_task_control": AtLeast(LEARNS),
    }


FALSIFIERS = (
    Falsifier.after("fine-tuning keeps", "asc survives fine-tuning",
                    state_instead(old_task_tuned=AtLeast(LEARNS))),
    Falsifier.after("prefix forgets", "asc is lost with the prefix",
                    state_instead(old_task_kept=AtMost(FAILS))),
    Falsifier.after("prefix on keeps", "asc survives while the prefix is on",
                    state_instead(old_task_prefixed=AtLeast(LEARNS))),
    Falsifier.after("every prefix harms", "asc is lost with a prefix of its own on",
                    state_instead(old_task_control=AtMost(LEARNS))),
    Falsifier.after("nothing added", "the additions change nothing",
                    state_instead(added_matters=0.0)),
    Falsifier.after("traces stay", "removal leaves a change of 1e-6",
                    state_instead(prefix_removed=1e-6)),
)  # fmt: skip


# --- the simulation ---

LOGIT_TESTS = 256
"""Test inputs on which logits are compared."""


# No function of one trial: all seeds train in one program, and are kept for other claims.
def simulate(
    *, key: Key[Array, ""], trials: int, length: int, steps: int = 750,
    input_law: str = "uniform", dummies: int = 0, batch: int = new_task_limit.BATCH,
) -> dict[str, Estimate]:  # fmt: skip
    """`trials` seeds of a model for asc, adapted to desc in three ways, and by a prefix to asc.

    Changes are the largest of any logit over seeds and test inputs; accuracies those of the seed
    that fits the claim least, their standard errors over test inputs.
    """
    plans = new_task_limit.plans(
        length, steps, trials, experiments.key_words(key), input_law=input_law, dummies=dummies,
        batch=batch,
    )  # fmt: skip
    own_task = dataclasses.replace(plans["prefix_ten"], runs=(("asc",),) * trials)
    low_rank = dataclasses.replace(plans["prefix_ten"], trains="low_rank", added=Added(rank=1))
    base = experiments.train_or_load(plans["base"])
    prefixed = experiments.train_or_load(plans["prefix_ten"])
    tuned = experiments.train_or_load(plans["fine_tune"])
    factored = experiments.train_or_load(low_rank)
    control = experiments.train_or_load(own_task)
    test_key = jax.random.fold_in(key, 7)
    inputs = experiments.draw_tests(experiments.TESTS, length, key=test_key, input_law=input_law)
    digits = np.asarray(inputs.digits)[:LOGIT_TESTS]
    runs = range(trials)
    prefix_changes = [logit_changes(base, prefixed, run, digits) for run in runs]
    factor_changes = [logit_changes(base, factored, run, digits) for run in runs]

    def accuracies(trained: Trained) -> list[Estimate]:
        return [experiments.accuracy(trained, run, "asc", key=test_key) for run in runs]

    def mean(estimate: Estimate) -> float:
        return float(estimate.mean)

    return {
        # Every seed must do so, so these are no samples of anything.
        "prefix_removed": exact_estimate(max(c.removed for c in prefix_changes), trials),
        "low_rank_removed": exact_estimate(max(c.removed for c in factor_changes), trials),
        "added_matters": exact_estimate(
            np.mean([c.present > 0 for c in prefix_changes + factor_changes]), trials
        ),
        "old_task_tuned": max(accuracies(tuned), key=mean),
        "old_task_kept": min(accuracies(_without_addition(prefixed)), key=mean),
        "old_task_prefixed": max(accuracies(prefixed), key=mean),
        "old_task_control": min(accuracies(control), key=mean),
    }


class LogitChange(NamedTuple):
    """Largest change of a logit from the base model, with the addition removed and present."""

    removed: float
    present: float


def logit_changes(
    base: Trained, adapted: Trained, run: int, digits: Int[Array | np.ndarray, "B n"]
) -> LogitChange:
    """What adapting one run changes, on the inputs `digits` (B, n)."""
    config, added = base.plan.config, adapted.plan.added
    state = adapted.parameters_of(run)
    content = np.concatenate([digits, digits[:, :-1]], axis=1)
    before = adaptation.logits(config, Added(), base.parameters_of(run), content)
    without = adaptation.logits(config, Added(), nnx.filter_state(state, nnx.Param), content)
    present = adaptation.logits(config, added, state, content)
    before, without, present = np.asarray(before), np.asarray(without), np.asarray(present)
    return LogitChange(float(np.abs(without - before).max()), float(np.abs(present - before).max()))


def _without_addition(adapted: Trained) -> Trained:
    """The same models with the addition removed."""
    return Trained(
        dataclasses.replace(adapted.plan, added=Added()),
        nnx.filter_state(adapted.state, nnx.Param),
        adapted.losses,
    )


# --- the design ---

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
        new_task_limit.BATCH_PARAMETER,
        *experiments.pretraining_parameters(),
    ),
    quantities=(
        Quantity("prefix_removed", "largest change of a logit once the prefix is removed", 0.0),
        Quantity("low_rank_removed", "the same for low-rank factors", 0.0),
        Quantity("added_matters", "share of additions that change some logit", 1e-9),
        Quantity("old_task_tuned", "asc after fine-tuning on desc: at most", 0.05,
                 side="predicted"),
        Quantity("old_task_kept", "asc after training and removing a prefix: at least", 0.05,
                 side="predicted"),
        Quantity("old_task_prefixed", "asc with the prefix for desc on, best seed: at most", 0.05,
                 side="predicted"),
        Quantity("old_task_control", "asc with a prefix for asc on, worst seed: at least", 0.05,
                 side="predicted"),
    ),
    compared=Compared(
        elsewhere="no formula: what must be the same bits, and limits of what training finds, "
        "which stand for the sizes and budgets of the check alone",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(Run(length=4, steps=250, batch=32), trials=2),
        "full": Design(
            Run(length=6, steps=5000),
            Run(length=4, steps=250, trials=2, **experiments.PUBLISHED_PRETRAINING),
            trials=8,
        ),
    },
    cost="trained",
    figure=Panels(
        bars_against_limits(
            (("the old task (sort upwards)", "share of sequences solved",
              {"old_task_control": "prefix for the old task, on",
               "old_task_prefixed": "prefix for the new task, on",
               "old_task_kept": "prefix for the new task, removed",
               "old_task_tuned": "all parameters trained"}),
             ("what stays when it is removed", "largest change of a logit",
              {"prefix_removed": "prefix", "low_rank_removed": "low-rank factors"})),
        ),
        "While it is on a prefix harms the old task; removed, it leaves no trace",
    ),
)  # fmt: skip
