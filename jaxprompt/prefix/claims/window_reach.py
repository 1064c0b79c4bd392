r"""Claim ``prefix.window_reach``: through sliding windows a prefix reaches L(w − 1) positions."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.attention import attention_head, visible_positions
from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.core.claim import Claim, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.attention_layer import normalise_rows
from jaxprompt.prefix.head_identity import split_row
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "changed_positions", "closed_form", "simulate"]

STATEMENT = r"""
Let every layer of a causal model of $L$ layers see a window of $w$ positions (a query's own among
them), with a prefix of any length just before the content, at the first layer or at every layer.
Then the prefix can change the first
$$\min\big(T,\ L(w-1)\big)$$
of the $T$ content positions, and no other: those from $L(w-1)$ on have the outputs of the model
without a prefix, to the last bit. One layer that sees everything removes the limit from there on,
and so does a prefix that is exempt from the window (a pinned sink).
"""

DERIVATION = r"""
The prefix's last vector stands at position $-1$, and position $i$ sees the keys from $i-w+1$ on. So
in layer 1 the prefix is seen from $i-w+1\le-1$, the positions $0,\dots,w-2$, whatever its length. A
later layer sees the prefix itself from the same positions, and a changed position $r-1$ from the
positions up to $r-1+w-1$: each layer adds $w-1$ to the number $r$ of changed positions. What a
query does not see has weight $e^{-\infty}=0$ in its sums, exactly.

That all these positions do change needs heads that look far. So every second model here has
position biases that rise with the distance and a damped residual stream, which hand a change on
from each layer to the next; the others have random scores. In a model whose heads look near, the
far positions change by less than rounding shows: the reach is then smaller, never larger.

*Tolerances.* Positions are counted, and a difference of one bit counts: 0.
"""

TOKENS = Parameter("tokens", "integer", "content positions", "T", low=1, high=256, default=32)


# --- the closed form ---


def closed_form(
    *, window: Any, layers: Any, tokens: Any = 32, prefix: Any = 2,
    exempt: Literal["nothing", "prefix", "last layer"] = "nothing",
    prefix_at: Literal["every layer", "first layer"] = "every layer",
    counts_itself: bool = True, first_position: int = 0, depth_counts: bool = True,
    prefix_adds: bool = False, exemptions_count: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The number of content positions that a prefix can change; numbers broadcast.

    Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    step = np.subtract(window, 1 if counts_itself else 0)
    depth = np.asarray(layers) if depth_counts else np.ones_like(layers)
    reach = depth * step + first_position
    if prefix_adds:
        reach = reach + np.subtract(prefix, 1)
    tokens = np.asarray(tokens)
    if exemptions_count and exempt == "prefix":
        reach = tokens
    elif exemptions_count and exempt == "last layer":
        # The last layer must see the prefix, or something that an earlier layer changed.
        sees = np.logical_or(np.equal(layers, 1), reach > 0) | (prefix_at == "every layer")
        reach = np.where(sees, tokens, 0)
    shape = np.broadcast_shapes(*map(np.shape, (window, layers, tokens, prefix)))
    return {"reach": np.broadcast_to(np.minimum(reach, tokens), shape)}


FALSIFIERS = (
    Falsifier("L w", "each layer adds w positions: the query's own is not among them",
              counts_itself=False),
    Falsifier("one further", "L (w − 1) + 1: positions are counted from the wrong end",
              first_position=1),
    Falsifier("one layer", "w − 1 whatever the depth", depth_counts=False),
    Falsifier("longer prefix", "every further vector of the prefix reaches one further",
              prefix_adds=True),
    Falsifier("no exemption", "a pinned prefix or a layer that sees all is limited too",
              exemptions_count=False),
)  # fmt: skip


# --- the simulation ---

_WIDTH, _HEADS = 16, 2
_SLOPE, _DAMPING = 4.0, 0.25
"""Bias a position of models that look far, and the share of the residual stream that they keep."""


def changed_positions(
    trials: int, *, window: int, layers: int, tokens: int, prefix: int, exempt: str,
    prefix_at: str, precision: str, key: Key[Array, ""],
) -> Float[np.ndarray, "R T"]:  # fmt: skip
    """Largest change of each content position by a prefix, in R random models.

    A model with its prefix and the same model that may not look at it: one program, so whatever
    does not depend on the prefix has the same bits. Computed in `precision`.
    """
    with jax.enable_x64(True):
        changes = _changes(
            trials, tokens, prefix, precision, key, window, layers, exempt == "prefix",
            exempt == "last layer", prefix_at == "first layer",
        )  # fmt: skip
        return np.asarray(changes)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=RUN_ONCE_OPTIONS)
def _changes(
    trials: int, tokens: int, prefix: int, dtype: str, key: Array, window: Array, layers: Array,
    pinned: Array, last_sees_all: Array, first_only: Array,
) -> Array:  # fmt: skip
    positions = np.arange(-prefix, tokens)
    causal = visible_positions(positions[prefix:], positions)
    distance = jnp.asarray(positions[prefix:, None] - positions)
    near = causal & (distance < window)
    is_prefix = jnp.broadcast_to(jnp.asarray(positions < 0), near.shape)

    def visible(layer: Array, sees_prefix: Array) -> Array:
        sees_all = pinned & is_prefix | last_sees_all & (layer == layers - 1)
        hidden = is_prefix & ~(sees_prefix & ((layer == 0) | ~first_only))
        return jnp.where(sees_all, causal, near) & ~hidden

    shapes = ((4, _WIDTH, _WIDTH), (prefix, _WIDTH))
    sizes = [int(np.prod(shape)) for shape in shapes]

    def run(key: Array, looks_far: Array, sees_prefix: Array) -> Array:
        """The last layer's stream (T, d), with the prefix in sight or not."""
        slope = jnp.where(looks_far, _SLOPE, 0.0)
        kept = jnp.where(looks_far, _DAMPING, 1.0).astype(dtype)

        def draw(row: Any, count: int) -> Array:
            return random_table.normals(key, row, 1, count)[0]

        def step(layer: Array, x: Array) -> Array:
            kernel, vectors = split_row(draw(layer + 1, sum(sizes)), shapes)
            kernel = (kernel / np.float32(_WIDTH**0.5)).astype(dtype)
            wide = jnp.concatenate([vectors.astype(dtype), normalise_rows(x)]) @ kernel[:3]
            query, keys, values = wide.reshape(3, -1, _HEADS, _WIDTH // _HEADS).swapaxes(1, 2)
            mask = jnp.where(visible(layer, sees_prefix), slope * distance, -jnp.inf).astype(dtype)
            each = jax.vmap(functools.partial(attention_head, mask=mask))
            heads = each(query[:, prefix:], keys, values)
            attended = heads.swapaxes(0, 1).reshape(tokens, _WIDTH)
            return kept * x + attended @ kernel[3]

        content = draw(0, tokens * _WIDTH).reshape(tokens, _WIDTH).astype(dtype)
        return jax.lax.fori_loop(0, layers, step, content)

    def change(model: tuple[Array, Array]) -> Array:
        # One loop body serves both, so that they share every bit that they can.
        with_prefix, alone = jax.lax.map(functools.partial(run, *model), jnp.asarray([True, False]))
        return jnp.abs(with_prefix - alone).max(axis=1).astype(jnp.float64)

    return jax.lax.map(change, (jax.random.split(key, trials), jnp.arange(trials) % 2 == 0))


def simulate(
    *, key: Key[Array, ""], trials: int, window: int, layers: int, tokens: int = 32,
    prefix: int = 2, exempt: str = "nothing", prefix_at: str = "every layer",
    precision: str = "float64",
) -> dict[str, Estimate]:  # fmt: skip
    """One more than the last position that a prefix changes, by a bit at least, in random models.

    Every second of the `trials` models looks far.
    """
    changes = changed_positions(
        trials, window=window, layers=layers, tokens=tokens, prefix=prefix, exempt=exempt,
        prefix_at=prefix_at, precision=precision, key=key,
    )  # fmt: skip
    moved = np.flatnonzero((changes > 0).any(axis=0))
    return {"reach": exact_estimate(float(moved.max(initial=-1) + 1), trials)}


# --- the design ---

_RUNS = (
    *(Run(window=w, layers=n) for w, n in ((1, 3), (3, 3), (4, 1), (4, 2), (5, 4), (16, 3))),
    Run(window=4, layers=3, prefix_at="first layer"),
    Run(window=4, layers=2, exempt="prefix"),
    Run(window=4, layers=2, exempt="last layer"),
    Run(window=1, layers=2, exempt="last layer", prefix_at="first layer"),
    *(Run(window=4, layers=3, precision=name) for name in ("float32", "bfloat16")),
)

CLAIM = Claim(
    id="prefix.window_reach",
    title="How far a prefix reaches through sliding windows",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="derived here",
    parameters=(
        Parameter("window", "integer", "positions a query sees, its own among them", "w", low=1,
                  high=256),
        Parameter("layers", "integer", "layers of the model", "L", low=1, high=32),
        TOKENS,
        Parameter("prefix", "integer", "vectors of the prefix", "n", low=1, high=64, default=2),
        Parameter("exempt", "choice", "what the window does not limit",
                  choices=("nothing", "prefix", "last layer"), default="nothing"),
        Parameter("prefix_at", "choice", "layers at which the prefix stands",
                  choices=("every layer", "first layer"), default="every layer"),
        Parameter("precision", "choice", "float type of the models",
                  choices=("float64", "float32", "float16", "bfloat16"), default="float64",
                  simulate_only=True),
    ),
    quantities=(Quantity("reach", "content positions that the prefix changes", 0.0),),
    compared=Compared(
        {"window": (1, 256), "layers": (1, 32), "tokens": (1, 256), "prefix": (1, 64),
         "exempt": ("nothing", "prefix", "last layer"),
         "prefix_at": ("every layer", "first layer")},
        elsewhere="all that is allowed is compared; counts are exact",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*_RUNS, trials=4),
        "full": Design(
            *_RUNS,
            *(
                Run(window=w, layers=n, tokens=96, prefix=p, precision=name)
                for w, n in ((2, 30), (9, 8), (40, 2))
                for p in (1, 20)
                for name in ("float64", "float32")
            ),
            trials=20,
        ),
    },
    broadcasts="window, layers, tokens and prefix",
    cost="short",
    figure=Curves(
        x="layers", y="reach", series="window",
        design=Design.product({}, {"window": [2, 4, 7], "layers": [1, 2, 3, 4, 5]}, trials=4),
        title="Each layer carries a prefix w − 1 positions further",
        caption="32 content positions; positions that differ by a bit from the model alone",
    ),
)  # fmt: skip
