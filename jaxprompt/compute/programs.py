"""Compiled programs stay in memory until they are forgotten; a long run has no use for all."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax

__all__ = ["ENOUGH", "forget_programs", "resident_bytes"]

ENOUGH = 2**30
"""Bytes that a process may hold before it forgets what it has compiled."""


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say so (Linux does)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_programs(above: int = ENOUGH) -> bool:
    """Drop all compiled programs if the process holds more than `above` bytes; whether it did.

    What is used again is compiled again, or loaded where there is a cache on disk.
    """
    if resident_bytes() <= above:
        return False
    jax.clear_caches()
    gc.collect()
    return True
