"""The command `curve`: its table, its files, and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxprompt.cli.main import main


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    tokens = rng.standard_normal((100, 4, 3))
    tokens[:, 0] += np.array([1.5, 0, 0]) + (2 * labels - 1)[:, None] * np.array([0, 1.0, 0])
    path = tmp_path / "mine.npz"
    np.savez(path, tokens=tokens, labels=labels, relevant=np.arange(4) == 0)
    return path


def test_table_files_and_json(data, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["curve", str(data), "--samples", "10,60", "--trials", "4", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "curve.json").read_text("utf-8"))
    assert printed["samples"] == [10, 60]
    assert all(0 < x < 0.5 for x in printed["semi_empirical"] + printed["measured"])
    assert {p.name for p in (out / "figures").iterdir()} == {"curve.png", "curve.svg"}
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "best prompt" in shown
    assert "semi-empirical" in shown


def test_heads_with_an_intercept_rare_classes_and_wrong_labels(data, capsys):
    words = ["curve", str(data), "--samples", "20", "--trials", "4", "--json"]
    assert main([*words, "--intercept", "--class-shares", "0.8,0.2", "--label-noise", "0.1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["intercept"] is True
    assert printed["class_shares"] == [0.8, 0.2]
    assert printed["label_noise"] == 0.1
    assert 0 < printed["semi_empirical"][0] < 0.5
    assert any("0.8, 0.2" in line for line in printed["assumed"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["missing.npz", "--samples", "10"], "missing.npz"),
        (["{data}", "--samples", "10;20"], "samples"),
        (["{data}", "--samples", "90"], "samples"),
        (["{data}", "--samples", "10", "--ridge", "-1"], "ridge"),
        (["{data}", "--samples", "10", "--trials", "1"], "trials"),
        (["{data}", "--samples", "10", "--class-shares", "a,b"], "class-shares"),
        (["{data}", "--samples", "10", "--class-shares", "0.9,0.2"], "class_shares"),
        (["{data}", "--samples", "70", "--class-shares", "0.9,0.1"], "samples"),
        (["{data}", "--samples", "10", "--label-noise", "0.7"], "label_noise"),
        (["{data}"], "--samples"),
    ],
)
def test_bad_input_is_one_line(words, named, data, capsys):
    assert main(["curve", *(word.format(data=data) for word in words)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_files_that_hold_something_else(tmp_path, capsys):
    other, text, objects = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    np.savez(other, token=np.zeros((30, 4, 3)), labels=np.zeros(30))
    text.write_text("no archive", "utf-8")
    np.savez(objects, tokens=np.array([{}], dtype=object), labels=np.zeros(1))
    for path, named in ((other, "`tokens`"), (text, ".npz file"), (objects, ".npz file")):
        assert main(["curve", str(path), "--samples", "10"]) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1
