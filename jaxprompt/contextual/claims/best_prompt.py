r"""Claim ``contextual.best_prompt``: the best prompt under any covariance is Σ⁻¹q⋆/2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.compute.trials import per_trial
from jaxprompt.contextual.law.pointwise import evaluate_pointwise
from jaxprompt.contextual.law.token_law_spectrum import spectrum
from jaxprompt.contextual.parameters import (
    CONTEXT,
    DIM,
    FAMILY,
    NOISE,
    SPARSITY,
    TOKENS,
    required,
    to_simulate,
)
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Curves,
    Design,
    ExtraLine,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Relevant tokens, a share $\zeta$ of $T$, are noise-free, irrelevant ones have noise of covariance
$\Sigma$ and context $-\delta_qq_\star$. As $T\to\infty$ the squared signal-to-noise ratio
$s^2/p_2$ of the feature over a prompt $q$ is that of uniform attention times
$\exp(2(1+\delta_q)\langle q,q_\star\rangle-2q^\top\Sigma q)$. The best prompt is
$q=\frac12(1+\delta_q)\Sigma^{-1}q_\star$, worth
$\exp(\frac12(1+\delta_q)^2q_\star^\top\Sigma^{-1}q_\star)$; the best along $q_\star$ is
$\frac{(1+\delta_q)|q_\star|^2}{2q_\star^\top\Sigma q_\star}q_\star$, worth
$\exp(\frac12(1+\delta_q)^2|q_\star|^4/q_\star^\top\Sigma q_\star)$, which is never more. Here
$\Sigma$ has the spectrum and $q_\star$ the coordinates of `contextual.token_law_error`.
"""

DERIVATION = r"""
A relevant token has $e^{(1+\delta_q)\langle q,q_\star\rangle}$ times the weight of a mean
irrelevant one; with $u=\langle q,z\rangle\sim N(0,V)$, $V=q^\top\Sigma q$, the weights of
irrelevant tokens sum to $(1-\zeta)Te^{V/2}$ and their squares to $(1-\zeta)Te^{2V}$ by the law of
large numbers. The normalising sum drops out of $s^2/p_2$, which leaves $\zeta^2T/(1-\zeta)$, its
value at $q=0$, times the exponential. The exponent is concave in $q$; its gradient
$2(1+\delta_q)q_\star-4\Sigma q$ vanishes at the best prompt. Along $q_\star$ it is a parabola in
the gain. By the Cauchy–Schwarz inequality $|q_\star|^4\le(q_\star^\top\Sigma
q_\star)(q_\star^\top\Sigma^{-1}q_\star)$.

The means of $s$ and $p_2$ at a finite $T$ deviate by $1/T$.

*Tolerances.* 3 % of a gain in squared signal-to-noise ratio.
"""


# --- the closed form ---


def closed_form(
    *, dim: Any, exponent: Any, context: Any, noise: Any, shift_context: Any,
    whitening: float = 1.0, gain_factor: float = 1.0, tilt: float = 2.0,
    shift_factor: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """`best_snr_gain` and `along_snr_gain`; numbers of any shape broadcast.

    Falsifiers change the last four arguments, which the theory has at their defaults. `whitening`
    is the power of the inverse covariance in the best prompt.
    """

    def gains_at(
        *, dim: float, exponent: float, context: float, noise: float, shift_context: float
    ) -> dict[str, float]:
        variances, q = _variances_and_context(int(dim), exponent, context, noise)
        factor = 1 + shift_factor * shift_context

        def log_gain(prompt: np.ndarray) -> float:
            return float(2 * factor * prompt @ q - tilt * prompt**2 @ variances)

        best = gain_factor * factor / 2 * q / variances**whitening
        along = gain_factor * factor * (q @ q) / (2 * q**2 @ variances) * q
        return {
            "best_snr_gain": float(np.exp(log_gain(best))),
            "along_snr_gain": float(np.exp(log_gain(along))),
        }

    return evaluate_pointwise(
        gains_at, dim=dim, exponent=exponent, context=context, noise=noise,
        shift_context=shift_context,
    )  # fmt: skip


def _variances_and_context(
    dim: int, exponent: float, context: float, noise: float
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    law = spectrum(dim, exponent, 1.0, context)
    return noise**2 * law.eigenvalues, law.context


FALSIFIERS = (
    Falsifier("unwhitened", "q⋆/2 for Σ⁻¹q⋆/2", whitening=0.0),
    Falsifier("twice_as_long", "Σ⁻¹q⋆ for Σ⁻¹q⋆/2", gain_factor=2.0),
    Falsifier("tilt", "3/2 for 2 in the exponent of p₂", tilt=1.5),
    Falsifier("no_shift", "drops δq", shift_factor=0.0),
    # What vanishes as 1/T is half of it, which the quick design cannot tell from none.
    Falsifier.after(
        "correction_left", "a correction of 2.4/T left in the gains, as at T = 240",
        lambda right, _: {name: gain * (1 + 2.4 / 240) for name, gain in right.items()},
    ),
)  # fmt: skip


# --- the simulation ---

SEQUENCES = 32
"""Sequences attended to in one trial."""


def _make_prompts(
    *, dim: int, exponent: float, context: float, noise: float, shift_context: float
) -> dict[str, Any]:
    """The set-up of a point: variances, q⋆, and both prompts, the best by solving for it."""
    variances, q = _variances_and_context(dim, exponent, context, noise)
    h = (1 + shift_context) * q
    best = np.linalg.solve(2 * np.diag(variances), h)
    along = (h @ h) / (2 * h @ (variances * h)) * h
    return {"deviations": np.sqrt(variances), "q": q, "prompts": np.stack([best, along])}


@per_trial(dtype="float32", setup=_make_prompts, batch=4, traced=("shift_context",))
def simulate(
    *, key: Key[Array, ""], deviations: Array, q: Array, prompts: Array, tokens: int,
    sparsity: float, shift_context: Array,
) -> dict[str, Array]:  # fmt: skip
    """Softmax weights of sequences drawn token by token, under both prompts."""
    relevant = relevant_count(tokens, sparsity)
    deviations, q, prompts = (jnp.asarray(x, jnp.float32) for x in (deviations, q, prompts))
    normals = jax.random.normal(key, (SEQUENCES, tokens - relevant, q.size), jnp.float32)
    far = jnp.einsum("ntd,pd->npt", deviations * normals - shift_context * q, prompts)
    near = jnp.broadcast_to((prompts @ q)[None, :, None], (SEQUENCES, 2, relevant))
    weights = jax.nn.softmax(jnp.concatenate([near, far], axis=-1), axis=-1)
    attention = weights[..., :relevant].sum(axis=-1).mean(axis=0)
    uniform = relevant**2 / (tokens - relevant)
    spread = uniform * jnp.square(weights[..., relevant:]).sum(axis=-1).mean(axis=0)
    return {
        "best_attention": attention[0],
        "best_spread": spread[0],
        "along_attention": attention[1],
        "along_spread": spread[1],
    }


@simulate.statistic
def best_snr_gain(best_attention: np.ndarray, best_spread: np.ndarray) -> float:
    """The ratio s²/p₂ over that of uniform attention."""
    return float(best_attention.mean() ** 2 / best_spread.mean())


@simulate.statistic
def along_snr_gain(along_attention: np.ndarray, along_spread: np.ndarray) -> float:
    """The same along q⋆."""
    return float(along_attention.mean() ** 2 / along_spread.mean())


def relevant_count(tokens: int, sparsity: float) -> int:
    """The whole number of relevant tokens nearest to ζT, from 1 to T − 1."""
    return min(max(round(sparsity * tokens), 1), tokens - 1)


# --- the parameters ---

EXPONENT = Parameter(
    "exponent", "real", "power p of the falling spectrum; 0 is the identity", "p", low=0, high=4,
    default=0.0,
)  # fmt: skip
SHIFT_CONTEXT = Parameter("shift_context", "real", "shift δq of the context", "δq", default=0.0)


def _check_noise(values: dict[str, Any], where: str) -> dict[str, Any]:
    if np.any(np.asarray(values["noise"]) <= 0):
        raise ParameterError(
            "noise", values["noise"], "> 0", "without noise any gain is best", where
        )
    return values


# --- the design ---

_TENTH = {"sparsity": 0.1, "dim": 8, "context": 1.0, "noise": 1.0, "exponent": 0.8}
_SHIFTED = {**_TENTH, "sparsity": 0.2, "context": 0.9, "exponent": 0.4, "shift_context": 0.2}


def _at_tokens(*tokens: int) -> list[Run]:
    return [Run(law, tokens=count) for law in (_TENTH, _SHIFTED) for count in tokens]


def _gain_along_context(x: float, **parameters: Any) -> float:
    """Beside the best prompt: the best of those along q⋆."""
    return float(CLAIM.predict(exponent=x, **parameters)["along_snr_gain"])


FIGURE = Curves(
    x="exponent",
    y="best_snr_gain",
    design=Design.product(
        _TENTH, {"exponent": [0.0, 0.4, 0.8, 1.2, 1.6], "tokens": [240, 960]}, trials=64
    ),
    lines=tuple(np.linspace(0.0, 1.8, 19)),
    title="The best prompt whitens the context, and gains what a prompt along it cannot",
    x_label="power $p$ of the eigenvalues' fall",
    y_label="SNR² / SNR² of uniform attention",
    limit_label="best prompt, ½ Σ⁻¹q⋆: limit",
    extra=(ExtraLine("best gain along q⋆: limit", _gain_along_context),),
)

CLAIM = Claim(
    id="contextual.best_prompt",
    title="The best prompt under any covariance",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023, generalised; formula: derived here",
    parameters=(
        required(DIM), SPARSITY, CONTEXT, NOISE, SHIFT_CONTEXT, EXPONENT, to_simulate(TOKENS),
    ),
    ignored=FAMILY,
    check_parameters=_check_noise,
    quantities=(
        Quantity("best_snr_gain", "s²/p₂ at the best prompt over that of uniform attention",
                 tolerance=0.03, relative=True),
        Quantity("along_snr_gain", "the same at the best gain along q⋆", tolerance=0.03,
                 relative=True),
        *(Quantity(f"{name}_{part}", f"mean of {part} there", unmeasured=True)
          for name in ("best", "along") for part in ("attention", "spread")),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            "dim": (2, 64), "sparsity": (0.01, 0.9), "context": (0.1, 3.0), "noise": (0.3, 3.0),
            "exponent": (0.0, 2.0), "shift_context": (-1.5, 2.0),
        },
        elsewhere="a formula of sums and one exponential, which rounding alone limits",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": Design(*_at_tokens(240, 480, 960), trials=64),
        "full": Design(*_at_tokens(480, 960, 1920, 3840), trials=320),
    },
    size="tokens",
    powers=(1,),
    broadcasts="every number but sparsity",
    figure=FIGURE,
)  # fmt: skip
