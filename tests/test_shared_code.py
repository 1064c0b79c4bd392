"""What both sides of a claim call is listed, and a test that shares no code with it is named."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxprompt.universal.claims import quantised_prefix
from jaxprompt.universal.claims.sequence_map import smooth_target

HERE = Path(__file__).parent
BENCHMARK = HERE.parent / "benchmarks" / "shared_code.py"


@pytest.fixture(scope="module")
def shared_code():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("shared_code", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["shared_code"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["shared_code"]


@functools.cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)}  # fmt: skip


def test_every_shared_function_has_a_test_of_its_own(shared_code):
    shared, held = set(shared_code.shared_functions()), shared_code.entries()
    without = sorted(name for name in shared if not held.get(name))
    assert not without, (
        f"prediction and measurement of a claim share {', '.join(without)}: name in "
        "benchmarks/shared_code.md a test that sets it beside something independent"
    )
    gone = sorted(set(held) - shared)
    assert not gone, f"no longer shared by any claim: {', '.join(gone)}; take their rows away"


def test_the_named_tests_are_there(shared_code):
    named = {test for tests in shared_code.entries().values() for test in tests}
    for test in sorted(named):
        file, _, function = test.partition("::")
        assert (HERE / file).is_file(), test
        assert function in names_in(HERE / file), test


def test_a_new_shared_function_is_found(shared_code, toy_claim):
    """Through a helper, a class and a table, on both sides; what one side calls alone is not."""

    def closed_form(*, level):
        return {"value": level + Shared.helper(level)}

    def simulation(*, key, trials, level, size):
        return TABLE["one"](level)

    for item in (closed_form, simulation, helper_of_one, Shared.helper, only_in_simulation):
        item.__module__ = "jaxprompt.contextual.toy"
    Shared.__module__ = "jaxprompt.contextual.toy"
    claim = toy_claim(closed_form=closed_form, simulation=simulation)
    both, rows = shared_code.shared_by(claim)
    assert both == {"contextual.toy.Shared.helper"}
    assert rows == set()


class Shared:
    @staticmethod
    def helper(level):
        return level


def helper_of_one(level):
    return only_in_simulation(level) + Shared.helper(level)


def only_in_simulation(level):
    return level


TABLE = {"one": helper_of_one}


def test_the_target_of_stacked_layers():
    points = np.random.default_rng(0).uniform(size=(5, 2))
    expected = [math.exp(x * y) * math.cos(3 * x - y) for x, y in points]
    np.testing.assert_allclose(smooth_target(points), expected, rtol=1e-14)


def test_the_head_that_is_quantised():
    """Weights and outputs over the prefix beside content of score and value 0, one by one."""
    head = quantised_prefix._identity_head(2, 5, 3.0, 4)
    for query, weights, distances in zip(
        head.queries, head.weights, head.squared_distance, strict=True
    ):
        exponentials = [math.exp(3.0 * float(query @ centre)) for centre in head.centres]
        total = math.fsum(exponentials) + 4
        np.testing.assert_allclose(weights, [x / total for x in exponentials], rtol=1e-12)
        output = sum(x / total * v for x, v in zip(exponentials, head.centres, strict=True))
        expected = [float(np.sum((v - output) ** 2)) for v in head.centres]
        np.testing.assert_allclose(distances, expected, rtol=1e-10)
