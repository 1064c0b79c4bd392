from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.prompt_step_moments import prompt_moments
from jaxprompt.contextual.law.staged_limit import (
    coarse_learned_features,
    head_after_step,
    learned_features,
    mean_token_noise,
    prompt_alignment,
    prompt_pull,
    turning_rate,
)
from jaxprompt.contextual.setting import Setting

BASE = Setting.make(tokens=10, relevant=2, signal=1.0, context=1.5, noise=1.0)
SHIFTED = Setting.make(
    tokens=8, relevant=2, signal=1.2, context=1.0, noise=1.0, shifts=((0, 0), (0.5, 0.3))
)
TWO_TOKENS = Setting.make(
    tokens=2, relevant=1, signal=0.7, context=1.3, noise=0.6, shifts=((0.4, -0.2), (-1.5, 1.0)),
    shift_weights=(0.3, 0.7),
)  # fmt: skip


@pytest.mark.parametrize("setting", [BASE, SHIFTED, TWO_TOKENS])
@pytest.mark.parametrize("rate", [0.3, 1.0, 4.0])
def test_a_fresh_prompt_step_against_its_moments_by_gauss_nodes(setting, rate):
    head = head_after_step(setting, 0.5, rate)
    along = head.signal / setting.signal
    coordinates = np.array([[along, 0.0, np.sqrt(head.energy - along**2)]])
    moments = prompt_moments(setting, coordinates)
    pull = prompt_pull(setting, head)
    assert moments.mean[0, 1] == pytest.approx(float(pull.context) * setting.context, rel=1e-12)
    assert moments.mean[0, 3] == pytest.approx(float(pull.noise), rel=1e-12)
    np.testing.assert_allclose(moments.mean[0, [0, 2]], 0.0, atol=1e-15)


@pytest.mark.parametrize("setting", [SHIFTED, TWO_TOKENS])
def test_a_prompt_step_on_the_head_s_own_samples_against_drawn_scores(setting):
    """The coefficient of q⋆ and the variance, from their definitions on random sequences."""
    ratio, rate, count = 0.5, 2.0, 400_000
    head = head_after_step(setting, ratio, rate)
    memory = rate * mean_token_noise(setting) * ratio
    pull = prompt_pull(setting, head, memory)
    rng = np.random.default_rng(11)
    index = rng.choice(len(setting.shift_weights), count, p=setting.shift_weights)
    shift_context, shift_signal = setting.shifts[index].T
    total, relevant, irrelevant = setting.tokens, setting.relevant, setting.irrelevant
    normals = rng.standard_normal((count, irrelevant))
    # The head holds η/n of the sequence's own mean token: each irrelevant token meets ησ²d/(nT).
    own = rate * setting.noise**2 * ratio / total
    scores = own - (shift_signal * head.signal)[:, None]
    scores = scores + setting.noise * np.sqrt(head.energy) * normals
    output = (relevant * head.signal + scores.sum(axis=1)) / total
    pulls = (1 - output)[:, None] * (scores - output[:, None]) / total
    of_relevant = (1 - output) * (head.signal - output) * relevant / total
    along = of_relevant - shift_context * pulls.sum(axis=1)
    energy = setting.noise**2 * np.square(pulls).sum(axis=1)
    for drawn, expected in ((along, pull.context), (energy, pull.noise)):
        z = (drawn.mean() - float(expected)) / (drawn.std() / np.sqrt(count))
        assert abs(z) < 4, z


def test_alignments_of_an_independent_derivation():
    """Values of a program that shares nothing with this one, printed to four digits."""

    def cosine(setting, head_ratio, prompt_ratio, rate, same=False):
        head = head_after_step(setting, head_ratio, rate)
        memory = rate * mean_token_noise(setting) * head_ratio if same else 0.0
        return float(prompt_alignment(setting, prompt_pull(setting, head, memory), prompt_ratio))

    assert cosine(BASE, 1 / 2, 1 / 4, 1.0) == pytest.approx(0.7950, abs=6e-5)
    assert cosine(BASE, 1, 1 / 2, 0.3) == pytest.approx(0.5978, abs=6e-5)
    assert cosine(SHIFTED, 1 / 2, 1 / 4, 1.0) == pytest.approx(0.82306, abs=6e-6)
    assert cosine(BASE, 1 / 2, 1 / 2, 1.0, same=True) == pytest.approx(0.5786, abs=6e-5)
    assert cosine(SHIFTED, 1 / 4, 1 / 4, 1.0, same=True) == pytest.approx(0.8331, abs=6e-5)
    assert cosine(SHIFTED, 1 / 2, 1 / 2, 4.0, same=True) == pytest.approx(0.6579, abs=6e-5)


def test_a_prompt_along_the_context_is_a_known_one():
    learned = learned_features(SHIFTED, 1.5, 1.0)
    known = feature_law(8, 2, 1.2, 1.0, 1.0, 1.5, ((0.0, 0.0), (0.5, 0.3)), (0.5, 0.5))
    np.testing.assert_array_equal(learned.alpha, known.alpha)
    np.testing.assert_array_equal(learned.tau, known.tau)


@pytest.mark.parametrize("cosine", [0.0, 0.6, -0.4])
def test_features_of_a_tilted_prompt_against_drawn_attention(cosine):
    rng, norm, count = np.random.default_rng(3), 1.4, 200_000
    index = rng.choice(2, count)
    gap = norm * SHIFTED.context * cosine
    scores = norm * rng.standard_normal((count, 6)) - (gap * SHIFTED.shifts[index, 0])[:, None]
    weights = np.exp(scores)
    total = 2 * np.exp(gap) + weights.sum(axis=1)
    share = 2 * np.exp(gap) / total
    alpha = (share - (1 - share) * SHIFTED.shifts[index, 1]) * SHIFTED.signal
    tau2 = np.square(weights / total[:, None]).sum(axis=1)
    law = learned_features(SHIFTED, norm, cosine)
    for drawn, nodes in ((alpha, law.alpha), (tau2, law.tau**2), (alpha / tau2, None)):
        values = law.alpha / law.tau**2 if nodes is None else nodes
        expected = (law.weights * values).sum(axis=1).mean()
        assert abs(drawn.mean() - expected) < 4 * drawn.std() / np.sqrt(count)


def test_the_coarse_law_is_the_first_nodes_of_the_law():
    law = learned_features(BASE, 1.2, 0.7)
    coarse = coarse_learned_features(BASE, 1.2, 0.7, nodes=256, replicates=2)
    np.testing.assert_allclose(coarse.alpha, law.alpha[:2, :256], rtol=1e-12)
    np.testing.assert_allclose(coarse.tau, law.tau[:2, :256], rtol=1e-12)


def test_without_a_step_there_is_no_direction():
    still = Setting.make(tokens=4, relevant=2, signal=0.0, context=1.0, noise=0.0)
    pull = prompt_pull(still, head_after_step(still, 1.0, 1.0))
    assert np.isnan(prompt_alignment(still, pull, 1.0))


STRONG = Setting.make(tokens=10, relevant=2, signal=3.0, context=1.5, noise=1.0)
OPPOSED = Setting.make(
    tokens=10, relevant=2, signal=1.0, context=1.5, noise=1.0, shifts=((0.2, 0.8), (0.0, 0.5))
)


@pytest.mark.parametrize(("setting", "below"), [(STRONG, 1), (OPPOSED, -1)])
def test_the_rate_at_which_the_prompt_turns(setting, below):
    rate = turning_rate(setting, 0.5)
    for factor, sign in ((0.01, below), (0.99, below), (1.01, -below), (100.0, -below)):
        pull = prompt_pull(setting, head_after_step(setting, 0.5, factor * rate))
        assert np.sign(pull.context) == sign, factor


def test_a_weak_signal_never_overshoots():
    weak = Setting.make(tokens=10, relevant=2, signal=0.5, context=1.5, noise=1.0)
    assert turning_rate(weak, 0.5) == float("inf")
    assert prompt_pull(weak, head_after_step(weak, 0.5, 1e6)).context > 0
