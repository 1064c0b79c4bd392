"""`universal.circle_error`: suprema and best concentrations against mpmath."""

import mpmath
import numpy as np
import pytest
from quick_cases import slow_case, some_slow

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.universal.claims import circle_error
from jaxprompt.universal.networks.circle_head import bisected_maximum
from jaxprompt.universal.numerics import equispaced

CLAIM = "universal.circle_error"


def error_at(count, lam, k, psi):
    """|1 − h e^{−ikθ}| by the plain sum over the centres, at mpmath's precision."""
    theta = mpmath.mpf(psi) / count
    top = below = mpmath.mpc(0)
    for j in range(count):
        centre = 2 * mpmath.pi * j / count
        weight = mpmath.exp(lam * (mpmath.cos(theta - centre) - 1))
        top += weight * mpmath.expj(k * (centre - theta))
        below += weight
    return abs(1 - top / below)


def grid_errors(count, lam, k, psi):
    """The same in long doubles, for a dense grid; shifted by the nearest centre's score."""
    psi = psi.astype(np.longdouble)
    distance = (2 * np.pi * np.arange(count) - psi[:, None]) / count
    square = np.sin(distance / 2) ** 2
    weight = np.exp(-2 * lam * (square - square.min(axis=1, keepdims=True)))
    wave = np.cos(k * distance) + 1j * np.sin(k * distance)
    return np.abs(1 - (weight * wave).sum(1) / weight.sum(1)).astype(float)


def supremum(count, lam, k):
    """Dense grid over the whole period, denser towards π at every scale; then golden sections."""
    graded = np.geomspace(1e-12, np.pi, 6000)
    psi = np.unique(np.concatenate([np.linspace(0, 2 * np.pi, 20_001), np.pi - graded]))
    values = np.concatenate([grid_errors(count, lam, k, part) for part in np.array_split(psi, 20)])
    best = int(values.argmax())
    with mpmath.workdps(30):
        low, high = mpmath.mpf(psi[max(best - 1, 0)]), mpmath.mpf(psi[min(best + 1, len(psi) - 1)])
        golden = (mpmath.sqrt(5) - 1) / 2
        for _ in range(60):
            left, right = high - golden * (high - low), low + golden * (high - low)
            if error_at(count, lam, k, left) < error_at(count, lam, k, right):
                low = left
            else:
                high = right
        return float(max(error_at(count, lam, k, (low + high) / 2), mpmath.mpf(values[best])))


@pytest.mark.parametrize(
    ("count", "lam", "k"),
    [
        (8, 1e7, 1),  # .39018, and never above 2 sin(kπ/2N); .42942 was given
        (8, 1e9, 3),
        (8, 65.0, 1),  # both sides of λ = N², where the sum over aliases is left
        (8, 63.0, 1),
        *map(
            slow_case,
            [
                (2, 1e4, 1),
                (5, 0.01, 2),
                (1, 7.0, 3),
                (3, 50.0, 200),
                (16, 1e4, 40),
                (16, 2e3, 7),
                (64, 300.0, 5),
            ],
        ),
    ],
)
def test_supremum_and_the_heads_own_against_an_oracle(count, lam, k):
    """The closed form and the head are each set beside mpmath: neither search is trusted."""
    expected = supremum(count, lam, k)
    given = {"centres": count, "degree": k, "concentration": lam}
    predicted = jp.claim(CLAIM).predict(**given)["sup_error"]
    assert float(predicted) == pytest.approx(expected, rel=1e-9)
    measured = jp.claim(CLAIM).simulate(key=0, trials=2, **given)["sup_error"].mean
    assert measured == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [4, 8, 33])
def test_no_supremum_passes_the_nearest_centres(count):
    """Where one centre decides, the error is the chord to it: at most 2 sin(kπ/2N)."""
    for lam in 10.0 ** np.arange(4, 9.1, 0.5):
        found = jp.claim(CLAIM).predict(centres=count, degree=1, concentration=lam)["sup_error"]
        assert found <= 2 * np.sin(np.pi / (2 * count)) * (1 + 1e-12)


@pytest.mark.parametrize(("count", "k"), some_slow([(9, 4), (3, 1), (64, 20), (256, 50)], first=1))
def test_best_concentration_wherever_it_is(count, k):
    """λ*/N² was sought in a window that shrank with k, and left it for k above N/4."""
    best = jp.claim(CLAIM).predict(centres=count, degree=k)
    lam, error = float(best["best_concentration"]), float(best["best_error"])
    psi = np.unique(
        np.concatenate([np.linspace(0, np.pi, 300), np.pi - np.geomspace(1e-4, 1, 200)])
    )
    scan = lam * np.geomspace(1e-2, 1e2, 21)
    values = [grid_errors(count, x, k, psi).max() for x in scan]
    assert min(values) >= error * (1 - 1e-4)  # a grid misses the top of a peak by so much
    assert min(values) == pytest.approx(error, rel=1e-3)
    measured = jp.claim(CLAIM).simulate(key=0, trials=2, centres=count, degree=k)
    assert measured["best_error"].mean == pytest.approx(error, rel=1e-9)
    assert measured["best_concentration"].mean == pytest.approx(lam, rel=1e-6)


@pytest.mark.parametrize(("count", "k"), [(8, 4), (8, 5), (8, 8), (2, 1), (1, 1)])
def test_targets_that_no_concentration_follows_are_refused(count, k):
    errors = [
        float(jp.claim(CLAIM).predict(centres=count, degree=k, concentration=lam)["sup_error"])
        for lam in (1e-6, 0.1 * count**2, 1e4)
    ]
    assert min(errors) >= 1 - 1e-9
    with pytest.raises(ParameterError, match="below half the centres"):
        jp.claim(CLAIM).predict(centres=count, degree=k)


def test_a_phase_without_a_concentration_is_refused():
    with pytest.raises(ParameterError, match="`phase`"):
        jp.claim(CLAIM).predict(centres=8, degree=1, phase=0.3)


def test_prediction_and_simulation_search_apart(monkeypatch):
    """The head's worst error does not reach the closed form's search, nor the reverse."""

    def caught(*args, **kwargs):
        raise AssertionError("the two sides share a search")

    given = {"centres": 7, "degree": 1, "concentration": 5.0}
    with monkeypatch.context() as patch:
        for name in ("_largest_error", "enlarged_maximum", "_best_concentration"):
            patch.setattr(circle_error, name, caught)
        for name in ("relative_error", "modulus_of_phase", "_nodal_sum", "_spectral_sum"):
            patch.setattr(equispaced, name, caught)
        jp.claim(CLAIM).simulate(key=0, trials=2, **given)
    for name in ("_worst_phase", "bisected_maximum", "_head_error"):
        monkeypatch.setattr(circle_error, name, caught)
    jp.claim(CLAIM).predict(**given)


def relative_error_of_head(count, lam, k, psi):
    """1 − h e^{−ikθ} by the plain sum over centres."""
    centre = 2 * np.pi * np.arange(count) / count
    theta = psi / count
    weight = np.exp(lam * (np.cos(theta - centre) - 1))
    return 1 - (weight * np.exp(1j * k * centre)).sum() / weight.sum() * np.exp(-1j * k * theta)


@pytest.mark.parametrize("lam", [0.02, 3.0, 70.0, 900.0])  # on both sides of λ = N²
@pytest.mark.parametrize("k", [0, 1, 4, 13])
def test_error_at_a_phase(lam, k):
    claim, psi = jp.claim(CLAIM), np.array([0.0, 0.4, 2.0, np.pi, -1.0])
    predicted = claim.predict(centres=9, concentration=lam, degree=k, phase=psi)
    exact = np.array([relative_error_of_head(9, lam, k, p) for p in psi])
    np.testing.assert_allclose(predicted["error_real"], exact.real, atol=1e-12)
    np.testing.assert_allclose(predicted["error_imag"], exact.imag, atol=1e-12)
    np.testing.assert_allclose(predicted["error"], abs(exact), atol=1e-12)


@pytest.mark.parametrize(("count", "lam", "k"), [(8, 8.5, 1), (16, 40.0, 2), (5, 3.0, 1)])
def test_supremum_against_a_grid(count, lam, k):
    psi = np.linspace(0, 2 * np.pi, 20_001)
    brute = max(abs(relative_error_of_head(count, lam, k, p)) for p in psi)
    predicted = jp.claim(CLAIM).predict(centres=count, concentration=lam, degree=k)
    assert predicted["sup_error"] == pytest.approx(brute, rel=1e-7)
    assert predicted["sup_error"] >= brute * (1 - 1e-12)


def test_best_concentration_is_a_minimum():
    claim = jp.claim(CLAIM)
    best = claim.predict(centres=[8, 20], degree=[1, 2])
    for n, k, lam, error in zip([8, 20], [1, 2], *best.values(), strict=True):
        for other in (0.97 * lam, 1.03 * lam):
            assert claim.predict(centres=n, degree=k, concentration=other)["sup_error"] > error


@pytest.mark.parametrize(
    ("centres", "concentration", "degree", "phase", "value"),
    [
        (8, 10.0, 1, 0.0, 0.02836823981771315),
        (8, 10.0, 1, np.pi, 0.07852779507921462),
        (16, 40.0, 2, 0.0, 0.02547661652327201),
        (16, 40.0, 2, np.pi, 0.07749573672459822),
    ],
)
def test_reference_numbers(centres, concentration, degree, phase, value):
    predicted = jp.claim(CLAIM).predict(
        centres=centres, concentration=concentration, degree=degree, phase=phase
    )
    assert predicted["error"] == pytest.approx(value, rel=2e-14)


@pytest.mark.slow
def test_best_concentration_by_mpmath():
    """Stationary points found by mpmath at 40 digits (error and λ)."""
    claim = jp.claim(CLAIM)
    best = claim.predict(centres=8, degree=1)
    assert best["best_concentration"] == pytest.approx(8.5086333207658, rel=1e-7)
    assert best["best_error"] == pytest.approx(0.08242634925908326, rel=1e-11)
    best = claim.predict(centres=128, degree=1)
    assert best["best_concentration"] == pytest.approx(1146.376066, rel=1e-7)
    assert best["best_error"] == pytest.approx(4.713340419e-4, rel=1e-9)


def test_no_centres_are_refused():
    with pytest.raises(ParameterError, match="`centres`") as caught:
        jp.claim(CLAIM).predict(centres=0, degree=1)
    assert "\n" not in str(caught.value)


# Functions of the phase with a known largest value: smooth, with a kink, and with a narrow peak.
KNOWN_MAXIMA = {
    "wave": (lambda psi: 2 + np.cos(3 * psi - 1.0), 3.0),
    "kink": (lambda psi: 1 - np.abs(psi - 2.0) / 9, 1.0),
    "two peaks": (
        lambda psi: np.exp(-40 * (psi - 0.9) ** 2) + 1.001 * np.exp(-40 * (psi - 2.3) ** 2),
        1.001,
    ),
    "at the end": (lambda psi: psi * (2 * np.pi - psi), np.pi**2),
}


@pytest.mark.parametrize("name", KNOWN_MAXIMA)
def test_each_search_finds_a_known_maximum(name):
    """The closed forms' search on [0, π] and the simulations' on [0, 2π], each by itself."""
    function, largest = KNOWN_MAXIMA[name]
    assert equispaced.enlarged_maximum(function, np.linspace(0, np.pi, 129)) == pytest.approx(
        largest, rel=1e-12
    )
    # Its last step stops a share of 1e-9 of an interval short, which a kink shows.
    assert bisected_maximum(function, 256)[1] == pytest.approx(largest, rel=1e-8)
