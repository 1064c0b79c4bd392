r"""Double descent of random features: Mei and Montanari (2022), Hastie et al. (2022).

Ridge regression on the signs of $N$ random projections $s = W x$, $|W_k| = 1$, for $y = \beta
\cdot x + \sigma \varepsilon$. In the limit a sign acts as $\mu s$ plus independent noise of
variance $1 - \mu^2$, $\mu^2 = 2/\pi$, so the features have the covariance $\Sigma = \mu^2 W W^\top
+ 1 - \mu^2$. What ridge regression does to fixed features is known: with $\kappa$ from
$n = \mathrm{tr}\, \Sigma (\Sigma + \kappa)^{-1} + n \lambda/\kappa$ its risk is
$(\text{bias} + \text{noise})/(1 - \frac1n \mathrm{tr}\, \Sigma^2 (\Sigma + \kappa)^{-2})$. Along a
direction of eigenvalue $t$ of $W W^\top$ the best feature weights explain $\mu^2 t/(\mu^2 t + 1 -
\mu^2)$ of $1/d$; the bias is that times $\kappa^2/(\Sigma + \kappa)^2$, and the noise is
$\sigma^2$ plus what is not explained. Averages over $t$ follow Marchenko and Pastur's law with
$c = N/d$. Corrections are of order $1/d$. Near $N = n$ the denominator vanishes with $\lambda$: the
risk peaks and descends again. Easier than the papers: two known limits, one after the other, with
one equation and a sum in place of a polynomial of the fifth degree.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

import jaxprompt as jp

GRID = {"dim": [10, 20, 40], "ridge": [0.01, 0.1], "features": [1.0, 3.0, 8.0]}


def risk(*, features, samples, ridge, noise=0.3, linear=2 / np.pi, penalty=1.0):
    """The limit; `features` is N/d, `samples` n/d."""
    turn = np.pi * (np.arange(400) + 0.5) / 400
    t = 1 + features + 2 * np.sqrt(features) * np.cos(turn)
    # The last entry: directions of the features that no input reaches.
    mass = np.append(2 * features * np.sin(turn) ** 2 / t / 400, max(features - 1, 0.0))
    signal = linear * np.append(t, 0.0)
    size = signal + 1 - linear
    k = brentq(lambda k: mass @ (size / (size + k)) + samples * (penalty * ridge / k - 1), 1e-9, 99)
    error = 1 + noise**2 - mass @ (signal / size * (1 - (k / (size + k)) ** 2))
    return {"risk": error / (1 - mass @ (size / (size + k)) ** 2 / samples) - noise**2}


def experiment(*, key, dim, features, samples, ridge, noise=0.3):
    """The risk of one fit on 200 new inputs."""
    n = round(samples * dim)
    w = jax.random.normal(jax.random.fold_in(key, 1), (dim, round(features * dim)))
    x = jax.random.normal(key, (n + 200, dim + 1))
    z, y = jnp.sign(x[:, 1:] @ w), x[:, 1]
    kernel = z[:n] @ z[:n].T + n * ridge * jnp.eye(n)
    fit = z[:n].T @ jnp.linalg.solve(kernel, y[:n] + noise * x[:n, 0])
    return {"risk": jnp.square(z[n:] @ fit - y[n:]).mean()}


CLAIM = jp.Claim(
    id="gallery.random_features",
    title="Risk of regression on random features",
    statement=r"Ridge regression on $N$ signs: the risk's limit; small ridges peak near $N = n$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Mei and Montanari, Communications on Pure and Applied Mathematics 75 (2022)",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=4, high=200, simulate_only=True),
        jp.Parameter("features", "real", "features / dimension", "N/d", low=0.2, high=10),
        jp.Parameter("samples", "real", "samples / dimension", "n/d", low=0.2, high=10),
        jp.Parameter("ridge", "real", "penalty", r"\lambda", low=1e-3, high=10),
    ),
    quantities=(jp.Quantity("risk", "squared error", tolerance=0.1, relative=True),),
    falsifiers=(
        jp.Falsifier("linear", "half of a sign is linear", linear=0.5),
        jp.Falsifier("penalty", "half the penalty", penalty=0.5),
    ),
    closed_form=risk,
    simulation=jp.per_trial(experiment, traced=("ridge",), dtype="float32"),
    size="dim",
    powers=(1,),
    designs={"quick": jp.Design.product({"samples": 3.0}, GRID, 450)},
    figure=jp.Curves(x="features", y="risk", panel="ridge", log_x=True),
)
