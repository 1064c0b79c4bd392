"""The flow of four numbers: other derivations, stored numbers, corners."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxprompt.contextual.law.giant_steps import giant_steps
from jaxprompt.contextual.law.sgd_flow import FlowPath, Rates, drift, flow_path
from jaxprompt.contextual.law.sgd_increments import OVERLAPS, limiting_increments, mean_increments
from jaxprompt.contextual.law.sgd_moments import Formula, constant_state, symmetric_error
from jaxprompt.contextual.law.sgd_spread import SYMMETRIC
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError

TWO_SHIFTS = Setting.make(
    tokens=8, relevant=2, signal=1.2, context=1.0, noise=1.0, shifts=((0.0, 0.0), (0.5, 0.3))
)
TEN_TOKENS = Setting.make(tokens=10, relevant=2, signal=1.0, context=1.5, noise=1.0)
START = (0.0, 0.0, 0.09, 0.09)


def means(path, time):
    return path.at(time).mean(axis=1)


# --- numbers that another program found (scrambled Sobol rules of 4096 nodes, Runge–Kutta) ---


@pytest.mark.parametrize(
    ("time", "numbers", "error"),
    [
        (1.0, (0.18025, 0.05658, 0.18789, 0.12670), 0.42628),
        (2.0, (0.36782, 0.20766, 0.31531, 0.20698), 0.35526),
    ],
)
def test_joint_flow(time, numbers, error):
    path = flow_path(TWO_SHIFTS, Rates(1.0, 2.0), START)
    np.testing.assert_allclose(means(path, time), numbers, atol=1e-4)
    assert symmetric_error(TWO_SHIFTS, path.at(time)).mean() == pytest.approx(error, abs=5e-5)


@pytest.mark.parametrize(
    ("time", "numbers", "error"),
    [
        (1.0, (0.18616, 0.05409, 0.20249, 0.13095), 0.4273),
        (4.0, (0.9467, 0.7693, 0.9963, 0.8974), 0.1937),
    ],
)
def test_logistic_flow(time, numbers, error):
    path = flow_path(TWO_SHIFTS, Rates(2.0, 4.0), START, "logistic")
    np.testing.assert_allclose(means(path, time), numbers, atol=2e-3)
    assert symmetric_error(TWO_SHIFTS, path.at(time)).mean() == pytest.approx(error, abs=3e-4)


def test_frozen_head():
    path = flow_path(TEN_TOKENS, Rates(0.0, 1.0), (1.0, 0.0, 2.0, 0.0))
    for time, context, energy in ((1.0, 0.3352, 0.1355), (4.0, 1.0453, 0.6575)):
        np.testing.assert_allclose(means(path, time), (1.0, context, 2.0, energy), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sgd_noise", (0.8566, 0.6910, 0.5525, 0.5007)),
        ("feedback", (0.7813, 0.5958, 0.7091, 0.5929)),
        ("drag", (0.8089, 0.7622, 0.7396, 0.8885)),
    ],
)
def test_flow_without_one_term(name, numbers):
    formula = Formula(**{name: 0.0})
    path = flow_path(TWO_SHIFTS, Rates(1.0, 2.0), START, "square", formula)
    np.testing.assert_allclose(means(path, 4.0), numbers, atol=1e-3)


def test_giant_steps_on_large_batches():
    rates, start = Rates(1.5, 4.0), constant_state(0.0, 0.0, 0.0, 0.0)
    expected = {
        1: ((0.2970, 0.0, 0.1140, 0.0), 0.3538),
        2: ((0.5320, 0.3324, 0.2846, 0.1472), 0.2312),
        4: ((1.2364, 1.2223, 1.1747, 1.6745), 0.1261),
    }
    for steps, (numbers, error) in expected.items():
        state = giant_steps(TWO_SHIFTS, start, rates, 4.0, steps)
        # The other program's quadrature is good to 0.2 % at step 4; with eight times our nodes
        # A is 1.23536 and |w|² 1.17231 there.
        np.testing.assert_allclose(state.mean(axis=1), numbers, rtol=3e-3, atol=1e-4)
        assert symmetric_error(TWO_SHIFTS, state).mean() == pytest.approx(error, abs=5e-4)


# --- other derivations ---


def drift_by_definition(setting, state, rates, loss, nodes=20):
    """Limiting drift by four-dimensional Gauss–Hermite quadrature over the one irrelevant token:
    head, prompt and tokens written out in coordinates along w⋆, q⋆ and the two rests."""
    signal, context, head_energy, prompt_energy = state
    big_w, big_q = setting.signal, setting.context
    head = np.array([signal / big_w, 0, np.sqrt(head_energy - (signal / big_w) ** 2), 0])
    prompt = np.array([0, context / big_q, 0, np.sqrt(prompt_energy - (context / big_q) ** 2)])
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    z = np.array(list(itertools.product(x, repeat=4)))
    odds = np.prod(np.array(list(itertools.product(weight / weight.sum(), repeat=4))), axis=1)
    total = np.zeros(4)
    for label in (1, -1):
        for (to_context, to_signal), share in zip(
            setting.shifts, setting.shift_weights, strict=True
        ):
            near = np.array([label * big_w, big_q, 0, 0])
            far = np.array([-to_signal * label * big_w, -to_context * big_q, 0, 0])
            far = far + setting.noise * z
            tokens = np.stack([np.broadcast_to(near, far.shape), far], axis=1)
            scores = tokens @ prompt
            phi = np.exp(scores - scores.max(axis=1, keepdims=True))
            phi /= phi.sum(axis=1, keepdims=True)
            values = tokens @ head
            f = (phi * values).sum(axis=1)
            e = label - f if loss == "square" else label / (1 + np.exp(label * f))
            psi = phi * (values - f[:, None])
            to_head = e[:, None] * np.einsum("nt,nti->ni", phi, tokens)
            to_prompt = e[:, None] * np.einsum("nt,nti->ni", psi, tokens)
            head_noise = setting.noise**2 * e**2 * phi[:, 1] ** 2
            prompt_noise = setting.noise**2 * e**2 * psi[:, 1] ** 2
            rows = np.stack(
                [
                    rates.head * to_head[:, 0] * big_w,
                    rates.prompt * to_prompt[:, 1] * big_q,
                    2 * rates.head * to_head @ head + rates.head**2 * head_noise,
                    2 * rates.prompt * to_prompt @ prompt + rates.prompt**2 * prompt_noise,
                ]
            )
            total += 0.5 * share * (rows @ odds)
    return total


@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_drift_of_two_tokens_by_quadrature(loss):
    setting = Setting.make(
        tokens=2, relevant=1, signal=1.2, context=0.8, noise=0.7, shifts=((0.1, 0.2), (0.5, -0.3)),
        shift_weights=(0.3, 0.7),
    )  # fmt: skip
    rates, numbers = Rates(1.3, 2.1), (0.5, 0.4, 0.9, 0.8)
    found = drift(setting, constant_state(*numbers), rates, loss)
    expected = drift_by_definition(setting, numbers, rates, loss)
    np.testing.assert_allclose(found.mean(axis=1), expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_drift_agrees_with_the_general_one(loss):
    """The general drift averages over the noise along the head, here integrated out by hand."""
    rates, numbers = Rates(1.0, 2.0), (0.8, 0.7, 0.75, 0.7)
    found = drift(TWO_SHIFTS, constant_state(*numbers), rates, loss)
    wide = np.zeros((7, found.shape[1]))
    wide[list(SYMMETRIC)] = np.array(numbers)[:, None]
    general = limiting_increments(TWO_SHIFTS, wide, rates, loss, most_nodes=2048, covariance=False)
    expected = general.mean[list(SYMMETRIC)]
    error = np.hypot(found.std(axis=1), expected.std(axis=1)) / np.sqrt(found.shape[1])
    assert (np.abs(found.mean(axis=1) - expected.mean(axis=1)) < 5 * error).all()
    assert (error < 2e-3).all()
    across = [i for i in range(7) if i not in SYMMETRIC]
    np.testing.assert_allclose(general.mean[across], 0.0, atol=1e-12)


def test_one_step_tends_to_the_limit():
    state = np.tile(np.array([0.3, 0.1, 0.15, 0.4, 0.5, 0.1, 0.8])[:, None], 16)
    rates = Rates(1.5, 3.0)
    limit = limiting_increments(TWO_SHIFTS, state, rates, covariance=False).mean
    at = [mean_increments(TWO_SHIFTS, state, rates, dim, most_nodes=512) for dim in (1e3, 2e3)]
    np.testing.assert_allclose(2 * at[1] - at[0], limit, atol=1e-8)
    assert OVERLAPS[3] == "prompt_context"


def test_small_batches_follow_the_flow():
    """Batches of νd sequences at rates νη are the flow up to O(ν)."""
    rates, ratio, time = Rates(1.0, 2.0), 0.02, 1.0
    batch = Rates(rates.head * ratio, rates.prompt * ratio)
    start = constant_state(*START)
    state = giant_steps(TWO_SHIFTS, start, batch, ratio, round(time / ratio))
    limit = flow_path(TWO_SHIFTS, rates, START).at(time)
    np.testing.assert_allclose(state, limit, atol=0.01)


# --- corners ---


def test_path_does_not_depend_on_what_was_asked_before():
    setting = Setting.make(tokens=4, relevant=1, signal=1.0, context=1.0, noise=0.5)

    def decay(state):
        return drift(setting, state, Rates(1.0, 1.25))

    def path():
        scale = np.ones((4, 1))
        return FlowPath(decay, constant_state(*START), speed=5.0, scale=scale)

    early_first, late_first = path(), path()
    first = [early_first.at(t) for t in (0.7, 3.0)]
    second = [late_first.at(t) for t in (3.0, 0.7)]
    np.testing.assert_array_equal(first[0], second[1])
    np.testing.assert_array_equal(first[1], second[0])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units(scale):
    """Tokens × c, head and prompt / c: outputs and scores stay, and a rate takes 1/c²."""
    plain = Setting.make(tokens=3, relevant=1, signal=1.0, context=1.5, noise=0.7)
    scaled = Setting.make(
        tokens=3, relevant=1, signal=scale, context=1.5 * scale, noise=0.7 * scale
    )
    one = flow_path(plain, Rates(1.0, 2.0), START).at(2.0)
    start = (0.0, 0.0, 0.09 / scale**2, 0.09 / scale**2)
    other = flow_path(scaled, Rates(1.0 / scale**2, 2.0 / scale**2), start).at(2.0)
    other = other * np.array([1, 1, scale**2, scale**2])[:, None]
    np.testing.assert_allclose(other, one, rtol=1e-9)


def test_nothing_moves_without_rates_or_time():
    still = flow_path(TWO_SHIFTS, Rates(0.0, 0.0), START)
    np.testing.assert_array_equal(still.at(5.0), constant_state(*START))
    moving = flow_path(TWO_SHIFTS, Rates(1.0, 2.0), START)
    np.testing.assert_array_equal(moving.at(0.0), constant_state(*START))
    assert symmetric_error(TWO_SHIFTS, moving.at(0.0)) == pytest.approx(0.5)


def test_the_head_alone_keeps_the_prompt():
    state = flow_path(TWO_SHIFTS, Rates(1.0, 0.0), (0.0, 0.0, 0.0, 0.0)).at(4.0)
    np.testing.assert_array_equal(state[[1, 3]], 0.0)
    assert (state[0] > 0.5).all()


def test_without_noise_there_is_no_quadrature_error():
    setting = Setting.make(tokens=4, relevant=2, signal=1.0, context=1.0, noise=0.0)
    state = flow_path(setting, Rates(1.0, 1.0), (0.0, 0.0, 0.01, 0.01)).at(2.0)
    assert np.isfinite(state).all()
    assert np.ptp(state, axis=1).max() < 1e-12
    assert symmetric_error(setting, state) == pytest.approx(0.0)


def test_a_divergent_rate_is_refused_in_one_line():
    # Of few tokens: the steps to the place where it diverges are many.
    pair = Setting.make(tokens=2, relevant=1, signal=1.2, context=1.0, noise=1.0)
    with pytest.raises(NumericalError, match=r"diverges near n/d = .*lower `head_rate`") as raised:
        flow_path(pair, Rates(40.0, 40.0), START).at(50.0)
    assert "\n" not in str(raised.value)
    with pytest.raises(NumericalError, match="diverge at step"):
        giant_steps(TWO_SHIFTS, constant_state(*START), Rates(60.0, 60.0), 4.0, 60)
