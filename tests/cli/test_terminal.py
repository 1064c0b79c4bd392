"""Printing: progress, streams that are closed, full or cannot hold a letter, and defects."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from quick_cases import some_slow

import jaxprompt
from jaxprompt.cli import commands, doctor, main, terminal
from jaxprompt.core.claim import Agreement
from jaxprompt.errors import UsageError


def test_plain_progress_tells_cells_speed_and_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.show_progress("sweep", "cells", trials=10) as progress:
        progress(4, 20)  # four cells were there before
        for done in (6, 8):
            now[0] += 4
            progress(done, 20)
    line = "sweep: 8/20 cells, 5 trials/s, about 24 s left\n"
    assert capsys.readouterr().err == line


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.show_progress("some work", "cells", trials=10) as progress:
        progress(0, 3)
        progress(2, 3)
    shown = capsys.readouterr().err
    assert "some work" in shown
    assert "2/3" in shown, f"the bar tells how much is done: {shown!r}"


def test_a_bar_shows_titles_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.show_progress("on [a, b] [/b] :bug:") as progress:
        progress(1, 2)
    assert "on [a, b] [/b] :bug:" in capsys.readouterr().err


# --- streams ---


def run(arguments, redirections="", **variables):
    """A command in a shell, with its streams redirected."""
    command = f"{sys.executable} -m jaxprompt {arguments} {redirections}"
    home = str(Path(jaxprompt.__file__).parents[1])
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": home, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


# Commands that need no JAX run by default: they print by the same streams.
@pytest.mark.parametrize("words", some_slow(["new", "list"], first=1))
@pytest.mark.parametrize(
    ("redirections", "code"),
    [("<&- >&- 2>&-", 0), (">/dev/full", 2), ("2>&-", 0), (">&-", 0), ("2>/dev/full", 0)],
)
def test_streams_that_are_closed_or_full(words, redirections, code, tmp_path):
    done = run(f"new {tmp_path}/mine.py" if words == "new" else words, redirections)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.count("\n") == 1
        assert "standard output cannot be written (No space left on device)" in done.stderr


@pytest.mark.parametrize("words", some_slow(["new /nowhere/mine.py", "show nothing"], first=1))
@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-"])
def test_errors_keep_their_code_where_they_cannot_be_told(words, redirections):
    assert run(words, redirections).returncode == 2


@pytest.mark.parametrize(
    "words",
    some_slow(["--help", "show contextual.prompt_error", "completion bash"], first=1),
)
def test_a_reader_that_has_gone_is_no_defect(words):
    done = run(words, "| head -n 1; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141), "0 where the reader went after everything was written"
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_lost_messages_end_nothing():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    terminal.CheckedStream(Full(), forgiving=True).write("x")
    with pytest.raises(UsageError, match="No space left on device"):
        terminal.CheckedStream(Full()).write("x")
    closed = io.StringIO()
    closed.close()
    terminal.CheckedStream(closed, forgiving=True).write("x")


# --- platforms and defects ---


@pytest.mark.parametrize(
    ("words", "code", "platform"),
    some_slow(
        [("doctor --json", 3, "nonsense"), ("doctor --json", 3, "cuda"),
         ("check universal.sphere_limit", 2, "cuda"),
         ("check universal.sphere_limit", 2, "nonsense")],
        first=1,
    ),
)  # fmt: skip
def test_a_platform_that_is_not_there(words, code, platform):
    if platform == "cuda" and any(name.startswith("jax_cuda") for name in sys.modules):
        pytest.skip("this installation has cuda")
    done = run(words, JAX_PLATFORMS=platform)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert f"JAX_PLATFORMS={platform}" in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["check", "figure"])
def test_commands_refuse_to_start_without_a_device(command, toy, monkeypatch, capsys):
    toy(figure=Agreement(title="A toy", label="value"))
    monkeypatch.setattr(doctor, "device_problem", lambda: "JAX_PLATFORMS=cuda: not there")
    assert main.main([command, "contextual.toy"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxprompt: JAX has no device to compute on (JAX_PLATFORMS=cuda: not")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["check FILE", "list FILE", "show FILE", "list --claims FILE"])
def test_files_of_claims_do_not_run_without_a_device(words, monkeypatch, capsys, tmp_path):
    """They trace, and failed with their own line number and an empty message."""
    file = tmp_path / "mine.py"
    file.write_text("raise RuntimeError('it ran')\n")
    monkeypatch.setattr(doctor, "device_problem", lambda: "JAX_PLATFORMS=cuda: not there")
    assert main.main(words.replace("FILE", str(file)).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxprompt: JAX has no device to compute on")
    assert err.count("\n") == 1


def test_a_defect_is_one_line_and_saves_its_traceback(monkeypatch, capsys, tmp_path):
    def broken(options):
        raise KeyError("something of ours")

    monkeypatch.setenv("JAXPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(commands, "list_claims", broken)
    assert main.main(["list"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "a defect of jaxprompt, KeyError: 'something of ours'" in err
    (saved,) = (tmp_path / "cache").glob("jaxprompt-traceback-*.txt")
    assert str(saved) in err
    assert "in broken" in saved.read_text()


def test_a_defect_on_a_full_disk_is_one_line_too(monkeypatch, capsys):
    def broken(options):
        raise KeyError("x" * 5000)

    def refused(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "list_claims", broken)
    monkeypatch.setattr(main.Path, "write_text", refused)
    assert main.main(["list"]) == 4
    err = capsys.readouterr().err
    assert "could not be saved" in err
    assert err.count("\n") == 1
    assert len(err) < 500


def test_ctrl_c_anywhere_is_one_line(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "list_claims", interrupted)
    assert main.main(["list"]) == 130
    assert capsys.readouterr().err == "jaxprompt: interrupted\n"
