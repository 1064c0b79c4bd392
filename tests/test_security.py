"""What a file from elsewhere can do: be read, or be refused. Nothing in it runs."""

from __future__ import annotations

import ast
import html.parser
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import main
from jaxprompt.core import registry
from jaxprompt.core.claim import Agreement, Falsifier
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import JaxpromptError
from jaxprompt.presentation import report
from jaxprompt.sweep import Sweep
from jaxprompt.sweep.store import SweepStore

ROOT = Path(jp.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))


# --- what the package never calls ---

UNPICKLE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
NETWORK = {"socket", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "ssl"}
RUN = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    ("claim_files", "exec"): "runs the file of claims that the user names",
    ("claim_files", "compile"): "the same",
    ("environment", "subprocess"): "asks git for the revision of a source checkout",
    ("cluster", "socket"): "asks which addresses a scheduler's name has, to warn of open ones",
}


def calls(path):
    """Modules imported and functions called by name, anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_unpickles_evaluates_or_connects(path):
    for line, name in calls(path):
        if (path.stem, name) not in ALLOWED:
            assert name not in UNPICKLE | NETWORK | RUN | {"subprocess"}, f"{path.name}:{line}"


def calls_ending_in(name):
    """Every call of a function of this last name, with its file."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if name in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
                    yield path, node


def test_arrays_are_read_without_pickles():
    found = 0
    for path, node in calls_ending_in(".load"):
        if ast.unparse(node.func) in ("np.load", "numpy.load"):
            found += 1
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert words.get("allow_pickle") == "False", f"{path.name}:{node.lineno}"
    assert found, "the cache of trained models is read somewhere"


def test_the_page_is_made_with_escapes_on():
    made = [ast.unparse(node) for _, node in calls_ending_in("Environment")]
    assert made
    assert all("autoescape=True" in call for call in made), made
    templates = sorted((ROOT / "presentation" / "templates").glob("*.jinja"))
    assert templates
    for path in templates:
        assert "|safe" not in path.read_text(encoding="utf-8").replace(" ", ""), path.name


# --- payloads ---


class Payload:
    """Writes a file if it is ever unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def old_format(folder, data, **wrong):
    """A table in zarr's format 2, whose chunks may name pickle as their codec."""
    (folder / "x").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text('{"schema": 2}')
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "<f8", "order": "C"}
    array |= {"compressor": None, "fill_value": 0.0, "filters": None, **wrong}
    (folder / "x" / ".zarray").write_text(json.dumps(array))
    (folder / "x" / "0").write_bytes(data)


def test_a_pickle_is_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    data = pickle.dumps(Payload(mark))
    pickle.loads(data).close()
    assert mark.exists(), "the payload would show"
    mark.unlink()
    home = tmp_path / "home"
    home.mkdir()
    for name in ("sweep.toml", "report.json", "points.csv", "claims.npz"):
        (home / name).write_bytes(data)
    pickled = {"id": "pickle", "protocol": 5}
    for place, wrong in enumerate(
        ({"filters": [pickled]}, {"compressor": pickled}, {"dtype": "|O", "filters": [pickled]})
    ):
        old_format(tmp_path / f"old{place}.zarr", data, **wrong)
        shutil.copytree(tmp_path / f"old{place}.zarr", tmp_path / f"s{place}" / "sweep.zarr")
    readers = [
        lambda: Sweep.from_toml(home / "sweep.toml"),
        lambda: report.read_report(home),
        lambda: jp.load(home / "points.csv"),
        *(lambda n=n: jp.load(tmp_path / f"s{n}") for n in range(3)),
        lambda: jp.load_claims(home / "claims.npz"),
    ]
    for number, read in enumerate(readers):
        with pytest.raises(JaxpromptError) as caught:
            read()
        assert "\n" not in str(caught.value), number
        assert not mark.exists(), f"reader {number} ran the payload"


# --- a claim whose every text attacks the page ---

ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(1)> </math> ]]> -->'
FORMULAS = (
    r"$\href{javascript:alert(1)}{x}$ $\mbox{<img src=x onerror=alert(1)>}$ $\textbf{<u>}$ "
    r"$\text{a}\text{<script>}$ $\tag{<b>}$ $\style{color:red}{x}$ $\class{a}{x}$ $\frac{$ "
    r"$\color{red' onload='alert(1)}{x}$ $\unicode{x3c}script\unicode{x3e}$"
)


TABLE = f"| a | {ATTACK} |\n| - | - |\n| {FORMULAS} | `{ATTACK}` |"


class Parts(html.parser.HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def assert_inert(page):
    for tag, attributes in Parts(page).found:
        assert tag not in {"script", "iframe", "object", "embed", "link", "form", "base", "u", "b"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}={value!r}>"
            if name in ("href", "src", "xlink:href", "action"):
                assert value.startswith(("#", "data:image/png;base64,")), f"{tag} {name}={value!r}"
            assert name != "style", f"<{tag} {name}={value!r}>"


@pytest.fixture
def hostile(toy_claim, toy_registry):
    toy = toy_claim()
    wrong = Falsifier(ATTACK, ATTACK, lambda level, **_: {"value": level + 0.3})

    def simulation(*, key, trials, level, size, words="a"):
        return toy.simulation(key=key, trials=trials, level=level, size=size)

    claim = toy_claim(
        title=ATTACK,
        statement=f"{ATTACK} {FORMULAS}\n\n{TABLE}",
        derivation=f"*{ATTACK}* {FORMULAS} $${ATTACK}$$",
        source=ATTACK,
        falsifiers=(wrong, toy.falsifiers[1]),
        parameters=(
            *toy.parameters,
            Parameter("words", "choice", ATTACK, ATTACK, choices=("a", ATTACK), default="a"),
        ),
        simulation=simulation,
        figure=Agreement(title=f"{ATTACK} {FORMULAS}", label=ATTACK),
    )
    toy_registry(claim)
    return claim


def test_a_hostile_claim_is_shown_and_does_nothing(hostile, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxprompt", ATTACK])
    assert main.main(["check", hostile.id, "--out", str(tmp_path), "--falsify"]) in (0, 1)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert_inert(page)
    assert "&lt;script&gt;" in page
    svg = (tmp_path / "figures" / f"{hostile.id}.svg").read_text(encoding="utf-8")
    assert_inert("".join(line for line in svg.splitlines() if "xlink:href=\"#" not in line).replace(
        "style=", "kept="))  # fmt: skip
    assert "<script" not in svg
    assert "alert(1)" not in "".join(str(a) for _, a in Parts(svg).found)
    for text in (hostile._repr_html_(), hostile.check()._repr_html_()):
        assert_inert(text)
    failing = json.loads((tmp_path / "report.json").read_text())
    failing["claims"][0]["error"] = ATTACK
    failing["claims"][0]["rows"][0]["note"] = ATTACK
    failing["claims"][0]["rows"][0]["quantity"] = ATTACK
    failing["claims"][0]["rows"][0]["parameters"] = {ATTACK: [ATTACK, {ATTACK: ATTACK}]}
    failing["environment"][ATTACK] = ATTACK
    (tmp_path / "report.json").write_text(json.dumps(failing))
    assert main.main(["report", str(tmp_path)]) == 0
    assert_inert((tmp_path / "report.html").read_text(encoding="utf-8"))
    capsys.readouterr()


@pytest.mark.parametrize(
    "id", ["../../secret", "a/b", "/etc/x", "a..b", "", 'x"y', "a\0b", None, 3]
)
def test_a_report_names_no_file_elsewhere(tmp_path, id):
    home = tmp_path / "one" / "two"
    home.mkdir(parents=True)
    secret = report._PNG + b"secret" * 10
    (tmp_path / "secret.png").write_bytes(secret)
    entry = {
        "id": id,
        "relation": "mean",
        "status": "failed",
        "rows": [],
        "false_alarm": 0.1,
        "detectable": None,
        "seconds": 1.0,
        "profile": "quick",
        "seed": 0,
        "error": "",
    }
    whole = {"schema": 1, "environment": {"jaxprompt": "0"}, "claims": [entry]}
    (home / "report.json").write_text(json.dumps(whole))
    with pytest.raises(JaxpromptError, match="the id of a claim"):
        report.write_html(home)
    assert not (home / "report.html").exists()


# --- code runs only when its user names it ---


def test_a_report_and_a_list_run_no_claims_of_others(tmp_path, monkeypatch, capsys, toy_claim):
    mark = tmp_path / "ran"
    for name in ("mine.py", "conftest.py", "sitecustomize.py", "jaxprompt_claims.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    entry = {
        "id": "mine.toy",
        "relation": "mean",
        "status": "failed",
        "rows": [],
        "seed": 1,
        "detectable": None,
        "seconds": 1.0,
        "profile": "quick",
        "false_alarm": 0.1,
        "error": "",
        "origin": str(tmp_path / "mine.py"),
    }
    whole = {"schema": 1, "environment": {"jaxprompt": "0"}, "claims": [entry]}
    (tmp_path / "report.json").write_text(json.dumps(whole))
    monkeypatch.chdir(tmp_path)
    assert main.main(["report", "."]) == 0
    assert main.main(["list"]) == 0
    assert main.main(["show", "mine.toy"]) == 2
    config = json.dumps({"claim": "mine.toy", "trials": 2, "seed": 0, "fixed": {}})
    SweepStore.create(tmp_path / "out", {"a": (1.0,)}, ["value"], config, {})
    jp.load(tmp_path / "out")
    assert not mark.exists(), "somebody else's code ran"
    monkeypatch.setattr(registry, "_user_claims", {})
    assert main.main(["list", "mine.py"]) == 2, "it holds no claims"
    assert mark.exists(), "named, it runs"
    capsys.readouterr()


# --- no network ---


def test_import_check_and_report_need_no_network(toy, tmp_path, monkeypatch, capsys):
    def caught(*args, **kwargs):
        raise AssertionError("something asked for the network")

    for name in ("connect", "connect_ex", "sendto", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, caught, raising=False)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, caught)
    for words in (
        ["check", "contextual.toy", "--out", str(tmp_path)],
        ["report", str(tmp_path)],
        ["list"],
        ["doctor"],
    ):
        assert main.main(words) in (0, 3), words
    capsys.readouterr()


def unshared():
    """Whether this system gives a process a network of its own, with nothing in it."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
def test_a_check_without_any_network(tmp_path):
    if not unshared():
        pytest.skip("no unshare, or not allowed: the test above patches sockets instead")
    words = ["check", "universal.prefix_lower_bound", "--out", str(tmp_path / "out")]
    for more in (words, ["report", str(tmp_path / "out")]):
        done = subprocess.run(
            ["unshare", "-rn", sys.executable, "-m", "jaxprompt", *more],
            env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert np.any((tmp_path / "out" / "report.html").stat().st_size > 1000)
