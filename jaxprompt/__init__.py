"""jaxprompt: numerical verification of the theory of prompts and prefixes.

A *claim* is a closed form, a simulation and a calibrated comparison of the two:

>>> import jaxprompt as jp
>>> c = jp.claim("contextual.prompt_error")
>>> c.check().status  # doctest: +SKIP
'confirmed'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprompt.compute.trials import per_trial
    from jaxprompt.core.calibration import calibrate
    from jaxprompt.core.claim import (
        Agreement,
        Claim,
        Curves,
        Design,
        Falsifier,
        Quantity,
        Relation,
        Verdict,
    )
    from jaxprompt.core.parameters import Parameter
    from jaxprompt.core.registry import claim, claims, load_claims
    from jaxprompt.presentation.notebook import draw
    from jaxprompt.stats import Estimate, Status
    from jaxprompt.sweep.store import load

__version__ = "0.1.0"

_HOME = {
    "Agreement": "core.claim",
    "Claim": "core.claim",
    "Curves": "core.claim",
    "Design": "core.claim",
    "Falsifier": "core.claim",
    "Quantity": "core.claim",
    "Relation": "core.claim",
    "Verdict": "core.claim",
    "Parameter": "core.parameters",
    "Estimate": "stats",
    "Status": "stats",
    "calibrate": "core.calibration",
    "claim": "core.registry",
    "claims": "core.registry",
    "load_claims": "core.registry",
    "draw": "presentation.notebook",
    "load": "sweep.store",
    "per_trial": "compute.trials",
}
_MODULES = ("attention", "contextual", "prefix", "universal", "stats", "sweep")

__all__ = [
    "Agreement",
    "Claim",
    "Curves",
    "Design",
    "Estimate",
    "Falsifier",
    "Parameter",
    "Quantity",
    "Relation",
    "Status",
    "Verdict",
    "__version__",
    "calibrate",
    "claim",
    "claims",
    "draw",
    "load",
    "load_claims",
    "per_trial",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jaxprompt` starts no computation and the command line answers at once.
    import importlib

    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxprompt.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"jaxprompt.{name}")
    raise AttributeError(f"module 'jaxprompt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
