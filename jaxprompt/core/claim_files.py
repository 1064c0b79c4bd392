"""Running a user's file of claims, kept apart from every other file.

A file may import modules that stand beside it, at its top or later inside a formula. Two files in
different folders may have helpers of the same name, so such modules are not loaded under their
plain names: each folder is a package with a name of its own, and the file's code gets an
``__import__`` that looks into that folder first. Everything else is imported as usual.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import sys
import traceback
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

from jaxprompt.errors import UsageError

__all__ = ["modules_beside", "run_claim_file"]

_PREFIX = "jaxprompt_claims_"


def run_claim_file(path: str | Path) -> dict[str, Any]:
    """Run a Python file as with ``python FILE``; returns its global names.

    What the file prints goes to standard error, so that it cannot mix with a command's output.
    Running it again runs it anew; a module beside it is run anew if its file has changed.

    Raises:
        UsageError: the file cannot be read, raises an exception, or ends the program.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"file of claims '{path}' cannot be read ({error.strerror}): check the path"
        ) from None
    file = Path(path).resolve()
    package = _open_folder(file.parent)
    module = types.ModuleType(f"{package}.{file.stem}")
    module.__file__ = str(file)
    module.__dict__["__builtins__"] = _FOLDERS[package]
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(text, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        raise UsageError(_describe_failure(error, str(file), str(path))) from error
    return vars(module)


def modules_beside(path: str | Path) -> list[types.ModuleType]:
    """The modules that were imported from the folder of a file of claims, without that file."""
    file = Path(path).resolve()
    package = _package_name(file.parent)
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith(f"{package}.") and getattr(module, "__file__", None) != str(file)
    ]


def _describe_failure(error: BaseException, path: str, named: str) -> str:
    """One line that places an error in the user's file."""
    frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else None
    where = f"file of claims '{named}'" + (f" line {line}" if line else "")
    if isinstance(error, SystemExit):
        return f"{where} ends the program ({type(error).__name__}: {error}): remove that line"
    return f"{where}: {type(error).__name__}: {error}; mend that line"


# --- one package for each folder ---

_FOLDERS: dict[str, dict[str, Any]] = {}
"""Package of each folder from which a file was run, with the builtins of the code there."""


def _package_name(folder: Path) -> str:
    return f"{_PREFIX}{zlib.crc32(os.fsencode(folder)):08x}"


def _open_folder(folder: Path) -> str:
    """The package that stands for `folder`, without modules whose files have changed."""
    name = _package_name(folder)
    if name not in _FOLDERS:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        _FOLDERS[name] = {**vars(builtins), "__import__": _folder_importer(name, folder)}
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
    importlib.invalidate_caches()
    held = {n: m for n, m in sys.modules.items() if n.startswith(f"{name}.")}
    if any(
        hasattr(m, "_loaded_state") and _file_state(m) != m._loaded_state for m in held.values()
    ):
        for module in held:  # the others may hold names of the one that changed
            del sys.modules[module]
    return name


def _file_state(module: types.ModuleType) -> tuple[int, int]:
    """What changes when a module's file is edited: time and size, or zeros without a file."""
    try:
        status = os.stat(str(module.__file__))
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


class _Loader(SourceFileLoader):
    """Runs a module beside a file of claims with the builtins of its folder."""

    def get_code(self, fullname: str) -> types.CodeType:
        # Compiled from the source each time: a compiled copy is told apart by seconds only.
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__builtins__"] = _FOLDERS[module.__name__.partition(".")[0]]
        module.__dict__["_loaded_state"] = _file_state(module)
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of these packages, and leaves every other name to the usual finders."""

    def find_spec(
        self, fullname: str, path: Any, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _FOLDERS or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_FINDER = _Finder()


def _folder_importer(package: str, folder: Path) -> Callable[..., Any]:
    """An ``__import__`` that finds modules in `folder` before those installed."""

    def import_beside(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        head = name.partition(".")[0]
        if level == 0 and _stands_beside(head, package, folder):
            module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
            return module if fromlist else getattr(module, head)
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    return import_beside


def _stands_beside(head: str, package: str, folder: Path) -> bool:
    """Whether a name means a module in the folder, as it would with ``python FILE``."""
    if f"{package}.{head}" in sys.modules:
        return True
    loaded = sys.modules.get(head)
    if head == "jaxprompt" or (loaded is not None and _comes_from(loaded, folder)):
        return False  # there is one jaxprompt, and one copy of what the caller imported already
    spec = PathFinder.find_spec(head, [str(folder)])
    if spec is None:
        return False
    # A folder without code of its own gives way to an installed package, as Python has it.
    return spec.loader is not None or importlib.util.find_spec(head) is None


def _comes_from(module: types.ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and folder in Path(file).resolve().parents
