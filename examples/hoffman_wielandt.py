"""A bound for every instance: `jaxprompt check hoffman_wielandt.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, dim):
    """Two symmetric matrices."""
    a, b = (m + m.T for m in jax.random.normal(key, (2, dim, dim)))
    return {"a": a, "b": b}


def bound(*, a, b, share=1.0):
    """The squared Frobenius norm of the difference."""
    return {"moved": share * jnp.square(a - b).sum()}


def experiment(*, a, b):
    """How far the ordered eigenvalues are apart."""
    return {"moved": jnp.square(jnp.linalg.eigvalsh(a) - jnp.linalg.eigvalsh(b)).sum()}


CLAIM = jp.Claim(
    id="example.hoffman_wielandt",
    title="Eigenvalues move less than the matrix",
    statement=r"$\sum_i (\lambda_i(A) - \lambda_i(B))^2 \le \|A - B\|_F^2$.",
    derivation=r"The distance is linear in a doubly stochastic matrix: permutations are extreme.",
    relation=jp.Relation.BOUND,
    source="Hoffman and Wielandt, Duke Mathematical Journal 20 (1953)",
    parameters=(jp.Parameter("dim", "integer", "dimension", low=1, simulate_only=True),),
    quantities=(jp.Quantity("moved", "squared move", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("nine_tenths", "0.9 of it", share=0.9),
        jp.Falsifier(
            "spectral", "the spectral norm", lambda a, b: {"moved": jnp.linalg.norm(a - b, 2) ** 2}
        ),
    ),
    closed_form=bound,
    simulation=jp.per_trial(experiment, instance=instance),
    designs={"quick": jp.Design.product({}, {"dim": [2, 3]}, trials=300)},
    figure=jp.Evidence(),
)
