r"""The contextual data model: its parameters, in words, and as a validated pytree.

Setting: Oymak et al., ICML 2023. A sequence has `tokens` tokens, `relevant` of them relevant; the
label is `y = ±1` with equal odds; :math:`w_\star \perp q_\star` with norms `signal` and `context`.

* relevant token: :math:`x = q_\star + y w_\star`
* irrelevant token: :math:`x = -\delta_q q_\star - \delta_w y w_\star + z`,
  :math:`z \sim N(0, \sigma^2 I_d)`, independent per token

The shift :math:`(\delta_q, \delta_w)` is drawn once per sequence from `shifts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.core.parameters import REQUIRED, WHOLE, Parameter, check_parameters
from jaxprompt.errors import ParameterError

__all__ = [
    "CONTEXT",
    "DIM",
    "GAIN",
    "MODEL",
    "NOISE",
    "RATIO",
    "RELEVANT",
    "RIDGE",
    "SAMPLES",
    "SHIFTS",
    "SHIFT_WEIGHTS",
    "SIGNAL",
    "TOKENS",
    "Setting",
    "complete",
    "learnable",
    "optional",
    "to_simulate",
]

DIM = Parameter("dim", "integer", "token dimension", "d", low=2, default=None)
TOKENS = Parameter("tokens", "integer", "tokens per sequence", "T", low=1, high=100_000)
RELEVANT = Parameter("relevant", "integer", "relevant tokens, 1 ≤ k ≤ T", "k", low=1)
SIGNAL = Parameter("signal", "real", "norm of w⋆", "W", low=0)
CONTEXT = Parameter("context", "real", "norm of q⋆", "Q", low=0)
NOISE = Parameter("noise", "real", "standard deviation of the irrelevant tokens' noise", "σ", low=0)
SHIFTS = Parameter(
    "shifts",
    "pairs",
    "pairs (δq, δw), one drawn for each sequence",
    "(δq, δw)",
    default=((0.0, 0.0),),
)
SHIFT_WEIGHTS = Parameter(
    "shift_weights", "weights", "probabilities of the shifts; equal if left out", default=None
)
GAIN = Parameter("gain", "real", "the prompt is γ q⋆", "γ")
SAMPLES = Parameter("samples", "integer", "training sequences", "n", low=1, default=None)
RATIO = Parameter("ratio", "real", "d / n", "κ", low=0, open_low=True, default=None)
RIDGE = Parameter("ridge", "real", "ridge strength", "λ", low=0, default=0.0)

MODEL = (
    DIM,
    TOKENS,
    RELEVANT,
    SIGNAL,
    CONTEXT,
    NOISE,
    SHIFTS,
    SHIFT_WEIGHTS,
    GAIN,
    SAMPLES,
    RATIO,
    RIDGE,
)
"""Every parameter of the family's table; a claim accepts the ones it does not need."""


LAW_NAMES = ("tokens", "relevant", "signal", "context", "noise", "shifts", "shift_weights")
"""Parameters of the data's law."""

SETTING_NAMES = (*LAW_NAMES, "gain")
"""Arguments of :meth:`Setting.make`: the law, and the gain of the known prompt."""


def optional(parameter: Parameter, default: Any = None) -> Parameter:
    """`parameter` with a default, None standing for "may be left out"."""
    return replace(parameter, default=default)


def to_simulate(parameter: Parameter) -> Parameter:
    """`parameter` as one that a simulation requires and the closed form does without."""
    return replace(parameter, default=REQUIRED, simulate_only=True)


def complete(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Check what no single parameter can: k ≤ T, and one probability for each shift.

    Fills in equal `shift_weights`. Raises :class:`~jaxprompt.errors.ParameterError`.
    """
    if "tokens" in values and "relevant" in values:
        excess = np.max(np.asarray(values["relevant"]) - np.asarray(values["tokens"]))
        if excess > 0:
            raise ParameterError(
                "relevant",
                values["relevant"],
                f"at most `tokens` ({values['tokens']})",
                "lower `relevant` or raise `tokens`",
                where,
            )
    if "shifts" in values:
        count = len(values["shifts"])
        weights = values.get("shift_weights", (1.0 / count,) * count)
        if len(weights) != count:
            raise ParameterError(
                "shift_weights",
                weights,
                f"{count} probabilities, one for each of `shifts`",
                "add or remove entries, or leave it out for equal odds",
                where,
            )
        values["shift_weights"] = weights
    return values


def learnable(values: dict[str, Any], where: str) -> dict[str, Any]:
    """:func:`complete`, and an irrelevant token: without one no gradient moves the prompt."""
    values = complete(values, where)
    if np.any(np.asarray(values["relevant"]) >= np.asarray(values["tokens"])):
        raise ParameterError(
            "relevant",
            values["relevant"],
            f"less than `tokens` ({values['tokens']})",
            "lower it: where every token is relevant no step moves the prompt",
            where,
        )
    return values


def sample_counts(dim: Any, ratio: Any) -> Any:
    """Whole sample sizes n nearest to dim / ratio, at least 1.

    Raises:
        ParameterError: there are more of them than float64 counts.
    """
    counts = np.maximum(np.rint(np.asarray(dim) / np.asarray(ratio)), 1)
    if np.any(counts > WHOLE):
        raise ParameterError("ratio", ratio, "at least dim / 2^53", "raise it or give `samples`")
    counts = counts.astype(np.int64)
    return counts if counts.ndim else int(counts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Setting:
    """Parameters of the data model and the prompt's gain, as a pytree.

    `tokens` and `relevant` are static (they set shapes); the rest are leaves, so one compiled
    simulation serves all their values. Build it with :meth:`make`, which validates; the bare
    constructor does not, because JAX rebuilds pytrees from tracers.
    """

    tokens: int = field(metadata={"static": True})
    relevant: int = field(metadata={"static": True})
    signal: Float[Array, ""] | float
    context: Float[Array, ""] | float
    noise: Float[Array, ""] | float
    gain: Float[Array, ""] | float
    shifts: Float[Array, "S 2"] | np.ndarray
    shift_weights: Float[Array, " S"] | np.ndarray

    @property
    def irrelevant(self) -> int:
        """Number of irrelevant tokens."""
        return self.tokens - self.relevant

    @classmethod
    def make(
        cls,
        *,
        tokens: int,
        relevant: int,
        signal: float,
        context: float,
        noise: float,
        gain: float = 0.0,
        shifts: Any = ((0.0, 0.0),),
        shift_weights: Any = None,
        where: str = "Setting",
        **unused: Any,
    ) -> Setting:
        """Validate and build; further model parameters are accepted and left out.

        Raises:
            ParameterError: naming the parameter, its value, what is allowed and what to do.
        """
        given = {
            "tokens": tokens,
            "relevant": relevant,
            "signal": signal,
            "context": context,
            "noise": noise,
            "gain": gain,
            "shifts": shifts,
            "shift_weights": shift_weights,
            **unused,
        }
        wanted = (TOKENS, RELEVANT, SIGNAL, CONTEXT, NOISE, GAIN, SHIFTS, SHIFT_WEIGHTS)
        values = complete(check_parameters(wanted, given, where=where, accepted=MODEL), where)
        return cls(
            values["tokens"],
            values["relevant"],
            values["signal"],
            values["context"],
            values["noise"],
            values["gain"],
            np.asarray(values["shifts"], dtype=np.float64),
            np.asarray(values["shift_weights"], dtype=np.float64),
        )
