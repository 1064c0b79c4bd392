"""Real sentences that install with SciPy, and a task on them: are the words in their order?

The sentences are the first ones of the docstrings of SciPy's public objects, so they change a
little with its version. The label is made, not given: half of the sentences, drawn by the key,
are read with their words in reverse order. Both halves lose the full stop, and the model's
tokeniser ignores capitals, so nothing but the order tells them apart.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxprompt.networks.minilm import Text, tokenise

__all__ = [
    "LENGTH",
    "Split",
    "docstring_sentences",
    "full_length_sentences",
    "reversed_words",
    "split_sentences",
]

MODULES = ("cluster.hierarchy", "cluster.vq", "fft", "integrate", "interpolate", "linalg",
           "ndimage", "optimize", "signal", "sparse", "sparse.linalg", "spatial",
           "spatial.distance", "special", "stats")  # fmt: skip
"""SciPy's public modules with prose about what they compute."""

LENGTH = 16
"""Word pieces of a sentence with the model's two marks; longer ones are cut."""


@functools.lru_cache(maxsize=1)
def docstring_sentences() -> tuple[str, ...]:
    """Distinct first sentences of at least four words, without full stop, in alphabetical order."""
    first: set[str] = set()
    for name in MODULES:
        module = importlib.import_module(f"scipy.{name}")
        first |= {_first_sentence(entry, getattr(module, entry)) for entry in module.__all__}
    return tuple(sorted(sentence for sentence in first if len(sentence.split()) >= 4))


def _first_sentence(name: str, entry: object) -> str:
    """First paragraph of the docstring that is not the signature, on one line."""
    if inspect.ismodule(entry):
        return ""
    paragraphs = inspect.cleandoc(entry.__doc__ or "").split("\n\n")
    start = int(paragraphs[0].startswith(f"{name}("))
    return " ".join(" ".join(paragraphs[start : start + 1]).split()).rstrip(".")


def reversed_words(sentence: str) -> str:
    """The same words in reverse order."""
    return " ".join(reversed(sentence.split()))


class Split(NamedTuple):
    """Sentences to train on and others to test on; label 1 where the words are reversed."""

    train: Text
    train_labels: Int[np.ndarray, " n"]
    test: Text
    test_labels: Int[np.ndarray, " m"]


def split_sentences(examples: int, tests: int, *, key: Key[Array, ""]) -> Split:
    """Even numbers `examples` and `tests` of distinct sentences, half of each reversed.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    known = docstring_sentences()
    order = np.asarray(jax.random.permutation(key, len(known)))
    labels = np.arange(len(known)) % 2

    def label_and_tokenise(indices: Sequence[int]) -> tuple[Text, np.ndarray]:
        drawn = [known[order[i]] for i in indices]
        reverse = labels[list(indices)]
        read = [reversed_words(s) if x else s for s, x in zip(drawn, reverse, strict=True)]
        return tokenise(read, LENGTH), reverse

    train = label_and_tokenise(range(examples))
    return Split(*train, *label_and_tokenise(range(examples, examples + tests)))


def full_length_sentences(count: int) -> Text:
    """The first `count` sentences that fill all places exactly, so that no place is empty.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
    """
    text = tokenise(docstring_sentences(), LENGTH + 1)
    full = np.flatnonzero(text.present.sum(axis=1) == LENGTH)[:count]
    return Text(text.tokens[full, :LENGTH], text.present[full, :LENGTH])
