r"""Claim ``prefix.position_shift``: relative positions forget a shift; a cached, unrotated prefix
key does not, and its score turns along the sequence."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.attention import (
    alibi_slopes,
    relative_buckets,
    rotary_frequencies,
    rotate,
    rounding_allowance,
)
from jaxprompt.compute import random_table
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
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
from jaxprompt.prefix.head_identity import split_row
from jaxprompt.stats import Estimate, exact_estimate, mean_estimate

__all__ = ["CLAIM", "cached_scores", "closed_form", "shifted_weights", "simulate"]

STATEMENT = r"""
Let content stand at the positions $n,\dots,n+T-1$ in place of $0,\dots,T-1$, as a prefix of $n$
vectors in front of it makes it stand in usual libraries. With rotary positions, ALiBi or T5's
biases no attention weight changes, of the content or of prefix vectors that move along. With
learned absolute positions scores change; where queries and keys have independent standard normal
positions and contents of width $d_h$, by $6\,d_h$ in mean square.

A *cached* prefix key $\kappa$ is never rotated. The query at position $p$ scores it
$$s(p)=(R_pq)^\top\kappa=\mathrm{Re}\sum_fz_fe^{i\theta_fp},\qquad z_f=q_f\bar\kappa_f,$$
with $q_f,\kappa_f$ the pairs as complex numbers and $\theta_f=b^{-2f/d_h}$: it is a key at
position 0, seen from $p$. Over the positions $0,\dots,P-1$ such a score has mean
$\mathrm{Re}\sum_fz_fD(\theta_f)$ with $D(\theta)=\frac1P\sum_pe^{i\theta p}$, which tends to 0,
and a variance that tends to $\frac12\sum_f|q_f|^2|\kappa_f|^2$. For standard normal $q,\kappa$ the
variance along the sequence is $2\sum_f(1-|D(\theta_f)|^2)$ on average, and moving by $n$ positions
changes the score by $4\sum_f(1-\cos n\theta_f)$ in mean square. Only slow pairs ($\theta_fP\ll1$)
keep a constant score.
"""

DERIVATION = r"""
Rotations compose: $(R_pq)^\top R_rk=q^\top R_{r-p}k$, a function of $r-p$. ALiBi's and T5's biases
are functions of $r-p$ too; where ALiBi is implemented as slope times $r$ all scores of a query
move by one number, which the softmax forgets. With learned positions write $q=a+e_p$, $k=b+g_r$:
the change of $q^\top k$ is $a^\top(g'-g)+(e'-e)^\top b+e'^\top g'-e^\top g$, four uncorrelated
terms of variance $2d_h$, $2d_h$, $d_h$, $d_h$.

For a cached key $R_p$ multiplies $q_f$ by $e^{i\theta_fp}$ and leaves $\kappa_f$. Moments follow
from $\mathrm{Re}\,x\,\mathrm{Re}\,y=\frac12\mathrm{Re}(xy+x\bar y)$:
$$\frac1P\sum_ps(p)^2=\tfrac12\mathrm{Re}\sum_{f,g}\big(z_fz_gD(\theta_f+\theta_g)
  +z_f\bar z_gD(\theta_f-\theta_g)\big),$$
in which only $f=g$ of the second kind stays as $P$ grows. For normal vectors the $z_f$ are
uncorrelated, $\mathbb E z_fz_g=0$ and $\mathbb E|z_f|^2=4$. A move by $n$ has
$z_f(e^{in\theta_f}-1)$ for $z_f$.

*Tolerances.* Weights have the rounding of their float type, in scores up to 6 (of normal vectors,
over $\sqrt{d_h}$), of biases where ALiBi multiplies positions, and of angles, which are computed
in float32 at least: an angle of $p$ radians is off by
$p\epsilon$. Moments of given vectors are
held to $10^{-11}$, sums of up to a few thousand terms; those over normal vectors to 10 %, and a
mean score, which is of the size of $\sqrt{d_h}$ in one sequence, to 0.5.
"""


# --- the closed form ---


def closed_form(
    *, kind: str, head_dim: int, base: float = 10_000.0, length: int = 64, prefix: int = 3,
    query: Any = None, cached_key: Any = None, learned_moves: bool = True,
    cached_moves: bool = True, turn: float = 1.0, half: float = 0.5, finite_length: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What a shift by `prefix` positions changes; for cached keys also moments along the sequence.

    With `query` and `cached_key` the numbers are those of these vectors, without them means over
    normal ones. Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    if kind in ("rope", "alibi", "t5"):
        return {"deviation": 0.0}
    if kind == "learned":
        return {"shift_square": 6.0 * head_dim if learned_moves else 0.0}
    angles = float(base) ** (-np.arange(0, head_dim, 2) / head_dim)
    moved = np.exp(1j * turn * prefix * angles) - 1 if cached_moves else np.zeros(len(angles))

    def average(angle: np.ndarray) -> np.ndarray:
        if not finite_length:
            return np.where(angle == 0, 1.0, 0.0)
        return _mean_turn(angle, length)

    if query is None:
        amplitude = 4.0 * half
        return {
            "mean": 0.0,
            "variance": amplitude * (1 - np.abs(average(angles)) ** 2).sum(),
            "shift_square": amplitude * (np.abs(moved) ** 2).sum(),
        }
    pairs, others = _as_pairs(query), _as_pairs(cached_key)
    product = pairs * others.conj() if turn > 0 else pairs.conj() * others
    positions = np.arange(length)
    mean = (product * average(angles)).sum().real

    def mean_square(z: np.ndarray) -> float:
        same = np.outer(z, z) * average(np.add.outer(angles, angles))
        opposite = np.outer(z, z.conj()) * average(np.subtract.outer(angles, angles))
        return half * float((same + opposite).sum().real)

    return {
        "scores": (product * np.exp(1j * np.outer(positions, angles))).sum(axis=1).real,
        "mean": mean,
        "variance": mean_square(product) - mean**2,
        "shift_square": mean_square(product * moved),
    }


def _mean_turn(angle: np.ndarray, length: int) -> np.ndarray:
    """Mean of exp(i · angle · p) over p = 0 … length − 1, as a ratio of sines."""
    moving = np.where(angle == 0, 1.0, angle)
    ratio = np.sin(moving * length / 2) / (length * np.sin(moving / 2))
    return np.where(angle == 0, 1.0, np.exp(1j * angle * (length - 1) / 2) * ratio)


def _as_pairs(vector: Any) -> np.ndarray:
    """Coordinates f and f + d/2 as one complex number."""
    first, second = np.split(np.asarray(vector, np.float64), 2)
    return first + 1j * second


FALSIFIERS = (
    Falsifier("learned moves along", "learned positions are invariant too", learned_moves=False),
    Falsifier("cached moves along", "a cached key's score does not change with the position",
              cached_moves=False),
    Falsifier("other turn", "R(+p) for R(−p): the key is turned with the query's angle", turn=-1.0),
    Falsifier("no half", "a variance of Σ |q_f|² |κ_f|², without ½", half=1.0),
    Falsifier("no slow pairs", "every pair averages out, whatever the length",
              finite_length=False),
)  # fmt: skip


# --- the simulation: weights ---

_HEADS, _TOKENS_SHOWN = 4, 12


def shifted_weights(
    kind: str, head_dim: int, base: float, length: int, prefix: int, *, precision: str,
    key: Key[Array, ""], trials: int,
) -> dict[str, Float[np.ndarray, " R"]]:  # fmt: skip
    """Largest change of an attention weight, and mean-square change of a score, in R random layers.

    The content, up to 12 of its positions spread over the length, stands from 0 on or from `prefix`
    on; prefix vectors stand before it and move along.
    """
    spread = np.unique(np.linspace(0, length - 1, min(length, _TOKENS_SHOWN)).astype(int))
    with jax.enable_x64(True):
        places = jnp.asarray(spread, jnp.int32)
        found = _shifted_weights(kind, head_dim, prefix, precision, trials, base, places, key)
        return {name: np.asarray(x) for name, x in found.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5), compiler_options=RUN_ONCE_OPTIONS)
def _shifted_weights(
    kind: str, width: int, prefix: int, dtype: str, trials: int, base: float, places: Array,
    key: Array,
) -> dict[str, Array]:  # fmt: skip
    size, keys_in_all = len(places), prefix + len(places)
    # Learned tables have rows for the shifted positions too.
    shapes = ((_HEADS, size, width), (_HEADS, keys_in_all, width), (2, 2, size, width),
              (_HEADS, 32))  # fmt: skip

    def one(index: Array) -> dict[str, Array]:
        numbers = random_table.normals(key, index, 1, sum(int(np.prod(x)) for x in shapes))[0]
        arrays = (x.astype(dtype) for x in split_row(numbers, shapes))
        query, keys, table, buckets = arrays
        # Both places in one vectorised call, which halves what is compiled.
        scores = jax.vmap(
            lambda shift: _scores(kind, base, places, prefix, shift, query, keys, table, buckets)
        )(jnp.arange(2))
        causal = jnp.concatenate([jnp.ones((size, prefix), bool), jnp.tri(size, dtype=bool)], 1)
        scaled = scores / np.sqrt(width).astype(dtype)
        weights = jax.nn.softmax(jnp.where(causal, scaled, -jnp.inf), axis=-1)
        change = (scores[1] - scores[0]).astype(jnp.float64)
        return {
            "deviation": jnp.abs(weights[1] - weights[0]).max().astype(jnp.float64),
            "shift_square": jnp.square(change[..., prefix:]).mean(),
        }

    return jax.lax.map(one, jnp.arange(trials, dtype=jnp.uint32))


def _scores(
    kind: str, base: Any, places: Array, prefix: int, shift: Array, query: Array, keys: Array,
    table: Array, buckets: Array,
) -> Array:  # fmt: skip
    """Scores (H, T, n + T), with the content moved by `prefix` positions if `shift` is 1."""
    at = places + shift * prefix
    before = jnp.arange(prefix) + (shift - 1) * prefix
    key_places = jnp.concatenate([before, at])
    if kind == "learned":
        query = query + table[0, shift]
        keys = jnp.concatenate([keys[:, :prefix], keys[:, prefix:] + table[1, shift]], axis=1)
    elif kind == "rope":
        query, keys = rotate(query, at, base), rotate(keys, key_places, base)
    scores = query @ keys.swapaxes(1, 2)
    if kind == "alibi":
        # As BLOOM has it: slope times the key's position, and not its distance.
        slopes = jnp.asarray(alibi_slopes(_HEADS), scores.dtype)[:, None, None]
        scores = scores + slopes * key_places.astype(scores.dtype)
    elif kind == "t5":
        scores = scores + buckets[:, _buckets_of(at, key_places)]
    return scores


def _buckets_of(query_places: Array, key_places: Array) -> Array:
    """T5's buckets of traced positions; the distances decide them."""
    largest = 8192
    table = relative_buckets([0], -np.arange(largest))[0]
    distance = jnp.clip(query_places[:, None] - key_places[None, :], 0, largest - 1)
    return jnp.asarray(table)[distance]


# --- the simulation: cached keys ---


def cached_scores(
    queries: Float[np.ndarray, "R d"], keys: Float[np.ndarray, "R d"], positions: Any, base: float
) -> Float[np.ndarray, "R P"]:
    """Score of each key, which is not rotated, by its query rotated to each position; float64."""
    angles = np.outer(positions, rotary_frequencies(keys.shape[1], base))
    cosine, sine = np.cos(angles), np.sin(angles)

    def score(query: np.ndarray, key: np.ndarray) -> np.ndarray:
        (first, second), (key_first, key_second) = np.split(query, 2), np.split(key, 2)
        turned = first * cosine - second * sine, second * cosine + first * sine
        return turned[0] @ key_first + turned[1] @ key_second

    return np.array([score(query, key) for query, key in zip(queries, keys, strict=True)])


def simulate(
    *, key: Key[Array, ""], trials: int, kind: str, head_dim: int, base: float = 10_000.0,
    length: int = 64, prefix: int = 3, precision: str = "float64", query: Any = None,
    cached_key: Any = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Random layers at both places; cached keys along the sequence, given vectors exactly."""
    if kind != "cached":
        changes = shifted_weights(
            kind, head_dim, base, length, prefix, precision=precision, key=key, trials=trials
        )
        estimates = {"deviation": exact_estimate(changes["deviation"].max(), trials)}
        if kind == "learned":
            estimates["shift_square"] = mean_estimate(changes["shift_square"])
        return estimates
    positions = np.arange(length + prefix)
    if query is not None:
        moments = _moments(cached_scores(query[None], cached_key[None], positions, base), length)
        return {name: exact_estimate(values[0], trials) for name, values in moments.items()}
    numbers = _normals(key, trials, 2 * head_dim)
    queries, keys = np.split(np.asarray(numbers, np.float64), 2, axis=1)
    moments = _moments(cached_scores(queries, keys, positions, base), length)
    averaged = ("mean", "variance", "shift_square")
    return {name: mean_estimate(moments[name]) for name in averaged}


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normals(key: Array, rows: int, columns: int) -> Array:
    return random_table.normals(key, 0, rows, columns)


def _moments(scores: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Of each row of scores, at the first `length` positions; the others are where they move."""
    here, there = scores[:, :length], scores[:, scores.shape[1] - length :]
    return {
        "scores": here, "mean": here.mean(axis=1), "variance": here.var(axis=1),
        "shift_square": np.square(there - here).mean(axis=1),
    }  # fmt: skip


# --- the design ---


def _weight_tolerance(point: Mapping[str, Any]) -> float:
    """Rounding of scores up to 6, of ALiBi's biases and of angles, in the run's float type."""
    dtype, width = point.get("precision", "float64"), point["head_dim"]
    farthest = point.get("length", 64) + 2 * point.get("prefix", 3)
    angle_type = "float64" if dtype == "float64" else "float32"
    turned = float(jnp.finfo(angle_type).eps) * farthest * width**0.5
    biases = float(alibi_slopes(_HEADS)[0]) * farthest if point["kind"] == "alibi" else 0.0
    return rounding_allowance(dtype, terms=width, largest_score=6.0 + biases) + turned


def _moment_tolerance(point: Mapping[str, Any]) -> float:
    """0.1 on average over normal vectors; 1e-11 for vectors that are given."""
    return 1e-11 if "query" in point else 0.1


def _mean_tolerance(point: Mapping[str, Any]) -> float:
    """0.5 on average over normal vectors; 1e-11 for vectors that are given."""
    return 1e-11 if "query" in point else 0.5


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Pairs of coordinates; both vectors or none, of cached keys, as wide as the head."""
    if params["head_dim"] % 2:
        raise ParameterError(
            "head_dim", params["head_dim"], "an even number", "rotations turn pairs", where
        )
    given = [name for name in ("query", "cached_key") if name in params]
    for name in given:
        if params["kind"] != "cached" or len(given) == 1:
            raise ParameterError(
                name, "(given)", 'both `query` and `cached_key`, with kind = "cached"',
                "give both, or none", where,
            )  # fmt: skip
        if np.shape(params[name]) != (params["head_dim"],):
            raise ParameterError(
                name, f"shape {np.shape(params[name])}", f"({params['head_dim']},)",
                "give one number for each coordinate of the head", where,
            )  # fmt: skip
    return params


_QUERY = np.array([1.2, -0.4, 0.9, 1.7, -1.1, 0.3, 0.8, -0.6])
_CACHED_KEY = np.array([0.7, 1.5, -1.3, 0.2, 0.9, -0.8, 1.4, 1.0])
_VECTORS = {"kind": "cached", "head_dim": 8, "query": _QUERY, "cached_key": _CACHED_KEY}

_RUNS = (
    Run(_VECTORS, base=100.0, length=200, trials=2),
    Run(_VECTORS, base=10_000.0, length=300, prefix=7, trials=2),
    *(
        Run(kind=kind, head_dim=16, length=60, precision=dtype, trials=100)
        for kind, dtype in (
            ("rope", "float64"), ("rope", "float32"), ("rope", "bfloat16"), ("alibi", "float64"),
            ("t5", "float64"),
        )
    ),
    Run(kind="learned", head_dim=16, length=60, trials=300),
    Run(kind="cached", head_dim=16, base=100.0, length=100),
    Run(kind="cached", head_dim=16, length=100),
)  # fmt: skip


# --- the figure ---


def _panels(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """Score of a cached key along the sequence, fast and slow pairs; a rotated key beside it."""
    panels: list[Panel] = []
    for base in (100.0, 10_000.0):
        length = 240
        theory = claim.predict({**_VECTORS, "base": base, "length": length})
        shown = np.arange(0, length, 5)
        scores = cached_scores(_QUERY[None], _CACHED_KEY[None], shown, base)[0]
        level = float(_QUERY @ _CACHED_KEY)
        panels.append(
            Panel(
                [
                    Mark("line", np.arange(length), theory["scores"], label="theory: cached key"),
                    Mark("points", shown, scores, label="cached key, run"),
                    Mark("level", y=[level], label="key rotated with the query", colour=3),
                ],
                f"base {base:g}", "position of the query", "score", y_range=(-6.0, 6.0),
            )
        )  # fmt: skip
    return panels


CLAIM = Claim(
    id="prefix.position_shift",
    title="A cached prefix key turns out of phase along the sequence",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="derived here",
    parameters=(
        Parameter("kind", "choice", "how the model encodes positions",
                  choices=("rope", "alibi", "t5", "learned", "cached")),
        Parameter("head_dim", "integer", "width of a head, even", "d_h", low=2, high=256),
        Parameter("base", "real", "base of the rotary angles", "b", low=2, high=1e8,
                  default=10_000.0),
        Parameter("length", "integer", "positions of the content", "P", low=2, high=4096,
                  default=64),
        Parameter("prefix", "integer", "positions by which the content moves", "n", low=1,
                  high=256, default=3),
        Parameter("query", "array", "a query before its rotation, (d_h,); normal if left out", "q",
                  low=-1e3, high=1e3, default=None),
        Parameter("cached_key", "array", "a cached key, (d_h,); normal if left out", "κ",
                  low=-1e3, high=1e3, default=None),
        Parameter("precision", "choice", "float type of the random layers",
                  choices=("float64", "float32", "float16", "bfloat16"), default="float64",
                  simulate_only=True),
    ),
    check_parameters=validate,
    quantities=(
        Quantity("deviation", "largest change of an attention weight by the shift",
                 _weight_tolerance),
        Quantity("shift_square", "mean-square change of a score by the shift",
                 _moment_tolerance, relative=True),
        Quantity("scores", "a cached key's score at each position", 1e-11, axis="position"),
        Quantity("mean", "mean score of a cached key along the sequence", _mean_tolerance),
        Quantity("variance", "variance of that score along the sequence", _moment_tolerance,
                 relative=True),
    ),
    compared=Compared(
        {"kind": ("rope", "alibi", "t5", "learned", "cached"), "head_dim": (2, 256),
         "base": (2.0, 1e8), "length": (2, 4096), "prefix": (1, 256), "query": (-1e3, 1e3),
         "cached_key": (-1e3, 1e3)},
        elsewhere="all that is allowed is compared; numbers of given vectors keep 1e-15 times the "
        "farthest position of the sum of |z_f|, or of its square",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*_RUNS, trials=8000),
        "full": Design(
            *_RUNS,
            *(
                Run(kind="cached", head_dim=width, base=base, length=length, prefix=prefix)
                for width in (8, 64)
                for base in (100.0, 500_000.0)
                for length, prefix in ((100, 1), (2000, 20))
            ),
            *(
                Run(kind="rope", head_dim=64, length=4000, prefix=100, precision=dtype, trials=200)
                for dtype in ("float64", "float32", "float16", "bfloat16")
            ),
            trials=20_000,
        ),
    },
    cost="short",
    figure=Panels(
        _panels,
        "A cached prefix key is seen from an angle that turns with the position",
        "one query and one key of width 8; rotated with the query, the key keeps its score",
        needs_check=False,
    ),
)  # fmt: skip
