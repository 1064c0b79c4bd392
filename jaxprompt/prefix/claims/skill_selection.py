r"""Claim ``prefix.skill_selection``: one prefix vector selects a task that the model knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

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
from jaxprompt.errors import ParameterError
from jaxprompt.networks.transformer import Added, Config
from jaxprompt.prefix.pictures import bars_against_limits
from jaxprompt.prefix.training import adaptation, experiments
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import INPUT_LAWS, relative_probability
from jaxprompt.prefix.training.experiments import LEARNS, Plan, Trained, state_instead
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "KNOWN", "best_runs", "closed_form", "plans", "simulate"]

STATEMENT = r"""
A transformer pretrained on an even mixture of $t$ tasks without being told which cannot know the
task before the first symbol. Where two of the tasks sort upwards and downwards and no others ever
agree, its loss is at least the entropy of the solution given the input, spread over $n$ symbols,
$$\frac1n\Big(\log t-8^{1-n}\,\frac2t\log2\Big),$$
(0.13863 for four tasks and $n=10$, 0.23105 for $n=6$), and since it writes one answer where the
tasks want $t$ different ones, it solves $(1+8^{1-n})/t$ of all at most, averaged over tasks. With
one prefix vector, trained on one of the tasks, it solves that task, and each other one no more than
by chance. $8^{1-n}$ is the share of inputs of equal digits; inputs drawn as in the published code
repeat digits more often, and there the share is larger.
"""

DERIVATION = r"""
The chain rule: the mean loss over $n$ symbols is the entropy of the solution given the input over
$n$ at least. Ascending and descending order, $+1$ and $+2$ give four different answers but for
inputs of equal digits ($8^{1-n}$ of all), which both orders leave as they are. There one answer has
the probability $2/t$ and the entropy is $\log t-\frac2t\log2$, and accuracies add up to
$1+8^{1-n}$ at most; both are counted over all inputs too (`entropy`, `one_answer`). Where inputs
are drawn as in the published code, an input of equal digits has $2/(1+p)$ of its uniform
probability, with $p$ the share of uniform inputs with at most $n/2$ different digits. Selection
needs no new attention pattern: a bias that names the task is enough for the layers after it. A
small model's prefixes are trained from several starts each, and the one with the least training
loss counts.

*Tolerances.* Differences of less than five per cent of all sequences decide nothing here, nor does
as much of a nat. What is counted over all inputs is right to rounding.
"""


# --- the closed form ---


def closed_form(*, tasks: Any, length: Any, input_law: str = "uniform") -> dict[str, Any]:
    """`mixture_loss` at least; limits of accuracies; and what `entropy` and `one_answer` are.

    Numbers broadcast; the sides of limits are the quantities' own.
    """
    symbols = np.asarray(length, float)
    alike = 8.0 ** (1 - symbols) * _equal_digits_factor(symbols, input_law)
    best = (np.log(tasks) - alike * np.log(2.0) * 2 / tasks) / symbols
    chance = (1 + alike) / tasks
    limits = {"mixture_loss": best, "entropy": best, "selected": LEARNS}
    limits |= dict.fromkeys(("others", "unselected", "one_answer"), chance)
    return {name: np.broadcast_to(value, np.shape(best)) for name, value in limits.items()}


def _equal_digits_factor(symbols: np.ndarray, input_law: str) -> np.ndarray:
    """Probability of an input of equal digits, as a multiple of the uniform one."""
    factors = [float(relative_probability(1, int(n), input_law)) for n in symbols.ravel()]
    return np.reshape(factors, symbols.shape)


def _double_loss(predicted: Mapping[str, Any], parameters: Any) -> dict[str, Any]:
    return {**predicted, "mixture_loss": 2 * predicted["mixture_loss"]}


FALSIFIERS = (
    Falsifier.after("twice the loss", "2 log t / n", _double_loss),
    Falsifier.after("nothing selected", "the selected task stays below 0.2",
                    state_instead(selected=AtMost(0.2))),
    Falsifier.after("not exclusive", "other tasks are solved too",
                    state_instead(others=AtLeast(0.5))),
    Falsifier.after("known anyway", "every task is solved without prefix",
                    state_instead(unselected=AtLeast(0.6))),
)  # fmt: skip


# --- training ---


class Model(NamedTuple):
    """A model's sizes and how it is trained; `config` takes the number of digits.

    `rate` is that of pretraining, `prefix_rate` that of prefixes and `tuning_rate` that of all
    parameters on another task. Each prefix is trained from `starts` different starts, and the one
    with the least loss counts; it trains for the steps of pretraining divided by `step_ratio`.
    """

    config: Callable[[int], Config]
    rate: float
    prefix_rate: float = 3e-2
    tuning_rate: float = 2e-3
    batch: int = 64
    starts: int = 1
    step_ratio: int = 3


def _small_config(length: int) -> Config:
    return experiments.small_config(length, layers=2, heads=4, width=32)


def _fast_config(length: int) -> Config:
    config = _small_config(length)
    return dataclasses.replace(config, initial_deviation=config.width**-0.5)


def _published_config(length: int) -> Config:
    config = experiments.small_config(length, heads=4, width=256)
    return dataclasses.replace(config, first_norm=False)


def _deep_config(length: int) -> Config:
    return experiments.small_config(length, layers=4, heads=4, width=256)


MODELS = {
    # Barely trained, up to half of its prefixes end in a poor minimum, whatever their rate and
    # length: hence the starts.
    "small": Model(_small_config, 8e-3, starts=4, step_ratio=6),
    "fast": Model(_fast_config, 4e-3, 6e-2, 4e-3, batch=32, starts=2, step_ratio=6),
    "published": Model(_published_config, 1e-3),
    "deep": Model(_deep_config, 5e-4),
}
"""Two layers of width 32, from GPT-2's small initial matrices or, to learn in half of the steps and
with half of the data in each, from larger ones; and the published models of width 256 with one
layer (setting 02) or four (03 and 04; for an accelerator)."""

KNOWN = ("asc", "desc", "add1", "add2")
"""The tasks of the mixture."""


def plans(
    length: int,
    steps: int,
    seed: tuple[int, ...],
    model: str = "small",
    input_law: str = "uniform",
    dummies: int = 0,
) -> tuple[Plan, Plan]:
    """Pretraining on the mixture, and one prefix vector for each task from each start: run
    ``t + 4 s`` is for task t from start s."""
    chosen = MODELS[model]
    config = experiments.with_dummies(chosen.config(length), dummies)
    rounded = adaptation.BLOCK * max(steps // (chosen.step_ratio * adaptation.BLOCK), 1)
    recipe = Recipe(steps, chosen.rate, chosen.batch, falling=True)
    base = experiments.plan_pretraining(config, KNOWN, recipe, 1, seed, input_law)
    runs = tuple((name,) for name in KNOWN) * chosen.starts
    prefix = Plan(
        config, "prefix", runs, Recipe(rounded, chosen.prefix_rate, chosen.batch, falling=True),
        seed, Added(prefix=1), base, (0,) * len(runs), input_law,
    )  # fmt: skip
    return base, prefix


def best_runs(prefixed: Trained) -> list[int]:
    """For each task, the run with the least training loss at the end."""
    final = prefixed.losses[:, -1].reshape(-1, len(KNOWN))
    return [int(start) * len(KNOWN) + task for task, start in enumerate(final.argmin(axis=0))]


def require_known_tasks(tasks: int, where: str) -> None:
    """Refuse another number of tasks than the experiment has; the formula takes any."""
    if tasks != len(KNOWN):
        raise ParameterError("tasks", tasks, f"{len(KNOWN)} in a simulation", "leave it out", where)


# --- the simulation ---


# No function of one trial: one training serves all test inputs, and other claims.
def simulate(
    *,
    key: Key[Array, ""],
    trials: int,
    tasks: int = 4,
    length: int,
    steps: int = 3000,
    model: str = "small",
    input_law: str = "uniform",
    dummies: int = 0,
) -> dict[str, Estimate]:
    """Train once; accuracies of the worst pair of task and prefix, errors over test inputs.

    `mixture_loss` is the pretrained model's own on test inputs, and must not undercut the bound;
    `entropy` and `one_answer` are counted over all inputs of up to six digits.

    Raises:
        ParameterError: for another number of tasks than the experiment's four.
    """
    require_known_tasks(tasks, CLAIM.id)
    words = experiments.key_words(key)
    base_plan, prefix_plan = plans(length, steps, words, model, input_law, dummies)
    base, prefixed = experiments.train_or_load(base_plan), experiments.train_or_load(prefix_plan)
    test_key = jax.random.fold_in(key, 7)
    table = [
        [experiments.accuracy(prefixed, run, name, key=test_key) for name in KNOWN]
        for run in best_runs(prefixed)
    ]
    selected = [table[r][r] for r in range(len(KNOWN))]
    others = [x for r, row in enumerate(table) for c, x in enumerate(row) if r != c]
    alone = [experiments.accuracy(base, 0, name, key=test_key) for name in KNOWN]

    def by_mean(estimate: Estimate) -> float:
        return float(estimate.mean)

    return {
        "mixture_loss": experiments.mean_test_loss(base, 0, KNOWN, key=test_key),
        "selected": min(selected, key=by_mean),
        "others": max(others, key=by_mean),
        "unselected": Estimate(
            float(np.mean([e.mean for e in alone])),
            float(np.hypot.reduce([float(e.stderr) for e in alone]) / len(alone)),
            alone[0].trials,
            kind="sampled",
        ),
        **experiments.task_ambiguity(KNOWN, length, input_law),
    }


# --- the design ---

FAST_FOUR_DIGITS = {"tasks": 4, "length": 4, "steps": 1500, "model": "fast"}
FOUR_DIGITS = {"tasks": 4, "length": 4, "steps": 3000}
SIX_DIGITS = {"tasks": 4, "length": 6, "steps": 15_000}
"""Points of `prefix.skill_combination` too, so that both start from one trained model."""

_PUBLISHED_MODEL = {"tasks": 4, "length": 10, "steps": 6000, "model": "published"}

CLAIM = Claim(
    id="prefix.skill_selection",
    title="One prefix vector selects a task that the model knows",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="Petrov et al., ICLR 2024; loss of the mixture derived here",
    parameters=(
        Parameter("tasks", "integer", "tasks in the mixture; the experiment has four", "t", low=2,
                  default=4),
        Parameter("length", "integer", "digits of an input", "n", low=2, high=10),
        Parameter("steps", "integer", "steps of pretraining; a sixth of them, or with larger "
                  "models a third, for each training of a prefix",
                  low=adaptation.BLOCK, default=3000),
        Parameter("model", "choice", "sizes of the model", choices=tuple(MODELS), default="small"),
        *experiments.pretraining_parameters(),
    ),
    quantities=(
        Quantity("mixture_loss", "loss of the mixture, nats a symbol: at least", 0.05,
                 side="lower"),
        Quantity("selected", "the task of the prefix, worst of them: at least", 0.05,
                 side="lower"),
        Quantity("others", "any other task with that prefix: at most", 0.05, side="upper"),
        Quantity("unselected", "mean over tasks without prefix: at most", 0.05, side="upper"),
        Quantity("entropy", "of the solution given the input, nats a symbol",
                 experiments.COUNT_ROUNDING, relative=True, side="two"),
        Quantity("one_answer", "share of tasks that one answer solves",
                 experiments.COUNT_ROUNDING, relative=True, side="two"),
    ),
    compared=Compared(
        {"tasks": (2, 8), "length": (2, 6), "input_law": INPUT_LAWS},
        elsewhere="the entropy and the chance of one answer are exact for every number of tasks "
        "and digits; `selected` is no formula, and stands for what the check trains alone",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(Run(FAST_FOUR_DIGITS), trials=2),
        "full": Design(
            Run(SIX_DIGITS),
            Run(_PUBLISHED_MODEL),
            Run(FOUR_DIGITS, **experiments.PUBLISHED_PRETRAINING),
            trials=2,
        ),
    },
    cost="trained",
    broadcasts="tasks and length",
    figure=Panels(
        bars_against_limits(
            (("share of sequences solved", "accuracy",
              {"unselected": "no prefix", "selected": "its prefix, worst task",
               "others": "its prefix, other tasks"}),
             ("loss of the mixture", "nats a symbol", {"mixture_loss": "pretrained"})),
            level=("one_answer", "one answer for all tasks"),
        ),
        "A prefix selects one of the tasks that the model was trained on",
    ),
)  # fmt: skip
