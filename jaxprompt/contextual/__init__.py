"""The `contextual` family: prompt-attention on contextual data (Oymak et al., ICML 2023).

`claims` holds a module for each claim, `law` the theory's parts that several of them use,
`simulation` what they are compared with. `extensions` goes beyond the setting: it is documented
and tested, and one claim alone is of it, `contextual.image_context` of the curves of `own_data`.

For models and data of your own:

* :class:`Setting`: the data model's parameters, validated.
* :class:`Geometry`, :func:`conditional_error`, :func:`normal_nodes`: the exact error of any fixed
  head and prompt, from seven inner products.
* :func:`feature_law`, :func:`ridge_limit`: the law of the pooled feature, and the limiting error of
  a ridge head over it.
* :func:`least_error`: the least error that any weights of a model can have.
* :func:`best_split`, :func:`best_reuse`, :func:`best_rates`, :func:`best_known_prompt`: the best
  way to spend n sequences on learning a prompt and a head, in stages, all at once, by one pass of
  SGD, and where the prompt is known; :func:`best_error` by name, :func:`crossover`,
  :func:`samples_for` and :func:`time_to` for how many it takes.
* :func:`predict_curve`, :func:`measure_curve`, :func:`best_prompt`: learning curves, predicted and
  measured, and the best prompt for tokens of your own (docs/own_data.md).
* :class:`TokenLaw`, :func:`pooled_law`, :func:`ridge_head_law`: any token law, and the error of a
  ridge head over any prompt.
* :func:`sample_sequence`, :func:`token_steps`: sequences token by token, and gradient descent on
  them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxprompt.core.families import lazy_members

if TYPE_CHECKING:
    from jaxprompt.contextual.extensions.learning import (
        best_error,
        best_known_prompt,
        best_rates,
        best_reuse,
        best_split,
        crossover,
        samples_for,
        time_to,
    )
    from jaxprompt.contextual.extensions.own_data import (
        PredictedCurve,
        best_prompt,
        measure_curve,
        predict_curve,
    )
    from jaxprompt.contextual.law.attention_moments import normal_nodes
    from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
    from jaxprompt.contextual.law.feature_law import feature_law
    from jaxprompt.contextual.law.least_error import least_error
    from jaxprompt.contextual.law.ridge_limit import ridge_limit
    from jaxprompt.contextual.law.token_law import TokenLaw, pooled_law
    from jaxprompt.contextual.law.token_law_limit import ridge_head_law
    from jaxprompt.contextual.setting import Setting
    from jaxprompt.contextual.simulation.gradient_steps import token_steps
    from jaxprompt.contextual.simulation.sampling import sample_sequence
    from jaxprompt.core.claim import Claim

    CLAIMS: tuple[Claim, ...]

__all__ = [
    "CLAIMS",
    "Geometry",
    "PredictedCurve",
    "Setting",
    "TokenLaw",
    "best_error",
    "best_known_prompt",
    "best_prompt",
    "best_rates",
    "best_reuse",
    "best_split",
    "conditional_error",
    "crossover",
    "feature_law",
    "least_error",
    "measure_curve",
    "normal_nodes",
    "pooled_law",
    "predict_curve",
    "ridge_head_law",
    "ridge_limit",
    "sample_sequence",
    "samples_for",
    "time_to",
    "token_steps",
]

__getattr__, __dir__ = lazy_members(
    __name__,
    {
        "Geometry": "jaxprompt.contextual.law.error_given_prompt",
        "PredictedCurve": "jaxprompt.contextual.extensions.own_data",
        "Setting": "jaxprompt.contextual.setting",
        "TokenLaw": "jaxprompt.contextual.law.token_law",
        "best_error": "jaxprompt.contextual.extensions.learning",
        "best_known_prompt": "jaxprompt.contextual.extensions.learning",
        "best_prompt": "jaxprompt.contextual.extensions.own_data",
        "best_rates": "jaxprompt.contextual.extensions.learning",
        "best_reuse": "jaxprompt.contextual.extensions.learning",
        "best_split": "jaxprompt.contextual.extensions.learning",
        "conditional_error": "jaxprompt.contextual.law.error_given_prompt",
        "crossover": "jaxprompt.contextual.extensions.learning",
        "feature_law": "jaxprompt.contextual.law.feature_law",
        "least_error": "jaxprompt.contextual.law.least_error",
        "measure_curve": "jaxprompt.contextual.extensions.own_data",
        "normal_nodes": "jaxprompt.contextual.law.attention_moments",
        "pooled_law": "jaxprompt.contextual.law.token_law",
        "predict_curve": "jaxprompt.contextual.extensions.own_data",
        "ridge_head_law": "jaxprompt.contextual.law.token_law_limit",
        "ridge_limit": "jaxprompt.contextual.law.ridge_limit",
        "sample_sequence": "jaxprompt.contextual.simulation.sampling",
        "samples_for": "jaxprompt.contextual.extensions.learning",
        "time_to": "jaxprompt.contextual.extensions.learning",
        "token_steps": "jaxprompt.contextual.simulation.gradient_steps",
    },
)
