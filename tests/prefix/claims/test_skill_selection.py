"""Selection of known tasks: the ambiguity of their mixture, by plain lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import skill_selection
from jaxprompt.prefix.training import experiments


def test_a_mixture_leaves_open_what_the_formula_says(monkeypatch, plain_solution):
    """Entropy and best single answer, by plain lists for two digits and counted for three."""
    names, claim = skill_selection.KNOWN, jp.claim("prefix.skill_selection")
    entropy, share = 0.0, 0.0
    for x in itertools.product(range(8), repeat=2):
        answers = [tuple(plain_solution(task, x)) for task in names]
        alike = [answers.count(answer) / 4 for answer in answers]
        entropy -= sum(np.log(alike)) / 4 / 64 / 2
        share += max(alike) / 64
    for length in (2, 3):
        predicted = claim.predict(tasks=4, length=length)
        found = experiments.task_ambiguity(names, length)
        assert found["entropy"].mean == pytest.approx(predicted["entropy"], rel=1e-13)
        assert found["one_answer"].mean == pytest.approx(predicted["one_answer"], rel=1e-13)
        if length == 2:
            assert entropy == pytest.approx(predicted["mixture_loss"], rel=1e-12)
            assert share == pytest.approx(predicted["unselected"], rel=1e-12)
    monkeypatch.setattr(experiments, "MAX_COUNTED_INPUTS", 8**3 - 1)
    assert experiments.task_ambiguity(names, 3) == {}, "too many inputs to count are not counted"


@pytest.mark.parametrize("length", [2, 3])
def test_a_mixture_on_published_inputs(length, plain_solution):
    """Inputs of many different digits count half."""
    names, claim = skill_selection.KNOWN, jp.claim("prefix.skill_selection")
    entropy = share = total = 0.0
    for x in itertools.product(range(8), repeat=length):
        weight = 0.5 if len(set(x)) > length // 2 else 1.0
        answers = [tuple(plain_solution(task, x)) for task in names]
        alike = [answers.count(answer) / 4 for answer in answers]
        entropy -= weight * sum(np.log(alike)) / 4 / length
        share += weight * max(alike)
        total += weight
    predicted = claim.predict(tasks=4, length=length, input_law="published")
    found = experiments.task_ambiguity(names, length, "published")
    assert predicted["mixture_loss"] == pytest.approx(entropy / total, rel=1e-12)
    assert predicted["unselected"] == pytest.approx(share / total, rel=1e-12)
    assert found["entropy"].mean == pytest.approx(entropy / total, rel=1e-12)
    assert found["one_answer"].mean == pytest.approx(share / total, rel=1e-12)
    both = claim.predict(tasks=4, length=np.array([length, 6]), input_law="published")
    assert both["mixture_loss"][0] == predicted["mixture_loss"]


def test_of_several_starts_the_least_training_loss_counts():
    _, plan = skill_selection.plans(4, 1500, (0, 0))
    assert [own[0] for own in plan.runs] == 4 * list(skill_selection.KNOWN)
    final = np.array([0.3, 0.1, 0.2, 0.4, 0.2, 0.3, 0.1, 0.5, *[0.6] * 4, 0.7, 0.6, 0.5, 0.05])
    losses = np.stack([np.flip(final), final], axis=1)  # what was before does not matter
    assert skill_selection.best_runs(experiments.Trained(plan, None, losses)) == [4, 1, 6, 15]


def test_another_number_of_tasks_is_not_simulated():
    with pytest.raises(ParameterError, match="`tasks` = 3: must be 4 in a simulation"):
        jp.claim("prefix.skill_selection").simulate(key=0, trials=2, tasks=3, length=4)
