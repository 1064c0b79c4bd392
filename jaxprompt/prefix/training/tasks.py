r"""Sequence tasks on digits, and a split into training and test inputs that never moves.

A task maps `n` digits from {0, …, 7} to `n` symbols; the model reads the digits and then writes
the solution. Tasks as in Petrov et al., ICLR 2024. Symbols go to 10, because a count may.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from jaxprompt.compute import random_table
from jaxprompt.errors import ParameterError

__all__ = ["DIGITS", "SYMBOLS", "TASKS", "draw_inputs", "is_test", "solve", "solve_all"]

DIGITS = 8
"""Inputs are made of 0 … 7."""

SYMBOLS = 11
"""Solutions are made of 0 … 10: the sum 7 + 2, and the count of ten equal digits, both fit."""

LONGEST = 10
"""Most digits of an input: a count of eleven has no symbol."""

_TEST_SHARE = 2
"""Of every 8 inputs that differ only in their first digit, this many are for testing."""


def _ascending(digits: Array) -> Array:
    """Sorted digits by counting: rank each, then place it. Ties go in the order of the input."""
    position = jnp.arange(digits.size)
    less = digits[None, :] < digits[:, None]
    tie = (digits[None, :] == digits[:, None]) & (position[None, :] < position[:, None])
    rank = (less | tie).sum(axis=1)
    return (digits[:, None] * (rank[:, None] == position[None, :])).sum(axis=0, dtype=digits.dtype)


def _counts(digits: Array) -> Array:
    return (digits[None, :] == digits[:, None]).sum(axis=1, dtype=digits.dtype)


TASKS: dict[str, Callable[[Array], Array]] = {
    "asc": _ascending,
    "desc": lambda digits: _ascending(digits)[::-1],
    "add1": lambda digits: digits + 1,
    "add2": lambda digits: digits + 2,
    "asc_add1": lambda digits: _ascending(digits) + 1,
    "double_hist": _counts,
}
"""What each task makes of an array of digits."""


def solve(task: str, digits: Int[Array, " n"]) -> Int[Array, " n"]:
    """The solution of one input, in its integer dtype.

    Raises:
        ParameterError: `task` is unknown.
    """
    if task not in TASKS:
        raise ParameterError("task", task, f"one of {', '.join(TASKS)}", "choose one of those")
    return TASKS[task](digits)


@functools.partial(jax.jit, static_argnums=0)
def solve_all(task: str, digits: Int[Array, "B n"]) -> Int[Array, "B n"]:
    """The solutions of many inputs."""
    return jax.vmap(functools.partial(solve, task))(digits)


def _hash_digits(digits: UInt32[Array, "*batch m"]) -> UInt32[Array, "*batch"]:
    """A fixed hash of digits to {0, …, 7}: FNV-1a on 32 bits, finished as in MurmurHash3."""
    mark = jnp.full(digits.shape[:-1], 2166136261, jnp.uint32)
    for position in range(digits.shape[-1]):
        mark = (mark ^ digits[..., position]) * jnp.uint32(16777619)
    mark = (mark ^ (mark >> 16)) * jnp.uint32(0x85EBCA6B)
    mark = (mark ^ (mark >> 13)) * jnp.uint32(0xC2B2AE35)
    return (mark ^ (mark >> 16)) >> 29


def is_test(digits: Int[Array | np.ndarray, "*batch n"]) -> Array:
    """Whether inputs belong to the test set: a quarter of all, the same on every machine."""
    unsigned = jnp.asarray(digits).astype(jnp.uint32)
    return (unsigned[..., 0] + _hash_digits(unsigned[..., 1:])) % DIGITS < _TEST_SHARE


def draw_inputs(
    count: int,
    length: int,
    *,
    key: Key[Array, ""],
    test: bool = False,
    first: int | Array = 0,
) -> Int[Array, "count length"]:
    """Uniform draws (int32) from the training or the test inputs, without rejection.

    They are number `first` and the following of one endless list that `key` stands for. Given all
    digits but the first, exactly two of the eight first digits are for testing, so the first is
    drawn among the right ones, each with its probability to within 2⁻²³.

    Raises:
        ParameterError: `length` is not between 2 and 10.
    """
    if not 2 <= length <= LONGEST:
        raise ParameterError(
            "length", length, f"between 2 and {LONGEST}", "a longer count has no symbol"
        )
    return _draw_inputs(key, first, count, length, test)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw_inputs(key: Array, first: int | Array, count: int, length: int, test: bool) -> Array:
    bits = random_table.words(key, first, count, length)[0]
    following = bits[:, 1:] >> jnp.uint32(29)
    low, high = (0, _TEST_SHARE) if test else (_TEST_SHARE, DIGITS)
    residue = low + (((bits[:, 0] >> jnp.uint32(9)) * jnp.uint32(high - low)) >> jnp.uint32(23))
    lead = (residue - _hash_digits(following)) % jnp.uint32(DIGITS)
    return jnp.concatenate([lead[:, None], following], axis=1).astype(jnp.int32)
