"""The `contextual` family: prompt-attention on contextual data (Oymak et al., ICML 2023)."""

from __future__ import annotations

from jaxprompt.contextual import conditional_error, context_gain, prompt_error, separation
from jaxprompt.engine import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    conditional_error.CLAIM,
    context_gain.CLAIM,
    prompt_error.CLAIM,
    separation.CLAIM,
)
