"""A set-up once a cell: `jaxprompt check correlated_sum.py`."""

import jax
import numpy as np

import jaxprompt as jp


def variance(*, dim, decay, ends=1.0):
    """The sum of all correlations, over n."""
    missing = 2 * decay * (1 - decay**dim) / (dim * (1 - decay) ** 2)
    return {"variance": (1 + decay) / (1 - decay) - ends * missing}


def setup(*, dim, decay):
    """The factor of the covariance, once for all trials."""
    place = np.arange(dim)
    return {"factor": np.linalg.cholesky(decay ** np.abs(place[:, None] - place))}


def experiment(*, key, factor, dim):
    """The squared sum of correlated numbers."""
    return {"variance": (factor @ jax.random.normal(key, (dim,))).sum() ** 2 / dim}


CLAIM = jp.Claim(
    id="example.correlated_sum",
    title="Variance of a sum of correlated numbers",
    statement=r"""For covariances $\rho^{|i - j|}$: $$\frac1n \mathrm{Var} \sum_i x_i =
    \frac{1 + \rho}{1 - \rho} - \frac{2\rho(1 - \rho^n)}{n(1 - \rho)^2}.$$""",
    derivation=r"Sum the geometric series over all pairs.",
    relation=jp.Relation.MEAN,
    source="Bartlett (1946)",
    parameters=(
        jp.Parameter("dim", "integer", "numbers", "n", low=1),
        jp.Parameter("decay", "real", "correlation", r"\rho", low=0, high=1, open_high=True),
    ),
    quantities=(jp.Quantity("variance", "variance over n", tolerance=0.12, relative=True),),
    falsifiers=(
        jp.Falsifier("limit", "without the ends", ends=0.0),
        jp.Falsifier(
            "independent", "no correlation", lambda dim, decay: {"variance": 1 + 0 * dim * decay}
        ),
    ),
    closed_form=variance,
    simulation=jp.per_trial(experiment, setup=setup, batch=500),
    designs={"quick": jp.Design.product({"dim": 5}, {"decay": [0.4, 0.5, 0.6]}, 10_000)},
    figure=jp.Curves(x="decay", y="variance"),
)
