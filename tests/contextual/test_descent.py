from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprompt.contextual import descent
from jaxprompt.contextual.setting import Setting

SETTING = Setting.make(
    tokens=4, relevant=1, signal=1.3, context=1.1, noise=0.9,
    shifts=((0.0, 0.0), (0.5, 0.3)), shift_weights=(0.4, 0.6),
)  # fmt: skip
DIM, SAMPLES, NORM, TRIALS = 9, 30, 2.0, 2500


def draw_lengths(dim, trials, seed):
    keys = jax.random.split(jax.random.key(seed), trials)
    return jax.jit(jax.vmap(lambda k: descent.orthogonal_lengths(dim, key=k)))(keys)


@pytest.fixture(scope="module")
def both():
    """Inner products after both prompts' heads: by tokens and autodiff, and by the exact law."""
    indices = jnp.arange(TRIALS, dtype=jnp.uint32)

    @jax.jit
    def tokens(index):
        key = jax.random.fold_in(jax.random.key(0), index)
        return descent.token_steps(SETTING, DIM, SAMPLES, NORM, key=key)

    lengths = draw_lengths(DIM, TRIALS, 2)

    @jax.jit
    def reduced(index, length):
        key = jax.random.fold_in(jax.random.key(1), index)
        return descent.reduced_steps(SETTING, SAMPLES, NORM, length, key=key)

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
        n: np.asarray(descent._mean_rows(SETTING, n, 1, jax.random.key(3), row))
        for n in (1, descent.CHUNK, descent.CHUNK + 1, 3 * descent.CHUNK)
    }
    assert abs(at[1][0]) == 1
    # One more row than a chunk: the means differ by that row alone.
    extra = (descent.CHUNK + 1) * at[descent.CHUNK + 1] - descent.CHUNK * at[descent.CHUNK]
    assert abs(extra[0]) == pytest.approx(1, abs=1e-4)


def test_lengths_are_chi():
    for dim in (20, 131, 300):  # within a chunk, one row beyond it, and over several
        lengths = np.asarray(draw_lengths(dim, 2000, 4))
        for column, lost in enumerate((2, 3, 3)):
            assert stats.kstest(lengths[:, column] ** 2, stats.chi2(dim - lost).cdf).pvalue > 1e-4
        assert np.all(np.abs(np.corrcoef(lengths.T) - np.eye(3)) < 0.1)
