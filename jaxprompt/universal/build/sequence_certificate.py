"""What is known of a sequence prefix: the largest error found, and bounds on it everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxprompt.universal.build.sequence_layers import Channels, encode, run_layers
from jaxprompt.universal.build.sequence_structure import Structure
from jaxprompt.universal.build.sequence_target import (
    WIDER,
    Batched,
    Cells,
    Domain,
    largest_slope,
    token_length,
)
from jaxprompt.universal.networks.stack import Layer

__all__ = [
    "SequenceCandidate",
    "SequenceCertificate",
    "SequenceProblem",
    "certify_sequences",
    "climb_sequences",
    "needed_tokens",
    "required_tokens",
]

CLIMBERS = 64
"""Sequences from which a worse one is sought."""

SCREENED = 4096
"""Most sequences, beside those of the test, from which the worst are taken to begin a search."""

STEPS, TRIES = 14, 4
"""Steps of each search, each half as long as the one before when none of its tries is worse."""


@dataclass(frozen=True)
class SequenceCertificate:
    """What is known about a sequence prefix. Errors are lengths of the longest token's error.

    Attributes:
        method: "kernel", "sparse", "ridge" or "paper".
        symmetry: the structure in use; ``detected`` ones were seen on samples and prove nothing.
        accuracy: the error that was asked for.
        reached: whether the measured error is within it.
        measured: largest error found, on `test_sequences` independent sequences and in a search for
            worse ones that starts from them and from the ends of cells. float64.
        mean: mean error over independent sequences, uniform ones for the most part.
        measured_float32: the largest on the independent sequences, with all layers in float32.
        guaranteed: an upper bound on the error at every sequence, float64 rounding included.
            Infinite unless the Lipschitz constant was given. With a detected structure or without
            cells it is what the sizes of the map and of the values allow.
        estimated: the bound with the constant and the structure in use, given or not.
        lipschitz, lipschitz_source: the constant in use, and whether it was "given" or "estimated"
            (from below).
        value_norm, sup_norm: most that the layers can write, and largest |f| seen.
        depth: layers.
        tokens: prefix tokens of all layers.
        budget: prefix tokens allowed.
        required_tokens: prefix tokens with which the kernel method reaches the accuracy for every
            map with this constant and structure; those in use where it is reached.
        needed_tokens: tokens of the last layer without which, keys fixed in advance, some map with
            this constant and structure is missed.
        test_sequences: size of the independent set.
    """

    method: str
    symmetry: str
    accuracy: float
    reached: bool
    measured: float
    mean: float
    measured_float32: float
    guaranteed: float
    estimated: float
    lipschitz: float
    lipschitz_source: str
    value_norm: float
    sup_norm: float
    depth: int
    tokens: int
    budget: int
    required_tokens: float
    needed_tokens: float
    test_sequences: int

    def __str__(self) -> str:
        goal = f"accuracy {self.accuracy:.3g}"
        outcome = (
            f"{goal} reached with {self.tokens} prefix tokens in {self.depth} layers"
            if self.reached
            else f"{goal} NOT reached within {self.budget} prefix tokens; this is the best found, "
            f"with {self.tokens} in {self.depth} layers. {self._remedy()}"
        )
        constant = f"Lipschitz constant {self.lipschitz:.3g}"
        bound = (
            f"guaranteed error  {self.guaranteed:.3g} with {constant} (given)"
            if self.lipschitz_source == "given"
            else f"estimated bound   {self.estimated:.3g} with {constant} (estimated: no guarantee)"
        )
        return (
            f"{outcome}\n"
            f"measured error    {self.measured:.3g} on {self.test_sequences} independent sequences "
            f"and from them uphill; {self.measured_float32:.3g} in float32, mean {self.mean:.3g}\n"
            f"{bound}\n"
            f"method            {self.method}, symmetry {self.symmetry}; "
            f"|v| ≤ {self.value_norm:.3g}, |f| ≤ {self.sup_norm:.3g}\n"
            f"all such maps     need {self.needed_tokens:.3g} tokens in the last layer at least; a "
            f"smooth one may do with fewer"
        )

    def _remedy(self) -> str:
        if not math.isfinite(self.required_tokens):
            return "No number of tokens that float64 can name would do"
        return f"About {self.required_tokens:.3g} tokens would do, with method kernel"


class SequenceProblem(NamedTuple):
    """The map, as (B, T, m) → (B, T, d), and everything the search needs to know about it."""

    f: Batched
    domain: Domain
    out: int
    accuracy: float
    budget: int
    lipschitz: float
    lipschitz_given: bool
    value_limit: float
    select: np.ndarray
    select_values: np.ndarray
    seed: int

    @property
    def sup_norm(self) -> float:
        """Largest |f| on the selection set."""
        return float(token_length(self.select_values).max())


class SequenceCandidate(NamedTuple):
    """Layers, and what bounds their error.

    `cells` and `spill` are those of the kernel method: outputs average values at sequences within
    `reach` of the input but for a share `spill`. `value_norm` bounds the outputs. `error` is the
    largest on the selection set, or of the cells alone.
    """

    method: str
    structure: Structure
    at: Channels
    layers: tuple[Layer, ...]
    cells: Cells | None
    reach: float
    spill: float
    value_norm: float
    error: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prefix tokens of each layer."""
        return tuple(len(layer.prefix_keys) for layer in self.layers)

    def outputs(self, sequences: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Outputs (B, T, d) of the layers, in `dtype`."""
        tokens = run_layers(self.layers, encode(self.at, sequences), dtype)
        return tokens[..., self.at.result]


def certify_sequences(
    problem: SequenceProblem, best: SequenceCandidate, count: int
) -> tuple[SequenceCertificate, np.ndarray]:
    """Measure layers on sequences they were not chosen on, search for worse ones, bound the rest.

    Returns the certificate and the worst sequences found (C, T, m). Everything is float64 but for
    `measured_float32`.
    """
    random = np.random.default_rng(problem.seed + 2)
    test = problem.domain.sample(count, random)
    if best.cells is not None:
        test[: count // 4] = problem.domain.corners(best.cells, count // 4, random)
    target = problem.f(test)
    error = token_length(best.outputs(test) - target)

    def error_of(x: np.ndarray) -> np.ndarray:
        return token_length(best.outputs(x) - problem.f(x))

    # The search for worse ones begins where the error is large among many more than are reported.
    more = problem.domain.sample(_screened(best, count), random)
    start, start_error = np.concatenate([test, more]), np.append(error, error_of(more))
    worst, worst_error = climb_sequences(
        error_of, problem.domain, start, start_error, problem.seed, _climbers(best)
    )
    measured = max(float(error.max()), float(worst_error.max()))
    sup_norm = max(
        problem.sup_norm,
        float(token_length(target).max()),
        float(token_length(problem.f(worst)).max()),
    )
    lipschitz = problem.lipschitz
    if not problem.lipschitz_given:
        some = np.concatenate([test[: max(1, min(100, count))], worst])
        slope = largest_slope(problem.f, problem.domain, some, problem.seed + 3)
        lipschitz = max(lipschitz, slope)
    reached = measured <= problem.accuracy
    sizes = _size_bound(problem, best, lipschitz)
    bound = max(min(_cell_bound(best, lipschitz), sizes), measured)
    vouched = best.structure.name != "detected"
    tokens = sum(best.tokens)
    certificate = SequenceCertificate(
        method=best.method,
        symmetry=best.structure.name,
        accuracy=problem.accuracy,
        reached=reached,
        measured=measured,
        mean=float(error[count // 4 :].mean()),
        measured_float32=float(token_length(best.outputs(test, np.float32) - target).max()),
        guaranteed=(
            math.inf if not problem.lipschitz_given else bound if vouched else max(sizes, measured)
        ),
        estimated=bound,
        lipschitz=lipschitz,
        lipschitz_source="given" if problem.lipschitz_given else "estimated",
        value_norm=best.value_norm,
        sup_norm=sup_norm,
        depth=len(best.layers),
        tokens=tokens,
        budget=problem.budget,
        required_tokens=float(tokens)
        if reached
        else max(required_tokens(problem, best.structure, lipschitz), tokens + 1.0),
        needed_tokens=needed_tokens(problem.domain, best.structure, lipschitz, problem.accuracy),
        test_sequences=count,
    )
    return certificate, worst


def needed_tokens(domain: Domain, structure: Structure, lipschitz: float, accuracy: float) -> float:
    r"""Tokens of the last layer that some map with this constant and structure needs.

    With keys fixed in advance outputs are linear in the N values. Let P tokens be more than
    2ε/L apart. A map with the values ±a, a > ε, may have any signs on the sequences of these
    tokens, one for each multiset in each class, and still keep the constant and the structure. A
    linear space of fewer dimensions misses a pattern of signs, and so errs by at least a
    somewhere. One group counts once. Derived here.
    """
    if lipschitz <= 0:
        return float(len(structure.groups))
    return structure.tokens(domain.points_apart(2 * accuracy / lipschitz))


def required_tokens(problem: SequenceProblem, structure: Structure, lipschitz: float) -> float:
    """Prefix tokens of the kernel method that bound the error of every map with this constant.

    Infinite where float64 ends.
    """
    if lipschitz == 0:
        return structure.tokens(1)
    domain, radius = problem.domain, problem.accuracy / (WIDER * lipschitz)
    m = domain.dim
    if domain.in_grid:
        side = domain.side_for_reach(problem.accuracy / lipschitz)
        cells = float(side) ** domain.axes if domain.axes * math.log(side) < 690 else math.inf
    elif radius >= 2:
        cells = 1.0
    else:
        # Points spread evenly on the circle, S² and S³ cover within (this / points)^(1/(m − 1)).
        density = {2: math.pi, 3: 8.0, 4: 30.0}[m]
        cells = float(math.ceil(min(density / radius ** (m - 1), 1e300)))
    return structure.tokens(cells) + (cells if cells > 1 else 0.0)


# --- bounds --------------------------------------------------------------------------------------


def _cell_bound(best: SequenceCandidate, lipschitz: float) -> float:
    """Outputs average f within `reach` of the input, but for a share `spill` of anything."""
    if best.cells is None or not math.isfinite(best.spill):
        return math.inf
    near = lipschitz * best.reach
    rounding = float(np.finfo(np.float64).eps) * (sum(best.tokens) + 8) * best.value_norm
    return near + best.spill * (2 * best.value_norm + near) + 2 * rounding


def _size_bound(problem: SequenceProblem, best: SequenceCandidate, lipschitz: float) -> float:
    """The output is no longer than what the layers write, and f than its value at some sequence
    and the way from there."""
    middle = np.tile(problem.domain.middle, (1, problem.domain.length, 1))
    reach = problem.domain.diameter / (2 if problem.domain.kind == "cube" else 1)
    size = float(token_length(problem.f(middle))[0]) + lipschitz * reach
    return (size + best.value_norm) * (1 + 1e-9)


# --- the worst sequence --------------------------------------------------------------------------


def _climbers(best: SequenceCandidate) -> int:
    """Searches that are affordable: fewer where a sequence has many scores."""
    scores = best.at.length * (sum(best.tokens) + 1)
    return min(CLIMBERS, max(CLIMBERS // 4, 10**8 // (scores * STEPS * TRIES)))


def _screened(best: SequenceCandidate, count: int) -> int:
    """Sequences beside the test's on which a search may begin: as many as are affordable."""
    scores = best.at.length * (sum(best.tokens) + 1)
    return min(SCREENED, max(count, 2 * 10**7 // scores))


def climb_sequences(
    error_of: Callable[[np.ndarray], np.ndarray],
    domain: Domain,
    start: np.ndarray,
    error: np.ndarray,
    seed: int,
    climbers: int = CLIMBERS,
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (C, T, m) uphill in the error from those of `start` (Q, T, m) where it is large.

    The map need not be differentiable: each step moves all tokens, or one, at random a few times
    and keeps the worst, or becomes shorter. Half of the searches begin at random.
    """
    random = np.random.default_rng(seed + 4)
    half = min(climbers // 2, len(start))
    begin = np.unique(
        np.concatenate([np.argsort(-error)[:half], random.permutation(len(start))[:half]])
    )
    at, height = start[begin].copy(), error[begin].copy()
    step = np.full(len(at), 0.2 * domain.diameter)
    for _ in range(STEPS):
        shape = (TRIES, *at.shape)
        direction = random.normal(size=shape)
        # All tokens in some tries; a single one, or all the same way, in others.
        alone = random.integers(shape[2], size=(len(at), 1, 1))
        direction[0] *= alone == np.arange(shape[2])[:, None]
        direction[1] = direction[1][:, :1]
        direction /= np.maximum(token_length(direction), 1e-300)[..., None, None]
        tried = domain.moved(at[None], direction, step[None, :, None, None])
        errors = error_of(tried.reshape(-1, *at.shape[1:])).reshape(TRIES, len(at))
        top = errors.argmax(axis=0)
        reached = errors[top, np.arange(len(at))]
        better = reached > height
        at[better] = tried[top, np.arange(len(at))][better]
        height = np.where(better, reached, height)
        step[~better] /= 2
    return at, height
