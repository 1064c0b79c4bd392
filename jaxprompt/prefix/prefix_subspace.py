r"""Claim ``prefix.prefix_subspace``: the room a prefix has for its bias."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt import random
from jaxprompt.engine import Agreement, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.errors import ParameterError
from jaxprompt.parameters import Parameter
from jaxprompt.prefix.identity import ONCE, exact, parts
from jaxprompt.prefix.lab import compare_upper
from jaxprompt.prefix.layers import Projections, attend
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "measured", "simulate"]

STATEMENT = r"""
Through a head of width $d_h$, a prefix of $n$ vectors adds at position $i$ a bias in
$\alpha_i\,\mathrm{conv}\{W_Vs_1,\dots,W_Vs_n\}$. Over all positions and inputs the biases span at
most $\min(n,d_h)$ dimensions in each head: one vector has one direction, whose length alone
varies. After the heads are joined it is at most $H\min(n,d_h)$, so one vector through $H$ heads has
not one direction but up to $H$. Inside the hull the weights are tied by
$$\frac{p_{ik}}{p_{ik'}}=\exp\frac{q_i^\top(k_k-k_{k'})}{\sqrt{d_h}},$$
so between two positions the log-odds of two vectors move by at most
$|q_i-q_{i'}|\,|k_k-k_{k'}|/\sqrt{d_h}$.
"""

DERIVATION = r"""
By `prefix.bias_identity` the bias is $\alpha_i\sum_kp_{ik}W_Vs_k$ with $p_i$ a softmax over the
prefix, so it is a nonnegative combination of $n$ vectors of width $d_h$ that sums to $\alpha_i$.
The log-odds are differences of scores, linear in $q_i$; apply Cauchy and Schwarz.
"""

_TOKENS, _INPUTS = 12, 16


def closed_form(*, vectors: Any, heads: Any, head_width: Any) -> dict[str, Any]:
    """Upper bounds on ranks, on the move of log-odds relative to its limit, and on what lies
    outside the hull; numbers broadcast."""
    return _closed_form({}, vectors=vectors, heads=heads, head_width=head_width)


def _closed_form(
    wrong: dict[str, Any], *, vectors: Any, heads: Any, head_width: Any
) -> dict[str, Any]:
    room = np.maximum(np.minimum(vectors, head_width) - wrong.get("fewer", 0), 0)
    shape = np.broadcast_shapes(np.shape(vectors), np.shape(heads), np.shape(head_width))
    joined = room if wrong.get("one_direction") else np.multiply(heads, room)
    zero = np.zeros(shape)
    return {
        "rank": zero + room,
        "joined_rank": zero + joined,
        "odds_move": zero + wrong.get("odds", 1.0),
        "outside": zero,
    }


def simulate(
    *, key: Key[Array, ""], trials: int, vectors: int, heads: int, head_width: int
) -> dict[str, Estimate]:
    """Largest values over `trials` random layers, each with one prefix and 16 inputs; float64.

    `rank` and `joined_rank` count singular values above 1e-9 of the largest.
    """
    with jax.enable_x64(True):
        bias, found = measured(vectors, heads, head_width, trials, key=key)
        bias = np.asarray(bias)
        rest = {name: float(np.asarray(value).max()) for name, value in found.items()}
    flat = bias.reshape(trials, -1, heads, head_width)
    ranks = [_rank(flat[r, :, h]) for r in range(trials) for h in range(heads)]
    joined = [_rank(flat[r].reshape(-1, heads * head_width)) for r in range(trials)]
    return exact(trials, rank=max(ranks), joined_rank=max(joined), **rest)


def _rank(rows: np.ndarray) -> int:
    singular = np.linalg.svd(rows, compute_uv=False)
    return int((singular > 1e-9 * singular[0]).sum())


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=ONCE)
def measured(
    vectors: int, heads: int, head_width: int, draws: int, *, key: Key[Array, ""]
) -> tuple[Float[Array, "R B T H v"], dict[str, Float[Array, " R"]]]:
    """Biases, read off real layers as the change that values of the prefix alone make.

    And for each draw the largest move of log-odds as a share of its limit (`odds_move`), and the
    largest part of a bias that the hull does not explain (`outside`).
    """
    d = heads * head_width

    shapes = ((d, 3 * d), (3 * d,), (_INPUTS, _TOKENS, d), (vectors, d))

    def one(numbers: Array) -> tuple[Array, dict[str, Array]]:
        kernel, offset, content, prefix = parts(numbers, shapes)
        kernel = kernel / np.sqrt(d) * 1.5
        weights = Projections(kernel, offset)
        run = functools.partial(attend, weights, heads=heads, causal=True)
        full, alone = run(content, prefix), run(content)
        mass = full.prefix.sum(axis=-1).swapaxes(-1, -2)[..., None]
        bias = full.output - (1 - mass) * alone.output

        def split(x: Array) -> Array:
            wide = x @ kernel + offset
            return jnp.moveaxis(wide.reshape(*x.shape[:-1], 3, heads, head_width), -3, 0)

        query, (_, prefix_key, value) = split(content)[0], split(prefix)
        hull = jnp.einsum("bhtn,nhv->bthv", full.prefix, value)
        odds = jnp.log(full.prefix[..., :1]) - jnp.log(full.prefix)
        move = jnp.abs(odds[:, :, 1:] - odds[:, :, :-1])
        step = jnp.linalg.norm(query[:, 1:] - query[:, :-1], axis=-1).swapaxes(1, 2)
        gap = jnp.linalg.norm(prefix_key[:1] - prefix_key, axis=-1).T
        limit = step[..., None] * gap[None, :, None] / np.sqrt(head_width)
        # The first vector against itself has odds 1 at every position: 0 out of 0.
        share = jnp.where(limit > 0, move / jnp.where(limit > 0, limit, 1), 0)
        return bias, {"odds_move": share.max(), "outside": jnp.abs(bias - hull).max()}

    numbers = random.normals(key, 0, draws, sum(int(np.prod(shape)) for shape in shapes))
    return jax.vmap(one)(numbers.astype(jnp.result_type(float)))


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Few enough dimensions for the positions of a run to fill."""
    size = np.multiply(params["heads"], params["head_width"])
    if (size > _TOKENS * _INPUTS).any():
        raise ParameterError(
            "head_width", params["head_width"], f"at most {_TOKENS * _INPUTS} over all heads",
            "the rank is measured on as many positions", where,
        )  # fmt: skip
    return params


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


_SIZES = ((1, 1, 16), (1, 4, 8), (3, 2, 8), (12, 2, 8))

CLAIM = Claim(
    id="prefix.prefix_subspace",
    title="The room a prefix has for its bias",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.BOUND,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(
        Parameter("vectors", "integer", "prefix vectors", "n", low=1),
        Parameter("heads", "integer", "attention heads", "H", low=1),
        Parameter("head_width", "integer", "width of a head", "d_h", low=1),
    ),
    quantities=(
        Quantity("rank", "dimensions of a head's biases: at most", 0.0),
        Quantity("joined_rank", "dimensions of the joined biases: at most", 0.0),
        # Rounding of float64 scores of size 10.
        Quantity("odds_move", "move of log-odds as a share of its limit: at most", 1e-9),
        Quantity("outside", "part of a bias outside the hull: at most", 1e-12),
    ),
    falsifiers=(
        Falsifier("n − 1 dimensions", "min(n, d_h) − 1 in each head", _wrong(fewer=1)),
        Falsifier("one direction", "joined heads share their directions",
                  _wrong(one_direction=True)),
        Falsifier("half the odds", "log-odds move by half the limit", _wrong(odds=0.5)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(
            tuple({"vectors": n, "heads": h, "head_width": w} for n, h, w in _SIZES), 100
        ),
        "full": Design(
            tuple(
                {"vectors": n, "heads": h, "head_width": w}
                for n in (1, 2, 5, 20) for h in (1, 2, 4) for w in (4, 16)
            ), 2000,
        ),
    },
    validate=validate,
    compare=compare_upper,
    broadcasts="all parameters",
    figure=Agreement(title="Dimensions of a prefix's bias, and the bound", label="rank or share"),
)  # fmt: skip
