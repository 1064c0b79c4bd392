"""The worked examples, one for each kind of theorem: true, sharp, short and drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from quick_cases import mostly_slow

import jaxprompt as jp
from jaxprompt.core import registry

ROOT = Path(__file__).resolve().parents[2]
KINDS = (
    "coupon_collector", "variance_of_maximum", "wigner_surmise", "order_statistics",
    "determinant_lemma", "hoffman_wielandt", "random_walk", "semicircle_edge", "brownian_maximum",
    "james_stein", "polya_urn", "correlated_sum",
)  # fmt: skip
each_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test brings is gone after it."""
    monkeypatch.setattr(registry, "_user_claims", {})


QUICK = ("correlated_sum", "order_statistics", "polya_urn", "wigner_surmise")
"""Examples that are checked in less than a second."""


@pytest.mark.parametrize("name", mostly_slow(KINDS, QUICK.__contains__))
def test_an_example_is_confirmed_and_its_variants_refuted(name):
    (claim,) = jp.load_claims(ROOT / "examples" / f"{name}.py")
    verdict = claim.check()
    assert verdict.status == "confirmed", verdict.advice
    for variant, found in claim.falsify_cells(verdict).items():
        assert found.status == "refuted", variant


@each_kind
def test_an_example_is_short_drawn_and_listed(name):
    (claim,) = jp.load_claims(ROOT / "examples" / f"{name}.py")
    assert claim.compare is None
    assert claim.figure is not None
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) < 40
    table = (ROOT / "docs" / "own_theory.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| .*`{name}\.py`", table, re.MULTILINE)
