"""Descent as one loop, against the same steps one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprompt.networks.descend import descend

START = {"a": np.array([1.0, -2.0]), "b": np.array(0.5)}
TARGETS = np.array([0.3, -0.1, 0.8, 0.2, 0.0])


def loss(parameters, target):
    target = 0.0 if target is None else target
    return jnp.square(parameters["a"] - target).sum() + parameters["b"] ** 4


def one_by_one(targets, rates):
    """Adam by its definition, with the gradients by hand."""
    a, b, values = START["a"], START["b"], []
    mean, square = np.zeros(3), np.zeros(3)
    for step, (target, rate) in enumerate(zip(targets, rates, strict=True), start=1):
        values.append(((a - target) ** 2).sum() + b**4)
        slope = np.array([*(2 * (a - target)), 4 * b**3])
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        a, b = a - rate * direction[:2], b - rate * direction[2]
    return a, b, values


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("with_rates", [False, True])
def test_the_steps_are_those_of_the_loss(with_data, with_rates, x64):
    transform = optax.scale_by_adam() if with_rates else optax.adam(0.1)
    rates = np.linspace(0.2, 0.0, 5) if with_rates else None
    data = TARGETS if with_data else None
    found = jax.jit(lambda: descend(loss, START, transform, steps=5, data=data, rates=rates))()
    *parameters, values = one_by_one(
        TARGETS if with_data else np.zeros(5), rates if with_rates else np.full(5, 0.1)
    )
    for name, expected in zip("ab", parameters, strict=True):
        np.testing.assert_allclose(found.parameters[name], expected, rtol=1e-12)
    np.testing.assert_allclose(found.values, values, rtol=1e-12)


def test_auxiliary_outputs_lead_with_the_steps():
    def pair(x, _):
        return x**2, {"sign": jnp.sign(x)}

    start, transform = jnp.array(0.25), optax.sgd(1.0)
    found = jax.jit(lambda: descend(pair, start, transform, steps=3, has_aux=True))()
    value, aux = found.values
    np.testing.assert_allclose(value, [0.0625] * 3)
    np.testing.assert_array_equal(aux["sign"], [1, -1, 1])


def test_what_has_no_gradient_stays():
    def objective(x, _):
        return jnp.square(x["moves"]) * jax.lax.stop_gradient(x["stays"])

    start = {"moves": jnp.array(1.0), "stays": jnp.array(2.0)}
    found = jax.jit(lambda: descend(objective, start, optax.adam(0.1), steps=20).parameters)()
    assert found["stays"] == 2.0
    assert abs(found["moves"]) < 0.3
