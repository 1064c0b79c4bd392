"""Prompt or fine-tuning where samples are scarce: who chooses the rate decides.

    python benchmarks/scarce_samples.py pilot              (the rates of RICH_RATES; other seeds)
    python benchmarks/scarce_samples.py run [--out FILE]   (goes on where a run was stopped)
    python benchmarks/scarce_samples.py table [--out FILE]
    jaxprompt check benchmarks/scarce_samples.py --falsify

The network is the vision transformer of `contextual.image_context`, on tokens of the contextual
data law in place of patches. It is pretrained on sequences all of whose tokens show the class, and
adapted to n sequences with one such token among three irrelevant ones: by the prompt of the theory,
which is what the class token holds in every layer, or by fine-tuning everything. Every adaptation
is the same number of Adam steps, at each rate of a grid. Three rules choose the rate:

* *few*: 3-fold cross-validation on the n samples at hand, by the loss;
* *many*: the rate that is best at 1000 samples, found in a pilot on other seeds;
* *best*: the least test error, which no one can know.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import records
from jax import lax

import jaxprompt as jp
from jaxprompt.contextual.simulation import vision_transformer
from jaxprompt.errors import ParameterError
from jaxprompt.stats import half_width, mean_estimate

CLASSES, TOKENS, DIM = 6, 4, 16
CLASS_NORM = 2.5
"""Norm of the mean of each class; the noise of an entry is 1."""

RELEVANT = 1
"""Tokens that show the class after pretraining, where all do."""

LARGEST, TESTED, FOLDS = 1000, 500, 3
BATCH, STEPS, PRETRAINING_RATE = 16, 80, 0.01

WAYS = {"prompt": "deep_reader", "fine-tuning": "everything"}
RATES = ((0.01, 0.03, 0.1, 0.3, 1.0), (0.0003, 0.001, 0.003, 0.01, 0.03))
"""The grid of each way; steps of about a factor of three."""

Setting = tuple[int, int, float]
SAMPLES = (5, 20, 100, 400, 1000)
SETTINGS = ((8, 30, 4.0), (8, 400, 4.0), (32, 30, 4.0), (32, 400, 4.0), (32, 400, 1.5))
"""Width, steps of pretraining, and norm of the mean of irrelevant tokens."""

RICH_RATES = {
    (8, 30, 4.0): (1, 3),
    (8, 400, 4.0): (2, 4),
    (32, 30, 4.0): (2, 3),
    (32, 400, 4.0): (3, 3),
    (32, 400, 1.5): (2, 3),
}
"""Places in the grids that have the least mean error at 1000 samples in the pilot."""

MODELS, PILOT_MODELS = 16, 8
SEED, PILOT_SEED = 27, 7027
RULES = ("few", "few, by errors", "many", "best")


# --- the data and the network ---


def config_of(width: int) -> vision_transformer.Config:
    """Sizes of the network; it has no tokens beside those of the sequence."""
    side = round(TOKENS**0.5)
    return vision_transformer.Config(side, DIM, width, prompts=0, classes=CLASSES)


def draw_means(key: jax.Array, context: Any) -> jax.Array:
    """Means of the classes and, last, of irrelevant tokens, whose norm is `context`."""
    means = jax.random.normal(key, (CLASSES + 1, DIM))
    norms = jnp.full(CLASSES + 1, CLASS_NORM).at[CLASSES].set(context)
    return means / jnp.linalg.norm(means, axis=1, keepdims=True) * norms[:, None]


def draw_sequences(
    key: jax.Array, means: jax.Array, relevant: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """Sequences (count, tokens, dim) with `relevant` tokens at random places, and their labels."""
    label_key, place_key, noise_key = jax.random.split(key, 3)
    labels = jax.random.randint(label_key, (count,), 0, CLASSES)
    shows = jax.random.uniform(place_key, (count, TOKENS)).argsort(axis=1) < relevant
    noise = jax.random.normal(noise_key, (count, TOKENS, DIM))
    return means[jnp.where(shows, labels[:, None], CLASSES)] + noise, labels


def logits_of(width: int, weights: jax.Array, x: jax.Array) -> jax.Array:
    """The network's answers."""
    config = config_of(width)
    return vision_transformer.forward(
        config, weights, vision_transformer.prompt_mask(config), x
    ).logits


def losses_of(width: int, weights: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of each sequence."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(width, weights, x), y)


ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def train(
    width: int, start: jax.Array, moves: jax.Array, rate: Any, steps: Any,
    batch_at: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
) -> jax.Array:  # fmt: skip
    """Weights after Adam with a rate that falls to 0 along a cosine; `moves` masks what moves."""

    def step(index: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        weights, memory = carry
        x, y = batch_at(index)
        slope = jax.grad(lambda weights: losses_of(width, weights, x, y).mean())(weights)
        updates, memory = ADAM.update(slope * moves, memory)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * index / steps))
        return weights - rate * fall * moves * jnp.asarray(updates), memory

    return lax.fori_loop(0, steps, step, (start, ADAM.init(start)))[0]


def pretrain(key: jax.Array, means: jax.Array, width: int, steps: Any) -> jax.Array:
    """A network trained on fresh sequences all of whose tokens show the class."""
    start_key, data_key = jax.random.split(key)
    config = config_of(width)
    everything = jnp.asarray(vision_transformer.trainable_mask(config, "everything"))
    start = vision_transformer.initial(config, key=start_key)
    return train(
        width, start, everything, PRETRAINING_RATE, steps,
        lambda index: draw_sequences(jax.random.fold_in(data_key, index), means, TOKENS, BATCH),
    )  # fmt: skip


# --- adapting to n samples, with and without a fold ---


def training_rows(fold: Any, samples: Any) -> tuple[jax.Array, jax.Array]:
    """Rows to train on, first in an array of LARGEST, and how many.

    The samples are the first `samples` rows, and row r is held out in fold r mod 3. Fold 3 holds
    out nothing.
    """
    rows = jnp.arange(LARGEST)
    trained = (rows % FOLDS != fold) & (rows < samples)
    return (~trained).argsort(stable=True), trained.sum()


def held_out_sums(
    width: int, weights: jax.Array, x: jax.Array, y: jax.Array, fold: jax.Array, samples: Any
) -> jax.Array:
    """Sums of losses and of errors over the samples of a fold."""
    rows = jnp.arange(-(-LARGEST // FOLDS)) * FOLDS + fold
    there = jnp.minimum(rows, LARGEST - 1)
    answers = logits_of(width, weights, x[there])
    losses = optax.softmax_cross_entropy_with_integer_labels(answers, y[there])
    both = jnp.stack([losses, answers.argmax(axis=1) != y[there]])
    return jnp.where(rows < samples, both, 0.0).sum(axis=1)


def adapt(
    *, key: jax.Array, samples: Any, pretraining: Any, context: Any, width: int
) -> dict[str, jax.Array]:
    """One pretrained network, adapted to `samples` sequences in both ways at every rate.

    `errors` on fresh sequences, (ways, rates); `scores`, the mean loss and error held out in
    cross-validation, (ways, rates, 2); `clean` and `before`, errors of the pretrained network on
    sequences of both kinds. Sets of one network are nested.
    """
    means_key, network_key, sample_key, test_key, clean_key = jax.random.split(key, 5)
    means = draw_means(means_key, context)
    start = pretrain(network_key, means, width, pretraining)
    x, y = draw_sequences(sample_key, means, RELEVANT, LARGEST)
    fresh = draw_sequences(test_key, means, RELEVANT, TESTED)
    folds = jnp.arange(FOLDS + 1)
    rows, counts = jax.vmap(lambda fold: training_rows(fold, samples))(folds)

    def tune(moves: jax.Array, rate: jax.Array, fold: jax.Array) -> jax.Array:
        def batch_at(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            chosen = rows[fold][(index * BATCH + jnp.arange(BATCH)) % counts[fold]]
            return x[chosen], y[chosen]

        return train(width, start, moves, rate, STEPS, batch_at)

    def judge(moves: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        tuned = jax.vmap(lambda fold: tune(moves, rate, fold))(folds)
        held = jax.vmap(lambda w, fold: held_out_sums(width, w, x, y, fold, samples))
        return error_of(tuned[FOLDS], *fresh), held(tuned[:FOLDS], folds[:FOLDS]).sum(0) / samples

    def error_of(weights: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return (logits_of(width, weights, x).argmax(axis=1) != y).mean()

    config = config_of(width)
    masks = [vision_transformer.trainable_mask(config, way) for way in WAYS.values()]
    errors, scores = jax.vmap(jax.vmap(judge, (None, 0)))(jnp.stack(masks), jnp.array(RATES))
    clean = error_of(start, *draw_sequences(clean_key, means, TOKENS, TESTED))
    return {
        "errors": errors, "scores": scores, "clean": clean, "before": error_of(start, *fresh)
    }  # fmt: skip


def chosen_places(errors: Any, scores: Any, many: tuple[int, int]) -> dict[str, Any]:
    """The place in its grid that each rule chooses for each way, (…, ways)."""
    fixed = jnp.broadcast_to(jnp.array(many), errors.shape[:-1])
    places = (scores[..., 0].argmin(-1), scores[..., 1].argmin(-1), fixed, errors.argmin(-1))
    return dict(zip(RULES, places, strict=True))


def errors_by_rule(errors: Any, scores: Any, many: tuple[int, int]) -> dict[str, Any]:
    """Test errors of both ways, (…, ways), at the rate of each rule."""
    return {
        rule: jnp.take_along_axis(errors, place[..., None], axis=-1)[..., 0]
        for rule, place in chosen_places(errors, scores, many).items()
    }


EXPERIMENT = jp.per_trial(adapt, traced=("samples", "pretraining", "context"), dtype="float32")


# --- the claim ---

CLAIMED: Setting = (32, 30, 4.0)
"""The setting that the claim speaks of."""

SCARCE, AMPLE = 20, 400
"""The claim speaks of at most and of at least so many samples."""


def predicted_sides(*, samples: int) -> dict[str, float]:
    """Bounds of the mean difference: error of the prompt less that of fine-tuning."""
    if samples <= SCARCE:
        return {"few": jp.AtMost(0.0), "many": jp.AtMost(-0.05)}
    return {"few": jp.AtLeast(0.05), "many": jp.AtLeast(0.05)}


def refuse_between(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The claim is silent where neither way is ahead in every setting of the table."""
    if SCARCE < values["samples"] < AMPLE:
        raise ParameterError(
            "samples", values["samples"], f"at most {SCARCE} or at least {AMPLE}",
            "choose fewer or more",
        )  # fmt: skip
    return values


def measure_leads(*, key: jax.Array, samples: Any) -> dict[str, jax.Array]:
    """Differences of one pretrained network, under two rules."""
    width, pretraining, context = CLAIMED
    cell = adapt(key=key, samples=samples, pretraining=pretraining, context=context, width=width)
    errors = errors_by_rule(cell["errors"], cell["scores"], RICH_RATES[CLAIMED])
    return {rule: errors[rule][0] - errors[rule][1] for rule in ("few", "many")}


CLAIM = jp.Claim(
    id="benchmark.scarce_samples",
    title="Prompt or fine-tuning where samples are scarce",
    statement=r"""
With at most 20 samples the tuned prompt is not behind fine-tuning where cross-validation on these
samples chooses both rates, and ahead by 0.05 of error where the rates are those that are best with
1000 samples. With at least 400 samples fine-tuning is ahead by 0.05 under both rules.
""",
    derivation="""
Nothing is derived: the sides are those of the intervals in benchmarks/scarce_samples.md, from other
seeds. *Tolerance.* 0.05 of error, the steps in which the statement speaks.
""",
    relation=jp.Relation.BOUND,
    source="Oymak et al., On the role of attention in prompt-tuning (ICML 2023), as a question",
    parameters=(
        jp.Parameter("samples", "integer", "samples at hand", "n", low=FOLDS, high=LARGEST),
    ),
    quantities=(
        jp.Quantity("few", "difference at rates by cross-validation", tolerance=0.05),
        jp.Quantity("many", "difference at rates for 1000 samples", tolerance=0.05),
    ),
    falsifiers=(
        jp.Falsifier(
            "never", "fine-tuning is not behind, however few samples",
            lambda samples: {"few": jp.AtLeast(0.0), "many": jp.AtLeast(0.0)},
        ),
        jp.Falsifier(
            "always", "the prompt is not behind, however many samples",
            lambda samples: {"few": jp.AtMost(0.0), "many": jp.AtMost(0.0)},
        ),
        jp.Falsifier.after(
            "harmless", "the rate for many samples costs fine-tuning at most 0.05",
            lambda predicted, where: {**predicted, "many": jp.AtLeast(-0.05)},
        ),
    ),
    closed_form=predicted_sides,
    check_parameters=refuse_between,
    simulation=jp.per_trial(measure_leads, traced=("samples",), dtype="float32"),
    designs={
        "quick": jp.Design(jp.Run(samples=20, trials=80), jp.Run(samples=1000, trials=16))
    },
    figure=jp.Evidence(),
)  # fmt: skip


# --- the table ---


class Cell(NamedTuple):
    """What the models of one setting do with n samples; arrays (models, …)."""

    setting: Setting
    errors: np.ndarray
    scores: np.ndarray
    clean: np.ndarray
    before: np.ndarray

    def errors_by(self, rule: str) -> np.ndarray:
        """Errors of both ways, (models, 2)."""
        return np.asarray(errors_by_rule(self.errors, self.scores, RICH_RATES[self.setting])[rule])

    def places_by(self, rule: str) -> np.ndarray:
        """Places in both grids, (models, 2)."""
        return np.asarray(chosen_places(self.errors, self.scores, RICH_RATES[self.setting])[rule])


def measure(setting: Setting, samples: int, *, seed: int, models: int) -> Cell:
    """The numbers of some pretrained networks, which are the same for all numbers of samples."""
    width, pretraining, context = setting
    values = EXPERIMENT.trial_values(
        key=jax.random.key(seed, impl="threefry2x32"), trials=models, width=width,
        pretraining=pretraining, context=context, samples=samples,
    )  # fmt: skip
    return Cell(setting, **values)


def stored_cells(path: Path) -> dict[tuple[Setting, int], Cell]:
    """What a run has stored."""
    cells: dict[tuple[Setting, int], Cell] = {}
    for row in records.read(path):
        width, pretraining, context = row.pop("setting")
        setting, samples = (width, pretraining, context), row.pop("samples")
        arrays = {name: np.array(values) for name, values in row.items()}
        cells[setting, samples] = Cell(setting, **arrays)
    return cells


def run(path: Path) -> None:
    """Measure what the file does not hold yet."""
    done = stored_cells(path)
    for setting in SETTINGS:
        for samples in SAMPLES:
            if (setting, samples) not in done:
                cell = measure(setting, samples, seed=SEED, models=MODELS)
                row = {n: x.tolist() for n, x in cell._asdict().items() if n != "setting"}
                records.append(path, {"setting": setting, "samples": samples} | row)
                print(line_of(name_of(setting), samples, [cell]), flush=True)


def name_of(setting: Setting) -> str:
    """A setting in a table."""
    return " · ".join(map(str, setting))


def interval_text(values: np.ndarray) -> str:
    """Mean and half width of the 95 % t-interval."""
    estimate = mean_estimate(values)
    sign = "−" if estimate.mean < 0 else ""
    half = half_width(estimate.stderr, len(values) - 1)
    return f"{sign}{abs(estimate.mean):.3f} ± {half:.3f}"


def line_of(name: str, samples: int, cells: list[Cell]) -> str:
    """A line of the table: the mean of some cells, whose models share their random numbers."""
    columns = [name, str(samples), f"{np.mean([cell.before for cell in cells]):.3f}"]
    for rule in RULES:
        errors = np.mean([cell.errors_by(rule) for cell in cells], axis=0)
        prompt, tuned = errors.mean(axis=0)
        columns += [f"{prompt:.3f} · {tuned:.3f}", interval_text(errors[:, 0] - errors[:, 1])]
    return "| " + " | ".join(columns) + " |"


def print_table(path: Path) -> None:
    """The table of benchmarks/scarce_samples.md, and what each rule chooses."""
    cells = stored_cells(path)
    heads = ["width · pretraining · context", "n", "before"]
    heads += [head for rule in RULES for head in (rule, "difference")]
    print("| " + " | ".join(heads) + " |\n| " + " | ".join("---" for _ in heads) + " |")
    for setting, samples in cells:
        print(line_of(name_of(setting), samples, [cells[setting, samples]]))
    strong = SETTINGS[:4]
    for samples in SAMPLES:
        of_strong = [cells[setting, samples] for setting in strong]
        print(line_of("mean of the first four", samples, of_strong))
    print("\nErrors on sequences of pretraining:")
    for setting in SETTINGS:
        print(name_of(setting), round(cells[setting, SAMPLES[0]].clean.mean(), 4))
    print("\nHow often the first four settings choose each rate, in the order of the grids:")
    for samples in SAMPLES:
        for rule in RULES:
            of_strong = [cells[setting, samples] for setting in strong]
            places = np.concatenate([cell.places_by(rule) for cell in of_strong])
            counts = [
                np.bincount(places[:, way], minlength=len(RATES[way])).tolist()
                for way in range(len(WAYS))
            ]
            print(samples, rule, *counts)


def print_pilot() -> None:
    """The mean test error at 1000 samples at every rate, on seeds of the pilot, and RICH_RATES."""
    for setting in SETTINGS:
        cell = measure(setting, LARGEST, seed=PILOT_SEED, models=PILOT_MODELS)
        errors = cell.errors.mean(axis=0)
        print(name_of(setting), errors.round(3).tolist(), errors.argmin(-1).tolist(), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Prompt or fine-tuning where samples are scarce.")
    parser.add_argument("what", choices=("pilot", "run", "table"))
    parser.add_argument("--out", type=Path, default=Path("scarce_samples.jsonl"))
    given = parser.parse_args()
    if given.what == "pilot":
        print_pilot()
    elif given.what == "run":
        run(given.out)
    else:
        print_table(given.out)


if __name__ == "__main__":
    main()
