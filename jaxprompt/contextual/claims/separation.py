r"""Claim ``contextual.separation``: what each attention model can and cannot separate.

Without noise a sequence is one of four cases (two shifts, two labels), all tokens lie in the plane
of :math:`w_\star` and :math:`q_\star`, and equal tokens receive equal attention. So a sequence is
two vectors with the weights ζ and 1 − ζ, and every model here has at most nine parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt.compute import random_table
from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.law.maximise import golden_section
from jaxprompt.contextual.parameters import (
    CONTEXT,
    FAMILY,
    SIGNAL,
    SPARSITY,
    optional,
)
from jaxprompt.core.claim import Claim, Design, Falsifier, Quantity, Regions, Relation
from jaxprompt.core.parameters import Parameter
from jaxprompt.networks.descend import descend
from jaxprompt.stats import Estimate

__all__ = [
    "CLAIM", "RIVALS", "Cases", "Rival", "best_accuracies", "cases", "closed_form", "least_gain",
    "self_attention_threshold", "separable", "simulate",
]  # fmt: skip


# --- the closed form -----------------------------------------------------------------------------


@jax.jit
def self_attention_threshold(sparsity: Any, shift: Any) -> Array:
    r"""Largest share :math:`M(\zeta,\Delta)` of attention that self-attention can put on relevant
    tokens under the shift (Δ, Δ), in the dtype of its arguments, which broadcast.

    .. math:: M = \sup_B\ \zeta\,\sigma(\ell + B) + (1-\zeta)\,\sigma(\ell - \Delta B),
       \qquad \ell = \log\frac{\zeta}{1-\zeta},

    where :math:`B = (1+\Delta)A` and σ is the logistic function. Both limits, ζ and 1 − ζ, count.
    """
    z, delta = jnp.broadcast_arrays(jnp.asarray(sparsity), jnp.asarray(shift))
    found = jax.vmap(_threshold)(z.reshape(-1), delta.reshape(-1))
    return found.reshape(z.shape)


def _threshold(sparsity: Array, shift: Array) -> Array:
    odds = jnp.log(sparsity) - jnp.log1p(-sparsity)
    steep = jnp.maximum(shift, 1e-6)

    def share(b: Array) -> Array:
        first, second = jax.nn.sigmoid(odds + b), jax.nn.sigmoid(odds - shift * b)
        return sparsity * first + (1 - sparsity) * second

    # Each term turns on a scale of its own, around its own middle: scan both, finest in between.
    spread = jnp.sinh(jnp.linspace(-4.5, 4.5, 601, dtype=odds.dtype))
    grid = jnp.sort(jnp.concatenate([spread - odds, (spread + odds) / steep]))
    top = jnp.clip(jnp.argmax(share(grid)), 1, grid.size - 2)
    best = share(golden_section(share, grid[top - 1], grid[top + 1]))
    return jnp.maximum(best, jnp.maximum(sparsity, 1 - sparsity))


def least_gain(sparsity: Any, shift: Any, context: Any = 1.0) -> Array:
    r"""Least gain γ ≥ 0 beyond which the prompt :math:`\gamma q_\star` separates the aligned law.

    .. math:: \gamma_0 = \max\Big(0, \frac{\log\big(\Delta(1-\zeta)/\zeta\big)}{(1+\Delta)Q^2}\Big)
    """
    log_shift = jnp.log(jnp.maximum(jnp.asarray(shift), jnp.finfo(jnp.result_type(float)).tiny))
    odds = jnp.log(sparsity) - jnp.log1p(-jnp.asarray(sparsity))
    return jnp.maximum(0.0, (log_shift - odds) / ((1 + jnp.asarray(shift)) * jnp.square(context)))


def closed_form(**params: Any) -> dict[str, Any]:
    """Best reachable accuracies, `threshold` and `least_gain`, for broadcastable arrays.

    On the boundary of a region an output is 0 whatever the parameters, which counts one half.
    """
    return _closed_form({}, **params)


def _closed_form(
    wrong: Mapping[str, Any], *, sparsity: Any, shift: Any, law: str, context: Any = 1.0,
    **unused: Any,
) -> dict[str, Any]:  # fmt: skip
    zeta, delta, norm = jnp.broadcast_arrays(*(jnp.asarray(x) for x in (sparsity, shift, context)))
    one = jnp.ones_like(zeta, dtype=jnp.result_type(float))
    if wrong.get("limits_only"):
        threshold = jnp.maximum(zeta, 1 - zeta)
    else:
        threshold = self_attention_threshold(zeta, delta)
    aligned = law == "aligned"
    pooled = zeta - (1 - zeta) * delta ** wrong.get("linear_power", 1)
    bracket = zeta - (1 - zeta) * delta ** wrong.get("prompt_power", 2)
    linear = _ceiling(pooled, 0.5) if aligned else one
    prompted = one if aligned else _ceiling(bracket, 0.75)
    room = threshold * (1 + delta) - delta
    gain = least_gain(zeta, delta, norm) * (1 + delta) ** wrong.get("gain_power", 0)
    with_intercept = wrong.get("intercept", 0.75)
    return {
        "linear": linear,
        "linear_prompt": prompted,
        "linear_prompt_intercept": prompted,
        "self_attention": _ceiling(room, 0.5) if aligned else one,
        "self_attention_intercept": _ceiling(room, with_intercept) if aligned else one,
        "prompt": one,
        "threshold": threshold,
        "least_gain": gain if aligned else jnp.zeros_like(one),
    }


def _ceiling(room: Array, below: float) -> Array:
    """1 where a sign can be kept, `below` where it is always reversed, between at the boundary."""
    return jnp.where(room > 0, 1.0, jnp.where(room < 0, below, 0.75))


def _wrong(**changes: Any) -> Any:
    return functools.partial(_closed_form, changes)


# --- the four cases, and the models on them ------------------------------------------------------


class Cases(NamedTuple):
    """The four equally likely sequences: their two kinds of token, labels, and share ζ.

    Coordinates are those along w⋆ and q⋆; shifts (0, 0), (0, 0), (Δ, ±Δ), (Δ, ±Δ).
    """

    relevant: Float[Array, "4 2"]
    irrelevant: Float[Array, "4 2"]
    labels: Float[Array, " 4"]
    sparsity: Float[Array, ""]


class Rival(NamedTuple):
    """Parameters of every model of the comparison; each uses its own part of them."""

    head: Float[Array, " 2"]
    prompt: Float[Array, " 2"]
    matrix: Float[Array, "2 2"]
    intercept: Float[Array, ""]


def cases(sparsity: Any, shift: Any, law: str, context: Any = 1.0, signal: Any = 1.0) -> Cases:
    """All cases of the law "aligned" {(0,0), (Δ,Δ)} or "opposed" {(0,0), (Δ,−Δ)}."""
    shift = jnp.asarray(shift)
    labels = jnp.array([1.0, -1.0, 1.0, -1.0], shift.dtype)
    shifted = jnp.array([0.0, 0.0, 1.0, 1.0], shift.dtype) * shift
    sign = 1.0 if law == "aligned" else -1.0
    relevant = jnp.stack([labels * signal, jnp.ones_like(labels) * context], axis=1)
    irrelevant = jnp.stack([-sign * shifted * labels * signal, -shifted * context], axis=1)
    return Cases(relevant, irrelevant, labels, jnp.asarray(sparsity))


def _linear(p: Rival, c: Cases) -> Array:
    return (c.sparsity * c.relevant + (1 - c.sparsity) * c.irrelevant) @ p.head


def _linear_prompt(p: Rival, c: Cases) -> Array:
    relevant = (c.relevant @ p.prompt) * (c.relevant @ p.head)
    irrelevant = (c.irrelevant @ p.prompt) * (c.irrelevant @ p.head)
    return c.sparsity * relevant + (1 - c.sparsity) * irrelevant


def _attend(c: Cases, queries: Array) -> Array:
    """Softmax attention of each case's own query over its tokens."""
    gap = ((c.relevant - c.irrelevant) * queries).sum(axis=1)
    share = jax.nn.sigmoid(gap + jnp.log(c.sparsity) - jnp.log1p(-c.sparsity))[:, None]
    return share * c.relevant + (1 - share) * c.irrelevant


def _prompt(p: Rival, c: Cases) -> Array:
    return _attend(c, jnp.broadcast_to(p.prompt, c.relevant.shape)) @ p.head


def _self_attention(p: Rival, c: Cases) -> Array:
    pooled = c.sparsity * _attend(c, c.relevant @ p.matrix)
    return (pooled + (1 - c.sparsity) * _attend(c, c.irrelevant @ p.matrix)) @ p.head


RIVALS: dict[str, tuple[Callable[[Rival, Cases], Array], float]] = {
    "linear": (_linear, 0.0),
    "linear_prompt": (_linear_prompt, 0.0),
    "linear_prompt_intercept": (_linear_prompt, 1.0),
    "self_attention": (_self_attention, 0.0),
    "self_attention_intercept": (_self_attention, 1.0),
    "prompt": (_prompt, 0.0),
}
"""Each model's output on the four cases, and whether it has an intercept (1) or not (0)."""


# --- the search ----------------------------------------------------------------------------------

STEPS = 100
"""Adam steps of one restart."""

RATE = 0.6
"""Adam's step size, large: a restart is to visit many orderings of the cases, not to converge."""

ROUNDING = 16 * float(np.finfo(np.float32).eps)
"""Share of its largest term within which a margin counts as 0."""


def simulate(
    *, key: Key[Array, ""], trials: int, sparsity: Any, shift: Any, law: str, context: float = 1.0,
    signal: float = 1.0, **unused: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """The best accuracy that `trials` restarts of each model visit.

    Every model, the softmax prompt included, gets the same restarts and steps, in float32.
    `sparsity` and `shift` may be arrays and form a product. `threshold` and `least_gain` are
    measured on the models' own outputs, in float64. All results are exact: their standard error
    is 0.
    """
    zeta, delta = np.meshgrid(np.atleast_1d(sparsity), np.atleast_1d(shift), indexing="ij")
    sizes = zeta.reshape(-1), delta.reshape(-1)

    def points(law: str, dtype: Any, count: int) -> Cases:
        zeta, delta = (jnp.asarray(x.repeat(count), dtype) for x in sizes)
        return _all_cases(zeta, delta, law, *(jnp.asarray(x, dtype) for x in (context, signal)))

    every = points(law, jnp.float32, trials)
    found = {name: np.asarray(best_accuracies(name, every, trials, key=key)) for name in RIVALS}
    with jax.enable_x64(True):
        aligned, given = points("aligned", jnp.float64, 1), points(law, jnp.float64, 1)
        shifts = jnp.asarray(sizes[1], jnp.float64)
        found["threshold"] = _in_blocks(_measured_threshold, aligned, shifts)
        found["least_gain"] = _in_blocks(_measured_gain, given)
    shape = (*np.shape(sparsity), *np.shape(shift))
    return {
        name: Estimate(value.reshape(shape)[()], np.zeros(shape)[()], trials)
        for name, value in found.items()
    }


@functools.partial(jax.jit, static_argnames="law")
def _all_cases(zeta: Array, delta: Array, law: str, context: Array, signal: Array) -> Cases:
    return jax.vmap(lambda z, d: cases(z, d, law, context, signal))(zeta, delta)


_POINTS = 36


def _in_blocks(measure: Callable[..., Array], *args: Any) -> np.ndarray:
    """`measure` on whole blocks of points, so that every design shares its compilation."""
    count = jax.tree.leaves(args)[0].shape[0]
    index = np.minimum(np.arange(-(-count // _POINTS) * _POINTS), count - 1).reshape(-1, _POINTS)
    blocks = [jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], args) for rows in index]
    return np.concatenate([np.asarray(measure(*block)) for block in blocks])[:count]


def best_accuracies(
    name: str, points: Cases, trials: int, *, key: Key[Array, ""]
) -> Float[np.ndarray, " P"]:
    """Best accuracy over all restarts and steps of the model `name`, at each of P points.

    `points` holds every point `trials` times, one after another: one row for each restart, so that
    designs with equally many restarts in all share a compilation. A restart descends a logistic
    loss whose four cases have random weights: the accuracy has optima that equal weights do not
    lead to.
    """
    starts, weights = _draws(points.sparsity.size, key)
    model, intercept = RIVALS[name]
    every = jax.tree.map(np.asarray, (points, starts, weights))

    def block(part: np.ndarray) -> Array:
        rows = np.minimum(part, points.sparsity.size - 1)
        batches = jax.tree.map(lambda x: x[rows], every)
        return _restarts(model, jnp.float32(intercept), *batches)

    # Batches that stay in the processor's cache run three times faster than one large one.
    best = map_trials(block, points.sparsity.size, batch=_BATCH)
    return best.reshape(-1, trials).max(axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _draws(count: int, key: Array) -> tuple[Array, Array]:
    """Nine parameters over two decades of scale, four case weights over four, for each restart.

    The least likely ceiling of the quick design (self-attention with intercept, ζ = ¼, Δ = 3) is
    reached by one restart in 20, so 256 restarts miss it with probability 2·10⁻⁶.
    """
    value_key, other_key = jax.random.split(key)
    values = random_table.normals(value_key, 0, count, 9)
    uniform = random_table.uniforms(other_key, 0, count, 8)
    scales = jnp.repeat(10 ** (2 * uniform[:, :4]), np.array([2, 2, 4, 1]), axis=1)
    weights = 10 ** (4 * uniform[:, 4:])
    return values * scales, weights / weights.sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def _restarts(
    model: Callable[[Rival, Cases], Array], intercept: Array, points: Cases, starts: Array,
    weights: Array,
) -> Array:  # fmt: skip
    def restart(args: tuple[Cases, Array, Array]) -> Array:
        point, start, weight = args
        return _best_visited(model, intercept, point, weight, start)

    return lax.map(jax.vmap(restart), (points, starts, weights))


_BATCH = 256


def _best_visited(
    model: Callable[[Rival, Cases], Array], intercept: Array, point: Cases, weights: Array,
    start: Array,
) -> Array:  # fmt: skip
    reach = jnp.maximum(jnp.abs(point.relevant).max(), jnp.abs(point.irrelevant).max())

    def loss(flat: Array, _: None) -> tuple[Array, Array]:
        # Parameters in units that suit the tokens' size.
        p = Rival(
            flat[:2] / reach, flat[2:4] / reach, flat[4:8].reshape(2, 2) / reach**2,
            intercept * flat[8],
        )  # fmt: skip
        margin = point.labels * (model(p, point) + p.intercept)
        # A margin within rounding of 0 has no sign; an impossible one must not count as right.
        sure = ROUNDING * (jnp.abs(flat[:2]).sum() + jnp.abs(p.intercept))
        return weights @ jax.nn.softplus(-margin), (margin > sure).mean(dtype=jnp.float32)

    _, (_, shares) = descend(loss, start, optax.adam(RATE), steps=STEPS, has_aux=True)
    return shares.max()


@jax.jit
def _measured_threshold(points: Cases, shifts: Array) -> Array:
    """Largest attention on relevant tokens over the strength of self-attention along q⋆."""

    def one(c: Cases, shift: Array) -> Array:
        energy = c.relevant[2, 1] ** 2
        along_context, zero = jnp.array([0.0, 1.0], energy.dtype), jnp.zeros((), energy.dtype)

        def share(strength: Array) -> Array:
            matrix = jnp.zeros((2, 2), energy.dtype).at[1, 1].set(strength / energy)
            out = _self_attention(Rival(along_context, 0 * along_context, matrix, zero), c)
            return (out[2] / c.relevant[2, 1] + shift) / (1 + shift)

        # Strengths on a scale of their own, so that steep and flat parts are both seen.
        grid = jnp.sinh(jnp.linspace(-9.0, 9.0, 4001)) / (1 + shift) ** 2
        values = lax.map(share, grid, batch_size=4001)
        top = jnp.clip(jnp.argmax(values), 1, grid.size - 2)
        return share(golden_section(share, grid[top - 1], grid[top + 1]))

    return lax.map(lambda a: one(*a), (points, shifts))


def separable(vectors: Float[Array, "n 2"]) -> Array:
    """Whether some head gives every vector a positive product: a gap of more than half a turn."""
    angles = jnp.sort(jnp.arctan2(vectors[:, 1], vectors[:, 0]))
    gaps = jnp.append(jnp.diff(angles), angles[0] + 2 * jnp.pi - angles[-1])
    return (gaps.max() > jnp.pi) & (jnp.abs(vectors).sum(axis=1) > 0).all()


@jax.jit
def _measured_gain(points: Cases) -> Array:
    """Least gain, by bisection, at which some head separates the pooled features of all cases."""

    def one(c: Cases) -> Array:
        def works(gain: Array) -> Array:
            query = jnp.broadcast_to(jnp.array([0.0, 1.0]) * gain * c.relevant[:, 1:], (4, 2))
            return separable(c.labels[:, None] * _attend(c, query))

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            good = works(middle)
            return jnp.where(good, ends[0], middle), jnp.where(good, middle, ends[1])

        high = 50 / c.relevant[0, 1] ** 2
        low, high = lax.fori_loop(0, 70, halve, (jnp.zeros(()), high))
        return jnp.where(works(jnp.zeros(())), 0.0, (low + high) / 2)

    return jax.vmap(one)(points)


# --- the claim -----------------------------------------------------------------------------------

SHIFT = Parameter("shift", "real", "size of the shift", "Δ", low=0)
LAW = Parameter(
    "law", "choice", "law of the shift: {(0,0),(Δ,Δ)} or {(0,0),(Δ,−Δ)}",
    choices=("aligned", "opposed"),
)  # fmt: skip

_LAWS = ("aligned", "opposed")
_PLANE = {"sparsity": [0.15, 0.3, 0.45, 0.6, 0.75, 0.9], "shift": [0.35, 0.8, 1.4, 2.2, 3.3, 5.2]}
_REFERENCE = {"sparsity": [0.25, 0.5], "shift": [3.0, 8.0]}


def _design(plane: Mapping[str, Any], restarts: int, many: int) -> Design:
    runs = [{**plane, "law": law, "context": 1.0, "trials": restarts} for law in _LAWS]
    runs += [{**_REFERENCE, "law": law, "context": 1.5, "trials": many} for law in _LAWS]
    return Design(tuple(runs), restarts)


_FIGURE = Regions(
    x="sparsity",
    y="shift",
    panels=tuple(
        (f"{label}\n{law} shifts", {"law": law, "context": 1.0}, quantity)
        for label, law, quantity in (
            ("linear", "aligned", "linear"),
            ("self-attention", "aligned", "self_attention"),
            ("self-attention, intercept", "aligned", "self_attention_intercept"),
            ("linear prompt", "opposed", "linear_prompt"),
            ("softmax prompt", "aligned", "prompt"),
        )
    ),
    x_lines=tuple(np.linspace(0.02, 0.98, 97).tolist()),
    y_lines=tuple(np.geomspace(0.2, 9.0, 97).tolist()),
    levels=(0.9,),
    title="Best accuracy of each model without noise",
    x_label="share ζ of relevant tokens",
    y_label="shift Δ",
    value_label="best accuracy of all restarts",
    value_range=(0.5, 1.0),
    log_y=True,
    caption="squares: the best that descent from many starts finds; every model has equal restarts",
)

_TO_ROUNDING: dict[str, Any] = {"tolerance": 64 * 2.0**-52, "side": "two"}
"""Best accuracies are ratios of small integers; thresholds are roots of closed equations."""

CLAIM = Claim(
    id="contextual.separation",
    title="What each attention model can separate without noise",
    statement=r"""
Let $\sigma=0$, equal odds of the two shifts, and $a=\Delta/(1+\Delta)$. The best accuracies any
parameters reach are

| model | aligned, $\{(0,0),(\Delta,\Delta)\}$ | opposed, $\{(0,0),(\Delta,-\Delta)\}$ |
| --- | --- | --- |
| linear | ½ when $\Delta>\zeta/(1-\zeta)$ | 1 |
| linear prompt, with or without intercept | 1 | ¾ when $(1-\zeta)\Delta^2>\zeta$ |
| self-attention | ½ when $a>M(\zeta,\Delta)$ | 1 |
| self-attention with intercept | ¾ when $a>M(\zeta,\Delta)$ | 1 |
| softmax prompt | 1 | 1 |

and 1 on the other side of each condition, where
$$M(\zeta,\Delta)=\sup_{A}\ \zeta p_1+(1-\zeta)p_2,\quad
p_1=\frac{\zeta e^{A}}{\zeta e^{A}+(1-\zeta)e^{-\Delta A}},\quad
p_2=\frac{\zeta e^{-\Delta A}}{\zeta e^{-\Delta A}+(1-\zeta)e^{\Delta^2A}}.$$
Under the aligned law the softmax prompt $\gamma q_\star$ separates exactly beyond
$$\gamma_0=\max\!\left(0,\frac{\log(\Delta(1-\zeta)/\zeta)}{(1+\Delta)Q^2}\right).$$
""",
    derivation=r"""
Put $r_y=q_\star+yw_\star$. *Aligned law.* Under the shift $(\Delta,\Delta)$ an irrelevant token is
$-\Delta r_y$; under $(0,0)$ it is 0. A pooled feature is then $c\,r_y$ with $c=s-(1-s)\Delta$, $s$
being the weight on relevant tokens, and $c=s>0$ without shift. If $c<0$ for the shifted case, a
head without intercept is right in exactly one of the two cases of each label, hence ½; with an
intercept $b$, both cases of $y=1$ right forces $b>0$ and both of $y=-1$ forces $b<0$, hence at
most ¾, which three points in general position reach. For uniform weights $s=\zeta$, so $c<0$ means
$\Delta>\zeta/(1-\zeta)$. Self-attention with $A=r_y^\top Mr_y$ has queries $r_y$ and $-\Delta r_y$,
which put $p_1$ and $p_2$ on relevant tokens, so $s=\zeta p_1+(1-\zeta)p_2\le M(\zeta,\Delta)$
whatever the matrix, and $c=(1+\Delta)s-\Delta$ is negative for every matrix exactly when
$a>M(\zeta,\Delta)$. The softmax prompt $\gamma q_\star$ has
$s/(1-s)=\frac{\zeta}{1-\zeta}e^{\gamma(1+\Delta)Q^2}$, and $c>0$ means that this exceeds $\Delta$.

*Opposed law.* An irrelevant token is $-\Delta r_{-y}$, so the mean token keeps the sign of $y$
along $w_\star$, and uniform weights already reach 1. With
$P=\langle w,q_\star\rangle\langle q,w_\star\rangle
 +\langle w,w_\star\rangle\langle q,q_\star\rangle$
the linear prompt gives $[\zeta-(1-\zeta)\Delta^2]\,yP+\text{const}$ with shift and
$\zeta yP+\text{const}$ without. A negative bracket reverses the part with $y$, so the four cases
cannot all be right; three can, since the constants may differ.
""",
    relation=Relation.IMPOSSIBILITY,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(SPARSITY, SHIFT, LAW, optional(CONTEXT, 1.0), optional(SIGNAL, 1.0)),
    ignored=FAMILY,
    quantities=(
        Quantity("linear", "best accuracy of a linear model, no intercept", **_TO_ROUNDING),
        Quantity(
            "linear_prompt",
            "best accuracy of linear prompt-attention, no intercept",
            **_TO_ROUNDING,
        ),
        Quantity("linear_prompt_intercept", "the same with intercept", **_TO_ROUNDING),
        Quantity("self_attention", "best accuracy of self-attention, no intercept", **_TO_ROUNDING),
        Quantity("self_attention_intercept", "the same with intercept", **_TO_ROUNDING),
        Quantity("prompt", "best accuracy of softmax prompt-attention", **_TO_ROUNDING),
        Quantity(
            "threshold",
            "largest attention self-attention puts on relevant tokens",
            **_TO_ROUNDING,
            symbol="M",
            ignores=("law", "context"),
        ),
        Quantity(
            "least_gain",
            "gain beyond which the prompt γq⋆ separates",
            **_TO_ROUNDING,
            symbol="γ₀",
            infinite="where none does",
        ),
    ),
    falsifiers=(
        Falsifier("linear_square", "Δ² for Δ in the linear condition", _wrong(linear_power=2)),
        Falsifier("prompt_linear", "Δ for Δ² in the linear prompt's", _wrong(prompt_power=1)),
        Falsifier("limits_only", "takes M = max(ζ, 1 − ζ)", _wrong(limits_only=True)),
        Falsifier("useless_intercept", "½ for ¾ with intercept", _wrong(intercept=0.5)),
        Falsifier("gain_scale", "drops 1 + Δ from the least gain", _wrong(gain_power=1)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design(_PLANE, 256, 2304),
        "full": _design(
            {
                "sparsity": np.linspace(0.06, 0.94, 12).tolist(),
                "shift": np.geomspace(0.23, 7.7, 12).tolist(),
            },
            2048,
            73728,
        ),
    },
    shared=("sparsity", "shift"),
    broadcasts="sparsity, shift and context",
    traceable=True,
    figure=_FIGURE,
)
