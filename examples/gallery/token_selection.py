r"""Softmax attention turns to the token of largest margin: Ataee Tarzanagh et al. (2023).

Gradient descent moves the query $p$ of softmax attention over fixed tokens $x_1, x_2, x_3$; the
values score the first alone, $f = s_1$ with its softmax weight, and the loss is logistic in $f$.
With $k_t = x_1 - x_t$ and $s_t \approx e^{-k_t \cdot p}$ a step is $a \sum_{t > 1} s_t k_t$ with a
constant $a$: that of a separable classification with inputs $k_t$ (Soudry et al. 2018). Steps of
$\hat p/n$ add to $p = \hat p \log n + \tilde p$, and these are such steps if $\hat p = \sum_t
\alpha_t k_t$, where $\alpha_t = a e^{-k_t \cdot \tilde p}$ if $k_t \cdot \hat p = 1$ and 0 if it is
more: the conditions of the shortest vector with all $k_t \cdot \hat p \ge 1$. So $p/\log n$, and
the direction, are off by $\tilde p/\log n$; the rest is a power of $1/n$. Here
$k_2 = (1, 0)$, $k_3 = (b, 1)$, and
$$\hat p = (1, \max(1 - b, 0)):$$
from $b = 1$ on the third token is farther than the margin. Easier than the paper: three tokens, of
which one is best, have the constant term, so that the form of the correction is known.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp

GRID = {"steps": [2**9, 2**11, 2**14, 2**17], "lean": [-0.5, 0.0, 0.5, 2.0]}


def direction(*, lean, support=0.0, stretch=1.0):
    """The second entry of the shortest vector; the first is 1."""
    return {"second": stretch * jnp.maximum(1 - lean, support)}


def average(*, lean):
    """The direction of the mean of both differences, at the same first entry."""
    return {"second": 1 / (1 + lean)}


def loss(p, lean):
    """The logistic loss of attention, the first token at the origin."""
    scores = jnp.array([[0.0, 0.0], [-1.0, 0.0], [-lean, -1.0]]) @ p
    return jnp.log1p(jnp.exp(-jax.nn.softmax(scores)[0]))


def experiment(*, steps, lean):
    """The second entry after gradient descent from zero, over the logarithm of the steps."""
    move = lambda _, p: p - 4 * jax.grad(loss)(p, lean)  # noqa: E731
    return {"second": jax.lax.fori_loop(0, steps, move, jnp.zeros(2))[1] / jnp.log(steps)}


CLAIM = jp.Claim(
    id="gallery.token_selection",
    title="Attention turns to the token of largest margin",
    statement=r"$p/\log n \to \hat p$, the shortest vector with $(x_1 - x_t) \cdot \hat p \ge 1$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Ataee Tarzanagh, Li, Zhang and Oymak, Max-margin token selection (NeurIPS 2023)",
    parameters=(
        jp.Parameter("steps", "integer", "steps", "n", low=2, simulate_only=True),
        jp.Parameter("lean", "real", "place of the third token", "b", low=-2, high=2),
    ),
    quantities=(jp.Quantity("second", "second entry over the logarithm", tolerance=0.03),),
    falsifiers=(
        jp.Falsifier("mean", "the mean direction", average),
        jp.Falsifier("all_support", "every token supports the margin", support=-2.0),
        jp.Falsifier("longer", "10 % longer", stretch=1.1),
    ),
    closed_form=direction,
    simulation=jp.per_trial(experiment, traced=("steps", "lean")),
    size="steps",
    powers=("log",),
    designs={"quick": jp.Design.product({}, GRID, 2)},
    figure=jp.Curves(x="lean", y="second"),
)
