"""Unrolled keys against the keys of JAX itself, whose generator they share no line with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import mostly_slow, slow_case

import jaxprompt as jp
from jaxprompt.compute.threefry import unrolled

KEY = jax.random.key(7)

DRAWS = {
    "split": lambda key: jax.random.key_data(jax.random.split(key)),
    "split into a table": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold in": lambda key: jax.random.key_data(jax.random.fold_in(key, 5)),
    "fold in the largest": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "bits of 8": lambda key: jax.random.bits(key, (), "uint8"),
    "bits of 16": lambda key: jax.random.bits(key, (7,), "uint16"),
    "bits of 32": lambda key: jax.random.bits(key, (3, 5)),
    "bits of 64": lambda key: jax.random.bits(key, (3, 5), "uint64"),
    "normals": lambda key: jax.random.normal(key, (3, 4)),
    "float32 normals": lambda key: jax.random.normal(key, (3, 4), jnp.float32),
    "no normals": lambda key: jax.random.normal(key, (2, 0)),
    "signs": lambda key: jax.random.rademacher(key, (9,)),
    "integers": lambda key: jax.random.randint(key, (5,), 0, 100),
    "choice": lambda key: jax.random.choice(key, 10, (5,), replace=False),
    "permutation": lambda key: jax.random.permutation(key, 9),
    "trials": lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)))(
        jnp.arange(5)
    ),
    "keys of keys": lambda key: jax.vmap(lambda k: jax.random.uniform(jax.random.split(k)[1]))(
        jax.random.split(key, 3)
    ),
}


@pytest.fixture(scope="module")
def compiled():
    """All draws from an unrolled key, and those from its own: a program each."""
    with jax.enable_x64(True):
        draws = jax.jit(lambda key: {name: draw(key) for name, draw in DRAWS.items()})
        return draws(unrolled(KEY)), draws(KEY)


def assert_same_bits(mine, theirs):
    assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_is_bit_by_bit_that_of_jax(name, compiled):
    mine, theirs = compiled
    assert_same_bits(mine[name], theirs[name])


CALLED = ("split", "fold in", "float32 normals", "integers")
"""Draws that outside of jit compile a few programs; the others take half a second each."""


@pytest.mark.parametrize("name", mostly_slow(DRAWS, CALLED.__contains__))
def test_draws_outside_of_jit_too(name):
    with jax.enable_x64(True):
        assert_same_bits(DRAWS[name](unrolled(KEY)), DRAWS[name](KEY))


@pytest.mark.slow
@pytest.mark.parametrize(
    "traced", [slow_case(False), True], ids=["called", "compiled"]
)  # JAX draws them at once, or one after another
def test_gamma_laws_are_those_of_jax_up_to_rounding(traced):
    def draw(key):
        return jax.random.gamma(key, 3.0, (4,))

    draw = jax.jit(draw) if traced else draw
    np.testing.assert_allclose(draw(unrolled(KEY)), draw(KEY), rtol=1e-6)


def test_an_unrolled_key_stays_as_it_is():
    key = unrolled(KEY)
    assert unrolled(key) is key
    assert unrolled(jax.random.split(key, 4)).shape == (4,)


def test_a_key_of_another_generator_is_refused():
    with pytest.raises(TypeError, match=r"a key of .*: must be one of threefry2x32"):
        unrolled(jax.random.key(0, impl="rbg"))


def test_a_draw_of_more_numbers_than_a_word_counts_has_its_shape():
    drawn = jax.eval_shape(lambda key: jax.random.bits(key, (2**16, 2**17)), unrolled(KEY))
    assert drawn.shape == (2**16, 2**17)
    assert drawn.dtype == jnp.uint32


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda key: jax.random.poisson(key, 4.0), 4.0),
        slow_case((lambda key: jax.random.gamma(key, 3.0, (8,)).mean(), 3.0)),
        slow_case((lambda key: jax.random.chisquare(key, 5.0, shape=(8,)).mean(), 5.0)),
    ],
    ids=["poisson", "gamma", "chi-square"],
)
def test_trials_that_need_the_keys_of_jax_get_them(draw, mean):
    kinds = []

    def trial(*, key):
        kinds.append(jax.random.key_impl(key))
        return {"value": draw(key)}

    estimate = jp.per_trial(trial, batch=50)(key=jax.random.key(1), trials=400)["value"]
    assert kinds[-1] == jax.random.key_impl(KEY)
    assert abs(float(estimate.mean) - mean) < 5 * float(estimate.stderr)


def test_other_trials_draw_from_unrolled_keys():
    kinds = []

    def trial(*, key):
        kinds.append(jax.random.key_impl(key))
        return {"value": jax.random.normal(key)}

    values = jp.per_trial(trial, batch=50).trial_values(key=jax.random.key(1), trials=3)["value"]
    assert set(kinds) == {jax.random.key_impl(unrolled(KEY))}
    with jax.enable_x64(True):
        keys = [jax.random.fold_in(jax.random.key(1), t) for t in range(3)]
        np.testing.assert_array_equal(values, [jax.random.normal(key) for key in keys])
