"""One direction of imports, and an import that does nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxprompt

ROOT = Path(jaxprompt.__file__).parent


@pytest.fixture(scope="module")
def imports_from():
    """Every ``from … import …`` of the package, with its file."""
    return [
        (path, node)
        for path in ROOT.rglob("*.py")
        for node in statements(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]


def statements(node):
    """Every statement within a module or a statement; of expressions there are ten times more."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, block, ()):
            yield inner
            yield from statements(inner)


def run(code):
    """What a program prints, as JSON, in a process of its own and without flags for XLA."""
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": ""}, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_imports_go_one_way():
    """The contracts of pyproject.toml: rooms in order, and no law that meets a simulation."""
    pytest.importorskip("importlinter", reason="import-linter comes with the extra `dev`")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-cache"],
        cwd=ROOT.parent, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_imports_are_absolute(imports_from):
    assert imports_from
    for path, node in imports_from:
        assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"


TOOLS = {
    "cli/audit.py": "the command of a function of the prefix family, no claim",
    "cli/curve.py": "the command of a function of the contextual family, no claim",
}


def test_only_the_registry_names_the_families(imports_from):
    """Everything else works on claims, whoever brings them."""
    families = tuple(f"jaxprompt.{name}" for name in ("contextual", "prefix", "universal"))
    for path, node in imports_from:
        room = path.relative_to(ROOT).parts[0]
        if room in ("contextual", "prefix", "universal") or str(path.relative_to(ROOT)) in TOOLS:
            continue
        assert not (node.module or "").startswith(families), f"{path}:{node.lineno}"


@pytest.mark.parametrize("module", ["plot", "canvas", "sweep_figure"])
def test_plots_do_not_simulate(module):
    source = (ROOT / "presentation" / f"{module}.py").read_text(encoding="utf-8")
    called = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert not called & {"simulate", "check", "measure_design", "simulation", "predict"}
    assert not re.search(r"jaxprompt\.(sweep|core\.registry|compute)", source)


@pytest.fixture(scope="module")
def after_import():
    """What a process of its own finds once everything is imported, and once both sides ran."""
    return run(
        """
import json, importlib, os, pkgutil
import jax
before = dict(jax.config.values)
from jax._src import xla_bridge
import jaxprompt as jp
for m in pkgutil.walk_packages(jp.__path__, "jaxprompt."):
    if not m.name.endswith("__main__"):
        importlib.import_module(m.name)
jp.claims()
imported = [n for n, v in jax.config.values.items() if before.get(n, v) != v]
started = xla_bridge.backends_are_initialized()
flags = os.environ["XLA_FLAGS"]
c = jp.claim("contextual.context_gain")
point = dict(sparsity=0.1, signal=1.0, context=1.0, noise=1.0, gain=0.5)
value = c.predict(**point)["best_gain"]
c.simulate(key=0, trials=2, tokens=20, **point)
computed = [n for n, v in jax.config.values.items() if before.get(n, v) != v]
print(json.dumps({"imported": imported, "started": started, "flags": flags, "computed": computed,
                  "value": value, "dtype": str(jax.numpy.ones(1).dtype)}))
"""
    )


def test_importing_everything_changes_no_setting_and_starts_no_backend(after_import):
    assert after_import["imported"] == [], "importing the package changed settings of JAX"
    assert not after_import["started"], "importing the package started a computation"
    assert after_import["flags"] == "", "only commands set the compiler's flags"


def test_predict_and_simulate_leave_settings_alone(after_import):
    assert after_import["computed"] == []
    assert (after_import["value"], after_import["dtype"]) == (0.5, "float32")


def test_importing_the_package_imports_nothing_of_it():
    """So that the command line answers at once; benchmarks/import_time.py has the seconds."""
    found = run("import json, sys, jaxprompt; print(json.dumps(sorted(sys.modules)))")
    loaded = {name for name in found if name.startswith("jaxprompt")}
    assert loaded == {"jaxprompt"}
    assert not {"jax", "numpy", "matplotlib", "xarray"} & set(found)
