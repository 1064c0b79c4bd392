r"""The Jacobian of self-attention, block by block: Kim, Papamakarios and Mnih (2021).

$f_i = \sum_j p_{ij} V x_j$, scores $x_i^\top A x_j$. Token $x_j$ enters as a value, with
$p_{ij} V$; as a key: $\partial p_{ik}/\partial s_{ij} = p_{ij} (\delta_{kj} - p_{ik})$ moves the
output by $p_{ij} V (x_j - m_i)$, $m_i = \sum_k p_{ik} x_k$, and $\partial s_{ij}/\partial x_j =
A^\top x_i$; and for $i = j$ as the query, $\partial s_{ik}/\partial x_i = A x_k$, which sums to the
covariance $C_i$ of the tokens under $p_i$:
$$\partial f_i/\partial x_j = p_{ij} V (I + (x_j - m_i) x_i^\top A) + \delta_{ij} V C_i A^\top.$$
Easier than the paper: tokens in place of a big matrix, so each term has a name. The last one
grows with the square of the tokens: dot-product attention has no Lipschitz constant.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, tokens, dim):
    """A sequence and the two matrices."""
    keys = jax.random.split(key)
    a, v = jax.random.normal(keys[0], (2, dim, dim))
    return {"x": jax.random.normal(keys[1], (tokens, dim)), "a": a, "v": v}


def blocks(*, x, a, v, query=1.0, keys=1.0):
    """All blocks, indexed by output token, its entry, input token and its entry."""
    p = jax.nn.softmax(x @ a @ x.T)
    gap = x - (p @ x)[:, None]
    value = jnp.einsum("ij,ab->iajb", p, v)
    key_part = jnp.einsum("ij,ijc,ac,ib->iajb", p, gap, v, x @ a)
    covariance = jnp.einsum("ij,ijc,ijd->icd", p, gap, gap)
    same = jnp.einsum("ij,ac,icd,bd->iajb", jnp.eye(len(x)), v, covariance, a)
    return {"jacobian": (value + keys * key_part + query * same).ravel()}


def experiment(*, x, a, v):
    """The same by automatic differentiation."""
    outputs = jax.jacfwd(lambda x: jax.nn.softmax(x @ a @ x.T) @ x @ v.T)
    return {"jacobian": outputs(x).ravel()}


CLAIM = jp.Claim(
    id="gallery.attention_jacobian",
    title="The Jacobian of self-attention",
    statement=r"$\partial_j f_i = p_{ij} V (I + (x_j - m_i) x_i^\top A) + \delta_{ij} V C A^\top$.",
    derivation=__doc__,
    relation=jp.Relation.IDENTITY,
    source="Kim, Papamakarios and Mnih, The Lipschitz constant of self-attention (ICML 2021)",
    parameters=(
        jp.Parameter("tokens", "integer", "tokens", "T", low=1, high=50, simulate_only=True),
        jp.Parameter("dim", "integer", "dimension", "d", low=1, high=50, simulate_only=True),
    ),
    quantities=(jp.Quantity("jacobian", "entries of the Jacobian", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("no_query", "the token as a query is left out", query=0.0),
        jp.Falsifier("no_key", "the token as a key is left out", keys=0.0),
    ),
    closed_form=blocks,
    simulation=jp.per_trial(experiment, instance=instance),
    designs={"quick": jp.Design({"tokens": 4, "dim": 3}, trials=200)},
    figure=jp.Evidence(),
)
