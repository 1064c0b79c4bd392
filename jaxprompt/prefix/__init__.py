"""What prefixes, soft prompts and prompts can and cannot do: claims, layers, and a transformer."""

from __future__ import annotations

from jaxprompt.engine import Claim
from jaxprompt.prefix import (
    bias_identity,
    pattern_invariance,
    soft_prompt,
    suffix_reads_content,
    token_selection,
)

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    bias_identity.CLAIM,
    pattern_invariance.CLAIM,
    soft_prompt.CLAIM,
    token_selection.CLAIM,
    suffix_reads_content.CLAIM,
)
