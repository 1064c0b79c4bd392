"""The JAX settings that the package's own computations run under, whatever the caller's are."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

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
        wanted = _SETTINGS if x64 is None else (("jax_enable_x64", jax.enable_x64, x64), *_SETTINGS)
        for name, setting, value in wanted:
            # To enter all of them takes longer than a small cell of a sweep.
            if getattr(jax.config, name) != value:
                stack.enter_context(setting(value))
        yield


_SETTINGS: tuple[tuple[str, Any, Any], ...] = (
    ("jax_numpy_rank_promotion", jax.numpy_rank_promotion, "allow"),
    ("jax_numpy_dtype_promotion", jax.numpy_dtype_promotion, "standard"),
    ("jax_debug_key_reuse", jax.debug_key_reuse, False),
    ("jax_disable_jit", jax.disable_jit, False),
    ("jax_debug_nans", jax.debug_nans, False),
    ("jax_debug_infs", jax.debug_infs, False),
    ("jax_default_matmul_precision", jax.default_matmul_precision, None),
)
