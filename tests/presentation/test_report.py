"""The page: self-contained, escaped, with mathematics; and the markup of statements."""

from __future__ import annotations

import html.parser
import json
import re
import shutil

import jax
import pytest

import jaxprompt as jp
from jaxprompt.core import registry
from jaxprompt.core.claim import Agreement, Falsifier
from jaxprompt.core.keys import as_key
from jaxprompt.errors import UsageError
from jaxprompt.presentation import report
from jaxprompt.presentation.figure_tables import figure_tables
from jaxprompt.presentation.statement_html import markup
from jaxprompt.presentation.wording import describe_row, format_number

NASTY = '<script>alert("x")</script> & <b>bold</b>'


@pytest.fixture(scope="module")
def run_folder(toy_claim, tmp_path_factory):
    """A claim whose every text tries to break out of the page, and the folder of its run."""
    nasty = Falsifier("shifted", NASTY, lambda level, **_: {"value": level + 0.3})
    claim = toy_claim(
        title=NASTY,
        statement=f"The mean $\\mu$ of {NASTY} is `a<b`.\n\n$$\\mu=\\frac12$$",
        source=NASTY,
        falsifiers=(nasty, toy_claim().falsifiers[1]),
        figure=Agreement(title=NASTY, label="value"),
    )
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_table", lambda: {claim.id: claim})
        verdict = claim.check()
        report.write_data(folder, claim, figure_tables(claim, verdict, as_key(0)))
        report.write_json(
            folder, {"jaxprompt": "0", "note": NASTY}, [verdict], {claim.id: claim.falsify()}
        )
        report.draw_figures(folder, [claim], folder / "figures")
        report.write_html(folder)
    return claim, folder


@pytest.fixture
def written(run_folder, toy_registry, tmp_path):
    """A copy of the run's folder, whose claim is registered."""
    claim, folder = run_folder
    toy_registry(claim)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
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
    assert re.search(
        r"<td>refuted</td>\s*<td>value: .* predicted, [\d.]+ standard errors apart", page
    )
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
    assert "2 of 2 comparisons confirm the prediction, the farthest is value: " in image
    assert re.search(r'width="\d+" height="\d+"', image)
    assert '<a class="skip"' in page


ROW = {
    "predicted": 1.0, "predicted_stderr": 0.0, "simulated": 1.2, "stderr": 0.1, "statistic": 2.0,
    "tolerance": 0.05, "side": "two", "exact": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "1.2 measured, 1 predicted, 2 standard errors apart"),
        ({"simulated": 0.76}, "0.76 measured, 1 predicted, 2.4 standard errors apart"),
        ({"predicted_stderr": 0.1}, "1.2 measured, 1 predicted, 1.4 standard errors apart"),
        ({"simulated": None}, "no number measured, 1 predicted"),
        ({"simulated": 1.0}, "1 measured as predicted"),
        (
            {"exact": True, "stderr": 0.0},
            "1.2 measured, 1 predicted: they differ by 0.2, 0.05 allowed",
        ),
        (
            {"exact": True, "stderr": 0.0, "tolerance": 0.0},
            "1.2 measured, 1 predicted: they differ by 0.2, none allowed",
        ),
        # A bound that is met by far is no difference.
        ({"side": "upper", "predicted": 12.0, "simulated": 8.0, "statistic": -8.5e9},
         "8 measured, at most 12 predicted"),
        ({"side": "lower", "predicted": 0.5, "simulated": 0.75},
         "0.75 measured, at least 0.5 predicted"),
        ({"simulated": -82.0, "side": "upper", "predicted": 0.0},
         "−82 measured, at most 0 predicted"),
    ],
)  # fmt: skip
def test_a_row_in_words(changes, said):
    assert describe_row({**ROW, **changes}) == said


@pytest.mark.parametrize(("stderr", "exact"), [(0.0, "they differ by"), (0.1, "standard errors")])
def test_rows_of_earlier_versions_say_by_a_zero_that_they_are_exact(stderr, exact):
    row = {name: value for name, value in ROW.items() if name not in ("side", "exact")}
    assert exact in describe_row({**row, "stderr": stderr})


def test_terminal_page_and_json_name_the_same_row(written, page, capsys):
    (entry,) = json.loads((written / "report.json").read_text())["claims"]
    row = entry["rows"][entry["worst"]]
    said = f"{row['quantity']}: {describe_row(row)}"
    assert said in page
    assert min(r["p_value"] for r in entry["rows"]) == row["p_value"]


def test_the_page_tells_trials_and_leaves_out_what_says_nothing(page):
    assert '<th scope="col" class="n">trials</th>' in page
    assert page.count('<td class="n">100</td>') == 2, "each row has the trials of its cell"
    assert "p of the fit" not in page.partition("<section")[2], "nothing was fitted"
    for riddle in ("± own", "how clearly", ">statistic<"):
        assert riddle not in page


def test_an_earlier_run_of_the_folder_is_kept_by_id(written, toy_claim, toy_registry):
    earlier = report.read_report(written)
    other = toy_claim(id="contextual.other")
    toy_registry(toy_claim(), other)
    environment = {"jaxprompt": "1", "note": NASTY, "seed": 5}
    report.write_json(written, environment, [other.check()], {}, earlier=earlier)
    found = report.read_report(written)
    assert [entry["id"] for entry in found["claims"]] == ["contextual.other", "contextual.toy"]
    kept = found["claims"][1]
    assert kept["rows"] == earlier["claims"][0]["rows"]
    assert kept["environment"] == {"jaxprompt": "0"}, "it was computed with another version"
    assert "with another jaxprompt 0" in report.write_html(written).read_text(encoding="utf-8")
    toy_registry(toy_claim())
    again = toy_claim().check(key=3)
    report.write_json(written, environment, [again], {}, earlier=found)
    entries = {entry["id"]: entry for entry in report.read_report(written)["claims"]}
    assert entries["contextual.toy"]["seed"] == 3
    assert len(entries) == 2


def test_the_page_tells_the_precision_of_the_trials(toy_claim, toy_registry, tmp_path):
    def trial(*, key, level, size):
        return {"value": level + jax.random.normal(key, (size,)).mean()}

    claim = toy_claim(simulation=jp.per_trial(trial, dtype="float32"))
    toy_registry(claim)
    report.write_json(tmp_path, {"jaxprompt": "0"}, [claim.check()], {})
    assert report.read_report(tmp_path)["claims"][0]["dtype"] == "float32"
    page = report.write_html(tmp_path).read_text(encoding="utf-8")
    assert "Trials are computed in float32." in page


def test_a_warning_stands_beside_its_claim(written, toy_claim):
    verdict = toy_claim().check()
    report.write_json(
        written, {"jaxprompt": "0"}, [verdict], {}, warnings={verdict.id: ["no figure: <b>"]}
    )
    page = report.write_html(written).read_text(encoding="utf-8")
    assert "Warning: no figure: &lt;b&gt;" in page


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
    assert str(markup(text)) == expected


def test_a_script_after_a_bracket_stands_where_one_after_a_letter_does():
    """Chromium sets the script of an operator half a line too high."""
    for latex in ("$(1+x)^2$", "$[a]_i$", "$|x|_i^2$", r"$\|w\|^2$"):
        assert not re.search(r"<m(sup|sub|subsup)><mo", str(markup(latex))), latex
    assert "<msup><mi" in str(markup("$(1+x)^2$"))


@pytest.mark.parametrize("latex", ["$a < b$", "$$\\sum_{i<n} x_i$$", "$\\text{<script>}$"])
def test_markup_escapes_inside_mathematics(latex):
    found = str(markup(latex))
    assert "<math" in found
    assert "<script" not in found
    assert "&lt;" in found or "&#x0003C;" in found


def test_numbers():
    assert format_number(None) == "–"
    assert format_number(0.0) == "0.0000"
    assert format_number(0.12345) == "0.1235" or format_number(0.12345) == "0.1234"
    assert format_number(1.234e-7) == "1.23e-07"
    assert format_number(3) == "3"


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
    (lambda entry: entry.update(worst=7), ".worst"),
    (lambda entry: entry.update(warnings=[3]), ".warnings"),
    (lambda entry: entry.update(environment=[3]), ".environment"),
    (lambda entry: entry["rows"][0].update(trials="many"), ".rows[0].trials"),
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
