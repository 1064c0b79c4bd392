r"""A spike leaves the bulk of a Gaussian matrix: Baik, Ben Arous and Péché (2005), Péché (2006).

$A = \theta v v^\top + W$ with a symmetric Gaussian $W$ whose bulk is $[-2, 2]$. An eigenvalue
$\lambda$ outside it solves $\theta\, v^\top (\lambda - W)^{-1} v = 1$, and the form tends to the
semicircle's transform $g(\lambda) = (\lambda - \sqrt{\lambda^2 - 4})/2$, the root of $g + 1/g =
\lambda$: so $g = 1/\theta$ and $\lambda = \theta + 1/\theta$, if $\theta > 1$. Otherwise the
largest eigenvalue is that of the bulk. Up to $\theta = 1$ it is at a distance of order $n^{-2/3}$
from the edge, hence the powers 2/3 and 4/3 there; beyond, a smooth function of forms with
corrections of order $1/n$. Easier than the papers: a rank-one equation gives limit and power.
"""

import dataclasses

import jax
import jax.numpy as jnp

import jaxprompt as jp


def largest(*, spike, threshold=1.0, perturbed=1.0):
    """The limit of the largest eigenvalue."""
    return {"largest": jnp.where(spike > threshold, spike + perturbed / spike, 2.0)}


def experiment(*, key, dim, spike):
    """The largest eigenvalue of one matrix; the spike lies along the first axis."""
    a = jax.random.normal(key, (dim, dim))
    return {"largest": jnp.linalg.eigvalsh(((a + a.T) / (2 * dim) ** 0.5).at[0, 0].add(spike))[-1]}


DIMS = [12, 24, 48, 96]
EDGE = jp.Claim(
    id="gallery.spiked_wigner_edge",
    title="A weak spike stays in the bulk",
    statement=r"The largest eigenvalue tends to 2 for $\theta \le 1$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Baik, Ben Arous and Péché (2005); Péché, Probability Theory and Related Fields (2006)",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "n", low=2, high=500, simulate_only=True),
        jp.Parameter("spike", "real", "strength of the spike", r"\theta", low=0, high=10),
    ),
    quantities=(jp.Quantity("largest", "largest eigenvalue", tolerance=0.1),),
    falsifiers=(
        jp.Falsifier("early", "a threshold at 1/2", threshold=0.4),
        jp.Falsifier.scaled("below", largest, 0.92),
    ),
    closed_form=largest,
    simulation=jp.per_trial(experiment, traced=("spike",)),
    size="dim",
    powers=(2 / 3, 4 / 3),
    designs={"quick": jp.Design.product({"spike": 0.5}, {"dim": DIMS}, 300)},
    figure=jp.Curves(x="spike", y="largest"),
)
OUTSIDE = dataclasses.replace(
    EDGE,
    id="gallery.spiked_wigner",
    title="A strong spike leaves the bulk",
    statement=r"The largest eigenvalue tends to $\theta + 1/\theta$ for $\theta > 1$.",
    falsifiers=(
        jp.Falsifier("unpushed", "the spike's own eigenvalue", perturbed=0.0),
        jp.Falsifier("pushed", "1.2/θ for 1/θ", perturbed=1.2),
    ),
    powers=(1,),
    designs={"quick": jp.Design.product({}, {"dim": DIMS, "spike": [1.8, 2.5, 4.0]}, 300)},
    # The other claim's figure has the places and the title of its own design.
    figure=jp.Curves(x="spike", y="largest"),
)
