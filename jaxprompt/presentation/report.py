"""One self-contained page for a run: verdicts, figures, statements, tables, environment.

The page is rebuilt from what the run stored; nothing is simulated here. Mathematics is MathML,
made from the statements' LaTeX, so the page needs no script and no network.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.core.claim import Claim, Verdict
from jaxprompt.core.json_values import to_json_values
from jaxprompt.core.registry import FAMILIES, origin
from jaxprompt.core.registry import claim as find_claim
from jaxprompt.errors import UnknownClaimError, UsageError
from jaxprompt.presentation import plot
from jaxprompt.presentation.figure_tables import FigureTables
from jaxprompt.presentation.statement_html import deviation, markup, number, parameters, surprise
from jaxprompt.sweep import store

__all__ = [
    "SCHEMA",
    "describe_falsifiers",
    "deviation",
    "draw_figures",
    "has_data",
    "markup",
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
) -> None:
    """Write ``report.json``: the environment, every verdict, and what the falsifiers met.

    `left_out` are claims that could not be measured because their extra is not installed.

    Each verdict carries what its claim says, so that the page can be rebuilt without the claim.
    """
    entries = [
        {
            **verdict.to_dict(),
            "falsifiers": describe_falsifiers(falsified.get(verdict.id, {})),
            "claim": find_claim(verdict.id).describe(),
            "origin": origin(verdict.id),
        }
        for verdict in verdicts
    ]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": dict(environment),
        "claims": entries,
        "left_out": [
            {"id": c.id, "extra": c.extra.name, "command": c.extra.command}
            for c in left_out
            if c.extra
        ],
    }
    _write(folder / _NAMES["report"], json.dumps(report, indent=1, ensure_ascii=False))


def describe_falsifiers(falsified: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """How clearly each falsifier was refuted: its rows, and the one that told most."""
    return [
        {
            "name": name,
            "status": wrong.status.value,
            "refuting_rows": _refuting(wrong),
            "clearest": None
            if wrong.worst is None
            else to_json_values(dataclasses.asdict(wrong.worst)),
        }
        for name, wrong in falsified.items()
    ]


def _refuting(verdict: Verdict) -> str:
    refuted = sum(row.verdict == "refuted" for row in verdict.rows)
    return f"{refuted} of {len(verdict.rows)}"


def write_data(folder: Path, claim: Claim, tables: FigureTables) -> None:
    """Store the numbers behind a claim's figure under ``data/ID/``."""
    home = folder / _NAMES["data"] / claim.id
    store.save_table(home / "points.zarr", tables.points)
    if tables.lines:
        store.save_table(home / "lines.zarr", tables.lines)


def has_data(source: Path, claim: Claim) -> bool:
    """Whether a run stored the numbers of the claim's figure in `source`."""
    return (source / _NAMES["data"] / claim.id / "points.zarr").is_dir()


def draw_figures(source: Path, claims: Sequence[Claim], out: Path) -> list[Path]:
    """Draw the claims' figures into `out` from the tables a run stored in `source`."""
    written: list[Path] = []
    for claim in claims:
        home = source / _NAMES["data"] / claim.id
        if claim.figure is None or not has_data(source, claim):
            continue
        lines = home / "lines.zarr"
        tables = FigureTables(
            store.table_rows(home / "points.zarr"),
            store.table_rows(lines) if lines.is_dir() else [],
        )
        try:
            written.extend(plot.save(plot.draw(claim, tables), out, claim.id))
        except OSError:
            raise
        except Exception as error:  # whatever numbers of unknown origin lead Matplotlib to
            raise UsageError(
                f"the figure of {claim.id} cannot be drawn from '{home}' "
                f"({type(error).__name__}: {error}): run the check again"
            ) from error
    return written


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
    wrong = next(itertools.chain.from_iterable(map(_wrong, report["claims"])), None)
    if wrong is None and "jaxprompt" not in report["environment"]:
        wrong = "environment.jaxprompt"
    if wrong is not None:
        raise UsageError(
            f"'{path}' is damaged ({wrong} is missing or something else): run the check again"
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
_FALSIFIER: dict[str, Any] = {"name": _TEXT, "status": _TEXT, "refuting_rows": _TEXT}
_FALSIFIER["clearest"] = (dict, type(None))
_CARD: dict[str, Any] = {
    "title": _TEXT,
    "statement": _TEXT,
    "derivation": _TEXT,
    "source": _TEXT,
    "falsifiers": list,
}


def _wrong(entry: Any) -> Iterator[str]:
    """What of a claim's entry is not what this module writes, if anything."""
    id = entry.get("id") if isinstance(entry, dict) else None
    # An id becomes the name of a file.
    if not isinstance(id, str) or not all(part.isidentifier() for part in id.split(".")):
        yield "the id of a claim"
        return
    if entry.get("status") not in tuple(_MARKS):
        yield f"{id}.status"
    yield from _wrong_in(entry, _ENTRY, id)
    card, falsifiers = entry.get("claim") or {}, entry.get("falsifiers", [])
    if not isinstance(card, dict) or not isinstance(falsifiers, list):
        yield f"{id}.claim"
        return
    if card:
        yield from _wrong_in(card, _CARD, f"{id}.claim")
    if not isinstance(entry.get("origin", ""), str):
        yield f"{id}.origin"
    for place, row in enumerate(entry["rows"] if isinstance(entry.get("rows"), list) else ()):
        yield from _wrong_row(row, f"{id}.rows[{place}]")
    for place, wrong in enumerate(falsifiers):
        yield from _wrong_in(wrong, _FALSIFIER, f"{id}.falsifiers[{place}]")
        if isinstance(wrong, dict) and wrong.get("clearest") is not None:
            yield from _wrong_row(wrong["clearest"], f"{id}.falsifiers[{place}].clearest")
    for place, wrong in enumerate(card.get("falsifiers", ())):
        words = {"name": _TEXT, "what": _TEXT}
        yield from _wrong_in(wrong, words, f"{id}.claim.falsifiers[{place}]")


def _wrong_row(row: Any, where: str) -> Iterator[str]:
    yield from _wrong_in(row, _ROW, where)
    if isinstance(row, dict) and not _shallow(row):
        yield where


def _wrong_in(table: Any, kinds: Mapping[str, Any], where: str) -> Iterator[str]:
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
    import jinja2

    report = read_report(folder)
    env = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("jaxprompt"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters.update(
        number=number, parameters=parameters, seconds=lambda s: f"{s:.1f} s", deviation=deviation
    )
    found = [entry["status"] for entry in report["claims"]]
    page = env.get_template("report.html.jinja").render(
        claims=[_section(folder, entry) for entry in report["claims"]],
        counts={name: found.count(name) for name in _MARKS if name in found},
        marks=_MARKS,
        environment=report["environment"],
        left_out=report.get("left_out", []),
    )
    _write(folder / _NAMES["page"], page)
    return folder / _NAMES["page"]


_MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?", "failed": "!"}
"""Signs beside a status, for readers who see no colours."""


def _section(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    figure = folder / _NAMES["figures"] / f"{entry['id']}.png"
    png = figure.read_bytes() if figure.is_file() else b""
    png = png if png.startswith(_PNG) and len(png) >= 24 else b""
    card = _card(entry)
    rows = sorted(entry["rows"], key=surprise)
    common = _common([row["parameters"] for row in entry["rows"]])
    wrong = {f["name"]: f["what"] for f in card.get("falsifiers", ())}
    command = ["jaxprompt", "check", entry["id"]]
    if entry.get("origin"):
        command += ["--claims", entry["origin"]]
    command += ["--profile", entry["profile"]]
    if entry["seed"]:
        command += ["--seed", str(entry["seed"])]
    return {
        **entry,
        "common": common,
        "rows": [{**row, "own": _without(row["parameters"], common)} for row in entry["rows"]],
        "claim": {"title": "", "source": "", **card},
        "image": base64.b64encode(png).decode(),
        "size": _size(png) if png else (),
        "alt": _alt(card, entry["rows"], rows[0] if rows else None),
        "worst": rows[0] if rows else None,
        "statement": markup(card.get("statement", "")),
        "derivation": markup(card.get("derivation", "")),
        "wrong": wrong,
        "falsifiers": entry.get("falsifiers", []),
        "command": shlex.join(command),
    }


def _card(entry: Mapping[str, Any]) -> dict[str, Any]:
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


def _size(png: bytes) -> tuple[int, int]:
    """Width and height at which a figure is shown: its printed size, at 100 pixels an inch."""
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    return round(width / plot.SCALE), round(height / plot.SCALE)


def _alt(card: Mapping[str, Any], rows: Sequence[Any], worst: Mapping[str, Any] | None) -> str:
    """A figure in words: what it shows, and what there is to see."""
    agreeing = sum(row["verdict"] == "confirmed" for row in rows)
    text = f"{card.get('figure') or card.get('title', '')}. Predicted values as lines, measured "
    text += f"values as points; {agreeing} of {len(rows)} comparisons confirm the prediction"
    return f"{text}, the farthest with {deviation(worst)}." if worst else f"{text}."


def _common(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters that all rows share, so that each row names only its own."""
    if len(tables) < 2:
        return {}
    first = tables[0]
    return {n: v for n, v in first.items() if all(n in t and t[n] == v for t in tables)}


def _without(values: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in common}


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    # A name of a file, or a text of a claim, may hold what is no character.
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)
