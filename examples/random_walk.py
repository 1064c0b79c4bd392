"""A rate: `jaxprompt check random_walk.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def rate():
    """The exponent, whatever the constant."""
    return {"distance": jp.Rate(0.5)}


def experiment(*, key, steps):
    """The distance from the start."""
    return {"distance": jnp.abs(jax.random.rademacher(key, (steps,), dtype=float).sum())}


CLAIM = jp.Claim(
    id="example.random_walk",
    title="A random walk's distance",
    statement=r"$E|S_n|$ grows like $n^{1/2}$.",
    derivation=r"By the central limit theorem $E|S_n|/\sqrt n \to \sqrt{2/\pi}$.",
    relation=jp.Relation.RATE,
    source="de Moivre, The Doctrine of Chances (1738)",
    parameters=(jp.Parameter("steps", "integer", "steps", "n", low=1, simulate_only=True),),
    quantities=(jp.Quantity("distance", "distance", tolerance=0.08),),
    falsifiers=(
        jp.Falsifier("ballistic", "exponent 0.6", lambda: {"distance": jp.Rate(0.6)}),
        jp.Falsifier("slow", "exponent 0.4", lambda: {"distance": jp.Rate(0.4)}),
    ),
    closed_form=rate,
    simulation=jp.per_trial(experiment, batch=100),
    size="steps",
    designs={"quick": jp.Design.product({}, {"steps": [64, 128, 256, 512]}, 6000)},
    figure=jp.Evidence(),
)
