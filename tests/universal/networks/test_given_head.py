"""Which heads a prefix makes universal: exact ranks, transplanted prefixes, and counterexamples."""

import inspect
import itertools
from fractions import Fraction

import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_prefix, head_capacity


def run_head(w_query, w_key, w_value, readout, prefix, query_tokens, content):
    """A plain softmax head: outputs at query tokens (Q, w), over prefix and content rows."""
    rows = np.concatenate([prefix, content])
    scores = (query_tokens @ w_query.T) @ (rows @ w_key.T).T / np.sqrt(len(w_key))
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True) @ (rows @ w_value.T) @ readout.T


def unit(points):
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def random_head(random, n=3, d=2, width=9, d_key=5, d_value=4):
    return {
        "w_query": random.normal(size=(d_key, width)),
        "w_key": random.normal(size=(d_key, width)),
        "w_value": random.normal(size=(d_value, width)),
        "embedding": random.normal(size=(width, n)),
        "readout": random.normal(size=(d, d_value)),
    }


def smooth(x):
    return np.stack([np.sin(2 * x[..., 0]) * x[..., 1], x[..., 2] ** 2], axis=-1)


@pytest.mark.parametrize("seed", range(3))
def test_a_prefix_is_transplanted_into_a_given_head(seed):
    """The given head, run token by token, computes what the fixed head of the theorem does."""
    matrices = random_head(np.random.default_rng(seed))
    capacity = head_capacity(**matrices)
    assert capacity.universal
    assert (capacity.key_rank, capacity.value_rank, capacity.joint_rank) == (3, 2, 5)
    prefix = build_prefix(smooth, sphere_dim=2, accuracy=0.2, content=0, test_points=1000)
    tokens = capacity.tokens(prefix.keys, prefix.values)
    points = unit(np.random.default_rng(5).normal(size=(200, 3)))
    embedding = matrices.pop("embedding")
    queries = points @ embedding.T
    output = run_head(**matrices, prefix=tokens, query_tokens=queries, content=np.zeros((0, 9)))
    np.testing.assert_allclose(output, prefix(points), atol=1e-9 * prefix.certificate.value_norm)
    longest = np.linalg.norm(np.concatenate([prefix.keys, prefix.values], axis=1), axis=1).max()
    assert np.linalg.norm(tokens, axis=1).max() <= capacity.amplification * longest * (1 + 1e-9)
    assert "universal" in str(capacity)


def test_content_of_its_own_is_outweighed_by_a_sharp_prefix():
    """The given head's content has scores and values: a sharp kernel leaves it a small share."""
    matrices = random_head(np.random.default_rng(8))
    capacity = head_capacity(**matrices)
    embedding = matrices.pop("embedding")
    prefix = build_prefix(
        smooth, sphere_dim=2, accuracy=0.5, lipschitz=3.0, method="net", content=1, test_points=1000
    )
    lam, points = prefix.concentration, unit(np.random.default_rng(6).normal(size=(100, 3)))
    tokens = capacity.tokens(prefix.keys, prefix.values)
    queries = points @ embedding.T
    for x, query in zip(points, queries, strict=True):  # the content is the query's own token
        output = run_head(**matrices, prefix=tokens, query_tokens=query[None], content=query[None])[
            0
        ]
        own_score = x @ capacity.score_matrix @ query
        own_value = np.linalg.norm(capacity.value_matrix @ query)
        # The nearest centre is within half a radian: the prefix has at least e^{λ cos ½} of mass.
        share = np.exp(min(own_score - lam * np.cos(0.5), 0.0))
        allowed = 0.5 + share * (own_value + 1.5)
        assert np.linalg.norm(output - smooth(x)) <= allowed
        assert share < 1e-6


def exact_rank(matrix):
    """Rank of a matrix of integers, by elimination in fractions."""
    rows, rank = [[Fraction(int(x)) for x in row] for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / rows[rank][column]
            rows[i] = [x - factor * y for x, y in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def test_ranks_and_verdict_by_exact_arithmetic():
    """Integer heads of all ranks, by fractions; and whether keys and values can be had at all."""
    random, verdicts = np.random.default_rng(1), []
    for _ in range(60):
        n, d, width = (int(v) for v in random.integers([1, 1, 2], [4, 3, 7]))
        inner = int(random.integers(1, 4))
        w_query = random.integers(-2, 3, size=(4, inner)) @ random.integers(-2, 3, (inner, width))
        w_key = random.integers(-2, 3, size=(4, inner)) @ random.integers(-2, 3, (inner, width))
        w_value = random.integers(-2, 3, size=(d, width))
        embedding = random.integers(-2, 3, size=(width, n))
        if random.random() < 0.4:  # values that are keys
            w_value[0] = (w_query @ embedding)[:, 0] @ w_key
        if random.random() < 0.3:
            w_value[-1] = 0
        capacity = head_capacity(w_query, w_key, w_value, embedding=embedding, scaled=False)
        scores = (w_query @ embedding).T @ w_key
        joint = np.concatenate([scores, w_value])
        assert capacity.key_rank == exact_rank(scores)
        assert capacity.value_rank == exact_rank(w_value)
        assert capacity.joint_rank == exact_rank(joint)
        wanted = random.normal(size=n + d)
        both = joint.astype(float)
        missed = np.linalg.norm(both @ np.linalg.lstsq(both, wanted, rcond=None)[0] - wanted)
        assert capacity.universal == bool(missed < 1e-9)
        verdicts.append(capacity.obstacle)
    assert {"", "queries", "outputs", "tied"} <= set(verdicts)


def unseen_query(random):
    """A head whose keys are read through a matrix that loses a direction of the query."""
    matrices = random_head(random)
    lost = unit(random.normal(size=3))
    matrices["embedding"] = matrices["embedding"] @ (np.eye(3) - np.outer(lost, lost))
    return matrices, "queries"


def missing_output(random):
    matrices = random_head(random)
    matrices["w_value"][:] = np.outer(random.normal(size=4), random.normal(size=9))
    return matrices, "outputs"


def tied_values(random):
    """Values that are the keys: the output is the gradient of a convex function of the query."""
    matrices = random_head(random, n=2, d=2, d_value=2)
    enter = matrices["w_query"] @ matrices["embedding"]
    matrices["w_value"] = enter.T @ matrices["w_key"]
    matrices["readout"] = np.eye(2)
    return matrices, "tied"


@pytest.mark.parametrize("make", [unseen_query, missing_output, tied_values])
def test_every_prefix_misses_the_counterexample(make):
    """Random prefixes, and prefixes fitted by descent, miss the stated function by 1 or more."""
    random = np.random.default_rng(3)
    matrices, obstacle = make(random)
    capacity = head_capacity(**matrices)
    assert not capacity.universal
    assert capacity.obstacle == obstacle
    assert capacity.amplification == np.inf
    embedding = matrices.pop("embedding")
    direction = capacity.query_direction
    points = np.stack([direction, -direction])
    wanted = capacity.missed_function(points)
    assert np.linalg.norm(wanted, axis=1).max() == pytest.approx(1)

    def error(prefix):
        output = run_head(
            **matrices, prefix=prefix, query_tokens=points @ embedding.T, content=np.zeros((0, 9))
        )
        return np.linalg.norm(output - wanted, axis=1).max()

    best = np.inf
    for _, scale in itertools.product(range(100), (0.03, 0.3, 3.0)):
        prefix = scale * random.normal(size=(int(random.integers(1, 9)), 9))
        best = min(best, error(prefix))
    prefix = 0.1 * random.normal(size=(6, 9))
    for _ in range(400):  # a search that keeps what is better
        other = prefix + 0.2 * random.normal(size=prefix.shape) * random.random()
        prefix = other if error(other) < error(prefix) else prefix
    assert min(best, error(prefix)) >= 1 - 1e-9
    with pytest.raises(ParameterError, match=obstacle):
        capacity.tokens(np.zeros((1, len(direction))), np.zeros((1, wanted.shape[1])))
    assert "not universal" in str(capacity)


def test_the_whole_residual_stream_is_too_much_to_ask():
    """Queries of full width leave no direction of the token for values."""
    random = np.random.default_rng(4)
    capacity = head_capacity(*random.normal(size=(3, 8, 8)))
    assert not capacity.universal
    assert capacity.obstacle == "tied"
    assert capacity.key_rank == capacity.value_rank == capacity.joint_rank == 8


def test_rank_in_single_precision():
    """A matrix of rank 2 stored in float32 has rank 2."""
    random = np.random.default_rng(5)
    low_rank = (random.normal(size=(6, 2)) @ random.normal(size=(2, 12))).astype(np.float32)
    matrices = random_head(random, width=12, d_key=6) | {"w_key": low_rank}
    assert head_capacity(**matrices).key_rank == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"w_query": np.ones((4, 9))}, "w_query"),
        ({"w_key": np.ones(9)}, "w_key"),
        ({"w_value": np.full((4, 9), np.nan)}, "w_value"),
        ({"embedding": np.ones((8, 3))}, "embedding"),
        ({"readout": np.ones((2, 3))}, "readout"),
    ],
)
def test_bad_input(changes, word):
    matrices = random_head(np.random.default_rng(0)) | changes
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        inspect.unwrap(head_capacity)(**matrices)
    assert "\n" not in str(caught.value)


def test_questions_that_do_not_fit_are_refused():
    capacity = head_capacity(**random_head(np.random.default_rng(0)))
    with pytest.raises(ParameterError, match="missed_function"):
        _ = capacity.missed_function
    with pytest.raises(ParameterError, match="keys"):
        capacity.tokens(np.ones((2, 3)), np.ones((3, 2)))
