"""The page: self-contained, escaped, with mathematics; and the markup of statements."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from jaxprompt.core.claim import Agreement, Falsifier
from jaxprompt.core.keys import as_key
from jaxprompt.errors import UsageError
from jaxprompt.presentation import report
from jaxprompt.presentation.figure_tables import figure_tables

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
    assert "jaxprompt check contextual.toy --profile quick --falsify" in page
    assert re.search(r"<td>refuted</td>\s*<td>value, z = −\d", page), "how clearly is not told"
    assert 'href="#contextual.toy-derivation"' in page
    assert 'id="contextual.toy-derivation"' in page


def test_without_falsifiers_the_page_says_how_to_run_them(written, toy_registry):
    stored = json.loads((written / "report.json").read_text())
    for entry in stored["claims"]:
        entry["falsifiers"] = []
    (written / "report.json").write_text(json.dumps(stored))
    page = report.write_html(written).read_text(encoding="utf-8")
    assert "Falsifiers not run: shifted (&lt;script&gt;" in page
    assert "--profile quick --falsify</code> runs them" in page


def test_tables_and_pictures_speak(page):
    assert page.count("<caption>") == 2
    for tag in re.findall(r"<th\b[^>]*>", page):
        assert "scope=" in tag
    (image,) = re.findall(r"<img[^>]*>", page)
    assert "2 of 2 comparisons confirm the prediction, the farthest with z = " in image
    assert re.search(r'width="\d+" height="\d+"', image)
    assert '<a class="skip"' in page


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"statistic": -2.345, "stderr": 0.1}, "z = −2.35"),
        ({"statistic": 1.5, "stderr": 0.1}, "z = +1.5"),
        ({"statistic": None, "stderr": 0.1}, "no number"),
        ({"statistic": 0.25, "stderr": 0.0}, "0.25 times the tolerance"),
        ({"statistic": 0.0, "stderr": 0.0}, "no difference"),
        ({"statistic": None, "stderr": 0.0}, "a difference where none is allowed"),
    ],
)
def test_deviations(row, said):
    assert report.deviation({"predicted_stderr": 0.0, **row}) == said


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
        ("*First.* a * b * c", "<p><em>First.</em> a * b * c</p>"),
        (
            "| a | `b|c` |\n| --- | --- |\n| <i> | 2 |",
            '<table><thead><tr><th scope="col">a</th><th scope="col"><code>b|c</code></th></tr>'
            "</thead><tbody><tr><td>&lt;i&gt;</td><td>2</td></tr></tbody></table>",
        ),
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
    assert report.number(None) == "–"
    assert report.number(0.0) == "0.0000"
    assert report.number(0.12345) == "0.1235" or report.number(0.12345) == "0.1234"
    assert report.number(1.234e-7) == "1.23e-07"
    assert report.number(3) == "3"


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


DAMAGE = (
    (lambda entry: entry.update(id=5), "the id of a claim"),
    (lambda entry: entry.update(id="../away"), "the id of a claim"),
    (lambda entry: entry.update(status="odd"), ".status"),
    (lambda entry: entry.update(claim=[1]), ".claim"),
    (lambda entry: entry.update(origin=4), ".origin"),
    (lambda entry: entry.update(rows=[3]), ".rows[0]"),
    (lambda entry: entry["rows"][0].update(predicted="much"), ".rows[0].predicted"),
    (lambda entry: entry["falsifiers"].append(3), ".falsifiers["),
    (lambda entry: entry["claim"]["falsifiers"].append(3), ".claim.falsifiers["),
)


def test_a_damaged_report_is_refused_by_the_place(written):
    path = written / "report.json"
    whole = path.read_text(encoding="utf-8")
    for change, named in DAMAGE:
        told = json.loads(whole)
        change(told["claims"][0])
        path.write_text(json.dumps(told), encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            report.read_report(written)
        assert named in str(caught.value), f"expected {named} in: {caught.value}"
