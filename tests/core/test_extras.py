"""Claims that need an optional package: left out in words, refused by name, never passed over."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxprompt.cli import main
from jaxprompt.core.extras import Extra
from jaxprompt.errors import MissingExtraError

ABSENT = Extra("odd", ("no_such_module",), "something odd", "pip install odd")

TOML = """
claim = "contextual.odd"
trials = 20
[fixed]
size = 4
[grid]
level = [1.0]
"""


@pytest.fixture
def odd(toy_claim, toy_registry):
    """Two toys, of which one needs what nobody has."""
    odd = dataclasses.replace(toy_claim(id="contextual.odd"), extra=ABSENT)
    toy_registry(toy_claim(), odd)
    return odd


def test_a_missing_extra_is_named_with_its_remedy(odd):
    expected = "contextual.odd needs no_such_module .* `pip install odd`"
    for attempt in (odd.check, lambda: odd.simulate(key=0, trials=10, level=1.0, size=4)):
        with pytest.raises(MissingExtraError, match=expected):
            attempt()
    assert odd.predict(level=1.0) is not None, "a closed form needs no data"
    assert Extra("here", ("json",), "what Python has").missing() == ()


def test_a_check_of_all_says_what_it_leaves_out(odd, tmp_path, capsys):
    code = main.main(["check", "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 0
    assert "left out: contextual.odd needs no_such_module: `pip install odd`" in err
    written = json.loads((tmp_path / "report.json").read_text())
    assert [c["id"] for c in written["claims"]] == ["contextual.toy"]
    assert written["left_out"] == [
        {"id": "contextual.odd", "extra": "odd", "command": "pip install odd"}
    ]
    page = (tmp_path / "report.html").read_text()
    assert "Left out, for want of the extra <code>odd</code>: contextual.odd" in page


@pytest.mark.parametrize("command", [["check", "contextual.odd"], ["figure", "contextual.odd"]])
def test_a_claim_named_by_its_id_is_refused(odd, command, capsys):
    assert main.main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, f"one line was expected: {err}"
    assert "pip install odd" in err


def test_nothing_is_not_agreement(toy_claim, toy_registry, capsys):
    toy_registry(dataclasses.replace(toy_claim(id="contextual.odd"), extra=ABSENT))
    assert main.main(["check"]) == 2, "a check that measured nothing must not exit 0"


def test_a_sweep_is_refused_before_it_starts(odd, tmp_path, capsys, monkeypatch):
    file = tmp_path / "odd.toml"
    file.write_text(TOML)
    assert main.main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "no_such_module" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
