r"""Claim ``prefix.suffix_reads_content``: what a suffix can do and a prefix cannot."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.attention import attention_head, prompt_attention
from jaxprompt.compute import random_table
from jaxprompt.core.claim import (
    Claim,
    Design,
    Falsifier,
    Mark,
    Panel,
    Panels,
    Quantity,
    Relation,
    Run,
    Verdict,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.prefix import head_identity
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "best_affine", "closed_form", "noise_free", "simulate"]

STATEMENT = r"""
*Bidirectional attention*: vectors behind the content do what the same vectors in front of it do.
*Causal attention*: vectors behind the content change none of its outputs, but their own query $q$
is free. With the own score $\ell_0$ and value $v_0$ of a suffix token, its output is
$$(1-\alpha)\,V^\top\varphi(Kq)+\alpha v_0,\qquad
  \alpha=\mathrm{sigmoid}\Big(\ell_0-\log\sum_je^{\ell_j}\Big),$$
prompt-attention over the content, with any pattern in the span of the keys; a prefix only damps
the head's own pattern.

*A task*: sequences with the share $\zeta$ of relevant tokens $r_y=q_\star+yw_\star$ and the others
0 or, with the shift, $-\Delta r_y$, equally often. One head with query 0 and keys and values equal
to the tokens is frozen; a linear read-out with intercept is free. If
$\Delta\ge\zeta/(1-\zeta)$, the best accuracy with any prefix, however long, is $3/4$, and a suffix
with the query $\gamma q_\star$, $\gamma$ large, reaches 1. (If $\Delta$ is smaller, a prefix
reaches 1 too.)
"""

DERIVATION = r"""
A permutation of keys and values does not change a softmax average. Under the causal mask content
does not see the suffix. The suffix row sees the content and itself: split its softmax as in
`prefix.bias_identity`, with itself as the prefix.

With query 0 all content scores are 0, so the output with a prefix is
$\alpha b+(1-\alpha)\bar x$ with $\alpha$ and $b$ the same for every sequence: an affine image of
$\bar x=c\,r_y$, where $c=\zeta$ without the shift and $c=\zeta-(1-\zeta)\Delta$ with it. If the
second is 0 or negative, an affine function that is positive at $\zeta r_+$ and $cr_+$ and negative
at $\zeta r_-$ and $cr_-$ would be positive and negative at 0, which lies between each pair or, at
$c=0$, is the shifted point of both labels; three of the four cases can be had. The suffix weights
relevant tokens by $e^{\gamma Q^2}$ and the others by at most 1, so for large $\gamma$ its output is
near $r_y$ whatever the shift.

*Tolerances.* An accuracy is a multiple of 1/4, so it is exact. The identities are of heads of width
6 on a dozen tokens in float64, with deviations of some units of $10^{-15}$.
"""


# --- the closed form ---

ROUNDING = 1e-15
"""Relative distance from the threshold that counts as being at it: five units of 2⁻⁵²."""


def closed_form(
    *, relevant: Any, tokens: Any, shift: Any, vectors: Any = 1, shift_power: float = 1.0,
    at_threshold: Literal["prefix fails", "prefix can"] = "prefix fails", prefix_best: float = 0.75,
    suffix_reads: bool = True, content_change: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Best accuracies of the task, and deviations that must be 0; numbers broadcast, float64.

    Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    shapes = (np.shape(value) for value in (relevant, tokens, shift, vectors))
    zero = np.zeros(np.broadcast_shapes(*shapes))
    threshold = np.divide(relevant, np.subtract(tokens, relevant))
    # A shift computed as k/(T − k) or as ζ/(1 − ζ) is at the threshold, whatever its rounding.
    margin = -ROUNDING if at_threshold == "prefix fails" else ROUNDING
    beyond = np.power(shift, shift_power) >= threshold * (1 + margin)
    prefix = np.where(beyond, prefix_best, 1.0) + zero
    return {
        "prefix_accuracy": prefix,
        "suffix_accuracy": zero + 1.0 if suffix_reads else prefix,
        "bidirectional": zero,
        "content": zero + content_change,
        "suffix": zero,
    }


FALSIFIERS = (
    Falsifier("half", "½ for ¾", prefix_best=0.5),
    Falsifier("prefix can", "a prefix always reaches 1", prefix_best=1.0),
    Falsifier("shift squared", "Δ² for Δ in the condition", shift_power=2.0),
    Falsifier("strict", "1 at Δ = ζ/(1−ζ), where the shifted means are 0",
              at_threshold="prefix can"),
    Falsifier("suffix cannot", "a suffix does no better than a prefix", suffix_reads=False),
    Falsifier("content moves", "a causal suffix changes content", content_change=1e-6),
)  # fmt: skip


# --- the simulation: the task ---


def noise_free(relevant: int, tokens: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """The four sequences (4, T, 2), in the plane of w⋆ and q⋆ with norm 1, and labels (4,).

    In float64 and by NumPy, which has no program for each number of tokens.
    """
    labels = np.array([1.0, -1.0, 1.0, -1.0])
    scale = np.array([0.0, 0.0, 1.0, 1.0]) * shift
    mark = np.stack([labels, np.ones(4)], axis=1)
    first = (np.arange(tokens) < relevant)[None, :, None]
    return np.where(first, mark[:, None], -(scale[:, None] * mark)[:, None]), labels


def best_affine(
    points: Float[np.ndarray, "n 2"], labels: Float[np.ndarray, " n"], rounding: float = 0.0
) -> float:
    """Largest share of points in the plane that an affine function gives the sign of their label.

    Every subset is tried, largest first. It counts when the convex hulls of its two classes are
    further apart than `rounding`, what the points' own rounding errors may amount to.
    """
    count = len(labels)
    for size in range(count, 0, -1):
        for subset in itertools.combinations(range(count), size):
            chosen = list(subset)
            if _hull_gap(points[chosen], labels[chosen]) > rounding:
                return size / count
    return 0.0


def _hull_gap(points: np.ndarray, labels: np.ndarray) -> float:
    """Distance of the convex hulls of two classes in the plane; 0 where they meet.

    The shortest segment between disjoint hulls joins two corners, or a corner and an edge, so
    its direction is that of a difference of two points, or at right angles to one.
    """
    positive, negative = points[labels > 0], points[labels < 0]
    if not len(positive) or not len(negative):
        return math.inf
    steps = np.array([b - a for a, b in itertools.combinations(points, 2)])
    directions = np.concatenate([steps, np.stack([-steps[:, 1], steps[:, 0]], axis=1)])
    lengths = np.hypot(*directions.T)
    units = directions[lengths > 0] / lengths[lengths > 0, None]
    units = np.concatenate([units, -units])
    gaps = (positive @ units.T).min(axis=0) - (negative @ units.T).max(axis=0)
    return max(float(gaps.max(initial=0.0)), 0.0)


# --- the simulation: heads ---

SHARPNESS = 50.0
"""γ of the suffix's query γq⋆: an irrelevant token has at most e⁻⁵⁰ of a relevant one's weight."""


# The best over all prefixes and the worst over all heads are exact numbers, not means of trials.
def simulate(
    *, key: Key[Array, ""], trials: int, relevant: int, tokens: int, shift: float, vectors: int = 1
) -> dict[str, Estimate]:
    """Real heads in float64: `trials` random prefixes and one suffix on the task, and `trials`
    random heads for the identities, with `vectors` tokens before or behind the content."""
    with jax.enable_x64(True):
        sequences, labels = noise_free(relevant, tokens, shift)
        with_prefix, sizes = map(np.asarray, _outputs_with_prefix(sequences, trials, vectors, key))
        with_suffix = np.asarray(_outputs_with_suffix(sequences))
        identities = _identities(trials, vectors, key)
        measured = {name: np.asarray(deviation).max() for name, deviation in identities.items()}
    eps = float(np.finfo(np.float64).eps)
    # An output is a mean of that many vectors no longer than `sizes`, so off by less than this.
    rounding = 8 * (tokens + vectors) * eps * sizes
    measured["prefix_accuracy"] = max(
        best_affine(x, labels, limit) for x, limit in zip(with_prefix, rounding, strict=True)
    )
    measured["suffix_accuracy"] = best_affine(with_suffix, labels, 8 * tokens * eps * (1 + shift))
    return {name: exact_estimate(value, trials) for name, value in measured.items()}


@functools.partial(jax.jit, static_argnums=(1, 2), compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _outputs_with_prefix(
    sequences: Array, trials: int, vectors: int, key: Array
) -> tuple[Array, Array]:
    """Outputs (R, 4, 2) of the frozen head's last row with random prefixes of several sizes.

    And the largest entry (R,) of the prefix and the sequences.
    """

    def one(uniform: Array, normal: Array) -> tuple[Array, Array]:
        size = jnp.exp(6 * uniform.astype(jnp.float64) - 3)
        prefix = size * normal.reshape(vectors, 2).astype(jnp.float64)

        def output(x: Array) -> Array:
            everything = jnp.concatenate([prefix, x])
            return attention_head(jnp.zeros((1, 2)), everything, everything)[0]

        largest = jnp.maximum(jnp.abs(prefix).max(), jnp.abs(sequences).max())
        return jax.vmap(output)(sequences), largest

    size_key, vector_key = jax.random.split(key)
    sizes = random_table.uniforms(size_key, 0, trials, 1)[:, 0]
    return jax.vmap(one)(sizes, random_table.normals(vector_key, 0, trials, 2 * vectors))


@functools.partial(jax.jit, compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _outputs_with_suffix(sequences: Array) -> Array:
    """Outputs (4, 2) of one suffix token with the query γq⋆, a very low own score and value 0."""

    def output(x: Array) -> Array:
        keys = jnp.concatenate([x, jnp.array([[0.0, -100.0]])])
        values = jnp.concatenate([x, jnp.zeros((1, 2))])
        return attention_head(SHARPNESS * jnp.array([[0.0, 1.0]]), keys, values)[0]

    return jax.vmap(output)(sequences)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=head_identity.RUN_ONCE_OPTIONS)
def _identities(trials: int, vectors: int, key: Array) -> dict[str, Array]:
    """Largest deviations, for random heads on 8 content tokens of width 6."""
    size, width = 8, 6
    shapes = ((3, width, width), (size, width), (vectors, width))

    def one(numbers: Array) -> dict[str, Array]:
        kernel, content, extra = head_identity.split_row(numbers, shapes)
        before, after = jnp.concatenate([extra, content]), jnp.concatenate([content, extra])

        def head(rows: Array, visible_rows: Array | None = None) -> Array:
            query, keys, values = rows @ kernel
            return attention_head(query, keys, values, visible_rows)

        causal = head(after, jnp.tri(size + vectors, dtype=bool))
        query, keys, values = after @ kernel
        first = query[size]  # the first suffix token sees the content and itself
        self_score, scores = keys[size] @ first, keys[:size] @ first
        mass = jax.nn.sigmoid(self_score - jax.nn.logsumexp(scores))
        # Prompt-attention reads keys and values from one matrix: the pattern from its keys part.
        pattern = prompt_attention(
            jnp.concatenate([keys[:size], jnp.eye(size)], axis=1),
            jnp.concatenate([first, jnp.zeros(size)]),
        )[width:]
        expected = (1 - mass) * (pattern @ values[:size]) + mass * values[size]
        alone = head(content, jnp.tri(size, dtype=bool))
        return {
            "bidirectional": jnp.abs(head(before)[vectors:] - head(after)[:size]).max(),
            "content": jnp.abs(causal[:size] - alone).max(),
            "suffix": jnp.abs(causal[size] - expected).max(),
        }

    numbers = random_table.normals(key, 0, trials, sum(int(np.prod(shape)) for shape in shapes))
    return jax.vmap(one)(numbers.astype(jnp.float64))


# --- the design ---

_POINTS = ((2, 0.2, 1), (2, 0.4, 4), (4, 0.8, 1), (5, 3.0, 4), (6, 1.3, 1), (5, 1.0, 2))
"""Relevant tokens of ten, shift and vectors: below, at and above the threshold."""


def _run(relevant: int, shift: float, vectors: int) -> Run:
    return Run(relevant=relevant, tokens=10, shift=shift, vectors=vectors)


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Some tokens relevant, and some not."""
    if (np.asarray(params["relevant"]) >= np.asarray(params["tokens"])).any():
        raise ParameterError(
            "relevant", params["relevant"], f"less than `tokens` ({params['tokens']})",
            "leave some tokens irrelevant", where,
        )  # fmt: skip
    return params


# --- the figure ---


def _panels(claim: Claim, verdict: Verdict, key: Key[Array, ""]) -> list[Panel]:
    """Best accuracy against the shift, and what a prefix and a suffix make of the sequences."""
    accuracies = {}
    for row in verdict.rows:
        point = row.parameters
        threshold = point["relevant"] / (point["tokens"] - point["relevant"])
        accuracies.setdefault(row.quantity, []).append((point["shift"] / threshold, row.simulated))
    reach = [x for x, _ in accuracies["prefix_accuracy"]]
    low, high = min(reach) / 1.3, max(reach) * 1.3
    accuracy = [
        Mark("line", [low, 1, 1, high], [1, 1, 0.75, 0.75], label="theory: any prefix"),
        Mark("line", [low, high], [1, 1], label="theory: a suffix", colour=1),
        Mark("points", *np.transpose(accuracies["prefix_accuracy"]),
             label="best of random prefixes"),
        Mark("points", *np.transpose(accuracies["suffix_accuracy"]), label="one suffix token",
             colour=1),
    ]  # fmt: skip
    relevant, tokens, shift = 2, 10, 1.0
    with jax.enable_x64(True):
        sequences, labels = noise_free(relevant, tokens, shift)
        views = {
            "a prefix: the mean token": sequences.mean(axis=1),
            "a suffix: its own pattern": np.asarray(_outputs_with_suffix(sequences)),
        }
    scatters = [
        Panel(
            [
                Mark("points", *points[labels > 0].T, label="label +1", colour=2),
                Mark("points", *points[labels < 0].T, label="label −1", colour=3),
            ],
            title, "along the signal", "along the context", x_range=(-1.4, 1.4),
            y_range=(-1.4, 1.4),
        )
        for title, points in views.items()
    ]  # fmt: skip
    return [
        Panel(accuracy, "best accuracy", "shift / its threshold", "accuracy", log_x=True,
              y_range=(0.5, 1.05)),
        *scatters,
    ]  # fmt: skip


CLAIM = Claim(
    id="prefix.suffix_reads_content",
    title="A suffix reads the content, a prefix cannot",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="question left open by Petrov et al., ICLR 2024; data of Oymak et al., ICML 2023",
    parameters=(
        Parameter("relevant", "integer", "relevant tokens k", "k", low=1),
        Parameter("tokens", "integer", "tokens of a sequence", "T", low=2),
        Parameter("shift", "real", "size of the shift", "Δ", low=0, open_low=True),
        Parameter("vectors", "integer", "vectors of the prefix or suffix", "n", low=1, default=1),
    ),
    quantities=(
        Quantity("prefix_accuracy", "best accuracy over a prefixed head", 1e-9, side="two"),
        Quantity("suffix_accuracy", "best accuracy over one suffix token", 1e-9, side="two"),
        Quantity("bidirectional", "largest change from prefix to suffix without a mask", 1e-12,
                 side="two"),
        Quantity("content", "largest change of content outputs by a causal suffix", 1e-12,
                 side="two"),
        Quantity("suffix", "largest deviation of a suffix token from prompt-attention", 1e-12,
                 side="two"),
    ),
    check_parameters=validate,
    compared=Compared(
        {"relevant": (1, 49), "tokens": (2, 50), "shift": (0.01, 100.0), "vectors": (1, 16)},
        elsewhere="exact: a comparison with the threshold, at which a shift within five roundings "
        "of it counts as being",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*itertools.starmap(_run, _POINTS), trials=20),
        "full": Design(
            *(
                _run(relevant, shift, vectors)
                for relevant in (1, 3, 5, 7, 9)
                for shift in (0.05, 0.3, 0.7, relevant / (10 - relevant), 1.2, 2.0, 5.0, 12.0)
                for vectors in (1, 16)
            ),
            trials=200,
        ),
    },
    broadcasts="relevant, tokens and shift",
    cost="short",
    figure=Panels(
        _panels,
        "Beyond the threshold no prefix separates the labels; one suffix token does",
        "noise-free sequences; best accuracy: every design point of the check",
    ),
)  # fmt: skip
