from __future__ import annotations

import jax
import numpy as np
import pytest
from quick_cases import mostly_slow
from scipy import special

from jaxprompt.contextual.claims.token_law_error import CLAIM, _make_arrays
from jaxprompt.contextual.simulation.token_law_features import attend_scores, signed_features
from jaxprompt.errors import ParameterError

POINT = {name: value for name, value in CLAIM.designs["quick"].runs[3].items() if name != "trials"}


@jax.jit
def drawn_features(arrays, keys):
    attended = attend_scores(arrays, 10, 2, 16_000, key=keys[0])
    return signed_features(arrays, attended, key=keys[1])


def test_features_have_the_law_of_tokens():
    """First and second moments of exact-law features and of tokens drawn in NumPy."""
    point = {**POINT, "dim": 6, "gain": 0.7}
    with jax.enable_x64(True):
        given = {n: v for n, v in point.items() if n not in ("ridge", "ratio")}
        arrays = _make_arrays(**given)["arrays"]
        keys = jax.random.key(0), jax.random.key(1)
        rows = np.asarray(drawn_features(arrays, keys), np.float64)
    a = {name: np.asarray(x) for name, x in arrays._asdict().items()}
    rng, count = np.random.default_rng(1), 16_000
    y = rng.choice([-1.0, 1.0], count)
    shift = a["shifts"][rng.choice(len(a["shifts"]), count, p=a["shift_weights"])]
    near = rng.standard_normal((count, 2, 6)) * np.sqrt(a["relevant_variance"])
    far = rng.standard_normal((count, 8, 6)) * np.sqrt(a["irrelevant_variance"])
    near += (a["context"] + y[:, None] * a["signal"])[:, None]
    far = np.einsum("st,ntd->nsd", a["correlation_root"], far)
    far -= (shift[:, :1] * a["context"] + (shift[:, 1] * y)[:, None] * a["signal"])[:, None]
    tokens = np.concatenate([near, far], axis=1)
    tokens += rng.standard_normal((count, 1, 6)) * np.sqrt(a["common_variance"])
    weights = special.softmax(tokens @ a["prompt"], axis=1)
    drawn = y[:, None] * np.einsum("nt,ntd->nd", weights, tokens)
    for power in (1, 2):
        one, two = rows**power, drawn**power
        error = np.sqrt((one.var(axis=0) + two.var(axis=0)) / count)
        assert (np.abs(one.mean(axis=0) - two.mean(axis=0)) < 4.5 * error).all()
    one, two = rows[:, 0] * rows[:, 1], drawn[:, 0] * drawn[:, 1]
    assert abs(one.mean() - two.mean()) < 4.5 * np.sqrt((one.var() + two.var()) / count)


SMALL = {**POINT, "dim": 24, "ratio": 0.5}


@pytest.fixture(scope="module")
def at_small_size():
    return CLAIM.predict(**SMALL)


@pytest.mark.slow
def test_samples_and_ratio_are_one_point(at_small_size):
    given = {n: v for n, v in SMALL.items() if n != "ratio"}
    assert CLAIM.predict(**given, samples=48) == at_small_size


@pytest.mark.parametrize(
    "name", mostly_slow(["common_noise", "relevant_noise", "noise"], "common_noise".__eq__)
)
def test_more_noise_of_each_kind_is_more_error(name, at_small_size):
    noisier = CLAIM.predict(**{**SMALL, name: 1.3 * SMALL[name]})
    assert noisier["error"] > at_small_size["error"]


def test_refusals_name_the_parameter():
    with pytest.raises(ParameterError, match="`token_correlation`"):
        CLAIM.predict(**{**POINT, "token_correlation": 1.0})
    with pytest.raises(ParameterError, match="`dim`"):
        CLAIM.predict(**{**POINT, "dim": 2**21})


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
