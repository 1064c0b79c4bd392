"""Theorems that are not ours: the short form of ``benchmarks/foreign.py``."""

from __future__ import annotations

import re

import foreign
import foreign_theorems
import pytest
from quick_cases import some_slow

from jaxprompt.core.calibration import calibrate

SHORT = (
    "largest_exponential", "almost_sure_event", "fixed_points", "mean_order_statistics", "means",
    "simplex", "trapezoidal_rule", "basel", "wallis", "relaxation", "correlated_sum",
    "kurtosis_of_sums", "shifted_variance",
)  # fmt: skip
"""One of each kind that takes little time; the last two are slow tests: tests/core/test_kinds.py
and tests/stats have moments and cancellation."""


@pytest.mark.parametrize("name", some_slow(SHORT, first=11))
def test_a_true_theorem_stands_and_its_false_variants_fall(name):
    found = calibrate(foreign_theorems.THEOREMS[name], 2)
    assert not found.refuted.hits
    assert not found.failed.hits
    for variant, share in found.falsifiers.items():
        assert share.hits == 2, f"{variant} is refuted under {share.hits} of 2 seeds"


def test_the_bank_is_large_and_in_two_halves():
    halves = [foreign.half_of(name) for name in foreign_theorems.THEOREMS]
    assert len(halves) >= 40
    assert min(halves.count("design"), halves.count("final")) >= 20
    assert all(len(c.falsifiers) >= 2 for c in foreign_theorems.THEOREMS.values())
    assert all(c.compare is None for c in foreign_theorems.THEOREMS.values())


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    path = tmp_path / "foreign.jsonl"
    for seeds in (1, 2, 2):
        foreign.run(["basel", "simplex"], seeds, path)
        assert len(path.read_text().splitlines()) == 2 * seeds
    found = foreign.read(path, ["basel"])
    assert sorted(found["basel"]) == [0, 1]
    calibration = foreign.Calibration("basel", tuple(found["basel"].values()))
    assert re.search(r"basel \| limit .* \| 2 \| 0 \|", foreign.table({"basel": calibration}))
    assert "true refuted 0 of 2" in foreign.pooled([calibration])
