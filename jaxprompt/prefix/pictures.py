"""What the figures of the family's identities show, as data: one random head with its prefix."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.core.claim import Claim, Mark, Panel, Verdict
from jaxprompt.prefix.head_identity import Layer, draw_layer, head_from_scores

__all__ = ["panels_of_patterns"]

_SHOWN = Layer(causal=True, prefix=3, tokens=8)
_LARGEST_SCORE = 3.0


def panels_of_patterns(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """A head's pattern without and with a prefix, and the ratio of the two for every weight."""
    drawn = draw_layer(_SHOWN, _LARGEST_SCORE, 1, key=jax.random.fold_in(key, 7))
    alone, content = np.asarray(drawn.alone)[0, 0], np.asarray(drawn.attention)[0, 0]
    prefixed = np.concatenate([np.asarray(drawn.prefix_attention)[0, 0], content], axis=1)
    with jax.enable_x64(True):
        mass = np.asarray(head_from_scores(**drawn.parameters)["prefix_mass"])[0, 0]
    count = _SHOWN.prefix
    seen_by, key_of = np.nonzero(np.tri(_SHOWN.tokens, dtype=bool))
    places = [str(i + 1) for i in range(_SHOWN.tokens)]
    columns = [f"p{i + 1}" for i in range(count)] + places
    shared: dict[str, Any] = {"value_range": (0.0, 1.0), "y_names": places}
    return [
        Panel(
            [_map(alone)], "without a prefix", "content attended to", "query", x_names=places,
            value_label="attention", **shared,
        ),
        Panel(
            [_map(prefixed)], "with a prefix of three", "prefix (p) and content attended to",
            "query", x_names=columns, value_label="attention", **shared,
        ),
        Panel(
            [
                Mark("line", np.arange(_SHOWN.tokens), 1 - mass, label="theory, one a query"),
                Mark("points", seen_by, content[seen_by, key_of] / alone[seen_by, key_of],
                     label="measured: every weight of a query", colour=1),
            ],
            "with / without", "query", "ratio of the two weights", x_names=places,
            y_range=(0.0, 1.0),
        ),
    ]  # fmt: skip


def _map(pattern: np.ndarray) -> Mark:
    rows, columns = np.indices(pattern.shape)
    return Mark("map", columns.ravel(), rows.ravel(), value=pattern.ravel())
