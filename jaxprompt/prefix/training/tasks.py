r"""Sequence tasks on digits, and a split into training and test inputs that never moves.

A task maps `n` digits from {0, …, 7} to `n` symbols; the model reads the digits and then writes
the solution. Tasks as in Petrov et al., ICLR 2024. Symbols go to 10, because a count may.

Inputs are uniform, or follow the law of the published code: an input with more than n/2 different
digits is thrown away with probability ½ and drawn again, as often as it takes. So it is half as
likely as another one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Key, UInt32

from jaxprompt.compute import random_table
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.training.constant_answer import INPUT_LAWS

__all__ = [
    "DIGITS",
    "SYMBOLS",
    "TASKS",
    "draw_inputs",
    "is_test",
    "many_digits",
    "solve",
    "solve_all",
    "test_inputs",
]

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


def test_inputs(length: int) -> int:
    """How many different inputs of `length` digits are for testing."""
    return DIGITS ** (length - 1) * _TEST_SHARE


def draw_inputs(
    count: int,
    length: int,
    *,
    key: Key[Array, ""],
    test: bool = False,
    first: int | Array = 0,
    law: str = "uniform",
) -> Int[Array, "count length"]:
    """Draws (int32) from the training or the test inputs, uniform or as the published code's.

    They are number `first` and the following of one endless list that `key` stands for. Given all
    digits but the first, exactly two of the eight first digits are for testing, so the first is
    drawn among the right ones, each with its probability to within 2⁻²³. The published law draws
    again what a coin throws away; attempt number t has numbers of its own, so that an input does
    not depend on how often its neighbours were drawn.

    Raises:
        ParameterError: `length` is not between 2 and 10, or `law` is unknown.
    """
    if not 2 <= length <= LONGEST:
        raise ParameterError(
            "length", length, f"between 2 and {LONGEST}", "a longer count has no symbol"
        )
    if law not in INPUT_LAWS:
        raise ParameterError("law", law, f"one of {', '.join(INPUT_LAWS)}", "choose one of those")
    if law == "published":
        return _draw_published_inputs(key, first, count, length, test)
    return _draw_inputs(key, first, count, length, test)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw_inputs(key: Array, first: int | Array, count: int, length: int, test: bool) -> Array:
    return _input_of_words(random_table.words(key, first, count, length)[0], test)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw_published_inputs(
    key: Array, first: int | Array, count: int, length: int, test: bool
) -> Array:
    def attempt(number: int | Array) -> tuple[Array, Array]:
        words, coins = random_table.words(jax.random.fold_in(key, number), first, count, length)
        digits = _input_of_words(words, test)
        return digits, many_digits(digits) & (coins[:, 0] >> jnp.uint32(31) == 1)

    def draw_again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, digits, thrown = state
        fresh, thrown_again = attempt(number)
        return number + 1, jnp.where(thrown[:, None], fresh, digits), thrown & thrown_again

    return lax.while_loop(lambda state: state[2].any(), draw_again, (jnp.int32(1), *attempt(0)))[1]


def many_digits(digits: Int[Array, "*batch n"]) -> Bool[Array, "*batch"]:
    """Whether more than half as many different digits occur as there are places."""
    occurs = (digits[..., None] == jnp.arange(DIGITS)).any(axis=-2)
    return occurs.sum(axis=-1) > digits.shape[-1] // 2


def _input_of_words(bits: UInt32[Array, "count n"], test: bool) -> Int[Array, "count n"]:
    """Uniform inputs on one side of the split, from random bits."""
    following = bits[:, 1:] >> jnp.uint32(29)
    low, high = (0, _TEST_SHARE) if test else (_TEST_SHARE, DIGITS)
    residue = low + (((bits[:, 0] >> jnp.uint32(9)) * jnp.uint32(high - low)) >> jnp.uint32(23))
    lead = (residue - _hash_digits(following)) % jnp.uint32(DIGITS)
    return jnp.concatenate([lead[:, None], following], axis=1).astype(jnp.int32)
