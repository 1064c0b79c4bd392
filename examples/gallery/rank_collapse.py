r"""Attention without skip connections loses rank doubly fast: Dong, Cordonnier and Loukas (2021).

Let $D$ be the largest distance of two tokens. Rows $i$ and $k$ of the scores $x_i^\top W x_j$
differ by $(x_i - x_k)^\top W x_j$, which varies over $j$ by $a \le \|W\| D^2$. Two softmax rows
whose scores differ by a range $a$ are at most $\tanh(a/4)$ apart in total variation (two outcomes
with odds $e^{\pm a/2}$ are the worst case), and averages of points within $D$ of each other are
then at most $D \tanh(a/4)$ apart. So a layer gives $D' \le \|V\| D \tanh(\|W\| D^2/4) \le \frac14
\|V\| \|W\| D^3$, and $L$ layers the power $3^L$:
$$D_L \le \Big(\tfrac14 \|V\| \|W\|\Big)^{(3^L - 1)/2} D_0^{3^L}.$$
Two tokens near zero in one dimension reach it. Easier than the paper, and sharper: a diameter in
place of its composite norm needs no smallness of the scores, and the constant is exact. A skip
connection adds $D$, and breaks it.
"""

import functools

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, tokens, dim):
    """Tokens at most 1/2 apart, and one pair of matrices for all layers."""
    keys = jax.random.split(key)
    v, w = jnp.eye(dim) + 0.2 * jax.random.normal(keys[0], (2, dim, dim))
    x = jax.random.normal(keys[1], (tokens, dim))
    return {"x": x / (2 * jnp.linalg.norm(x[:, None] - x, axis=-1).max()), "v": v, "w": w}


def bound(*, x, v, w, layers, power=3, constant=4.0):
    """The bound of each layer, one after another."""
    diameter = jnp.linalg.norm(x[:, None] - x, axis=-1).max()
    for _ in range(layers):
        diameter = jnp.linalg.norm(v, 2) * jnp.linalg.norm(w, 2) * diameter**power / constant
    return {"diameter": diameter}


def experiment(*, x, v, w, layers, skip=0):
    """The diameter after the layers."""
    for _ in range(layers):
        x = skip * x + jax.nn.softmax(x @ w @ x.T) @ x @ v.T
    return {"diameter": jnp.linalg.norm(x[:, None] - x, axis=-1).max()}


WITH_SKIP = jp.per_trial(functools.partial(experiment, skip=1), instance=instance)

CLAIM = jp.Claim(
    id="gallery.rank_collapse",
    title="Attention alone collapses its tokens",
    statement=r"$D_L \le (\frac14 \|V\| \|W\|)^{(3^L - 1)/2} D_0^{3^L}$.",
    derivation=__doc__,
    relation=jp.Relation.BOUND,
    source="Dong, Cordonnier and Loukas, Attention is not all you need (ICML 2021)",
    parameters=(
        jp.Parameter("layers", "integer", "layers", "L", low=1, high=3),
        jp.Parameter("tokens", "integer", "tokens", "T", low=2, high=200, simulate_only=True),
        jp.Parameter("dim", "integer", "dimension", "d", low=1, high=100, simulate_only=True),
    ),
    quantities=(jp.Quantity("diameter", "largest distance of tokens", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("smaller", "9/10 of the constant", constant=4 / 0.9),
        jp.Falsifier("power", "the power 3.2 a layer", power=3.2),
        jp.Falsifier.control("skip", "skip connections", WITH_SKIP),
    ),
    closed_form=bound,
    simulation=jp.per_trial(experiment, instance=instance),
    designs={"quick": jp.Design({"tokens": 2, "dim": 1, "layers": 2}, trials=300)},
    figure=jp.Evidence(),
)
