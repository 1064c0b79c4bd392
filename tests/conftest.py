"""Shared set-up: annotations of the package are enforced while it is under test."""

from __future__ import annotations

import os

# Before anything imports the package: shapes and types in its signatures become checks.
# JAXPROMPT_TEST_TYPES=0 leaves them out, to see whether a failure comes from the checks alone.
if os.environ.get("JAXPROMPT_TEST_TYPES", "1") != "0":
    from jaxtyping import install_import_hook

    # The numeric tower: an int will do where a float is asked for, as type checkers have it.
    checker = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    install_import_hook("jaxprompt", checker)

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_ranks():
    """No silent broadcasting between arrays of different ranks."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """64-bit types, as the package switches on around its own float64 parts."""
    with jax.enable_x64(True):
        yield
