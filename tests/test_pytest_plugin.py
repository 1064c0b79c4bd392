"""The pytest plugin, as somebody who writes claims would run it."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from jaxprompt.core import registry

pytest_plugins = ("pytester",)

MODULE = "jaxprompt.cli.pytest_plugin"
LOADED = any(point.value == MODULE for point in entry_points(group="pytest11"))
# An installation made before the plugin does not announce it: it is then named.
BESIDE = () if LOADED else ("-p", MODULE)
OPTIONS = (*BESIDE, "--jaxprompt", "-p", "no:cacheprovider")

COINS = """
import jax
import jaxprompt as jp


def formula(*, count, power={power}):
    return {{"square": count**-power}}


def experiment(*, key, count):
    return {{"square": jax.random.rademacher(key, (count,), dtype=float).mean() ** 2}}


CLAIM = jp.Claim(
    id="mine.{name}",
    title="Square of the mean of n signs",
    statement="E = 1/n",
    relation=jp.Relation.MEAN,
    source="textbook",
    parameters=(jp.Parameter("count", "integer", "number of signs", "n", low=1),),
    quantities=(jp.Quantity("square", "mean square", tolerance=0.2, relative=True),),
    falsifiers=(
        jp.Falsifier("half", "half the power", power=0.5),
        jp.Falsifier("other", "another power", power={other}),
    ),
    closed_form=formula,
    simulation=jp.per_trial(experiment, batch=500),
    designs={{"quick": jp.Design({{"count": 4}}, trials=2000)}},
)
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test brings is gone after it."""
    monkeypatch.setattr(registry, "_user_claims", {})


def write(pytester, name, power=1.0, other=2.0):
    """A file of that name with a claim called after it."""
    path = pytester.path / f"{name}.py"
    path.write_text(COINS.format(name=name, power=power, other=other), encoding="utf-8")
    return path


def test_a_right_claim_and_its_falsifiers_pass(pytester):
    write(pytester, "coins")
    result = pytester.runpytest_inprocess(*OPTIONS, "-v", "coins.py")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["coins.py::mine*coins PASSED*", "coins.py::mine*coins?half? PASSED*"]
    )


def test_a_wrong_claim_fails_with_the_numbers_that_decided(pytester):
    write(pytester, "coins", power=1.5)
    result = pytester.runpytest_inprocess(*OPTIONS, "coins.py::mine.coins")
    result.assert_outcomes(failed=1, passed=2)  # the name of a claim selects its falsifiers too
    result.stdout.fnmatch_lines(
        ["mine.coins is refuted: Square of the mean of n signs", "square: *measured, 0.125 pred*"]
    )
    assert "Traceback" not in result.stdout.str()


def test_a_falsifier_that_the_check_does_not_refute_fails(pytester):
    write(pytester, "coins", other=1.0)
    result = pytester.runpytest_inprocess(*OPTIONS, "coins.py")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*the check does not refute 'other' (another power)*"])


def test_files_of_a_folder_are_chosen_by_name_and_other_tests_stay(pytester):
    write(pytester, "coin_claims")
    write(pytester, "helper")
    pytester.makepyfile(test_mine="def test_it(): pass")
    result = pytester.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(passed=4)
    pytester.makeini("[pytest]\njaxprompt_files = help*.py")
    result = pytester.runpytest_inprocess(*OPTIONS, "-k", "helper")
    result.assert_outcomes(passed=3, deselected=1)


def test_a_file_that_cannot_be_run_is_an_error_of_one_line(pytester):
    (pytester.path / "coins.py").write_text("import jaxprompt\n1 / 0\n", encoding="utf-8")
    result = pytester.runpytest_inprocess(*OPTIONS, "coins.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["file of claims * line 2: ZeroDivisionError: *"])
    assert "Traceback" not in result.stdout.str()


def test_without_the_option_nothing_is_run_and_jax_is_not_loaded(pytester):
    write(pytester, "coin_claims")
    pytester.makepyfile(
        test_mine="""
        import sys

        def test_it():
            assert "jax" not in sys.modules and "jaxprompt.core" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess(*BESIDE)
    result.assert_outcomes(passed=1)


def test_an_installation_announces_it():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["entry-points"]["pytest11"] == {"jaxprompt": MODULE}
