"""Verdicts from arrays are those of the comparisons one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt import stats
from jaxprompt.stats import BinomialTest, Comparison
from jaxprompt.sweep.verdicts import (
    Columns,
    decide_columns,
    decide_equivalence_columns,
    join_columns,
)

SIDES = {-1: "lower", 0: "two", 1: "upper"}


def random_table(seed, rows=400):
    """Comparisons of every kind: exact, noisy, still, proportions, and what cannot be judged."""
    rng = np.random.default_rng(seed)
    trials = rng.choice([2, 3, 16, 400], rows)
    exact = rng.random(rows) < 0.3
    proportion = ~exact & (rng.random(rows) < 0.1)
    predicted = np.where(proportion, rng.uniform(0.1, 0.9, rows), rng.normal(size=rows))
    stderr = np.where(exact | (rng.random(rows) < 0.1), 0.0, rng.exponential(0.1, rows))
    shift = rng.choice([0.0, 1e-16, 1.0, 6.0], rows) * rng.normal(size=rows)
    simulated = predicted + shift * np.where(stderr > 0, stderr, 0.1)
    simulated = np.where(
        proportion, np.round(np.clip(simulated, 0, 1) * trials) / trials, simulated
    )
    table = {
        "predicted": predicted,
        "predicted_stderr": np.where(rng.random(rows) < 0.3, rng.exponential(0.02, rows), 0.0),
        "simulated": simulated,
        "stderr": stderr,
        "dof": np.where(rng.random(rows) < 0.1, np.inf, trials - 1.0),
        "trials": trials,
        "tolerance": rng.choice([0.0, 1e-18, 0.05, 2.0], rows),
        "rounding": rng.choice([0.0, 1e-15, 0.1], rows),
        "side": rng.choice([-1, 0, 1], rows),
        "exact": exact,
        "proportion": proportion,
    }
    for name, wrong in (("predicted", np.inf), ("simulated", np.nan), ("tolerance", np.nan)):
        table[name][rng.integers(0, rows, 3)] = wrong
    table["proportion"] &= np.isfinite(table["simulated"]) & np.isfinite(table["predicted"])
    return Columns(**table)


def as_comparison(row):
    """One row as the comparison that a check would make of it."""
    side, test = SIDES[int(row.side)], None
    if row.proportion:
        successes = round(float(row.simulated) * int(row.trials))
        error = float(row.predicted_stderr)
        test = BinomialTest(successes, int(row.trials), float(row.predicted), side, error)
    return Comparison(
        "value",
        {},
        float(row.predicted),
        float(row.simulated),
        float(row.tolerance),
        stderr=None if row.exact else float(row.stderr),
        dof=float(row.dof),
        predicted_stderr=float(row.predicted_stderr),
        side=side,
        rounding=float(row.rounding),
        trials=int(row.trials),
        test=test,
    )


@pytest.mark.parametrize("seed", some_slow(range(4), first=1))
@pytest.mark.parametrize(
    ("one_by_one", "at_once"),
    [
        (stats.decide, decide_columns),
        (stats.decide_equivalence, decide_equivalence_columns),
    ],
)
def test_verdicts_of_columns_are_those_of_comparisons(seed, one_by_one, at_once):
    table = random_table(seed)
    rows = [as_comparison(Columns(*row)) for row in zip(*table, strict=True)]
    right = [row.verdict for row in one_by_one(rows, 0.01)]
    found = at_once(table, 0.01).tolist()
    assert len(set(right)) == 4, "every verdict occurs, or this shows little"
    assert found == right


def test_columns_join_row_by_row():
    first, second = random_table(0, 5), random_table(1, 7)
    joined = join_columns([first, second])
    assert len(joined.predicted) == 12
    np.testing.assert_array_equal(joined.side[5:], second.side)
    assert not math.isnan(joined.dof.sum())


def test_no_row_has_no_verdict():
    empty = Columns(*(column[:0] for column in random_table(0, 3)))
    assert decide_columns(empty, 0.01).size == 0
    assert decide_equivalence_columns(empty, 0.01).size == 0
