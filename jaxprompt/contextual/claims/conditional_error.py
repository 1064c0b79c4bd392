r"""Claim ``contextual.conditional_error``: the exact error of any fixed head and prompt."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.compute.devices import map_trials
from jaxprompt.compute.numpy_normals import NUMBERS_TOGETHER, fill_normals, generator_of
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    check_law,
    optional,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Curves,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.parameters import Parameter, is_traced
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, mean_estimate

__all__ = [
    "CLAIM",
    "PRODUCTS",
    "check_products",
    "closed_form",
    "simulate",
    "vectors_with_products",
]

STATEMENT = r"""
For any head $w$ and prompt $q$, the probability of a wrong sign on a fresh sequence is
$$E_{y,\delta,u}\,\Phi\!\left(-\frac{y\,\mu}{\sqrt{v}}\right),$$
where, with $s$ the softmax weight on relevant tokens, $p_2$ the sum of squared weights on
irrelevant ones, $u_t=\langle q,z_t\rangle$ and $\bar u=\sum_t\varphi_t u_t$,
$$\mu = s(\langle w,q_\star\rangle+y\langle w,w_\star\rangle)
 -(1-s)(\delta_q\langle w,q_\star\rangle+\delta_w y\langle w,w_\star\rangle)
 +\bar u\,\frac{\langle w,q\rangle}{|q|^2},$$
$$v=\sigma^2 p_2\left(|w|^2-\frac{\langle w,q\rangle^2}{|q|^2}\right).$$
The dimension does not enter.
"""

DERIVATION = r"""
Write the noise of irrelevant token $t$ as its part along $q$ and a rest:
$z_t = u_t\,q/|q|^2 + z_t^{\perp}$. The scores depend on $u_t$ alone, so given the $u_t$ the weights
$\varphi_t$ are fixed and the $z_t^{\perp}$ are still independent $N(0,\sigma^2(I-qq^\top/|q|^2))$.
The output is therefore Gaussian given $(y,\delta,u)$. Its mean collects the deterministic parts of
the tokens, weighted $s$ and $1-s$, and $\bar u\,\langle w,q\rangle/|q|^2$. Its variance is
$\sum_t\varphi_t^2$ times the variance of $\langle w,z_t^{\perp}\rangle$. The average over the
$T-k$ scalars $u_t$ is taken by randomised quasi-Monte Carlo, whose own standard error is reported;
the average over $y$ and $\delta$ is exact.

*Tolerance.* 0.005 of a probability: one sequence in two hundred. The family's other claims use this
formula in place of test sets, and state their errors to 0.01 or more.
"""


# --- the closed form ---


@functools.partial(
    jax.jit,
    static_argnames=(
        "tokens",
        "relevant",
        "drift",
        "removed",
        "uniform_spread",
        "mean_weights",
    ),
)
def _mean_and_stderr(
    numbers: tuple[Array, ...], shifts: Array, shift_weights: Array, nodes: Float[Array, "R M N"],
    *, tokens: int, relevant: int, **switches: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """The error at every point of broadcast `numbers`, and its standard error.

    `numbers` are the seven products, then signal, context and noise.
    """
    flat = jnp.broadcast_arrays(*numbers)
    shape = flat[0].shape

    def error_at(point: tuple[Array, ...]) -> Array:
        *products, signal, context, noise = point
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, shifts, shift_weights
        )  # fmt: skip
        return jax.vmap(
            lambda scalars: conditional_error(setting, Geometry(*products), scalars, **switches)
        )(nodes)

    replicates = jax.lax.map(error_at, tuple(x.reshape(-1) for x in flat))
    replicates = replicates.reshape(*shape, -1)
    # The shifts of the quasi-random rule are independent, so their number is that of a sample.
    stderr = replicates.std(axis=-1, ddof=1) / np.sqrt(replicates.shape[-1])
    return replicates.mean(axis=-1), stderr


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, shifts: Any,
    shift_weights: Any, head_signal: Any, head_context: Any, head_norm: Any, prompt_signal: Any,
    prompt_context: Any, prompt_norm: Any, head_prompt: Any, drift: float = 1.0,
    removed: float = 1.0, uniform_spread: bool = False, mean_weights: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`error` and `error_stderr`, for broadcastable arrays of every real parameter.

    The formula is in :mod:`jaxprompt.contextual.law.error_given_prompt`. Falsifiers change the last
    four arguments, which the theory has at their defaults; :func:`conditional_error` says what
    they are.
    """
    numbers = tuple(
        jnp.asarray(x)
        for x in (head_signal, head_context, head_norm, prompt_signal, prompt_context, prompt_norm,
                  head_prompt, signal, context, noise)
    )  # fmt: skip
    dtype = jnp.result_type(*numbers)
    nodes = jnp.asarray(attention_moments.normal_nodes(tokens - relevant), dtype)
    error, stderr = _mean_and_stderr(
        numbers, np.asarray(shifts, np.float64), np.asarray(shift_weights, np.float64), nodes,
        tokens=tokens, relevant=relevant, drift=drift, removed=removed,
        uniform_spread=uniform_spread, mean_weights=mean_weights,
    )  # fmt: skip
    return {"error": error, "error_stderr": stderr}


FALSIFIERS = (
    Falsifier("no_drift", "drops the term ū⟨w,q⟩/|q|² of the mean", drift=0.0),
    Falsifier("isotropic", "keeps the noise along q in the variance too", removed=0.0),
    Falsifier("uniform_spread", "takes p₂ of uniform weights", uniform_spread=True),
    Falsifier("mean_weights", "puts mean weights into Φ", mean_weights=True),
)


# --- the simulation ---

SEQUENCES = 2048
"""Fresh sequences in one trial of the simulation."""


# No function of one trial: in NumPy, which compiles nothing.
def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, first: int = 0, **parameters: Any
) -> dict[str, Estimate]:
    """Share of wrong signs among sequences drawn and attended to token by token; float32.

    Raises:
        ParameterError: `dim` has no room for four special directions.
    """
    if dim < 4:
        raise ParameterError("dim", dim, "an integer ≥ 4", "leave it out for 4", CLAIM.id)
    setting = Setting.of(parameters)
    geometry = Geometry(*(parameters[name] for name in Geometry._fields))
    head, prompt = vectors_with_products(setting, geometry, dim)

    def block(indices: np.ndarray) -> np.ndarray:
        shares = [
            _share_of_wrong_signs(setting, head, prompt, generator_of(key, int(index)))
            for index in np.ravel(indices)
        ]
        return np.reshape(shares, np.shape(indices))

    return {"error": mean_estimate(map_trials(block, trials, first=first))}


def _share_of_wrong_signs(
    setting: Setting, head: np.ndarray, prompt: np.ndarray, rng: np.random.Generator
) -> float:
    """Share of wrong signs among :data:`SEQUENCES` fresh sequences."""
    most = max(1, 4 * NUMBERS_TOGETHER // (len(head) * max(setting.irrelevant, 1)))
    wrong = sum(
        _wrong_signs(setting, head, prompt, min(most, SEQUENCES - first), rng)
        for first in range(0, SEQUENCES, most)
    )
    return wrong / SEQUENCES


def _wrong_signs(
    setting: Setting, head: np.ndarray, prompt: np.ndarray, count: int, rng: np.random.Generator
) -> float:
    """The number of wrong signs among `count` sequences; an output of 0 is half of one."""
    label = np.where(rng.random(count, np.float32) < 0.5, np.float32(-1), np.float32(1))
    edges = np.cumsum(np.asarray(setting.shift_weights, np.float64))[:-1]
    index = np.searchsorted(edges, rng.random(count, np.float32), side="right")
    shift = np.asarray(setting.shifts, np.float32)[index]
    noise = np.empty((len(head), setting.irrelevant * count), np.float32)
    fill_normals(noise, rng)
    # Products of tokens with the prompt, which make their weights, and with the head.
    vectors = np.stack([prompt, head])
    own = np.stack([label * np.float32(setting.signal), np.full_like(label, setting.context)])
    relevant = vectors[:, :2] @ own
    irrelevant = np.float32(setting.noise) * (vectors @ noise)
    irrelevant = irrelevant.reshape(2, setting.irrelevant, count)
    irrelevant -= (vectors[:, :2] @ (shift[:, ::-1].T * own))[:, None]
    peak = np.maximum(irrelevant[0].max(axis=0, initial=-np.inf), relevant[0])
    weights = np.exp(irrelevant[0] - peak)
    mass = setting.relevant * np.exp(relevant[0] - peak)
    # The output times the weights' sum, which is positive.
    output = mass * relevant[1] + (weights * irrelevant[1]).sum(axis=0)
    return float((1 - np.sign(label * output)).sum() / 2)


def vectors_with_products(
    setting: Setting, geometry: Geometry, dim: int
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
    """A head and a prompt with the given inner products, in `dim` ≥ 4 coordinates, float32."""
    values, vectors = np.linalg.eigh(_residual_products(setting, geometry))
    residuals = vectors * np.sqrt(np.maximum(values, 0.0))
    both = np.zeros((2, dim))
    for row, (signal, context) in enumerate(_unit_components(setting, geometry)):
        both[row, :4] = signal, context, *residuals[row]
    head, prompt = both.astype(np.float32)
    return head, prompt


def _unit_components(setting: Setting, g: Geometry) -> list[tuple[float, float]]:
    """Components of head and prompt along the unit vectors of w⋆ and q⋆."""

    def component(product: Any, norm: Any) -> float:
        return float(product) / float(norm) if norm else 0.0

    return [
        (component(g.head_signal, setting.signal), component(g.head_context, setting.context)),
        (component(g.prompt_signal, setting.signal), component(g.prompt_context, setting.context)),
    ]


def _residual_products(setting: Setting, g: Geometry) -> Float[np.ndarray, "2 2"]:
    """Inner products of what head and prompt have orthogonal to w⋆ and q⋆."""
    (hs, hc), (ps, pc) = _unit_components(setting, g)
    cross = g.head_prompt - hs * ps - hc * pc
    return np.array(
        [[g.head_norm**2 - hs**2 - hc**2, cross], [cross, g.prompt_norm**2 - ps**2 - pc**2]]
    )


# --- the parameters ---

PRODUCT_ROUNDING = 1e-9
"""Share of a squared norm by which rounding may make inner products impossible."""


def check_products(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse inner products that no head and prompt can have."""
    values = check_law(values, where)
    needed = [values[name] for name in (*Geometry._fields, "signal", "context")]
    if any(is_traced(value) for value in needed):
        return values
    for *products, signal, context in np.broadcast(*needed):
        g = Geometry(*products)
        local = Setting(1, 1, signal, context, 0.0, 0.0, np.zeros((1, 2)), np.ones(1))
        for name, product, norm in (
            ("head_signal", g.head_signal, signal),
            ("head_context", g.head_context, context),
            ("prompt_signal", g.prompt_signal, signal),
            ("prompt_context", g.prompt_context, context),
        ):
            if norm == 0 and product != 0:
                raise ParameterError(name, product, "0 where the vector is 0", "set it to 0", where)
        gram = _residual_products(local, g)
        # Relative to each vector's length, so that a change of units refuses the same.
        allowed = PRODUCT_ROUNDING * np.array([g.head_norm**2, g.prompt_norm**2])
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


PRODUCTS = (
    Parameter("head_signal", "real", "inner product ⟨w, w⋆⟩", "⟨w, w⋆⟩"),
    Parameter("head_context", "real", "inner product ⟨w, q⋆⟩", "⟨w, q⋆⟩"),
    Parameter("head_norm", "real", "|w|", "|w|", low=0),
    Parameter("prompt_signal", "real", "inner product ⟨q, w⋆⟩", "⟨q, w⋆⟩"),
    Parameter("prompt_context", "real", "inner product ⟨q, q⋆⟩", "⟨q, q⋆⟩"),
    Parameter("prompt_norm", "real", "|q|", "|q|", low=0),
    Parameter("head_prompt", "real", "inner product ⟨w, q⟩", "⟨w, q⟩"),
)


# --- the design ---

# Two shifts in each, equal or not, so that all laws of ten tokens share a compilation.
_TEN_TOKENS = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.0, 0.0)), "shift_weights": (0.4, 0.6),
}  # fmt: skip
_RUNS = (
    # A prompt along q⋆ and a noisy head, as training gives them.
    Run(_TEN_TOKENS, head_signal=0.8, head_context=0.2, head_norm=1.3, prompt_signal=0.0,
        prompt_context=2.25, prompt_norm=1.5, head_prompt=0.2),
    # Head and prompt share a noise direction, so the noise that attracts attention is read out.
    Run(_TEN_TOKENS, head_signal=0.9, head_context=-0.3, head_norm=1.6, prompt_signal=0.3,
        prompt_context=1.2, prompt_norm=1.4, head_prompt=1.5),
    Run(_TEN_TOKENS, shifts=((0.0, 0.0), (0.5, 0.3)), head_signal=1.2, head_context=0.4,
        head_norm=1.5, prompt_signal=-0.2, prompt_context=2.0, prompt_norm=1.9, head_prompt=-0.9),
    # Uniform attention, and a sequence with one irrelevant token.
    Run(_TEN_TOKENS, head_signal=1.0, head_context=0.0, head_norm=3.0, prompt_signal=0.0,
        prompt_context=0.0, prompt_norm=0.0, head_prompt=0.0),
    Run(_TEN_TOKENS, tokens=3, head_signal=1.0, head_context=0.5, head_norm=3.0, prompt_signal=0.1,
        prompt_context=0.5, prompt_norm=1.5, head_prompt=3.0),
)  # fmt: skip

_FIGURE = Curves(
    x="prompt_context",
    y="error",
    design=Design.product(
        {**_TEN_TOKENS, "head_signal": 1.0, "head_context": 0.0, "head_norm": 1.6,
         "prompt_signal": 0.0, "prompt_norm": 2.4},
        {
            "dim": [5, 50], "head_prompt": [-1.6, 0.0, 1.6],
            "prompt_context": [-3.0, -1.5, 0.0, 1.0, 2.0, 3.0],
        },
        trials=24,
    ),
    lines=tuple(float(x) for x in np.linspace(-3.0, 3.0, 41)),
    title="Seven inner products decide the error of a head and a prompt; the dimension does not",
    x_label="the prompt along q⋆, ⟨q, q⋆⟩",
    y_label="probability of a wrong sign",
    series="head_prompt",
    series_label="⟨w, q⟩ = {value}",
    panel="dim",
    panel_label="simulated at d = {value}",
)  # fmt: skip

CLAIM = Claim(
    id="contextual.conditional_error",
    title="The error of a fixed head and prompt depends on seven inner products",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(*DATA_LAW, *PRODUCTS, optional(DIM, 4)),
    ignored=FAMILY,
    check_parameters=check_products,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", tolerance=0.005),
    ),
    compared=Compared(
        {
            "tokens": (2, 30),
            "relevant": (1, 5),
            "signal": (0.2, 4.0),
            "context": (0.2, 3.0),
            "noise": (0.2, 2.0),
            "shifts": (-0.5, 1.5),
            "head_norm": (0.05, 20.0),
            "prompt_norm": (0.05, 4.0),
        },
        elsewhere="`error_stderr` states what the quadrature over scores loses; "
        "errors below 2e-5 are not resolved",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={"quick": Design(*_RUNS, trials=256), "full": Design(*_RUNS, trials=4096)},
    broadcasts="every real parameter",
    traceable=True,
    figure=_FIGURE,
)
