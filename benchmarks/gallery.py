"""The theorems of examples/gallery: length, cost, verdict and falsifiers, under many seeds.

    python benchmarks/gallery.py [--seeds 100] [--only NAME ...] [--out FILE] [--table]

Each file's claims are checked under each seed, at the quick profile as it stands, and the
falsifiers are judged on the same measurements. Outcomes are appended to FILE, one JSON line each,
so that a run that was stopped goes on where it was; a file that was edited starts again.
``--table`` only prints what FILE holds: `benchmarks/gallery.md` is made of it.

`lines` counts lines of code, without words (docstrings, title, statement, source), comments and
blank lines. `s a seed` is the median of processor time, compiled; the first check of
a claim costs its compilation more.
"""

from __future__ import annotations

import argparse
import ast
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import records

import jaxprompt as jp
from jaxprompt.core.calibration import Calibration, Outcome, check_under_seeds
from jaxprompt.stats import Status

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"


WORDS = {"title", "statement", "derivation", "source"}
"""What a claim says in words; its lines are no lines of code."""


def code_lines(text: str) -> int:
    """Lines of a Python file that hold code: no words of the claim, docstrings or comments."""
    words: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            words |= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        if isinstance(node, ast.keyword) and node.arg in WORDS:
            words |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in words
        for number, line in enumerate(text.splitlines(), 1)
    )


def gallery(only: Iterable[str] = ()) -> dict[Path, tuple[jp.Claim, ...]]:
    """The claims of each file, of all files or of those named."""
    files = sorted(p for p in GALLERY.glob("*.py") if not only or p.stem in only)
    return {path: jp.load_claims(path) for path in files}


def fingerprint(path: Path) -> int:
    """Changes with the file."""
    return zlib.crc32(path.read_bytes())


def read(path: Path, files: Iterable[Path]) -> dict[str, dict[int, Outcome]]:
    """Outcomes by claim and seed; those of another version of a file do not count."""
    current = {fingerprint(file) for file in files}
    known: dict[str, dict[int, Outcome]] = {}
    for row in records.read(path):
        id = row.pop("id")
        if row.pop("fingerprint") in current:
            falsifiers = {n: Status(s) for n, s in row.pop("falsifiers").items()}
            status, loose = Status(row.pop("status")), Status(row.pop("loose"))
            outcome = Outcome(status=status, loose=loose, falsifiers=falsifiers, **row)
            known.setdefault(id, {})[outcome.seed] = outcome
    return known


def run(files: dict[Path, tuple[jp.Claim, ...]], seeds: int, path: Path) -> None:
    """Every claim under every seed that the file does not hold, seed after seed."""
    known = read(path, files)
    # Of the files as they were loaded: one that is edited meanwhile is another version.
    versions = {file: fingerprint(file) for file in files}
    waiting: dict[str, tuple[Path, Iterator[Outcome]]] = {
        claim.id: (
            file,
            check_under_seeds(claim, [s for s in range(seeds) if s not in known.get(claim.id, {})]),
        )
        for file, claims in files.items()
        for claim in claims
    }
    while waiting:
        for id, (file, outcomes) in list(waiting.items()):
            outcome = next(outcomes, None)
            if outcome is None:
                del waiting[id]
                continue
            row = {"id": id, "fingerprint": versions[file], **vars(outcome)}
            records.append(path, row)
            missed = [n for n, s in outcome.falsifiers.items() if s is not Status.REFUTED]
            if outcome.status is not Status.CONFIRMED or missed:
                print(f"{id}, seed {outcome.seed}: {outcome.status}, {missed}", flush=True)


def table(files: dict[Path, tuple[jp.Claim, ...]], path: Path) -> None:
    """The table, as Markdown."""
    known = read(path, files)
    print(
        "| claim | kind | lines | s a seed | verdict at seed 0 | seeds | refuted | "
        "refuted at 0.05 | inconclusive | failed | falsifiers refuted |\n" + "| --- " * 11 + "|"
    )
    for file, claims in files.items():
        lines = code_lines(file.read_text(encoding="utf-8"))
        for claim in claims:
            outcomes = known.get(claim.id, {})
            if not outcomes:
                continue
            found = Calibration(claim.id, tuple(outcomes.values()))
            seconds = sorted(o.seconds for o in found.outcomes)[len(found.outcomes) // 2]
            first = outcomes[0].status.value if 0 in outcomes else ""
            wrong = ", ".join(f"{name} {share.hits}" for name, share in found.falsifiers.items())
            print(
                f"| `{claim.id}` | {claim.relation.value} | {lines} | {seconds:.2g} | {first} | "
                f"{len(found.outcomes)} | {found.refuted.hits} | {found.loose.hits} | "
                f"{found.inconclusive.hits} | {found.failed.hits} | {wrong} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", nargs="+", default=())
    parser.add_argument("--out", type=Path, default=Path("gallery.jsonl"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    chosen = gallery(options.only)
    if not options.table:
        run(chosen, options.seeds, options.out)
    table(chosen, options.out)
