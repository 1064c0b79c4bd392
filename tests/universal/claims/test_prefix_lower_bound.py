"""`universal.prefix_lower_bound`: the widths of the Lipschitz class, for odd and even numbers."""

import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.universal.claims.prefix_lower_bound import minimax_error

CLAIM = "universal.prefix_lower_bound"


@pytest.mark.parametrize(
    ("centres", "error"),
    [(1, np.pi / 2), (2, np.pi / 2), (3, np.pi / 4), (4, np.pi / 4), (8, np.pi / 8)],
)
def test_widths_of_the_lipschitz_class(centres, error):
    """π/(2⌈N/2⌉) for L = 1; for N = 2 it was π/3."""
    found = jp.claim(CLAIM).predict(lipschitz=1.0, centres=centres)
    assert found["error"] == pytest.approx(error, rel=1e-15)


@pytest.mark.parametrize("centres", [2, 8, 20])
@pytest.mark.parametrize("concentration", [1.0, 40.0, 1e4])
def test_even_numbers_are_measured_too(centres, concentration):
    given = {"lipschitz": 0.7, "centres": centres}
    measured = jp.claim(CLAIM).simulate(key=4, trials=2, concentration=concentration, **given)
    assert measured["error"].mean == pytest.approx(0.7 * np.pi / centres, rel=1e-9)
    if concentration > 1.0:
        assert measured["control"].mean == pytest.approx(0, abs=1e-9)


def hardest_function(weights, spacing, starts, steps=12):
    """Largest minimax error over 1-Lipschitz functions on a fine circle, by ascent.

    The linear programme's multipliers are a signed measure that annihilates the outputs; the
    1-Lipschitz function with the largest integral against it follows from its cumulative sums, and
    its own error is no smaller. It shares no code with the claim but the programme.
    """
    count, best = len(weights), 0.0
    for start in starts:
        f, last = start, -1.0
        for _ in range(steps):
            fit = minimax_error(weights, f)
            if fit <= last * (1 + 1e-9):
                break
            last = fit
            values = np.linalg.lstsq(weights, f, rcond=1e-12)[0]
            miss = f - weights @ values
            # Weighted refits concentrate on the points where the error is largest.
            mass = np.ones(count) / count
            for _ in range(60):
                root = np.sqrt(mass)
                values = np.linalg.lstsq(weights * root[:, None], f * root, rcond=1e-12)[0]
                miss = f - weights @ values
                mass = mass * np.abs(miss)
                mass /= mass.sum()
            measure = mass * np.sign(miss)
            flow = np.cumsum(measure - measure.mean())
            slope = -np.sign(flow - np.median(flow))
            slope -= slope.mean()
            f = np.concatenate([[0.0], np.cumsum(slope[:-1])]) * spacing
            f /= max(np.abs(np.diff(np.append(f, f[0]))).max() / spacing, 1e-12)
        best = max(best, last)
    return best


@pytest.mark.parametrize("centres", [2, 4])
@pytest.mark.parametrize("seed", some_slow([0, 1], first=1))
def test_no_keys_do_better_than_the_width_at_even_numbers(centres, seed):
    """Random keys, a fine circle: some Lipschitz function is missed by π/N."""
    fine = 240
    theta = 2 * np.pi * np.arange(fine) / fine
    keys = np.random.default_rng(seed).uniform(0, 2 * np.pi, centres)
    score = 5.0 * np.cos(theta[:, None] - keys)
    weights = np.exp(score - score.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    # Triangle waves of N teeth, at every angle, are where the ascent starts.
    starts = []
    for turn in np.linspace(0, 2 * np.pi / centres, 12, endpoint=False):
        phase = np.mod(theta - turn, 4 * np.pi / centres)
        starts.append(np.abs(phase - 2 * np.pi / centres) - np.pi / centres)
    assert hardest_function(weights, 2 * np.pi / fine, starts) > 0.98 * np.pi / centres


def test_tokens_needed_invert_the_error():
    claim = jp.claim(CLAIM)
    count = np.arange(1, 60)
    odd = count - 1 + count % 2  # as many tokens do as the next smaller odd number
    error = claim.predict(lipschitz=2.0, centres=count)["error"]
    np.testing.assert_array_equal(claim.predict(lipschitz=2.0, accuracy=error)["centres"], odd)
    just_below = claim.predict(lipschitz=2.0, accuracy=error * (1 - 1e-6))["centres"]
    np.testing.assert_array_equal(just_below, odd + 2)


def test_minimax_error_against_two_points():
    """One token, two points, weights (1, 1): the best constant is the midpoint."""
    assert minimax_error(np.ones((2, 1)), np.array([0.3, -0.1])) == pytest.approx(0.2)


def test_reference_number():
    predicted = jp.claim(CLAIM).predict(lipschitz=1.0, centres=15)
    assert predicted["error"] == pytest.approx(np.pi / 16, rel=2e-14)


def test_neither_accuracy_nor_centres_is_refused():
    with pytest.raises(ParameterError, match="`centres`") as caught:
        jp.claim(CLAIM).predict(lipschitz=1.0)
    assert "\n" not in str(caught.value)
