"""Pictures for prefix.md: the least temperature, and how much attention a prefix gets.

    python docs/prefix_pictures.py [NAME ...]              computes and draws
    python docs/prefix_pictures.py [NAME ...] --from-data  redraws from NAME.csv

What prefix.md shows beside these are figures of claims. prefix_mass needs the extra `transformer`;
its small models have seeds of their own. The same versions give the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawing import Picture, main

from jaxprompt.core.figures import Mark, Panel
from jaxprompt.networks import minilm
from jaxprompt.networks.minilm import Adapter, Text
from jaxprompt.networks.transformer import Trace
from jaxprompt.prefix.claims import new_task_limit, token_selection
from jaxprompt.prefix.random_mass import mean_prefix_mass
from jaxprompt.prefix.training import (
    adaptation,
    encoder_layers,
    experiments,
    sentences,
    word_order,
)
from jaxprompt.stats import interval, mean_estimate

# --- the least temperature ---


def temperature_picture() -> Picture:
    """Share of symbols that the network reads right, and what theory says is the threshold."""
    length, vocabulary = 20, 94
    symbols = np.arange(1, vocabulary) / vocabulary
    heats = np.linspace(30, 42, 97)
    with jax.enable_x64(True):
        head = jax.vmap(
            jax.vmap(token_selection.leakage_and_reading, (None, None, 0, None)),
            (None, None, None, 0),
        )
        right = np.asarray(head(length, vocabulary, jnp.asarray(symbols), jnp.asarray(heats))[1])
    least = np.array([
        float(token_selection.closed_form(length=length, vocabulary=vocabulary, value=v)[
            "least_temperature"
        ])
        for v in symbols
    ])  # fmt: skip
    theory = [100 * float((least < heat).mean()) for heat in heats]
    last = float(least.max())
    marks = [
        Mark("line", heats, theory, label="theory"),
        Mark("points", heats[::3], 100 * right.mean(axis=1)[::3], label="the network", colour=1),
        Mark("vertical", [last], label=f"theory: all beyond {last:.3f}", colour=2),
    ]
    return Picture(
        [Panel(marks, "", "temperature", "symbols read right, %")],
        "Each symbol is read right beyond its own least temperature",
        f"{length} tokens, {vocabulary} symbols", 3.2,
    )  # fmt: skip


# --- the mass of a prefix ---

CONTENT = 16
"""Tokens of the content, where the length of the prefix varies."""


class Mass(NamedTuple):
    """A mean mass, with a 95 % Student interval over draws or models, and what theory says.

    Of fewer than three models `low` and `high` are the least and the largest.
    """

    panel: str
    series: str
    x: int
    mean: float
    low: float
    high: float
    theory: float


def mass_of(panel: str, series: str, x: int, draws: np.ndarray, theory: float) -> Mass:
    """One point from independent means."""
    estimate = mean_estimate(np.asarray(draws, float))
    low, high = interval(estimate) if len(draws) > 2 else (min(draws), max(draws))
    return Mass(panel, series, x, float(estimate.mean), float(low), float(high), theory)


LAWS = {
    "shift 2": {"shift": 2.0, "prefix_spread": 1.0, "content_spread": 1.0},
    "equal laws": {"shift": 0.0, "prefix_spread": 1.0, "content_spread": 1.0},
    "shift −2": {"shift": -2.0, "prefix_spread": 1.0, "content_spread": 1.0},
}
"""Laws of normal scores: the prefix's mean less the content's, and standard deviations."""

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
TRAINED_COPIES = 5


def random_masses() -> Iterator[Mass]:
    """Softmaxes of normal scores: against the length of the prefix, and of the content."""
    rng = np.random.default_rng(12)
    for name, law in LAWS.items():
        for panel, sizes in (("n", [(n, CONTENT) for n in LENGTHS]),
                             ("T", [(10, t) for t in LENGTHS])):  # fmt: skip
            for n, tokens in sizes:
                shift, s, r = law.values()
                prefix = np.exp(shift + s * rng.standard_normal((400, n))).sum(axis=1)
                content = np.exp(r * rng.standard_normal((400, tokens))).sum(axis=1)
                theory = float(mean_prefix_mass(n, tokens, **law))
                x = n if panel == "n" else tokens
                yield mass_of(panel, name, x, prefix / (prefix + content), theory)


def trained_masses() -> Iterator[Mass]:
    """The small models of `new_task_limit`: ten vectors as they start and after training."""
    plans = new_task_limit.plans(4, 250, TRAINED_COPIES, (2023, 1))
    trained = experiments.train_or_load(plans["prefix_ten"])
    config, added = trained.plan.config, trained.plan.added
    tests = experiments.draw_tests(512, config.inputs, key=jax.random.key(7))
    content = jnp.concatenate([tests.digits, tests.solutions["desc"][:, :-1]], axis=1)
    means: dict[str, list[np.ndarray]] = {"before training": [], "trained for desc": []}
    for run in range(TRAINED_COPIES):
        state = trained.parameters_of(run)
        start = adaptation.initial_state(config, added, key=jax.random.key(100 + run))
        own = {"before training": adaptation.replace_base(start, state), "trained for desc": state}
        for name, parameters in own.items():
            trace = Trace([], [])
            model = adaptation.model_of(config, added, jax.tree.map(jnp.asarray, parameters))
            adaptation.content_logits(model, content, trace=trace)
            mass = trace.attended[0].prefix.sum(axis=-1)
            means[name].append(np.asarray(mass).mean(axis=(0, 1)))
    for name, found in means.items():
        for place, draws in enumerate(np.stack(found, axis=1)):
            even = float(mean_prefix_mass(added.prefix, place + 1))
            yield mass_of("trained", name, place + 1, draws, even)


def encoder_masses() -> Iterator[Mass]:
    """MiniLM-L6: vectors of other sentences, normal vectors, and trained ones, by layer."""
    text = sentences.full_length_sentences(2 * encoder_layers.SENTENCES)
    others = Text(*(x[encoder_layers.SENTENCES :] for x in text))
    streams = np.asarray(minilm.encode(minilm.load_pretrained(), others).streams)
    layers, _, _, width = streams.shape
    flat = streams.reshape(layers, -1, width)

    def points(panel: str, series: str, prefixes: list[np.ndarray], x: int) -> Iterator[Mass]:
        made = [encoder_layers.measure_heads(Adapter(p), "float32") for p in prefixes]
        mass = np.stack([d.prefix_attention.sum(axis=-1).mean(axis=(1, 2, 3)) for d in made])
        theory = np.mean([normal_score_masses(d) for d in made], axis=0)
        if panel == "encoder n":
            yield mass_of(panel, series, x, mass.mean(axis=1), float(theory.mean()))
        else:
            for layer in range(layers):
                yield mass_of(panel, series, layer + 1, mass[:, layer], float(theory[layer]))

    for n in (1, 4, 16, 64):
        rng = np.random.default_rng(n)
        kinds = {
            "vectors of other sentences": [
                flat[:, rng.choice(flat.shape[1], n, replace=False)] for _ in range(8)
            ],
            "normal vectors": [
                rng.standard_normal((layers, n, width)).astype(np.float32) for _ in range(8)
            ],
        }
        for name, prefixes in kinds.items():
            yield from points("encoder n", name, prefixes, n)
            if n == 4:
                yield from points("encoder layer", name, prefixes, n)
    starts = word_order.adapt_from_starts(2, 4, 32, 256, key=jax.random.key(3))
    trained = [np.asarray(start.adapters["prefix"].prefix) for start in starts]
    yield from points("encoder layer", "trained, two starts", trained, 4)


def normal_score_masses(draws: object) -> np.ndarray:
    """Mean masses (L,) if scores were normal with each head's mean difference and deviations."""
    prefix, content = draws.prefix_scores, draws.content_scores
    over = (1, 3, 4)  # sentences, queries and keys: a number for each layer and head
    shift = prefix.mean(axis=over) - content.mean(axis=over)
    s = np.sqrt(prefix.var(axis=over))
    r = np.sqrt(content.var(axis=4).mean(axis=(1, 3)))
    n, tokens = prefix.shape[-1], content.shape[-1]
    return mean_prefix_mass(n, tokens, shift=shift, prefix_spread=s, content_spread=r).mean(axis=1)


def mass_picture() -> Picture:
    """Mean mass against the lengths of prefix and content, and layer by layer."""
    return picture_of([*random_masses(), *trained_masses(), *encoder_masses()])


def picture_of(masses: Sequence[Mass]) -> Picture:
    """The picture of these masses."""
    dense = np.unique(np.geomspace(1, 64, 40).round()).astype(int)

    def points(panel: str, series: str, colour: int, aside: float = 0.0, label: str = "") -> Mark:
        own = [row for row in masses if (row.panel, row.series) == (panel, series)]
        mean = np.array([row.mean for row in own])
        low = np.array([row.low for row in own])
        return Mark("points", [row.x + aside for row in own], mean, mean - low,
                    [row.high for row in own], label=label or series, colour=colour)  # fmt: skip

    by_length: list[list[Mark]] = [[], []]
    for panel, marks in zip(("n", "T"), by_length, strict=True):
        for colour, (name, law) in enumerate(LAWS.items()):
            sizes = (dense, CONTENT) if panel == "n" else (10, dense)
            mass = np.asarray(mean_prefix_mass(*sizes, **law), np.float64)
            marks.append(Mark("line", dense, mass, label=f"normal scores, {name}", colour=colour))
            marks.append(points(panel, name, colour, label=f"drawn, {name}"))
    for colour, name in enumerate(("before training", "trained for desc"), 3):
        by_length[1].append(points("trained", name, colour, label=f"small models {name}"))
    encoder: list[list[Mark]] = [[], []]
    for panel, marks in zip(("encoder n", "encoder layer"), encoder, strict=True):
        series = list(dict.fromkeys(row.series for row in masses if row.panel == panel))
        for place, name in enumerate(series):
            aside = 0.0 if panel == "encoder n" else 0.14 * (place - 1)
            own = [row for row in masses if (row.panel, row.series) == (panel, name)]
            marks.append(Mark("line", [row.x for row in own], [row.theory for row in own],
                              label=f"normal scores of {name}", colour=place + 4))  # fmt: skip
            marks.append(points(panel, name, place + 4, aside))
    encoder[0].append(
        Mark("line", dense, dense / (dense + CONTENT), label="equal laws, n / (n + T)")
    )
    encoder[1].append(Mark("level", y=[4 / (4 + CONTENT)], label="equal laws, n / (n + T)"))
    titles = ("scores drawn, T = 16", "drawn and trained, n = 10", "MiniLM, mean of six layers",
              "MiniLM, four vectors")  # fmt: skip
    labels = ("prefix vectors, n", "tokens, T", "prefix vectors, n", "layer")
    return Picture(
        [
            Panel(marks, title, label, "mean attention on the prefix", log_x=label != "layer",
                  y_range=(0.0, 1.0))
            for marks, title, label in zip([*by_length, *encoder], titles, labels, strict=True)
        ],
        "Equal laws of scores give a prefix n / (n + T) of the attention; shifts take or give",
        "lines: theory; points: means with 95 % interval, of the two trained prefixes both values; "
        "MiniLM: T = 16",
    )  # fmt: skip


PICTURES = {"prefix_temperature": temperature_picture, "prefix_mass": mass_picture}

if __name__ == "__main__":
    main(PICTURES, __doc__)
