"""How often the verdict engine errs on theorems that are not ours, under many seeds.

    python benchmarks/foreign.py [--seeds 200] [--half design | final] [--only NAME ...]
                                 [--out FILE] [--table]

Every theorem of `foreign_theorems.py` is true and has false variants. Each is checked under each
seed, and the variants are judged on the same measurements. Outcomes are appended to FILE, one JSON
line each, so that a run that was stopped goes on where it was; a theorem that was edited starts
again. ``--table`` only prints what FILE holds.

No constant of the engine may be chosen by looking at the whole bank: the half called *design*, by a
hash of the names, is for that; the half called *final* is only counted.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import platform
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import records
from foreign_theorems import KINDS, THEOREMS

from jaxprompt.core.calibration import Calibration, Outcome, Share, check_under_seeds
from jaxprompt.core.claim import FALSE_ALARM, Claim
from jaxprompt.stats import Status


def half_of(name: str) -> str:
    """The half of the bank that a theorem belongs to."""
    return "design" if hashlib.sha256(name.encode()).digest()[0] % 2 else "final"


def fingerprint(claim: Claim) -> int:
    """Changes with the trial, the design and the tolerances of a theorem."""
    trial: Any = getattr(claim.simulation, "trial", claim.simulation)
    design = claim.designs["quick"]
    text = [inspect.getsource(trial), repr([(dict(r), design.trials_of(r)) for r in design.runs])]
    text += [repr((q.tolerance, q.relative, q.side)) for q in claim.quantities]
    text += [f.name for f in claim.falsifiers] + [repr(claim.powers)]
    return zlib.crc32("\n".join(text).encode())


def read(path: Path, names: Iterable[str]) -> dict[str, dict[int, Outcome]]:
    """Outcomes by theorem and seed; those of another version of a theorem do not count."""
    known: dict[str, dict[int, Outcome]] = {name: {} for name in names}
    for row in records.read(path):
        name = row.pop("name")
        if name in known and row.pop("fingerprint") == fingerprint(THEOREMS[name]):
            falsifiers = {n: Status(s) for n, s in row.pop("falsifiers").items()}
            status, loose = Status(row.pop("status")), Status(row.pop("loose"))
            outcome = Outcome(status=status, loose=loose, falsifiers=falsifiers, **row)
            known[name][outcome.seed] = outcome
    return known


def run(names: Iterable[str], seeds: int, path: Path) -> None:
    """Every theorem under every seed that the file does not hold, seed after seed."""
    known = read(path, names)
    waiting: dict[str, Iterator[Outcome]] = {
        name: check_under_seeds(THEOREMS[name], [s for s in range(seeds) if s not in known[name]])
        for name in names
    }
    while waiting:
        for name in list(waiting):
            outcome = next(waiting[name], None)
            if outcome is None:
                del waiting[name]
                continue
            row = {"name": name, "fingerprint": fingerprint(THEOREMS[name]), **vars(outcome)}
            records.append(path, row)
            if outcome.status in (Status.REFUTED, Status.FAILED):
                print(f"{name}, seed {outcome.seed}: {outcome.status} {outcome.error}", flush=True)


def table(found: dict[str, Calibration]) -> str:
    """The outcomes of each theorem as a table in Markdown."""
    head = (
        "theorem", "kind", "half", "seeds", "refuted", "refuted at 0.05", "inconclusive", "failed",
        "variant refuted least", "s a seed",
    )  # fmt: skip
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, c in found.items():
        least = min(c.falsifiers.items(), key=lambda item: item[1].value)
        seconds = sorted(o.seconds for o in c.outcomes)[len(c.outcomes) // 2]
        lines.append(
            f"{name} | {KINDS[name]} | {half_of(name)} | {len(c.outcomes)} | {c.refuted.hits} | "
            f"{c.loose.hits} | {c.inconclusive.hits} | {c.failed.hits} | "
            f"{least[0]}: {least[1].hits} | {seconds:.2g}"
        )
    return "\n".join(f"| {line} |" for line in lines)


def pooled(found: Iterable[Calibration]) -> str:
    """Shares over all theorems and seeds, with exact 95 % intervals."""
    found = list(found)
    every = [o for c in found for o in c.outcomes]
    variants = [s for o in every for s in o.falsifiers.values()]

    def share(hits: Iterable[bool], of: int) -> Share:
        return Share.made(sum(hits), of)

    return "; ".join(
        (
            f"{len(found)} theorems",
            f"true refuted {share((o.status is Status.REFUTED for o in every), len(every))}",
            f"at 0.05 {share((o.loose is Status.REFUTED for o in every), len(every))}",
            f"inconclusive {share((o.status is Status.INCONCLUSIVE for o in every), len(every))}",
            f"failed {sum(o.status is Status.FAILED for o in every)}",
            f"false refuted {share((s is Status.REFUTED for s in variants), len(variants))}",
            f"false confirmed {share((s is Status.CONFIRMED for s in variants), len(variants))}",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--half", choices=("design", "final"))
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("foreign.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    args = parser.parse_args()
    unknown = [name for name in args.only or () if name not in THEOREMS]
    if unknown or args.seeds < 1:
        sys.exit(f"foreign: {unknown or args.seeds}: name theorems of {', '.join(THEOREMS)}")
    names = [
        name for name in args.only or THEOREMS if args.half is None or half_of(name) == args.half
    ]
    if not args.table:
        run(names, args.seeds, args.out)
    found = {
        name: Calibration(name, tuple(by_seed[s] for s in sorted(by_seed)))
        for name, by_seed in read(args.out, names).items()
        if by_seed
    }
    print(f"{platform.machine()}, jax {jax.__version__}; stated false-alarm rate {FALSE_ALARM:g}")
    print(table(found))
    for half in ("design", "final"):
        print(f"\n{half}: {pooled(c for n, c in found.items() if half_of(n) == half)}")
    print(f"\nall: {pooled(found.values())}")


if __name__ == "__main__":
    main()
