r"""The models of the comparison on whole tokens, and their training by gradient descent.

Every model gives a number for one sequence; the prediction is its sign. All are linear in a head.

* ``linear``: :math:`w\cdot X^\top\mathbf 1/T`
* ``linear_prompt``: :math:`w\cdot X^\top Xq/T`
* ``prompt``: :math:`w\cdot X^\top\varphi(Xq)`
* ``self_attention``: :math:`w\cdot\frac1T\sum_t[\varphi(XMX^\top)X]_t` over the frozen
  :math:`M=I/\sqrt d`; only the head is trained
* ``fine_tuning``: the same with :math:`M` trained too, from that start
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt import attention
from jaxprompt.compute import random_table
from jaxprompt.contextual.simulation.gradient_steps import Batch
from jaxprompt.networks.descend import descend

__all__ = ["MODELS", "STEPS", "Model", "Weights", "best_run", "feature", "output"]


class Model(NamedTuple):
    """An architecture, what it trains besides the head, and how many prompts it starts from."""

    architecture: str
    prompt: bool = False
    matrix: bool = False
    restarts: int = 1


MODELS = {
    "linear": Model("prompt"),  # with the prompt 0 attention is uniform
    "linear_prompt": Model("linear_prompt", prompt=True, restarts=8),
    # In one training set of sixteen three starts of four end at a prompt along w⋆.
    "prompt": Model("prompt", prompt=True, restarts=16),
    "self_attention": Model("self_attention"),
    "fine_tuning": Model("self_attention", matrix=True),
}
"""The models, by name."""

STEPS = 100
"""Adam steps of one run; the step size falls to 0 along a cosine."""

RATE = 0.5
"""Adam's first step size, large enough to leave poor starts."""


class Weights(NamedTuple):
    """Parameters of every model; each uses its own part, and the rest stays as it starts."""

    head: Float[Array, " d"]
    prompt: Float[Array, " d"]
    matrix: Float[Array, "d d"]


def feature(architecture: str, weights: Weights, tokens: Float[Array, "T d"]) -> Float[Array, " d"]:
    """What the head reads of one sequence, in the dtype of the arguments."""
    if architecture == "linear_prompt":
        return attention.linear_prompt_attention(tokens, weights.prompt)
    if architecture == "prompt":
        return attention.prompt_attention(tokens, weights.prompt)
    return attention.self_attention(tokens, weights.matrix)


def output(architecture: str, weights: Weights, tokens: Float[Array, "T d"]) -> Float[Array, ""]:
    """The output on one sequence, in the dtype of the arguments."""
    return feature(architecture, weights, tokens) @ weights.head


def best_run(
    model: Model, batch: Batch, samples: Array, ridge: Array, *, key: Key[Array, ""]
) -> tuple[Weights, Float[Array, ""]]:
    r"""Minimise :math:`\frac1n\sum_i\log(1+e^{-y_if_i})+\frac\lambda2|\theta|^2` by Adam.

    :math:`\theta` are the parameters that the model trains (the others keep their start, and a
    prompt is 0); the sum runs over the first `samples` sequences of the batch. Full batches; heads
    start at the first step of descent from 0, and of several prompts to start from the one that
    ends at the least objective wins. Also returns the decrease of the objective over the last tenth
    of the steps, as a share of its value: what convergence left to do.
    """
    used = jnp.arange(batch.labels.shape[0]) < samples
    signed = jnp.where(used[:, None], batch.labels[:, None] * batch.tokens.mean(axis=1), 0.0)
    head = signed.sum(axis=0) / used.sum()
    matrix = jnp.eye(head.size, dtype=jnp.float32) / np.sqrt(head.size, dtype=np.float32)
    run = functools.partial(_run, model, batch, used, ridge)
    if not model.prompt:
        weights, _, decrease = run(Weights(head, jnp.zeros_like(head), matrix))
        return weights, decrease
    prompts = _prompts(model.restarts, head.size, key)
    fitted = jax.vmap(lambda prompt: run(Weights(head, prompt, matrix)))(prompts)
    best = jnp.argmin(fitted[1])
    weights, _, decrease = jax.tree.map(lambda x: x[best], fitted)
    return weights, decrease


def _prompts(count: int, dim: int, key: Array) -> Float[Array, "restarts d"]:
    """Prompts to start from, over a decade of sizes.

    Small ones follow the first gradient, large ones explore.
    """
    prompt_key, size_key = jax.random.split(key)
    size = 10 ** (1.5 * random_table.uniforms(size_key, 0, count, 1) - 1)
    return size * random_table.normals(prompt_key, 0, count, dim) / np.sqrt(dim, dtype=np.float32)


def _run(
    model: Model, batch: Batch, used: Array, ridge: Array, start: Weights
) -> tuple[Weights, Array, Array]:
    trained = (True, model.prompt, model.matrix)

    def features(weights: Weights) -> Array:
        return jax.vmap(functools.partial(feature, model.architecture, weights))(batch.tokens)

    fixed = None if model.prompt or model.matrix else features(start)

    def objective(weights: Weights, _: None = None) -> Array:
        weights = Weights(
            *(x if on else lax.stop_gradient(x) for on, x in zip(trained, weights, strict=True))
        )
        outputs = (features(weights) if fixed is None else fixed) @ weights.head
        energy = sum(jnp.square(x).sum() for on, x in zip(trained, weights, strict=True) if on)
        loss = jnp.where(used, jax.nn.softplus(-batch.labels * outputs), 0.0).sum() / used.sum()
        return loss + ridge / 2 * energy

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    weights, values = descend(objective, start, optimiser, steps=STEPS)
    final = objective(weights)
    return weights, final, (values[-(STEPS // 10)] - final) / final
