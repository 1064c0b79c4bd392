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
    from jaxprompt.engine import Claim, Falsifier, Relation, Verdict
    from jaxprompt.registry import claim, claims
    from jaxprompt.stats import Estimate, Status
    from jaxprompt.store import load

__version__ = "0.1.0"

_HOME = {
    "Claim": "engine",
    "Falsifier": "engine",
    "Relation": "engine",
    "Verdict": "engine",
    "Estimate": "stats",
    "Status": "stats",
    "claim": "registry",
    "claims": "registry",
    "load": "store",
}
_MODULES = ("attention", "contextual", "prefix", "universal", "stats", "sweep")

__all__ = [
    "Claim",
    "Estimate",
    "Falsifier",
    "Relation",
    "Status",
    "Verdict",
    "__version__",
    "claim",
    "claims",
    "load",
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
