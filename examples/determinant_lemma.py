"""An identity for every instance: `jaxprompt check determinant_lemma.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, dim):
    """A matrix and two vectors, which both sides see."""
    drawn = jax.random.normal(key, (dim, dim + 2))
    return {"a": drawn[:, :dim], "u": drawn[:, dim], "v": drawn[:, dim + 1]}


def right(*, a, u, v, sign=1.0):
    """The determinant by the lemma."""
    return {"determinant": jnp.linalg.det(a) * (1 + sign * v @ jnp.linalg.solve(a, u))}


def left(*, a, u, v):
    """The determinant of the changed matrix."""
    return {"determinant": jnp.linalg.det(a + jnp.outer(u, v))}


CLAIM = jp.Claim(
    id="example.determinant_lemma",
    title="The matrix determinant lemma",
    statement=r"$\det(A + u v^\top) = \det A\,(1 + v^\top A^{-1} u)$.",
    derivation=r"$\det(I + x v^\top) = 1 + v^\top x$ with $x = A^{-1} u$.",
    relation=jp.Relation.IDENTITY,
    source="Horn and Johnson, Matrix Analysis (2013), 0.8.5",
    parameters=(jp.Parameter("dim", "integer", "dimension", "n", low=1, simulate_only=True),),
    quantities=(jp.Quantity("determinant", "determinant", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("sign", "minus", sign=-1.0),
        jp.Falsifier("swapped", "u for v", lambda a, u, v: right(a=a, u=v, v=u)),
    ),
    closed_form=right,
    simulation=jp.per_trial(left, instance=instance),
    designs={"quick": jp.Design.product({}, {"dim": [2, 5, 10]}, trials=200)},
    figure=jp.Evidence(),
)
