"""The spiked covariance transition: `jaxprompt check spiked_covariance.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def overlap(*, spike, ratio):
    """0 up to the threshold √ratio, then (1 - ratio/spike²)/(1 + ratio/spike)."""
    return {"overlap": jnp.maximum(1 - ratio / spike**2, 0) / (1 + ratio / spike)}


def without_transition(*, spike, ratio):
    """What perturbation theory in ratio gives, to first order."""
    return {"overlap": 1 / (1 + ratio / spike + ratio / spike**2)}


def experiment(*, key, dim, ratio, spike):
    """One sample covariance matrix; its leading eigenvector by the matrix's own eigenproblem."""
    samples = round(dim / ratio)
    x = jax.random.normal(key, (samples, dim))
    x = x.at[:, 0].multiply(jnp.sqrt(1 + spike))  # the spike lies along the first axis
    _, vectors = jnp.linalg.eigh(x.T @ x / samples)
    return {"overlap": vectors[0, -1] ** 2}


CLAIM = jp.Claim(
    id="example.spiked_covariance",
    title="Leading eigenvector of a spiked covariance matrix",
    statement=r"""Rows are normal with covariance $I + \ell v v^\top$, and $d/n \to \gamma$. The
    leading eigenvector $\hat v$ of the sample covariance knows $v$ from $\ell = \sqrt\gamma$ on:
    $$E (\hat v^\top v)^2 \to \frac{\max(1 - \gamma/\ell^2, 0)}{1 + \gamma/\ell}.$$""",
    derivation=r"""The leading eigenvalue leaves the Marchenko–Pastur bulk when
    $1 + \ell > 1 + \sqrt\gamma$; the residue of the resolvent $v^\top (S - z)^{-1} v$ at its limit
    $(1 + \ell)(1 + \gamma/\ell)$ is the squared overlap.""",
    relation=jp.Relation.ASYMPTOTIC,
    source="Baik, Ben Arous and Péché (2005); Paul, Statistica Sinica 17 (2007), theorem 4",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=2, simulate_only=True),
        jp.Parameter("ratio", "real", "dimension / samples", r"\gamma", low=0, open_low=True),
        jp.Parameter("spike", "real", "strength of the spike", r"\ell", low=0, open_low=True),
    ),
    quantities=(jp.Quantity("overlap", "squared overlap of the eigenvectors", tolerance=0.05),),
    falsifiers=(
        jp.Falsifier.scaled("ten_per_cent", overlap, 0.9),
        jp.Falsifier("no_transition", "a smooth curve without a threshold", without_transition),
    ),
    closed_form=overlap,
    simulation=jp.per_trial(experiment, traced=("spike",)),
    size="dim",
    powers=(1,),
    designs={
        "quick": jp.Design.product(
            {"ratio": 0.5}, {"dim": [40, 60, 80, 120], "spike": [0.2, 1.5, 2.0, 3.0]}, 300
        ),
    },
    figure=jp.Curves(x="spike", y="overlap"),
)
