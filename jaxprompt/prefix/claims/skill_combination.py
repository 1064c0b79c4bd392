r"""Claim ``prefix.skill_combination``: a prefix can combine known skills, not teach a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
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
from jaxprompt.networks.transformer import Added
from jaxprompt.prefix.claims import skill_selection
from jaxprompt.prefix.claims.skill_selection import FAST_FOUR_DIGITS, FOUR_DIGITS, SIX_DIGITS
from jaxprompt.prefix.pictures import bars_against_limits
from jaxprompt.prefix.training import adaptation, experiments
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import INPUT_LAWS, constant_answer
from jaxprompt.prefix.training.experiments import FAILS, LEARNS, Plan, state_instead
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "plans", "simulate"]

STATEMENT = r"""
A transformer that knows how to sort and how to add one (and two other tasks) is adapted to sorting
*and* adding one, and to counting how often each digit occurs, which none of its skills contains.
With ten prefix vectors a layer it solves more of the first than any constant answer does, and no
more of the second; training all parameters learns the second under the same budget (the positive
control). How much of the first depends on size and budget: little for the small model. Accuracies
$a$ are counted from the best constant answer's $c$,
$$g=\frac{a-c}{1-c},$$
because a constant answer is all that ignoring the input can give: for six digits all ones solve
$8\cdot7\cdot6\cdot5\cdot4\cdot3/8^6=7.69\,\%$ of the counts. This is a statement about the models
and budgets that were trained.
"""

DERIVATION = r"""
There is no closed form for what training finds. Counting is constant while all digits differ, and
only a new attention pattern (each digit on its equals) tells the other inputs apart, which
`prefix.pattern_invariance` denies to the first layer; later layers see changed inputs, so that an
identity alone does not decide, and the experiment does.

*Tolerances.* A twentieth of what there is to learn is the least that anyone would call some
learning. The constant answer is counted over all inputs of up to six digits.
"""


# --- the closed form ---


def closed_form(*, length: int, low_rank: int = 0, input_law: str = "uniform") -> dict[str, Any]:
    """Limits of gains, and the share of counts that the best constant answer solves."""
    limits = {
        "combined": AtLeast(0.0),
        "counting": AtMost(FAILS),
        "counting_tuned": AtLeast(LEARNS),
        "constant_answer": constant_answer("double_hist", int(length), input_law),
    }
    return {**limits, "combined_low_rank": AtLeast(LEARNS)} if low_rank else limits


def _lower_constant_answer(predicted: Mapping[str, Any], parameters: Any) -> dict[str, Any]:
    return {**predicted, "constant_answer": 0.0685 / 0.0769 * predicted["constant_answer"]}


FALSIFIERS = (
    Falsifier.after("counting learned", "at least ½ on counting",
                    state_instead(counting=AtLeast(LEARNS))),
    Falsifier.after("combined wholly", "at least ½ on the combination",
                    state_instead(combined=AtLeast(LEARNS))),
    Falsifier.after("nothing learns", "all parameters fail at counting",
                    state_instead(counting_tuned=AtMost(FAILS))),
    Falsifier.after("other baseline", "6.85 % for all ones at n = 6: 11 % too few",
                    _lower_constant_answer),
)  # fmt: skip


# --- training ---

TASKS = ("asc_add1", "double_hist")
"""The combination of two known skills, and the new one."""

TESTS = 4 * experiments.TESTS
"""Test inputs. Counting at n = 4 has a share near ½, which has the largest standard error."""


def plans(
    length: int,
    steps: int,
    seed: tuple[int, ...],
    model: str = "small",
    input_law: str = "uniform",
    dummies: int = 0,
) -> dict[str, Plan]:
    """Adaptations of the mixture model of `prefix.skill_selection`, each with half of its steps.

    Low-rank factors of rank 1 on both matrices of each MLP have as many parameters as ten vectors.
    """
    base, _ = skill_selection.plans(length, steps, seed, model, input_law, dummies)
    rounded = adaptation.BLOCK * max(steps // (2 * adaptation.BLOCK), 1)

    chosen = skill_selection.MODELS[model]

    def adapted(trains: str, rate: float, added: Added, tasks: tuple[str, ...]) -> Plan:
        runs = tuple((name,) for name in tasks)
        recipe = Recipe(rounded, rate, chosen.batch, falling=True)
        return Plan(base.config, trains, runs, recipe, seed, added, base, (0,) * len(runs),
                    input_law)  # fmt: skip

    return {
        "prefix": adapted("prefix", 3e-2, Added(prefix=10), TASKS),
        "low_rank": adapted("low_rank", 1e-2, Added(rank=1), TASKS),
        "fine_tune": adapted("model", chosen.tuning_rate, Added(), TASKS[1:]),
    }


# --- the simulation ---


# No function of one trial: one training of each kind serves all test inputs.
def simulate(
    *, key: Key[Array, ""], trials: int, tasks: int = 4, length: int, steps: int = 3000,
    model: str = "small", low_rank: int = 0, input_law: str = "uniform", dummies: int = 0,
) -> dict[str, Estimate]:  # fmt: skip
    """Train once each way; gains over the constant answer, errors over test inputs.

    Raises:
        ParameterError: for another number of tasks than the experiment's four.
    """
    skill_selection.require_known_tasks(tasks, CLAIM.id)
    arms = plans(length, steps, experiments.key_words(key), model, input_law, dummies)
    test_key = jax.random.fold_in(key, 7)

    def gain(arm: str, run: int, task: str) -> Estimate:
        accuracy = experiments.accuracy(
            experiments.train_or_load(arms[arm]), run, task, key=test_key, tests=TESTS
        )
        least = constant_answer(task, length, input_law)
        return Estimate(
            (float(accuracy.mean) - least) / (1 - least),
            float(accuracy.stderr) / (1 - least),
            accuracy.trials,
            kind="sampled",
        )

    gains = {
        "combined": gain("prefix", 0, "asc_add1"),
        "counting": gain("prefix", 1, "double_hist"),
        "counting_tuned": gain("fine_tune", 0, "double_hist"),
    }
    if low_rank:
        gains["combined_low_rank"] = gain("low_rank", 0, "asc_add1")
    share_key = jax.random.fold_in(key, 8)
    share = experiments.constant_answer_share(
        "double_hist", length, key=share_key, input_law=input_law
    )
    return {**gains, "constant_answer": share}


# --- the design ---

CLAIM = Claim(
    id="prefix.skill_combination",
    title="A prefix combines known skills and teaches no new one",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IMPOSSIBILITY,
    source="Petrov et al., ICLR 2024",
    parameters=(
        Parameter("tasks", "integer", "tasks in the mixture; the experiment has four", "t", low=1,
                  default=4),
        Parameter("length", "integer", "digits of an input", "n", low=2, high=10),
        Parameter("steps", "integer", "steps of pretraining; half of them for each adaptation",
                  low=adaptation.BLOCK, default=3000),
        Parameter("model", "choice", "sizes of the model",
                  choices=tuple(skill_selection.MODELS), default="small"),
        Parameter("low_rank", "integer", "1 to train low-rank factors of equal size too", low=0,
                  high=1, default=0),
        *experiments.pretraining_parameters(),
    ),
    quantities=(
        Quantity("combined", "gain on sorting and adding one, prefix: at least", 0.05,
                 side="predicted"),
        Quantity("counting", "gain on counting, prefix: at most", 0.05, side="predicted"),
        Quantity("counting_tuned", "gain on counting, all parameters trained: at least", 0.05,
                 side="predicted"),
        Quantity("combined_low_rank", "gain on sorting and adding one, low rank: at least", 0.05,
                 side="predicted"),
        Quantity("constant_answer", "share of counts that the best constant answer solves",
                 experiments.count_tolerance(0.005), side="two"),
    ),
    compared=Compared(
        {"length": (2, 6), "input_law": INPUT_LAWS},
        elsewhere="the constant answer is exact at every length; limits of what training finds are "
        "no formulas, and stand for the sizes and budgets of the check alone",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        # Low-rank factors learn the combination within the longer training alone.
        "quick": Design(Run(FAST_FOUR_DIGITS), trials=2, partial=True),
        "full": Design(
            Run(SIX_DIGITS, low_rank=1),
            Run(FOUR_DIGITS, **experiments.PUBLISHED_PRETRAINING),
            trials=2,
        ),
    },
    cost="trained",
    figure=Panels(
        bars_against_limits(
            (("accuracy above the best constant answer", "gain in accuracy",
              {"combined": "known skills combined, prefix", "counting": "new skill, prefix",
               "counting_tuned": "new skill, all parameters",
               "combined_low_rank": "known skills combined, low rank"}),),
        ),
        "A prefix combines known skills; a new one it does not learn",
    ),
)  # fmt: skip
