r"""Self-attention gathers tokens on the sphere: Geshkovski, Letrouit, Polyanskiy, Rigollet (2023).

Tokens move on the unit sphere by $\dot x_i = P_{x_i} \sum_j p_{ij} x_j$, with softmax weights of
scores $\beta x_i \cdot x_j$ and $P_x$ the projection along the sphere. Orthogonal tokens stay
equally far apart, by symmetry: with $c = x_i \cdot x_j$, $n$ tokens and $p$ the weight on each of
the others, $\dot c = 2 (x_j \cdot \dot x_i)$ is
$$\dot c = 2 p (1 - c) (1 + (n - 1) c), \qquad p = \frac{e^{\beta c}}{e^\beta + (n - 1) e^{\beta
c}}.$$
In high dimension independent random tokens are nearly orthogonal, with overlaps of order
$d^{-1/2}$ and mean 0; their second order moves the mean by $1/d$. Easier than the paper: the mean
overlap in place of all overlaps at once. Once gathered, $\frac{d}{dt}(1 - c) = -2 (1 - c)$.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import jaxprompt as jp

POINT = {"tokens": 6, "sharpness": 1.0, "steps": [25, 50, 100, 200]}


def overlap(*, steps, tokens, sharpness, projected=1.0, pairs=2.0):
    """The solution of the equation of orthogonal tokens."""

    def speed(_, c):
        p = 1 / (tokens - 1 + np.exp(sharpness * (1 - c)))
        return pairs * p * (1 - c) * (1 + projected * (tokens - 1) * c)

    path = solve_ivp(speed, (0.0, steps / 50), [0.0], rtol=1e-9, atol=1e-12)
    return {"overlap": path.y[0, -1]}


def place(*, key, dim, tokens):
    """Independent tokens on the sphere."""
    x = jax.random.normal(key, (tokens, dim))
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def move(x, *, sharpness):
    """A fiftieth of a unit of time, by the midpoint rule."""

    def pull(y):
        mean = jax.nn.softmax(sharpness * y @ y.T) @ y
        return mean - (mean * y).sum(1, keepdims=True) * y

    return x + pull(x + pull(x) / 100) / 50


def read(x):
    """The mean overlap of two tokens."""
    return {"overlap": (jnp.square(x.sum(0)).sum() / len(x) - 1) / (len(x) - 1)}


CLAIM = jp.Claim(
    id="gallery.token_clustering",
    title="Attention gathers tokens on the sphere",
    statement=r"$E x_i \cdot x_j \to c$ as $d \to \infty$, $\dot c = 2 p (1 - c)(1 + (n - 1) c)$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Geshkovski, Letrouit, Polyanskiy and Rigollet, A mathematical perspective (2023)",
    parameters=(
        jp.Parameter("steps", "integer", "fiftieths of time", "50 t", low=0, high=1000),
        jp.Parameter("dim", "integer", "dimension", "d", low=2, high=4096, simulate_only=True),
        jp.Parameter("tokens", "integer", "tokens", "n", low=2, high=256),
        jp.Parameter("sharpness", "real", "inverse temperature", r"\beta", low=0, high=20),
    ),
    quantities=(jp.Quantity("overlap", "mean overlap", tolerance=0.05),),
    falsifiers=(
        jp.Falsifier("flat", "no curvature of the sphere", projected=0.0),
        jp.Falsifier("one_moves", "one of the two tokens moves", pairs=1.0),
    ),
    closed_form=overlap,
    simulation=jp.trajectory(place, move, read, time="steps", traced=("sharpness",), batch=20),
    size="dim",
    powers=(1, 2),
    shared=("steps",),
    designs={"quick": jp.Design.product(POINT, {"dim": [16, 32, 64, 128]}, 400)},
    figure=jp.Curves(x="steps", y="overlap"),
)
