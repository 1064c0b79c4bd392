"""build_sequence_prefix: layers that do what their certificate says, or say what they could not."""

import math

import numpy as np
import pytest

from jaxprompt.universal import build_sequence_prefix


def sort(x):
    return np.sort(x, axis=-2)


def running_maximum(x):
    return np.maximum.accumulate(x, axis=-2)


def reverse(x):
    return x[..., ::-1, :]


def convolve(x):
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
    return (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4


def attend(x, causal=False):
    score = 2 * x @ np.swapaxes(x, -1, -2)
    if causal:
        length = x.shape[-2]
        score = np.where(np.tril(np.ones((length, length), bool)), score, -np.inf)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True) @ x


def attend_causally(x):
    return attend(x, causal=True)


# The slope of attention: |values| 1, scores 2 E|x − f| ≤ 1, own query 2 var x ≤ 1/2.
MAPS = {
    "sort": (sort, 1.0),
    "running maximum": (running_maximum, 1.0),
    "convolution": (convolve, 1.0),
    "reversal": (reverse, 1.0),
    "attention": (attend, 2.5),
    "causal attention": (attend_causally, 2.5),
}


def plain_stack(prefix, sequence, dtype=np.float64):
    """The layers of a prefix on one sequence, as softmax attention is defined: token by token.

    Token rows are (numbers, 1, place, zeros); shares nothing with the library's evaluation.
    """
    length, dim = sequence.shape
    width = prefix.layers[0].query.shape[1]
    tokens = [
        np.concatenate([
            sequence[p], [1.0], np.arange(length) == p, np.zeros(width - dim - 1 - length)
        ]).astype(dtype)
        for p in range(length)
    ]  # fmt: skip
    for layer in prefix.layers:
        keys = [*layer.prefix_keys, *(layer.key @ t for t in tokens)]
        values = [*layer.prefix_values, *(layer.value @ t for t in tokens)]
        after = []
        for token in tokens:
            score = np.array([np.dot(layer.query @ token, key) for key in keys])
            weight = np.exp(score - score.max())
            after.append(token + np.einsum("i,iw->w", weight / weight.sum(), np.array(values)))
        tokens = after
    return np.array(tokens)[:, width - prefix.candidate.at.out :]


@pytest.mark.parametrize("name", MAPS)
def test_layers_as_plain_attention(name):
    f, _ = MAPS[name]
    prefix = build_sequence_prefix(f, length=3, dim=1, accuracy=0.2, test_sequences=200)
    for x in np.random.default_rng(0).uniform(size=(3, 3, 1)):
        plain = plain_stack(prefix, x)
        np.testing.assert_allclose(prefix(x), plain, rtol=0, atol=1e-12)
        assert np.abs(plain - f(x)).max() <= 0.2


@pytest.mark.parametrize("name", MAPS)
def test_reaches_its_accuracy_with_as_many_tokens_as_its_class_needs(name):
    """The lookup has one token for each multiset of cells, and the lower bound as many."""
    f, _ = MAPS[name]
    prefix = build_sequence_prefix(f, length=4, dim=1, accuracy=0.2, test_sequences=400)
    note = prefix.certificate
    x = np.random.default_rng(5).uniform(size=(2000, 4, 1))
    assert note.reached
    assert np.abs(prefix(x) - f(x)).max() <= note.measured * (1 + 1e-9) <= 0.2
    assert note.tokens == sum(prefix.tokens) == sum(len(keys) for keys, _ in prefix.prefixes)
    assert note.depth == len(prefix.layers) <= 4 + 1
    assert note.guaranteed == math.inf
    assert note.estimated >= note.measured
    assert note.needed_tokens <= prefix.tokens[-1]


@pytest.mark.parametrize(
    ("name", "symmetry"),
    [("sort", "invariant"), ("attention", "equivariant"), ("causal attention", "causal"),
     ("running maximum", [[range(p + 1)] for p in range(3)]), ("convolution", "none")],
)  # fmt: skip
def test_a_given_constant_and_structure_give_a_guarantee(name, symmetry):
    f, constant = MAPS[name]
    prefix = build_sequence_prefix(
        f, length=3, dim=1, accuracy=0.22, lipschitz=constant, symmetry=symmetry, test_sequences=200
    )
    note = prefix.certificate
    assert note.lipschitz_source == "given"
    assert note.measured <= note.guaranteed <= 0.22
    cells = math.ceil(constant / 0.44)
    counts = {
        "invariant": 3 * math.comb(cells + 2, 3),
        "equivariant": cells * math.comb(cells + 1, 2),
        "causal": cells + cells**2 + cells**3,
        "none": 3 * cells**3,
    }
    expected = (
        counts[symmetry]
        if isinstance(symmetry, str)
        else sum(math.comb(cells + p, p + 1) for p in range(3))
    )
    assert note.needed_tokens == expected
    # 1 % wider cells are what float64 layers with a guarantee take.
    assert prefix.tokens[-1] == expected
