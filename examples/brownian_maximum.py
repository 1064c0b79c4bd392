"""A limit with an unstated power: `jaxprompt check brownian_maximum.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def maximum():
    """The mean of |Z|, by reflection."""
    return {"maximum": (2 / jnp.pi) ** 0.5}


def experiment(*, key, steps):
    """The maximum of a path seen at n times."""
    path = jnp.cumsum(jax.random.normal(key, (steps,))) / steps**0.5
    return {"maximum": jnp.maximum(path.max(), 0)}


CLAIM = jp.Claim(
    id="example.brownian_maximum",
    title="The maximum of a discrete Brownian path",
    statement=r"The maximum of Brownian motion at $n$ times tends to $\sqrt{2/\pi}$ on average.",
    derivation=r"By reflection the maximum has the distribution of $|Z|$.",
    relation=jp.Relation.ASYMPTOTIC,
    source="Asmussen, Glynn and Pitman, Annals of Applied Probability 5 (1995)",
    parameters=(jp.Parameter("steps", "integer", "times", "n", low=2, simulate_only=True),),
    quantities=(jp.Quantity("maximum", "maximum", tolerance=0.08),),
    falsifiers=(
        jp.Falsifier("below", "a quarter less", lambda: {"maximum": 0.6}),
        jp.Falsifier("above", "a quarter more", lambda: {"maximum": 1.0}),
    ),
    closed_form=maximum,
    simulation=jp.per_trial(experiment, batch=100),
    size="steps",
    designs={"quick": jp.Design.product({}, {"steps": [8, 32, 128, 512]}, 8000)},
    figure=jp.Evidence(),
)
