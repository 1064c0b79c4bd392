"""Pictures for prefix.md: attention, accuracies, bias, least temperature, mass of a prefix.

    python docs/prefix_pictures.py [FOLDER]             the last from its stored numbers
    python docs/prefix_pictures.py [FOLDER] --measure   after measuring those again

Writes prefix_attention.png, prefix_accuracy.png, prefix_bias.png, prefix_temperature.png and
prefix_mass.png, and with ``--measure`` prefix_mass.csv, which needs the extra `transformer`. The
small models are those of the quick check at seed 0, from the cache if it has run; the masses have
five of their own. Everything is seeded; the same versions give the same pictures.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawing import log_axis, panels
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxprompt as jp
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.networks import minilm
from jaxprompt.networks.attention_layer import Projections, attend
from jaxprompt.networks.minilm import Adapter, Text
from jaxprompt.networks.transformer import Added, Config, Trace
from jaxprompt.prefix.claims import new_task_limit, skill_selection, token_selection
from jaxprompt.prefix.random_mass import mean_prefix_mass
from jaxprompt.prefix.training import (
    adaptation,
    encoder_layers,
    experiments,
    sentences,
    tasks,
    word_order,
)
from jaxprompt.prefix.training.experiments import Trained
from jaxprompt.stats import interval, mean_estimate

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
Z95 = 1.96


def new_figure(*size: float) -> Figure:
    """An empty figure that needs no display."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a PNG without dates or versions in it."""
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def check_key(claim: str) -> tuple[jax.Array, dict]:
    """Key and parameters of the quick check of a claim that trains, at seed 0."""
    (run,) = jp.claim(claim).designs["quick"].runs
    return fold_in_parameters(as_key(0), run), dict(run)


# --- attention ---


def draw_attention(folder: Path) -> None:
    """Patterns of a head without and with a prefix, and the ratio, which is flat along rows."""
    config = Config(1, 1, 24, 10, 10, tasks.SYMBOLS)
    model = adaptation.sharp_random_model(config, Added(prefix=3), key=jax.random.key(4))
    assert model.prefix is not None
    tokens = jax.random.randint(jax.random.key(5), (10,), 0, 8)
    full, base = Trace([], []), Trace([], [])
    model(tokens, trace=full)
    model.prefix = None
    model(tokens, trace=base)
    alone = np.asarray(base.attended[0].content[0])
    content = np.asarray(full.attended[0].content[0])
    seen = np.tri(10, dtype=bool)
    ratio = np.where(seen, content, np.nan) / np.where(seen, alone, 1)
    joint = np.concatenate([np.asarray(full.attended[0].prefix[0]), content], axis=1)
    hidden = np.concatenate([np.ones((10, 3), bool), seen], axis=1)
    figure = new_figure(11, 3.4)
    axes = figure.subplots(1, 3, width_ratios=(10, 13, 10))
    panels = (
        (np.where(seen, alone, np.nan), "without prefix: $A_{ij}$", 0),
        (np.where(hidden, joint, np.nan), "with prefix: $A^{pt}$", 3),
        (ratio, "ratio $A^{pt}_{ij}/A_{ij} = 1-\\alpha_i$", 0),
    )
    for axis, (image, title, extra) in zip(axes, panels, strict=True):
        shown = axis.imshow(image, vmin=0, vmax=1, cmap="cividis")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("prefix | content j" if extra else "content j")
        axis.set_xticks(range(10 + extra), [*("s" * extra), *map(str, range(10))], fontsize=7)
        axis.set_yticks(range(10), [str(i) for i in range(10)], fontsize=7)
        if extra:
            axis.axvline(extra - 0.5, color="#d55e00", linewidth=2)
    axes[0].set_ylabel("query i")
    figure.colorbar(shown, ax=axes, shrink=0.85)
    save(figure, folder, "prefix_attention")


# --- accuracies ---


def table(axis: Axes, rows: list[tuple[str, Trained, int]], names: list[str], title: str) -> None:
    """Accuracies of models (rows) on tasks (columns), in per cent with 95 % intervals."""
    key = jax.random.key(11)
    found = [
        [experiments.accuracy(made, run, name, key=key) for name in names] for _, made, run in rows
    ]
    means = np.array([[float(e.mean) for e in row] for row in found])
    axis.imshow(means, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for r, row in enumerate(found):
        for c, estimate in enumerate(row):
            text = f"{100 * means[r, c]:.1f}\n± {100 * Z95 * float(estimate.stderr):.1f}"
            colour = "black" if means[r, c] > 0.5 else "white"
            axis.text(c, r, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("tested on")


def draw_accuracy(folder: Path) -> None:
    """What is solved, for each way to pretrain and adapt."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    key, run = check_key("prefix.new_task_limit")
    made = {
        name: experiments.train_or_load(plan)
        for name, plan in new_task_limit.plans(
            run["length"], run["steps"], jp.claim("prefix.new_task_limit").designs["quick"].trials,
            experiments.key_words(key),
        ).items()
    }  # fmt: skip
    arms = {
        "nothing": "base",
        "prefix of 1\non desc": "prefix_one",
        "prefix of 10\non desc": "prefix_ten",
        "all parameters\non desc": "fine_tune",
    }
    rows = [(label, made[arm], 0) for label, arm in arms.items()]
    table(left, rows, ["asc", "desc"], "pretrained on asc (1 layer, n = 6)")
    left.set_ylabel("adapted")
    key, run = check_key("prefix.skill_selection")
    plans = skill_selection.plans(run["length"], run["steps"], experiments.key_words(key))
    base, prefixed = map(experiments.train_or_load, plans)
    known = list(skill_selection.KNOWN)
    chosen = skill_selection.best_runs(prefixed)
    rows = [("nothing", base, 0), *((f"prefix of 1\non {x}", prefixed, run)
            for x, run in zip(known, chosen, strict=True))]  # fmt: skip
    title = f"pretrained on all four (2 layers, n = {run['length']})"
    table(right, rows, known, title)
    save(figure, folder, "prefix_accuracy")


# --- the room of the bias ---


def biases(count: int, heads: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Joined biases (192, d) of a random layer with d = 16, and the values of its prefix."""
    d = 16
    parts = jax.random.split(key, 3)
    kernel = 1.5 * jax.random.normal(parts[0], (d, 3 * d)) / np.sqrt(d)
    weights = Projections(kernel, jnp.zeros(3 * d))
    content = jax.random.normal(parts[1], (16, 12, d))
    prefix = jax.random.normal(parts[2], (count, d))
    found = attend(weights, content, prefix, heads=heads, causal=True)
    values = (prefix @ kernel[:, 2 * d :]).reshape(count, heads, -1)
    bias = jnp.einsum("bhtn,nhv->bthv", found.prefix, values)
    return np.asarray(bias).reshape(-1, d), np.asarray(values).reshape(count, d)


def draw_bias(folder: Path) -> None:
    """Biases of prefixes of one to three vectors in a plane, and singular values of many."""
    figure = new_figure(10, 3.8)
    plane, spectrum = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for count, colour in zip((1, 2, 3), COLOURS, strict=False):
        bias, values = biases(count, 1, jax.random.key(20 + count))
        axes = np.linalg.svd(values, full_matrices=False)[2]
        axes = axes[:2] if len(axes) > 1 else np.vstack([axes, np.zeros_like(axes)])
        scale = np.linalg.norm(values, axis=1).max()
        points, corners = bias @ axes.T / scale, values @ axes.T / scale
        if count == 1:
            points, corners = points * np.sign(corners[0, 0]), np.abs(corners)
        corner = np.array([0, 1.7 * (1 - count)])
        points, corners = points + corner, corners + corner
        plane.scatter(*points.T, s=7, color=colour, alpha=0.6, linewidth=0)
        loop = np.vstack([corner, corners, corner])
        plane.plot(*loop.T, color=colour, linewidth=0.8)
        plane.scatter(*corners.T, marker="^", s=45, color=colour)
        plane.scatter(*corner, marker="+", s=60, color="black")
        plane.text(-1.9, corner[1], f"n = {count}", va="center", color=colour)
    plane.set(aspect="equal", xlim=(-2, 1.4), ylim=(-4.6, 0.6))
    plane.set_axis_off()
    plane.set_title("Biases (dots) lie between 0 (+) and $W_Vs_k$ (triangles)", fontsize=9)
    for place, (count, heads) in enumerate(((1, 1), (1, 4), (3, 1), (3, 4))):
        bias, _ = biases(count, heads, jax.random.key(30 + place))
        singular = np.linalg.svd(bias, compute_uv=False)
        bound = heads * min(count, 16 // heads)
        label = f"n = {count}, H = {heads}: rank at most {bound}"
        spectrum.semilogy(
            np.arange(1, 17), singular / singular[0], marker="os^D"[place], linewidth=1,
            markersize=5, color=COLOURS[place], label=label,
        )  # fmt: skip
        spectrum.axvline(bound + 0.5, color=COLOURS[place], linestyle=":", linewidth=1)
    spectrum.set_xlabel("place")
    spectrum.set_ylabel("singular value / largest")
    spectrum.set_title("Joined biases of 192 positions (float32): rank $\\leq H\\,\\min(n, d_h)$",
                       fontsize=9)  # fmt: skip
    spectrum.legend(frameon=False, fontsize=8)
    spectrum.grid(color="#dddddd", linewidth=0.5)
    save(figure, folder, "prefix_bias")


# --- the least temperature ---


def draw_temperature(folder: Path) -> None:
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
        token_selection.closed_form(length=length, vocabulary=vocabulary, value=v)[
            "least_temperature"
        ]
        for v in symbols
    ])  # fmt: skip
    figure = new_figure(5.6, 3.6)
    axis = figure.subplots()
    axis.plot(heats, 100 * right.mean(axis=1), "o", markerfacecolor="white", markersize=4,
              color=COLOURS[0], label="read right by the network")  # fmt: skip
    theory = [(least < heat).mean() for heat in heats]
    axis.plot(heats, 100 * np.array(theory), color="black", linewidth=1, label="theory")
    axis.axvline(least.max(), color=COLOURS[1], linestyle=":",
                 label=f"all beyond $T^\\star$ = {least.max():.3f}")  # fmt: skip
    axis.set_xlabel("temperature T")
    axis.set_ylabel("symbols read right, %")
    axis.set_title(f"{length} tokens, vocabulary of {vocabulary}", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(color="#dddddd", linewidth=0.5)
    save(figure, folder, "prefix_temperature")


# --- the mass of a prefix ---

MASSES = "prefix_mass.csv"
HERE = Path(__file__).parent
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


def measure_masses(folder: Path) -> None:
    """Measure everything again and store it."""
    made = [*random_masses(), *trained_masses(), *encoder_masses()]
    with (folder / MASSES).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Mass._fields)
        table.writerows([*row[:3], *(f"{x:.6g}" for x in row[3:])] for row in made)


def draw_mass(folder: Path) -> None:
    """Mean mass against the lengths of prefix and content, and layer by layer."""
    stored = list(csv.DictReader((HERE / MASSES).read_text().splitlines()))
    rows = [Mass(r["panel"], r["series"], int(r["x"]), *(float(r[k]) for k in Mass._fields[3:]))
            for r in stored]  # fmt: skip
    figure, axes = panels(4, width=2.75, height=3.3)
    dense = np.unique(np.geomspace(1, 64, 40).round()).astype(int)

    def points(axis: Axes, panel: str, series: str, colour: str, marker: str, aside: float) -> None:
        own = [row for row in rows if (row.panel, row.series) == (panel, series)]
        x, mean = np.array([r.x for r in own]) + aside, np.array([r.mean for r in own])
        reach = np.abs(np.array([(r.low, r.high) for r in own]).T - mean)
        axis.errorbar(x, mean, reach, fmt=marker, color=colour, markersize=4, capsize=2,
                      markerfacecolor="white", label=series, linewidth=1)  # fmt: skip

    for axis, panel in zip(axes[:2], ("n", "T"), strict=True):
        for (name, law), colour, marker in zip(LAWS.items(), COLOURS, "^os", strict=False):
            sizes = (dense, CONTENT) if panel == "n" else (10, dense)
            axis.plot(dense, mean_prefix_mass(*sizes, **law), color=colour, linewidth=1)
            points(axis, panel, name, colour, marker, 0.0)
    axes[0].set_title("normal scores, T = 16", fontsize=9)
    axes[1].set_title("the same and small models, n = 10", fontsize=9)
    for name, colour, marker in (("before training", COLOURS[3], "v"),
                                 ("trained for desc", "#000000", "D")):  # fmt: skip
        points(axes[1], "trained", name, colour, marker, 0.0)
    for axis, panel in zip(axes[2:], ("encoder n", "encoder layer"), strict=True):
        series = dict.fromkeys(row.series for row in rows if row.panel == panel)
        for name, colour, marker in zip(series, COLOURS, "osD", strict=False):
            aside = 0.0 if panel == "encoder n" else 0.14 * (list(series).index(name) - 1)
            points(axis, panel, name, colour, marker, aside)
            own = [row for row in rows if (row.panel, row.series) == (panel, name)]
            axis.plot([r.x for r in own], [r.theory for r in own], color=colour, linewidth=1,
                      linestyle=":")  # fmt: skip
    axes[2].plot(dense, dense / (dense + CONTENT), color="black", linewidth=1, label="n/(n + T)")
    axes[3].axhline(4 / (4 + CONTENT), color="black", linewidth=1)
    axes[2].set_title("MiniLM, mean of 6 layers, T = 16", fontsize=9)
    axes[3].set_title("MiniLM, n = 4, T = 16", fontsize=9)
    for axis, label in zip(axes, ("prefix vectors n", "tokens T", "prefix vectors n", "layer"),
                           strict=True):  # fmt: skip
        axis.set_xlabel(label)
        axis.set_ylim(0, 1.3)  # room for the legends
        axis.set_yticks(np.linspace(0, 1, 6))
        if label != "layer":
            log_axis(axis, (1, 4, 16, 64))
        lines, names = axis.get_legend_handles_labels()
        if axis is axes[1]:  # the colours of the laws stand in the first panel
            lines, names = lines[len(LAWS) :], names[len(LAWS) :]
        axis.legend(lines, names, frameon=False, fontsize=7, loc="upper left")
    axes[0].set_ylabel("mean attention on the prefix α")
    save(figure, folder, "prefix_mass")


if __name__ == "__main__":
    places = [argument for argument in sys.argv[1:] if argument != "--measure"]
    where = Path(places[0]) if places else HERE
    if "--measure" in sys.argv:
        measure_masses(HERE)
    draw_mass(where)
    draw_attention(where)
    draw_bias(where)
    draw_temperature(where)
    draw_accuracy(where)
