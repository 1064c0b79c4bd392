"""Ranks of biases through shared keys, against loops and exact ranks of small matrices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.attention import grouped_prefixed_heads
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import gqa_rank

CLAIM = jp.claim("prefix.gqa_rank")

jit = functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)


def test_published_numbers():
    """Eight query heads of width 6 on two key heads: measured when the theory was written."""
    found = CLAIM.predict(heads=8, groups=2, head_dim=6, prefix=[1, 2, 6, 9])
    np.testing.assert_array_equal(found["rank"], [8, 16, 48, 48])
    np.testing.assert_array_equal(found["parameters"], [24, 48, 144, 216])


def test_biases_against_loops_and_the_shared_head(x64):
    """Each bias is a head's mass times the mean of its group's values, head by head."""
    made = gqa_rank.biases_of_shared_prefix(
        7, heads=6, groups=3, head_dim=2, prefix=4, random=np.random.default_rng(5)
    )
    random = np.random.default_rng(5)
    inputs, project = random.normal(size=(7, 12)), random.normal(size=(12, 6, 2)) / np.sqrt(12)
    content_keys = random.normal(size=(7, 6, 3, 2))
    keys, values = random.normal(size=(2, 3, 4, 2))
    for i in range(7):
        for head in range(6):
            query = sum(inputs[i, d] * project[d, head] for d in range(12))
            group = head // 2
            terms = np.exp(np.sqrt(2) * np.array([query @ k for k in keys[group]]))
            other = sum(np.exp(np.sqrt(2) * (query @ k)) for k in content_keys[i, :, group])
            weights = terms / (terms.sum() + other)
            np.testing.assert_allclose(made[0][i, head], weights @ values[group], rtol=1e-10)
            assert made[1][i, head] == pytest.approx(weights.sum(), rel=1e-12)
    assert made[2] == 2 * 3 * 4 * 2
    # And through the package's heads, whose options this claim does not use.
    query = np.einsum("id,dhk->hik", inputs, project)
    outputs = jit(jax.vmap(
        lambda query, content: grouped_prefixed_heads(
            query[:, None], content.swapaxes(0, 1), jnp.zeros((3, 6, 2)), keys, values,
            scale=2**0.5,
        ).output[:, 0],
        in_axes=(1, 0),
    ))  # fmt: skip
    np.testing.assert_allclose(outputs(query, content_keys), made[0], rtol=1e-9)


def test_dimensions_add_over_heads_and_not_over_groups():
    made = CLAIM.simulate(key=1, trials=2, heads=4, groups=1, head_dim=5, prefix=2)
    assert made["rank"].mean == 8
    assert made["mass_rank"].mean == 4
    assert made["parameters"].mean == 2 * 1 * 2 * 5


def test_shared_queries_are_refuted(monkeypatch):
    """The check can fail: query heads that share their query too have one direction a group."""
    real = gqa_rank.biases_of_shared_prefix

    def one_query(rows, *, heads, groups, **options):
        biases, masses, size = real(rows, heads=groups, groups=groups, **options)
        repeat = heads // groups
        return np.repeat(biases, repeat, axis=1), np.repeat(masses, repeat, axis=1), size

    monkeypatch.setattr(gqa_rank, "biases_of_shared_prefix", one_query)
    assert CLAIM.check(trials=2).status == "refuted"


def test_refusals_name_the_parameter():
    with pytest.raises(ParameterError, match=r"`groups`.*divisor of heads = 8"):
        CLAIM.predict(heads=8, groups=3, head_dim=4, prefix=1)
    with pytest.raises(ParameterError, match=r"`head_dim`.*at most 4"):
        CLAIM.simulate(key=0, trials=2, heads=64, groups=1, head_dim=8, prefix=1)
