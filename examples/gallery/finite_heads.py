r"""Wide attention is no Gaussian process while its heads are few: Hron et al. (2020).

$H$ heads, wide queries and keys, two opposite tokens $\pm x$ of norm one. The scores of a head are
$\pm \beta q \cdot k/\sqrt w$, and $g = \beta q \cdot k/\sqrt w$ tends to a normal number
of variance $\beta^2$ as the width $w$ grows: it stays random. The output $\frac{1}{\sqrt H}
\sum_h v_h \tanh g_h$, with $v_h$ normal, is a mixture: given the scores it is normal with variance
$\frac1H \sum_h \tanh^2 g_h$. So its fourth moment over its squared second is
$$3 + \frac3H \Big(\frac{E \tanh^4 g}{(E \tanh^2 g)^2} - 1\Big).$$
Given $q$, $g$ has the variance $\beta^2 |q|^2/w$, off by $w^{-1/2}$ and by $1/w$ on average: the
powers are $1/w, 1/w^2$. Easier than the paper: two tokens make of the softmax a tangent.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp

GRID = {"width": [8, 16, 32, 64], "heads": [1, 2]}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def kurtosis(*, heads, sharpness, gaussian=1.0):
    """The limit, by Gauss and Hermite's rule."""
    square = np.tanh(sharpness * NODES) ** 2
    second, fourth = (square**k @ WEIGHTS / WEIGHTS.sum() for k in (1, 2))
    return {"kurtosis": 3 + 3 * gaussian * (fourth / second**2 - 1) / heads}


def experiment(*, key, width, heads, sharpness):
    """The variance of one layer's output at its start, over the values of its heads."""
    query, keys = jax.random.normal(key, (2, heads, width))
    scores = sharpness * (query * keys).sum(1) / width**0.5
    first, second = jax.nn.softmax(jnp.stack([scores, -scores]), axis=0)
    return {"variance": jnp.square(first - second).mean()}


def kurtosis_of(variance):
    """The fourth moment over the squared second; given the heads the output is normal."""
    return 3 * (variance**2).mean() / variance.mean() ** 2


CLAIM = jp.Claim(
    id="gallery.finite_heads",
    title="Finitely many heads are not Gaussian",
    statement=r"$E f^4/(E f^2)^2 \to 3 + \frac3H (E \tanh^4 g/(E \tanh^2 g)^2 - 1)$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Hron, Bahri, Sohl-Dickstein and Novak, Infinite attention (ICML 2020)",
    parameters=(
        jp.Parameter("width", "integer", "width", "w", low=1, high=4096, simulate_only=True),
        jp.Parameter("heads", "integer", "heads", "H", low=1, high=100),
        jp.Parameter("sharpness", "real", "scale of the scores", r"\beta", low=0.1, high=3),
    ),
    quantities=(jp.Quantity("kurtosis", "fourth moment over the squared second", tolerance=0.2),),
    falsifiers=(
        jp.Falsifier("gaussian", "a Gaussian process", gaussian=0.0),
        jp.Falsifier("more", "half as much again", gaussian=1.5),
    ),
    closed_form=kurtosis,
    simulation=jp.per_trial(experiment, batch=500, statistics={"kurtosis": kurtosis_of}),
    size="width",
    powers=(1,),
    designs={"quick": jp.Design.product({"sharpness": 0.7}, GRID, 20_000)},
    figure=jp.Curves(x="heads", y="kurtosis"),
)
