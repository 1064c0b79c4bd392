"""The two samplers: token by token, and by the exact law; equal in law."""

from __future__ import annotations

import functools
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow
from scipy import stats as sps

from jaxprompt.attention import prompt_attention
from jaxprompt.compute.threefry import unrolled
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import (
    pooled_rows,
    sample_sequence,
    sequence_rows,
    shift_index,
)

DIM, COUNT = 5, 20_000
SHIFTS = {"shifts": [[0.0, 0.0], [0.5, 0.3]], "shift_weights": [0.4, 0.6]}
POINTS = {
    "plain": {"gain": 1.0},
    "shifted": {"gain": 0.7, **SHIFTS},
    "uniform": {"gain": 0.0, "shifts": [[0.5, 0.3]]},
    "negative": {"gain": -0.5, **SHIFTS},  # the program of "shifted"
    "no_noise_tokens": {"gain": 1.0, "relevant": 6},
    "one_noise_token": {"gain": 2.0, "relevant": 5},
}


def setting(**changes):
    point = {"tokens": 6, "relevant": 2, "signal": 1.2, "context": 1.5, "noise": 0.8}
    return Setting.make(**{**point, **changes})


@jax.jit
def features_by_token(s, key):
    prompt = jnp.zeros(DIM).at[1].set(s.gain * s.context)

    def one(key):
        sequence = sample_sequence(s, DIM, key=key)
        return sequence.label * prompt_attention(sequence.tokens, prompt)

    return jax.vmap(one)(jax.random.split(unrolled(key), COUNT))


def by_token(s, seed):
    """Label times pooled feature of sequences drawn token by token."""
    return np.asarray(features_by_token(s, jax.random.key(seed)), np.float64)


draw_rows = jax.jit(pooled_rows, static_argnums=(1, 3))


def by_law(s, seed):
    return np.asarray(draw_rows(s, DIM, 0, COUNT, key=jax.random.key(seed)), np.float64)


FUNCTIONALS = {
    "along w": lambda r: r[:, 0],
    "along q": lambda r: r[:, 1],
    "other": lambda r: r[:, 2],
    "norm": lambda r: np.linalg.norm(r, axis=1),
    "mixed": lambda r: r @ np.array([1.0, 0.5, -0.5, 0.3, 0.2]),
    "signal times bulk": lambda r: r[:, 0] * (r[:, 3] ** 2 + r[:, 4] ** 2),
}


@pytest.mark.parametrize("name", mostly_slow(POINTS, ("shifted", "negative").__contains__))
def test_the_two_laws_are_equal(name):
    s = setting(**POINTS[name])
    token, law = by_token(s, 1), by_law(s, 2)
    for what, functional in FUNCTIONALS.items():
        one, two = functional(token).round(5), functional(law).round(5)
        p = sps.ks_2samp(one, two).pvalue
        assert p > 1e-4, f"{what}: the samplers differ, KS p = {p:.1e}"
    error = np.sqrt((token.var(axis=0) + law.var(axis=0)) / COUNT) + 1e-6
    z = np.abs(token.mean(axis=0) - law.mean(axis=0)) / error
    assert z.max() < 4.5, f"means differ by {z.max():.1f} standard errors"


@pytest.mark.parametrize("ridge", some_slow([0.0, 0.1], first=1))
def test_equal_training_errors(ridge):
    s, n, trials = setting(**POINTS["shifted"]), 40, COUNT // 40

    def losses(rows):
        found = []
        for r in rows.reshape(trials, n, DIM):
            head = np.linalg.solve(r.T @ r / n + ridge * np.eye(DIM), r.mean(axis=0))
            found.append(((1 - r @ head) ** 2).mean())
        return np.array(found)

    token, law = (losses(f(s, seed)) for f, seed in ((by_token, 3), (by_law, 4)))
    z = (token.mean() - law.mean()) / np.hypot(sps.sem(token), sps.sem(law))
    assert abs(z) < 4, f"training errors {token.mean():.4f} and {law.mean():.4f}: z = {z:.1f}"


def test_rows_are_the_same_in_every_chunk():
    s, key = setting(**POINTS["shifted"]), jax.random.key(0)
    whole = np.asarray(draw_rows(s, DIM, 0, COUNT, key=key))
    for first in (0, 20, 53, 4001):
        chunk = np.asarray(draw_rows(s, DIM, first, 20, key=key))
        np.testing.assert_allclose(chunk, whole[first : first + 20], rtol=1e-5, atol=1e-6)


@functools.partial(jax.jit, static_argnums=1)
def single(s, dim, key):
    return sample_sequence(s, dim, key=key)


@functools.partial(jax.jit, static_argnums=1)
def from_table(s, dim, key):
    return jax.tree.map(lambda x: x[0], sequence_rows(s, dim, 0, 1, key=key))


@pytest.mark.parametrize("draw", [single, from_table])
def test_sequences_follow_the_definition(draw):
    s = setting(gain=1.0, noise=0.0, shifts=[[0.5, 0.3]])
    sequence = draw(s, 4, jax.random.key(0))
    y = float(sequence.label)
    assert y in (-1.0, 1.0)
    np.testing.assert_allclose(sequence.tokens[:2], [[1.2 * y, 1.5, 0, 0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(
        sequence.tokens[2:], [[-0.3 * 1.2 * y, -0.5 * 1.5, 0, 0]] * 4, rtol=1e-6
    )


THREE_SHIFTS = setting(gain=0.7, shifts=[[0, 0], [1, 0.2], [0.3, 1]], shift_weights=[0.2, 0.5, 0.3])


@jax.jit
def many_sequences():
    keys = jax.random.split(unrolled(jax.random.key(9)), COUNT)
    return jax.vmap(lambda key: sample_sequence(THREE_SHIFTS, 3, key=key))(keys)


rows_of_table = jax.jit(sequence_rows, static_argnums=(1, 3))


def table(key):
    return rows_of_table(THREE_SHIFTS, 3, 0, COUNT, key=jax.random.key(key))


@functools.cache
def many():
    return jax.tree.map(np.asarray, many_sequences())


@pytest.mark.parametrize("draw", [many, lambda: table(10)], ids=["many", "table"])
def test_labels_and_shifts_have_their_odds(draw):
    found, odds = draw(), THREE_SHIFTS.shift_weights
    p = sps.chisquare(np.bincount(found.shift, minlength=3), COUNT * odds).pvalue
    assert p > 1e-4, f"shifts: p = {p:.1e}"
    assert abs(float(found.label.mean())) < 4.5 / np.sqrt(COUNT)
    assert abs(np.corrcoef(found.label, found.shift)[0, 1]) < 4.5 / np.sqrt(COUNT)


def test_tokens_of_many_sequences_have_the_law_of_one():
    """Mean and covariance of all coordinates of all tokens, label among them."""
    one, two = (
        np.column_stack([np.reshape(x.tokens, (COUNT, -1)), x.label]).astype(np.float64)
        for x in (many(), table(10))
    )
    for power in (1, 2):
        a, b = (
            np.stack([np.prod(p, axis=0) for p in combinations_with_replacement(x.T, power)])
            for x in (one, two)
        )
        error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / COUNT) + 1e-6
        z = np.abs(a.mean(axis=1) - b.mean(axis=1)) / error
        assert z.max() < 5, f"order {power}: moments differ by {z.max():.1f} standard errors"


def test_sequences_are_the_same_in_every_chunk():
    whole, chunk = table(0), rows_of_table(THREE_SHIFTS, 3, 53, 7, key=jax.random.key(0))
    np.testing.assert_array_equal(chunk.shift, whole.shift[53:60])
    np.testing.assert_allclose(chunk.tokens, whole.tokens[53:60], rtol=1e-5, atol=1e-6)


def test_shift_index_at_the_edges():
    s = setting(gain=0.0, shifts=[[0, 0], [1, 0]], shift_weights=[0.25, 0.75])
    found = shift_index(s, jnp.array([1e-7, 0.2, 0.25, 0.9999999]))
    assert found.tolist() == [0, 0, 1, 1]
    certain = setting(gain=0.0, shifts=[[0, 0], [1, 0]], shift_weights=[1.0, 0.0])
    assert shift_index(certain, jnp.array([0.0, 0.99999994])).tolist() == [0, 0]
