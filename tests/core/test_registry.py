"""The registry: one table, by id, with helpful refusals."""

from __future__ import annotations

import types

import pytest

import jaxprompt as jp
from jaxprompt.core import registry
from jaxprompt.errors import UnknownClaimError


def test_claims_are_ordered_by_id():
    ids = [claim.id for claim in jp.claims()]
    assert ids == sorted(ids)
    assert isinstance(jp.claims(), tuple)
    assert {"contextual.conditional_error", "contextual.prompt_error"} <= set(ids)
    assert {"contextual.context_gain"} <= set(ids)


def test_lookup_by_id_and_family():
    assert jp.claim("contextual.prompt_error").id == "contextual.prompt_error"
    assert {c.family for c in jp.claims("contextual")} == {"contextual"}
    chosen = registry.select(["contextual", "contextual.prompt_error"])
    assert chosen == jp.claims("contextual")
    assert registry.select([]) == jp.claims()


@pytest.mark.parametrize(
    "id", ["contextual.promt_error", "prompt_error", "contextual.prompt-error"]
)
def test_an_unknown_id_names_the_nearest(id):
    with pytest.raises(KeyError) as caught:
        jp.claim(id)
    assert isinstance(caught.value, UnknownClaimError)
    text = str(caught.value)
    assert text.startswith(f"unknown claim '{id}'; did you mean ")
    assert "contextual.prompt_error" in text
    assert "jaxprompt list" in text
    assert "\n" not in text


def test_a_far_id_says_where_to_look():
    with pytest.raises(KeyError) as caught:
        jp.claim("zzzzz")
    assert str(caught.value) == "unknown claim 'zzzzz'; `jaxprompt list` shows all"


def test_an_unknown_family():
    with pytest.raises(UnknownClaimError, match="the families are contextual, prefix, universal"):
        jp.claims("contextal")
    with pytest.raises(UnknownClaimError):
        registry.select(["contextal"])


def test_a_duplicate_id_raises(toy_claim, monkeypatch):
    use(monkeypatch, contextual=(toy_claim(), toy_claim()))
    with pytest.raises(ValueError, match=r"contextual\.toy is listed twice"):
        registry._table.__wrapped__()


def test_a_claim_belongs_to_the_family_that_lists_it(toy_claim, monkeypatch):
    use(monkeypatch, prefix=(toy_claim(),))
    with pytest.raises(ValueError, match="is listed by the family prefix"):
        registry._table.__wrapped__()


def use(monkeypatch, **families):
    found = {f"jaxprompt.{f}": types.SimpleNamespace(CLAIMS=c) for f, c in families.items()}
    empty = types.SimpleNamespace(CLAIMS=())
    fake = types.SimpleNamespace(import_module=lambda name: found.get(name, empty))
    monkeypatch.setattr(registry, "importlib", fake)


def test_the_public_surface():
    for name in jp.__all__:
        assert getattr(jp, name) is not None
    for name in ("attention", "contextual", "prefix", "universal", "stats", "sweep"):
        assert getattr(jp, name).__name__ == f"jaxprompt.{name}"
    assert set(jp.__all__) <= set(dir(jp))
    with pytest.raises(AttributeError, match="nothing"):
        jp.nothing  # noqa: B018
