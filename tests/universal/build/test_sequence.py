"""build_sequence_prefix: layers that do what their certificate says, or say what they could not."""

import inspect
import math

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_sequence_prefix
from jaxprompt.universal.build.sequence_certificate import SequenceProblem
from jaxprompt.universal.build.sequence_paper import MOST_DIGITS_AT_ONCE, paper_candidate
from jaxprompt.universal.build.sequence_target import Domain
from jaxprompt.universal.networks.stack import score_rounding


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


@pytest.mark.parametrize("name", mostly_slow(MAPS, {"sort", "causal attention"}.__contains__))
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
    prefix = build_sequence_prefix(
        f, length=4, dim=1, accuracy=0.2, method="kernel", test_sequences=400
    )
    note = prefix.certificate
    x = np.random.default_rng(5).uniform(size=(2000, 4, 1))
    assert note.reached
    assert np.abs(prefix(x) - f(x)).max() <= note.measured * (1 + 1e-9) <= 0.2
    assert note.tokens == sum(prefix.tokens) == sum(len(keys) for keys, _ in prefix.prefixes)
    assert note.depth == len(prefix.layers) <= 4 + 1
    assert note.guaranteed == math.inf
    assert note.estimated >= note.measured
    if name == "attention":  # of slope 1.65: easier than some map with that constant
        assert note.needed_tokens > prefix.tokens[-1]
    else:
        assert note.needed_tokens <= prefix.tokens[-1]


@pytest.mark.parametrize(
    ("name", "symmetry"),
    some_slow(
        [("attention", "equivariant"), ("causal attention", "causal"), ("convolution", "none"),
         ("sort", "invariant"), ("running maximum", [[range(p + 1)] for p in range(3)])],
        first=3,
    ),
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


def wave(x):
    other = x[..., ::-1, :]
    return np.exp(x * other) * np.cos(3 * x - other)


def test_sums_over_directions_for_smooth_maps():
    rough, fine = (
        build_sequence_prefix(wave, length=2, dim=1, accuracy=a, method="ridge", test_sequences=300)
        for a in (1e-2, 1e-4)
    )
    x = np.random.default_rng(1).uniform(size=(500, 2, 1))
    for prefix, accuracy in ((rough, 1e-2), (fine, 1e-4)):
        assert prefix.certificate.method == "ridge"
        assert prefix.certificate.reached
        assert np.abs(prefix(x) - wave(x)).max() <= accuracy
        assert prefix.certificate.value_norm < math.inf
    # The kernel method would need (L/2ε)² tokens.
    assert fine.certificate.tokens < 2 * rough.certificate.tokens + 100 < 1000
    np.testing.assert_allclose(fine(x[0]), plain_stack(fine, x[0]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("f", some_slow([convolve, reverse], first=1))
def test_a_linear_map_has_one_direction_at_any_length(f):
    prefix = build_sequence_prefix(f, length=12, dim=1, accuracy=1e-3, test_sequences=200)
    assert prefix.certificate.reached
    assert sum(prefix.tokens) <= 24
    assert prefix.depth <= 3


def test_the_papers_form_has_its_depth_and_its_jump():
    """K digits err by half a cell away from dyadic numbers, and by 1/2 − 2^-(K+1) next to one."""
    prefix = build_sequence_prefix(
        sort, length=2, dim=1, accuracy=0.05, method="paper", budget=1000, test_sequences=500
    )
    assert prefix.depth == 2 + 2
    assert prefix.tokens == (16, 0, 256, 256)
    assert prefix.certificate.measured == pytest.approx(0.5 - 2.0**-5, abs=1e-4)
    assert not prefix.certificate.reached
    x = (np.random.default_rng(3).integers(16, size=(300, 2, 1)) + 0.37) / 16
    assert np.abs(prefix(x) - sort(x)).max() == pytest.approx(0.13 / 16, rel=1e-9)
    np.testing.assert_allclose(prefix(x[0]), plain_stack(prefix, x[0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("length", "dim", "digits"),
    mostly_slow(
        [(2, 1, 7), (2, 7, 1), (14, 1, 1), (3, 1, 5), (5, 3, 1), (2, 2, 4), (4, 1, 4), (8, 2, 1),
         (1, 1, 17), (1, 2, 9), (2, 1, 9), (2, 3, 3)],
        lambda case: case in [(2, 1, 7), (2, 7, 1), (1, 1, 17), (2, 1, 9)],
    ),
)  # fmt: skip
def test_the_papers_form_mistakes_no_cell(length, dim, digits):
    """At the largest sizes with and without a split, cells are told apart as exact codes are."""
    domain = Domain("cube", length, dim)
    problem = SequenceProblem(
        lambda x: x[:, ::-1], domain, dim, 0.1, 2**20, 1.0, False, 10.0,
        np.full((1, length, dim), 0.5**digits / 2), np.full((1, length, dim), 0.5**digits / 2), 0,
    )  # fmt: skip
    built = paper_candidate(problem, digits)
    total = digits * length * dim
    split = total > MOST_DIGITS_AT_ONCE
    assert built.tokens[-1] == 2**total
    assert len(built.layers) == length + 2 + split
    random = np.random.default_rng(0)
    number = random.integers(2**digits, size=(12, length, dim))
    number[0], number[1] = 0, 2**digits - 1  # the last has the largest scores
    cells = (number + 0.5) / 2**digits
    assert np.abs(built.outputs(cells) - cells[:, ::-1]).max() < 1e-9
    last = built.layers[-1]
    channels = np.ones(built.at.width)
    scale = (3.0 ** -(dim * np.arange(length))).sum()
    channels[built.at.gather(0)] = 1 / scale
    if split:
        channels[built.at.gather(1)] = 3.0 ** -(total // 2) / scale
    rounding = score_rounding(last, np.abs(last.query) @ channels)
    assert rounding < (3 if not split else 0.01)


def test_the_papers_form_of_vectors():
    prefix = build_sequence_prefix(
        reverse, length=2, dim=2, accuracy=0.4, method="paper", budget=1000, test_sequences=200
    )
    x = (np.random.default_rng(3).integers(4, size=(100, 2, 2)) + 0.5) / 4
    assert prefix.tokens == (16, 0, 256, 256)
    assert np.abs(prefix(x) - reverse(x)).max() < 1e-9


@pytest.mark.parametrize(("domain", "dim"), [("cube", 2), ("sphere", 2), ("sphere", 3)])
def test_vectors_and_unit_vectors(domain, dim):
    random = np.random.default_rng(2)
    x = random.uniform(size=(400, 2, dim))
    if domain == "sphere":
        x = random.normal(size=(400, 2, dim))
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
    prefix = build_sequence_prefix(
        reverse, length=2, dim=dim, accuracy=0.55, domain=domain, lipschitz=1.0, symmetry="none",
        test_sequences=200,
    )  # fmt: skip
    note = prefix.certificate
    error = np.linalg.norm(prefix(x) - reverse(x), axis=-1).max()
    assert error <= note.measured * 1.02
    assert note.measured <= note.guaranteed <= 0.55
    plain = plain_stack(prefix, x[0])
    np.testing.assert_allclose(prefix(x[0]), plain, rtol=0, atol=1e-9)


def test_says_what_would_be_needed():
    prefix = build_sequence_prefix(
        sort, length=3, dim=1, accuracy=0.01, method="kernel", budget=300, test_sequences=200
    )
    note = prefix.certificate
    assert not note.reached
    assert note.tokens <= 300
    # 3 C(n + 2, 3) entries and n cells, with n = ⌈1.01 / 0.02⌉ cells.
    assert note.required_tokens == 3 * math.comb(53, 3) + 51
    assert "NOT reached" in str(note)
    assert "tokens would do" in str(note)


@pytest.mark.slow
def test_a_jump_is_not_reached():
    prefix = build_sequence_prefix(
        lambda x: np.round(x), length=2, dim=1, accuracy=0.2, budget=200, test_sequences=200
    )
    assert not prefix.certificate.reached
    # A continuous output is ½ somewhere between 0 and 1, where f is 0 or 1.
    assert prefix.certificate.measured >= 0.45
    assert prefix.certificate.required_tokens > 1e4


def test_takes_maps_of_one_sequence_and_of_many():
    def single(x):
        assert x.shape == (3, 1)
        return [float(max(x[: p + 1, 0])) for p in range(3)]

    one = build_sequence_prefix(single, length=3, dim=1, accuracy=0.4, test_sequences=100)
    many = build_sequence_prefix(running_maximum, length=3, dim=1, accuracy=0.4, test_sequences=100)
    x = np.random.default_rng(4).uniform(size=(5, 3, 1))
    assert one(x).shape == (5, 3)
    np.testing.assert_array_equal(one(x), many(x)[..., 0])
    np.testing.assert_allclose(one(x[0]), one(x)[0], rtol=0, atol=1e-12)


def test_a_map_that_changes_its_argument_is_given_copies():
    def sort_in_place(x):
        x.sort(axis=-2)
        return x

    prefix = build_sequence_prefix(sort_in_place, length=2, dim=1, accuracy=0.3, test_sequences=100)
    assert prefix.certificate.reached


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"length": 0}, "length"),
        ({"length": 65}, "length"),
        ({"dim": 0}, "dim"),
        ({"dim": 1000}, "dim"),
        ({"domain": "ball"}, "domain"),
        ({"domain": "sphere"}, "dim"),
        ({"accuracy": 0.0}, "accuracy"),
        ({"accuracy": math.nan}, "accuracy"),
        ({"accuracy": True}, "accuracy"),
        ({"budget": 3}, "budget"),
        ({"budget": 2**21}, "budget"),
        ({"budget": 10, "method": "paper"}, "budget"),
        ({"budget": 10, "method": "ridge"}, "budget"),
        ({"lipschitz": -1.0}, "lipschitz"),
        ({"lipschitz": 0.3}, "lipschitz"),
        ({"method": "kernels"}, "method"),
        ({"method": "paper", "domain": "sphere", "dim": 3}, "method"),
        ({"symmetry": "equivariant"}, "symmetry"),
        ({"symmetry": "even"}, "symmetry"),
        ({"symmetry": [[[0]], [[0]], [[0]]]}, "symmetry"),
        ({"symmetry": [[[0, 0]], [[1]], [[2]]]}, "symmetry"),
        ({"symmetry": 3}, "symmetry"),
        ({"value_limit": 0}, "value_limit"),
        ({"test_sequences": 1}, "test_sequences"),
        ({"seed": -1}, "seed"),
        ({"f": 3}, "f"),
        ({"f": lambda x: np.nan * x}, "f"),
        ({"f": lambda x: "word"}, "f"),
        ({"f": lambda x: x[..., :1, :]}, "f"),
        ({"f": lambda x: 1j * x}, "f"),
    ],
)
def test_bad_input_to_sequences(changes, word):
    arguments = {
        "f": sort,
        "length": 3,
        "dim": 1,
        "accuracy": 0.1,
        "test_sequences": 100,
        **changes,
    }
    f = arguments.pop("f")
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        inspect.unwrap(build_sequence_prefix)(f, **arguments)
    assert "\n" not in str(caught.value)


def test_sequences_outside_the_domain_are_refused():
    prefix = build_sequence_prefix(sort, length=2, dim=1, accuracy=0.3, test_sequences=100)
    for x in (np.full((2, 1), 1.5), np.zeros((3, 1)), np.full((2, 1), np.nan), np.zeros(2)):
        with pytest.raises(ParameterError, match="`sequences`"):
            prefix(x)


def test_same_call_same_layers():
    a, b = (
        build_sequence_prefix(attend, length=3, dim=1, accuracy=0.4, test_sequences=100)
        for _ in range(2)
    )
    for first, second in zip(a.prefixes, b.prefixes, strict=True):
        np.testing.assert_array_equal(first.keys, second.keys)
        np.testing.assert_array_equal(first.values, second.values)
