"""A trajectory: `jaxprompt check polya_urn.py`."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp


def square(*, time, start=3):
    """Mean square of a number that is uniform on its values."""
    t = np.asarray(time, float)
    return {"square": (2 * t + start) / (6 * (t + 2))}


def step(state, *, key):
    """Draw a ball, and put it back with another of its colour."""
    red, balls = state
    return jnp.array([red + (jax.random.uniform(key) * balls < red), balls + 1])


CLAIM = jp.Claim(
    id="example.polya_urn",
    title="Pólya's urn",
    statement=r"From one ball of each colour, $t$ draws make all numbers of red equally likely.",
    derivation=r"Each order of $r$ red draws of $t$ has probability $r!\,(t - r)!/(t + 1)!$.",
    relation=jp.Relation.MEAN,
    source="Eggenberger and Pólya (1923)",
    parameters=(jp.Parameter("time", "integer", "draws", "t", low=0),),
    quantities=(jp.Quantity("square", "mean square share of red", tolerance=0.02),),
    falsifiers=(
        jp.Falsifier("start", "starts with one ball", start=5),
        jp.Falsifier.scaled("ten_per_cent", square, 1.1),
    ),
    closed_form=square,
    simulation=jp.trajectory(
        lambda: jnp.array([1.0, 2.0]), step, lambda s: {"square": (s[0] / s[1]) ** 2}, batch=500
    ),
    shared=("time",),
    designs={"quick": jp.Design({"time": [1, 2, 4, 8, 16, 32]}, trials=8000)},
    figure=jp.Curves(x="time", y="square"),
)
