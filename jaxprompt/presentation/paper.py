"""What goes into a paper: a claim's rows as a table, and BibTeX of its source and of this software.

Numbers with a standard error are written as is usual: 0.1134(2) is 0.1134 ± 0.0002.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.core.claim import Claim
from jaxprompt.core.json_values import canonical

__all__ = ["TABLE_FORMATS", "bibliography", "format_with_error", "paper_table"]

TABLE_FORMATS = ("latex", "markdown", "csv")

_SOURCES = {
    "ICML 2023": r"""@inproceedings{oymak2023role,
  author    = {Oymak, Samet and Rawat, Ankit Singh and Soltanolkotabi, Mahdi and
               Thrampoulidis, Christos},
  title     = {On the Role of Attention in Prompt-tuning},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {202},
  pages     = {26724--26768},
  year      = {2023}
}""",
    "ICLR 2024": r"""@inproceedings{petrov2024when,
  author    = {Petrov, Aleksandar and Torr, Philip H. S. and Bibi, Adel},
  title     = {When Do Prompting and Prefix-Tuning Work? {A} Theory of Capabilities and
               Limitations},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}""",
    "ICML 2024": r"""@inproceedings{petrov2024universal,
  author    = {Petrov, Aleksandar and Torr, Philip H. S. and Bibi, Adel},
  title     = {Prompting a Pretrained Transformer Can Be a Universal Approximator},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {235},
  pages     = {40523--40550},
  year      = {2024}
}""",
}
"""Entries of the papers that claims name, by conference and year."""

_FAMILY_SOURCES = {
    "contextual": "ICML 2023", "prefix": "ICLR 2024", "universal": "ICML 2024"
}  # fmt: skip
"""The paper whose question a family studies, for claims that name none."""


def bibliography(claim: Claim, version: str) -> str:
    """BibTeX of the papers that a claim's source names (its family's paper if none), and of this
    software in that version. The source in the claim's own words is a comment above."""
    named = [entry for venue, entry in _SOURCES.items() if venue in claim.source]
    if not named and claim.family in _FAMILY_SOURCES:
        named = [_SOURCES[_FAMILY_SOURCES[claim.family]]]
    software = rf"""@software{{jaxprompt,
  author  = {{{{The jaxprompt developers}}}},
  title   = {{jaxprompt: numerical verification of the theory of prompts and prefixes}},
  version = {{{version}}},
  note    = {{Claim {_escape_latex(claim.id)}}}
}}"""
    return "\n\n".join([f"% {claim.id}: {claim.source}", *named, software]) + "\n"


# --- numbers ---


def format_with_error(value: float | None, error: float | None = None) -> str:
    """A number with its standard error in brackets, in units of its last digit.

    The error has one digit, or two where the first is 1; without an error the number has four
    significant digits. Large and small numbers have an exponent: ``1.23(4)e-7``.

    >>> format_with_error(0.11342, 0.00021)
    '0.1134(2)'
    """
    if value is None or not math.isfinite(value):
        return "--" if value is None else f"{value}"
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimal = math.floor(math.log10(error))
    if f"{error:.1e}"[0] == "1":
        decimal -= 1
    if round(error / 10.0**decimal) >= 100:  # an error such as 0.0999 rounds to a power of ten
        decimal += 1
    size = math.floor(math.log10(abs(value))) if value else decimal
    if max(size, decimal) > 4 or (size < -3 and decimal < -4):
        exponent = max(size, decimal)
        return f"{format_with_error(value / 10.0**exponent, error / 10.0**exponent)}e{exponent}"
    digits = max(0, -decimal)
    return f"{value:.{digits}f}({round(error * 10.0**digits)})"


def _latex_number(text: str) -> str:
    """A formatted number in LaTeX's mathematical mode."""
    mantissa, exponent, power = text.partition("e")
    if exponent:
        return rf"${mantissa} \times 10^{{{int(power)}}}$"
    return f"${text}$" if text != "--" else text


# --- tables ---


def paper_table(
    claim: Claim, rows: Sequence[Mapping[str, Any]], form: str, caption: str = ""
) -> str:
    """The rows of a check as a table in LaTeX (with booktabs), Markdown or CSV.

    `rows` are as ``Verdict.to_dict`` gives them. Parameters that all rows share stand in the
    caption; the others have a column each. CSV holds the numbers in full.
    """
    shared, varying = _split_parameters([row["parameters"] for row in rows])
    if form == "csv":
        return _as_csv(rows, [*shared, *varying])
    symbols = {p.name: p.symbol for p in claim.parameters}
    lines = [
        [
            _quantity_words(claim, row["quantity"]),
            *(_value_words(row["parameters"].get(name)) for name in varying),
            format_with_error(row["predicted"], row["predicted_stderr"]),
            format_with_error(row["simulated"], row["stderr"]),
            row["verdict"],
        ]
        for row in rows
    ]
    common = ", ".join(f"{name} = {_value_words(value)}" for name, value in shared.items())
    text = ". ".join(filter(None, [caption or claim.title, common]))
    head = ["quantity", *varying, "predicted", "measured", "verdict"]
    if form == "latex":
        names = [_latex_name(name, symbols.get(name, "")) for name in varying]
        return _as_latex(["quantity", *names, *head[-3:]], lines, text, claim.id)
    return _as_markdown(head, lines, text)


def _quantity_words(claim: Claim, name: str) -> str:
    known = {q.name: q.meaning for q in claim.quantities}
    return known.get(name, name.replace("_", " "))


def _split_parameters(
    tables: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """Parameters that all rows share, and the names of the others."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    shared: dict[str, Any] = {}
    varying: list[str] = []
    for name in names:
        if len({canonical({"": table.get(name)}) for table in tables}) == 1:
            shared[name] = tables[0][name]
        else:
            varying.append(name)
    return shared, varying


def _value_words(value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_words, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def _as_csv(rows: Sequence[Mapping[str, Any]], parameters: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("predicted", "predicted_stderr", "simulated", "stderr", "tolerance", "detectable")
    writer.writerow(["quantity", *parameters, *numbers, "verdict"])
    for row in rows:
        named = row["parameters"]
        writer.writerow(
            [row["quantity"], *(named.get(n, "") for n in parameters), *(row[n] for n in numbers),
             row["verdict"]]
        )  # fmt: skip
    return text.getvalue()


def _as_markdown(head: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    ruler = "| " + " | ".join("---" for _ in head) + " |"
    return "\n".join([caption, "", row(head), ruler, *map(row, lines)]) + "\n"


def _as_latex(head: Sequence[str], lines: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """A floating table that needs the package booktabs alone."""
    columns = "l" + "r" * (len(head) - 2) + "l"
    body = [
        " & ".join(
            [_escape_latex(cells[0]), *map(_latex_number_or_text, cells[1:-1]),
             _escape_latex(cells[-1])]
        )
        + r" \\"
        for cells in lines
    ]  # fmt: skip
    title = [name if name.startswith("$") else _escape_latex(name) for name in head]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escape_latex(caption)}}}",
            rf"  \label{{tab:{label.replace('_', '-')}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            "    " + " & ".join(title) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_NUMBER = re.compile(r"-?\d[\d.]*(\(\d+\))?(e[+-]?\d+)?")


def _latex_number_or_text(text: str) -> str:
    return _latex_number(text) if _NUMBER.fullmatch(text) else _escape_latex(text)


def _latex_name(name: str, symbol: str) -> str:
    """A column's head: the parameter's symbol where it is a formula, else its name."""
    if symbol and symbol.isascii():
        return f"${symbol}$"
    return name.replace("_", " ")


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$", "⋆": r"$\star$", "∞": r"$\infty$", "²": "$^2$",
    "×": r"$\times$", "⟨": r"$\langle$", "⟩": r"$\rangle$", "√": r"$\surd$", "Δ": r"$\Delta$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$", "σ": r"$\sigma$",
    "ℓ": r"$\ell$", "→": r"$\to$", "·": r"$\cdot$", "±": r"$\pm$", "½": r"$\frac12$",
    "…": r"\ldots{}", "₀": "$_0$", "₁": "$_1$", "₂": "$_2$", "κ": r"$\kappa$",
    "ε": r"$\varepsilon$",
}  # fmt: skip


def _escape_latex(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
