from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from jaxprompt.contextual.claims.score_universality import CLAIM, _score_map, _vectors
from jaxprompt.contextual.law.token_law import TokenLaw, pooled_law
from jaxprompt.errors import ParameterError

_ENTRIES = ("gaussian", "signs", "laplace")
POINT = {
    "dim": 24, "tokens": 5, "relevant": 2, "signal": 1.0, "context": 1.2, "noise": 0.9,
    "gain": 0.8, "ridge": 0.1, "ratio": 0.5, "entries": "signs", "prompt": "one",
}  # fmt: skip


def test_scores_of_signs_against_enumeration():
    """Mean attention and squared weights over all signs of three irrelevant tokens."""
    w, q = _vectors(24, 1.0, 1.2, "one")
    law = TokenLaw(5, 2, w, q, np.full(24, 0.81), np.zeros(24), np.zeros(24))
    pooled = pooled_law(law, 0.8 * q, score_map=lambda x: _score_map("signs", x))
    odds = pooled.weights / len(pooled.weights)
    found = [float((odds * x).sum()) for x in (pooled.coefficients[..., 0], pooled.levels[..., 0])]
    exact = np.zeros(2)
    for signs in itertools.product((-1, 1), repeat=3):
        weights = np.exp(0.8 * 1.2 * np.array([1.2, 1.2, *(0.9 * s for s in signs)]))
        weights /= weights.sum()
        exact += np.array([weights[:2].sum(), (weights[2:] ** 2).sum()]) / 8
    np.testing.assert_allclose(found, exact, rtol=2e-3)


def test_the_map_has_the_law_of_the_entries():
    normals = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    mapped = _score_map("laplace", normals)
    np.testing.assert_allclose(
        mapped, stats.laplace.ppf((np.arange(4000) + 0.5) / 4000, scale=np.sqrt(0.5)), atol=1e-9
    )


def test_entries_matter_for_a_prompt_on_one_coordinate_alone():
    for prompt, laws in (("spread", ("gaussian", "signs")), ("one", _ENTRIES)):
        errors = {CLAIM.predict(**{**POINT, "prompt": prompt, "entries": e})["error"] for e in laws}
        assert len(errors) == (1 if prompt == "spread" else 3)


def test_a_dimension_without_the_patterns_is_refused():
    with pytest.raises(ParameterError, match="`dim`"):
        CLAIM.predict(**{**POINT, "dim": 22})


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
