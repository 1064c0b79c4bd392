"""What is known of a prefix: the largest error found, and bounds on the error everywhere."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build.prefix_values import attention_weights
from jaxprompt.universal.build.target_function import estimate_lipschitz
from jaxprompt.universal.claims import prefix_bound, prefix_lower_bound
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets, rounding

__all__ = [
    "Candidate",
    "Certificate",
    "Problem",
    "certify",
    "climb",
    "head_outputs",
    "round_candidate",
]

CLIMBERS = 96
"""Test points from which a worse point is sought: those of the largest error, and of the
steepest change."""

STEPS, TRIES = 16, 6
"""Steps of each search, each half as long as the one before when none of its tries is worse."""


@dataclass(frozen=True)
class Certificate:
    """What is known about a prefix.

    Attributes:
        method: how the values were chosen.
        accuracy: the error that was asked for.
        reached: whether the measured error is within it.
        measured: largest error (Euclidean over outputs) found, on `test_points` independent points
            and in a search for worse ones that starts from them.
        measured_float32: the same on the test points, with the head evaluated in float32.
        guaranteed: an upper bound on the error at every point, rounding in float64 included.
            Infinite unless the Lipschitz constant was given: an estimate guarantees nothing.
        estimated: the same bound with the constant in use, given or estimated.
        lipschitz, lipschitz_source: the constant used, and whether it was "given" or
            "estimated" (from below, on the selection set, the test set and the worst points).
        value_norm, sup_norm: largest |v_i| and largest |f| seen.
        tokens: prefix tokens used.
        budget: prefix tokens allowed.
        theorem_tokens: tokens that suffice for every function with this constant, by
            ``universal.prefix_bound``.
        needed_tokens: tokens without which, keys fixed in advance, some function with this
            constant is missed, by ``universal.prefix_lower_bound``. A particular function may
            do with fewer.
        test_points: size of the independent set.
        bits: what keys and values are rounded to (an integer's bits, or a float format); None
            for float64. Every error above is then that of the rounded prefix.
        rounding_bound: most that rounding changes the output anywhere; 0 without `bits`.
        rounding_rms: root mean square of that change over the sphere, by the law of
            ``universal.quantised_prefix``.
    """

    method: str
    accuracy: float
    reached: bool
    measured: float
    measured_float32: float
    guaranteed: float
    estimated: float
    lipschitz: float
    lipschitz_source: str
    value_norm: float
    sup_norm: float
    tokens: int
    budget: int
    theorem_tokens: float
    needed_tokens: float
    test_points: int
    bits: int | str | None = None
    rounding_bound: float = 0.0
    rounding_rms: float = 0.0

    def __str__(self) -> str:
        goal = f"accuracy {self.accuracy:.3g}"
        outcome = (
            f"{goal} reached with {self.tokens} prefix tokens"
            if self.reached
            else f"{goal} NOT reached within {self.budget} prefix tokens; this is the best found, "
            f"with {self.tokens}"
        )
        constant = f"Lipschitz constant {self.lipschitz:.3g}"
        bound = (
            f"guaranteed error  {self.guaranteed:.3g} with {constant} (given)"
            if self.lipschitz_source == "given"
            else f"estimated bound   {self.estimated:.3g} with {constant} (estimated: no guarantee)"
        )
        return (
            f"{outcome}\n"
            f"measured error    {self.measured:.3g} on {self.test_points} independent points and "
            f"from them uphill; {self.measured_float32:.3g} in float32\n"
            f"{bound}\n"
            f"method            {self.method}; |v| ≤ {self.value_norm:.3g}, "
            f"|f| ≤ {self.sup_norm:.3g}\n"
            f"any such function {self.theorem_tokens:.3g} tokens suffice, "
            f"{self.needed_tokens:.3g} are needed" + self._rounding_line()
        )

    def _rounding_line(self) -> str:
        if self.bits is None:
            return ""
        stored = f"{self.bits}-bit integers" if isinstance(self.bits, int) else self.bits
        return (
            f"\nrounding          to {stored} changes the output by {self.rounding_rms:.3g} in the "
            f"root mean square, nowhere by more than {self.rounding_bound:.3g}"
        )


class Problem(NamedTuple):
    """The function, as (Q, n) → (Q, d), and everything the search needs to know about it.

    `lipschitz` is the constant in use, and `lipschitz_given` whether the caller vouches for it.
    `bits` is what keys and values are rounded to, if at all.
    """

    f: Callable[[np.ndarray], np.ndarray]
    sphere_dim: int
    accuracy: float
    content: int
    lipschitz: float
    lipschitz_given: bool
    sup_norm: float
    value_limit: float
    select: np.ndarray
    select_values: np.ndarray
    seed: int
    bits: int | str | None = None


class Candidate(NamedTuple):
    """A prefix (centres (N, n), values (N, d)) and its largest error on the selection set.

    Centres are keys over the concentration; those of a `rounded` prefix have lengths near 1.
    """

    method: str
    centres: np.ndarray
    values: np.ndarray
    concentration: float
    error: float
    rounded: bool = False


def round_candidate(candidate: Candidate, bits: int | str | None) -> Candidate:
    """The prefix with its keys and values in so few bits; the prefix itself for None."""
    if bits is None:
        return candidate
    keys, _ = rounding.round_to(candidate.concentration * candidate.centres, bits)
    values, _ = rounding.round_to(candidate.values, bits)
    return candidate._replace(
        centres=keys / candidate.concentration, values=values, rounded=True
    )  # fmt: skip


def certify(problem: Problem, best: Candidate, test: np.ndarray, budget: int) -> Certificate:
    """Measure a prefix on points it was not chosen on, search for worse ones, and bound the rest.

    `test` (Q, n) are unit vectors; everything is float64 but for `measured_float32`. `best` is
    the prefix before rounding; with `problem.bits` the rounded one is measured.
    """
    exact, best = best, round_candidate(best, problem.bits)
    target, output = problem.f(test), head_outputs(problem, best, test)
    error = np.linalg.norm(output - target, axis=1)
    on_test = float(error.max())
    worst, worst_error = climb(problem, best, test, error)
    points = np.concatenate([test, worst])
    measured = max(on_test, float(worst_error.max()))
    sup_norm = max(problem.sup_norm, float(np.linalg.norm(problem.f(points), axis=1).max()))
    if not problem.lipschitz_given:
        some = np.concatenate([test[:: max(len(test) // 1000, 1)], worst])
        slope = estimate_lipschitz(problem.f, some, problem.f(some), problem.seed + 3)
        problem = problem._replace(lipschitz=max(problem.lipschitz, slope))
    problem = problem._replace(sup_norm=sup_norm)
    if best.rounded:
        change = _rounding_bound_of(problem, exact, best)
        bound = _bound_of_rounded(problem, exact, best, test, on_test, change)
        bound = max(bound, measured)
    else:
        change, bound = 0.0, _error_bound(problem, best, test, on_test, measured)
    with np.errstate(divide="ignore"):
        suffice = prefix_bound.closed_form(
            sphere_dim=problem.sphere_dim,
            lipschitz=max(problem.lipschitz, 1e-300),
            accuracy=problem.accuracy,
        )["centres"]
    return Certificate(
        method=best.method,
        accuracy=problem.accuracy,
        reached=measured <= problem.accuracy,
        measured=measured,
        measured_float32=float(
            np.linalg.norm(head_outputs(problem, best, test, np.float32) - target, axis=1).max()
        ),
        guaranteed=bound if problem.lipschitz_given else math.inf,
        estimated=bound,
        lipschitz=problem.lipschitz,
        lipschitz_source="given" if problem.lipschitz_given else "estimated",
        value_norm=float(np.linalg.norm(best.values, axis=1).max()),
        sup_norm=sup_norm,
        tokens=len(best.centres),
        budget=int(budget),
        theorem_tokens=float(suffice),
        needed_tokens=_needed(problem),
        test_points=len(test),
        bits=problem.bits,
        rounding_bound=change,
        rounding_rms=_rounding_rms(problem, exact, test) if best.rounded else 0.0,
    )


def head_outputs(
    problem: Problem, best: Candidate, points: np.ndarray, dtype: type = np.float64
) -> np.ndarray:
    """The head's outputs (Q, d) at unit vectors (Q, n), with such a prefix."""
    return head.estimate(
        points, best.centres, best.values, best.concentration, content=problem.content,
        dtype=dtype, any_keys=best.rounded,
    )  # fmt: skip


# --- the worst point -----------------------------------------------------------------------------


def climb(
    problem: Problem, best: Candidate, points: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (C, n) uphill from some of `points` in the error (Q), and the errors there.

    The function need not be differentiable: each step tries a few random directions and keeps
    the worst, or becomes shorter. The searches start where the error is largest, and where it
    differs most from that of a neighbouring point.
    """
    random = np.random.default_rng(problem.seed + 4)
    m, count = problem.sphere_dim, min(CLIMBERS // 2, len(points))
    spacing = (point_sets.area(m) / len(points)) ** (1 / m)
    nudged, _ = _stepped(points, spacing / 4, 1, random)
    change = np.abs(_output_errors(problem, best, nudged) - error)
    start = np.unique(np.concatenate([np.argsort(-error)[:count], np.argsort(-change)[:count]]))
    at, height = points[start], error[start].copy()
    length = np.full(len(start), 2 * spacing)
    for _ in range(STEPS):
        tried, owner = _stepped(at, length, TRIES, random)
        reached = _output_errors(problem, best, tried)
        for index in range(len(at)):
            mine = np.flatnonzero(owner == index)
            top = mine[reached[mine].argmax()]
            if reached[top] > height[index]:
                at[index], height[index] = tried[top], reached[top]
            else:
                length[index] /= 2
    return at, height


def _output_errors(problem: Problem, best: Candidate, points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(head_outputs(problem, best, points) - problem.f(points), axis=1)


def _stepped(
    points: np.ndarray, length: np.ndarray | float, tries: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`tries` points each at a geodesic distance from every point, and which point is whose."""
    owner = np.repeat(np.arange(len(points)), tries)
    base, angle = points[owner], np.broadcast_to(length, len(points))[owner, None]
    tangent = random.normal(size=base.shape)
    tangent -= (tangent * base).sum(axis=1, keepdims=True) * base
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    moved = np.cos(angle) * base + np.sin(angle) * tangent
    return moved / np.linalg.norm(moved, axis=1, keepdims=True), owner


# --- bounds --------------------------------------------------------------------------------------


def _error_bound(
    problem: Problem, best: Candidate, test: np.ndarray, on_test: float, measured: float
) -> float:
    """The least of three bounds on the error everywhere, with rounding, and what was measured.

    From the test set: between its points the error changes at most by the Lipschitz constants
    of f and of the head, the latter at most λ max|v|. From the centres: see `_net_bound`. And the
    head's output is at most max|v|, f at most its largest value seen, and a step of the test set.
    """
    value_norm = float(np.linalg.norm(best.values, axis=1).max())
    bounds = [math.inf]
    if problem.sphere_dim <= 3:  # covering radii are certified up to S³
        step = point_sets.covering_radius(test)
        bounds.append(problem.sup_norm + problem.lipschitz * step + value_norm)
        bounds.append(on_test + step * (problem.lipschitz + best.concentration * value_norm))
        # Centres that lie on a smaller sphere cover nothing.
        with contextlib.suppress(ParameterError):
            bounds.append(_net_bound(problem, best, point_sets.covering_radius(best.centres)))
    else:
        # Every point is within π of a test point.
        bounds.append(problem.sup_norm + math.pi * problem.lipschitz + value_norm)
    return max(min(bounds), measured) + _rounding_bound(best, value_norm, problem.sup_norm)


def _bound_of_rounded(
    problem: Problem, exact: Candidate, best: Candidate, test: np.ndarray, on_test: float,
    change: float,
) -> float:  # fmt: skip
    """The bound of the prefix before rounding and what rounding changes; or from the test set."""
    exact_on_test = head_outputs(problem, exact, test) - problem.f(test)
    exact_error = float(np.linalg.norm(exact_on_test, axis=1).max())
    bounds = [_error_bound(problem, exact, test, exact_error, exact_error) + change]
    if problem.sphere_dim <= 3:
        value_norm = float(np.linalg.norm(best.values, axis=1).max())
        key_norm = best.concentration * float(np.linalg.norm(best.centres, axis=1).max())
        step = point_sets.covering_radius(test)
        slope = problem.lipschitz + key_norm * value_norm
        bounds.append(on_test + step * slope + _rounding_bound(best, value_norm, problem.sup_norm))
    return min(bounds)


def _rounding_bound_of(problem: Problem, exact: Candidate, best: Candidate) -> float:
    """Most that these very errors of keys and values change the output, anywhere on the sphere.

    Scores of a unit vector move by errors whose oscillation is at most the largest distance
    between two keys' errors, content's error being 0.
    """
    with_content = problem.content > 0
    key_errors = exact.concentration * (best.centres - exact.centres)
    oscillation = rounding.largest_spread(key_errors, with_content)
    moved = rounding.total_variation_limit(oscillation)
    value_error = np.linalg.norm(best.values - exact.values, axis=1).max()
    spread = rounding.largest_spread(exact.values, with_content)
    return float(spread * moved + value_error)


def _rounding_rms(problem: Problem, exact: Candidate, test: np.ndarray) -> float:
    """Root mean square of what rounding changes, by the law of uniform independent errors."""
    query = test[:: max(len(test) // 500, 1)]
    weights = attention_weights(query, exact.centres, exact.concentration, problem.content)
    assert problem.bits is not None
    key_steps = rounding.steps_of(exact.concentration * exact.centres, problem.bits)
    value_steps = rounding.steps_of(exact.values, problem.bits)
    square = rounding.mean_square_change(
        weights, exact.values, weights @ exact.values,
        np.square(query) @ (np.square(key_steps) / 12).T, np.square(value_steps).sum(1) / 12,
    )  # fmt: skip
    return float(np.sqrt(square.mean()))


def _rounding_bound(best: Candidate, value_norm: float, sup_norm: float) -> float:
    """Of the head's output in float64.

    Coordinates rounded to ε move a score of size λ by 2λε, and the sum of N weighted values is
    rounded to Nε of the largest.
    """
    eps = float(np.finfo(np.float64).eps)
    return eps * ((2 * best.concentration + len(best.centres)) * value_norm + 2 * sup_norm)


def _net_bound(problem: Problem, c: Candidate, covering: float) -> float:
    """Proved bound for any values: far mass, near centres, content, and |v_i − f(b_i)|."""
    if covering >= math.pi / 2:
        return math.inf
    lam, count = c.concentration, len(c.centres)
    moved = float(np.linalg.norm(c.values - problem.f(c.centres), axis=1).max())
    reach = np.linspace(covering, min(8 * covering, math.pi), 400)
    far = count * np.exp(-lam * (math.cos(covering) - np.cos(reach)))
    kernel = problem.lipschitz * float((reach + math.pi * np.minimum(far, 1.0)).min())
    outside = problem.content * math.exp(-min(lam * math.cos(covering), 700.0))
    return kernel + moved + problem.sup_norm * outside / (1 + outside)


def _needed(problem: Problem) -> float:
    """Tokens that some function with this constant needs, keys fixed in advance."""
    if problem.lipschitz == 0:
        return 1.0
    if problem.sphere_dim == 1:
        given = {"lipschitz": problem.lipschitz, "accuracy": problem.accuracy}
        return float(prefix_lower_bound.closed_form(**given)["centres"])
    # What fewer keys cannot do needs a distance above 2ε/L, not that distance itself.
    distance = 2 * problem.accuracy / problem.lipschitz * (1 + 1e-9)
    return point_sets.packing_bound(problem.sphere_dim, distance)
