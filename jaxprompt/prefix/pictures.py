"""What figures of the family show, as data: patterns of a random head, and bars of accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.core.claim import Claim, Mark, Panel, Verdict
from jaxprompt.prefix.head_identity import (
    Layer,
    draw_layer,
    head_by_definition,
    head_from_scores,
)

__all__ = ["bars_against_limits", "panels_of_outputs", "panels_of_patterns", "panels_of_sinks"]

_SHOWN = Layer(causal=True, prefix=3, tokens=8)
_IN_THE_PLANE = Layer(prefix=3, tokens=8, width=2)
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


def panels_of_outputs(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """Outputs of a head with values in the plane: the prefix moves each towards a point of its own.

    That point is a mean of the prefix's values, and the share of the way is the prefix's mass.
    """
    drawn = draw_layer(_IN_THE_PLANE, _LARGEST_SCORE, 1, key=jax.random.fold_in(key, 3))
    alone = np.asarray(drawn.alone_output)[0, 0]
    output = np.asarray(drawn.output)[0, 0]
    values = np.asarray(drawn.prefix_values)[0, 0, 0]
    with jax.enable_x64(True):
        head = head_from_scores(**drawn.parameters)
    mass = np.asarray(head["prefix_mass"])[0, 0]
    aims = np.asarray(head["prefix_attention"])[0, 0] @ values / mass[:, None]
    marks = [
        Mark("line", [t[0], aim[0]], [t[1], aim[1]], colour=7)
        for t, aim in zip(alone, aims, strict=True)
    ]
    corners = [*range(len(values)), 0]
    marks += [
        Mark("line", values[corners, 0], values[corners, 1], colour=3,
             label="means of prefix values"),
        Mark("points", *alone.T, label="output without prefix"),
        Mark("points", *output.T, label="output with prefix, measured", colour=1),
    ]  # fmt: skip
    moved = np.linalg.norm(output - alone, axis=1) / np.linalg.norm(aims - alone, axis=1)
    queries = np.arange(len(alone))
    return [
        Panel(marks, "outputs of one head", "first coordinate", "second coordinate"),
        Panel(
            [
                Mark("line", queries, mass, label="theory: attention on the prefix"),
                Mark("points", queries, moved, label="output with prefix, measured", colour=1),
            ],
            "share of the way", "query", "share", y_range=(0.0, 1.05),
            x_names=[str(i + 1) for i in queries],
        ),
    ]  # fmt: skip


def panels_of_sinks(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """The three masses of one query against the score of its sink, and what is left of the output.

    Lines are the closed form; points are the head by its definition.
    """
    drawn = draw_layer(_SHOWN, _LARGEST_SCORE, 1, key=jax.random.fold_in(key, 5))
    names = ("content_scores", "prefix_scores", "content_values", "prefix_values")
    content_scores, prefix_scores, content_values, prefix_values = (
        np.asarray(getattr(drawn, name))[0, 0, -1] for name in names
    )
    arrays = (content_scores, content_values, prefix_scores, prefix_values)
    lines, points = np.linspace(-5.0, 9.0, 141), np.linspace(-5.0, 9.0, 15)
    with jax.enable_x64(True):
        theory = head_from_scores(*arrays, None, None, lines)
        measured = [head_by_definition(*arrays, None, None, b) for b in points]
    marks: list[Mark] = []
    words = {"sink_mass": "sink", "prefix_mass": "prefix", "content_mass": "content"}
    for colour, (name, word) in enumerate(words.items()):
        marks.append(Mark("line", lines, np.asarray(theory[name]), label=word, colour=colour))
        values = [float(head[name]) for head in measured]
        marks.append(Mark("points", points, values, colour=colour))
    return [
        Panel(marks, "attention of one query", "score of the sink", "share", y_range=(-0.03, 1.03)),
    ]


def _map(pattern: np.ndarray) -> Mark:
    rows, columns = np.indices(pattern.shape)
    return Mark("map", columns.ravel(), rows.ravel(), value=pattern.ravel())


def bars_against_limits(
    groups: Sequence[tuple[str, str, Mapping[str, str]]], level: tuple[str, str] = ("", "")
) -> Callable[[Claim, Verdict, Any], list[Panel]]:
    """Panels of bars, one for each (title, axis, words by quantity), each with its limit.

    `level` names a quantity that is drawn across the first panel, and what to call it.
    """

    def panels(claim: Claim, verdict: Verdict, key: Any) -> list[Panel]:
        points = list(dict.fromkeys(str(dict(row.parameters)) for row in verdict.rows))
        made: list[Panel] = []
        for point in points:
            rows = {r.quantity: r for r in verdict.rows if str(dict(r.parameters)) == point}
            for place, (title, y_label, words) in enumerate(groups):
                shown = [rows[name] for name in words if name in rows]
                if not shown:
                    continue
                marks = [
                    Mark("bars", range(len(shown)), [r.simulated for r in shown],
                         half=[r.half_width for r in shown], label="measured")
                ]  # fmt: skip
                for colour, side in enumerate(("upper", "lower"), 1):
                    held = [(i, r.predicted) for i, r in enumerate(shown) if r.side == side]
                    if held:
                        label = f"theory: at {'most' if side == 'upper' else 'least'}"
                        marks.append(Mark("limit", *zip(*held, strict=True), label=label,
                                          colour=colour))  # fmt: skip
                if level[0] in rows and place == 0:
                    height = rows[level[0]].predicted
                    marks.append(Mark("level", y=[height], label=level[1], colour=3))
                # A bar of height 0 is not seen.
                names = [
                    words[r.quantity] + ("" if r.simulated or r.predicted else ": exactly 0")
                    for r in shown
                ]
                shares = all(0 <= r.simulated <= 1 and 0 <= r.predicted <= 1 for r in shown)
                reach = (0.0, 1.05) if shares else None
                made.append(Panel(marks, title, y_label=y_label, x_names=names, y_range=reach))
        return made

    return panels
