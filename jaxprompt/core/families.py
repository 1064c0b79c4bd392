"""What a family of claims offers, found when it is asked for.

A family is a package with a folder ``claims``, one module for each claim. Importing the family
imports none of them, so that its laws and numerics can be used without compiling claims.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["family_claims", "lazy_members"]


def family_claims(package: str) -> tuple[Claim, ...]:
    """The ``CLAIM`` of every module in the folder ``claims`` of a package, sorted by id.

    A module without a ``CLAIM`` holds code that claims share.
    """
    folder = importlib.import_module(f"{package}.claims")
    names = [found.name for found in pkgutil.iter_modules(folder.__path__)]
    modules = [importlib.import_module(f"{folder.__name__}.{name}") for name in names]
    claims = [module.CLAIM for module in modules if hasattr(module, "CLAIM")]
    return tuple(sorted(claims, key=lambda claim: claim.id))


def lazy_members(
    package: str, home: Mapping[str, str], modules: Mapping[str, str] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a family's package: its claims, and its public parts.

    `home` gives the full name of the module that defines each public name, `modules` that of each
    module that is public itself. ``CLAIMS`` is what :func:`family_claims` finds. Each is imported
    at its first use.
    """

    def member(name: str) -> Any:
        if name == "CLAIMS":
            return family_claims(package)
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        if name in modules:
            return importlib.import_module(modules[name])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def members() -> list[str]:
        return sorted(["CLAIMS", *home, *modules])

    return member, members
