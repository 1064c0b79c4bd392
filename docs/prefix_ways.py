"""The table of prefix.md: five ways to adapt one small model, equally many steps each.

    python docs/prefix_ways.py

Trains for about four minutes of one core, unless the models are in the cache. Seeded.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxprompt.networks.transformer import Added
from jaxprompt.prefix.claims import new_task_limit, skill_selection
from jaxprompt.prefix.training import experiments
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.experiments import Plan
from jaxprompt.stats import Estimate, interval, mean_estimate

STARTS = 5
RATES = {"model": 2e-3, "low_rank": 1e-2, "prefix": 3e-2, "soft_prompt": 3e-2, "suffix": 3e-2}
"""The rates of the claims, and that of a prefix for the other vectors; no others were tried."""

WAYS = {
    "model": "whole model",
    "low_rank": "low rank, rank 1",
    "prefix": "prefix, 10 vectors a layer",
    "soft_prompt": "soft prompt, {} vectors",
    "suffix": "suffix, {} vectors",
}


class Setting(NamedTuple):
    """A pretrained model, and the tasks to adapt it to."""

    name: str
    base: Plan
    tasks: tuple[str, ...]
    steps: int


def settings() -> tuple[Setting, Setting]:
    """The small models of `skill_selection` and `new_task_limit`, from five starts each."""
    mixture, _ = skill_selection.MODELS["small"](4)
    known = experiments.plan_pretraining(
        mixture, skill_selection.KNOWN, Recipe(3000, 4e-3, falling=True), STARTS, (4, 0)
    )
    sorting = new_task_limit.plans(6, 750, STARTS, (4, 0))["base"]
    return (
        Setting("knows asc, desc, add1, add2", known, ("desc", "double_hist"), 1000),
        Setting("knows asc", sorting, ("desc",), 750),
    )


def added(setting: Setting, way: str) -> Added:
    """As many parameters each way as ten vectors a layer, the whole model apart."""
    layers = setting.base.config.layers
    return {
        "model": Added(),
        "low_rank": Added(rank=1),
        "prefix": Added(prefix=10),
        "soft_prompt": Added(soft_prompt=10 * layers),
        "suffix": Added(suffix=10 * layers),
    }[way]


def adapted(setting: Setting, way: str, task: str) -> Plan:
    """One run from every start."""
    base, each = setting.base, tuple(range(STARTS))
    recipe = Recipe(setting.steps, RATES[way], falling=True)
    return Plan(
        base.config, way, ((task,),) * STARTS, recipe, base.seed, added(setting, way), base, each
    )


def cell(plan: Plan, task: str) -> str:
    """Mean accuracy over the starts with a 95 % interval, and the least and the best, in %."""
    trained = experiments.train_or_load(plan)
    found = [
        experiments.accuracy(trained, r, task, key=jax.random.key(7)).mean for r in range(STARTS)
    ]
    shares = 100 * np.array(found, float)
    estimate: Estimate = mean_estimate(shares)
    low, high = interval(estimate)
    half = (float(high) - float(low)) / 2
    return f"{float(estimate.mean):.1f} ± {half:.1f} ({shares.min():.1f} to {shares.max():.1f})"


def main() -> None:
    """Print the table in Markdown."""
    for setting in settings():
        config, tasks = setting.base.config, setting.tasks
        size = f"L{config.layers} H{config.heads} d{config.width}, n = {config.inputs}"
        header = f"{size}, {setting.name}; {setting.steps} steps"
        print(f"\n| {header} | parameters | {' | '.join(tasks)} |")
        print("| --- | --- |" + " --- |" * len(tasks))
        own = [cell(setting.base, task) for task in tasks]
        print(f"| not adapted | 0 | {' | '.join(own)} |", flush=True)
        state = experiments.train_or_load(setting.base).parameters_of(0)
        whole = sum(np.size(x) for x in jax.tree.leaves(state))
        for way, name in WAYS.items():
            count = added(setting, way).size(config) or whole
            cells = [cell(adapted(setting, way, task), task) for task in tasks]
            shown = name.format(10 * config.layers)
            print(f"| {shown} | {count} | {' | '.join(cells)} |", flush=True)
        key = jax.random.key(8)
        least = [
            experiments.constant_answer_share(task, config.inputs, key=key).mean for task in tasks
        ]
        shown = " | ".join(f"{100 * float(share):.1f}" for share in least)
        print(f"| best constant answer | | {shown} |", flush=True)


if __name__ == "__main__":
    main()
