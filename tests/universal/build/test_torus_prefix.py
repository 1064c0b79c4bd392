"""build_torus_prefix: one head on angles, its bound against adversaries, plain attention."""

import math

import numpy as np
import pytest
from quick_cases import mostly_slow

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_torus_prefix


def short_way(difference):
    return (difference + math.pi) % (2 * math.pi) - math.pi


ANCHOR = np.array([0.4, 5.8, 2.0])


def distance(x):
    """The distance from a point: its slope is 1 everywhere, with a ridge on the far side."""
    return np.linalg.norm(short_way(x - ANCHOR[: x.shape[-1]]), axis=-1)


def teeth(x):
    """Three teeth a turn in each angle, of slope 1: the constant is √m."""
    return np.abs(short_way(3 * x)).sum(axis=-1) / 3


def smooth(x):
    """Analytic: |gradient| ≤ e^{1}·(1, 1)-ish; the constant by the chain rule is √2 e."""
    return np.exp(np.cos(x[..., 0])) * np.sin(x[..., -1] + 0.5)


def pair(x):
    """Two outputs, (cos, sin) of an angle: the constant is 1."""
    return np.stack([np.cos(x[..., 0]), np.sin(x[..., 0])], axis=-1)


CASES = {
    "distance 1": (distance, 1, 1.0, 0.1),
    "distance 2": (distance, 2, 1.0, 0.4),
    "distance 3": (distance, 3, 1.0, 0.9),
    "teeth": (teeth, 2, math.sqrt(2), 0.4),
    "smooth": (smooth, 2, math.sqrt(2) * math.e, 1.0),
    "pair": (pair, 1, 1.0, 0.1),
}


def worst_error(prefix, f, dim, seed):
    random = np.random.default_rng(seed)

    def error(x):
        return np.linalg.norm((prefix(x) - f(x)).reshape(len(x), -1), axis=1)

    x = random.uniform(0, 2 * math.pi, size=(1500, dim))
    side = round(len(prefix.angles) ** (1 / dim))
    x[:600] = math.pi * random.integers(0, 2 * side, size=(600, dim)) / side
    x[:300] += random.normal(size=(300, dim)) * 1e-7
    x[600:700] = math.pi + ANCHOR[:dim] + random.normal(size=(100, dim)) * 1e-2
    height = error(x)
    top = np.argsort(-height)[:12]
    x, height, step = x[top], height[top], math.pi / side
    for _ in range(14):
        for i in range(dim):
            for sign in (-1, 1):
                moved = x.copy()
                moved[:, i] += sign * step
                there = error(moved)
                better = there > height
                x[better], height[better] = moved[better], there[better]
        step *= 0.6
    return float(height.max())


@pytest.mark.parametrize("name", mostly_slow(CASES, {"distance 2", "smooth"}.__contains__))
def test_a_net_keeps_its_guarantee(name):
    f, dim, constant, accuracy = CASES[name]
    prefix = build_torus_prefix(
        f, dim=dim, accuracy=accuracy, lipschitz=constant, method="net", budget=8000,
        test_points=1000,
    )  # fmt: skip
    note = prefix.certificate
    assert note.reached
    found = worst_error(prefix, f, dim, seed=1)
    assert max(found, note.measured) <= note.guaranteed <= accuracy
    assert note.needed_tokens <= note.tokens <= note.theorem_tokens
    if name.startswith("distance"):  # the class's own worst case
        assert note.measured > 0.5 * note.guaranteed


@pytest.mark.parametrize("name", mostly_slow(CASES, {"distance 1"}.__contains__))
def test_fewer_tokens_by_deconvolution_and_bounds_that_hold(name):
    f, dim, constant, accuracy = CASES[name]
    prefix = build_torus_prefix(
        f, dim=dim, accuracy=accuracy, lipschitz=constant, budget=8000, test_points=1000
    )
    note = prefix.certificate
    assert note.reached
    found = worst_error(prefix, f, dim, seed=2)
    assert found <= 1.02 * note.measured + 1e-12
    assert found <= note.guaranteed


@pytest.mark.slow
def test_smooth_functions_converge_spectrally():
    errors = [
        build_torus_prefix(
            smooth, dim=2, accuracy=1e-12, budget=side**2, method="deconvolution", test_points=300
        ).certificate.measured
        for side in (4, 7, 10)
    ]
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 8


def test_tokens_as_plain_attention():
    """The blocks of the fixed head, one query at a time, by the definition of attention."""
    prefix = build_torus_prefix(
        smooth, dim=2, accuracy=0.2, content=3, test_points=500, lipschitz=math.sqrt(2) * math.e
    )
    weights = prefix.tokens()
    for angles in np.random.default_rng(0).uniform(0, 6, size=(4, 2)):
        x = np.stack([np.cos(angles), np.sin(angles)], axis=1).ravel() / math.sqrt(2)
        content = np.zeros((3, weights.w_query.shape[1]))
        content[:, :4] = x
        rows = np.concatenate([np.asarray(weights.prefix), content])
        score = rows @ weights.w_key.T @ (weights.w_query @ content[0])
        share = np.exp(score - score.max())
        expected = share / share.sum() @ (rows @ weights.w_value.T)
        assert prefix(angles) == pytest.approx(expected[0], abs=1e-9)


def test_no_guarantee_without_a_constant_and_no_false_success():
    prefix = build_torus_prefix(teeth, dim=3, accuracy=0.05, budget=64, test_points=1000)
    note = prefix.certificate
    assert note.guaranteed == math.inf
    assert not note.reached
    assert note.theorem_tokens > 64
    assert "NOT reached" in str(note)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"dim": 0}, "dim"), ({"dim": 7}, "dim"), ({"accuracy": 0}, "accuracy"),
     ({"budget": 8}, "budget"), ({"lipschitz": 0.9}, "lipschitz"), ({"method": "nte"}, "method"),
     ({"content": -1}, "content"), ({"value_limit": 0}, "value_limit"),
     ({"test_points": 5}, "test_points")],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line(changes, word):
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        build_torus_prefix(distance, **{"dim": 2, "accuracy": 0.5, **changes})
    assert "\n" not in str(caught.value)


def test_points_of_another_dimension_are_refused():
    prefix = build_torus_prefix(distance, dim=1, accuracy=0.5, test_points=100)
    with pytest.raises(ParameterError, match="`points`"):
        prefix(np.zeros(2))
