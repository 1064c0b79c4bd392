"""What prefixes, soft prompts and prompts can and cannot do: claims, layers, and a transformer.

Prompts and in-context examples are the special case in which the added vectors are embeddings of
real tokens; :mod:`jaxprompt.prefix.claims.soft_prompt` shows it.

For models of your own:

* :func:`head_from_scores`: output, patterns and mass of a head with a prefix, by the identity that
  splits it into the head without it and a bias.
* :class:`Projections`, :func:`attend`: one attention layer with a prefix, by definition.
* :class:`Transformer`: a small GPT-2-style model that takes prefixes, soft prompts and low-rank
  factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxprompt.core.families import lazy_members

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.networks.attention_layer import Projections, attend
    from jaxprompt.networks.transformer import Transformer
    from jaxprompt.prefix.head_identity import head_from_scores

    CLAIMS: tuple[Claim, ...]

__all__ = ["CLAIMS", "Projections", "Transformer", "attend", "head_from_scores"]

__getattr__, __dir__ = lazy_members(
    __name__,
    {
        "Projections": "jaxprompt.networks.attention_layer",
        "Transformer": "jaxprompt.networks.transformer",
        "attend": "jaxprompt.networks.attention_layer",
        "head_from_scores": "jaxprompt.prefix.head_identity",
    },
)
