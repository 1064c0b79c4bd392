from __future__ import annotations

import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.contextual.claims import same_data, sgd_flow, two_stage
from jaxprompt.contextual.extensions import learning
from jaxprompt.contextual.extensions.learning import (
    best_error,
    best_known_prompt,
    best_rates,
    best_reuse,
    best_split,
    crossover,
    samples_for,
    time_to,
)
from jaxprompt.contextual.law import staged_limit as law
from jaxprompt.contextual.law.ridge_limit import ridge_limit
from jaxprompt.contextual.law.same_data_limit import same_data_limit
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import ParameterError

BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
SHIFT = {
    "tokens": 4, "relevant": 1, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)),
}  # fmt: skip


@pytest.fixture(scope="module")
def split():
    return best_split(0.125, **BASE)


@pytest.fixture(scope="module")
def reuse():
    return best_reuse(0.25, **BASE)


@pytest.fixture(scope="module")
def rates():
    return best_rates(0.25, **BASE)


@pytest.mark.slow
def test_values_of_an_independent_search(split, reuse, rates):
    assert split.error == pytest.approx(0.156, abs=1e-3)
    assert split.prompt_alignment == pytest.approx(0.812, abs=3e-3)
    assert reuse.error == pytest.approx(0.1420, abs=1e-3)
    assert rates.error == pytest.approx(0.1437, abs=1e-3)
    assert best_error(0.25, procedure="linear_probe", **BASE) == pytest.approx(0.282, abs=1e-3)
    assert best_error(0.25, procedure="known_prompt", **BASE) == pytest.approx(0.087, abs=1e-3)


@pytest.mark.slow
def test_stated_errors_are_those_of_the_claims(split, reuse, rates):
    n = 8.0
    stated = two_stage.CLAIM.predict(
        **BASE, head_ratio=1 / (n * split.head_share), prompt_ratio=1 / (n * split.prompt_share),
        ratio=1 / (n * split.last_share), ridge=split.ridge, prompt_norm=split.prompt_norm,
        head_rate=split.head_rate,
    )  # fmt: skip
    assert stated["error"] == pytest.approx(split.error, abs=1e-6)
    assert stated["prompt_alignment"] == pytest.approx(split.prompt_alignment, abs=1e-9)
    stated = same_data.CLAIM.predict(
        **BASE, ratio=0.25, ridge=reuse.ridge, prompt_norm=reuse.prompt_norm,
        head_rate=reuse.head_rate,
    )  # fmt: skip
    assert stated["error"] == pytest.approx(reuse.error, abs=1e-12)
    stated = sgd_flow.CLAIM.predict(
        **BASE, time=4.0, head_rate=rates.head_rate, prompt_rate=rates.prompt_rate, head_norm=0.0,
        prompt_norm=0.0,
    )  # fmt: skip
    assert stated["error"] == pytest.approx(rates.error, abs=1e-12)


@pytest.mark.slow
def test_no_split_at_random_is_better(split):
    """Uniform shares, and steps, norms and ridges over all scales, at the claim's own formulas."""
    setting, rng = Setting.make(**BASE), np.random.default_rng(2)
    for _ in range(200):
        shares = 0.05 + 0.85 * rng.dirichlet(np.ones(3))
        rate, norm, ridge = np.exp(rng.uniform((-2, -2, -4), (4, 1.5, 6)))
        head = law.head_after_step(setting, 0.125 / shares[0], rate)
        cosine = law.prompt_alignment(setting, law.prompt_pull(setting, head), 0.125 / shares[1])
        features = law.coarse_learned_features(setting, norm, cosine, nodes=512, replicates=2)
        error = ridge_limit(features, 0.125 / shares[2], ridge).error.mean()
        assert error > split.error - 5e-4, (shares, rate, norm, ridge)


def test_no_steps_at_random_are_better_on_the_same_data(reuse):
    setting, rng = Setting.make(**BASE), np.random.default_rng(3)
    near = np.log([reuse.head_rate, reuse.prompt_norm, reuse.ridge])
    for trial in range(120):
        far = rng.uniform((-2, -2, -4), (4, 1.5, 6))
        rate, norm, ridge = np.exp(far if trial % 2 else near + rng.normal(scale=0.3, size=3))
        found = same_data_limit(setting, 0.25, ridge, norm, rate, nodes=512, replicates=4)
        assert found.error.mean() > reuse.error - 1e-3, (rate, norm, ridge)


@pytest.mark.parametrize(("x", "y"), some_slow([(0.7, 1.0), (1.0, 1.4), (1.4, 1.0), (1.0, 0.7)], 2))
def test_no_rates_near_them_are_better(rates, x, y):
    found = sgd_flow.CLAIM.predict(
        **BASE, time=4.0, head_rate=rates.head_rate * x, prompt_rate=rates.prompt_rate * y,
        head_norm=0.0, prompt_norm=0.0,
    )  # fmt: skip
    assert found["error"] > rates.error - 1e-5


@pytest.mark.slow
def test_a_time_is_the_first_at_which_the_error_is_reached():
    run = {"head_rate": 1.5, "prompt_rate": 3.0}
    found = time_to(0.3, **run, **SHIFT)
    times = found * np.array([0.1, 0.4, 0.7, 0.9, 0.99, 1.1])
    errors = sgd_flow.CLAIM.predict(
        **SHIFT, **run, time=times, head_norm=0.0, prompt_norm=0.0
    )["error"]  # fmt: skip
    assert (errors[:-1] > 0.3).all()
    assert errors[-1] < 0.3
    assert sgd_flow.CLAIM.predict(
        **SHIFT, **run, time=found, head_norm=0.0, prompt_norm=0.0
    )["error"] == pytest.approx(0.3, abs=1e-6)  # fmt: skip
    assert time_to(0.5, **run, **SHIFT) == 0.0
    assert time_to(0.3, **run, most_time=0.1 * found, **SHIFT) == float("inf")


@pytest.mark.parametrize(
    "procedure", ["linear_probe", pytest.param("known_prompt", marks=pytest.mark.slow)]
)
def test_as_many_samples_as_are_needed_and_no_more(procedure):
    target = 0.29 if procedure == "linear_probe" else 0.1
    found = samples_for(target, procedure=procedure, **BASE)
    assert best_error(1 / found, procedure=procedure, **BASE) <= target
    assert best_error(1.03 / found, procedure=procedure, **BASE) > target


def test_what_cannot_be_reached_takes_infinitely_many_samples():
    assert samples_for(0.01, procedure="linear_probe", most=50.0, **BASE) == float("inf")


def test_a_curve_of_one_s_own_answers_for_itself():
    class Curve:
        def samples_for(self, error):
            return 1000 * error

    assert samples_for(0.25, curve=Curve()) == 250.0


@pytest.mark.slow  # two searches at each of some fifteen n/d
def test_tuning_pays_from_the_crossover_on():
    found = crossover(procedure="split", accuracy=0.05, **BASE)
    assert 2 < found < 4
    for samples, wins in ((found, True), (found / 1.06, False)):
        gain = best_error(1 / samples, procedure="linear_probe", **BASE) - best_error(
            1 / samples, procedure="split", **BASE
        )
        assert (gain >= 1e-3) is wins
    assert crossover(procedure="same_data", accuracy=0.05, **BASE) < 0.5


SCALED = {**BASE, **{n: BASE[n] * 1e3 for n in ("signal", "context", "noise")}}


def test_units_of_the_parts_of_a_split():
    """The two steps with the largest cosine, and the best norm and ridge of a given prompt."""
    steps, scaled = (
        learning._best_two_steps(Setting.make(**model), 8.0, 0.7, 0.05) for model in (BASE, SCALED)
    )
    assert scaled == pytest.approx((*steps[:2], steps[2] / 1e6), rel=1e-9)
    plain, found = (best_known_prompt(0.5, **model) for model in (BASE, SCALED))
    assert found.error == pytest.approx(plain.error, rel=1e-6)
    assert found.prompt_norm * 1e3 == pytest.approx(plain.prompt_norm, rel=1e-3)
    assert found.ridge / 1e6 == pytest.approx(plain.ridge, rel=1e-3)


@pytest.mark.slow
def test_units(split):
    found = best_split(0.125, **SCALED)
    assert found.error == pytest.approx(split.error, rel=1e-6)
    assert found.prompt_norm * 1e3 == pytest.approx(split.prompt_norm, rel=1e-3)
    assert found.head_rate * 1e6 == pytest.approx(split.head_rate, rel=1e-3)


def test_what_is_refused():
    with pytest.raises(ParameterError, match="ratio"):
        best_split(0.0, **BASE)
    with pytest.raises(ParameterError, match="error"):
        samples_for(1.5, **BASE)
    with pytest.raises(ParameterError, match="procedure"):
        best_error(0.5, procedure="guess", **BASE)
    with pytest.raises(ParameterError, match="least_share"):
        best_split(0.5, least_share=0.5, **BASE)
    with pytest.raises(ParameterError, match="tokens"):
        best_reuse(0.5, **{**BASE, "tokens": -1})
    with pytest.raises(ParameterError, match="relevant"):
        best_rates(0.5, **{**BASE, "relevant": 10})
