"""The tables of prefix.md on the published settings 01 and 02, with the published pretraining,
and on old tasks while something trained for a new one is on.

    python docs/prefix_published.py small        the sizes of the quick check, five models each
    python docs/prefix_published.py old          old tasks, at those sizes
    python docs/prefix_published.py quarter      the published sizes, a quarter of our steps
    python docs/prefix_published.py published    the published sizes

Prints Markdown. The small models take about five minutes of one core, the published sizes about
forty, a quarter of the steps ten, unless the models are in the cache. Seeded.

The columns differ in the law of the inputs (uniform, or drawn again as in the published code while
many digits differ) and in the dummy tokens that stand in front of the digits in pretraining: one,
as for the published prefix of one vector.
"""

from __future__ import annotations

import dataclasses
import functools
import resource
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

import jaxprompt as jp
from jaxprompt.prefix.claims import new_task_limit, skill_combination, skill_selection
from jaxprompt.prefix.training import experiments
from jaxprompt.prefix.training.experiments import Trained
from jaxprompt.stats import interval, mean_estimate, proportion_estimate

WAYS = {
    "uniform inputs, no dummy": {"input_law": "uniform", "dummies": 0},
    "redrawn inputs": {"input_law": "published", "dummies": 0},
    "dummy token": {"input_law": "uniform", "dummies": 1},
    "both, as published": {"input_law": "published", "dummies": 1},
}
KEY = 7


class Size(NamedTuple):
    """Sizes of both settings, how many models each, and which columns."""

    models: int
    ways: tuple[str, ...]
    new_task: dict[str, int]
    selection: dict[str, int | str]


PUBLISHED_WAYS = ("uniform inputs, no dummy", "both, as published")

SIZES = {
    "small": Size(5, tuple(WAYS), {"length": 4, "steps": 250}, {"length": 4, "steps": 3000}),
    "quarter": Size(
        2,
        PUBLISHED_WAYS,
        {"length": 10, "steps": 2500, "width": 96},
        {"length": 10, "steps": 1500, "model": "published"},
    ),
    "published": Size(
        2,
        PUBLISHED_WAYS,
        {"length": 10, "steps": 10_000, "width": 96},
        {"length": 10, "steps": 6000, "model": "published"},
    ),
}


# --- accuracies ---


def shares(trained: Trained, runs: Sequence[int], task: str, law: str | None = None) -> np.ndarray:
    """Accuracy of each run on one task, on test inputs of the law of its plan or of another."""
    plan = dataclasses.replace(trained.plan, input_law=law or trained.plan.input_law)
    tested = Trained(plan, trained.state, trained.losses)
    key = jax.random.key(KEY)
    return np.array([experiments.accuracy(tested, r, task, key=key).mean for r in runs], float)


def cell(values: np.ndarray) -> str:
    """Mean over models in per cent with a 95 % interval, and the least and the best.

    Of one or two models each is given, with the half width of its own interval over test inputs.
    """
    if len(values) > 2:
        estimate = mean_estimate(100 * values)
        low, high = (float(x) for x in interval(estimate))
        spread = f"({100 * values.min():.1f} to {100 * values.max():.1f})"
        return f"{float(estimate.mean):.1f} ± {(high - low) / 2:.1f} {spread}"
    shown: list[str] = []
    for value in values:
        solved = round(value * experiments.TESTS)
        low, high = interval(proportion_estimate(solved, experiments.TESTS))
        half = 50 * (float(high) - float(low))
        shown.append(f"{100 * value:.1f} ± {half:.1f}")
    return ", ".join(shown)


# --- setting 01 ---


def new_task_column(size: Size, way: str) -> dict[str, str]:
    """What every arm of `prefix.new_task_limit` solves."""
    plans = new_task_limit.plans(**size.new_task, copies=size.models, seed=(2023, 1), **WAYS[way])
    made = {name: experiments.train_or_load(plan) for name, plan in plans.items()}
    runs = range(size.models)
    rows: dict[str, tuple[str, str, str | None]] = {
        "asc, pretrained, tested on uniform inputs": ("base", "asc", "uniform"),
        "asc, pretrained, tested on redrawn inputs": ("base", "asc", "published"),
        "asc → desc, all parameters": ("fine_tune", "desc", None),
        "asc → desc, prefix of 1": ("prefix_one", "desc", None),
        "asc → desc, prefix of 10": ("prefix_ten", "desc", None),
        "asc, with the prefix of 1 on": ("prefix_one", "asc", None),
        "asc, with the prefix of 10 on": ("prefix_ten", "asc", None),
        "asc, all parameters trained on desc": ("fine_tune", "asc", None),
    }
    return {
        name: cell(shares(made[arm], runs, task, law)) for name, (arm, task, law) in rows.items()
    }


# --- setting 02 ---


def selection_column(size: Size, way: str) -> dict[str, str]:
    """Losses and accuracies of `prefix.skill_selection`, models from their own seeds."""
    known = skill_selection.KNOWN
    losses: list[float] = []
    alone, right, other = [], [], []
    models = size.models if size.models > 2 else 1
    for model in range(models):
        plans = skill_selection.plans(**size.selection, seed=(1428, model), **WAYS[way])
        base, prefixed = map(experiments.train_or_load, plans)
        key = jax.random.key(KEY)
        losses.append(float(experiments.mean_test_loss(base, 0, known, key=key).mean))
        alone.append([shares(base, [0], task)[0] for task in known])
        best = skill_selection.best_runs(prefixed)
        solved = np.array([shares(prefixed, best, task) for task in known]).T
        right.append(np.diagonal(solved))
        other.append(solved[~np.eye(len(known), dtype=bool)].max())
    predicted = jp.claim("prefix.skill_selection").predict(
        tasks=4, length=size.selection["length"], input_law=WAYS[way]["input_law"]
    )
    column = {"loss of the mixture, nats": " ".join(f"{x:.4f}" for x in losses)}
    column["its bound"] = f"{float(predicted['mixture_loss']):.5f}"
    for place, task in enumerate(known):
        column[f"{task}, no prefix"] = cell(np.array(alone)[:, place])
    for place, task in enumerate(known):
        column[f"{task}, its prefix"] = cell(np.array(right)[:, place])
    column["any other task, largest"] = cell(np.array(other))
    return column


# --- old tasks of the mixture's models ---


def old_tasks(size: Size) -> None:
    """Print what the four known tasks keep while an adaptation to another one is on."""
    known = skill_selection.KNOWN
    solved: dict[str, list[list[float]]] = {}
    for model in range(size.models):
        length, steps = size.selection["length"], size.selection["steps"]
        plans = skill_combination.plans(int(length), int(steps), (1428, model))
        base = plans["prefix"].base
        assert base is not None
        # The first run is for the combination of two known tasks, the second for counting.
        rows = {
            "nothing on (or removed)": (base, 0),
            "prefix for asc_add1 on": (plans["prefix"], 0),
            "prefix for double_hist on": (plans["prefix"], 1),
            "all parameters trained on double_hist": (plans["fine_tune"], 0),
        }
        for name, (plan, run) in rows.items():
            trained = experiments.train_or_load(plan)
            accuracies = [shares(trained, [run], task)[0] for task in known]
            solved.setdefault(name, []).append([*accuracies, sum(accuracies)])
    print(f"\n| {size.models} models | {' | '.join(known)} | sum |")
    print("| --- |" + " --- |" * (len(known) + 1))
    for name, table in solved.items():
        print(f"| {name} | {' | '.join(cell(column) for column in np.array(table).T)} |")


def print_table(title: str, columns: Sequence[str], made: Callable[[str], dict[str, str]]) -> None:
    """One table in Markdown, a column for each way."""
    started = resource.getrusage(resource.RUSAGE_SELF)
    table = {name: made(name) for name in columns}
    ended = resource.getrusage(resource.RUSAGE_SELF)
    print(f"\n| {title} | {' | '.join(columns)} |")
    print("| --- |" + " --- |" * len(columns))
    for row in next(iter(table.values())):
        print(f"| {row} | {' | '.join(table[name][row] for name in columns)} |")
    seconds = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    print(f"\n{seconds:.0f} processor seconds", flush=True)


def main() -> None:
    """Print the tables of one size; more arguments choose columns, by their places from 1 on."""
    if sys.argv[1:] == ["old"]:
        old_tasks(SIZES["small"])
        return
    size = SIZES[sys.argv[1] if len(sys.argv) > 1 else "small"]
    ways = [list(WAYS)[int(place) - 1] for place in sys.argv[2:]] or size.ways
    n = size.new_task["length"]
    print_table(f"01, n = {n}, {size.models} models", ways,
                functools.partial(new_task_column, size))  # fmt: skip
    models = size.models if size.models > 2 else 1
    print_table(f"02, n = {n}, {models} models", ways, functools.partial(selection_column, size))


if __name__ == "__main__":
    main()
