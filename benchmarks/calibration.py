"""How often each claim's check errs: verdicts and falsifiers under many independent seeds.

    python benchmarks/calibration.py [--seeds 200] [--claims ID ...] [--small] [--out FILE]
                                     [--table | --same]

Every stochastic claim is checked under each seed on a reduced design (:data:`REDUCED`; with
``--small`` a far smaller one, :data:`SMALL`, that only measures the rate of false alarms), and its
falsifiers are judged on the same measurements. Outcomes are appended to FILE, one JSON line each,
so that a run that was stopped goes on where it was; ``--table`` only prints what FILE holds. Seeds
are done one after another for all claims, so that an unfinished run has as many of each.

Columns: seeds done; share *not confirmed*; of these *refuted*, to be at most the stated rate of
0.001; share refuted when the same measurements are judged at a rate of 0.05, to be at most that
(with some hundred seeds the sharper test of the two); inconclusive; failed; and the falsifier that
is refuted least often.
Shares have exact 95 % intervals. *Inconclusive* says that the reduced design cannot see a
discrepancy as large as the claim's tolerance; it is no error of the check.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import installed
import jax
import records

import jaxprompt as jp
from jaxprompt.core.calibration import Calibration, Outcome, Share, check_under_seeds, reduced
from jaxprompt.core.claim import FALSE_ALARM, Claim
from jaxprompt.core.json_values import canonical
from jaxprompt.stats import Status

ROOT = Path(__file__).parent


class Reduction(NamedTuple):
    """What :func:`~jaxprompt.core.calibration.reduced` makes of the quick design: a share of its
    trials, the places of its runs that are kept (None: all), parameters of the runs and options of
    the experiment that are changed; and what is not as it should be."""

    trials: float = 1.0
    runs: tuple[int, ...] | None = None
    changes: Mapping[str, Any] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})
    why: str = ""


REDUCED = {
    # Rows stay conclusive, unless the reason says otherwise; runs are kept so that every falsifier
    # has one that tells.
    "contextual.best_ridge": Reduction(1.0, changes={"ratio": [0.5, 2.0]}),
    "contextual.conditional_error": Reduction(runs=(1, 4)),
    "contextual.context_gain": Reduction(runs=(3, 4, 5, 6, 7, 8)),
    "contextual.convex_head": Reduction(0.6, (3, 4, 5)),
    "contextual.first_step": Reduction(0.5, (2, 4, 5)),
    "contextual.prompt_error": Reduction(0.8, (9, 10, 11), changes={"ratio": [0.5, 2.0]}),
    "contextual.prompt_step": Reduction(0.5, (3, 4)),
    "contextual.sample_complexity": Reduction(0.9),
    "contextual.same_data": Reduction(runs=(0, 1, 2, 3)),
    "contextual.giant_steps": Reduction(),
    "contextual.prompt_tuning": Reduction(),
    "contextual.sgd_flow": Reduction(),
    "contextual.sgd_spread": Reduction(),
    "contextual.sgd_step": Reduction(),
    "contextual.three_steps": Reduction(runs=(0, 5)),
    "contextual.token_law_error": Reduction(0.5),
    "contextual.best_prompt": Reduction(0.6),
    "contextual.score_universality": Reduction(0.5),
    "contextual.two_stage": Reduction(0.9),
    "prefix.soft_prompt": Reduction(0.1),
    "prefix.suffix_reads_content": Reduction(),
    "universal.circle_error": Reduction(),
    "universal.kernel_head": Reduction(),
    "universal.prefix_lower_bound": Reduction(),
    "universal.quantised_prefix": Reduction(),
    "universal.random_centres": Reduction(0.6, (6, 7, 8)),
    "universal.sequence_map": Reduction(runs=(0, 1, 2, 3, 4, 7)),
    # Identities and bounds, met by every draw: fewer draws, and points at which falsifiers tell.
    "contextual.separation": Reduction(
        runs=(0, 1), changes={"sparsity": [0.3, 0.45, 0.75], "shift": [0.8, 2.2, 5.2]}
    ),
    "prefix.bias_identity": Reduction(0.25, options={"draws": 1000}),
    "prefix.pattern_invariance": Reduction(options={"draws": 1000}),
    "prefix.sink_identity": Reduction(options={"draws": 300}),
    "prefix.window_reach": Reduction(),
    "prefix.gqa_rank": Reduction(),
    "prefix.position_shift": Reduction(),
    "prefix.capacity": Reduction(),
    "prefix.token_selection": Reduction(0.25, (0, 13, 15, 16, 17)),
    # Trained models: the quick design's own, which claims of one seed share.
    "prefix.new_task_limit": Reduction(),
    "prefix.no_forgetting": Reduction(),
    "prefix.prefix_subspace": Reduction(0.2),
    "prefix.skill_selection": Reduction(),
    "prefix.skill_combination": Reduction(),
    "contextual.training": Reduction(runs=(1, 2)),
    "contextual.image_context": Reduction(runs=(0, 1, 2, 4, 5), changes={"steps": 100}),
    "prefix.real_transformer": Reduction(changes={"steps": 4, "examples": 48}),
}

SMALL = {
    "contextual.best_ridge": Reduction(0.06),
    "contextual.conditional_error": Reduction(0.05),
    "contextual.context_gain": Reduction(0.125, (3, 4, 5)),
    "contextual.convex_head": Reduction(0.1, (3, 4, 5)),
    "contextual.first_step": Reduction(0.02),
    "contextual.prompt_error": Reduction(0.03, (9, 10, 11)),
    "contextual.prompt_step": Reduction(0.02),
    "contextual.sample_complexity": Reduction(0.05),
    "contextual.same_data": Reduction(0.05),
    "contextual.giant_steps": Reduction(0.06),
    "contextual.prompt_tuning": Reduction(0.1),
    "contextual.sgd_flow": Reduction(0.06, (4, 5, 6, 7)),
    "contextual.sgd_spread": Reduction(0.06),
    "contextual.sgd_step": Reduction(0.025),
    "contextual.three_steps": Reduction(0.05),
    "contextual.two_stage": Reduction(0.08),
    "universal.random_centres": Reduction(0.05),
    "universal.sequence_map": Reduction(0.1, (0, 1, 2, 3)),
}
"""Designs for the rate of false alarms alone: with so few trials that many seeds can be had, rows
cannot be conclusive and falsifiers may pass."""

SAME = {
    "universal.prefix_bound": "certified nets and probes of a seed of their own",
    "universal.optimal_values": "equispaced centres and given harmonics",
    "universal.prefix_rate": "evenly spread centres; the spread of its slopes is assumed",
    "universal.sphere_limit": "two evaluations of one integral",
}
"""Claims whose measurements are the same under every seed: one check says all."""


# --- outcomes on disk ---


def read(path: Path, wanted: dict[str, Reduction]) -> dict[str, dict[int, Outcome]]:
    """Outcomes by claim and seed; those of another reduction do not count."""
    found: dict[str, dict[int, Outcome]] = {id: {} for id in wanted}
    for row in records.read(path):
        id = row.pop("id")
        if id in wanted and row.pop("reduction") == described(wanted[id]):
            falsifiers = {name: Status(s) for name, s in row.pop("falsifiers").items()}
            status, loose = Status(row.pop("status")), Status(row.pop("loose"))
            outcome = Outcome(status=status, loose=loose, falsifiers=falsifiers, **row)
            found[id][outcome.seed] = outcome
    return found


def described(reduction: Reduction) -> dict[str, Any]:
    """What of a reduction decides the numbers, as JSON gives it back."""
    runs = None if reduction.runs is None else list(reduction.runs)
    more = {"changes": dict(reduction.changes), "options": dict(reduction.options)}
    return {"trials": reduction.trials, "runs": runs, **{n: v for n, v in more.items() if v}}


# --- the run ---


def run(wanted: dict[str, Reduction], seeds: int, path: Path) -> None:
    """Every claim under every seed that the file does not hold."""
    known = read(path, wanted)
    waiting: dict[str, Iterator[Outcome]] = {}
    for id, reduction in wanted.items():
        todo = [seed for seed in range(seeds) if seed not in known[id]]
        waiting[id] = check_under_seeds(smaller(id, reduction), todo)
    while waiting:
        for id in list(waiting):
            outcome = next(waiting[id], None)
            if outcome is None:
                del waiting[id]
                continue
            own = {"id": id, "reduction": described(wanted[id])}
            records.append(path, {**own, **dataclasses.asdict(outcome)})
            if outcome.status in (Status.REFUTED, Status.FAILED):
                print(f"{id}, seed {outcome.seed}: {outcome.status}", flush=True)


def smaller(id: str, reduction: Reduction) -> Claim:
    """The claim with its reduced design."""
    return reduced(
        jp.claim(id), trials=reduction.trials, runs=reduction.runs, changes=reduction.changes,
        options=reduction.options,
    )  # fmt: skip


def same(id: str) -> bool:
    """Whether two seeds measure the same numbers."""
    first, second = (jp.claim(id).check("quick", seed).cells for seed in (0, 1))
    equal = [canonical(c.estimates) for c in first] == [canonical(c.estimates) for c in second]
    print(f"{id}: {'the same' if equal else 'differs'} ({SAME[id]})", flush=True)
    return equal


# --- the table ---


def table(found: Iterable[Calibration]) -> str:
    """The outcomes as a table in Markdown."""
    head = (
        "claim", "seeds", "not confirmed", "refuted", "refuted at 0.05", "inconclusive", "failed",
        "falsifier refuted least", "s a seed",
    )  # fmt: skip
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for c in found:
        least = min(c.falsifiers.items(), key=lambda item: item[1].value)
        seconds = sorted(o.seconds for o in c.outcomes)[len(c.outcomes) // 2]
        cells = (
            f"`{c.id}`" + ("" if c.sound else " (!)"), str(len(c.outcomes)),
            percent(c.unconfirmed), percent(c.refuted), percent(c.loose),
            str(c.inconclusive.hits), str(c.failed.hits),
            f"{least[0]}: {percent(least[1])}", f"{seconds:.2g}",
        )  # fmt: skip
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def percent(share: Share) -> str:
    """Count and exact interval."""
    return f"{share.hits} ({100 * share.low:.1f}–{100 * share.high:.1f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--claims", nargs="*", metavar="ID")
    parser.add_argument("--small", action="store_true", help="the smallest designs")
    parser.add_argument("--out", type=Path, default=Path("calibration.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    parser.add_argument("--same", action="store_true", help="check what one seed is enough for")
    args = parser.parse_args()
    # Trained models are shared between claims of one seed, and not worth keeping after.
    os.environ.setdefault("JAXPROMPT_CACHE", tempfile.mkdtemp(prefix="jaxprompt-calibration-"))
    if args.same:
        sys.exit(0 if all(same(id) for id in SAME) else "calibration: seeds differ")
    designs = SMALL if args.small else REDUCED
    unknown = [id for id in args.claims or () if id not in designs]
    if unknown or args.seeds < 1:
        sys.exit(f"calibration: {unknown or args.seeds}: name claims of {', '.join(designs)}")
    wanted = {id: designs[id] for id in args.claims or designs}
    if not args.table:
        here = installed.measurable(wanted)
        run({id: wanted[id] for id in here}, args.seeds, args.out)
    done = [
        Calibration(id, tuple(by_seed[s] for s in sorted(by_seed)))
        for id, by_seed in sorted(read(args.out, wanted).items())
        if by_seed
    ]
    print(f"{platform.machine()}, jax {jax.__version__}; stated false-alarm rate {FALSE_ALARM:g}")
    print(table(done))


if __name__ == "__main__":
    main()
