"""Values as JSON has them: one text for equal values, and short texts for messages."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["canonical", "format_parameters", "nonfinite_word", "one_line", "to_json_values"]


def canonical(parameters: Mapping[str, Any]) -> str:
    """One text for equal parameters, whatever their order or container types."""
    return json.dumps(to_json_values(dict(parameters)), sort_keys=True)


def to_json_values(value: Any) -> Any:
    """Nested lists, dicts and Python scalars; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): to_json_values(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return to_json_values(np.asarray(value).tolist())
    if isinstance(value, tuple | list):
        return [to_json_values(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.generic):
        return to_json_values(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Parameters in one short line."""
    text = ", ".join(f"{n} = {np.asarray(v).tolist()}" for n, v in parameters.items())
    return text if len(text) <= 400 else text[:399] + "…"


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def nonfinite_word(value: Any) -> str:
    """A value that is not finite, in a word."""
    return "not a number" if np.isnan(value).any() else "infinite"
