"""Programs that compile with few optimisations, for functions that other programs call too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.core import Tracer

__all__ = ["RUN_ONCE_OPTIONS", "QuickJit"]

RUN_ONCE_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0}
"""Compiler options of programs that run once: compiling them takes longer than running them."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class QuickJit(Generic[Arguments, Result]):
    """``jax.jit`` with :data:`RUN_ONCE_OPTIONS`, for functions that other programs call too.

    Options belong to the outermost program alone, so where an argument is traced the function is
    part of that program, with its options.
    """

    def __init__(self, function: Callable[Arguments, Result]) -> None:
        functools.update_wrapper(self, function)
        self._alone: Any = jax.jit(function, compiler_options=RUN_ONCE_OPTIONS)
        self._inside: Any = jax.jit(function)

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        traced = any(isinstance(x, Tracer) for x in (*arguments, *named.values()))
        return (self._inside if traced else self._alone)(*arguments, **named)

    def clear_cache(self) -> None:
        """Forget what was compiled, as jitted functions do."""
        self._alone.clear_cache()
        self._inside.clear_cache()
