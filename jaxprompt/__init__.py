"""jaxprompt: numerical verification of the theory of prompts and prefixes.

A *claim* is a closed form, a simulation and a calibrated comparison of the two:

>>> import jaxprompt as jp
>>> c = jp.claim("contextual.prompt_error")
>>> c.check().status  # doctest: +SKIP
'confirmed'
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray

    from jaxprompt.compute.trials import paired, per_trial, trajectory
    from jaxprompt.core.calibration import calibrate, reduced
    from jaxprompt.core.claim import (
        Agreement,
        AtLeast,
        AtMost,
        Claim,
        Compared,
        Curves,
        Design,
        Distribution,
        Evidence,
        Falsifier,
        Mark,
        Panel,
        Panels,
        Quantity,
        Rate,
        Relation,
        Run,
        Verdict,
    )
    from jaxprompt.core.parameters import Parameter
    from jaxprompt.core.registry import claim, claims, load_claims
    from jaxprompt.presentation.notebook import draw
    from jaxprompt.stats import Estimate, Status

__version__ = "0.1.0"

_HOME = {
    "Agreement": "core.claim",
    "AtLeast": "core.claim",
    "AtMost": "core.claim",
    "Claim": "core.claim",
    "Compared": "core.claim",
    "Curves": "core.claim",
    "Design": "core.claim",
    "Distribution": "core.claim",
    "Evidence": "core.claim",
    "Falsifier": "core.claim",
    "Mark": "core.claim",
    "Panel": "core.claim",
    "Panels": "core.claim",
    "Quantity": "core.claim",
    "Rate": "core.claim",
    "Relation": "core.claim",
    "Run": "core.claim",
    "Verdict": "core.claim",
    "Parameter": "core.parameters",
    "Estimate": "stats",
    "Status": "stats",
    "calibrate": "core.calibration",
    "reduced": "core.calibration",
    "claim": "core.registry",
    "claims": "core.registry",
    "load_claims": "core.registry",
    "draw": "presentation.notebook",
    "paired": "compute.trials",
    "per_trial": "compute.trials",
    "trajectory": "compute.trials",
}
_MODULES = ("attention", "contextual", "prefix", "universal", "stats", "sweep")

__all__ = [
    "Agreement",
    "AtLeast",
    "AtMost",
    "Claim",
    "Compared",
    "Curves",
    "Design",
    "Distribution",
    "Estimate",
    "Evidence",
    "Falsifier",
    "Mark",
    "Panel",
    "Panels",
    "Parameter",
    "Quantity",
    "Rate",
    "Relation",
    "Run",
    "Status",
    "Verdict",
    "__version__",
    "calibrate",
    "claim",
    "claims",
    "draw",
    "load",
    "load_claims",
    "paired",
    "per_trial",
    "reduced",
    "trajectory",
]


def load(folder: str | Path) -> xarray.Dataset:
    """Open what a run left as a labelled ``xarray.Dataset``.

    For the folder of a sweep: dimensions are the grid's parameters in file order; variables
    ``<quantity>_predicted``, ``<quantity>``, ``<quantity>_stderr`` and `status`; attributes hold
    the configuration, seed, versions, device and dtype. For a table of a figure (such as
    ``DIR/data/ID/points.csv``): one dimension `row`.

    Raises:
        UsageError: there is no result, or it is damaged.
    """
    if Path(folder).suffix == ".csv":
        return _import("presentation.table_files").load_table(Path(folder))
    return _import("sweep.dataset").load_sweep(folder)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jaxprompt` starts no computation and the command line answers at once.
    if name in _HOME:
        value = getattr(_import(_HOME[name]), name)
        globals()[name] = value
        _give_html()
        return value
    if name in _MODULES:
        return _import(name)
    raise AttributeError(f"module 'jaxprompt' has no attribute {name!r}")


def _import(module: str) -> Any:
    import importlib

    return importlib.import_module(f"jaxprompt.{module}")


def _give_html() -> None:
    """Let notebooks show claims, verdicts and estimates as tables.

    The classes know nothing of HTML: it is made two rooms above them, and given to them here.
    """
    for module, name, function in (
        ("core.claim", "Claim", "claim_card"),
        ("core.claim", "Verdict", "verdict_card"),
        ("stats", "Estimate", "estimate_table"),
    ):
        shown = getattr(_import(module), name)
        if not hasattr(shown, "_repr_html_"):
            shown._repr_html_ = _html_method(function)


def _html_method(function: str) -> Callable[[Any], str]:
    def to_html(value: Any) -> str:
        return getattr(_import("presentation.html_tables"), function)(value)

    return to_html


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
