"""Descent as one loop, against the same steps one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprompt.networks.descend import descend

START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
TARGETS = jnp.array([0.3, -0.1, 0.8, 0.2, 0.0])


def loss(parameters, target):
    target = 0.0 if target is None else target
    return jnp.square(parameters["a"] - target).sum() + parameters["b"] ** 4


def one_by_one(transform, data, rates):
    parameters, memory, values = START, transform.init(START), []
    for datum, rate in zip(data, rates, strict=True):
        value, slope = jax.value_and_grad(loss)(parameters, datum)
        moves, memory = transform.update(slope, memory)
        parameters = jax.tree.map(
            lambda x, move, rate=rate: x + move if rate is None else x - rate * move,
            parameters, moves,
        )  # fmt: skip
        values.append(value)
    return parameters, np.array(values)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("with_rates", [False, True])
def test_the_steps_are_those_of_the_loss(with_data, with_rates):
    transform = optax.scale_by_adam() if with_rates else optax.adam(0.1)
    rates = jnp.linspace(0.2, 0.0, 5) if with_rates else None
    data = TARGETS if with_data else None
    found = jax.jit(lambda: descend(loss, START, transform, steps=5, data=data, rates=rates))()
    parameters, values = one_by_one(
        transform, [None] * 5 if data is None else data, [None] * 5 if rates is None else rates
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found.parameters, parameters
    )
    np.testing.assert_allclose(found.values, values, rtol=1e-6)


def test_auxiliary_outputs_lead_with_the_steps():
    def pair(x, _):
        return x**2, {"sign": jnp.sign(x)}

    found = descend(pair, jnp.array(0.25), optax.sgd(1.0), steps=3, has_aux=True)
    value, aux = found.values
    np.testing.assert_allclose(value, [0.0625] * 3)
    np.testing.assert_array_equal(aux["sign"], [1, -1, 1])


def test_what_has_no_gradient_stays():
    def objective(x, _):
        return jnp.square(x["moves"]) * jax.lax.stop_gradient(x["stays"])

    start = {"moves": jnp.array(1.0), "stays": jnp.array(2.0)}
    found = descend(objective, start, optax.adam(0.1), steps=20).parameters
    assert found["stays"] == 2.0
    assert abs(found["moves"]) < 0.3
