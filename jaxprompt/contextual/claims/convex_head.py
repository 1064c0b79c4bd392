r"""Claim ``contextual.convex_head``: test error of a head learned by any convex margin loss.

The fixed point for the square, logistic and hinge losses with ridge, the threshold beyond which
the training set is separable, and the max-margin head as the ridge vanishes there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxprompt.compute.devices import map_trials
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.convex_definition import applied_once
from jaxprompt.contextual.law.convex_limit import (
    LOSSES,
    Solution,
    separability_threshold,
    solved_law,
    varied_convex_limit,
)
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.law.feature_law import feature_law
from jaxprompt.contextual.law.ridge_limit import Limit
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    GAIN,
    RATIO,
    RIDGE,
    SAMPLES,
    SETTING_NAMES,
    check_law,
    optional,
    resolve_ratio,
    sample_counts,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.convex_heads import GAP, convex_heads, max_margin_head
from jaxprompt.contextual.simulation.evaluation import fresh_scores
from jaxprompt.contextual.simulation.sampling import row_stream
from jaxprompt.core.claim import (
    Agreement,
    Cell,
    Claim,
    Design,
    Falsifier,
    Predictor,
    Quantity,
    Relation,
)
from jaxprompt.core.comparing import compare_limit, group_by_size
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Comparison, Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]


def closed_form(**params: Any) -> dict[str, Any]:
    """`error`, `head_signal`, `head_noise` and `spread` in the limit with standard errors, and
    `threshold`.

    Raises:
        ArithmeticError: the fixed point did not converge; nothing is returned in its place.
    """
    return _predict({}, **params)


def _predict(wrong: Mapping[str, Any], *, loss: str, **params: Any) -> dict[str, Any]:
    names = ("signal", "context", "noise", "gain", "ridge", "ratio")
    values = np.broadcast_arrays(*(params[name] for name in names))
    names_out = (*Limit._fields, "spread")
    out = {q + s: np.empty(values[0].shape) for q in names_out for s in ("", "_stderr")}
    out["threshold"] = np.empty(values[0].shape)
    for index in np.ndindex(values[0].shape):
        at = {name: float(v[index]) for name, v in zip(names, values, strict=True)}
        found, threshold = _solved(
            params["tokens"], params["relevant"], at["signal"], at["context"], at["noise"],
            at["gain"], params["shifts"], params["shift_weights"], at["ratio"], at["ridge"],
            wrong.get("loss", loss), tuple(sorted(wrong.items())),
        )  # fmt: skip
        if not found.converged:
            raise ArithmeticError(f"the fixed point at {at} left {found.residual:.1e}")
        out["threshold"][index] = threshold
        for name, replicates in {**found.limit._asdict(), "spread": found.spread}.items():
            finite = np.isfinite(replicates).all()
            pair = attention_moments.mean_and_stderr(replicates) if finite else (replicates[0], 0.0)
            out[name][index], out[f"{name}_stderr"][index] = pair
    return {name: value[()] for name, value in out.items()}


@functools.lru_cache(maxsize=256)
def _solved(
    tokens: int, relevant: int, signal: float, context: float, noise: float, gain: float,
    shifts: Any, shift_weights: Any, ratio: float, ridge: float, loss: str, wrong: Any,
) -> tuple[Solution, float]:  # fmt: skip
    """Fixed point and threshold: a check asks for the same limit at every dimension."""
    features = feature_law(
        tokens, relevant, signal, context, noise, gain, shifts, shift_weights
    )  # fmt: skip
    found = varied_convex_limit(features, ratio, ridge, loss, dict(wrong))
    return found, separability_threshold(features)


def _wrong(**changes: Any) -> Any:
    return functools.partial(_predict, changes)


# --- the simulation ------------------------------------------------------------------------------


_JUDGED = 64
_MEMORY = 2**25
"""Entries of the training rows held at once."""


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, loss: str, ratio: Any, ridge: float,
    **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """Learn the head from exact-law samples by a certified convex solver, in float64.

    Without ridge the hinge loss stands for its limit, the max-margin head.

    Raises:
        ParameterError: without ridge for another loss, where the optimum need not exist.
        ArithmeticError: a head's duality gap stayed above :data:`GAP`; without ridge, because a
            training set is not separable.
    """
    if ridge == 0 and loss != "hinge":
        raise ParameterError(
            "ridge", ridge, "> 0 in a simulation with this loss",
            "give a small one, such as 1e-3, or take the hinge loss for the max-margin head",
            CLAIM.id,
        )  # fmt: skip
    setting = Setting.make(**{n: params[n] for n in SETTING_NAMES}, where=CLAIM.id)
    heads, gaps = _learn(setting, dim, sample_counts(dim, ratio), loss, ridge, trials, key)
    if not gaps.max() <= GAP:
        why = "; without ridge every training set must be separable" if ridge == 0 else ""
        raise ArithmeticError(f"a duality gap of {gaps.max():.1e} is left{why}")
    errors = _judge(setting, heads, key)
    noise = np.linalg.norm(heads[:, 1:], axis=1)
    values = {"error": errors, "head_signal": heads[:, 0], "head_noise": noise}
    return {name: mean_estimate(value) for name, value in values.items()}


def _learn(
    setting: Setting, dim: int, samples: int, loss: str, ridge: float, trials: int, key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Heads and duality gaps of all trials.

    Trial t has the rows t·n … of one stream, and sample sizes are rounded up to a multiple of d by
    rows of zeros, so that few shapes are compiled: one to draw, one for each solver and size.
    """
    padded = -(-samples // dim) * dim
    block = max(1, min(trials, _MEMORY // (padded * dim)))
    heads, gaps = [], []
    for first in range(0, trials, block):
        count = min(block, trials - first)
        rows = np.zeros((block, padded, dim), np.float32)
        drawn = row_stream(setting, dim, first * samples, count * samples, key)
        rows[:count, :samples] = drawn.reshape(count, samples, dim)
        rows[count:] = rows[:1]  # the last block repeats a trial to be as long as the others
        with jax.enable_x64(True):
            found = map_trials(
                lambda part, rows=rows: _solve_all(
                    rows[np.minimum(part[:, 0], block - 1)],
                    jnp.int32(samples), jnp.float64(ridge), loss, ridge == 0,
                ),
                block,
            )  # fmt: skip
        heads.append(found[0][:count])
        gaps.append(found[1][:count])
    return np.concatenate(heads), np.concatenate(gaps)


@functools.partial(jax.jit, static_argnames=("loss", "hard"))
def _solve_all(
    rows: Float[Array, "B n d"] | np.ndarray, samples: Array, ridge: Array, loss: str, hard: bool
) -> tuple[Array, Array]:
    def one(rows: Array) -> tuple[Array, Array]:
        rows = rows.astype(jnp.float64)
        if hard:
            return max_margin_head(rows, samples)
        return convex_heads(rows, ridge, loss, samples)

    # One trial after another: batched factorisations would not be faster, and are safer apart.
    return jax.tree.map(lambda x: x[:, None], lax.map(one, jnp.asarray(rows)))


def _judge(setting: Setting, heads: np.ndarray, key: Array) -> np.ndarray:
    """Each head's probability of a wrong sign, over its own fresh scores."""
    trials = heads.shape[0]
    parts = []
    with jax.enable_x64(True):
        for first in range(0, trials, _JUDGED):
            block = heads[np.minimum(np.arange(first, first + _JUDGED), trials - 1)]
            numbers = np.column_stack([block[:, :2], np.linalg.norm(block, axis=1)])
            parts.append(np.asarray(_errors(setting, numbers, jnp.uint32(first), key)))
    return np.concatenate(parts)[:trials]


@jax.jit
def _errors(
    setting: Setting, heads: Float[Array, "B 3"] | np.ndarray, first: Array, key: Array
) -> Array:
    def one(head: Array, index: Array) -> Array:
        test_key = jax.random.fold_in(jax.random.fold_in(key, 1), index)
        scalars = fresh_scores(setting.irrelevant, key=test_key).astype(jnp.float64)
        geometry = Geometry.of_known_prompt(setting, head[0], head[1], head[2])
        return conditional_error(setting, geometry, scalars)

    return jax.vmap(one)(jnp.asarray(heads), first + jnp.arange(_JUDGED, dtype=jnp.uint32))


# --- the comparison ------------------------------------------------------------------------------

_FIXED = 0.002
"""Share by which a prediction may miss its own equations: what their quadrature resolves, and a
fortieth of what matters."""


def _compare(claim: Claim, cells: Sequence[Cell], predict: Predictor) -> list[Comparison]:
    """Measured heads extrapolated over d; and that a prediction solves the stated equations."""
    rows = compare_limit(claim, cells, predict)
    for rest, _ in group_by_size(cells, claim.size):
        rows += _by_definition(rest, claim.validated(rest), predict(**rest))
    return rows


def _by_definition(
    parameters: Mapping[str, Any], given: Mapping[str, Any], predicted: Mapping[str, Any]
) -> Iterator[Comparison]:
    """The stated equations applied once to a predicted point, which has to stay; `parameters` name
    the row, and `given` has the defaults too."""
    names = ("spread", "head_signal", "head_noise")
    point = [float(predicted[name]) for name in names]
    if not np.isfinite(point[1:]).all():
        return
    loss, ratio, ridge = given["loss"], float(given["ratio"]), float(given["ridge"])
    features = feature_law(**{n: given[n] for n in SETTING_NAMES})
    after = applied_once(solved_law(features, loss), ratio, ridge, loss, *point)
    for name, before, now in zip(names, point, after, strict=True):
        if np.isfinite(before):
            yield Comparison(
                name, parameters, before, now, _FIXED * abs(before), note="its own equation"
            )


# --- the claim -----------------------------------------------------------------------------------


def _validate(values: dict[str, Any], where: str) -> dict[str, Any]:
    values = check_law(values, where)
    if values["tokens"] == values["relevant"] or np.any(np.asarray(values["noise"]) == 0):
        raise ParameterError(
            "noise", values["noise"], "> 0, with irrelevant tokens to carry it",
            "use contextual.separation for tokens without noise", where,
        )  # fmt: skip
    return resolve_ratio(values, where)


LOSS = Parameter("loss", "choice", "margin loss of the head", "ℓ", choices=LOSSES)

_BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
_PLAIN = {**_BASE, "shifts": ((0.0, 0.0), (0.0, 0.0)), "shift_weights": (0.5, 0.5)}
_SHIFTED = {**_BASE, "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6)}
_CASES = (  # two shifts in each, equal or not, so that one compilation serves both settings
    {**_PLAIN, "loss": "logistic", "ratio": 0.5, "ridge": 0.02},
    {**_SHIFTED, "loss": "logistic", "ratio": 0.5, "ridge": 0.05},
    {**_PLAIN, "loss": "hinge", "ratio": 1.2, "ridge": 0.1},
    {**_SHIFTED, "loss": "hinge", "ratio": 1.2, "ridge": 0.05},
    {**_PLAIN, "loss": "hinge", "ratio": 1.2, "ridge": 0.0},  # the max-margin head
)


def _design(sizes: Sequence[tuple[int, int]]) -> Design:
    runs = [{**case, "dim": dim, "trials": trials} for case in _CASES for dim, trials in sizes]
    return Design(tuple(runs), max(trials for _, trials in sizes))


_STATEMENT = r"""
The head minimises $\frac1n\sum_i\ell(y_if_i)+\frac\lambda2|w|^2$ for a convex margin loss $\ell$,
over a known prompt $\gamma q_\star$. As $n,d\to\infty$ with $d/n\to\kappa$, put
$\omega=\alpha c+\tau\sqrt q\,Z$ and
$f(\omega)=-\ell'(\mathrm{prox}_{\tau^2V\ell}(\omega))$, and let $V,q,c$ solve
$$\hat c=\frac{E[\alpha f]}\kappa,\quad\hat q=\frac{E[\tau^2f^2]}\kappa,\quad
\hat V=-\frac{E[\tau^2\partial_\omega f]}\kappa,\qquad
V=\frac1{\lambda/\kappa+\hat V},\quad c=\hat cV,\quad q=(\hat c^2+\hat q)V^2.$$
Then the head's component along $w_\star/W$ tends to $c$, its norm away from it to
$\rho=\sqrt{q-c^2}$, and the error to $E\,\Phi(-\alpha c/(\tau\sqrt q))$. The training set is
linearly separable beyond
$$\kappa_\star=\min_c\,E\big[(c\,\alpha/\tau+\sqrt{1+c^2}\,Z)_-^2\big],$$
and there the logistic and hinge heads tend to the max-margin direction as $\lambda\to0$.
"""

_DERIVATION = r"""
With signed rows $r_i=\alpha_ie_1+\tau_ig_i$ (as in `contextual.prompt_error`), leave one sequence
out. The margin of sequence $i$ under the head learned without it is
$\omega_i=\alpha_ic+\tau_i\sqrt q\,Z_i$, and putting it back moves its margin to the proximal point
with step $\tau_i^2V$, where $V$ is the limit of $\mathrm{tr}\,H^{-1}/n$ for the Hessian $H$ of the
objective. So $f(\omega_i)$ is minus the loss's slope at the training margin. The stationarity
condition $\lambda w=\frac1n\sum_if_ir_i$ gives the component along $e_1$ and, with the fluctuation
of $\frac1n\sum_i\tau_if_ig_i$, the energy; integration by parts turns the part of $g_i$ correlated
with $\omega_i$ into $\hat V$. For the square loss $f=(1-\omega)/(1+\tau^2V)$, $V$ is the resolvent
$m$, and the equations become those of `contextual.prompt_error`. For the max-margin head
$f=(1-\omega)_+/(\tau^2V)$ with $V\to\infty$, which leaves
$c=E[\alpha(1-\omega)_+/\tau^2]/\kappa$ and $\rho^2=E[(1-\omega)_+^2/\tau^2]/\kappa$. A row divided
by its noise level keeps its sign, so separability depends on $\alpha/\tau$ only, and the smallest
squared distance of the rows' span from the positive cone gives $\kappa_\star$. Expectations over
$Z$ are explicit for the square and hinge losses and by the trapezoid rule for the logistic loss.
The check also puts each predicted $(V,c,\rho)$ into the stated equations, with proximal points and
expectations as they are defined, and asks that it stays where it is.

*Tolerances.* The error's is 0.01. A relative change $x$ of $\rho$ or of $c$ changes the argument of
$\Phi$ by the share $\rho^2/(c^2+\rho^2)$ of $x$, here about one half, and $z\varphi(z)\le0.242$: so
8 % of $\rho$ and 10 % of $c$ also stand for about 0.01 of the error.
"""

_UNBOUNDED = "where the training set is separable and there is no ridge"

CLAIM = Claim(
    id="contextual.convex_head",
    title="Test error of a head learned by a convex loss",
    statement=_STATEMENT,
    derivation=_DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        GAIN,
        RIDGE,
        RATIO,
        LOSS,
        optional(SAMPLES),
        optional(DIM),
    ),
    ignored=FAMILY,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", 0.01),
        Quantity(
            "head_signal", "component of the head along w⋆/W", 0.1, True, "c", infinite=_UNBOUNDED
        ),
        Quantity(
            "head_noise", "norm of the head away from w⋆", 0.08, True, "ρ", infinite=_UNBOUNDED
        ),
        Quantity(
            "spread",
            "V, limit of the trace of the inverse Hessian over n",
            symbol="V",
            infinite=_UNBOUNDED,
        ),
        Quantity(
            "threshold",
            "d/n beyond which the training set is separable",
            symbol="κ⋆",
            unmeasured=True,
        ),
    ),
    falsifiers=(
        Falsifier("averaged_noise", "every sequence has the average noise", _wrong(averaged=True)),
        Falsifier("square_loss", "the square loss's fixed point", _wrong(loss="square")),
        Falsifier("half_ridge", "halves the ridge", _wrong(ridge_factor=0.5)),
        Falsifier("no_own_noise", "the noise along w⋆ left out of the error", _wrong(own=0.0)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _design(((24, 768), (48, 384), (96, 192))),
        "full": _design(((32, 4096), (64, 2048), (128, 1024), (256, 512))),
    },
    check_parameters=_validate,
    compare=_compare,
    size="dim",
    powers=(1,),
    broadcasts="signal, context, noise, gain, ridge and ratio",
    figure=Agreement(
        title="Heads learned by convex losses",
        label="error and head coordinates",
        quantities=("error", "head_signal", "head_noise"),
    ),
)
