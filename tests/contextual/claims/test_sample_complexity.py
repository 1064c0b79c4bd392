from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt import stats
from jaxprompt.contextual.claims import sample_complexity, three_steps
from jaxprompt.contextual.claims.sample_complexity import CLAIM
from jaxprompt.contextual.claims.three_steps import MEANS
from jaxprompt.contextual.setting import Setting
from jaxprompt.core.claim import Cell
from jaxprompt.errors import NumericalError
from jaxprompt.stats import Estimate

BASE = sample_complexity._TEN_TOKENS_WITH_TARGET


@functools.cache
def predicted_at_base():
    return CLAIM.predict(**BASE)


def test_limit_solves_the_three_steps_error():
    """The crossing of the finite-size closed form at large d, without the limit's shortcut."""
    limit = predicted_at_base()
    ratio = limit["samples_per_dim"]
    model = {n: v for n, v in BASE.items() if n != "target"}
    dim = 10**6
    at = three_steps.CLAIM.predict(**model, dim=dim, samples=round(ratio * dim))
    assert abs(at["final_error"] - BASE["target"]) < 4 * at["final_error_stderr"]
    for name in MEANS:
        error = math.hypot(at[f"{name}_stderr"], limit[f"{name}_stderr"])
        assert abs(at[name] - limit[name]) < 4 * error, (name, at[name], limit[name], error)


def test_crossing_of_a_known_curve(monkeypatch):
    """Exact curves in place of the simulation: the search finds the crossing and the terms."""
    noise = np.linspace(-1, 1, 32)

    def trials_(setting, dim, *, samples, prompt_norm, trials, key):
        error = 0.3 * (dim / samples) ** 0.7 * (1 + 1e-4 * noise[:trials])
        # The term follows the error, trial by trial: at a fixed error it does not vary.
        return {"final_error": error, **{name: 5 + np.log(error) for name in MEANS}}

    monkeypatch.setattr(sample_complexity, "_trials", trials_)
    setting = Setting.make(**{n: v for n, v in BASE.items() if n not in ("target", "prompt_norm")})
    exact = (0.3 / 0.03) ** (1 / 0.7)
    key = sample_complexity.jax.random.key(0)
    for guess in (50.0, 500.0, 50_000.0):
        found = sample_complexity._crossing(setting, 500, guess, 0.03, 2.5, 32, key)
        ratio = found["samples_per_dim"]
        assert ratio.mean == pytest.approx(exact, rel=1e-4)
        # The error's own error over the slope of the log.
        spread = 1e-4 * noise.std(ddof=1) / math.sqrt(32) / 0.7
        assert ratio.stderr / ratio.mean == pytest.approx(spread, rel=1e-2)
        for name in MEANS:
            assert found[name].mean == pytest.approx(5 + math.log(0.03), rel=1e-4)
            assert found[name].stderr < 0.1 * spread


def test_unreachable_target_is_refused():
    with pytest.raises(
        ValueError, match=r"`target`.*least limiting error at any number of samples"
    ):
        CLAIM.predict(**{**BASE, "target": 1e-4})


TURNING = {
    "tokens": 10, "relevant": 2, "signal": 3.0, "context": 0.5, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "prompt_norm": 4.0,
}  # fmt: skip
"""A head that overshoots turns the prompt away: .4855 .4819 .4788 .4863 .5032 .5063 .4826 .4649 at
n/d = .05 .09 .2 .5 1 2 3.14 5."""


@pytest.mark.parametrize("target", some_slow([0.481, 0.47, 0.48], first=2))
def test_the_least_number_where_the_error_falls_twice(target):
    setting = Setting.make(**{n: v for n, v in TURNING.items() if n != "prompt_norm"})
    found = CLAIM.predict(**TURNING, target=target)["samples_per_dim"]

    def error(ratio):
        return float(three_steps.limits(setting, ratio, 4.0)["final_error"].mean())

    assert error(found) == pytest.approx(target, abs=1e-6)
    assert all(error(x) > target for x in np.geomspace(0.0101, 0.999 * found, 40))
    assert (found < 0.2) == (target > 0.475)


def test_a_target_that_only_a_dip_reaches():
    setting = Setting.make(**{n: v for n, v in TURNING.items() if n != "prompt_norm"})
    ratios = np.geomspace(0.1, 0.3, 30)
    errors = [three_steps.limits(setting, x, 4.0)["final_error"].mean() for x in ratios]
    found = CLAIM.predict(**TURNING, target=float(min(errors)) + 2e-6)["samples_per_dim"]
    assert found == pytest.approx(ratios[int(np.argmin(errors))], rel=0.1)


def test_refusals_name_their_reason():
    """The prompt points away from the context: no number of samples helps."""
    away = {"tokens": 10, "relevant": 2, "signal": 20.0, "context": 2.0, "noise": 1.0}
    with pytest.raises(ValueError, match=r"least limiting error at any number.*first prompt"):
        CLAIM.predict(**away, prompt_norm=4.0, target=0.45)
    # Already reached with the fewest samples.
    with pytest.raises(ValueError, match=r"less than 0\.49.*fewest that are considered"):
        CLAIM.predict(**TURNING, target=0.499)


@pytest.mark.slow  # the claim's own check covers it too
def test_simulated_ratio_is_near_the_limit():
    found = CLAIM.simulate(key=0, trials=64, **BASE, dim=2000)["samples_per_dim"]
    limit = CLAIM.predict(**BASE)["samples_per_dim"]
    # The finite-size excess is 167/d, and the measurement's own error 2 %.
    assert limit < found.mean < limit * 1.17
    assert np.isfinite(found.stderr)


@pytest.mark.parametrize("sizes", [3, 5, 6])
def test_what_is_of_second_order_does_not_move_the_limit_of_a_mean(sizes):
    """Exact curves with the curvature that the finite-size theory has at ten tokens."""
    predicted = predicted_at_base()
    cells = []
    for dim in (500, 1000, 2000, 5000, 12000, 30000)[:sizes]:
        curve = {n: float(predicted[n]) * (1 - 65 / dim + 8000 / dim**2) for n in MEANS}
        curve["samples_per_dim"] = float(predicted["samples_per_dim"]) * (1 + 150 / dim)
        found = {n: Estimate(x, 1e-4 * x, 512) for n, x in curve.items()}
        cells.append(Cell({**BASE, "dim": dim}, found))
    rows = sample_complexity._joined(CLAIM, BASE, cells, lambda **_: predicted)
    for row in rows:
        if row.quantity in MEANS and not row.exact:
            off = abs(row.simulated / row.predicted - 1)
            assert (off < 1e-9) == (sizes > 3), f"{row.quantity}: {off:.1e} off with {sizes} sizes"


@pytest.mark.parametrize(
    "base", [BASE, sample_complexity._THREE_TOKENS_WITH_TARGET], ids=["ten", "three tokens"]
)
def test_the_single_steps_give_the_same_means(base):
    predicted = predicted_at_base() if base is BASE else CLAIM.predict(**base)
    rows = list(sample_complexity._by_single_steps(CLAIM, base, predicted))
    assert [row.quantity for row in rows] == ["step2_context_mean", "step2_orthogonal_mean"]
    for row in rows:
        assert row.simulated == pytest.approx(row.predicted, rel=1e-7), row.quantity
        off = {**predicted, row.quantity: row.predicted * (1 + 1e-4)}
        found = sample_complexity._by_single_steps(CLAIM, base, off)
        judged = {r.quantity: r.verdict for r in stats.decide(list(found), 1e-3)}
        assert judged.pop(row.quantity) == "refuted"
        assert set(judged.values()) == {"confirmed"}


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted(all_refuted_by_simulation):
    verdict = CLAIM.check()
    assert verdict.status == "confirmed"
    assert {v.status for v in CLAIM.falsify_cells(verdict).values()} == {"refuted"}
    all_refuted_by_simulation(CLAIM, verdict)


def test_a_search_in_a_curve_without_scatter_is_refused(monkeypatch):
    """Trials that all err equally leave no standard error, whatever the search finds."""

    def trials_(setting, dim, *, samples, prompt_norm, trials, key):
        error = 0.3 * (dim / samples) ** 0.7 * np.ones(trials)
        return {"final_error": error, **dict.fromkeys(MEANS, error)}

    monkeypatch.setattr(sample_complexity, "_trials", trials_)
    setting = Setting.make(**{n: v for n, v in BASE.items() if n not in ("target", "prompt_norm")})
    key = sample_complexity.jax.random.key(0)
    with pytest.raises(ArithmeticError, match="the error does not vary"):
        sample_complexity._crossing(setting, 500, 500.0, 0.03, 2.5, 32, key)


@pytest.mark.slow
def test_a_search_without_scatter_is_refused():
    """Tokens without noise leave no error to search in."""
    point = {n: v for n, v in CLAIM.designs["quick"].runs[0].items() if n != "trials"}
    with pytest.raises(NumericalError, match="the error does not vary"):
        CLAIM.simulate(key=0, trials=2, **{**point, "noise": 0.0, "dim": 8})
