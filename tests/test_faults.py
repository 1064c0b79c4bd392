"""What goes wrong around the program: terminals, homes, clocks, other processes, missing parts."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.cli import doctor, main, terminal
from jaxprompt.compute import cache_folder
from jaxprompt.errors import UsageError
from jaxprompt.prefix.training import experiments
from jaxprompt.sweep import store

ROOT = Path(jp.__file__).parent


def run(*words, home=None, through=(), folder=None, source=ROOT.parent, **variables):
    """The command line in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(source), **({"HOME": str(home)} if home else {}), **variables}
    return subprocess.run(
        [*through, sys.executable, "-m", "jaxprompt", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        timeout=600,
        check=False,
    )


# --- terminals ---


class Terminal(io.TextIOWrapper):
    """A stream of a given encoding, that refuses what it cannot encode."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def shown(monkeypatch):
    """What a command prints on a terminal of an encoding."""

    def use(encoding, *words):
        out, errors = Terminal(encoding), Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", errors)
        return main.main(list(words)), out.text, errors.text

    return use


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "cp1252"))]
)
def test_every_card_is_legible_on_a_terminal_without_its_letters(shown, encoding):
    code, text, errors = shown(encoding, "list")
    assert (code, errors) == (0, "")
    assert all(claim.id in text for claim in jp.claims())
    for claim in jp.claims():
        code, text, errors = shown(encoding, "show", claim.id)
        assert (code, errors) == (0, ""), claim.id
        assert "?" not in text.replace("?", "", claim.statement.count("?")), "a letter was dropped"
        assert claim.parameters[0].name in text
    escaped = "≥ 0".encode("ascii", "backslashreplace").decode()
    assert escaped in shown("ascii", "show", "contextual.prompt_error")[1]


def test_json_is_exact_on_any_terminal(shown):
    found = {
        encoding: json.loads(shown(encoding, "show", "contextual.prompt_error", "--json")[1])
        for encoding in ("utf-8", "ascii", "latin-1")
    }
    assert found["ascii"] == found["utf-8"] == found["latin-1"]
    assert "≥" in json.dumps(found["ascii"], ensure_ascii=False)


def test_errors_are_legible_and_obeyed_by_no_terminal(shown):
    code, _, errors = shown("ascii", "show", "contextual.prompt_errör\x1b[31m\n")
    assert code == 2
    assert "\x1b" not in errors
    assert errors.count("\n") == 1
    assert r"\x1b[31m" in errors
    assert terminal.one_line("a\x07\n b\x9b") == r"a\x07 b\x9b"


def test_names_of_files_that_are_no_text(shown, toy_registry, toy_claim, tmp_path):
    toy_registry(toy_claim())
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/out\xff")
    for encoding in ("utf-8", "ascii"):
        code, out, errors = shown(encoding, "check", "contextual.toy", "--out", odd)
        assert code == 0, errors
        assert json.loads((Path(odd) / "report.json").read_text())["claims"]
        code, out, errors = shown(encoding, "report", odd)
        assert code == 0
        assert "udcff" in out


@pytest.mark.parametrize("command", some_slow(["new", "show contextual.prompt_error"], first=1))
def test_a_reader_that_goes_away_is_no_error(command, tmp_path):
    words = [sys.executable, "-m", "jaxprompt", *command.split()]
    words += [str(tmp_path / "mine.py")] if command == "new" else []
    process = subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()  # before anything is printed
    errors = process.stderr.read()
    assert process.wait(timeout=600) == 141, "the code that shells give for it"
    process.stderr.close()
    assert errors == b""


# --- homes, installations, missing parts ---


NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
SUPERUSER = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(
    SUPERUSER and shutil.which("setpriv") is None,
    reason="permissions do not stop a superuser, and setpriv, which makes another, is missing",
)
@pytest.mark.slow
def test_read_only_installation_without_home_network_or_letters(tmp_path):
    """A copy of the package that its user may not write, and nothing else to lean on."""
    with tempfile.TemporaryDirectory(prefix="jaxprompt-read-only-") as place:
        home = Path(place)
        shutil.copytree(ROOT, home / "source" / "jaxprompt", ignore=shutil.ignore_patterns("*.pyc"))
        (home / "work").mkdir()
        for path in (home, home / "source", *(home / "source").rglob("*")):
            path.chmod(0o555 if path.is_dir() and path != home else 0o755)
        (home / "work").chmod(0o777)
        before = sorted(str(p) for p in (home / "source").rglob("*"))
        done = run(
            *("check", "universal.prefix_lower_bound", "--out", "out"),
            through=NOBODY if SUPERUSER else (),
            folder=home / "work",
            source=home / "source",
            home="/nonexistent/home" if SUPERUSER else home / "source",
            LC_ALL="C",
            PYTHONUTF8="0",
            PYTHONCOERCECLOCALE="0",
            PYTHONIOENCODING="ascii:strict",
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        assert b"confirmed" in done.stdout
        assert done.stdout.isascii()
        assert (home / "work/out/report.html").is_file()
        assert sorted(str(p) for p in (home / "source").rglob("*")) == before, "something was left"
        for path in (home / "source", *(home / "source").rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


@pytest.mark.parametrize("home", ["/nonexistent/x", "/proc", ""])
def test_without_a_home_there_is_no_cache_and_no_error(monkeypatch, home):
    monkeypatch.delenv(cache_folder.CACHE_FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.delitem(sys.modules, "jax")
    assert cache_folder.enable_compilation_cache() is None


def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


def test_a_home_that_nobody_knows(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(cache_folder.CACHE_FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert cache_folder.cache_folder() is None
    found = {f.what: f for f in doctor.examine()}["cache"]
    assert found.found == "no home folder is known"
    assert cache_folder.CACHE_FOLDER_VARIABLE in found.remedy


@pytest.mark.parametrize("harm", ["absent", "cut", "pickle", "shape", "text", "refused"])
def test_a_damaged_cache_of_trained_models_is_no_cache(monkeypatch, tmp_path, harm):
    class Plan(experiments.Plan):
        def __init__(self):
            pass

        def digest(self):
            return "ab"

        def describe(self):
            return {"steps": 3}

    like = {"w": np.zeros((2, 3), np.float32)}
    monkeypatch.setenv(cache_folder.CACHE_FOLDER_VARIABLE, str(tmp_path))
    kept = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    experiments._store(experiments.Trained(Plan(), kept, np.ones(2)))
    path = tmp_path / "ab.npz"
    found = experiments._load(Plan(), like)
    np.testing.assert_array_equal(found.state["w"], kept["w"])
    if harm == "absent":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif harm == "pickle":
        path.write_bytes(pickle.dumps({"plan": 1}))
    elif harm == "shape":
        like = {"w": np.zeros((3, 2), np.float32)}
    elif harm == "text":
        path.write_text("no such thing")
    else:
        monkeypatch.setattr(np, "load", refuse)
    assert experiments._load(Plan(), like) is None


def test_missing_optional_parts_are_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    path = tmp_path / "job.toml"
    path.write_text(
        'claim = "universal.prefix_rate"\n[fixed]\nsphere_dim = 1\nsmoothness = "lipschitz"\n'
        "[grid]\ncentres = [4, 8]\n"
    )
    words = ["sweep", str(path), "--out", str(tmp_path / "out"), "--scheduler", "tcp://x:1"]
    assert main.main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("jaxprompt: --scheduler needs the package `distributed`: install")
    assert told.count("\n") == 1
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    absent = [f for f in doctor.examine() if f.what.startswith("extra ")]
    assert absent
    assert {f.state for f in absent} == {"absent"}
    assert all("pip install" in f.remedy for f in absent)


# --- clocks ---


def test_durations_come_from_clocks_that_only_go_forward():
    """No module asks for the time of day, so no jump of it can matter."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"\b(time|datetime)\b", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                asked = (node.value.id, node.attr)
                assert asked not in {("time", "time"), ("time", "time_ns"), ("time", "localtime")}
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert "datetime" not in names, path


def test_a_clock_that_jumps_changes_no_result(toy, monkeypatch, tmp_path):
    from jaxprompt import sweep as sweeps

    job = sweeps.Sweep("contextual.toy", {"level": (1.0, 2.0, 3.0)}, {"size": 4}, 20, 1)
    alone = sweeps.run(job, tmp_path / "alone").dataset
    jumps = iter(range(10**6))

    def jumping():
        return 2e9 * (-1) ** next(jumps)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping()) * 10**9)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeps.run(job, tmp_path / "out", progress=stop)
    for path in (tmp_path / "out").rglob("*"):  # files from the future, and from long ago
        os.utime(path, (next(jumps) % 2 * 4e9,) * 2)
    found = sweeps.run(job, tmp_path / "out", resume=True).dataset
    np.testing.assert_array_equal(found["value"], alone["value"])
    verdict = toy().check()
    assert 0 <= verdict.seconds < 1e9, "a jump of the time of day shows in a duration"


STRUCK = """
import signal, sys, time
from jaxprompt.cli import commands, main

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
if "again" in sys.argv:
    start = main._thread.start_new_thread

    def start_and_be_struck(*arguments):
        start(*arguments)
        raise KeyboardInterrupt

    main._thread.start_new_thread = start_and_be_struck

class Struck:
    def __del__(self):
        raise KeyboardInterrupt

def work(options):
    Struck()
    for _ in range(6000):
        time.sleep(0.01)
    return 0

commands.list_claims = work
before = sys.unraisablehook
code = main.main(["list"])
assert sys.unraisablehook is before
sys.exit(code)
"""


@pytest.mark.parametrize("how", ["once", "again"])
def test_ctrl_c_that_strikes_a_callback_is_not_lost(how):
    """Python prints the traceback of what leaves a callback, here a finaliser, and goes on.

    Again: a second one strikes what sends the first one again, as a held key does. In a process of
    its own: the signal that is sent again is for the whole process.
    """
    command = [sys.executable, "-c", STRUCK, how]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 130, run.stderr
    assert run.stderr == "jaxprompt: interrupted\n"


@pytest.mark.parametrize("when", [0, 4_000_000_000])
def test_a_lock_is_as_old_as_its_holder(tmp_path, when):
    with store.lock(tmp_path):
        os.utime(tmp_path / ".lock", (when, when))
        with pytest.raises(UsageError, match="a sweep is at work there"), store.lock(tmp_path):
            pass
    (tmp_path / ".lock").write_text("process 1 on another machine")  # its holder is gone
    os.utime(tmp_path / ".lock", (when, when))
    with store.lock(tmp_path):
        pass


# --- two at once ---

SLOW = """
import time
import numpy as np
from pathlib import Path
from jaxprompt import Claim, Design, Falsifier, Parameter, Quantity, Relation
from jaxprompt.stats import mean_estimate

def simulate(*, key, trials, level):
    while not (Path(__file__).parent / "go").exists():
        time.sleep(0.02)
    return {"value": mean_estimate(level + 0.01 * (-1.0) ** np.arange(trials))}

CLAIM = Claim(
    id="mine.slow", title="t", statement="s", relation=Relation.MEAN, source="s",
    parameters=(Parameter("level", "real", "mean"),),
    quantities=(Quantity("value", "mean", 1.0),),
    falsifiers=(Falsifier("a", "a", lambda **p: {"value": 9.0}),
                Falsifier("b", "b", lambda **p: {"value": -9.0})),
    closed_form=lambda *, level: {"value": level}, simulation=simulate,
    designs={"quick": Design(({"level": 1.0},), trials=20),
             "full": Design(({"level": 1.0},), trials=20)},
)
"""


@pytest.mark.slow
def test_two_sweeps_started_on_one_folder(tmp_path):
    (tmp_path / "mine.py").write_text(SLOW)
    (tmp_path / "job.toml").write_text('claim = "mine.slow"\ntrials = 20\n[grid]\nlevel = [1.0]\n')
    words = [sys.executable, "-m", "jaxprompt", "sweep", "job.toml", "--claims", "mine.py"]
    words += ["--out", "out"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT.parent)}}
    first = subprocess.Popen(words, **options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not store.SweepStore.exists(tmp_path / "out"):
        assert first.poll() is None, f"the first sweep ended early: {first.stderr.read()}"
        assert time.monotonic() < deadline, "the first sweep made no store in 600 s"
        time.sleep(0.05)
    second = subprocess.run(
        [*words, "--resume"], **options, capture_output=True, text=True, timeout=600, check=False
    )
    assert second.returncode == 2
    assert f"a sweep is at work there (process {first.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1, second.stderr
    (tmp_path / "go").touch()
    _, errors = first.communicate(timeout=600)
    assert first.returncode in (0, 3), errors
    assert store.SweepStore.open(tmp_path / "out").done.all()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.sqlite"]
