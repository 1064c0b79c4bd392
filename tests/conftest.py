"""Shared set-up: annotations of the package are enforced while it is under test, and the
processes of one run share what they compile."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import sys
import tempfile

import annotations

# Trained parameters stay in memory: a test neither reads nor leaves files in the user's cache.
os.environ.setdefault("JAXPROMPT_CACHE", "")

# Most of the time goes into compiling. What one process has compiled the others load: pytest's
# workers, which inherit this folder, and the programs that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxprompt-tests-")
    # All are kept: the small ones, of single operations, are many.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Before anything imports the package: shapes and types in its signatures become checks.
# JAXPROMPT_TEST_TYPES=0 leaves them out, to see whether a failure comes from the checks alone.
if os.environ.get("JAXPROMPT_TEST_TYPES", "1") != "0":
    names = ("attention", "contextual", "core", "prefix", "presentation", "stats", "sweep")
    names += ("universal",)
    annotations.enforce_annotations([f"jaxprompt.{name}" for name in names])

# As the commands do, which compile in processes of their own.
if "jax" not in sys.modules:
    from jaxprompt.compute.compiler_flags import compile_quickly

    compile_quickly()

import jax
import numpy as np
import pytest


def pytest_collection_finish():
    """What is imported stays, so the collector need not look at it again; and JAX's traces make
    many objects that die young, for which it would run every few milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup():
    annotations.begin_test()


GROWTH = 2**28
"""Bytes by which a process may grow before what it compiled since is forgotten too."""

kept_bytes = 0
"""What the process held after it last forgot."""


@pytest.fixture(autouse=True)
def release_programs():
    """After a test, a process that has grown forgets what it compiled, and gives the memory back.

    Modules of many programs grow by a gigabyte, so their end would be late.
    """
    global kept_bytes
    yield
    from jaxprompt.compute.programs import ENOUGH, forget_programs, resident_bytes

    # Only what has grown since: else every test above the limit would compile all its programs.
    if resident_bytes() > kept_bytes + GROWTH and resident_bytes() > ENOUGH - GROWTH:
        forget_laws()
        forget_programs(above=0)
        give_memory_back()
        kept_bytes = resident_bytes()


def forget_laws():
    """Empty the caches of the contextual laws, which hold the arrays of hundreds of points."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("jaxprompt.contextual.law", "jaxprompt.contextual.claims")):
            for item in list(vars(module).values()):
                if callable(clear := getattr(item, "cache_clear", None)):
                    clear()


def give_memory_back():
    """Freed memory stays with the process until the C library is asked (glibc has the call)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def strict_ranks():
    """No silent broadcasting between arrays of different ranks, for the modules that avoid it."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """64-bit types, as the package switches on around its own float64 parts."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def all_refuted_by_simulation():
    """Asserts that simulated rows refute each falsifier, without those that need no simulation."""
    from jaxprompt import stats
    from jaxprompt.core.claim import FALSE_ALARM

    def check(claim, verdict):
        for falsifier in claim.falsifiers:
            compared = claim.comparisons(verdict.cells, falsifier)
            rows = [row for row in compared if not row.exact]
            found = stats.combine_statuses(row.verdict for row in stats.decide(rows, FALSE_ALARM))
            assert found == "refuted", f"{falsifier.name}: {found} by {len(rows)} simulated rows"

    return check


@pytest.fixture(scope="session")
def toy_claim():
    """A maker of small, fast claims: the mean of normals around `level`."""
    return make_toy


def make_toy(*, offset: float = 0.0, tolerance: float = 0.2, **changes):
    from jaxprompt import Claim, Design, Falsifier, Parameter, Quantity, Relation
    from jaxprompt.stats import mean_estimate

    def closed_form(*, level, **unused):
        return {"value": level}

    def simulation(*, key, trials, level, size):
        # NumPy's generator: nothing compiles, whatever the sizes.
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        values = random.normal(size=(trials, size)).mean(axis=1)
        return {"value": mean_estimate(level + offset + 0.5 * values)}

    design = Design.product({"level": 1.0}, {"size": [8, 16]}, trials=100)
    fields = {
        "id": "contextual.toy",
        "title": "A toy",
        "statement": r"The mean of $x_i \sim N(\mu, 1)$ is `level`.",
        "derivation": "By definition.",
        "relation": Relation.MEAN,
        "source": "made up",
        "parameters": (
            Parameter("size", "integer", "numbers drawn", low=1, simulate_only=True),
            Parameter("level", "real", "the mean", low=0),
        ),
        "quantities": (Quantity("value", "the mean", tolerance),),
        "falsifiers": (
            Falsifier("shifted", "adds 0.3", lambda level, **_: {"value": level + 0.3}),
            Falsifier("doubled", "twice", lambda level, **_: {"value": 2 * level}),
        ),
        "closed_form": closed_form,
        "simulation": simulation,
        "designs": {"quick": design, "full": design},
    }
    return Claim(**{**fields, **changes})


@pytest.fixture
def toy_registry(monkeypatch):
    """Replaces the registered claims by given ones."""

    def use(*claims):
        from jaxprompt.core import registry

        table = dict(sorted((claim.id, claim) for claim in claims))
        monkeypatch.setattr(registry, "_table", lambda: table)
        return claims

    return use


@pytest.fixture
def toy(toy_claim, toy_registry):
    """A registered toy claim, for sweeps too; `use(**changes)` registers another variant of it."""

    def use(**changes):
        claim = toy_claim(**changes)
        toy_registry(claim)
        return claim

    use()
    return use
