r"""The power of rank collapse is three to the depth: Dong, Cordonnier and Loukas (2021).

The bound of `rank_collapse.py` is of the right order: for tokens scaled by $s \to 0$ rows $i$ and
$k$ of a softmax differ by $\frac1T (x_i - x_k)^\top W (x_j - \bar x)$ at leading order, so the
distances after a layer are a form of the third degree in $x$, and after $L$ layers one of degree
$3^L$. Easier than the paper: an order of growth needs no constant. The tokens are fixed, so the
numbers have no scatter; what is fitted is the line alone.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def rate(*, layers, power=3.0):
    """Smaller tokens are a larger `size`: the exponent is negative."""
    return {"diameter": jp.Rate(-(power**layers))}


def doubling(*, layers):
    """What a power of 1 + 2L would say: every layer adds two."""
    return {"diameter": jp.Rate(-(1.0 + 2 * layers) - 0.5)}


def experiment(*, shrink, layers):
    """The diameter of five tokens in the plane, after the layers."""
    turns = jnp.arange(5.0)
    x = jnp.stack([jnp.cos(1.0 + turns), jnp.sin(2.0 * turns)], 1) / shrink
    for _ in range(layers):
        x = jax.nn.softmax(x @ jnp.array([[2.0, 1.0], [-1.0, 1.5]]) @ x.T) @ x
    return {"diameter": jnp.linalg.norm(x[:, None] - x, axis=-1).max()}


CLAIM = jp.Claim(
    id="gallery.rank_collapse_rate",
    title="Rank collapse cubes the diameter in each layer",
    statement=r"After $L$ layers the diameter of small tokens is of the order of its power $3^L$.",
    derivation=__doc__,
    relation=jp.Relation.RATE,
    source="Dong, Cordonnier and Loukas, Attention is not all you need (ICML 2021)",
    parameters=(
        jp.Parameter(
            "shrink", "real", "1 / scale of the tokens", "1/s", low=1, high=20, simulate_only=True
        ),
        jp.Parameter("layers", "integer", "layers", "L", low=1, high=2),
    ),
    quantities=(
        jp.Quantity("diameter", "largest distance of tokens", tolerance=0.05, relative=True),
    ),
    falsifiers=(
        jp.Falsifier("square", "the power 2.8 a layer", power=2.8),
        jp.Falsifier("sum", "a little more than 1 + 2 L", doubling),
    ),
    closed_form=rate,
    simulation=jp.per_trial(experiment, traced=("shrink",)),
    size="shrink",
    designs={"quick": jp.Design.product({}, {"shrink": [4, 6, 9, 13], "layers": [1, 2]}, 2)},
    figure=jp.Evidence(),
)
