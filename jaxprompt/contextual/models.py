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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt import attention, random
from jaxprompt.contextual.descent import Batch

__all__ = ["MODELS", "RESTARTS", "STEPS", "Model", "Weights", "best_run", "output"]


class Model(NamedTuple):
    """An architecture and the parameters it trains besides the head."""

    architecture: str
    prompt: bool = False
    matrix: bool = False


MODELS = {
    "linear": Model("prompt"),  # with the prompt 0 attention is uniform
    "linear_prompt": Model("linear_prompt", prompt=True),
    "prompt": Model("prompt", prompt=True),
    "self_attention": Model("self_attention"),
    "fine_tuning": Model("self_attention", matrix=True),
}
"""The models, by name."""

STEPS = 100
"""Adam steps of one run; the step size falls to 0 along a cosine."""

RATE = 0.5
"""Adam's first step size, large enough to leave poor starts."""

RESTARTS = {"linear_prompt": 8, "prompt": 8, "self_attention": 1}
"""Runs of each architecture from different starts; self-attention's start is given."""


class Weights(NamedTuple):
    """Parameters of every model; each uses its own part, and the rest stays as it starts."""

    head: Float[Array, " d"]
    prompt: Float[Array, " d"]
    matrix: Float[Array, "d d"]


def output(architecture: str, weights: Weights, tokens: Float[Array, "T d"]) -> Float[Array, ""]:
    """The output on one sequence, in the dtype of the arguments."""
    if architecture == "linear_prompt":
        feature = attention.linear_prompt_attention(tokens, weights.prompt)
    elif architecture == "prompt":
        feature = attention.prompt_attention(tokens, weights.prompt)
    else:
        feature = attention.self_attention(tokens, weights.matrix)
    return feature @ weights.head


def best_run(
    architecture: str, batch: Batch, samples: Array, ridge: Array, trained: Weights,
    *, key: Key[Array, ""],
) -> tuple[Weights, Float[Array, ""]]:  # fmt: skip
    r"""Minimise :math:`\frac1n\sum_i\log(1+e^{-y_if_i})+\frac\lambda2|\theta|^2` by Adam.

    :math:`\theta` are the parameters for which `trained` is 1 (0 leaves them at their start, and
    a prompt at 0); the sum runs over the first `samples` sequences of the batch. Full batches; of
    several starts the one with the least objective wins. Also returns the decrease of the objective
    over the last tenth of the steps, as a share of its value: what convergence left to do.
    """
    used = jnp.arange(batch.labels.shape[0]) < samples
    starts = _starts(batch.tokens.shape[-1], RESTARTS[architecture], key)
    starts = starts._replace(prompt=starts.prompt * trained.prompt)

    def run(start: Weights) -> tuple[Weights, Array, Array]:
        return _run(architecture, batch, used, ridge, trained, start)

    found = jax.vmap(run)(starts)
    best = jnp.argmin(found[1])
    weights, _, left = jax.tree.map(lambda x: x[best], found)
    return weights, left


def _starts(dim: int, count: int, key: Array) -> Weights:
    """Small heads, the frozen matrix, and prompts over a decade of sizes.

    Small prompts follow the first gradient, large ones explore.
    """
    head_key, prompt_key, size_key = jax.random.split(key, 3)
    size = 10 ** (1.5 * random.uniforms(size_key, 0, count, 1) - 1)
    matrix = jnp.eye(dim, dtype=jnp.float32) / np.sqrt(dim, dtype=np.float32)
    return Weights(
        0.01 * random.normals(head_key, 0, count, dim),
        size * random.normals(prompt_key, 0, count, dim) / np.sqrt(dim, dtype=np.float32),
        jnp.broadcast_to(matrix, (count, dim, dim)),
    )


def _run(
    architecture: str, batch: Batch, used: Array, ridge: Array, trained: Weights, start: Weights
) -> tuple[Weights, Array, Array]:
    def objective(weights: Weights) -> Array:
        outputs = jax.vmap(functools.partial(output, architecture, weights))(batch.tokens)
        energy = jax.tree.map(lambda on, x: on * jnp.square(x).sum(), trained, weights)
        loss = jnp.where(used, jax.nn.softplus(-batch.labels * outputs), 0.0).sum() / used.sum()
        return loss + ridge / 2 * jax.tree.reduce(jnp.add, energy)

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def step(state: tuple[Weights, Any], _: None) -> tuple[Any, Array]:
        value, slope = jax.value_and_grad(objective)(state[0])
        slope = jax.tree.map(lambda on, x: on * x, trained, slope)
        updates, rest = optimiser.update(slope, state[1])
        return (optax.apply_updates(state[0], updates), rest), value

    (weights, _), values = lax.scan(step, (start, optimiser.init(start)), None, length=STEPS)
    final = objective(weights)
    return weights, final, (values[-(STEPS // 10)] - final) / final
