"""Mutation of the theory: the rules themselves, and what a check makes of what they change."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.universal.numerics import point_sets

HOME = Path(__file__).parents[1] / "benchmarks" / "mutation.py"
LEVEL = 2.0


@pytest.fixture(scope="module")
def mutation():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("mutation", HOME)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutation"]


def curve(x, *, power=2):
    """Numbers in here are 1 + 1 and no theory."""
    if x < 0:
        raise ValueError(f"{x - 1}")
    shape = [4.0, 5.0]
    return -(x**power) + LEVEL * max(x, 1) - shape[1 - 1]


def test_each_rule_at_each_place(mutation):
    found = mutation.Theory({"curve": curve}, {"curve": set()}, {"curve": []})
    texts = [(m.kind, m.text) for m in mutation.mutants(found)]
    assert texts == [
        ("constant", "4.0 → 4.2"),
        ("constant", "5.0 → 5.25"),
        ("sign", "-x ** power + LEVEL * max(x, 1) - shape[1 - 1] → "
                 "-x ** power + LEVEL * max(x, 1) + shape[1 - 1]"),
        ("dropped", "-x ** power + LEVEL * max(x, 1) - shape[1 - 1] → "
                    "-x ** power + LEVEL * max(x, 1)"),
        ("dropped", "-x ** power + LEVEL * max(x, 1) - shape[1 - 1] → -shape[1 - 1]"),
        ("sign", "-x ** power + LEVEL * max(x, 1) → -x ** power - LEVEL * max(x, 1)"),
        ("dropped", "-x ** power + LEVEL * max(x, 1) → -x ** power"),
        ("dropped", "-x ** power + LEVEL * max(x, 1) → LEVEL * max(x, 1)"),
        ("sign", "-x ** power → x ** power"),
        ("exponent", "x ** power → x ** (1.05 * power)"),
        ("factor", "LEVEL * max(x, 1) → LEVEL * max(x, 1) * 1.03"),
        ("comparison", "max(x, 1) → min(x, 1)"),
        ("constant", "1 → 1.05"),
        ("constant", "LEVEL = 2 → 2.1"),
    ]  # fmt: skip


def test_a_mutant_is_in_place_and_then_gone(mutation):
    found = mutation.Theory({"curve": curve}, {"curve": set()}, {"curve": []})
    right = curve(3.0)
    values = []
    for mutant in mutation.mutants(found):
        with mutation.applied(found, mutant):
            values.append(curve(3.0))
        assert curve(3.0) == right, f"{mutant.text} stayed"
    # The second entry of the list is not used, and 1 is not the larger of the two.
    unchanged = [m.text for m, v in zip(mutation.mutants(found), values, strict=True) if v == right]
    assert unchanged == ["5.0 → 5.25", "1 → 1.05"]


def test_the_functions_behind_a_closed_form(mutation):
    found = mutation.theory(jp.claim("contextual.prompt_error").closed_form)
    assert {
        "contextual.claims.prompt_error.closed_form",
        "contextual.law.ridge_limit.varied_ridge_limit", "contextual.law.ridge_limit.resolvent",
        "contextual.law.feature_law.feature_law", "contextual.law.feature_law._summed_scores",
    } <= set(found.functions)  # fmt: skip
    assert not any(".simulate" in name or name.startswith("core") for name in found.functions)
    scores = "contextual.law.feature_law._summed_scores"
    assert "contextual.claims.prompt_error.closed_form" in found.above(scores)
    limit = found.wrappers["contextual.law.feature_law.feature_law"]
    assert any(hasattr(w, "cache_clear") for w in limit), "its cache would hide a mutant"


def linear(level, size=None):
    return {"value": level + 0 * level}


FEW_TRIALS = {"quick": jp.Design.product({"level": 1.0}, {"size": [8, 16]}, trials=10)}
"""Standard errors of 0.06 and 0.04, so that a check of the toy does not see a change of 0.05."""


def test_fates(mutation, toy_claim, monkeypatch):
    claim = toy_claim(closed_form=linear, designs=FEW_TRIALS)
    found = mutation.Theory({"t": linear}, {"t": set()}, {"t": []})
    monkeypatch.setattr(mutation, "theory", lambda _: found)
    fates = {f.text: f for f in mutation.fates(claim, claim.check("quick", 0).cells)}
    assert fates["level + 0 * level → level - 0 * level"].fate == "equivalent"
    assert fates["level + 0 * level → 0 * level"].fate == "refuted"
    small = fates["0 → 0.05"]
    assert small.fate == "survived", "0.05 is less than the toy's check can see"
    assert small.moved == pytest.approx(0.05 / 0.2, rel=1e-9), "in units of the tolerance"


def test_a_weaker_bound_is_no_survivor(mutation, toy_claim, monkeypatch):
    def loose(level, size=None):
        return {"value": level + 0.5}

    found = mutation.Theory({"t": loose}, {"t": set()}, {"t": []})
    monkeypatch.setattr(mutation, "theory", lambda _: found)
    claim = toy_claim(closed_form=loose, relation=jp.Relation.BOUND)
    fates = {f.text: f.fate for f in mutation.fates(claim, claim.check("quick", 0).cells)}
    assert fates["0.5 → 0.525"] == "weaker"
    assert fates["level + 0.5 → level - 0.5"] == "refuted"
    assert fates["level + 0.5 → level"] in ("survived", "refuted")


def test_conventions_are_counted_apart(mutation):
    def fate(text, kind="constant", fate="survived", moved=0.5):
        return mutation.Fate(
            "prefix.claims.skill_selection.closed_form", 7, kind, text, fate, moved
        )

    id = "prefix.skill_selection"
    assert mutation.kind_of(id, fate("LEARNS = 0.5 → 0.525")) == "convention"
    assert mutation.kind_of(id, fate("LEARNS = 0.5 → 0.525", fate="refuted")) == "convention"
    assert mutation.kind_of("prefix.soft_prompt", fate("LEARNS = 0.5 → 0.525")) == "survived"
    assert mutation.kind_of(id, fate("2 → 2.1")) == "survived"
    assert mutation.kind_of(id, fate("2 → 2.1", moved=0.001)) == "negligible"
    for claim, place in mutation.CONVENTIONS:
        found = mutation.mutants(mutation.theory(jp.claim(claim).closed_form))
        assert any(m.text.startswith((f"{place} →", f"{place} = ")) for m in found), (claim, place)


def test_the_sign_of_a_symmetric_variable_is_no_survivor(mutation):
    for function, place in mutation.SYMMETRIC:
        family, room, stem, *_ = function.split(".")
        # A law is mutated by way of a claim that is predicted by it.
        id = f"{family}.{stem}" if room == "claims" else "contextual.three_steps"
        found = mutation.mutants(mutation.theory(jp.claim(id).closed_form))
        own = [m for m in found if m.function == function and m.text.startswith(f"{place} →")]
        fates = [mutation.Fate(*mutation.place_of(m), "survived", 0.5) for m in own]
        kinds = {f.kind: mutation.kind_of(id, f) for f in fates}
        assert kinds == {"sign": "equivalent", "dropped": "survived"}, (function, place)


def test_survivors_before_other_checks(mutation, toy_claim, monkeypatch, tmp_path):
    """Two mutants of a function that two claims share; the second claim refutes one of them."""
    claims = {f"a.{n}": toy_claim(id=f"a.{n}", closed_form=linear, designs=FEW_TRIALS)
              for n in ("loose", "sharp")}  # fmt: skip
    found = mutation.Theory({"t": linear}, {"t": set()}, {"t": []})
    monkeypatch.setattr(mutation, "theory", lambda _: found)
    monkeypatch.setattr(mutation.jp, "claims", lambda: [*claims.values()])
    monkeypatch.setattr(mutation.jp, "claim", lambda id: claims[id])
    small = next(m for m in mutation.mutants(found) if m.text == "0 → 0.05")
    kept = mutation.Fate(*mutation.place_of(small), "survived", 0.25)
    level = next(m for m in mutation.mutants(found) if m.text.endswith(" → 0 * level"))
    strong = mutation.Fate(*mutation.place_of(level), "survived", 0.3)
    path = tmp_path / "fates.jsonl"
    for fate in (kept, strong):
        mutation.keep(path, "a.loose", 60, fate)
    mutation.run_elsewhere(["a.loose"], 60, path)
    found = mutation.read_elsewhere(path)
    assert found["a.loose", *mutation.place_of(kept)] == ""
    assert found["a.loose", *mutation.place_of(strong)] == "a.sharp"
    assert len(mutation.read(path, 60)["a.loose"]) == 2, "the judgements are no fates"
    row = mutation.table(mutation.read(path, 60), found).splitlines()[-1]
    assert row.startswith("| `a.loose` | 2 |")


SHARES = {"universal.prefix_lower_bound": 0.9}
SLOW = {
    "universal.prefix_bound": 0.9,
    "contextual.first_step": 0.9,
    "contextual.prompt_step": 0.85,
    "prefix.soft_prompt": 0.9,
}


PACKING = tuple(
    f"universal.numerics.point_sets.{name}" for name in (
        "packing_limit", "_equilateral_excess", "_levenshtein_bound", "_levenshtein_degree",
        "_largest_zero", "cap_share",
    )
)  # fmt: skip
SHARED = {"universal.prefix_lower_bound": PACKING[-1]}
"""A function of the bounds on packings that a claim calls for another purpose too."""
ATTAINED = (
    (2, math.acos(-1 / 3), 4), (2, math.pi / 2, 6), (2, math.atan(2), 12), (3, math.pi / 2, 8),
    (3, math.pi / 5, 120), (7, math.pi / 3, 240), (23, math.pi / 3, 196560),
)  # fmt: skip
"""Dimension of the sphere, distance and number of points of packings that no other beats: simplex,
octahedron, icosahedron, the 16-cell, the 600-cell, the roots of E8, the Leech lattice."""


def share(mutation, id):
    claim = jp.claim(id)
    fates = list(mutation.fates(claim, claim.check("quick", 0).cells))
    # No net attains the bounds on packings: they are tested where they are attained, below.
    fates = [f for f in fates if f.function not in PACKING or f.function == SHARED.get(id)]
    refuted = [f for f in fates if f.fate == "refuted"]
    survived = [f for f in fates if f.fate == "survived"]
    assert refuted, f"{id}: no mutant was refuted"
    return len(refuted) / (len(refuted) + len(survived)), [f.text for f in survived]


@pytest.mark.parametrize("id", SHARES)
def test_cheap_claims_refute_their_mutants(mutation, id):
    found, survived = share(mutation, id)
    assert found >= SHARES[id], f"{found:.0%} refuted; survived: {survived}"


def test_packings_that_attain_the_bounds_refute_their_mutants(mutation):
    found = mutation.theory(jp.claim("universal.prefix_bound").closed_form)
    refuted, survived = 0, []
    for mutant in (m for m in mutation.mutants(found) if m.function in PACKING):
        try:
            with mutation.applied(found, mutant), np.errstate(all="ignore"):
                limits = [point_sets.packing_limit(m, distance) for m, distance, _ in ATTAINED]
        except (ArithmeticError, ValueError, TypeError):
            continue  # neither: it computes nothing that could be compared
        if np.allclose(limits, [count for *_, count in ATTAINED], rtol=1e-9):
            survived.append(mutant.text)
        else:
            refuted += 1
    assert refuted >= 20
    share = refuted / (refuted + len(survived))
    assert share >= 0.9, f"{share:.0%} refuted; survived: {survived}"


@pytest.mark.slow
@pytest.mark.parametrize("id", SLOW)
def test_claims_refute_their_mutants(mutation, id):
    found, survived = share(mutation, id)
    assert found >= SLOW[id], f"{found:.0%} refuted; survived: {survived}"


def test_every_exclusion_names_something_of_the_package(mutation):
    for name in mutation.METHODS:
        item = jp
        for part in name.split("."):
            try:
                item = importlib.import_module(f"{item.__name__}.{part}")
            except ImportError:
                assert hasattr(item, part), f"METHODS names {name}, which the package lacks"
                item = getattr(item, part)
