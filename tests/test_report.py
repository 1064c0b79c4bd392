"""The page: self-contained, escaped, with mathematics; and the markup of statements."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from jaxprompt import report
from jaxprompt.engine import Agreement, Falsifier, as_key
from jaxprompt.errors import UsageError
from jaxprompt.tables import figure_tables

NASTY = '<script>alert("x")</script> & <b>bold</b>'


@pytest.fixture
def written(toy_claim, toy_registry, tmp_path):
    """A run's folder, for a toy whose every text tries to break out of the page."""
    nasty = Falsifier("shifted", NASTY, lambda level, **_: {"value": level + 0.3})
    claim = toy_claim(
        title=NASTY,
        statement=f"The mean $\\mu$ of {NASTY} is `a<b`.\n\n$$\\mu=\\frac12$$",
        source=NASTY,
        falsifiers=(nasty, toy_claim().falsifiers[1]),
        figure=Agreement(title=NASTY, label="value"),
    )
    toy_registry(claim)
    verdict = claim.check()
    report.write_data(tmp_path, claim, figure_tables(claim, verdict, as_key(0)))
    report.write_json(
        tmp_path, {"jaxprompt": "0", "note": NASTY}, [verdict], {claim.id: claim.falsify()}
    )
    report.draw_figures(tmp_path, [claim], tmp_path / "figures")
    report.write_html(tmp_path)
    return tmp_path


@pytest.fixture
def page(written):
    return (written / "report.html").read_text(encoding="utf-8")


def test_texts_are_escaped(page):
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "<code>a&lt;b</code>" in page


def test_the_page_is_self_contained(page):
    assert "data:image/png;base64," in page
    links = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    outside = [link for link in links if not link.startswith(("data:", "#"))]
    assert not outside, f"links that leave the page: {outside}"
    # Names of namespaces are no links; nothing else may name a network address.
    assert not re.search(r"https?://(?!www\.w3\.org/1998/Math/MathML)", page)
    assert "@import" not in page
    assert "url(" not in page


def test_mathematics_is_mathml(page):
    assert page.count("<math") == 2
    assert "<mfrac>" in page


def test_the_page_is_well_formed(page):
    void = {"meta", "img", "br", "link", "hr"}
    stack = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack, f"</{tag}> closes nothing"
            assert stack.pop() == tag, f"</{tag}> closes another element"

    Parser().feed(page)
    assert not stack
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert re.search(r'<html lang="en">', page)
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page))


def test_everything_is_told(page):
    for text in ("contextual.toy", "confirmed", "shifted", "doubled", "Reproduce", "Environment"):
        assert text in page
    assert "jaxprompt check contextual.toy --profile quick" in page


def test_rebuilding_gives_equal_bytes(written, page):
    report.write_html(written)
    assert (written / "report.html").read_text(encoding="utf-8") == page


def test_a_report_outlives_its_claim(written, toy_registry):
    toy_registry()
    report.write_html(written)
    assert "contextual.toy" in (written / "report.html").read_text(encoding="utf-8")


def test_no_half_written_files(written):
    assert not list(written.rglob("*.part"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("one\n\ntwo", "<p>one</p><p>two</p>"),
        ("a < b & c", "<p>a &lt; b &amp; c</p>"),
        ("`x_1 < 2`", "<p><code>x_1 &lt; 2</code></p>"),
        ("costs 5$", "<p>costs 5$</p>"),
        ("", ""),
    ],
)
def test_markup(text, expected):
    assert str(report.markup(text)) == expected


@pytest.mark.parametrize("latex", ["$a < b$", "$$\\sum_{i<n} x_i$$", "$\\text{<script>}$"])
def test_markup_escapes_inside_mathematics(latex):
    found = str(report.markup(latex))
    assert "<math" in found
    assert "<script" not in found
    assert "&lt;" in found or "&#x0003C;" in found


def test_numbers():
    assert report._number(None) == "–"
    assert report._number(0.0) == "0.0000"
    assert report._number(0.12345) == "0.1235" or report._number(0.12345) == "0.1234"
    assert report._number(1.234e-7) == "1.23e-07"
    assert report._number(3) == "3"


def test_unreadable_reports(tmp_path):
    with pytest.raises(UsageError, match="no report in"):
        report.read_report(tmp_path)
    for text, said in (("{", "not JSON"), ("[]", "schema"), ('{"schema": 2}', "schema")):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(UsageError, match=said):
            report.read_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(UsageError, match="lacks"):
        report.read_report(tmp_path)
