"""Stacks of layers: what they compute at their largest sizes, and what they refuse."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt.errors import ParameterError
from jaxprompt.universal.networks import stack


@pytest.fixture(autouse=True)
def few_scores_at_once(monkeypatch):
    """Smaller blocks, for less memory; no number depends on them."""
    monkeypatch.setattr(stack, "SCORES_AT_ONCE", 2**22)


def sort_rows(x):
    return np.sort(x, axis=1)


@pytest.mark.parametrize(("length", "digits"), some_slow([(2, 8), (4, 4)], first=1))
def test_cantor_form_keeps_its_digits_at_the_largest_size(length, digits):
    """The mean error is 2^{−K} E|u| up to sampling; at K·T = 18 it was twice that."""
    x = np.random.default_rng(0).uniform(size=(12, length))
    built = stack.cantor_stack(sort_rows, length, digits)
    # Each number is off by a uniform error of half a cell at most: sorting keeps distances.
    cell = (np.floor(x * 2**digits) + 0.5) / 2**digits
    expected = np.linalg.norm(sort_rows(cell) - sort_rows(x), axis=1).mean()
    assert np.linalg.norm(built(x) - sort_rows(x), axis=1).mean() == pytest.approx(
        expected, rel=0.02
    )


ACCEPTED = [
    (length, digits)
    for length in range(2, 9)
    for digits in range(1, stack.MOST_CANTOR_DIGITS // length + 1)
]
EXTREME = [(2, 1), *((length, stack.MOST_CANTOR_DIGITS // length) for length in range(2, 9))]
"""The least, and for each length the most digits, whose scores are the hardest to tell apart."""
LONG = [(4, 4), (5, 3), (6, 2), (7, 2), (8, 2)]
"""Of these the layers themselves run in the slow test alone."""
each_accepted = pytest.mark.parametrize(
    ("length", "digits"), mostly_slow(ACCEPTED, EXTREME.__contains__)
)


def code_of(cell, digits, length):
    """3 Σ_p 3^{−p} φ(x_p) of one cell's middle, from its definition, in fractions."""
    code = Fraction(0)
    for p, number in enumerate(cell, start=1):
        rest = Fraction(2 * number + 1, 2 ** (digits + 1))
        for j in range(1, digits + 1):
            rest *= 2
            code += 3 * Fraction(1, 3**p) * (rest >= 1) * Fraction(2, 3 ** (1 + length * (j - 1)))
            rest -= rest >= 1
    return code


@each_accepted
def test_no_cell_is_mistaken_for_another(length, digits):
    """In exact arithmetic neighbours differ by HARD/2; float64 keeps more than half of that in any
    order of summation, at every cell. The exact scores are of some 500 cells, or of all."""
    built = stack.cantor_stack(sort_rows, length, digits)
    index = np.arange(2 ** (digits * length))
    some = index if len(index) <= 512 else np.linspace(0, len(index) - 1, 200).astype(int)
    cells = np.stack(np.unravel_index(some, [2**digits] * length), -1)
    gap = Fraction(2, 3 ** (digits * length))
    exact = [code_of(cell, digits, length) / gap for cell in cells.tolist()]
    codes = stack.whole_codes(digits, length)
    assert [int(code) for code in exact] == codes[some].tolist()
    assert all(code.denominator == 1 for code in exact)
    order = np.argsort(codes)
    last = built.layers[-1]
    query = (codes - codes.max() // 2)[order].astype(np.float64)
    keys = last.prefix_keys[order]
    sizes = np.array([np.abs(query).max(), 1.0, 1.0])
    rounding = stack.score_rounding(last, sizes)
    assert stack.HARD / 2 - rounding > 37  # e^{−37} is below rounding
    step = max(1, len(index) // 500)
    for apart in (1, 2, -1, -2):
        if len(index) <= abs(apart):
            continue
        inside = slice(None, -apart) if apart > 0 else slice(-apart, None)
        other = slice(apart, None) if apart > 0 else slice(None, apart)
        exact_scores = [
            [sum(int(k) * x for k, x in zip(key, (int(z), 1, 1), strict=True)) for key in pair]
            for z, *pair in zip(
                query[inside][::step].tolist(), keys[inside][::step].tolist(),
                keys[other][::step].tolist(), strict=True,
            )
        ]  # fmt: skip
        assert min(own - neighbour for own, neighbour in exact_scores) >= stack.HARD / 2
        z = query[inside]
        for first, second, third in itertools.permutations(range(3)):
            scores = []
            for key in (keys[inside], keys[other]):
                products = np.stack([key[:, 0] * z, key[:, 1], key[:, 2]])
                scores.append((products[first] + products[second]) + products[third])
            assert (scores[0] - scores[1]).min() >= stack.HARD / 2 - rounding


@pytest.mark.parametrize(
    ("length", "digits"),
    mostly_slow(ACCEPTED, lambda case: case in EXTREME and case not in LONG),
)
def test_layers_return_the_middle_of_every_cell(length, digits):
    """And each has a token of its own. Of many cells the first, the last and some at random: the
    largest codes have the largest scores."""
    built = stack.cantor_stack(sort_rows, length, digits)
    count = 2 ** (digits * length)
    index = np.arange(count)
    if count > 256:
        random = np.random.default_rng(1).choice(count, 6, replace=False)
        index = np.unique([*index[:3], *index[-3:], *random])
    x = (np.stack(np.unravel_index(index, [2**digits] * length), -1) + 0.5) / 2**digits
    assert np.abs(built(x) - sort_rows(x)).max() < 1e-12
    assert built.tokens_that_win(x)[2:] == (len(index),) * length


def test_one_digit_more_would_be_mistaken(monkeypatch):
    monkeypatch.setattr(stack, "MOST_CANTOR_DIGITS", 17)
    last = stack.cantor_stack(lambda x: x, 1, 17).layers[-1]
    largest = stack.whole_codes(17, 1).max() / 2
    assert stack.score_rounding(last, np.array([largest, 1.0, 1.0])) > stack.HARD / 2


@pytest.mark.parametrize(("length", "digits"), [(2, 9), (4, 5), (3, 6), (8, 3)])
def test_more_digits_than_scores_can_tell_apart_are_refused(length, digits):
    with pytest.raises(ParameterError, match="digits"):
        stack.cantor_stack(sort_rows, length, digits)


@pytest.mark.parametrize(
    "sequences",
    [[[0.2, 1.5]], [[-1e-9, 0.5]], [[0.1, np.nan]], [[0.1, 0.2, 0.3]], np.zeros((0, 2)),
     np.zeros((2, 2, 2)), 0.5],
)  # fmt: skip
def test_sequences_that_do_not_fit_are_refused(sequences):
    built = stack.joint_stack(sort_rows, 2, 3)
    with pytest.raises(ParameterError, match="`sequences`") as caught:
        built(np.asarray(sequences))
    assert "\n" not in str(caught.value)


def test_ends_of_the_range_and_single_sequences_are_taken():
    built = stack.joint_stack(sort_rows, 2, 4)
    assert np.abs(built(np.array([1.0, 0.0])) - [[0.0, 1.0]]).max() <= 0.125 + 1e-9


@pytest.mark.parametrize("target", [lambda x: x[:, 0], lambda x: x * np.nan])
def test_targets_of_another_shape_are_refused(target):
    with pytest.raises(ParameterError, match="`target`"):
        stack.joint_stack(target, 2, 3)


def test_counts_see_a_layer_and_a_token_that_nothing_needs():
    built = stack.joint_stack(sort_rows, 2, 3)
    middle = np.stack(np.meshgrid(*[(np.arange(3) + 0.5) / 3] * 2), -1).reshape(-1, 2)
    assert built.layers_that_matter(middle) == 2
    assert built.tokens_that_win(middle) == (0, 18)
    idle = built.layers[1]._replace(prefix_values=0 * built.layers[1].prefix_values)
    padded = built._replace(layers=(*built.layers, idle))
    assert padded.layers_that_matter(middle) == 2
    last = built.layers[1]
    twin = last._replace(
        prefix_keys=np.concatenate([last.prefix_keys, last.prefix_keys[:1] - 500.0]),
        prefix_values=np.concatenate([last.prefix_values, last.prefix_values[:1]]),
    )
    assert built._replace(layers=(built.layers[0], twin)).tokens_that_win(middle)[1] <= 18
