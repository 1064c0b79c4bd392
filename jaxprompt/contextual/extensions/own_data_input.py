"""A user's own sequences, labels and marks, checked once; float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxprompt.compute.memory import available_memory, bytes_in_words
from jaxprompt.errors import ParameterError

__all__ = [
    "FOLDS", "MOST_PAIRS", "Pool", "check_counts", "make_pool", "most_samples", "refuse_too_large",
    "split_folds",
]  # fmt: skip

_BLOCK_BYTES = 2**26
"""Of tokens in float64 that are held at once."""

FOLDS = 5
"""Parts of the pool for cross-fitting."""

MOST_PAIRS = 8192
"""Training sequences up to which products between all pairs are held, 512 MiB; beyond it they are
not, and a pass over them costs m d² for each pair of targets."""

FEWEST = 20
"""Sequences that a pool needs: five folds of four."""

MOST_CLASSES = 50
"""Every pair of classes has a covariance of its own for every sequence."""


class Pool(NamedTuple):
    """Sequences with the numbers of their classes, prompts, a ridge and perhaps marks of relevant
    tokens.

    `shares` are those of the classes in training sets and tests: the pool's own, or given ones.
    """

    tokens: Any
    kinds: Int[np.ndarray, " N"]
    prompts: Float[np.ndarray, "h d"]
    ridge: float
    relevant: Bool[np.ndarray, "N T"] | None
    shares: Float[np.ndarray, " C"]
    shares_given: bool = False
    intercept: bool = False
    label_noise: float = 0.0

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.kinds)

    @property
    def dim(self) -> int:
        """Dimension of a token."""
        return self.prompts.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.shares)

    @property
    def label(self) -> Float[np.ndarray, " N"]:
        """±1 of two classes."""
        return 2.0 * self.kinds - 1.0

    def blocks(self) -> Iterator[slice]:
        """Ranges of sequences that fit in memory together."""
        size = max(1, _BLOCK_BYTES // (8 * int(np.prod(self.tokens.shape[1:]))))
        for first in range(0, self.sequences, size):
            yield slice(first, min(first + size, self.sequences))

    def tokens_of(self, part: slice) -> Float[np.ndarray, "n T d"]:
        """The tokens of a block of sequences."""
        return np.asarray(self.tokens[part], np.float64)


def make_pool(
    tokens: Any, labels: Any, prompt: Any, ridge: Any, relevant: Any, *, intercept: Any = False,
    class_shares: Any = None, label_noise: Any = 0.0,
) -> Pool:  # fmt: skip
    """Check everything and put it in one form.

    Raises:
        ParameterError: naming the argument, its value, what is allowed and what to do.
    """
    array = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens)
    if array.ndim != 3 or array.dtype.kind not in "iuf" or 0 in array.shape:
        raise ParameterError(
            "tokens", f"array {list(array.shape)} of {array.dtype}",
            "an array (sequences, T, d) of numbers", "reshape it",
        )  # fmt: skip
    count, length, dim = array.shape
    if count < FEWEST:
        raise ParameterError(
            "tokens", f"{count} sequences", f"at least {FEWEST} sequences", "give more of them"
        )
    kinds = _kinds(labels, count)
    if not isinstance(intercept, bool | np.bool_):
        raise ParameterError("intercept", intercept, "True or False", "give one")
    pool = Pool(
        array, kinds, _prompts(prompt, dim), _ridge(ridge), _marks(relevant, count, length),
        _shares(class_shares, kinds), class_shares is not None, bool(intercept),
        _label_noise(label_noise),
    )  # fmt: skip
    for part in pool.blocks():
        if not np.isfinite(pool.tokens_of(part)).all():
            place = f"a number that is not finite in sequences {part.start} to {part.stop - 1}"
            raise ParameterError("tokens", place, "finite numbers", "remove those sequences")
    return pool


def _kinds(labels: Any, count: int) -> Int[np.ndarray, " N"]:
    """Numbers of the classes, in the order of their sorted labels."""
    array = np.asarray(labels)
    if array.shape != (count,):
        shown = f"array {list(array.shape)}"
        raise ParameterError("labels", shown, f"{count} labels, one a sequence", "give as many")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ParameterError("labels", "a number that is not finite", "of classes", "replace it")
    values, index, sizes = np.unique(array, return_inverse=True, return_counts=True)
    if not 2 <= len(values) <= MOST_CLASSES:
        remedy = "give both classes" if len(values) < 2 else "choose fewer classes"
        allowed = f"from 2 to {MOST_CLASSES} classes"
        raise ParameterError("labels", f"{len(values)} classes", allowed, remedy)
    if sizes.min() < FOLDS:
        shown = f"{sizes.min()} sequences of class {values[sizes.argmin()]}"
        raise ParameterError("labels", shown, f"at least {FOLDS} of each class", "give more of it")
    return index


def _shares(shares: Any, kinds: np.ndarray) -> Float[np.ndarray, " C"]:
    """Of the pool where none are given."""
    sizes = np.bincount(kinds)
    if shares is None:
        return sizes / len(kinds)
    array = np.asarray(shares)
    allowed = f"{len(sizes)} positive numbers with sum 1, in the order of the sorted labels"
    if array.shape != sizes.shape or array.dtype.kind not in "iuf":
        raise ParameterError("class_shares", shares, allowed, "give one for each class")
    if not ((array > 0).all() and abs(array.sum() - 1) < 1e-6):
        raise ParameterError("class_shares", shares, allowed, "divide them by their sum")
    return array / array.sum()


def _label_noise(noise: Any) -> float:
    """Share of training labels that are another class's."""
    if isinstance(noise, bool) or not isinstance(noise, int | float | np.number):
        raise ParameterError("label_noise", noise, "a number from 0 to below 1/2", "give one")
    if not 0 <= noise < 0.5:
        allowed = "from 0 to below 1/2, the share of wrong training labels"
        raise ParameterError("label_noise", noise, allowed, "lower it")
    return float(noise)


def _prompts(prompt: Any, dim: int) -> Float[np.ndarray, "h d"]:
    array = np.asarray(prompt)
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != dim or array.dtype.kind not in "iuf":
        shown = f"array {list(array.shape)} of {array.dtype}"
        allowed = f"{dim} numbers, one a coordinate, or rows of as many"
        raise ParameterError("prompt", shown, allowed, "reshape it")
    if not np.isfinite(array).all():
        raise ParameterError("prompt", "a number that is not finite", "finite", "replace it")
    return rows.astype(np.float64)


def _ridge(ridge: Any) -> float:
    if isinstance(ridge, bool) or not isinstance(ridge, int | float | np.number):
        raise ParameterError("ridge", ridge, "a number ≥ 0", "give one")
    if not np.isfinite(ridge) or ridge < 0:
        raise ParameterError("ridge", ridge, "a finite number ≥ 0", "give one")
    return float(ridge)


def _marks(relevant: Any, count: int, length: int) -> Bool[np.ndarray, "N T"] | None:
    """Marks of every sequence; weights count as marks where they are above 0."""
    if relevant is None:
        return None
    array = np.asarray(relevant)
    if array.shape == (length,):
        array = np.broadcast_to(array, (count, length))
    if array.shape != (count, length) or array.dtype.kind not in "biuf":
        shown = f"array {list(array.shape)} of {array.dtype}"
        allowed = f"marks ({count}, {length}), or {length} for all"
        raise ParameterError("relevant", shown, allowed, "give one for each token")
    marks = array > 0
    numbers = np.unique(marks.sum(axis=1))
    if len(numbers) != 1 or not 0 < numbers[0] < length:
        shown = f"{numbers[0]} to {numbers[-1]} relevant tokens a sequence"
        allowed = f"equally many in every sequence, from 1 to {length - 1}"
        raise ParameterError("relevant", shown, allowed, "mark as many, or leave it out")
    return marks


def refuse_too_large(pool: Pool, *, gaussian: bool) -> None:
    """Refuse a curve that this machine's memory cannot hold; the estimate is a lower bound.

    Raises:
        ParameterError: it needs more than there is; the line says what would fit.
    """
    limit, whose = available_memory()
    dim = pool.prompts.size

    def needed(sequences: int) -> int:
        inside = sequences * (FOLDS - 1) // FOLDS
        rank = min(inside, dim)
        pairs = inside**2 if inside <= MOST_PAIRS and rank**2 > inside else 0
        heads = 3 * rank**2 + 2 * inside * rank + dim * rank + pairs
        moments = 8 * pool.dim**2 if gaussian else 0
        return _BLOCK_BYTES + 8 * (2 * sequences * dim + max(heads, moments))

    if needed(pool.sequences) <= limit:
        return
    fitting = pool.sequences
    while fitting >= FEWEST and needed(fitting) > limit:
        fitting = fitting * 9 // 10
    shown = f"{pool.sequences} sequences with {dim} features"
    allowed = f"what fits in memory: they need {bytes_in_words(needed(pool.sequences))}, {whose} "
    remedy = f"give {fitting} sequences" if fitting >= FEWEST else "give features of less dimension"
    raise ParameterError("tokens", shown, f"{allowed}{bytes_in_words(limit)}", remedy)


def split_folds(pool: Pool, rng: np.random.Generator) -> list[Int[np.ndarray, " N"]]:
    """Five parts of the pool at random, with every class shared out evenly."""
    order = rng.permutation(pool.sequences)
    order = order[np.argsort(pool.kinds[order], kind="stable")]
    return [np.sort(order[start::FOLDS]) for start in range(FOLDS)]


def most_samples(pool: Pool) -> int:
    """Training sequences that four of five folds hold, with the classes' shares."""
    whole = pool.sequences * (FOLDS - 1) // FOLDS
    if not pool.shares_given:
        return whole
    sizes = np.bincount(pool.kinds)
    fewest = sizes - -(-sizes // FOLDS)
    return min(whole, int(np.min(fewest / pool.shares)))


def check_counts(samples: Any, pool: Pool) -> tuple[int, ...]:
    """Ascending numbers of training sequences.

    Raises:
        ParameterError: one is no integer, below 2, or more than the pool can give.
    """
    array, most = np.atleast_1d(np.asarray(samples)), most_samples(pool)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ParameterError("samples", samples, "integers ≥ 2", "give numbers of sequences")
    if array.min() < 2 or array.max() > most:
        shares = " with these class shares" if pool.shares_given else ""
        allowed = f"from 2 to {most}, four fifths of the pool{shares}"
        raise ParameterError("samples", samples, allowed, "lower them or give more sequences")
    return tuple(sorted({int(n) for n in array}))
