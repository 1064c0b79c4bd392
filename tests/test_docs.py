"""The documentation: a page for every claim, links that lead somewhere, code that runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import markupsafe
import pytest

import jaxprompt as jp
from jaxprompt.cli import main
from jaxprompt.core import registry
from jaxprompt.stats import Status

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


@pytest.fixture(scope="module")
def hooks():
    """docs/site_hooks.py, from which mkdocs makes the claims' pages."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- pages made from the code ---


@pytest.mark.parametrize("claim", jp.claims(), ids=lambda c: c.id)
def test_every_claim_has_a_page(hooks, claim):
    page = hooks.claim_page(claim)
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    assert headings == [
        *(claim.title, "Derivation", "Assumptions", "Closed form"),
        *("How it is simulated", "How it is tested"),
    ]
    for p in claim.parameters:
        assert f"<td>{p.name}</td>" in page, f"the page does not say what {p.name} may be"
    for falsifier in claim.falsifiers:
        assert f"<td>{markupsafe.escape(falsifier.name)}</td>" in page
    assert page.count("Code of <code>") == 2, "the closed form or the simulation is not shown"
    assert (f"figures/{claim.id}.png" in page) == (ROOT / f"figures/{claim.id}.png").is_file()
    for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL):
        assert "\n\n" not in block, "a blank line would end the block"
    assert "$" not in re.sub(r"(?s)<details>.*?</details>|```.*?```", "", page)


def test_the_list_and_the_navigation_hold_every_claim(hooks):
    listed = set(re.findall(r"\]\((\w+\.\w+)\.md\)", hooks.claims_page()))
    assert listed == {c.id for c in jp.claims()}
    config = hooks.on_config(types.SimpleNamespace(nav=[{"Claims": "x"}, {"Other": "y"}]))
    families = config.nav[0]["Claims"][1:]
    linked = {id for family in families for group in family.values() for e in group for id in e}
    assert linked == listed
    assert config.nav[1] == {"Other": "y"}


def test_every_relation_is_explained(hooks):
    assert set(hooks.RELATIONS) == set(jp.Relation)


def test_formulas_and_roles_of_docstrings(hooks):
    found = hooks.on_page_content("<p>:math:<code>a &lt; b</code> :class:<code>~x.Y</code></p>")
    assert "<math" in found
    assert "<code>x.Y</code>" in found
    assert ":class:" not in found


# --- pages written by hand ---


@each_page
def test_links_lead_somewhere(page):
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    made = {"claims/index.md", "tutorial.md", *(f"claims/{c.id}.md" for c in jp.claims())}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        path = target.partition("#")[0]
        assert (page.parent / path).exists() or path in made, f"{page.name}: {target} is missing"


@each_page
def test_code_blocks_are_whole(page):
    for language, code in blocks(page):
        if language == "python":
            compile(code, page.name, "exec")
        elif language in ("sh", ""):
            for line in code.splitlines():
                words = shlex.split(line.partition("  #")[0].partition(" #")[0].partition(">")[0])
                if words[:1] == ["jaxprompt"] and not re.search(r"[\[|]|DIR", line):
                    assert main._parse(words[1:]).run, line


def blocks(page):
    return re.findall(r"(?ms)^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"))


def test_the_theory_of_ones_own_is_confirmed(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_user_claims", {})
    page = ROOT / "docs" / "own_theory.md"
    code = next(code for language, code in blocks(page) if language == "python")
    assert len(code.splitlines()) < 40, "the tutorial promises about thirty lines"
    (tmp_path / "coins.py").write_text(code)
    (claim,) = jp.load_claims(tmp_path / "coins.py")
    verdict = claim.check()
    assert verdict.status == Status.CONFIRMED, str(verdict.worst)
    assert {v.status for v in claim.falsify_cells(verdict).values()} == {Status.REFUTED}


@pytest.mark.slow
def test_the_first_page_runs():
    names: dict[str, object] = {}
    for language, code in blocks(ROOT / "docs" / "index.md"):
        if language == "python":
            exec(code, names)
    assert "claim" in names


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path):
    if (
        importlib.util.find_spec("mkdocs") is None
        or importlib.util.find_spec("mkdocstrings") is None
    ):
        pytest.skip("mkdocs is not installed: it comes with the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(jp.claims())
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", text)
        assert not loaded, f"{page.name} loads {loaded}"


@each_page
def test_tests_that_a_page_names_exist(page):
    for name in re.findall(r"tests/[a-z_/]+\.py", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name} names {name}, which is not there"
