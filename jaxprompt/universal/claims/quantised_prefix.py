r"""Claim ``universal.quantised_prefix``: how many bits the entries of a prefix need."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key
from scipy import optimize

from jaxprompt.compute.trials import per_trial
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
from jaxprompt.stats import Estimate, exact_estimate, half_width, jackknife
from jaxprompt.universal.numerics import point_sets, rounding
from jaxprompt.universal.parameters import ACCURACY, CENTRES, CONCENTRATION, CONTENT, SPHERE_DIM

__all__ = ["CLAIM", "closed_form", "rounded_errors", "simulate", "steps_for"]

STATEMENT = r"""
Let the scores of a softmax move by errors $e$ of oscillation $D=\max_i e_i-\min_i e_i$, the
content's included. Its weights then move by at most
$$ \mathrm{TV}\big(\mathrm{softmax}(\ell),\mathrm{softmax}(\ell+e)\big)\ \le\ \tanh(D/4), $$
and two positions whose log-odds go from $D/2$ to $-D/2$ attain it. A prefix with keys
$\lambda b_i$ on a grid of step $\Delta_k$ and values of length at most 1 on a grid of step
$\Delta_v$, in $n=m+1$ coordinates, therefore changes its output by at most
$$ 2\tanh\big(\sqrt n\,\Delta_k/4\big)+\sqrt n\,\Delta_v/2 , $$
and no less will do for all prefixes. Half of an error $\varepsilon$ for each leaves
$\log_2(2\lambda/\Delta_k)$ bits for an entry of a key, with
$\Delta_k=\frac4{\sqrt n}\,\mathrm{artanh}\frac\varepsilon4$, and $\log_2(2\sqrt n/\varepsilon)$ for
one of a value.

Rounding errors that are independent and uniform average over neighbouring centres: with $\varphi$
the softmax over prefix and content and $o=\sum_i\varphi_iv_i$, to second order
$$ E|\tilde o-o|^2=\sum_i\varphi_i^2\Big[\frac{n\Delta_v^2}{12}
   +|v_i-o|^2\,\frac{|x|^2\Delta_k^2}{12}\Big] . $$
"""

DERIVATION = r"""
Let a set of positions have the odds $r$. Every weight changes by a factor between $e^{\min e}$ and
$e^{\max e}$ before normalisation, so the odds change by at most $e^D$, and the set's probability by
at most $\frac{re^D}{1+re^D}-\frac r{1+r}$. That is largest at $r=e^{-D/2}$, where it is
$\tanh(D/4)$. The total variation is the largest such change over sets. The output moves by the
diameter of the values times that, at most 2, and by the mean of the values' own errors, each at
most $\sqrt n\,\Delta_v/2$. A key's error moves its score by at most $\sqrt n\,\Delta_k/2$ on the
unit sphere, and content's scores not at all. Two prefix tokens on the diagonal
$(1,\dots,1)/\sqrt n$, with opposite values and opposite errors of their keys, attain all of it
when the query is on that diagonal.

The law: $\partial o/\partial\ell_i=\varphi_i(v_i-o)$, a score's error has the variance
$|x|^2\Delta_k^2/12$, and a value's $n\Delta_v^2/12$. The next order is $\Delta_k^2$ times
smaller: at $\Delta_k=1$ the law is off by up to 3 %, and larger steps are refused. The numbers are
for $f(x)=x$, evenly spread centres, values $v_i=b_i$, and the mean over 48 queries that lie evenly
between them.

*Tolerances.* 2 % of the root mean square: a fiftieth of a bit. 1e-6 of the bound and of the bits:
what a search over one number, the log-odds, finds a flat maximum to.
"""


# --- the closed form ---

QUERIES = 48
"""Query points whose mean is taken."""

DIAMETER = 2.0
"""Largest distance between values of length at most 1."""


def closed_form(
    *, sphere_dim: int, centres: int, concentration: float, content: int = 1,
    key_step: ArrayLike | None = None, value_step: ArrayLike | None = None,
    accuracy: ArrayLike | None = None, oscillation_share: float = 0.25, saturates: bool = True,
    key_weight: float = 1.0, centred: bool = True, step_variance: float = 1 / 12,
    weight_power: Literal[1, 2] = 2,
) -> dict[str, Any]:  # fmt: skip
    """Root mean square and largest change of the output; with `accuracy` also bits an entry.

    Without steps they are those that `accuracy` allows. `key_step`, `value_step` and `accuracy`
    broadcast; float64. Falsifiers change the last six arguments, which the theory has at their
    defaults.
    """
    n = sphere_dim + 1
    result: dict[str, Any] = {}
    if accuracy is not None:
        allowed_key, allowed_value = steps_for(accuracy, n, oscillation_share, saturates)
        result["bits_per_key"] = np.maximum(np.log2(2 * concentration / allowed_key), 0.0)
        result["bits_per_value"] = np.log2(2 / allowed_value)
        key_step = allowed_key if key_step is None else key_step
        value_step = allowed_value if value_step is None else value_step
    keys, values = (np.asarray(step, np.float64) for step in (key_step, value_step))
    head = _identity_head(sphere_dim, centres, float(concentration), content)
    weight = np.power(head.weights, weight_power)
    distance = head.squared_distance if centred else np.ones_like(weight)
    from_keys = key_weight * step_variance * float((weight * distance).sum(axis=1).mean())
    from_values = n * step_variance * float(weight.sum(axis=1).mean())
    result["rms"] = np.sqrt(from_keys * keys**2 + from_values * values**2)
    moved = oscillation_share * math.sqrt(n) * keys
    result["bound"] = (
        DIAMETER * (np.tanh(moved) if saturates else moved) + math.sqrt(n) * values / 2
    )
    result["largest"] = result["bound"]
    return result


def steps_for(
    accuracy: ArrayLike, n: int, oscillation_share: float = 0.25, saturates: bool = True
) -> tuple[ArrayLike, ArrayLike]:
    """Grid steps of keys and values that may each cost half of an error; float64, broadcast."""
    share = np.asarray(accuracy, np.float64) / (2 * DIAMETER)
    moved = np.arctanh(share) if saturates else share
    return moved / (oscillation_share * math.sqrt(n)), np.asarray(accuracy) / math.sqrt(n)


class _Head(NamedTuple):
    """Queries (Q, n), centres (N, n), weights (Q, N) and |v_i − o|² (Q, N) of f(x) = x."""

    queries: np.ndarray
    centres: np.ndarray
    weights: np.ndarray
    squared_distance: np.ndarray


@functools.lru_cache(maxsize=16)
def _identity_head(m: int, count: int, concentration: float, content: int) -> _Head:
    centres = point_sets.quasi_uniform(m, count)
    # Turned, so that no query is a centre.
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(m + 1, m + 1)))[0]
    queries = point_sets.quasi_uniform(m, QUERIES, seed=1) @ turn
    scores = concentration * (queries @ centres.T)
    top = np.maximum(scores.max(axis=1, keepdims=True), 0.0)
    mass = np.exp(scores - top)
    weights = mass / (mass.sum(axis=1, keepdims=True) + content * np.exp(-top))
    outputs = weights @ centres
    distance = sum(
        np.square(centres[:, axis] - outputs[:, axis, None]) for axis in range(m + 1)
    )  # fmt: skip
    return _Head(queries, centres, weights, np.asarray(distance))


FALSIFIERS = (
    Falsifier("tanh(D/2)", "the change of one position's weight counted on both sides",
              oscillation_share=0.5),
    Falsifier("largest error", "max |e| in place of the oscillation, tanh(D/8)",
              oscillation_share=0.125),
    Falsifier("linear", "D/4, the softmax's Lipschitz constant, in place of tanh(D/4)",
              saturates=False),
    Falsifier("keys exact", "no term of the keys in the law", key_weight=0.0),
    Falsifier("not centred", "|v_i|² in place of |v_i − o|²", centred=False),
    Falsifier("whole steps", "errors uniform over ±Δ, variance Δ²/3", step_variance=1 / 3),
    Falsifier("weights once", "φ_i in place of φ_i²", weight_power=1),
    Falsifier.after("one bit less", "log₂(λ/Δ) for log₂(2λ/Δ)", lambda right, _: {
        name: value - 1 if name.startswith("bits") else value for name, value in right.items()}),
)  # fmt: skip


# --- the simulation ---


def _setup(
    *, sphere_dim: int, centres: int, concentration: float, content: int
) -> dict[str, Array]:
    # Queries and centres are the setting; the weights are left to the head of each trial.
    head = _identity_head(sphere_dim, centres, concentration, content)
    return {"queries": jnp.asarray(head.queries), "directions": jnp.asarray(head.centres)}


@functools.partial(
    per_trial, batch=4, setup=_setup, traced=("concentration", "key_step", "value_step")
)
def rounded_errors(
    *, key: Key[Array, ""], queries: Array, directions: Array, concentration: Any, content: int,
    key_step: Any, value_step: Any,
) -> dict[str, Array]:  # fmt: skip
    """Mean square and largest change over the queries when keys and values are rounded; float64.

    The grid of every entry lies at random (subtractive dither), so that its error is uniform.
    """
    keys_key, values_key = jax.random.split(key)
    keys = concentration * directions
    rounded_keys = _round_to_shifted_grid(keys_key, keys, key_step)
    rounded_values = _round_to_shifted_grid(values_key, directions, value_step)
    exact = _head_output(queries, keys, directions, content)
    change = _head_output(queries, rounded_keys, rounded_values, content) - exact
    square = jnp.square(change).sum(axis=1)
    return {"square": square.mean(), "largest": jnp.sqrt(square.max())}


def _round_to_shifted_grid(key: Key[Array, ""], numbers: Array, step: Any) -> Array:
    """The nearest points of grids that lie at random; the numbers themselves for a step of 0."""
    shift = jax.random.uniform(key, numbers.shape, numbers.dtype)
    safe_step = jnp.where(step > 0, step, 1.0)
    nearest = (jnp.floor(numbers / safe_step + shift) + 0.5 - shift) * safe_step
    return jnp.where(step > 0, nearest, numbers)


def _head_output(queries: Array, keys: Array, values: Array, content: int) -> Array:
    """Softmax attention to the prefix and to content of score 0 and value 0: (Q, d)."""
    scores = queries @ keys.T
    if content:
        scores = jnp.concatenate(
            [scores, jnp.full((len(queries), 1), math.log(content), scores.dtype)], axis=1
        )
        values = jnp.concatenate([values, jnp.zeros((1, values.shape[1]), values.dtype)])
    return jax.nn.softmax(scores, axis=-1) @ values


# The law is a mean over roundings; the bound is the largest change over heads, which is searched
# for, and so are the steps at which it is half of the accuracy.
def simulate(
    *, key: Key[Array, ""], trials: int, sphere_dim: int, centres: int, concentration: float,
    content: int = 1, key_step: float | None = None, value_step: float | None = None,
    accuracy: float | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """`trials` roundings of one prefix, and a search for the head that rounding changes most."""
    n, estimates = sphere_dim + 1, {}
    if accuracy is not None:
        allowed = _step_of_change(lambda step: _largest_change(n, step, 0.0, key), accuracy / 2)
        estimates["bits_per_key"] = exact_estimate(
            max(math.log2(2 * concentration / allowed), 0.0), trials
        )
        key_step = allowed if key_step is None else key_step
        allowed = _step_of_change(lambda step: _largest_change(n, 0.0, step, key), accuracy / 2)
        estimates["bits_per_value"] = exact_estimate(math.log2(2 / allowed), trials)
        value_step = allowed if value_step is None else value_step
    assert key_step is not None
    assert value_step is not None
    values = rounded_errors.trial_values(
        key=key, trials=trials, sphere_dim=sphere_dim, centres=centres,
        concentration=concentration, content=content, key_step=key_step, value_step=value_step,
    )  # fmt: skip
    rms = jackknife(lambda square: np.sqrt(square.mean()), values["square"])
    largest = float(values["largest"].max())
    return {
        "rms": rms,
        "bound": exact_estimate(_largest_change(n, key_step, value_step, key), trials),
        "largest": exact_estimate(largest, trials),
        **estimates,
    }


RANDOM_HEADS = 2000
"""Heads drawn beside the pair of tokens, which none of them may pass."""


def _largest_change(n: int, key_step: float, value_step: float, key: Key[Array, ""]) -> float:
    """Largest change of an output that was found when entries move by half a step.

    Two tokens with opposite values on the diagonal, whose log-odds are searched for; and random
    heads of up to six tokens with random log-odds, values and signs of the errors.
    """
    diagonal = np.full(n, 1 / math.sqrt(n))
    half_key, half_value = np.full(n, key_step / 2), np.full(n, value_step / 2)

    def of_pair(log_odds: float) -> float:
        keys = np.stack([log_odds * diagonal, np.zeros(n)])
        values = np.stack([diagonal, -diagonal])
        moved_keys = keys + np.stack([-half_key, half_key])
        before = _softmax(keys @ diagonal) @ values
        after = _softmax(moved_keys @ diagonal) @ (values - half_value)
        return float(np.linalg.norm(after - before))

    spread = math.sqrt(n) * key_step
    found: Any = optimize.minimize_scalar(
        lambda log_odds: -of_pair(log_odds), bounds=(-spread - 1e-9, 2 * spread + 1e-9),
        method="bounded", options={"xatol": 1e-6 * spread + 1e-15},
    )  # fmt: skip
    return max(-float(found.fun), _largest_of_random_heads(n, key_step, value_step, key))


def _largest_of_random_heads(
    n: int, key_step: float, value_step: float, key: Key[Array, ""]
) -> float:
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    shape = (RANDOM_HEADS, 6)
    query = random.normal(size=(RANDOM_HEADS, n))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    scores = random.normal(size=shape) * random.exponential(2.0, size=(RANDOM_HEADS, 1))
    values = random.normal(size=(*shape, n))
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    signs = np.sign(random.normal(size=(2, *shape, n)))
    moved_scores = scores + key_step / 2 * np.einsum("hn,hkn->hk", query, signs[0])
    before = np.einsum("hk,hkn->hn", _softmax(scores), values)
    after = np.einsum("hk,hkn->hn", _softmax(moved_scores), values + value_step / 2 * signs[1])
    return float(np.linalg.norm(after - before, axis=1).max())


def _softmax(scores: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def _step_of_change(largest_change: Callable[[float], float], wanted: float) -> float:
    """The step at which the largest change found is `wanted`, by bisection of its logarithm."""
    root: Any = optimize.brentq(
        lambda log_step: math.log(largest_change(math.exp(log_step)) / wanted),
        math.log(wanted) - 5, math.log(wanted) + 5, xtol=1e-10,
    )  # fmt: skip
    return math.exp(root)


# --- the parameters ---

LARGEST_STEP = 1.0
"""Largest step of the keys' grid at which the law, of second order, is given."""

LEAST_STEP = 1e-9
"""Least step other than 0, in units of the numbers: rounding of float64 is far below it."""


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Steps, or an accuracy that gives them; a grid with a point between the largest entries."""
    for name, largest in (("key_step", params["concentration"]), ("value_step", 1.0)):
        step = params.get(name)
        if step is None:
            if params.get("accuracy") is None:
                raise ParameterError(
                    name, "(missing)", "given when `accuracy` is not", "give one of the two", where
                )
            continue
        used = np.asarray(step)[np.asarray(step) != 0]
        if used.size and (used.max() > largest or used.min() < LEAST_STEP * largest):
            raise ParameterError(
                name, step, f"0, or from {LEAST_STEP * largest:g} to {largest:g}, the size of the "
                "entries", "choose a step in that range", where,
            )  # fmt: skip
    return params


# --- the design ---

_SPHERE: dict[str, Any] = {"sphere_dim": 2, "centres": 400, "concentration": 60.0, "content": 8}
_CIRCLE = {"sphere_dim": 1, "centres": 64, "concentration": 100.0, "content": 1}
_FEW = {"sphere_dim": 3, "centres": 60, "concentration": 8.0, "content": 3}
_QUICK_RUNS = (
    Run(_SPHERE, key_step=0.1, value_step=0.01),
    Run(_SPHERE, key_step=0.1, value_step=0.0),
    Run(_CIRCLE, key_step=0.05, value_step=0.05),
    Run(_FEW, accuracy=0.2),
)
_FULL_RUNS = (
    *_QUICK_RUNS,
    Run(_SPHERE, key_step=0.0, value_step=0.05),
    Run(_CIRCLE, key_step=0.1, value_step=0.0),
    Run(_CIRCLE, accuracy=0.01),
    Run(_FEW, key_step=0.05, value_step=0.01, content=0),
    Run(_SPHERE, accuracy=0.05, concentration=1000.0),
)

# --- the figure ---

_BITS = (6, 7, 8, 9, 10, 12, 14, 16)
_FORMATS = {"float8_e5m2": 7.8, "float8_e4m3": 8.2, "bfloat16": 15.8, "float16": 16.2}
"""Where each format stands on the axis of bits: beside the integers of as many."""


def _panels_of_bits(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """Change of the output against bits an entry: law and bound, integers and float formats."""
    lines = np.linspace(_BITS[0], _BITS[-1], 61)
    law = [claim.closed_form(**_SPHERE, **_steps_of_bits(bits)) for bits in lines]
    small = [i for i, bits in enumerate(lines) if _steps_of_bits(bits)["key_step"] <= LARGEST_STEP]
    marks = [
        Mark("line", lines[small], [law[i]["rms"] for i in small], label="law, integers"),
        Mark("line", lines, [p["bound"] for p in law], label="bound for every prefix", colour=1),
    ]
    measured: dict[str, Sequence[int | str]] = {
        "integers, measured": _BITS,
        **{name: (name,) for name in _FORMATS},
    }
    for colour, (label, formats) in enumerate(measured.items()):
        changes = [_change_of_format(bits, key) for bits in formats]
        marks.append(
            Mark("points", [_place_of(bits) for bits in formats],
                 [float(change.mean) for change in changes],
                 half=[float(half_width(change.stderr, change.dof)) for change in changes],
                 label=label.replace("_", " "), colour=colour + (colour > 0))
        )  # fmt: skip
    return [
        Panel(
            marks, x_label="bits of an entry of the keys and the values",
            y_label="rms change of the output", log_y=True,
        )
    ]  # fmt: skip


def _place_of(bits: int | str) -> float:
    return _FORMATS[bits] if isinstance(bits, str) else float(bits)


def _steps_of_bits(bits: float) -> dict[str, float]:
    """Steps of integers whose scale takes the largest entry to the last of them."""
    step = 1 / (2 ** (bits - 1) - 1)
    return {"key_step": _SPHERE["concentration"] * step, "value_step": step}


def _change_of_format(bits: int | str, key: Key[Array, ""]) -> Estimate:
    """Root mean square change when a prefix, turned at random in each of 24 trials, is rounded."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    head = _identity_head(*_SPHERE.values())
    square = []
    for _ in range(24):
        turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
        centres, queries = head.centres @ turn, head.queries @ turn
        keys = _SPHERE["concentration"] * centres
        exact = _attend(queries, keys, centres)
        rounded = _attend(
            queries, rounding.round_to(keys, bits)[0], rounding.round_to(centres, bits)[0]
        )
        square.append(np.square(rounded - exact).sum(axis=1).mean())
    return jackknife(lambda sample: np.sqrt(sample.mean()), np.array(square))


def _attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The head's outputs beside the figure's content tokens, of score 0 and value 0."""
    content = np.zeros((len(queries), _SPHERE["content"]))
    weights = _softmax(np.concatenate([queries @ keys.T, content], axis=1))
    return weights[:, : len(values)] @ values


CLAIM = Claim(
    id="universal.quantised_prefix",
    title="How many bits the entries of a prefix need",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="derived here",
    parameters=(
        replace(SPHERE_DIM, high=8),
        replace(CENTRES, low=2, high=5000),
        replace(CONCENTRATION, low=1e-6, open_low=False, high=1e6),
        replace(CONTENT, high=2**40),
        Parameter("key_step", "real", "step of the grid of the keys", r"\Delta_k", low=0,
                  high=LARGEST_STEP, default=None),
        Parameter("value_step", "real", "step of the grid of the values", r"\Delta_v", low=0,
                  high=1, default=None),
        replace(ACCURACY, meaning="error that rounding may cause", high=1.0, low=1e-6,
                open_low=False, default=None),
    ),
    quantities=(
        Quantity("rms", "root mean square change of the output", 0.02, True),
        Quantity("bound", "largest change over all prefixes with values of length at most 1", 1e-6,
                 True),
        Quantity("largest", "largest change of this prefix", 1e-9, True, side="upper"),
        Quantity("bits_per_key", "bits of an entry of a key", 1e-6),
        Quantity("bits_per_value", "bits of an entry of a value", 1e-6),
    ),
    compared=Compared(
        {"sphere_dim": (1, 4), "centres": (2, 80), "concentration": (1.0, 200.0),
         "content": (0, 1000), "key_step": (1e-6, 1.0), "value_step": (1e-6, 1.0),
         "accuracy": (1e-3, 1.0)},
        elsewhere="formulas keep their digits; the law is of second order in the steps, and off by "
        "up to 3 % at key_step 1",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    check_parameters=validate,
    designs={
        "quick": Design(*_QUICK_RUNS, trials=1000),
        "full": Design(*_FULL_RUNS, trials=6000),
    },
    broadcasts="key_step, value_step, accuracy",
    figure=Panels(
        _panels_of_bits,
        "Rounding a prefix on the sphere: 400 tokens, concentration 60",
        "points: turned at random, 95 % intervals; float formats have one power of two as scale",
        needs_check=False,
        height=3.4,
    ),
)  # fmt: skip
