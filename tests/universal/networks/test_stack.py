"""Stacks of layers: what they compute at their largest sizes, and what they refuse."""

import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.universal.networks import stack


def sort_rows(x):
    return np.sort(x, axis=1)


@pytest.mark.parametrize(("length", "digits"), [(2, 8), (4, 4)])
def test_cantor_form_keeps_its_digits_at_the_largest_size(length, digits):
    """The mean error is 2^{−K} E|u| up to sampling; at K·T = 18 it was twice that."""
    x = np.random.default_rng(0).uniform(size=(300, length))
    built = stack.cantor_stack(sort_rows, length, digits)
    # Each number is off by a uniform error of half a cell at most: sorting keeps distances.
    cell = (np.floor(x * 2**digits) + 0.5) / 2**digits
    expected = np.linalg.norm(sort_rows(cell) - sort_rows(x), axis=1).mean()
    assert np.linalg.norm(built(x) - sort_rows(x), axis=1).mean() == pytest.approx(
        expected, rel=0.02
    )


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
