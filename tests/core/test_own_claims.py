"""Claims that users bring: files, installed packages, and the worked examples."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.linalg
from scipy import integrate

import jaxprompt as jp
from jaxprompt import sweep as sweeps
from jaxprompt.cli import commands, main
from jaxprompt.compute.trials import per_trial
from jaxprompt.core import registry
from jaxprompt.core.claim import Curves, Design
from jaxprompt.errors import JaxpromptError, UnknownClaimError, UsageError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

FILE = """
import jax
import jaxprompt as jp

def mean(*, level):
    return {"value": level}

def experiment(*, key, level, size):
    return {"value": level + jax.random.normal(key, (size,)).mean()}

CLAIM = jp.Claim(
    id="mine.mean", title="A mean", statement="The mean of $x_i$ is `level`.",
    relation=jp.Relation.MEAN, source="made up",
    parameters=(
        jp.Parameter("level", "real", "the mean"),
        jp.Parameter("size", "integer", "numbers drawn", low=1, simulate_only=True),
    ),
    quantities=(jp.Quantity("value", "the mean", tolerance=0.5),),
    falsifiers=(
        jp.Falsifier.scaled("twice", mean, 2.0),
        jp.Falsifier("none", "zero", lambda level: {"value": 0.0 * level}),
    ),
    closed_form=mean,
    simulation=jp.per_trial(experiment, traced=("level",), batch=50),
    designs={"quick": jp.Design.product({"size": 4}, {"level": [1.0, 2.0]}, 100)},
    figure=jp.Agreement("A mean", "value"),
)
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test brings is gone after it."""
    monkeypatch.setattr(registry, "_user_claims", {})


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def run(capsys):
    def call(*args):
        code = main.main([str(a) for a in args])
        return code, *capsys.readouterr()

    return call


# --- the command line ---


def test_every_command_takes_a_file_of_claims(mine, run, tmp_path):
    code, out, _ = run("list", mine, "--json")
    assert code == 0
    assert [entry["id"] for entry in json.loads(out)] == ["mine.mean"]
    assert "mine.mean" in run("list", "--claims", mine)[1]
    assert "the mean" in run("show", mine)[1]
    assert json.loads(run("show", "mine.mean", "--claims", mine, "--json")[1])["id"] == "mine.mean"

    out_folder = tmp_path / "out"
    code, out, err = run("check", mine, "--falsify", "--out", out_folder)
    assert code == 0, out + err
    assert "confirmed    mine.mean" in out
    page = (out_folder / "report.html").read_text()
    assert "A mean" in page
    assert "data:image/png" in page
    assert f"jaxprompt check mine.mean --claims {mine}" in page

    assert run("figure", mine, "--out", tmp_path / "figures")[0] == 0
    assert (tmp_path / "figures" / "mine.mean.png").is_file()


def test_a_report_is_rebuilt_without_running_the_file(mine, run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run("check", mine, "--out", out)
    page = (out / "report.html").read_bytes()
    registry._user_claims.clear()
    mine.unlink()
    assert run("report", out)[0] == 0
    assert (out / "report.html").read_bytes() == page


def test_a_sweep_of_a_file_of_claims(mine, run, tmp_path):
    toml = tmp_path / "grid.toml"
    toml.write_text('claim = "mine.mean"\ntrials = 20\n[grid]\nsize = [4]\nlevel = [1.0, 2.0]\n')
    code, _, err = run("sweep", toml, "--out", tmp_path / "no")
    assert code == 2
    assert "unknown claim 'mine.mean'" in err
    args = ("sweep", toml, "--out", tmp_path / "out", "--claims", mine)
    assert run(*args)[0] in (0, 3)
    assert jp.load(tmp_path / "out").sizes == {"size": 1, "level": 2}
    assert jp.claim("mine.mean").continues, "more trials could not be added"


def test_worker_processes_learn_the_claims_first(mine, tmp_path):
    options = types.SimpleNamespace(workers=1, scheduler=None, claims=[str(mine)])
    task = sweeps.Task("mine.mean", 0, 4, {"level": 1.0, "size": 4}, ((0,),), ((0,),))
    with commands._executor(options) as pool:
        assert pool is not None
        prepare = pool._prepare
    assert "unknown claim 'mine.mean'" in sweeps.compute(task)
    prepare()
    (cell,) = sweeps.compute(task)
    assert cell.place == (0,)


# --- files ---


def test_a_file_is_run_only_when_it_is_named(mine):
    assert "mine.mean" not in {c.id for c in jp.claims()}
    with pytest.raises(UnknownClaimError, match="mine"):
        jp.claim("mine.mean")
    (claim,) = jp.load_claims(mine)
    assert jp.claim("mine.mean") is claim
    assert jp.claims("mine") == (claim,)
    assert "mine.mean" not in {c.id for c in jp.claims()}, "a check of all is of jaxprompt's own"
    assert registry.select(["mine", "mine.mean"]) == (claim,)
    assert jp.load_claims(mine)[0] is not claim, "loading again runs the file again"


def test_a_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_mine.py").write_text(FILE)
    (tmp_path / "mine.py").write_text("from beside_mine import CLAIM\nCLAIMS = [CLAIM]\n")
    before = list(sys.path)
    assert jp.load_claims(tmp_path / "mine.py")[0].id == "mine.mean"
    assert sys.path == before
    assert "beside_mine" not in sys.modules


def write_files(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_helpers_of_one_name_do_not_meet(tmp_path):
    for name, value in (("one", 1.0), ("two", 2.0)):
        text = "from helper import VALUE\n" + FILE.replace("mine.", f"{name}.")
        text = text.replace('"value": level}\n', '"value": VALUE + 0.0 * level}\n', 1)
        write_files(tmp_path / name, claims=text, helper=f"VALUE = {value}\n")
    one, two = (jp.load_claims(tmp_path / name / "claims.py")[0] for name in ("one", "two"))
    assert one.predict(level=5.0) == {"value": 1.0}
    assert two.predict(level=5.0) == {"value": 2.0}


@pytest.mark.parametrize(
    "line",
    ["from beside import VALUE", "import beside; VALUE = beside.VALUE",
     "import shelf.deep; VALUE = shelf.deep.VALUE", "from shelf import deep; VALUE = deep.VALUE",
     "from shelf.near import VALUE"],
)  # fmt: skip
def test_a_formula_may_import_what_lies_beside_it_later(tmp_path, line):
    text = FILE.replace(
        'return {"value": level}\n', f'{line}\n    return {{"value": VALUE + 0.0 * level}}\n', 1
    )
    write_files(tmp_path, mine=text, beside="from other import VALUE\n", other="VALUE = 3.0\n")
    # A package beside it, with an import of its own parts and one of what lies beside the file.
    write_files(
        tmp_path / "shelf",
        __init__="",
        deep="from other import VALUE\n",
        near="from .deep import VALUE\n",
    )
    (claim,) = jp.load_claims(tmp_path / "mine.py")
    assert claim.predict(level=5.0) == {"value": 3.0}


def test_a_helper_that_was_edited_is_read_again(tmp_path):
    text = "from helper import VALUE\n" + FILE.replace('"value": level}\n', '"value": VALUE}\n', 1)
    write_files(tmp_path, mine=text, helper="VALUE = 1.0\n")
    assert jp.load_claims(tmp_path / "mine.py")[0].predict(level=5.0) == {"value": 1.0}
    write_files(tmp_path, helper="VALUE = 22.0\n")
    assert jp.load_claims(tmp_path / "mine.py")[0].predict(level=5.0) == {"value": 22.0}


@pytest.mark.parametrize("call", ["sys.exit(0)", "sys.exit()", "raise SystemExit('bye')"])
def test_a_file_may_not_end_the_program(tmp_path, run, call):
    (tmp_path / "mine.py").write_text(f"{FILE}\nimport sys\n{call}\n")
    code, out, err = run("check", tmp_path / "mine.py")
    assert (code, out) == (2, "")
    assert "ends the program" in err
    assert err.count("\n") == 1


def test_what_a_file_prints_is_no_output(tmp_path, run):
    text = FILE.replace("    return {", '    print("in a formula")\n    return {', 1)
    (tmp_path / "mine.py").write_text(f'print("at the top")\n{text}')
    code, out, err = run("check", tmp_path / "mine.py", "--json")
    assert code == 0
    assert json.loads(out)["claims"][0]["id"] == "mine.mean"
    assert "at the top" in err
    assert "in a formula" in err


def test_two_spellings_of_one_path_are_one_file(tmp_path, mine, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    jp.load_claims(mine)
    jp.load_claims("mine.py")
    code, out, _ = run("list", "./mine.py", str(mine), "--claims", "mine.py", "--json")
    assert code == 0
    assert [entry["id"] for entry in json.loads(out)] == ["mine.mean"]


def test_a_file_may_look_at_other_claims(tmp_path):
    base = 'BASE = jp.claim("contextual.prompt_error")\n'
    (tmp_path / "mine.py").write_text(FILE + base)
    assert [claim.id for claim in jp.load_claims(tmp_path / "mine.py")] == ["mine.mean"]
    (tmp_path / "mine.py").write_text(FILE + base + "CLAIMS = [BASE, CLAIM]\n")
    loaded = [claim.id for claim in jp.load_claims(tmp_path / "mine.py")]
    assert loaded == ["contextual.prompt_error", "mine.mean"], "what is listed is chosen"
    assert registry.origin("contextual.prompt_error") == ""
    (tmp_path / "mine.py").write_text("import jaxprompt as jp\n" + base)
    with pytest.raises(UsageError, match="brings no claims"):
        jp.load_claims(tmp_path / "mine.py")


def test_a_file_may_import_the_claims_of_another(tmp_path, mine):
    second = FILE.replace("mine.mean", "mine.second").replace("CLAIM =", "SECOND =")
    (tmp_path / "second.py").write_text(f"from mine import CLAIM\n{second}")
    assert [claim.id for claim in jp.load_claims(tmp_path / "second.py")] == ["mine.second"]
    assert [claim.id for claim in jp.load_claims(mine)] == ["mine.mean"]
    assert [claim.id for claim in jp.load_claims(tmp_path / "second.py")] == ["mine.second"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("x = 1\n", "brings no claims"),
        ("CLAIMS = 3\n", "brings no claims"),
        ("CLAIMS = [3]\n", "brings no claims"),
        ("x = 1\n\n1/0\n", "line 3: ZeroDivisionError: division by zero"),
        ("x = = 1\n", "line 1: SyntaxError"),
        (FILE.replace("mine.mean", "contextual.prompt_error"), "defined by jaxprompt too"),
        (FILE + "AGAIN = jp.Claim(**vars(CLAIM))\n", "give it another id"),
        (FILE.replace("mine.mean", "mine"), "must be family.word_stem"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path, run, text, said):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    code, out, err = run("check", path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert not registry._user_claims


def test_two_files_may_not_share_an_id(tmp_path, mine):
    other = tmp_path / "other.py"
    other.write_text(FILE)
    jp.load_claims(mine)
    with pytest.raises(UsageError, match="give it another id"):
        jp.load_claims(other)


# --- installed packages ---


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that announces the family `mine`."""

    def install(text=FILE, family="mine", name="mine_package"):
        (tmp_path / f"{name}.py").write_text(text + "\nCLAIMS = (CLAIM,)\n")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[jaxprompt.claims]\n{family} = {name}:CLAIMS\n")
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for name in ("mine_package", "other_package"):
        sys.modules.pop(name, None)


def test_an_installed_family_is_imported_when_named(package, run):
    package()
    out = run("list")[1]
    assert "brought by installed packages: mine" in out
    assert "mine_package" not in sys.modules, "listing imported the package"
    assert "mine.mean" in run("list", "--family", "mine")[1]
    registry._user_claims.clear()
    assert jp.claim("mine.mean").title == "A mean"
    registry._user_claims.clear()
    assert run("check", "mine")[0] == 0


def test_installed_packages_that_cannot_serve(package, run):
    package(text="1/0")
    code, _, err = run("check", "mine")
    assert code == 2
    assert "mine_package cannot be loaded (ZeroDivisionError: division by zero)" in err


def test_an_installed_family_lists_its_own_claims_only(package):
    package(family="other")
    with pytest.raises(UsageError, match=r"lists the claim 'mine\.mean' in the family 'other'"):
        jp.claims("other")


@pytest.mark.parametrize("family", ["mine", "contextual"])
def test_two_packages_with_one_family(package, family):
    package(family=family)
    package(family=family, name="other_package")
    with pytest.raises(UsageError, match="both bring a family"):
        registry.installed()


# --- one trial ---


def test_trials_are_independent_of_batch_and_count():
    import jax

    def trial(*, key, scale):
        return {"value": scale * jax.random.normal(key)}

    one, many = per_trial(trial), per_trial(trial, traced=("scale",), batch=8)
    key = jax.random.key(3)
    a, b = (f(key=key, trials=20, scale=2.0)["value"] for f in (one, many))
    assert a.trials == 20
    np.testing.assert_allclose([a.mean, a.stderr], [b.mean, b.stderr], rtol=1e-12)
    with jax.enable_x64(True):
        drawn = [2.0 * jax.random.normal(jax.random.fold_in(key, t)) for t in range(20)]
    np.testing.assert_allclose(a.mean, np.mean(drawn), rtol=1e-12)
    rest = one(key=key, trials=12, first=8, scale=2.0)["value"]
    np.testing.assert_allclose(rest.mean, np.mean(drawn[8:]), rtol=1e-12)
    np.testing.assert_allclose(a.stderr, np.std(drawn, ddof=1) / np.sqrt(20), rtol=1e-12)


def test_a_trial_returns_numbers(mine):
    import jax

    with pytest.raises(JaxpromptError, match="returned float"):
        per_trial(lambda *, key: 1.0)(key=jax.random.key(0), trials=2)
    with pytest.raises(ValueError, match="batch = 0"):
        per_trial(lambda *, key: {}, batch=0)
    # An array belongs to a quantity that names its axis.
    mine.write_text(FILE.replace("(size,)).mean()}", "(size,))}"))
    with pytest.raises(UsageError, match=r"shape \(4,\).*name the axis"):
        jp.load_claims(mine)


# --- figures with less to say ---


def test_a_figure_is_completed_from_the_claim(toy_claim):
    design = Design.product({}, {"level": [1.0, 2.0], "size": [4, 8]}, 12)
    spec = toy_claim(designs={"quick": design}, figure=Curves(x="level", y="value")).figure
    assert (spec.series, spec.panel, spec.title) == ("size", "", "A toy")
    assert (spec.x_label, spec.y_label, spec.series_label) == (
        *("the mean", "the mean", "numbers drawn = {value}"),
    )
    assert spec.lines[0] == 1.0
    assert spec.lines[-1] == 2.0
    with pytest.raises(ValueError, match=r"y = 'valu' must be one of value; did you mean value"):
        toy_claim(figure=Curves(x="level", y="valu"))


# --- the worked examples ---


@pytest.fixture
def example():
    return lambda name: jp.load_claims(EXAMPLES / f"{name}.py")[0]


def test_the_ridge_example_predicts_the_law(example):
    ratio, ridge, noise = 0.5, 0.3, 0.7
    edges = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2

    def law(x):  # the Marchenko–Pastur density, by which the risk is averaged
        density = np.sqrt((edges[1] - x) * (x - edges[0])) / (2 * np.pi * ratio * x)
        return density * (ridge**2 + noise**2 * ratio * x) / (x + ridge) ** 2

    expected = integrate.quad(law, *edges, epsabs=1e-12)[0]
    found = example("ridge_risk").predict(ratio=ratio, ridge=ridge, noise=noise)["risk"]
    assert found == pytest.approx(expected, rel=1e-8)


def test_the_spiked_example_predicts_a_large_matrix(example):
    claim, dim = example("spiked_covariance"), 600
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * dim, dim))
    x[:, 0] *= np.sqrt(3.0)
    found = scipy.sparse.linalg.eigsh(x.T @ x / len(x), k=1, v0=np.ones(dim))[1][0, 0] ** 2
    expected = claim.predict(ratio=0.5, spike=2.0)["overlap"]
    assert found == pytest.approx(expected, abs=0.04)
    assert claim.predict(ratio=0.5, spike=0.5)["overlap"] == 0.0


@pytest.mark.slow
def test_the_wrong_example_is_refuted(run, tmp_path):
    code, out, _ = run("check", EXAMPLES / "wrong_risk.py", "--json")
    assert code == 1
    (entry,) = json.loads(out)["claims"]
    for row in entry["rows"]:
        dim, samples = row["parameters"]["dim"], row["parameters"]["samples"]
        right = dim / (samples - dim - 1)
        assert abs(row["simulated"] - right) < 4.5 * row["stderr"], "the mean is d/(n − d − 1)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ridge_risk", "spiked_covariance"])
def test_the_right_examples_are_confirmed(run, name, tmp_path):
    path = EXAMPLES / f"{name}.py"
    code, out, _ = run("check", path, "--json", "--out", tmp_path)
    assert code == 0, out
    assert run("check", path, "--falsify")[0] == 0
    assert (tmp_path / "figures" / f"example.{name}.svg").is_file()


def test_the_examples_are_short():
    for name in ("ridge_risk", "spiked_covariance", "wrong_risk"):
        text = (EXAMPLES / f"{name}.py").read_text()
        assert len(text.splitlines()) < 90, f"{name}.py has grown too long to read at once"
