"""The command line: every command, its exit codes, and one line on bad input."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import completion, doctor, main
from jaxprompt.core.claim import Agreement, Curves, Design, Falsifier, Relation
from jaxprompt.core.extras import EXTRAS, Extra
from jaxprompt.stats import Estimate

ROOT = Path(__file__).resolve().parents[2]

TOML = """
claim = "contextual.toy"
trials = 200
[fixed]
size = 4
[grid]
level = [1.0, 2.0]
"""


@pytest.fixture
def toys(toy_claim, toy_registry, monkeypatch):
    """Registers toys by name: true, false, vague, broken."""
    from jaxprompt.sweep import run as sweeps

    def broken(**params):
        raise ZeroDivisionError("the toy broke")

    made = {
        "true": toy_claim(),
        "false": toy_claim(id="contextual.untrue", offset=0.5),
        "vague": toy_claim(id="prefix.vague", tolerance=1e-6),
        "broken": toy_claim(id="universal.broken", simulation=broken),
        "blind": toy_claim(
            id="contextual.blind",
            falsifiers=(
                toy_claim().falsifiers[0],
                Falsifier("none", "nothing wrong", toy_claim().closed_form),
            ),
        ),
    }

    def use(*names):
        claims = toy_registry(*(made[name] for name in names))
        by_id = {claim.id: claim for claim in claims}
        monkeypatch.setattr(sweeps, "find_claim", lambda id: by_id[id])

    return use


@pytest.fixture
def run(capsys):
    """Runs one command; returns its exit code, output and errors."""

    def call(*args):
        code = main.main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def assert_one_line(err):
    assert err.startswith("jaxprompt: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err


# --- list and show ---


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    for claim in jp.claims():
        assert claim.id in out
    code, out, _ = run("list", "--family", "contextual", "--json")
    found = json.loads(out)
    assert [entry["id"] for entry in found] == [c.id for c in jp.claims("contextual")]
    assert all({"id", "relation", "title"} <= set(entry) for entry in found)


def test_show(run):
    code, out, _ = run("show", "contextual.prompt_error")
    assert code == 0
    for word in ("relation: asymptotic", "ridge", "half_ridge", "Derivation", "broadcast"):
        assert word in out or word == "broadcast"
    code, out, _ = run("show", "contextual.prompt_error", "--json")
    assert json.loads(out)["id"] == "contextual.prompt_error"


# --- check ---


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["vague"], 3),
        (["broken"], 3),
        (["true", "false", "vague", "broken"], 1),
        (["true", "vague"], 3),
    ],
)
def test_exit_codes_of_check(toys, run, names, code):
    toys(*names)
    found, out, _ = run("check")
    assert found == code
    for word in ("claim", "status", "detectable"):
        assert word in out


def test_a_failed_check_shows_why(toys, run):
    toys("broken")
    code, out, err = run("check")
    assert code == 3
    assert "failed" in out
    assert "ZeroDivisionError: the toy broke" in err


@pytest.mark.parametrize(
    ("names", "code"), [(["true"], 0), (["true", "blind"], 1), (["broken"], 3)]
)
def test_exit_codes_of_falsify(toys, run, names, code):
    toys(*names)
    found, out, _ = run("check", "--falsify")
    assert found == code
    assert "falsifier shifted" in out


def test_check_json(toys, run):
    toys("true", "false")
    code, out, _ = run("check", "--json", "--falsify", "--seed", 5)
    assert code == 0
    found = json.loads(out)
    assert found["schema"] == 1
    assert [entry["status"] for entry in found["claims"]] == ["confirmed", "refuted"]
    assert found["environment"]["seed"] == 5
    falsifiers = found["claims"][0]["falsifiers"]
    assert [(f["name"], f["status"]) for f in falsifiers] == [
        ("shifted", "refuted"),
        ("doubled", "refuted"),
    ]
    assert falsifiers[0]["refuting_rows"] == "2 of 2"
    assert falsifiers[0]["clearest"]["statistic"] < -5


def test_check_by_id_and_family(toys, run):
    toys("true", "vague")
    assert run("check", "contextual")[0] == 0
    assert run("check", "prefix.vague")[0] == 3


def check_report(report):
    """report.json as the contract has it."""
    assert report["schema"] == 1
    assert {"jaxprompt", "jax", "numpy", "device", "dtype", "seed", "command", "revision"} <= set(
        report["environment"]
    )
    for entry in report["claims"]:
        assert {
            *("id", "relation", "status", "rows", "false_alarm", "detectable", "seconds"),
            *("profile", "seed"),
        } <= set(entry)
        for row in entry["rows"]:
            assert {
                *("quantity", "parameters", "predicted", "predicted_stderr", "simulated"),
                *("stderr", "statistic", "verdict"),
            } <= set(row)


def test_check_leaves_a_report(toy_claim, toy_registry, run, tmp_path):
    toy_registry(toy_claim(figure=Agreement(title="Toy", label="value")))
    code, _, err = run("check", "--out", tmp_path / "out", "--falsify")
    assert code == 0
    assert "report.html" in err
    files = {
        p.relative_to(tmp_path / "out").as_posix()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file() and "zarr" not in p.as_posix()
    }
    assert files == {
        *("report.json", "report.html"),
        *("figures/contextual.toy.png", "figures/contextual.toy.svg"),
    }
    assert (tmp_path / "out" / "data" / "contextual.toy" / "points.zarr").is_dir()
    check_report(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))


def test_a_failed_claim_has_its_place_in_the_report(toys, run, tmp_path):
    toys("true", "broken")
    assert run("check", "--out", tmp_path / "out")[0] == 3
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError: the toy broke" in page


def test_the_same_seed_leaves_the_same_rows(toys, run, tmp_path):
    toys("true")
    rows = []
    for name in ("a", "b"):
        run("check", "--out", tmp_path / name)
        rows.append(json.loads((tmp_path / name / "report.json").read_text())["claims"][0]["rows"])
    assert rows[0] == rows[1]


# --- report and figure ---


def test_report_rebuilds_the_page(toy_claim, toy_registry, run, tmp_path):
    toy_registry(toy_claim(figure=Agreement(title="Toy", label="value")))
    run("check", "--out", tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    before = page.read_bytes()
    page.unlink()
    code, out, _ = run("report", tmp_path / "out")
    assert code == 0
    assert out.strip() == str(page)
    assert page.read_bytes() == before


def curves_claim(toy_claim):
    return toy_claim(
        figure=Curves(
            x="level",
            y="value",
            design=Design.product({}, {"level": [1.0, 2.0, 3.0], "size": [4, 8]}, 20),
            lines=(1.0, 2.0, 3.0),
            title="Toy curves",
            x_label="level",
            y_label="value",
            series="size",
        )
    )


def test_figure_draws_and_redraws(toy_claim, toy_registry, run, tmp_path):
    toy_registry(curves_claim(toy_claim))
    code, out, _ = run("figure", "--out", tmp_path / "one")
    assert code == 0
    assert [line.rsplit(".", 1)[1] for line in out.split()] == ["png", "svg"]
    assert run("figure", "--from", tmp_path / "one", "--out", tmp_path / "two")[0] == 0
    for suffix in ("png", "svg"):
        name = f"contextual.toy.{suffix}"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# --- sweep ---


def write(tmp_path, text=TOML):
    path = tmp_path / "sweep.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_sweep_and_resume(toys, run, tmp_path):
    toys("true")
    code, out, _ = run("sweep", write(tmp_path), "--out", tmp_path / "out")
    assert code == 0
    assert "2 cells: 2 confirmed" in out
    assert jp.load(tmp_path / "out").sizes == {"level": 2}
    code, _, err = run("sweep", write(tmp_path), "--out", tmp_path / "out")
    assert code == 2
    assert_one_line(err)
    assert run("sweep", write(tmp_path), "--out", tmp_path / "out", "--resume")[0] == 0


def test_the_default_folder_of_a_sweep_is_the_name_of_its_file(toys, run, tmp_path, monkeypatch):
    toys("true")
    monkeypatch.chdir(tmp_path)
    assert run("sweep", write(tmp_path))[0] == 0
    assert jp.load("sweep").sizes == {"level": 2}


def test_a_sweep_with_failed_cells(toy_claim, toy_registry, run, tmp_path, monkeypatch):
    from jaxprompt.sweep import run as sweeps

    def broken(*, level, **params):
        if level == 2.0:
            raise ZeroDivisionError("the toy broke")
        return {"value": Estimate(level, 0.01, 20)}

    claim = toy_claim(simulation=broken, relation=Relation.MEAN)
    toy_registry(claim)
    monkeypatch.setattr(sweeps, "find_claim", lambda id: claim)
    code, out, err = run("sweep", write(tmp_path), "--out", tmp_path / "out")
    assert code == 3
    assert "1 confirmed, 1 failed" in out
    assert_one_line(err)
    assert "ZeroDivisionError" in err
    assert "--resume" in err


def test_ctrl_c_in_a_sweep_says_how_to_resume(toys, run, tmp_path, monkeypatch):
    from jaxprompt.sweep import run as sweeps

    toys("true")
    compute, calls = sweeps.compute, []

    def interrupted(task):
        if calls:
            raise KeyboardInterrupt
        calls.append(task)
        return compute(task)

    monkeypatch.setattr(sweeps, "compute", interrupted)
    path = write(tmp_path)
    code, _, err = run("sweep", path, "--out", tmp_path / "out")
    assert code == 130
    assert f"jaxprompt sweep {path} --out {tmp_path / 'out'} --resume" in err
    assert np.isfinite(jp.load(tmp_path / "out")["value"].values).sum() == 1
    monkeypatch.setattr(sweeps, "compute", compute)
    assert run("sweep", path, "--out", tmp_path / "out", "--resume")[0] == 0


def test_ctrl_c_in_a_check_keeps_what_is_done(toy_claim, toy_registry, run, tmp_path):
    def interrupted(**params):
        raise KeyboardInterrupt

    toy_registry(toy_claim(), toy_claim(id="prefix.slow", simulation=interrupted))
    code, _, err = run("check", "--out", tmp_path / "out")
    assert code == 130
    assert "1 of 2 claims are done" in err
    assert "jaxprompt check prefix.slow --profile quick" in err
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["id"] for entry in found["claims"]] == ["contextual.toy"]


def test_plain_progress_tells_cells_speed_and_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(main.time, "monotonic", lambda: now[0])
    with main._progress("sweep", "cells", trials=10) as progress:
        progress(4, 20)  # four cells were there before
        for done in (6, 8):
            now[0] += 4
            progress(done, 20)
    line = "sweep: 8/20 cells, 5 trials/s, about 24 s left\n"
    assert capsys.readouterr().err == line


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with main._progress("some work", "cells", trials=10) as progress:
        progress(0, 3)
        progress(2, 3)
    shown = capsys.readouterr().err
    assert "some work" in shown
    assert "2/3" in shown, f"the bar tells how much is done: {shown!r}"


# --- bad input ---


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["chek"], "invalid choice: 'chek'; did you mean check?"),
        (["check", "--falsfy"], "unknown argument '--falsfy'; did you mean --falsify?"),
        (["list", "--famly=prefix"], "did you mean --family?"),
        (["check", "contextal"], "did you mean contextual"),
        (["completion", "bsh"], "did you mean bash?"),
        (["list", "contextual", "--family", "prefix"], "not both"),
        (["list", "--family", "contextal"], "did you mean contextual"),
        (["show"], "ID"),
        (["show", "contextual.tow"], "did you mean contextual.toy"),
        (["check", "contextual.tow", "--out", "OUT"], "did you mean contextual.toy"),
        (["check", "--profile", "quik", "--out", "OUT"], "did you mean quick"),
        (["check", "--seed", "-1", "--out", "OUT"], "'-1' must be an integer"),
        (["check", "--seed", "4294967296"], "must be an integer"),
        (["check", "--seed", "1.5"], "must be an integer"),
        (["check", "--out", "FILE"], "cannot be written"),
        (["check", "--out", "FILE/below"], "cannot be written"),
        (["check", "--nonsense"], "--nonsense"),
        (["sweep", "nothing.toml", "--out", "OUT"], "cannot be read"),
        (["sweep", "SWEEP", "--out", "FILE/below"], "cannot be written"),
        (["sweep", "SWEEP", "--out", "OUT", "--workers", "0"], "must be an integer"),
        (["sweep", "SWEEP", "--workers", "1", "--scheduler", "a"], "not allowed with"),
        (["sweep", "BAD", "--out", "OUT"], "is not TOML"),
        (["figure", "contextual.tow", "--out", "OUT"], "did you mean"),
        (["figure", "--from", "nothing", "--out", "OUT"], "no such folder"),
        (["figure", "--from", "EMPTY", "--out", "OUT"], "nothing to draw"),
        (["report", "nothing"], "no report in"),
        (["report", "MANGLED"], "is not JSON"),
        (["report", "OTHER"], "another schema"),
        (["report", "HOLLOW"], "run the check again"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_one_line_and_leaves_nothing(toys, run, tmp_path, monkeypatch, args, said):
    toys("true")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "SWEEP").write_text(TOML)
    (tmp_path / "BAD").write_text("[grid")
    contents = {"MANGLED": "{", "OTHER": '{"schema": 7}', "HOLLOW": '{"schema": 1}'}
    for name, text in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
    before = sorted(p.as_posix() for p in tmp_path.rglob("*"))
    code, out, err = run(*args)
    assert code == 2
    assert said in err
    assert out == ""
    assert_one_line(err)
    assert sorted(p.as_posix() for p in tmp_path.rglob("*")) == before, "something was left behind"


def test_help_exits_cleanly(capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["--help"])
    assert caught.value.code == 0
    assert "jaxprompt check" in capsys.readouterr().out


def test_as_a_module():
    command = [sys.executable, "-m", "jaxprompt"]
    good = subprocess.run([*command, "list"], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0
    assert "contextual.prompt_error" in good.stdout
    assert good.stderr == ""
    bad = subprocess.run([*command, "show", "nothing"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert_one_line(bad.stderr)


# --- help, tables, JSON ---


@pytest.mark.parametrize("command", main._EXAMPLES)
def test_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    examples = out.partition("examples:\n")[2]
    for line in examples.splitlines():
        if line.startswith("  jaxprompt "):
            words = shlex.split(re.split(r"   |>", line.strip())[0])[1:]
            assert main._parse(words).run, f"the example does not parse: {line}"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_fit_the_terminal(toys, run, monkeypatch, width):
    toys("true", "false")
    monkeypatch.setenv("COLUMNS", str(width))
    table = run("check")[1].split("\n\n")[-1]
    assert max(map(len, table.splitlines()[2:])) <= width
    assert "contextual.toy" in table
    assert ("false alarm" in table) == (width >= 80)


def test_brackets_are_no_markup(toy_claim, toy_registry, run):
    toy_registry(toy_claim(title="on [0, 1] and [red]"))
    assert "on [0, 1] and [red]" in run("list")[1]


def test_json_everywhere(toys, toy_claim, toy_registry, run, tmp_path):
    toys("true")
    code, out, _ = run("sweep", write(tmp_path), "--out", tmp_path / "sweep", "--json")
    assert code == 0
    assert json.loads(out)["status"] == {"confirmed": 2}
    toy_registry(toy_claim(figure=Agreement(title="Toy", label="value")))
    found = json.loads(run("figure", "--out", tmp_path / "figures", "--json")[1])
    assert [name.rpartition(".")[2] for name in found["files"]] == ["png", "svg"]
    run("check", "--out", tmp_path / "out", "--json")
    found = json.loads(run("report", tmp_path / "out", "--json")[1])
    assert found["files"] == [str(tmp_path / "out" / "report.html")]


# --- doctor and completion ---


def test_doctor(run):
    code, out, _ = run("doctor", "--json")
    found = {entry["what"]: entry for entry in json.loads(out)}
    assert code == 0, [entry for entry in found.values() if entry["state"] == "problem"]
    assert found["jaxprompt"]["found"].startswith(jp.__version__)
    assert "float64" in found["dtype"]["found"]
    assert "cpu" in found["devices"]["found"] or "gpu" in found["devices"]["found"]
    assert found["cache"]["state"] == "absent", "the tests run without a cache"
    assert "what to do" in run("doctor")[1]


def test_doctor_finds_what_is_wrong(run, monkeypatch):
    def nowhere(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", nowhere)
    odd = Extra("odd", ("no_such_module",), "something odd")
    monkeypatch.setattr(doctor, "EXTRAS", {"odd": odd})
    code, out, _ = run("doctor", "--json")
    assert code == 3
    found = {entry["what"]: entry for entry in json.loads(out)}
    assert found["working folder"]["state"] == "problem"
    assert "Permission denied" in found["working folder"]["found"]
    assert found["extra odd"]["state"] == "absent"
    assert found["extra odd"]["remedy"] == '`pip install -e ".[odd]"` in a clone adds something odd'


def test_doctor_tells_a_broken_installation(monkeypatch):
    assert doctor._package("no-such-package").state == "problem"

    def refused():
        raise RuntimeError("no such backend\nand more")

    monkeypatch.setattr(jax, "devices", refused)
    found = doctor._devices()
    assert (found.state, found.found) == ("problem", "no such backend and more")
    monkeypatch.setattr(jax, "jit", lambda f: lambda x: 0.0)
    assert doctor._float64().found == "float64 is rounded"

    def broken(f):
        raise ImportError("libxla")

    monkeypatch.setattr(jax, "jit", broken)
    assert "libxla" in doctor._float64().found


def test_doctor_tells_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPROMPT_CACHE", str(tmp_path / "new" / "cache"))
    assert doctor._cache().state == "ok"
    assert "not made yet" in doctor._cache().found

    def full(dir):
        raise PermissionError(13, "not allowed")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", full)
    assert doctor._cache().state == "absent", "without a cache everything runs, only slower"


def test_doctor_knows_every_extra():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(declared["optional-dependencies"])
    core = {re.split(r"[><=]", need)[0] for need in declared["dependencies"]}
    assert core <= set(doctor._CORE)


WORDS = {
    ("ch",): {"check"},
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
    names = ("contextual", "prefix", "universal", *(c.id for c in jp.claims()))
    for shell in ("bash", "zsh", "fish"):
        (folder / shell).write_text(completion.script(shell, main._parser(), names))
    return folder


@pytest.mark.parametrize("words", WORDS)
def test_bash_completes(scripts, words, tmp_path):
    line = " ".join(f"'{word}'" for word in ("jaxprompt", *words))
    code = f"source {scripts / 'bash'}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _jaxprompt"
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
    assert "_jaxprompt" in shown.stdout


def test_completion_prints_a_script(run):
    code, out, _ = run("completion", "bash")
    assert code == 0
    assert "complete -o filenames -F _jaxprompt jaxprompt" in out
