"""Every kind of wrong verdict that a user met once, and every kind of comparison."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.compute import operations
from jaxprompt.core.keys import as_key
from jaxprompt.errors import JaxpromptError, ParameterError
from jaxprompt.stats import Estimate, exact_estimate, sample_estimate

R = jp.Relation


def claim_of(trial, formula, relation=R.MEAN, tolerance=0.5, trials=100, **options):
    """A claim about the number `p`; its variants are far off on either side."""

    def off(sign):
        def change(predicted, parameters):
            return {n: v + sign * 10 * (abs(v) + 1e-3) for n, v in predicted.items()}

        return change

    simulation = options.pop("simulation", None) or jp.per_trial(
        trial, batch=options.pop("batch", 50), **options.pop("trial_options", {})
    )
    options.setdefault("quantities", (jp.Quantity("p", "p", tolerance),))
    design = options.pop("design", None) or jp.Design({}, trials=trials)
    return jp.Claim(
        id="mine.kind", title="t", statement="s", source="made up", relation=relation,
        parameters=options.pop("parameters", ()),
        falsifiers=(
            jp.Falsifier.after("up", "far above", off(1)),
            jp.Falsifier.after("down", "far below", off(-1)),
        ),
        closed_form=formula, simulation=simulation, designs={"quick": design}, **options,
    )  # fmt: skip


def verdicts(claim, seeds=5):
    return [claim.check(key=seed).status for seed in range(seeds)]


def drawn(draw):
    """A simulation whose trials NumPy draws at once: there is nothing to compile."""

    def simulation(*, key, trials, **parameters):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return {"p": sample_estimate(draw(rng, trials, **parameters))}

    return simulation


def sized(name="size", **options):
    return (jp.Parameter(name, "integer", "size", low=1, simulate_only=True, **options),)


def over_sizes(sizes, trials):
    return jp.Design.product({}, {"size": list(sizes)}, trials)


# --- no scatter is not exactness ---


def rare_event(cast):
    def trial(*, key, rate):
        return {"p": cast(jax.random.bernoulli(key, rate))}

    return jp.per_trial(trial, batch=50, traced=("rate",))


RARE_EVENTS = {
    "truth values": rare_event(lambda seen: seen),
    "numbers": rare_event(lambda seen: seen * 1.0),
}


@pytest.mark.parametrize("kind", RARE_EVENTS)
@pytest.mark.parametrize("probability", [0.999, 0.001, 0.9999])
def test_a_probability_near_an_end_is_not_refuted(kind, probability):
    options = {
        "simulation": RARE_EVENTS[kind], "tolerance": 0.01,
        "parameters": (jp.Parameter("rate", "real", "rate", simulate_only=True),),
        "design": jp.Design({"rate": probability}, trials=100),
    }  # fmt: skip
    claim = claim_of(None, lambda: {"p": probability}, **options)
    assert "refuted" not in verdicts(claim, 20)
    false = claim_of(None, lambda: {"p": abs(probability - 0.2)}, **options)
    assert "confirmed" not in verdicts(false, 20)


def test_a_declared_proportion_is_one():
    claim = claim_of(
        lambda *, key: {"p": jax.random.bernoulli(key, 0.999) * 1.0}, lambda: {"p": 0.999},
        quantities=(jp.Quantity("p", "p", 0.05, proportion=True),), trials=400,
    )  # fmt: skip
    assert set(verdicts(claim, 10)) == {"confirmed"}


def test_an_unseen_event_is_told():
    row = claim_of(lambda *, key: {"p": 0.0 * jax.random.normal(key)}, lambda: {"p": 1e-5}).check()
    assert row.status == "inconclusive"
    assert "all 100 trials gave one number" in row.advice
    assert "rarer than 1 in 33" in row.advice


def test_a_trial_that_draws_nothing_is_exact():
    claim = claim_of(lambda: {"p": 2.0}, lambda: {"p": 2.0}, R.IDENTITY, tolerance=1e-9)
    assert verdicts(claim, 1) == ["confirmed"]
    assert {v.status for v in claim.falsify().values()} == {"refuted"}
    assert claim.check().rows[0].exact


# --- rounding ---


constant = jp.per_trial(
    lambda *, key, number: {"p": jnp.asarray(number)}, batch=50, traced=("number",)
)


@pytest.mark.parametrize("trials", [100, 400, 1000, 3000])
@pytest.mark.parametrize("number", [0.1, 0.3, 0.7, 1 / 3, 1e-20, 12345.678])
def test_equal_constants_are_confirmed(trials, number):
    claim = claim_of(
        None, lambda: {"p": number}, R.IDENTITY, simulation=constant,
        parameters=(jp.Parameter("number", "real", "number", simulate_only=True),),
        quantities=(jp.Quantity("p", "p", 1e-9, relative=True),),
        design=jp.Design({"number": number}, trials=trials),
    )  # fmt: skip
    assert verdicts(claim, 1) == ["confirmed"]


@pytest.mark.parametrize("size", [1e-20, 1e-200, 1.0, 1e15])
def test_identities_of_any_size_can_fail(size):
    claim = claim_of(
        None, lambda: {"p": size}, R.IDENTITY,
        quantities=(jp.Quantity("p", "p", 0.01, relative=True),),
        simulation=lambda *, key, trials: {"p": Estimate(5 * size, 0.0, trials)},
    )  # fmt: skip
    assert verdicts(claim, 1) == ["refuted"]


variance = jp.per_trial(
    lambda *, x: {"p": jnp.square(x - x.mean()).mean()}, batch=1, traced=("shift",),
    instance=lambda *, key, shift: {"x": shift + jax.random.normal(key, (30,))},
)  # fmt: skip


@pytest.mark.parametrize("shift", some_slow([1e4, 0.0, 1e2], first=1))
def test_cancellation_is_seen_without_being_stated(shift):
    claim = claim_of(
        None, lambda *, x, factor=1.0: {"p": factor * (jnp.square(x).mean() - x.mean() ** 2)},
        R.IDENTITY, tolerance=0.0, simulation=variance,
        parameters=(jp.Parameter("shift", "real", "shift", simulate_only=True),),
        design=jp.Design({"shift": shift}, trials=60),
    )  # fmt: skip
    assert verdicts(claim, 2) == ["confirmed"] * 2
    wrong = jp.Falsifier("wrong", "by a thousandth", factor=1.001)
    (row,) = jp.stats.decide(claim.comparisons(claim.check().cells, wrong), 1e-3)
    assert row.verdict == "refuted"


# --- limits and rates ---


def softmax_averages(rng, trials, size):
    scores, values = rng.normal(size=(2, trials, size))
    weights = np.exp(1.5 * scores)
    return size * ((weights * values).sum(1) / weights.sum(1)) ** 2


@pytest.mark.parametrize("powers", [None, (1,), (1, 2)])
def test_a_limit_is_not_refuted_by_its_extrapolation(powers):
    claim = claim_of(
        None, lambda: {"p": math.exp(2.25)}, R.ASYMPTOTIC, size="size", powers=powers,
        simulation=drawn(softmax_averages), parameters=sized(),
        design=over_sizes([200, 400, 800, 1600], 1000),
    )  # fmt: skip
    assert "refuted" not in verdicts(claim, 2)


@pytest.mark.parametrize("relation", [R.ASYMPTOTIC, R.RATE])
@pytest.mark.parametrize("sizes", [[8], [8, 16]])
def test_too_few_sizes_are_undecided(relation, sizes):
    claim = claim_of(
        None, lambda: {"p": 1.0}, relation, size="size", parameters=sized(),
        simulation=drawn(lambda rng, trials, size: 1 + 1 / size + rng.normal(size=trials) / 10),
        design=over_sizes(sizes, 50),
    )  # fmt: skip
    verdict = claim.check()
    assert verdict.status == "inconclusive"
    assert "at least 3" in verdict.advice
    assert "\n" not in verdict.advice
    assert {v.status for v in claim.falsify_cells(verdict).values()} == {"inconclusive"}


def test_a_rate_of_negative_means_is_undecided():
    claim = claim_of(
        None, lambda: {"p": 1.0}, R.RATE, size="size", parameters=sized(),
        simulation=drawn(lambda rng, trials, size: rng.normal(size=trials) - 5),
        design=over_sizes([8, 16, 32], 50),
    )  # fmt: skip
    verdict = claim.check()
    assert verdict.status == "inconclusive"
    assert "needs positive ones" in verdict.advice


def test_a_rate_is_compared_with_an_exponent():
    claim = claim_of(
        None, lambda: {"p": 1.5}, R.RATE, size="size", parameters=sized(), tolerance=0.1,
        simulation=drawn(lambda rng, trials, size: size**1.5 * rng.lognormal(0, 0.1, trials)),
        design=over_sizes([8, 16, 32, 64], 200),
    )  # fmt: skip
    assert set(verdicts(claim, 3)) == {"confirmed"}
    assert {v.status for v in claim.falsify().values()} == {"refuted"}


# --- bounds ---


@pytest.mark.parametrize("level", [-82.0, -1e6])
def test_a_bound_that_is_kept_by_far_is_confirmed(level):
    claim = claim_of(
        None, lambda: {"p": 0.0}, R.BOUND, tolerance=1.0,
        simulation=drawn(lambda rng, trials: level + 50 * rng.normal(size=trials)),
    )  # fmt: skip
    assert set(verdicts(claim, 3)) == {"confirmed"}


# --- keys, seeds and settings ---


def normal_claim():
    return claim_of(
        lambda *, key, shift: {"p": shift + jax.random.normal(key)},
        lambda *, shift: {"p": jnp.asarray(shift) * 1.0},
        parameters=(jp.Parameter("shift", "real", "shift"),),
        design=jp.Design({"shift": 1.0}, trials=100),
        trial_options={"traced": ("shift",)},
    )  # fmt: skip


@pytest.mark.parametrize("key", ["abc", 1.0, None, -1, 2**64, True], ids=str)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ParameterError, match="`key`"):
        as_key(key)


def test_keys_of_any_kind():
    claim = normal_claim()
    kinds = [jax.random.key(0, impl=name) for name in ("threefry2x32", "rbg", "unsafe_rbg")]
    for key in (0, np.int64(3), jax.random.PRNGKey(0), jax.random.key_data(kinds[0]), *kinds):
        assert claim.simulate(key=as_key(key), trials=20, shift=0.0)["p"].trials == 20


def test_large_seeds_have_numbers_of_their_own():
    claim = normal_claim()
    seeds = (0, 1, 2**32, 2**32 + 1, 2**40, 2**64 - 1)
    assert len({claim.simulate(key=s, trials=4, shift=0.0)["p"].mean for s in seeds}) == len(seeds)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.debug_key_reuse(True),
        lambda: jax.disable_jit(True),
        lambda: jax.debug_nans(True),
        lambda: jax.enable_x64(False),
        lambda: jax.enable_x64(True),
    ],
    ids=["ranks", "dtypes", "keys", "no jit", "nans", "float32", "float64"],
)
def test_the_callers_settings_change_nothing(setting):
    claim = normal_claim()
    expected = claim.simulate(key=3, trials=20, shift=0.5)["p"]
    prediction = claim.predict(shift=0.5)
    with setting():
        assert claim.simulate(key=3, trials=20, shift=0.5)["p"] == expected
        assert claim.predict(shift=0.5) == prediction
        assert claim.check().status == "confirmed"


def test_under_a_transformation_one_line_says_so():
    claim = normal_claim()
    for function in (
        lambda s: claim.simulate(key=0, trials=4, shift=s)["p"].mean,
        lambda s: claim.predict(shift=s)["p"],
    ):
        with pytest.raises(JaxpromptError, match="under jit or vmap"):
            jax.jit(function)(1.0)


# --- figures never cost a verdict; other numbers of trials cost no compilation ---


@pytest.mark.parametrize(
    ("formula", "figure"),
    [(lambda *, x: {"p": 1 / abs(x - 1)}, jp.Curves(x="x", y="p")),
     (lambda *, x: {"p": math.inf if x == 1 else 1 / abs(x - 1)}, jp.Curves(x="x", y="p")),
     (lambda *, x: {"p": math.sqrt(x - 0.3)}, jp.Curves(x="x", y="p", lines=(0.0, 0.5, 1.0)))],
)  # fmt: skip
def test_a_prediction_without_a_number_costs_no_verdict(formula, figure):
    def draw(rng, trials, x):
        return formula(x=x)["p"] + 0.1 * rng.normal(size=trials)

    claim = claim_of(
        None, formula, simulation=drawn(draw), parameters=(jp.Parameter("x", "real", "x"),),
        figure=figure, design=jp.Design.product({}, {"x": [0.5, 3.0]}, 100), quantities=(
            jp.Quantity("p", "p", 0.5, infinite="at 1"),),
    )  # fmt: skip
    assert claim.check().status == "confirmed"


def test_another_number_of_trials_compiles_nothing(caplog):
    claim = normal_claim()
    claim.simulate(key=0, trials=100, shift=0.0)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for trials in (2, 99, 101, 1000, 20_000):
            claim.simulate(key=0, trials=trials, shift=0.0)
        claim.simulate(key=5, trials=300, shift=7.0)
    compiled = [r.message for r in caplog.records if "Finished XLA compilation" in r.message]
    assert not compiled


FACTORISATIONS = """
import jax, jax.numpy as jnp, jaxprompt as jp

def plain(*, key):
    a = jax.random.normal(key, (10, 10))
    return {"v": jnp.linalg.svd(a, compute_uv=False).sum() + jnp.linalg.eigvalsh(a + a.T)[0]}

def batches(*, key):
    a, b = jax.random.normal(key, (2, 8, 10, 10))
    b = b + jnp.swapaxes(b, 1, 2)
    return {"v": jnp.linalg.svd(a, compute_uv=False).sum() + jnp.linalg.eigvalsh(b).sum()
                 + jnp.linalg.inv(a + 20 * jnp.eye(10)).sum()}

for trial in (plain, batches):
    for batch in (1, 50):
        print(jp.per_trial(trial, batch=batch)(key=jax.random.key(0), trials=300)["v"].mean)
"""


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 20], ids=["once", "twenty times"])
def test_batched_factorisations_never_wait_for_each_other(runs):
    # A hang ends as an error here; the wait is many times what a run takes.
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", FACTORISATIONS], capture_output=True, text=True, timeout=240,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        numbers = [float(line) for line in done.stdout.split()]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)
        assert numbers[2] == pytest.approx(numbers[3], rel=1e-12)


# --- dry runs ---


def test_a_dry_run_measures_nothing(monkeypatch):
    monkeypatch.setattr(operations, "_seconds_an_addition", lambda: 1e-9)

    def trial(*, key, size):
        jax.debug.callback(lambda: pytest.fail("a trial ran"))
        return {"p": jax.random.normal(key, (size,)).mean()}

    claim = claim_of(
        trial, lambda *, size: {"p": 1 / (size - 8.0)},
        parameters=(jp.Parameter("size", "integer", "size", low=1),),
        design=over_sizes([4, 8, 16], 100),
    )  # fmt: skip
    plan = claim.dry_run(trials=50, point={"size": 8})
    assert [run.parameters for run in plan.runs] == [{"size": 8}]
    assert "division by zero" in plan.runs[0].note
    plan = claim.dry_run()
    assert plan.shapes == {"p": ()}
    assert [run.predicted.get("p") for run in plan.runs] == [-0.25, None, 0.125]
    assert [run.trials for run in plan.runs] == [100, 100, 100]
    assert plan.runs[0].memory == 800
    assert plan.to_dict()["quantities"] == ["p"]
    # A program's cost is the same for all three; sizes 4, 8, 16 make the difference.
    assert plan.runs[0].seconds < plan.runs[1].seconds < plan.runs[2].seconds
    assert plan.seconds == pytest.approx(sum(run.seconds for run in plan.runs))
    assert claim.dry_run(trials=10**9).seconds > 100 * plan.seconds


def test_a_dry_run_shows_the_lines_of_the_figure():
    claim = claim_of(
        lambda *, key, size: {"p": jax.random.normal(key).mean()},
        lambda *, size: {"p": 1 / (size - 8.0)},
        parameters=(jp.Parameter("size", "integer", "size", low=1),),
        design=over_sizes([4, 16], 100),
        figure=jp.Curves(x="size", y="p", lines=(4, 8, 16)),
    )  # fmt: skip
    (line,) = claim.dry_run().lines
    assert line.x == (4, 8, 16)
    assert line.y == (-0.25, None, 0.125)
    assert "division by zero" in line.note


def test_a_dry_run_does_not_time_what_a_set_up_draws():
    claim = claim_of(
        lambda *, key, start: {"p": start + jax.random.normal(key)},
        lambda *, size: {"p": 0.0},
        parameters=(jp.Parameter("size", "integer", "size", low=1),),
        design=over_sizes([4], 100),
        trial_options={"setup": lambda *, key, size: {"start": jax.random.normal(key)}},
    )
    assert claim.dry_run().seconds is None


# --- trajectories and pairs ---


@pytest.mark.parametrize(
    "init",
    some_slow([lambda *, key: 0.0 * jax.random.normal(key), lambda: 0, lambda: 0.0], first=1),
    ids=["with a key", "an integer", "a number"],
)
def test_a_trajectory_starts_with_or_without_a_key(init):
    claim = claim_of(
        None, lambda *, time: {"p": 1.0 * np.asarray(time)}, R.MEAN, tolerance=0.8,
        simulation=jp.trajectory(
            init, lambda s, *, key: s + jax.random.normal(key), lambda s: {"p": s**2}, batch=50
        ),
        parameters=(jp.Parameter("time", "integer", "time", low=0),), shared=("time",),
        design=jp.Design({"time": [1, 2, 4]}, trials=5000),
    )  # fmt: skip
    verdict = claim.check()
    assert [row.parameters["time"] for row in verdict.rows] == [1, 2, 4]
    assert verdict.status == "confirmed"


def test_a_trajectory_without_a_key_is_exact_and_may_read_its_time():
    halving = jp.trajectory(
        lambda: 1.0,
        lambda state, *, factor: factor * state,
        lambda state, *, time: {"p": time * state},
        traced=("factor",),
    )
    estimate = halving(key=jax.random.key(0), trials=3, time=[1, 2, 5], factor=0.5)["p"]
    assert estimate.kind == "exact"
    np.testing.assert_array_equal(estimate.mean, [0.5, 0.5, 5 / 32])


def test_an_exact_simulation_declares_itself():
    claim = claim_of(
        None, lambda: {"p": 1.0}, R.ASYMPTOTIC, tolerance=1e-3, size="size", powers=(1,),
        simulation=lambda *, key, trials, size: {"p": exact_estimate(1 + 1 / size, trials)},
        parameters=sized(), design=over_sizes([10, 20, 40], 2),
    )  # fmt: skip
    assert verdicts(claim, 1) == ["confirmed"]
    assert {v.status for v in claim.falsify().values()} == {"refuted"}


# --- laws by a sampler, limits at many places, sides that are not traced ---


def test_a_law_may_be_a_sampler():
    """Half-normal trials; a scale that is a fifth larger is 0.09 away in Kolmogorov's distance."""
    simulation = jp.per_trial(lambda *, key: {"p": jnp.abs(jax.random.normal(key))}, batch=1000)

    def claim(scale):
        def sampler(rng, count):
            return np.abs(rng.normal(0, scale, count))

        return claim_of(
            None, lambda: {"p": jp.Distribution(sampler=sampler)}, tolerance=0.03, trials=20_000,
            simulation=simulation,
        )  # fmt: skip

    assert verdicts(claim(1.0), 2) == ["confirmed"] * 2
    assert verdicts(claim(1.2), 2) == ["refuted"] * 2


def test_a_limit_is_judged_at_every_place_of_an_axis():
    """One of three places off by ten standard errors of its extrapolation refutes the limit."""

    def draw(rng, trials, size):
        return np.array([1.0, 2.0, 3.0]) + 1 / size + 0.1 * rng.normal(size=(trials, 3))

    def claim(third):
        return claim_of(
            None, lambda: {"p": np.array([1.0, 2.0, third])}, R.ASYMPTOTIC, tolerance=0.1,
            simulation=drawn(draw), parameters=sized(), size="size", powers=(1,),
            design=over_sizes((10, 20, 40, 80), 200),
        )  # fmt: skip

    assert verdicts(claim(3.0), 3) == ["confirmed"] * 3
    assert verdicts(claim(3.3), 3) == ["refuted"] * 3


def test_a_side_that_jax_cannot_trace_is_computed_draw_by_draw():
    trial = jp.per_trial(
        lambda *, x: {"p": jnp.square(x - x.mean()).mean()}, batch=50,
        instance=lambda *, key: {"x": jax.random.normal(key, (30,))},
    )  # fmt: skip

    def claim(factor):
        return claim_of(
            None, lambda *, x: {"p": factor * float(np.var(np.asarray(x)))}, R.IDENTITY,
            tolerance=1e-5, simulation=trial, trials=60,
        )  # fmt: skip

    assert verdicts(claim(1.0), 1) == ["confirmed"]
    assert verdicts(claim(1.01), 1) == ["refuted"]
