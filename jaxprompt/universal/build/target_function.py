"""Functions people bring: made to take batches, checked, and their slopes estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprompt.errors import ParameterError

__all__ = ["batched", "estimate_lipschitz"]

Batched = Callable[[np.ndarray], np.ndarray]


def batched(f: Any, n: int, where: str) -> tuple[Batched, bool]:
    """`f` as a checked function (Q, n) → (Q, d) float64, and whether it returns plain numbers.

    `f` is called with a batch if that gives one row for each point and the same numbers as
    calls with single points (or with batches of one, where it takes batches only); otherwise with
    one point at a time.

    Raises:
        ParameterError: (also later, by the function returned) `f` cannot be called, or returns
            something that is not finite numbers of one shape.
    """
    if not callable(f):
        raise ParameterError("f", f, "a function of a unit vector", "give a function", where)
    probe = np.random.default_rng(12345).normal(size=(n + 4, n))
    probe /= np.linalg.norm(probe, axis=1, keepdims=True)
    results: list[Any] | None
    try:
        results = [f(point) for point in probe]
    except Exception:
        # Perhaps it takes batches only; if it does not take them either, its own error stands.
        results = _from_batches_of_one(f, probe)
        if results is None:
            raise
    single = _as_rows(results, where)
    scalar = np.ndim(results[0]) == 0
    together = _takes_batches(f, probe, single)

    def evaluate(points: np.ndarray) -> np.ndarray:
        result: Any = f(points) if together else [f(point) for point in points]
        rows = _as_rows(result, where)
        if rows.shape != (len(points), single.shape[1]):
            raise _output_error(
                f"shape {rows.shape[1:]}", f"({single.shape[1]},) everywhere", where
            )
        return rows

    return evaluate, scalar


def _from_batches_of_one(f: Callable[..., Any], probe: np.ndarray) -> list[Any] | None:
    """What `f` returns for each point given as a batch of one; None if it does not take those."""
    try:
        results = [np.asarray(f(point[None])) for point in probe]
    except Exception:  # the caller raises the error of the call with one point
        return None
    if any(result.ndim == 0 or len(result) != 1 for result in results):
        return None
    return [result[0] for result in results]


def _takes_batches(f: Callable[..., Any], probe: np.ndarray, single: np.ndarray) -> bool:
    try:
        result = np.asarray(f(probe), np.float64)
    except Exception:  # it is asked whether f takes batches: any failure says no
        return False
    if result.shape not in (single.shape, (len(single),)) or result.size != single.size:
        return False
    return bool(np.allclose(result.reshape(single.shape), single, rtol=1e-5, atol=1e-8))


def _as_rows(result: Any, where: str) -> np.ndarray:
    try:
        rows = np.asarray(result)
        if np.iscomplexobj(rows):
            raise TypeError
        rows = rows.astype(np.float64)
    except (TypeError, ValueError):
        raise _output_error("something else", "a number or a vector of one length", where) from None
    if rows.ndim not in (1, 2):
        raise _output_error(f"shape {rows.shape[1:]}", "a number or a vector", where)
    rows = rows.reshape(len(rows), -1)
    if not np.isfinite(rows).all():
        raise _output_error(
            "a number that is not finite", "finite numbers on the whole sphere", where
        )
    return rows


def _output_error(value: str, allowed: str, where: str) -> ParameterError:
    return ParameterError("f", f"(returns {value})", f"a function that returns {allowed}",
                          "change the function", where)  # fmt: skip


def estimate_lipschitz(f: Batched, points: np.ndarray, values: np.ndarray, seed: int) -> float:
    """Largest slope of `f` found: short steps in random directions, and steps between points.

    points (Q, n) unit vectors with values (Q, d). An estimate from below, in output units per
    radian: what rounding of the values may add to a difference is taken off.
    """
    rounding = 4 * float(np.finfo(np.float64).eps) * float(np.abs(values).max(initial=0.0))
    random = np.random.default_rng(seed)
    largest = 0.0
    for step in (1e-4, 1e-2):
        tangent = random.normal(size=points.shape)
        tangent -= (tangent * points).sum(1, keepdims=True) * points
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        moved = np.cos(step) * points + np.sin(step) * tangent
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        slope = (np.linalg.norm(f(moved) - values, axis=1) - rounding) / step
        largest = max(largest, float(slope.max()))
    i, j = random.integers(len(points), size=(2, 4 * len(points)))
    angle = 2 * np.arcsin(np.minimum(np.linalg.norm(points[i] - points[j], axis=1) / 2, 1))
    apart = angle > 1e-3
    slope = (np.linalg.norm(values[i] - values[j], axis=1)[apart] - rounding) / angle[apart]
    return max(largest, float(slope.max(initial=0.0)))
