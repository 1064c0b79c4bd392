"""The commonest answers, by arithmetic and by enumeration."""

from __future__ import annotations

import itertools

import pytest

from jaxprompt.prefix.training import tasks
from jaxprompt.prefix.training.constant_answer import constant_answer, input_of_commonest_answer


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


def test_ten_counts_are_commonest_in_pairs():
    # Five pairs: 8·7·6·5·4 digits for the 10! / (2!⁵ 5!) ways to pair the places.
    pairs = 8 * 7 * 6 * 5 * 4 * 945
    assert constant_answer("double_hist", 10) == pairs / 8**10
    assert input_of_commonest_answer("double_hist", 10) == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_constant_answer_of_six_counts():
    # 8·7·6·5·4·3 / 8⁶: all six digits differ.
    assert constant_answer("double_hist", 6) == 20160 / 8**6
