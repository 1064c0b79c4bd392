"""`universal.quantised_prefix`: bound and law against mpmath and against every rounding pattern."""

import itertools

import mpmath
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.universal.claims import quantised_prefix
from jaxprompt.universal.numerics import point_sets, rounding

CLAIM = "universal.quantised_prefix"


def softmax(scores):
    scores = np.asarray(scores, float)
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def test_total_variation_by_mpmath():
    """No random softmax passes tanh(D/4); the pair with log-odds D/2 attains it to 30 digits."""
    random = np.random.default_rng(0)
    with mpmath.workdps(30):
        for _ in range(200):
            count = int(random.integers(2, 7))
            scores, errors = random.normal(size=count) * 3, random.normal(size=count) * 2
            before, after = (
                [mpmath.e ** mpmath.mpf(s) for s in row] for row in (scores, scores + errors)
            )
            moved = (
                sum(
                    abs(b / sum(before) - a / sum(after))
                    for b, a in zip(before, after, strict=True)
                )
                / 2
            )
            oscillation = errors.max() - errors.min()
            assert moved <= rounding.total_variation_limit(oscillation) * (1 + 1e-12)
        for oscillation in (1e-3, 1.0, 7.0):
            half = mpmath.mpf(oscillation) / 2
            moved = 1 / (1 + mpmath.e**-half) - 1 / (1 + mpmath.e**half)
            limit = float(rounding.total_variation_limit(oscillation))
            assert limit == pytest.approx(float(moved), rel=1e-14)


def patterns(shape):
    """Every pattern of signs of that shape: (2^size, *shape)."""
    size = int(np.prod(shape))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=size)))
    return signs.reshape(-1, *shape)


@pytest.mark.parametrize("content", [0, 2])
def test_every_rounding_pattern_of_a_small_prefix(content):
    """All 4096 patterns of half steps: none passes the bound; their mean square is three times the
    law's, because half a step either way has three times the variance of a uniform error."""
    query = np.array([0.6, 0.8])
    centres = np.array([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
    zeros, lam = np.zeros((content, 2)), 3.0
    values = np.concatenate([centres, zeros])
    keys = np.concatenate([lam * centres, zeros])
    weights = softmax(keys @ query)
    output = weights @ values

    def changes(key_step, value_step):
        signs = patterns((2, 3, 2))
        pad = np.zeros((len(signs), content, 2))
        moved_keys = keys + np.concatenate([key_step / 2 * signs[:, 0], pad], axis=1)
        moved_values = values + np.concatenate([value_step / 2 * signs[:, 1], pad], axis=1)
        weight = softmax(moved_keys @ query)
        return np.linalg.norm(np.einsum("pk,pkn->pn", weight, moved_values) - output, axis=1)

    for key_step, value_step in ((0.5, 0.0), (1.0, 0.3), (0.0, 0.4)):
        predicted = jp.claim(CLAIM).predict(
            sphere_dim=1, centres=3, concentration=lam, content=content,
            key_step=key_step, value_step=value_step,
        )  # fmt: skip
        assert changes(key_step, value_step).max() <= predicted["bound"] * (1 + 1e-12)
    for key_step, value_step in ((1e-3, 0.0), (2e-3, 1e-3), (0.0, 1e-3)):
        law = rounding.mean_square_change(
            weights[None, :3], centres, output[None],
            np.array(key_step**2 / 12), np.array(2 * value_step**2 / 12),
        )  # fmt: skip
        mean_square = np.square(changes(key_step, value_step)).mean()
        assert mean_square == pytest.approx(3 * law[0], rel=1e-5)


@pytest.mark.parametrize(
    ("content", "lam", "step", "off"),
    [(0, 3.0, 0.1, 1e-3), (2, 20.0, 0.1, 1e-3), (1, 6.0, 1.0, 0.03)],
)
def test_law_by_quadrature_over_the_errors(content, lam, step, off):
    """The exact mean square over uniform errors, by tensor quadrature: the law leads it."""
    claim = jp.claim(CLAIM)
    given = {"sphere_dim": 1, "centres": 3, "concentration": lam, "content": content}
    law = claim.predict(**given, key_step=step, value_step=0.05)["rms"]
    node, weight = np.polynomial.legendre.leggauss(4)
    nodes = np.array(list(itertools.product(node, repeat=6))).reshape(-1, 3, 2)
    mass = np.array([np.prod(w) for w in itertools.product(weight / 2, repeat=6)])
    centres = point_sets.equispaced(3)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0]
    total = 0.0
    queries = point_sets.equispaced(quantised_prefix.QUERIES) @ turn
    for query in queries:
        log_content = [np.log(content)] if content else []
        values = np.concatenate([centres, np.zeros((len(log_content), 2))])
        exact = softmax(np.append(lam * centres @ query, log_content)) @ values
        scores = (lam * centres + step / 2 * nodes) @ query
        scores = np.concatenate([scores, np.tile(log_content, (len(nodes), 1))], axis=1)
        weights = softmax(scores)
        square = np.square(weights @ values - exact).sum(1)
        # Errors of the values are independent of those of the keys, and enter linearly.
        square += 2 * 0.05**2 / 12 * np.square(weights[:, :3]).sum(1)
        total += float(mass @ square) / len(queries)
    assert law == pytest.approx(np.sqrt(total), rel=off)


@pytest.mark.parametrize(("m", "accuracy"), [(1, 0.9), (2, 0.05), (8, 1e-6)])
def test_bits_give_back_the_accuracy(m, accuracy):
    claim, lam = jp.claim(CLAIM), 40.0
    bits = claim.predict(sphere_dim=m, centres=50, concentration=lam, accuracy=accuracy)
    with mpmath.workdps(30):
        root = mpmath.sqrt(m + 1)
        key_step = 2 * lam / mpmath.mpf(2) ** float(bits["bits_per_key"])
        value_step = 2 / mpmath.mpf(2) ** float(bits["bits_per_value"])
        assert float(2 * mpmath.tanh(root * key_step / 4)) == pytest.approx(accuracy / 2, rel=1e-10)
        assert float(root * value_step / 2) == pytest.approx(accuracy / 2, rel=1e-10)


def test_closed_form_is_the_general_law():
    given = {"sphere_dim": 2, "centres": 40, "concentration": 9.0, "content": 5}
    steps = {"key_step": np.array([0.1, 0.3]), "value_step": 0.02}
    predicted = jp.claim(CLAIM).predict(**given, **steps)
    centres = point_sets.fibonacci(40)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    queries = point_sets.fibonacci(quantised_prefix.QUERIES) @ turn
    scores = np.concatenate([9.0 * queries @ centres.T, np.zeros((len(queries), 5))], axis=1)
    weights = softmax(scores)[:, :40]
    for step, rms in zip(steps["key_step"], predicted["rms"], strict=True):
        law = rounding.mean_square_change(
            weights, centres, weights @ centres, np.array(step**2 / 12), np.array(3 * 0.02**2 / 12)
        )
        assert rms == pytest.approx(np.sqrt(law.mean()), rel=1e-12)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"key_step": 0.1}, "value_step"),
        ({}, "key_step"),
        ({"key_step": 2.0, "value_step": 0.1}, "key_step"),
        ({"key_step": 0.4, "value_step": 0.1, "concentration": 0.3}, "key_step"),
        ({"key_step": 1e-12, "value_step": 0.1}, "key_step"),
        ({"key_step": 0.1, "value_step": 1e-12}, "value_step"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"accuracy": 0.1, "centres": 10**6}, "centres"),
    ],
)
def test_bad_input_is_named(given, word):
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        jp.claim(CLAIM).predict(**{"sphere_dim": 2, "centres": 50, "concentration": 5.0, **given})
    assert "\n" not in str(caught.value)
