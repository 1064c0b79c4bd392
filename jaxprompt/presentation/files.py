"""Files that are complete under their name, or not there at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

__all__ = ["replacing", "write_atomically"]


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary path that replaces `path` on success and is removed on failure."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, complete under its name or not at all; raises OSError where it cannot be."""
    with replacing(path) as part:
        part.write_bytes(data)
