"""The `universal` family."""

from __future__ import annotations

from jaxprompt.engine import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = ()
