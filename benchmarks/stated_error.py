"""Whether the standard errors that predictions state are those that they have.

    python benchmarks/stated_error.py [ID ...] [--points N] [--rules R]

Predictions that average over attention scores do so by sixteen randomised rules, whose spread gives
the error they state. Here each claim is predicted at random points of its accepted range, large
gains, few samples and d near n among them, under R other scramblings of all rules. For each
quantity the table gives the root mean square, over points and scramblings, of

    (number under one scrambling − mean over scramblings) / stated error

with R − 1 in place of R: 1 if what is stated is right, above it if predictions state too little.
Between 0.5 and 2 is accepted; `benchmarks/stated_error.md` has the table. Beside it is the largest
such ratio of a single point. Not counted are points at which nothing is stated (0, or infinite
numbers), and probabilities of a wrong sign so small that the nodes of all rules together hold one
such sequence or none (:data:`RARE`). Points of `three_steps` share their nodes for the order
parameters, so that R rules count for little more than R numbers there.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import qmc

import jaxprompt as jp
from jaxprompt.contextual.law import attention_moments
from jaxprompt.errors import JaxpromptError

Point = dict[str, Any]


def data_law(random: np.random.Generator) -> Point:
    """A law of the data: token counts, sizes over a decade, and one or two shifts."""
    tokens = int(random.choice([3, 5, 10, 30]))
    two = random.random() < 0.5
    return {
        "tokens": tokens,
        "relevant": int(random.integers(1, max(tokens // 2, 2))),
        "signal": float(np.exp(random.uniform(-0.7, 0.9))),
        "context": float(np.exp(random.uniform(-0.7, 0.9))),
        "noise": float(np.exp(random.uniform(-1.0, 0.5))),
        "shifts": [[0.0, 0.0], random.uniform(-0.3, 0.8, 2).tolist()] if two else [[0.0, 0.0]],
    }


def at_a_ratio(random: np.random.Generator) -> Point:
    """A known prompt and a ratio, near d = n in a fifth of the points."""
    near = random.random() < 0.2
    return {
        **data_law(random),
        "gain": float(random.uniform(-0.5, 5.0)),
        "ratio": float(random.uniform(0.9, 1.1) if near else np.exp(random.uniform(-2.5, 1.5))),
    }


def with_ridge(random: np.random.Generator) -> Point:
    """The same with a ridge, which is 0 in half of the points."""
    ridge = 0.0 if random.random() < 0.5 else float(np.exp(random.uniform(-7, 2)))
    return {**at_a_ratio(random), "ridge": ridge}


def with_loss(random: np.random.Generator) -> Point:
    """The same with a loss and a ridge."""
    point = {**at_a_ratio(random), "loss": str(random.choice(["logistic", "hinge"]))}
    return {**point, "ridge": float(np.exp(random.uniform(-5, 1)))}


def of_three_steps(random: np.random.Generator) -> Point:
    """Sizes of a trained prompt, from few samples on."""
    dim = int(np.exp(random.uniform(3, 7)))
    samples = int(dim * np.exp(random.uniform(-1, 3)))
    law = {**data_law(random), "prompt_norm": float(np.exp(random.uniform(-0.5, 1.8)))}
    return {**law, "dim": dim, "samples": max(samples, 5)}


def of_vectors(random: np.random.Generator) -> Point:
    """The seven products of a random head and prompt in six dimensions."""
    law = data_law(random)
    head, prompt = random.normal(size=(2, 6)) * np.exp(random.uniform(-0.5, 1.2, (2, 1)))
    return {
        **law,
        "head_signal": float(head[0] * law["signal"]),
        "head_context": float(head[1] * law["context"]),
        "head_norm": float(np.linalg.norm(head)),
        "prompt_signal": float(prompt[0] * law["signal"]),
        "prompt_context": float(prompt[1] * law["context"]),
        "prompt_norm": float(np.linalg.norm(prompt)),
        "head_prompt": float(head @ prompt),
    }


def of_staged_batches(random: np.random.Generator) -> Point:
    """Three stages on batches of their own, few samples and long steps among them."""
    point = {**with_ridge(random), "head_rate": float(np.exp(random.uniform(-1.5, 2)))}
    del point["gain"]
    ratios = {n: float(np.exp(random.uniform(-2.5, 1.5))) for n in ("head_ratio", "prompt_ratio")}
    return {**point, **ratios, "prompt_norm": float(np.exp(random.uniform(-1.0, 1.6)))}


def of_one_batch(random: np.random.Generator) -> Point:
    """The same on one batch."""
    point = of_staged_batches(random)
    return {n: v for n, v in point.items() if n not in ("head_ratio", "prompt_ratio")}


def with_spectrum(random: np.random.Generator) -> Point:
    """A law of coloured, correlated tokens at a small dimension."""
    return {
        **with_ridge(random),
        "ridge": float(np.exp(random.uniform(-5, 1))),
        "dim": int(random.choice([8, 24, 64])),
        "exponent": float(random.uniform(0, 1.5)),
        "relevant_noise": float(random.uniform(0, 1)),
        "common_noise": float(random.uniform(0, 0.5)),
        "token_correlation": float(random.uniform(-0.8, 0.8)),
    }


def of_entries(random: np.random.Generator) -> Point:
    """Scores of one of three laws, along one coordinate or all."""
    point = {**with_ridge(random), "ridge": float(np.exp(random.uniform(-5, 1)))}
    del point["shifts"]
    return {
        **point,
        "dim": int(random.choice([8, 24, 64])),
        "entries": str(random.choice(["gaussian", "signs", "laplace"])),
        "prompt": str(random.choice(["spread", "one"])),
    }


def with_target(random: np.random.Generator) -> Point:
    """A target between a good error and chance; where none reaches it the claim refuses."""
    law = {**data_law(random), "prompt_norm": float(np.exp(random.uniform(-0.5, 1.8)))}
    return {**law, "target": float(random.uniform(0.05, 0.45))}


def of_flow(random: np.random.Generator) -> Point:
    """Rates, starts and times of one pass of SGD; diverging paths are refused."""
    return {
        **data_law(random),
        "time": float(np.exp(random.uniform(-2, 2))),
        "head_rate": float(np.exp(random.uniform(-1.5, 1))),
        "prompt_rate": float(np.exp(random.uniform(-1.5, 1))),
        "head_norm": float(random.uniform(0, 1)),
        "prompt_norm": float(random.uniform(0.1, 1)),
        "loss": str(random.choice(["square", "logistic"])),
    }


def of_batches(random: np.random.Generator) -> Point:
    """One to six steps on large batches."""
    point = {**of_flow(random), "ratio": float(np.exp(random.uniform(-2, 1)))}
    del point["time"]
    return {**point, "steps": int(random.integers(1, 7))}


def of_prompt_alone(random: np.random.Generator) -> Point:
    """One pass of SGD in the prompt, over a head with noise."""
    point = of_flow(random)
    for name in ("head_rate", "head_norm"):
        del point[name]
    product = float(random.uniform(-0.5, 1.5))
    length = abs(product) / point["signal"] + float(random.uniform(0, 1))
    return {**point, "head_signal": product, "head_norm": length}


def of_one_sgd_step(random: np.random.Generator) -> Point:
    """One step of SGD from the products of a random head and prompt."""
    rates = {n: float(np.exp(random.uniform(-1.5, 1))) for n in ("head_rate", "prompt_rate")}
    loss = str(random.choice(["square", "logistic"]))
    return {**of_vectors(random), **rates, "loss": loss, "dim": int(random.choice([8, 64, 512]))}


POINTS: dict[str, Callable[[np.random.Generator], Point]] = {
    "contextual.conditional_error": of_vectors,
    "contextual.prompt_error": with_ridge,
    "contextual.best_ridge": at_a_ratio,
    "contextual.convex_head": with_loss,
    "contextual.two_stage": of_staged_batches,
    "contextual.same_data": of_one_batch,
    "contextual.token_law_error": with_spectrum,
    "contextual.score_universality": of_entries,
    "contextual.training": data_law,
    "contextual.giant_steps": of_batches,
    "contextual.prompt_tuning": of_prompt_alone,
    "contextual.sgd_step": of_one_sgd_step,
    "contextual.sgd_flow": of_flow,
    "contextual.sgd_spread": of_flow,
    "contextual.three_steps": of_three_steps,
    "contextual.sample_complexity": with_target,
}
"""Claims whose predictions state an error, with the points to try them at."""


RARE = 2e-5
"""Probabilities of a wrong sign below it come from fewer than one in the 65 536 nodes of all rules:
they are not resolved, and nobody would mind."""

FEW_NODES = {
    "contextual.token_law_error": 3e-4, "contextual.score_universality": 3e-4,
    "contextual.training": 2e-4,
}  # fmt: skip
"""The same for claims that average over 4096 nodes, and for one that finds weights on 8192."""

ACCURACIES = ("linear", "linear_prompt", "prompt")
"""Quantities that are 1 less a probability of a wrong sign, as are those with `_best` added."""


def forget_quadratures() -> None:
    """Clear every cache of the family's functions: they hold nodes, or numbers made of them."""
    for name, module in list(sys.modules.items()):
        if name.startswith("jaxprompt.contextual"):
            for item in list(vars(module).values()):
                if isinstance(item, functools._lru_cache_wrapper):
                    item.cache_clear()


def use_scrambling(seed: int) -> None:
    """Scramble every rule by `seed` from now on."""

    def points(count: int, power: int, replicate: int) -> np.ndarray:
        random = np.random.Generator(np.random.PCG64([count, replicate, seed, 1]))
        return qmc.Sobol(count, scramble=True, rng=random).random_base2(power)

    attention_moments._points = points  # pyright: ignore[reportPrivateUsage]
    forget_quadratures()


def predictions(id: str, points: list[Point], rules: int) -> list[list[dict[str, Any]]]:
    """Predictions at each point under each scrambling; a point that is refused has none."""
    claim = jp.claim(id)
    table: list[list[dict[str, Any]]] = [[] for _ in points]
    for seed in range(rules):
        use_scrambling(seed)
        for row, point in zip(table, points, strict=True):
            try:
                row.append(claim.predict(**point))
            except JaxpromptError as error:
                print(f"  {id}: {error}", flush=True)
    return table


def ratios(
    table: list[list[dict[str, Any]]], rules: int, rare: float = RARE
) -> Iterator[tuple[str, float]]:
    """For each quantity and point the root mean square of deviations in units of what is stated."""
    for row in table:
        if len(row) < rules:
            continue
        for name in (n for n in row[0] if f"{n}_stderr" in row[0]):
            values = np.array([each[name] for each in row])
            stated = np.array([each[f"{name}_stderr"] for each in row])
            # Below the rounding of a number there is nothing to state.
            known = np.isfinite(values).all() and (stated > 1e-12 * np.abs(values)).all()
            errors = 1 - values if name.removesuffix("_best") in ACCURACIES else values
            is_error = name.endswith("error") or errors is not values
            if name == "saving":  # of the error that there is without a ridge
                errors, is_error = values + np.array([each["error"] for each in row]), True
            if not known or (is_error and np.median(errors) < rare):
                yield name, math.nan
                continue
            square = np.square((values - values.mean()) / stated).sum() / (rules - 1)
            yield name, math.sqrt(square)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--rules", type=int, default=8)
    options = parser.parse_args()
    print(
        "| claim | quantity | points | rms of deviation / stated | largest of a point | seconds |"
    )
    print("| --- | --- | --: | --: | --: | --: |")
    for id in options.ids or POINTS:
        started = time.process_time()
        random = np.random.default_rng(0)
        points = [POINTS[id](random) for _ in range(options.points)]
        found: dict[str, list[float]] = defaultdict(list)
        table = predictions(id, points, options.rules)
        for name, ratio in ratios(table, options.rules, FEW_NODES.get(id, RARE)):
            found[name].append(ratio)
        seconds = time.process_time() - started
        for name, values in found.items():
            known = np.array([v for v in values if not math.isnan(v)])
            if known.size:
                rms, worst = np.sqrt(np.square(known).mean()), known.max()
                row = f"{known.size} of {len(values)} | {rms:.2f} | {worst:.2f} | {seconds:.0f}"
                print(f"| `{id}` | `{name}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
