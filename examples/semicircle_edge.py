"""A limit with a stated power: `jaxprompt check semicircle_edge.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def edge():
    """The end of the semicircle."""
    return {"largest": 2.0}


def experiment(*, key, dim):
    """The largest eigenvalue of one matrix."""
    a = jax.random.normal(key, (dim, dim))
    return {"largest": jnp.linalg.eigvalsh((a + a.T) / (2 * dim) ** 0.5)[-1]}


CLAIM = jp.Claim(
    id="example.semicircle_edge",
    title="The largest eigenvalue of a Gaussian matrix",
    statement=r"The largest eigenvalue of a symmetric Gaussian matrix over $\sqrt n$ tends to 2.",
    derivation=r"It is $n^{-2/3}$ times a Tracy–Widom number from the edge: hence the power 2/3.",
    relation=jp.Relation.ASYMPTOTIC,
    source="Füredi and Komlós (1981); Tracy and Widom (1996)",
    parameters=(jp.Parameter("dim", "integer", "dimension", "n", low=2, simulate_only=True),),
    quantities=(jp.Quantity("largest", "largest eigenvalue", tolerance=0.1),),
    falsifiers=(
        jp.Falsifier("below", "7 % less", lambda: {"largest": 1.86}),
        jp.Falsifier("above", "7 % more", lambda: {"largest": 2.14}),
    ),
    closed_form=edge,
    simulation=jp.per_trial(experiment),
    size="dim",
    powers=(2 / 3, 4 / 3),
    designs={"quick": jp.Design.product({}, {"dim": [8, 16, 32, 64]}, 400)},
    figure=jp.Evidence(),
)
