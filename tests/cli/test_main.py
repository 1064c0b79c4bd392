"""The command line: every command, its exit codes, and one line on bad input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import main
from jaxprompt.core.claim import Agreement, Curves, Design, ExtraLine, Falsifier, Relation
from jaxprompt.presentation.wording import describe_row
from jaxprompt.stats import Estimate

TOML = """
claim = "contextual.toy"
trials = 200
[fixed]
size = 4
[grid]
level = [1.0, 2.0]
"""


@pytest.fixture
def toys(toy_claim, toy_registry):
    """Registers toys by name: true, false, vague, broken."""

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
        toy_registry(*(made[name] for name in names))

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


def test_show_says_where_predictions_were_compared(run, toys):
    claim = jp.claim("contextual.prompt_error")
    _, out, _ = run("show", claim.id)
    shown = out[out.index("predictions were compared") :]
    assert re.search(r"ratio +0\.4 to 2 +0\.05 to 10\b", shown)
    assert claim.compared.elsewhere in " ".join(shown.split())
    rows = {row["name"]: row for row in claim.describe()["compared"]}
    assert [*rows] == [p.name for p in claim.parameters]
    assert (rows["tokens"]["check"], rows["samples"]["check"]) == ("10", "")
    # A claim that states nothing has the values of its designs.
    toys("vague")
    _, out, _ = run("show", "prefix.vague")
    assert "tests" not in out[out.index("predictions were compared") :].splitlines()[2]
    assert "nothing was compared" in out


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
    ("names", "code"),
    [
        (["true"], 0),
        (["true", "blind"], 1),
        (["broken"], 3),
        (["false"], 1),
        (["true", "false"], 1),
        (["vague"], 3),
        (["vague", "blind"], 1),
    ],
)
def test_exit_codes_of_falsify(toys, run, names, code):
    toys(*names)
    found, out, _ = run("check", "--falsify")
    assert found == code
    assert "falsifier shifted" in out


def test_check_json(toys, run):
    toys("true", "false")
    code, out, _ = run("check", "--json", "--falsify", "--seed", 5)
    assert code == 1, "a claim is refuted"
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
        if p.is_file()
    }
    assert files == {
        *("report.json", "report.html", "data/contextual.toy/points.csv"),
        *("figures/contextual.toy.png", "figures/contextual.toy.svg"),
    }
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


def test_a_check_of_some_points_with_other_trials(toys, run):
    toys("true")
    code, out, _ = run("check", "contextual.toy", "--trials", "40", "--point", "size=8", "--json")
    (entry,) = json.loads(out)["claims"]
    assert [row["parameters"]["size"] for row in entry["rows"]] == [8]
    assert {row["trials"] for row in entry["rows"]} == {40}
    assert code == {"confirmed": 0, "inconclusive": 3}[entry["status"]]
    code, out, err = run("check", "contextual.toy", "--point", "size=9")
    assert (code, out) == (2, "")
    assert_one_line(err)
    assert "`size` is 16, 8 there" in err
    code, out, err = run("check", "contextual.toy", "--trials", "1")
    assert (code, out) == (2, "")
    assert_one_line(err)


def test_a_dry_run_simulates_nothing(toys, run, monkeypatch):
    toys("broken")  # whose simulation would raise
    code, out, _ = run("check", "universal.broken", "--dry-run")
    assert code == 0
    assert "size = 8" in out
    assert "value = 1.0" in out


def test_an_undecided_check_says_what_would_do(toys, run):
    toys("vague")
    code, out, _ = run("check", "prefix.vague")
    assert code == 3
    assert "rows cannot see 1e-06" in out
    assert re.search(r"--trials \d+", out)


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


def test_a_sweep_with_failed_cells(toy_claim, toy_registry, run, tmp_path):
    def broken(*, level, **params):
        if level == 2.0:
            raise ZeroDivisionError("the toy broke")
        return {"value": Estimate(level, 0.01, 20)}

    claim = toy_claim(simulation=broken, relation=Relation.MEAN)
    toy_registry(claim)
    code, out, err = run("sweep", write(tmp_path), "--out", tmp_path / "out")
    assert code == 3
    assert "1 confirmed, 1 failed" in out
    assert_one_line(err)
    assert "ZeroDivisionError" in err
    assert "--resume" in err


@pytest.mark.parametrize(
    ("names", "plain", "strict"),
    [("true", 0, 0), ("false", 0, 1), ("vague", 0, 3), ("broken", 3, 3)],
)
def test_exit_codes_of_a_sweep(toys, run, tmp_path, names, plain, strict):
    """What its cells find is data: only with --strict does it decide."""
    toys(names)
    ids = {"false": "contextual.untrue", "vague": "prefix.vague", "broken": "universal.broken"}
    path = write(tmp_path, TOML.replace("contextual.toy", ids.get(names, "contextual.toy")))
    assert run("sweep", path, "--out", tmp_path / "a")[0] == plain
    assert run("sweep", path, "--out", tmp_path / "b", "--strict")[0] == strict


def test_ctrl_c_in_a_sweep_says_how_to_resume(toys, run, tmp_path, monkeypatch):
    from jaxprompt.sweep import runner as sweeps

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


def interrupted(**params):
    raise KeyboardInterrupt


def test_ctrl_c_in_a_check_keeps_what_is_done(toy_claim, toy_registry, run, tmp_path):
    toy_registry(toy_claim(), toy_claim(id="prefix.slow", simulation=interrupted))
    code, _, err = run("check", "--out", tmp_path / "out")
    assert code == 130
    assert "1 of 2 claims are done" in err
    assert "jaxprompt check prefix.slow --profile quick" in err
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["id"] for entry in found["claims"]] == ["contextual.toy"]


def test_the_command_after_ctrl_c_is_whole_and_completes_the_report(
    toy_claim, toy_registry, run, tmp_path
):
    out = tmp_path / "a folder"
    toy_registry(toy_claim(), toy_claim(id="prefix.slow", simulation=interrupted))
    asked = ("--out", out, "--falsify", "--seed", 7, "--no-cache", "--profile", "full")
    code, _, err = run("check", *asked)
    assert code == 130
    command = shlex.split(err.rpartition("go on with: ")[2])
    assert command[:3] == ["jaxprompt", "check", "prefix.slow"]
    for words in (["--out", str(out)], ["--seed", "7"], ["--profile", "full"]):
        assert command[command.index(words[0]) + 1] == words[1]
    assert {"--falsify", "--no-cache"} <= set(command)
    toy_registry(toy_claim(), toy_claim(id="prefix.slow"))
    assert run(*command[1:])[0] == 0
    found = json.loads((out / "report.json").read_text())
    assert [entry["id"] for entry in found["claims"]] == ["contextual.toy", "prefix.slow"]
    assert {entry["seed"] for entry in found["claims"]} == {7}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 claims checked" in page


def test_the_command_after_ctrl_c_names_the_files(toy_claim, run, tmp_path, monkeypatch):
    from jaxprompt.core import registry

    slow = toy_claim(id="mine.slow", simulation=interrupted)
    monkeypatch.setattr(registry, "_user_claims", {"mine.slow": (slow, "my file.py")})
    code, _, err = run("check", "mine.slow")
    assert code == 130
    command = shlex.split(err.rpartition("go on with: ")[2])
    assert command[1:5] == ["check", "mine.slow", "--claims", "my file.py"]


def test_a_damaged_report_of_an_earlier_run_is_replaced_with_a_note(toys, run, tmp_path):
    toys("true")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{")
    code, _, err = run("check", "--out", tmp_path / "out")
    assert code == 0
    assert "note: what was there is replaced" in err
    check_report(json.loads((tmp_path / "out" / "report.json").read_text()))


# --- figures that fail ---


def failing_figure(toy_claim, **changes):
    """A claim whose check is sound, and whose figure has a reference line that fails."""

    def reference(x, **unused):
        raise ZeroDivisionError("infinite there")

    figure = Curves(x="level", y="value", lines=(1.0, 3.0), extra=(ExtraLine("other", reference),))
    return toy_claim(figure=figure, **changes)


def test_a_figure_that_fails_is_a_warning(toy_claim, toy_registry, run, tmp_path):
    toy_registry(failing_figure(toy_claim), toy_claim(id="prefix.after"))
    out = tmp_path / "out"
    code, printed, err = run("check", "--out", out)
    assert code == 0, "both claims are confirmed"
    assert "warning: contextual.toy has no figure" in err
    assert "Traceback" not in err
    assert "confirmed    prefix.after" in printed
    found = json.loads((out / "report.json").read_text())
    assert [entry["status"] for entry in found["claims"]] == ["confirmed", "confirmed"]
    assert "has no figure" in found["claims"][0]["warnings"][0]
    assert found["claims"][1]["warnings"] == []
    assert "Warning: has no figure" in (out / "report.html").read_text(encoding="utf-8")


def test_a_picture_that_cannot_be_drawn_is_a_warning(
    toy_claim, toy_registry, run, tmp_path, monkeypatch
):
    from jaxprompt.presentation import plot

    def broken(*args):
        raise RuntimeError("no picture")

    monkeypatch.setattr(plot, "draw", broken)
    toy_registry(toy_claim(figure=Agreement(title="Toy", label="value")))
    code, _, err = run("check", "--out", tmp_path / "out", "--json")
    assert code == 0
    assert "warning: contextual.toy has no figure" in err
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_verdict_is_stored_and_told_before_its_figure(
    toy_claim, toy_registry, run, tmp_path, capsys, monkeypatch
):
    from jaxprompt.presentation import figure_tables

    seen = {}

    def look(*args):
        seen["report"] = json.loads((tmp_path / "out" / "report.json").read_text())
        seen["printed"] = capsys.readouterr().out
        return None

    monkeypatch.setattr(figure_tables, "figure_tables", look)
    toy_registry(toy_claim(figure=Agreement(title="Toy", label="value")))
    run("check", "--out", tmp_path / "out")
    assert [entry["id"] for entry in seen["report"]["claims"]] == ["contextual.toy"]
    assert "confirmed    contextual.toy" in seen["printed"]


# --- words ---


@pytest.mark.parametrize(
    "title", ["Error on [a, b]", "[/b] and [red]", "a :smile: :bug:", "[[", "$x$"]
)
def test_titles_are_printed_as_they_are(toy_claim, toy_registry, run, title):
    toy_registry(toy_claim(title=title, statement=title, derivation=title, source=title))
    for words in (["list"], ["show", "contextual.toy"], ["check"]):
        code, out, _ = run(*words)
        assert code == 0
        assert title in out or words == ["check"]


def test_the_terminal_names_the_row_that_the_report_names(toys, run, tmp_path):
    toys("false")
    _, out, _ = run("check", "--out", tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "report.json").read_text())["claims"]
    row = entry["rows"][entry["worst"]]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    said = f"{row['quantity']}: {describe_row(row)}"
    assert said in out
    assert said in page
    assert json.loads(run("check", "--json")[1])["claims"][0]["worst"] == entry["worst"]


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
        (["check", "--out", ""], "must name a folder"),
        (["figure", "--out", ""], "must name a folder"),
        (["figure", "--from", ""], "must name a folder"),
        (["report", ""], "must name a folder"),
        (["sweep", "SWEEP", "--out", ""], "must name a folder"),
        (["figure", "EMPTY", "--out", "OUT"], "no sweep in"),
        (["figure", "EMPTY", "contextual", "--out", "OUT"], "not both"),
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


@pytest.mark.slow
def test_as_a_module():
    command = [sys.executable, "-m", "jaxprompt"]
    good = subprocess.run([*command, "list"], capture_output=True, text=True, timeout=600)
    assert good.returncode == 0
    assert "contextual.prompt_error" in good.stdout
    assert good.stderr == ""


@pytest.mark.slow
def test_an_error_as_a_module():
    command = [sys.executable, "-m", "jaxprompt"]
    bad = subprocess.run([*command, "show", "nothing"], capture_output=True, text=True, timeout=600)
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


@pytest.mark.parametrize("columns", ["0", "-3", "many", ""])
def test_a_width_that_is_none_is_no_width(toys, run, monkeypatch, columns):
    toys("true")
    monkeypatch.setenv("COLUMNS", columns)
    assert "contextual.toy" in run("list")[1]


def test_figures_of_sweeps(toys, run, tmp_path):
    toys("true")
    assert run("sweep", write(tmp_path), "--out", tmp_path / "ratio")[0] == 0
    code, out, _ = run("figure", tmp_path / "ratio", "--out", tmp_path / "pictures")
    assert code == 0
    names = [Path(line).name for line in out.splitlines()]
    assert names == ["ratio.value.png", "ratio.value.svg"]
    assert all((tmp_path / "pictures" / name).is_file() for name in names)


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
