"""``contextual.image_context``: what it states, and its controls."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.claims import image_context
from jaxprompt.contextual.claims.image_context import CLAIM
from jaxprompt.contextual.extensions import own_data
from jaxprompt.contextual.simulation import image_experiment
from jaxprompt.contextual.simulation.image_experiment import Evaluation
from jaxprompt.core.claim import AtLeast, AtMost
from jaxprompt.core.extras import EXTRAS
from jaxprompt.errors import ParameterError

needs_data = pytest.mark.skipif(bool(EXTRAS["data"].missing()), reason="needs the extra data")


def test_limits_say_what_the_statement_says():
    base = {"kind": "partial"}
    few, more, many = (CLAIM.predict(**base, samples=n) for n in (10, 40, 300))
    assert "lead" not in few
    for stated in (more, many):
        assert isinstance(stated["lead"], AtMost)
        assert stated["lead"] == -0.02
    few_labels, many_labels = (
        CLAIM.predict(**base, samples=n, level="embeddings") for n in (24, 192)
    )
    assert isinstance(few_labels["lead"], AtLeast)
    assert few_labels["lead"] == 0.01
    assert "lead" not in many_labels
    assert not {"attention_gain", "prompt_gain"} & set(more)
    for stated, size in ((many, 0.02), (few_labels, 0.02), (many_labels, 0.02)):
        assert isinstance(stated["attention_gain"], AtLeast)
        assert stated["attention_gain"] == size
    assert isinstance(many["prompt_gain"], AtLeast)
    assert many["prompt_gain"] == 0.05
    for stated in (few, more, many):
        assert stated["head_attention"] == stated["first_layer_attention"] == 0


def test_limits_are_stated_for_one_number_of_samples():
    with pytest.raises(ParameterError, match=r"`samples` = .*one number"):
        CLAIM.predict(kind="partial", samples=[40, 300])


def test_limits_over_fixed_prompts():
    base = {"samples": 64, "level": "fixed_prompts"}
    noise = CLAIM.predict(kind="partial", **base)
    offs = {f"{name}_off" for name in ("uniform", "along", "best")}
    assert {name for name, limit in noise.items() if isinstance(limit, AtMost)} == offs
    assert all(noise[name] == 0.1 for name in offs)
    assert {n: v for n, v in noise.items() if n not in offs} == {
        "isotropic_excess": 0.2, "best_gain": 0.05,
    }  # fmt: skip
    photographs = CLAIM.predict(kind="embedded", **base)
    assert photographs.items() - noise.items() == {("others_off", 0.1)}
    mnist = CLAIM.predict(kind="partial", source="mnist", **base)
    assert noise.keys() - mnist.keys() == {"isotropic_excess"}
    assert CLAIM.predict(kind="partial", **{**base, "samples": 63}) == {}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"samples": 15}, r"`samples` = 15.*at least 16"),
        ({"kind": "tiled"}, r"`kind` = 'tiled'.*partial or embedded"),
        ({"relevant": 4}, r"`relevant` = 4.*below 4"),
        ({"other": 3}, r"`other` = 3.*another digit"),
        ({"level": "embeddings", "other": 3}, r"`other` = 3.*another digit"),
    ],
)
def test_what_leaves_nothing_to_tell_apart_is_refused(change, line):
    point = {"kind": "partial", "samples": 64, "level": "fixed_prompts", **change}
    with pytest.raises(ParameterError, match=line):
        CLAIM.predict(**point)


def test_predictions_that_are_off_are_shares_of_what_was_measured():
    """Four trials of two models, by hand; each trial's errors are of a size of its model."""
    size = np.array([0.1, 0.3, 0.1, 0.3])
    numbers = {
        "uniform_error": 2 * size, "uniform_curve": 1.8 * size,
        "along_error": 1.25 * size, "along_curve": 1.25 * size + [0.01, 0.02, -0.01, -0.02],
        "best_error": size, "best_curve": 1.05 * size, "others_error": 2.1 * size,
        "moments_curve": size + 0.1, "isotropic_curve": 3 * size,
    }  # fmt: skip
    made = image_context._fixed_prompt_estimates(numbers, 2)
    expected = {
        "uniform_off": 0.1, "along_off": 0, "best_off": 0.05, "isotropic_excess": 2,
        "moments_excess": 0.5, "others_off": 1, "best_gain": 0.2, "best_error": 0.2,
    }  # fmt: skip
    for name, value in expected.items():
        assert made[name].mean == pytest.approx(value, abs=1e-12), name
    # Deviations of 0.01 and 0.02 about their models, over a mean of 0.25, with two degrees left.
    assert made["along_off"].stderr == pytest.approx(np.sqrt(2 * (0.04**2 + 0.08**2) / 2 / 4))
    assert made["along_off"].dof == 2
    assert made["moments_excess"].stderr == pytest.approx(0, abs=1e-12)
    assert {e.kind for e in made.values()} == {"sampled"}


@pytest.mark.parametrize("trials", [6, 40])
def test_standard_errors_of_ratios_are_those_of_repeated_checks(trials):
    """Repeated 4000 times with models that differ; six trials of four models have no model of
    their own each, and then the models' scatter counts too, which is too much and never too
    little."""
    rng, models = np.random.default_rng(0), 4
    own = np.arange(trials) % models
    factor, size = np.array([1.1, 0.7, 1.3, 1.0])[own], np.array([0.2, 0.1, 0.3, 0.25])[own]
    ratios, errors = [], []
    for _ in range(4000):
        below = size * (1 + 0.05 * rng.standard_normal(trials))
        above = factor * size * (1 + 0.05 * rng.standard_normal(trials))
        made = image_context._excess(above, below, models)
        ratios.append(made.mean)
        errors.append(made.stderr)
    share = np.std(ratios) / np.sqrt(np.square(errors).mean())
    assert share < 1.03
    assert share > (0.97 if trials == 40 else 0)


def evaluation(accuracy, shares):
    shares = np.asarray(shares, float)
    return Evaluation(accuracy, shares.mean(axis=(1, 2)), shares)


def test_estimates_are_paired_by_trial():
    """Two trials of two layers, one scene and one attention head."""
    before = [evaluation(0.4, [[[0.2]], [[0.3]]]), evaluation(0.5, [[[0.4]], [[0.1]]])]
    prompt = [evaluation(0.6, [[[0.3]], [[0.5]]]), evaluation(0.8, [[[0.4]], [[0.2]]])]
    tuned = [evaluation(0.9, [[[0.2]], [[0.3]]]), evaluation(0.9, [[[0.2]], [[0.3]]])]
    head = [evaluation(0.5, [[[0.2]], [[0.3]]])] * 2
    tokens = [evaluation(0.5, [[[0.25]], [[0.9]]])] * 2
    after = {"prompt": prompt, "fine_tuning": tuned, "head": head, "tokens": tokens}
    made = image_context._network_estimates(before, after)
    assert made["lead"].mean == pytest.approx(-0.2)
    assert made["prompt_gain"].mean == pytest.approx(0.25)
    assert made["attention_gain"].mean == pytest.approx((0.15 + 0.05) / 2)
    assert made["fine_tuning_attention_gain"].mean == pytest.approx(0)
    # In the second trial: both layers by 0.2, and the first by 0.15.
    assert made["head_attention"].mean == pytest.approx(0.2)
    assert made["first_layer_attention"].mean == pytest.approx(0.15)
    assert made["head_attention"].kind == made["first_layer_attention"].kind == "exact"


def test_without_its_packages_the_claim_says_what_to_install(monkeypatch):
    monkeypatch.setitem(vars(CLAIM), "extra", EXTRAS["data"].__class__("data", ("nothing_",), "x"))
    with pytest.raises(jp.errors.JaxpromptError, match=r"contextual.image_context needs nothing_"):
        CLAIM.simulate(key=0, trials=2, kind="partial", samples=10)


@pytest.mark.slow
@needs_data
def test_controls_of_a_whole_run():
    found = CLAIM.simulate(key=3, trials=2, kind="embedded", samples=20, steps=20)
    assert found["head_attention"].mean == 0
    assert found["first_layer_attention"].mean < 1e-5
    assert {"before", "prompt", "fine_tuning", "head", "tokens"} <= set(found)


@pytest.mark.slow
@needs_data
def test_heads_over_fixed_prompts_of_a_whole_run():
    """The best prompt's error is that of `own_data.measure_curve` on another pool, to within
    what 8000 scenes leave open, and the curve is near it."""
    found = CLAIM.simulate(key=3, trials=4, kind="partial", samples=64, level="fixed_prompts")
    (base, _) = image_experiment.pretrain("digits", 400, 2)
    task = image_experiment.Task("partial", "digits")
    pool = image_experiment.embed_scenes(
        task, base, "adaptation", 4000, (3, 8), key=jax.random.key(9)
    )
    alone = CLAIM.simulate(
        key=4, trials=4, kind="partial", samples=64, level="fixed_prompts", models=1
    )
    prompt = own_data.best_prompt(pool.tokens, pool.relevant)
    measured, _ = own_data.measure_curve(pool.tokens, pool.labels, prompt, (64,), 0.05)
    assert alone["best_error"].mean == pytest.approx(measured[0], rel=0.1)
    assert found["best_off"].mean < 0.1
    assert found["best_error"].mean < found["along_error"].mean < found["uniform_error"].mean
