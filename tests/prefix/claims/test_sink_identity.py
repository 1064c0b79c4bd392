"""Sinks against exact arithmetic, against other ways to write them, and against wrong heads."""

from __future__ import annotations

import dataclasses
import functools

import jax
import mpmath
import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.prefix import random_heads
from jaxprompt.prefix.claims import sink_identity
from jaxprompt.prefix.head_identity import PAIR, SINGLE
from jaxprompt.prefix.random_heads import HeadKind, draw_heads, head_tolerance

CLAIM = jp.claim("prefix.sink_identity")

jit = functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)


def exact_head(content, values, prefix, prefix_values, sink):
    """One softmax over prefix, content and sink, to 50 digits; values are numbers."""
    with mpmath.workdps(50):
        terms = [mpmath.exp(mpmath.mpf(float(x))) for x in (*prefix, *content, sink)]
        total = sum(terms)
        shares = [t / total for t in terms]
        every_value = [*map(float, prefix_values), *map(float, values), 0.0]
        output = sum(s * v for s, v in zip(shares, every_value, strict=True))
        n = len(prefix)
        return float(output), float(sum(shares[:n])), float(sum(shares[n:-1])), float(shares[-1])


@pytest.mark.parametrize("sink", [-200.0, -1.3, 0.0, 4.0, 300.0])
def test_against_exact_arithmetic(sink):
    rng = np.random.default_rng(3)
    content, values = 30 * rng.normal(size=5), rng.normal(size=5)
    prefix, prefix_values = 30 * rng.normal(size=3), rng.normal(size=3)
    found = CLAIM.predict(
        content_scores=content, content_values=values[:, None], prefix_scores=prefix,
        prefix_values=prefix_values[:, None], sink_scores=sink,
    )  # fmt: skip
    exact = exact_head(content, values, prefix, prefix_values, sink)
    names = ("output", "prefix_mass", "content_mass", "sink_mass")
    for name, expected in zip(names, exact, strict=True):
        assert np.ravel(found[name])[0] == pytest.approx(expected, rel=1e-11, abs=1e-13), name
    ratios = np.log(found["attention"][1:] / found["attention"][0])
    np.testing.assert_allclose(ratios, content[1:] - content[0], atol=1e-9)


def test_worked_example():
    """Weights 1, 2 and 5 beside a sink of 1: ninths."""
    found = CLAIM.predict(**SINGLE, sink_scores=0.0)
    assert found["output"] == pytest.approx([(-2 * 5 + 1 * 1 + 2 * 3) / 9])
    shares = [found[f"{name}_mass"] for name in ("prefix", "content", "sink")]
    assert shares == pytest.approx([5 / 9, 3 / 9, 1 / 9])


def test_a_sink_is_a_prefix_vector_of_value_zero():
    alone = CLAIM.predict(**PAIR, sink_scores=0.4)
    as_prefix = jp.claim("prefix.bias_identity").predict(
        **{**PAIR, "prefix_scores": [*PAIR["prefix_scores"], 0.4],
           "prefix_values": [*PAIR["prefix_values"], [0.0]]}
    )  # fmt: skip
    np.testing.assert_allclose(alone["output"], as_prefix["output"], rtol=1e-13)
    lost = alone["prefix_mass"] + alone["sink_mass"]
    assert lost == pytest.approx(as_prefix["prefix_mass"], rel=1e-13)


def test_a_key_imitates_a_sink_only_with_a_constant_coordinate():
    """With more queries than the head is wide no key scores all alike; a bias of queries helps."""
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(12, 4))
    _, misfit, *_ = np.linalg.lstsq(queries, np.full(12, 1.5), rcond=None)
    assert misfit[0] > 1
    biased = np.column_stack([queries[:, :3], np.ones(12)])
    key, misfit, *_ = np.linalg.lstsq(biased, np.full(12, 1.5), rcond=None)
    np.testing.assert_allclose(key, [0, 0, 0, 1.5], atol=1e-12)


def test_without_a_softmax_content_is_not_damped():
    """The positive control: sigmoid heads add a prefix's values and leave the content alone."""
    rng = np.random.default_rng(1)
    scores, values = rng.normal(size=(4, 6)), rng.normal(size=(6, 2))
    gate = 1 / (1 + np.exp(-scores))
    both, alone = gate @ values, gate[:, 2:] @ values[2:]
    np.testing.assert_allclose(both - alone, gate[:, :2] @ values[:2], rtol=1e-12)
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    content = np.exp(scores[:, 2:]) / np.exp(scores[:, 2:]).sum(axis=1, keepdims=True)
    assert np.abs(softmax @ values - content @ values[2:] - softmax[:, :2] @ values[:2]).max() > 0.1


CAPPED = HeadKind("float64", soft_cap=2.0)


@pytest.mark.parametrize(
    ("kind", "largest"),
    some_slow([(CAPPED, 5.0), (HeadKind("float32", window=3, norm=True), 10.0),
               (HeadKind("bfloat16", groups=1), 3.0), (HeadKind("float16", window=4), 5.0)],
              first=2),
)  # fmt: skip
def test_random_heads_against_numpy(kind, largest):
    """Exact scores give the run's output to the tolerance of its type, which is not idle."""
    drawn = draw_heads(kind, largest, 60, key=jax.random.key(4))
    scores = np.concatenate([drawn.prefix_scores, drawn.content_scores], axis=-1)
    seen = np.concatenate([drawn.prefix_visible, drawn.visible], axis=-1)
    cap = kind.soft_cap or np.inf
    assert np.abs(scores).max() <= min(cap, largest * 1.01)
    terms = np.where(seen, np.exp(scores), 0)
    total = terms.sum(-1) + np.exp(drawn.sink_scores)
    values = np.concatenate([drawn.prefix_values, drawn.content_values], axis=-2)[:, :, 0]
    expected = np.einsum("rhts,rhsv->rhtv", terms, values) / total[..., None]
    tolerance = head_tolerance(kind.describe(largest), expected)
    off = np.abs(drawn.output - expected).max()
    assert tolerance / 300 < off < tolerance
    window = kind.window or 99
    for i in range(kind.tokens):
        places = np.arange(-kind.prefix, kind.tokens)
        assert (seen[i] == ((places <= i) & (places > i - window))).all()


def test_a_wrong_run_is_refuted(monkeypatch):
    """The check can fail: heads whose sink is left out of the softmax are caught."""
    real = random_heads.draw_heads

    def without_sink(*args, **options):
        drawn = real(*args, **options)
        pattern = np.asarray(drawn.pattern).copy()
        pattern[..., :-1] *= 1.001
        return drawn._replace(pattern=pattern)

    monkeypatch.setattr(sink_identity, "draw_heads", without_sink)
    monkeypatch.setitem(sink_identity.KINDS, "quick", ((CAPPED, 5.0),))
    few = functools.partial(CLAIM.measure, draws=60)
    assert dataclasses.replace(CLAIM, measure=few).check().status == "refuted"


def test_refusals_name_the_parameter():
    with pytest.raises(ParameterError, match="`sink_scores`"):
        CLAIM.simulate(key=0, trials=2, **PAIR, sink_scores=[0.0, 1.0])
    with pytest.raises(ParameterError, match=r"`visible`.*made of 0 and 1"):
        CLAIM.predict(**PAIR, sink_scores=0.0, visible=[0.5, 1])
    hidden = CLAIM.predict(**PAIR, sink_scores=-50.0, visible=[0, 0], prefix_visible=[0, 0])
    assert hidden["sink_mass"] == 1.0, "a query that sees nothing gives all to its sink"
    assert (hidden["output"] == 0).all()


def test_runs_under_jit_and_broadcasts():
    sinks = np.array([-1.0, 0.0, 2.0])
    found = CLAIM.predict(**PAIR, sink_scores=sinks)
    assert np.shape(found["output"]) == (3, 1)
    traced = jit(lambda b: CLAIM.predict(**PAIR, sink_scores=b)["sink_mass"])(sinks)
    np.testing.assert_allclose(traced, found["sink_mass"], rtol=1e-5)
