"""A function of moments: `jaxprompt check variance_of_maximum.py`."""

import jax

import jaxprompt as jp


def variance(*, count):
    """1 + 1/4 + … + 1/n²."""
    return {"variance": sum(1 / k**2 for k in range(1, count + 1))}


def experiment(*, key, count):
    """The largest of n exponential numbers."""
    return {"largest": jax.random.exponential(key, (count,)).max()}


CLAIM = jp.Claim(
    id="example.variance_of_maximum",
    title="Variance of the largest of n exponential numbers",
    statement=r"The largest of $n$ exponential numbers has variance $\sum_{k \le n} 1/k^2$.",
    derivation=r"The gaps of ordered exponential numbers are independent, with means $1/k$.",
    relation=jp.Relation.MEAN,
    source="Rényi, Acta Mathematica Hungarica 4 (1953)",
    parameters=(jp.Parameter("count", "integer", "numbers", "n", low=1),),
    quantities=(jp.Quantity("variance", "variance", tolerance=0.08, relative=True),),
    falsifiers=(
        jp.Falsifier.scaled("ten_per_cent", variance, 1.1),
        jp.Falsifier("limit", "Gumbel's variance", lambda count: {"variance": 1.645 + 0 * count}),
    ),
    closed_form=variance,
    simulation=jp.per_trial(
        experiment, batch=1000, statistics={"variance": lambda largest: largest.var(ddof=1)}
    ),
    designs={"quick": jp.Design.product({}, {"count": [1, 2, 4, 8]}, trials=40_000)},
    figure=jp.Curves(x="count", y="variance"),
)
