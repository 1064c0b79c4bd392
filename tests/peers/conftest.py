"""Oracles that others wrote: PEFT, transformers, PyTorch and scikit-learn (extra ``peers``).

`make test-peers` installs them and runs this folder; the default tests leave it out. Where one of
them is absent, the tests that need it are skipped and say so.
"""

from __future__ import annotations

import importlib
import warnings

import pytest


def peer(name):
    """Another library's module; the module that asks for it is skipped where it is absent."""
    with warnings.catch_warnings():
        # What other libraries warn about while they are imported is not ours to mend.
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(
                f"needs {error.name}: `make test-peers` installs the extra `peers`",
                allow_module_level=True,
            )


@pytest.fixture(autouse=True)
def _in_float64(x64):
    """Everything here is compared in float64."""
