r"""Ridge regression on a mixture of two Gaussians: Mai and Liao (2019), Mignacco et al. (2020).

Labels $y = \pm 1$, inputs $y \mu + z$, $d/n \to \gamma$. Turned by their labels the inputs are
$u_i = \mu + z_i$, and ridge regression onto $y$ is $w = (\frac1n \sum u_i u_i^\top + \lambda)^{-1}
\bar u$. The second moment is $S + \bar u \bar u^\top$ with the covariance $S$; the rank-one term
changes the length of $w$ alone, so $w \propto (S + \lambda)^{-1} \bar u$, and for Gaussian inputs
$S$ is independent of $\bar u \sim N(\mu, I/n)$. With Marchenko and Pastur's $m = \frac1d
\mathrm{tr} (S + \lambda)^{-1}$, the root of $\gamma \lambda m^2 + (\lambda + 1 - \gamma) m = 1$,
and $m_2 = \frac1d \mathrm{tr} (S + \lambda)^{-2} = -dm/d\lambda$,
$$P(\text{error}) \to \Phi\Big(-\frac{|\mu|^2 m}{\sqrt{(|\mu|^2 + \gamma)\, m_2}}\Big).$$
Linear statistics of $S$ have corrections of order $1/d$. Easier than the papers: no cavity or
minimax argument, since the mean and the covariance of a Gaussian sample are independent.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

import jaxprompt as jp

GRID = {"dim": [10, 20, 40], "ridge": [0.05, 0.3, 2.0]}


def error(*, ratio, ridge, separation, spread=1.0, resolvent=1.0):
    """The limit; falsifiers forget the error of the mean, or how directions are weighted."""
    half = ridge + 1 - ratio
    root = jnp.sqrt(half**2 + 4 * ratio * ridge)
    first = (root - half) / (2 * ratio * ridge)
    slope = ((half + 2 * ratio) / root - 1) / (2 * ratio * ridge) - first / ridge
    second = (1 - resolvent) * first**2 - resolvent * slope
    length = jnp.sqrt((separation**2 + spread * ratio) * second)
    return {"error": norm.cdf(-(separation**2) * first / length)}


def experiment(*, key, dim, ratio, ridge, separation):
    """The exact error of one fit."""
    samples = round(dim / ratio)
    y = jax.random.rademacher(jax.random.fold_in(key, 1), (samples,), dtype=float)
    x = jax.random.normal(key, (samples, dim)).at[:, 0].add(separation * y)
    w = jnp.linalg.solve(x.T @ x / samples + ridge * jnp.eye(dim), x.T @ y)
    return {"error": norm.cdf(-separation * w[0] / jnp.linalg.norm(w))}


CLAIM = jp.Claim(
    id="gallery.mixture_ridge",
    title="Ridge regression on a Gaussian mixture",
    statement=r"$P(\text{error}) \to \Phi(-|\mu|^2 m/\sqrt{(|\mu|^2 + \gamma) m_2})$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Mai and Liao (2019); Mignacco, Krzakala, Lu and Zdeborová (ICML 2020)",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=2, high=300, simulate_only=True),
        jp.Parameter("ratio", "real", "dimension / samples", r"\gamma", low=0.2, high=5),
        jp.Parameter("ridge", "real", "penalty", r"\lambda", low=1e-3, high=100),
        jp.Parameter("separation", "real", "length of the mean", r"|\mu|", low=0, high=5),
    ),
    quantities=(jp.Quantity("error", "probability of an error", tolerance=0.015),),
    falsifiers=(
        jp.Falsifier("exact_mean", "the mean is known exactly", spread=0.0),
        jp.Falsifier("no_covariance", "the covariance is the identity", resolvent=0.0),
    ),
    closed_form=error,
    simulation=jp.per_trial(experiment, traced=("ridge", "separation")),
    size="dim",
    powers=(1,),
    designs={"quick": jp.Design.product({"separation": 1.5, "ratio": 1.0}, GRID, 600)},
    figure=jp.Curves(x="ridge", y="error", log_x=True),
)
