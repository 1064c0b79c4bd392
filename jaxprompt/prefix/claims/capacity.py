r"""Claim ``prefix.capacity``: n vectors whose keys are fixed in advance store exactly n."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxprompt.core.claim import (
    AtLeast,
    Claim,
    Curves,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import NumericalError, ParameterError
from jaxprompt.stats import Estimate, exact_estimate, mean_estimate

__all__ = ["CLAIM", "closed_form", "draw_problem", "simulate", "with_equal_queries"]

STATEMENT = r"""
A head with $n$ prefix positions, whose keys $\kappa_k\in\mathbb R^{d_k}$ and values
$v_k\in\mathbb R^{d_v}$ are free, is to give the output $y_i$ at the last query $q_i$ of example
$i\le M$, where without a prefix it gives $t_i$ and attends with log-mass $c_i$. Let
$P_{ik}=e^{q_i^\top\kappa_k}/(e^{c_i}+\sum_le^{q_i^\top\kappa_l})$.

* *Any $n$ examples can be stored, exactly.* If the queries are pairwise different then for almost
  all keys, chosen before anything else is known, $P$ is invertible for $M=n$, and
  $V=P^{-1}\big(Y-(1-P\mathbf 1)\circ t\big)$ does it. For $M<n$ likewise.
* *No more with those keys.* For $M>n$ the targets that can be reached have codimension
  $(M-n)\,d_v$. For targets that are independent and standard normal the squared distance to the
  nearest outputs is at least $(M-n)\,d_v$ in the mean.
* *Never more than $n(d_k+d_v)/d_v$.* Beyond that, the outputs reached by all keys and values have
  measure 0. Between the two bounds nothing is claimed for every target.
* Two equal queries with different targets cannot be stored, whatever $n$.
"""

DERIVATION = r"""
The output at example $i$ is $\sum_kP_{ik}v_k+(1-\sum_kP_{ik})\,t_i$: linear in the values, with a
term that they do not change, by which $V=P^{-1}Y$ would miss. Write $P=DE$ with $D$ diagonal and
positive, and
$E_{ik}=e^{q_i^\top\kappa_k}$. For $\kappa_k=\lambda q_k$, $E$ is the matrix of the kernel
$e^{\lambda q^\top q'}$, strictly positive definite on different points; $\det E$ is analytic in the
keys, so it vanishes on a set of measure 0 only. For $M<n$ take further queries.

For $M>n$ the outputs are an affine space of dimension $n\,d_v$ in $M\,d_v$. With $N$ the projection
on the complement of the columns of $P$, of rank $M-n$, and $Y$ normal and independent of the rest,
$\mathbb E|N(Y-(1-P\mathbf1)\circ t)|^2=(M-n)\,d_v+\mathbb E|N((1-P\mathbf1)\circ t)|^2$.

The map from $n(d_k+d_v)$ numbers to $M\,d_v$ is smooth, so where the first are fewer its image has
measure 0 (Sard), and its Jacobian, with the rows
$\mathrm dO_i=\sum_kP_{ik}\big(\mathrm dv_k+(v_k-O_i)\,q_i^\top\mathrm d\kappa_k\big)$, has
less than full rank everywhere. That rank can be below both numbers: with $M=d_k+1$ examples the
queries have a linear relation. With equal queries two rows of $P$ are proportional, by factors that
the content's log-masses give, so one combination of the targets is fixed.

*Tolerances.* The residual of a solution is rounding times the condition number of $P$, up to some
$10^4$ here: $10^{-12}$ for its square. Ranks are whole numbers. Means of squares: a quarter of
their bound.
"""


# --- the closed form ---


def closed_form(
    *, key_dim: Any, value_dim: Any, prefix: Any, examples: Any, fixed_keys_store: str = "n",
    free_keys_limited: bool = True, keys_count: bool = True, equal_queries_differ: bool = False,
    content_counts: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What n vectors store of M examples; numbers broadcast, but where bounds are predicted.

    `storable` is 1 where every target can be reached, 0 where almost none can, and 1/2 between.
    Falsifiers change the last five arguments, which the theory has at their defaults.
    """
    stored = {"n": prefix, "n + 1": np.add(prefix, 1), "n d_k": np.multiply(prefix, key_dim)}
    fixed = stored[fixed_keys_store]
    numbers = np.multiply(prefix, np.add(key_dim if keys_count else 0, value_dim))
    wanted = np.multiply(examples, value_dim)
    never = (wanted > numbers) & free_keys_limited
    beyond = np.maximum(np.subtract(examples, fixed), 0)
    predicted: dict[str, Any] = {
        "storable": np.where(np.less_equal(examples, prefix), 1.0, np.where(never, 0.0, 0.5)),
        "codimension": np.multiply(beyond, value_dim),
        "rank": np.minimum(wanted, numbers),
    }
    if not free_keys_limited:
        predicted["storable"] = np.ones_like(predicted["storable"])
    if np.ndim(beyond * wanted) == 0:
        lost = float(predicted["codimension"])
        predicted["residual"] = AtLeast(lost) if beyond > 0 else 0.0
        if examples <= prefix:
            predicted["forgotten_content"] = 1.0 if content_counts else 0.0
        if 2 <= examples <= prefix:
            # One combination of the two targets is fixed.
            together = AtLeast(float(value_dim))
            predicted["equal_residual"] = 0.0 if equal_queries_differ else together
    return predicted


FALSIFIERS = (
    Falsifier("n d_k", "keys fixed in advance store n d_k examples", fixed_keys_store="n d_k"),
    Falsifier("n + 1", "keys fixed in advance store one example more", fixed_keys_store="n + 1"),
    Falsifier("no limit", "free keys and values store any number of examples",
              free_keys_limited=False),
    Falsifier("values alone", "keys add nothing: a Jacobian of rank n d_v", keys_count=False),
    Falsifier("equal queries", "two equal queries can have different outputs",
              equal_queries_differ=True),
    Falsifier("content forgotten", "V = P⁻¹Y stores them too, without the content's term",
              content_counts=False),
)  # fmt: skip


# --- the simulation ---

_CONTENT = 5
SPREAD = 2.0
"""Standard deviation of scores: flat enough that rows differ, and not yet one key a query."""

MOST_CONDITION = 1e9
"""Condition number above which rounding would hide whether a solution is exact."""

LARGEST_JACOBIAN = 512
"""Numbers M · d_v up to which a simulation looks at the Jacobian."""


class Problem(NamedTuple):
    """M examples with content of their own, wanted outputs, and keys chosen without them.

    Any axes before these count problems.
    """

    queries: Float[np.ndarray, "*t M d"]
    content_scores: Float[np.ndarray, "*t M S"]
    content_values: Float[np.ndarray, "*t M S v"]
    wanted: Float[np.ndarray, "*t M v"]
    keys: Float[np.ndarray, "*t n d"]

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (…, M, n) on the prefix and (…, M, S) on the content, from one softmax."""
        on_keys = self.queries @ np.swapaxes(self.keys, -1, -2)
        scores = np.concatenate([on_keys, self.content_scores], axis=-1)
        terms = np.exp(scores - scores.max(axis=-1, keepdims=True))
        terms /= terms.sum(axis=-1, keepdims=True)
        n = self.keys.shape[-2]
        return terms[..., :n], terms[..., n:]

    def outputs(self, values: np.ndarray) -> np.ndarray:
        """The head's outputs (…, M, d_v), token by token."""
        on_prefix, on_content = self.weights()
        return on_prefix @ values + _mean_of_content(on_content, self.content_values)

    def at(self, index: int) -> Problem:
        """One problem of many."""
        return Problem(*(array[index] for array in self))


def _mean_of_content(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.einsum("...is,...isv->...iv", weights, values)


def draw_problem(
    random: np.random.Generator, key_dim: int, value_dim: int, prefix: int, examples: int,
    *, count: tuple[int, ...] = (),
) -> Problem:  # fmt: skip
    """Independent problems of the shape `count`; one by default."""
    queries = random.normal(size=(*count, examples, key_dim))
    content_keys = random.normal(size=(*count, examples, _CONTENT, key_dim))
    scale = SPREAD / np.sqrt(key_dim)
    return Problem(
        queries,
        scale * np.einsum("...id,...isd->...is", queries, content_keys),
        random.normal(size=(*count, examples, _CONTENT, value_dim)),
        random.normal(size=(*count, examples, value_dim)),
        scale * random.normal(size=(*count, prefix, key_dim)),
    )


def with_equal_queries(problem: Problem) -> Problem:
    """The same problems, in which the second query is the first; contents still differ."""
    queries = problem.queries.copy()
    queries[..., 1, :] = queries[..., 0, :]
    return problem._replace(queries=queries)


def _squared_residuals(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distance from what best values give, and condition number of the weights.

    Between them the same distance for the values that forget the content, as a share of the
    squared size of what the prefix leaves of the content's outputs.
    """
    on_prefix, on_content = problem.weights()
    # What the content gives without a prefix, and what of it the prefix leaves.
    mass = on_content.sum(axis=-1, keepdims=True)
    plain = _mean_of_content(on_content / mass, problem.content_values)
    kept = (1 - on_prefix.sum(axis=-1, keepdims=True)) * plain
    rounding = np.finfo(np.float64).eps * max(on_prefix.shape[-2:])
    inverse = np.linalg.pinv(on_prefix, rcond=rounding)

    def missed(target: np.ndarray) -> np.ndarray:
        values = inverse @ target
        values += inverse @ (target - on_prefix @ values)  # takes back what the inverse rounded
        return np.square(problem.outputs(values) - problem.wanted).sum(axis=(-2, -1))

    forgotten = missed(problem.wanted) / np.square(kept).sum(axis=(-2, -1))
    return missed(problem.wanted - kept), forgotten, np.linalg.cond(on_prefix)


def _jacobian_rank(problem: Problem, values: Float[np.ndarray, "n v"]) -> int:
    """Rank of the derivative of one problem's outputs by keys and values, at these values."""
    on_prefix, _ = problem.weights()
    step = values[None] - problem.outputs(values)[:, None]  # (M, n, v)
    examples, width = step.shape[0], step.shape[2]
    by_values = np.einsum("ik,uv->iukv", on_prefix, np.eye(width))
    by_keys = np.einsum("ik,iku,id->iukd", on_prefix, step, problem.queries)
    both = np.concatenate([by_values, by_keys], axis=3)
    return int(np.linalg.matrix_rank(both.reshape(examples * width, -1)))


_NUMBERS_AT_ONCE = 2**21
"""Numbers of the problems that are held together: 16 MB."""

_RANKED = 3
"""Problems of which a simulation takes ranks: they are equal for almost all."""


def simulate(
    *, key: Key[Array, ""], trials: int, key_dim: int, value_dim: int, prefix: int, examples: int
) -> dict[str, Estimate]:
    """Random problems at keys drawn without them: best values by least squares, in float64.

    Raises:
        ParameterError: the Jacobian would be too large.
        NumericalError: the weights are too ill-conditioned to tell.
    """
    if examples * value_dim > LARGEST_JACOBIAN:
        raise ParameterError(
            "examples", examples, f"at most {LARGEST_JACOBIAN // value_dim} for "
            f"value_dim = {value_dim}", "a simulation factorises the Jacobian; predict takes any",
            CLAIM.id,
        )  # fmt: skip
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    draw = functools.partial(draw_problem, random, key_dim, value_dim, prefix, examples)
    first = draw(count=(_RANKED,))
    ranks = [
        _jacobian_rank(first.at(i), random.normal(size=(prefix, value_dim))) for i in range(_RANKED)
    ]
    dimensions = np.linalg.matrix_rank(first.weights()[0])
    together = max(1, _NUMBERS_AT_ONCE // (examples * (_CONTENT + 1) * (key_dim + value_dim)))
    measured = [
        _measure(draw(count=(min(together, trials - done),)), pairs=2 <= examples <= prefix)
        for done in range(0, trials, together)
    ]
    residuals, forgotten, conditions, equal = map(np.concatenate, zip(*measured, strict=True))
    exact = examples <= prefix
    if exact and conditions.max() > MOST_CONDITION:
        raise NumericalError(
            f"{CLAIM.id}: weights with a condition number of {conditions.max():.0e} at "
            f"key_dim = {key_dim}, prefix = {prefix}; choose a larger key_dim or fewer vectors"
        )
    estimates = {
        "residual": exact_estimate(residuals.max(), trials) if exact else mean_estimate(residuals),
        "codimension": exact_estimate(float((examples - dimensions.max()) * value_dim), trials),
        "rank": exact_estimate(float(max(ranks)), trials),
        "condition": exact_estimate(float(np.median(conditions)), trials),
    }
    # Every target is reached, or the image has measure 0; between the bounds neither is shown.
    if exact:
        estimates["storable"] = exact_estimate(float((residuals < _EXACT).mean()), trials)
        worst = forgotten[np.argmax(np.abs(forgotten - 1))]
        estimates["forgotten_content"] = exact_estimate(float(worst), trials)
    elif examples * value_dim > prefix * (key_dim + value_dim):
        some = max(ranks) == examples * value_dim
        estimates["storable"] = exact_estimate(0.5 if some else 0.0, trials)
    if equal.size:
        estimates["equal_residual"] = mean_estimate(equal)
    return estimates


def _measure(
    problem: Problem, *, pairs: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """:func:`_squared_residuals`; and the first for equal queries, none without a pair."""
    equal = _squared_residuals(with_equal_queries(problem))[0] if pairs else np.empty(0)
    return *_squared_residuals(problem), equal


_EXACT = 1e-12


def _residual_tolerance(point: Mapping[str, Any]) -> float:
    """1e-12 where every target can be reached, a quarter of the bound elsewhere."""
    beyond = point["examples"] - point["prefix"]
    return 0.25 * beyond * point["value_dim"] if beyond > 0 else _EXACT


# --- the design ---


def _run(key_dim: int, value_dim: int, prefix: int, examples: int) -> Run:
    return Run(key_dim=key_dim, value_dim=value_dim, prefix=prefix, examples=examples)


_RUNS = (
    *(_run(4, 4, 3, m) for m in (2, 3, 4, 7)),
    *(_run(2, 4, 4, m) for m in (4, 5, 7)),
    _run(8, 4, 3, 3), _run(4, 1, 4, 5), _run(4, 1, 4, 21), _run(8, 8, 16, 16),
    _run(8, 8, 16, 17),
)  # fmt: skip

CLAIM = Claim(
    id="prefix.capacity",
    title="How many examples a prefix stores",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="derived here, after Petrov et al., ICLR 2024",
    parameters=(
        Parameter("key_dim", "integer", "width of keys and queries", "d_k", low=1, high=128),
        Parameter("value_dim", "integer", "width of values", "d_v", low=1, high=128),
        Parameter("prefix", "integer", "prefix positions", "n", low=1, high=32),
        Parameter("examples", "integer", "examples to store", "M", low=1, high=512),
    ),
    quantities=(
        Quantity("storable", "1 where every target can be reached, 0 where almost none can, "
                 "1/2 between", 0.0, side="two"),
        Quantity("residual", "squared distance to the best outputs, keys fixed in advance",
                 _residual_tolerance, side="predicted"),
        Quantity("codimension", "conditions on the targets, keys fixed in advance", 0.0,
                 side="two"),
        Quantity("rank", "rank of the outputs' derivative by keys and values: at most", 0.0,
                 side="upper"),
        Quantity("forgotten_content", "squared distance missed by V = P⁻¹Y, as a share of what is "
                 "left of the content's outputs", 1e-6, side="two"),
        Quantity("equal_residual", "the same distance with two equal queries",
                 lambda point: 0.25 * point["value_dim"], side="predicted"),
        Quantity("condition", "median condition number of the weights", 0.0, side="two",
                 unmeasured=True),
    ),
    compared=Compared(
        {"key_dim": (1, 32), "value_dim": (1, 8), "prefix": (1, 32), "examples": (1, 40)},
        elsewhere="exact: whole numbers; where `storable` is 1/2 nothing is claimed",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(*_RUNS, trials=600),
        "full": Design(
            *_RUNS, _run(16, 4, 32, 32), _run(16, 4, 32, 33), _run(64, 2, 32, 32), trials=2000
        ),
    },
    broadcasts="all parameters, for storable, codimension and rank",
    cost="short",
    figure=Curves(
        x="examples", y="residual", series="prefix",
        design=Design.product(
            {"key_dim": 4, "value_dim": 4},
            {"prefix": [2, 4, 6], "examples": list(range(1, 10))}, trials=200,
        ),
        title="A prefix of n vectors stores n examples exactly, and no further one",
        y_label="squared distance missed",
        caption="lines: 0 up to n, then the lower bound (M − n) $d_v$; keys drawn in advance",
    ),
)  # fmt: skip
