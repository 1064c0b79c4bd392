"""The files that `jaxprompt new` writes: each can be checked as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from quick_cases import mostly_slow

import jaxprompt as jp
from jaxprompt.cli.main import main
from jaxprompt.cli.new_claim import KINDS, claim_file_text
from jaxprompt.stats import Status

QUICK = ("mean",)
"""Kinds whose file is checked by default; the others take a second and more each."""


@pytest.mark.parametrize("kind", mostly_slow(KINDS, QUICK.__contains__))
def test_a_new_file_is_confirmed_and_its_falsifiers_refuted(kind, tmp_path):
    path = tmp_path / f"my_{kind}.py"
    assert main(["new", str(path), "--kind", kind]) == 0
    (claim,) = jp.load_claims(path)
    assert claim.id == f"mine.my_{kind}"
    verdict = claim.check()
    assert verdict.status is Status.CONFIRMED, verdict.advice or verdict.worst
    for name, wrong in claim.falsify_cells(verdict).items():
        assert wrong.status is Status.REFUTED, name


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_new_file_is_tidy(kind, tmp_path):
    path = tmp_path / "a.py"
    path.write_text(claim_file_text("a.py", kind), "utf-8")
    settings = Path(__file__).parents[2] / "pyproject.toml"
    for command in (["format", "--check"], ["check", "--ignore", "D,ANN,N,INP"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(settings), str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr


def test_a_file_that_exists_is_kept(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    assert main(["new", str(path)]) == 2
    assert path.read_text() == "x = 1\n"
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mine.txt", "1st.py", "no/such/folder.py", "-.py"])
def test_a_name_that_no_file_of_claims_can_have_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "--", name] if name.startswith("-") else ["new", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
