"""The `contextual` family: prompt-attention on contextual data (Oymak et al., ICML 2023)."""

from __future__ import annotations

from jaxprompt.contextual.claims import (
    best_ridge,
    conditional_error,
    context_gain,
    convex_head,
    first_step,
    image_context,
    prompt_error,
    prompt_step,
    sample_complexity,
    separation,
    three_steps,
    training,
)
from jaxprompt.core.claim import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    best_ridge.CLAIM,
    conditional_error.CLAIM,
    context_gain.CLAIM,
    convex_head.CLAIM,
    first_step.CLAIM,
    image_context.CLAIM,
    prompt_error.CLAIM,
    prompt_step.CLAIM,
    sample_complexity.CLAIM,
    separation.CLAIM,
    three_steps.CLAIM,
    training.CLAIM,
)
