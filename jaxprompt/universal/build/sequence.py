r"""Build prefixes that make fixed softmax layers compute a map of sequences.

The layers are those of :mod:`jaxprompt.universal.build.sequence_layers`: projections do not depend
on the values of the map, which are in the prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxprompt.errors import ParameterError
from jaxprompt.universal.build import sequence_kernel as kernel
from jaxprompt.universal.build import sequence_paper as paper
from jaxprompt.universal.build import sequence_ridge as ridge
from jaxprompt.universal.build import sequence_sparse as sparse
from jaxprompt.universal.build.arguments import ArgumentChecks
from jaxprompt.universal.build.sequence_certificate import (
    SequenceCandidate,
    SequenceCertificate,
    SequenceProblem,
    certify_sequences,
)
from jaxprompt.universal.build.sequence_structure import (
    Structure,
    detect_structure,
    find_contradiction,
    make_structure,
    split_classes,
)
from jaxprompt.universal.build.sequence_target import (
    WHERE,
    Domain,
    batched_map,
    largest_slope,
)
from jaxprompt.universal.networks.stack import Layer

__all__ = ["METHODS", "SequenceCertificate", "SequencePrefix", "build_sequence_prefix"]

METHODS = ("auto", "kernel", "sparse", "ridge", "paper")

DOMAINS = ("cube", "sphere", "torus")

MOST_LENGTH = 64
"""Longest sequence: structure is looked for by exchanging every two tokens."""

MOST_NUMBERS = 256
"""Most numbers of a sequence."""

MOST_BUDGET = 2**20
"""Most prefix tokens: beyond, a single sequence takes a second."""

GOAL = 0.95
"""Share of the accuracy aimed at on the selection set: the test may find a little more."""

REPAIRS = 4
"""Times that a prefix which misses its accuracy on the test is built anew with what was learnt."""


class PrefixTokens(NamedTuple):
    """Keys (N, q) and values (N, width) of one layer's prefix."""

    keys: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class SequencePrefix:
    """Layers with their prefixes, and a certificate. Arrays are float64.

    `layers` are :class:`jaxprompt.universal.stack.Layer`; calling the object runs them. `structure`
    says which tokens each output reads and which it may exchange.
    """

    layers: tuple[Layer, ...]
    structure: Structure
    domain: Domain
    certificate: SequenceCertificate
    candidate: SequenceCandidate
    flat: bool

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prefix tokens of each layer."""
        return self.candidate.tokens

    @property
    def prefixes(self) -> tuple[PrefixTokens, ...]:
        """The prefix of each layer; layers that only gather have an empty one."""
        return tuple(PrefixTokens(layer.prefix_keys, layer.prefix_values) for layer in self.layers)

    def __call__(self, sequences: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Outputs (…, T, d) of sequences (…, T, m), or (…, T) where f gives those; in `dtype`.

        Raises:
            ParameterError: another shape, or tokens outside the domain.
        """
        x = self._checked(sequences)
        outputs = self.candidate.outputs(x.reshape(-1, *x.shape[-2:]), dtype)
        outputs = outputs.reshape(*x.shape[:-1], -1)
        return outputs[..., 0] if self.flat else outputs

    def _checked(self, sequences: Any) -> np.ndarray:
        x = np.asarray(sequences, np.float64)
        shape = (self.domain.length, self.domain.axes)
        if x.ndim < 2 or x.shape[-2:] != shape or not x.size:
            raise ParameterError(
                "sequences", f"shape {x.shape}", f"an array (…, {shape[0]}, {shape[1]})",
                "give one token a row", WHERE,
            )  # fmt: skip
        if self.domain.kind == "torus":
            if not np.isfinite(x).all():
                raise ParameterError(
                    "sequences", "numbers that are not finite", "angles", "drop them", WHERE
                )
            return self.domain.embedded(x)
        off = np.abs(self.domain.clipped(x) - x).max()
        if not off < 1e-6:
            kind = "numbers ≥ 0 and ≤ 1" if self.domain.kind == "cube" else "unit vectors as tokens"
            raise ParameterError("sequences", f"off by {off:.2g}", kind, "scale them", WHERE)
        return self.domain.clipped(x)


def build_sequence_prefix(
    f: Callable[[np.ndarray], Any],
    *,
    length: int,
    dim: int,
    accuracy: float,
    budget: int = 20_000,
    lipschitz: float | None = None,
    method: str = "auto",
    symmetry: Any = "auto",
    domain: str = "cube",
    value_limit: float = 10.0,
    test_sequences: int = 1000,
    seed: int = 0,
) -> SequencePrefix:
    """Find layers and prefixes with which fixed attention computes `f` on sequences.

    Args:
        f: any function of a sequence (T, m) that returns (T, d), or (T) numbers. It may accept
            batches (B, T, m); this is tested once.
        length: T, tokens of a sequence, 1 to 64.
        dim: m, numbers of a token.
        accuracy: largest error wanted: Euclidean over the outputs of a token, for every token.
        budget: most prefix tokens to use, in all layers together.
        lipschitz: Lipschitz constant of `f`, if known: how far some output token moves when every
            input token moves by at most 1, lengths Euclidean. It is needed for a guarantee.
        method: "kernel" (a prefix token for each cell of the sequences), "sparse" (few centres
            among all numbers at once, with fitted values; smooth f), "ridge" (sums of functions of
            one direction; smooth f), "paper" (the paper's, over the Cantor set), or "auto": what
            reaches the accuracy with the fewest tokens; with `lipschitz` the kernel method, if a
            guarantee fits the budget.
        symmetry: "none", "invariant" (outputs do not change when tokens are exchanged),
            "equivariant" (outputs are exchanged alike), "causal" (output p reads tokens 0 to p), or
            for each position the list of classes of positions that may be exchanged; tokens in no
            class are not read. It must hold: the guarantee rests on it. "auto" looks for classes on
            samples, which gives no guarantee.
        domain: "cube" (tokens in [0, 1]^m), "sphere" (unit vectors of R^m, m = 2, 3, 4) or "torus"
            (m angles; distances are lengths of their differences, each the short way round).
        value_limit: largest value allowed, times sup|f| ("sparse", "ridge").
        test_sequences: size of the independent set on which the error is measured.
        seed: of the random sequences; the same call gives the same prefix.

    Returns:
        SequencePrefix: layers, prefixes, and a certificate. If the accuracy cannot be reached
        within the budget, the best found, with ``certificate.reached`` False and what would be
        needed in ``certificate.required_tokens``.

    Raises:
        ParameterError: an argument is outside what is allowed, `f` contradicts `symmetry` or
            `lipschitz`, or returns numbers that are not finite or of another shape.
    """
    _check_arguments(
        length, dim, accuracy, budget, lipschitz, method, domain, value_limit, test_sequences, seed
    )
    tokens_domain = Domain(domain, int(length), (2 if domain == "torus" else 1) * int(dim))
    structure = (
        None
        if isinstance(symmetry, str) and symmetry == "auto"
        else make_structure(symmetry, tokens_domain.length)
    )
    function, flat = batched_map(f, tokens_domain)
    problem = _make_sequence_problem(
        function, tokens_domain, float(accuracy), int(budget), lipschitz, value_limit, seed
    )
    tolerance = _tolerance(problem)
    if structure is not None:
        broken = find_contradiction(function, problem.select[:64], structure, tolerance, seed)
        if broken:
            raise ParameterError(
                "symmetry", structure.name, f"one that f has; {broken}",
                'give another, or "auto"', WHERE,
            )  # fmt: skip
    best, certificate = _search_layers(problem, structure, method, test_sequences)
    return SequencePrefix(best.layers, best.structure, tokens_domain, certificate, best, flat)


# --- input ---------------------------------------------------------------------------------------


def _check_arguments(
    length: Any,
    dim: Any,
    accuracy: object,
    budget: Any,
    lipschitz: object,
    method: object,
    domain: object,
    value_limit: object,
    test_sequences: object,
    seed: object,
) -> None:
    check = ArgumentChecks(WHERE)
    check.whole("length", length, 1, MOST_LENGTH, remedy="cut the sequence")
    check.choice("domain", domain, DOMAINS)
    if domain != "sphere":
        most = MOST_NUMBERS // int(length) // (2 if domain == "torus" else 1)
        check.whole("dim", dim, 1, most, when=f"with {length} tokens", remedy="project the tokens")
    else:
        remedy = "covering radii are certified up to unit vectors of four numbers"
        check.whole("dim", dim, 2, 4, when="on spheres", remedy=remedy)
    check.goal(accuracy, lipschitz, method, value_limit, METHODS)
    check.need(method != "paper" or domain == "cube", "method", method,
               f"another one on domain {domain}",
               'binary digits are of numbers in [0, 1]; use "auto"')  # fmt: skip
    check.whole("budget", budget, int(length) + 1, MOST_BUDGET,
                remedy="every token of the sequence needs one prefix token of its own")  # fmt: skip
    check.whole("test_sequences", test_sequences, 100, 100_000, remedy="1000 is usual")
    check.whole("seed", seed, 0, remedy="0 is usual")


def _make_sequence_problem(
    f: Any, domain: Domain, accuracy: float, budget: int, lipschitz: float | None,
    value_limit: float, seed: int,
) -> SequenceProblem:  # fmt: skip
    select = domain.sample(400, np.random.default_rng(seed + 1))
    values = f(select)
    some = select[:: max(1, (domain.length * domain.dim) // 2)]
    slope = largest_slope(f, domain, some, seed)
    if lipschitz is not None and slope > lipschitz * (1 + 1e-6) + 1e-9:
        raise ParameterError(
            "lipschitz", lipschitz, f"at least {slope:.6g}, a slope that f has",
            "give a larger one, or leave it out", WHERE,
        )  # fmt: skip
    return SequenceProblem(
        f, domain, values.shape[2], accuracy, budget, slope if lipschitz is None else
        float(lipschitz), lipschitz is not None, float(value_limit), select, values, seed,
    )  # fmt: skip


def _tolerance(problem: SequenceProblem) -> float:
    """Change that counts as none: rounding of f, or a thousandth of the accuracy."""
    return max(1e-9 * problem.sup_norm, 1e-3 * problem.accuracy)


# --- search --------------------------------------------------------------------------------------


def _search_layers(
    problem: SequenceProblem, structure: Structure | None, method: str, tests: int
) -> tuple[SequenceCandidate, SequenceCertificate]:
    """The candidate with the fewest tokens that reaches the accuracy, or of the least error."""
    outcomes = _improved_layers(problem, structure, method, tests)
    last = outcomes[-1][0]
    mistakes = structure is None and last.method == "kernel" and _may_mistake(last)
    if mistakes and not any(certificate.reached for _, certificate in outcomes):
        outcomes += _improved_layers(problem, split_classes(last.structure), method, tests)
    reached = [pair for pair in outcomes if pair[1].reached]
    if reached:
        return min(reached, key=lambda pair: pair[1].tokens)
    return min(outcomes, key=lambda pair: pair[1].measured)


def _may_mistake(best: SequenceCandidate) -> bool:
    """Whether sums of codes may be taken for another multiset's: of vectors between cells."""
    cells = best.cells
    several = cells is not None and len(cells.centres) > 1 and not cells.ordered
    return several and best.structure.largest_class > 1


def _improved_layers(
    problem: SequenceProblem, structure: Structure | None, method: str, tests: int
) -> list[tuple[SequenceCandidate, SequenceCertificate]]:
    """A candidate, and others built with the worst sequences while one misses what it was chosen
    for."""
    beyond, outcomes = 0, []
    goal = GOAL * problem.accuracy
    for _ in range(1 + REPAIRS):
        best = _best_candidate(problem, structure, method, beyond, goal)
        certificate, worst = certify_sequences(problem, best, tests)
        outcomes.append((best, certificate))
        fitted = best.cells is None
        if certificate.reached or best.error > (problem.accuracy if fitted else goal):
            break
        if fitted:  # it errs more elsewhere than on the samples that it was chosen on
            goal *= GOAL * problem.accuracy / certificate.measured
        # Sequences that were missed join the selection, for the structure and for the error.
        select = np.concatenate([worst, problem.select])
        problem = problem._replace(select=select, select_values=problem.f(select))
        beyond = len(best.cells.centres) if best.cells is not None else beyond
    return outcomes


def _best_candidate(
    problem: SequenceProblem, structure: Structure | None, method: str, beyond: int, goal: float
) -> SequenceCandidate:
    none = make_structure("none", problem.domain.length)
    if method == "paper":
        return paper.paper_candidate(problem, paper.most_digits(problem))
    if method in ("auto", "kernel") and problem.lipschitz_given:
        vouched = structure or none
        count = kernel.cells_for_bound(problem, vouched, problem.budget)
        if count is not None:
            return kernel.kernel_candidate(problem, vouched, count, 0.0)
    if structure is None:
        structure = detect_structure(
            problem.f, problem.domain, problem.select[:64], _tolerance(problem)
        )
    if method in _FITTED:
        return _only_fit(problem, structure, method, goal)
    count, error = kernel.least_cells(problem, structure, beyond, goal)
    if method == "auto":
        fitted = _shorter_fit(problem, structure, count, error, goal)
        if fitted is not None:
            return fitted
    return kernel.kernel_candidate(problem, structure, count, error)


_FITTED = {"sparse": sparse.sparse_candidate, "ridge": ridge.ridge_candidate}
"""Methods whose values are fitted to samples."""


def _shorter_fit(
    problem: SequenceProblem, structure: Structure, count: int, error: float, goal: float
) -> SequenceCandidate | None:
    """The fit with the fewest tokens, if it takes fewer than so many cells, or errs less where
    these miss the goal."""
    reached = error <= goal
    if reached:
        tokens = kernel.kernel_tokens(problem.domain, structure, count)
        problem = problem._replace(budget=int(tokens) - 1)
    best: SequenceCandidate | None = None
    for make in _FITTED.values():
        candidate = make(problem, structure, goal, complete=not reached)
        if candidate is None or not candidate.error < max(error, goal):
            continue
        best, error = candidate, candidate.error
        if error <= goal:
            reached = True
            problem = problem._replace(budget=sum(candidate.tokens) - 1)
    return best


def _only_fit(
    problem: SequenceProblem, structure: Structure, method: str, goal: float
) -> SequenceCandidate:
    candidate = _FITTED[method](problem, structure, goal, complete=True)
    if candidate is None:
        raise ParameterError(
            "budget", problem.budget, f"more tokens with method {method}",
            f"{len(structure.groups)} outputs need values of their own", WHERE,
        )  # fmt: skip
    return candidate
