"""What mkdocs makes from the code: a page for each claim, the figures, and the tutorial.

The pages are written at each build from the registered claims themselves, so they cannot drift.
"""

from __future__ import annotations

import functools
import html
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jaxprompt as jp
from jaxprompt.core.claim import Claim
from jaxprompt.core.registry import FAMILIES
from jaxprompt.presentation.html_tables import table
from jaxprompt.presentation.statement_html import markup

ROOT = Path(__file__).resolve().parent.parent

RELATIONS = {
    "identity": "Both sides are equal: compared within rounding, a stated number of units in the "
    "last place.",
    "mean": "The measured mean equals the prediction: a Student test at each point.",
    "bound": "The measured mean stays on the allowed side: a one-sided Student test at each point.",
    "asymptotic": "Equal in a limit: measured at three sizes or more, extrapolated, and the fit "
    "itself is tested.",
    "rate": "A slope: fitted to measured values, with its own standard error.",
    "existence": "A construction does it: the construction is built and evaluated.",
    "impossibility": "Nothing in a class does it: a certificate or an exhaustive search, beside a "
    "positive control under the same budget.",
}
"""How each relation is tested, in a sentence."""


# --- pages ---


def claim_page(claim: Claim) -> str:
    """One claim as a Markdown page."""
    card = claim.describe()
    parameters = [[p["name"], p["meaning"], p["allowed"], p["default"]] for p in card["parameters"]]
    quantities = [[q["name"], q["meaning"], q["tolerance"]] for q in card["quantities"]]
    wrong = [[f["name"], f["what"]] for f in card["falsifiers"]]
    home = inspect.getmodule(inspect.unwrap(claim.closed_form))
    module = home.__name__ if home else ""
    return "\n\n".join(
        [
            f"# {claim.title}",
            f"`{claim.id}` · {claim.relation.value} · {claim.source}",
            _html(str(markup(claim.statement))),
            *_figure(claim),
            "## Derivation",
            _html(str(markup(claim.derivation))),
            f"A longer account of the family: [{claim.family}](../{claim.family}.md).",
            "## Assumptions",
            "What each parameter may be is checked before anything runs.",
            _html(table(("parameter", "meaning", "allowed", "default"), parameters)),
            "## Closed form",
            f"In `{module}`." if module else "",
            _source(claim.closed_form),
            "## How it is simulated",
            _words(claim.measure or _one_trial(claim.simulation)),
            _source(claim.measure or _one_trial(claim.simulation)),
            "## How it is tested",
            RELATIONS[claim.relation.value]
            + (" This claim has a comparison of its own." if claim.compare else ""),
            *(_design(claim, profile) for profile in claim.designs),
            _html(table(("quantity", "meaning", "tolerance"), quantities)),
            "The same data must refute each of these variants, which are wrong on purpose:",
            _html(table(("falsifier", "what is wrong"), wrong)),
            f"```sh\njaxprompt check {claim.id} --falsify --out out\n```",
            "[How claims are compared](../statistics.md) explains rates and tolerances.",
        ]
    )


def _html(text: str) -> str:
    """HTML that Markdown leaves alone."""
    return f"<div>{' '.join(text.split())}</div>"


def _figure(claim: Claim) -> list[str]:
    if not (ROOT / "figures" / f"{claim.id}.png").is_file():
        return []
    what = f"{claim.figure.title if claim.figure else claim.title}: theory and simulation"
    return [f"![{what}](../figures/{claim.id}.png)"]


def _one_trial(simulation: Any) -> Any:
    """The function of one trial that a simulation was made from, or the simulation itself."""
    return getattr(simulation, "trial", simulation)


def _words(function: Any) -> str:
    return inspect.getdoc(inspect.unwrap(function)) or ""


def _source(function: Any) -> str:
    """A function's code, to be unfolded."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    code = html.escape(textwrap.dedent(inspect.getsource(function)))
    name = html.escape(getattr(function, "__name__", "code"))
    # Blank lines would end the block for Markdown.
    code = code.rstrip().replace("\n\n", "\n&#8203;\n").replace("\n\n", "\n&#8203;\n")
    return f"<details><summary>Code of <code>{name}</code></summary><pre>{code}</pre></details>"


def _design(claim: Claim, profile: str) -> str:
    design = claim.designs[profile]
    runs = f"{len(design.runs)} run{'s' if len(design.runs) != 1 else ''}"
    return f"* profile `{profile}`: {runs}, {design.trials} trials at each point"


def pictures_of_claims() -> str:
    """Every claim's figure, small, with its title, as a link to its page."""
    parts = ["## The claims in pictures"]
    for family in FAMILIES:
        cells = [
            f'<a href="claims/{c.id}.html"><img src="figures/{c.id}.png" alt="" loading="lazy">'
            f"{html.escape(c.title)}</a>"
            for c in jp.claims(family)
            if (ROOT / "figures" / f"{c.id}.png").is_file()
        ]
        parts += [f"### {family.capitalize()}", f'<div class="figures">{"".join(cells)}</div>']
    return "\n\n".join(parts)


def claims_page() -> str:
    """The list of claims, by family."""
    parts = ["# Claims", "Written from the code at each build; `jaxprompt list` prints the same."]
    for family in FAMILIES:
        rows = [
            f"| [{c.id}]({c.id}.md) | {c.relation.value} | {c.title} |" for c in jp.claims(family)
        ]
        parts += [
            f"## {family}",
            "\n".join(["| claim | relation | title |", "| - | - | - |", *rows]),
        ]
    return "\n\n".join(parts)


def notebook_page(path: Path) -> str:
    """An executed notebook as Markdown, with its outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="the figure drawn by this cell" src="data:image/png;base64,{image}">'
    if "text/html" in data:
        return _html("".join(data["text/html"]))
    return f"<pre>{html.escape(''.join(data['text/plain']))}</pre>"


# --- what mkdocs calls ---


def on_config(config: Any) -> Any:
    """Add the claims' pages to the navigation."""
    pages = [
        {family: [{c.id: f"claims/{c.id}.md"} for c in jp.claims(family)]} for family in FAMILIES
    ]
    config.nav = [
        {"Claims": [{"All": "claims/index.md"}, *pages]} if "Claims" in entry else entry
        for entry in config.nav
    ]
    return config


def on_page_content(content: str, **_: Any) -> str:
    """Docstrings speak reStructuredText: their roles become code, their formulas MathML."""
    content = re.sub(r":(?:class|func|attr|mod|data|meth):<code>~?([^<]+)</code>", _name, content)
    formula = r"(?::math:<code>([^<]+)</code>|<p>\.\. math:: ([^<]+)</p>)"
    return re.sub(formula, _formula, content)


def _name(found: re.Match[str]) -> str:
    return f"<code>{found[1]}</code>"


def _formula(found: re.Match[str]) -> str:
    inline, display = found.groups()
    latex = html.unescape(inline or display)
    return str(markup(f"${latex}$" if inline else f"$${latex}$$"))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that are made at each build."""
    from mkdocs.structure.files import File

    pages = {f"claims/{c.id}.md": claim_page(c) for c in jp.claims()}
    pages["claims/index.md"] = claims_page()
    pages["tutorial.md"] = notebook_page(ROOT / "docs" / "tutorial.ipynb")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for picture in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    for example in sorted((ROOT / "examples").rglob("*.*")):
        if example.is_file() and "__pycache__" not in example.parts:
            name = example.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(example)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the site the repository's folders stand inside the pages' own, not beside them."""
    if "/" in page.file.src_uri:
        return markdown
    if page.file.src_uri == "index.md":
        first, rest = markdown.split("\n## ", 1)
        markdown = f"{first}\n{pictures_of_claims()}\n\n## {rest}"
    return re.sub(r"\]\(\.\./(figures|examples)/", r"](\1/", markdown)


_OTHER_HOST = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """What lets the search work from the disk comes with the site, not from another host."""
    return _from_here(output, "../" * page.url.count("/"))


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of addresses that are not there."""
    return _from_here(output_content, "")


def _from_here(page: str, home: str) -> str:
    return _OTHER_HOST.sub(f'<script src="{home}search_from_disk.js"></script>', page)
