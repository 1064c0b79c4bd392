"""Solutions of the digit tasks by plain lists."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def plain_solution():
    """The solution of one input by a task's name."""

    def solve(task, x):
        answers = {
            "asc": sorted(x), "desc": sorted(x)[::-1], "add1": [v + 1 for v in x],
            "add2": [v + 2 for v in x], "asc_add1": [v + 1 for v in sorted(x)],
            "double_hist": [list(x).count(v) for v in x],
        }  # fmt: skip
        return answers[task]

    return solve
