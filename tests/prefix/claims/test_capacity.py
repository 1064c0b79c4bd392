"""What a prefix stores, by solving in exact arithmetic and by following outputs token by token."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import NumericalError, ParameterError
from jaxprompt.prefix.claims import capacity

CLAIM = jp.claim("prefix.capacity")

jit = functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)


def run_head(query, content_keys, content_values, keys, values):
    """One softmax over prefix and content, token by token, to 40 digits."""
    with mpmath.workdps(40):
        every_key, every_value = [*keys, *content_keys], [*values, *content_values]
        terms = [
            mpmath.exp(sum(mpmath.mpf(a) * b for a, b in zip(query, key, strict=True)))
            for key in every_key
        ]
        total = sum(terms)
        width = len(every_value[0])
        return [
            sum(t * v[u] for t, v in zip(terms, every_value, strict=True)) / total
            for u in range(width)
        ]


def test_n_examples_are_stored_exactly():
    """Solve for the values in 40 digits, and run the head on them: every digit is there."""
    rng = np.random.default_rng(6)
    n, width, value_width = 3, 2, 2
    queries = rng.normal(size=(n, width)).tolist()
    keys = rng.normal(size=(n, width)).tolist()
    content_keys = rng.normal(size=(n, 4, width)).tolist()
    content_values = rng.normal(size=(n, 4, value_width)).tolist()
    wanted = rng.normal(size=(n, value_width)).tolist()
    with mpmath.workdps(40):

        def log_score(query, key):
            return mpmath.exp(sum(mpmath.mpf(a) * b for a, b in zip(query, key, strict=True)))

        prefix_terms = [[log_score(q, k) for k in keys] for q in queries]
        content_terms = [[log_score(q, k) for k in content_keys[i]] for i, q in enumerate(queries)]
        totals = [sum(a) + sum(b) for a, b in zip(prefix_terms, content_terms, strict=True)]
        rows = zip(prefix_terms, totals, strict=True)
        weights = mpmath.matrix([[t / total for t in row] for row, total in rows])
        values = [[None] * value_width for _ in range(n)]
        for u in range(value_width):
            target = mpmath.matrix([
                wanted[i][u] - sum(t * content_values[i][s][u] for s, t in enumerate(row)) / total
                for i, (row, total) in enumerate(zip(content_terms, totals, strict=True))
            ])  # fmt: skip
            solved = mpmath.lu_solve(weights, target)
            for k in range(n):
                values[k][u] = solved[k]
        for i in range(n):
            outputs = run_head(queries[i], content_keys[i], content_values[i], keys, values)
            for found, expected in zip(outputs, wanted[i], strict=True):
                assert abs(found - expected) < mpmath.mpf(10) ** -30
    assert CLAIM.predict(key_dim=2, value_dim=2, prefix=3, examples=3)["residual"] == 0.0


def test_the_kernel_of_different_queries_is_positive_definite():
    """Keys that are multiples of the queries: the determinant of E is positive, in 40 digits."""
    rng = np.random.default_rng(8)
    for n, width in ((2, 1), (4, 1), (5, 3)):
        queries = rng.normal(size=(n, width))
        with mpmath.workdps(40):
            kernel = mpmath.matrix(
                [[mpmath.exp(mpmath.mpf(float(q @ r))) for r in queries] for q in queries]
            )
            assert mpmath.det(kernel) > 0
        kernel[1, :] = kernel[0, :]
        assert mpmath.det(kernel) == 0


@pytest.mark.parametrize(
    ("key_dim", "value_dim", "prefix", "examples"), [(4, 4, 3, 4), (2, 3, 4, 6)]
)
def test_rank_of_the_derivative_by_automatic_differentiation(
    key_dim, value_dim, prefix, examples, x64
):
    rng = np.random.default_rng(3)
    queries = rng.normal(size=(examples, key_dim))
    masses, plain = rng.normal(size=examples), rng.normal(size=(examples, value_dim))

    def outputs(numbers):
        keys = numbers[: prefix * key_dim].reshape(prefix, key_dim)
        values = numbers[prefix * key_dim :].reshape(prefix, value_dim)
        scores = jnp.concatenate([jnp.asarray(queries) @ keys.T, masses[:, None]], axis=1)
        weights = jax.nn.softmax(scores, axis=1)
        return (weights[:, :prefix] @ values + weights[:, prefix:] * plain).ravel()

    point = jnp.asarray(rng.normal(size=prefix * (key_dim + value_dim)))
    rank = np.linalg.matrix_rank(np.asarray(jit(jax.jacfwd(outputs))(point)))
    sizes = {"key_dim": key_dim, "value_dim": value_dim, "prefix": prefix, "examples": examples}
    assert CLAIM.simulate(key=0, trials=3, **sizes)["rank"].mean == rank
    assert rank <= CLAIM.predict(**sizes)["rank"]


def test_the_rank_can_be_below_both_numbers():
    """Nine queries of width 8 have a linear relation: 33, and not 36."""
    sizes = {"key_dim": 8, "value_dim": 4, "prefix": 3, "examples": 9}
    assert CLAIM.simulate(key=0, trials=3, **sizes)["rank"].mean == 33
    assert CLAIM.predict(**sizes)["rank"] == 36


def test_closed_form_in_words():
    found = CLAIM.predict(key_dim=4, value_dim=4, prefix=3, examples=[1, 3, 4, 6, 7])
    np.testing.assert_array_equal(found["storable"], [1, 1, 0.5, 0.5, 0])
    np.testing.assert_array_equal(found["codimension"], [0, 0, 4, 12, 16])
    np.testing.assert_array_equal(found["rank"], [4, 12, 16, 24, 24])


def test_one_example_more_misses_by_its_bound():
    made = CLAIM.simulate(key=2, trials=400, key_dim=4, value_dim=4, prefix=3, examples=4)
    assert 4 < made["residual"].mean < 8
    assert made["codimension"].mean == 4
    assert "storable" not in made, "between the bounds nothing is measured"


def test_a_leaking_head_is_refuted(monkeypatch):
    """The check can fail: a head whose outputs are one per mille too large is caught."""
    real = capacity.Problem.outputs
    monkeypatch.setattr(capacity.Problem, "outputs", lambda self, v: 1.001 * real(self, v))
    point = {"key_dim": 4, "value_dim": 4, "prefix": 3, "examples": 3}
    assert CLAIM.check(trials=20, point=point).status == "refuted"


def test_refusals_say_what_to_do():
    with pytest.raises(ParameterError, match=r"`examples`.*predict takes any"):
        CLAIM.simulate(key=0, trials=2, key_dim=4, value_dim=64, prefix=3, examples=9)
    with pytest.raises(NumericalError, match=r"condition number.*larger key_dim"):
        CLAIM.simulate(key=0, trials=2, key_dim=1, value_dim=1, prefix=32, examples=32)
