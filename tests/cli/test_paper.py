"""The commands `table` and `cite`, and figures in the formats and widths of papers."""

import csv
import io

import pytest

from jaxprompt.core.claim import Agreement


def run(*arguments: str, capsys) -> tuple[int, str, str]:
    from jaxprompt.cli.main import main

    code = main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.usefixtures("toy")
def test_table_prints_a_check_in_each_format(capsys):
    for form, start in (("latex", "\\begin{table}"), ("markdown", "A toy"), ("csv", "quan")):
        code, out, _ = run("table", "contextual.toy", "--format", form, capsys=capsys)
        assert code == 0
        assert out.startswith(start)


def test_table_reads_the_rows_that_a_check_stored(tmp_path, capsys, toy_claim, toy_registry):
    toy_registry(toy_claim(), toy_claim(id="prefix.other"))
    assert run("check", "contextual.toy", "--out", str(tmp_path), capsys=capsys)[0] == 0
    stored = run("table", "contextual.toy", "--format", "csv", "--from", str(tmp_path),
                 capsys=capsys)  # fmt: skip
    fresh = run("table", "contextual.toy", "--format", "csv", capsys=capsys)
    assert stored[1] == fresh[1]
    assert len(list(csv.reader(io.StringIO(stored[1])))) > 2
    code, _, err = run("table", "prefix.other", "--from", str(tmp_path), capsys=capsys)
    assert code == 2
    assert "holds no check of prefix.other" in err


def test_cite_prints_bibtex(capsys):
    code, out, _ = run("cite", "contextual.prompt_error", capsys=capsys)
    assert code == 0
    assert "@inproceedings{oymak2023role" in out
    assert "@software{jaxprompt" in out


@pytest.mark.parametrize("command", ["table", "cite"])
def test_a_family_is_no_claim(command, capsys):
    code, _, err = run(command, "universal", capsys=capsys)
    assert code == 2
    assert "name one of them" in err


@pytest.fixture
def drawn_toy(toy_claim, toy_registry):
    toy_registry(toy_claim(figure=Agreement(title="A toy", label="value")))


@pytest.mark.usefixtures("drawn_toy")
def test_figure_in_the_width_of_a_column_and_as_pdf(tmp_path, capsys):
    arguments = ("figure", "contextual.toy", "--out", str(tmp_path), "--format", "pdf",
                 "--width", "3.4")  # fmt: skip
    code, out, _ = run(*arguments, capsys=capsys)
    assert code == 0
    (path,) = tmp_path.glob("*.pdf")
    assert out.strip() == str(path)
    data = path.read_bytes()
    assert b"/MediaBox [ 0 0 244.8 " in data, "3.4 inches are 244.8 points"
    path.unlink()
    run("figure", "--from", str(tmp_path), *arguments[1:], capsys=capsys)
    assert path.read_bytes() == data, "same bytes from the same numbers"


@pytest.mark.parametrize("width", ["0", "nan", "wide", "50"])
def test_a_width_that_no_page_has_is_refused(width, capsys):
    code, _, err = run("figure", "universal.sphere_limit", "--width", width, capsys=capsys)
    assert code == 2
    assert "inches from 2 to 20" in err


@pytest.mark.usefixtures("drawn_toy")
def test_pgf_without_latex_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxprompt.presentation.canvas.shutil.which", lambda name: None)
    code, _, err = run("figure", "contextual.toy", "--format", "pgf", "--out",
                       str(tmp_path), capsys=capsys)  # fmt: skip
    assert code == 2
    assert "LaTeX" in err
