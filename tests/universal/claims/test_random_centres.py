"""`universal.random_centres`: where the leading order holds, and the error where it does not."""

import functools

import jax
import numpy as np
import pytest
from scipy import special, stats

import jaxprompt as jp
from jaxprompt.core.claim import Cell
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, decide
from jaxprompt.universal.claims import random_centres
from jaxprompt.universal.claims.random_centres import MOST_RATIO, exact_error, variance_scale

CLAIM = "universal.random_centres"


@pytest.mark.parametrize(("m", "lam"), [(1, 0.1), (1, 30.0), (2, 7.0), (3, 300.0), (40, 5.0)])
def test_one_centre_is_an_independent_point(m, lam):
    """E‖b − x‖² = 2 for independent uniform points, whatever the concentration."""
    assert exact_error(m, 1, lam) == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize("lam", [1.0, 9.0])
def test_two_centres_on_the_circle_by_brute_force(lam):
    """A mean over both angles; the integrand is periodic and smooth."""
    angle = 2 * np.pi * np.arange(800) / 800
    wave, weight = np.exp(1j * angle), np.exp(lam * np.cos(angle))
    share = weight[:, None] / (weight[:, None] + weight)
    brute = np.abs(share * wave[:, None] + (1 - share) * wave - 1) ** 2
    assert exact_error(1, 2, lam) == pytest.approx(brute.mean(), rel=1e-9)


@pytest.mark.parametrize(("m", "count", "lam"), [(1, 5, 10.0), (2, 20, 30.0), (3, 8, 6.0)])
def test_exact_error_against_the_heads(m, count, lam):
    measured = jp.claim(CLAIM).simulate(
        key=3, trials=4000, sphere_dim=m, centres=count, concentration=lam
    )["mse"]
    assert abs(measured.mean - exact_error(m, count, lam)) < 5 * measured.stderr


@pytest.mark.parametrize("m", [1, 2, 3, 4, 9])
def test_drawn_products_are_coordinates_of_uniform_points(m):
    gap = random_centres._draw_gaps(m, (100, 300), np.random.default_rng(m))
    assert gap.dtype == np.float32
    points = np.random.default_rng(0).standard_normal((30_000, m + 1))
    first = points[:, 0] / np.linalg.norm(points, axis=1)
    assert stats.ks_2samp(1 - gap.ravel(), first).pvalue > 1e-3
    assert stats.kstest((1 + first) / 2, stats.beta(m / 2, m / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("m", "count", "lam"), [(1, 5, 10.0), (2, 30, 4.0), (3, 1, 2.0), (5, 40, 6.0)]
)
def test_squared_errors_against_points_on_the_sphere(m, count, lam):
    """The head itself, at a random query of every set of random centres."""
    rng, trials = np.random.default_rng(1), 20_000
    points = rng.standard_normal((trials, count + 1, m + 1))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    query, centre = points[:, 0], points[:, 1:]
    weight = np.exp(lam * np.einsum("tnd,td->tn", centre, query))
    head = np.einsum("tn,tnd->td", weight / weight.sum(axis=1, keepdims=True), centre)
    drawn = np.square(head - query).sum(axis=1)
    found = jp.claim(CLAIM).simulate(
        key=2, trials=trials, sphere_dim=m, centres=count, concentration=lam
    )["mse"]
    error = np.hypot(found.stderr, drawn.std() / np.sqrt(trials))
    assert abs(found.mean - drawn.mean()) < 4 * error
    assert found.stderr < drawn.std() / np.sqrt(trials) or count == 1


def test_sharp_kernels_and_many_centres_are_simulated():
    """Where every weight but the largest is below the least number, the nearest centre is left."""
    gap = np.array([[0.5, 0.2, 1.9]], np.float32)
    found = random_centres._squared_errors(gap, 1e5)[0]
    assert found == pytest.approx(0.2**2 + 0.2 * 1.8, rel=1e-5)
    with pytest.raises(ParameterError, match="`centres`"):
        jp.claim(CLAIM).simulate(key=0, trials=2, sphere_dim=2, centres=10**9, concentration=1.0)


@pytest.mark.parametrize(("m", "lam"), [(1, 0.5), (1, 10.0), (2, 10.0), (3, 20.0), (1, 200.0)])
def test_the_leading_order_misses_what_its_statement_says(m, lam):
    """Within 2R/N at every number of centres that is accepted, and better with more."""
    with jax.enable_x64(True):
        kernel = float(jp.universal.kernel_averages.log_mean_exp(m, 2 * lam))
        kernel -= 2 * float(jp.universal.kernel_averages.log_mean_exp(m, lam))
    ratio, missed = np.exp(kernel), []
    for share in (MOST_RATIO, MOST_RATIO / 4, MOST_RATIO / 16):
        count = int(np.ceil(ratio / share))
        given = {"sphere_dim": m, "centres": count, "concentration": lam}
        missed.append(float(jp.claim(CLAIM).predict(**given)["mse"]) / exact_error(*given.values()))
        assert abs(missed[-1] - 1) < 2 * ratio / count
    assert abs(missed[2] - 1) < abs(missed[1] - 1) / 2 < abs(missed[0] - 1) / 2


@pytest.mark.parametrize(("m", "count", "lam"), [(3, 1, 1e4), (1, 1, 1.0), (2, 30, 10.0)])
def test_too_few_centres_are_refused(m, count, lam):
    """The formula gave 1171 at the first of these; no mean squared error is above 4."""
    with pytest.raises(ParameterError, match="`centres`") as caught:
        jp.claim(CLAIM).predict(sphere_dim=m, centres=count, concentration=lam)
    assert "leading order in R/N" in str(caught.value)
    least = int(str(caught.value).split("at least ")[1].split(" ")[0])
    found = jp.claim(CLAIM).predict(sphere_dim=m, centres=least, concentration=lam)["mse"]
    assert 0 < found < 4


def test_the_exact_integral_says_how_far_it_goes():
    with pytest.raises(ParameterError, match="concentration"):
        exact_error(2, 10, 1e5)


def test_what_remains_of_many_centres():
    """N times the exact error beyond the squared bias, by SciPy's Bessel functions."""
    count, lam = 60_000, 10.0
    a, a2 = (special.ive(1, x) / special.ive(0, x) for x in (lam, 2 * lam))
    ratio = special.ive(0, 2 * lam) / special.ive(0, lam) ** 2
    spread = ratio * (1 - 2 * a * a2 + a * a)
    slope = count * (exact_error(1, count, lam) - (1 - a) ** 2)
    assert slope == pytest.approx(spread + 2 * (1 - a) * ratio * (a2 - a), rel=1e-3)
    with jax.enable_x64(True):
        assert float(variance_scale(1, lam)) == pytest.approx(spread, rel=1e-12)


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
