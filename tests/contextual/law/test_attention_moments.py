"""Moments of the attention, and the expectations taken over them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import integrate, special
from scipy import stats as sps

from jaxprompt.contextual.law import attention_moments


def brute(gap, scale, relevant, scalars):
    scores = np.concatenate([np.full(relevant, gap), scale * scalars])
    weights = special.softmax(scores)
    own, other = weights[:relevant], weights[relevant:]
    return own.sum(), (other**2).sum(), (other * scalars).sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gap", [-700.0, -3.0, 0.0, 2.0, 700.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_moments_against_softmax(gap, scale):
    scalars = np.random.default_rng(0).normal(size=(5, 6))
    found = attention_moments.moments(jnp.full(5, gap), scale, 3, jnp.asarray(scalars))
    for i, row in enumerate(scalars):
        for name, value in zip(
            attention_moments.Moments._fields, brute(gap, scale, 3, row), strict=True
        ):
            np.testing.assert_allclose(
                getattr(found, name)[i], value, rtol=1e-11, atol=1e-300, err_msg=name
            )


@pytest.mark.usefixtures("x64")
def test_without_irrelevant_tokens_all_weight_is_relevant():
    found = attention_moments.moments(jnp.array(0.3), 1.0, 4, jnp.zeros((2, 0)))
    assert found.attention.tolist() == [1.0, 1.0]
    assert found.spread.tolist() == [0.0, 0.0]
    assert found.drift.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("x64")
def test_one_irrelevant_token_against_quadrature():
    nodes = attention_moments.normal_nodes(1)
    gap, scale = 0.8, 1.3
    found = attention_moments.moments(jnp.full(nodes.shape[:2], gap), scale, 2, jnp.asarray(nodes))

    def weight(v):
        return np.exp(scale * v) / (2 * np.exp(gap) + np.exp(scale * v))

    for name, function in (
        ("attention", lambda v: 1 - weight(v)),
        ("spread", lambda v: weight(v) ** 2),
        ("drift", lambda v: weight(v) * v),
    ):
        expected = integrate.quad(lambda v, f=function: f(v) * sps.norm.pdf(v), -12, 12)[0]
        value, stderr = attention_moments.mean_and_stderr(
            np.asarray(getattr(found, name)).mean(axis=1)
        )
        assert abs(value - expected) < 5 * stderr + 1e-12, f"{name}: {value} against {expected}"
        assert stderr < 1e-4, f"{name}: the rule's own error {stderr:.1e} is not negligible"


@pytest.mark.parametrize("count", some_slow([1, 3, 50, 1000], first=3))
def test_nodes_are_reproducible_and_normal(count):
    nodes = attention_moments.normal_nodes(count)
    attention_moments.normal_nodes.cache_clear()
    np.testing.assert_array_equal(nodes, attention_moments.normal_nodes(count))
    assert nodes.shape[0] == attention_moments.REPLICATES
    assert nodes.shape[2] == count
    assert nodes.size <= 2**24
    assert not nodes.flags.writeable
    assert np.isfinite(nodes).all()
    for replicate in nodes[:2, :, 0]:
        assert sps.kstest(replicate, "norm").pvalue > 1e-3
    assert abs(nodes.mean()) < 0.01
    assert nodes.var() == pytest.approx(1, abs=0.01)


def test_replicates_differ():
    nodes = attention_moments.normal_nodes(4)
    assert not np.isin(nodes[0], nodes[1]).any()


def test_no_scalars():
    assert attention_moments.normal_nodes(0).shape == (2, 1, 0)


def test_pooled():
    values = np.random.default_rng(0).normal(size=(16, 3))
    mean, stderr = attention_moments.mean_and_stderr(values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(stderr, sps.sem(values))


@pytest.mark.usefixtures("x64")
def test_stated_error_covers_the_truth():
    # The rule's spread over replicates is an honest error of their mean.
    exact = np.exp(0.5 * 3 / 9)  # E exp(mean of three normals)
    value, stderr = attention_moments.mean_and_stderr(
        np.exp(attention_moments.normal_nodes(3).mean(axis=2)).mean(axis=1)
    )
    assert abs(value - exact) < 5 * stderr


@pytest.mark.parametrize("count", [1, 3, 8])
def test_tilted_nodes_have_the_normal_law(count):
    """Weighted means of moments and of rare low sums, whose exact values are Gaussian integrals."""
    nodes = attention_moments.score_nodes(count, 5.0)
    assert nodes.scalars.shape[1] == 2 * attention_moments.normal_nodes(count).shape[1]
    np.testing.assert_allclose(nodes.weights.sum(axis=1), 1.0)
    total = nodes.scalars.sum(axis=2) / np.sqrt(count)  # itself a standard normal
    for values, exact in (
        (total, 0.0),
        (total**2, 1.0),
        (np.exp(total), np.exp(0.5)),
        (np.exp(-2 * total), np.exp(2.0)),
        (total < -3.0, sps.norm.cdf(-3.0)),
    ):
        value, stderr = attention_moments.mean_and_stderr((nodes.weights * values).sum(axis=1))
        assert abs(value - exact) < 4.5 * stderr + 1e-12
        assert stderr < 0.01 * max(exact, 0.1)


def test_plain_nodes_up_to_two_standard_deviations():
    nodes = attention_moments.score_nodes(3, 2.0)
    np.testing.assert_array_equal(nodes.scalars, attention_moments.normal_nodes(3))
    assert np.ptp(nodes.weights) == 0
