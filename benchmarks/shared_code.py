"""Code that a claim's prediction and its measurement both run, and the tests that hold it.

    python benchmarks/shared_code.py            the table of shared functions, as it should be
    python benchmarks/shared_code.py --claims   for each claim the functions that it shares
    python benchmarks/shared_code.py --missing  functions without a test, and tests without use

What both sides call can be wrong on both sides, and then no check sees it. A function is shared
where the call graph reaches it from the closed form and from what measures: the simulation with its
set-up, instances and statistics, and `measure`. `check_parameters` completes the point for both, so
what it calls is shared. Rows of a claim's own (`also`, `compare`) are measurements too: functions
that only they share with the prediction are marked.

The call graph is read from the syntax of each function: the names, members of modules and members
of classes that it mentions, whether or not a run would come there. So it lists too much rather than
too little; only functions that are handed over as arguments are missed. The rooms below the
families (`core`, `compute`, `stats`, `errors`) serve every claim and have tests of their own; they
hold no formula and are left out.

`benchmarks/shared_code.md` names for each shared function the test that sets it beside something
that shares no code with it; `tests/test_shared_code.py` refuses a function without one.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import textwrap
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxprompt as jp
from jaxprompt.compute.trials import TrialSimulation
from jaxprompt.core.claim import Claim

TABLE = Path(__file__).with_suffix(".md")

ROOMS = ("attention", "contextual", "networks", "prefix", "universal")
"""Where formulas and models are."""


def label(function: types.FunctionType) -> str:
    """A function's place in the package, such as ``contextual.setting.Setting.of``."""
    return f"{function.__module__.removeprefix('jaxprompt.')}.{function.__qualname__}"


def reached(roots: Iterable[Any]) -> set[str]:
    """Labels of the functions of :data:`ROOMS` that the call graph reaches from `roots`."""
    found: set[str] = set()
    todo = [function for root in roots for function in functions_of(root)]
    while todo:
        function = todo.pop()
        if label(function) not in found:
            found.add(label(function))
            todo += [f for item in mentioned(function) for f in functions_of(item)]
    return found


def functions_of(item: Any) -> Iterator[types.FunctionType]:
    """The plain functions of the families behind a callable, a class, a table or a simulation."""
    if isinstance(item, TrialSimulation):
        parts = (item.trial, item.setup, item.instance, *item._statistics.values())
        for part in parts:
            yield from functions_of(part)
    elif isinstance(item, Mapping):
        for value in item.values():
            if callable(value):
                yield from functions_of(value)
    elif isinstance(item, functools.partial):
        for part in (item.func, *item.args, *item.keywords.values()):
            yield from functions_of(part)
    elif isinstance(item, type):
        if is_of_a_family(item.__module__):
            for member in vars(item).values():
                yield from functions_of(member)
    elif isinstance(item, property):
        yield from functions_of(item.fget)
    elif isinstance(item, types.FunctionType):
        plain = inspect.unwrap(item)
        written = is_of_a_family(plain.__module__) and plain.__code__.co_filename != "<string>"
        if written and not plain.__qualname__.startswith("_Required"):
            yield plain
    else:
        for name in ("__func__", "__wrapped__", "fun"):  # methods, jit and caches, derivatives
            inner = getattr(item, name, None)
            if inner is not None and not isinstance(item, types.ModuleType):
                yield from functions_of(inner)
                return


def is_of_a_family(module: str | None) -> bool:
    """Whether a module is in one of :data:`ROOMS`."""
    parts = (module or "").split(".")
    return parts[0] == "jaxprompt" and len(parts) > 1 and parts[1] in ROOMS


@functools.cache
def mentioned(function: types.FunctionType) -> tuple[Any, ...]:
    """What the source of a function names: globals, members of modules, local imports."""
    names = dict(inspect.getclosurevars(function).globals)
    names |= {n: v for n, v in inspect.getclosurevars(function).nonlocals.items() if callable(v)}
    root = ast.parse(textwrap.dedent(source_of(function)))
    found: list[Any] = list(names.values())
    for node in ast.walk(root):
        if isinstance(node, ast.Name):
            found.append(function.__globals__.get(node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home = function.__globals__.get(node.value.id)
            if isinstance(home, types.ModuleType | type) and is_of_a_family(name_of(home)):
                found.append(getattr(home, node.attr, None))
        elif isinstance(node, ast.ImportFrom) and is_of_a_family(node.module):
            home = __import__(str(node.module), fromlist=["*"])
            found += [getattr(home, alias.name, None) for alias in node.names]
    return tuple(item for item in found if not isinstance(item, types.ModuleType))


def name_of(home: types.ModuleType | type) -> str:
    """The module of a class, or the name of a module."""
    return home.__name__ if isinstance(home, types.ModuleType) else home.__module__


def source_of(function: types.FunctionType) -> str:
    """A function's source as one statement; that of a lambda is the text around it."""
    if function.__name__ != "<lambda>":
        return inspect.getsource(function)
    return "pass"  # what it mentions is among its closure's variables


def shared_by(claim: Claim) -> tuple[set[str], set[str]]:
    """Functions that prediction and measurement share, and those that only rows share with it."""
    prediction = reached([claim.closed_form, claim.check_parameters])
    measurement = reached([claim.simulation, claim.measure, claim.check_parameters])
    rows = reached([claim.also, claim.compare])
    both = prediction & measurement
    return both, (prediction & rows) - both


def shared_functions() -> dict[str, list[str]]:
    """For each shared function the claims that share it, in brackets where only rows do."""
    claims: dict[str, list[str]] = defaultdict(list)
    for claim in jp.claims():
        both, by_rows = shared_by(claim)
        for name in both:
            claims[name].append(claim.id)
        for name in by_rows:
            claims[name].append(f"({claim.id})")
    return dict(sorted(claims.items()))


def entries(text: str | None = None) -> dict[str, list[str]]:
    """For each function in the table the tests that hold it, ``file.py::name`` below tests/.

    A row may name several functions, which one test holds together.
    """
    held: dict[str, list[str]] = {}
    for line in (TABLE.read_text("utf-8") if text is None else text).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            tests = re.findall(r"`([^`]+\.py::[^`]+)`", cells[2])
            held |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), tests)
    return held


def main() -> None:
    """Print the table, the claims, or what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--missing", action="store_true")
    options = parser.parse_args()
    shared = shared_functions()
    if options.claims:
        for claim in jp.claims():
            names = [n for n, ids in shared.items() if claim.id in ids or f"({claim.id})" in ids]
            print(f"{claim.id}: " + (", ".join(names) or "nothing"))
        return
    held = entries() if TABLE.exists() else {}
    for name, ids in shared.items():
        if not options.missing or not held.get(name):
            print(f"{name}: {', '.join(held.get(name, [])) or 'no test'} ({len(ids)}: {ids[0]} …)")
    for name in sorted(set(held) - set(shared)):
        print(f"{name}: in the table, but shared by no claim")


if __name__ == "__main__":
    main()
