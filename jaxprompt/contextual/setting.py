r"""The contextual data model as a validated pytree.

Setting: Oymak et al., ICML 2023. A sequence has `tokens` tokens, `relevant` of them relevant; the
label is `y = ±1` with equal odds; :math:`w_\star \perp q_\star` with norms `signal` and `context`.

* relevant token: :math:`x = q_\star + y w_\star`
* irrelevant token: :math:`x = -\delta_q q_\star - \delta_w y w_\star + z`,
  :math:`z \sim N(0, \sigma^2 I_d)`, independent per token

The shift :math:`(\delta_q, \delta_w)` is drawn once per sequence from `shifts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.contextual.parameters import DATA_LAW, FAMILY, GAIN, check_law
from jaxprompt.core.parameters import check_parameters

__all__ = ["Setting"]


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
        wanted = (*DATA_LAW, GAIN)
        values = check_law(check_parameters(wanted, given, where=where, accepted=FAMILY), where)
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Setting:
        """Build from what a claim has validated and completed; others are left out.

        Nothing is converted a second time: :meth:`make` does that for a caller of one's own.
        """
        return cls(
            values["tokens"],
            values["relevant"],
            values["signal"],
            values["context"],
            values["noise"],
            values.get("gain", 0.0),
            np.asarray(values["shifts"], dtype=np.float64),
            np.asarray(values["shift_weights"], dtype=np.float64),
        )
