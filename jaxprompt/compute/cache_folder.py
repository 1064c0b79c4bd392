"""The user's cache folder, and compiled programs kept there between runs of the command line.

The library keeps trained parameters in the folder and never touches JAX's settings. The command
line also lets JAX keep its compiled programs there, by the environment variables JAX reads when
it is imported, so that worker processes inherit them.

A cache is a convenience: where none can be kept (no home, a read-only or full disk) everything
runs as without it, and gives the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import sys
import warnings
import zlib
from pathlib import Path

__all__ = ["cache_folder", "enable_compilation_cache", "make_folder", "write_atomically"]

CACHE_FOLDER_VARIABLE = "JAXPROMPT_CACHE"
"""Names another folder; set to nothing it switches the cache off."""

_LIMIT = 2**29
"""Bytes of compiled programs kept; beyond them the oldest go."""

_HARMLESS = (
    "Error reading persistent compilation cache entry",
    "Error writing persistent compilation cache entry",
)
"""Warnings of JAX after which it compiles as if there were no cache."""


def cache_folder() -> Path | None:
    """The cache folder: ``JAXPROMPT_CACHE``, else ``jaxprompt`` in the user's cache folder.

    None when the variable is set to nothing, or when the user has no home.
    """
    named = os.environ.get(CACHE_FOLDER_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "jaxprompt"
    try:
        return Path.home() / ".cache" / "jaxprompt"
    except RuntimeError:  # no home is known
        return None


def make_folder(folder: Path) -> bool:
    """Make a folder of the cache, for this user alone; whether it can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def write_atomically(path: Path, data: bytes) -> bool:
    """Write a file atomically. Returns whether it was written (False if the disk refuses)."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def enable_compilation_cache() -> Path | None:
    """Turn on JAX's compilation cache; call before JAX is imported.

    Returns the folder, or None if there is none.

    Does nothing once JAX has been imported (its settings are then the caller's), or where the
    user has set a folder of JAX's own, or where no cache can be kept.
    """
    folder = cache_folder()
    if "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ or folder is None:
        return None
    programs = folder / "compiled" / _machine_name()
    if not make_folder(programs):
        return None
    _remove_incomplete(programs)
    _remove_oldest(programs.parent)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    for text in _HARMLESS:
        warnings.filterwarnings("ignore", text, UserWarning)
    own = [f"ignore:{text}:UserWarning" for text in _HARMLESS]  # for the worker processes
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), *own]))
    return programs


def _machine_name() -> str:
    """Name for what compiled programs depend on: the processor, and the versions of JAX.

    JAX's own key leaves out the processor, and a home folder may be shared between machines.
    """
    words = [platform.machine(), platform.processor(), platform.system()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for field in ("model name", "flags", "Features", "CPU part"):
        words += [line for line in lines if line.startswith(field)][:1]
    words += [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _remove_incomplete(programs: Path) -> None:
    """Remove entries that a run killed while it wrote left incomplete, as JAX would not.

    Looks at what was written since the last look only. An entry that another process is writing
    now may go too; it is then compiled once more.
    """
    stamp = programs / "looked"
    try:
        since = stamp.stat().st_mtime_ns if stamp.exists() else 0
        stamp.touch()
        for entry in programs.glob("*-cache"):
            if entry.stat().st_mtime_ns >= since and not _is_complete(entry.read_bytes()):
                entry.unlink(missing_ok=True)
    except OSError:  # another process tidies up too, or the disk is full: JAX copes with the rest
        return


def _is_complete(data: bytes) -> bool:
    """Whether a compressed entry is whole; those by Zstandard, where installed, are trusted."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return True
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True


def _remove_oldest(folder: Path) -> None:
    """Remove the oldest entries, of any machine and version, beyond the limit."""
    try:
        entries = sorted(
            ((entry.stat(), entry) for entry in folder.glob("*/*-cache")),
            key=lambda pair: pair[0].st_mtime_ns,
            reverse=True,
        )
        total = 0
        for status, entry in entries:
            total += status.st_size
            if total > _LIMIT:
                entry.unlink(missing_ok=True)
    except OSError:  # another process tidies up too
        return
