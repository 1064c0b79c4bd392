r"""Build a prefix that makes one fixed attention head compute a function on the sphere.

The head is the one of :mod:`jaxprompt.universal.claims.kernel_head`: the function lives in the
prefix's keys, values and concentration only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build.arguments import ArgumentChecks
from jaxprompt.universal.build.certificate import (
    Candidate,
    Certificate,
    Problem,
    certify,
    head_outputs,
    round_candidate,
)
from jaxprompt.universal.build.prefix_values import fit_values
from jaxprompt.universal.build.target_function import Batched, batched, estimate_lipschitz
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets, rounding

__all__ = ["METHODS", "Certificate", "Prefix", "build_prefix"]

METHODS = ("auto", "net", "two_term", "deconvolution", "least_squares")

WHERE = "build_prefix"

WIDTHS = (0.3, 0.6, 1.2, 2.4)
"""Concentrations that are tried, times the squared spacing of the centres. Wider kernels are
more accurate for smooth functions and need larger values; which is best depends on f."""

SMALL_VALUES = 1.5
"""With few bits values of at most this, times sup|f|, are tried too: the step of a grid is a share
of the largest value."""

NEAR = 1.05
"""A net's kernel is so sharp that centres beyond NEAR times the covering radius do not count."""


@dataclass(frozen=True)
class Prefix:
    """A prefix for the fixed head, with its certificate. Arrays are float64.

    `keys` (N, n) and `values` (N, d) are the head's; `centres` (N, n) are the keys' directions.
    `content` is the number of content tokens it was built for. Calling it evaluates the head.
    Keys and values that were rounded (``certificate.bits``) are numbers of that format, and
    `centres` what the keys were rounded from.
    """

    centres: np.ndarray
    values: np.ndarray
    concentration: float
    content: int
    scalar: bool
    certificate: Certificate
    rounded_keys: np.ndarray | None = field(default=None, repr=False)
    source: Source | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What is stored or copied: without the function, which may be none that can be stored."""
        return {**vars(self), "source": None}

    @property
    def keys(self) -> np.ndarray:
        """The prefix's keys: concentration times centres, and rounded where the prefix is."""
        if self.rounded_keys is not None:
            return self.rounded_keys
        return self.concentration * self.centres

    def tokens(self, *, scaled: bool = False) -> head.HeadWeights:
        """Fixed head and prefix tokens as matrices; `scaled` where scores are divided by √d_k."""
        return head.blocks(self.keys, self.values, 1.0, scaled=scaled)

    def quantised(self, bits: int | str) -> Prefix:
        """The same prefix with keys and values in few bits, and a certificate of its own.

        `bits` is a number of bits of integers from 2 to 32 (8 for int8), or a float format:
        "float16", "bfloat16", "float8_e4m3" or "float8_e5m2". Keys share one scale, and so do
        values. Rounding starts from the numbers before any rounding.

        Raises:
            ParameterError: there is no such format, or this prefix was loaded from a file, which
                does not hold the function.
        """
        bits = rounding.check_bits(bits, "quantised")
        if self.source is None:
            raise ParameterError(
                "bits", bits, "rounded where the prefix was built: a stored prefix has no function",
                "call build_prefix(..., bits=...) again", "quantised",
            )  # fmt: skip
        return self.source.make_prefix(bits)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The head's output at unit vectors (…, n): (…, d), or (…) when f is scalar; float64.

        Raises:
            ParameterError: points of another dimension, or not on the sphere.
        """
        points = _on_sphere("points", points, self.centres.shape[1])
        flat = points.reshape(-1, points.shape[-1])
        rounded = self.rounded_keys is not None
        output = head.estimate(
            flat, self.keys / self.concentration if rounded else self.centres, self.values,
            self.concentration, content=self.content, any_keys=rounded,
        )  # fmt: skip
        output = output.reshape(*points.shape[:-1], -1)
        return output[..., 0] if self.scalar else output


@dataclass(frozen=True)
class Source:
    """What a prefix was made from: the function with the search's numbers, and the best found."""

    problem: Problem
    candidate: Candidate
    scalar: bool
    budget: int
    test_points: int

    def make_prefix(self, bits: int | str | None) -> Prefix:
        """The prefix, rounded to `bits`, with its certificate."""
        problem, best = self.problem._replace(bits=bits), self.candidate
        test = _scattered_points(problem.sphere_dim, self.test_points, problem.seed + 2)
        used = round_candidate(best, bits)
        keys = None
        if bits is not None:
            keys, _ = rounding.round_to(best.concentration * best.centres, bits)
        return Prefix(
            best.centres, used.values, best.concentration, problem.content, self.scalar,
            certify(problem, best, test, self.budget), keys, self,
        )  # fmt: skip


def build_prefix(
    f: Callable[[np.ndarray], Any],
    *,
    sphere_dim: int,
    accuracy: float,
    budget: int = 2000,
    lipschitz: float | None = None,
    method: str = "auto",
    content: int = 1,
    value_limit: float = 10.0,
    centres: np.ndarray | None = None,
    bits: int | str | None = None,
    test_points: int = 20_000,
    seed: int = 0,
) -> Prefix:
    """Find a prefix with which the fixed head computes `f` on the sphere.

    Args:
        f: any function of a unit vector (n = sphere_dim + 1 numbers) that returns a number or a
            vector. It may accept batches (Q, n); this is tested once.
        sphere_dim: m ≥ 1.
        accuracy: largest error wanted, Euclidean over the outputs.
        budget: most prefix tokens to use. The fewest that do are sought, roughly.
        lipschitz: Lipschitz constant of `f` in geodesic distance, if known: the certificate then
            has a guarantee, as good as this. Otherwise it is estimated from samples, and so is
            the bound.
        method: "net" (values f(b_i) on a certified net, sphere_dim ≤ 3), "two_term",
            "deconvolution", "least_squares", or "auto": least squares while it is affordable,
            deconvolution for long prefixes, a net where neither does.
        content: content tokens in the softmax (the query is one).
        value_limit: largest |v| allowed, times sup|f|.
        centres: (N, n) unit vectors to use instead of choosing them.
        bits: keys and values are rounded to so many bits (8 for int8), or to a float format
            ("float16", "bfloat16", "float8_e4m3", "float8_e5m2"), and chosen with that in view.
        test_points: size of the independent set on which the error is measured.
        seed: of the random rotations and pools; the same call gives the same prefix.

    Returns:
        Prefix: keys, values, concentration and a certificate. If the accuracy cannot be reached
        within the budget, the best prefix found, with ``certificate.reached`` False.

    Raises:
        ParameterError: an argument is outside what is allowed, or `f` returns numbers that are
            not finite, or of another shape than one row each.
    """
    _check(sphere_dim, accuracy, budget, lipschitz, method, content, value_limit, test_points)
    function, scalar = batched(f, sphere_dim + 1, WHERE)
    problem = _make_problem(
        function, sphere_dim, accuracy, content, lipschitz, value_limit, seed, test_points
    )
    if bits is not None:
        problem = problem._replace(bits=rounding.check_bits(bits, WHERE))
    if centres is not None:
        centres = _on_sphere("centres", centres, sphere_dim + 1)
        budget = len(centres)
    best = _search_prefix(problem, budget, method, centres)
    return Source(problem, best, scalar, budget, test_points).make_prefix(problem.bits)


# --- input ---------------------------------------------------------------------------------------


def _check(
    sphere_dim: Any,
    accuracy: object,
    budget: object,
    lipschitz: object,
    method: object,
    content: object,
    value_limit: object,
    test_points: object,
) -> None:
    check = ArgumentChecks(WHERE)
    check.whole("sphere_dim", sphere_dim, 1,
                remedy="S^1 is the circle in the plane, S^2 the sphere in space")  # fmt: skip
    check.goal(accuracy, lipschitz, method, value_limit, METHODS)
    check.whole("budget", budget, int(sphere_dim) + 2,
                remedy="fewer tokens do not surround the sphere")  # fmt: skip
    check.need(method != "net" or sphere_dim <= 3, "method", method,
               "another one for sphere_dim > 3",
               'nets are certified up to S^3; use "auto"')  # fmt: skip
    check.whole("content", content, 0, remedy="count the content tokens")
    check.whole("test_points", test_points, 100, remedy="20000 is usual")


def _on_sphere(name: str, points: Any, n: int) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim < 1 or points.shape[-1] != n or points.size == 0:
        raise ParameterError(
            name, f"shape {points.shape}", f"an array (…, {n})", "give unit vectors as rows", WHERE
        )
    off = np.abs(np.linalg.norm(points, axis=-1) - 1)
    if not (off < 1e-6).all():
        raise ParameterError(
            name, f"norm off 1 by {np.nanmax(off):.2g}", "unit vectors",
            "divide each by its norm", WHERE,
        )  # fmt: skip
    return points


def _make_problem(
    f: Batched,
    m: int,
    accuracy: float,
    content: int,
    lipschitz: float | None,
    value_limit: float,
    seed: int,
    test_points: int,
) -> Problem:
    select = _scattered_points(m, min(4000, test_points), seed + 1)
    values = f(select)
    some = slice(None, None, max(len(select) // 1000, 1))
    slope = estimate_lipschitz(f, select[some], values[some], seed)
    if lipschitz is not None and slope > lipschitz * (1 + 1e-6) + 1e-9:
        raise ParameterError(
            "lipschitz", lipschitz, f"at least {slope:.6g}, a slope that f has",
            "give a larger one, or leave it out", WHERE,
        )  # fmt: skip
    return Problem(
        f, m, float(accuracy), int(content), slope if lipschitz is None else float(lipschitz),
        lipschitz is not None, float(np.linalg.norm(values, axis=1).max()), value_limit, select,
        values, seed,
    )  # fmt: skip


def _scattered_points(m: int, count: int, seed: int) -> np.ndarray:
    """Evenly spread points (random ones beyond S²), turned at random: (count, m+1)."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(m + 1, m + 1)))[0]
    if m <= 2:
        return point_sets.quasi_uniform(m, count) @ turn
    normal = random.normal(size=(count, m + 1))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


# --- search --------------------------------------------------------------------------------------


def _search_prefix(
    problem: Problem, budget: int, method: str, centres: np.ndarray | None
) -> Candidate:
    if centres is not None:
        return _least_error_candidate(
            _candidates_on(problem, centres, "auto" if method == "net" else method)
        )
    if method == "net":
        return _search_net(problem, budget)
    best, last_miss = None, 0
    for count in _doubling_lengths(problem.sphere_dim, budget):
        candidate = _candidate_of_length(problem, count, method)
        if candidate.error <= 0.9 * problem.accuracy:  # the test set may find a little more
            return _shorten_prefix(problem, method, candidate, last_miss)
        last_miss = count
        best = candidate if best is None else min(best, candidate, key=lambda c: c.error)
    assert best is not None
    if method == "auto" and problem.sphere_dim <= 3:
        best = min(best, _search_net(problem, budget), key=lambda c: c.error)
    return best


def _doubling_lengths(m: int, budget: int) -> Iterator[int]:
    count = 4 * (m + 1)
    while count < budget:
        yield count
        count *= 2
    yield budget


def _shorten_prefix(problem: Problem, method: str, shortest: Candidate, miss: int) -> Candidate:
    """Two halvings of the interval between a length that fails and one that does."""
    low, high = miss, len(shortest.centres)
    for _ in range(2 if low else 0):
        middle = round(math.sqrt(low * high))
        if not low < middle < high:
            break
        attempt = _candidate_of_length(problem, middle, method)
        if attempt.error <= 0.9 * problem.accuracy:
            shortest, high = attempt, middle
        else:
            low = middle
    return shortest


def _candidate_of_length(problem: Problem, count: int, method: str) -> Candidate:
    centres = point_sets.quasi_uniform(problem.sphere_dim, count, problem.seed)
    return _least_error_candidate(_candidates_on(problem, centres, method))


def _least_error_candidate(candidates: Iterator[Candidate]) -> Candidate:
    return min(candidates, key=lambda c: c.error)


def _candidates_on(problem: Problem, centres: np.ndarray, method: str) -> Iterator[Candidate]:
    m = problem.sphere_dim
    spacing = (point_sets.area(m) / len(centres)) ** (1 / m)
    limits = [problem.value_limit]
    if problem.bits is not None and problem.value_limit > SMALL_VALUES:
        limits.append(SMALL_VALUES)
    for width in WIDTHS:
        lam = width / spacing**2
        for limit in limits:
            used, values = fit_values(
                method, centres, problem.f, lam, problem.content, limit * problem.sup_norm,
                problem.select, problem.select_values,
            )  # fmt: skip
            yield _measure_candidate(problem, used, centres, values, lam)


def _measure_candidate(
    problem: Problem, method: str, centres: np.ndarray, values: np.ndarray, lam: float
) -> Candidate:
    candidate = Candidate(method, centres, values, float(lam), math.inf)
    output = head_outputs(problem, round_candidate(candidate, problem.bits), problem.select)
    error = np.linalg.norm(output - problem.select_values, axis=1).max()
    return candidate._replace(error=float(error))


# --- nets and guarantees -------------------------------------------------------------------------


def _search_net(problem: Problem, budget: int) -> Candidate:
    """Values f(b_i) on the coarsest certified net that guarantees the accuracy, or the finest
    within the budget."""
    slope = max(problem.lipschitz, 1e-300)
    radius = min(problem.accuracy / (1.12 * slope), 1.2)
    if problem.sphere_dim == 1:
        # Equispaced points cover the circle within half their spacing.
        radius = 2 * math.pi / (math.ceil(math.pi / radius) + 0.5)
    radius = max(radius, _radius_for(problem.sphere_dim, budget))
    while True:
        cover = point_sets.net(problem.sphere_dim, radius, problem.seed)
        if len(cover.centres) <= budget:
            break
        radius *= 1.03
        if radius > 1.5:
            return _candidate_of_length(problem, budget, "two_term")
    lam = _sharp_concentration(cover, problem)
    return _measure_candidate(problem, "net", cover.centres, problem.f(cover.centres), lam)


def _radius_for(m: int, count: int) -> float:
    """Radius at which a maximal separated set is likely to have `count` points."""
    density = {1: 2 * math.pi, 2: 11.3, 3: 14.5}[m]
    return (density / count) ** (1 / m)


def _sharp_concentration(cover: point_sets.Cover, problem: Problem) -> float:
    """Concentration that leaves a hundredth of the radius to far centres and to content."""
    r, count = cover.covering, len(cover.centres)
    near = math.log(100 * math.pi * count / r) / (math.cos(r) - math.cos(NEAR * r))
    if not problem.content or not problem.sup_norm:
        return near
    share = 100 * problem.content * problem.sup_norm / problem.accuracy
    return max(near, math.log(max(share, 1.0)) / math.cos(r))
