"""How much arithmetic a traced function does, and how long this machine takes for it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.compute.threefry import unrolled

__all__ = ["Operations", "count_operations", "operations_of", "seconds_for"]


class Operations(NamedTuple):
    """What a traced function does.

    Attributes:
        arithmetic: the work, in additions of one 32-bit number within an array.
        equations: operations of its program, on which the time to compile depends.
        at_least: whether it has a loop of unknown length, of which one step is counted.
    """

    arithmetic: float
    equations: int
    at_least: bool

    def __add__(self, other: Any) -> Operations:
        """Both, one after another."""
        return Operations(
            self.arithmetic + other.arithmetic,
            self.equations + other.equations,
            self.at_least or other.at_least,
        )


_NOTHING = Operations(0.0, 0, False)

_FREE = {
    *("reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy", "iota", "slice"),
    *("optimization_barrier", "random_wrap", "random_unwrap", "expand_dims", "stop_gradient"),
}
"""Operations that XLA fuses away."""

_SLOW_ELEMENTS = {
    **dict.fromkeys(("div", "sqrt", "rsqrt", "rem"), 4.0),
    **dict.fromkeys(
        ("exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "logistic", "pow",
         "erf", "erfc", "erf_inv", "cbrt", "atan2", "asin", "acos", "atan", "sinh", "cosh"), 15.0,
    ),
    **dict.fromkeys(("lgamma", "digamma", "igamma", "regularized_incomplete_beta"), 100.0),
    **dict.fromkeys(("gather", "scatter", "scatter-add", "dynamic_slice"), 4.0),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cumlogsumexp"), 3.0),
    "random_gamma": 400.0,
}  # fmt: skip
"""Additions that one element of the result costs, where it is not one."""

_WORD = 50.0
"""Additions that a random word of 32 bits costs."""

_PRODUCT = 0.5
"""Additions that one multiplication of a matrix product costs, since those are blocked."""

_FACTORISED = {
    "cholesky": 1 / 3, "triangular_solve": 1.0, "lu": 2 / 3, "geqrf": 4 / 3,
    "householder_product": 4 / 3, "qr": 8 / 3, "eigh": 9.0, "svd": 20.0, "eig": 25.0,
    "tridiagonal_solve": 1.0, "hessenberg": 10 / 3, "schur": 25.0,
}  # fmt: skip
"""Multiplications of a factorisation of a square matrix, in units of its width cubed."""

_COMPARED = 6.0
"""Additions that a comparison of a sort costs."""

_COMPILED_ANYHOW, _COMPILED_EACH = 2e9, 8e6
"""Additions made in the time that compiling a program takes, and each of its equations more."""


def count_operations(function: Callable[..., Any], *arguments: Any) -> Operations:
    """The arithmetic of `function` at these arguments, found by tracing: nothing is computed."""
    return operations_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def operations_of(jaxpr: Any) -> Operations:
    """The arithmetic of a traced function."""
    return sum((_count_equation(equation) for equation in jaxpr.eqns), _NOTHING)


def seconds_for(work: Operations, times: int, *, programs: int = 1) -> float:
    """Processor seconds of calling a function `times` times, and of compiling it `programs` times.

    The speed of this machine is measured once, with a draw of normal numbers. What is not
    arithmetic (memory that does not fit into a cache, small steps) is not counted, so the number
    is right to a factor of about three, on a machine that does nothing else.
    """
    each = _seconds_an_addition()
    compiling = programs * (_COMPILED_ANYHOW + _COMPILED_EACH * work.equations)
    return (compiling + work.arithmetic * times) * each


@functools.cache
def _seconds_an_addition() -> float:
    def draw(seed: jax.Array) -> jax.Array:
        key = unrolled(jax.random.key(seed))  # as trials have it
        return jax.random.normal(key, (2**16,), jnp.float32).sum()

    with own_settings(x64=False):
        seed = np.uint32(0)
        counted = count_operations(draw, seed).arithmetic
        run = jax.jit(draw)
        run(seed).block_until_ready()
        taken: list[float] = []
        for _ in range(5):  # the least is that of a core which nobody else wanted
            began = time.perf_counter()
            run(seed).block_until_ready()
            taken.append(time.perf_counter() - began)
    return min(taken) / counted


def _count_equation(equation: Any) -> Operations:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        body = operations_of(params["jaxpr"].jaxpr)
        return body._replace(arithmetic=body.arithmetic * params["length"])
    if name == "while":
        body = operations_of(params["body_jaxpr"].jaxpr) + operations_of(params["cond_jaxpr"].jaxpr)
        return body._replace(at_least=True)
    if name == "cond":
        branches = [operations_of(branch.jaxpr) for branch in params["branches"]]
        largest = max(branches, key=lambda branch: branch.arithmetic)
        return largest._replace(equations=sum(branch.equations for branch in branches))
    called = _called_function(params)
    if called is not None:
        return operations_of(called)
    return Operations(_arithmetic(name, equation), 1, False)


def _called_function(params: dict[str, Any]) -> Any:
    """The function that an equation such as a jitted call runs (the first, of several versions of
    one); None where it calls none."""
    jaxprs = (getattr(value, "jaxpr", value) for value in params.values())
    return next((jaxpr for jaxpr in jaxprs if hasattr(jaxpr, "eqns")), None)


def _arithmetic(name: str, equation: Any) -> float:
    """The work of one equation that calls no other function."""
    results = sum(_words(variable.aval) for variable in equation.outvars)
    operand: Any = equation.invars[0].aval if equation.invars else None
    if name in _FREE:
        return 0.0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = math.prod(operand.shape[axis] for axis in contracted)
        return _PRODUCT * results * terms
    if name in _FACTORISED:
        return _PRODUCT * _FACTORISED[name] * _cubes(operand.shape) * _word_length(operand)
    if name == "random_bits":
        return _WORD * results
    if name in ("random_fold_in", "random_split", "random_seed", "threefry2x32"):
        return 2 * _WORD * results
    if name == "sort":
        return _COMPARED * results * math.log2(max(2, operand.shape[-1] if operand.shape else 2))
    if name.startswith(("reduce", "arg")):
        return _words(operand)
    return results * _SLOW_ELEMENTS.get(name, 1.0)


def _words(aval: Any) -> float:
    """The size of an array in words of 32 bits, as twice as many of those are added at once."""
    return math.prod(getattr(aval, "shape", ())) * _word_length(aval)


def _word_length(aval: Any) -> float:
    return max(1.0, getattr(getattr(aval, "dtype", None), "itemsize", 4) / 4)


def _cubes(shape: tuple[int, ...]) -> float:
    """Rows × columns × the smaller of both, over a batch of matrices."""
    rows, columns = shape[-2:]
    return math.prod(shape[:-2]) * rows * columns * min(rows, columns)
