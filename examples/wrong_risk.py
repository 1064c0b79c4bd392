"""A formula that is right in the limit only: `jaxprompt check wrong_risk.py` refutes it.

The risk of least squares tends to noise² d/(n - d). At a finite size the mean of the inverse
Wishart matrix makes it noise² d/(n - d - 1); the check refutes the first, and exits with 1.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def wrong_risk(*, dim, samples, noise):
    """The limit, used as if it were exact."""
    return {"risk": noise**2 * dim / (samples - dim)}


def experiment(*, key, dim, samples, noise):
    """Errors of least squares whose true coefficients are zero."""
    drawn = jax.random.normal(key, (samples, dim + 1))
    x, y = drawn[:, :dim], noise * drawn[:, dim]
    fit = jax.scipy.linalg.solve(x.T @ x, x.T @ y, assume_a="pos")
    return {"risk": jnp.sum(fit**2)}


CLAIM = jp.Claim(
    id="example.wrong_risk",
    title="Risk of least squares, with the limit taken for the mean",
    statement=r"With normal data, $E\|\hat\beta - \beta\|^2 = \sigma^2 d/(n - d)$ (it is not).",
    derivation=r"""Where it goes wrong: $E (X^\top X)^{-1} = I/(n - d - 1)$, and not
    $I/(n - d)$.""",
    relation=jp.Relation.MEAN,
    source="made wrong on purpose",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=1),
        jp.Parameter("samples", "integer", "samples, more than dim + 1", "n", low=3),
        jp.Parameter("noise", "real", "standard deviation of the errors", r"\sigma", low=0),
    ),
    quantities=(jp.Quantity("risk", "squared error", tolerance=0.05, relative=True),),
    falsifiers=(
        jp.Falsifier.scaled("twice", wrong_risk, 2.0),
        jp.Falsifier(
            "fixed_design",
            "noise² d/n, as for orthogonal columns",
            lambda dim, samples, noise: {"risk": noise**2 * dim / samples},
        ),
    ),
    closed_form=wrong_risk,
    simulation=jp.per_trial(experiment, traced=("noise",)),
    designs={
        "quick": jp.Design.product({"noise": 1.0}, {"dim": [5, 10], "samples": [25]}, 6000),
    },
    figure=jp.Evidence(),
)
