"""Controls: the right prediction, measured where the theorem's hypothesis fails."""

import jax
import jax.numpy as jnp

import jaxprompt as jp
from jaxprompt.stats import Status


def bound(*, terms):
    """Chebyshev: the variance of a mean of independent signs is at most 1/n."""
    return {"square": jp.AtMost(1.5 / terms)}


def independent(*, key, terms):
    return {"square": jax.random.rademacher(key, (terms,), dtype=float).mean() ** 2}


def equal(*, key, terms):
    """Signs that follow the first one nine times in ten: no longer independent."""
    follows = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.9, (terms,))
    signs = jax.random.rademacher(key, (terms,), dtype=float)
    return {"square": jnp.where(follows, signs[0], signs).mean() ** 2}


independent_signs, equal_signs = jp.per_trial(independent), jp.per_trial(equal)


def claim(control) -> jp.Claim:
    return jp.Claim(
        id="mine.signs",
        title="Mean of signs",
        statement="",
        relation=jp.Relation.BOUND,
        source="textbook",
        parameters=(jp.Parameter("terms", "integer", "number of signs", low=1),),
        quantities=(jp.Quantity("square", "mean square", tolerance=0.05),),
        falsifiers=(control,),
        closed_form=bound,
        simulation=independent_signs,
        designs={"quick": jp.Design.product({}, {"terms": [4, 16]}, trials=4000)},
    )


def test_a_control_breaks_the_bound_and_leaves_the_claim_alone():
    control = jp.Falsifier.control("equal", "signs that follow the first", equal_signs)
    own = claim(control)
    verdict = own.check()
    assert verdict.status is Status.CONFIRMED
    judged = own.falsify_cells(verdict)["equal"]
    assert judged.status is Status.REFUTED
    assert judged.falsifier == "equal"
    assert all(row.predicted == 1.5 / row.parameters["terms"] for row in judged.rows)


def test_a_control_that_keeps_the_hypothesis_survives():
    control = jp.Falsifier.control("same", "still independent", independent_signs)
    own = claim(control)
    assert own.falsify_cells(own.check())["same"].status is Status.CONFIRMED


def test_a_control_has_the_points_and_trials_that_were_checked():
    control = jp.Falsifier.control("equal", "signs that follow the first", equal_signs)
    own = claim(control)
    judged = own.falsify_cells(own.check(trials=500, point={"terms": 16}))["equal"]
    (cell,) = judged.cells
    assert cell.parameters["terms"] == 16
    assert cell.estimates["square"].trials == 500


def test_calibration_measures_a_control_under_every_seed():
    control = jp.Falsifier.control("equal", "signs that follow the first", equal_signs)
    counted = jp.calibrate(claim(control), 3)
    assert counted.falsifiers["equal"].hits == 3
    same = jp.Falsifier.control("same", "still independent", independent_signs)
    assert jp.calibrate(claim(same), 3).falsifiers["same"].hits == 0
