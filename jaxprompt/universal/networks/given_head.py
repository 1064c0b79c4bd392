r"""What a prefix can make of a head whose matrices are given.

A prefix token p of a head with the matrices :math:`W_Q, W_K, W_V` has the score
:math:`x^\top A p` at the query x and the value :math:`V p`, where

.. math:: A = (W_Q E)^\top W_K / \sqrt{d_k}, \qquad V = R\,W_V,

E puts the query x into the token, and R reads the output. Every pair of a key and a value is
:math:`(Ap, Vp)` of some token if and only if A and V stacked have full row rank. Then the head is
the free kernel head of the universality theorem; otherwise there is a function that every prefix
misses by its own size. Derived in docs/universal.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jaxprompt.errors import ParameterError

__all__ = ["HeadCapacity", "head_capacity"]

WHERE = "head_capacity"

Obstacle = Literal["", "queries", "outputs", "tied"]


@dataclass(frozen=True)
class HeadCapacity:
    r"""Which functions on the unit sphere of the queries prefixes give a head. Arrays are float64.

    Attributes:
        universal: whether prefixes approximate every continuous function.
        obstacle: why not: "queries" (scores do not see some direction of the query), "outputs"
            (values do not reach some direction of the output), or "tied" (a direction of the value
            is fixed by the key); empty if universal.
        query_dim, output_dim: n and d.
        key_rank, value_rank, joint_rank: ranks of A (n, w), of V (d, w), and of both stacked; the
            head is universal if and only if the last is n + d.
        score_matrix, value_matrix: A and V.
        query_direction, output_direction: unit vectors a (n) and q (d), if not universal:
            every prefix misses :attr:`missed_function` by at least 1, its largest size.
        amplification: length of a prefix token over that of the key and value it must have, at
            most; infinite if not universal.
    """

    universal: bool
    obstacle: Obstacle
    query_dim: int
    output_dim: int
    key_rank: int
    value_rank: int
    joint_rank: int
    score_matrix: Float[np.ndarray, "n w"]
    value_matrix: Float[np.ndarray, "d w"]
    query_direction: Float[np.ndarray, " n"] | None
    output_direction: Float[np.ndarray, " d"] | None
    amplification: float

    def __str__(self) -> str:
        ranks = (
            f"rank {self.joint_rank} of keys and values together, of {self.query_dim} + "
            f"{self.output_dim} (keys {self.key_rank}, values {self.value_rank})"
        )
        why = {
            "": f"universal: prefix tokens at most {self.amplification:.3g} times as long as their "
            "keys and values",
            "queries": "not universal: scores do not see the query along `query_direction`",
            "outputs": "not universal: values have nothing along `output_direction`",
            "tied": "not universal: values along `output_direction` are fixed by the keys",
        }
        return f"{ranks}\n{why[self.obstacle]}"

    def tokens(self, keys: Any, values: Any) -> Float[np.ndarray, "N w"]:
        """Prefix tokens that this head sees with these keys (N, n) and values (N, d), the shortest.

        For a prefix of :func:`~jaxprompt.universal.build_prefix` give its `keys` and `values`: the
        scores of this head, its division by √d_k included, are then ⟨x, key⟩.

        Raises:
            ParameterError: the shapes do not fit, or the head is not universal.
        """
        keys, values = np.asarray(keys, np.float64), np.asarray(values, np.float64)
        expected = (self.query_dim, self.output_dim)
        if keys.ndim != 2 or values.ndim != 2 or len(keys) != len(values) or (
            (keys.shape[1], values.shape[1]) != expected
        ):  # fmt: skip
            raise ParameterError(
                "keys", f"shapes {keys.shape} and {values.shape}",
                f"(N, {expected[0]}) and (N, {expected[1]})", "give one row for each prefix token",
                WHERE,
            )  # fmt: skip
        if not self.universal:
            raise ParameterError(
                "keys", f"shape {keys.shape}", "of a universal head",
                f"this one is not ({self.obstacle}): see `obstacle`", WHERE,
            )  # fmt: skip
        both = np.concatenate([self.score_matrix, self.value_matrix])
        wanted = np.concatenate([keys, values], axis=1)
        return np.linalg.lstsq(both, wanted.T, rcond=None)[0].T

    @property
    def missed_function(self) -> Callable[[np.ndarray], np.ndarray]:
        r"""A function (…, n) → (…, d) of size 1 that every prefix misses by at least 1 somewhere.

        :math:`q\,\langle a, x\rangle`, and the constant q where no value reaches q. What is missed
        is the prefix's own output, which content can only dilute.

        Raises:
            ParameterError: the head is universal.
        """
        a, q = self.query_direction, self.output_direction
        if q is None or a is None:
            raise ParameterError(
                "missed_function", "(none)", "asked of a head that is not universal",
                "look at `universal` first", WHERE,
            )  # fmt: skip
        if self.obstacle == "outputs":
            return lambda x: np.broadcast_to(q, (*np.shape(x)[:-1], len(q)))
        return lambda x: (np.asarray(x) @ a)[..., None] * q


def head_capacity(
    w_query: Any,
    w_key: Any,
    w_value: Any,
    *,
    embedding: Any = None,
    readout: Any = None,
    scaled: bool = True,
) -> HeadCapacity:
    """Whether prefixes make a given head compute any function of its query.

    Args:
        w_query, w_key: (d_k, w) matrices that map a token of width w to its query and key; those of
            libraries that multiply from the right are their transposes.
        w_value: (d_v, w), to the value.
        embedding: (w, n), E: the token of the query x is E x. A constant coordinate of the token
            is a column, with a query (x, 1). By default all tokens are queries, n = w.
        readout: (d, d_v), R: which outputs count, such as the head's part of the output matrix.
            By default all of the value.
        scaled: whether the head divides scores by √d_k.

    Returns:
        HeadCapacity: ranks, verdict, and prefix tokens or a function that is missed.

    Raises:
        ParameterError: matrices that are not finite, or whose shapes do not fit.
    """
    eps = _coarsest_eps(w_query, w_key, w_value, embedding, readout)
    query, key, value = (
        _as_matrix(name, matrix)
        for name, matrix in (("w_query", w_query), ("w_key", w_key), ("w_value", w_value))
    )
    width = key.shape[1]
    enter = np.eye(width) if embedding is None else _as_matrix("embedding", embedding)
    leave = np.eye(len(value)) if readout is None else _as_matrix("readout", readout)
    for name, matrix, shape in (
        ("w_query", query, key.shape), ("w_value", value, (len(value), width)),
        ("embedding", enter, (width, enter.shape[1])), ("readout", leave, (len(leave), len(value))),
    ):  # fmt: skip
        if matrix.shape != shape:
            raise ParameterError(
                name, f"shape {matrix.shape}", f"shape {shape}",
                "it must fit w_key (d_k, w) and w_value (d_v, w)", WHERE,
            )  # fmt: skip
    scores = (query @ enter).T @ key / (math.sqrt(len(key)) if scaled else 1.0)
    return _capacity_of(scores, leave @ value, eps)


def _as_matrix(name: str, matrix: Any) -> np.ndarray:
    array = np.asarray(matrix, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ParameterError(
            name, f"shape {array.shape}", "a matrix of finite numbers", "give one", WHERE
        )
    return array


def _coarsest_eps(*matrices: Any) -> float:
    """Rounding of the least precise matrix: a rank is known up to the precision of its numbers."""
    dtypes = [np.asarray(matrix).dtype for matrix in matrices if matrix is not None]
    floats = [dtype for dtype in dtypes if np.issubdtype(dtype, np.floating)]
    return max(float(np.finfo(dtype).eps) for dtype in [np.dtype(np.float64), *floats])


def _capacity_of(scores: np.ndarray, values: np.ndarray, eps: float) -> HeadCapacity:
    n, d = len(scores), len(values)
    # Keys and values in units of their own: neither is small beside the other.
    units = [float(np.linalg.norm(matrix, 2)) or 1.0 for matrix in (scores, values)]
    both = np.concatenate([scores / units[0], values / units[1]])
    unseen, unreached, tied = (
        _left_null_vectors(matrix, eps) for matrix in (both[:n], both[n:], both)
    )  # fmt: skip
    key_rank, value_rank = n - len(unseen), d - len(unreached)
    joint_rank = n + d - len(tied)
    a, q = np.eye(n)[0], np.eye(d)[0]
    obstacle: Obstacle = ""
    if len(unseen):
        obstacle, a = "queries", unseen[0]
    elif len(unreached):
        obstacle, q = "outputs", unreached[0]
    elif len(tied):
        # qᵀV p = −cᵀA p for every token p: the function rises along −c where outputs must fall.
        obstacle = "tied"
        a, q = tied[0][:n] / units[0], tied[0][n:] / units[1]
        a, q = a / np.linalg.norm(a), q / np.linalg.norm(q)
    universal = joint_rank == n + d
    smallest = np.linalg.svd(np.concatenate([scores, values]), compute_uv=False)[-1]
    return HeadCapacity(
        universal, obstacle, n, d, key_rank, value_rank, joint_rank, scores, values,
        None if universal else a, None if universal else q,
        float(1 / smallest) if universal else math.inf,
    )  # fmt: skip


def _left_null_vectors(matrix: np.ndarray, eps: float) -> np.ndarray:
    """Orthonormal rows c with c·matrix = 0, to what rounding of the matrix's numbers leaves."""
    vectors, singular, _ = np.linalg.svd(matrix, full_matrices=True)
    least = 8 * max(matrix.shape) * eps * float(singular.max(initial=0.0))
    rank = int((singular > least).sum())
    return vectors[:, rank:].T
