"""What a result depends on besides its parameters: versions, device, revision, command."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import jaxprompt

__all__ = ["environment"]

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "xarray", "zarr", "matplotlib", "flax", "optax")


def environment(seed: int | None = None) -> dict[str, Any]:
    """Versions, device, dtype, seed, command and git revision, as plain values."""
    device = jax.devices()[0]
    return {
        "jaxprompt": jaxprompt.__version__,
        "python": platform.python_version(),
        **{name: _package_version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform}: {device.device_kind}, {jax.device_count()} in all",
        "dtype": "closed forms and errors in float64; trials as their claim states",
        "seed": seed,
        "command": " ".join(["jaxprompt", *sys.argv[1:]]),
        "revision": _git_revision(),
    }


def _package_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """Git revision of a source checkout, "unknown" for an installed package or without git."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return "unknown"
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
