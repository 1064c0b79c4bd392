"""What holds for every registered claim, whoever adds it."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import inspect
import itertools
import json
import pkgutil

import golden
import jax
import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

import jaxprompt
import jaxprompt as jp
from jaxprompt.core.claim import Agreement, Curves, Evidence, Panels, Regions
from jaxprompt.core.registry import FAMILIES
from jaxprompt.presentation.statement_html import markup
from jaxprompt.stats import Estimate, Status

CLAIMS = jp.claims()
each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)


def measured(claim, *marks):
    """A claim as a test's parameter, left out where it cannot be measured."""
    if claim.extra and claim.extra.missing():
        marks += (pytest.mark.skip(reason=f"{claim.id} needs `{claim.extra.command}`"),)
    return pytest.param(claim, marks=marks, id=claim.id)


LONG_SIMULATIONS = {
    "contextual.best_prompt",
    "contextual.best_ridge",
    "contextual.convex_head",
    "contextual.first_step",
    "contextual.giant_steps",
    "contextual.prompt_error",
    "contextual.prompt_tuning",
    "contextual.sample_complexity",
    "contextual.score_universality",
    "contextual.separation",
    "contextual.sgd_flow",
    "contextual.sgd_spread",
    "contextual.sgd_step",
    "contextual.token_law_error",
    "prefix.soft_prompt",
    "prefix.suffix_reads_content",
    "universal.quantised_prefix",
    "universal.sequence_map",
}
"""Claims whose simulation takes half a second and more to compile. It runs in the slow tests; by
default their own tests run the parts of it, and tests/sweep/test_cells.py one step of SGD."""

# By the scope all tests of a claim's simulation follow each other, while its programs are there.
each_simulation = pytest.mark.parametrize(
    "claim",
    [
        measured(c, *[pytest.mark.slow] * (c.id in {*golden.TRAINED, *LONG_SIMULATIONS}))
        for c in CLAIMS
    ],
    scope="module",
)


@each_claim
def test_identity_card(claim):
    assert claim.family in FAMILIES
    assert claim.title
    assert claim.source
    assert len(claim.quantities) >= 1
    assert len(claim.falsifiers) >= (3 if claim.family == "contextual" else 2)
    assert all(f.description for f in claim.falsifiers)
    assert set(claim.designs) >= {"quick", "full"}
    names = [q.name for q in claim.quantities]
    assert len(set(names)) == len(names)
    assert all(q.meaning for q in claim.quantities)
    kinds = Curves | Agreement | Evidence | Panels | Regions
    assert claim.figure is None or isinstance(claim.figure, kinds)
    json.dumps(claim.describe())


@each_claim
@pytest.mark.parametrize("part", ["statement", "derivation"])
def test_mathematics_converts(claim, part):
    text = getattr(claim, part)
    assert text.strip(), f"{claim.id} has no {part}"
    assert text.count("$") % 2 == 0, "a dollar sign is not closed"
    page = str(markup(text))
    assert "$" not in page, "LaTeX was left unconverted"
    assert "\\" not in page, f"a command was not understood: {page[page.find(chr(92)) :][:40]!r}"
    if "$" in text:
        assert "<math" in page


def clear_caches():
    """Empty every ``lru_cache`` of the package, so that nothing computed before can serve."""
    for item in gc.get_objects():
        if isinstance(item, functools._lru_cache_wrapper):
            home = getattr(item, "__module__", "") or ""
            if home.startswith("jaxprompt") and item.__name__ not in ("_table", "_mathml"):
                item.cache_clear()


SAMPLERS = (
    "jax.random",
    "jaxprompt.compute.random_table",
    "jaxprompt.contextual.simulation.digit_scenes",
    "jaxprompt.contextual.simulation.gradient_steps",
    "jaxprompt.contextual.simulation.image_experiment",
    "jaxprompt.contextual.simulation.noise_free_models",
    "jaxprompt.contextual.simulation.sampling",
    "jaxprompt.contextual.simulation.token_models",
    "jaxprompt.contextual.simulation.vision_transformer",
    "jaxprompt.networks.transformer",
    "jaxprompt.prefix.training.tasks",
)
"""Modules whose public functions draw random numbers or are models."""


@pytest.fixture(scope="module")
def nothing_computed():
    """No prediction from before this module, traced or kept, serves in it."""
    jax.clear_caches()
    clear_caches()


@pytest.fixture(scope="module")
def predictions():
    """What each claim predicted at its first point, by id, from the first test that predicts."""
    return {}


# The search for the best weights of `contextual.training` compiles for four seconds; by default it
# runs in that claim's own tests.
each_prediction = pytest.mark.parametrize(
    "claim", mostly_slow(CLAIMS, lambda c: c.id != "contextual.training"), ids=lambda c: c.id
)


# Before the tests that predict too: what is predicted here serves them.
@each_prediction
def test_predict_never_samples(claim, nothing_computed, predictions, monkeypatch):
    point = golden.first_point(claim)

    def caught(*args, **kwargs):
        raise AssertionError("a prediction reached a sampler")

    originals = set()
    for module in map(importlib.import_module, SAMPLERS):
        for name, item in list(vars(module).items()):
            if name.startswith("_") or inspect.isclass(item) or not callable(item):
                continue
            if module is not jax.random and item.__module__ != module.__name__:
                continue  # imported there
            originals.add(id(item))
            monkeypatch.setattr(module, name, caught)
    patch_references(monkeypatch, originals, caught)
    monkeypatch.setattr("jaxprompt.core.claim.as_key", caught)
    found = predictions[claim.id] = claim.predict(**point)
    assert all(np.isfinite(value).all() for value in found.values())


def patch_references(monkeypatch, originals, replacement):
    """Replace the functions also where other modules of the package imported them by name."""
    for found in pkgutil.walk_packages(jaxprompt.__path__, "jaxprompt."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, item in list(vars(module).items()):
            if id(item) in originals:
                monkeypatch.setattr(module, name, replacement)


@each_prediction
def test_predict_gives_declared_quantities(claim, predictions):
    found = predictions.get(claim.id) or claim.predict(**golden.first_point(claim))
    names = {q.name for q in claim.quantities}
    # Some claims predict other quantities from other parameters, so not always all at once.
    assert names & set(found)
    assert set(found) <= names | {f"{name}_stderr" for name in names}
    for name, value in found.items():
        # A count is an int; a quantity may be an array where the parameters are.
        assert isinstance(value, int | float | np.ndarray), f"{name} is a {type(value)}"
        assert np.isfinite(value).all(), f"{name} = {value}"


LONG_PREDICTIONS = {
    "contextual.best_ridge",
    "contextual.conditional_error",
    "contextual.context_gain",
    "contextual.convex_head",
    "contextual.prompt_tuning",
    "contextual.sample_complexity",
    "contextual.score_universality",
    "contextual.separation",
    "contextual.sgd_flow",
    "contextual.three_steps",
    "contextual.token_law_error",
    "contextual.training",
    "prefix.sink_identity",
    "universal.circle_error",
}
"""Claims of which it takes half a second and more to predict by the theory and each falsifier."""


@pytest.mark.parametrize(
    "claim", mostly_slow(CLAIMS, lambda c: c.id not in LONG_PREDICTIONS), ids=lambda c: c.id
)
def test_falsifiers_give_the_same_quantities_and_other_values(claim):
    # Each right prediction is made once, and not at all where no falsifier gets that far.
    given = [claim.validated(point) for point in points(claim)]
    right = functools.cache(lambda place: claim.evaluate(claim.closed_form, given[place]))
    for falsifier in claim.falsifiers:
        assert any(differs(claim, falsifier, x, right(i)) for i, x in enumerate(given)), (
            f"falsifier {falsifier.name} predicts what the claim does"
        )


def differs(claim, falsifier, point, right):
    wrong = claim.evaluate(falsifier.predictor(claim.closed_form), point)
    assert set(wrong) == set(right), falsifier.name
    return any(
        type(wrong[n]) is not type(right[n]) or np.any(wrong[n] != right[n])  # or on another side
        for n in right
        if not n.endswith("_stderr")
    )


def points(claim):
    """The quick design's runs, at the first and last values of every list they share."""
    for run in claim.designs["quick"].runs:
        lists = [n for n in claim.shared if np.ndim(run.get(n, 0)) == 1]
        for ends in itertools.product(*((run[n][0], run[n][-1]) for n in lists)):
            point = {**run, **dict(zip(lists, ends, strict=True))}
            yield {n: v for n, v in point.items() if n != "trials"}


@pytest.fixture(scope="module")
def simulated():
    """Each claim's simulation of its first point, made once."""
    made = {}

    def of(claim):
        if claim.id not in made:
            made[claim.id] = claim.simulate(
                key=golden.KEY, trials=golden.TRIALS, **golden.first_point(claim)
            )
        return made[claim.id]

    return of


@each_simulation
def test_simulate_gives_estimates_of_quantities(claim, simulated):
    found = simulated(claim)
    assert set(found) <= {q.name for q in claim.quantities}
    assert found, "nothing was measured"
    for name, estimate in found.items():
        assert isinstance(estimate, Estimate)
        assert np.isfinite(estimate.mean).all(), name
        assert np.all(np.asarray(estimate.stderr) >= 0), name
        assert estimate.trials >= 2


STORED = json.loads(golden.TABLE.read_text())


@pytest.mark.parametrize("id", mostly_slow(STORED, lambda id: id not in LONG_SIMULATIONS))
def test_numbers_are_those_of_other_machines(id, simulated, predictions):
    """Closed forms and simulations give what is stored, up to the documented tolerances."""
    claim = jp.claim(id)
    assert_stored(id, golden.numbers(claim, simulated(claim), predictions.get(id)))


@pytest.mark.parametrize("id", sorted(LONG_SIMULATIONS & set(STORED)))
def test_predictions_are_those_of_other_machines(id, predictions):
    predicted = predictions.get(id) or jp.claim(id).predict(**golden.first_point(jp.claim(id)))
    assert_stored(id, {"predicted": golden.as_lists(predicted)})


def assert_stored(id, made):
    found = golden.differences(made, STORED[id])
    allowed = {"predicted": golden.PREDICTED, "mean": golden.SIMULATED, "stderr": golden.SIMULATED}
    wrong = {
        kind: f"{d:.1e} > {allowed[kind]:.0e}" for kind, d in found.items() if d > allowed[kind]
    }
    assert not wrong, f"{id} differs from the stored table by {wrong} of its size"


def test_the_stored_table_has_every_claim_that_is_not_trained():
    assert set(STORED) == {c.id for c in CLAIMS if c.id not in golden.TRAINED and c.extra is None}


@each_simulation
def test_same_key_same_bits(claim, simulated):
    again = claim.simulate(key=jax.random.key(1), trials=4, **golden.first_point(claim))
    for name, estimate in simulated(claim).items():
        np.testing.assert_array_equal(again[name].mean, estimate.mean)
        np.testing.assert_array_equal(again[name].stderr, estimate.stderr)


@each_simulation
def test_simulate_never_predicts(claim, simulated, monkeypatch):
    def caught(*args, **kwargs):
        raise AssertionError("a simulation reached the closed form")

    home = importlib.import_module(inspect.unwrap(claim.closed_form).__module__)
    if getattr(home, "closed_form", None) is not None:
        monkeypatch.setattr(home, "closed_form", caught)
    blind = dataclasses.replace(claim, closed_form=caught)
    found = blind.simulate(key=1, trials=4, **golden.first_point(claim))
    assert found.keys() == simulated(claim).keys()


@pytest.mark.parametrize(
    "id", some_slow(["contextual.conditional_error", "contextual.prompt_error"], first=1)
)
def test_more_trials_keep_the_earlier_ones(id, monkeypatch):
    claim = jp.claim(id)
    point = golden.first_point(claim)
    few, many = (trials_behind(claim, point, trials, monkeypatch) for trials in (3, 5))
    for short, long in zip(few, many, strict=True):
        # One compiled program for each count of trials: equal up to the order of its sums.
        np.testing.assert_allclose(long[:3], short, rtol=1e-9)


def trials_behind(claim, point, trials, monkeypatch):
    """The values of all trials: as the simulation gives them, or caught where they are averaged."""
    if hasattr(claim.simulation, "trial_values"):
        values = claim.validated(point, simulate=True)
        key = jax.random.key(2)
        return list(claim.simulation.trial_values(key=key, trials=trials, **values).values())
    home = importlib.import_module(inspect.unwrap(claim.closed_form).__module__)
    drawn = []

    def catch(values, axis=0):
        drawn.append(np.asarray(values))
        return mean_estimate(values, axis)

    mean_estimate = home.mean_estimate
    with monkeypatch.context() as patch:
        patch.setattr(home, "mean_estimate", catch)
        claim.simulate(key=2, trials=trials, **point)
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("claim", [measured(c) for c in CLAIMS])
def test_quick_check_confirms_and_refutes_every_falsifier(claim):
    verdict = claim.check("quick")
    assert verdict.status == Status.CONFIRMED, str(verdict.worst)
    assert verdict.rows
    missed = [n for n, v in claim.falsify_cells(verdict).items() if v.status != Status.REFUTED]
    assert not missed, f"falsifiers not refuted: {missed}"
