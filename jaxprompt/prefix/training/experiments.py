"""Training experiments: pretrain once, adapt under one budget, and read off exact-match accuracy.

Trained parameters are kept under the hash of everything that made them: sizes, tasks, recipe,
seeds, what they started from, versions and device. So nothing is trained twice, and one
experiment can never load another's weights.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.cache_folder import cache_folder, make_folder, write_atomically
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.compute.threefry import unrolled
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.transformer import Added, Config
from jaxprompt.prefix.training import adaptation, tasks
from jaxprompt.prefix.training.adaptation import Recipe
from jaxprompt.prefix.training.constant_answer import INPUT_LAWS, input_of_commonest_answer
from jaxprompt.stats import Estimate, exact_estimate, mean_estimate, proportion_estimate

__all__ = [
    "PUBLISHED_PRETRAINING",
    "Plan",
    "Tests",
    "Trained",
    "accuracy",
    "constant_answer_share",
    "count_tolerance",
    "draw_tests",
    "key_words",
    "mean_test_loss",
    "plan_pretraining",
    "pretraining_parameters",
    "scores",
    "small_config",
    "state_instead",
    "task_ambiguity",
    "train_or_load",
    "with_dummies",
]

ORDER = tuple(tasks.TASKS)
"""Tasks in the order of a run's shares."""

MOST_DUMMIES = 64
"""Most dummy tokens in front of the digits; the published settings have up to twelve."""

FORMAT = 2
"""Version of stored files: it grows when a plan changes its meaning; older files are not read."""


PUBLISHED_PRETRAINING: dict[str, Any] = {"input_law": "published", "dummies": 1}
"""The published law of the inputs, and a dummy token for a prefix of one vector."""


def pretraining_parameters() -> tuple[Parameter, Parameter]:
    """Parameters of claims that pretrain a model: what the published code does in another way."""
    return (
        Parameter("input_law", "choice", "law of the digits: uniform, or drawn again as in the "
                  "published code while many differ", choices=INPUT_LAWS, default="uniform"),
        Parameter("dummies", "integer", "dummy tokens in front of the digits in pretraining, whose "
                  "place a prefix takes; the published code has one for each prefix vector",
                  low=0, high=MOST_DUMMIES, default=0),
    )  # fmt: skip


def small_config(length: int, layers: int = 1, heads: int = 1, width: int = 48) -> Config:
    """Sizes of a small model for `length` digits."""
    return Config(layers, heads, width, length, 2 * length - 1, tasks.SYMBOLS)


def with_dummies(config: Config, dummies: int) -> Config:
    """The same sizes, with positions in front of the digits for so many dummy tokens."""
    return dataclasses.replace(config, positions=config.positions + dummies)


@dataclass(frozen=True)
class Plan:
    """One training: which parameters move, on which tasks (a tuple for each run), and from where.

    A run whose tuple has several names trains on their mixture. `base` is the plan of the models
    to start from: run r starts from run ``base_runs[r]`` of it. Inputs for training and for testing
    follow `input_law`.
    """

    config: Config
    trains: str
    runs: tuple[tuple[str, ...], ...]
    recipe: Recipe
    seed: tuple[int, ...]
    added: Added = Added()  # noqa: RUF009
    base: Plan | None = None
    base_runs: tuple[int, ...] = ()
    input_law: str = "uniform"

    def describe(self) -> dict[str, Any]:
        """Everything the result depends on, as plain values."""
        return {
            "format": FORMAT,
            "plan": _plain_plan(dataclasses.asdict(self)),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "block": adaptation.BLOCK,
        }

    def digest(self) -> str:
        """SHA-256 of :meth:`describe`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()


def _plain_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan without what is younger than plans and at its default, so that those keep their
    digest: the law of uniform inputs, and GPT-2's deviation of initial matrices."""
    base, config = plan["base"], dict(plan["config"])
    plain = {**plan, "base": base and _plain_plan(base), "config": config}
    if plain["input_law"] == "uniform":
        del plain["input_law"]
    if config["initial_deviation"] == Config.initial_deviation:
        del config["initial_deviation"]
    return plain


@dataclass(frozen=True)
class Trained:
    """Parameters of every run (a leading axis), and the mean loss of each block of steps."""

    plan: Plan
    state: Any
    losses: np.ndarray

    def parameters_of(self, run: int) -> Any:
        """Parameters of one run."""
        return jax.tree.map(lambda x: x[run], self.state)


@functools.lru_cache(maxsize=32)
def train_or_load(plan: Plan) -> Trained:
    """The result of a plan: from memory, from disk, or by training (float32)."""
    keys, init_keys = _run_keys(len(plan.runs), _plan_key_words(plan))
    start = adaptation.initial_states(plan.config, plan.added, init_keys)
    if plan.base is not None:
        base_runs = np.asarray(plan.base_runs)
        base = jax.tree.map(lambda x: x[base_runs], train_or_load(plan.base).state)
        start = adaptation.replace_base(start, base)
    stored = _load(plan, start)
    if stored is not None:
        return stored
    names = tuple(name for name in ORDER if any(name in mixture for mixture in plan.runs))
    shares = np.array(
        [[(name in mixture) / len(mixture) for name in names] for mixture in plan.runs]
    )
    outcome = adaptation.train(
        plan.config, plan.added, start, [plan.trains], names, shares, plan.recipe, key=keys,
        input_law=plan.input_law,
    )  # fmt: skip
    trained = Trained(plan, outcome.state, outcome.losses)
    _store(trained)
    return trained


@functools.partial(jax.jit, static_argnums=0, compiler_options=RUN_ONCE_OPTIONS)
def _run_keys(runs: int, words: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of every run: for its data, and for its initial parameters."""
    keys = jax.random.split(unrolled(jax.random.wrap_key_data(words, impl="threefry2x32")), runs)
    return keys, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)


def _plan_key_words(plan: Plan) -> np.ndarray:
    words = np.frombuffer(bytes.fromhex(plan.digest())[:8], np.uint32)
    return words ^ np.asarray([*plan.seed, 0, 0][:2], np.uint32)


def _load(plan: Plan, like: Any) -> Trained | None:
    """A plan's result from the cache; None if there is none, or if the file is damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    leaves, tree = jax.tree.flatten(like)
    try:
        path = folder / f"{plan.digest()}.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if json.loads(str(data["plan"])) != json.loads(json.dumps(plan.describe())):
                return None
            arrays = [data[f"leaf_{i}"] for i in range(len(leaves))]
            losses = data["losses"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile):
        return None  # no such file, or a damaged one: the plan is trained again
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(arrays, leaves, strict=True)):
        return None
    return Trained(plan, jax.tree.unflatten(tree, arrays), losses)


def _store(trained: Trained) -> None:
    """Keep the parameters on disk, if there is a cache and room in it."""
    folder = cache_folder()
    if folder is None or not make_folder(folder):
        return
    leaves = {f"leaf_{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(trained.state))}
    buffer = io.BytesIO()
    description = json.dumps(trained.plan.describe())
    np.savez(buffer, allow_pickle=False, plan=description, losses=trained.losses, **leaves)
    write_atomically(folder / f"{trained.plan.digest()}.npz", buffer.getvalue())


TESTS = 4096
"""Fresh test inputs behind every accuracy: a standard error of at most 0.8 %."""


def accuracy(
    trained: Trained, run: int, task: str, *, key: jax.Array, tests: int = TESTS
) -> Estimate:
    """Share of test inputs that one run solves wholly by greedy decoding: a proportion."""
    solved = scores(trained, run, task, key=key, tests=tests).solved
    return proportion_estimate(int(np.asarray(solved).sum()), tests)


def scores(
    trained: Trained, run: int, task: str, *, key: jax.Array, tests: int = TESTS
) -> adaptation.Scores:
    """How one run does on each of the test inputs that `key` draws by the law of its plan.

    The model reads each input once, however often it was drawn: four digits have 1024 test inputs.
    """
    plan, state = trained.plan, trained.parameters_of(run)
    inputs = draw_tests(tests, plan.config.inputs, key=key, input_law=plan.input_law)
    rows, place = _different_inputs(np.asarray(inputs.digits))
    found = adaptation.score(
        plan.config, plan.added, state, inputs.digits[rows], inputs.solutions[task][rows]
    )
    return adaptation.Scores(*(np.asarray(values)[place] for values in found))


def _different_inputs(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that hold every different test input, and where among these each input is.

    As many rows whatever was drawn, so that one program serves: all test inputs of this length, of
    which some may be missing and another stands twice. All rows, where no fewer do.
    """
    count, length = digits.shape
    most = tasks.test_inputs(length)
    if most >= count:
        return np.arange(count), np.arange(count)
    codes = digits @ tasks.DIGITS ** np.arange(length)
    _, rows, place = np.unique(codes, return_index=True, return_inverse=True)
    return np.resize(rows, most), place


def mean_test_loss(
    trained: Trained, run: int, mixture: Sequence[str], *, key: jax.Array
) -> Estimate:
    """Mean cross-entropy of one run on test inputs, each with all tasks of the mixture."""
    each = [np.asarray(scores(trained, run, name, key=key).losses) for name in mixture]
    return mean_estimate(np.mean(each, axis=0))


class Tests(NamedTuple):
    """Test inputs, and their solution of every task."""

    digits: jax.Array | np.ndarray
    solutions: dict[str, jax.Array | np.ndarray]


def draw_tests(count: int, length: int, *, key: jax.Array, input_law: str = "uniform") -> Tests:
    """`count` test inputs of `length` digits; fewer from the same key are the first of them."""
    return _kept_tests(count, length, input_law, key_words(key))


@functools.lru_cache(maxsize=8)
def _kept_tests(count: int, length: int, input_law: str, words: tuple[int, ...]) -> Tests:
    """Drawn once for all models that are tested on them."""
    drawn = _draw_tests(count, length, input_law, np.asarray(words, np.uint32))
    return jax.tree.map(np.asarray, drawn)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=RUN_ONCE_OPTIONS)
def _draw_tests(count: int, length: int, input_law: str, words: jax.Array) -> Tests:
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    digits = tasks.draw_inputs(count, length, key=key, test=True, law=input_law)
    return Tests(digits, {name: tasks.solve_all(name, digits) for name in ORDER})


LEARNS, FAILS = 0.5, 0.05
"""A task counts as learned if half of all sequences are wholly right, as not learned below 5 %."""

MAX_COUNTED_INPUTS = 2**19
"""Up to so many inputs all are counted; of more, so many are drawn: a standard error of 4e-4 at a
share of 8 %."""

COUNT_ROUNDING = 64 * 2.0**-52
"""Relative rounding of a mean over all inputs."""


def _counts_all(length: int) -> bool:
    """Whether all inputs of `length` digits are counted."""
    return tasks.DIGITS**length <= MAX_COUNTED_INPUTS


def constant_answer_share(
    task: str, length: int, *, key: jax.Array, input_law: str = "uniform"
) -> Estimate:
    """Share of inputs that the commonest answer solves.

    Counted over all inputs, so exact, where there are no more than :data:`MAX_COUNTED_INPUTS`;
    else a proportion of that many draws, or of those that the published law keeps.
    """
    if not _counts_all(length):
        successes, drawn = _count_commonest_answer(task, length, input_law, key)
        return proportion_estimate(int(successes), int(drawn))
    every = _all_inputs(length)
    weights = _input_weights(every, input_law)
    count = tasks.DIGITS**length
    total = count if weights is None else weights.sum()
    shares = np.bincount(_answers(task, every), weights)
    return exact_estimate(float(shares.max()) / float(total), count)


def _all_inputs(length: int) -> np.ndarray:
    """Every input of `length` digits (int32)."""
    powers = tasks.DIGITS ** np.arange(length)
    return (np.arange(tasks.DIGITS**length)[:, None] // powers % tasks.DIGITS).astype(np.int32)


def _input_weights(inputs: np.ndarray, input_law: str) -> np.ndarray | None:
    """How likely inputs are, up to a factor; None if all are equally likely."""
    if input_law == "uniform":
        return None
    return np.where(np.asarray(tasks.many_digits(jnp.asarray(inputs))), 0.5, 1.0)


def _answers(task: str, inputs: np.ndarray) -> np.ndarray:
    """The solution of every input, as one number each."""
    solutions = np.asarray(tasks.solve_all(task, jnp.asarray(inputs)), np.int64)
    return solutions @ tasks.SYMBOLS ** np.arange(inputs.shape[1])


def task_ambiguity(
    mixture: Sequence[str], length: int, input_law: str = "uniform"
) -> dict[str, Estimate]:
    """How ambiguous an even mixture of tasks is for a model that is not told the task.

    `entropy` is that of the solution given the input, in nats a symbol; `one_answer` is the
    largest share of the tasks that a single answer to the input can solve. Both are counted over
    all inputs, so they are exact. Empty where there are more inputs than
    :data:`MAX_COUNTED_INPUTS`.
    """
    if not _counts_all(length):
        return {}
    count, every = tasks.DIGITS**length, _all_inputs(length)
    weights = _input_weights(every, input_law)
    answers = np.stack([_answers(task, every) for task in mixture])
    # How many tasks have the answer that this one has: a share of these is its probability.
    alike = (answers[:, None] == answers).sum(axis=1) / len(mixture)
    return {
        "entropy": exact_estimate(_mean_over_inputs(-np.log(alike), weights) / length, count),
        "one_answer": exact_estimate(_mean_over_inputs(alike.max(axis=0), weights), count),
    }


def _mean_over_inputs(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean over the last axis, which is that of the inputs, and over any other."""
    if weights is None:
        return float(values.mean())
    return float(np.average(values, weights=np.broadcast_to(weights, values.shape)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _count_commonest_answer(
    task: str, length: int, input_law: str, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How many draws the commonest answer solves, of how many."""
    # Both parts of the split, in their proportions.
    tests = MAX_COUNTED_INPUTS // 4
    first, second = jax.random.split(unrolled(key))
    commonest = input_of_commonest_answer(task, length, input_law)
    answer = tasks.solve(task, jnp.asarray(commonest, jnp.int32))
    right, drawn = jnp.int32(0), jnp.int32(0)
    sides = ((first, tests, True), (second, MAX_COUNTED_INPUTS - tests, False))
    for side_key, count, test in sides:
        digits = tasks.draw_inputs(count, length, key=side_key, test=test)
        kept = jnp.ones(count, bool)
        if input_law == "published":
            # What is thrown away is left out, not drawn again: that gives the same law.
            coin = jax.random.bernoulli(jax.random.fold_in(side_key, 1), shape=(count,))
            kept = ~tasks.many_digits(digits) | coin
        solved = (tasks.solve_all(task, digits) == answer).all(axis=1)
        right, drawn = right + (solved & kept).sum(), drawn + kept.sum()
    return right, drawn


def key_words(key: jax.Array) -> tuple[int, ...]:
    """A key as whole numbers, to be part of a plan."""
    return tuple(int(word) for word in np.asarray(jax.random.key_data(key)))


def plan_pretraining(
    config: Config,
    mixture: Sequence[str],
    recipe: Recipe,
    copies: int,
    seed: tuple[int, ...],
    input_law: str = "uniform",
) -> Plan:
    """Plan of `copies` models trained on the mixture from different starts."""
    runs = (tuple(mixture),) * copies
    return Plan(config, "model", runs, recipe, seed, input_law=input_law)


def state_instead(**statements: float) -> Callable[[Mapping[str, Any], Any], Mapping[str, Any]]:
    """What a falsifier changes: it states these limits or values in place of the theory's.

    Quantities that the theory predicts nothing of at a point stay out.
    """

    def change(predicted: Mapping[str, Any], parameters: Any) -> Mapping[str, Any]:
        return {name: statements.get(name, value) for name, value in predicted.items()}

    return change


def count_tolerance(when_drawn: float) -> Callable[[Mapping[str, Any]], float]:
    """Tolerance of a share of all inputs: none where they are counted, `when_drawn` elsewhere."""

    def tolerance(parameters: Mapping[str, Any]) -> float:
        return 0.0 if _counts_all(parameters["length"]) else when_drawn

    tolerance.__doc__ = f"rounding where all inputs are counted, else {when_drawn:g}"
    return tolerance
