r"""How many patterns attention retrieves: Ramsauer et al. (2021), Lucibello and Mézard (2024).

$N$ patterns are uniform on the unit sphere in dimension $d$; a query has the overlap $m$ with the
first. One update of a modern Hopfield network is softmax attention with scores $\beta q \cdot
\xi_a$; it retrieves if more than half of the weight is on the first pattern, $\sum_{a > 1}
e^{\beta (q \cdot \xi_a - m)} < 1$. As $\beta \to \infty$ this says that no other overlap exceeds
$m$. Overlaps are independent with density $\propto (1 - t^2)^{(d - 3)/2}$, so
$$P(\text{retrieved}) \to F_d(m)^{N - 1}, \qquad F_d(m) = 1 - \tfrac12 I_{1 - m^2}\big(\tfrac{d -
1}{2}, \tfrac12\big),$$
which falls from 1 to 0 where $N \approx (1 - m^2)^{-d/2}$: exponentially many patterns. The sum is
within a factor of $N$ of its largest term, a shift of $m$ by at most $\log N/\beta$: the powers
are $1/\beta, 1/\beta^2$. Easier than the papers: exact at every $d$ and $N$, with no glass.
"""

import jax
import jax.numpy as jnp
from scipy.special import betainc

import jaxprompt as jp

GRID = {"patterns": [10, 60], "sharpness": [40.0, 80.0, 160.0, 320.0]}


def retrieved(*, patterns, dim, overlap, less=1, sides=1.0):
    """The probability at zero temperature."""
    cap = sides * betainc((dim - less) / 2, 0.5, 1 - overlap**2) / 2
    return {"retrieved": (1 - cap) ** (patterns - 1)}


def experiment(*, key, patterns, dim, overlap, sharpness):
    """Whether one query is retrieved; the query is the first axis."""
    x = jax.random.normal(key, (patterns, dim))
    scores = (x[:, 0] / jnp.linalg.norm(x, axis=1)).at[0].set(overlap)
    return {"retrieved": jax.nn.softmax(sharpness * scores)[0] > 0.5}


CLAIM = jp.Claim(
    id="gallery.hopfield_capacity",
    title="Attention retrieves exponentially many patterns",
    statement=r"$P(\text{retrieved}) \to F_d(m)^{N - 1}$ as $\beta \to \infty$.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Ramsauer et al. (ICLR 2021); Lucibello and Mézard, Physical Review Letters 132 (2024)",
    parameters=(
        jp.Parameter("patterns", "integer", "patterns", "N", low=2, high=10_000),
        jp.Parameter("dim", "integer", "dimension", "d", low=3, high=200),
        jp.Parameter("overlap", "real", "overlap of the query", "m", low=0, high=0.99),
        jp.Parameter("sharpness", "real", "inverse temperature", low=1, simulate_only=True),
    ),
    quantities=(jp.Quantity("retrieved", "share of queries retrieved", tolerance=0.06),),
    falsifiers=(
        jp.Falsifier("dimension", "d for d − 1", less=0),
        jp.Falsifier("both_sides", "opposite patterns compete too", sides=2.0),
    ),
    closed_form=retrieved,
    simulation=jp.per_trial(experiment, traced=("sharpness", "overlap"), batch=100),
    size="sharpness",
    powers=(1, 2),
    designs={"quick": jp.Design.product({"dim": 12, "overlap": 0.6}, GRID, 10_000)},
    figure=jp.Curves(x="patterns", y="retrieved", log_x=True),
)
