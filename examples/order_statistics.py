"""A function over an axis: `jaxprompt check order_statistics.py`."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp


def means(*, rank):
    """i/(n + 1)."""
    return {"mean": np.asarray(rank) / (len(rank) + 1)}


def experiment(*, key, rank):
    """Uniform numbers in order."""
    return {"mean": jnp.sort(jax.random.uniform(key, (len(rank),)))}


CLAIM = jp.Claim(
    id="example.order_statistics",
    title="Means of ordered uniform numbers",
    statement=r"The $i$-th of $n$ ordered uniform numbers is $i/(n + 1)$ on average.",
    derivation=r"The $n + 1$ gaps have one distribution and sum to 1.",
    relation=jp.Relation.MEAN,
    source="David and Nagaraja, Order Statistics (2003), 2.2",
    parameters=(jp.Parameter("rank", "array", "ranks 1 … n", "i"),),
    quantities=(jp.Quantity("mean", "mean", tolerance=0.03, axis="rank"),),
    falsifiers=(
        jp.Falsifier("empirical", "i/n", lambda rank: {"mean": np.asarray(rank) / len(rank)}),
        jp.Falsifier(
            "midpoint", "(i - 1/2)/n", lambda rank: {"mean": (np.asarray(rank) - 0.5) / len(rank)}
        ),
    ),
    closed_form=means,
    simulation=jp.per_trial(experiment, batch=500),
    designs={"quick": jp.Design({"rank": np.arange(1.0, 10.0)}, trials=4000)},
    figure=jp.Evidence(),
)
