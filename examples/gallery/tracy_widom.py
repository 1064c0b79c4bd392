r"""The largest eigenvalue of a Gaussian matrix: Tracy and Widom (1996).

A real symmetric Gaussian matrix is orthogonally similar to a tridiagonal one (Trotter; Dumitriu
and Edelman 2002) with independent entries, normal on the diagonal and $\chi_{n-1}, \chi_{n-2},
\dots$ beside it. Near the upper edge its first $10\, n^{1/3}$ rows decide: what lies beyond is
felt like Airy's function at 10. The bulk ends at $2 \sqrt n$; with $m = n - \frac12$, which
removes a shift of order $n^{-1/3}$ (Johnstone and Ma 2012), $m^{1/6} (\lambda_1 - 2 \sqrt m)$ has
the law
$$F_1(s) = \det(1 - B_s), \qquad B_s(x, y) = \mathrm{Ai}(x + y + s) \text{ on } x, y > 0$$
(Ferrari and Spohn 2005), evaluated by quadrature (Bornemann 2010). At $n = 150$ the difference of
the laws, of order $n^{-2/3}$, is far below the tolerance. Easier than the paper: a determinant of
40 numbers in place of Painlevé's equation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import airy

import jaxprompt as jp


@functools.cache
def determinants():
    """A grid, and the distribution function on it."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    x, root = 8 * (nodes + 1), np.sqrt(8 * weights)
    grid = np.linspace(-8.0, 6.0, 281)
    kernels = root[:, None] * airy(x[:, None] + x + grid[:, None, None])[0] * root
    return grid, np.linalg.det(np.eye(40) - kernels)


def law(*, scale=1.0, shift=0.0):
    """The law; falsifiers scale and shift it."""
    table = determinants()
    return {"largest": jp.Distribution(cdf=lambda s: np.interp((s - shift) / scale, *table))}


def experiment(*, key, dim):
    """The scaled largest eigenvalue of one matrix, from its first rows."""
    rows = round(10 * dim ** (1 / 3))
    keys = jax.random.split(key)
    diagonal = 2**0.5 * jax.random.normal(keys[0], (rows,))
    beside = jnp.sqrt(jax.random.chisquare(keys[1], dim - jnp.arange(1.0, rows)))
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    middle = dim - 0.5
    return {"largest": middle ** (1 / 6) * (jnp.linalg.eigvalsh(matrix)[-1] - 2 * middle**0.5)}


CLAIM = jp.Claim(
    id="gallery.tracy_widom",
    title="Tracy and Widom's law at the edge",
    statement=r"$m^{1/6} (\lambda_1 - 2 \sqrt m)$ has the law $\det(1 - \mathrm{Ai}(x + y + s))$.",
    derivation=__doc__,
    relation=jp.Relation.MEAN,
    source="Tracy and Widom, Communications in Mathematical Physics 177 (1996)",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "n", low=30, high=30_000, simulate_only=True),
    ),
    quantities=(jp.Quantity("largest", "scaled largest eigenvalue", tolerance=0.1),),
    falsifiers=(
        jp.Falsifier("complex", "the scale of complex matrices", scale=0.71),
        jp.Falsifier("shift", "0.3 to the right", shift=0.3),
    ),
    closed_form=law,
    simulation=jp.per_trial(experiment),
    designs={"quick": jp.Design({"dim": 150}, trials=1200)},
    figure=jp.Evidence(),
)
