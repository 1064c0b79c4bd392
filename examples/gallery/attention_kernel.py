r"""The neural tangent kernel of a wide attention layer: Hron et al. (2020).

An input is two opposite tokens $\pm x$, $|x| = 1$. Heads with queries and keys of width $w$ give
the scores $\pm g_h$, $g_h = \beta\, Q_h x \cdot K_h x/\sqrt w$, so the output is $\frac{1}{\sqrt H}
\sum_h (v_h \cdot x) \tanh g_h$; all weights start normal. The kernel of $x$ and $x'$ is the
product of their gradients, a mean over heads. The values give $(x \cdot x') \tanh g \tanh g'$. The
queries give $(v \cdot x)(v \cdot x')\, \tanh' g \tanh' g'\, \frac{\beta^2}{w} (K x \cdot K x')
(x \cdot x')$, where $v$ and $K$ average to $c = x \cdot x'$; the keys give as much. So
$$\Theta \to c\, E \tanh g \tanh g' + 2 \beta^2 c^3 E \tanh' g \tanh' g',$$
$g$ and $g'$ normal of variance $\beta^2$ and correlation $c^2$: once $c$ from queries, once from
keys. Given $Q$ their covariance is off by $w^{-1/2}$, and on average by $1/w$, which is the
correction; over heads the mean is exact. Easier than the paper: opposite tokens make of the softmax
a tangent.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp

GRID = {"width": [8, 16, 32, 64], "cosine": [0.5, 0.75, 1.0]}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def kernel(*, cosine, sharpness, layers=2.0, power=2):
    """The limit, by Gauss and Hermite's rule in two dimensions."""
    other = cosine**power * NODES[:, None] + np.sqrt(1 - cosine ** (2 * power)) * NODES
    first, second = np.tanh(sharpness * NODES)[:, None], np.tanh(sharpness * other)
    mean = lambda x: WEIGHTS @ x @ WEIGHTS / WEIGHTS.sum() ** 2  # noqa: E731
    values, slopes = mean(first * second), mean((1 - first**2) * (1 - second**2))
    return {"kernel": cosine * values + layers * sharpness**2 * cosine**3 * slopes}


def layer(weights, x, sharpness):
    """The output of attention to x from the tokens x and −x."""
    queries, keys, values = weights
    scores = sharpness * ((queries @ x) * (keys @ x)).sum(1) / keys.shape[1] ** 0.5
    first, second = jax.nn.softmax(jnp.stack([scores, -scores]), axis=0)
    return (values @ x) @ (first - second) / len(values) ** 0.5


def experiment(*, key, width, cosine, sharpness):
    """The kernel of 16 heads at one start, by automatic differentiation."""
    keys = jax.random.split(key)
    weights = (*jax.random.normal(keys[0], (2, 16, width, 2)), jax.random.normal(keys[1], (16, 2)))
    x = jnp.array([[1.0, 0.0], [cosine, jnp.sqrt(1 - cosine**2)]])
    gradients = jax.vmap(jax.grad(layer), (None, 0, None))(weights, x, sharpness)
    return {"kernel": sum((g[0] * g[1]).sum() for g in gradients)}


CLAIM = jp.Claim(
    id="gallery.attention_kernel",
    title="The neural tangent kernel of attention",
    statement=r"$\Theta \to c\, E \tanh g \tanh g' + 2 \beta^2 c^3 E \tanh' g \tanh' g'$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Hron, Bahri, Sohl-Dickstein and Novak, Infinite attention (ICML 2020)",
    parameters=(
        jp.Parameter("width", "integer", "width", "w", low=1, high=4096, simulate_only=True),
        jp.Parameter("cosine", "real", "cosine of the inputs", "c", low=-1, high=1),
        jp.Parameter("sharpness", "real", "scale of the scores", r"\beta", low=0.1, high=3),
    ),
    quantities=(jp.Quantity("kernel", "tangent kernel", tolerance=0.06),),
    falsifiers=(
        jp.Falsifier("frozen", "queries and keys do not learn", layers=0.0),
        jp.Falsifier("queries", "queries learn, keys do not", layers=1.0),
        jp.Falsifier("correlation", "scores correlate like inputs", power=1),
    ),
    closed_form=kernel,
    simulation=jp.per_trial(experiment, traced=("cosine", "sharpness"), batch=50),
    size="width",
    powers=(1,),
    designs={"quick": jp.Design.product({"sharpness": 1.0}, GRID, 2000)},
    figure=jp.Curves(x="cosine", y="kernel"),
)
