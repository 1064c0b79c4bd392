from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import gradient_steps

SETTING = Setting.make(
    tokens=4, relevant=1, signal=1.3, context=1.1, noise=0.9,
    shifts=((0.0, 0.0), (0.5, 0.3)), shift_weights=(0.4, 0.6),
)  # fmt: skip
DIM, SAMPLES, NORM, TRIALS = 9, 30, 2.0, 2500


# One compiled program, where every operation alone would be one.
@functools.partial(jax.jit, static_argnums=(1, 2))
def many_sequences(setting, dim, count, key):
    return gradient_steps.sample_batch(setting, dim, count, key=key)


def draw_lengths(dim, trials, seed):
    keys = jax.random.split(jax.random.key(seed), trials)
    return jax.jit(jax.vmap(lambda k: gradient_steps.orthogonal_lengths(dim, key=k)))(keys)


@pytest.fixture(scope="module")
def both():
    """Inner products after both prompts' heads: by tokens and autodiff, and by the exact law."""
    indices = jnp.arange(TRIALS, dtype=jnp.uint32)

    @jax.jit
    def tokens(index):
        key = jax.random.fold_in(jax.random.key(0), index)
        return gradient_steps.token_steps(SETTING, DIM, SAMPLES, NORM, key=key)

    lengths = draw_lengths(DIM, TRIALS, 2)

    @jax.jit
    def reduced(index, length):
        key = jax.random.fold_in(jax.random.key(1), index)
        return gradient_steps.reduced_steps(SETTING, SAMPLES, NORM, length, key=key)

    return jax.lax.map(tokens, indices), jax.vmap(reduced)(indices, lengths)


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


def test_samples_beyond_one_chunk_are_averaged_once():
    """Means over rows do not depend on how they fall into chunks."""

    def row(label, own, other, normals):
        return jnp.column_stack([label, own, normals[:, 0]])

    at = {
        n: np.asarray(gradient_steps._terms(SETTING, n, 1, jax.random.key(3), row).mean)
        for n in (1, gradient_steps.CHUNK, gradient_steps.CHUNK + 1, 3 * gradient_steps.CHUNK)
    }
    assert abs(at[1][0]) == 1
    # One more row than a chunk: the means differ by that row alone.
    extra = (gradient_steps.CHUNK + 1) * at[gradient_steps.CHUNK + 1] - gradient_steps.CHUNK * at[
        gradient_steps.CHUNK
    ]
    assert abs(extra[0]) == pytest.approx(1, abs=1e-4)


def moments(rows):
    """Means and variances of columns, and the standard errors of both."""
    mean, centred = rows.mean(axis=0), rows - rows.mean(axis=0)
    squares = centred**2
    spread = squares.std(axis=0) / np.sqrt(len(rows))
    return mean, squares.mean(axis=0), rows.std(axis=0) / np.sqrt(len(rows)), spread


@pytest.mark.parametrize("step", [1, 2, 3])
def test_terms_equal_those_of_tokens(step):
    """Gradients of single sequences by tokens and autodiff, in five coordinates: their means and
    variances along w⋆, q⋆ and the rest, and a fifth coordinate's variance."""
    count, dim = 20_000, 5
    given = np.array([0.4, 0.3, 0.5]) if step == 2 else np.array([0.6, 0.9, 0.7])
    vector, zero = jnp.zeros(dim).at[:3].set(given), jnp.zeros(dim)
    gradient = {
        1: lambda one: gradient_steps.head_step(zero, zero, one),
        2: lambda one: gradient_steps.prompt_step(vector, zero, one),
        3: lambda one: gradient_steps.head_step(zero, vector, one),
    }[step]
    batch = many_sequences(SETTING, dim, count, jax.random.key(7))
    single = jax.tree.map(lambda a: a[:, None], batch)
    rows = np.asarray(jax.jit(jax.vmap(gradient))(single), np.float64)
    key, length = jax.random.key(8), jnp.float32(1)
    if step == 1:
        _, terms = gradient_steps._first(SETTING, count, length, key)
    elif step == 2:
        _, terms = gradient_steps._second(SETTING, count, vector[:3], length, key)
    else:
        _, terms = gradient_steps._third(SETTING, count, vector[:4], length, key)
    coordinates = 2 if step == 1 else 3
    mean, variance, mean_error, variance_error = moments(rows[:, :coordinates])
    found = [np.asarray(part)[:coordinates] for part in terms]
    # The reduced terms are as many and fluctuate as much: √2 on each error.
    assert np.all(np.abs(found[0] - mean) < 4.5 * np.sqrt(2) * mean_error)
    assert np.all(np.abs(found[1] - variance) < 4.5 * np.sqrt(2) * variance_error)
    if step > 1:  # D is the variance of the last coordinate given the rest: E[x²] = E[D]
        _, level, _, error = moments(rows[:, 4:])
        fourth = moments(rows[:, 4:] ** 4 / 3)  # E[x⁴] = 3 E[D²]
        square = terms.variance[3] + terms.mean[3] ** 2
        assert abs(terms.mean[3] - level[0]) < 4.5 * np.sqrt(2) * error[0]
        assert abs(square - fourth[0][0]) < 4.5 * np.sqrt(2) * fourth[2][0]


def test_rows_that_are_equal_have_no_variance():
    """Equal numbers whose squares' sum is not exact in float32, and numbers that are nearly so."""

    def row(label, own, other, normals):
        return jnp.column_stack([jnp.full_like(label, 0.1), 1e3 + 1e-1 * label, normals])

    found = gradient_steps._terms(SETTING, 3000, 2, jax.random.key(3), row)
    mean, variance = (np.asarray(part, np.float64) for part in found)
    assert variance[0] == 0
    assert mean[0] == np.float32(0.1)
    assert variance[1] == pytest.approx(1e-2, rel=2e-3), "a small spread far from 0"
    assert np.all(np.abs(variance[2:] - 1) < 5 * np.sqrt(2 / 3000))


def test_lengths_are_chi():
    for dim in (20, 131, 300):  # within a chunk, one row beyond it, and over several
        lengths = np.asarray(draw_lengths(dim, 2000, 4))
        for column, lost in enumerate((2, 3, 3)):
            assert stats.kstest(lengths[:, column] ** 2, stats.chi2(dim - lost).cdf).pvalue > 1e-4
        assert np.all(np.abs(np.corrcoef(lengths.T) - np.eye(3)) < 0.1)
