"""Pictures for contextual.md: training, attention, best ridge and gain, breakdown, separability.

    python docs/contextual_pictures.py [FOLDER] [NAME ...]

Writes contextual_NAME.png for every name below, or those given. Everything is seeded; the same
versions give the same pictures. All together take a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from drawing import log_axis, panels
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxprompt as jp
from jaxprompt import attention, stats
from jaxprompt.contextual.claims import training
from jaxprompt.contextual.claims.context_gain import breakdown_gain
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.least_error import CEILINGS
from jaxprompt.contextual.law.ridge_limit import ridge_limit
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import row_stream
from jaxprompt.contextual.simulation.token_models import MODELS

COLOURS = dict(zip(MODELS, ("#0072B2", "#009E73", "#000000", "#CC79A7", "#D55E00"), strict=True))
MARKERS = dict(zip(MODELS, "sD o^v".replace(" ", ""), strict=True))
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
MILD = {**BASE, "shifts": ((0.0, 0.0), (0.5, 0.3))}


def save(figure: Figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"contextual_{name}.png", dpi=120, metadata={"Software": None})


# --- training ------------------------------------------------------------------------------------


def draw_training(folder: Path) -> None:
    """Accuracy of every trained model against ζ, Δ, T and n; lines are the best of three models."""
    opposed, aligned = (
        lambda size: ((0.0, 0.0), (size, -size)), lambda size: ((0.0, 0.0), (size, size))
    )  # fmt: skip
    sweeps = [
        ("share ζ of relevant tokens, aligned shift 2.5",
         [(k / 8, {**BASE, "tokens": 8, "relevant": k, "shifts": aligned(2.5)}, 192)
          for k in (1, 2, 3, 4, 6)], False),
        ("opposed shift Δ, ζ = 1/5",
         [(s, {**BASE, "shifts": opposed(s)}, 192) for s in (0.0, 0.4, 0.8, 1.5, 2.5)], False),
        ("tokens T, ζ = 1/5, mild shift",
         [(t, {**MILD, "tokens": t, "relevant": t // 5}, 192) for t in (5, 10, 15, 20)], False),
        ("training sequences n, mild shift",
         [(n, MILD, n) for n in (12, 24, 48, 96, 192, 768)], True),
    ]  # fmt: skip
    figure, axes = panels(4)
    for axis, (label, points, log) in zip(axes, sweeps, strict=True):
        draw_sweep(axis, points)
        axis.set_xlabel(label, fontsize=8.5)
        axis.set_ylim(0.45, 1.0)
        if log:
            log_axis(axis, (12, 24, 48, 96, 192, 768))
    fine = np.linspace(0.1, 0.78, 120)
    draw_noise_free(axes[0], fine, "aligned", fine, 2.5)
    fine = np.linspace(0.0, 2.5, 120)
    draw_noise_free(axes[1], fine, "opposed", 0.2, fine)
    axes[0].set_ylabel("accuracy on fresh sequences")
    handles, labels = axes[0].get_legend_handles_labels()
    more = axes[1].get_legend_handles_labels()
    handles += [h for h, text in zip(*more, strict=True) if text not in labels]
    labels += [text for text in more[1] if text not in labels]
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle("Trained models (points, 95 %) and the best of each class (lines)", fontsize=11)
    save(figure, folder, "training")


def draw_noise_free(axis: Axes, xs: np.ndarray, law: str, zetas: Any, shifts: Any) -> None:
    """What each model could reach without noise, where that is below 1."""
    best = jp.claim("contextual.separation").predict(sparsity=zetas, shift=shifts, law=law)
    for name in ("linear", "linear_prompt", "self_attention"):
        colour = COLOURS["fine_tuning" if name == "self_attention" else name]
        values = np.broadcast_to(best[name], xs.shape)
        if values.min() < 1:
            below = np.where(values < 1, values, np.nan)
            label = f"{LABELS[name].replace('frozen ', '')} without noise"
            axis.plot(xs, below, color=colour, linestyle=":", linewidth=2.2, label=label)


def draw_sweep(axis: Axes, points: list[tuple[float, dict[str, Any], int]]) -> None:
    claim = jp.claim("contextual.training")
    xs = [x for x, *_ in points]
    measured, best = [], []
    for _, params, samples in points:
        measured.append(claim.simulate(key=1, trials=8, dim=6, samples=samples, **params))
        best.append(claim.predict(**params))
    for name in MODELS:
        estimates = [m[name] for m in measured]
        bars = [stats.interval(e) for e in estimates]
        axis.errorbar(
            xs, [e.mean for e in estimates],
            yerr=[[e.mean - low for e, (low, _) in zip(estimates, bars, strict=True)],
                  [high - e.mean for e, (_, high) in zip(estimates, bars, strict=True)]],
            color=COLOURS[name], marker=MARKERS[name], linestyle="none", markersize=4.5,
            markerfacecolor="white", capsize=2, elinewidth=1, label=LABELS[name],
        )  # fmt: skip
        if name in CEILINGS:
            axis.plot(xs, [b[name] for b in best], color=COLOURS[name], linewidth=1.2)


def draw_attention(folder: Path) -> None:
    """Softmax weights of a prompt before and after training, on fresh sequences."""
    setting = Setting.make(**{n: v for n, v in MILD.items() if n != "ridge"} | {"tokens": 10,
                           "relevant": 2})  # fmt: skip
    key = jax.random.key(3)
    batches = training.training_batches(setting, 6, 192, key=key)
    weights = training.trained_weights("prompt", batches, 192, 1e-3, key=key)
    tests = batches.tokens[0, -training.TESTED :]
    maps = [
        np.asarray(jax.vmap(attention.prompt_weights, (0, None))(tests, q))
        for q in (0 * weights.prompt[0], weights.prompt[0])
    ]
    figure, axes = panels(3, 3.2)
    for axis, image, title in zip(axes[:2], maps, ("before training", "after"), strict=True):
        axis.grid(False)
        shown = axis.imshow(image[:40], vmin=0, vmax=0.5, cmap="cividis", aspect="auto")
        axis.axvline(1.5, color="#D55E00", linewidth=2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("token (two relevant, then eight others)", fontsize=8.5)
    axes[0].set_ylabel("fresh sequence")
    figure.colorbar(shown, ax=axes[1], label="attention")
    edges = np.linspace(0, 0.55, 45)
    axes[2].hist(maps[1][:, :2].ravel(), edges, density=True, alpha=0.8, color="#0072B2",
                 label="relevant")  # fmt: skip
    axes[2].hist(maps[1][:, 2:].ravel(), edges, density=True, alpha=0.6, color="#E69F00",
                 label="irrelevant")  # fmt: skip
    axes[2].axvline(0.1, color="#777777", linestyle=":", label="uniform attention")
    axes[2].set_xlabel("attention on a token after training")
    axes[2].set_ylabel("density")
    axes[2].legend(frameon=False, fontsize=8)
    save(figure, folder, "attention")


# --- ridge and gain ------------------------------------------------------------------------------


def draw_best(folder: Path) -> None:
    """Error without ridge, at a small one, at the best one, and at the best ridge and gain."""
    claim = jp.claim("contextual.best_ridge")
    base = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
    ratios = np.geomspace(0.15, 4.0, 25)
    found = [claim.predict(**base, gain=1.0, ratio=float(r)) for r in ratios]
    features = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)
    fixed = [float(ridge_limit(features, float(r), 0.05).error.mean()) for r in ratios]
    figure, (left, middle, right) = panels(3, 3.4)
    plain = [f["error"] + f["saving"] for f in found]
    left.plot(ratios, plain, color="#777777", linestyle=":", label="γ = 1, no ridge")
    left.plot(ratios, fixed, color="#D55E00", linestyle="-.", label="γ = 1, λ = 0.05")
    left.plot(ratios, [f["error"] for f in found], color="#0072B2", label="γ = 1, best ridge")
    left.plot(ratios, [f["best_gain_error"] for f in found], color="#000000", linestyle="--",
              label="best ridge and gain")  # fmt: skip
    measured = {r: claim.simulate(key=2, trials=64, **base, gain=1.0, ratio=r, dim=192)
                for r in (0.25, 0.5, 0.8, 1.25, 2.0, 3.0)}  # fmt: skip
    left.errorbar(
        list(measured), [m["error"].mean for m in measured.values()],
        yerr=[2 * m["error"].stderr for m in measured.values()], color="#0072B2", marker="o",
        linestyle="none", markersize=4.5, markerfacecolor="white", capsize=2,
        label="simulated, d = 192",
    )  # fmt: skip
    left.set_ylabel("probability of a wrong sign")
    left.set_ylim(0.05, 0.55)
    left.legend(frameon=False, fontsize=7.5, loc="upper left")
    middle.loglog(ratios, [f["best_ridge"] for f in found], color="#0072B2")
    middle.set_ylabel("best ridge λ⋆ at γ = 1 (10⁴: infinite)")
    right.plot(ratios, [f["best_gain"] for f in found], color="#000000", linestyle="--")
    right.set_ylabel("best gain γ⋆")
    right.set_ylim(0, 2)
    for axis in (left, middle, right):
        log_axis(axis, (0.2, 0.5, 1.0, 2.0, 4.0))
        axis.set_xlabel("d / n")
    save(figure, folder, "best")


def draw_breakdown(folder: Path) -> None:
    """Measured over limiting signal-to-noise gain, against the prompt's gain in units of T's."""
    claim = jp.claim("contextual.context_gain")
    base = {"sparsity": 0.1, "signal": 1.0, "context": 1.0, "noise": 1.0}
    figure, (axis,) = panels(1, 5.6, 3.6)
    places = np.linspace(0.0, 1.4, 29)
    for tokens, colour, marker in zip(
        (30, 300, 3000, 30_000), ("#56B4E9", "#009E73", "#D55E00", "#000000"), "osD^", strict=True
    ):
        gains = places * breakdown_gain(tokens, 1.0, 1.0)
        found = claim.simulate(key=3, trials=16, **base, tokens=tokens, gain=gains.tolist())
        limit = claim.predict(**base, gain=gains)
        ratio = np.asarray(found["snr_gain"].mean) / limit["snr_gain"]
        axis.semilogy(places, ratio, color=colour, marker=marker, markersize=3.5, linewidth=1,
                      markerfacecolor="white", label=f"T = {tokens}")  # fmt: skip
    axis.axhline(1, color="#777777", linewidth=1)
    for place, text in ((0.5, "½: the sum of squares leaves its law"), (1.0, "1: the sum too")):
        axis.axvline(place, color="#777777", linestyle=":", linewidth=1)
        axis.text(place + 0.01, 0.97, text, rotation=90, fontsize=7, va="top",
                  transform=axis.get_xaxis_transform())  # fmt: skip
    axis.set_xlabel("γσQ / √(2 log T)")
    axis.set_ylabel("measured / limiting SNR² gain")
    axis.set_ylim(0.3, 1e4)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.set_title("Where the law of large numbers for the attention stops", fontsize=10)
    save(figure, folder, "breakdown")


# --- separability --------------------------------------------------------------------------------


def draw_margin(folder: Path) -> None:
    """Share of separable training sets around the threshold; error of the max-margin head."""
    base = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
    setting, claim = Setting.make(**base), jp.claim("contextual.convex_head")
    threshold = claim.predict(**base, loss="hinge", ratio=2.0, ridge=0.1)["threshold"]
    figure, (left, right) = panels(2, 4.0, 3.3)
    ratios = threshold * np.array([0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.6])
    for dim, colour, marker in ((16, "#56B4E9", "o"), (32, "#0072B2", "s")):
        shares = [separable_share(setting, dim, round(dim / r), 48) for r in ratios]
        bars = [stats.binomial_interval(round(48 * s), 48) for s in shares]
        left.errorbar(
            ratios, shares, color=colour, marker=marker, markerfacecolor="white", capsize=2,
            yerr=[[s - low for s, (low, _) in zip(shares, bars, strict=True)],
                  [high - s for s, (_, high) in zip(shares, bars, strict=True)]],
            label=f"d = {dim}",
        )  # fmt: skip
    left.set_ylabel("share of separable training sets")
    lines = np.geomspace(threshold * 1.02, 4, 16)
    for loss, ridge, colour, style in (
        ("hinge", 0.0, "#000000", "-"), ("hinge", 0.1, "#009E73", "--"),
        ("logistic", 0.02, "#D55E00", "-."),
    ):  # fmt: skip
        label = "max margin" if ridge == 0 else f"{loss}, λ = {ridge:g}"
        found = [claim.predict(**base, loss=loss, ratio=float(r), ridge=ridge) for r in lines]
        right.plot(lines, [f["error"] for f in found], color=colour, linestyle=style, label=label)
        points = {
            r: claim.simulate(key=4, trials=48, **base, loss=loss, ratio=r, ridge=ridge, dim=96)
            for r in (0.5, 1.0, 2.0, 3.2)
        }
        right.errorbar(
            list(points), [p["error"].mean for p in points.values()],
            yerr=[2 * p["error"].stderr for p in points.values()], color=colour, marker="o",
            linestyle="none", markersize=4.5, markerfacecolor="white", capsize=2,
        )  # fmt: skip
    right.set_ylabel("probability of a wrong sign")
    log_axis(right, (0.2, 0.5, 1.0, 2.0, 4.0))
    for axis in (left, right):
        axis.axvline(threshold, color="#777777", linestyle=":", label="threshold κ⋆")
        axis.set_xlabel("d / n")
        axis.legend(frameon=False, fontsize=8)
    save(figure, folder, "margin")


def separable_share(setting: Setting, dim: int, samples: int, trials: int) -> float:
    """Share of training sets that a linear program finds separable."""
    from scipy import optimize

    rows = row_stream(setting, dim, 0, trials * samples, jax.random.key(5))
    found = [
        optimize.linprog(np.zeros(dim), -part, -np.ones(samples), bounds=(None, None)).status == 0
        for part in rows.reshape(trials, samples, dim).astype(np.float64)
    ]
    return float(np.mean(found))


PICTURES = {
    "training": draw_training,
    "attention": draw_attention,
    "best": draw_best,
    "breakdown": draw_breakdown,
    "margin": draw_margin,
}

if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name in sys.argv[2:] or PICTURES:
        PICTURES[name](where)
