"""Attention on one sequence, as pure functions; the caller vmaps.

Every function computes in the dtype of its arguments. Sources: Oymak et al., ICML 2023 (prompt
attention and its rivals, :mod:`jaxprompt.attention.prompts`); Petrov et al., ICLR 2024 (heads with
a prefix, :mod:`jaxprompt.attention.heads`). Masks are in :mod:`jaxprompt.attention.masks`,
encodings of positions in :mod:`jaxprompt.attention.positions`, and what rounding leaves of a head
in :mod:`jaxprompt.attention.rounding`.
"""

from jaxprompt.attention.heads import (
    PrefixedOutput,
    attention_head,
    attention_scores,
    grouped_heads,
    grouped_prefixed_heads,
    log_sum_and_weights,
    prefixed_head,
)
from jaxprompt.attention.masks import split_mask, visible_positions
from jaxprompt.attention.positions import (
    alibi_bias,
    alibi_slopes,
    relative_buckets,
    rotary_frequencies,
    rotate,
)
from jaxprompt.attention.prompts import (
    linear_pooling,
    linear_prompt_attention,
    prompt_attention,
    prompt_weights,
    self_attention,
)
from jaxprompt.attention.rounding import rounding_allowance

__all__ = [
    "PrefixedOutput",
    "alibi_bias",
    "alibi_slopes",
    "attention_head",
    "attention_scores",
    "grouped_heads",
    "grouped_prefixed_heads",
    "linear_pooling",
    "linear_prompt_attention",
    "log_sum_and_weights",
    "prefixed_head",
    "prompt_attention",
    "prompt_weights",
    "relative_buckets",
    "rotary_frequencies",
    "rotate",
    "rounding_allowance",
    "self_attention",
    "split_mask",
    "visible_positions",
]
