"""What prefixes, soft prompts and prompts can and cannot do: claims, layers, and a transformer.

Prompts and in-context examples are the special case in which the added vectors are embeddings of
real tokens; :mod:`jaxprompt.prefix.claims.soft_prompt` shows it.
"""

from __future__ import annotations

from jaxprompt.core.claim import Claim
from jaxprompt.prefix.claims import (
    bias_identity,
    new_task_limit,
    no_forgetting,
    pattern_invariance,
    prefix_subspace,
    real_transformer,
    skill_combination,
    skill_selection,
    soft_prompt,
    suffix_reads_content,
    token_selection,
)

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    bias_identity.CLAIM,
    pattern_invariance.CLAIM,
    soft_prompt.CLAIM,
    prefix_subspace.CLAIM,
    token_selection.CLAIM,
    suffix_reads_content.CLAIM,
    new_task_limit.CLAIM,
    skill_selection.CLAIM,
    skill_combination.CLAIM,
    no_forgetting.CLAIM,
    real_transformer.CLAIM,
)
