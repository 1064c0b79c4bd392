"""What a notebook shows, and the tutorial's cells."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Agreement, Claim, Verdict
from jaxprompt.errors import UsageError
from jaxprompt.presentation.notebook import Drawing
from jaxprompt.stats import Estimate

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"


def test_a_claim_shows_its_card(toy_claim):
    page = toy_claim(title="<b>A</b> & B")._repr_html_()
    assert "&lt;b&gt;A&lt;/b&gt; &amp; B" in page
    assert "<math" in page
    for word in ("contextual.toy", "shifted", "adds 0.3", "numbers drawn", "Derivation"):
        assert word in page


def test_a_verdict_shows_its_rows(toy_claim):
    claim = toy_claim()
    verdict = claim.check()
    page = verdict._repr_html_()
    assert "contextual.toy: confirmed" in page
    assert page.count("<tr>") == 1 + len(verdict.rows)
    assert "standard errors apart" in page
    assert "falsifier doubled: refuted" in claim.falsify()["doubled"]._repr_html_()

    def broken(**params):
        raise ZeroDivisionError("<i>")

    page = toy_claim(simulation=broken).check()._repr_html_()
    assert "ZeroDivisionError: &lt;i&gt;" in page


def test_an_estimate_shows_every_entry():
    assert "<td>0.5000</td><td>0.1000</td><td>8</td>" in Estimate(0.5, 0.1, 8)._repr_html_()
    page = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.2]), 8)._repr_html_()
    assert page.count("<tr>") == 3


def test_draw(toy_claim, tmp_path):
    claim = toy_claim(figure=Agreement("Toy", "value"))
    drawing = jp.draw(claim)
    assert isinstance(drawing, Drawing)
    assert drawing._repr_png_().startswith(b"\x89PNG")
    assert drawing.tables == jp.draw(claim, claim.check()).tables
    png, svg = drawing.save(tmp_path)
    assert png.is_file()
    assert svg.is_file()
    with pytest.raises(UsageError, match="has no figure"):
        jp.draw(toy_claim())


def test_the_tutorial_is_executed():
    cells = json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert cell["outputs"], "a cell shows nothing"
        compile("".join(cell["source"]), "tutorial", "exec")


@pytest.mark.slow
def test_the_tutorial_runs_and_says_what_its_cells_gave():
    """Every cell, in order, in one name space; verdicts are those that the file shows."""
    notebook = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    shown = set()
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        value = run("".join(cell["source"]), names)
        stored = json.dumps(cell["outputs"], ensure_ascii=False)
        shown.add(type(value))
        if isinstance(value, Verdict):
            assert f"{value.id}: {value.status}" in stored or str(value.status) in stored
        elif isinstance(value, Drawing):
            assert "image/png" in stored
        elif isinstance(value, str | dict) and not isinstance(value, Verdict):
            assert len(cell["outputs"]) == 1
        assert "Traceback" not in stored
    assert {Claim, Verdict, Drawing} <= shown


@pytest.mark.slow
def test_the_outputs_of_the_tutorial_are_those_of_its_cells():
    """docs/run_tutorial.py stored them; times are left out, numbers agree to three digits."""
    file = TUTORIAL.with_name("run_tutorial.py")
    spec = importlib.util.spec_from_file_location("run_tutorial", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stored = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    for old, new in zip(stored["cells"], script.executed(stored)["cells"], strict=True):
        if old["cell_type"] == "code":
            assert [*map(comparable, new["outputs"])] == [*map(comparable, old["outputs"])]


def comparable(output):
    """An output without its picture and times, its numbers to three digits.

    A value that has HTML or a picture is compared by that: its text says what machine it is of.
    """
    data = output.get("data") or {"text/plain": output["text"]}
    kinds = [kind for kind in ("text/html", "image/png", "text/plain") if kind in data]
    texts = {kinds[0]: "" if kinds[0] == "image/png" else "".join(data[kinds[0]])}
    texts = {kind: re.sub(r"\d+(\.\d+)? s\b", "", text) for kind, text in texts.items()}
    rounded = {
        kind: re.sub(r"\d+\.\d+(e-?\d+)?", lambda x: f"{float(x[0]):.3g}", text)
        for kind, text in texts.items()
    }
    return {**rounded, "picture": "image/png" in data}


def run(source, names):
    """Run a cell; the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "tutorial", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "tutorial", "eval"), names)
