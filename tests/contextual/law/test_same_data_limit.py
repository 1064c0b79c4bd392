from __future__ import annotations

import numpy as np
import pytest
from contextual_oracles import unreduced_same_data

from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.ridge_limit import ridge_limit
from jaxprompt.contextual.law.same_data_limit import same_data_limit
from jaxprompt.contextual.setting import Setting

BASE = Setting.make(tokens=10, relevant=2, signal=1.0, context=1.5, noise=1.0)
SHIFTED = Setting.make(
    tokens=8, relevant=2, signal=1.2, context=1.0, noise=1.0, shifts=((0, 0), (0.5, 0.3))
)


def means(limit):
    return {name: float(values.mean()) for name, values in limit._asdict().items()}


@pytest.mark.parametrize(("ratio", "ridge"), [(0.5, 0.05), (0.5, 0.0), (1.0, 0.2), (2.0, 0.3)])
@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_a_prompt_of_length_0_leaves_the_plain_ridge_head(ratio, ridge, rate):
    """Although the formula knows the head step: its shift and the lost direction cancel."""
    found = means(same_data_limit(SHIFTED, ratio, ridge, 0.0, rate))
    law = feature_law(8, 2, 1.2, 1.0, 1.0, 0.0, ((0.0, 0.0), (0.5, 0.3)), (0.5, 0.5))
    plain = ridge_limit(law, ratio, ridge)
    signal, noise = plain.head_signal.mean(), plain.head_noise.mean()
    assert found["error"] == pytest.approx(plain.error.mean(), rel=2e-5)
    assert found["head_signal"] == pytest.approx(1.2 * signal, rel=3e-4)
    assert found["head_energy"] == pytest.approx(signal**2 + noise**2, rel=3e-4)


def test_a_short_prompt_leaves_the_plain_interpolator():
    law = feature_law(10, 2, 1.0, 1.5, 1.0, 0.0)
    plain = ridge_limit(law, 2.0, 0.0)
    found = means(same_data_limit(BASE, 2.0, 0.0, 1e-3, 1.0))
    assert found["error"] == pytest.approx(plain.error.mean(), abs=1e-4)
    assert found["head_energy"] == pytest.approx(10.0, rel=0.01)
    assert found["objective"] == 0.0


def test_without_ridge_is_the_limit_of_small_ridges():
    small, none = (means(same_data_limit(BASE, 2.0, x, 1.5, 1.0)) for x in (1e-6, 0.0))
    for name, value in none.items():
        assert small[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name


@pytest.mark.parametrize(
    ("setting", "arguments"), [(BASE, (0.5, 0.05, 1.5, 1.0)), (SHIFTED, (1.3, 0.4, 1.0, 3.0))]
)
@pytest.mark.parametrize("parts", [{}, {"prompt_memory": 0.0}, {"constraint": 0.5}])
def test_the_head_s_energy_is_twice_the_objective_s_slope_in_the_ridge(setting, arguments, parts):
    ratio, ridge, norm, rate = arguments
    step = 1e-4 * ridge
    low, high = (
        same_data_limit(setting, ratio, x, norm, rate, **parts).objective
        for x in (ridge - step, ridge + step)
    )
    middle = same_data_limit(setting, ratio, ridge, norm, rate, **parts)
    np.testing.assert_allclose((high - low) / step, middle.head_energy, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "arguments"), [(BASE, (0.25, 0.05, 1.0, 1.0)), (SHIFTED, (0.5, 0.05, 1.5, 2.0))]
)
def test_the_reduced_law_against_the_unreduced_one(setting, arguments):
    """Twelve runs; their spread is the error, since the law's own numbers are estimated in each."""
    drawn = np.stack([
        unreduced_same_data(setting, *arguments, 20_000, np.random.default_rng([7, seed]))
        for seed in range(12)
    ])  # fmt: skip
    found = means(same_data_limit(setting, *arguments))
    names = ("error", "prompt_alignment", "objective", "head_energy", "head_signal")
    expected = np.array([found[name] for name in names])
    z = (drawn.mean(axis=0) - expected) / (drawn.std(axis=0, ddof=1) / np.sqrt(12))
    assert (np.abs(z) < 4.5).all(), dict(zip(names, z, strict=True))


def test_few_nodes_are_enough_for_a_search():
    """Which compares errors; 0.005 of one moves no best parameter visibly."""
    whole = means(same_data_limit(BASE, 0.25, 0.05, 1.0, 1.0))
    few = means(same_data_limit(BASE, 0.25, 0.05, 1.0, 1.0, nodes=512, replicates=2))
    assert few["prompt_alignment"] == whole["prompt_alignment"]
    assert few["error"] == pytest.approx(whole["error"], abs=0.005)
