"""The third step of descent in NumPy: its moments, its errors, and what memory they take."""

from __future__ import annotations

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.contextual.law import attention_moments, third_step
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting

REFERENCE = {
    "tokens": 10, "relevant": 2, "signal": 1.5, "context": 1.5, "noise": 1.0,
    "shifts": [[0.0, 0.0], [0.5, 0.3]],
}  # fmt: skip
UNEVEN = {
    "tokens": 4, "relevant": 1, "signal": 0.7, "context": 2.5, "noise": 0.6,
    "shifts": [[-0.4, 0.2], [1.5, -1.3], [0.0, 0.6]], "shift_weights": [0.2, 0.3, 0.5],
}  # fmt: skip


def steps_of(setting, count, scalars, part, seed=0, scale=0.1):
    rng = np.random.default_rng(seed)
    heads, prompts = rng.normal(size=(count, 3)), rng.normal(size=(count, 4))
    nodes, energy = rng.normal(size=(count, 4)), rng.uniform(0.1, 1.0, count)
    found = third_step.third_step(setting, heads, prompts, nodes, scale, energy, scalars, part)
    return heads, prompts, nodes, energy, found


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, 0))
def errors_by_formula(setting, head, prompt, step, energy, scores):
    """Before the step and after it; and the head's norm after it."""
    framed = jnp.array([prompt[0], prompt[1], jnp.hypot(prompt[2], prompt[3])])
    before = Geometry.of_vectors(setting, jnp.append(head, 0.0), prompt)
    norm = jnp.sqrt(jnp.square(step[:3]).sum() + jnp.maximum(step[3], 0.0) * energy)
    after = Geometry.of_vectors(setting, step[:3], framed, head_norm=norm)
    return jnp.stack([conditional_error(setting, g, scores) for g in (before, after)]), norm


@pytest.mark.parametrize(
    "law", some_slow([UNEVEN, REFERENCE, {**REFERENCE, "relevant": 9}], first=1)
)
def test_errors_are_those_of_fixed_heads_and_prompts(law):
    """By `conditional_error`, which shares no code with them: before the step and after it."""
    setting = Setting.make(**law)
    scalars = attention_moments.normal_nodes(setting.irrelevant)[:3, :64]
    part = np.array([0, 2, 1, 1, 0])
    heads, prompts, nodes, energy, found = steps_of(setting, 5, scalars, part)
    steps = found.mean + np.einsum("mij,mj->mi", found.root, nodes)
    with jax.enable_x64(True):
        expected, norms = errors_by_formula(
            setting, heads, prompts, steps, energy, np.asarray(scalars)[part]
        )
    np.testing.assert_allclose(found.errors, expected, rtol=1e-10)
    np.testing.assert_allclose(found.head_norm, norms, rtol=1e-12)


def test_chunks_change_nothing(monkeypatch):
    setting = Setting.make(**REFERENCE)
    scalars, part = attention_moments.normal_nodes(8)[:2, :32], np.arange(7) % 2
    whole = steps_of(setting, 7, scalars, part)[-1]
    monkeypatch.setattr(third_step, "_ENTRIES", 3 * 2 * 2 * 32)
    for one, other in zip(whole, steps_of(setting, 7, scalars, part)[-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("tokens", [10, 1000, 100_000])
def test_memory_does_not_grow_with_tokens(tokens):
    """Of the 2048 nodes few are held at once, and fewer where there are many tokens."""
    setting = Setting.make(**{**REFERENCE, "tokens": tokens})
    inner = min(128, 2**24 // (16 * tokens))
    scalars = np.random.default_rng(0).normal(size=(1, inner, setting.irrelevant))
    count = 160 if tokens == 10 else 4
    tracemalloc.start()
    steps_of(setting, count, scalars, np.zeros(count, int))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 2e8, f"{held / 1e9:.2f} GB beside the scores themselves"


def test_third_moments_against_brute_force():
    """Pooled features of single sequences, token by token, under a prompt in general position."""
    setting = Setting.make(**REFERENCE)
    prompt = np.array([0.3, 0.9, 0.6])
    rng = np.random.default_rng(1)
    count = 200_000
    label = rng.choice([-1.0, 1.0], count)
    shift = np.array(REFERENCE["shifts"])[rng.integers(0, 2, count)]
    tokens = np.zeros((count, 10, 3))
    tokens[:, :2, 0], tokens[:, :2, 1] = 1.5 * label[:, None], 1.5
    tokens[:, 2:, 0], tokens[:, 2:, 1] = -(shift[:, 1] * label * 1.5)[:, None], -1.5 * shift[:, :1]
    tokens[:, 2:] += rng.normal(size=(count, 8, 3))
    weights = np.exp(tokens @ prompt)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = label[:, None] * np.einsum("nt,nti->ni", weights, tokens)
    rows = np.column_stack([rows, (weights[:, 2:] ** 2).sum(axis=1)])
    prompts = np.tile(prompt, (4, 1))
    table = third_step.attention_table(setting, prompts, attention_moments.normal_nodes(8)[:4])
    means, covariances = third_step.third_moments(setting, prompts, table)
    mean, covariance = means.mean(axis=0), covariances.mean(axis=0)
    assert np.all(np.abs(rows.mean(axis=0) - mean) < 5 * rows.std(axis=0) / np.sqrt(count))
    centred = rows - mean
    products = centred[:, :, None] * centred[:, None, :]
    # The weight's spread is sampled here and integrated there: only its row is compared as such.
    error = products.std(axis=0) / np.sqrt(count)
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * error)


def test_root_is_a_square_root():
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(5, 4, 4))
    full = factor @ factor.swapaxes(1, 2)
    flat = factor[:, :, :2] @ factor[:, :, :2].swapaxes(1, 2)  # rank 2
    for matrices in (full, flat, np.zeros((1, 4, 4))):
        root = third_step.covariance_root(matrices)
        np.testing.assert_allclose(root @ root.swapaxes(1, 2), matrices, atol=1e-5)
