"""A paired comparison: `jaxprompt check james_stein.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def difference(*, dim):
    """Never positive."""
    return {"difference": jp.AtMost(0.0 * dim)}


def loss(key, dim, shrinkage):
    """Squared error of an estimate of (1, …, 1)."""
    x = 1 + jax.random.normal(key, (dim,))
    return {"difference": jnp.square((1 - shrinkage / (x @ x)) * x - 1).sum()}


CLAIM = jp.Claim(
    id="example.james_stein",
    title="James and Stein's estimator wins",
    statement=r"For $d \ge 3$ the estimator $(1 - (d - 2)/|x|^2)\,x$ is better than $x$.",
    derivation=r"By Stein's lemma the risks differ by $-(d - 2)^2 E\,|x|^{-2}$.",
    relation=jp.Relation.BOUND,
    source="James and Stein, Fourth Berkeley Symposium (1961)",
    parameters=(jp.Parameter("dim", "integer", "dimension", "d", low=3),),
    quantities=(jp.Quantity("difference", "difference of the losses", tolerance=0.3),),
    falsifiers=(
        jp.Falsifier(
            "by_three", "by 3 or more", lambda dim: {"difference": jp.AtMost(-3 + 0 * dim)}
        ),
        jp.Falsifier("loses", "it is worse", lambda dim: {"difference": jp.AtLeast(0 * dim)}),
    ),
    closed_form=difference,
    simulation=jp.per_trial(
        jp.paired(
            lambda *, key, dim: loss(key, dim, dim - 2), lambda *, key, dim: loss(key, dim, 0)
        ),
        batch=500,
    ),
    designs={"quick": jp.Design.product({}, {"dim": [4, 6, 8]}, 4000)},
    figure=jp.Evidence(),
)
