from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual import sample_complexity, three_steps
from jaxprompt.contextual.sample_complexity import CLAIM
from jaxprompt.contextual.setting import Setting
from jaxprompt.stats import Estimate

BASE = sample_complexity._BASE


def test_limit_solves_the_three_steps_error():
    """The crossing of the finite-size closed form at large d, without the limit's shortcut."""
    ratio = CLAIM.predict(**BASE)["samples_per_dim"]
    model = {n: v for n, v in BASE.items() if n != "target"}
    dim = 10**6
    at = three_steps.CLAIM.predict(**model, dim=dim, samples=round(ratio * dim))
    assert abs(at["final_error"] - BASE["target"]) < 4 * at["final_error_stderr"]


def test_crossing_of_a_known_curve(monkeypatch):
    """An exact error curve in place of the simulation: the search finds its crossing."""

    def error(setting, dim, *, samples, prompt_norm, trials, key):
        return Estimate(0.3 * (dim / samples) ** 0.7, 1e-5, trials)

    monkeypatch.setattr(sample_complexity, "_error", error)
    setting = Setting.make(**{n: v for n, v in BASE.items() if n not in ("target", "prompt_norm")})
    exact = 500 * (0.3 / 0.03) ** (1 / 0.7)
    key = sample_complexity.jax.random.key(0)
    for guess in (50.0, 500.0, 50_000.0):
        found = sample_complexity._crossing(setting, 500, guess, 0.03, 2.5, 32, key)
        assert found.mean == pytest.approx(exact, rel=1e-6)
        # The error's own error over the slope of the log.
        assert found.stderr / found.mean == pytest.approx(1e-5 / 0.03 / 0.7, rel=1e-2)


def test_unreachable_target_is_refused():
    with pytest.raises(ValueError, match=r"`target`.*unlimited samples"):
        CLAIM.predict(**{**BASE, "target": 1e-4})


@pytest.mark.slow  # the claim's own check covers it too
def test_simulated_ratio_is_near_the_limit():
    found = CLAIM.simulate(key=0, trials=64, **BASE, dim=2000)["samples_per_dim"]
    limit = CLAIM.predict(**BASE)["samples_per_dim"]
    # The finite-size excess is 167/d, and the measurement's own error 2 %.
    assert limit < found.mean < limit * 1.17
    assert np.isfinite(found.stderr)


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
