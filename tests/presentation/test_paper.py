"""Tables and citations for papers."""

import csv
import io
import re
import shutil
import subprocess

import pytest

import jaxprompt as jp
from jaxprompt.presentation.paper import bibliography, format_with_error, paper_table


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.11342, 0.00021, "0.1134(2)"),
        (0.11342, 0.00014, "0.11342(14)"),
        (12.3, 0.96, "12.3(10)"),
        (12.3, 0.4, "12.3(4)"),
        (-3.14159, 0.0027, "-3.142(3)"),
        (1.234e-7, 4e-9, "1.23(4)e-7"),
        (6.02e23, 3e21, "6.02(3)e23"),
        (0.5, 0.0999, "0.50(10)"),
        (0.0, 0.02, "0.00(2)"),
        (0.25, None, "0.25"),
        (0.123456, 0.0, "0.1235"),
        (None, None, "--"),
    ],
)
def test_numbers_have_their_error_in_units_of_the_last_digit(value, error, text):
    assert format_with_error(value, error) == text


@pytest.mark.parametrize("value", [3.7e-9, 0.0123, 0.5, 8.8, 12345.6, 7.7e8])
@pytest.mark.parametrize("share", [0.001, 0.0173, 0.0996, 0.3])
def test_a_formatted_number_reads_back_within_its_rounding(value, share):
    """An independent reading: the digits in brackets stand at the last places of the mantissa."""
    error = value * share
    text = format_with_error(value, error)
    mantissa, digits, power = re.fullmatch(r"([\d.]+)\((\d+)\)(?:e(-?\d+))?", text).groups()
    places = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(power or 0) - places)
    assert abs(float(mantissa) * 10.0 ** int(power or 0) - value) <= 0.5001 * unit
    assert abs(int(digits) * unit - error) <= 0.5001 * unit


@pytest.fixture(scope="module")
def checked():
    claim = jp.claim("universal.sphere_limit")
    return claim, claim.check().to_dict()["rows"]


def test_a_csv_table_holds_every_row_in_full(checked):
    claim, rows = checked
    table = list(csv.DictReader(io.StringIO(paper_table(claim, rows, "csv"))))
    assert len(table) == len(rows)
    assert [float(line["predicted"]) for line in table] == [row["predicted"] for row in rows]
    assert {line["verdict"] for line in table} == {"confirmed"}


def test_a_markdown_table_has_a_cell_for_each_column(checked):
    claim, rows = checked
    lines = [x for x in paper_table(claim, rows, "markdown").splitlines() if x.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_latex_table_has_an_entry_for_each_column(checked):
    claim, rows = checked
    text = paper_table(claim, rows, "latex")
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert len(body) == len(rows)
    assert {line.count(" & ") + 1 for line in body} == {len(columns)}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not on the path")
def test_latex_compiles_the_tables_of_every_family(tmp_path):
    tables = []
    for name in ("contextual.first_step", "prefix.token_selection", "universal.sphere_limit"):
        claim = jp.claim(name)
        tables.append(paper_table(claim, claim.check().to_dict()["rows"], "latex"))
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "a.tex").write_text(head + "\n".join(tables) + "\\end{document}\n", "utf-8")
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:]


def test_every_claim_cites_a_paper_and_the_software():
    for claim in jp.claims():
        text = bibliography(claim, "1.2.3")
        assert text.count("@inproceedings{") >= 1, claim.id
        assert text.count("@software{jaxprompt") == 1
        assert "version = {1.2.3}" in text
        assert text.count("{") == text.count("}")
        assert claim.source in text


def test_a_claim_of_somebody_else_cites_what_its_source_names():
    from pathlib import Path

    (claim,) = jp.load_claims(Path(__file__).parents[2] / "examples" / "polya_urn.py")
    assert "@inproceedings" not in bibliography(claim, "1.0")
    assert f"% {claim.id}: {claim.source}" in bibliography(claim, "1.0")
