"""Sentences with labels that install with SciPy: what its authors wrote about functions and classes.

The first sentence of a docstring says what the object does. Whether that object is a function or
a class is a fact about the library that the authors set down, and the sentence shows it only by
its form ("Compute …" against "… interpolator"): topics are the same for both.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxprompt.prefix.bert import Text, tokenised

__all__ = ["CLASSES", "LENGTH", "Split", "documented", "of_length", "split"]

MODULES = ("cluster.hierarchy", "cluster.vq", "fft", "integrate", "interpolate", "linalg",
           "ndimage", "optimize", "signal", "sparse", "sparse.linalg", "spatial",
           "spatial.distance", "special", "stats")  # fmt: skip
"""SciPy's public modules with prose about what they compute."""

CLASSES = ("function", "class")
"""What a label stands for."""

LENGTH = 16
"""Word pieces of a sentence with the model's two marks; longer ones are cut."""


@functools.lru_cache(maxsize=1)
def documented() -> dict[str, int]:
    """First sentences of at least three words in alphabetical order, each with its label.

    Objects that are neither functions nor classes, such as SciPy's distributions, are left out.
    """
    found: dict[str, int] = {}
    for name in MODULES:
        module = importlib.import_module(f"scipy.{name}")
        for entry in map(functools.partial(getattr, module), sorted(module.__all__)):
            label = _label(entry)
            sentence = _first_sentence(entry)
            if label is not None and len(sentence.split()) >= 3:
                found[sentence] = label
    return dict(sorted(found.items()))


def _label(entry: Any) -> int | None:
    if inspect.isroutine(entry) or isinstance(entry, np.ufunc):
        return 0
    return 1 if inspect.isclass(entry) else None


def _first_sentence(entry: Any) -> str:
    """First paragraph of the docstring on one line; that of a ufunc begins with its signature."""
    paragraphs = inspect.cleandoc(entry.__doc__ or "").split("\n\n")
    start = int(isinstance(entry, np.ufunc))
    return " ".join(" ".join(paragraphs[start : start + 1]).split())


class Split(NamedTuple):
    """Sentences to train on and others to test on, with labels; as many of each label."""

    train: Text
    train_labels: Int[np.ndarray, " n"]
    test: Text
    test_labels: Int[np.ndarray, " m"]


def split(examples: int, tests: int, *, key: Key[Array, ""]) -> Split:
    """`examples` and `tests` sentences of each label, drawn without replacement.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    named = documented()
    sentences, labels = list(named), np.asarray(list(named.values()))
    parts: tuple[list[int], list[int]] = ([], [])
    for label in range(len(CLASSES)):
        own = np.flatnonzero(labels == label)
        order = jax.random.permutation(jax.random.fold_in(key, label), len(own))
        chosen = own[np.asarray(order)]
        parts[0].extend(chosen[:examples])
        parts[1].extend(chosen[examples : examples + tests])
    train, test = (tokenised([sentences[i] for i in own], LENGTH) for own in parts)
    return Split(train, labels[parts[0]], test, labels[parts[1]])


def of_length(count: int) -> Text:
    """The first `count` sentences that fill all places exactly, so that no place is empty.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    text = tokenised(list(documented()), LENGTH + 1)
    full = np.flatnonzero(text.present.sum(axis=1) == LENGTH)[:count]
    return Text(text.tokens[full, :LENGTH], text.present[full, :LENGTH])
