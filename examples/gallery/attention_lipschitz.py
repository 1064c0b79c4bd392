r"""How fast attention changes with its query: Kim et al. (2021), Castin, Ablin and Peyré (2024).

The derivative of $q \mapsto \sum_j p_j V x_j$, with scores $q^\top A x_j$, is $V C A^\top$ with the
covariance $C$ of the tokens under $p$. In any direction the tokens lie in an interval of length
$D$, their largest distance, so their variance there is at most $D^2/4$ (half the weight at each
end): the derivative is at most $\frac14 \|V\| \|A\| D^2$. Two tokens with equal weights reach it.
Easier than the papers: for the query alone the constant is exact. Bounded tokens are needed: with
$D$ the bound, and the derivative, have no limit.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, tokens, dim):
    """Tokens, a short query and the two matrices."""
    keys = jax.random.split(key)
    a, v = jax.random.normal(keys[0], (2, dim, dim))
    x = jax.random.normal(keys[1], (tokens + 1, dim))
    return {"x": x[1:], "q": 0.3 * x[0], "a": a, "v": v}


def bound(*, x, q, a, v, quarter=0.25, power=2):
    """A quarter of the squared diameter, times the norms."""
    diameter = jnp.linalg.norm(x[:, None] - x, axis=-1).max()
    return {"slope": quarter * jnp.linalg.norm(v, 2) * jnp.linalg.norm(a, 2) * diameter**power}


def experiment(*, x, q, a, v):
    """The largest singular value of the derivative."""
    derivative = jax.jacfwd(lambda q: v @ (jax.nn.softmax(q @ a @ x.T) @ x))
    return {"slope": jnp.linalg.norm(derivative(q), 2)}


CLAIM = jp.Claim(
    id="gallery.attention_lipschitz",
    title="A Lipschitz constant of attention",
    statement=r"$\|\partial f/\partial q\| \le \frac14 \|V\| \|A\| D^2$.",
    derivation=__doc__,
    relation=jp.Relation.BOUND,
    source="Kim et al. (ICML 2021); Castin, Ablin and Peyré, How smooth is attention? (ICML 2024)",
    parameters=(
        jp.Parameter("tokens", "integer", "tokens", "T", low=1, high=200, simulate_only=True),
        jp.Parameter("dim", "integer", "dimension", "d", low=1, high=50, simulate_only=True),
    ),
    quantities=(jp.Quantity("slope", "norm of the derivative", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("fifth", "1/5 for 1/4", quarter=0.2),
        jp.Falsifier("first_power", "D for D²", power=1),
    ),
    closed_form=bound,
    simulation=jp.per_trial(experiment, instance=instance),
    designs={"quick": jp.Design({"tokens": 2, "dim": 1}, {"tokens": 4, "dim": 3}, trials=300)},
    figure=jp.Evidence(),
)
