"""The reduced designs under which false alarms are counted are designs of the claims of today."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import jaxprompt as jp

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def calibration():
    """The script, which imports its neighbours by their bare names."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(
            "own_calibration", BENCHMARKS / "calibration.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_every_claim_is_counted_or_measures_the_same_under_every_seed(calibration):
    assert {*calibration.REDUCED, *calibration.SAME} == {c.id for c in jp.claims()}
    assert not {*calibration.REDUCED} & {*calibration.SAME}


@pytest.mark.parametrize("table", ["REDUCED", "SMALL"])
def test_reduced_designs_are_designs_of_today(calibration, table):
    for id, reduction in getattr(calibration, table).items():
        whole = jp.claim(id).designs["quick"]
        least = calibration.smaller(id, reduction).designs["quick"]
        assert 0 < len(least.runs) <= len(whole.runs), id
