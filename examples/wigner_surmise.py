"""A distribution: `jaxprompt check wigner_surmise.py`."""

import jax
import jax.numpy as jnp
from scipy import stats

import jaxprompt as jp


def gap(*, scale):
    """Rayleigh's distribution."""
    return {"gap": jp.Distribution(cdf=stats.rayleigh(scale=2 * scale).cdf)}


def experiment(*, key, scale):
    """The gap between the eigenvalues of one matrix."""
    a, b, c = scale * jax.random.normal(key, (3,))
    return {"gap": jnp.diff(jnp.linalg.eigvalsh(jnp.array([[a * 2**0.5, c], [c, b * 2**0.5]])))[0]}


CLAIM = jp.Claim(
    id="example.wigner_surmise",
    title="The gap of two eigenvalues",
    statement=r"The gap of a real symmetric Gaussian 2 × 2 matrix has Rayleigh's distribution.",
    derivation=r"The gap is $\sqrt{(a - b)^2 + 4c^2}$, the length of a normal vector in the plane.",
    relation=jp.Relation.MEAN,
    source="Wigner, Conference on Neutron Physics by Time of Flight (1957)",
    parameters=(jp.Parameter("scale", "real", "scale", low=0, open_low=True),),
    quantities=(jp.Quantity("gap", "gap", tolerance=0.08),),
    falsifiers=(
        jp.Falsifier("scale", "8 % wider", lambda scale: gap(scale=1.08 * scale)),
        jp.Falsifier(
            "independent",
            "as for independent levels",
            lambda scale: {"gap": jp.Distribution(cdf=stats.expon(scale=2.5 * scale).cdf)},
        ),
    ),
    closed_form=gap,
    simulation=jp.per_trial(experiment),
    designs={"quick": jp.Design.product({}, {"scale": [0.5, 1.0]}, trials=5000)},
    figure=jp.Evidence(),
)
