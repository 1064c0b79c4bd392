"""A user's own sequences, labels and marks, checked once; float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxprompt.errors import ParameterError

__all__ = ["Pool", "check_counts", "make_pool"]

_BLOCK_BYTES = 2**26
"""Of tokens in float64 that are held at once."""

FEWEST = 20
"""Sequences that a pool needs: five folds of four."""


class Pool(NamedTuple):
    """Sequences with labels ±1, a prompt, a ridge and perhaps marks of relevant tokens."""

    tokens: Any
    label: Float[np.ndarray, " N"]
    prompt: Float[np.ndarray, " d"]
    ridge: float
    relevant: Bool[np.ndarray, "N T"] | None

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.label)

    @property
    def dim(self) -> int:
        """Dimension of a token."""
        return len(self.prompt)

    def blocks(self) -> Iterator[slice]:
        """Ranges of sequences that fit in memory together."""
        size = max(1, _BLOCK_BYTES // (8 * int(np.prod(self.tokens.shape[1:]))))
        for first in range(0, self.sequences, size):
            yield slice(first, min(first + size, self.sequences))

    def tokens_of(self, part: slice) -> Float[np.ndarray, "n T d"]:
        """The tokens of a block of sequences."""
        return np.asarray(self.tokens[part], np.float64)


def make_pool(tokens: Any, labels: Any, prompt: Any, ridge: Any, relevant: Any) -> Pool:
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
    pool = Pool(
        array, _signs(labels, count), _vector(prompt, dim), _ridge(ridge),
        _marks(relevant, count, length),
    )  # fmt: skip
    for part in pool.blocks():
        if not np.isfinite(pool.tokens_of(part)).all():
            place = f"a number that is not finite in sequences {part.start} to {part.stop - 1}"
            raise ParameterError("tokens", place, "finite numbers", "remove those sequences")
    return pool


def _signs(labels: Any, count: int) -> Float[np.ndarray, " N"]:
    array = np.asarray(labels)
    if array.shape != (count,):
        shown = f"array {list(array.shape)}"
        raise ParameterError("labels", shown, f"{count} labels, one a sequence", "give as many")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ParameterError("labels", "a number that is not finite", "two values", "replace it")
    kinds, index = np.unique(array, return_inverse=True)
    if len(kinds) != 2:
        remedy = "give both classes" if len(kinds) < 2 else "choose two classes"
        raise ParameterError("labels", f"{len(kinds)} classes", "of exactly two classes", remedy)
    return 2.0 * index - 1.0


def _vector(prompt: Any, dim: int) -> Float[np.ndarray, " d"]:
    array = np.asarray(prompt)
    if array.shape != (dim,) or array.dtype.kind not in "iuf":
        shown = f"array {list(array.shape)} of {array.dtype}"
        raise ParameterError("prompt", shown, f"{dim} numbers, one a coordinate", "reshape it")
    if not np.isfinite(array).all():
        raise ParameterError("prompt", "a number that is not finite", "finite", "replace it")
    return array.astype(np.float64)


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


def check_counts(samples: Any, most: int) -> tuple[int, ...]:
    """Ascending numbers of training sequences, none above `most`.

    Raises:
        ParameterError: one is no integer, below 2, or more than the pool can give.
    """
    array = np.atleast_1d(np.asarray(samples))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ParameterError("samples", samples, "integers ≥ 2", "give numbers of sequences")
    if array.min() < 2 or array.max() > most:
        allowed = f"from 2 to {most}, four fifths of the pool"
        raise ParameterError("samples", samples, allowed, "lower them or give more sequences")
    return tuple(sorted({int(n) for n in array}))
