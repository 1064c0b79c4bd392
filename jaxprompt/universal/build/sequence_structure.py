"""Which tokens each output of a map depends on, and which of them it may exchange.

The tokens that output p reads are split into classes; f_p is unchanged when tokens of one class are
exchanged. Outputs that are the same function of their classes form a group and share a prefix. A
permutation-equivariant map has one group with the classes {p} and all others; a causal map reads
the tokens up to p.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.errors import ParameterError, suggest
from jaxprompt.universal.build.sequence_target import WHERE, Batched, Domain

__all__ = [
    "SYMMETRIES",
    "Structure",
    "detect_structure",
    "find_contradiction",
    "make_structure",
    "split_classes",
]

SYMMETRIES = ("auto", "none", "equivariant", "invariant", "causal")

Classes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Structure:
    """Classes of tokens for each output position, and groups of positions with one function.

    Attributes:
        name: "none", "equivariant", "invariant", "causal", "classes" or "detected".
        classes: for each position, its classes in an order that positions of a group share.
        groups: positions that share a prefix; they partition all positions.
    """

    name: str
    classes: tuple[Classes, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def largest_class(self) -> int:
        """Most tokens that are exchangeable for some output."""
        return max((len(group) for classes in self.classes for group in classes), default=1)

    def gathers(self, position: int) -> Classes:
        """The classes that a position must gather: all but its own token where that is the first.

        Positions of a group do alike: they share a prefix, which reads the same channels.
        """
        group = next(group for group in self.groups if position in group)
        alone = all(self.classes[p][:1] == ((p,),) for p in group)
        return self.classes[position][1:] if alone else self.classes[position]

    @property
    def gather_layers(self) -> int:
        """Layers that bring tokens together: most classes that some position gathers."""
        return max(len(self.gathers(p)) for p in range(len(self.classes)))

    def tokens(self, cells: float) -> float:
        """Prefix tokens of the last layer with so many cells a token: one a multiset in each class.

        Exact for whole numbers up to 2^53; infinite where float64 ends.
        """
        return sum(self.group_tokens(group[0], cells) for group in self.groups)

    def group_tokens(self, position: int, cells: float) -> float:
        """The same for the group of one position."""
        if not math.isfinite(cells):
            return math.inf
        count = 1
        for tokens in self.classes[position]:
            count *= math.comb(int(cells) + len(tokens) - 1, len(tokens))
        try:
            return float(count)
        except OverflowError:
            return math.inf


def make_structure(symmetry: Any, length: int) -> Structure:
    """The structure that a caller vouches for.

    `symmetry` is a name, or for each position the list of its classes.

    Raises:
        ParameterError: an unknown name, or lists that are not classes of positions.
    """
    everyone = tuple(range(length))
    alone = tuple((p,) for p in everyone)
    if symmetry == "none":
        return Structure("none", (alone,) * length, alone)
    if symmetry == "invariant":
        return Structure("invariant", ((everyone,),) * length, alone)
    if symmetry == "equivariant":
        classes = tuple(
            ((p,), tuple(q for q in everyone if q != p)) if length > 1 else ((p,),)
            for p in everyone
        )
        return Structure("equivariant", classes, (everyone,))
    if symmetry == "causal":
        classes = tuple(((p,), *((q,) for q in range(p))) for p in everyone)
        return Structure("causal", classes, alone)
    if isinstance(symmetry, str):
        raise ParameterError(
            "symmetry", symmetry, "one of " + ", ".join(SYMMETRIES) + ", or lists of classes",
            "choose one of those" + suggest(symmetry, SYMMETRIES), WHERE,
        )  # fmt: skip
    return Structure("classes", _checked_classes(symmetry, length), alone)


def _checked_classes(symmetry: Any, length: int) -> tuple[Classes, ...]:
    error = ParameterError(
        "symmetry", symmetry,
        f"a name, or for each of the {length} positions a list of classes of positions 0 to "
        f"{length - 1}, none in two classes",
        'for a running maximum [[range(p + 1)] for p in range(length)]; "auto" looks for them',
        WHERE,
    )  # fmt: skip
    try:
        classes = tuple(
            tuple(tuple(int(q) for q in tokens) for tokens in listed if len(tokens))
            for listed in symmetry
        )
    except (TypeError, ValueError):
        raise error from None
    if len(classes) != length:
        raise error
    for listed in classes:
        named = [q for tokens in listed for q in tokens]
        if len(set(named)) != len(named) or any(not 0 <= q < length for q in named):
            raise error
    return tuple(_ordered(listed, p, length) for p, listed in enumerate(classes))


def _ordered(classes: Iterable[Iterable[int]], position: int, length: int) -> Classes:
    """The class of the position's own token first, the others by how far ahead they begin."""

    def place(tokens: tuple[int, ...]) -> tuple[bool, int]:
        return position not in tokens, min((q - position) % length for q in tokens)

    return tuple(sorted((tuple(sorted(tokens)) for tokens in classes), key=place))


def split_classes(structure: Structure) -> Structure:
    """The same tokens read, one class each, in an order that positions of a group still share."""
    length = len(structure.classes)
    # Classes keep their order; tokens of one may be exchanged, so the position's own comes first.
    classes = tuple(
        tuple((q,) for tokens in listed for q in sorted(tokens, key=lambda q: (q - p) % length))
        for p, listed in enumerate(structure.classes)
    )
    return Structure(structure.name, classes, structure.groups)


def detect_structure(
    f: Batched, domain: Domain, samples: np.ndarray, tolerance: float
) -> Structure:
    """The structure that `f` has on `samples` (B, T, m), up to `tolerance`. Proves nothing.

    A token matters to an output that changes when another sample's token is put in its place; two
    tokens are exchangeable where exchanging them changes nothing; positions form a group when
    they give the same for the same tokens in their classes.
    """
    length = domain.length
    values = f(samples)
    matters = np.zeros((length, length), bool)  # (output, token)
    for q in range(length):
        changed = samples.copy()
        changed[:, q] = np.roll(samples[:, q], 1, axis=0)
        matters[:, q] = _largest_change(f(changed), values) > tolerance
    exchangeable = np.zeros((length, length, length), bool)
    for q in range(length):
        for r in range(q):
            changed = samples.copy()
            changed[:, [q, r]] = samples[:, [r, q]]
            exchangeable[:, q, r] = _largest_change(f(changed), values) <= tolerance
    classes = tuple(
        _ordered(_classes_of(matters[p], exchangeable[p]), p, length) for p in range(length)
    )
    return Structure("detected", classes, _groups_of(f, samples, classes, tolerance))


def _largest_change(changed: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(changed - values, axis=-1).max(axis=0)


def _classes_of(matters: np.ndarray, exchangeable: np.ndarray) -> list[list[int]]:
    """Classes of tokens that may be exchanged with the first of the class."""
    classes: list[list[int]] = []
    for q in np.flatnonzero(matters):
        for tokens in classes:
            if all(exchangeable[max(q, r), min(q, r)] for r in tokens):
                tokens.append(int(q))
                break
        else:
            classes.append([int(q)])
    return classes


def _groups_of(
    f: Batched, samples: np.ndarray, classes: Sequence[Classes], tolerance: float
) -> tuple[tuple[int, ...], ...]:
    outputs = [_output_of_arranged(f, samples, classes[p], p) for p in range(len(classes))]
    groups: list[list[int]] = []
    for p, listed in enumerate(classes):
        sizes = [len(tokens) for tokens in listed]
        for group in groups:
            first = group[0]
            same = sizes == [len(tokens) for tokens in classes[first]]
            if same and np.linalg.norm(outputs[p] - outputs[first], axis=-1).max() <= tolerance:
                group.append(p)
                break
        else:
            groups.append([p])
    return tuple(tuple(group) for group in groups)


def _output_of_arranged(
    f: Batched, samples: np.ndarray, classes: Classes, position: int
) -> np.ndarray:
    """f_p of sequences whose tokens fill p's classes in order, then the places it does not read."""
    read = [q for tokens in classes for q in tokens]
    unread = [q for q in range(samples.shape[1]) if q not in read]
    arranged = np.empty_like(samples)
    arranged[:, read + unread] = samples
    return f(arranged)[:, position]


def find_contradiction(
    f: Batched, samples: np.ndarray, structure: Structure, tolerance: float, seed: int
) -> str:
    """How `f` breaks a structure on `samples`, in a few words; empty where it keeps it."""
    random = np.random.default_rng(seed)
    values = f(samples)
    length = samples.shape[1]
    for p, classes in enumerate(structure.classes):
        read = [q for tokens in classes for q in tokens]
        unread = [q for q in range(length) if q not in read]
        changed = samples.copy()
        changed[:, unread] = np.roll(samples[:, unread], 1, axis=0)
        if unread and np.linalg.norm((f(changed) - values)[:, p], axis=-1).max() > tolerance:
            return f"output {p} reads a token among {unread}"
        changed = samples.copy()
        for tokens in classes:
            changed[:, list(tokens)] = samples[:, random.permutation(tokens)]
        if np.linalg.norm((f(changed) - values)[:, p], axis=-1).max() > tolerance:
            return f"output {p} changes when tokens of a class are exchanged"
    for group in structure.groups:
        outputs = [_output_of_arranged(f, samples, structure.classes[p], p) for p in group]
        for p, output in zip(group, outputs, strict=True):
            if np.linalg.norm(output - outputs[0], axis=-1).max() > tolerance:
                return f"outputs {group[0]} and {p} are not the same function"
    return ""
