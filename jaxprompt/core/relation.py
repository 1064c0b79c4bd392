"""What a statement asserts."""

from __future__ import annotations

import enum

__all__ = ["Relation"]


class Relation(enum.StrEnum):
    """What a statement asserts, and so how it is tested."""

    IDENTITY = "identity"
    MEAN = "mean"
    BOUND = "bound"
    ASYMPTOTIC = "asymptotic"
    RATE = "rate"
    EXISTENCE = "existence"
    IMPOSSIBILITY = "impossibility"
