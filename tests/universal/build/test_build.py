"""build_prefix: it does what its certificate says, or says what it could not do."""

import inspect

import jax
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.attention import prefixed_head
from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_prefix
from jaxprompt.universal.build import build
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets


def height(x):
    return x[..., -1]


def smooth(x):
    return np.exp(x[..., 0] * x[..., 1]) + x[..., 2]


def sphere_points(m, count=3000, seed=99):
    points = np.random.default_rng(seed).normal(size=(count, m + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("f", "m", "accuracy"),
    some_slow(
        [
            (lambda x: x, 1, 1e-4),
            (smooth, 2, 1e-2),
            (lambda x: 3.0, 2, 1e-3),
            (lambda x: abs(x[0]), 1, 0.04),
            (lambda x: x**2, 3, 0.1),
            (lambda x: np.linalg.norm(x - 0.1), 2, 0.01),
        ],
        first=3,
    ),
)
def test_reaches_its_accuracy(f, m, accuracy):
    prefix = build_prefix(f, sphere_dim=m, accuracy=accuracy, test_points=1500)
    points = sphere_points(m)
    exact = np.array([f(x) for x in points])
    error = np.abs(prefix(points) - exact).reshape(len(points), -1)
    error = np.linalg.norm(error, axis=1).max()
    note = prefix.certificate
    assert note.reached
    assert note.measured <= accuracy
    assert error <= 1.1 * accuracy  # other points than those it was measured on
    assert error <= note.guaranteed * (1 + 1e-9)
    assert error <= note.estimated * (1 + 1e-9)
    assert note.value_norm <= 10 * note.sup_norm * (1 + 1e-9)
    assert note.tokens == len(prefix.keys) <= note.budget
    assert prefix(points).shape == exact.shape


def test_plugs_into_the_ordinary_head():
    prefix = build_prefix(smooth, sphere_dim=2, accuracy=0.02, content=5, test_points=1000)
    x = sphere_points(2, 5)
    with jax.enable_x64(True):
        ordinary = jax.jit(lambda *parts: prefixed_head(*parts).output)(
            x, np.zeros((5, 3)), np.zeros((5, 1)), prefix.keys, prefix.values
        )
        matrices = prefix.tokens(scaled=True)
        tokens = head.content_tokens(x, matrices.prefix.shape[1], False)
        stacked, _ = jax.jit(lambda *parts: head.apply_blocks(*parts, scaled=True))(
            matrices, tokens
        )
    np.testing.assert_allclose(prefix(x), ordinary[:, 0], rtol=1e-12)
    np.testing.assert_allclose(prefix(x), stacked[:, 0], rtol=1e-11)
    assert np.abs(prefix(x) - smooth(x)).max() <= 0.02


def test_net_guarantees_its_accuracy():
    prefix = build_prefix(
        smooth, sphere_dim=2, accuracy=0.3, lipschitz=2.0, method="net", test_points=1000
    )
    note = prefix.certificate
    assert note.lipschitz_source == "given"
    assert note.measured <= note.guaranteed <= 0.3
    assert note.needed_tokens <= note.tokens <= note.theorem_tokens
    np.testing.assert_allclose(prefix.values[:, 0], smooth(prefix.centres))


def test_says_when_the_accuracy_is_out_of_reach():
    prefix = build_prefix(
        lambda x: np.sign(x[..., 0]), sphere_dim=2, accuracy=0.1, budget=40, test_points=1000
    )
    assert not prefix.certificate.reached
    assert "NOT reached" in str(prefix.certificate)
    assert np.isfinite(prefix(sphere_points(2))).all()


@pytest.mark.parametrize("method", ["two_term", "deconvolution", "least_squares"])
def test_better_values_beat_the_functions_own(method):
    centres = point_sets.fibonacci(60)
    prefix = build_prefix(
        smooth, sphere_dim=2, accuracy=1e-9, method=method, centres=centres, test_points=1000
    )
    raw = head.estimate(
        sphere_points(2), centres, smooth(centres)[:, None], prefix.concentration, content=1
    )[:, 0]
    raw_error = np.abs(raw - smooth(sphere_points(2))).max()
    assert prefix.certificate.method == method
    assert prefix.certificate.measured < 0.5 * raw_error


def test_takes_functions_of_one_point_and_of_many():
    def one(x):
        assert x.ndim == 1
        return float(x[0]) ** 2

    alone = build_prefix(one, sphere_dim=1, accuracy=0.01, test_points=500)
    many = build_prefix(lambda x: x[..., 0] ** 2, sphere_dim=1, accuracy=0.01, test_points=500)
    np.testing.assert_array_equal(alone.values, many.values)
    # Looks vectorised, but indexes the batch: must not be called with a batch.
    first = build_prefix(lambda x: x[0], sphere_dim=1, accuracy=0.01, test_points=500)
    assert first.certificate.reached
    # Takes batches only.
    rows = build_prefix(lambda x: x[:, :1] ** 2, sphere_dim=1, accuracy=0.01, test_points=500)
    np.testing.assert_array_equal(rows.values, many.values)


def test_a_functions_own_error_is_kept():
    def broken(x):
        raise ZeroDivisionError("the function's own")

    with pytest.raises(ZeroDivisionError, match="the function's own"):
        build_prefix(broken, sphere_dim=1, accuracy=0.01)


def test_same_call_same_prefix():
    a, b = (build_prefix(height, sphere_dim=3, accuracy=0.05, test_points=500) for _ in range(2))
    np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"accuracy": 0.0}, "accuracy"),
        ({"accuracy": -1.0}, "accuracy"),
        ({"accuracy": float("nan")}, "accuracy"),
        ({"sphere_dim": 0}, "sphere_dim"),
        ({"budget": 2}, "budget"),
        ({"method": "nets"}, "method"),
        ({"method": "net", "sphere_dim": 4}, "method"),
        ({"content": -1}, "content"),
        ({"lipschitz": -1.0}, "lipschitz"),
        ({"lipschitz": 0.1}, "lipschitz"),
        ({"value_limit": 0}, "value_limit"),
        ({"test_points": 3}, "test_points"),
        ({"f": lambda x: np.nan * x[..., 0]}, "f"),
        ({"f": lambda x: "word"}, "f"),
        ({"f": lambda x: 1j}, "f"),
        ({"f": lambda x: np.eye(2)}, "f"),
        ({"f": lambda x: np.zeros(1 + int(x[0] > 0))}, "f"),
        ({"f": lambda x: np.log(np.maximum(x[..., 0], 0.0)) if x.ndim else 0.0}, "f"),
        ({"centres": np.eye(3) * 2}, "centres"),
        ({"centres": np.eye(2)}, "centres"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input(changes, word):
    arguments = {"f": height, "sphere_dim": 2, "accuracy": 0.1, "test_points": 500, **changes}
    f = arguments.pop("f")
    # The function itself, without the type checks that tests wrap around it.
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        inspect.unwrap(build_prefix)(f, **arguments)
    assert "\n" not in str(caught.value)


def test_a_dimension_that_is_not_whole_is_refused():
    with pytest.raises(ParameterError, match="`sphere_dim`"):
        build._check(1.5, 0.1, 100, None, "auto", 1, 10.0, 1000)


@pytest.mark.parametrize("name", ["accuracy", "lipschitz", "value_limit", "content", "budget"])
def test_a_truth_value_is_no_number(name):
    arguments = {"sphere_dim": 1, "accuracy": 0.1, name: True}
    with pytest.raises(ParameterError, match=rf"`{name}` = True: must be"):
        build_prefix(lambda x: x[0], **arguments)


def test_points_off_the_sphere_are_refused():
    prefix = build_prefix(height, sphere_dim=2, accuracy=0.1, test_points=500)
    with pytest.raises(ParameterError, match="points"):
        prefix(np.ones((2, 3)))
    with pytest.raises(ParameterError, match="points"):
        prefix(np.ones((2, 2)))
