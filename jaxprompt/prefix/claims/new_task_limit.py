r"""Claim ``prefix.new_task_limit``: a prefix does not teach a one-layer model a new task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

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
from jaxprompt.networks.descend import descend
from jaxprompt.networks.transformer import Added, Config, Trace, Transformer
from jaxprompt.prefix.pictures import bars_against_limits
from jaxprompt.prefix.training import adaptation, experiments
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import INPUT_LAWS, constant_answer
from jaxprompt.prefix.training.experiments import FAILS, LEARNS, Plan, Trained, state_instead
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "plans", "relaxed_loss", "simulate"]

STATEMENT = r"""
A one-layer, one-head transformer that sorts digits upwards is adapted to sort them downwards,
every way with equally many steps on the same kind of data. A prefix of one vector or of ten stays
at the level of a constant answer, whatever the seed; training all parameters learns the task (the
positive control). For one vector this is not a matter of the optimiser: let the attention mass
$\alpha$ be free for every example and position, with one shared bias vector $b$,
$$\min_b\ \mathrm{mean}_{i}\ \min_{0\le\alpha_i\le1}\ \mathrm{loss}
\big(\alpha_ib+(1-\alpha_i)t_i\big),$$
which contains all that a one-vector prefix can do. The best loss that a search from many starts
finds here, the trained prefix's bias among them, is no higher than that prefix's and far above
that of the fine-tuned model. It is a search and no certificate: a better $b$ may exist.
"""

DERIVATION = r"""
With one head and one vector the attention output is $\alpha_ib+(1-\alpha_i)t_i$ with
$b=W_Vs$ (`prefix.bias_identity`), and everything after it is frozen. So minimising over free
$\alpha_i\in[0,1]$ bounds every prefix from below. The outer minimum over $b$ is searched from many
starts, among them the bias of the trained prefix itself; a search finds the minimum from above, so
the bound is as good as the search, and a longer one lowers it. The best constant answer solves
$n!\,/\prod_dc_d!$ of the $8^n$ inputs, with counts $c_d$ as level as can be. Where inputs
are drawn as in the published code, one with at most $n/2$ different digits is twice as likely as
one with more: with $p$ the uniform share of the first kind the probabilities are $2/(1+p)$ and
$1/(1+p)$ times the uniform one. Dummy tokens of pretraining are keys of every query; a prefix
stands in their place, so that $t_i$ is the output on the content alone, at the positions behind
them.

*Tolerances.* Five per cent of all sequences is the least that anyone would call some learning. The
constant answer is counted over all inputs of up to six digits, and drawn to 0.001 for longer ones.
"""


# --- the closed form ---

RELAXED = 0.5
"""Least difference of the relaxed and the fine-tuned loss, in nats a symbol: the relaxed model
gives the right symbol at most e^-½ = 61 % of the fine-tuned one's probability (geometric mean)."""


def closed_form(*, length: int, input_law: str = "uniform") -> dict[str, Any]:
    """Limits of accuracies and losses, and the share of inputs that a constant answer solves."""
    return {
        "prefix_one": AtMost(FAILS),
        "prefix_ten": AtMost(FAILS),
        "fine_tune": AtLeast(LEARNS),
        "old_task": AtLeast(LEARNS),
        "relaxation": 1.0,
        "relaxed_excess": AtLeast(RELAXED),
        "constant_answer": constant_answer("desc", int(length), input_law),
    }


def _higher_constant_answer(predicted: Mapping[str, Any], parameters: Any) -> dict[str, Any]:
    return {**predicted, "constant_answer": predicted["constant_answer"] + 0.02}


FALSIFIERS = (
    Falsifier.after("one vector learns", "at least ½ with one vector",
                    state_instead(prefix_one=AtLeast(LEARNS))),
    Falsifier.after("ten vectors learn", "at least ½ with ten",
                    state_instead(prefix_ten=AtLeast(LEARNS))),
    Falsifier.after("nothing learns", "fine-tuning stays below 5 %",
                    state_instead(fine_tune=AtMost(FAILS))),
    Falsifier.after("constant answers win", "a constant answer solves 2 % more",
                    _higher_constant_answer),
    Falsifier.after("vacuous", "the relaxed loss is no bound", state_instead(relaxation=0.0)),
)  # fmt: skip


# --- training ---

BATCH = 64
"""Sequences in a training step, unless a run has fewer."""

BUDGETS = {"pretrain": 1e-3, "model": 1e-3, "prefix": 1e-2}
"""Learning rates. With half the sequences in a step the model's own are twice as large and a
prefix's four times; no others were tried."""


def plans(
    length: int,
    steps: int,
    copies: int,
    seed: tuple[int, ...],
    width: int = 48,
    input_law: str = "uniform",
    dummies: int = 0,
    batch: int = BATCH,
) -> dict[str, Plan]:
    """Pretraining on asc, and three ways to adapt to desc with equally many steps."""
    config = experiments.with_dummies(experiments.small_config(length, width=width), dummies)
    recipe = _recipe(steps, "pretrain", batch)
    base = experiments.plan_pretraining(config, ["asc"], recipe, copies, seed, input_law)

    def adapted(trains: str, added: Added) -> Plan:
        recipe = _recipe(steps, trains, batch)
        runs, base_runs = (("desc",),) * copies, tuple(range(copies))
        return Plan(config, trains, runs, recipe, seed, added, base, base_runs, input_law)

    return {
        "base": base,
        "fine_tune": adapted("model", Added()),
        "prefix_one": adapted("prefix", Added(prefix=1)),
        "prefix_ten": adapted("prefix", Added(prefix=10)),
    }


def _recipe(steps: int, kind: str, batch: int) -> Recipe:
    power = 2 if kind == "prefix" else 1
    return Recipe(steps, BUDGETS[kind] * (BATCH / batch) ** power, batch, falling=True)


BATCH_PARAMETER = Parameter(
    "batch", "integer", "sequences in a training step", low=32, high=BATCH, default=BATCH
)


# --- the simulation ---

EXAMPLES = 32
"""Test inputs of the relaxation."""


# No function of one trial: all seeds train in one program, and are kept for other claims.
def simulate(
    *, key: Key[Array, ""], trials: int, length: int, steps: int = 750, width: int = 48,
    input_law: str = "uniform", dummies: int = 0, batch: int = BATCH,
) -> dict[str, Estimate]:  # fmt: skip
    """Train `trials` seeds each way; accuracies are those of the seed that fits the claim worst.

    Standard errors are over test inputs. `relaxation` is the share of seeds whose relaxed loss is
    no higher than the trained prefix's; `relaxed_excess` the least difference, in nats a symbol,
    of the relaxed loss and the fine-tuned model's.
    """
    words = experiments.key_words(key)
    arms = plans(length, steps, trials, words, width, input_law, dummies, batch)
    trained = {name: experiments.train_or_load(plan) for name, plan in arms.items()}
    test_key, relax_key = jax.random.split(jax.random.fold_in(key, 7))

    def worst(arm: str, task: str, pick: Any) -> Estimate:
        accuracies = [
            experiments.accuracy(trained[arm], run, task, key=test_key) for run in range(trials)
        ]
        return pick(accuracies, key=lambda estimate: estimate.mean)

    losses = [
        _relaxed_and_trained_losses(trained, run, test_key, jax.random.fold_in(relax_key, run))
        for run in range(trials)
    ]
    holds = np.mean([bound <= prefix for bound, prefix, _ in losses])
    excess = min(bound - tuned for bound, _, tuned in losses)
    return {
        "old_task": worst("base", "asc", min),
        "fine_tune": worst("fine_tune", "desc", min),
        "prefix_one": worst("prefix_one", "desc", max),
        "prefix_ten": worst("prefix_ten", "desc", max),
        # Every seed must keep to the limit, so these are no samples of anything.
        "relaxation": exact_estimate(holds, trials),
        "relaxed_excess": exact_estimate(excess, trials),
        "constant_answer": experiments.constant_answer_share(
            "desc", length, key=jax.random.fold_in(key, 8), input_law=input_law
        ),
    }


def _relaxed_and_trained_losses(
    trained: Mapping[str, Trained], run: int, test_key: Array, key: Array
) -> tuple[float, float, float]:
    """Losses on the first test inputs: relaxation, trained one-vector prefix, fine-tuned model."""
    config, law = trained["base"].plan.config, trained["base"].plan.input_law
    inputs = experiments.draw_tests(experiments.TESTS, config.inputs, key=test_key, input_law=law)
    digits = inputs.digits[:EXAMPLES]
    solution = inputs.solutions["desc"][:EXAMPLES]

    def mean_loss(arm: str) -> float:
        # Over all test inputs, since that program is there already.
        scores = experiments.scores(trained[arm], run, "desc", key=test_key)
        return float(np.asarray(scores.losses)[:EXAMPLES].mean())

    bias = prefix_bias(config, trained["prefix_one"].parameters_of(run))
    relaxed, _ = relaxed_loss(
        config, trained["base"].parameters_of(run), digits, solution, bias, key=key
    )
    return float(relaxed), mean_loss("prefix_one"), mean_loss("fine_tune")


@functools.partial(jax.jit, static_argnums=0)
def prefix_bias(config: Config, state: Any) -> Float[Array, " d"]:
    """W_V s of a one-layer model with one prefix vector, all heads joined."""
    model = adaptation.model_of(config, Added(prefix=1), state)
    assert model.prefix is not None
    block, vector = model.blocks[0], model.prefix[...][0]
    return block.qkv(vector if block.norm is None else block.norm(vector))[0, 2 * config.width :]


STARTS, DESCENT, GRID = 4, 100, 9


@functools.partial(jax.jit, static_argnums=0)
def relaxed_loss(
    config: Config,
    state: Any,
    digits: Int[Array, "B n"],
    solution: Int[Array, "B n"],
    trained_bias: Float[Array, " d"],
    *,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Least mean loss with free masses and one shared bias, and the best accuracy, by search.

    For a one-layer, one-head model; `trained_bias` is one of the starts. Masses are taken from a
    grid of 9, which contains 0 and 1; float32.
    """
    model = adaptation.without_dummies(adaptation.model_of(config, Added(), state))
    length, block, trace = digits.shape[1], model.blocks[0], Trace([], [])
    content = jnp.concatenate([digits, solution[:, :-1]], axis=1)
    model(content, length, trace=trace)
    stream = trace.streams[0][:, -length:]
    alone = trace.attended[0].output[..., 0, :]
    grid = jnp.linspace(0.0, 1.0, GRID)[:, None, None, None]

    def logits_at(mass: Array, bias: Array) -> Array:
        after = stream + block.out(mass * bias + (1 - mass) * alone)
        hidden = jax.nn.gelu(block.wide(block.mlp_norm(after)), approximate=True)
        return _logits(model, after + block.narrow(hidden))

    def symbol_losses(logits: Array) -> Array:
        labels = jnp.broadcast_to(solution, logits.shape[:-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def losses(bias: Array, _: None) -> tuple[Array, Array]:
        logits = logits_at(grid, lax.stop_gradient(bias))
        right = (logits.argmax(-1) == solution).any(0).all(1).mean()
        # The least of several losses has the gradient of that one, which alone is differentiated.
        best = grid[symbol_losses(logits).argmin(axis=0), 0, 0]
        return symbol_losses(logits_at(best, bias)).mean(), right

    def search(bias: Array) -> tuple[Array, Array]:
        optimiser = optax.adam(0.1)
        _, (values, hits) = descend(losses, bias, optimiser, steps=DESCENT, has_aux=True)
        return values.min(), hits.max()

    scale = jnp.sqrt(jnp.square(alone).mean())
    starts = scale * jax.random.normal(key, (STARTS - 1, config.width), jnp.float32)
    least, right = lax.map(search, jnp.concatenate([trained_bias[None], starts]))
    return least.min(), right.max()


def _logits(model: Transformer, stream: Array) -> Array:
    return model.final_norm(stream) @ model.readout[...]


# --- the design ---

_PUBLISHED_SIZES = {"length": 10, "steps": 10_000, "width": 96}

CLAIM = Claim(
    id="prefix.new_task_limit",
    title="A prefix does not teach a one-layer model a new task",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IMPOSSIBILITY,
    source="Petrov et al., ICLR 2024; relaxation derived here",
    parameters=(
        Parameter("length", "integer", "digits of an input", "n", low=2, high=10),
        Parameter("steps", "integer", "training steps of every way, a multiple of 250",
                  low=adaptation.BLOCK, default=750),
        Parameter("width", "integer", "width of the model", "d", low=1, default=48),
        BATCH_PARAMETER,
        *experiments.pretraining_parameters(),
    ),
    quantities=(
        Quantity("prefix_one", "desc with a prefix of one vector, best seed: at most", 0.05,
                 side="predicted"),
        Quantity("prefix_ten", "desc with a prefix of ten, best seed: at most", 0.05,
                 side="predicted"),
        Quantity("fine_tune", "desc after fine-tuning, worst seed: at least", 0.05,
                 side="predicted"),
        Quantity("old_task", "asc after pretraining, worst seed: at least", 0.05,
                 side="predicted"),
        Quantity("relaxation", "share of seeds whose relaxed loss bounds the prefix's", 1e-9,
                 side="two"),
        Quantity("relaxed_excess", "relaxed loss above the fine-tuned one, nats: at least", 1e-9,
                 side="predicted"),
        Quantity("constant_answer", "share that the best constant answer solves",
                 experiments.count_tolerance(1e-3), side="two"),
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
        "quick": Design(Run(length=4, steps=250, batch=32), trials=2),
        "full": Design(
            Run(length=6, steps=5000, trials=8),
            Run(_PUBLISHED_SIZES),
            Run(length=4, steps=250, **experiments.PUBLISHED_PRETRAINING),
            trials=2,
        ),
    },
    cost="trained",
    figure=Panels(
        bars_against_limits(
            (("the new task (sort downwards)", "share of sequences solved",
              {"prefix_one": "prefix of 1", "prefix_ten": "prefix of 10",
               "fine_tune": "all parameters"}),
             ("the old task (sort upwards)", "share of sequences solved",
              {"old_task": "pretrained"}),
             ("the best any prefix can do", "loss above fine-tuning's, nats",
              {"relaxed_excess": "relaxed problem"})),
            level=("constant_answer", "best constant answer"),
        ),
        "A prefix cannot teach the new task; training all parameters can",
    ),
)  # fmt: skip
