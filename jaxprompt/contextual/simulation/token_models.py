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

from jaxprompt import attention
from jaxprompt.compute import random_table
from jaxprompt.contextual.simulation.gradient_steps import Batch
from jaxprompt.networks.descend import descend

__all__ = [
    "HEAD", "MODELS", "STEPS", "Model", "Weights", "best_run", "feature", "initial_weights",
    "output",
]  # fmt: skip


class Model(NamedTuple):
    """An architecture, what it trains besides the head, and how many prompts it starts from."""

    architecture: str
    prompt: bool = False
    matrix: bool = False
    restarts: int = 1

    @property
    def frozen(self) -> bool:
        """Whether the head alone is trained, so that what it reads never changes."""
        return not (self.prompt or self.matrix)


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


HEAD = Model("features")
"""A head over given features, which stand in the place of the tokens."""


def feature(
    architecture: str, weights: Weights, tokens: Float[Array, "*T d"]
) -> Float[Array, " d"]:
    """What the head reads of one sequence, in the dtype of the arguments."""
    if architecture == "features":
        return tokens
    if architecture == "linear_prompt":
        return attention.linear_prompt_attention(tokens, weights.prompt)
    if architecture == "prompt":
        return attention.prompt_attention(tokens, weights.prompt)
    return attention.self_attention(tokens, weights.matrix)


def output(architecture: str, weights: Weights, tokens: Float[Array, "*T d"]) -> Float[Array, ""]:
    """The output on one sequence, in the dtype of the arguments."""
    return feature(architecture, weights, tokens) @ weights.head


def initial_weights(dim: int) -> Weights:
    """No head, no prompt and the frozen matrix, in float32."""
    matrix = jnp.eye(dim, dtype=jnp.float32) / np.sqrt(dim, dtype=np.float32)
    return Weights(jnp.zeros(dim, jnp.float32), jnp.zeros(dim, jnp.float32), matrix)


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
    read = batch.tokens if model.architecture == "features" else batch.tokens.mean(axis=1)
    signed = jnp.where(used[:, None], batch.labels[:, None] * read, 0.0)
    head = signed.sum(axis=0) / used.sum()
    start = initial_weights(head.size)._replace(head=head)
    run = functools.partial(_run, model, batch, samples, ridge)
    if not model.prompt:
        weights, _, decrease = run(start)
        return weights, decrease
    prompts = _prompts(model.restarts, head.size, key)
    fitted = jax.vmap(lambda prompt: run(start._replace(prompt=prompt)))(prompts)
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


_MOST_TOGETHER = 48
"""Sequences whose loss is computed together, so that few of them cost less in the same program."""


def _run(
    model: Model, batch: Batch, samples: Array, ridge: Array, start: Weights
) -> tuple[Weights, Array, Array]:
    trained = (True, model.prompt, model.matrix)
    parts = -(-batch.labels.size // _MOST_TOGETHER)
    together = -(-batch.labels.size // parts)
    filled = parts * together - batch.labels.size
    architecture = model.architecture
    if model.frozen:  # it reads the same at every step
        read = functools.partial(feature, architecture, start)
        batch, architecture = Batch(jax.vmap(read)(batch.tokens), batch.labels), HEAD.architecture
    tokens, labels = (
        jnp.pad(x, [(0, filled)] + [(0, 0)] * (x.ndim - 1)).reshape(parts, together, *x.shape[1:])
        for x in batch
    )

    def loss_of_part(weights: Weights, part: Array) -> Array:
        own_output = functools.partial(output, architecture, weights)
        used = part * together + jnp.arange(together) < samples
        losses = jax.nn.softplus(-labels[part] * jax.vmap(own_output)(tokens[part]))
        return jnp.where(used, losses, 0.0).sum()

    def value_and_slope(weights: Weights) -> tuple[Array, Weights]:
        def add_part(part: Array, total: Any) -> Any:
            found = jax.value_and_grad(loss_of_part)(weights, part)
            return jax.tree.map(jnp.add, total, found)

        nothing = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, weights))
        loss, slope = lax.fori_loop(0, -(-samples // together), add_part, nothing)
        entries = list(zip(trained, weights, slope, strict=True))
        energy = sum(jnp.square(x).sum() for on, x, _ in entries if on)
        slopes = (g / samples + ridge * x if on else jnp.zeros_like(x) for on, x, g in entries)
        return loss / samples + ridge / 2 * energy, Weights(*slopes)

    # The loop over parts has as many turns as the samples need, which JAX does not differentiate.
    @jax.custom_vjp
    def objective(weights: Weights, _: None = None) -> Array:
        return value_and_slope(weights)[0]

    objective.defvjp(
        lambda weights, _: value_and_slope(weights),
        lambda slope, unit: (jax.tree.map(lambda x: unit * x, slope), None),
    )
    # One step more, of size 0, for the objective at the end.
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    weights, values = descend(objective, start, optimiser, steps=STEPS + 1)
    return weights, values[-1], (values[-1 - STEPS // 10] - values[-1]) / values[-1]
