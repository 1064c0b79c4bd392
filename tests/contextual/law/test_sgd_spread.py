"""The covariance of the overlaps: random starts, numbers of another program, one step's noise."""

from __future__ import annotations

import numpy as np
import pytest

from jaxprompt.contextual.law.sgd_flow import Rates, flow_path
from jaxprompt.contextual.law.sgd_increments import OVERLAPS, limiting_increments
from jaxprompt.contextual.law.sgd_moments import symmetric_error
from jaxprompt.contextual.law.sgd_spread import (
    ACROSS,
    SYMMETRIC,
    SpreadFormula,
    error_slope,
    spread_path,
    start_covariance,
)
from jaxprompt.contextual.setting import Setting

TWO_SHIFTS = Setting.make(
    tokens=8, relevant=2, signal=1.2, context=1.0, noise=1.0, shifts=((0.0, 0.0), (0.5, 0.3))
)
RATES = Rates(1.0, 2.0)


@pytest.mark.slow
def test_spread_from_orthogonal_starts():
    """Another program predicted these from a plain rule of nodes, good to 2 %, and found standard
    deviations within 4 % of them at d = 200."""
    path = spread_path(TWO_SHIFTS, RATES, 0.3, 0.3)
    expected = {
        1.0: (0.395, 0.366, 0.380, 0.251, 0.204, 0.276, 0.143),
        2.0: (0.554, 0.533, 0.752, 0.482, 0.349, 0.496, 0.284),
    }
    for time, deviations in expected.items():
        matrix = path.at(time, SpreadFormula(start=0.0)).mean(axis=0)
        np.testing.assert_allclose(np.sqrt(np.diag(matrix)), deviations, rtol=0.03)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        assert np.linalg.eigvalsh(matrix).min() > 0
        np.testing.assert_array_equal(matrix[np.ix_(SYMMETRIC, ACROSS)], 0.0)
    matrix = path.at(1.0, SpreadFormula(start=0.0)).mean(axis=0)
    correlation = matrix[0, 3] / np.sqrt(matrix[0, 0] * matrix[3, 3])
    assert correlation == pytest.approx(0.431, abs=0.01)


def test_random_starts():
    rng, dim, rows = np.random.default_rng(0), 200, 20_000
    head, prompt = (rng.standard_normal((rows, dim)) for _ in range(2))
    head *= 0.7 / np.linalg.norm(head, axis=1, keepdims=True)
    prompt *= 0.4 / np.linalg.norm(prompt, axis=1, keepdims=True)
    products = np.stack(
        [1.2 * head[:, 0], head[:, 1], 1.2 * prompt[:, 0], prompt[:, 1], (head**2).sum(1),
         (head * prompt).sum(1), (prompt**2).sum(1)], axis=1,
    )  # fmt: skip
    expected = start_covariance(TWO_SHIFTS, 0.49, 0.16)
    np.testing.assert_allclose(dim * np.cov(products.T), expected, atol=0.03)
    found = spread_path(TWO_SHIFTS, RATES, 0.7, 0.4).at(0.0)[3]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_covariance_of_one_step_by_brute_force():
    """One sequence's changes with all four coordinates of every token drawn, in NumPy."""
    rng, rows = np.random.default_rng(1), 200_000
    a, b, head_energy, prompt_energy = 0.8, 0.7, 0.75, 0.7
    head = np.array([a / 1.2, 0, np.sqrt(head_energy - (a / 1.2) ** 2), 0])
    prompt = np.array([0, b, 0, np.sqrt(prompt_energy - b**2)])
    label = rng.choice([-1.0, 1.0], rows)
    shift = np.array(TWO_SHIFTS.shifts)[rng.integers(2, size=rows)]
    tokens = rng.standard_normal((rows, 8, 4))
    tokens[:, :2] = 0.0
    tokens[:, :2, 0], tokens[:, :2, 1] = 1.2 * label[:, None], 1.0
    tokens[:, 2:, 0] -= (1.2 * shift[:, 1] * label)[:, None]
    tokens[:, 2:, 1] -= shift[:, :1]
    phi = np.exp(tokens @ prompt)
    phi /= phi.sum(axis=1, keepdims=True)
    values = tokens @ head
    output = (phi * values).sum(axis=1)
    e, psi = label - output, phi * (values - output[:, None])
    to_head, to_prompt = (np.einsum("nt,ntd->nd", w, tokens) * e[:, None] for w in (phi, psi))
    squares = [e**2 * (x * y)[:, 2:].sum(axis=1) for x, y in ((phi, phi), (phi, psi), (psi, psi))]
    changes = np.stack(
        [1.2 * to_head[:, 0], to_head[:, 1], 2 * 1.2 * to_prompt[:, 0], 2 * to_prompt[:, 1],
         2 * e * output + squares[0], to_head @ prompt + 2 * to_prompt @ head + 2 * squares[1],
         4 * to_prompt @ prompt + 4 * squares[2]], axis=1,
    )  # fmt: skip
    wide = np.zeros((7, 16))
    wide[list(SYMMETRIC)] = np.array([a, b, head_energy, prompt_energy])[:, None]
    found = limiting_increments(TWO_SHIFTS, wide, RATES, most_nodes=2048)
    centred = changes - changes.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(rows)
    error = np.hypot(error, found.covariance.std(axis=-1) / 4) + 1e-12
    z = np.abs(products.mean(axis=0) - found.covariance.mean(axis=-1)) / error
    assert z.max() < 4.5, np.unravel_index(z.argmax(), z.shape)
    error = np.hypot(changes.std(axis=0) / np.sqrt(rows), found.mean.std(axis=-1) / 4)
    assert (np.abs(changes.mean(axis=0) - found.mean.mean(axis=-1)) < 4.5 * error).all()


def test_slope_of_the_error():
    state = flow_path(TWO_SHIFTS, RATES, (0.0, 0.0, 0.09, 0.09)).at(2.0)
    slope = error_slope(TWO_SHIFTS, state)
    move = np.array([0.01, -0.02, 0.015, 0.01])[:, None]
    ahead, behind = (symmetric_error(TWO_SHIFTS, state + s * move / 2) for s in (1, -1))
    np.testing.assert_allclose((slope * move).sum(axis=0), ahead - behind, rtol=1e-3)


def test_nothing_moves_without_rates():
    path = spread_path(TWO_SHIFTS, Rates(0.0, 0.0), 0.5, 0.2)
    expected = start_covariance(TWO_SHIFTS, 0.25, 0.04)
    np.testing.assert_allclose(path.at(3.0)[0], expected, rtol=1e-14)
    assert len(OVERLAPS) == 7


@pytest.mark.parametrize("size", [1e-3, 0.06, 1.0])
def test_the_slope_of_the_error_at_short_heads(size):
    """The error does not change with a head's length: by Euler's rule its slopes cancel. The steps
    of the differences once were longer than a short head."""
    setting = Setting.make(tokens=3, relevant=1, signal=0.4, context=0.5, noise=0.3)
    state = np.array([[0.25 * size * 0.4], [0.05], [size**2], [0.3]])
    signal, _, energy, _ = error_slope(setting, np.repeat(state, 16, axis=1))[:, 0]
    assert signal < 0 < energy
    assert signal * state[0, 0] + 2 * energy * state[2, 0] == pytest.approx(
        0, abs=2e-3 * abs(signal * state[0, 0])
    )
