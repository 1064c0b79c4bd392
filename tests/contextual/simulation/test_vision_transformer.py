"""The vision transformer against NumPy, and which of its parameters move."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.contextual.simulation import vision_transformer
from jaxprompt.contextual.simulation.vision_transformer import Config, Run
from jaxprompt.errors import ParameterError

SMALL = Config(2, 3, width=8, layers=2, heads=2, prompts=2, classes=4)


def parameters(flat):
    """The arrays of a small model, by name."""
    model = vision_transformer._model(SMALL, jax.numpy.asarray(flat))
    blocks = [
        {name: np.asarray(getattr(b, name)[...], np.float64) for name in BLOCK}
        for b in model.blocks
    ]
    return {n: np.asarray(getattr(model, n)[...], np.float64) for n in TOP}, blocks


TOP = ("embedding", "position", "reader", "scale", "shift", "head", "bias", "prompt")
BLOCK = (
    *("scales", "shifts", "query", "pairs", "out", "wide", "wide_bias", "narrow", "narrow_bias"),
)


def norm(x, scale, shift):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + (
        shift
    )


def plain(flat, image, prompts, deep):
    """Logits, attention of the class token and normed patches of one image, with loops."""
    top, blocks = parameters(flat)
    patches = image @ top["embedding"] + top["position"]
    stream = np.vstack([top["reader"][:1], top["prompt"][0][:prompts], patches])
    patterns, streams = [], []
    for layer, b in enumerate(blocks):
        if layer:
            stream[0] += top["reader"][layer]
            if deep:
                stream[1 : 1 + prompts] = top["prompt"][layer][:prompts]
        x = norm(stream, b["scales"][0], b["shifts"][0])
        streams.append(x[1 + prompts :])
        joined, own = [], []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query = x @ b["query"][:, part]
            key, value = x @ b["pairs"][:, :8][:, part], x @ b["pairs"][:, 8:][:, part]
            scores = query @ key.T / 2
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            joined.append(weights @ value)
            own.append(weights[0])
        patterns.append(own)
        stream = stream + np.hstack(joined) @ b["out"]
        hidden = norm(stream, b["scales"][1], b["shifts"][1]) @ b["wide"] + b["wide_bias"]
        cubic = hidden + 0.044715 * hidden**3
        hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * cubic))
        stream = stream + hidden @ b["narrow"] + b["narrow_bias"]
    logits = norm(stream[0], top["scale"], top["shift"]) @ top["head"] + top["bias"]
    return logits, np.array(patterns), np.array(streams)


@pytest.fixture(scope="module")
def model():
    """Random parameters, no array of which is 0 or constant, and a few images."""
    rng = np.random.default_rng(0)
    flat = np.asarray(vision_transformer.initial(SMALL, key=jax.random.key(0)))
    flat = flat + 0.3 * rng.standard_normal(flat.size).astype(np.float32)
    return flat, rng.standard_normal((5, 4, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "deep"), some_slow([(2, True), (0, False), (1, False)], first=1)
)
def test_forward_against_numpy(model, prompts, deep):
    flat, pictures = model
    seen = vision_transformer.forward(
        SMALL, flat, vision_transformer.prompt_mask(SMALL, prompts, deep), pictures
    )
    for place, image in enumerate(pictures):
        logits, patterns, streams = plain(flat, image.astype(np.float64), prompts, deep)
        np.testing.assert_allclose(seen.logits[place], logits, atol=3e-5)
        np.testing.assert_allclose(seen.normed[:, place], streams, atol=3e-5)
        found = np.asarray(seen.patterns)[:, place]
        kept = [0, *range(1, 1 + prompts), *range(3, 7)]
        np.testing.assert_allclose(found[..., kept], patterns, atol=1e-5)
        assert not found[..., 1 + prompts : 3].any(), "an absent prompt gets attention"


@pytest.mark.slow
def test_prompts_beside_the_patches_leave_the_first_layer(model):
    """Relative attention of the class token: the same in layer 1, another in layer 2."""
    flat, pictures = model
    shares = []
    for prompts in (0, 2):
        seen = vision_transformer.forward(
            SMALL, flat, vision_transformer.prompt_mask(SMALL, prompts), pictures
        )
        patterns = np.asarray(seen.patterns, np.float64)[..., 3:]
        shares.append(patterns / patterns.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(shares[1][0], shares[0][0], atol=2e-6)
    assert np.abs(shares[1][1] - shares[0][1]).max() > 1e-3


def test_patches_in_the_order_of_reading():
    image = np.arange(24.0).reshape(1, 4, 6)
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]]
    assert vision_transformer.patches(image, 2)[0, :4].tolist() == expected


@pytest.mark.slow
def test_only_the_chosen_parameters_move(model):
    flat, _ = model
    rng = np.random.default_rng(1)
    pictures = rng.standard_normal((8, 4, 3)).astype(np.float32)
    labels, none = np.arange(8) % 4, vision_transformer.prompt_mask(SMALL)
    counts = {"head": 36, "reader": 8, "deep_reader": 16, "prompts": 8, "deep_prompts": 32}
    counts["everything"] = flat.size - 32
    plans = [(what, 0 if what != "prompts" else 1) for what in counts]
    plans = [(what, 2 if what == "deep_prompts" else m) for what, m in plans]
    runs = [
        Run(
            flat, vision_transformer.trainable_mask(SMALL, what, m),
            vision_transformer.prompt_mask(SMALL, m, what == "deep_prompts"),
            pictures, labels, 6, 2, 1e-2,
        )
        for what, m in plans
    ]  # fmt: skip
    # The last two images are not among the six samples.
    changed = pictures.copy()
    changed[6:] = 7
    runs.append(runs[0]._replace(images=changed))
    found = vision_transformer.train(SMALL, runs)
    for (what, m), row in zip(plans, found, strict=False):
        moved = row != flat
        assert moved.sum() == counts[what], what
        assert (moved <= (vision_transformer.trainable_mask(SMALL, what, m) > 0)).all(), what
    np.testing.assert_array_equal(found[-1], found[0])
    before, after = (vision_transformer.forward(SMALL, x, none, pictures) for x in (flat, found[0]))
    np.testing.assert_array_equal(after.patterns, before.patterns)
    assert (np.asarray(after.logits) != np.asarray(before.logits)).any()


def test_unknown_adaptations_are_refused():
    with pytest.raises(ParameterError, match=r"`what` = .*tail"):
        vision_transformer.trainable_mask(SMALL, "tail")
    with pytest.raises(ParameterError, match="`prompts` = 3"):
        vision_transformer.trainable_mask(SMALL, "prompts", 3)
    with pytest.raises(ParameterError, match="multiple of the 3 heads"):
        Config(2, 3, width=8, heads=3)
