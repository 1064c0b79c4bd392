r"""Softmax spreads over long inputs: Veličković, Perivolaropoulos, Barbero and Pascanu (2024).

Scores $\beta g_i$ and values $v_i$ of $T$ tokens are independent normal numbers. The output
$\sum_i p_i v_i$ has the variance $E \sum_i p_i^2$, and by the law of large numbers
$T \sum_i p_i^2 = \frac{\frac1T \sum_i e^{2 \beta g_i}}{(\frac1T \sum_i e^{\beta g_i})^2} \to
\frac{e^{2 \beta^2}}{e^{\beta^2}} = e^{\beta^2}$. Both means have variances of order $1/T$, so the
correction has powers of $1/T$: outputs shrink like $T^{-1/2}$, however the temperature is chosen.
Easier than the paper: for random scores the constant is known, in place of an order.
"""

import jax

import jaxprompt as jp


def variance(*, sharpness, factor=1.0):
    """The limit of T times the output's variance."""
    return {"variance": 2.718281828459045 ** (factor * sharpness**2)}


def experiment(*, key, tokens, sharpness):
    """One output."""
    scores, values = jax.random.normal(key, (2, tokens))
    return {"variance": tokens * (jax.nn.softmax(sharpness * scores) @ values) ** 2}


CLAIM = jp.Claim(
    id="gallery.softmax_dispersion",
    title="The average of many tokens",
    statement=r"$T\, \mathrm{Var} \sum_i p_i v_i \to e^{\beta^2}$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Veličković et al., Softmax is not enough (2024)",
    parameters=(
        jp.Parameter("tokens", "integer", "tokens", "T", low=2, high=10_000, simulate_only=True),
        jp.Parameter("sharpness", "real", "inverse temperature", r"\beta", low=0, high=1),
    ),
    quantities=(jp.Quantity("variance", "T times the variance", tolerance=0.12, relative=True),),
    falsifiers=(
        jp.Falsifier("half", "half the square of β", factor=0.5),
        jp.Falsifier("uniform", "uniform attention", factor=0.0),
    ),
    closed_form=variance,
    simulation=jp.per_trial(experiment, traced=("sharpness",), batch=200),
    size="tokens",
    powers=(1,),
    designs={
        "quick": jp.Design.product(
            {}, {"tokens": [16, 32, 64, 128], "sharpness": [0.6, 0.8]}, 20_000
        )
    },
    figure=jp.Curves(x="sharpness", y="variance"),
)
