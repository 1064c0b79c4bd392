"""Completion scripts, run by the shells themselves."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess

import pytest

from jaxprompt.cli import main

WORDS = {
    ("ch",): {"check"},
    ("check", "--claims", "no-such-f"): set(),
    ("check", "--fal"): {"--falsify"},
    ("check", "--profile", ""): {"quick", "full"},
    ("check", "universal.sphere_l"): {"universal.sphere_limit"},
    ("list", "--family", "pre"): {"prefix"},
    ("completion", "f"): {"fish"},
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The completion scripts, by shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main.main(["completion", shell]) == 0
        (folder / shell).write_text(printed.getvalue())
    return folder


@pytest.mark.parametrize("words", WORDS)
def test_bash_completes(scripts, words, tmp_path):
    line = " ".join(f"'{word}'" for word in ("jaxprompt", *words))
    code = (
        f"source {scripts / 'bash'}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_jaxprompt"
    )
    shown = subprocess.run(
        ["bash", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert shown.stderr == ""
    assert set(shown.stdout.split()) == WORDS[words]


@pytest.mark.parametrize("words", WORDS)
def test_fish_completes(scripts, words, tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    line = " ".join(["jaxprompt", *words])
    code = f"source {scripts / 'fish'}; complete -C {shlex.quote(line)}"
    shown = subprocess.run(
        ["fish", "--no-config", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert set(re.findall(r"^\S+", shown.stdout, re.MULTILINE)) >= WORDS[words]


def test_zsh_reads_its_script(scripts, tmp_path):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    code = f"source {scripts / 'zsh'}; print -r -- ${{_comps[jaxprompt]}}"
    shown = subprocess.run(
        ["zsh", "-f", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)},
    )
    assert "_shtab_jaxprompt" in shown.stdout


def test_files_are_completed_where_names_may_be_files(scripts, tmp_path):
    (tmp_path / "my_claims.py").write_text("")
    (tmp_path / "out").mkdir()
    line = "'jaxprompt' 'check' 'my_'"
    code = f"source {scripts / 'bash'}; COMP_WORDS=({line}); COMP_CWORD=2; _shtab_jaxprompt"
    shown = subprocess.run(
        ["bash", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert shown.stdout.split() == ["my_claims.py"]
