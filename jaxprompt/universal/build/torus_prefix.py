r"""Build a prefix that makes one fixed attention head compute a function of angles.

The torus lies in a sphere (:func:`jaxprompt.universal.domains.torus`), where the head's kernel is a
product: with :math:`\lambda = m\kappa` the score of a centre is
:math:`\kappa\sum_j\cos(\theta_j - b_j)`. On a grid of centres the head is a convolution, which the
discrete Fourier transform inverts. Bounds are in the distance of angles. Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build import domains
from jaxprompt.universal.build.arguments import ArgumentChecks
from jaxprompt.universal.build.certificate import Certificate
from jaxprompt.universal.build.sequence_certificate import climb_sequences
from jaxprompt.universal.build.sequence_target import Domain, largest_slope
from jaxprompt.universal.build.target_function import Batched, batched
from jaxprompt.universal.networks import head

__all__ = ["METHODS", "TorusPrefix", "build_torus_prefix"]

METHODS = ("auto", "net", "deconvolution")

WHERE = "build_torus_prefix"

WIDTHS = (0.15, 0.3, 0.6, 1.2, 2.4)
"""Values of κ that are tried, times the squared spacing of the grid."""

NEAR = 1.02
"""A net's kernel is so sharp that angles beyond NEAR times half a step do not count."""

GOAL = 0.9
"""Share of the accuracy aimed at on the selection set: the test may find a little more."""

REPAIRS = 3
"""Times that a prefix which misses its accuracy on the test is built anew with the worst points."""

MOST_DIM = 6


@dataclass(frozen=True)
class TorusPrefix:
    """A prefix for the fixed head on the embedded torus, with its certificate. Arrays are float64.

    `angles` (N, m) are the centres, a grid; `keys` (N, 2m) and `values` (N, d) the head's. The
    certificate's constants are in the distance of angles. There, `theorem_tokens` is the grid that
    suffices for every function with this constant, and `needed_tokens` how many points are more
    than 2ε/L apart on a grid: with keys fixed in advance some function needs as many.
    """

    angles: np.ndarray
    values: np.ndarray
    concentration: float
    content: int
    scalar: bool
    certificate: Certificate

    @property
    def keys(self) -> np.ndarray:
        """The prefix's keys: concentration times the embedded centres."""
        return self.concentration * domains.torus(self.angles.shape[1]).embed(self.angles)

    def tokens(self, *, scaled: bool = False) -> head.HeadWeights:
        """Fixed head and prefix tokens as matrices; `scaled` where scores are divided by √d_k."""
        return head.blocks(self.keys, self.values, 1.0, scaled=scaled)

    def __call__(self, angles: np.ndarray) -> np.ndarray:
        """The head's output at angles (…, m): (…, d), or (…) when f is scalar; float64.

        Raises:
            ParameterError: points of another dimension, or that are not finite.
        """
        torus = domains.torus(self.angles.shape[1])
        points = torus.embed(angles)
        output = head.estimate(
            points.reshape(-1, points.shape[-1]), torus.embed(self.angles), self.values,
            self.concentration, content=self.content,
        )  # fmt: skip
        output = output.reshape(*points.shape[:-1], -1)
        return output[..., 0] if self.scalar else output


def build_torus_prefix(
    f: Callable[[np.ndarray], Any],
    *,
    dim: int,
    accuracy: float,
    budget: int = 2000,
    lipschitz: float | None = None,
    method: str = "auto",
    content: int = 1,
    value_limit: float = 10.0,
    test_points: int = 5000,
    seed: int = 0,
) -> TorusPrefix:
    """Find a prefix with which the fixed head computes `f` of m angles.

    Args:
        f: any function of m angles, of period 2π in each, that returns a number or a vector. It may
            accept batches (Q, m); this is tested once.
        dim: m, 1 to 6.
        accuracy: largest error wanted, Euclidean over the outputs.
        budget: most prefix tokens. Centres are grids, so that numbers of tokens are m-th powers.
        lipschitz: Lipschitz constant of `f`, if known, in the length of the angles' differences,
            each the short way round. The certificate then has a guarantee, as good as this.
        method: "net" (values of f and a sharp kernel: the guarantee is the accuracy),
            "deconvolution" (values such that the head is f at the centres; smooth f), or "auto":
            deconvolution, and a net where that does not reach the accuracy.
        content: content tokens in the softmax.
        value_limit: largest |v| allowed, times sup|f|.
        test_points: size of the independent set on which the error is measured, at least.
        seed: of the test points.

    Returns:
        TorusPrefix: centres, values, concentration and a certificate. If the accuracy cannot be
        reached within the budget, the best found, with ``certificate.reached`` False.

    Raises:
        ParameterError: an argument is outside what is allowed, or `f` returns numbers that are not
            finite, or contradicts `lipschitz`.
    """
    _check_torus_arguments(
        dim, accuracy, budget, lipschitz, method, content, value_limit, test_points
    )
    torus = domains.torus(int(dim))
    function, scalar = batched(torus.on_sphere(f), 2 * torus.dim, WHERE)
    problem = _make_torus_problem(
        function, torus.dim, float(accuracy), int(budget), lipschitz, int(content),
        float(value_limit), int(test_points), seed,
    )  # fmt: skip
    best, certificate = _search_and_certify(problem, method)
    return TorusPrefix(
        torus.retract(best.centres), best.values, best.concentration, int(content), scalar,
        certificate,
    )  # fmt: skip


# --- input ---------------------------------------------------------------------------------------


def _check_torus_arguments(
    dim: Any, accuracy: object, budget: Any, lipschitz: object, method: object, content: Any,
    value_limit: object, test_points: Any,
) -> None:  # fmt: skip
    check = ArgumentChecks(WHERE)
    check.whole("dim", dim, 1, MOST_DIM, remedy="grids of more angles have too many centres")
    check.goal(accuracy, lipschitz, method, value_limit, METHODS)
    check.whole("budget", budget, 3 ** int(dim), 10**6,
                remedy="a grid has 3 centres an angle at least")  # fmt: skip
    check.whole("content", content, 0, remedy="count the content tokens")
    check.whole("test_points", test_points, 100, 10**6, remedy="5000 is usual")


class _TorusProblem(NamedTuple):
    """The function of unit vectors (Q, 2m) → (Q, d), and what the search knows about it."""

    f: Batched
    dim: int
    accuracy: float
    budget: int
    lipschitz: float
    lipschitz_given: bool
    content: int
    value_limit: float
    select: np.ndarray
    select_values: np.ndarray
    test_side: int
    seed: int

    @property
    def domain(self) -> Domain:
        """Sequences of one token: for slopes and searches."""
        return Domain("torus", 1, 2 * self.dim)

    @property
    def sup_norm(self) -> float:
        """Largest |f| on the selection set."""
        return float(np.linalg.norm(self.select_values, axis=1).max())

    def of_sequences(self, x: np.ndarray) -> np.ndarray:
        """f of sequences (B, 1, 2m): (B, 1, d)."""
        return self.f(x[:, 0])[:, None]


class _GridPrefix(NamedTuple):
    """Centres (N, 2m), values (N, d), λ; the grid's centres an angle and its largest error."""

    method: str
    centres: np.ndarray
    values: np.ndarray
    concentration: float
    side: int
    error: float


def _make_torus_problem(
    f: Batched, dim: int, accuracy: float, budget: int, lipschitz: float | None, content: int,
    value_limit: float, test_points: int, seed: int,
) -> _TorusProblem:  # fmt: skip
    side = math.ceil(test_points ** (1 / dim) - 1e-9)
    random = np.random.default_rng(seed + 1)
    angles = random.uniform(0, 2 * math.pi, size=(min(4000, test_points), dim))
    select = domains.torus(dim).embed(angles)
    problem = _TorusProblem(
        f, dim, accuracy, budget, 0.0, lipschitz is not None, content, value_limit, select,
        f(select), side, seed,
    )  # fmt: skip
    slope = largest_slope(problem.of_sequences, problem.domain, select[:500, None], seed)
    if lipschitz is not None and slope > lipschitz * (1 + 1e-6) + 1e-9:
        raise ParameterError(
            "lipschitz", lipschitz, f"at least {slope:.6g}, a slope that f has",
            "give a larger one, or leave it out", WHERE,
        )  # fmt: skip
    return problem._replace(lipschitz=slope if lipschitz is None else float(lipschitz))


# --- search --------------------------------------------------------------------------------------


def _search_and_certify(problem: _TorusProblem, method: str) -> tuple[_GridPrefix, Certificate]:
    """The prefix with the fewest tokens that reaches the accuracy on the test, or the best."""
    outcomes: list[tuple[_GridPrefix, Certificate]] = []
    for _ in range(1 + REPAIRS):
        best = _search_grid(problem, method)
        certificate, worst = _certify_torus(problem, best)
        outcomes.append((best, certificate))
        if certificate.reached or best.error > GOAL * problem.accuracy:
            break
        select = np.concatenate([problem.select, worst])
        problem = problem._replace(select=select, select_values=problem.f(select))
    reached = [pair for pair in outcomes if pair[1].reached]
    if reached:
        return min(reached, key=lambda pair: pair[1].tokens)
    return min(outcomes, key=lambda pair: pair[1].measured)


def _search_grid(problem: _TorusProblem, method: str) -> _GridPrefix:
    """The shortest prefix that reaches the accuracy on the selection set, or the best."""
    if method == "net":
        return _net_of_side(problem, _side_of_net(problem))
    best: _GridPrefix | None = None
    for side in _sides(problem):
        for width in WIDTHS:
            candidate = _deconvolved(problem, side, width * (side / (2 * math.pi)) ** 2)
            if best is None or candidate.error < best.error:
                best = candidate
        assert best is not None
        if best.error <= GOAL * problem.accuracy:
            return best
    assert best is not None
    if method == "auto":
        net = _net_of_side(problem, _side_of_net(problem))
        return min(best, net, key=lambda c: c.error)
    return best


def _sides(problem: _TorusProblem) -> Iterator[int]:
    """Centres an angle that are tried: growing by a sixth, the last the largest in the budget."""
    most = math.floor(problem.budget ** (1 / problem.dim) + 1e-9)
    side = 3
    while side < most:
        yield side
        side = max(side + 1, math.ceil(side * 7 / 6))
    yield most


def _side_of_net(problem: _TorusProblem) -> int:
    """The coarsest grid that guarantees the accuracy, or the finest within the budget."""
    for side in _sides(problem):
        reach = problem.lipschitz * NEAR * math.pi * math.sqrt(problem.dim) / side
        if reach <= 0.99 * problem.accuracy:
            # Between the two last sides tried there may be a smaller one.
            needed = problem.lipschitz * NEAR * math.pi * math.sqrt(problem.dim)
            return max(3, math.ceil(needed / (0.99 * problem.accuracy) - 1e-9))
    return math.floor(problem.budget ** (1 / problem.dim) + 1e-9)


def _net_of_side(problem: _TorusProblem, side: int) -> _GridPrefix:
    """Values f(b), and κ that leaves a thousandth of the accuracy to far centres and content."""
    half = math.pi / side
    share = max(1e3 * math.pi * side * problem.dim**1.5 * problem.lipschitz / problem.accuracy, 2.0)
    kappa = math.log(share) / (math.cos(half) - math.cos(min(NEAR * half, math.pi)))
    if problem.content:
        outside = max(1e3 * problem.content * problem.sup_norm / problem.accuracy, 2.0)
        kappa = max(kappa, math.log(outside) / (problem.dim * math.cos(half)))
    centres = domains.torus_grid(problem.dim, side)
    return _measured(problem, _GridPrefix(
        "net", centres, problem.f(centres), problem.dim * kappa, side, math.inf
    ))  # fmt: skip


def _deconvolved(problem: _TorusProblem, side: int, kappa: float) -> _GridPrefix:
    """Values with which the head is f at all centres, damped to the largest size allowed.

    At the centres the attention of the prefix is a circular convolution with the product of
    e^{κ cos} over its sum, and the prefix's share is the same at all of them.
    """
    m = problem.dim
    centres = domains.torus_grid(m, side)
    target = problem.f(centres)
    step = 2 * math.pi * np.arange(side) / side
    mass = np.exp(kappa * (np.cos(step) - 1))
    transfer = np.fft.fft(mass / mass.sum()).real
    multiplier = np.ones((1,) * m)
    for axis in range(m):
        multiplier = multiplier * transfer.reshape([-1 if i == axis else 1 for i in range(m)])
    outside = problem.content * math.exp(-min(m * kappa + m * math.log(mass.sum()), 700.0))
    multiplier = multiplier[..., None] / (1 + outside)
    spectrum = np.fft.fftn(target.reshape(*[side] * m, -1), axes=range(m))
    limit = problem.value_limit * max(problem.sup_norm, 1e-300)
    values = target
    for ridge in (0.0, *10.0 ** np.arange(-12, 1.0)):
        gain = multiplier / (multiplier**2 + ridge**2 + 1e-300)
        values = np.fft.ifftn(gain * spectrum, axes=range(m)).real.reshape(target.shape)
        if np.linalg.norm(values, axis=1).max() <= limit:
            break
    return _measured(
        problem, _GridPrefix("deconvolution", centres, values, m * kappa, side, math.inf)
    )


def _measured(problem: _TorusProblem, candidate: _GridPrefix) -> _GridPrefix:
    missed = _outputs(problem, candidate, problem.select) - problem.select_values
    return candidate._replace(error=float(np.linalg.norm(missed, axis=1).max()))


def _outputs(
    problem: _TorusProblem, c: _GridPrefix, points: np.ndarray, dtype: type = np.float64
) -> np.ndarray:
    return head.estimate(
        points, c.centres, c.values, c.concentration, content=problem.content, dtype=dtype
    )


# --- the certificate -----------------------------------------------------------------------------


def _certify_torus(problem: _TorusProblem, best: _GridPrefix) -> tuple[Certificate, np.ndarray]:
    """Measure on a grid that lies at random and uphill from its worst points, and bound the rest.

    Returns the certificate and the worst points found (C, 2m). The grid of q^m points covers the
    torus within π√m/q, exactly.
    """
    m, side = problem.dim, problem.test_side
    random = np.random.default_rng(problem.seed + 2)
    grid = domains.torus(m).retract(domains.torus_grid(m, side))
    test = domains.torus(m).embed(grid + random.uniform(0, 2 * math.pi / side, size=m))
    step = math.pi * math.sqrt(m) / side
    target = problem.f(test)
    error = np.linalg.norm(_outputs(problem, best, test) - target, axis=1)

    def error_of(x: np.ndarray) -> np.ndarray:
        missed = _outputs(problem, best, x[:, 0]) - problem.f(x[:, 0])
        return np.linalg.norm(missed, axis=1)

    # Half way between neighbouring centres a net is at its worst.
    angles = domains.torus(m).retract(best.centres)
    some = random.choice(len(angles), min(len(angles), 300), replace=False)
    ends = domains.torus(m).embed(
        angles[some] + math.pi / best.side * (1 - 1e-9) * random.choice([-1, 1], (len(some), m))
    )
    start = np.concatenate([test, ends])
    worst, worst_error = climb_sequences(
        error_of, problem.domain, start[:, None], np.concatenate([error, error_of(ends[:, None])]),
        problem.seed,
    )  # fmt: skip
    on_test, measured = float(error.max()), max(float(error.max()), float(worst_error.max()))
    lipschitz = problem.lipschitz
    if not problem.lipschitz_given:
        picked = np.concatenate([test[:: max(len(test) // 500, 1)][:, None], worst])
        slope = largest_slope(problem.of_sequences, problem.domain, picked, problem.seed + 3)
        lipschitz = max(lipschitz, slope)
    sup_norm = max(problem.sup_norm, float(np.linalg.norm(target, axis=1).max()))
    bound = max(_torus_bound(problem, best, lipschitz, sup_norm, on_test, step), measured)
    steps = lipschitz * NEAR * math.pi * math.sqrt(m) / (0.99 * problem.accuracy)
    suffices = max(3, math.ceil(steps))
    certificate = Certificate(
        method=best.method,
        accuracy=problem.accuracy,
        reached=measured <= problem.accuracy,
        measured=measured,
        measured_float32=float(
            np.linalg.norm(_outputs(problem, best, test, np.float32) - target, axis=1).max()
        ),
        guaranteed=bound if problem.lipschitz_given else math.inf,
        estimated=bound,
        lipschitz=lipschitz,
        lipschitz_source="given" if problem.lipschitz_given else "estimated",
        value_norm=float(np.linalg.norm(best.values, axis=1).max()),
        sup_norm=sup_norm,
        tokens=len(best.centres),
        budget=problem.budget,
        theorem_tokens=float(suffices) ** m,
        needed_tokens=problem.domain.points_apart(
            2 * problem.accuracy / lipschitz if lipschitz > 0 else math.inf
        ),
        test_points=len(test),
    )
    return certificate, worst[:, 0]


def _torus_bound(
    problem: _TorusProblem, best: _GridPrefix, lipschitz: float, sup_norm: float, on_test: float,
    step: float,
) -> float:  # fmt: skip
    r"""The least of three bounds on the error everywhere, and float64 rounding.

    *Sizes*: |f| ≤ its largest value on the test set and a step, the output ≤ max|v|. *From the test
    set*: in the distance of angles the head's slope is at most κ√m max|v|. *From the centres*: on
    each angle the best centre is within h = π/k, so that angles beyond r have at most
    k e^{−κ(cos h − cos r)} of the attention; the others move f by at most L√m r.
    """
    m, k = problem.dim, best.side
    kappa, half = best.concentration / m, math.pi / best.side
    value_norm = float(np.linalg.norm(best.values, axis=1).max())
    largest = sup_norm + lipschitz * step
    bounds = [
        largest + value_norm,
        on_test + step * (lipschitz + kappa * math.sqrt(m) * value_norm),
    ]
    moved = float(np.linalg.norm(best.values - problem.f(best.centres), axis=1).max())
    reach = np.linspace(half, math.pi, 2000)
    far = np.minimum(m * k * np.exp(-kappa * (math.cos(half) - np.cos(reach))), 1.0)
    near = float((math.sqrt(m) * lipschitz * (reach + math.pi * far)).min())
    outside = problem.content * math.exp(-max(min(m * kappa * math.cos(half), 700.0), -700.0))
    bounds.append(near + moved + largest * outside / (1 + outside))
    eps = float(np.finfo(np.float64).eps)
    rounding = (2 * best.concentration + len(best.centres)) * value_norm + 2 * largest
    return min(bounds) + eps * rounding
