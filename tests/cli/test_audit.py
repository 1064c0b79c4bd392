"""The command `audit`: its refusals, its table and its page, which asks no host for anything."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jaxprompt.cli.main import main
from jaxprompt.prefix import TapedLayer, audit


@pytest.fixture
def audited(monkeypatch):
    """The model's part is replaced: two layers of arrays, the second one broken if wanted."""

    def use(*, broken=False):
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal((2, size, 4)) for size in (9, 6, 9)]
        good = TapedLayer(arrays[0], 3, *arrays[1:], name="layers.0 <i>", first=True)
        options = {"soft_cap": 0.5} if broken else {}
        output = rng.standard_normal((2, 6, 4)) if broken else None
        other = TapedLayer(arrays[0], 3, *arrays[1:], name="layers.1", output=output, **options)
        model = {
            "folder": "mine", "model_type": "toy", "parameters": 1200, "precision": "float64",
            "adapter": "3 vectors", "vectors": 3, "tokens": 6, "text": "6 ids", "recorded": "here",
        }  # fmt: skip
        found = audit([good, other], untouched=["encoder"], model=model)
        monkeypatch.setattr("jaxprompt.prefix.audit_models.audit_model", lambda *_, **__: found)
        return found

    return use


def test_table_files_and_json(audited, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    found = audited()
    out = tmp_path / "out"
    words = ["audit", "mine", "--prefix", "3", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "audit.json").read_text("utf-8"))
    assert printed["layers"][1]["mass"]["mean"] == found.layers[1].mass.mean
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "verdict: confirmed" in shown
    assert "layers.1" in shown
    assert "1.2 k parameters" in shown


def test_page_is_one_file_that_asks_no_host(audited, tmp_path):
    audited()
    assert main(["audit", "mine", "--prefix", "3", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert not re.search(r"https?:|src=|@import|url\(|<script|<link", page)
    assert "layers.0 &lt;i&gt;" in page
    assert page.count('class="cell"') == 2 * 2 * 2  # two maps, layers and heads
    assert "Without a prefix: encoder." in page


def test_codes_are_those_of_check(audited, capsys):
    audited(broken=True)
    assert main(["audit", "mine", "--prefix", "3"]) == 1
    assert "verdict: refuted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["mine"], "--adapter"),
        (["mine", "--prefix", "0"], "--prefix"),
        (["mine", "--prefix", "2", "--adapter", "there"], "--adapter"),
        (["mine", "--prefix", "2", "--seed", "-1"], "--seed"),
        (["mine", "--prefix", "2", "--text", "nowhere.txt"], "nowhere.txt"),
        (["nowhere", "--prefix", "2"], ""),
    ],
)
def test_bad_input_is_one_line(words, named, capsys):
    assert main(["audit", *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
