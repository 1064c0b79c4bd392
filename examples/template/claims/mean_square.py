r"""The square of a mean of signs: a theorem to put your own in place of.

    jaxprompt check claims/mean_square.py --falsify

The terms $s_i s_j$ with $i \ne j$ have mean 0, and $s_i^2 = 1$.
"""

import jax

import jaxprompt as jp


def formula(*, count, power=1.0):
    """1/n; a falsifier changes the power."""
    return {"square": count**-power}


def experiment(*, key, count):
    """The square of one mean."""
    return {"square": jax.random.rademacher(key, (count,), dtype=float).mean() ** 2}


CLAIM = jp.Claim(
    id="paper.mean_square",
    title="Square of the mean of n signs",
    statement=r"For independent fair signs: $E (\frac1n \sum_i s_i)^2 = \frac1n$.",
    derivation=__doc__,
    relation=jp.Relation.MEAN,
    source="lemma 1 of the paper",
    parameters=(jp.Parameter("count", "integer", "number of signs", "n", low=1),),
    quantities=(jp.Quantity("square", "mean square", tolerance=0.05, relative=True),),
    falsifiers=(
        jp.Falsifier("power", "a wrong power of n", power=1.1),
        jp.Falsifier("unbiased", "n - 1 for n", lambda count: {"square": 1 / (count - 1)}),
    ),
    closed_form=formula,
    simulation=jp.per_trial(experiment, batch=500),
    designs={"quick": jp.Design.product({}, {"count": [4, 8]}, trials=40_000)},
    figure=jp.Evidence(),
)
