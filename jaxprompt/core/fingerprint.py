"""What the code of a claim was when a sweep began, so that no store mixes two theories.

The fingerprint of a function is that of its compiled code, of the values it closes over and of
every function it names that belongs to the claim's own package or file. Comments, places and
docstrings do not enter. Code of other packages is known by its version, which the store records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["PARTS", "changed_parts", "fingerprint_claim", "functions_reached"]

PARTS = ("simulation", "prediction", "judgement")
"""What of a claim is told apart."""


def fingerprint_claim(claim: Claim) -> dict[str, str]:
    """A short text for what decides the simulated numbers, the predictions and the statuses.

    Compiled code differs between versions of Python, so that is recorded beside it.
    """
    parameters = (claim.parameters, claim.ignored, claim.check_parameters, claim.instance)
    limit = (claim.relation, claim.size, claim.powers)
    parts = {
        "simulation": (claim.simulation, claim.shared, parameters),
        "prediction": (claim.closed_form, parameters),
        "judgement": (claim.compare, claim.also, limit, claim.quantities),
    }
    found = {name: _checksum_of(part, _owning_modules(claim)) for name, part in parts.items()}
    return {**found, "python": ".".join(map(str, sys.version_info[:2]))}


def changed_parts(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Which of :data:`PARTS` differ; none where the two cannot be compared."""
    if old.get("python") != new["python"]:
        return []
    return [part for part in PARTS if old.get(part) != new[part]]


def _owning_modules(claim: Claim) -> tuple[set[str], set[str]]:
    """Top-level packages and folders whose code belongs to the claim."""
    packages, folders = {"jaxprompt"}, set[str]()
    for function in (claim.closed_form, claim.simulation, claim.check_parameters, claim.compare):
        for inner in _unwrapped(function):
            module = getattr(inner, "__module__", None) or ""
            packages.add(module.partition(".")[0])
            code = getattr(inner, "__code__", None)
            if code is not None and "site-packages" not in code.co_filename:
                folders.add(str(Path(code.co_filename).parent))
    return packages - {"functools", "jax", "jaxlib", "numpy", "scipy", "builtins", ""}, folders


def _unwrapped(function: Any) -> Iterator[Any]:
    """A function and what it wraps, such as the one that a decorator was given."""
    while function is not None:
        if isinstance(function, functools.partial):
            function = function.func
            continue
        yield function
        function = getattr(function, "__wrapped__", None)


def _checksum_of(value: Any, owners: tuple[set[str], set[str]]) -> str:
    sums = 0
    for text in _bytes_of_value(value, owners, {}):
        sums = zlib.crc32(text, sums)
    return f"{sums:08x}"


def _bytes_of_value(
    value: Any, owners: tuple[set[str], set[str]], seen: dict[int, Any]
) -> Iterator[bytes]:
    """Bytes that are equal for equal values in any process."""
    if isinstance(value, bool | int | float | complex | str | bytes | type(None)):
        yield f"{type(value).__name__} {value!r}".encode("utf-8", "backslashreplace")
        return
    if id(value) in seen:  # said before, or refers to itself
        return
    seen[id(value)] = value  # kept, or another object could get the same id
    if isinstance(value, np.ndarray | np.generic):
        yield f"{value.dtype} {np.shape(value)}".encode()
        yield np.asarray(value).tobytes() if value.dtype != object else b""
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _bytes_of_value(name, owners, seen)
            yield from _bytes_of_value(item, owners, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_bytes_of_value(item, owners, {})) for item in value)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} of {len(value)}".encode()
        for item in value:
            yield from _bytes_of_value(item, owners, seen)
    elif isinstance(value, types.CodeType):
        yield value.co_code
        yield repr((value.co_names, value.co_varnames, value.co_freevars)).encode()
        for constant in value.co_consts:
            yield from _bytes_of_value(constant, owners, seen)
    elif isinstance(value, functools.partial):
        for item in (value.func, value.args, value.keywords):
            yield from _bytes_of_value(item, owners, seen)
    elif isinstance(value, types.ModuleType):
        yield value.__name__.encode()
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if _is_owned(value, owners):
            for name, item in vars(value).items():
                if callable(item) or isinstance(item, property | staticmethod | classmethod):
                    yield name.encode()
                    yield from _bytes_of_value(item, owners, seen)
    elif isinstance(value, property):
        yield from _bytes_of_value(value.fget, owners, seen)
    elif dataclasses.is_dataclass(value):
        yield type(value).__qualname__.encode()
        for entry in dataclasses.fields(value):
            yield from _bytes_of_value(getattr(value, entry.name, None), owners, seen)
    else:
        yield from _function_texts(value, owners, seen)


def _function_texts(
    function: Any, owners: tuple[set[str], set[str]], seen: dict[int, Any]
) -> Iterator[bytes]:
    inner = getattr(function, "__func__", function)
    wrapped = getattr(inner, "__wrapped__", None)
    if wrapped is not None and not isinstance(inner, types.FunctionType):
        yield from _bytes_of_value(wrapped, owners, seen)  # of a jitted or cached function
        return
    if not isinstance(inner, types.FunctionType) or not _is_owned(inner, owners):
        name = getattr(inner, "__qualname__", type(inner).__qualname__)
        yield f"{getattr(inner, '__module__', '')}.{name}".encode()
        return
    code = inner.__code__
    constants = tuple(c for c in code.co_consts if c is None or c != inner.__doc__)
    yield from _bytes_of_value(code.replace(co_consts=constants), owners, seen)
    yield from _bytes_of_value((inner.__defaults__, inner.__kwdefaults__), owners, seen)
    for name, cell in zip(code.co_freevars, inner.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            if _is_constant(name, cell.cell_contents):
                yield from _bytes_of_value(cell.cell_contents, owners, seen)
    for name in sorted(_names(code)):
        if name in inner.__globals__:
            named = inner.__globals__[name]
            yield name.encode()
            if _is_constant(name, named):
                yield from _bytes_of_value(named, owners, seen)
            if isinstance(named, types.ModuleType) and _is_owned_module(named, owners):
                for attribute in sorted(_names(code) & set(vars(named))):
                    if _is_constant(attribute, vars(named)[attribute]):
                        yield from _bytes_of_value(vars(named)[attribute], owners, seen)


def _is_constant(name: str, value: Any) -> bool:
    """Whether a global keeps its value; a table in lower case may be a cache that fills."""
    return name.isupper() or not isinstance(value, dict | list | set | np.ndarray)


def _names(code: types.CodeType) -> set[str]:
    """Names that a function uses, with those of the functions defined in it."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_owned(value: Callable[..., Any] | type, owners: tuple[set[str], set[str]]) -> bool:
    packages, folders = owners
    code = getattr(value, "__code__", None)
    beside = code is not None and str(Path(code.co_filename).parent) in folders
    return beside or (value.__module__ or "").partition(".")[0] in packages


def _is_owned_module(module: types.ModuleType, owners: tuple[set[str], set[str]]) -> bool:
    packages, folders = owners
    file = getattr(module, "__file__", None)
    return module.__name__.partition(".")[0] in packages or (
        file is not None and str(Path(file).parent) in folders
    )


def functions_reached(function: Any, claim: Claim) -> list[Any]:
    """Functions of the claim's own code that a function may call, as far as names tell."""
    seen: dict[int, Any] = {}
    for _ in _bytes_of_value(function, _owning_modules(claim), seen):
        pass
    return [value for value in seen.values() if isinstance(value, types.FunctionType)]
