"""Flags of the compiler under which a program compiles in a third of the time.

They belong to a process, so only commands set them, in a process of their own. The library leaves
the compiler as its caller has it. Measured by ``benchmarks/main_job.py``.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any

__all__ = ["compile_quickly", "quick_flags", "thorough_options"]

_EMITTERS = "xla_cpu_use_fusion_emitters"

_PLAIN_LOOPS = (
    "--xla_backend_extra_options="
    "xla_cpu_disable_loop_unrolling=true,xla_cpu_disable_slp_vectorizer=true"
)
# One LLVM module a program: cut into parts for several threads, it takes more in all.
_WHOLE = "--xla_cpu_parallel_codegen_split_count=1"
# Loops are written as LLVM code at once rather than by way of MLIR.
_DIRECT = f"--{_EMITTERS}=false"

_FLAGS = {"0.10.": (_DIRECT, _WHOLE, _PLAIN_LOOPS), "0.12.": (_WHOLE, _PLAIN_LOOPS)}
"""What each version of jaxlib, by how it begins, knows; XLA ends a process that names a flag that
it does not know, so other versions get none."""


def compile_quickly() -> bool:
    """Let this process, and those that it starts, compile quickly; whether it will.

    Call before JAX is imported: later nothing is changed. Numbers may differ in their last digits.
    Flags that the user has set in ``XLA_FLAGS`` win.
    """
    flags = quick_flags()
    if "jax" in sys.modules or not flags:
        return False
    given = os.environ.get("XLA_FLAGS", "")
    new = [flag for flag in flags if flag.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [given, *new]))
    return True


def thorough_options() -> dict[str, Any]:
    """Options of the compiler for a program that runs for long in a process that compiles quickly.

    With loops written directly, draws of normal numbers can take three times as long. None where
    this process has JAX's own settings.
    """
    quick = _DIRECT in os.environ.get("XLA_FLAGS", "").split() and _DIRECT in quick_flags()
    return {_EMITTERS: True} if quick else {}


def quick_flags() -> tuple[str, ...]:
    """The flags that the installed jaxlib knows; none where it is of another version."""
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return next((flags for start, flags in _FLAGS.items() if version.startswith(start)), ())
