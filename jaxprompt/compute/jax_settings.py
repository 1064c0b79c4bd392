"""The JAX settings that the package's own computations run under, whatever the caller's are."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import jax

__all__ = ["own_settings"]


@contextlib.contextmanager
def own_settings(x64: bool | None = None) -> Generator[None]:
    """Run the package's code under the settings it is written for, in this thread.

    A caller may have made JAX raise on implicit promotion of ranks or dtypes, on NaN, or on a key
    used twice; or may have switched `jit` off. Those are checks of the caller's code. `x64` is
    whether 64-bit types are on; None leaves that as it is.
    """
    with contextlib.ExitStack() as stack:
        if x64 is not None:
            stack.enter_context(jax.enable_x64(x64))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.debug_key_reuse(False))
        stack.enter_context(jax.disable_jit(False))
        stack.enter_context(jax.debug_nans(False))
        stack.enter_context(jax.debug_infs(False))
        stack.enter_context(jax.default_matmul_precision(None))
        yield
