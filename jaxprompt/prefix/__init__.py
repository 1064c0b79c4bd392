"""What prefixes, soft prompts and prompts can and cannot do: claims, layers, and a transformer.

Prompts and in-context examples are the special case in which the added vectors are embeddings of
real tokens; :mod:`jaxprompt.prefix.claims.soft_prompt` shows it.

For models of your own:

* :func:`head_from_scores`: output, patterns and mass of a head with a prefix, by the identity that
  splits it into the head without it and a bias.
* :func:`audit`, :class:`TapedLayer`: what a prefix does to the layers of any model, from arrays of
  NumPy, JAX or PyTorch; :func:`audit_model` takes a Hugging Face folder and an adapter of PEFT.
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
    from jaxprompt.prefix.audit_layers import TapedLayer, audit
    from jaxprompt.prefix.audit_models import audit_model
    from jaxprompt.prefix.audit_results import Audit
    from jaxprompt.prefix.head_identity import head_from_scores

    CLAIMS: tuple[Claim, ...]

__all__ = [
    "CLAIMS",
    "Audit",
    "Projections",
    "TapedLayer",
    "Transformer",
    "attend",
    "audit",
    "audit_model",
    "head_from_scores",
]

__getattr__, __dir__ = lazy_members(
    __name__,
    {
        "Audit": "jaxprompt.prefix.audit_results",
        "Projections": "jaxprompt.networks.attention_layer",
        "TapedLayer": "jaxprompt.prefix.audit_layers",
        "Transformer": "jaxprompt.networks.transformer",
        "attend": "jaxprompt.networks.attention_layer",
        "audit": "jaxprompt.prefix.audit_layers",
        "audit_model": "jaxprompt.prefix.audit_models",
        "head_from_scores": "jaxprompt.prefix.head_identity",
    },
)
