"""Pictures for contextual.md: training, attention, best ridge and gain, breakdown, separability.

    python docs/contextual_pictures.py [NAME ...]              computes and draws (a few minutes)
    python docs/contextual_pictures.py [NAME ...] --from-data  redraws from NAME.csv

Everything is seeded; the same versions give the same pictures.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from drawing import Picture, main, measured

import jaxprompt as jp
from jaxprompt import attention, stats
from jaxprompt.contextual.claims import training
from jaxprompt.contextual.claims.context_gain import breakdown_gain
from jaxprompt.contextual.law.least_error import CEILINGS
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import row_stream
from jaxprompt.contextual.simulation.token_models import MODELS
from jaxprompt.core.figures import Mark, Panel

LABELS = {
    "linear": "linear",
    "linear_prompt": "linear prompt",
    "prompt": "softmax prompt",
    "self_attention": "frozen self-attention",
    "fine_tuning": "full fine-tuning",
}
BASE: dict[str, Any] = {
    "tokens": 5, "relevant": 1, "signal": 1.0, "context": 1.2, "noise": 0.8, "ridge": 1e-3,
}  # fmt: skip
TEN_TOKENS: dict[str, Any] = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0,
}  # fmt: skip
MILD = {**BASE, "shifts": ((0.0, 0.0), (0.5, 0.3))}


# --- training ---


def training_picture() -> Picture:
    """Accuracy of every trained model against ζ, Δ, T and n; lines are the best of three models."""
    opposed, aligned = (
        lambda size: ((0.0, 0.0), (size, -size)), lambda size: ((0.0, 0.0), (size, size))
    )  # fmt: skip
    sweeps: tuple[tuple[str, str, list[tuple[float, dict[str, Any], int]]], ...] = (
        ("aligned shift 2.5, 8 tokens", "share of relevant tokens, ζ",
         [(k / 8, {**BASE, "tokens": 8, "relevant": k, "shifts": aligned(2.5)}, 192)
          for k in (1, 2, 3, 4, 6)]),
        ("one relevant token of five", "opposed shift, Δ",
         [(s, {**BASE, "shifts": opposed(s)}, 192) for s in (0.0, 0.4, 0.8, 1.5, 2.5)]),
        ("mild shift, ζ = 1/5", "tokens, T",
         [(t, {**MILD, "tokens": t, "relevant": t // 5}, 192) for t in (5, 10, 15, 20)]),
        ("mild shift, five tokens", "training sequences, n",
         [(n, MILD, n) for n in (12, 24, 48, 96, 192, 768)]),
    )  # fmt: skip
    panels: list[Panel] = []
    for number, (title, x_label, points) in enumerate(sweeps):
        marks = marks_of_sweep(points)
        if number < 2:
            fine = np.linspace(0.1, 0.78, 120) if number == 0 else np.linspace(0.0, 2.5, 120)
            zetas, shifts = (fine, 2.5) if number == 0 else (0.2, fine)
            marks += marks_without_noise(fine, ("aligned", "opposed")[number], zetas, shifts)
        panels.append(
            Panel(marks, title, x_label, "accuracy on fresh sequences",
                  log_x=number == 3, y_range=(0.45, 1.03))
        )  # fmt: skip
    return Picture(
        panels,
        "Softmax prompts lead where samples are few, and mostly come near the best of their class",
        "points: trained models, mean of 8 trials with 95 % interval; lines: best of a class; "
        "d = 6, n = 192 where it does not vary",
    )


def marks_of_sweep(points: list[tuple[float, dict[str, Any], int]]) -> list[Mark]:
    """What every model was measured to reach, and the best of three classes."""
    claim = jp.claim("contextual.training")
    xs = [x for x, *_ in points]
    found, best = [], []
    for _, parameters, samples in points:
        found.append(claim.simulate(key=1, trials=8, dim=6, samples=samples, **parameters))
        best.append(claim.predict(**parameters))
    marks: list[Mark] = []
    for colour, name in enumerate(MODELS):
        marks.append(measured(xs, [f[name] for f in found], LABELS[name], colour))
        if name in CEILINGS:
            heights = [float(b[name]) for b in best]
            marks.append(Mark("line", xs, heights, label=f"{LABELS[name]}, best", colour=colour))
    return marks


def marks_without_noise(xs: np.ndarray, law: str, zetas: Any, shifts: Any) -> list[Mark]:
    """What each model could reach without noise, where that is below 1."""
    best = jp.claim("contextual.separation").predict(sparsity=zetas, shift=shifts, law=law)
    marks: list[Mark] = []
    for name, colour in {"linear": 5, "linear_prompt": 6, "self_attention": 3}.items():
        values = np.broadcast_to(best[name], xs.shape)
        if values.min() < 1:
            below = values < 1
            label = f"{LABELS[name].replace('frozen ', '')} without noise"
            marks.append(Mark("line", xs[below], values[below], label=label, colour=colour))
    return marks


def attention_picture() -> Picture:
    """Softmax weights of a prompt before and after training, on fresh sequences."""
    law: dict[str, Any] = {name: value for name, value in MILD.items() if name != "ridge"}
    setting = Setting.make(**(law | {"tokens": 10, "relevant": 2}))
    key = jax.random.key(3)
    batches = training.training_batches(setting, 6, 192, key=key)
    weights = training.trained_weights("prompt", batches, 192, 1e-3, key=key)
    tests = batches.tokens[0, -training.TESTED :]
    before, after = (
        np.asarray(jax.vmap(attention.prompt_weights, (0, None))(tests, prompt), np.float64)
        for prompt in (0 * weights.prompt[0], weights.prompt[0])
    )
    edges = np.linspace(0, 0.55, 45)
    middle = (edges[1:] + edges[:-1]) / 2
    names = ["1", "", "3", "", "5", "", "7", "", "9", ""]
    panels = [
        Panel([map_of(image[:40])], title, "token (two relevant, then eight others)",
              "fresh sequence", x_names=names,
              value_label="attention", value_range=(0.0, 0.5))
        for image, title in ((before, "before training"), (after, "after"))
    ]  # fmt: skip
    marks = [
        Mark("step", middle, np.histogram(part.ravel(), edges, density=True)[0], label=label,
             colour=colour)
        for part, label, colour in (
            (after[:, :2], "relevant tokens", 1), (after[:, 2:], "irrelevant tokens", 2)
        )
    ]  # fmt: skip
    marks.append(Mark("vertical", [0.1], label="uniform attention"))
    panels.append(Panel(marks, "after, all test sequences", "attention on a token", "density"))
    return Picture(panels, "A trained prompt attends to the relevant tokens",
                   "one softmax prompt, 192 training sequences, d = 6, mild shift")  # fmt: skip


def map_of(image: np.ndarray) -> Mark:
    """A colour for each number of a matrix, the first row below."""
    rows, columns = np.indices(image.shape)
    return Mark("map", columns.ravel(), rows.ravel(), value=image.ravel())


# --- ridge and gain ---


def best_picture() -> Picture:
    """The best ridge at gain 1, and the best gain, against d/n."""
    claim = jp.claim("contextual.best_ridge")
    ratios = np.geomspace(0.15, 4.0, 61)
    found = [claim.predict(**TEN_TOKENS, gain=1.0, ratio=float(r)) for r in ratios]
    ridges = np.array([float(f["best_ridge"]) for f in found])
    finite = ridges < 0.99 * ridges.max()
    x_label = "dimension / samples, d / n"
    return Picture(
        [
            Panel([Mark("line", ratios[finite], ridges[finite])], "best ridge at gain γ = 1",
                  x_label, "ridge, λ⋆", log_x=True, log_y=True, x_range=(0.15, 4.0)),
            Panel([Mark("line", ratios, [float(f["best_gain"]) for f in found])],
                  "best gain, at its best ridge", x_label, "gain, γ⋆", log_x=True,
                  x_range=(0.15, 4.0), y_range=(0.0, 2.0)),
        ],
        "With few dimensions a sample the best ridge is infinite; the best gain is near 1",
        "closed form, ten tokens of which two are relevant, W = σ = 1, Q = 1.5; "
        "left of the line no finite ridge is best",
    )  # fmt: skip


def breakdown_picture() -> Picture:
    """Measured over limiting signal-to-noise gain, against the prompt's gain in units of T's."""
    claim = jp.claim("contextual.context_gain")
    base = {"sparsity": 0.1, "signal": 1.0, "context": 1.0, "noise": 1.0}
    places = np.linspace(0.0, 1.4, 29)
    marks = [Mark("level", y=[1.0], label="theory, T → ∞")]
    for colour, tokens in enumerate((30, 300, 3000, 30_000)):
        gains = places * breakdown_gain(tokens, 1.0, 1.0)
        found = claim.simulate(key=3, trials=16, **base, tokens=tokens, gain=gains.tolist())
        limit = claim.predict(**base, gain=gains)["snr_gain"]
        estimate = found["snr_gain"]
        half = stats.half_width(np.asarray(estimate.stderr), 15) / limit
        ratio = np.asarray(estimate.mean) / limit
        marks.append(Mark("points", places, ratio, half, label=f"simulated, T = {tokens}",
                          colour=colour))  # fmt: skip
    marks += [
        Mark("vertical", [0.5], label="squares of weights leave their law", colour=4),
        Mark("vertical", [1.0], label="weights leave theirs", colour=5),
    ]
    return Picture(
        [Panel(marks, "", "gain of the prompt, γσQ / √(2 log T)", "measured / limiting SNR² gain",
               log_y=True, y_range=(0.3, 1e4))],
        "The limit of many tokens holds up to half the gain at which one token takes over",
        "mean of 16 trials with 95 % interval; ζ = 0.1, W = Q = σ = 1", 3.6,
    )  # fmt: skip


# --- separability ---


def margin_picture() -> Picture:
    """Share of separable training sets around the threshold; error of the max-margin head."""
    base = {**TEN_TOKENS, "gain": 1.0}
    setting, claim = Setting.make(**base), jp.claim("contextual.convex_head")
    threshold = float(claim.predict(**base, loss="hinge", ratio=2.0, ridge=0.1)["threshold"])
    ratios = threshold * np.array([0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.6])
    line = Mark("vertical", [threshold], label="theory: threshold κ⋆", colour=2)
    shares: list[Mark] = [line]
    for colour, dim in enumerate((16, 32)):
        counts = [separable_sets(setting, dim, round(dim / r), 48) for r in ratios]
        share = np.array(counts) / 48
        low, high = np.array([stats.binomial_interval(count, 48) for count in counts]).T
        shares.append(Mark("points", ratios, share, share - low, high, label=f"d = {dim}",
                           colour=colour))  # fmt: skip
    errors: list[Mark] = [line]
    lines = np.geomspace(threshold * 1.02, 4, 16)
    for colour, (loss, ridge) in enumerate((("hinge", 0.0), ("hinge", 0.1), ("logistic", 0.02)), 3):
        label = "max margin" if ridge == 0 else f"{loss} loss, ridge {ridge:g}"
        found = [claim.predict(**base, loss=loss, ratio=float(r), ridge=ridge) for r in lines]
        heights = [float(f["error"]) for f in found]
        points = [
            claim.simulate(key=4, trials=48, **base, loss=loss, ratio=r, ridge=ridge, dim=96)
            for r in (0.5, 1.0, 2.0, 3.2)
        ]
        errors.append(Mark("line", lines, heights, label=label, colour=colour))
        errors.append(measured((0.5, 1.0, 2.0, 3.2), [p["error"] for p in points], "", colour))
    x_label = "dimension / samples, d / n"
    return Picture(
        [
            Panel(shares, "training sets that a plane separates", x_label, "share", log_x=True,
                  y_range=(-0.03, 1.03)),
            Panel(errors, "error of the learned head", x_label, "probability of a wrong sign",
                  log_x=True),
        ],
        "Beyond the threshold training sets are separable, and the max-margin head gets better",
        "left: 48 training sets by linear programming; right: d = 96, mean of 48 trials; 95 %",
    )  # fmt: skip


def separable_sets(setting: Setting, dim: int, samples: int, trials: int) -> int:
    """How many training sets a linear program finds separable."""
    from scipy import optimize

    rows = row_stream(setting, dim, 0, trials * samples, jax.random.key(5))
    return sum(
        optimize.linprog(np.zeros(dim), -part, -np.ones(samples), bounds=(None, None)).status == 0
        for part in np.asarray(rows).reshape(trials, samples, dim).astype(np.float64)
    )


PICTURES = {
    "contextual_training": training_picture,
    "contextual_attention": attention_picture,
    "contextual_best": best_picture,
    "contextual_breakdown": breakdown_picture,
    "contextual_margin": margin_picture,
}

if __name__ == "__main__":
    main(PICTURES, __doc__)
