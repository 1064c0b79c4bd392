"""A change of units changes no error: (W, Q, σ, γ, λ) → (sW, sQ, sσ, γ/s², λs²).

All tokens grow by s. Scores and outputs stay as they are where prompts and heads shrink by s, so
that errors and shares are the same and all else scales by a known power of s.
"""

from __future__ import annotations

import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.errors import ParameterError

SCALES = (1e-3, 0.03, 7.0, 1e3)

POWERS = {
    "signal": 1, "context": 1, "noise": 1, "gain": -2, "ridge": 2,
    "head_signal": 0, "head_context": 0, "head_norm": -1,
    "prompt_signal": 0, "prompt_context": 0, "prompt_norm": -1, "head_prompt": -2,
}  # fmt: skip
"""Powers of s by which parameters grow. A step of gradient descent has no rate, so its result is
in units of the tokens, not of their inverse."""

RESULTS = {
    "contextual.first_step": {"signal": 1, "energy": 2, "alignment": 0},
    "contextual.prompt_step": {"context": 1, "signal": 1, "orthogonal_energy": 2},
    "contextual.conditional_error": {"error": 0, "error_stderr": 0},
    "contextual.context_gain": {
        "attention": 0, "spread": 0, "snr_gain": 0, "best_gain": -2, "best_snr_gain": 0,
    },
    "contextual.separation": {
        "linear": 0, "linear_prompt": 0, "linear_prompt_intercept": 0, "self_attention": 0,
        "self_attention_intercept": 0, "prompt": 0, "threshold": 0, "least_gain": -2,
    },
}  # fmt: skip
"""Powers of s by which each quantity grows."""


def points(id):
    """The runs of the quick design, without what only a simulation needs."""
    claim = jp.claim(id)
    for run in claim.designs["quick"].runs:
        yield {name: value for name, value in run.items() if name != "trials"}


def rescaled(point, scale):
    return {
        name: np.asarray(value) * scale ** POWERS[name] if name in POWERS else value
        for name, value in point.items()
    }


@pytest.mark.parametrize("scale", some_slow(SCALES, first=1))
@pytest.mark.parametrize("id", RESULTS)
def test_units_change_no_prediction(id, scale):
    claim = jp.claim(id)
    for point in points(id):
        before, after = claim.predict(**point), claim.predict(**rescaled(point, scale))
        assert before.keys() == after.keys() == RESULTS[id].keys()
        for name, power in RESULTS[id].items():
            size = max(np.abs(np.asarray(value)).max() for value in before.values())
            np.testing.assert_allclose(
                np.asarray(after[name]) / scale**power, before[name], rtol=1e-7,
                atol=1e-12 * size, err_msg=f"{name} at {point}",
            )  # fmt: skip


IMPOSSIBLE = [
    ("contextual.conditional_error", {"head_norm": 0.81}, "head_norm"),
    ("contextual.conditional_error", {"prompt_norm": 1.499}, "prompt_norm"),
    ("contextual.conditional_error", {"head_prompt": 0.21}, "head_prompt"),
    ("contextual.prompt_step", {"head_norm": 0.205}, "head_norm"),
]
"""Vectors that are slightly shorter, or closer, than their products allow."""


@pytest.mark.parametrize("scale", [1.0, *SCALES])
@pytest.mark.parametrize(("id", "change", "named"), IMPOSSIBLE)
def test_units_change_no_refusal(id, change, named, scale):
    point = rescaled({**next(points(id)), **change}, scale)
    with pytest.raises(ParameterError, match=f"`{named}` = "):
        jp.claim(id).predict(**point)


SIMULATED = {
    "contextual.first_step": 1e-4, "contextual.prompt_step": 1e-4,
    "contextual.conditional_error": 3e-3, "contextual.context_gain": 1e-4,
}  # fmt: skip
"""Relative differences allowed by float32. One of 8192 signs may turn where a score is near 0."""


@pytest.mark.parametrize("scale", some_slow([2.0**-10, 2.0**10], first=1))
@pytest.mark.parametrize("id", SIMULATED)
def test_units_change_no_simulation(id, scale):
    claim, point = jp.claim(id), next(points(id))
    if id == "contextual.context_gain":
        point = {**point, "gain": point["gain"][0]}
    before = claim.simulate(key=1, trials=4, **point)
    after = claim.simulate(key=1, trials=4, **rescaled(point, scale))
    for name, power in RESULTS[id].items():
        if name in before:
            size = float(np.abs(before[name].mean).max() + np.abs(before[name].stderr).max())
            np.testing.assert_allclose(
                np.asarray(after[name].mean) / scale**power, before[name].mean,
                atol=SIMULATED[id] * size, err_msg=name,
            )  # fmt: skip
