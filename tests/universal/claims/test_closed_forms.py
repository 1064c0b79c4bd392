"""Closed forms of the family against brute force that shares no code with them."""

import functools

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Cell
from jaxprompt.stats import Estimate, decide
from jaxprompt.universal.claims import prefix_lower_bound, random_centres
from jaxprompt.universal.claims.prefix_rate import hull_distance
from jaxprompt.universal.numerics import point_sets


def circle_head(count, lam, k, psi):
    """1 − h e^{−ikθ} by the plain sum over centres."""
    centre = 2 * np.pi * np.arange(count) / count
    theta = psi / count
    weight = np.exp(lam * (np.cos(theta - centre) - 1))
    return 1 - (weight * np.exp(1j * k * centre)).sum() / weight.sum() * np.exp(-1j * k * theta)


@pytest.mark.parametrize("lam", [0.02, 3.0, 70.0, 900.0])  # on both sides of λ = N²
@pytest.mark.parametrize("k", [0, 1, 4, 13])
def test_circle_error(lam, k):
    claim, psi = jp.claim("universal.circle_error"), np.array([0.0, 0.4, 2.0, np.pi, -1.0])
    predicted = claim.predict(centres=9, concentration=lam, degree=k, phase=psi)
    exact = np.array([circle_head(9, lam, k, p) for p in psi])
    np.testing.assert_allclose(predicted["error_real"], exact.real, atol=1e-12)
    np.testing.assert_allclose(predicted["error_imag"], exact.imag, atol=1e-12)
    np.testing.assert_allclose(predicted["error"], abs(exact), atol=1e-12)


@pytest.mark.parametrize(("count", "lam", "k"), [(8, 8.5, 1), (16, 40.0, 2), (5, 3.0, 1)])
def test_supremum_on_the_circle(count, lam, k):
    psi = np.linspace(0, 2 * np.pi, 20_001)
    brute = max(abs(circle_head(count, lam, k, p)) for p in psi)
    found = jp.claim("universal.circle_error").predict(centres=count, concentration=lam, degree=k)
    assert found["sup_error"] == pytest.approx(brute, rel=1e-7)
    assert found["sup_error"] >= brute * (1 - 1e-12)


def test_best_concentration_is_a_minimum():
    claim = jp.claim("universal.circle_error")
    best = claim.predict(centres=[8, 20], degree=[1, 2])
    for n, k, lam, error in zip([8, 20], [1, 2], *best.values(), strict=True):
        for other in (0.97 * lam, 1.03 * lam):
            assert claim.predict(centres=n, degree=k, concentration=other)["sup_error"] > error


def test_random_centres_by_the_delta_method():
    """The four moments by quadrature over the circle, then the delta method by hand."""
    lam, count = 7.0, 300
    t = 2 * np.pi * np.arange(4000) / 4000
    kernel = np.exp(lam * (np.cos(t) - 1))
    mean, square = kernel.mean(), (kernel**2).mean()
    a = (kernel * np.cos(t)).mean() / mean
    a2 = (kernel**2 * np.cos(t)).mean() / square
    ratio = square / mean**2 / count
    expected = (1 - a + ratio * (a2 - a)) ** 2 + ratio * (1 - 2 * a * a2 + a * a)
    found = jp.claim("universal.random_centres").predict(
        sphere_dim=1, centres=count, concentration=lam
    )
    assert found["mse"] == pytest.approx(expected, rel=1e-12)


def test_a_wrong_bias_of_random_centres_is_refuted(monkeypatch):
    """N times a wrong bias grows with N, which no line in 1/N fits: its own row must tell."""
    monkeypatch.setattr(random_centres, "variance_scale", lambda **_: 2.0)
    claim, cells = jp.claim("universal.random_centres"), []

    def error(centres, bias=0.1, **_):
        return {"mse": bias**2 + 2.0 / centres}

    for count in (100, 200, 400):
        point = {"sphere_dim": 1, "concentration": 20.0, "centres": count}
        mse = error(count)["mse"]
        cells.append(Cell(point, {"mse": Estimate(mse, 0.001 * mse, 4000)}))
    right = decide(claim.compare(claim, cells, error), 1e-3)
    assert [row.verdict for row in right] == ["confirmed"] * 2
    wrong = decide(claim.compare(claim, cells, functools.partial(error, bias=0.0)), 1e-3)
    assert wrong[1].verdict == "refuted", f"what remains as N grows: {wrong[1]}"


def test_kernel_head_broadcasts():
    random = np.random.default_rng(0)
    query, centres, values = (
        random.normal(size=(4, 2, 3)),
        random.normal(size=(6, 3)),
        random.normal(size=(6, 5)),
    )
    found = jp.claim("universal.kernel_head").predict(
        query=query,
        centres=centres,
        values=values,
        concentration=np.array([1.0, 2.0]),
        content=[1, 9],
    )
    assert found["core"].shape == (4, 2, 5)
    assert found["gate"].shape == (4, 2)
    weight = np.exp(2.0 * centres @ query[3, 1])
    np.testing.assert_allclose(
        found["classical"][3, 1], weight @ values / (weight.sum() + 9), rtol=1e-12
    )
    no_content = jp.claim("universal.kernel_head").predict(
        query=query[0, 0], centres=centres, values=values, concentration=1.0, content=0
    )
    assert no_content["gate"] == 1.0


def test_lower_bound_inverts():
    claim = jp.claim("universal.prefix_lower_bound")
    count = np.arange(1, 60)
    odd = count - 1 + count % 2  # as many tokens do as the next smaller odd number
    error = claim.predict(lipschitz=2.0, centres=count)["error"]
    np.testing.assert_array_equal(claim.predict(lipschitz=2.0, accuracy=error)["centres"], odd)
    just_below = claim.predict(lipschitz=2.0, accuracy=error * (1 - 1e-6))["centres"]
    np.testing.assert_array_equal(just_below, odd + 2)


def test_minimax_error_against_two_points():
    """One token, two points, weights (1, 1): the best constant is the midpoint."""
    assert prefix_lower_bound.minimax_error(
        np.ones((2, 1)), np.array([0.3, -0.1])
    ) == pytest.approx(0.2)


def test_hull_distance_of_solids():
    corners = np.vstack([np.eye(3), -np.eye(3)])
    assert hull_distance(corners) == pytest.approx(1 - 1 / np.sqrt(3), rel=1e-12)
    hexagon = point_sets.equispaced(6)
    assert hull_distance(hexagon) == pytest.approx(1 - np.cos(np.pi / 6), rel=1e-12)


def test_prefix_rate_floor_is_the_distance_to_the_hull():
    found = jp.claim("universal.prefix_rate").predict(
        sphere_dim=2, smoothness="smooth", covering=0.3
    )
    assert found["exponent"] == -1.0
    assert found["floor"] == pytest.approx(1 - np.cos(0.3), rel=1e-12)
    # Half the sphere for each of two centres: nothing is farther than a right angle.
    least = jp.claim("universal.prefix_rate").predict(
        sphere_dim=2, smoothness="lipschitz", centres=2
    )
    assert least["error"] == pytest.approx(np.pi / 2)
