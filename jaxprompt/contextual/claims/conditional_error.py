r"""Claim ``contextual.conditional_error``: the exact error of any fixed head and prompt.

The family's other claims use it in place of test sets; here it is compared with sequences drawn
token by token. The formula is in :mod:`jaxprompt.contextual.law.error_given_prompt`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.attention import prompt_attention
from jaxprompt.compute.devices import loop, map_trials
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.law.margins import wrong_sign
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    LAW_NAMES,
    check_law,
    optional,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import sample_sequence
from jaxprompt.core.claim import Agreement, Claim, Design, Falsifier, Quantity, Relation
from jaxprompt.core.parameters import Parameter, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "simulate"]


# --- the closed form ---


@functools.partial(jax.jit, static_argnames=("drift", "removed", "uniform_spread", "mean_weights"))
def _per_replicate(setting: Setting, geometry: Geometry, nodes: Array, **wrong: Any) -> Array:
    return jax.vmap(lambda v: conditional_error(setting, geometry, v, **wrong))(nodes)


def _predict(wrong: Mapping[str, Any], **params: Any) -> dict[str, Any]:
    names = [*Geometry._fields, "signal", "context", "noise"]
    setting = Setting(
        params["tokens"],
        params["relevant"],
        0.0,  # signal, context, noise: each point has its own
        0.0,
        0.0,
        0.0,
        np.asarray(params["shifts"]),
        np.asarray(params["shift_weights"]),
    )
    nodes = attention_moments.normal_nodes(setting.irrelevant)
    values = jnp.broadcast_arrays(*(jnp.asarray(params[name]) for name in names))
    dtype = values[0].dtype

    def point(flat: tuple[Array, ...]) -> Array:
        here = dict(zip(names, flat, strict=True))
        geometry = Geometry(*(here[name] for name in Geometry._fields))
        local = Setting(
            setting.tokens,
            setting.relevant,
            here["signal"],
            here["context"],
            here["noise"],
            0.0,
            setting.shifts,
            setting.shift_weights,
        )
        return _per_replicate(local, geometry, jnp.asarray(nodes, dtype), **wrong)

    replicates = jax.lax.map(point, tuple(v.reshape(-1) for v in values))
    replicates = replicates.reshape(*values[0].shape, -1)
    stderr = replicates.std(axis=-1, ddof=1) / np.sqrt(replicates.shape[-1])
    return {"error": replicates.mean(axis=-1), "error_stderr": stderr}


def closed_form(**params: Any) -> dict[str, Any]:
    """`error` and `error_stderr`, for broadcastable arrays of every real parameter."""
    return _predict({}, **params)


def _wrong(**changes: Any) -> Any:
    return functools.partial(_predict, changes)


# --- the simulation ---

SEQUENCES = 2048
"""Fresh sequences in one trial of the simulation."""


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int = 8, first: int = 0, **params: Any
) -> dict[str, Estimate]:
    """Share of wrong signs among sequences drawn and attended to token by token, in float32."""
    setting = Setting.make(**{n: params[n] for n in LAW_NAMES}, where=CLAIM.id)
    head, prompt = _vectors(setting, Geometry(*(params[n] for n in Geometry._fields)), dim)
    block = functools.partial(_error_rates, setting, head, prompt, dim, key)
    return {"error": mean_estimate(map_trials(block, trials, first=first, loops=True))}


@functools.partial(jax.jit, static_argnames=("dim",))
def _error_rates(
    setting: Setting, head: Array, prompt: Array, dim: int, key: Array, indices: Array
) -> Array:
    def wrong(key: Array) -> Array:
        sequence = sample_sequence(setting, dim, key=key, dtype=jnp.float32)
        margin = sequence.label * (head @ prompt_attention(sequence.tokens, prompt))
        return wrong_sign(margin)

    def trial(index: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, index), SEQUENCES)
        return jax.vmap(wrong)(keys).mean()

    return loop(jax.vmap(trial), indices)


def _vectors(setting: Setting, geometry: Geometry, dim: int) -> tuple[Array, Array]:
    """A head and a prompt in `dim` coordinates with the given inner products, float32."""
    if dim < 4:
        raise ParameterError("dim", dim, "an integer ≥ 4", "leave it out for 8", CLAIM.id)
    values, vectors = np.linalg.eigh(_residual_gram(setting, geometry))
    rest = vectors * np.sqrt(np.maximum(values, 0.0))
    both = np.zeros((2, dim))
    for row, (signal, context) in enumerate(_coordinates(setting, geometry)):
        both[row, :4] = signal, context, *rest[row]
    return jnp.asarray(both[0], jnp.float32), jnp.asarray(both[1], jnp.float32)


def _coordinates(setting: Setting, g: Geometry) -> list[tuple[float, float]]:
    """Components of head and prompt along the unit vectors of w⋆ and q⋆."""

    def component(product: Any, norm: Any) -> float:
        return float(product) / float(norm) if norm else 0.0

    return [
        (component(g.head_signal, setting.signal), component(g.head_context, setting.context)),
        (component(g.prompt_signal, setting.signal), component(g.prompt_context, setting.context)),
    ]


def _residual_gram(setting: Setting, g: Geometry) -> np.ndarray:
    """Inner products of head and prompt after removing their parts along w⋆ and q⋆."""
    (hs, hc), (ps, pc) = _coordinates(setting, g)
    cross = g.head_prompt - hs * ps - hc * pc
    return np.array(
        [[g.head_norm**2 - hs**2 - hc**2, cross], [cross, g.prompt_norm**2 - ps**2 - pc**2]]
    )


_ROUNDING = 1e-9
"""Share of a squared norm by which rounding may make inner products impossible."""


def _validate(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse inner products that no head and prompt can have."""
    values = check_law(values, where)
    needed = [values[name] for name in (*Geometry._fields, "signal", "context")]
    if any(is_traced(value) for value in needed):
        return values
    for *products, signal, context in np.broadcast(*needed):
        g = Geometry(*products)
        local = Setting(1, 1, signal, context, 0.0, 0.0, np.zeros((1, 2)), np.ones(1))
        for name, product, norms in (
            ("head_signal", g.head_signal, signal),
            ("head_context", g.head_context, context),
            ("prompt_signal", g.prompt_signal, signal),
            ("prompt_context", g.prompt_context, context),
        ):
            if norms == 0 and product != 0:
                raise ParameterError(name, product, "0 where the vector is 0", "set it to 0", where)
        gram = _residual_gram(local, g)
        # Relative to each vector's length, so that a change of units refuses the same.
        allowed = _ROUNDING * np.array([g.head_norm**2, g.prompt_norm**2])
        for name, squared, slack in zip(
            ("head_norm", "prompt_norm"), np.diag(gram), allowed, strict=True
        ):
            if squared < -slack:
                least = np.sqrt(getattr(g, name) ** 2 - squared)
                raise ParameterError(
                    name,
                    getattr(g, name),
                    f"at least {least:.6g}, the norm its products imply",
                    f"raise `{name}` or lower the products",
                    where,
                )
        if gram[0, 1] ** 2 > np.prod(np.maximum(np.diag(gram), 0.0) + allowed):
            raise ParameterError(
                "head_prompt",
                g.head_prompt,
                "within what the other products and norms leave",
                "change it: no such pair of vectors exists",
                where,
            )
    return values


# --- the claim ---

_BASE = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0}
_SHIFTED = {"shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.4, 0.6)}
_POINTS = (
    # A prompt along q⋆ and a noisy head, as training gives them.
    {
        **_BASE,
        "head_signal": 0.8,
        "head_context": 0.2,
        "head_norm": 1.3,
        "prompt_signal": 0.0,
        "prompt_context": 2.25,
        "prompt_norm": 1.5,
        "head_prompt": 0.2,
    },
    # Head and prompt share a noise direction, so the noise that attracts attention is read out.
    {
        **_BASE,
        "head_signal": 0.9,
        "head_context": -0.3,
        "head_norm": 1.6,
        "prompt_signal": 0.3,
        "prompt_context": 1.2,
        "prompt_norm": 1.4,
        "head_prompt": 1.5,
    },
    {
        **_BASE,
        **_SHIFTED,
        "tokens": 20,
        "head_signal": 1.2,
        "head_context": 0.4,
        "head_norm": 1.5,
        "prompt_signal": -0.2,
        "prompt_context": 2.0,
        "prompt_norm": 1.9,
        "head_prompt": -0.9,
    },
    # Uniform attention, and a sequence with one irrelevant token.
    {
        **_BASE,
        "head_signal": 1.0,
        "head_context": 0.0,
        "head_norm": 3.0,
        "prompt_signal": 0.0,
        "prompt_context": 0.0,
        "prompt_norm": 0.0,
        "head_prompt": 0.0,
    },
    {
        **_BASE,
        "tokens": 3,
        "head_signal": 1.0,
        "head_context": 0.5,
        "head_norm": 3.0,
        "prompt_signal": 0.1,
        "prompt_context": 0.5,
        "prompt_norm": 1.5,
        "head_prompt": 3.0,
    },
)

_PRODUCTS = (
    ("head_signal", "⟨w, w⋆⟩"),
    ("head_context", "⟨w, q⋆⟩"),
    ("head_norm", "|w|"),
    ("prompt_signal", "⟨q, w⋆⟩"),
    ("prompt_context", "⟨q, q⋆⟩"),
    ("prompt_norm", "|q|"),
    ("head_prompt", "⟨w, q⟩"),
)

CLAIM = Claim(
    id="contextual.conditional_error",
    title="The error of a fixed head and prompt depends on seven inner products",
    statement=r"""
For any head $w$ and prompt $q$, the probability of a wrong sign on a fresh sequence is
$$E_{y,\delta,u}\,\Phi\!\left(-\frac{y\,\mu}{\sqrt{v}}\right),$$
where, with $s$ the softmax weight on relevant tokens, $p_2$ the sum of squared weights on
irrelevant ones, $u_t=\langle q,z_t\rangle$ and $\bar u=\sum_t\varphi_t u_t$,
$$\mu = s(\langle w,q_\star\rangle+y\langle w,w_\star\rangle)
 -(1-s)(\delta_q\langle w,q_\star\rangle+\delta_w y\langle w,w_\star\rangle)
 +\bar u\,\frac{\langle w,q\rangle}{|q|^2},$$
$$v=\sigma^2 p_2\left(|w|^2-\frac{\langle w,q\rangle^2}{|q|^2}\right).$$
The dimension does not enter.
""",
    derivation=r"""
Write the noise of irrelevant token $t$ as its part along $q$ and a rest:
$z_t = u_t\,q/|q|^2 + z_t^{\perp}$. The scores depend on $u_t$ alone, so given the $u_t$ the weights
$\varphi_t$ are fixed and the $z_t^{\perp}$ are still independent $N(0,\sigma^2(I-qq^\top/|q|^2))$.
The output is therefore Gaussian given $(y,\delta,u)$. Its mean collects the deterministic parts of
the tokens, weighted $s$ and $1-s$, and $\bar u\,\langle w,q\rangle/|q|^2$. Its variance is
$\sum_t\varphi_t^2$ times the variance of $\langle w,z_t^{\perp}\rangle$. The average over the
$T-k$ scalars $u_t$ is taken by randomised quasi-Monte Carlo, whose own standard error is reported;
the average over $y$ and $\delta$ is exact.
""",
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        *(
            Parameter(
                name,
                "real",
                "inner product " + symbol if "norm" not in name else symbol,
                symbol,
                low=0 if "norm" in name else -np.inf,
            )
            for name, symbol in _PRODUCTS
        ),
        optional(DIM, 8),
    ),
    ignored=FAMILY,
    quantities=(Quantity("error", "probability of a wrong sign on a fresh sequence", 0.005),),
    falsifiers=(
        Falsifier("no_drift", "drops the term ū⟨w,q⟩/|q|² of the mean", _wrong(drift=0.0)),
        Falsifier("isotropic", "keeps the noise along q in the variance too", _wrong(removed=0.0)),
        Falsifier("uniform_spread", "takes p₂ of uniform weights", _wrong(uniform_spread=True)),
        Falsifier("mean_weights", "puts mean weights into Φ", _wrong(mean_weights=True)),
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={"quick": Design(_POINTS, 384), "full": Design(_POINTS, 4096)},
    check_parameters=_validate,
    broadcasts="every real parameter",
    traceable=True,
    figure=Agreement(title="Error of fixed heads and prompts", label="probability of a wrong sign"),
)
