"""Sparse grids as one wide kernel: sets by enumeration, the flat limit, layers as plain attention,
tokens beside the other methods."""

import itertools
import math

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt.universal import build_sequence_prefix
from jaxprompt.universal.build.sequence_sparse import leja_points, lower_set, spread_points


def after(x):
    return np.roll(x, -1, axis=-2)


def products(x):
    return np.exp(x * after(x))


def attention(x):
    weight = np.exp(2 * x @ np.swapaxes(x, -1, -2))
    return weight / weight.sum(axis=-1, keepdims=True) @ x


def bell(x):
    height = np.exp(-2 * ((x - 0.4) ** 2).sum(axis=(-2, -1), keepdims=True))
    return np.repeat(height, x.shape[-2], axis=-2)


def cosines(x):
    wave = np.cos(x * np.array([1, 2, 1.5, 0.5])[:, None])
    return np.repeat(wave.prod(axis=-2, keepdims=True), 4, axis=-2)


MAPS = {"products": products, "attention": attention, "bell": bell, "cosines": cosines}


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 5, 20, 60])
def test_lower_sets_by_enumeration(cross, rank, size):
    found = {tuple(k) for k in lower_set(rank, size, cross=cross).tolist()}

    def level(k):
        return math.prod(i + 1 for i in k) - 1 if cross else sum(k)

    limit = max(level(k) for k in found)
    box = list(itertools.product(range(limit + 2), repeat=rank))
    assert found == {k for k in box if level(k) <= limit}
    assert len(found) <= size < sum(level(k) <= limit + 1 for k in box)
    for k in found:  # with each multi-index all smaller ones
        for axis in range(rank):
            if k[axis]:
                assert (*k[:axis], k[axis] - 1, *k[axis + 1 :]) in found


def test_leja_points_are_far_from_those_before():
    points = leja_points(12)
    fine = np.linspace(-1, 1, 20_001)
    for count in range(3, 12):
        product = np.abs(fine[:, None] - points[:count]).prod(axis=1)
        reached = np.abs(points[count] - points[:count]).prod()
        assert reached >= 0.999 * product.max()


@pytest.mark.parametrize("rank", [1, 2, 4, 7])
def test_spread_points_fill_the_box(rank):
    """Every half and quarter of an axis has its share, as of points drawn at random at most twice
    as far off as their standard deviation over √count, here far nearer."""
    points = spread_points(rank, 400)
    assert points.min() >= -1
    assert points.max() <= 1
    np.testing.assert_array_equal(points[0], np.zeros(rank))
    for axis in points.T:
        counts = np.histogram(axis, bins=4, range=(-1, 1))[0]
        assert np.abs(counts - 100).max() <= 8
    pairs = np.histogramdd(points[:, :2], bins=2, range=[(-1, 1)] * min(rank, 2))[0]
    assert np.abs(pairs / 400 - 0.5 ** min(rank, 2)).max() < 0.03


@pytest.mark.parametrize(("rank", "degree"), [(1, 3), (2, 2), (3, 2), (4, 1)])
def test_wide_kernels_on_a_sparse_grid_span_its_polynomials(rank, degree):
    """As λ → 0 as many tokens as monomials fit every polynomial: the error falls as λ does."""
    count = math.comb(degree + rank, rank)
    indices = lower_set(rank, count, cross=False)
    centres = leja_points(max(degree + 1, 3))[indices]
    random = np.random.default_rng(rank)
    z = random.uniform(-1, 1, size=(400, rank))
    powers = [k for k in itertools.product(range(degree + 1), repeat=rank) if sum(k) <= degree]
    assert len(powers) == count
    monomials = np.stack([(z ** np.array(k)).prod(axis=1) for k in powers], axis=1)
    errors = []
    for lam in (0.04, 0.02, 0.01):
        score = lam * (z @ centres.T - 0.5 * (centres**2).sum(axis=1))
        weight = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
        values = np.linalg.lstsq(weight, monomials, rcond=1e-15)[0]
        errors.append(np.abs(weight @ values - monomials).max())
    assert errors[2] < 0.03
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


@pytest.mark.parametrize("name", mostly_slow(MAPS, {"products", "attention"}.__contains__))
def test_layers_as_plain_attention(name):
    """By the definition of softmax attention, token by token; shares nothing with the library's."""
    prefix = build_sequence_prefix(
        MAPS[name], length=4, dim=1, accuracy=0.5, method="sparse", test_sequences=200
    )
    assert prefix.certificate.reached
    assert prefix.certificate.method == "sparse"
    for x in np.random.default_rng(0).uniform(size=(2, 4, 1)):
        width = prefix.layers[0].query.shape[1]
        tokens = [np.zeros(width) for _ in range(4)]
        for p, token in enumerate(tokens):
            token[0], token[1], token[2 + p] = x[p, 0], 1.0, 1.0
        for layer in prefix.layers:
            keys = [*layer.prefix_keys, *(layer.key @ t for t in tokens)]
            values = [*layer.prefix_values, *(layer.value @ t for t in tokens)]
            moved = []
            for token in tokens:
                score = np.array([np.dot(layer.query @ token, key) for key in keys])
                weight = np.exp(score - score.max())
                moved.append(token + np.einsum("i,iw->w", weight / weight.sum(), np.array(values)))
            tokens = moved
        np.testing.assert_allclose(prefix(x)[:, 0], np.array(tokens)[:, -1], rtol=0, atol=1e-10)


LONG = ("cosines", "bell", "attention")
"""Maps for which the other methods take seconds."""


@pytest.mark.parametrize("name", mostly_slow(MAPS, lambda name: name not in LONG))
def test_fewer_tokens_than_other_methods_and_auto_takes_them(name):
    f = MAPS[name]
    used = {}
    for method in ("sparse", "ridge", "auto"):
        prefix = build_sequence_prefix(
            f, length=4, dim=1, accuracy=0.1, method=method, test_sequences=300
        )
        note = prefix.certificate
        assert note.reached
        assert note.value_norm <= 10 * note.sup_norm * (len(prefix.layers) if method == "ridge"
                                                        else 1) * (1 + 1e-9)  # fmt: skip
        used[method] = note.tokens
        x = np.random.default_rng(3).uniform(size=(4000, 4, 1))
        assert np.linalg.norm(prefix(x) - f(x), axis=-1).max() <= 0.1
    assert used["sparse"] <= used["ridge"] / 2
    assert used["auto"] == used["sparse"]


@pytest.mark.slow
def test_a_map_that_is_not_smooth_is_left_to_the_kernel():
    prefix = build_sequence_prefix(
        lambda x: np.sort(x, axis=-2), length=4, dim=1, accuracy=0.1, test_sequences=200
    )
    assert prefix.certificate.method == "kernel"
    assert prefix.certificate.reached


def test_a_budget_that_does_not_suffice_is_said():
    prefix = build_sequence_prefix(
        cosines, length=4, dim=1, accuracy=0.01, method="sparse", budget=40, test_sequences=200
    )
    note = prefix.certificate
    assert not note.reached
    assert note.tokens <= 40
    assert note.guaranteed == math.inf
    assert note.required_tokens > 40


@pytest.mark.parametrize("domain", some_slow(["torus", "sphere"], first=1))
def test_on_other_domains(domain):
    def f(x):
        first = x[..., 0] if domain == "sphere" else np.cos(x[..., 0])
        return np.exp(first * np.roll(first, -1, axis=-1) / 2)

    prefix = build_sequence_prefix(
        f, length=2, dim=3 if domain == "sphere" else 1, domain=domain, accuracy=0.1,
        method="sparse", test_sequences=300,
    )  # fmt: skip
    assert prefix.certificate.reached
