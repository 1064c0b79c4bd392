"""The risk of ridge regression against random-matrix theory: `jaxprompt check ridge_risk.py`."""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def risk(*, ratio, ridge, noise):
    """From the Marchenko-Pastur law's Stieltjes transform m at -ridge, and minus its derivative."""
    root = jnp.sqrt((1 - ratio + ridge) ** 2 + 4 * ratio * ridge)
    m = (root - (1 - ratio + ridge)) / (2 * ratio * ridge)
    slope = (m + ratio * m**2) / root
    return {"risk": ridge**2 * slope + noise**2 * ratio * (m - ridge * slope)}


def no_bias(*, ratio, ridge, noise):
    """The variance alone."""
    bias = risk(ratio=ratio, ridge=ridge, noise=0.0)["risk"]
    return {"risk": risk(ratio=ratio, ridge=ridge, noise=noise)["risk"] - bias}


def experiment(*, key, dim, ratio, ridge, noise):
    """One training set: isotropic rows, and coefficients of length one."""
    samples = round(dim / ratio)
    drawn = jax.random.normal(key, (samples, dim + 1))
    x, beta = drawn[:, :dim], jnp.full(dim, dim**-0.5)
    y = x @ beta + noise * drawn[:, dim]
    matrix = x.T @ x / samples + ridge * jnp.eye(dim)
    fit = jax.scipy.linalg.solve(matrix, x.T @ y / samples, assume_a="pos")
    return {"risk": jnp.sum((fit - beta) ** 2)}


CLAIM = jp.Claim(
    id="example.ridge_risk",
    title="Risk of ridge regression",
    statement=r"""For $d, n \to \infty$ with $d/n \to \gamma$, isotropic data and $\|\beta\| = 1$,
    $$E\|\hat\beta_\lambda - \beta\|^2 \to \lambda^2 m' + \sigma^2 \gamma (m - \lambda m'),$$
    where $m$ solves $\gamma\lambda m^2 + (1 - \gamma + \lambda) m = 1$ and $m' = -dm/d\lambda$.""",
    derivation=r"""With $S = X^\top X/n$ the error is $\lambda (S + \lambda)^{-1} \beta$ plus noise
    of covariance $\sigma^2 S (S + \lambda)^{-2}/n$, and $m$ is the limit of the mean of the
    eigenvalues of $(S + \lambda)^{-1}$, by the Marchenko–Pastur law.""",
    relation=jp.Relation.ASYMPTOTIC,
    source="Dobriban and Wager, Annals of Statistics 46 (2018), theorem 2.1",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=2, simulate_only=True),
        jp.Parameter("ratio", "real", "dimension / samples", r"\gamma", low=0, open_low=True),
        jp.Parameter("ridge", "real", "penalty", r"\lambda", low=0, open_low=True),
        jp.Parameter("noise", "real", "standard deviation of the errors", r"\sigma", low=0),
    ),
    quantities=(jp.Quantity("risk", "squared error of the coefficients", tolerance=0.02),),
    falsifiers=(
        jp.Falsifier.scaled("ten_per_cent", risk, 1.1),
        jp.Falsifier("no_bias", "leaves out the bias that the ridge brings", no_bias),
    ),
    closed_form=risk,
    simulation=jp.per_trial(experiment, traced=("ridge", "noise")),
    size="dim",
    powers=(1,),
    designs={
        "quick": jp.Design.product(
            {"noise": 0.5}, {"dim": [20, 40, 80], "ratio": [0.5, 2.0], "ridge": [0.1, 0.5]}, 1500
        ),
    },
    figure=jp.Curves(x="ratio", y="risk"),
)
