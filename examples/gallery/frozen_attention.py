r"""Softmax over heavy-tailed weights freezes: Mézard, Parisi, Sourlas, Toulouse, Virasoro (1984).

Scores of $T$ tokens are independent with tails $P(s > x) = e^{-\alpha x}$, so weights $e^{s_i}$
have the tail $w^{-\alpha}$. With $\varphi(u) = E e^{-uw}$,
$$E \sum_i p_i^2 = T \int_0^\infty u\, \varphi''(u)\, \varphi(u)^{T-1}\, du.$$
For $\alpha < 1$, $1 - \varphi \approx \Gamma(1 - \alpha) u^\alpha$; put $x = T \Gamma(1 - \alpha)
u^\alpha$: then $u^2 T \varphi'' \to \alpha (1 - \alpha) x$ and the integral is $(1 - \alpha)
\int_0^\infty e^{-x} dx = 1 - \alpha$. A few tokens hold all the attention, however many there are.
The next term of $\varphi$ is of order $u$, which is $T^{1 - 1/\alpha}$ relative to the first: at
$\alpha = 1/2$ that, and the $-1$ in the exponent, are powers of $1/T$. Easier than the paper: no
replicas, one integral.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def share(*, tail, shift=0.0):
    """The mean share of the token that a second draw meets again."""
    return {"share": 1 - tail + shift}


def experiment(*, key, tokens, tail):
    """The sum of squared weights of one sequence."""
    scores = jax.random.exponential(key, (tokens,)) / tail
    return {"share": jnp.square(jax.nn.softmax(scores)).sum()}


CLAIM = jp.Claim(
    id="gallery.frozen_attention",
    title="Attention freezes on a few tokens",
    statement=r"For weights of tail $w^{-\alpha}$, $\alpha < 1$: $E \sum_i p_i^2 \to 1 - \alpha$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Mézard et al., Journal de Physique 45 (1984); Derrida, Physica D 107 (1997)",
    parameters=(
        jp.Parameter("tokens", "integer", "tokens", "T", low=2, high=10_000, simulate_only=True),
        jp.Parameter("tail", "real", "tail", r"\alpha", low=0, open_low=True, high=0.5),
    ),
    quantities=(jp.Quantity("share", "sum of squared weights", tolerance=0.03),),
    falsifiers=(
        jp.Falsifier("less", "0.05 less", shift=-0.05),
        jp.Falsifier("square", "1 − α² for 1 − α", lambda tail: {"share": 1 - tail**2}),
    ),
    closed_form=share,
    simulation=jp.per_trial(experiment, traced=("tail",), batch=200),
    size="tokens",
    powers=(1,),
    designs={
        "quick": jp.Design.product(
            {}, {"tokens": [16, 32, 64, 128], "tail": [0.2, 0.35, 0.5]}, 10_000
        )
    },
    figure=jp.Curves(x="tail", y="share"),
)
