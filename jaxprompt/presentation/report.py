"""One self-contained page for a run: verdicts, figures, statements, tables, environment.

The page is rebuilt from what the run stored; nothing is simulated here. Mathematics is MathML,
made from the statements' LaTeX, so the page needs no script and no network.
"""

from __future__ import annotations

import base64
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.core.claim import Claim, Verdict
from jaxprompt.core.registry import FAMILIES, origin
from jaxprompt.core.registry import claim as find_claim
from jaxprompt.errors import UnknownClaimError, UsageError
from jaxprompt.presentation import plot
from jaxprompt.presentation.canvas import SCALE, drawing_width, save_figure
from jaxprompt.presentation.figure_tables import FigureTables
from jaxprompt.presentation.files import write_atomically
from jaxprompt.presentation.html_tables import render_template
from jaxprompt.presentation.residuals import residuals_by_quantity
from jaxprompt.presentation.table_files import load_table_rows, save_table
from jaxprompt.presentation.wording import (
    by_strength_of_evidence,
    describe_verdict,
    describe_worst_row,
)

__all__ = [
    "SCHEMA",
    "describe_falsifiers",
    "draw_figures",
    "has_data",
    "has_report",
    "read_report",
    "write_data",
    "write_html",
    "write_json",
]

SCHEMA = 1

_NAMES = {"report": "report.json", "page": "report.html", "data": "data", "figures": "figures"}


# --- what a run stores ---


def write_json(
    folder: Path,
    environment: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    falsified: Mapping[str, Mapping[str, Verdict]],
    left_out: Sequence[Claim] = (),
    *,
    warnings: Mapping[str, Sequence[str]] | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> None:
    """Write ``report.json``: the environment, every verdict, and what the falsifiers met.

    `left_out` are claims that could not be measured because their extra is not installed.
    `warnings` holds for each claim what went wrong beside its verdict, such as its figure.
    `earlier` is the report that the folder held before (:func:`read_report`): its claims are kept
    unless they were checked again.

    Each verdict carries what its claim says, so that the page can be rebuilt without the claim.
    """
    entries = {
        verdict.id: {
            **describe_verdict(verdict),
            "falsifiers": describe_falsifiers(falsified.get(verdict.id, {})),
            "claim": find_claim(verdict.id).describe(),
            "origin": origin(verdict.id),
            "dtype": str(getattr(find_claim(verdict.id).simulation, "dtype", "")),
            "warnings": list((warnings or {}).get(verdict.id, ())),
        }
        for verdict in verdicts
    }
    missing = [
        {"id": c.id, "extra": c.extra.name, "command": c.extra.command} for c in left_out if c.extra
    ]
    if earlier is not None:
        kept = {entry["id"]: _mark_environment(entry, earlier, environment)
                for entry in earlier["claims"]}  # fmt: skip
        entries = dict(sorted({**kept, **entries}.items()))
        named = {entry["id"] for entry in missing} | entries.keys()
        missing += [entry for entry in earlier.get("left_out", ()) if entry["id"] not in named]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": dict(environment),
        "claims": list(entries.values()),
        "left_out": missing,
    }
    _write_file(folder / _NAMES["report"], json.dumps(report, indent=1, ensure_ascii=False))


def _mark_environment(
    entry: Mapping[str, Any], earlier: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """An entry of an earlier run, with those parts of its environment that differ from now."""
    then = {**earlier["environment"], **entry.get("environment", {})}
    differs = {name: value for name, value in then.items() if now.get(name) != value}
    for name in ("seed", "command"):  # the entry has its own seed, and every run its own command
        differs.pop(name, None)
    return {**entry, "environment": differs}


def describe_falsifiers(falsified: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """How clearly each falsifier was refuted: its rows, and the one that says most."""
    return [
        {
            "name": name,
            "status": wrong.status.value,
            "refuting_rows": _count_refuting(wrong),
            "clearest": _clearest_row(wrong),
        }
        for name, wrong in falsified.items()
    ]


def _clearest_row(verdict: Verdict) -> dict[str, Any] | None:
    described = describe_verdict(verdict)
    return None if described["worst"] is None else described["rows"][described["worst"]]


def _count_refuting(verdict: Verdict) -> str:
    refuted = sum(row.verdict == "refuted" for row in verdict.rows)
    return f"{refuted} of {len(verdict.rows)}"


def write_data(folder: Path, claim: Claim, tables: FigureTables) -> None:
    """Store the numbers behind a claim's figure under ``data/ID/``."""
    home = folder / _NAMES["data"] / claim.id
    for name, rows in tables._asdict().items():
        if rows or name == "points":
            save_table(home / f"{name}.csv", rows)


def has_data(source: Path, claim: Claim) -> bool:
    """Whether a run stored the numbers of the claim's figure in `source`."""
    return (source / _NAMES["data"] / claim.id / "points.csv").is_file()


def draw_figures(
    source: Path,
    claims: Sequence[Claim],
    out: Path,
    formats: Sequence[str] = ("png", "svg"),
    width: float | None = None,
) -> list[Path]:
    """Draw the claims' figures into `out` from the tables a run stored in `source`.

    `width` in inches replaces that of the page.

    Raises:
        UsageError: a table is damaged, or holds numbers that no figure can show.
    """
    written: list[Path] = []
    for claim in claims:
        home = source / _NAMES["data"] / claim.id
        if claim.figure is None or not has_data(source, claim):
            continue
        files = {name: home / f"{name}.csv" for name in FigureTables._fields}
        tables = FigureTables(
            **{n: load_table_rows(p) if p.is_file() else [] for n, p in files.items()}
        )
        try:
            with drawing_width(width):
                figure = plot.draw(claim, tables)
            written.extend(save_figure(figure, out, claim.id, formats))
        except (OSError, UsageError):
            raise
        except Exception as error:  # whatever numbers of unknown origin lead Matplotlib to
            raise UsageError(
                f"the figure of {claim.id} cannot be drawn from '{home}' "
                f"({type(error).__name__}: {error}): run the check again"
            ) from error
    return written


def has_report(folder: Path) -> bool:
    """Whether a check has left its report in `folder`."""
    return (Path(folder) / _NAMES["report"]).is_file()


def read_report(folder: Path) -> dict[str, Any]:
    """The contents of ``report.json``.

    Raises:
        UsageError: there is none, or it is not one of ours, or it is damaged.
    """
    path = Path(folder) / _NAMES["report"]
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(
            f"no report in '{folder}': give the folder a check wrote with --out"
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f"'{path}' is not JSON: run the check again") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise UsageError(f"'{path}' has another schema than {SCHEMA}: run the check again")
    if not isinstance(report.get("claims"), list) or not isinstance(
        report.get("environment"), dict
    ):
        raise UsageError(f"'{path}' lacks its claims or environment: run the check again")
    problem = next(itertools.chain.from_iterable(map(_entry_problems, report["claims"])), None)
    if problem is None and "jaxprompt" not in report["environment"]:
        problem = "environment.jaxprompt"
    if problem is None and not _is_left_out(report.get("left_out", [])):
        problem = "left_out"
    if problem is not None:
        raise UsageError(
            f"'{path}' is damaged ({problem} is missing or something else): run the check again"
        )
    return report


_TEXT, _NUMBER = str, (int, float, type(None))
_ENTRY: dict[str, Any] = {
    "relation": _TEXT,
    "profile": _TEXT,
    "error": _TEXT,
    "false_alarm": _NUMBER,
    "detectable": _NUMBER,
    "seconds": (int, float),
    "seed": (int, type(None)),
    "rows": list,
}
_ROW: dict[str, Any] = {
    "quantity": _TEXT,
    "parameters": dict,
    "predicted": _NUMBER,
    "predicted_stderr": _NUMBER,
    "simulated": _NUMBER,
    "stderr": _NUMBER,
    "statistic": _NUMBER,
    "p_value": _NUMBER,
    "detectable": _NUMBER,
    "tolerance": _NUMBER,
    "verdict": _TEXT,
    "note": _TEXT,
}
_ROW_OPTIONS: dict[str, Any] = {
    "side": _TEXT,
    "exact": bool,
    "trials": int,
    "goodness": _NUMBER,
    "systematic": _NUMBER,
}
"""What rows of earlier versions lack."""
_FALSIFIER: dict[str, Any] = {"name": _TEXT, "status": _TEXT, "refuting_rows": _TEXT}
_FALSIFIER["clearest"] = (dict, type(None))
_CARD: dict[str, Any] = {
    "title": _TEXT,
    "statement": _TEXT,
    "derivation": _TEXT,
    "source": _TEXT,
    "falsifiers": list,
}


def _entry_problems(entry: Any) -> Iterator[str]:
    """Yield what is wrong with a stored claim entry; nothing if it is as this module writes it."""
    id = entry.get("id") if isinstance(entry, dict) else None
    # An id becomes the name of a file.
    if not isinstance(id, str) or not all(word.isidentifier() for word in id.split(".")):
        yield "the id of a claim"
        return
    if entry.get("status") not in tuple(_MARKS):
        yield f"{id}.status"
    yield from _field_problems(entry, _ENTRY, id)
    card, falsifiers = entry.get("claim") or {}, entry.get("falsifiers", [])
    if not isinstance(card, dict) or not isinstance(falsifiers, list):
        yield f"{id}.claim"
        return
    if card:
        yield from _field_problems(card, _CARD, f"{id}.claim")
    if not isinstance(entry.get("origin", ""), str):
        yield f"{id}.origin"
    rows = entry["rows"] if isinstance(entry.get("rows"), list) else []
    for index, row in enumerate(rows):
        yield from _row_problems(row, f"{id}.rows[{index}]")
    if not _is_worst(entry.get("worst"), len(rows)):
        yield f"{id}.worst"
    for name in ("advice", "dtype"):
        if not isinstance(entry.get(name, ""), str):
            yield f"{id}.{name}"
    if not _is_texts(entry.get("warnings", [])):
        yield f"{id}.warnings"
    if not isinstance(entry.get("environment", {}), dict):
        yield f"{id}.environment"
    for index, falsifier in enumerate(falsifiers):
        yield from _field_problems(falsifier, _FALSIFIER, f"{id}.falsifiers[{index}]")
        if isinstance(falsifier, dict) and falsifier.get("clearest") is not None:
            yield from _row_problems(falsifier["clearest"], f"{id}.falsifiers[{index}].clearest")
    for index, falsifier in enumerate(card.get("falsifiers", ())):
        words = {"name": _TEXT, "what": _TEXT}
        yield from _field_problems(falsifier, words, f"{id}.claim.falsifiers[{index}]")


def _is_worst(index: Any, rows: int) -> bool:
    """Whether it is the index of a row; reports of earlier versions have none."""
    return index is None or (type(index) is int and 0 <= index < rows)


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_left_out(values: Any) -> bool:
    names = ("id", "extra", "command")
    return isinstance(values, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in names)
        for entry in values
    )


def _row_problems(row: Any, where: str) -> Iterator[str]:
    yield from _field_problems(row, _ROW, where)
    if not isinstance(row, dict):
        return
    if not _shallow(row):
        yield where
    for name, kind in _ROW_OPTIONS.items():
        if name in row and not isinstance(row[name], kind):
            yield f"{where}.{name}"


def _field_problems(table: Any, kinds: Mapping[str, Any], where: str) -> Iterator[str]:
    if not isinstance(table, dict):
        yield where
        return
    for name, kind in kinds.items():
        if name not in table or not isinstance(table[name], kind):
            yield f"{where}.{name}"


def _shallow(value: Any, depth: int = 8) -> bool:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_shallow(item, depth - 1) for item in items)
    return True


# --- the page ---


def write_html(folder: Path) -> Path:
    """Rebuild ``report.html`` from ``report.json``, the stored tables and the figures."""
    report = read_report(folder)
    statuses = [entry["status"] for entry in report["claims"]]
    page = render_template(
        "report",
        claims=[_report_section(folder, entry) for entry in report["claims"]],
        counts={name: statuses.count(name) for name in _MARKS if name in statuses},
        marks=_MARKS,
        environment=report["environment"],
        left_out=report.get("left_out", []),
    )
    _write_file(folder / _NAMES["page"], page)
    return folder / _NAMES["page"]


_MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?", "failed": "!"}
"""Signs beside a status, for readers who see no colours."""


def _report_section(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    figure = folder / _NAMES["figures"] / f"{entry['id']}.png"
    png = figure.read_bytes() if figure.is_file() else b""
    png = png if png.startswith(_PNG) and len(png) >= 24 else b""
    card = _claim_card(entry)
    common = _common_parameters([row["parameters"] for row in entry["rows"]])
    rows = [
        {
            "side": "two", "trials": 0, "goodness": None, "systematic": None,
            "exact": not (row["stderr"] or row["predicted_stderr"]), **row,
            "distinct": _without_common(row["parameters"], common),
            "difference": _format_difference(row),
        }
        for row in entry["rows"]
    ]  # fmt: skip
    residuals = residuals_by_quantity(rows, entry.get("false_alarm"))
    entry = {**entry, "worst": _worst_index(entry)}
    command = ["jaxprompt", "check", entry["id"]]
    if entry.get("origin"):
        command += ["--claims", entry["origin"]]
    command += ["--profile", entry["profile"]]
    if entry["seed"]:
        command += ["--seed", str(entry["seed"])]
    return {
        "warnings": [],
        "environment": {},
        "advice": "",
        "dtype": "",
        **entry,
        "common": common,
        "rows": rows,
        "optional_columns": _optional_columns(rows),
        "residuals": {name: dict.fromkeys(marks) for name, marks in residuals.items()},
        "unplaced": len(rows) - sum(map(len, residuals.values())),
        "claim": {"title": "", "source": "", "statement": "", "derivation": "", **card},
        "image": base64.b64encode(png).decode(),
        "size": _shown_size(png) if png else (),
        "alt": _alternative_text(card, entry),
        "wrong": {f["name"]: f["what"] for f in card.get("falsifiers", ())},
        "falsifiers": entry.get("falsifiers", []),
        "command": shlex.join(command),
    }


def _worst_index(entry: Mapping[str, Any]) -> int | None:
    """The row that decided; reports of earlier versions leave it to be found."""
    if "worst" in entry or not entry["rows"]:
        return entry.get("worst")
    rows = entry["rows"]
    return min(range(len(rows)), key=lambda index: by_strength_of_evidence(rows[index]))


def _format_difference(row: Mapping[str, Any]) -> float | None:
    if row["simulated"] is None or row["predicted"] is None:
        return None
    return row["simulated"] - row["predicted"]


def _optional_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of the comparison that say something of at least one row."""
    says = {
        "predicted_stderr": lambda row: bool(row["predicted_stderr"]),
        "stderr": lambda row: bool(row["stderr"]),
        "trials": lambda row: bool(row["trials"]),
        "p_value": lambda row: bool(row["stderr"] or row["predicted_stderr"]),
        "goodness": lambda row: row["goodness"] not in (None, 1.0),
        "systematic": lambda row: bool(row["systematic"]),
    }
    return [name for name, holds in says.items() if any(map(holds, rows))]


def _claim_card(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the claim says: as stored, or from jaxprompt's own claims; {} where neither knows."""
    if entry.get("claim"):
        return entry["claim"]
    if entry["id"].partition(".")[0] not in FAMILIES:
        return {}  # only a user may name code that is not ours
    try:
        return find_claim(entry["id"]).describe()
    except UnknownClaimError:
        return {}  # a report may outlive a claim


_PNG = b"\x89PNG\r\n\x1a\n"


def _shown_size(png: bytes) -> tuple[int, int]:
    """Width and height at which a figure is shown: its printed size, at 100 pixels an inch."""
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    return round(width / SCALE), round(height / SCALE)


def _alternative_text(card: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """A figure in words: what it shows, and what there is to see."""
    agreeing = sum(row["verdict"] == "confirmed" for row in entry["rows"])
    text = f"{card.get('figure') or card.get('title', '')}. Predicted values as lines, measured "
    text += f"values as points; {agreeing} of {len(entry['rows'])} comparisons confirm the "
    worst = describe_worst_row(entry)
    return text + (f"prediction, the farthest is {worst}." if worst else "prediction.")


def _common_parameters(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that all rows share, so that each row names only those that differ."""
    if len(tables) < 2:
        return {}
    first = tables[0]
    return {n: v for n, v in first.items() if all(n in t and t[n] == v for t in tables)}


def _without_common(values: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in common}


def _write_file(path: Path, text: str) -> None:
    # File names and claim texts may contain lone surrogates.
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
