"""Names of the package that tests, benchmarks and docs use are there.

ruff's rule for undefined names is off (jaxtyping's axis names would break it), and a test that
replaces an attribute by its name finds out late that it is gone.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("tests", "benchmarks", "docs", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def resolve(name: str) -> Any:
    """What a dotted name of the package stands for; raises AttributeError or ImportError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        home, _, member = name.rpartition(".")
        return getattr(resolve(home), member)


LOOKED_AT = (ast.Import, ast.ImportFrom, ast.Attribute, ast.Call)


def missing_names(tree: ast.AST) -> Iterator[str]:
    """Lines and names of the package that are imported, read or replaced, and do not exist."""
    modules: dict[str, ModuleType] = {}
    wanted = names_that_are_to_be_missing(tree)
    nodes = [node for node in ast.walk(tree) if isinstance(node, LOOKED_AT)]
    for node in nodes:
        for alias, full in imported(node):
            try:
                found = resolve(full)
            except (AttributeError, ImportError):
                yield f"{node.lineno}: {full}"  # pyright: ignore[reportAttributeAccessIssue]
            else:
                if inspect.ismodule(found):
                    modules[alias] = found
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home = modules.get(node.value.id)
            if node not in wanted and home is not None and not has_member(home, node.attr):
                yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            yield from missing_replaced(node, modules)


def names_that_are_to_be_missing(tree: ast.AST) -> set[ast.AST]:
    """Everything inside of ``with pytest.raises(AttributeError)``."""
    return {
        inner
        for block in statements(tree)
        if isinstance(block, ast.With) and "AttributeError" in ast.dump(block.items[0])
        for inner in ast.walk(block)
    }


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A tree and the statements in it, without their expressions."""
    yield tree
    for name in ("body", "orelse", "finalbody", "handlers"):
        for inner in getattr(tree, name, ()):
            yield from statements(inner)


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Local and full names of what a statement imports from the package."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxprompt":
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "jaxprompt":
                yield alias.asname or "jaxprompt", alias.name if alias.asname else "jaxprompt"


def has_member(home: ModuleType, name: str) -> bool:
    """Whether a module has a member, or a module below it that something has imported."""
    if hasattr(home, name):
        return True
    try:
        importlib.import_module(f"{home.__name__}.{name}")
    except ImportError:
        return False
    return True


def missing_replaced(call: ast.Call, modules: dict[str, ModuleType]) -> Iterator[str]:
    """What ``monkeypatch.setattr(module, "name", …)`` or ``("module.name", …)`` would not find."""
    place, name = (*call.args, None, None)[:2]
    if not isinstance(name, ast.Constant):
        name = None
    if isinstance(place, ast.Name) and place.id in modules and name is not None:
        if not hasattr(modules[place.id], str(name.value)):
            yield f"{call.lineno}: setattr of {place.id}.{name.value}"
    elif isinstance(place, ast.Constant) and str(place.value).startswith("jaxprompt."):
        try:
            resolve(str(place.value))
        except (AttributeError, ImportError):
            yield f"{call.lineno}: setattr of {place.value}"


def test_names_of_the_package_exist():
    assert len(FILES) > 100
    found = [
        f"{file}:{place}"
        for file in FILES
        for place in missing_names(ast.parse((ROOT / file).read_text("utf-8")))
    ]
    assert not found, f"not in the package: {'; '.join(found)}"


def test_what_is_gone_is_found():
    text = """
import jaxprompt as jp
from jaxprompt.contextual.law import maximise, minimise
from jaxprompt.errors import ParameterError, ParametreError

jp.claim, jp.clame, maximise.golden_section, maximise.silver_section
monkeypatch.setattr(maximise, "silver_section", None)
monkeypatch.setattr("jaxprompt.stats.mean_estimete", None)
"""
    assert set(missing_names(ast.parse(text))) == {
        "3: jaxprompt.contextual.law.minimise", "4: jaxprompt.errors.ParametreError",
        "6: jp.clame", "6: maximise.silver_section", "7: setattr of maximise.silver_section",
        "8: setattr of jaxprompt.stats.mean_estimete",
    }  # fmt: skip
