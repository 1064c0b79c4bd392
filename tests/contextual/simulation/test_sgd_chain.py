"""The exact chain against SGD on tokens with vectors of length d, which shares no code with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as sps

from jaxprompt.compute.threefry import unrolled
from jaxprompt.contextual.law.sgd_increments import OVERLAPS
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_chain import (
    Frame,
    SgdRates,
    Start,
    chi_squares,
    frame_of_products,
    one_step,
    overlaps_of,
    run_batches,
    run_sgd,
)
from jaxprompt.contextual.simulation.sgd_paths import path_values
from jaxprompt.core.keys import as_key

MODEL = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
SETTING = Setting.make(**MODEL)
PRODUCTS = dict(zip(OVERLAPS, (0.3, 0.1, 0.15, 0.4, 0.5, 0.1, 0.8), strict=True))


# --- token by token, in NumPy ---


def vectors_with_products(dim):
    """A head and a prompt with PRODUCTS; w⋆ and q⋆ lie along the first two coordinates."""
    head, prompt = np.zeros(dim), np.zeros(dim)
    head[:2] = PRODUCTS["head_signal"] / 1.2, PRODUCTS["head_context"]
    head[3] = np.sqrt(PRODUCTS["head_energy"] - head @ head)
    prompt[:2] = PRODUCTS["prompt_signal"] / 1.2, PRODUCTS["prompt_context"]
    prompt[3] = (PRODUCTS["head_prompt"] - head @ prompt) / head[3]
    prompt[5] = np.sqrt(PRODUCTS["prompt_energy"] - prompt @ prompt)
    return head, prompt


def token_gradients(rng, head, prompt, loss="square"):
    """Minus the gradients of one fresh sequence for each row of head and prompt."""
    rows, dim = head.shape
    label = rng.choice([-1.0, 1.0], rows)
    shift = np.array(MODEL["shifts"])[rng.integers(2, size=rows)]
    tokens = rng.standard_normal((rows, 8, dim), dtype=np.float32)
    tokens[:, :2] = 0.0
    tokens[:, :2, 0], tokens[:, :2, 1] = 1.2 * label[:, None], 1.0
    tokens[:, 2:, 0] -= (1.2 * shift[:, 1] * label)[:, None]
    tokens[:, 2:, 1] -= shift[:, :1]
    scores = np.einsum("ntd,nd->nt", tokens, prompt)
    phi = np.exp(scores - scores.max(axis=1, keepdims=True))
    phi /= phi.sum(axis=1, keepdims=True)
    values = np.einsum("ntd,nd->nt", tokens, head)
    output = (phi * values).sum(axis=1)
    slope = label - output if loss == "square" else label / (1 + np.exp(label * output))
    psi = phi * (values - output[:, None])
    weighted = [slope[:, None] * np.einsum("nt,ntd->nd", w, tokens) for w in (phi, psi)]
    return weighted[0], weighted[1]


def products_of(head, prompt):
    columns = (
        1.2 * head[:, 0], head[:, 1], 1.2 * prompt[:, 0], prompt[:, 1], (head**2).sum(1),
        (head * prompt).sum(1), (prompt**2).sum(1),
    )  # fmt: skip
    return np.stack(columns, axis=1)


def largest_z_scores(one, other):
    """Of the differences of two samples' means, and of their covariances."""

    def z(a, b):
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        return float((np.abs(a.mean(axis=0) - b.mean(axis=0)) / error).max())

    def products(a):
        centred = a - a.mean(axis=0)
        return (centred[:, :, None] * centred[:, None, :]).reshape(len(a), -1)

    return z(one, other), z(products(one), products(other))


def as_rows(values):
    return np.stack([np.asarray(values[name]) for name in OVERLAPS], axis=-1)


@jax.jit
def products_frame():
    return frame_of_products(SETTING, **PRODUCTS)


overlaps = jax.jit(jax.vmap(lambda frame: overlaps_of(SETTING, frame)))


@pytest.mark.slow
def test_paths_of_forty_dimensions():
    """Means and covariances of all seven products after 1, 20 and 40 steps."""
    dim, rates, times = 40, (1.5, 3.0), (1, 20, 40)
    rng = np.random.default_rng(7)
    first = vectors_with_products(dim)
    head, prompt = (np.repeat(v[None], 1500, axis=0) for v in first)
    expected = {}
    for step in range(1, 41):
        to_head, to_prompt = token_gradients(rng, head, prompt)
        head = head + rates[0] / dim * to_head
        prompt = prompt + rates[1] / dim * to_prompt
        if step in times:
            expected[step] = products_of(head, prompt)

    with jax.enable_x64(True):
        frame = frame_of_products(SETTING, **PRODUCTS)

        class Fixed(Start):
            def frame(self, normals, chis):
                return frame

        @jax.jit
        @jax.vmap
        def paths(key):
            return run_sgd(
                SETTING, jnp.int32(dim), SgdRates(*rates), Fixed(0.0, 0.0),
                jnp.array(times, jnp.uint32), lambda f, _: overlaps_of(SETTING, f), key=key,
                batch=4096,
            )  # fmt: skip

        measured = as_rows(paths(jax.random.split(jax.random.key(3), 8192)))
    for place, time in enumerate(times):
        means, covariances = largest_z_scores(measured[:, place], expected[time])
        assert means < 4.0, (time, means)
        assert covariances < 4.5, (time, covariances)


@jax.jit
def many_steps(dim, rates, frame, key, logistic):
    """Frames after one step from the same one, with 30,000 keys: one program for all tests."""

    def step(key):
        return one_step(SETTING, dim, SgdRates(*rates), frame, key=key, logistic=logistic)

    return jax.vmap(step)(jax.random.split(unrolled(key), 30_000))


@pytest.mark.parametrize(("dim", "loss"), [(6, "square"), (12, "logistic")])
def test_one_step(dim, loss):
    rng, rates, rows = np.random.default_rng(dim), (1.5, 3.0), 30_000
    head, prompt = (np.repeat(v[None], rows, axis=0) for v in vectors_with_products(dim))
    to_head, to_prompt = token_gradients(rng, head, prompt, loss)
    expected = products_of(head + rates[0] / dim * to_head, prompt + rates[1] / dim * to_prompt)
    with jax.enable_x64(True):
        moved = many_steps(
            jnp.int32(dim), rates, products_frame(), jax.random.key(5), loss == "logistic"
        )
        measured = as_rows(overlaps(moved))
    means, covariances = largest_z_scores(measured, expected)
    assert means < 4.0
    assert covariances < 4.5


@pytest.mark.slow
def test_steps_on_batches():
    """Two steps of 20 sequences each, from a fixed length in random directions."""
    dim, samples, rates, rows = 12, 20, (1.5, 3.0), 2000
    rng = np.random.default_rng(2)
    head, prompt = (rng.standard_normal((rows, dim)) for _ in range(2))
    head *= 0.7 / np.linalg.norm(head, axis=1, keepdims=True)
    prompt *= 0.9 / np.linalg.norm(prompt, axis=1, keepdims=True)
    for _ in range(2):
        drawn = [token_gradients(rng, head, prompt) for _ in range(samples)]
        to_head, to_prompt = (sum(pair[i] for pair in drawn) / samples for i in range(2))
        head, prompt = head + rates[0] * to_head, prompt + rates[1] * to_prompt
    expected = products_of(head, prompt)
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def batches(key):
            return run_batches(
                SETTING, jnp.int32(dim), jnp.uint32(samples), SgdRates(*rates), Start(0.7, 0.9),
                jnp.array([2], jnp.uint32), lambda f, _: overlaps_of(SETTING, f), key=key,
            )  # fmt: skip

        measured = as_rows(batches(jax.random.split(jax.random.key(8), 4096)))[:, 0]
    means, covariances = largest_z_scores(measured, expected)
    assert means < 4.0
    assert covariances < 4.5


# --- parts ---


FREEDOM = np.array([1.0, 2.0, 3.0, 61.0, 1e5])


@jax.jit
def drawn_chi_squares(first, key):
    return chi_squares(jnp.asarray(FREEDOM, jnp.float32), first, 4000, key=key)


def test_chi_squares_have_their_law():
    drawn = drawn_chi_squares(jnp.uint32(0), jax.random.key(1))
    for column, dof in zip(np.asarray(drawn, np.float64).T, FREEDOM, strict=True):
        assert sps.kstest(column, sps.chi2(dof).cdf).pvalue > 1e-3, dof


def test_chi_squares_are_addressed_by_row():
    whole, later = (drawn_chi_squares(jnp.uint32(i), jax.random.key(4)) for i in (0, 40))
    np.testing.assert_array_equal(np.asarray(whole)[40:], np.asarray(later)[:-40])


def test_frame_has_the_products():
    with jax.enable_x64(True):
        found = overlaps(jax.tree.map(lambda x: x[None], products_frame()))
        for name, value in PRODUCTS.items():
            assert float(found[name][0]) == pytest.approx(value, abs=1e-12), name


PATH = {
    **MODEL, "where": "test", "head_rate": 1.0, "prompt_rate": 2.0, "head_norm": 0.3,
    "prompt_norm": 0.4, "dim": 16,
}  # fmt: skip


@pytest.mark.slow
def test_a_path_is_the_same_whatever_is_read():
    few = path_values(key=as_key(1), trials=8, first=0, time=[1.0, 2.0], **PATH)
    swapped = path_values(key=as_key(1), trials=8, first=0, time=[2.0, 0.5], **PATH)
    later = path_values(key=as_key(1), trials=4, first=4, time=[1.0, 2.0], **PATH)
    for name in OVERLAPS:
        np.testing.assert_array_equal(few[name][:, 1], swapped[name][:, 0])
        np.testing.assert_array_equal(few[name][4:], later[name])


@pytest.mark.slow
def test_starts():
    values = path_values(key=as_key(1), trials=4096, first=0, time=[0.0, 0.0], **PATH)
    at = {name: values[name][:, 0] for name in OVERLAPS}
    np.testing.assert_allclose(at["head_energy"], 0.09, rtol=1e-6)
    np.testing.assert_allclose(at["prompt_energy"], 0.16, rtol=1e-6)
    variances = {"head_signal": 0.09 * 1.44, "prompt_context": 0.16, "head_prompt": 0.09 * 0.16}
    for name, variance in variances.items():
        ratio = 16 * at[name].var() / variance
        assert abs(ratio - 1) < 4 * np.sqrt(2 / 4096), name
        assert abs(at[name].mean()) < 4 * at[name].std() / 64
    frozen = path_values(
        key=as_key(1), trials=4, first=0, time=[0.0, 1.0], **{**PATH, "head_rate": 0.0},
        head_signal=0.2,
    )  # fmt: skip
    np.testing.assert_allclose(frozen["head_signal"], 0.2, rtol=1e-12)
    np.testing.assert_array_equal(frozen["head_context"], 0.0)
    np.testing.assert_allclose(frozen["head_energy"], 0.09, rtol=1e-12)


def test_frame_of_nothing_stays_at_zero():
    """From 0 the first step moves the head alone: the prompt's gradient is 0 there."""
    with jax.enable_x64(True):
        zero = Frame(np.zeros(3), np.zeros(4))
        moved = many_steps(jnp.int32(9), (1.0, 1.0), zero, jax.random.key(0), False)
        assert (np.abs(moved.head).sum(axis=1) > 0).all()
        np.testing.assert_array_equal(moved.prompt, 0.0)
