from __future__ import annotations

import jax
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import optimize, special

from jaxprompt.contextual.claims import best_ridge
from jaxprompt.contextual.claims.best_ridge import CLAIM
from jaxprompt.contextual.law import ridge_limit as limits
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.ridge_limit import ridge_limit
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError
from jaxprompt.stats import Estimate

BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}


@pytest.fixture
def no_gain_search(monkeypatch):
    """Predictions of the best ridge alone: the search for the best gain takes most of the time."""
    unsearched = {name: Estimate(0.5, 0.0, 1) for name in ("best_gain", "best_gain_error")}
    monkeypatch.setattr(best_ridge, "_best_gain_in_the_limit", lambda **point: unsearched)


@pytest.mark.usefixtures("no_gain_search")
@pytest.mark.parametrize("ratio", some_slow([1.2, 0.5, 2.0], first=1))
def test_no_other_ridge_is_better(ratio):
    found = CLAIM.predict(**BASE, gain=1.0, ratio=ratio)
    features = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)
    # A search that is more than a third off its place is behind one of these.
    grid = [
        float(ridge_limit(features, ratio, x).error.mean()) for x in np.geomspace(1e-3, 1e4, 30)
    ]
    assert found["error"] <= min(grid) + 1e-6
    plain = float(ridge_limit(features, ratio, 0.0).error.mean())
    assert found["saving"] == pytest.approx(plain - found["error"], abs=1e-12)


@pytest.mark.slow
def test_no_other_gain_is_better():
    found = CLAIM.predict(**BASE, gain=1.0, ratio=0.8)
    for gain in (0.5, 0.8, 1.3, 1.8):
        features = feature_law(10, 2, 1.0, 1.5, 1.0, gain)
        ridge = limits.best_ridge(features, 0.8)
        assert ridge_limit(features, 0.8, ridge).error.mean() > found["best_gain_error"]


@pytest.mark.slow
def test_the_deeper_of_two_valleys_is_the_best_gain():
    """Without ridge the error at d/n = 0.8 has valleys at 1.4 and at the end, 1 % apart."""

    def features(gain):
        return feature_law(10, 2, 1.0, 1.5, 1.0, gain)

    errors = {
        gain: ridge_limit(features(gain), 0.8, 0.0).error.mean()
        for gain in (0.0, 0.6, 1.2, 1.4, 1.6, 2.2, 3.0, 3.6, 4.0)
    }
    assert errors[1.4] < 0.995 * errors[4.0] < 0.995 * errors[3.0], "there are two"
    best = limits.best_gain(features, 0.8, 0.0, scan=np.linspace(0.0, 4.0, 13))
    found = ridge_limit(features(best), 0.8, 0.0).error.mean()
    # The place comes from few nodes, which costs less than a thousandth of the error.
    assert found <= 1.001 * min(errors.values()), f"gain {best:.3f}: {found}; {errors}"


def test_a_gain_at_which_the_error_is_no_number_is_no_best_gain(monkeypatch):
    law = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)
    nothing = law._replace(alpha=law.alpha * np.nan)
    assert np.isnan(limits.best_ridge(nothing, 0.5))
    assert np.isnan(limits.best_gain(lambda gain: nothing, 0.5, scan=np.linspace(0.0, 3.0, 5)))
    monkeypatch.setattr(best_ridge, "best_gain", lambda *args, **kwargs: float("nan"))
    with pytest.raises(NumericalError, match="is not a number"):
        CLAIM.predict(**{**BASE, "noise": 0.77}, gain=1.0, ratio=0.5)


@pytest.mark.slow
def test_noise_far_above_the_signal_has_a_best_gain():
    """The head is right where the softmax leaves all noise out, which needs sharp weights; once
    refused as no number."""
    found = CLAIM.predict(**{**BASE, "noise": 1e30}, gain=1.0, ratio=0.5)
    # All eight scores are below the relevant ones' in one sequence of 2⁸.
    assert found["best_gain_error"] == pytest.approx(0.5 - 2**-9, abs=4e-4)


def error_of_endless_gains(sign, *, tokens, relevant, signal, context, noise, ratio, shifts):
    """The least error over ridges where the largest score takes all of the attention: signal W
    without noise with the odds that no irrelevant token is ahead, or −δw W with noise σ.

    Ridges are positive, or fall with the gain so fast that sequences of small noise still count: a
    share of all, to be chosen, is then fitted, c = 1/W, and ρ² has what is left in its divisor.
    """
    shift, each = np.asarray(shifts), 1 / len(shifts)
    ahead = special.ndtr(sign * (1 + shift[:, 0]) * context / noise) ** (tokens - relevant)
    wrong, right = each * (1 - ahead), each * ahead.sum()
    alpha, lack = -shift[:, 1] * signal, 1 + shift[:, 1]

    def error(c, rho2):
        margin = alpha * c / (noise * np.hypot(c, np.sqrt(rho2)))
        return wrong @ special.ndtr(-margin) + right * (c < 0)

    def at_ridge(log_ridge):
        ridge = np.exp(log_ridge)
        m = optimize.brentq(
            lambda m: ridge * m + wrong.sum() * noise**2 * m / (1 + noise**2 * m) - ratio,
            0, ratio / ridge + 1,
        )  # fmt: skip
        omega = 1 / (1 + noise**2 * m)
        c = right * signal + wrong @ alpha * omega
        c /= ridge + right * signal**2 + wrong @ (alpha**2 + noise**2) * omega
        missed = wrong @ ((1 - alpha * c) ** 2 + noise**2 * c**2) * (noise * omega) ** 2
        return error(c, m * missed / (ridge + wrong.sum() * (noise * omega) ** 2))

    def at_share(fitted):
        c = 1 / signal
        return error(c, wrong @ (lack**2 / noise**2 + c**2) / (ratio - fitted))

    values = [at_ridge(x) for x in np.linspace(-16, 8, 97)]
    if wrong.sum() < ratio:
        values += [at_share(x) for x in np.linspace(wrong.sum(), min(ratio, 1), 400)[1:-1]]
    return min(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "point"),
    some_slow([
        (1e-4, {"tokens": 2, "signal": 0.3, "context": 0.3, "noise": 1.2, "ratio": 0.2,
                "shifts": [[-0.5, -0.5], [1.0, 1.0]]}),
        # Here noise in the head is of use, which needs ridges that fall with the gain.
        (1.5e-3, {"tokens": 2, "signal": 1.5, "context": 0.3, "noise": 0.3, "ratio": 0.2,
                "shifts": [[-0.5, 1.0], [1.0, -0.5]]}),
        (1e-4, {"tokens": 12, "signal": 0.3, "context": 1.5, "noise": 1.2, "ratio": 3.0,
                "shifts": [[1.0, -0.5], [-0.5, 1.0]]}),
        # A gain of 0.5 is better than endless ones.
        (-0.01, {"tokens": 6, "signal": 1.0, "context": 0.4, "noise": 1.2, "ratio": 0.8,
                 "shifts": [[0.0, 0.0]]}),
    ], first=1),
)  # fmt: skip
def test_where_no_gain_is_best_the_error_of_endless_ones_is_nearly_reached(left, point):
    """The scan once ended with up to 0.02 left."""
    found = CLAIM.predict(**point, relevant=1, gain=1.0)
    endless = min(error_of_endless_gains(sign, **point, relevant=1) for sign in (-1, 1))
    off, stderr = found["best_gain_error"] - endless, found["best_gain_error_stderr"]
    assert off < left + 3 * stderr
    if left > 0:
        assert off > -3 * stderr


@pytest.mark.usefixtures("no_gain_search")
def test_a_sharp_prompt_without_use_of_a_ridge_has_none():
    """At d/n = 3 the error falls with the ridge to that of minimum norm, whose scale is the least
    noise level of all: 1e-6 of their mean is a large ridge there."""
    point = {"tokens": 12, "relevant": 1, "signal": 1.5, "context": 1.5, "noise": 0.3, "ratio": 3.0,
             "shifts": [[-0.5, 1.0], [1.0, -0.5]]}  # fmt: skip
    found = CLAIM.predict(**point, gain=20.0)
    law = feature_law(12, 1, 1.5, 1.5, 0.3, 20.0, ((-0.5, 1.0), (1.0, -0.5)), (0.5, 0.5))
    ridges = [ridge_limit(law, 3.0, x).error.mean() for x in 10.0 ** np.arange(-120, 5, 8)]
    plain = ridge_limit(law, 3.0, 0.0).error.mean()
    assert found["error"] <= min(*ridges, plain) + 1e-12
    assert found["saving"] >= 0
    assert ridge_limit(law, 3.0, 1e-6 * (law.tau**2).mean()).error.mean() > 1.05 * found["error"]


WITHOUT_PLACE = ("error", "saving", "best_gain_error")


def test_the_best_gain_against_random_sequences():
    """0.8573 and 0.09982 ± 0.00007, by SciPy's minimisers on two million random sequences."""
    found = CLAIM.predict(**BASE, gain=1.0, ratio=0.8)
    assert found["best_gain"] == pytest.approx(0.8573, abs=0.003)
    assert found["best_gain_error"] == pytest.approx(0.09982, abs=1.5e-4)
    assert 0 < found["best_gain_stderr"] < 1e-3


@pytest.mark.parametrize("scale", some_slow([1e-3, 0.3, 30.0, 1e3], first=1))
@pytest.mark.parametrize("shifts", some_slow([[[0.0, 0.0]], [[-3.0, 0.0], [0.0, 0.2]]], first=1))
def test_scaling_the_tokens_scales_the_best_places(scale, shifts):
    """(W, Q, σ, γ) → (sW, sQ, sσ, γ/s²): errors stay, the best gain and ridge follow."""
    plain = CLAIM.predict(**BASE, gain=1.0, ratio=0.8, shifts=shifts)
    scaled = {n: scale * BASE[n] for n in ("signal", "context", "noise")}
    found = CLAIM.predict(**{**BASE, **scaled}, gain=scale**-2, ratio=0.8, shifts=shifts)
    for name, power in (*((n, 0) for n in WITHOUT_PLACE), ("best_gain", -2), ("best_ridge", 2)):
        # Where the error falls with the gain until ridges underflow, rounding moves the place.
        unsure = 0.1 * plain[f"{name}_stderr"] if name == "best_gain" else 0.0
        value, rounding = plain[name], max(1e-7 * abs(plain[name]), unsure)
        assert abs(found[name] * scale**-power - value) <= rounding, name


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("shifts", [((0.0, 0.0),), ((-3.0, 0.0), (0.0, 0.2))])
def test_scaling_the_tokens_scales_what_is_searched(scale, shifts):
    numbers = {n: BASE[n] for n in ("signal", "context", "noise")}
    scaled = {n: scale * value for n, value in numbers.items()}
    gains = best_ridge._scanned_gains(**scaled, shifts=shifts) * scale**2
    np.testing.assert_allclose(
        gains, best_ridge._scanned_gains(**numbers, shifts=shifts), rtol=1e-12
    )
    odds = (1 / len(shifts),) * len(shifts)
    plain, other = (
        limits._ridge_range(
            feature_law(10, 2, **law, gain=gain, shifts=shifts, shift_weights=odds), 0.8
        )
        for law, gain in ((numbers, 1.0), (scaled, scale**-2))
    )
    np.testing.assert_allclose(np.array(other) / scale**2, plain, rtol=1e-9)


def test_a_negative_gain_is_best_where_irrelevant_tokens_are_nearer_to_the_context():
    """With δq = −3 they are at 3Q; a scan by hand finds no positive gain as good."""
    shifts = ((-3.0, 0.0),)
    found = CLAIM.predict(**BASE, gain=1.0, ratio=0.8, shifts=shifts)
    assert found["best_gain"] < 0
    for gain in (-2.0, -0.5, 0.2, 0.8):
        features = feature_law(10, 2, 1.0, 1.5, 1.0, gain, shifts)
        ridge = limits.best_ridge(features, 0.8)
        assert ridge_limit(features, 0.8, ridge).error.mean() > found["best_gain_error"]


@pytest.mark.usefixtures("no_gain_search")
def test_best_places_and_their_errors_against_the_full_curve():
    features = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)
    found = CLAIM.predict(**BASE, gain=1.0, ratio=0.8)
    best = optimize.minimize_scalar(
        lambda x: ridge_limit(features, 0.8, float(np.exp(x))).error.mean(),
        bounds=(0.5, 3.0), method="bounded", options={"xatol": 1e-7},
    )  # fmt: skip
    assert found["best_ridge"] == pytest.approx(np.exp(best.x), rel=2e-3)
    assert found["error"] == pytest.approx(best.fun, abs=1e-9)


def test_the_comparison_sees_a_search_that_stopped_early():
    """The least errors are set beside a grid's: a poor ridge or gain is refuted."""
    point = {**BASE, "gain": 1.0, "ratio": 0.8}
    given, predicted = CLAIM.validated(point), CLAIM.predict(**point)
    rows = list(best_ridge._by_plain_grid(point, given, predicted))
    assert {row.quantity for row in rows} == {"error", "best_gain_error"}
    for row in rows:
        assert abs(row.simulated - row.predicted) <= row.tolerance, row
    worse = {**predicted, **{row.quantity: predicted[row.quantity] + 0.006 for row in rows}}
    for off in best_ridge._by_plain_grid(point, given, worse):
        assert abs(off.simulated - off.predicted) > off.tolerance, off


@pytest.mark.usefixtures("no_gain_search")
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_relevant_tokens_alone_are_learned_without_error(ratio):
    """All rows are then one up to its sign; without ridge its direction alone is inverted."""
    point = {**BASE, "relevant": 10, "gain": 1.0, "ratio": ratio}
    predicted, found = CLAIM.predict(**point), CLAIM.simulate(key=0, trials=2, dim=16, **point)
    for name in ("error", "saving"):
        assert found[name].mean == predicted[name] == 0.0
    rows = np.random.default_rng(0).normal(size=(1, 30, 6)) @ np.diag([1.0, 2, 3, 4, 0, 0])
    for used in (rows, rows[:, :3]):
        found = best_ridge._ridge_heads(used)[0, 0]
        expected = np.linalg.pinv(used[0]) @ np.ones(used.shape[1])
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.usefixtures("no_gain_search")
def test_equal_noise_wants_the_mean_row():
    """With the gain 0 all sequences have one noise level, and the best ridge is infinite."""
    found = CLAIM.predict(**BASE, gain=0.0, ratio=0.7)
    assert found["best_ridge"] > 1e3


@pytest.mark.parametrize("count", [5, 12])
def test_heads_solve_their_systems(count):
    rows = np.random.default_rng(0).normal(size=(3, count, 8))
    heads = best_ridge._ridge_heads(rows)
    for trial, part in zip(rows, heads, strict=True):
        np.testing.assert_allclose(
            part[0], np.linalg.lstsq(trial, np.ones(count), rcond=None)[0], rtol=1e-8
        )
        for ridge, head in zip(best_ridge._RIDGES, part[1:], strict=True):
            matrix = trial.T @ trial / count + ridge * np.eye(8)
            np.testing.assert_allclose(head, np.linalg.solve(matrix, trial.mean(axis=0)), rtol=1e-8)


def test_judged_by_the_conditional_error():
    setting = Setting.make(**BASE, gain=0.0)
    heads = np.array([[[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    found = best_ridge._errors_of_heads(setting, heads, jax.random.key(0))
    # Without gain attention is uniform: signal 0.2, noise √0.08. Errors are computed in float32.
    ratio = 0.2 / np.sqrt(0.08)
    np.testing.assert_allclose(found[0], special.ndtr([-ratio, -ratio / np.sqrt(3)]), rtol=1e-6)


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted(all_refuted_by_simulation):
    verdict = CLAIM.check()
    assert verdict.status == "confirmed"
    assert {v.status for v in CLAIM.falsify_cells(verdict).values()} == {"refuted"}
    all_refuted_by_simulation(CLAIM, verdict)


@pytest.mark.parametrize("ratio", some_slow([0.2, 1.0, 5.0, 0.5, 0.8, 2.0], first=3))
def test_the_least_error_between_nine_ridges(ratio):
    """Of the limit's own curve, which has no noise: what the simulation's interpolation misses."""
    features = feature_law(10, 2, 1.0, 1.5, 1.0, 1.0)
    ridges = (0.0, *best_ridge._RIDGES, limits.best_ridge(features, ratio))
    *curve, least = (ridge_limit(features, ratio, x).error.mean() for x in ridges)
    found = best_ridge._least(np.array(curve)[:, None])
    for name, exact in (("error", least), ("saving", curve[0] - least)):
        off = abs(found[name][0] - exact)
        assert off < 3e-5, f"{name} at d/n = {ratio} is {off:.1e} off, of a standard error of 2e-4"
