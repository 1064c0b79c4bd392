"""``contextual.prompt_error``: reference numbers, limits of the closed form, and the simulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import stats as sps
from scipy.stats import qmc

import jaxprompt as jp
from jaxprompt.compute import devices
from jaxprompt.contextual.claims import prompt_error
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law import feature_law as law_of_features
from jaxprompt.contextual.law.feature_law import FeatureLaw, feature_law
from jaxprompt.contextual.law.ridge_limit import best_gain, best_ridge, resolvent, ridge_limit
from jaxprompt.contextual.simulation.ridge_heads import Chunks
from jaxprompt.errors import NumericalError, ParameterError

CLAIM = jp.claim("contextual.prompt_error")
BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
SHIFTED = {**BASE, "tokens": 20, "gain": 2.0, "shifts": [[0.3, 0.2]]}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({**BASE, "gain": 1.0, "ratio": 0.3}, 0.1333),
        ({**BASE, "gain": 1.0, "ratio": 0.7018}, 0.2127),
        ({**BASE, "gain": 1.0, "ratio": 1.6}, 0.1849),
        ({**BASE, "gain": 1.0, "ratio": 0.7018, "ridge": 0.05}, 0.1178),
        ({**SHIFTED, "ratio": 0.3}, 0.1726),
        ({**SHIFTED, "ratio": 0.7018, "ridge": 0.05}, 0.1496),
    ],
)
def test_reference_numbers(params, expected):
    found = CLAIM.predict(**params)
    miss = found["error"] - expected
    assert abs(miss) <= 0.0005, f"predicted {found['error']:.5f}, {miss:+.5f} from {expected}"
    assert found["error_stderr"] < 0.0002


@pytest.mark.parametrize(
    ("gain", "expected"), [(2.0, 2.137085), (3.0, 2.086085), (4.0, 2.023846), (5.0, 1.980742)]
)
def test_rare_quiet_sequences_count_at_large_gains(gain, expected):
    """ρ without ridge, an average of 1/τ², by two million importance-sampled sequences (± 7e-5)."""
    found = CLAIM.predict(**BASE, gain=gain, ratio=1.6)
    assert abs(found["head_noise"] - expected) < 3.5 * found["head_noise_stderr"]
    assert found["head_noise_stderr"] < 1e-3


def test_one_irrelevant_token_has_an_exact_noise():
    """With T = 2 and k = 1, (1 − s)/τ = 1/σ: ρ² = 2/(κ − 1) where s is all but 1."""
    found = CLAIM.predict(**{**BASE, "tokens": 2, "relevant": 1}, gain=4.0, ratio=1.6)
    assert found["head_noise"] == pytest.approx(np.sqrt(2 / 0.6), rel=1e-6)


@pytest.mark.parametrize(
    ("gain", "ratio", "ridge"),
    some_slow([(4.0, 0.9, 0.0), (1.0, 1.6, 0.0), (4.0, 1.6, 0.0), (5.0, 0.7, 0.01)], first=1),
)
def test_the_stated_error_is_the_scatter_over_independent_rules(gain, ratio, ridge, monkeypatch):
    """Eight other scramblings of the nodes; the scatter of eight has an error of a quarter."""
    found = []
    for seed in range(8):

        def points(count, power, replicate, seed=seed):
            rng = np.random.Generator(np.random.PCG64([count, replicate, seed, 1]))
            return qmc.Sobol(count, scramble=True, rng=rng).random_base2(power)

        monkeypatch.setattr(attention_moments, "_points", points)
        clear_nodes()
        limit = ridge_limit(real_law(gain), ratio, ridge)
        found.append([attention_moments.mean_and_stderr(x) for x in limit])
    clear_nodes()
    values = np.array(found)
    stated = np.sqrt(np.square(values[:, :, 1]).mean(axis=0))
    shares = values[:, :, 0].std(axis=0, ddof=1) / stated
    assert (shares > 0.3).all(), f"the stated errors are too wide: {shares}"
    assert (shares < 2.2).all(), f"the stated errors are too narrow: {shares}"


def clear_nodes():
    for cached in (attention_moments.normal_nodes, attention_moments._tilted_nodes,
                   law_of_features._summed_scores, feature_law):  # fmt: skip
        cached.cache_clear()


@pytest.mark.parametrize("scale", some_slow([1e-3, 0.1, 30.0, 1e3], first=1))
@pytest.mark.parametrize(("ratio", "ridge"), [(0.7, 0.0), (0.7, 0.05), (1.6, 0.0), (1.6, 2.0)])
def test_scaling_the_tokens_scales_the_head(scale, ratio, ridge):
    """(W, Q, σ, γ, λ) → (sW, sQ, sσ, γ/s², λs²) leaves the error, and divides the head by s."""
    plain = CLAIM.predict(**BASE, gain=1.2, ratio=ratio, ridge=ridge)
    scaled = {n: scale * BASE[n] for n in ("signal", "context", "noise")}
    found = CLAIM.predict(
        **{**BASE, **scaled}, gain=1.2 / scale**2, ratio=ratio, ridge=ridge * scale**2
    )
    for name, power in (("error", 0), ("head_signal", -1), ("head_noise", -1)):
        assert found[name] == pytest.approx(plain[name] * scale**power, rel=1e-9), name


def constant(alpha=0.7, tau=0.5):
    one = np.ones((2, 1))
    return FeatureLaw(alpha * one, tau * one, one)


@pytest.mark.parametrize("ratio", [0.05, 0.4, 0.95])
@pytest.mark.parametrize("snr", [0.3, 1.0, 4.0])
def test_collapse_for_a_constant_law(ratio, snr):
    expected = sps.norm.cdf(-(snr**2) * np.sqrt(1 - ratio) / np.sqrt(snr**2 + ratio))
    found = ridge_limit(constant(snr, 1.0), ratio, 0.0).error
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def real_law(gain=1.0, **changes):
    return feature_law(**{**BASE, "gain": gain, **changes})


def test_the_interpolation_threshold():
    found = CLAIM.predict(**BASE, gain=1.0, ratio=1.0)
    assert found["error"] == 0.5
    assert found["head_noise"] == np.inf
    near = CLAIM.predict(**BASE, gain=1.0, ratio=[0.9, 0.99, 0.999, 1.001, 1.01, 1.1])["error"]
    assert (np.diff(near[:3]) > 0).all(), "the error does not rise towards d = n"
    assert (np.diff(near[3:]) < 0).all(), "the error does not fall beyond d = n"


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.2, 3.0])
def test_vanishing_ridge_is_ridgeless(ratio):
    tiny, none = (ridge_limit(real_law(), ratio, ridge) for ridge in (1e-10, 0.0))
    for name, value in none._asdict().items():
        np.testing.assert_allclose(
            getattr(tiny, name), value, rtol=1e-6, err_msg=f"{name} jumps at ridge 0"
        )


def test_a_huge_ridge_is_the_averaging_head():
    features = real_law()
    found = ridge_limit(features, 0.5, 1e7)
    mean_alpha = (features.weights * features.alpha).sum(axis=1)
    np.testing.assert_allclose(found.head_signal * 1e7, mean_alpha, rtol=1e-5)
    noise = np.sqrt(0.5 * (features.weights * features.tau**2).sum(axis=1))
    np.testing.assert_allclose(found.head_noise * 1e7, noise, rtol=1e-5)


def test_resolvent_equation_holds():
    features = real_law()
    for ratio, ridge in ((0.3, 0.0), (0.9, 0.01), (2.0, 0.5)):
        m = resolvent(features.tau**2, features.weights, ratio, ridge)
        tau2m = features.tau**2 * m[:, None]
        left = ridge * m + (features.weights * tau2m / (1 + tau2m)).sum(axis=1)
        np.testing.assert_allclose(left, ratio, rtol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_all_tokens_relevant(ridge):
    # No noise enters: the head learns w⋆'s direction alone and never errs.
    point = {**BASE, "relevant": 10, "gain": 1.0, "ratio": 0.5, "ridge": ridge}
    found = CLAIM.predict(**point)
    assert found["error"] == 0.0
    assert found["head_signal"] == pytest.approx(1 / (1 + ridge))
    assert found["head_noise"] == 0.0


def test_noise_free_tokens():
    found = CLAIM.predict(**{**BASE, "noise": 0.0}, gain=1.0, ratio=0.5, ridge=0.1)
    assert found["error"] == 0.0
    assert np.isfinite(list(found.values())).all()


def test_no_signal_is_a_coin():
    found = CLAIM.predict(**{**BASE, "signal": 0.0}, gain=1.0, ratio=0.5, ridge=0.1)
    assert found["error"] == pytest.approx(0.5)


def test_gain_zero_is_the_linear_baseline():
    # α = ζW and τ = σ√(T−k)/T are constant there.
    found = CLAIM.predict(**BASE, gain=0.0, ratio=0.5)
    snr = 0.2 / (np.sqrt(8) / 10)
    expected = sps.norm.cdf(-(snr**2) * np.sqrt(0.5) / np.sqrt(snr**2 + 0.5))
    assert found["error"] == pytest.approx(expected, rel=1e-12)
    assert found["error_stderr"] == pytest.approx(0, abs=1e-15)


def test_extreme_gains_stay_finite():
    for gain in (-30.0, 30.0):
        found = CLAIM.predict(**BASE, gain=gain, ratio=0.5, ridge=0.05)
        assert np.isfinite(list(found.values())).all()
        assert 0 <= found["error"] <= 1


def test_feature_law_against_brute_force():
    features = real_law(gain=0.8, shifts=((0.0, 0.0), (0.5, 0.3)), shift_weights=(0.4, 0.6))
    rng = np.random.default_rng(0)
    n = 200_000
    shift = np.array([[0.0, 0.0], [0.5, 0.3]])[rng.choice(2, n, p=[0.4, 0.6])]
    scores = np.concatenate(
        [
            np.full((n, 2), 0.8 * 1.5**2),
            0.8 * (1.5 * rng.normal(size=(n, 8)) - shift[:, :1] * 1.5**2),
        ],
        axis=1,
    )
    weights = np.exp(scores)
    weights /= weights.sum(axis=1, keepdims=True)
    attention = weights[:, :2].sum(axis=1)
    alpha = attention - (1 - attention) * shift[:, 1]
    tau = np.sqrt((weights[:, 2:] ** 2).sum(axis=1))
    for f in (lambda a, t: a, lambda a, t: t**2, lambda a, t: a / t, lambda a, t: a**2 * t):
        value = f(alpha, tau)
        expected = (features.weights * f(features.alpha, features.tau)).sum(axis=1).mean()
        z = (value.mean() - expected) / (value.std() / np.sqrt(n))
        assert abs(z) < 4.5, f"{z:.1f} standard errors apart"


def test_best_ridge_is_a_minimum():
    features = real_law()
    for ratio in (0.5, 1.0, 2.0):
        ridge = best_ridge(features, ratio)
        error = ridge_limit(features, ratio, ridge).error.mean()
        for factor in (0.5, 0.8, 1.25, 2.0):
            other = ridge_limit(features, ratio, ridge * factor).error.mean()
            assert other >= error - 1e-6, f"ridge {ridge * factor:.4f} beats {ridge:.4f} at {ratio}"


def test_best_gain_is_a_minimum():
    gain = best_gain(real_law, 0.5, 0.05, scan=np.linspace(0.0, 3.0, 13))
    error = ridge_limit(real_law(gain), 0.5, 0.05).error.mean()
    for factor in (0.7, 0.9, 1.1, 1.4):
        assert ridge_limit(real_law(gain * factor), 0.5, 0.05).error.mean() >= error
    assert 0 < gain < 3


def test_predict_broadcasts():
    grid = CLAIM.predict(**BASE, gain=[[0.0], [1.0]], ratio=[0.3, 0.7, 1.6])
    assert grid["error"].shape == (2, 3)
    one = CLAIM.predict(**BASE, gain=1.0, ratio=0.7)
    assert grid["error"][1, 1] == one["error"]


def test_ratio_or_samples():
    by_samples = CLAIM.predict(**BASE, gain=1.0, dim=50, samples=100)
    assert by_samples == CLAIM.predict(**BASE, gain=1.0, dim=50, ratio=0.5)
    limit = CLAIM.predict(**BASE, gain=1.0, ratio=0.5)
    assert by_samples["error"] != limit["error"]
    assert by_samples["error"] == pytest.approx(limit["error"], rel=0.05)
    # With a dimension the ratio is the one that whole samples realise.
    realised = CLAIM.predict(**BASE, gain=1.0, dim=50, ratio=0.7)
    assert realised == CLAIM.predict(**BASE, gain=1.0, dim=50, samples=71)
    with pytest.raises(ParameterError, match="`dim`"):
        CLAIM.predict(**BASE, gain=1.0, samples=100)
    with pytest.raises(ParameterError, match="`ratio`"):
        CLAIM.predict(**BASE, gain=1.0)


# --- the simulation ---

SMALL = {**BASE, "gain": 1.0, "dim": 8, "ratio": [0.5, 2.0], "ridge": 0.1}
"""What many tests simulate, so that it is compiled once."""


def slow_trial(rng, dim, n, ridge, *, gain, shifts, odds, fresh):
    """Token by token in NumPy: features, head, and error on `fresh` sampled sequences."""

    def pooled(count):
        y = rng.choice([-1.0, 1.0], count)
        shift = np.asarray(shifts)[rng.choice(len(odds), count, p=odds)]
        x = rng.normal(size=(count, BASE["tokens"], dim)) * BASE["noise"]
        x[:, :, 0] -= (shift[:, 1] * y)[:, None] * BASE["signal"]
        x[:, :, 1] -= shift[:, :1] * BASE["context"]
        x[:, : BASE["relevant"]] = 0
        x[:, : BASE["relevant"], 0] = (y * BASE["signal"])[:, None]
        x[:, : BASE["relevant"], 1] = BASE["context"]
        scores = gain * BASE["context"] * x[:, :, 1]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return y, np.einsum("nt,ntd->nd", weights, x)

    y, features = pooled(n)
    if ridge == 0:
        head = np.linalg.pinv(features) @ y
    else:
        head = np.linalg.solve(features.T @ features / n + ridge * np.eye(dim), features.T @ y / n)
    y, features = pooled(fresh)
    return (np.sign(features @ head) != y).mean(), head[0], np.linalg.norm(head[1:])


@pytest.mark.parametrize(
    ("dim", "samples", "ridge"),
    some_slow([(8, [4, 16], 0.05), (20, [40], 0.0), (20, [12], 0.0)], first=1),
)
def test_simulation_against_token_level_numpy(dim, samples, ridge):
    """By default at sizes whose program other tests need too."""
    shifts, odds = ((0.0, 0.0), (0.5, 0.3)), (0.4, 0.6)
    point = {**BASE, "gain": 0.8, "shifts": shifts, "shift_weights": odds, "dim": dim}
    fast = CLAIM.simulate(key=5, trials=600, **point, samples=samples, ridge=ridge)
    for size, n in enumerate(samples):
        rng = np.random.default_rng([n, int(100 * ridge)])
        slow = np.array(
            [
                slow_trial(rng, dim, n, ridge, gain=0.8, shifts=shifts, odds=odds, fresh=200)
                for _ in range(400)
            ]
        )
        for place, name in enumerate(("error", "head_signal", "head_noise")):
            mean, stderr = fast[name].mean[size], fast[name].stderr[size]
            error = np.hypot(stderr, slow[:, place].std(ddof=1) / np.sqrt(len(slow)))
            z = (mean - slow[:, place].mean()) / error
            assert abs(z) < 4.2, f"{name} at {n}: {mean:.4f}, token by token {z:+.1f} s.e. away"


def test_an_entry_does_not_depend_on_those_beside_it():
    one, other = (
        CLAIM.simulate(key=1, trials=6, **{**SMALL, "ratio": [0.5, beside]}) for beside in (2, 4)
    )
    for name, estimate in one.items():
        # The same rows, summed in other chunks.
        np.testing.assert_allclose(other[name].mean[0], estimate.mean[0], rtol=1e-5)
        assert other[name].mean[1] != estimate.mean[1]


@pytest.mark.slow
def test_grids_share_a_stream_and_keep_each_entry():
    point = {**BASE, "gain": 1.0, "dim": 24}
    # With a ridge: systems without one are solved in float64, which takes longer to compile.
    grid = CLAIM.simulate(key=1, trials=6, ratio=[0.4, 0.8, 1.5], ridge=[0.02, 0.1], **point)
    assert grid["error"].mean.shape == (2, 3)
    fewer = CLAIM.simulate(key=1, trials=6, ratio=[0.4, 1.5], ridge=[0.02, 0.1], **point)
    for name, estimate in fewer.items():
        # The same rows, summed in other chunks.
        np.testing.assert_allclose(grid[name].mean[:, [0, 2]], estimate.mean, rtol=1e-5)


def test_simulation_serves_repeated_sample_sizes():
    # Of two sizes, as elsewhere, so that it is compiled already.
    point = {**SMALL, "ratio": [2.0, 0.5, 2.01]}
    found = CLAIM.simulate(key=1, trials=3, **point)["error"].mean
    assert found[0] == found[2] != found[1]


@pytest.mark.slow  # the claim's own check covers it too
def test_finite_size_agrees_with_the_limit():
    # At d = 128 the deviation (of order 1/d) lies within the error bars of these few trials.
    point = {**BASE, "gain": 1.0, "dim": 128, "ridge": 0.05}
    found = CLAIM.simulate(key=3, trials=48, ratio=0.7018, **point)["error"]
    predicted = CLAIM.predict(ratio=0.7018, **point)["error"]
    assert abs(found.mean - predicted) < 4 * found.stderr + 0.3 / 128


def test_one_compilation_for_each_shape():
    jitted = prompt_error._trials

    def simulate(**changes):
        CLAIM.simulate(key=changes.get("gain", 0) and 1, trials=2, **{**SMALL, **changes})
        return jitted._cache_size()

    one = simulate()
    for changes in ({"gain": 0.5}, {"signal": 2.0}, {"ridge": 0.2}, {"noise": 0.5}):
        assert simulate(**changes) == one, f"compiled again for {changes}"
    assert simulate(shifts=[[0.5, 0.2]]) == one, "compiled again for another shift of equal shape"
    assert simulate(ratio=[0.6, 4.0]) == one, "compiled again for another grid of equal length"
    assert simulate(ridge=0.0) == one, "a system without ridge far from d = n is well conditioned"
    near = {"ratio": [0.5, 1.2]}
    assert simulate(**near, ridge=0.0) == one + 1, "one near d = n is solved in float64"
    assert simulate(**near, ridge=1e-5) == one + 1


@pytest.mark.slow
@pytest.mark.parametrize("ratio", some_slow([[1.5, 3.0], [0.3, 0.6]], first=1))
def test_sizes_on_one_side_of_the_dimension(ratio):
    found = CLAIM.simulate(key=0, trials=3, **BASE, gain=1.0, dim=8, ratio=ratio, ridge=0.1)
    assert np.shape(found["error"].mean) == np.shape(ratio)
    assert np.isfinite(found["error"].mean).all()


@pytest.mark.slow  # by default in core/test_claims.py, by the number of trials
def test_batches_keep_every_trial(monkeypatch):
    trials = 7
    whole = CLAIM.simulate(key=4, trials=trials, **SMALL)["error"]
    monkeypatch.setattr(prompt_error, "_batch", lambda *args: 3)
    found = CLAIM.simulate(key=4, trials=trials, **SMALL)["error"]
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(found.stderr, whole.stderr, rtol=1e-4)


@pytest.mark.slow  # by default one system at a time, in test_ridge.py
def test_float32_systems_change_no_digit_that_counts(monkeypatch):
    point = {**BASE, "gain": 1.0, "dim": 32, "ratio": [0.3, 0.6, 2.0], "ridge": [0.0, 0.01, 0.1]}
    single = CLAIM.simulate(key=4, trials=8, **point)
    monkeypatch.setattr(prompt_error, "_dtype", lambda *args: jnp.float64)
    double = CLAIM.simulate(key=4, trials=8, **point)
    for name, estimate in single.items():
        off = np.abs(estimate.mean - double[name].mean) / double[name].stderr
        assert off.max() < 1e-3, f"{name} is off by {off.max():.1e} standard errors of 8 trials"


def test_memory_does_not_grow_with_trials_or_samples():
    assert prompt_error._batch(256, 3, 2) == 1
    assert prompt_error._batch(8, 3, 2) * 8 * 3 * 3 * 8**2 <= devices.trial_memory_bytes()
    assert Chunks.for_sizes((10**9,), 8) == Chunks.for_sizes((2000,), 8)


def test_padding_the_shifts_changes_nothing():
    """One shift and the same one padded with a second of weight 0 give the same bits."""
    key, shape = jax.random.key(3), {**SMALL, "gain": 0.7, "trials": 4}
    one = CLAIM.simulate(key=key, shifts=[[0.4, 0.2]], **shape)
    padded = CLAIM.simulate(
        key=key, shifts=[[0.4, 0.2], [9.0, 9.0]], shift_weights=[1.0, 0.0], **shape
    )
    for name, estimate in one.items():
        assert np.array_equal(estimate.mean, padded[name].mean), name


@pytest.mark.parametrize("gain", [1e3, 1e5])
def test_noise_that_float64_cannot_hold_is_refused(gain):
    """Without ridge the head fits features whose noise is below the least numbers. Its own was
    given as 0, with an error of 0."""
    sharp = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": gain}
    claim = jp.claim("contextual.prompt_error")
    with pytest.raises(NumericalError, match="head_noise"):
        claim.predict(**sharp, ratio=0.5, ridge=0.0)
    for ratio, ridge in ((0.1, 0.0), (1.5, 0.0), (0.5, 1e-12)):
        predicted = claim.predict(**sharp, ratio=ratio, ridge=ridge)
        assert predicted["head_noise_stderr"] > 0, (ratio, ridge)
