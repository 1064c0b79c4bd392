"""The commonest answers, by arithmetic and by enumeration."""

from __future__ import annotations

import itertools

import pytest
from quick_cases import some_slow

from jaxprompt.prefix.training import tasks
from jaxprompt.prefix.training.constant_answer import (
    constant_answer,
    few_digits_share,
    input_of_commonest_answer,
    relative_probability,
)


@pytest.mark.parametrize("task", list(tasks.TASKS))
@pytest.mark.parametrize("length", [2, 3, 4])
def test_constant_answer_by_enumeration(task, length, plain_solution):
    every = itertools.product(range(8), repeat=length)
    counts: dict[tuple[int, ...], int] = {}
    for x in every:
        answer = tuple(plain_solution(task, x))
        counts[answer] = counts.get(answer, 0) + 1
    assert constant_answer(task, length) == max(counts.values()) / 8**length
    answer = tuple(plain_solution(task, input_of_commonest_answer(task, length)))
    assert counts[answer] == max(counts.values())


def published_weights(length):
    """Every input and its probability: half as likely with more than n/2 different digits."""
    every = list(itertools.product(range(8), repeat=length))
    kept = [0.5 if len(set(x)) > length // 2 else 1.0 for x in every]
    return {x: weight / sum(kept) for x, weight in zip(every, kept, strict=True)}


@pytest.mark.parametrize("task", list(tasks.TASKS))
@pytest.mark.parametrize("length", [2, 3, 4])
def test_constant_answer_under_the_published_law(task, length, plain_solution):
    probability: dict[tuple[int, ...], float] = {}
    for x, weight in published_weights(length).items():
        answer = tuple(plain_solution(task, x))
        probability[answer] = probability.get(answer, 0.0) + weight
    found = constant_answer(task, length, "published")
    assert found == pytest.approx(max(probability.values()), rel=1e-12)
    commonest = input_of_commonest_answer(task, length, "published")
    answer = tuple(plain_solution(task, commonest))
    assert probability[answer] == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("length", some_slow([2, 3, 4, 5], first=3))
def test_relative_probabilities_by_enumeration(length):
    weights = published_weights(length)
    few = [x for x in weights if len(set(x)) <= length // 2]
    assert float(few_digits_share(length)) == pytest.approx(len(few) / 8**length, rel=1e-14)
    for x in (next(iter(weights)), list(weights)[1], list(weights)[-9]):
        expected = float(relative_probability(len(set(x)), length, "published")) / 8**length
        assert weights[x] == pytest.approx(expected, rel=1e-10)
    assert relative_probability(1, length) == relative_probability(length, length) == 1


def test_ten_counts_are_commonest_in_pairs():
    # Five pairs: 8·7·6·5·4 digits for the 10! / (2!⁵ 5!) ways to pair the places.
    pairs = 8 * 7 * 6 * 5 * 4 * 945
    assert constant_answer("double_hist", 10) == pairs / 8**10
    assert input_of_commonest_answer("double_hist", 10) == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_constant_answer_of_six_counts():
    # 8·7·6·5·4·3 / 8⁶: all six digits differ.
    assert constant_answer("double_hist", 6) == 20160 / 8**6
