"""A claim that could not be checked is refused when it is built, in one line with the remedy."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxprompt as jp
from jaxprompt.errors import ClaimError, JaxpromptError

R = jp.Relation


def formula(*, level, other=0.0):
    return {"value": level + other}


def trial(*, key, level):
    return {"value": level + jax.random.normal(key)}


def build(**changes):
    """A sound claim with some of its parts changed."""
    fields = {
        "id": "mine.claim",
        "title": "t",
        "statement": "s",
        "source": "made up",
        "relation": R.MEAN,
        "parameters": (jp.Parameter("level", "real", "the mean"),),
        "quantities": (jp.Quantity("value", "the mean", 0.5),),
        "falsifiers": (
            jp.Falsifier("more", "adds 1", other=1.0),
            jp.Falsifier.scaled("twice", formula, 2.0),
        ),
        "closed_form": formula,
        "simulation": jp.per_trial(trial),
        "designs": {"quick": jp.Design({"level": 1.0}, trials=400)},
    }
    return jp.Claim(**{**fields, **changes})


def test_the_sound_claim_is_sound():
    assert build().check().status == "confirmed"


def parameter(name="level", kind="real", **options):
    return jp.Parameter(name, kind, "the mean", **options)


def quantity(name="value", tolerance=0.5, **options):
    return jp.Quantity(name, "the mean", tolerance, **options)


def returning(value):
    return jp.per_trial(lambda *, key, level: value(key, level))


REFUSED = {
    "parameter called key": ({"parameters": (parameter(), parameter("key"))}, "`key`.*rename it"),
    "parameter called trials": (
        {"parameters": (parameter(), parameter("trials", "integer"))},
        "`trials`.*rename it",
    ),
    "parameter called first": (
        {"parameters": (parameter(), parameter("first"))},
        "`first`.*rename it",
    ),
    "two parameters of one name": ({"parameters": (parameter(), parameter())}, "two parameters"),
    "no quantity": ({"quantities": ()}, "no quantity"),
    "compared over no parameter": (
        {"compared": jp.Compared({"levle": (0.0, 1.0)})},
        "compared names `levle`.*did you mean level",
    ),
    "compared from high to low": (
        {"compared": jp.Compared({"level": (1.0, 0.0)})},
        "`level`.*least and its largest",
    ),
    "two quantities of one name": ({"quantities": (quantity(), quantity())}, "two quantities"),
    "no tolerance": ({"quantities": (jp.Quantity("value", "v"),)}, "no tolerance: state"),
    "negative tolerance": ({"quantities": (quantity(tolerance=-0.1),)}, "must be ≥ 0"),
    "name that no store holds": ({"quantities": (quantity("E[y]"),)}, "letters, digits"),
    "name with a space": ({"quantities": (quantity("mean square"),)}, "letters, digits"),
    "name of the store": ({"quantities": (quantity("status"),)}, "a store has that name"),
    "name read as an error": (
        {"quantities": (quantity(), quantity("value_stderr"))},
        "where `value` keeps its standard error",
    ),
    "size that is no parameter": (
        {"relation": R.ASYMPTOTIC, "size": "levle"},
        "size = 'levle'.*did you mean level",
    ),
    "limit without a size": ({"relation": R.ASYMPTOTIC}, "names its `size`"),
    "rate without a size": ({"relation": R.RATE}, "names its `size`"),
    "shared that is no parameter": ({"shared": ("lvl",)}, "shared names `lvl`.*did you mean level"),
    "existence without a side": ({"relation": R.EXISTENCE}, "says nothing of how `value`"),
    "impossibility without a side": ({"relation": R.IMPOSSIBILITY}, "says nothing of how `value`"),
    "no quick design": (
        {"designs": {"fast": jp.Design({"level": 1.0}, trials=9)}},
        'no design "quick"',
    ),
    "empty design": ({"designs": {"quick": jp.Design(trials=9)}}, "has no run"),
    "design of another parameter": (
        {"designs": {"quick": jp.Design({"leve": 1.0}, trials=9)}},
        "sets `leve`, which is no parameter.*did you mean level",
    ),
    "a trial for a simulation": ({"simulation": trial}, "jaxprompt.per_trial"),
    "falsifier of no argument": (
        {"falsifiers": (jp.Falsifier("a", "a", othr=1.0), jp.Falsifier("b", "b", formula))},
        "changes `othr`, which the closed form lacks.*did you mean other",
    ),
    "unmeasured quantity": (
        {"quantities": (quantity(), quantity("extra"))},
        "no trial returns the quantity `extra`",
    ),
    "undeclared number": (
        {"simulation": returning(lambda key, level: {"value": level, "valu": level})},
        "returns `valu`, which is no quantity.*did you mean value",
    ),
    "array without an axis": (
        {"simulation": returning(lambda key, level: {"value": jnp.zeros(3)})},
        r"shape \(3,\).*axis=",
    ),
    "complex number": (
        {"simulation": returning(lambda key, level: {"value": 1j + level})},
        "is complex: return its real and imaginary",
    ),
    "shape of a traced parameter": (
        {
            "simulation": jp.per_trial(
                lambda *, key, level: {"value": jnp.zeros(level).sum()}, traced=("level",)
            ),
            "parameters": (parameter(kind="integer"),),
            "designs": {"quick": jp.Design({"level": 2}, trials=9)},
        },
        "take it out of `traced=`",
    ),
    "figure of no quantity": ({"figure": jp.Agreement("t", "l", quantities=("valu",))}, "value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_built(name):
    changes, message = REFUSED[name]
    with pytest.raises(JaxpromptError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("claim mine.claim: ") or "complex" in str(caught.value)
    assert isinstance(caught.value, ClaimError) or "complex" in str(caught.value)


MISTYPED = """
import jaxprompt as jp

def formula(*, level):
    return {"value": level}

def build(relation=jp.Relation.MEAN, kind="real", simulation=None):
    jp.Claim(
        id="mine.claim", title="t", statement="s", source="made up", relation=relation,
        parameters=(jp.Parameter("level", kind, "the mean"),),
        quantities=(jp.Quantity("value", "the mean", 0.5),),
        falsifiers=(jp.Falsifier.scaled("a", formula, 2.0), jp.Falsifier.scaled("b", formula, 3.0)),
        closed_form=formula, simulation=jp.per_trial(lambda *, key, level: {"value": level}),
        designs={"quick": jp.Design({"level": 1.0}, trials=50)})

for changes in ({"relation": "mean"}, {"relation": "asymtotic"}, {"kind": "int"}):
    try:
        build(**changes)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_values_of_another_type_are_refused_too():
    # In a process of its own: the tests' own type checks would come first here.
    done = subprocess.run([sys.executable, "-c", MISTYPED], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line, message in zip(
        lines,
        ["must be a jaxprompt.Relation", "did you mean asymptotic?", "must be one of integer"],
        strict=True,
    ):
        assert line.startswith("claim mine.claim: ")
        assert message in line


def test_a_missing_prediction_fails_the_check_and_is_named():
    def half(*, level):
        return {"value": level}

    def both(*, key, level):
        return {"value": level + jax.random.normal(key), "more": jax.random.normal(key)}

    claim = build(
        closed_form=half,
        falsifiers=(jp.Falsifier.scaled("a", half, 2.0), jp.Falsifier.scaled("b", half, 3.0)),
        quantities=(quantity(), quantity("more")),
        simulation=jp.per_trial(both),
    )
    verdict = claim.check()
    assert verdict.status == "failed"
    assert "no row compares more" in verdict.error
