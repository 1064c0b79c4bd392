"""Makes the pictures of docs/real_data.md (needs the extra `data`).

    python docs/real_data_pictures.py [FOLDER] [NAME ...]

Writes real_data_NAME.png for every name below, or those given: `attention`, `theory`,
`embeddings`, and `accuracy`, which reads the folder `images` that a sweep leaves
(`jaxprompt sweep examples/images.toml --out images`). The name `rates` prints accuracies on
validation scenes, by which the rates of `contextual.image_context` were chosen. Everything is
seeded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from drawing import log_axis, panels
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxprompt as jp
from jaxprompt import stats
from jaxprompt.contextual.claims.image_context import SMALL_MODELS
from jaxprompt.contextual.extensions import patch_law
from jaxprompt.contextual.simulation import image_experiment, vision_transformer
from jaxprompt.contextual.simulation.image_experiment import ARMS, EmbeddedScenes, Task

COLOURS = {
    "before": "#777777", "prompt": "#000000", "input_prompt": "#56B4E9", "token": "#E69F00",
    "tokens": "#009E73", "deep_tokens": "#CC79A7", "head": "#0072B2", "fine_tuning": "#D55E00",
    "linear": "#0072B2", "linear_prompt": "#009E73", "self_attention": "#CC79A7",
}  # fmt: skip
MARKERS = dict(zip(COLOURS, "_o^v<>sDsD^", strict=True))
LABELS = {
    "before": "pretrained", "prompt": "prompt, every layer", "input_prompt": "prompt, first layer",
    "token": "one token beside", "tokens": "four tokens beside",
    "deep_tokens": "four tokens, every layer", "head": "linear head",
    "fine_tuning": "full fine-tuning", "linear": "linear", "linear_prompt": "linear prompt",
    "self_attention": "frozen self-attention",
}  # fmt: skip


def save(figure: Figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"real_data_{name}.png", dpi=120, metadata={"Software": None})


def curve(axis: Axes, xs: Any, found: list[stats.Estimate], name: str, label: str) -> None:
    bars = [stats.interval(e) for e in found]
    axis.errorbar(
        xs, [e.mean for e in found],
        yerr=[[e.mean - low for e, (low, _) in zip(found, bars, strict=True)],
              [high - e.mean for e, (_, high) in zip(found, bars, strict=True)]],
        color=COLOURS[name], marker=MARKERS[name], markerfacecolor="white", markersize=4.5,
        capsize=2, elinewidth=0.8, linewidth=1, label=label,
    )  # fmt: skip


# --- accuracy against n --------------------------------------------------------------------------


def draw_accuracy(folder: Path) -> None:
    """Accuracy of every way to adapt the network, and attention on relevant patches."""
    table = jp.load("images")
    sizes = tuple(int(n) for n in table["samples"].values)
    figure, axes = panels(3, 3.6, 3.4)

    def at(kind: str, n: int, name: str) -> stats.Estimate:
        cell = table.sel(kind=kind, samples=n)
        return stats.Estimate(float(cell[name]), float(cell[f"{name}_stderr"]), 8)

    for axis, kind in zip(axes, ("partial", "embedded"), strict=False):
        for name in ("before", *ARMS):
            label = LABELS[name]
            if name != "before":
                config, arm = Task(kind, "digits").config, ARMS[name]
                mask = vision_transformer.trainable_mask(config, arm.moves, arm.tokens)
                label += f" ({int(mask.sum())})"
            curve(axis, sizes, [at(kind, n, name) for n in sizes], name, label)
        axis.set_title({"partial": "one tile among noise", "embedded": "in a photograph"}[kind])
        axis.set_ylim(0.2, 1)
    for name in ("prompt", "tokens", "deep_tokens", "fine_tuning"):
        gain = "attention_gain" if name == "prompt" else f"{name}_attention_gain"
        curve(axes[2], sizes, [at("partial", n, gain) for n in sizes], name, "")
    axes[2].axhline(0, color="#777777", linewidth=1)
    axes[2].set_title("attention gained, among noise")
    axes[0].set_ylabel("accuracy on test images")
    axes[2].set_ylabel("change of the relevant patches' share")
    for axis in axes:
        log_axis(axis, sizes)
        axis.set_xlabel("training images n")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8,
                  title="what is tuned (parameters)", title_fontsize=8)  # fmt: skip
    save(figure, folder, "accuracy")


def draw_embeddings(folder: Path) -> None:
    """The theory's models on frozen embeddings."""
    claim, sizes = jp.claim("contextual.image_context"), (12, 24, 48, 96, 192)
    figure, axes = panels(3, 3.4, 3.2)
    for kind, place in (("partial", 0), ("embedded", 1)):
        found = [
            claim.simulate(key=1, trials=32, kind=kind, samples=n, level="embeddings", models=8,
                           arms="all")
            for n in sizes
        ]  # fmt: skip
        for name in SMALL_MODELS:
            curve(axes[place], sizes, [f[name] for f in found], name,
                  {"prompt": "softmax prompt"}.get(name, LABELS[name]))  # fmt: skip
        print(kind, *(f"n = {n}: lead {f['lead'].mean:.3f} ± {f['lead'].stderr:.3f}, attention "
                      f"+{f['attention_gain'].mean:.3f} ± {f['attention_gain'].stderr:.3f}"
                      for n, f in zip(sizes, found, strict=True)), sep="\n  ")  # fmt: skip
        axes[place].set_ylim(0.5, 1)
        axes[place].set_title(
            {"partial": "one tile among noise", "embedded": "in a photograph"}[kind]
        )
        style = {"partial": "prompt", "embedded": "input_prompt"}[kind]
        label = {"partial": "among noise", "embedded": "in a photograph"}[kind]
        gains = [f["attention_gain"]._replace(mean=0.25 + f["attention_gain"].mean) for f in found]
        curve(axes[2], sizes, gains, style, label)
    axes[2].axhline(0.25, color="#777777", linestyle=":", label="uniform")
    axes[2].set_title("softmax prompt's attention")
    axes[2].set_ylabel("on relevant patches")
    axes[2].set_ylim(0, 1)
    axes[2].legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("accuracy on test images")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    for axis in axes:
        log_axis(axis, sizes)
        axis.set_xlabel("training images n")
    save(figure, folder, "embeddings")


# --- attention maps ------------------------------------------------------------------------------


def draw_attention(folder: Path) -> None:
    """Test images, the class token's attention before and after, and a small model's prompt."""
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 8)
    titles = ("image", "network, before", "prompt tuned", "theory's prompt")
    shown = None
    for half, kind in enumerate(("partial", "embedded")):
        task = Task(kind, "digits")
        (base,) = image_experiment.pretrain("digits", 400, 1)
        train = task.scenes("adaptation", 300, jax.random.key(1))
        arm = ARMS["prompt"]
        (tuned,) = image_experiment.adapt(task, arm, [base], [train], 150)
        pair, key = (3, 8), jax.random.key(4)
        small = image_experiment.embed_scenes(
            task, base, "adaptation", 48, pair, key=jax.random.key(2)
        )
        test = image_experiment.embed_scenes(task, base, "test", 4, pair, key=key)
        maps = image_experiment.prompt_attention_maps(small, test, key=jax.random.key(3))
        found = task.scenes("test", 4, key, pair)
        rows = [found.images]
        for flat in (base, tuned):
            seen = vision_transformer.forward(
                task.config, flat, vision_transformer.prompt_mask(task.config), task.patches(found)
            )
            pattern = np.asarray(seen.patterns)[-1].mean(axis=1)[:, 1 + task.config.prompts :]
            rows.append(pattern / pattern.sum(axis=1, keepdims=True))
        rows.append(maps)
        for line, (title, row) in enumerate(zip(titles, rows, strict=True)):
            for column in range(4):
                axis = axes[line, 4 * half + column]
                axis.set_xticks([])
                axis.set_yticks([])
                axis.imshow(found.images[column], cmap="gray", extent=(0, 4, 4, 0))
                if line:
                    shown = axis.imshow(
                        row[column].reshape(4, 4), cmap="inferno", alpha=0.6, vmin=0, vmax=0.3,
                        extent=(0, 4, 4, 0),
                    )  # fmt: skip
                tile = int(np.flatnonzero(found.relevant[column])[0])
                left, top = 2 * (tile % 2), 2 * (tile // 2)
                axis.plot(
                    [left, left + 2, left + 2, left, left], [top, top, top + 2, top + 2, top],
                    color="#56B4E9", linewidth=1.6, clip_on=False,
                )  # fmt: skip
                if not half and not column:
                    axis.set_ylabel(title, fontsize=9)
    axes[0, 1].set_title("one tile among noise", fontsize=10, loc="left")
    axes[0, 5].set_title("in a photograph", fontsize=10, loc="left")
    figure.colorbar(shown, ax=axes, label="share of the attention on patches", shrink=0.6)
    save(figure, folder, "attention")


# --- theory and measurement ----------------------------------------------------------------------

SIZES = (8, 16, 24, 32, 48, 96, 200, 500, 1500)
RIDGE, TRIALS = 0.05, 60


def bank(task: Task, base: np.ndarray, part: str, count: int, seed: int) -> EmbeddedScenes:
    return image_experiment.embed_scenes(task, base, part, count, (3, 8), key=jax.random.key(seed))


def ladder(task: Task, white: bool, best: bool) -> dict[str, Any]:
    """Errors by n: two limits, and heads on Gaussian tokens and on the embeddings themselves."""
    (base,) = image_experiment.pretrain(task.source, 400, 1)
    train, test = bank(task, base, "adaptation", 4000, 1), bank(task, base, "test", 2000, 2)
    fitted = patch_law.fit(*train)
    if white:
        law = fitted
        train = train._replace(tokens=patch_law.whitened(law, train.tokens))
        test = test._replace(tokens=patch_law.whitened(law, test.tokens))
        fitted = patch_law.fit(*train)
    setting: Any = fitted.setting()
    gain = (1 + setting["shifts"][0][0]) / (2 * setting["noise"] ** 2) if best else 0.0
    prompt = gain * fitted.direction

    def learned(tokens: np.ndarray, others: np.ndarray) -> np.ndarray:
        features, fresh = patch_law.pooled(tokens, prompt), patch_law.pooled(others, prompt)
        return patch_law.measured_errors(
            features, train.labels, fresh, test.labels, SIZES, RIDGE, TRIALS, seed=3
        )

    def gaussian(isotropic: bool) -> np.ndarray:
        drawn = [
            patch_law.gaussian_tokens(fitted, own.labels, isotropic=isotropic, seed=seed)[0]
            for own, seed in ((train, 1), (test, 2))
        ]
        return learned(*drawn)

    return {
        "fitted": fitted, "gain": gain,
        **patch_law.predicted_errors(fitted, gain, RIDGE, SIZES),
        "isotropic": gaussian(True), "gaussian": gaussian(False),
        "embeddings": learned(train.tokens, test.tokens),
    }  # fmt: skip


def draw_theory(folder: Path) -> None:
    """Predicted error beside measured, for embeddings and for Gaussian tokens like them."""
    figure, axes = panels(4, 2.9, 3.3)
    cases = (
        ("noise, uniform attention", Task("partial", "digits"), False, False),
        ("noise, prompt", Task("partial", "digits"), False, True),
        ("noise, prompt, whitened", Task("partial", "digits"), True, True),
        ("photograph, prompt", Task("embedded", "digits"), False, True),
    )
    styles = {
        "isotropic": ("Gaussian tokens, isotropic", "#56B4E9", "^"),
        "gaussian": ("Gaussian tokens, all moments", "#009E73", "s"),
        "embeddings": ("embeddings", "#D55E00", "o"),
    }
    for axis, (title, task, white, best) in zip(axes, cases, strict=True):
        found = ladder(task, white, best)
        law = found["fitted"]
        print(title, {n: np.round(v, 3) for n, v in law.setting().items()}, "gain",
              round(found["gain"], 3), "cosine", round(law.cosine, 3), "relevant noise",
              round(law.relevant_noise, 3), "anisotropy", round(law.anisotropy, 2))  # fmt: skip
        axis.plot(SIZES, found["closed_form"], color="#777777", label="closed form, as it is")
        axis.plot(SIZES, found["with_relevant_noise"], color="#000000", linestyle="--",
                  label="with noise on relevant tokens")  # fmt: skip
        for name, (label, colour, marker) in styles.items():
            errors = found[name]
            print("  ", name, np.round(errors.mean(axis=0), 3))
            axis.errorbar(
                SIZES, errors.mean(axis=0), yerr=2 * errors.std(axis=0) / np.sqrt(TRIALS),
                color=colour, marker=marker, markerfacecolor="white", markersize=4.5, capsize=2,
                linestyle="none", label=label,
            )  # fmt: skip
        for name in ("closed_form", "with_relevant_noise"):
            print("  ", name, np.round(found[name], 3))
        log_axis(axis, (8, 32, 128, 500, 1500))
        axis.set_xlabel("training images n")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 0.5)
    axes[0].set_ylabel("error of a ridge head, 3 against 8")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save(figure, folder, "theory")


# --- rates ---------------------------------------------------------------------------------------

GRID = {"prompt": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "head": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "fine_tuning": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}  # fmt: skip
GRID |= dict.fromkeys(("input_prompt",), GRID["prompt"])
GRID |= dict.fromkeys(("token", "tokens", "deep_tokens"), (3e-2, 1e-1, 3e-1))


def print_rates(folder: Path) -> None:
    """Accuracy on validation scenes of each arm at each rate of its grid."""
    task, trials = Task("partial", "digits"), 8
    bases = image_experiment.pretrain("digits", 400, trials)
    keys = [jax.random.fold_in(jax.random.key(99), trial) for trial in range(trials)]
    scenes = [task.scenes("adaptation", 500, jax.random.fold_in(k, 1)) for k in keys]
    for samples in (10, 1000):
        sets = [task.scenes("adaptation", samples, jax.random.fold_in(k, 0)) for k in keys]
        for name, rates in GRID.items():
            for rate in rates:
                arm = ARMS[name]._replace(rates=(rate, rate))
                found = image_experiment.adapt(task, arm, bases, sets, 150)
                right = [
                    image_experiment.evaluate(task, arm, flat, own).accuracy
                    for flat, own in zip(found, scenes, strict=True)
                ]
                mark = "*" if rate == ARMS[name].rate(samples) else " "
                estimate = stats.mean_estimate(np.array(right))
                print(f"{samples:5d} {name:13s} {rate:7g}{mark} "
                      f"{estimate.mean:.3f} ± {estimate.stderr:.3f}", flush=True)  # fmt: skip


PICTURES = {
    "attention": draw_attention,
    "theory": draw_theory,
    "embeddings": draw_embeddings,
    "accuracy": draw_accuracy,
    "rates": print_rates,
}

if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name in sys.argv[2:] or [n for n in PICTURES if n != "rates"]:
        PICTURES[name](where)
