from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import first_point
from scipy import stats

import jaxprompt as jp
from jaxprompt.compute.threefry import unrolled
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import gradient_steps
from jaxprompt.errors import ParameterError
from jaxprompt.stats import combine

SETTING = Setting.make(
    tokens=4, relevant=1, signal=1.3, context=1.1, noise=0.9,
    shifts=((0.0, 0.0), (0.5, 0.3)), shift_weights=(0.4, 0.6),
)  # fmt: skip
DIM, SAMPLES, NORM, TRIALS = 9, 30, 2.0, 2500


WIDE = 6
"""Coordinates of the sequences that several tests draw, and of their steps: two programs."""


# One compiled program, where every operation alone would be one.
@jax.jit
def many_sequences(key):
    return gradient_steps.sample_batch(SETTING, WIDE, 20_000, key=unrolled(key))


STEPS = {"head": gradient_steps.head_step, "prompt": gradient_steps.prompt_step}


@functools.partial(jax.jit, static_argnums=0)
def single_steps(part, head, prompt, batch):
    """The step on each sequence of a batch alone."""
    single = jax.tree.map(lambda a: a[:, None], batch)
    return jax.vmap(lambda one: STEPS[part](head, prompt, one))(single)


def wide(numbers):
    return np.append(numbers, np.zeros(WIDE - len(numbers))).astype(np.float32)


@pytest.fixture(scope="module")
def both():
    """Inner products after both prompts' heads: by tokens and autodiff, and by the exact law."""
    indices = jnp.arange(TRIALS, dtype=jnp.uint32)

    @jax.jit
    def tokens(index):
        key = jax.random.fold_in(unrolled(jax.random.key(0)), index)
        return gradient_steps.token_steps(SETTING, DIM, SAMPLES, NORM, key=key)

    reduced, _ = gradient_steps.reduced_steps(
        SETTING, DIM, SAMPLES, NORM, TRIALS, rng=np.random.default_rng(1)
    )
    return jax.lax.map(tokens, indices), reduced


@pytest.mark.slow
@pytest.mark.parametrize("step", ["second", "third"])
@pytest.mark.parametrize(
    "name",
    ["head_signal", "head_context", "head_norm", "prompt_signal", "prompt_context", "head_prompt"],
)
def test_reduced_law_equals_token_law(both, step, name):
    one, two = (np.asarray(getattr(getattr(b, step), name), np.float64) for b in both)
    # Twelve two-sample tests: 1e-4 each leaves one in a thousand for a false alarm.
    assert stats.ks_2samp(one, two).pvalue > 1e-4
    assert stats.ks_2samp(one**2, two**2).pvalue > 1e-4


def test_joint_law(both):
    """Products of pairs of inner products, which the marginal tests do not see."""
    for step in ("second", "third"):
        one, two = (np.stack([np.asarray(x, np.float64) for x in getattr(b, step)]) for b in both)
        for i in range(7):
            for j in range(i):
                assert stats.ks_2samp(one[i] * one[j], two[i] * two[j]).pvalue > 2e-5


def test_prompt_norm_is_the_given_one(both):
    for steps in both:
        np.testing.assert_allclose(steps.second.prompt_norm, NORM, rtol=1e-5)
        np.testing.assert_allclose(steps.third.prompt_norm, NORM, rtol=1e-5)


def test_kinds_are_labels_with_shifts():
    """Own and mean irrelevant tokens of each kind by hand, their numbers, and their rows."""
    kinds = gradient_steps._Kinds(SETTING, 50, 4000, np.random.default_rng(5))
    order = [(y, *shift) for y in (-1.0, 1.0) for shift in SETTING.shifts]
    np.testing.assert_allclose(kinds.label, [y for y, _, _ in order])
    np.testing.assert_allclose(kinds.own, [(1.3 * y, 1.1) for y, _, _ in order])
    other = [(-dw * 1.3 * y, -dq * 1.1) for y, dq, dw in order]
    np.testing.assert_allclose(kinds.other, other, atol=1e-15)
    assert np.all(kinds.counts.sum(axis=1) == 50)
    odds = np.array([0.2, 0.3, 0.2, 0.3])
    error = np.sqrt(odds * (1 - odds) / (50 * 4000))
    assert np.all(np.abs(kinds.counts.mean(axis=0) / 50 - odds) < 4.5 * error)
    rows = kinds.rows(np.arange(4) + 10.0 * np.arange(4000)[:, None])
    for trial in (0, 3999):
        counts = np.bincount((rows[trial] - 10 * trial).astype(int), minlength=4)
        np.testing.assert_array_equal(counts, kinds.counts[trial])


def moments(rows):
    """Means and variances of columns, and the standard errors of both."""
    mean, centred = rows.mean(axis=0), rows - rows.mean(axis=0)
    squares = centred**2
    spread = squares.std(axis=0) / np.sqrt(len(rows))
    return mean, squares.mean(axis=0), rows.std(axis=0) / np.sqrt(len(rows)), spread


@pytest.mark.parametrize("step", [1, 2, 3])
def test_terms_equal_those_of_tokens(step):
    """Gradients of single sequences by tokens and autodiff, in six coordinates: their means and
    variances along w⋆, q⋆ and the rest, and a fifth coordinate's variance."""
    count, dim = 20_000, WIDE
    given = np.array([0.4, 0.3, 0.5]) if step == 2 else np.array([0.6, 0.9, 0.7])
    vector, zero = wide(given), wide([])
    part, *weights = {
        1: ("head", zero, zero), 2: ("prompt", vector, zero), 3: ("head", zero, vector),
    }[step]  # fmt: skip
    batch = many_sequences(jax.random.key(7))
    rows = np.asarray(single_steps(part, *weights, batch), np.float64)
    rng = np.random.default_rng(8)
    _, terms = {
        1: lambda: gradient_steps._first_heads(SETTING, dim, count, 1, rng),
        2: lambda: gradient_steps._prompts(SETTING, dim, count, given[None], rng),
        3: lambda: gradient_steps._last_heads(SETTING, dim, count, given[None], rng),
    }[step]()
    terms = gradient_steps.Terms(*(part[0] for part in terms))
    coordinates = 2 if step == 1 else 3
    mean, variance, mean_error, variance_error = moments(rows[:, :coordinates])
    found = [np.asarray(part)[:coordinates] for part in terms]
    # The reduced terms are as many and fluctuate no more: √2 on each error.
    assert np.all(np.abs(found[0] - mean) < 4.5 * np.sqrt(2) * mean_error)
    assert np.all(np.abs(found[1] - variance) < 4.5 * np.sqrt(2) * variance_error)
    if step > 1:  # D is the variance of the last coordinate given the rest: E[x²] = E[D]
        _, level, _, error = moments(rows[:, 4:5])
        fourth = moments(rows[:, 4:5] ** 4 / 3)  # E[x⁴] = 3 E[D²]
        square = terms.variance[3] + terms.mean[3] ** 2
        assert abs(terms.mean[3] - level[0]) < 4.5 * np.sqrt(2) * error[0]
        assert abs(square - fourth[0][0]) < 4.5 * np.sqrt(2) * fourth[2][0]


def test_rows_that_are_equal_have_no_variance():
    """Equal numbers whose squares' sum is not exact in float32, and numbers that are nearly so."""
    rng = np.random.default_rng(3)
    label = rng.choice([-1.0, 1.0], (1, 3000))
    rows = [
        np.full((1, 3000), 0.1, np.float32),
        np.asarray(1e3 + 1e-1 * label, np.float32),
        rng.standard_normal((1, 3000), np.float32),
        np.zeros((1, 3000), np.float32),
    ]
    _, terms = gradient_steps._mean_step([rows], np.eye(3)[:1], 9, rng)
    mean, variance = terms.mean[0], terms.variance[0]
    assert variance[0] == variance[3] == 0
    assert mean[0] == pytest.approx(np.float32(0.1), rel=1e-7)
    assert variance[1] == pytest.approx(1e-2, rel=2e-3), "a small spread far from 0"
    assert abs(variance[2] - 1) < 5 * np.sqrt(2 / 3000)


def test_noise_of_a_step_is_gaussian_without_what_it_was_given():
    """Of sums with variances D the mean is drawn: N(0, E[D]/n) orthogonally to the given unit
    vector, and a chi variable with d − 3 degrees of freedom for the length of all else."""
    rng = np.random.default_rng(6)
    trials, samples, dim = 4000, 7, 20
    unit = np.tile([0.6, 0.0, 0.8], (trials, 1))
    level = rng.gamma(2.0, size=(trials, samples)).astype(np.float32)
    nothing = [np.zeros((trials, samples), np.float32) for _ in range(3)]
    steps, terms = gradient_steps._mean_step([[*nothing, level.copy()]], unit, dim, rng)
    steps = steps / np.sqrt(level.mean(axis=1) / samples)[:, None]
    assert np.abs(steps[:, :3] @ unit[0]).max() < 1e-6
    for direction in ([0.0, 1.0, 0.0], [0.8, 0.0, -0.6]):
        assert stats.kstest(steps[:, :3] @ direction, stats.norm.cdf).pvalue > 1e-4
    assert stats.kstest(steps[:, 3] ** 2, stats.chi2(dim - 3).cdf).pvalue > 1e-4
    assert np.all(np.abs(np.corrcoef(steps[:, [0, 1, 3]].T) - np.eye(3)) < 0.07)
    expected = terms.mean[:, 3, None] * (1 - unit**2)
    np.testing.assert_allclose(terms.variance[:, :3], expected, rtol=1e-6)


def test_parts_of_a_batch_have_the_moments_of_the_whole():
    """In float64 by hand, from parts of unlike sizes whose means are unlike too."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((4, 2, 40)).astype(np.float32)
    whole[3] = np.square(whole[3])
    whole[:, :, 25:] += 3
    cuts = [slice(0, 1), slice(1, 25), slice(25, 40)]
    parts = [[part.copy() for part in whole[:, :, cut]] for cut in cuts]
    _, terms = gradient_steps._mean_step(parts, np.zeros((2, 3)), 9, rng)
    exact = whole.astype(np.float64)
    np.testing.assert_allclose(terms.mean, exact.mean(axis=2).T, rtol=1e-5)
    variance = exact.var(axis=2, ddof=1).T
    variance[:, :3] += terms.mean[:, 3:]
    np.testing.assert_allclose(terms.variance, variance, rtol=1e-5)


@pytest.mark.parametrize("trials", [1, 3, 50_000])
@pytest.mark.parametrize("samples", [1, 7, 100_000])
def test_parts_of_a_batch_are_all_of_it(samples, trials):
    parts = list(gradient_steps._parts_of_batch(SETTING, samples, trials))
    assert sum(parts) == samples
    assert min(parts) >= 1
    most = gradient_steps._most_rows(SETTING)
    assert max(parts) * trials <= most or max(parts) == 1


def test_length_of_the_first_head_beyond_the_plane_is_chi():
    heads, _ = gradient_steps._first_heads(SETTING, 20, 30, 4000, np.random.default_rng(4))
    level = 0.9**2 * 3 / 4**2 / 30
    assert stats.kstest(heads[:, 2] ** 2 / level, stats.chi2(18).cdf).pvalue > 1e-4
    assert (
        abs(np.corrcoef(np.abs(heads[:, :2] - heads[:, :2].mean(axis=0)).T, heads[:, 2])[2, 0])
        < 0.07
    )


GIVEN = {"head": np.zeros(2), "prompt": np.array([0.4, -0.3, 0.5])}
step_of = jax.jit(lambda name, *given: STEPS[name](*given), static_argnums=0)


@pytest.mark.parametrize("part", ["head", "prompt"])
def test_slopes_give_the_step_in_all_other_coordinates(part):
    """A step on whole tokens is, beyond the head's coordinates, the slopes times their noise."""
    given = GIVEN[part].astype(np.float32)
    size = len(given)
    batch = jax.tree.map(lambda a: np.asarray(a)[:6], many_sequences(jax.random.key(2)))
    whole = np.asarray(step_of(part, wide(given), wide([]), batch))
    term, slopes = gradient_steps._terms_and_slopes(
        STEPS[part], given, batch.tokens[:, :, :size], batch.labels
    )
    np.testing.assert_allclose(np.mean(term, axis=0), whole[:size], rtol=1e-5, atol=1e-6)
    across = np.einsum("nt,ntd->d", slopes, batch.tokens[:, :, size:]) / 6
    np.testing.assert_allclose(across, whole[size:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["head", "prompt"])
@pytest.mark.parametrize("samples", [3, gradient_steps.ROWS + 5], ids=["few", "many"])
def test_steps_in_few_coordinates_have_the_moments_of_steps_on_tokens(part, samples):
    """Against single sequences drawn with all coordinates: the mean of n terms has their mean, and
    the n-th part of their covariance."""
    trials, given = 2000 if samples == 3 else 3, GIVEN[part]
    size = len(given)
    batch = many_sequences(jax.random.key(7))
    term = np.asarray(single_steps(part, wide(given), wide([]), batch), np.float64)
    plane, across = gradient_steps.steps_in_few_coordinates(
        STEPS[part], SETTING, WIDE, samples, trials, given, key=jax.random.key(3)
    )
    assert plane.shape == (trials, size)
    mean, variance, mean_error, variance_error = moments(term)
    spread = np.sqrt(variance[:size] / (samples * trials))
    assert np.all(
        np.abs(plane.mean(axis=0) - mean[:size]) < 4.5 * np.hypot(mean_error[:size], spread)
    )
    energy, error = variance[size:].sum() / samples, variance_error[size:].sum() / samples
    spread = across.std(ddof=1) / np.sqrt(trials)
    assert abs(across.mean() - energy) < 4.5 * np.hypot(error, spread)
    if samples == 3:
        fluctuation = plane.var(axis=0) * samples
        error = np.hypot(variance_error[:size], variance[:size] * np.sqrt(6 / trials))
        assert np.all(np.abs(fluctuation - variance[:size]) < 4.5 * error)


def test_sequences_in_few_coordinates_have_the_law_of_whole_ones():
    rng = np.random.default_rng(1)
    few = gradient_steps.Batch(*gradient_steps.draw_few_coordinates(SETTING, 3, 20_000, rng))
    whole = many_sequences(jax.random.key(5))
    signs = {-1.0, 1.0}
    assert set(np.unique(few.labels).tolist()) == signs == set(np.unique(whole.labels).tolist())
    for token in (0, 1, 3):
        for column in range(3):
            one, two = (np.asarray(b.labels * b.tokens[:, token, column]) for b in (few, whole))
            assert stats.ks_2samp(one, two).pvalue > 1e-4, (token, column)


def test_too_few_coordinates_are_refused():
    with pytest.raises(ValueError, match="dim = 2"):
        gradient_steps.steps_in_few_coordinates(
            STEPS["prompt"], SETTING, 2, 5, 3, GIVEN["prompt"], key=jax.random.key(0)
        )


@pytest.mark.parametrize("id", ["contextual.prompt_step", "contextual.conditional_error"])
@pytest.mark.parametrize("done", [0, 2, 5, 64])
def test_a_simulation_goes_on_where_another_stopped(id, done):
    claim = jp.claim(id)
    point = dict(first_point(claim))
    whole = claim.simulate(point, key=3, trials=done + 7)
    rest = claim.simulate(point, key=3, trials=7, first=done)
    parts = [claim.simulate(point, key=3, trials=done), rest] if done else [rest]
    for name, estimate in whole.items():
        joined = combine([part[name] for part in parts])
        assert joined.trials == estimate.trials
        np.testing.assert_allclose(joined.mean, estimate.mean, rtol=1e-6)
        np.testing.assert_allclose(joined.stderr, estimate.stderr, rtol=1e-5)


@pytest.mark.parametrize(
    "id", ["contextual.first_step", "contextual.prompt_step", "contextual.three_steps"]
)
def test_a_batch_without_end_is_refused_in_one_line(id):
    claim = jp.claim(id)
    point = {n: v for n, v in first_point(claim).items() if n != "ratio"}
    with pytest.raises(ParameterError, match=r"`samples` = 1000000000000: must be at most \d+"):
        claim.simulate({**point, "samples": 10**12}, key=0, trials=2)
