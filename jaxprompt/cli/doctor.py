"""What an installation can do: versions, devices, dtypes, folders it may write, optional parts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import traceback
from pathlib import Path
from typing import Literal, NamedTuple

from jaxprompt.cli.terminal import one_line
from jaxprompt.compute import cache_folder
from jaxprompt.compute.compiler_flags import quick_flags
from jaxprompt.core.extras import EXTRAS, Extra

__all__ = ["Finding", "device_problem", "examine"]

_CORE = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "contourpy", "matplotlib", "xarray",
         "zarr", "rich", "jinja2", "latex2mathml", "jaxtyping", "shtab")  # fmt: skip


class Finding(NamedTuple):
    """One thing looked at; a `problem` keeps jaxprompt from working, `absent` is optional."""

    what: str
    state: Literal["ok", "absent", "problem"]
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; nothing is left behind."""
    import jaxprompt

    return [
        Finding("jaxprompt", "ok", f"{jaxprompt.__version__} in {Path(jaxprompt.__file__).parent}"),
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *(_package(name) for name in _CORE),
        _devices(),
        _float64(),
        _compiler(),
        *(_check_extra(extra) for extra in EXTRAS.values()),
        _check_writable(
            "working folder", Path.cwd(), "go to a folder you may write to, or use --out"
        ),
        _check_writable(
            "temporary folder", Path(tempfile.gettempdir()), "set TMPDIR to another folder"
        ),
        _cache(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "problem", "not installed", f"pip install {name}")


def _devices() -> Finding:
    import jax

    problem = device_problem()
    if problem:
        return Finding("devices", "problem", problem, "unset JAX_PLATFORMS, or set it to cpu")
    devices = jax.devices()
    kinds = sorted({f"{d.platform}: {d.device_kind}" for d in devices})
    return Finding("devices", "ok", f"{len(devices)} ({', '.join(kinds)}), {_check_cores()}")


def device_problem() -> str:
    """Why JAX has no device to compute on, as with a platform that is not installed; or ""."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # RuntimeError, or an assertion of its own for a missing plugin
        asked = os.environ.get("JAX_PLATFORMS")
        text = one_line(str(error))[:200] or "not available here"
        return f"JAX_PLATFORMS={asked}: {text}" if asked else text
    return ""


def _check_cores() -> str:
    from jaxprompt.compute.devices import cores

    return f"{os.cpu_count()} processors, trials use {cores()}"


def _float64() -> Finding:
    """Closed forms need 64-bit numbers: a product that 32 bits would round away."""
    import jax
    import jax.numpy as jnp

    what = "dtype"
    if device_problem():
        return Finding(what, "problem", "no device to try float64 on", "see `devices` above")
    try:
        with jax.enable_x64(True):
            value = float(jax.jit(lambda x: (1 + x) * (1 - x) - 1)(jnp.float64(1e-6)))
            solved = float(jnp.linalg.solve(2 * jnp.eye(2), jnp.ones(2))[0])
    except Exception:
        last = traceback.format_exc(limit=0).strip().splitlines()[-1]
        return Finding(what, "problem", last, "reinstall jax and jaxlib of one version")
    if value == 0 or solved != 0.5:
        return Finding(what, "problem", "float64 is rounded", "use a device that has float64")
    default = jnp.result_type(float).name
    return Finding(what, "ok", f"float64 where it is needed; the caller's default is {default}")


def _compiler() -> Finding:
    flags = " ".join(quick_flags())
    found = f"commands set XLA_FLAGS={flags}" if flags else "commands set no XLA_FLAGS"
    return Finding("compiler", "ok", found)


def _check_extra(extra: Extra) -> Finding:
    missing = extra.missing()
    what = f"extra {extra.name}"
    if not missing:
        return Finding(what, "ok", extra.adds)
    remedy = f"`{extra.command}` in a clone adds {extra.adds}"
    return Finding(what, "absent", f"without {', '.join(missing)}", remedy)


def _check_writable(what: str, folder: Path, remedy: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(what, "problem", f"{folder}: {error.strerror}", remedy)
    return Finding(what, "ok", f"{folder} can be written")


def _cache() -> Finding:
    """Without a cache everything runs, only slower."""
    folder = cache_folder.cache_folder()
    if folder is None and cache_folder.CACHE_FOLDER_VARIABLE not in os.environ:
        remedy = f"set {cache_folder.CACHE_FOLDER_VARIABLE} to a folder to keep one"
        return Finding("cache", "absent", "no home folder is known", remedy)
    if folder is None:
        return Finding(
            "cache",
            "absent",
            "switched off",
            f"unset {cache_folder.CACHE_FOLDER_VARIABLE} to keep one",
        )
    made = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    remedy = f"set {cache_folder.CACHE_FOLDER_VARIABLE} to a folder you may write to"
    finding = _check_writable("cache", made, remedy)
    if finding.state == "problem":
        return finding._replace(state="absent")
    return finding._replace(found=str(folder) + ("" if made == folder else ", not made yet"))
