from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.contextual.extensions import general
from jaxprompt.contextual.law.attention_moments import normal_nodes
from jaxprompt.contextual.law.error_given_prompt import conditional_error
from jaxprompt.contextual.law.token_law import TokenLaw
from jaxprompt.contextual.setting import Setting

SETTING = Setting.make(
    tokens=6, relevant=2, signal=1.1, context=1.3, noise=0.9, gain=1.0,
    shifts=((0.0, 0.0), (0.5, 0.3)), shift_weights=(0.4, 0.6),
)  # fmt: skip
HEAD, PROMPT = np.array([[1.0, 0.3, 0.4, -0.2], [0.2, 1.0, 0.3, 0.5]])


def sampled_error(cosine, relevant_noise, count=100_000):
    """Signs on sequences drawn token by token in NumPy, for signal and context at an angle."""
    rng = np.random.default_rng(0)
    label = rng.choice([-1.0, 1.0], count)
    shift = SETTING.shifts[rng.choice(2, count, p=SETTING.shift_weights)]
    signal = 1.1 * np.eye(4)[0]
    context = 1.3 * (cosine * np.eye(4)[0] + np.sqrt(1 - cosine**2) * np.eye(4)[1])
    tokens = rng.normal(size=(count, 6, 4))
    tokens[:, :2] *= relevant_noise
    tokens[:, 2:] *= 0.9
    tokens[:, :2] += (context + label[:, None] * signal)[:, None]
    tokens[:, 2:] -= (shift[:, :1] * context + (shift[:, 1] * label)[:, None] * signal)[:, None]
    weights = np.exp(tokens @ PROMPT)
    outputs = np.einsum("nt,nti,i->n", weights, tokens, HEAD) / weights.sum(axis=1)
    wrong = (outputs * label < 0).mean()
    return wrong, np.sqrt(wrong * (1 - wrong) / count)


# One program each, where every operation alone would be one.
@jax.jit
def tilted_error(setting, cosine, head, prompt, nodes):
    geometry = general.tilted_geometry(setting, cosine, head, prompt)
    return conditional_error(setting, geometry, nodes)


@jax.jit
def noisy_error(noise, cosine, nodes):
    geometry = general.tilted_geometry(SETTING, cosine, jnp.asarray(HEAD), jnp.asarray(PROMPT))
    return general.noisy_relevant_error(SETTING, noise, geometry, nodes)


@functools.cache
def exact_error(cosine):
    with jax.enable_x64(True):
        return float(tilted_error(SETTING, cosine, HEAD, PROMPT, normal_nodes(4)[0]))


# Four standard errors are 0.006, and the angle of cosine 0.8 makes 0.33 of an error of 0.11.
@pytest.mark.parametrize("cosine", some_slow([-0.5, 0.8, 0.0], first=2))
def test_an_angle_only_changes_the_inner_products(cosine):
    wrong, error = sampled_error(cosine, 0.0)
    assert abs(exact_error(cosine) - wrong) < 4 * error


@pytest.mark.parametrize("noise", [0.4, 1.5])
def test_noise_on_relevant_tokens_against_brute_force(noise):
    with jax.enable_x64(True):
        exact = noisy_error(noise, 0.3, normal_nodes(6)[0])
    wrong, error = sampled_error(0.3, noise)
    assert abs(float(exact) - wrong) < 4 * error


def test_without_it_the_formula_is_the_claim():
    with jax.enable_x64(True):
        nodes = normal_nodes(6)[0]
        quiet = noisy_error(0.0, 0.0, nodes)
        claim = tilted_error(SETTING, 0.0, HEAD, PROMPT, nodes[:, 2:])
    assert float(quiet) == pytest.approx(float(claim), rel=1e-12)


def test_two_classes_are_the_two_labels():
    """Two orthogonal signals are at distance √2·W, opposite ones at 2W.

    So on many samples the accuracy is that of the binary task at the signal W/√2.
    """
    plain = Setting.make(tokens=6, relevant=2, signal=1.5, context=1.2, noise=1.0, gain=0.8)
    found = general.class_accuracies(plain, 2, 6, 4096, 1e-3, 8, key=jax.random.key(1), tested=4096)
    with jax.enable_x64(True):
        smaller = Setting.make(
            tokens=6, relevant=2, signal=1.5 / np.sqrt(2), context=1.2, noise=1.0, gain=0.8
        )
        head, prompt = np.eye(4)[0], 0.8 * 1.2 * np.eye(4)[1]
        wrong = float(tilted_error(smaller, 0.0, head, prompt, normal_nodes(4)[0]))
    values = np.asarray(found, np.float64)
    # Learning from 4096 sequences costs a few thousandths.
    assert -0.008 < values.mean() - (1 - wrong) < 4 * values.std() / np.sqrt(8)


@pytest.mark.slow
def test_more_classes_are_harder_and_beat_guessing():
    plain = Setting.make(tokens=6, relevant=2, signal=1.5, context=1.2, noise=1.0, gain=0.8)
    key = jax.random.key(2)
    means = [
        float(general.class_accuracies(plain, c, 12, 2048, 1e-2, 4, key=key).mean()) for c in (2, 6)
    ]
    assert means[0] > means[1] > 3 / 6


@pytest.mark.slow
def test_the_prompt_helps_with_classes_too():
    with_prompt, without = (
        Setting.make(tokens=10, relevant=2, signal=1.5, context=1.2, noise=1.0, gain=g)
        for g in (0.8, 0.0)
    )
    key = jax.random.key(3)
    better, worse = (
        float(general.class_accuracies(s, 4, 12, 2048, 1e-2, 4, key=key).mean())
        for s in (with_prompt, without)
    )
    assert better > worse + 0.1


def test_any_covariance_with_the_identity_is_the_claim():
    """The same numbers by a program that knows nothing of matrices."""
    dim = 4
    nothing = np.zeros(dim)
    law = TokenLaw(
        6, 2, 1.1 * np.eye(dim)[0], 1.3 * np.eye(dim)[1], np.full(dim, 0.81), nothing, nothing,
        shifts=tuple(map(tuple, SETTING.shifts)), shift_weights=tuple(SETTING.shift_weights),
    )  # fmt: skip
    found = general.any_covariance_error(law, HEAD, PROMPT)
    assert abs(found.mean - exact_error(0.0)) < 5 * found.stderr + 1e-4
