"""Numbers of every claim at one small point, to set beside those of another machine or version.

    python tests/golden.py [ID ...]            print them as JSON
    python tests/golden.py [ID ...] --against FILE   and the largest differences from a table
    python tests/golden.py [ID ...] --write    renew tests/golden.json, or these claims in it

The point is the first run of a claim's quick design at the first value of every list it shares;
the simulation has 4 trials and the key 1. JSON keeps every bit of a float64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import jaxprompt as jp
from jaxprompt.core.claim import Claim

TABLE = Path(__file__).with_name("golden.json")
KEY, TRIALS = 1, 4

TRAINED = (
    "contextual.image_context",
    "contextual.training",
    "prefix.new_task_limit",
    "prefix.no_forgetting",
    "prefix.skill_combination",
    "prefix.skill_selection",
)
"""Claims whose simulation trains models, for many seconds."""

PREDICTED, SIMULATED = 1e-12, 1e-5
"""Differences allowed between machines, versions and kinds of device, relative to a quantity's
size: of closed forms in float64, and of simulations, whose parts are float32. They are bits on one
machine. Trained models are left out: rounding grows along a training."""

Numbers = dict[str, dict[str, list[float]]]


def first_point(claim: Claim) -> dict:
    """The first run of the quick design, at the first value of every list it shares."""
    run = {n: v for n, v in claim.designs["quick"].runs[0].items() if n != "trials"}
    for name in claim.shared:
        if np.ndim(run.get(name, 0)) == 1:
            run[name] = run[name][0]
    return run


def numbers(claim: Claim, simulated: dict | None = None, predicted: dict | None = None) -> Numbers:
    """Predicted values, and means and standard errors of a simulation (both made unless given)."""
    point = first_point(claim)
    made = simulated or claim.simulate(key=KEY, trials=TRIALS, **point)
    found = {
        "predicted": predicted or claim.predict(**point),
        "mean": {name: estimate.mean for name, estimate in made.items()},
        "stderr": {name: estimate.stderr for name, estimate in made.items()},
    }
    return {kind: as_lists(own) for kind, own in found.items()}


def as_lists(values: dict) -> dict[str, list[float]]:
    return {n: np.ravel(np.asarray(value, np.float64)).tolist() for n, value in values.items()}


def differences(found: Numbers, expected: Numbers) -> dict[str, float]:
    """The largest difference of each kind of number, relative to the quantity's largest value.

    A standard error is set beside its mean: it is a difference of numbers of that size. What is
    itself a residue of rounding has no scale of its own, so none is below 1e-6.
    """

    def largest(kind: str, name: str) -> float:
        a, b = np.asarray(found[kind][name]), np.asarray(expected[kind][name])
        if a.shape != b.shape:
            return float("inf")
        scale = max(np.abs(expected[k].get(name, [0.0])).max(initial=1e-6) for k in expected)
        return float(np.abs(a - b).max(initial=0.0) / scale)

    return {kind: max(largest(kind, name) for name in own) for kind, own in found.items()}


def main() -> None:
    """Print, compare or renew the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    ids = options.ids or [c.id for c in jp.claims() if c.id not in TRAINED and c.extra is None]
    table = {}
    for id in ids:
        table[id] = numbers(jp.claim(id))
    if options.write:
        kept = json.loads(TABLE.read_text()) if options.ids else {}
        TABLE.write_text(json.dumps(dict(sorted({**kept, **table}.items())), indent=1) + "\n")
    elif options.against:
        expected = json.loads(options.against.read_text())
        for id, own in table.items():
            kinds = differences(own, expected[id])
            print(f"{id:34} " + "  ".join(f"{kind} {value:.1e}" for kind, value in kinds.items()))
    else:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
