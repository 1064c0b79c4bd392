"""``contextual.image_context``: what it states, and its controls."""

from __future__ import annotations

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.claims import image_context
from jaxprompt.contextual.claims.image_context import CLAIM
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
